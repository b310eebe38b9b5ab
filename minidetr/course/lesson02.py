"""Lesson 02, the backbone: its three exercises and its pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.ops import FrozenBatchNorm2d

from minidetr.course import answer, close, exercise, require, require_tensor
from minidetr.course.figures import LIT, titled
from minidetr.course.trace import Trace, plain, principal_colors
from minidetr.model import PanopticDETR
from minidetr.plot import new_figure, picture_of

# --- exercises --------------------------------------------------------------------------------------------------------------


@exercise
def project(attempt: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
    """`project(features, weight, bias)`: B c h w, d c, d -> B d h w, what a 1x1 convolution does."""
    features, weight, bias = torch.randn(2, 7, 3, 5), torch.randn(4, 7), torch.randn(4)
    expected = F.conv2d(features, weight[:, :, None, None], bias)
    found = require_tensor(attempt(features, weight, bias), (2, 4, 3, 5))
    unbiased = expected - bias[:, None, None]
    require(not close(found, unbiased), "the bias is missing: add one number to each of the d output channels.")
    mixed = (features.reshape(2, 15, 7) @ weight.T + bias).transpose(1, 2).reshape(2, 4, 3, 5)
    require(not close(found, mixed), "channels of several cells are mixed: a reshape cuts anew, it never moves the channel axis.")
    summed = unbiased.mean((2, 3), keepdim=True).expand_as(expected)
    require(
        not close(found - bias[:, None, None], summed), "every cell got the same numbers: keep h and w apart, sum over c alone."
    )
    require(close(found, expected), "the values differ from F.conv2d's: every cell's c numbers are multiplied by the matrix d x c.")


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


# --- pictures ---------------------------------------------------------------------------------------------------------------


def stages_picture(found: Trace) -> Image.Image:
    """The image and the principal colours of Res2..Res5: cells of one colour hold similar vectors."""
    figure = new_figure(8.3, 5.9)
    all_axes = figure.subplots(2, 3).flatten()
    features = found.seen.features
    plain(all_axes[0], found.image)
    titled(all_axes[0], "image 3x288x288")
    stages = ("Res2", features.res2), ("Res3", features.res3), ("Res4", features.res4), ("Res5", features.res5)
    for axes, (name, maps) in zip(all_axes[1:], (*stages, ("1x1 convolution", features.projected)), strict=True):
        plain(axes, principal_colors(maps[0]))
        titled(axes, f"{name} {'x'.join(str(size) for size in maps.shape[1:])}")
    return picture_of(figure)


def receptive_fields(model: PanopticDETR, image: np.ndarray, images: Tensor) -> Image.Image:
    """What part of the image the middle cell of each stage depends on: bright where its gradient by the pixels is not zero.

    `image` H W 3 uint8 to draw, `images` 1 3 H W the same as the model sees it.
    """
    with torch.enable_grad():
        pixels = images.clone().requires_grad_()
        features = model.backbone(pixels)
        stages = {"Res2": features.res2, "Res3": features.res3, "Res4": features.res4, "Res5": features.res5}
        figure = new_figure(8.3, 2.5)
        for axes, (name, maps) in zip(figure.subplots(1, 4), stages.items(), strict=True):
            middle = maps[0, :, maps.shape[2] // 2, maps.shape[3] // 2].sum()
            slope = torch.autograd.grad(middle, pixels, retain_graph=True)[0].abs().sum((0, 1))  # H W
            rows, columns = torch.nonzero(slope).unbind(1)
            seen = np.zeros(image.shape[:2], bool)
            seen[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
            plain(axes, np.where(seen[..., None], image, image // 4))
            left, right, top, bottom = (int(v) for v in (columns.min(), columns.max(), rows.min(), rows.max()))
            axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=LIT, linewidth=2)
            titled(axes, f"{name}: {bottom - top + 1} pixels")
    return picture_of(figure)
