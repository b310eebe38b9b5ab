"""What lesson 04 measures, and its pictures: where queries look, what they find, and how."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.lines import Line2D
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_convert, box_iou

from minidetr import plot
from minidetr.course import figures
from minidetr.course.schematic import Block, Schematic
from minidetr.evaluate.detection import box_average_precision
from minidetr.model import PanopticDETR
from minidetr.model.merge import kept_queries
from minidetr.model.transformer import Decoder
from minidetr.scenes.render import Scene

NAMELESS = "#9aa4ae"  # colour of boxes and dots that stand for no object


# --- measurements -----------------------------------------------------------------------------------------------------------


def average_precision(model: PanopticDETR, scenes: Sequence[Scene], logits: Tensor, boxes: Tensor, limit: float = 1) -> float:
    """Box AP in 0..100 of B N C+1 logits and B N 4 boxes, after NMS with the IoU `limit` (1: without)."""
    truth: dict[str, list] = {"images": [], "annotations": [], "categories": [c.to_json() for c in model.categories]}
    found = []
    scores, labels = logits.softmax(-1)[..., :-1].max(-1)
    for image_id, scene in enumerate(scenes):
        height, width = scene.image.shape[:2]
        truth["images"].append({"id": image_id, "height": height, "width": width})
        for info in scene.segments_info:
            truth["annotations"].append(info | {"id": len(truth["annotations"]) + 1, "image_id": image_id})
        corners = box_convert(boxes[image_id], "cxcywh", "xyxy") * torch.tensor([width, height, width, height])
        for query in batched_nms(corners, scores[image_id], labels[image_id], limit).tolist():
            left, top, right, bottom = corners[query].tolist()
            box, score = [left, top, right - left, bottom - top], float(scores[image_id, query])
            found.append({"image_id": image_id, "category_id": int(labels[image_id, query]), "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        return 100 * box_average_precision(truth, found)["AP"]


def covers(scene: Scene, category_id: int, h: int, w: int) -> Tensor:
    """How much of each cell, 0..1, segments of a class cover: h w."""
    ids = [info["id"] for info in scene.segments_info if info["category_id"] == category_id]
    mask = torch.tensor(np.isin(scene.segment_ids, ids)).float()
    return nn.functional.adaptive_avg_pool2d(mask[None, None], (h, w))[0, 0]


def attention_on(
    model: PanopticDETR, scenes: Sequence[Scene], logits: Tensor, weights: Tensor, names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Of the queries that name a class: the share of their attention (B N h w) on each of some classes, mean over queries."""
    table = {}
    ids = {c.name: c.id for c in model.categories}
    for name in names:
        images, queries = (logits.argmax(-1) == ids[name]).nonzero(as_tuple=True)
        on = {}
        for other in names:
            maps = torch.stack([covers(scenes[int(image)], ids[other], *weights.shape[-2:]) for image in images])
            on[other] = float((weights[images, queries] * maps).sum((1, 2)).mean())
        table[name] = on
    return table


def decode_hiding(decoder: Decoder, inputs: tuple[Tensor, Tensor, None], queries: Tensor, cells: Tensor) -> Tensor:
    """The last layer's output B N d where some queries (B N: True) may not look at some cells (B h w: True)."""
    changed: Any = copy.deepcopy(decoder)
    hidden = queries[:, :, None] & cells.flatten(1)[:, None]  # B N h*w
    mask = hidden.repeat_interleave(changed.layers[0].cross_attention.num_heads, 0)
    for layer in changed.layers:
        layer.cross_attention.register_forward_pre_hook(lambda _, args, more: (args, more | {"attn_mask": mask}), with_kwargs=True)
    return changed(*inputs)[-1]


def linear_probe(features: Tensor) -> tuple[float, float]:
    """R2 of row and column, told from features B d h w by one linear map, fitted on half of the images, scored on the others."""
    B, d, h, w = features.shape
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    place = torch.stack([rows, columns], -1).view(-1, 2).double()
    x = nn.functional.pad(features.flatten(2).mT, (0, 1), value=1.0).double()  # B h*w d+1
    half = B // 2
    solution = torch.linalg.lstsq(x[:half].flatten(0, 1), place.repeat(half, 1)).solution
    error = x[half:].flatten(0, 1) @ solution - place.repeat(B - half, 1)
    row, column = (1 - error.var(0) / place.var(0)).tolist()
    return row, column


# --- pictures ---------------------------------------------------------------------------------------------------------------


def act(page: Schematic, x: float, name: str, norm: str) -> tuple[Block, Block]:
    """One act of the layer in a column at x: its block, and the norm after the addition."""
    block = page.block(x, 1.75, name, width=1.35, height=0.6)
    plus = page.sign(x, 2.55)
    normed = page.block(x + 0.85, 2.55, norm, width=0.65, height=0.36)
    page.arrow(block, plus)
    page.arrow(plus, normed)
    return block, normed


