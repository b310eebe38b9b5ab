"""Lesson 00, panoptic segmentation in five minutes: checks of its exercises, and its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from minidetr.course import NotDone, answer, exercise, require, require_tensor, sizes
from minidetr.course.schematic import Schematic
from minidetr.course.trace import plain
from minidetr.panoptic import Category, Panoptic
from minidetr.plot import color_of, new_figure, overlay, palette, picture_of

# --- pictures ---------------------------------------------------------------------------------------------------------------


def schematic() -> Image.Image:
    """The idea of the whole course: boxes for things and stuff, heatmaps, masks, one owner per pixel."""
    page = Schematic(8.3, 4.1)
    top, bottom = 3.0, 1.15
    columns = (0.85, 2.5, 4.15, 5.8, 7.45)
    how: dict[str, Any] = {"width": 1.32, "height": 0.56}
    image = page.block(columns[0], top, "image", "3 x H x W", kind="data", **how)
    backbone = page.block(columns[1], top, "ResNet-50", "2048 x h x w", **how)
    encoder = page.block(columns[2], top, "encoder", "256 x h x w", **how)
    decoder = page.block(columns[3], top, "decoder", "100 queries", **how)
    boxes = page.block(columns[4], top, "1 classes, boxes", "100 x C+1, 100 x 4", lit=True, **how)
    sure = page.block(columns[3], bottom, "threshold", "K of 100", kind="fixed", **how)
    heatmaps = page.block(columns[2], bottom, "2 heatmaps", "K x 8 x h x w", lit=True, **how)
    masks = page.block(columns[1], bottom, "3 mask head", "K x H/4 x W/4", lit=True, **how)
    ids = page.block(columns[0], bottom, "4 argmax", "H x W ids", kind="fixed", lit=True, **how)
    for start, end in ((image, backbone), (backbone, encoder), (encoder, decoder), (decoder, boxes)):
        page.arrow(start, end)
    page.arrow(boxes, (columns[4], bottom), sure)
    for start, end in ((sure, heatmaps), (heatmaps, masks), (masks, ids)):
        page.arrow(start, end)
    page.arrow(encoder, heatmaps, text="encoded image")
    page.arrow(backbone, masks, text="Res2 to Res5")
    words = ("what you have", "features per cell", "every cell sees all others", "each query looks", "things and stuff alike")
    for x, line in zip(columns, words, strict=True):
        page.text(x, top + 0.46, line)
    below = ("one owner per pixel", "where, to a few pixels", "where, roughly", "only the sure ones")
    for x, line in zip(columns, below, strict=False):
        page.text(x, bottom - 0.46, line)
    page.key(0.2, 0.25)
    page.text(4.15, 3.85, "from an image to one segment id per pixel", size=10.5, weight="bold", color="#1f2328")
    return page.picture()


def class_colors(semantic: np.ndarray, categories: Sequence[Category]) -> np.ndarray:
    """A semantic map (H W category ids, 0 = none) -> H W 3 uint8, each class in its colour, none in white."""
    table = np.full((max(c.id for c in categories) + 1, 3), 255, np.uint8)
    for category in categories:
        table[category.id] = color_of(category)
    return table[semantic]


def object_colors(instance: np.ndarray, image: np.ndarray) -> np.ndarray:
    """An instance map (H W ids, 0 = no object) -> H W 3 uint8: each object in a colour of its own, the rest the image, pale."""
    grey = image.mean(axis=2, keepdims=True)  # H W 1
    picture = np.repeat(150 + 0.4 * grey, 3, axis=2).clip(0, 255).astype(np.uint8)
    for segment_id, color in zip(np.unique(instance[instance > 0]), palette(100), strict=False):
        picture[instance == segment_id] = color
    return picture


def blob_colors(blobs: np.ndarray, image: np.ndarray, rows: slice, columns: slice) -> Image.Image:
    """A part of an image beside its blobs (H W numbers, 0 = none), each in a colour of its own with its number on it."""
    figure = new_figure(8.3, 3.1)
    left, right = figure.subplots(1, 2)
    plain(left, image[rows, columns])
    part = blobs[rows, columns]
    plain(right, object_colors(part, image[rows, columns]))
    for number in np.unique(part[part > 0]).tolist():
        y, x = np.argwhere(part == number).mean(0)
        edge = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
        right.text(x, y, str(number), fontsize=8, ha="center", va="center", bbox=edge)
    left.set_title("image, cut out", fontsize=10)
    right.set_title("connected pixels of class brick stack", fontsize=10)
    return picture_of(figure)


def thresholds(
    image: np.ndarray, found: dict[float, Panoptic], part: tuple[slice, slice], categories: Sequence[Category]
) -> Image.Image:
    """What is kept above each threshold: the image with its number of segments; one part enlarged, scores below 0.7 striped."""
    figure = new_figure(8.3, 5.1)
    for (upper, lower), (level, panoptic) in zip(figure.subplots(2, len(found)).T, found.items(), strict=True):
        picture = overlay(image, panoptic, categories, 0.7)
        plain(upper, picture.copy())
        unsure = [segment.id for segment in panoptic.segments if segment.score < 0.7]
        stripes = np.where(np.indices(panoptic.segment_ids.shape).sum(0) // 2 % 2, 255, 0)  # H W, diagonal: no class has them
        hit = np.isin(panoptic.segment_ids, unsure)
        picture[hit] = stripes[hit][:, None]
        rows, columns = part
        edges = [columns.start, columns.stop - 1, columns.stop - 1, columns.start, columns.start]
        upper.plot(edges, [rows.start, rows.start, rows.stop, rows.stop, rows.start], color="black", linewidth=1.5)
        upper.set_title(f"above {level}: {len(panoptic.segments)} segments", fontsize=10)
        plain(lower, picture[part])
    return picture_of(figure)


# --- exercises --------------------------------------------------------------------------------------------------------------


def map_of(value: object, shape: tuple[int, ...]) -> np.ndarray:
    """The attempt's result as an array of that shape."""
    value = answer(value)
    require(isinstance(value, np.ndarray), f"the result should be an array of {sizes(shape)}, not {type(value).__name__}.")
    return require_tensor(torch.as_tensor(np.asarray(value, np.float64)), shape).numpy()


