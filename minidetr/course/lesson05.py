"""Lesson 05, matching and set loss: the exercises' checks and the lesson's pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.patches import ConnectionPatch, Rectangle
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from minidetr import plot
from minidetr.course import close, exercise, figures, require, require_tensor, sizes
from minidetr.course.lesson04 import NAMELESS, colors_of
from minidetr.data.targets import Target
from minidetr.training.matching import CostWeights, matching_cost

# --- exercises --------------------------------------------------------------------------------------------------------------


@exercise
def giou(attempt: Any) -> None:
    """`attempt(a K 4, b K 4)` -> K: the generalised IoU of each pair of boxes (left, top, right, bottom)."""
    apart = torch.tensor([[0.0, 0.0, 2.0, 1.0], [5.0, 3.0, 6.0, 8.0]])
    corners = torch.rand(9, 2, 2, 2)
    random = torch.cat([corners.amin(2), corners.amax(2) + 0.1], dim=-1)  # 9 pairs of boxes
    a, b = torch.cat([apart[:1], random[:, 0]]), torch.cat([apart[1:], random[:, 1]])
    found = require_tensor(attempt(a.clone(), b.clone()), (10,))
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    overlap = (high - low).clamp(min=0).prod(1)
    both = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1)
    iou = overlap / (both - overlap)
    require(not close(found, iou), "this is the plain IoU: the share of the hull that neither box covers is still to be taken off.")
    unclamped = (high - low).prod(1)
    around = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    union = both - unclamped
    require(
        not close(found, unclamped / union - (around - union) / around),
        "boxes that lie apart get an overlap: a side of negative length must count as 0 before the sides are multiplied.",
    )
    doubled = overlap / both - (around - both) / around
    require(not close(found, doubled), "the union counts the overlap twice: take it off once.")
    expected = generalized_box_iou(a, b).diagonal()
    require(close(found, expected), "the values differ from IoU - (hull - union) / hull, hull being the smallest box around both.")
    require(close(attempt(a, a), torch.ones(10)), "the GIoU of a box with itself should be 1.")


@exercise
def cost_matrix(attempt: Any) -> None:
    """`attempt(logits N C+1, boxes N 4, labels T, target_boxes T 4)` -> N T, with the weights 1, 5 and 2."""
    N, C, T = 7, 4, 3
    logits, labels = 2 * torch.randn(N, C + 1), torch.randint(0, C, (T,))
    low, span = torch.tensor([0.2, 0.2, 0.5, 0.5]), torch.tensor([0.2, 0.2, 0.3, 0.3])
    boxes, target_boxes = low + span * torch.rand(N, 4), low + span * torch.rand(T, 4)  # as corners they would be boxes, too
    found = attempt(logits.clone(), boxes.clone(), labels.clone(), target_boxes.clone())
    transposed = isinstance(found, Tensor) and tuple(found.shape) == (T, N)
    require(not transposed, f"queries are the rows and segments the columns: {sizes((N, T))}, not {sizes((T, N))}.")
    found = require_tensor(found, (N, T))

    def cost(**weights: float) -> Tensor:
        return matching_cost(logits, boxes, labels, target_boxes, CostWeights(**weights))

    expected = cost()
    require(not close(found, cost(class_=-1.0)), "a likely class should make a pair cheaper: the probability counts with a minus.")
    require(not close(found, cost(giou=-2.0)), "boxes that overlap should make a pair cheaper: GIoU counts with a minus.")
    require(not close(found, cost(l1=1.0, giou=1.0)), "the three terms are there, but unweighted: they count 1, 5 and 2.")
    require(not close(found, cost(l1=5.0 / 4)), "L1 is the sum of the four differences, not their mean.")
    without_class = cost(class_=0.0)
    logarithm = without_class - logits.log_softmax(-1)[:, labels]
    require(not close(found, logarithm), "the class term is the probability itself, not its logarithm.")
    untransformed = without_class - logits[:, labels]
    require(not close(found, untransformed), "the class term is a probability: the logits have not passed a softmax.")
    short = without_class - logits[:, :-1].softmax(-1)[:, labels]
    require(not close(found, short), 'the softmax runs over all C+1 classes: "no object" takes its share, too.')
    raw = cost(giou=0.0) - 2 * generalized_box_iou(boxes, target_boxes)
    require(not close(found, raw), "GIoU needs corners: these are still centre, width and height.")
    require(close(found, expected), "the values differ from -p(class) + 5 L1 - 2 GIoU.")


@exercise
def class_loss(attempt: Any) -> None:
    """`attempt(logits N C+1, expected N, no_object)` -> the weighted mean of the cross entropies, a single number."""
    N, C, weight_of_none = 11, 5, 0.3
    logits = 2 * torch.randn(N, C + 1)
    expected = torch.full((N,), C)
    expected[torch.tensor([1, 4, 8])] = torch.tensor([0, 3, 4])
    found = require_tensor(attempt(logits.clone(), expected.clone(), weight_of_none), ())
    each = F.cross_entropy(logits, expected, reduction="none")
    weight = torch.where(expected == C, weight_of_none, 1.0)
    require(not close(found, each.mean()), '"no object" counts as much as any class: weight the queries that should say it.')
    require(not close(found, (weight * each).sum()), "this is the weighted sum: divide it by the sum of the weights.")
    require(not close(found, (weight * each).mean()), "divide by the sum of the weights, not by the number of queries.")
    reverse = torch.where(expected == C, 1.0, weight_of_none)
    require(
        not close(found, (reverse * each).sum() / reverse.sum()),
        'the weight is on the wrong queries: "no object", the last class, gets it.',
    )
    right = (weight * each).sum() / weight.sum()
    require(close(found, right), "the value differs from the weighted mean of -log p(expected class).")


# --- pictures ---------------------------------------------------------------------------------------------------------------


def slide_picture(offsets: Tensor, distances: dict[str, Tensor], touching: float) -> Image.Image:
    """Curves over the offset of a box that slides away from its twin; they stop overlapping at `touching`."""
    figure = plot.new_figure(8.3, 3.3)
    axes = figure.subplots()
    axes.axvspan(touching, float(offsets[-1]), color="#f2f4f6", linewidth=0)
    for (name, values), style in zip(distances.items(), ("-", "--", "-."), strict=False):
        axes.plot(offsets, values, style, label=name)
    axes.text(touching + 0.005, 0.06, "no overlap from here on", fontsize=9, color=figures.INK)
    axes.set(xlabel="how far the box has slid (image widths)", ylabel="distance", xlim=(0, float(offsets[-1])), ylim=(0, 2))
    axes.legend(loc="upper left")
    return plot.picture_of(figure)


def draw_costs(
    axes: Axes, cost: Tensor, pairs: Sequence[tuple[int, int]], rows: Sequence[str], columns: Sequence[str], title: str = ""
) -> None:
    """A cost matrix as a heatmap (dark is cheap) with its numbers and a frame around each pair (row, column)."""
    middle = (float(cost.min()) + float(cost.max())) / 2
    axes.imshow(cost, cmap="viridis", aspect="auto")
    for (row, column), value in np.ndenumerate(cost.numpy()):
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color="white" if value < middle else "black")
    for row, column in pairs:
        frame = Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, fill=False, edgecolor=figures.LIT, linewidth=3)
        axes.add_patch(frame)
    axes.set_xticks(range(len(columns)), columns, rotation=30 if max(map(len, columns)) > 9 else 0, fontsize=9)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.set_title(title, fontsize=10.5)
    axes.grid(False)


def cost_picture(cost: Tensor, query_index: Tensor, target_index: Tensor, names: Sequence[str]) -> Image.Image:
    """The cost matrix N T of a scene, the chosen cells framed."""
    figure = plot.new_figure(8.3, 0.24 * len(cost) + 1.1)
    pairs = list(zip(query_index.tolist(), target_index.tolist(), strict=True))
    columns = [f"{name} {k}" for k, name in enumerate(names)]
    draw_costs(figure.subplots(), cost, pairs, [f"query {k}" for k in range(len(cost))], columns)
    return plot.picture_of(figure)


def two_assignments(
    cost: Tensor, assignments: dict[str, Sequence[tuple[int, int]]], rows: Sequence[str], columns: Sequence[str]
) -> Image.Image:
    """One small cost matrix with the pairs that different rules choose, side by side."""
    figure = plot.new_figure(8.3, 0.5 * len(cost) + 1.0)
    for axes, (name, pairs) in zip(figure.subplots(1, len(assignments)), assignments.items(), strict=True):
        total = sum(float(cost[row, column]) for row, column in pairs)
        draw_costs(axes, cost, pairs, rows, columns, f"{name}: total {total:.1f}")
    return plot.picture_of(figure)


def corners_in_pixels(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(cx, cy, w, h) in 0..1 -> left, top, right, bottom in pixels of an image of `size` (height, width)."""
    height, width = size
    return box_convert(boxes, "cxcywh", "xyxy") * torch.tensor([width, height, width, height])


