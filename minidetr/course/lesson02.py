"""Lesson 02, the backbone: its five exercises and its pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.colors import LogNorm
from PIL import Image
from torch import Tensor
from torchvision.ops import FrozenBatchNorm2d

from minidetr.course import NotDone, answer, close, exercise, require, require_tensor
from minidetr.course.figures import LIT, titled
from minidetr.course.own import ResidualBlock
from minidetr.course.schematic import Block, Schematic
from minidetr.course.trace import Trace, plain, principal_colors
from minidetr.data.batch import Batch
from minidetr.data.images import normalise, to_tensor
from minidetr.model import PanopticDETR
from minidetr.plot import new_figure, picture_of
from minidetr.scenes.dataset import HELD_OUT_SEED
from minidetr.scenes.render import Scene, render_scene

# --- exercises --------------------------------------------------------------------------------------------------------------


@exercise
def output_size(attempt: Callable[[int, int, int, int, int], Any]) -> None:
    """`output_size(size, kernel, stride, padding, dilation)` -> rows that come out of a convolution with `size` rows."""
    cases = (20, 3, 1, 2, 2), (24, 7, 2, 3, 1), (31, 5, 3, 1, 3), (9, 1, 2, 0, 1), (23, 3, 2, 1, 1)
    for size, kernel, stride, padding, dilation in cases:
        wide = F.conv2d(torch.zeros(1, 1, size, 40), torch.zeros(1, 1, kernel, 1), None, (stride, 1), (padding, 0), (dilation, 1))
        expected, found = wide.shape[2], answer(attempt(size, kernel, stride, padding, dilation))
        require(isinstance(found, int), f"a number of rows is an int, and this is {found!r}: divide with //.")
        case = f"{size} rows, kernel {kernel}, stride {stride}, padding {padding}, dilation {dilation}"
        reach = dilation * (kernel - 1) + 1  # rows that the kernel spans
        places = size + 2 * padding - reach
        mistakes = {
            (size + padding - reach) // stride + 1: "padding is added on both sides.",
            (size + 2 * padding - kernel) // stride + 1: "dilation widens the kernel's reach.",
            math.ceil(places / stride) + 1: "where the stride does not fit, round down, not up.",
            places // stride: "the first place of the kernel counts too, add 1.",
        }
        require(found == expected or found not in mistakes, f"{case} give {expected}: {mistakes.get(found)}")
        require(found == expected, f"{case} give {expected} rows, not {found}.")


@exercise
def residual_block(attempt: Callable[[Any, Tensor], Any]) -> None:
    """`residual_block(block, x)`: the weights of a block and B c h w -> B c' h' w', as torchvision's BasicBlock computes it."""
    for before, after, stride, dilation in ((5, 5, 1, 1), (4, 6, 2, 1), (6, 3, 1, 2)):
        block = randomised(ResidualBlock(before, after, stride, dilation))
        x = torch.randn(2, before, 9, 6)
        inner = block.norm1(block.conv1(x))
        f = block.norm2(block.conv2(inner.relu()))
        shortcut = block.skip_norm(block.skip(x)) if block.widens else x
        given = x.clone()
        try:
            found = require_tensor(attempt(block, given), tuple(f.shape))
        except RuntimeError:
            require(not block.widens, "where the block widens, x does not fit f(x): let it pass block.skip and its norm first.")
            raise
        mistakes = {
            "the shortcut is missing: what comes in has to be added before the last ReLU.": f.relu(),
            "the last ReLU is missing: it comes after the sum.": shortcut + f,
            "a ReLU stands before the sum: f(x) could then only add, never take away.": shortcut + f.relu(),
            "the ReLU between the two convolutions is missing.": (shortcut + block.norm2(block.conv2(inner))).relu(),
            "the norms are missing: one behind each convolution.": (shortcut + block.conv2(block.conv1(x).relu())).relu(),
        }
        if block.widens:
            mistakes["the shortcut's 1x1 convolution has a norm too, block.skip_norm."] = (block.skip(x) + f).relu()
        for sentence, wrong in mistakes.items():
            require(not close(found, wrong), sentence)
        require(close(found, (shortcut + f).relu()), "the values are wrong: compare each step with the specification.")
        require(torch.equal(given, x), "your block overwrites its input, which the mask head still needs: write x + y, not x += y.")


def randomised(block: Any) -> Any:
    """A block in eval mode whose norms have seen something."""
    for norm in (block.norm1, block.norm2, *([block.skip_norm] if block.widens else [])):
        for values in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            values.copy_(torch.rand(len(values)) + 0.3)
    return block.eval()


@exercise
def frozen_norm(attempt: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Any]) -> None:
    """`frozen_norm(x, weight, bias, mean, variance)`: B c h w and four times c -> B c h w, with epsilon 1e-5."""
    c = 4
    x, norm = torch.randn(2, c, 3, 5) * 3 + 1, FrozenBatchNorm2d(c)
    norm.weight, norm.bias, norm.running_mean = torch.randn(c), torch.randn(c), torch.randn(c)
    norm.running_var = torch.tensor([2.0, 1e-5, 0.3, 5.0])
    found = require_tensor(attempt(x, norm.weight, norm.bias, norm.running_mean, norm.running_var), (2, c, 3, 5))
    weight, bias, mean, variance = (v[:, None, None] for v in (norm.weight, norm.bias, norm.running_mean, norm.running_var))
    own = F.batch_norm(x, None, None, norm.weight, norm.bias, training=True)
    require(not close(found, own), "it uses the mean and variance of this batch: frozen means the stored ones, whatever comes in.")
    no_root = (x - mean) / (variance + 1e-5) * weight + bias
    require(not close(found, no_root), "it divides by the variance: divide by its square root, the standard deviation.")
    no_epsilon = (x - mean) / variance.sqrt() * weight + bias
    require(not close(found, no_epsilon), "epsilon is missing: a channel with almost no variance gets far too large.")
    require(not close(found, (x - mean) / (variance + 1e-5).sqrt()), "the learned scale and shift (weight and bias) are missing.")
    require(close(found, norm(x)), "the values differ from torchvision's FrozenBatchNorm2d: check the order of shift and scale.")


@exercise
def moved_by_company(attempt: tuple[Any, Any]) -> None:
    """Which of the norms A to D give a photo other numbers in other company, and which when it is padded: two strings."""
    if any(part is ... or part is None for part in attempt):
        raise NotDone
    company, padded = (set(str(part).upper()) & set("ABCD") for part in attempt)
    require("D" not in company | padded, "D measures nothing: its numbers were stored, so neither company nor padding moves it.")
    require("B" not in company, "B measures each image by itself: what else is in the batch does not matter to it.")
    require("A" in company, "A measures over all images of the batch, so the others move it.")
    require("C" in company, "C measures each pixel over the images of the batch, so the others move it.")
    require("C" not in padded, "C measures each pixel by itself, and the padding lies at other pixels.")
    require("A" in padded, "A measures over height and width: zeros that are added there move mean and variance.")
    require("B" in padded, "B measures over height and width: zeros that are added there move mean and variance.")


@exercise
def receptive_field(attempt: Callable[[list[tuple[int, int, int]]], Any]) -> None:
    """`receptive_field(layers)`: (kernel, stride, dilation) of each convolution, in order -> pixels that one cell depends on."""
    for layers in (
        [(3, 1, 1)],
        [(3, 1, 1), (5, 1, 1)],
        [(7, 2, 1), (3, 2, 1), (3, 1, 1)],
        [(3, 2, 1), (3, 1, 2), (1, 3, 1), (5, 2, 3)],
    ):
        with torch.enable_grad():
            pixels = torch.zeros(1, 1, 400, requires_grad=True)
            x: Tensor = pixels
            for kernel, stride, dilation in layers:
                x = F.conv1d(x, torch.ones(1, 1, kernel), stride=stride, dilation=dilation)
            slope = torch.autograd.grad(x[0, 0, x.shape[2] // 2], pixels)[0][0, 0].nonzero()
        expected, found = int(slope.max() - slope.min()) + 1, answer(attempt(list(layers)))
        require(not isinstance(found, bool) and isinstance(found, int), f"a number of pixels is an int, and this is {found!r}.")
        mistakes = {
            spread(layers, kernel_only=True): "dilation is missing: it spreads the kernel, which then spans more cells.",
            spread(layers, unscaled=True): "strides are missing: one cell is as many pixels as all strides before it multiplied.",
            spread(layers, early=True): "a layer's own stride counts for the layers behind it only: multiply it in afterwards.",
            spread(layers) - 1: "the cell itself is missing: with no layer at all, it sees 1 pixel.",
            spread(layers, whole=True): "a kernel of k adds k - 1 cells, not k: its middle was counted already.",
        }
        require(found == expected or found not in mistakes, f"{layers}: {mistakes.get(found)}")
        require(found == expected, f"{layers} see {expected} pixels, not {found}.")


def spread(
    layers: Sequence[tuple[int, int, int]],
    kernel_only: bool = False,
    unscaled: bool = False,
    early: bool = False,
    whole: bool = False,
) -> int:
    """The receptive field, with at most one mistake made in it."""
    field, step = 1, 1
    for kernel, stride, dilation in layers:
        field += (kernel - (not whole)) * (1 if kernel_only else dilation) * (1 if unscaled else step * (stride if early else 1))
        step *= stride
    return field


# --- experiments ------------------------------------------------------------------------------------------------------------


def scene_batch(count: int) -> tuple[list[Scene], Tensor]:
    """`count` held-out scenes and their normalised images B 3 288 288."""
    scenes = [render_scene(HELD_OUT_SEED + i) for i in range(count)]
    return scenes, Batch.pad([normalise(to_tensor(Image.fromarray(scene.image))) for scene in scenes]).images


def classes_of_cells(scenes: Sequence[Scene]) -> Tensor:
    """The class under the middle of each of 18x18 cells of 16 pixels: B 324."""
    found = []
    for scene in scenes:
        category = {segment["id"]: segment["category_id"] for segment in scene.segments_info}
        found.append([category[one] for one in scene.segment_ids[8::16, 8::16].ravel().tolist()])
    return torch.tensor(found)


# --- pictures ---------------------------------------------------------------------------------------------------------------


def schematic_stages() -> Image.Image:
    """ResNet-50 from the image to the transformer's width: blocks, shapes at 640x640, strides, and who reads them."""
    page = Schematic(8.3, 2.5)
    names = (
        ("image", "3 x 640 x 640", "data"),
        ("stem", "64 x 160 x 160", "learned"),
        ("3 blocks", "256 x 160 x 160", "learned"),
        ("4 blocks", "512 x 80 x 80", "learned"),
        ("6 blocks", "1024 x 40 x 40", "learned"),
        ("3 blocks", "2048 x 20 x 20", "learned"),
        ("1x1 conv", "256 x 20 x 20", "learned"),
    )
    blocks = [page.block(0.62 + 1.175 * i, 1.5, name, shape, kind, width=1.02) for i, (name, shape, kind) in enumerate(names)]
    for block, following in zip(blocks, blocks[1:], strict=False):
        page.arrow(block, following)
    for block, name, stride in zip(blocks, ("", "", "Res2", "Res3", "Res4", "Res5", ""), (1, 4, 4, 8, 16, 32, 32), strict=True):
        page.text(block.x, 1.98, name, 10, "bold", color="#1f2328")
        page.text(block.x, 1.1, f"stride {stride}")
    left, right = blocks[2].x - 0.51, blocks[5].x + 0.51
    head = page.block((left + right) / 2, 0.27, "mask head", kind="fixed", width=right - left, height=0.3)
    encoder = page.block(blocks[6].x, 0.27, "encoder", kind="fixed", width=0.99, height=0.3)
    for block in blocks[2:5]:
        page.arrow((block.x, 0.97), (block.x, head.y + 0.15))
    page.arrow((blocks[6].x, 0.97), (blocks[6].x, encoder.y + 0.15))
    page.arrow((blocks[6].x, 0.68), (blocks[5].x, 0.68), (blocks[5].x, head.y + 0.15))
    page.text(0.13, 2.35, "ResNet-50, shapes at 640x640", 9.5, "bold", ha="left", color="#1f2328")
    page.key(6.1, 2.35, ("data", "learned"))
    return page.picture()


