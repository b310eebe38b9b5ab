"""Checks and pictures of lesson 12: what every stage costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from minidetr.course import answer, exercise, require
from minidetr.model.heatmaps import HeatmapAttention
from minidetr.plot import new_figure, picture_of

# --- exercises --------------------------------------------------------------------------------------------------------------


def counted(module: nn.Module, *inputs: Tensor) -> int:
    """Multiply-adds of one call of a module, as PyTorch's own counter sees them."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2


@exercise
def convolution_multiply_adds(attempt: Callable[..., Any]) -> None:
    """`attempt(inputs, outputs, kernel, height, width, stride)`: of a convolution padded by kernel // 2, for one image."""
    for inputs, outputs, kernel, height, width, stride in ((3, 64, 7, 96, 160, 2), (40, 24, 3, 17, 31, 1), (12, 20, 1, 33, 19, 2)):
        found = answer(attempt(inputs, outputs, kernel, height, width, stride))
        with torch.device("meta"):
            layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
            right = counted(layer, torch.empty(1, inputs, height, width))
        case = f"a {kernel}x{kernel} convolution {inputs} -> {outputs} with stride {stride} on {height}x{width}"
        at_input = inputs * outputs * kernel**2 * height * width
        require(stride == 1 or found != at_input, f"{case}: with a stride, only every {stride}nd row and column is computed.")
        require(kernel == 1 or found * kernel != right, f"{case}: the kernel has kernel x kernel places, not kernel.")
        require(found * inputs != right, f"{case}: every output value looks at all {inputs} input channels.")
        require(found != 2 * right, f"{case}: those are FLOPs, two for each multiply-add.")
        require(found == right, f"{case} takes {right:,} multiply-adds, not {found:,} (odd sizes are rounded up).")


@exercise
def heatmap_multiply_adds(attempt: Callable[..., Any]) -> None:
    """`attempt(K, B, d, M, cells)`: of the heatmap attention for K objects of B images with `cells` = h*w each."""
    for K, B, d, M, h, w in ((7, 2, 48, 6, 3, 5), (1, 3, 32, 4, 6, 7), (50, 1, 64, 8, 9, 4)):
        found = answer(attempt(K, B, d, M, h * w))
        module = HeatmapAttention(d, M)
        right = counted(module, torch.randn(K, d), torch.randn(B, d, h, w), torch.zeros(K, dtype=torch.long))
        query, key, scores = K * d * d, B * h * w * d * d, K * h * w * d
        case = f"K={K}, B={B}, d={d}, M={M}, {h * w} cells"
        sentence = "the heads share the width d (d/M channels each), so their number doesn't change the cost."
        require(found != query + key + M * scores, f"{case}: {sentence}")
        sentence = "the keys belong to the image: they are projected once for each image, not for each object."
        require(found != query + K * h * w * d * d + scores, f"{case}: {sentence}")
        require(
            found not in (scores, key + scores, query + scores), f"{case}: queries and keys pass a linear layer d -> d each first."
        )
        require(
            found not in (2 * right, query + key + 2 * scores),
            f"{case}: there are no values here, and one multiply-add is not two.",
        )
        require(found == right, f"{case} takes {right:,} multiply-adds, not {found:,}.")


@exercise
def thrown_away(attempt: Callable[..., Any]) -> None:
    """`attempt(N, K, H, W)`: bytes of N float32 mask logits at a quarter of H x W, and the share not needed when K are kept."""
    for N, K, H, W in ((100, 11, 640, 960), (20, 5, 192, 320), (300, 300, 800, 1088)):
        found = answer(attempt(N, K, H, W))
        require(isinstance(found, tuple) and len(found) == 2, "return two numbers: the bytes, and the share thrown away.")
        size, share = (answer(value) for value in found)
        right = 4 * N * (H // 4) * (W // 4)
        case = f"N={N}, K={K}, {H}x{W}"
        require(size != 16 * right, f"{case}: masks are at a quarter of the size in both directions, so a sixteenth of the pixels.")
        require(size != 4 * right, f"{case}: a quarter in each of the two directions is a sixteenth.")
        require(size * 4 != right, f"{case}: a float32 takes four bytes.")
        require(size == right, f"{case}: all masks take {right:,} bytes, not {size:,}.")
        require(K == N or abs(share - K / N) > 1e-9 or 2 * K == N, f"{case}: that is the share that is kept.")
        require(abs(share - (N - K) / N) < 1e-9, f"{case}: {(N - K) / N:.3f} of them are thrown away, not {share:.3f}.")


# --- pictures ---------------------------------------------------------------------------------------------------------------


def bars(values: Mapping[str, float], label: str) -> Image.Image:
    """One horizontal bar for each name, its value written behind it; `label` names the unit."""
    figure = new_figure(8.3, 0.45 * len(values) + 0.9)
    axes = figure.subplots()
    drawn = axes.barh(list(values), list(values.values()))
    axes.bar_label(drawn, [f" {value:,.1f}" for value in values.values()])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlim=(0, 1.15 * max(values.values())), xlabel=label)
    return picture_of(figure)
