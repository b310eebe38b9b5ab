"""Answers to the exercises of lesson 07: wrong ones with words of their verdicts, and right ones written otherwise."""

from __future__ import annotations

NORM = """
def group_norm(x, groups, weight, bias):
    parts = {parts}
    variance = parts.var({axes}, unbiased={unbiased}, keepdim=True)
    normal = (parts - parts.mean({axes}, keepdim=True)) / (variance{eps}).sqrt()
    return normal.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]
"""
RIGHT_NORM = {"parts": "x.reshape(len(x), groups, -1)", "axes": "2", "unbiased": "False", "eps": " + 1e-5"}

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
    "damage": [
        ('order = ["no heatmaps", "no Res4", "no Res2", "bilinear"]', "nothing costs more"),
        ('order = ["bilinear", "no Res4", "no Res2", "no heatmaps"]', "Res4 weighs more than Res2"),
        ('order = ["no Res2", "bilinear", "no Res4", "no heatmaps"]', "less than one cell"),
        ('order = ["bilinear", "Res2", "Res4", "heatmaps"]', "give these four names"),
        ('order = "bilinear"', "give these four names"),
    ],
    "silent": [
        ('letters = "abce"', "batch a: the objects"),
        ('letters = "c"', "batch e: the objects"),
        ('letters = "cde"', "batch d stops with an error"),
        ('letters = "cf"', "letters from a to e"),
    ],
}

HARMLESS: dict[str, list[str]] = {
    "group_norm": [
        """
def group_norm(x, groups, weight, bias):
    K, c, h, w = x.shape
    parts = x.view(K, groups, c // groups, h, w)
    centred = parts - parts.mean((2, 3, 4), keepdim=True)
    spread = (centred.square().mean((2, 3, 4), keepdim=True) + 1e-5).sqrt()
    return (centred / spread).view(K, c, h, w) * weight.view(1, c, 1, 1) + bias.view(1, c, 1, 1)
""",
        """
def group_norm(x, groups, weight, bias):
    normal = [
        torch.cat([(part - part.mean()) * (part.var(correction=0) + 1e-5).rsqrt() for part in one.chunk(groups)]) for one in x
    ]
    return torch.einsum("kchw,c->kchw", torch.stack(normal), weight) + bias[None, :, None, None]
""",
        "def group_norm(x, groups, weight, bias):\n    return F.group_norm(x, groups, weight, bias)",
    ],
    "split_convolution": [
        """
def split_convolution(heatmaps, projected, image_index, convolution):
    of_images, of_objects = convolution.weight.split([projected.shape[1], heatmaps.shape[1]], dim=1)
    once = F.conv2d(projected, of_images, padding="same")
    return once[image_index] + F.conv2d(heatmaps, of_objects, bias=convolution.bias, padding="same")
""",
        """
def split_convolution(heatmaps, projected, image_index, convolution):
    M = heatmaps.shape[1]
    out = F.conv2d(heatmaps, convolution.weight[:, -M:], padding=convolution.padding)
    out += F.conv2d(projected, convolution.weight[:, :-M], padding=convolution.padding).index_select(0, image_index)
    return out + convolution.bias.view(-1, 1, 1)
""",
    ],
    "whole_mask_head": [
        """
def whole_mask_head(head, heatmaps, features, image_index):
    x = torch.cat((features.projected.index_select(0, image_index), heatmaps), 1)
    stages = [None, None, features.res4, features.res3, features.res2]
    laterals = [None, None, *head.laterals]
    for stage, lateral, convolution, norm in zip(stages, laterals, head.convolutions, head.norms):
        if stage is not None:
            x = F.interpolate(x, stage.shape[2:]) + lateral(stage[image_index])
        x = F.relu(norm(convolution(x)))
    return head.output(x)[:, 0]
""",
        """
def whole_mask_head(head, heatmaps, features, image_index):
    masks = []
    for heatmap, b in zip(heatmaps, image_index):
        x = torch.cat([features.projected[b], heatmap])[None]
        for i in range(5):
            if i > 1:
                side = head.laterals[i - 2]((features.res4, features.res3, features.res2)[i - 2][b][None])
                x = torch.nn.Upsample(size=tuple(side.shape[-2:]))(x) + side
            x = head.norms[i](head.convolutions[i](x)).clamp(min=0)
        masks.append(head.output(x).squeeze())
    return torch.stack(masks)
""",
    ],
}