def schematic_layer() -> Image.Image:
    """A decoder layer: three acts, each added to x and normalised; what is added to queries, keys and values."""
    page = Schematic(8.3, 3.5)
    x = page.block(0.55, 2.55, "x", "N x d", kind="data", width=0.8)
    embedding = page.block(0.55, 0.55, "embedding", "N x d", kind="data", width=0.95)
    page.block(4.6, 0.55, "memory", "hw x d", kind="data", width=0.95)
    page.block(5.95, 0.55, "positions", "hw x d", kind="data", width=0.95)
    told, x1 = act(page, 1.9, "self-attention", "norm1")
    _, x2 = act(page, 4.3, "cross-attention", "norm2")
    _, x3 = act(page, 6.5, "perceptron", "norm3")
    end = page.block(7.9, 1.75, "x", "N x d", kind="data", width=0.6)
    for start, plus in ((x, 1.9), (x1, 4.3), (x2, 6.5)):
        page.arrow(start, (plus - 0.13, 2.55))
        page.arrow((plus - 0.45, 2.55), (plus - 0.45, 2.05))
    page.arrow((x3.x + x3.width / 2, 2.55), (7.9, 2.55), end)
    page.arrow((embedding.x + 0.475, 0.55), (1.9, 0.55), told)
    page.text(1.96, 1.0, "to query\nand key", ha="left")
    page.arrow((1.9, 0.55), (3.9, 0.55), (3.9, 1.45))
    page.text(3.84, 1.0, "to query", ha="right")
    page.arrow((4.6, 0.8), (4.6, 1.45))
    page.text(4.66, 1.0, "key, value", ha="left")
    page.arrow((5.95, 0.8), (5.95, 1.3), (4.85, 1.3), (4.85, 1.45))
    page.text(6.0, 1.0, "to key", ha="left")
    page.key(0.2, 3.3, ("data", "learned"))
    page.text(8.1, 3.3, "six such layers; embedding, memory and positions stay the same", ha="right")
    return page.picture()


def schematic_heads() -> Image.Image:
    """The two heads: a linear layer for the class, a perceptron for the box; shapes of ResNet-50 at COCO."""
    page = Schematic(8.3, 1.75)
    page.block(0.95, 0.9, "box embeddings", "100x256", kind="data", width=1.4)
    linear = page.block(2.75, 1.3, "linear layer", width=1.2, height=0.4)
    logits = page.block(4.5, 1.3, "class logits", "100x(C+1)", kind="data", width=1.3)
    softmax = page.block(6.0, 1.3, "softmax", kind="fixed", width=0.9, height=0.4)
    probabilities = page.block(7.45, 1.3, "probabilities", "100x(C+1)", kind="data", width=1.2)
    perceptron = page.block(2.75, 0.5, "3 linear layers", "ReLU between", width=1.35)
    four = page.block(4.5, 0.5, "four numbers", "100x4", kind="data", width=1.3)
    sigmoid = page.block(6.0, 0.5, "sigmoid", kind="fixed", width=0.9, height=0.4)
    boxes = page.block(7.45, 0.5, "boxes in 0..1", "100x4", kind="data", width=1.2)
    for way in ((linear, logits, softmax, probabilities), (perceptron, four, sigmoid, boxes)):
        page.arrow((1.65, 0.9), (1.85, 0.9), (1.85, way[0].y), way[0])
        for start, stop in zip(way, way[1:], strict=False):
            page.arrow(start, stop)
    return page.picture()


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
    """For each of some kept objects: where its query looks (weights N h w, heads averaged), and the box it then gives.

    Brightness above, and colour below, are the square root of the weight, so that small weights show. The title says how much of
    the weight lies on the object's own mask.
    """
    figure = plot.new_figure(8.3, 4.5)
    columns = figure.subplots(2, len(objects), squeeze=False)
    height, width = found.image.shape[:2]
    names, pale = found.names(), (0.6 * found.image.mean(-1) + 0.4 * 255).astype(np.uint8)
    for (above, below), k in zip(columns.T, objects, strict=True):
        query = int(found.query_index[k])
        root = (weights[query] / weights[query].max()).sqrt()
        on_it = nn.functional.adaptive_avg_pool2d((found.masks[k] > 0).float()[None], (weights.shape[-2], weights.shape[-1]))[0]
        figures.plain(above, root, cmap="magma", vmin=0, vmax=1, extent=(0, width, height, 0))
        figures.plain(below, pale, cmap="gray", vmin=0, vmax=255)
        orange = np.zeros((height, width, 4), np.float32)
        orange[..., :3], orange[..., 3] = (0.84, 0.37, 0.0), 0.85 * figures.enlarged(root, (height, width)).numpy()
        figures.plain(below, orange)
        for axes in (above, below):
            figures.draw_rectangle(axes, found.boxes()[k], (height, width), "#56b4e9", linewidth=2)
        above.set_title(f"query {query}: {names[k]}\n{(weights[query] * on_it).sum():.0%} on its own mask", fontsize=10)
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


def true_duplicates(scenes: Sequence[Scene]) -> tuple[int, int]:
    """Pairs of true segments of one class whose boxes overlap by more than half, and the number of segments."""
    pairs = count = 0
    for scene in scenes:
        box = box_convert(torch.tensor([info["bbox"] for info in scene.segments_info]).float(), "xywh", "xyxy")
        label = torch.tensor([info["category_id"] for info in scene.segments_info])
        pairs += int(((label[:, None] == label) & (box_iou(box, box) > 0.5)).triu(1).sum())
        count += len(label)
    return pairs, count


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
