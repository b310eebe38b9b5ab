"""Lesson 07, the FPN mask head: its checks and pictures."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from minidetr.course import exercise, require, require_tensor
from minidetr.course.figures import LIT, mask_head_stages, most_alike, titled
from minidetr.course.lesson06 import tell_apart
from minidetr.course.pictures import draw
from minidetr.course.trace import Trace, draw_box, plain
from minidetr.model.backbone import Features
from minidetr.plot import new_figure, picture_of

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


@exercise
def fpn_step(attempt):
    """attempt(x K c h w, stage B s h' w', image_index K, lateral, convolution, norm) -> K o h' w'."""
    B, K, c, o, s = 2, 5, 12, 8, 7
    small, large = (3, 5), (6, 9)  # not always twice as large: 9 columns halve to 5
    x, stage, image_index = torch.randn(K, c, *small), torch.randn(B, s, *large), torch.tensor([1, 0, 0, 1, 1])
    lateral, convolution, norm = nn.Conv2d(s, c, 1), nn.Conv2d(c, o, 3, padding=1), nn.GroupNorm(4, o)
    random_parts(lateral, convolution, norm)
    up, side = F.interpolate(x, size=large, mode="nearest"), lateral(stage)
    smooth = F.interpolate(x, size=large, mode="bilinear")
    expected = norm(convolution(up + side[image_index])).relu()
    mistakes = [
        (norm(convolution(smooth + side[image_index])).relu(), "the upsampling is bilinear: published weights expect nearest."),
        (norm(convolution(up + side[image_index])), "the ReLU is missing."),
        (convolution(up + side[image_index]).relu(), "the norm is missing."),
        (norm(convolution(up + side[image_index]).relu()), "the ReLU comes before the norm: convolution, norm, then ReLU."),
        (norm(convolution(up)).relu(), "the lateral is missing: this is where the fine stage comes in."),
        (norm(convolution(side[image_index])).relu(), "x is missing: the lateral knows the image, but not the object."),
        (norm(convolution(up + side[:1])).relu(), "every object got the first image's lateral: deal them out with image_index."),
    ]
    found = require_tensor(attempt(x, stage, image_index, lateral, convolution, norm), (K, o, *large))
    tell_apart(found, expected, mistakes, "the values differ from relu(norm(convolution(upsampled x + lateral of its own image))).")


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
    without_relu, without_laterals = head_parts(package), head_parts(package)
    without_laterals.laterals = [
        lambda stage, c=lateral.out_channels: stage.new_zeros(B, c, *stage.shape[-2:]) for lateral in package.laterals
    ]
    mistakes = [
        (of_first, "every object got the first image's features: deal out projected and the laterals with image_index."),
        (assembled(without_relu, heatmaps, features, image_index, relu=False), "the ReLUs are missing."),
        (assembled(without_laterals, heatmaps, features, image_index), "the laterals are missing."),
        (expected.sigmoid(), "these are probabilities; the mask head returns logits."),
        (expected.relu(), "a ReLU after the last convolution removes every negative logit: a mask must be able to say no."),
    ]
    found = require_tensor(attempt(head_parts(package), heatmaps, features, image_index), tuple(expected.shape), "the mask logits")
    tell_apart(
        found, expected, mistakes, "the values differ from the package's MaskHead: compare the order of your steps with the table."
    )


def head_parts(package: nn.Module) -> SimpleNamespace:
    """The parts of a MaskHead, which can't be called as a whole."""
    names = ("convolutions", "norms", "laterals", "output")
    return SimpleNamespace(**{name: getattr(package, name) for name in names})


def assembled(head: SimpleNamespace, heatmaps: Tensor, features: Features, image_index: Tensor, relu: bool = True) -> Tensor:
    """The mask head's forward from its parts, with or without ReLUs (for telling mistakes apart)."""
    x = torch.cat([features.projected[image_index], heatmaps], 1)
    sides = [
        None,
        None,
        *(lateral(x) for lateral, x in zip(head.laterals, (features.res4, features.res3, features.res2), strict=True)),
    ]
    for side, convolution, norm in zip(sides, head.convolutions, head.norms, strict=True):
        if side is not None:
            x = F.interpolate(x, size=side.shape[-2:], mode="nearest") + side[image_index]
        x = norm(convolution(x))
        x = x.relu() if relu else x
    return head.output(x).squeeze(1)


# --- pictures ---------------------------------------------------------------------------------------------------------------


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


def one_mask(found: Trace, k: int) -> Image.Image:
    """One object's way through the mask head, in eight pictures."""
    figure = new_figure(8.3, 5.2)
    for axes, (title, values) in zip(figure.subplots(2, 4).flat, stages_of(found, k), strict=True):
        boxed(axes, found, k) if title.startswith("box") else draw(axes, values)
        titled(axes, title.replace("box\n", f"the {found.names()[k]}\n"), 10)
    return picture_of(figure)


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