def schematic_block() -> Image.Image:
    """The two kinds of residual block: the bottleneck of ResNet-50 and the basic block of small ResNets and of `tiny`."""
    page = Schematic(8.3, 3.05)
    bottleneck = (
        ("1x1 conv", "256 -> 64"),
        ("3x3 conv", "64 -> 64"),
        ("1x1 conv", "64 -> 256"),
    )
    block_row(page, 2.15, "bottleneck: ResNet-50", "256 x 160 x 160", bottleneck)
    basic = ("3x3 conv", "32 -> 32"), ("3x3 conv", "32 -> 32")
    block_row(page, 0.75, "basic block: ResNet-18, tiny", "32 x 72 x 72", basic)
    page.text(4.15, 0.1, "Every convolution is followed by its norm, which is not drawn.")
    page.key(6.1, 2.9, ("data", "learned"))
    return page.picture()


def block_row(page: Schematic, y: float, title: str, shape: str, convolutions: Sequence[tuple[str, str]]) -> None:
    """One residual block from left to right, its shortcut above."""
    page.text(0.13, y + 0.75, title, 9.5, "bold", ha="left", color="#1f2328")
    last: Block = page.block(0.72, y, "x", shape, "data", width=1.15)
    start, gap = last, 4.9 / len(convolutions)
    for number, (name, channels) in enumerate(convolutions):
        one = page.block(1.45 + gap * (number + 0.42), y, name, channels, width=1.05)
        page.arrow(last, one, text="ReLU" if number else "")
        last = one
    total, end = page.sign(6.42, y), page.block(7.62, y, "y", shape, "data", width=1.15)
    page.arrow(last, total, text="f(x)")
    page.arrow(start, (start.x, y + 0.48), (6.42, y + 0.48), total, text="shortcut")
    page.arrow(total, end, text="ReLU")


