"""Lesson 03, the encoder: its six exercises, its experiments and its pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from PIL import Image
from torch import Tensor

from minidetr.course import answer, close, exercise, pictures, require, require_tensor
from minidetr.course.figures import LIT, titled
from minidetr.course.lesson04_pictures import linear_probe as linear_probe
from minidetr.course.own import EncoderLayer
from minidetr.course.schematic import Schematic
from minidetr.course.trace import plain, principal_colors
from minidetr.data.batch import Batch
from minidetr.evaluate import QualityCounts
from minidetr.model import Detections, PanopticDETR
from minidetr.model.position import sine_position
from minidetr.model.transformer import to_sequence
from minidetr.panoptic import Category
from minidetr.plot import new_figure, picture_of
from minidetr.scenes.render import Scene

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
    require(close(waves, expected), "the values differ from the package's: compare your angle with the equation.")


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


@exercise
def step_matrix(attempt: Callable[[int, int, int], Any]) -> None:
    """`step_matrix(rows, count, channels)` -> the channels x channels matrix that takes every row's waves `rows` rows on."""
    count, channels = 9, 12
    waves = sine_position(torch.zeros(1, count, 3, dtype=torch.bool), 2 * channels)[0, :channels, :, 0].T  # count x channels
    for rows in (2, -1):
        matrix = require_tensor(attempt(rows, count, channels), (channels, channels), f"step_matrix({rows}, {count}, {channels})")
        start, end = (waves[:-rows], waves[rows:]) if rows > 0 else (waves[-rows:], waves[:rows])
        moved = start @ matrix.float().T

        def turned(angle: Tensor) -> Tensor:
            """The matrix whose blocks turn by the angles channels/2."""
            blocks = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], -1).view(-1, 2, 2)
            return torch.block_diag(*blocks)

        step = rows / count * 2 * math.pi / 10000 ** (torch.arange(0, channels, 2) / channels)
        way = "it goes the wrong way: the sine of the new row is sin u cos(step) + cos u sin(step)."
        require(not close(matrix, turned(-step)), way)
        one = "every pair of channels turns by an angle of its own: divide the step by the pair's wavelength, as for the waves."
        require(not close(matrix, turned(torch.full_like(step, float(step[0])))), one)
        unscaled = "the step is counted in rows: scale it as the places are, by 2 pi / count."
        require(not close(matrix, turned(step * count / 2 / math.pi)), unscaled)
        require(
            close(moved, end, 1e-3),
            f"for {rows} rows, the matrix does not take every row's waves to those of the row it should reach.",
        )


@exercise
def encoder_layer(attempt: Callable[[Any, Tensor, Tensor, Tensor], Any]) -> None:
    """`encoder_layer(layer, x, position, padding)`: weights, twice B L d, B L (True: padded) -> B L d."""
    B, L, M, d = 2, 7, 3, 12
    layer = EncoderLayer(d, M, 10).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x, position, padding = torch.randn(B, L, d), torch.randn(B, L, d), torch.zeros(B, L, dtype=torch.bool)
    padding[0, 5:] = padding[1, :1] = True
    found = require_tensor(attempt(layer, x, position, padding), (B, L, d))
    for mistake, sentence in MISTAKES.items():
        require(not close(found, layer_with(layer, x, position, padding, mistake)), sentence)
    right = close(found, layer_with(layer, x, position, padding), 1e-3)
    require(
        right, "the values are wrong: compare step by step with the schematic, beginning with the cut into queries, keys, values."
    )


MISTAKES = {
    "located values": "positions are added to the values too: they belong to queries and keys alone.",
    "no positions": "positions are missing: add them for queries and keys.",
    "stream": "positions are added to x itself, so they travel on: add them for queries and keys alone.",
    "no padding": "cells of the padding get attention: their scores have to be minus infinity before the softmax.",
    "no scale": "the scale is missing: divide the scores by the root of d / heads.",
    "one head": "the heads are missing: each has d / heads channels and a softmax of its own.",
    "no output": "the last linear map of the attention is missing: self_attention.output.",
    "no first residual": "what attention found has to be added to x before norm1.",
    "no second residual": "the perceptron's result has to be added to what went into it before norm2.",
    "no relu": "the ReLU between the two linear maps is missing.",
    "pre-norm": "the norms stand before attention and perceptron: here each comes behind its sum.",
    "no norms": "the norms are missing: norm1 behind the first sum, norm2 behind the second.",
}


