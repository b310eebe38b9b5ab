"""Lesson 07, the FPN mask head: its checks and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from minidetr.course import answer, exercise, require, require_tensor
from minidetr.course.figures import LIT, mask_head_stages, most_alike, titled
from minidetr.course.lesson06 import tell_apart
from minidetr.course.pictures import draw
from minidetr.course.schematic import INK, Block, Schematic
from minidetr.course.trace import Trace, draw_box, example, plain
from minidetr.course.trace import trace as traced
from minidetr.model.backbone import Features
from minidetr.plot import new_figure, picture_of
from minidetr.scenes.dataset import HELD_OUT_SEED
from minidetr.scenes.render import render_scene

# --- checks -----------------------------------------------------------------------------------------------------------------


@exercise
def group_norm(attempt):
    """attempt(x K c h w, groups, weight c, bias c) -> x normalised over each group of each object, times weight, plus bias."""
    K, c, h, w, groups = 3, 12, 5, 7, 4
    sizes = torch.tensor([0.003, 1.0, 4.0])[:, None, None, None]  # the first object's variance is as small as epsilon
    x = sizes * (torch.randn(K, c, h, w) + torch.randn(c)[:, None, None])
    weight, bias = torch.randn(c), torch.randn(c)

    def by_hand(inputs: Tensor, axes: tuple[int, ...], unbiased: bool = False, eps: float = 1e-5) -> Tensor:
        variance = inputs.var(axes, unbiased=unbiased, keepdim=True)
        normal = (inputs - inputs.mean(axes, keepdim=True)) / (variance + eps).sqrt()
        return normal.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]

    grouped = x.view(K, groups, c // groups, h, w)
    expected = F.group_norm(x, groups, weight, bias)
    plainly = F.group_norm(x, groups)
    woven = x.view(K, c // groups, groups, h, w)
    mistakes = [
        (plainly, "weight and bias are missing: after the normalisation each channel has a scale and a shift of its own."),
        (plainly * weight[:, None, None], "the bias is missing."),
        (by_hand(grouped, (0, 2, 3, 4)), "mean and variance run over all objects: each object is normalised by itself."),
        (by_hand(x, (0, 2, 3)), "that is a batch norm: take each object by itself, and c/groups neighbouring channels together."),
        (by_hand(x, (1, 2, 3)), "mean and variance run over all channels: cut them into groups first."),
        (by_hand(x, (2, 3)), "each channel was normalised by itself: c/groups neighbouring channels share mean and variance."),
        (
            by_hand(woven, (1, 3, 4)),
            "a group is c/groups channels side by side: reshape to K, groups, c/groups, h, w in this order.",
        ),
        (by_hand(grouped, (2, 3, 4), unbiased=True), "the variance divides by n - 1: GroupNorm's divides by n (unbiased=False)."),
        (by_hand(grouped, (2, 3, 4), eps=0), "epsilon is missing: 1e-5 is added to the variance before the root."),
    ]
    found = require_tensor(attempt(x, groups, weight, bias), (K, c, h, w))
    tell_apart(
        found, expected, mistakes, "the values differ from (x - mean) / sqrt(variance + 1e-5) * weight + bias in each group."
    )


def random_parts(*modules: nn.Module) -> None:
    """Random numbers in every parameter: norms that scale by 1 and biases of 0 would hide a mistake."""
    for module in modules:
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.5)


class OnlyItsWeights(nn.Conv2d):
    """A convolution that may not be called: only its weight and bias are to be used."""

    def forward(self, x: Tensor) -> Tensor:
        require(False, "the whole convolution was called: use F.conv2d with two parts of convolution.weight instead.")
        return x


@exercise
def split_convolution(attempt):
    """attempt(heatmaps K M h w, projected B d h w, image_index K, convolution) -> what the convolution of both says, K o h w."""
    B, K, M, d, o, h, w = 2, 5, 3, 7, 6, 4, 9
    heatmaps, projected, image_index = torch.randn(K, M, h, w), torch.randn(B, d, h, w), torch.tensor([1, 1, 0, 1, 0])
    convolution = OnlyItsWeights(d + M, o, 3, padding=1)
    random_parts(convolution)
    weight, bias = convolution.weight, convolution.bias
    joined = torch.cat([projected[image_index], heatmaps], 1)
    expected = F.conv2d(joined, weight, bias, padding=1)
    turned = F.conv2d(torch.cat([heatmaps, projected[image_index]], 1), weight, bias, padding=1)
    of_first = F.conv2d(torch.cat([projected[:1].expand(K, -1, -1, -1), heatmaps], 1), weight, bias, padding=1)
    mistakes = [
        (expected + bias[:, None, None], "the bias was added twice: give it to one of the two parts only."),
        (expected - bias[:, None, None], "the bias is missing: give it to one of the two parts."),
        (turned, "the weights are cut the wrong way round: the image's d channels come first, then the M heatmaps."),
        (of_first, "every object got the first image's part: deal it out with image_index."),
        (F.conv2d(heatmaps, weight[:, d:], padding=1), "the image's part is missing."),
        (F.conv2d(projected, weight[:, :d], bias, padding=1)[image_index], "the heatmaps' part is missing."),
    ]
    found = require_tensor(attempt(heatmaps, projected, image_index, convolution), (K, o, h, w))
    tell_apart(found, expected, mistakes, "the two parts do not add up to the convolution of [projected, heatmaps].")


@exercise
def whole_mask_head(attempt):
    """attempt(head, heatmaps K M h w, features, image_index K) -> mask logits K H/4 W/4; `head` has the parts of MaskHead."""
    from minidetr.model.mask_head import MaskHead

    B, K, M, d, channels = 2, 5, 4, 20, (7, 9, 10, 11)
    sizes = ((21, 36), (11, 18), (6, 9), (3, 5))
    stages = [torch.randn(B, c, *size) for c, size in zip(channels, sizes, strict=True)]
    features = Features(*stages, torch.randn(B, d, *sizes[-1]))
    heatmaps, image_index = torch.rand(K, M, *sizes[-1]), torch.tensor([1, 0, 0, 1, 1])
    package = MaskHead(d, M, (24, 16, 16, 16, 8), channels)
    random_parts(package)
    expected = package(heatmaps, features, image_index)
    of_first = package(heatmaps, features, torch.zeros_like(image_index))
    parts = head_parts(package)
    mistakes = [
        (of_first, "every object got the first image's features: deal out projected and the laterals with image_index."),
        (assembled(parts, heatmaps, features, image_index, relu=False), "the ReLUs are missing."),
        (assembled(parts, heatmaps, features, image_index, use=0), "the laterals are missing."),
        (expected.sigmoid(), "these are probabilities; the mask head returns logits."),
        (expected.relu(), "a ReLU after the last convolution removes every negative logit: a mask must be able to say no."),
    ]
    found = require_tensor(attempt(parts, heatmaps, features, image_index), tuple(expected.shape), "the mask logits")
    tell_apart(
        found, expected, mistakes, "the values differ from the package's MaskHead: compare the order of your steps with the table."
    )


def head_parts(package: nn.Module) -> SimpleNamespace:
    """The parts of a MaskHead, which can't be called as a whole."""
    names = ("convolutions", "norms", "laterals", "output")
    return SimpleNamespace(**{name: getattr(package, name) for name in names})


