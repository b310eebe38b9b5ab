"""Lesson 05, matching and set loss: the exercises' checks and the lesson's pictures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.patches import ConnectionPatch, FancyArrowPatch, Rectangle
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert, box_iou, generalized_box_iou

from minidetr import plot
from minidetr.course import answer, close, exercise, figures, require, require_tensor, sizes
from minidetr.course.lesson04_pictures import colors_of, duplicates
from minidetr.course.schematic import Schematic
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
def brute_force(attempt: Any) -> None:
    """`attempt(cost N T)`, N >= T -> the row of each column, T different numbers, with the smallest sum."""
    for N, T in ((6, 3), (4, 4), (5, 1)):
        for _ in range(4):
            cost = torch.rand(N, T)
            cost[0] *= 0.3  # a row that every column likes
            found = answer(attempt(cost.clone()))
            row_of_numbers = isinstance(found, (list, tuple, Tensor, np.ndarray)) and getattr(found, "ndim", 1) == 1
            require(row_of_numbers, "give the rows as a list, a tuple or a tensor.")
            rows = [int(row) for row in found]
            require(len(rows) == T, f"there should be a row for each of the {T} columns, but there are {len(rows)}.")
            require(all(0 <= row < N for row in rows), "there is a number that is no row: rows are counted from 0 to N - 1.")
            require(len(set(rows)) == T, "two columns get the same row: a query answers for one segment at most.")

            def total(some: Sequence[int], cost: Tensor = cost) -> float:
                return float(cost[list(some), range(len(some))].sum())

            possible = list(permutations(range(N), T))
            best, worst = min(possible, key=total), max(possible, key=total)
            require(N == 1 or len(possible) == 1 or rows != list(worst), "this is the dearest assignment, not the cheapest.")
            require(total(rows) < total(best) + 1e-5, "there is a cheaper assignment: compare the sums of all of them.")


@exercise
def class_loss(attempt: Any) -> None:
    """`attempt(logits N C+1, expected N, weight_of_none)` -> the weighted mean of the cross entropies, a single number."""
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
    """What every query would cost each segment, as dots; the matched query and the cheapest of the others with their numbers."""
    figure = plot.new_figure(8.3, 0.38 * len(names) + 0.8)
    axes = figure.subplots()
    chosen = dict(zip(target_index.tolist(), query_index.tolist(), strict=True))
    for k in range(len(names)):
        axes.plot(cost[:, k], [k] * len(cost), "o", color="#c4ccd4", markersize=4.5)
        others = [query for query in cost[:, k].argsort().tolist() if query != chosen.get(k)]
        for query, color in ((others[0], "#57606a"), (chosen.get(k), figures.LIT)):
            if query is not None:
                value = float(cost[query, k])
                axes.plot(value, k, "o", color=color, markersize=8)
                axes.text(value, k - 0.24, str(query), ha="center", va="bottom", fontsize=8.5, color=color)
    axes.set_yticks(range(len(names)), [f"{name} {k}" for k, name in enumerate(names)], fontsize=9.5)
    axes.set(xlabel="cost", ylim=(len(names) - 0.5, -0.75))
    axes.grid(axis="y", visible=False)
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
    """The unmatched boxes, the matched ones and the T true ones, and a line for each matched pair, in its class's colour."""
    figure = plot.new_figure(8.3, 3.25)
    alone, left, right = figure.subplots(1, 3)
    size, colors = found.image.shape[:2], colors_of(found.model)
    for axes in (alone, left, right):
        figures.plain(axes, (0.3 * found.image + 0.7 * 255).astype(np.uint8))
    predicted, true = corners_in_pixels(found.seen.boxes[0], size), corners_in_pixels(target.boxes, size)
    unmatched = sorted(set(range(len(predicted))) - set(query_index.tolist()))
    for place, query in enumerate(unmatched):
        figures.draw_rectangle(alone, predicted[query], size, BLUE, linewidth=1.2)
        x, y = predicted[query, 0].clamp(min=0), predicted[query, (1, 3)[place % 2]].clamp(5, size[0] - 5)
        badge(alone, float(x) + 6, float(y), str(query), (0.0, 0.447, 0.698), 7.5)
    for query, k in zip(query_index.tolist(), target_index.tolist(), strict=True):
        color = colors[int(target.labels[k])]
        figures.draw_rectangle(left, predicted[query], size, color, linewidth=2)
        figures.draw_rectangle(right, true[k], size, color, linewidth=2)
        start, end = (tuple(((box[:2] + box[2:]) / 2).tolist()) for box in (predicted[query], true[k]))
        line = ConnectionPatch(start, end, "data", "data", axesA=left, axesB=right, shrinkA=8, shrinkB=8)
        line.set(color=color, linewidth=1.8)
        figure.add_artist(line)
        badge(left, start[0], start[1], str(query), color)
        badge(right, end[0], end[1], str(k), color)
    alone.set_title(f'{len(unmatched)} unmatched: "no object"', fontsize=10)
    left.set_title(f"{len(query_index)} matched predictions", fontsize=10)
    right.set_title(f"{len(true)} true segments", fontsize=10)
    return plot.picture_of(figure)


