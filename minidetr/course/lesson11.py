"""Lesson 11, your own data: the small annotation export it works on, checks of its exercises, its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from contourpy import contour_generator
from pycocotools import mask as coco_mask
from scipy import ndimage

from minidetr.course import answer, exercise, require
from minidetr.course.lesson00 import map_of
from minidetr.panoptic import Category, write_json, write_png
from minidetr.presets import SCENE_SIZE
from minidetr.scenes.dataset import HELD_OUT_SEED
from minidetr.scenes.painters import CATEGORIES
from minidetr.scenes.render import render_scene

# --- an export like one from an annotation tool -----------------------------------------------------------------------------

CLASSES = {1: "machine", 2: "cone", 3: "bricks", 4: "worker"}  # what the site's owner wants to find
COLORS = {1: (240, 228, 66), 2: (230, 159, 0), 3: (136, 34, 85), 4: (0, 158, 115)}
MEANING = {"excavator": 1, "dump truck": 1, "tower crane": 1, "traffic cone": 2, "brick stack": 3, "worker": 4}


def make_export(folder: Path, count: int, size: int = SCENE_SIZE, seed: int = HELD_OUT_SEED + 100) -> dict:
    """Render `count` scenes into FOLDER/photos and write FOLDER/export.json, COCO detection format, as annotators would draw it.

    Things only, a polygon around each, in the four classes of `CLASSES`. Returns the export.
    """
    class_of = {category.id: MEANING.get(category.name) for category in CATEGORIES}
    images: list[dict] = []
    annotations: list[dict] = []
    for number in range(1, count + 1):
        scene, name = render_scene(seed + number, size, size), f"site-{number:02d}.png"
        write_png(folder / "photos" / name, scene.image)
        images.append({"id": number, "file_name": name, "height": size, "width": size})
        for segment in scene.segments_info:
            category_id, polygons = class_of[segment["category_id"]], outline(scene.segment_ids == segment["id"])
            if category_id is not None and polygons:
                drawn = coco_mask.merge(coco_mask.frPyObjects(polygons, size, size))
                shape = {"area": int(coco_mask.area(drawn)), "bbox": coco_mask.toBbox(drawn).tolist(), "segmentation": polygons}
                annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": category_id, "iscrowd": 0}
                annotations.append(annotation | shape)
    categories = [{"id": i, "name": name, "color": list(COLORS[i])} for i, name in CLASSES.items()]
    export = {"images": images, "annotations": annotations, "categories": categories}
    write_json(folder / "export.json", export)
    return export


def outline(mask: np.ndarray) -> list[list[float]]:
    """A mask H W -> its outer polygons [x0, y0, x1, y1, ...] in pixels; holes are filled, crumbs left out."""
    filled = np.pad(ndimage.binary_fill_holes(mask), 1).astype(float)
    rings = contour_generator(z=filled).lines(0.5)  # x, y of pixel centres, moved by the padding
    return [(np.asarray(ring, np.float64) - 0.5).round(1).ravel().tolist() for ring in rings if len(ring) > 8]


# --- exercises --------------------------------------------------------------------------------------------------------------


def inside(points: Sequence[float] | np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels whose centres lie in a polygon (even-odd rule), and those whose centres lie so close to an edge that both will do."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    corners = np.array(points, float).reshape(-1, 2)
    within, close = np.zeros((height, width), bool), np.zeros((height, width), bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crosses = (ay > y) != (by > y)
        within ^= crosses & (x < ax + (bx - ax) * (y - ay) / ((by - ay) or 1))
        share = (((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / max((bx - ax) ** 2 + (by - ay) ** 2, 1e-9)).clip(0, 1)
        close |= np.hypot(x - ax - share * (bx - ax), y - ay - share * (by - ay)) < 1e-3
    return within, close


@exercise
def polygon_mask(attempt: Callable) -> None:
    """A polygon as pixels: `attempt(points, height, width)` for [x0, y0, x1, y1, ...] -> H W bool."""
    for points in ([2, 1, 10.2, 3.3, 4.1, 6.8], [1, 2, 7, 2, 7, 5, 1, 5], [0, 0, 9, 0, 9, 6, 6, 6, 6, 2.2, 0, 2.2]):
        wanted, either = inside(points, 8, 11)
        found = map_of(attempt(list(points), 8, 11), (8, 11)).astype(bool)
        swapped, _ = inside(np.array(points).reshape(-1, 2)[:, ::-1].ravel(), 8, 11)
        require(not np.array_equal(found, swapped), "x and y are exchanged: a point is (x, y), a pixel is mask[row, column].")
        moved, touched = inside(np.array(points) + 0.5, 8, 11)
        sure = ~either & ~touched
        corners = np.array_equal(found[sure], moved[sure]) and not np.array_equal(moved[sure], wanted[sure])
        require(not corners, "this asks the pixels' corners: their centres lie at x + 0.5, y + 0.5.")
        require(
            found[~either].sum() <= wanted[~either].sum(),
            f"too many pixels, {found.sum()} instead of {wanted.sum()}: those that only touch the outline stay outside.",
        )
        require(np.array_equal(found[~either], wanted[~either]), f"the pixels inside of {points} are others.")


@exercise
def paint(attempt: Callable) -> None:
    """Things over stuff, smaller over larger: `attempt(stuff, masks, classes)` -> H W classes."""
    stuff = np.full((6, 9), 20)
    stuff[:2], stuff[5, 8] = 30, 0
    masks = np.zeros((4, 6, 9), bool)
    masks[0, 2:4, 2:4] = True  # small, and listed first
    masks[1, 1:6, 1:7] = True
    masks[2, 4:, 5:] = True
    masks[3, 0, 0] = True
    classes = [7, 2, 5, 3]
    wanted = stuff.copy()
    for k in (1, 2, 0, 3):
        wanted[masks[k]] = classes[k]
    given = stuff.copy()
    found = map_of(attempt(given, masks.copy(), list(classes)), (6, 9))
    require(np.array_equal(given, stuff), "the stuff map itself was changed: paint on a copy.")
    require((found[masks.any(0)] < 10).all(), "stuff covers a thing: lay the stuff first, then the things over it.")
    require(np.array_equal(found[~masks.any(0)], stuff[~masks.any(0)]), "where there is no thing, the stuff below should show.")
    require((found[2:4, 2:4] == 7).all(), "the small thing is hidden under the large one: paint from the largest to the smallest.")
    require(np.array_equal(found, wanted), "the classes differ from: stuff, then things from the largest to the smallest.")


@exercise
def missing(attempt: Callable) -> None:
    """Names of classes that a side lacks: `attempt(categories, train, val)` -> {"train": set, "val": set}."""
    categories = [Category(i, name, i < 10) for i, name in ((4, "worker"), (7, "cone"), (9, "crane"), (12, "sky"), (15, "water"))]

    def annotations(*images: Sequence[int]) -> list[dict]:
        return [
            {"image_id": i, "segments_info": [{"id": k + 1, "category_id": c} for k, c in enumerate(s)]}
            for i, s in enumerate(images)
        ]

    train, val = annotations([4, 4, 12], [12], [9, 12]), annotations([12, 7], [], [4])
    found = answer(attempt(categories, train, val))
    require(isinstance(found, dict) and set(found) == {"train", "val"}, 'the result should be a dictionary with "train" and "val".')
    sides = {side: set(names) for side, names in found.items()}
    require(all(isinstance(name, str) for names in sides.values() for name in names), "give the classes' names, not their ids.")
    require("water" in sides["train"] & sides["val"], "water is in neither part: it is missing on both sides.")
    require(sides != {"train": {"crane", "water"}, "val": {"cone", "water"}}, "the sides are exchanged.")
    require(
        sides["train"] == {"cone", "water"}, f"train lacks cone and water, not {', '.join(sorted(sides['train'])) or 'nothing'}."
    )
    require(sides["val"] == {"crane", "water"}, f"val lacks crane and water, not {', '.join(sorted(sides['val'])) or 'nothing'}.")
