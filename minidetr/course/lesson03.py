"""Lesson 03, the encoder: its three exercises and its pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from minidetr.course import close, exercise, pictures, require, require_tensor
from minidetr.course.figures import LIT, titled
from minidetr.course.trace import plain, principal_colors
from minidetr.model.position import sine_position
from minidetr.model.transformer import to_sequence
from minidetr.plot import new_figure, picture_of

# --- exercises --------------------------------------------------------------------------------------------------------------


@exercise
def there_and_back(attempt: tuple[Callable[[Tensor], Any], Callable[[Tensor, int, int], Any]]) -> None:
    """`to_sequence(grid)` B d h w -> B h*w d, row after row, and `to_grid(sequence, h, w)`, its inverse."""
    forth, back = attempt
    grid = torch.randn(2, 6, 3, 5)  # B d h w
    expected = to_sequence(grid)
    sequence = require_tensor(forth(grid), (2, 15, 6), "the sequence of a grid 2x6x3x5")
    by_columns = to_sequence(grid.mT)
    require(not close(sequence, by_columns), "the cells come column after column: the sequence has to read them row after row.")
    mixed = "a row of the sequence mixes channels of several cells: move the channel axis behind h and w before you join those two."
    require(not close(sequence, grid.reshape(2, 15, 6)), mixed)
    require(close(sequence, expected), "the sequence has the right shape, but its cells are not those of the grid, row after row.")
    returned = require_tensor(back(expected, 3, 5), (2, 6, 3, 5), "the grid of a sequence 2x15x6 with h = 3 and w = 5")
    direct = "the grid only looks right: bring the channels in front (transpose) before you cut h*w into h and w."
    require(not close(returned, expected.reshape(2, 6, 3, 5)), direct)
    require(close(returned, grid), "to_grid does not undo to_sequence: some cells come back in another place.")


@exercise
def sine_axis(attempt: Callable[[int, int], Any]) -> None:
    """`sine_axis(count, channels)` -> count x channels: the waves along one axis of `count` cells, temperature 10000."""
    count, channels = 7, 12
    waves = require_tensor(attempt(count, channels), (count, channels), "sine_axis(7, 12)")
    padding = torch.zeros(1, count, 3, dtype=torch.bool)
    expected = sine_position(padding, 2 * channels)[0, :channels, :, 0].T  # of the rows

    def other(start: int = 1, full: float = 2 * math.pi, pairs: bool = True) -> Tensor:
        """The waves with one mistake made in them."""
        place = torch.arange(start, count + start) / count * full
        channel = torch.arange(channels)
        angle = place[:, None] / 10000 ** ((channel // 2 * 2 if pairs else channel) / channels)
        return torch.where(channel % 2 == 0, angle.sin(), angle.cos())

    require(not close(waves, other(start=0)), "the cells are counted from 0: DETR counts from 1, so that the last is at 2 pi.")
    require(
        not close(waves, other(full=count)),
        "the places are not scaled: the last cell has to be at 2 pi, whatever count is.",
    )
    require(not close(waves, other(full=1)), "the places run to 1: multiply by 2 pi, so that the fastest wave turns once.")
    alone = "every channel has a wavelength of its own: a sine and the cosine behind it share one, so use i = channel // 2."
    require(not close(waves, other(pairs=False)), alone)
    apart = torch.cat([expected[:, 0::2], expected[:, 1::2]], dim=1)
    require(not close(waves, apart), "all sines come first, all cosines after them: they have to alternate.")
    swapped = expected.view(count, -1, 2).flip(-1).flatten(1)
    require(not close(waves, swapped), "sine and cosine are exchanged: even channels are sines.")
    require(
        close(waves, expected),
        "the values differ from the package's: compare your angle with the equation.",
    )


@exercise
def attention_weights(attempt: Callable[[Tensor, Tensor, int, Tensor], Any]) -> None:
    """`attention_weights(query, key, heads, padding)`: B N d, B L d, int, B L (True: padded) -> B M N L, rows sum to 1."""
    B, N, L, M, e = 2, 5, 7, 3, 4
    query, key = torch.randn(B, N, M * e), torch.randn(B, L, M * e)
    padding = torch.zeros(B, L, dtype=torch.bool)
    padding[0, 4:] = padding[1, :1] = True
    weights = require_tensor(attempt(query, key, M, padding), (B, M, N, L), "the weights")

    def softmax_of(scale: float, mask: Tensor, axis: int = -1) -> Tensor:
        """The weights with a chosen scale, mask and axis of the softmax."""
        q, k = (x.unflatten(-1, (M, e)).transpose(1, 2) for x in (query, key))
        return (q @ k.mT * scale).masked_fill(mask[:, None, None], -torch.inf).softmax(axis).nan_to_num()

    nothing = torch.zeros_like(padding)
    ignored = "cells of the padding get attention: set their scores to minus infinity before the softmax."
    require(not close(weights, softmax_of(e**-0.5, nothing)), ignored)
    require(not close(weights, softmax_of(e**-0.5, ~padding)), "it looks at the padding and at nothing else: True means padded.")
    require(not close(weights, softmax_of(1.0, padding)), "the scale is missing: divide the scores by the root of d / heads.")
    wide = "the scores are divided by the square root of d: each head has d / heads numbers only."
    require(not close(weights, softmax_of((M * e) ** -0.5, padding)), wide)
    columns = "the softmax runs over the queries: every query has to share out 1 among the keys, the last axis."
    require(not close(weights.sum(-2), torch.ones(B, M, L)) and not close(weights, softmax_of(e**-0.5, padding, -2)), columns)
    late = "a row sums to less than 1: the padding was set to zero after the softmax, it has to be hidden before."
    require(close(weights.sum(-1), torch.ones(B, M, N)), late)
    expected = softmax_of(e**-0.5, padding)
    strided = query.unflatten(-1, (e, M)).permute(0, 3, 1, 2) @ key.unflatten(-1, (e, M)).permute(0, 3, 2, 1)
    wrong_cut = "the heads are cut wrongly: head 0 takes the first d / heads channels, not every heads-th one."
    require(not close(weights, (strided * e**-0.5).masked_fill(padding[:, None, None], -torch.inf).softmax(-1)), wrong_cut)
    require(close(weights, expected), "the rows sum to 1, but the values are wrong: check the split into heads and q k^T.")


# --- pictures ---------------------------------------------------------------------------------------------------------------


def waves_picture(position: Tensor, channels: Sequence[int]) -> Image.Image:
    """Channels of a position encoding d h w as pictures: red is 1, white is 0, blue is -1."""
    figure = new_figure(8.3, 2.2)
    for axes, channel in zip(figure.subplots(1, len(channels)), channels, strict=True):
        plain(axes, position[channel], vmin=-1, vmax=1, cmap="RdBu_r")
        titled(axes, f"channel {channel}")
    return picture_of(figure)


def similarity_picture(position: Tensor, cells: Sequence[tuple[int, int]]) -> Image.Image:
    """How much the position d h w of each cell (row, column), marked, resembles every other: the cosine of the two vectors."""
    figure = new_figure(8.3, 2.5)
    all_axes = figure.subplots(1, len(cells))
    unit = position / position.norm(dim=0)  # d h w
    similar = [torch.einsum("d, d h w -> h w", unit[:, row, column], unit) for row, column in cells]
    lowest = float(torch.stack(similar).min())
    for axes, (row, column), values in zip(all_axes, cells, similar, strict=True):
        plain(axes, values, cmap="magma", vmin=lowest, vmax=1)
        mark(axes, row, column, 1)
        titled(axes, f"row {row}, column {column}")
    figure.colorbar(all_axes[-1].images[0], ax=all_axes, shrink=0.8)
    return picture_of(figure)


def mark(axes: Axes, row: int, column: int, cell: float, width: float = 2) -> None:
    """A frame of `width` points around a cell whose side is `cell` pixels of the picture."""
    left, top = column * cell - 0.5, row * cell - 0.5
    right, bottom = left + cell, top + cell
    axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color="white", linewidth=2 * width)
    axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=LIT, linewidth=width)


def cells_of_objects(masks: Tensor, objects: Sequence[int], h: int, w: int) -> list[tuple[int, int]]:
    """The cell (row, column) of an h x w grid that lies deepest in each object's mask logits K H/4 W/4."""
    inside = torch.nn.functional.adaptive_avg_pool2d(masks[list(objects)].sigmoid(), (h, w))
    return [(int(i) // w, int(i) % w) for i in inside.flatten(1).argmax(1)]


def heads_picture(image: np.ndarray, weights: Tensor, cells: Sequence[tuple[int, int]]) -> Image.Image:
    """Image with a cell framed, beside it where the eight heads of that cell look (bright: much), for each cell (row, column).

    `image` H W 3; `weights` 8 h w h w: head, the cell that looks, the cell looked at. Each head's picture has a scale of its own.
    """
    h, w = weights.shape[1:3]
    figure = new_figure(8.3, 3.15 * len(cells))
    places = figure.add_gridspec(2 * len(cells), 6)
    for number, (row, column) in enumerate(cells):
        axes = figure.add_subplot(places[2 * number : 2 * number + 2, :2])
        plain(axes, image)
        mark(axes, row, column, image.shape[1] / w)
        titled(axes, f"row {row}, column {column}")
        for head in range(8):
            axes = figure.add_subplot(places[2 * number + head // 4, 2 + head % 4])
            plain(axes, weights[head, row, column].view(h, w), cmap="magma", vmin=0)
            mark(axes, row, column, 1, 0.8)
            titled(axes, f"head {head + 1}", 9)
    return picture_of(figure, 90)


def padding_picture(image: np.ndarray, ignored: Tensor, masked: Tensor, cell: tuple[int, int]) -> Image.Image:
    """A padded image H W 3 with a cell framed, and that cell's attention h w with the padding mask ignored and used."""
    figure = new_figure(8.3, 2.9)
    panels: dict[str, np.ndarray | Tensor] = {"padded image": image, "padding mask ignored": ignored, "padding mask used": masked}
    for axes, (name, values) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        heat = isinstance(values, Tensor)
        plain(axes, values, **({"cmap": "magma", "vmin": 0, "vmax": float(masked.max())} if heat else {}))
        mark(axes, *cell, 1 if heat else image.shape[1] / masked.shape[1])
        titled(axes, name)
    return picture_of(figure)


def compared(grids: dict[str, Tensor]) -> Image.Image:
    """Grids d h w of one size side by side, principal colours computed over all together: equal vectors have equal colours."""
    colors = principal_colors(torch.cat(list(grids.values()), dim=2))
    return pictures.row(np.split(colors, len(grids), axis=1), list(grids))
