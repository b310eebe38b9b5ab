"""Lesson 04, decoder and queries: the exercises' checks and the lesson's pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.lines import Line2D
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from minidetr import plot
from minidetr.course import answer, close, exercise, figures, require, require_tensor
from minidetr.model import PanopticDETR
from minidetr.model.merge import kept_queries
from minidetr.panoptic import Category

NAMELESS = "#9aa4ae"  # colour of boxes and dots that stand for no object


# --- exercises --------------------------------------------------------------------------------------------------------------


@exercise
def to_pixels(attempt: Any) -> None:
    """`attempt(boxes N 4, height, width)` -> N 4: (cx, cy, w, h) in 0..1 as left, top, right, bottom in pixels."""
    boxes, height, width = torch.rand(7, 4), 480, 731
    found = require_tensor(attempt(boxes.clone(), height, width), (7, 4))
    expected = box_convert(boxes, "cxcywh", "xyxy") * torch.tensor([width, height, width, height])
    exchanged = box_convert(boxes, "cxcywh", "xyxy") * torch.tensor([height, width, height, width])
    require(not close(found, exchanged), "height and width are exchanged: x is measured along the width.")
    require(
        not close(found, box_convert(boxes, "cxcywh", "xyxy")), "the corners are right but still in 0..1: scale them to pixels."
    )
    sides = found[:, 2:] - found[:, :2]
    require(
        close(sides, expected[:, 2:] - expected[:, :2]),
        "right - left should be the box's width in pixels (and bottom - top its height): go half a side each way from the centre.",
    )
    require(close(found, expected), "the boxes have the right size but lie elsewhere: cx and cy are the centre, not a corner.")


@exercise
def keep(attempt: Any) -> None:
    """`attempt(logits N C+1, threshold)` -> query_index K, scores K, labels K of the queries that found something."""
    N, C, threshold = 23, 6, 0.4
    logits = 2 * torch.randn(N, C + 1)
    logits[3, 2], logits[11, C] = 9.0, 9.0  # a sure object and a sure "no object"
    found = answer(attempt(logits.clone(), threshold))
    require(isinstance(found, tuple) and len(found) == 3, "three tensors should come back: query_index, scores, labels.")
    query_index, scores, labels = (answer(value) for value in found)
    expected = kept_queries(logits, threshold, {c: Category(c, str(c), True) for c in range(C)})
    queries = set(query_index.tolist())
    require(11 not in queries, 'query 11 says "no object", and was kept: the last class is not an object.')
    require(3 in queries, "query 3 is almost sure of its object, and was dropped.")
    require(
        queries == set(expected[0].tolist()),
        f"{len(queries)} queries are kept where {len(expected[0])} should be: take the softmax over all C+1 classes, find the best "
        f'of them, and keep a query when that best one is an object and above the threshold (not "no object").',
    )
    order = query_index.argsort()
    require_tensor(scores, tuple(expected[1].shape), "scores")
    require_tensor(labels, tuple(expected[2].shape), "labels")
    require(torch.equal(labels[order], expected[2]), "the labels are not the most probable class of each kept query.")
    require(close(scores[order], expected[1]), "the scores should be probabilities: the softmax over the C+1 logits of one query.")


@exercise
def look(attempt: Any) -> None:
    """`attempt(x N d, embedding N d, memory S d, position S d, to_query, to_key, to_value)` -> N d, one head of cross-attention."""
    N, S, d = 5, 12, 8
    x, embedding = torch.randn(N, d), torch.randn(N, d)
    memory, position = torch.randn(S, d), torch.randn(S, d)
    w_query, w_key, w_value = torch.randn(3, d, d)
    found = require_tensor(attempt(x, embedding, memory, position, w_query, w_key, w_value), (N, d))

    def attended(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
        return F.scaled_dot_product_attention(
            (query @ w_query.T)[None], (key @ w_key.T)[None], (value @ w_value.T)[None], scale=scale
        )[0]

    wrong = {
        "the position was added to the values too: it says where to look, and should not be mixed into what is seen.": attended(
            x + embedding, memory + position, memory + position
        ),
        "the scores are not divided by the square root of d.": attended(x + embedding, memory + position, memory, 1.0),
        "the query embedding is missing: without it all queries that start at zero look at the same place.": attended(
            x, memory + position, memory
        ),
        "the position is missing: it belongs to the keys.": attended(x + embedding, memory, memory),
    }
    for sentence, values in wrong.items():
        require(not close(found, values), sentence)
    scores = (x + embedding) @ w_query.T @ ((memory + position) @ w_key.T).T / d**0.5  # N S
    over_queries = scores.softmax(0) @ (memory @ w_value.T)
    require(
        not close(found, over_queries), "the softmax runs over the queries: every query should share out its own 1 over the cells."
    )
    expected = attended(x + embedding, memory + position, memory)
    require(
        close(found, expected),
        "the values differ from softmax(q k^T / sqrt(d)) v with q from x + embedding, k from memory + position, v from memory.",
    )


# --- pictures ---------------------------------------------------------------------------------------------------------------


def colors_of(model: PanopticDETR) -> dict[int, tuple[float, float, float]]:
    """Category id -> RGB in 0..1, for matplotlib."""
    return {c.id: tuple(value / 255 for value in plot.color_of(c)) for c in model.categories}  # type: ignore[misc]


def box_picture(found: figures.Trace) -> Image.Image:
    """The photo, and the boxes of the kept queries with query, class and score written on each."""
    figure = plot.new_figure(8.3, 4.5)
    plain, boxes = figure.subplots(1, 2)
    figures.plain(plain, found.image)
    figures.plain(boxes, (0.55 * found.image + 0.45 * 255).astype(np.uint8))
    colors, height = colors_of(found.model), found.image.shape[0]
    words = list(zip(found.query_index.tolist(), found.names(), found.scores.tolist(), strict=True))
    taken: list[tuple[float, float]] = []
    for box, label, (query, name, score) in zip(found.boxes(), found.labels.tolist(), words, strict=True):
        figures.draw_rectangle(boxes, box, found.image.shape[:2], colors[label], linewidth=2)
        x, y = max(float(box[0]), 2), max(float(box[1]), 9)
        while any(abs(x - other_x) < 62 and abs(y - other_y) < 9 for other_x, other_y in taken) and y < height - 9:
            y += 3  # one label must not hide another
        taken.append((x, y))
        ink = tuple(v / 255 for v in plot.readable_on(tuple(round(255 * v) for v in colors[label])))  # type: ignore[arg-type]
        label_box = {"boxstyle": "round,pad=0.15", "facecolor": colors[label], "edgecolor": "none"}
        x = min(x, found.image.shape[1] - 5.0 * len(f"{query} {name} {score:.2f}") * 0.72)
        boxes.text(x, y, f"{query} {name} {score:.2f}", fontsize=7, color=ink, va="center", bbox=label_box)
    plain.set_title("the photo", fontsize=10)
    boxes.set_title(f"{len(found.scores)} of {found.seen.logits.shape[1]} queries are kept", fontsize=10)
    return plot.picture_of(figure)


def attention_picture(found: figures.Trace, weights: Tensor, objects: Sequence[int]) -> Image.Image:
    """For each of some kept objects: where its query looks (weights N h w, heads averaged), and the box it then gives."""
    figure = plot.new_figure(8.3, 4.5)
    columns = figure.subplots(2, len(objects), squeeze=False)
    height, width = found.image.shape[:2]
    names = found.names()
    for (above, below), k in zip(columns.T, objects, strict=True):
        query = int(found.query_index[k])
        figures.plain(above, weights[query], cmap="magma", extent=(0, width, height, 0))
        figures.looking(below, found, weights[query])
        for axes in (above, below):
            figures.draw_rectangle(axes, found.boxes()[k], (height, width), "#56b4e9", linewidth=2)
        above.set_title(f"query {query}: {names[k]}", fontsize=10)
    return plot.picture_of(figure)


def slot_picture(model: PanopticDETR, logits: Tensor, boxes: Tensor, count: int = 8) -> Image.Image:
    """Where the boxes of the `count` busiest queries have their centres, over B images: logits B N C+1, boxes B N 4."""
    labels = logits.argmax(-1)  # B N
    colors, no_object = colors_of(model), logits.shape[-1] - 1
    busiest = (labels != no_object).sum(0).argsort(descending=True, stable=True)[:count].sort().values.tolist()
    figure = plot.new_figure(8.3, 5.4)
    for axes, query in zip(figure.subplots(2, -(-count // 2)).flat, busiest, strict=False):
        for label, (x, y, w, h) in zip(labels[:, query].tolist(), boxes[:, query].tolist(), strict=True):
            size = 12 + 260 * w * h  # large boxes are large dots
            if label == no_object:
                axes.scatter(x, y, size, "none", edgecolors=NAMELESS, linewidths=1)
            else:
                axes.scatter(x, y, size, [colors[label]], alpha=0.85, linewidths=0)
        axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect="equal", facecolor="#f6f8fa")
        axes.set_title(f"query {query}", fontsize=10)
        axes.spines[:].set_visible(True)
    seen = set(labels[:, busiest].flatten().tolist())
    present = [c for c in model.categories if c.id in seen]
    handles = [Line2D([], [], marker="o", linestyle="", color=colors[c.id], label=c.name) for c in present]
    handles.append(Line2D([], [], marker="o", linestyle="", markerfacecolor="none", color=NAMELESS, label="no object"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=9)
    return plot.picture_of(figure)


def layer_picture(found: figures.Trace, logits: Tensor, boxes: Tensor) -> Image.Image:
    """What the queries kept at the end said after each of L layers: logits L N C+1, boxes L N 4; the surer the darker."""
    figure = plot.new_figure(8.3, 8.3 / len(logits) + 0.45)
    colors, (height, width) = colors_of(found.model), found.image.shape[:2]
    scores = logits.softmax(-1)
    for layer, axes in enumerate(figure.subplots(1, len(logits))):
        figures.plain(axes, (0.35 * found.image + 0.65 * 255).astype(np.uint8))
        for query, label in zip(found.query_index.tolist(), found.labels.tolist(), strict=True):
            box = box_convert(boxes[layer, query], "cxcywh", "xyxy") * torch.tensor([width, height, width, height])
            figures.draw_rectangle(axes, box, (height, width), colors[label], linewidth=2, alpha=float(scores[layer, query, label]))
        mean = scores[layer, found.query_index, found.labels].mean()
        axes.set_title(f"layer {layer + 1}: mean score {mean:.2f}", fontsize=10)
    return plot.picture_of(figure)


def duplicates(logits: Tensor, boxes: Tensor) -> Tensor:
    """Pairs of queries, in each of B images, that name one class and whose boxes overlap by more than half: logits B N C+1 -> B."""
    scores, labels = logits.softmax(-1).max(-1)  # B N
    counts = []
    for score, label, box in zip(scores, labels, box_convert(boxes, "cxcywh", "xyxy"), strict=True):
        kept = (label != logits.shape[-1] - 1) & (score > 0.5)
        same = label[kept][:, None] == label[kept]
        counts.append((same & (box_iou(box[kept], box[kept]) > 0.5)).triu(1).sum())
    return torch.stack(counts)


def two_predictions(
    model: PanopticDETR, image: np.ndarray, titles: Sequence[str], predictions: Sequence[tuple[Tensor, Tensor]]
) -> Image.Image:
    """The boxes of queries that name an object, of some predictions (logits N C+1, boxes N 4) for one image, side by side.

    "×2" marks two boxes of one class that overlap by more than half.
    """
    figure = plot.new_figure(8.3, 8.3 / len(predictions) + 0.4)
    colors, (height, width) = colors_of(model), image.shape[:2]
    for axes, title, (logits, boxes) in zip(figure.subplots(1, len(predictions)), titles, predictions, strict=True):
        figures.plain(axes, (0.35 * image + 0.65 * 255).astype(np.uint8))
        query_index, _, labels = kept_queries(logits, 0.5, {c.id: c for c in model.categories})
        corners = box_convert(boxes[query_index], "cxcywh", "xyxy") * torch.tensor([width, height, width, height])
        twins = (box_iou(corners, corners) > 0.5) & (labels[:, None] == labels)
        for k, (box, label) in enumerate(zip(corners, labels.tolist(), strict=True)):
            figures.draw_rectangle(axes, box, (height, width), colors[label], linewidth=2.2, alpha=0.9)
            if twins[k].sum() > 1 and not twins[k, :k].any():
                x, y = float(box[0].clamp(min=0)) + 2, float(box[1].clamp(min=0)) + 3
                axes.text(x, y, f"×{int(twins[k].sum())}", va="top", fontsize=10, weight="bold", color=figures.INK)
        axes.set_title(f"{title}: {len(labels)} boxes", fontsize=10)
    return plot.picture_of(figure)