def assignment_picture(found: figures.Trace, target: Target, query_index: Tensor, target_index: Tensor) -> Image.Image:
    """All N predicted boxes at the left, the T true ones at the right, and a line for each matched pair, in its class's colour."""
    figure = plot.new_figure(8.3, 4.2)
    left, right = figure.subplots(1, 2)
    size, colors = found.image.shape[:2], colors_of(found.model)
    for axes in (left, right):
        figures.plain(axes, (0.35 * found.image + 0.65 * 255).astype(np.uint8))
    predicted, true = corners_in_pixels(found.seen.boxes[0], size), corners_in_pixels(target.boxes, size)
    for box in predicted:
        figures.draw_rectangle(left, box, size, NAMELESS, linewidth=1, linestyle=":")
    for query, k in zip(query_index.tolist(), target_index.tolist(), strict=True):
        color = colors[int(target.labels[k])]
        figures.draw_rectangle(left, predicted[query], size, color, linewidth=2)
        figures.draw_rectangle(right, true[k], size, color, linewidth=2)
        start, end = (tuple(((box[:2] + box[2:]) / 2).tolist()) for box in (predicted[query], true[k]))
        line = ConnectionPatch(start, end, "data", "data", axesA=left, axesB=right, shrinkA=8, shrinkB=8)
        line.set(color=color, linewidth=1.8)
        figure.add_artist(line)
        for axes, (x, y), number in ((left, start, query), (right, end, k)):
            badge = {"boxstyle": "round,pad=0.2", "facecolor": color, "edgecolor": "white"}
            ink = tuple(v / 255 for v in plot.readable_on(tuple(round(255 * v) for v in color)))  # type: ignore[arg-type]
            axes.text(x, y, str(number), ha="center", va="center", fontsize=9, color=ink, bbox=badge, zorder=10)
    left.set_title(f"{len(predicted)} predictions: matched in colour, others dotted", fontsize=10)
    right.set_title(f"{len(true)} true segments", fontsize=10)
    return plot.picture_of(figure)