BLUE = "#0072b2"


def badge(axes: Axes, x: float, y: float, text: str, color: Any, size: float = 9) -> None:
    """A number on a patch of `color`, at (x, y) of the picture."""
    patch = {"boxstyle": "round,pad=0.2", "facecolor": color, "edgecolor": "white"}
    ink = tuple(v / 255 for v in plot.readable_on(tuple(round(255 * v) for v in color)))  # type: ignore[arg-type]
    axes.text(x, y, text, ha="center", va="center", fontsize=size, color=ink, bbox=patch, zorder=10)


def pull(box: Sequence[float], true: Sequence[float], generalised: bool) -> tuple[float, list[float]]:
    """IoU or GIoU of two boxes (cx, cy, w, h), and the way that descent on its loss goes: its gradient in (cx, cy, w, h)."""
    moved = torch.tensor([list(box)], requires_grad=True)
    overlap = generalized_box_iou if generalised else box_iou
    value = overlap(box_convert(moved, "cxcywh", "xyxy"), box_convert(torch.tensor([list(true)]), "cxcywh", "xyxy")).sum()
    value.backward()
    return float(value.detach()), moved.grad[0].tolist()  # type: ignore[index]


def giou_picture(x: float, y: float, side: float) -> Image.Image:
    """A square box at (x, y) and a true one in the middle: their hull, and what IoU and GIoU would change of the first."""
    true, box = (0.5, 0.5, 0.24, 0.24), (x, y, side, side)
    figure = plot.new_figure(8.3, 2.9)
    page, chart = figure.subplots(1, 2, width_ratios=(1, 1.5))
    corner = [box_convert(torch.tensor(b), "cxcywh", "xyxy") for b in (true, box)]
    low, high = torch.minimum(corner[0][:2], corner[1][:2]), torch.maximum(corner[0][2:], corner[1][2:])
    for (left, top, right, bottom), how in (
        ((*low.tolist(), *high.tolist()), {"edgecolor": "#57606a", "linestyle": "--", "facecolor": "#f2f4f6"}),
        (corner[0].tolist(), {"edgecolor": BLUE, "facecolor": "#cfe3f5", "linewidth": 2}),
        (corner[1].tolist(), {"edgecolor": figures.LIT, "facecolor": "none", "linewidth": 2}),
    ):
        page.add_patch(Rectangle((left, top), right - left, bottom - top, **how))
    page.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", xticks=[], yticks=[])
    page.grid(False)
    names = []
    for k, (name, generalised, color) in enumerate((("IoU", False, "#57606a"), ("GIoU", True, figures.LIT))):
        value, way = pull(box, true, generalised)
        names.append(f"{name} {value:.2f}")
        chart.bar([n + 0.38 * k - 0.19 for n in range(4)], way, 0.36, color=color, label=name)
        if generalised and max(map(abs, way[:2])) > 1e-6:
            length = 0.17 / (way[0] ** 2 + way[1] ** 2) ** 0.5
            end = (x + length * way[0], y + length * way[1])
            page.add_patch(FancyArrowPatch((x, y), end, arrowstyle="-|>", mutation_scale=13, color=figures.LIT, linewidth=1.8))
    page.set_title(f"{names[0]}   {names[1]}", fontsize=10)
    chart.axhline(0, color="#57606a", linewidth=0.8)
    chart.set_xticks(range(4), ["centre x", "centre y", "width", "height"])
    chart.set_title("change that raises it, per unit (gradient)", fontsize=10)
    chart.legend(fontsize=9)
    return plot.picture_of(figure)


