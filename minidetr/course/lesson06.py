"""Lesson 06, attention heatmaps: its checks and pictures."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert

from minidetr.course import close, exercise, require, require_tensor
from minidetr.course.figures import LIT, chosen, titled
from minidetr.course.pictures import draw
from minidetr.course.trace import Trace, plain
from minidetr.plot import new_figure, picture_of

# --- checks -----------------------------------------------------------------------------------------------------------------


def tell_apart(found: Tensor, expected: Tensor, mistakes: list[tuple[Tensor, str]], otherwise: str) -> None:
    """Raise `Wrong` unless `found` is `expected`, with the sentence of the mistake that gives just these values, or `otherwise`."""
    if close(found, expected):
        return
    for values, sentence in mistakes:
        require(values.shape != found.shape or not close(found, values), sentence)
    require(False, otherwise)


@exercise
def one_head(attempt):
    """attempt(query d, key h*w d, head, heads, h, w) -> the scaled scores h w of one object in one head."""
    d, heads, h, w = 20, 5, 3, 7
    query, key = torch.randn(d), torch.randn(h * w, d)
    scale = (d / heads) ** -0.5
    for head in (3, 0):
        expected = (query.view(heads, -1)[head] * key.view(h * w, heads, -1)[:, head]).sum(-1).view(h, w) * scale
        everywhere = (key @ query).view(h, w)
        mixed = (key[:, head::heads] @ query[head::heads]).view(h, w) * scale
        turned = expected.reshape(w, h).T
        mistakes = [
            (expected / scale, "the scale is missing: a head's dot product adds d/M products, so multiply it by (d/M) ** -0.5."),
            (
                expected / scale * d**-0.5,
                "the scale is d ** -0.5, but one head's vectors have d/M numbers: take (d/M) ** -0.5.",
            ),
            (everywhere * scale, "all d channels went into the dot product: cut out the d/M channels of the asked head first."),
            (everywhere * d**-0.5, "all d channels went into the dot product: cut out the d/M channels of the asked head first."),
            (mixed, "the head took every M-th channel; its channels stand side by side: view(heads, d // heads), in this order."),
            (turned, "the cells are in the wrong order: the sequence runs row after row, so view it as h x w."),
            (expected.flatten().softmax(0).view(h, w), "these are softmax weights already; the scores before it are asked for."),
        ]
        found = require_tensor(attempt(query, key, head, heads, h, w), (h, w), "the head's map")
        otherwise = f"head {head} differs from the dot products of query[head] and key[cell, head], times (d/M) ** -0.5."
        tell_apart(found, expected, mistakes, otherwise)


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
def without_padding(attempt):
    """attempt(scores K M h w, padding B h w, image_index K) -> heatmaps K M h w, 0 where padded, each object's total still 1."""
    B, K, M, h, w = 2, 5, 3, 4, 6
    scores, image_index = torch.randn(K, M, h, w), torch.tensor([1, 0, 0, 1, 0])
    padding = torch.zeros(B, h, w, dtype=torch.bool)
    padding[0, :, 4:] = padding[1, 3:] = True
    hidden = padding[image_index][:, None].expand(K, M, h, w)
    weights = scores.flatten(1).softmax(1).view(K, M, h, w)
    expected = weights * ~hidden / (weights * ~hidden).sum((1, 2, 3), keepdim=True)
    kept = weights * hidden / (weights * hidden).sum((1, 2, 3), keepdim=True)
    zero_before = scores.masked_fill(hidden, 0).flatten(1).softmax(1).view(K, M, h, w)
    alone = scores.masked_fill(hidden, float("-inf")).flatten(2).softmax(2).view(K, M, h, w)
    first = padding[:1].expand(K, h, w)[:, None]
    of_first = scores.masked_fill(first, float("-inf")).flatten(1).softmax(1).view(K, M, h, w)
    mistakes = [
        (weights, "the padding is ignored: padded cells still get some of the weight."),
        (weights * ~hidden, "padded cells are 0, but the rest no longer sums to 1: put -inf there before the softmax."),
        (zero_before, "a score of 0 is not nothing: e^0 = 1. Fill padded cells with -inf before the softmax."),
        (kept, "the padding is the wrong way round: True means padded, and that is what has to go dark."),
        (alone, "the softmax runs over each head alone: flatten heads and pixels together."),
        (of_first, "every object got the padding of the first image: padding[image_index] gives each object its own image's."),
    ]
    found = require_tensor(attempt(scores, padding, image_index), (K, M, h, w), "the heatmaps")
    tell_apart(found, expected, mistakes, "the values differ from a joint softmax of the scores with -inf at each image's padding.")


# --- pictures ---------------------------------------------------------------------------------------------------------------


def shares(found: Trace, count: int = 6) -> Image.Image:
    """How much of each object's total of 1 every head holds: one row an object, one column a head."""
    objects = chosen(found, count)
    held = found.heatmaps[objects].sum((2, 3))  # objects M
    figure = new_figure(8.3, 0.42 * len(objects) + 0.7)
    axes = figure.subplots()
    plain(axes, held, cmap="magma", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(objects)), [found.names()[k] for k in objects])
    axes.set_xticks(range(held.shape[1]), [f"head {m + 1}" for m in range(held.shape[1])])
    for y, values in enumerate(held.tolist()):
        for x, value in enumerate(values):
            text = f"{value:.0%}" if value >= 0.005 else f"{value:.0e}"
            axes.text(x, y, text, ha="center", va="center", color="black" if value > 0.7 else "white", fontsize=9.5)
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