def assembled(head: SimpleNamespace, heatmaps: Tensor, features: Features, image_index: Tensor, relu=True, use=1) -> Tensor:
    """The mask head's forward from its parts, with or without ReLUs, laterals times `use` (for telling mistakes apart)."""
    x = torch.cat([features.projected[image_index], heatmaps], 1)
    stages = (None, None, features.res4, features.res3, features.res2)
    laterals = (None, None, *head.laterals)
    for stage, lateral, convolution, norm in zip(stages, laterals, head.convolutions, head.norms, strict=True):
        if stage is not None:
            side = use * lateral(stage)[image_index]
            x = F.interpolate(x, size=side.shape[-2:], mode="nearest") + side
        x = norm(convolution(x))
        x = x.relu() if relu else x
    return head.output(x).squeeze(1)


@exercise
def damage(attempt):
    """attempt: four names, from what costs the least IoU to what costs the most (measured on held-out scenes)."""
    measured = ["bilinear", "no Res2", "no Res4", "no heatmaps"]
    names = list(answer(attempt))
    require(sorted(names, key=str) == sorted(measured), f"give these four names in some order: {', '.join(sorted(measured))}.")
    worst = "without heatmaps the four objects of an image get one and the same mask: nothing costs more."
    require(names[-1] == "no heatmaps", worst)
    require(
        names[0] == "bilinear", "bilinear and nearest upsampling differ by less than one cell: that costs the least of the four."
    )
    require(names == measured, "in this model Res4 weighs more than Res2, although its grid is no finer: compare their bars.")


