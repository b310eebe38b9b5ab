"""Wrong answers to the exercises of lesson 07, and what their verdicts must say."""

from __future__ import annotations

NORM = """
def group_norm(x, groups, weight, bias):
    parts = {parts}
    variance = parts.var({axes}, unbiased={unbiased}, keepdim=True)
    normal = (parts - parts.mean({axes}, keepdim=True)) / (variance{eps}).sqrt()
    return normal.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]
"""
RIGHT_NORM = {"parts": "x.reshape(len(x), groups, -1)", "axes": "2", "unbiased": "False", "eps": " + 1e-5"}

STEP = """
def fpn_step(x, stage, image_index, lateral, convolution, norm):
    side = {side}
    x = F.interpolate(x, size=side.shape[-2:], mode="{mode}") + side
    return {end}
"""
RIGHT_STEP = {"side": "lateral(stage)[image_index]", "mode": "nearest", "end": "norm(convolution(x)).relu()"}

SPLIT = """
def split_convolution(heatmaps, projected, image_index, convolution):
    d, weight = {d}, convolution.weight
    of_image = F.conv2d(projected, {image}, {bias}, padding=1)
    return F.conv2d(heatmaps, {object}, {second}, padding=1) + of_image{dealt}
"""
RIGHT_SPLIT = {
    "d": "projected.shape[1]",
    "image": "weight[:, :d]",
    "bias": "convolution.bias",
    "object": "weight[:, d:]",
    "second": "None",
    "dealt": "[image_index]",
}

HEAD = """
def whole_mask_head(head, heatmaps, features, image_index):
    x = torch.cat([features.projected{dealt}, heatmaps], dim=1)
    x = head.norms[0](head.convolutions[0](x)){relu}
    x = head.norms[1](head.convolutions[1](x)){relu}
    for i, stage in enumerate((features.res4, features.res3, features.res2)):
        side = head.laterals[i](stage){dealt}
        x = F.interpolate(x, size=side.shape[-2:], mode="nearest") + {side}
        x = head.norms[i + 2](head.convolutions[i + 2](x)){relu}
    return head.output(x){end}
"""
RIGHT_HEAD = {"dealt": "[image_index]", "relu": ".relu()", "side": "side", "end": ".squeeze(1)"}


def norm(**changes: str) -> str:
    """The right answer with changes."""
    return NORM.format(**RIGHT_NORM | changes)


def step(**changes: str) -> str:
    """The right answer with changes."""
    return STEP.format(**RIGHT_STEP | changes)


def split(**changes: str) -> str:
    """The right answer with changes."""
    return SPLIT.format(**RIGHT_SPLIT | changes)


def head(**changes: str) -> str:
    """The right answer with changes."""
    return HEAD.format(**RIGHT_HEAD | changes)


WRONG: dict[str, list[tuple[str, str]]] = {
    "group_norm": [
        (norm(axes="(0, 2)"), "over all objects"),
        (norm(parts="x", axes="(0, 2, 3)"), "a batch norm"),
        (norm(parts="x", axes="(1, 2, 3)"), "over all channels"),
        (norm(parts="x", axes="(2, 3)"), "each channel was normalised by itself"),
        (norm(parts="x.view(len(x), -1, groups, *x.shape[2:])", axes="(1, 3, 4)"), "side by side"),
        (norm(unbiased="True"), "divides by n"),
        (norm(eps=""), "epsilon is missing"),
        ("def group_norm(x, groups, weight, bias):\n    return F.group_norm(x, groups)", "weight and bias are missing"),
    ],
    "fpn_step": [
        (step(mode="bilinear"), "the upsampling is bilinear"),
        (step(end="norm(convolution(x))"), "the ReLU is missing"),
        (step(end="norm(convolution(x).relu())"), "the ReLU comes before the norm"),
        (step(end="convolution(x).relu()"), "the norm is missing"),
        (step(side="lateral(stage)[:1]"), "the first image's lateral"),
        (step(side="torch.zeros_like(lateral(stage)[image_index])"), "the lateral is missing"),
    ],
    "split_convolution": [
        (split(second="convolution.bias"), "the bias was added twice"),
        (split(bias="None"), "the bias is missing"),
        (split(d="heatmaps.shape[1]", image="weight[:, d:]", object="weight[:, :d]"), "the wrong way round"),
        (split(dealt="[:1]"), "the first image's part"),
        (
            """
def split_convolution(heatmaps, projected, image_index, convolution):
    return convolution(torch.cat([projected[image_index], heatmaps], dim=1))
""",
            "the whole convolution was called",
        ),
    ],
    "whole_mask_head": [
        (head(dealt="[0 * image_index]"), "the first image's features"),
        (head(relu=""), "the ReLUs are missing"),
        (head(side="0"), "the laterals are missing"),
        (head(end=".squeeze(1).sigmoid()"), "the mask head returns logits"),
        (head(end=".squeeze(1).relu()"), "must be able to say no"),
        (head(end=""), "should have the shape 5x21x36"),
        (
            "def whole_mask_head(head, heatmaps, features, image_index):\n    return head(heatmaps, features, image_index)",
            "TypeError",
        ),
    ],
}