@exercise
def owners(attempt: Callable) -> None:
    """Each pixel to the mask with its highest logit: `attempt(mask_logits)`, K H W -> H W ids 1..K."""
    for K in (6, 1):
        logits = torch.randn(K, 5, 9) - 0.5
        logits[:, 1, 2] = -1 - torch.arange(K)  # no mask claims this pixel: still one has the highest logit
        logits[:, 3, 4] = 1 + torch.arange(K) % 3 + torch.arange(K) / 100  # all do; the highest is neither first nor last
        wanted = logits.argmax(0) + 1
        given = logits.clone()
        found = answer(attempt(given))
        require(torch.equal(given, logits), "the logits given were changed in place: leave them as they are.")
        found = require_tensor(torch.as_tensor(found), (5, 9), "the ids")
        require(not torch.equal(found, wanted - 1), "the first mask has the id 0, which means void: count from 1.")
        require(
            K == 1 or not torch.equal(found, logits.argmin(0) + 1),
            "each pixel went to the mask that wants it least: the lowest logit.",
        )
        claimed = (logits > 0).any(0)
        require(
            bool(found[~claimed].all()),
            "pixels where all logits are negative are 0: still one mask has the highest logit, and it owns the pixel.",
        )
        later = torch.where(logits > 0, torch.arange(1, K + 1)[:, None, None], 0).amax(0)
        require(
            K == 1 or not torch.equal(found[claimed], later[claimed]),
            "of several masks above 0 the last one won: the order of masks means nothing, compare their logits.",
        )
        agree = float((found == wanted).double().mean())
        require(agree == 1, f"only {agree:.0%} of the pixels have the right id: 1 + the number of the mask with the highest logit.")


