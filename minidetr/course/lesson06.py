"""Lesson 06, attention heatmaps: its checks, measurements and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import box_convert, box_iou

from minidetr.course import answer, close, exercise, require, require_tensor
from minidetr.course.figures import LIT, chosen, titled
from minidetr.course.pictures import draw
from minidetr.course.schematic import Schematic
from minidetr.course.trace import Trace, draw_box, plain
from minidetr.model import Detections, PanopticDETR
from minidetr.model.merge import kept_queries
from minidetr.model.position import sine_position
from minidetr.plot import new_figure, picture_of
from minidetr.scenes.render import Scene

# --- checks -----------------------------------------------------------------------------------------------------------------


def tell_apart(found: Tensor, expected: Tensor, mistakes: list[tuple[Tensor, str]], otherwise: str) -> None:
    """Raise `Wrong` unless `found` is `expected`, with the sentence of the mistake that gives just these values, or `otherwise`."""
    if close(found, expected):
        return
    for values, sentence in mistakes:
        require(values.shape != found.shape or not close(found, values), sentence)
    require(False, otherwise)


@exercise
def joint_softmax(attempt):
    """attempt(scores K M h w) -> heatmaps K M h w, of which each object's sum to 1 over heads and pixels together."""
    K, M, h, w = 3, 4, 5, 7
    scores = 2 * torch.randn(K, M, h, w)
    expected = (scores - scores.flatten(1).logsumexp(1)[:, None, None, None]).exp()
    alone = scores.flatten(2).softmax(2).view(K, M, h, w)
    heads_alone = "the softmax runs over each head alone: each is forced to find something. Flatten heads and pixels together."
    mistakes = [
        (alone, heads_alone),
        (alone / M, "each head was given 1/M of the total: " + heads_alone),
        (scores.softmax(1), "the softmax runs over the heads of each pixel: the pixels have to compete, too."),
        (scores.flatten().softmax(0).view(K, M, h, w), "the softmax runs over all objects together: each has a total of its own."),
        (scores.softmax(-1), "the softmax runs along single rows: flatten heads, rows and columns together."),
    ]
    found = require_tensor(attempt(scores), (K, M, h, w), "the heatmaps")
    total = float(found[0].sum())
    otherwise = f"the values are not softmax weights over heads and pixels; the maps of the first object sum to {total:.3g}."
    tell_apart(found, expected, mistakes, otherwise)


@exercise
def heatmaps(attempt):
    """attempt(model, queries K d, memory B d h w, image_index K, padding B h w) -> K M h w, 0 where padded, totals of 1."""
    B, K, M, d, h, w = 2, 5, 3, 12, 4, 6
    model = SimpleNamespace(heatmap_query=nn.Linear(d, d), heatmap_key=nn.Linear(d, d), heads=M)
    for layer in (model.heatmap_query, model.heatmap_key):
        nn.init.normal_(layer.weight, 0, 0.5)
    queries, memory, image_index = torch.randn(K, d), torch.randn(B, d, h, w), torch.tensor([1, 0, 0, 1, 0])
    padding = torch.zeros(B, h, w, dtype=torch.bool)
    padding[0, :, 4:] = padding[1, 3:] = True
    with torch.no_grad():
        query, key = model.heatmap_query(queries), model.heatmap_key(memory.permute(0, 2, 3, 1))  # K d, B h w d
        plain_query, plain_key = queries, memory.permute(0, 2, 3, 1)
        found = answer(attempt(model, queries.clone(), memory.clone(), image_index.clone(), padding.clone()))
        found = require_tensor(found, (K, M, h, w), "the heatmaps").detach()

    def scores(q: Tensor, k: Tensor, apart: bool = True) -> Tensor:
        q, k = (x.unflatten(-1, (M, -1) if apart else (-1, M)) for x in (q, k))
        q, k = (x if apart else x.transpose(-1, -2) for x in (q, k))
        return torch.stack([torch.einsum("mc,hwmc->mhw", one, k[int(i)]) for one, i in zip(q, image_index, strict=True)])

    def joint(values: Tensor, hidden: Tensor | None = None) -> Tensor:
        values = values if hidden is None else values.masked_fill(hidden[:, None], float("-inf"))
        return values.flatten(1).softmax(1).view(K, M, h, w)

    of_object, scale = padding[image_index], (d / M) ** -0.5
    right = scores(query, key)
    expected = joint(right * scale, of_object)
    alone = (right * scale).masked_fill(of_object[:, None], float("-inf")).flatten(2).softmax(2).view(K, M, h, w)
    shut = joint(right * scale) * ~of_object[:, None]
    first = scores(query, key[:1].expand(B, -1, -1, -1)) * scale
    mistakes = [
        (alone, "the softmax runs over each head alone: one total of 1 is asked for, over heads and cells together."),
        (joint(right, of_object), "the scale is missing: multiply the scores by (d/M) ** -0.5."),
        (joint(right * d**-0.5, of_object), "the scale is d ** -0.5, but one head's vectors have d/M numbers: take (d/M) ** -0.5."),
        (joint(right * scale), "the padding is ignored: padded cells still get some of the weight."),
        (shut, "padded cells are 0, but the rest no longer sums to 1: put -inf there before the softmax."),
        (joint((right * scale).masked_fill(of_object[:, None], 0)), "a score of 0 is not nothing: e^0 = 1. Fill with -inf."),
        (
            joint(right * scale, padding[:1].expand(K, h, w)),
            "every object got the padding of image 0: padding[image_index] deals it out.",
        ),
        (joint(first, of_object), "every object looks at image 0: key[image_index] gives each object the keys of its own image."),
        (
            joint(scores(plain_query, plain_key) * scale, of_object),
            "the two linear layers, heatmap_query and heatmap_key, are missing.",
        ),
        (joint(scores(query, key, False) * scale, of_object), "a head took every M-th channel; its channels stand side by side."),
    ]
    tell_apart(found, expected, mistakes, "the values differ from those of the specification.")