def stages_picture(found: Trace) -> Image.Image:
    """The image and the principal colours (PCA) of Res2..Res5: within a panel, cells of one colour hold similar vectors."""
    figure = new_figure(8.3, 5.9 * found.image.shape[0] / found.image.shape[1])
    all_axes = figure.subplots(2, 3).flatten()
    features = found.seen.features
    plain(all_axes[0], found.image)
    titled(all_axes[0], "image 3x" + "x".join(str(size) for size in found.image.shape[:2]))
    stages = ("Res2", features.res2), ("Res3", features.res3), ("Res4", features.res4), ("Res5", features.res5)
    for axes, (name, maps) in zip(all_axes[1:], (*stages, ("1x1 convolution", features.projected)), strict=True):
        plain(axes, principal_colors(maps[0]))
        titled(axes, f"{name} {'x'.join(str(size) for size in maps.shape[1:])}")
    return picture_of(figure)


def pixel_gradients(model: PanopticDETR, images: Tensor) -> dict[str, Tensor]:
    """How strongly the middle cell of each stage depends on each pixel, H W: its gradient, averaged over images B 3 H W, sum 1."""
    with torch.enable_grad():
        pixels = images.clone().requires_grad_()
        features = model.backbone(pixels)
        found = {}
        for name, maps in (("Res2", features.res2), ("Res3", features.res3), ("Res4", features.res4), ("Res5", features.res5)):
            middle = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2].sum()
            slope = torch.autograd.grad(middle, pixels, retain_graph=True)[0].abs().sum(1)  # B H W
            found[name] = (slope / slope.sum((1, 2), keepdim=True)).mean(0)
    return found