def layer_with(layer: Any, x: Tensor, position: Tensor, padding: Tensor, mistake: str = "") -> Tensor:
    """An encoder layer with one of MISTAKES made, or none."""
    own = layer.self_attention
    if mistake == "stream":
        x = x + position
    before = layer.norm1(x) if mistake == "pre-norm" else x
    located = before if mistake in ("no positions", "stream") else before + position
    parts = (located, located, located if mistake == "located values" else before)
    maps = zip(parts, own.inputs.weight.chunk(3), own.inputs.bias.chunk(3), strict=True)
    heads = 1 if mistake == "one head" else own.heads
    query, key, value = (torch.nn.functional.linear(*one).unflatten(2, (heads, -1)).transpose(1, 2) for one in maps)
    scores = query @ key.mT / (1 if mistake == "no scale" else query.shape[-1] ** 0.5)
    if mistake != "no padding":
        scores = scores.masked_fill(padding[:, None, None], -torch.inf)
    attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    attended = attended if mistake == "no output" else own.output(attended)
    x = attended if mistake == "no first residual" else x + attended
    x = x if mistake in ("pre-norm", "no norms") else layer.norm1(x)
    hidden = layer.linear1(layer.norm2(x) if mistake == "pre-norm" else x)
    y = layer.linear2(hidden if mistake == "no relu" else hidden.relu())
    y = y if mistake == "no second residual" else x + y
    return y if mistake in ("pre-norm", "no norms") else layer.norm2(y)


@exercise
def why_nothing(attempt: Any) -> None:
    """Which of four explanations fits the numbers: "A", "B", "C" or "D"."""
    wrong = {
        "A": "if the decoder did not read them, zeroing them would not move its attention; it moves by more than a tenth.",
        "C": "PQ does see where masks lie: without positions in the encoder it falls by some 18 points.",
        "D": "the queries' embeddings are the same for every image, so they cannot hold where this image's objects are.",
    }
    choice = str(answer(attempt)).strip().upper()
    require(choice in "ABCD" and len(choice) == 1, "choose one letter: A, B, C or D.")
    require(choice == "B", wrong.get(choice, ""))


# --- experiments ------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def quality(model: PanopticDETR, scenes: Sequence[Scene], images: Tensor, in_encoder: Tensor, in_decoder: Tensor) -> float:
    """PQ in percent on scenes (images B 3 H W), with these positions, 1 d h w, in the encoder and in the decoder's keys."""
    counts = QualityCounts()
    for scene, image in zip(scenes, images, strict=False):
        batch = Batch.pad([image])
        features = model.backbone(batch.images)
        memory = model.encoder(features.projected, in_encoder, None)
        queries = model.decoder(memory, in_decoder, None)[-1]
        nothing_padded = torch.zeros(1, *memory.shape[-2:], dtype=torch.bool)
        logits, boxes = model.heads(queries)
        seen = Detections(logits, boxes, queries, memory, features, nothing_padded, False)
        found = model.panoptic(seen, batch, [image.shape[-2:]], model.preset.threshold)[0]
        counts.add_image(scene.segment_ids, scene.segments_info, found.segment_ids, found.annotation(0, "")["segments_info"])
    return 100 * counts.result(model.categories).all.pq


@torch.inference_mode()
def moved_attention(model: PanopticDETR, memory: Tensor, position: Tensor) -> float:
    """The share of the decoder's attention to the image that moves to other cells when its positions are zero: memory B d h w."""
    cells: list[Tensor] = []
    rows: list[Tensor] = []
    for place in (position, torch.zeros_like(position)):
        layers: Any = model.decoder.layers
        hooks = [layer.cross_attention.register_forward_pre_hook(watch(rows), with_kwargs=True) for layer in layers]
        model.decoder(memory, place.expand_as(memory), None)
        for hook in hooks:
            hook.remove()
        cells.append(torch.stack(rows))
        rows.clear()
    return float((cells[0] - cells[1]).abs().sum(-1).mean() / 2)


def watch(rows: list[Tensor]) -> Callable[..., None]:
    """A hook that puts the attention weights B M N L of an attention into `rows`."""

    def hook(attention: Any, inputs: tuple[Tensor, ...], _: Any) -> None:
        query, key = inputs[:2]
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        d, M = query.shape[-1], attention.num_heads
        query = torch.nn.functional.linear(query, weight[:d], bias[:d]).unflatten(2, (M, -1)).transpose(1, 2)
        key = torch.nn.functional.linear(key, weight[d : 2 * d], bias[d : 2 * d]).unflatten(2, (M, -1)).transpose(1, 2)
        rows.append((query @ key.mT / query.shape[-1] ** 0.5).softmax(-1))

    return hook


def on_things(weights: Tensor, scenes: Sequence[Scene], ids: Tensor, categories: Sequence[Category]) -> tuple[Tensor, float]:
    """The share of attention (B M L L) that cells of things (ids B h w) give to their own thing, M, and what a thing covers."""
    things, shares, covers = {c.id for c in categories if c.is_thing}, [], []
    for of_heads, scene, places in zip(weights, scenes, ids.flatten(1), strict=True):
        for info in scene.segments_info:
            own = places == info["id"]
            if info["category_id"] in things and own.any():
                shares.append(of_heads[:, own][:, :, own].sum(-1).mean(-1))
                covers.append(own.float().mean())
    return torch.stack(shares).mean(0), float(torch.stack(covers).mean())


