"""The geometry of an annotation: polygons, run lengths or a box -> the pixels they cover."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from minidetr.data.foreign import number_of
from minidetr.errors import InputError
from minidetr.panoptic import Category

Window = tuple[slice, slice]  # rows and columns of an image


@dataclass
class Outline:
    """One annotation as pixels: `mask` (bool) fills `window` (rows, columns) of the image; `area` counts its pixels."""

    annotation: dict
    category: Category
    window: Window
    mask: np.ndarray
    area: int
    is_crowd: bool


def outlines_of(
    annotations: Sequence[dict],
    categories: dict[int, Category],
    size: tuple[int, int],
    path: str | Path = "the export",
    findings: dict[str, list[str]] | None = None,
) -> list[Outline]:
    """The annotations of an image of `size` (height, width) as pixels; those without a pixel are left out, and told in `findings`.

    Understood are polygons, uncompressed and compressed run-length encodings, and boxes where there is no outline. Raises
    InputError, naming `path`, the annotation and the field, for what cannot be drawn.
    """
    findings = defaultdict(list) if findings is None else findings
    outlines = []
    for annotation in annotations:
        where, name = f"{path}: {name_of(annotation)}", name_of(annotation)
        category = categories[annotation["category_id"]]
        is_crowd = category.is_thing and bool(annotation.get("iscrowd", 0))  # stuff is not counted, so it is never a crowd
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, dict):
            window, mask = cropped(mask_of_counts(segmentation, size, where))
        else:
            if not segmentation or "bbox" in annotation and too_thin(segmentation):
                segmentation = [rectangle_of(annotation, where)]
                findings["turned-box" if rotation_of(annotation) else "rectangle"].append(name)
            window, mask = mask_of_polygons(segmentation, size, where, name, findings)
        area = int(np.count_nonzero(mask))
        if not area:
            findings["empty"].append(name)
            continue
        if is_crowd:
            findings["crowd"].append(name)
        outlines.append(Outline(annotation, category, window, mask, area, is_crowd))
    return outlines


def mask_of_polygons(
    polygons: Any, size: tuple[int, int], where: str, name: str = "", findings: dict[str, list[str]] | None = None
) -> tuple[Window, np.ndarray]:
    """Polygons [x0, y0, x1, y1, ...] in pixels -> the window of the image that they fill, and the mask in it.

    COCO takes the union. A polygon inside another of its annotation would then change nothing, but tracing tools do write
    them, winding the other way: as the outlines of holes. So, from the largest polygon to the smallest, one that winds the
    other way than the largest, and lies in what is already drawn (9 of 10 pixels: traced outlines are rounded), is cut out.
    """
    findings = defaultdict(list) if findings is None else findings
    height, width = size
    if not isinstance(polygons, list):
        raise InputError(f"{where}: 'segmentation' must be a list of polygons or a run-length encoding, but is {polygons!r}")
    rings: list[tuple[float, int, np.ndarray]] = []  # signed area, index, points
    for index, polygon in enumerate(polygons):
        place = f"{where}: segmentation[{index}]"
        points = points_of(polygon, place)
        if len(points) < 3:
            findings["thin"].append(f"{name} segmentation[{index}]")
            continue
        # A far coordinate would also make pycocotools walk its edge pixel by pixel, out of memory.
        if (points < [-width, -height]).any() or (points > [2 * width, 2 * height]).any():
            raise InputError(f"{place} lies far outside of its image of {width} x {height} pixels: is it that of another photo?")
        rings.append((signed_area(points), index, points))
    if not rings:
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), bool)
    every = np.concatenate([points for _, _, points in rings])
    if (every < 0).any() or (every > [width, height]).any():
        findings["outside"].append(name)

    rows, columns = window_of(every, size)
    mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), bool)
    rings.sort(key=lambda ring: -abs(ring[0]))
    for turn, index, points in rings:
        (ring_rows, ring_columns), ring = fill(points, size)
        top, left = ring_rows.start - rows.start, ring_columns.start - columns.start
        drawn = mask[top : top + ring.shape[0], left : left + ring.shape[1]]
        is_hole = (turn > 0) != (rings[0][0] > 0) and ring.any() and drawn[ring].mean() >= 0.9
        if is_hole:
            findings["hole"].append(f"{name} segmentation[{index}]")
        drawn[ring] = not is_hole
    return (rows, columns), mask


def fill(points: np.ndarray, size: tuple[int, int]) -> tuple[Window, np.ndarray]:
    """Points P x 2 of a polygon in an image of `size` -> the window it fills and the mask in it, by pycocotools' rule."""
    rows, columns = window_of(points, size)
    # Not shifted to the window's corner: pycocotools rounds ties by the coordinates' last bits, and a few pixels would differ.
    encoded = coco_mask.frPyObjects([points.ravel().tolist()], rows.stop, columns.stop)
    return (rows, columns), np.ascontiguousarray(coco_mask.decode(encoded)[rows, columns, 0]).view(bool)


def window_of(points: np.ndarray, size: tuple[int, int]) -> Window:
    """The rows and columns of an image of `size` that a polygon of `points` (P x 2) may touch."""
    limit = np.array(size[::-1])
    left, top = np.clip(np.floor(points.min(0)), 0, limit).astype(int).tolist()
    right, bottom = np.clip(np.ceil(points.max(0)) + 1, 0, limit).astype(int).tolist()
    return slice(top, max(bottom, top)), slice(left, max(right, left))


