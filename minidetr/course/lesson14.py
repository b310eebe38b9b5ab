"""Lesson 14, masks as dot products: its checks and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minidetr.course import answer, close, exercise, require, require_tensor
from minidetr.course.figures import titled
from minidetr.course.lesson12 import Largest
from minidetr.course.schematic import Block, Schematic
from minidetr.course.trace import plain, principal_colors
from minidetr.plot import new_figure, picture_of
from minidetr.training.losses import dice_loss, focal_loss

# --- checks -----------------------------------------------------------------------------------------------------------------


@exercise
def dot_masks(attempt: Callable[..., Any]) -> None:
    """`attempt(embeddings K c, pixels B c h w, image_index K)`: mask logits K h w, each the dot product at every pixel."""
    B, K, c, h, w = 3, 5, 8, 4, 7
    embeddings, pixels, image_index = torch.randn(K, c), torch.randn(B, c, h, w), torch.tensor([2, 0, 2, 1, 0])
    found = require_tensor(attempt(embeddings, pixels, image_index), (K, h, w), "the masks")
    expected = torch.stack([(e[:, None, None] * pixels[image]).sum(0) for e, image in zip(embeddings, image_index, strict=True)])
    first = torch.einsum("kc,chw->khw", embeddings, pixels[0])
    ordered = torch.einsum("kc,kchw->khw", embeddings, pixels[image_index.sort().values])
    require(not close(found, first), "all objects look at the first image's pixels: take those of image_index[k].")
    require(not close(found, ordered), "the objects are sorted by image: mask k belongs to embedding k.")
    require(not close(found, expected / c), "that is the mean over the channels: a dot product is the sum.")
    require(not close(found, expected.sigmoid()), "these are probabilities: the argmax needs the logits.")
    require(not close(found, expected * c**-0.5), "leave the scale out here: the embeddings bring it along.")
    require(close(found, expected), "mask k at a pixel is embedding k times that pixel's embedding, summed over the channels.")


@exercise
def dice_cost(attempt: Callable[..., Any]) -> None:
    """`attempt(mask_logits N h w, truth T h w of 0 and 1)`: N x T, the DICE loss of every query with every segment."""
    N, T, h, w = 6, 4, 5, 9
    logits, truth = 2 * torch.randn(N, h, w), (torch.rand(T, h, w) > 0.6).float()
    truth[1] = 0
    found = require_tensor(attempt(logits.clone(), truth.clone()), (N, T), "the costs")
    expected = torch.stack([torch.stack([dice_loss(logits[n][None], truth[t][None], 1.0) for t in range(T)]) for n in range(N)])
    overlap = torch.einsum("nhw,thw->nt", logits.sigmoid(), truth)
    areas = logits.sigmoid().sum((1, 2))[:, None] + truth.sum((1, 2))
    require(not close(found, (2 * overlap + 1) / (areas + 1)), "that is the overlap: masks that agree cost little, 1 - DICE.")
    require(not close(found, 1 - 2 * overlap / areas.clamp(min=1e-6)), "the two ones are missing: (2 overlap + 1) / (areas + 1).")
    require(not close(found, 1 - (overlap + 1) / (areas + 1)), "DICE takes the overlap twice.")
    hard = (logits > 0).float()
    require(
        not close(
            found, 1 - (2 * torch.einsum("nhw,thw->nt", hard, truth) + 1) / (hard.sum((1, 2))[:, None] + truth.sum((1, 2)) + 1)
        ),
        "the logits are cut at 0: DICE takes probabilities.",
    )
    require(close(found, expected), "entry (n, t) should be the DICE loss of mask n against segment t.")


@exercise
def focal_cost(attempt: Callable[..., Any]) -> None:
    """`attempt(mask_logits N h w, truth T h w of 0 and 1)`: N x T, the mean focal loss of all pairs, no tensor N x T x h*w."""
    N, T, h, w = 7, 5, 6, 9
    logits, truth = 2 * torch.randn(N, h, w), (torch.rand(T, h, w) > 0.7).float()
    truth[1] = 0
    with Largest() as largest:
        found = attempt(logits.clone(), truth.clone())
    found = require_tensor(found, (N, T), "the costs")
    expected = torch.stack([torch.stack([focal_loss(logits[n][None], truth[t][None], 1.0) for t in range(T)]) for n in range(N)])

    def by(alpha: float, gamma: float, swapped: bool = False) -> Tensor:
        x, t = logits.flatten(1)[:, None], truth.flatten(1)[None]
        p = x.sigmoid()
        ones, zeros = alpha * (1 - p) ** gamma * F.softplus(-x), (1 - alpha) * p**gamma * F.softplus(x)
        return (ones * (1 - t) + zeros * t if swapped else ones * t + zeros * (1 - t)).mean(-1)

    require(not close(found, expected * h * w), "that is the sum over the pixels: the focal loss here is their mean.")
    require(not close(found, by(0.75, 2)), "alpha, 0.25, weighs the pixels that are the segment's, 0.75 the others.")
    require(not close(found, 2 * by(0.5, 2)), "alpha is missing: 0.25 for the segment's pixels, 0.75 for the others.")
    require(not close(found, by(0.25, 0)), "the factors (1 - p)^2 and p^2 are missing: this is weighted cross entropy.")
    require(not close(found, by(0.25, 1)), "gamma is 2: square the factors.")
    require(not close(found, by(0.25, 2, swapped=True)), "what a pixel costs as the segment's and as another's are exchanged.")
    require(
        not close(found, (by(0.25, 2) * h * w - by(0.25, 2)[:, 1:2] * h * w) / (h * w)), "the pixels outside the segment cost, too."
    )
    require(close(found, expected), "entry (n, t) should be the focal loss of mask n against segment t.")
    require(largest.values < N * T * h * w, "right, but a tensor with every pixel of every pair was made: use a matrix product.")


@exercise
def culprit(attempt: Any) -> None:
    """The number of the line that gives objects each other's masks."""
    line = answer(attempt)
    right = {
        1: "line 1 takes the images one by one: nothing is mixed by that.",
        2: "line 2 takes the embeddings of this image's objects, in their order.",
        3: "line 3 multiplies them by the pixels of their own image.",
    }
    require(line not in right, f"{right.get(line, '')} In which order do the masks lie at the end, for image_index = [1, 0, 1]?")
    require(line == 4, "one of the lines 1 to 4.")