@exercise
def area_under_curve(attempt):
    """attempt(weights P, inside P bool) -> how often a cell inside has more weight than a cell outside; a draw counts one half."""
    weights, inside = torch.rand(37).mul(12).round() / 12, torch.rand(37) < 0.3
    value = float(answer(attempt(weights.clone(), inside.clone())))
    one, other = weights[inside][:, None], weights[~inside]
    more, draws = float((one > other).double().mean()), float((one == other).double().mean())

    def near(number: float) -> bool:
        return abs(value - number) < 1e-4

    require(not near(more), "draws are left out: two equal weights count one half.")
    require(not near(more + draws), "draws count as won: two equal weights count one half.")
    require(
        not near(1 - more - draws / 2), "the comparison is the wrong way round: count pairs whose inside cell has *more* weight."
    )
    require(not near(float(weights[inside].sum() / weights.sum())), "this is the share of weight inside; pairs are asked for.")
    pairs = float(((weights[:, None] > weights) & inside[:, None]).double().mean())
    require(
        not near(pairs), "the pairs are one cell inside and one outside: leave out pairs of two cells inside, and of two outside."
    )
    require(near(more + draws / 2), "the mean over all pairs of a cell inside and a cell outside is asked for.")


@exercise
def heads(attempt):
    """attempt: the letter of the explanation that the lesson's numbers support."""
    letter = str(answer(attempt)).strip().upper()
    refuted = {
        "A": "A contradicts the table of shares: over all objects head 2 holds more of the total than head 4.",
        "C": "C holds for head 2 as well: without it cones are left with 3% of their total. It doesn't explain the difference.",
        "D": "D is refuted by the picture: head 4 holds about 1% at most of every object but the sky.",
    }
    require(letter in {*refuted, "B"}, "answer with one letter: A, B, C or D.")
    require(letter == "B", refuted.get(letter, ""))


# --- measurements -----------------------------------------------------------------------------------------------------------


def known_objects(model: PanopticDETR, scenes: Sequence[Scene], seen: Detections) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """The K kept objects that are a true segment (same class, box IoU above 0.5): image_index, query_index, inside, names.

    inside K h w is True in cells which the true segment covers by half (at least in the cell that it covers most).
    """
    categories = {c.id: c for c in model.categories}
    images, queries, inside, names = [], [], [], []
    h, w = seen.memory.shape[-2:]
    for image, scene in enumerate(scenes):
        height, width = scene.image.shape[:2]
        query_index, _, labels = kept_queries(seen.logits[image], model.preset.threshold, categories)
        boxes = box_convert(seen.boxes[image, query_index], "cxcywh", "xyxy") * torch.tensor([width, height, width, height])
        truth = box_convert(torch.tensor([info["bbox"] for info in scene.segments_info], dtype=torch.float), "xywh", "xyxy")
        same = labels[:, None] == torch.tensor([info["category_id"] for info in scene.segments_info])
        overlap, which = (box_iou(boxes, truth) * same).max(1)
        for k in (overlap > 0.5).nonzero().flatten().tolist():
            mask = torch.tensor(scene.segment_ids == scene.segments_info[int(which[k])]["id"]).float()
            cover = nn.functional.adaptive_avg_pool2d(mask[None, None], (h, w))[0, 0]
            inside.append(cover >= min(0.5, float(cover.max())))
            images.append(image)
            queries.append(int(query_index[k]))
            names.append(categories[int(labels[k])].name)
    return torch.tensor(images), torch.tensor(queries), torch.stack(inside), names