def mask_of_counts(segmentation: dict, size: tuple[int, int], where: str) -> np.ndarray:
    """A run-length encoding, {"size": [height, width], "counts": a list or pycocotools' text} -> mask H x W."""
    height, width = size
    if segmentation.get("size") != [height, width]:
        raise InputError(
            f"{where}: segmentation.size must be [{height}, {width}], the height and width of its image, "
            f"but is {segmentation.get('size')!r}"
        )
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = counts_of_text(counts)
    # pycocotools does not check the sum, and would fill the rest of the mask with whatever was in memory.
    if not isinstance(counts, list) or not all(type(n) is int and n >= 0 for n in counts) or sum(counts) != height * width:
        raise InputError(f"{where}: segmentation.counts must add up to the {height} x {width} pixels of its image: export it again")
    values = np.arange(len(counts)) % 2 == 1  # runs of 0 and 1 in turn, down the columns
    return np.ascontiguousarray(np.repeat(values, counts).reshape(width, height).T)


def cropped(mask: np.ndarray) -> tuple[Window, np.ndarray]:
    """A mask H x W -> the window around its pixels and a copy of what is in it, so that many small ones fit into memory."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return (slice(0, 0), slice(0, 0)), mask[:0, :0]
    window = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    return window, mask[window].copy()


def counts_of_text(text: str) -> list[int] | None:
    """pycocotools' compressed counts -> counts, or None. (Five bits a character; from the third count on, differences.)"""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # more to come
            continue
        if bits & 16:  # negative
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts if not shift else None


def rectangle_of(annotation: dict, where: str) -> list[float]:
    """The box of an annotation without an outline, as a polygon; turned about its centre, as CVAT's `attributes.rotation` says."""
    try:
        x, y, width, height = (float(value) for value in annotation["bbox"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{where} has no outline in 'segmentation' and no four numbers in 'bbox': redraw it") from None
    if not np.isfinite([x, y, width, height]).all() or width < 0 or height < 0:
        raise InputError(f"{where} has the 'bbox' {annotation['bbox']}, but x, y, width, height must be finite, sizes not negative")
    corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
    if angle := np.radians(rotation_of(annotation)):
        centre, turn = corners.mean(0), np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        corners = (corners - centre) @ turn + centre  # clockwise as one sees it, for y runs down
    return corners.ravel().tolist()


def rotation_of(annotation: dict) -> float:
    """Degrees, clockwise, by which the box of an annotation is turned; 0 where nothing says so."""
    attributes = annotation.get("attributes")
    rotation: Any = attributes.get("rotation") if isinstance(attributes, dict) else None
    rotation = number_of(rotation)
    return float(rotation) % 360 if type(rotation) in (int, float) and np.isfinite(rotation) else 0.0


def too_thin(segmentation: Any) -> bool:
    """Whether every polygon is a list of fewer than three points, so that nothing could be drawn."""
    polygons = segmentation if isinstance(segmentation, list) else [None]
    return all(isinstance(p, list) and len(p) in (0, 2, 4) and all(type(v) in (int, float) for v in p) for p in polygons)


def points_of(polygon: Any, place: str) -> np.ndarray:
    """[x0, y0, x1, y1, ...] -> P x 2 floats."""
    numbers: list = polygon if isinstance(polygon, list) else [None]
    if not is_finite(numbers) or len(numbers) % 2:
        raise InputError(f"{place} must be a list of x, y, x, y, ...: an even number of finite numbers")
    return np.array(numbers, np.float64).reshape(-1, 2)


def is_finite(numbers: list) -> bool:
    """Whether all are finite numbers."""
    return all(type(value) in (int, float) for value in numbers) and bool(np.isfinite(numbers).all())


def signed_area(points: np.ndarray) -> float:
    """P x 2 points of a polygon -> its area, positive or negative by the way it winds (the shoelace formula)."""
    x, y = (points - points[0]).T
    return 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def name_of(annotation: dict) -> str:
    """How a message names an annotation."""
    return f"annotation {annotation.get('id', 'without id')}"


def box_of(outline: Outline) -> np.ndarray:
    """Box (x, y, width, height) of an outline in pixels: of polygons' corners as they are, of run lengths' pixels."""
    segmentation = outline.annotation["segmentation"]
    if isinstance(segmentation, dict):
        rows, columns = (np.flatnonzero(outline.mask.any(axis=axis)) for axis in (1, 0))
        top, left = (window.start for window in outline.window)
        return np.array([left + columns[0], top + rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1], float)
    corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])
    return np.array([*corners.min(axis=0), *np.ptp(corners, axis=0)], float)


def crosses_itself(points: np.ndarray) -> bool:
    """Whether two edges of a polygon P x 2 properly cross (those that only touch do not count)."""
    starts, ends = points, np.roll(points, -1, axis=0)

    def side(origin: np.ndarray, tip: np.ndarray, point: np.ndarray) -> np.ndarray:  # of the line through both: -1, 0 or 1
        (ax, ay), (bx, by) = (tip - origin).T, (point - origin).T
        return np.sign(ax * by - ay * bx)

    for k in range(len(points) - 2):  # one edge against all later ones: P passes of P, so that long outlines need no P x P memory
        start, end, others, tips = starts[k : k + 1], ends[k : k + 1], starts[k + 2 :], ends[k + 2 :]
        apart = side(start, end, others) * side(start, end, tips) < 0
        if (apart & (side(others, tips, start) * side(others, tips, end) < 0)).any():
            return True
    return False


def iou(one: Outline, other: Outline) -> float:
    """Intersection over union of the pixels of two outlines of an image, 0..1."""
    (top, bottom), (left, right) = (
        (max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one.window, other.window, strict=True)
    )
    if top >= bottom or left >= right:
        return 0.0
    parts = []
    for outline in (one, other):
        rows, columns = outline.window
        parts.append(outline.mask[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start])
    both = np.count_nonzero(parts[0] & parts[1])
    return both / (one.area + other.area - both)