@exercise
def silent(attempt):
    """attempt: the letters of the batches on which a head that deals laterals out by counting is wrong without an error."""
    batches = {"a": [0, 1], "b": [0, 0, 1, 1], "c": [0, 1, 0, 1], "d": [0, 0, 0, 1, 1], "e": [0, 0, 0, 1]}
    letters = set(answer(attempt))
    require(letters <= set(batches), "give letters from a to e, for example 'ab'.")
    for letter, image_index in batches.items():
        dealt = [b for b in (0, 1) for _ in range(len(image_index) // 2)]
        crashes, wrong = len(dealt) != len(image_index), dealt != image_index
        require(not (crashes and letter in letters), f"batch {letter} stops with an error: {len(dealt)} laterals for its objects.")
        given = f"batch {letter}: the objects are of the images {image_index}, their laterals of the images {dealt}"
        require(crashes or wrong == (letter in letters), f"{given}. Is that wrong?")


# --- what the lesson measures with ------------------------------------------------------------------------------------------


@dataclass
class Judged:
    """A held-out scene and, of the K objects found in it that a true segment fits, their numbers and true masks."""

    found: Trace
    picked: Tensor  # numbers among the trace's objects
    truth: Tensor  # picked x H x W bool


def held_out(count: int) -> list[Judged]:
    """The shipped model on `count` scenes it was not trained on. A true segment fits with the class right and an IoU above 1/2."""
    scenes = []
    for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + count):
        scene = render_scene(seed)
        found = traced(example().model, scene.image)
        ids, picked, truth = torch.from_numpy(scene.segment_ids), [], []
        for k, mask in enumerate(enlarge(found.masks, ids.shape) > 0):
            same_class = [ids == s["id"] for s in scene.segments_info if s["category_id"] == int(found.labels[k])]
            best = max(same_class, key=lambda true: float(iou_of(mask, true)), default=None)  # noqa: B023  # used at once
            if best is not None and iou_of(mask, best) > 0.5:
                picked.append(k)
                truth.append(best)
        scenes.append(Judged(found, torch.tensor(picked), torch.stack(truth)))
    return scenes


def enlarge(masks: Tensor, size: Sequence[int]) -> Tensor:
    """K h w -> K H W, bilinear."""
    return F.interpolate(masks[None], size=tuple(size), mode="bilinear")[0]


def iou_of(mask: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of bool masks ... H W."""
    return (mask & truth).sum((-2, -1)) / (mask | truth).sum((-2, -1))


@torch.inference_mode()
def ious(scenes: Sequence[Judged], head: Callable[..., Tensor]) -> Tensor:
    """The IoU with its true mask of every object of all scenes, as `head(heatmaps, seen)` draws it."""
    values = []
    for one in scenes:
        masks = head(one.found.heatmaps, one.found.seen)
        values.append(iou_of(enlarge(masks[one.picked], one.truth.shape[-2:]) > 0, one.truth))
    return torch.cat(values)


def are_small(scenes: Sequence[Judged]) -> Tensor:
    """Which of those objects cover less than 2,500 pixels (50 x 50)."""
    return torch.cat([one.truth.sum((1, 2)) < 2500 for one in scenes])


@torch.inference_mode()
def readout(scenes: Sequence[Judged]) -> dict[str, float]:
    """Mean IoU with the truth of the best linear readout of each stage's channels, position by position.

    It is fitted by least squares on the objects of the first half of the scenes and judged on those of the second.
    """
    known: dict[str, tuple[list, list]] = {}
    for place, one in enumerate(scenes):
        size = one.found.masks.shape[-2:]
        truth = F.interpolate(one.truth[None].float(), size, mode="area")[0].flatten(1)  # picked x H/4*W/4
        for k, target in zip(one.picked.tolist(), truth, strict=True):
            stages = [("heatmaps", one.found.heatmaps[k]), *mask_head_stages(one.found, k)[:-1]]
            for name, maps in stages:
                values = F.interpolate(maps[None], size)[0].flatten(1)  # c H/4*W/4
                pair = F.pad(values, (0, 0, 0, 1), value=1).T, target
                known.setdefault(name, ([], []))[2 * place >= len(scenes)].append(pair)
    found = {}
    for name, (fitted, judged) in known.items():
        x, y = (torch.cat(parts) for parts in zip(*fitted, strict=True))
        weights = torch.linalg.solve(x.T @ x + 1e-3 * torch.eye(x.shape[1]), x.T @ y)
        found[name] = float(torch.stack([iou_of((x @ weights > 0.4)[None], (y > 0.5)[None]) for x, y in judged]).mean())
    return found


# --- pictures ---------------------------------------------------------------------------------------------------------------


def schematic() -> Image.Image:
    """The mask head: two inputs, five convolutions, three laterals; shapes at 640x640 with ResNet-50."""
    page = Schematic(8.3, 5.5)
    page.frame(0.1, 0.2, 3.55, 5.35, "once per image")
    page.frame(3.65, 0.2, 8.2, 5.35, "once per object")
    page.text(4.12, 4.52, "concatenate", ha="left")
    heatmaps = page.block(5.0, 4.9, "heatmaps", "8x20x20", kind="data", width=1.2, height=0.42)
    x = heatmaps
    stages = [("Res5", "2048x20x20", "256x20x20", "264x20x20"), ("Res4", "1024x40x40", "128x40x40", "64x40x40")]
    stages += [("Res3", "512x80x80", "64x80x80", "32x80x80"), ("Res2", "256x160x160", "32x160x160", "16x160x160")]
    for y, (name, shape, translated, after) in zip((4.0, 2.83, 1.73, 0.63), stages, strict=True):
        stage = page.block(0.8, y, name, shape, kind="data", width=1.15)
        lateral = page.block(2.5, y, "1x1 convolution", translated, width=1.6)
        joint = page.sign(4.05, y, "c" if name == "Res5" else "+")
        page.arrow(stage, lateral)
        page.arrow(lateral, joint)
        if name == "Res5":
            page.arrow((2.5, y + 0.25), (2.5, y + 0.62), dashed=True)
            page.text(2.5, y + 0.72, "and to the encoder (lesson 03)")
            page.arrow(heatmaps, (4.05, 4.9), joint)
        else:
            above = y + 0.58
            nearest = page.block(5.2, above, "nearest, x 2", kind="fixed", width=1.1, height=0.27)
            page.arrow((x.x, x.y - x.height / 2), (x.x, above), nearest)
            page.arrow(nearest, (4.05, above), joint)
        x = convolution(page, 5.25 if name == "Res5" else 6.1, y, after)
        page.arrow(joint, x)
        if name == "Res5":
            first, x = x, convolution(page, 7.2, y, "128x20x20")
            page.arrow(first, x)
    page.arrow(x, page.block(7.6, 0.63, "3x3 conv.", "160x160 logits", width=1.0))
    return page.picture()


def convolution(page: Schematic, x: float, y: float, shape: str) -> Block:
    """One of the five convolutions, with what follows it."""
    block = page.block(x, y, "", width=1.5, height=0.7)
    page.text(x, y + 0.1, "3x3 convolution,\nGroupNorm, ReLU", size=9, color=INK, linespacing=1.1)
    page.text(x, y - 0.22, shape)
    return block


def stages_of(found: Trace, k: int) -> list[tuple[str, Tensor]]:
    """Object `k` on its way: title and picture of its box, its heatmaps added, one channel after each convolution, its mask."""
    stages = [("heatmaps, added", found.heatmaps[k].sum(0))]
    stages += [(name, most_alike(maps, found.masks[k])) for name, maps in mask_head_stages(found, k)[:-1]]
    stages += [("mask", found.masks[k].sigmoid())]
    sized = [(f"{name}\n{'x'.join(map(str, values.shape))}", values) for name, values in stages]
    return [("box\n", torch.from_numpy(found.image.copy())), *sized]


def boxed(axes, found: Trace, k: int) -> None:
    """The image with the box of object `k`."""
    plain(axes, found.image)
    draw_box(axes, found, k, LIT, 2)


def several_masks(found: Trace, objects: list[int]) -> Image.Image:
    """The ways of several objects, one row each."""
    figure = new_figure(8.3, 1.13 * len(objects) + 0.5)
    grid = figure.subplots(len(objects), 8, squeeze=False)
    for axes_row, k in zip(grid, objects, strict=True):
        for axes, (title, values) in zip(axes_row, stages_of(found, k), strict=True):
            boxed(axes, found, k) if title.startswith("box") else draw(axes, values)
            if k == objects[0]:
                titled(axes, title.replace("convolution", "conv").replace(", added", ""), 9)
        axes_row[0].set_ylabel(found.names()[k], fontsize=9)
    return picture_of(figure)


def stage_of(found: Trace, k: int, stage: int) -> Image.Image:
    """Object `k`'s box, and beside it what the mask head holds after `stage` (0: heatmaps, 1 to 5: convolutions, 6: mask)."""
    figure = new_figure(8.3, 4.2)
    left, right = figure.subplots(1, 2)
    boxed(left, found, k)
    titled(left, f"object {k}: {found.names()[k]}\n")
    title, values = stages_of(found, k)[stage + 1]
    draw(right, values)
    titled(right, f"stage {stage}: {title}")
    return picture_of(figure)


@torch.inference_mode()
def before_and_after(found: Trace, k: int) -> Image.Image:
    """The third convolution of object `k`, then GroupNorm, ReLU and upsampling: one channel, and a histogram of all values."""
    norm = found.model.mask_head.norms[2]
    kept: list[Tensor] = []
    hook = norm.register_forward_hook(lambda _, inputs, output: kept.extend((inputs[0][0].clone(), output[0].clone())))
    found.model.masks(found.seen, torch.tensor([0]), found.query_index[k : k + 1])
    hook.remove()
    convolved, normal = kept
    active = normal.relu()
    channel = next(c for c, values in enumerate(active) if torch.equal(values, most_alike(active, found.masks[k])))
    large = F.interpolate(active[None], scale_factor=2, mode="nearest")[0]
    steps = {"3x3 convolution": convolved, "GroupNorm": normal, "ReLU": active, "nearest, x 2": large}
    figure = new_figure(8.3, 4.3)
    above, below = figure.subplots(2, 4, height_ratios=(1.5, 1))
    for upper, lower, (title, values) in zip(above, below, steps.items(), strict=True):
        draw(upper, values[channel])
        titled(upper, f"{title}\n{'x'.join(map(str, values.shape))}")
        lower.hist(values.flatten().numpy(), bins=50, color="#0072b2")
        lower.set(yticks=[], xlabel=f"mean {float(values.mean()):.2f}, spread {float(values.std()):.2f}")
        lower.axvline(0, color="#1f2328", linewidth=1)
    return picture_of(figure)


def masks_of(found: Trace, objects: list[int], variants: dict[str, Tensor]) -> Image.Image:
    """Masks (logits K H/4 W/4 of each variant) of some objects: one row an object, one column a variant; bright is yes."""
    figure = new_figure(8.3, 1.42 * len(objects) + 0.45)
    grid = figure.subplots(len(objects), len(variants) + 1, squeeze=False)
    for axes_row, k in zip(grid, objects, strict=True):
        boxed(axes_row[0], found, k)
        axes_row[0].set_ylabel(found.names()[k], fontsize=10)
        for axes, masks in zip(axes_row[1:], variants.values(), strict=True):
            draw(axes, masks[k].sigmoid(), 1.0)
    for axes, name in zip(grid[0], ("query", *variants), strict=True):
        titled(axes, name, 9)
    return picture_of(figure)


def bars(results: dict[str, Tensor], small: Tensor) -> Image.Image:
    """Mean IoU of all objects and of the small ones for each variant of the head."""
    figure = new_figure(8.3, 0.36 * len(results) + 0.9)
    axes = figure.subplots()
    for place, values in enumerate(results.values()):
        for shift, color, chosen in ((-0.19, "#0072b2", values), (0.19, "#e69f00", values[small])):
            mean = 100 * float(chosen.mean())
            axes.barh(place + shift, mean, 0.36, color=color)
            axes.text(mean + 0.7, place + shift, f"{mean:.0f}", va="center", fontsize=8.5)
    axes.set(yticks=range(len(results)), yticklabels=results, xlim=(0, 100), xlabel="mean IoU with the true mask, in percent")
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    count = len(small), int(small.sum())
    names = (f"all {count[0]} objects", f"the {count[1]} below 2,500 pixels")
    axes.legend([axes.patches[0], axes.patches[1]], names, loc="lower right")
    return picture_of(figure)