def side_of(gradient: Tensor, share: float) -> int:
    """The side, in pixels, of the smallest square around the middle of what is not zero that holds `share` of a gradient H W."""
    rows, columns = gradient.nonzero().unbind(1)
    y, x = (int(places.max() + places.min()) // 2 for places in (rows, columns))
    reach = next(r for r in range(len(gradient)) if gradient[y - r : y + r + 1, x - r : x + r + 1].sum() >= share * gradient.sum())
    return 2 * reach + 1


def receptive_fields(gradients: dict[str, Tensor]) -> Image.Image:
    """Gradients H W on a logarithmic scale, the brightest pixel of each 1; frames hold all of it (white) and 90% (orange)."""
    figure = new_figure(8.3, 2.7)
    all_axes = figure.subplots(1, len(gradients))
    for axes, (name, gradient) in zip(all_axes, gradients.items(), strict=True):
        plain(axes, gradient / gradient.max() + 1e-9, cmap="magma", norm=LogNorm(1e-4, 1))
        rows, columns = gradient.nonzero().unbind(1)
        y, x = ((int(places.max()) + int(places.min())) / 2 for places in (rows, columns))
        whole, most = int(rows.max() - rows.min()) + 1, side_of(gradient, 0.9)
        for side, color in ((whole, "white"), (most, LIT)):
            left, right, top, bottom = x - side / 2, x + side / 2, y - side / 2, y + side / 2
            axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=color, linewidth=1.5)
        axes.set(xlim=(x - 105, x + 105), ylim=(y + 105, y - 105))
        titled(axes, f"{name}: {whole} pixels,\n90% within {most}", 9.5)
    figure.colorbar(all_axes[-1].images[0], ax=all_axes, shrink=0.7).ax.tick_params(labelsize=8)
    return picture_of(figure)