@torch.inference_mode()
def cross_attention(model: PanopticDETR, seen: Detections) -> Tensor:
    """The last decoder layer's own attention to the image, B M N h w."""
    kept: list[tuple] = []
    layer: Any = model.decoder.layers[-1]
    module = layer.cross_attention
    hook = module.register_forward_pre_hook(lambda _, inputs: kept.append(inputs))
    model.decoder(seen.memory, sine_position(seen.padding, seen.memory.shape[1]), None)
    hook.remove()
    weights = module(*kept[0], need_weights=True, average_attn_weights=False)[1]
    return weights.unflatten(-1, seen.memory.shape[-2:])


def inside_boxes(seen: Detections, image_index: Tensor, query_index: Tensor) -> Tensor:
    """Maps K h w that are 1 in the cells whose centre lies in the object's box, 0 elsewhere."""
    h, w = seen.memory.shape[-2:]
    left, top, right, bottom = box_convert(seen.boxes[image_index, query_index], "cxcywh", "xyxy")[:, :, None, None].unbind(1)
    y, x = (torch.arange(h)[:, None] + 0.5) / h, (torch.arange(w) + 0.5) / w
    return ((x >= left) & (x <= right) & (y >= top) & (y <= bottom)).float()


def localised(maps: Tensor, inside: Tensor) -> tuple[float, float]:
    """How well maps K h w tell the cells inside: area under the curve and IoU at each map's best threshold, mean over K."""
    areas, overlaps = [], []
    for values, cells in zip(maps.flatten(1), inside.flatten(1), strict=True):
        one, other = values[cells][:, None], values[~cells]
        areas.append(((one > other).double() + (one == other).double() / 2).mean())
        hits = cells[values.argsort(descending=True)].cumsum(0)
        overlaps.append((hits / (torch.arange(1, len(hits) + 1) + cells.sum() - hits)).max())
    return float(torch.stack(areas).mean()), float(torch.stack(overlaps).mean())


# --- pictures ---------------------------------------------------------------------------------------------------------------


def schematic() -> Image.Image:
    """The module: two linear layers, dot products per head, one softmax; shapes at 640x640 with ResNet-50."""
    page = Schematic(8.3, 2.75)
    page.frame(0.1, 1.45, 4.75, 2.4, "once per object")
    page.frame(0.1, 0.3, 4.75, 1.3, "once per image")
    queries = page.block(0.95, 1.85, "box embeddings", "Kx256", kind="data", width=1.4)
    memory = page.block(0.95, 0.72, "encoded image", "256x20x20", kind="data", width=1.4)
    ends = []
    for start, name, shape in ((queries, "queries", "Kx8x32"), (memory, "keys", "400x8x32")):
        linear = page.block(2.45, start.y, "linear layer", width=1.1, height=0.42)
        cut = page.block(3.95, start.y, name, shape, kind="data", width=1.2)
        page.arrow(start, linear)
        page.arrow(linear, cut)
        ends.append(cut)
    page.block(5.55, 1.35, "dot products", "x (d/M)^-0.5", kind="fixed", width=1.2)
    for end, rim in zip(ends, (1.6, 1.1), strict=True):
        page.arrow((end.x + end.width / 2, end.y), (5.25, end.y), (5.25, rim))
    softmax = page.block(6.55, 2.2, "one softmax", "heads and cells", kind="fixed", width=1.3)
    maps = page.block(7.5, 1.35, "heatmaps", "Kx8x20x20", kind="data", width=1.2)
    page.arrow((5.72, 1.6), (5.72, 2.2), softmax)
    page.text(5.8, 1.82, "Kx8x400", ha="left")
    page.arrow(softmax, (7.5, 2.2), maps)
    page.text(6.5, 0.5, "no values, no output layer:\nthe weights are the result", ha="left")
    page.key(4.95, 2.62)
    return page.picture()


def heads_in_use(found: Trace, count: int = 5, least: float = 0.01) -> Image.Image:
    """The maps of some objects, one row per object, of the heads that hold `least` of some object's total; in square root."""
    objects = chosen(found, count)
    maps = found.heatmaps[objects]
    used = (maps.sum((2, 3)) > least).any(0).nonzero().flatten().tolist()
    side = min(1.4, 8.0 / (len(used) + 1))
    figure = new_figure((len(used) + 1) * side + 0.3, side * len(objects) + 0.35)
    for axes_row, k in zip(figure.subplots(len(objects), len(used) + 1, squeeze=False), objects, strict=True):
        plain(axes_row[0], found.image)
        draw_box(axes_row[0], found, k, LIT, 2)
        axes_row[0].set_ylabel(found.names()[k], fontsize=9)
        top = float(found.heatmaps[k].max()) ** 0.5
        for axes, head in zip(axes_row[1:], used, strict=True):
            draw(axes, found.heatmaps[k, head].sqrt(), top)
            if k == objects[0]:
                titled(axes, f"head {head + 1}", 9.5)
    return picture_of(figure)