# --- pictures ---------------------------------------------------------------------------------------------------------------


def schematic() -> Image.Image:
    """One encoder layer: positions go into queries and keys, what attention and perceptron find is added to what came in."""
    page = Schematic(8.3, 3.1)
    position = page.block(0.75, 2.5, "positions", "400 x 256", "data", width=1.1)
    x = page.block(0.75, 1.05, "x", "400 x 256", "data", width=1.1)
    plus = page.sign(1.75, 1.85)
    page.arrow(position, (1.75, 2.5), plus)
    page.arrow((1.75, 1.05), plus)
    attention = page.block(3.3, 1.45, "multi-head\nattention", kind="learned", width=1.25, height=1.25)
    page.arrow(plus, (2.675, 1.85), text="q, k")
    page.arrow(x, (2.675, 1.05), text="v")
    first = page.sign(4.55, 1.45)
    norm1 = page.block(5.2, 1.45, "norm", kind="learned", width=0.7)
    page.arrow(attention, first)
    page.arrow((1.5, 1.05), (1.5, 0.45), (4.55, 0.45), first, text="shortcut")
    page.arrow(first, norm1)
    perceptron = page.block(6.4, 1.45, "perceptron\n256-2048-256", kind="learned", width=1.15, height=0.62)
    page.arrow(norm1, perceptron)
    second = page.sign(7.3, 1.45)
    page.arrow(perceptron, second)
    page.arrow((5.68, 1.45), (5.68, 0.45), (7.3, 0.45), second, text="shortcut")
    norm2 = page.block(7.85, 1.45, "norm", kind="learned", width=0.6)
    page.arrow(second, norm2)
    page.arrow((7.85, 1.7), (7.85, 2.42))
    page.text(7.4, 2.55, "400 x 256, to the next layer")
    page.frame(1.38, 0.2, 8.22, 2.2, "")
    page.text(2.95, 2.35, "one encoder layer", 9.5, "bold", color="#1f2328")
    page.key(2.6, 2.93, ("data", "learned"))
    return page.picture()


def waves_picture(position: Tensor, channels: Sequence[int]) -> Image.Image:
    """Channels of a position encoding d h w as pictures: red is 1, white is 0, blue is -1."""
    figure = new_figure(8.3, 2.2)
    all_axes = figure.subplots(1, len(channels))
    for axes, channel in zip(all_axes, channels, strict=True):
        plain(axes, position[channel], vmin=-1, vmax=1, cmap="RdBu_r")
        titled(axes, f"channel {channel}")
    figure.colorbar(all_axes[-1].images[0], ax=all_axes, shrink=0.8)
    return picture_of(figure)


def looks(weights: Tensor, cells: Sequence[tuple[int, int]]) -> Image.Image:
    """Where cells (row, column), marked, look: attention weights h w h w; each panel's brightest cell is its largest weight."""
    figure = new_figure(8.3, 2.6)
    for axes, (row, column) in zip(figure.subplots(1, len(cells)), cells, strict=True):
        plain(axes, weights[row, column], cmap="magma", vmin=0)
        mark(axes, row, column, 1)
        titled(axes, f"row {row}, column {column}")
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
    """A padded image H W 3 with a cell framed, and that cell's attention h w with the padding mask ignored and used (gamma 0.4)."""
    figure = new_figure(8.3, 2.9)
    inside = [int(masked.nonzero()[:, axis].max()) + 1 for axis in (0, 1)]  # rows and columns that are not padding
    panels: dict[str, np.ndarray | Tensor] = {"padded image": image, "padding mask ignored": ignored, "padding mask used": masked}
    all_axes = figure.subplots(1, 3)
    for axes, (name, values) in zip(all_axes, panels.items(), strict=True):
        heat = isinstance(values, Tensor)
        plain(axes, values, **({"cmap": "magma", "norm": PowerNorm(0.4, 0, float(masked.max()))} if heat else {}))
        bottom, right = (edge * (1 if heat else image.shape[0] / len(masked)) - 0.5 for edge in inside)
        axes.plot([right, right, -0.5], [-0.5, bottom, bottom], color="white", linestyle="--", linewidth=1)
        mark(axes, *cell, 1 if heat else image.shape[1] / masked.shape[1])
        titled(axes, name)
    figure.colorbar(all_axes[-1].images[0], ax=all_axes, shrink=0.8)
    return picture_of(figure)


def compared(grids: dict[str, Tensor]) -> Image.Image:
    """Grids d h w of one size side by side, principal colours computed over all together: equal vectors have equal colours."""
    colors = principal_colors(torch.cat(list(grids.values()), dim=2))
    return pictures.row(np.split(colors, len(grids), axis=1), list(grids))
