"""Lesson 14, masks as dot products: its checks and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minidetr.course import answer, close, exercise, require, require_tensor
from minidetr.course.figures import titled
from minidetr.course.trace import plain, principal_colors
from minidetr.plot import new_figure, picture_of
from minidetr.training.losses import dice_loss

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