def shares_picture(shares: Tensor, names: Sequence[str]) -> Image.Image:
    """What every head holds of the total of 1 of each object, K M: a dot per object, on a logarithmic axis."""
    figure = new_figure(8.3, 3.2)
    axes = figure.subplots()
    stuff = np.array([name in {"sky", "ground", "building", "vegetation"} for name in names])
    shift = np.random.default_rng(0).uniform(-0.32, 0.32, len(names))
    for mark, which in (("things", ~stuff), ("sky, ground, building, vegetation", stuff)):
        color = "#0072b2" if mark == "things" else LIT
        x = np.arange(1, shares.shape[1] + 1)[None] + shift[which, None]
        axes.scatter(x, shares[torch.tensor(which)], 9, color=color, alpha=0.7, linewidths=0, label=mark)
    axes.axhline(0.01, color="#57606a", linewidth=1, linestyle="--")
    axes.set(yscale="log", ylabel="share of the object's total", xticks=range(1, shares.shape[1] + 1))
    axes.set_xticklabels([f"head {m + 1}" for m in range(shares.shape[1])])
    axes.legend(fontsize=9, loc="lower right")
    return picture_of(figure)


def three_maps(found: Trace, cross: Tensor, count: int = 4) -> Image.Image:
    """Some objects' heatmaps and the decoder's own attention (N h w), heads added and averaged; in square root, own scale each."""
    objects = chosen(found, count)
    figure = new_figure(8.3, 4.3)
    for column, k in zip(figure.subplots(2, len(objects)).T, objects, strict=True):
        pair = (found.heatmaps[k].sum(0), cross[found.query_index[k]])
        for axes, values, name in zip(column, pair, ("heatmaps", "decoder's own"), strict=True):
            height, width = found.image.shape[:2]
            plain(axes, values.sqrt(), cmap="magma", vmin=0, extent=(0, width, height, 0))
            draw_box(axes, found, k, "#56b4e9", 1.5)
            if k == objects[0]:
                axes.set_ylabel(name, fontsize=9.5)
        titled(column[0], found.names()[k], 9.5)
    return picture_of(figure)


def two_softmaxes(joint: Tensor, alone: Tensor) -> Image.Image:
    """The M maps of one object under both softmaxes, M h w each, all in one scale: brightness is the square root of the weight."""
    figure = new_figure(8.3, 2.7)
    rows = figure.subplots(2, len(joint))
    top = float(max(joint.max(), alone.max()))
    for axes_row, maps, name in zip(rows, (joint, alone), ("joint", "each head\nalone, / M"), strict=True):
        for m, (axes, values) in enumerate(zip(axes_row, maps, strict=True)):
            draw(axes, values.sqrt(), top**0.5)
            axes.set_xlabel(f"sum {float(values.sum()):.3f}", fontsize=9)
            if maps is joint:
                titled(axes, f"head {m + 1}", 9.5)
        axes_row[0].set_ylabel(name, fontsize=9.5)
    return picture_of(figure)


@torch.inference_mode()
def where(found: Trace, query: int, head: int) -> Image.Image:
    """One of the N queries' box beside one head's map (1..M; 0: all heads added), in the scale of the query's brightest cell."""
    maps = found.model.heatmaps(found.seen, torch.tensor([0]), torch.tensor([query]))[0]  # M h w
    probability, label = found.seen.logits[0, query].softmax(-1).max(-1)
    names = {c.id: c.name for c in found.model.categories}
    figure = new_figure(8.3, 3.9)
    left, right = figure.subplots(1, 2)
    plain(left, found.image)
    height, width = found.image.shape[:2]
    box = box_convert(found.seen.boxes[0, query], "cxcywh", "xyxy") * torch.tensor([width, height, width, height])
    x0, y0, x1, y1 = box.clamp(0, max(height, width) - 1).tolist()
    left.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=LIT, linewidth=2.5)
    titled(left, f"query {query}: {names.get(int(label), 'no object')} {float(probability):.2f}")
    draw(right, maps[head - 1] if head else maps.sum(0), float((maps if head else maps.sum(0)).max()))
    titled(right, f"head {head}, {float(maps[head - 1].sum()):.1%} of the total" if head else "all heads added")
    return picture_of(figure)