@exercise
def break_even(attempt: Callable[..., Any]) -> None:
    """`attempt(image_a, object_a, image_b, object_b)`: from how many objects on b is cheaper than a, by what both cost."""
    for costs in ((65, 166, 293, 1), (10, 5, 100, 2), (20, 3, 5, 1)):
        found = answer(attempt(*costs))
        image_a, object_a, image_b, object_b = costs
        right = next(k for k in range(1000) if image_b + k * object_b < image_a + k * object_a)
        case = f"{image_a} + K {object_a} against {image_b} + K {object_b}"
        require(isinstance(found, Integral), f"{case}: K is a whole number.")
        require(found != right - 1 or found < 0, f"{case}: at K = {found} the second is not cheaper yet.")
        require(found == right, f"{case}: the first K at which the second is cheaper is {right}, not {found}.")


# --- pictures ---------------------------------------------------------------------------------------------------------------


def schematic() -> Image.Image:
    """Both kinds of masks, for `tiny` at 288x288: where the object enters, and what runs once for each."""
    page = Schematic(8.3, 4.55)
    page.frame(1.72, 2.62, 8.22, 4.45, "once per object, K times")
    page.text(0.1, 4.33, "DETR", ha="left", size=10.5, weight="bold")
    maps = page.block(0.85, 3.55, "features,\nheatmaps", "", "data", 1.4, 0.62, lit=True)
    last: Block = maps
    names = (
        ("2 convolutions", "96x18x18"),
        ("+ Res4, conv.", "64x18x18"),
        ("+ Res3, conv.", "48x36x36"),
        ("+ Res2, conv.", "32x72x72"),
    )
    for x, (name, shape) in zip((2.5, 3.93, 5.36, 6.79), names, strict=True):
        block = page.block(x, 3.55, name, shape, width=1.27)
        page.arrow(last, block)
        last = block
    page.arrow(last, (7.72, 3.55), (7.72, 3.18))
    page.text(0.85, 3.08, "here the object enters")
    page.block(7.4, 2.93, "mask: 3x3 conv.", "72x72", width=1.5)
    page.frame(0.08, 1.32, 6.6, 2.5, "once per image")
    page.text(0.1, 2.6, "dot products", ha="left", size=10.5, weight="bold")
    last = page.block(0.85, 1.8, "encoded\nimage", "", "data", 1.2, 0.62)
    for x, (name, shape) in zip(
        (2.2, 3.45, 4.7), (("1x1, + Res4", "64x18x18"), ("+ Res3", "64x36x36"), ("+ Res2", "64x72x72")), strict=True
    ):
        block = page.block(x, 1.8, name, shape, width=1.1)
        page.arrow(last, block)
        last = block
    pixels = page.block(5.9, 1.8, "pixels", "64x72x72", "data", 1.0)
    page.arrow(last, pixels)
    page.frame(0.08, 0.32, 6.6, 1.24, "once per object, K times")
    query = page.block(3.45, 0.68, "query", "128", "data", 1.0)
    perceptron = page.block(4.7, 0.68, "perceptron", "", width=1.1)
    embedding = page.block(5.9, 0.68, "embedding", "64", "data", 1.0, lit=True)
    page.arrow(query, perceptron)
    page.arrow(perceptron, embedding)
    page.text(1.6, 0.68, "here the object enters")
    product = page.sign(6.95, 1.27, "x")
    page.arrow(pixels, (6.95, 1.8), product)
    page.arrow(embedding, (6.95, 0.68), product)
    mask = page.block(7.72, 1.27, "mask", "72x72", "data", 0.9)
    page.arrow(product, mask)
    page.key(0.2, 0.13, ("data", "learned"))
    return page.picture()


def pixel_map(image: np.ndarray, pixels: Tensor, masks: Sequence[tuple[str, Tensor]]) -> Image.Image:
    """An image, its pixel embeddings c h w as three colours, and the masks h w (logits) of some objects, bright is yes."""
    figure = new_figure(8.3, 2.2)
    left, middle, *others = figure.subplots(1, 2 + len(masks))
    plain(left, image)
    titled(left, "image", 9)
    plain(middle, principal_colors(pixels))
    titled(middle, "pixel embeddings", 9)
    for axes, (name, logits) in zip(others, masks, strict=True):
        plain(axes, logits.sigmoid().detach().numpy(), cmap="viridis", vmin=0, vmax=1)
        titled(axes, name, 9)
    return picture_of(figure)


def curves(runs: Mapping[str, Sequence[tuple[float, float]]], label: str) -> Image.Image:
    """A line for each run through its (iteration, value)s; `label` names the value."""
    figure = new_figure(8.3, 3.0)
    axes = figure.subplots()
    for name, points in runs.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.set(xlabel="iteration", ylabel=label, ylim=(0, None))
    axes.legend()
    return picture_of(figure)