@exercise
def raised(attempt: dict) -> None:
    """What a higher threshold changes: {"segments", "void pixels", "sky pixels"} -> "more", "fewer" or "same"."""
    if any(value is ... for value in attempt.values()):
        raise NotDone
    require(set(attempt) == {"segments", "void pixels", "sky pixels"}, "keep the three keys of the dictionary as they are.")
    known = {"more", "fewer", "same"}
    require(set(attempt.values()) <= known, 'each answer should be "more", "fewer" or "same".')
    require(attempt["segments"] == "fewer", "segments: only queries scored above the threshold stay, and it was raised.")
    require(
        attempt["void pixels"] == "same",
        "void pixels: the argmax runs over the masks that are left, so while one is left every pixel has an owner.",
    )
    require(
        attempt["sky pixels"] == "more", "sky pixels: crane and building were dropped here; who owns their pixels now? Count them."
    )


@exercise
def two_sources(attempt: Callable) -> None:
    """Objects by falling score over a semantic map: `attempt(semantic, masks, scores)`, H W, K H W bool, K -> H W ids."""
    semantic = np.full((6, 10), 3)
    semantic[3:] = 2
    semantic[0, 0] = 0
    masks = np.zeros((4, 6, 10), bool)
    masks[0, 1:4, 0:4] = True  # 12 pixels, score 0.6: 6 of them lie under mask 2, exactly half are left
    masks[1, 1:5, 5:9] = True  # 16 pixels, score 0.7
    masks[2, 1:4, 2:5] = True  # 9 pixels, score 0.9
    masks[3, 2:5, 5:9] = True  # 12 pixels, score 0.5: nothing is left
    masks[3, 5, 5:9] = True  # ... but these 4 of 16
    scores = np.array([0.6, 0.7, 0.9, 0.5])
    given = semantic.copy()
    found = answer(attempt(semantic, masks, scores))
    require(np.array_equal(semantic, given), "the semantic map itself was changed: write into an array of your own.")
    found = map_of(found, (6, 10))
    wanted = painted(semantic, masks, scores)
    require(
        not np.array_equal(found, painted(semantic, masks, scores, order=range(4))),
        "the objects were taken in the order they came: the surest should come first.",
    )
    require(
        not np.array_equal(found, painted(semantic, masks, scores, order=np.argsort(scores))),
        "the least sure object came first, and kept what the surest should have.",
    )
    require(
        not np.array_equal(found, painted(semantic, masks, scores, least=0)),
        "an object of which a quarter was left is still there: skip it when less than half of its pixels are free.",
    )
    require(
        not np.array_equal(found, painted(semantic, masks, scores, least=0.51)),
        "an object of which exactly half is left was skipped: only less than half is too little.",
    )
    require((found < 1000).any(), "no object is there: compare what is left of it with the object's own size, not the image's.")
    stuff = wanted >= 1000
    require(
        np.array_equal(found[~stuff] > 0, np.ones((~stuff).sum(), bool)) and (found[~stuff] < 1000).all(),
        "things lie over stuff: where an object was painted, the semantic map no longer counts.",
    )
    require(np.array_equal(found[stuff], wanted[stuff]), "every pixel that no object took should be 1000 + its class.")
    require(set(found[~stuff].tolist()) == {1, 2, 3}, "the objects that were painted should be numbered 1, 2, 3, without a gap.")
    require(np.array_equal(found, wanted), "some pixels have another owner: a pixel that was painted once is never painted again.")


def painted(
    semantic: np.ndarray,
    masks: np.ndarray,
    scores: np.ndarray,
    order: Sequence[int] | range | np.ndarray | None = None,
    least: float = 0.5,
) -> np.ndarray:
    """The right answer to `two_sources`, or with other settings a wrong one."""
    ids = np.zeros(semantic.shape, np.int64)
    number = 0
    for k in np.argsort(-scores) if order is None else order:
        free = masks[k] & (ids == 0)
        if free.sum() >= least * masks[k].sum():
            number += 1
            ids[free] = number
    return np.where(ids == 0, 1000 + semantic, ids)