def schematic(cost: Tensor, query_index: Tensor, target_index: Tensor, names: Sequence[str]) -> Image.Image:
    """The matching as a graph: some queries, the workers and the cone of the scene, costs on the edges, chosen edges lit."""
    segments = [k for k, name in enumerate(names) if name in ("worker", "traffic cone")]
    pairs = dict(zip(query_index.tolist(), target_index.tolist(), strict=True))
    near = {int(q) for k in segments for q in cost[:, k].argsort()[:2]}
    queries = sorted(near, key=lambda q: (min(range(len(segments)), key=lambda j: float(cost[q, segments[j]])), q not in pairs))
    height = 0.52 * len(queries) + 0.75
    page = Schematic(8.3, height)
    ys = [height - 0.75 - 0.52 * place for place in range(len(queries))]
    rows = torch.linspace(ys[0] - 0.15, ys[-1] + 0.15, len(segments)).tolist()
    page.text(0.85, height - 0.2, "some queries", size=9.5, weight="bold")
    page.text(3.55, height - 0.2, "some segments", size=9.5, weight="bold")
    page.text(6.6, height - 0.2, "losses", size=9.5, weight="bold")
    left = [page.block(0.85, y, f"query {q}", kind="data", width=1.0, height=0.36) for q, y in zip(queries, ys, strict=True)]
    right = [page.block(3.55, y, f"{names[k]} {k}", kind="data", height=0.36) for k, y in zip(segments, rows, strict=True)]
    matched = page.block(6.6, ys[1], "class, L1 and GIoU", "of the K matched pairs", "loss", 2.2)
    nothing = page.block(6.6, ys[-1], 'class "no object", x 0.1', "of the N - K others", "loss", 2.2)
    for q, start in zip(queries, left, strict=True):
        for k, end in zip(segments, right, strict=True):
            value, lit = float(cost[q, k]), pairs.get(q) == k
            if lit or q in cost[:, k].argsort()[:2].tolist():
                a, b = (start.x + 0.5, start.y), (end.x - 0.65, end.y)
                page.arrow(a, b, lit=lit, dashed=not lit, head=lit)
                where = {"backgroundcolor": "white", "color": figures.LIT if lit else "#57606a"}
                page.text(a[0] + 0.45, a[1] + 0.45 / (b[0] - a[0]) * (b[1] - a[1]), f"{value:.1f}", size=9, **where)
    for end in right:
        page.arrow((4.2, end.y), (4.85, end.y), (4.85, matched.y), (5.5, matched.y), lit=True)
    bottom = 0.13
    page.arrow((0.17, left[-1].y), (0.17, bottom), (4.85, bottom), (4.85, nothing.y), (5.5, nothing.y), dashed=True)
    for q, block in zip(queries, left, strict=True):
        if q not in pairs:
            page.arrow((0.35, block.y), (0.17, block.y), (0.17, left[-1].y), dashed=True, head=False)
    return page.picture()


# --- many to one ------------------------------------------------------------------------------------------------------------


def anchors() -> Tensor:
    """100 fixed boxes (cx, cy, w, h): 5x5 centres, four shapes each."""
    y, x = (grid.flatten() for grid in torch.meshgrid(*[torch.linspace(0.1, 0.9, 5)] * 2, indexing="ij"))
    shapes = torch.tensor([[0.12, 0.25], [0.25, 0.25], [0.5, 0.4], [0.95, 0.5]])
    return torch.cat([torch.stack([x, y], -1)[:, None].expand(25, 4, 2), shapes.expand(25, 4, 2)], dim=-1).flatten(0, 1)


def tally(logits: Tensor, boxes: Tensor, target: Target) -> str:
    """How many objects predictions N C+1, N 4 name, how many are duplicates, how many segments have a box of their class."""
    labels = logits.argmax(-1)
    overlap = box_iou(box_convert(boxes, "cxcywh", "xyxy"), box_convert(target.boxes, "cxcywh", "xyxy"))  # N T
    hit = ((labels[:, None] == target.labels) & (overlap > 0.5)).any(0)
    named, twins = int((labels != logits.shape[-1] - 1).sum()), int(duplicates(logits[None], boxes[None]))
    return f"{named:3} boxes, {twins} pairs of duplicates, {int(hit.sum())} of {len(hit)} segments found"
