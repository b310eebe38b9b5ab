"""Plausible wrong answers to the exercises of lesson 11, and a piece of the sentence that each should get."""

from __future__ import annotations

WRONG: dict[str, list[tuple[str, str]]] = {
    "polygon_mask": [
        (
            """
def polygon_mask(points, height, width):
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    centres = np.stack([y.ravel(), x.ravel()], axis=1)
    return Outline(np.reshape(points, (-1, 2))).contains_points(centres).reshape(height, width)
""",
            "exchanged",
        ),
        (
            """
def polygon_mask(points, height, width):
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    (left, top), (right, bottom) = np.reshape(points, (-1, 2)).min(0), np.reshape(points, (-1, 2)).max(0)
    return (x > left) & (x < right) & (y > top) & (y < bottom)
""",
            "too many pixels",
        ),
        (
            """
def polygon_mask(points, height, width):
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    corners = np.stack([x.ravel(), y.ravel()], axis=1)
    return Outline(np.reshape(points, (-1, 2)) + 1e-6).contains_points(corners).reshape(height, width)
""",
            "corners",
        ),
    ],
    "paint": [
        (
            """
def paint(stuff, masks, classes):
    canvas = stuff.copy()
    for mask, category_id in zip(masks, classes, strict=True):
        canvas[mask] = category_id
    return canvas
""",
            "small thing is hidden",
        ),
        (
            """
def paint(stuff, masks, classes):
    canvas = np.zeros_like(stuff)
    for k in np.argsort(-masks.sum(axis=(1, 2))):
        canvas[masks[k]] = classes[k]
    canvas[stuff > 0] = stuff[stuff > 0]
    return canvas
""",
            "stuff covers a thing",
        ),
        (
            """
def paint(stuff, masks, classes):
    for k in np.argsort(-masks.sum(axis=(1, 2))):
        stuff[masks[k]] = classes[k]
    return stuff
""",
            "itself was changed",
        ),
    ],
    "missing": [
        (
            """
def missing(categories, train, val):
    present = [{s["category_id"] for a in part for s in a["segments_info"]} for part in (train, val)]
    names = {category.id: category.name for category in categories}
    return {"train": {names[i] for i in present[1] - present[0]}, "val": {names[i] for i in present[0] - present[1]}}
""",
            "neither part",
        ),
        (
            """
def missing(categories, train, val):
    lacks = {}
    for side, annotations in (("val", train), ("train", val)):
        present = {segment["category_id"] for annotation in annotations for segment in annotation["segments_info"]}
        lacks[side] = {category.name for category in categories if category.id not in present}
    return lacks
""",
            "sides are exchanged",
        ),
        (
            """
def missing(categories, train, val):
    lacks = {}
    for side, annotations in (("train", train), ("val", val)):
        present = {segment["category_id"] for annotation in annotations for segment in annotation["segments_info"]}
        lacks[side] = {category.id for category in categories if category.id not in present}
    return lacks
""",
            "not their ids",
        ),
    ],
}
