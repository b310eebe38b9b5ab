"""The construction project's export of 250 images, assembled, against what the project's own panoptic file says of them.

Its export has 840 annotations of 250 images; its panoptic file has 839 segments. Where the two files meet is simple: every segment
carries the category, the area and the box of one annotation, copied to the last digit. They were never counted on the panoptic
pixels, so they say what an annotation was before anything covered it, and minidetr's say what remains. From theirs to ours:

Which segments there are
- Theirs lacks one thing (annotation 21521, a fixture in front of a larger one). It painted in the order of the file, later over
  earlier, so the larger one hid it; with `order="listed"` it disappears here, too. Smaller on top, it stays.
- Ours lacks one stuff segment (annotation 8772): its outline encloses no pixel.

What an annotation is by itself
- The area of a thing is the number of pixels that its polygons fill by pycocotools' rule, and is ours exactly, for all 335.
- One thing (annotation 26986) has no outline, only a box. Theirs gives it the box's width times height, unrounded; ours paints
  the rectangle.
- The box of a thing is the extent of its polygon in fractions of a pixel; ours is that of its pixels, within one pixel on each
  side. A few polygons end in a tip thinner than a pixel, which has no pixel: there ours ends earlier.
- Stuff was a model's mask. Its area and its box (whole pixels, right and bottom side exclusive, like ours) are the mask's; what
  the export holds is an outline traced from the mask later: its corners lie between the centres of pixels, so that it is shifted by
  half a pixel to the upper left, cut by half a pixel at the right and lower edge of the image, and rounded off by up to
  two pixels. So areas differ by less than a pixel for each pixel of outline, and boxes by up to three pixels.
- Specks of a few pixels were not traced at all, or as a line, which has no pixel. Where one lay apart, their box reaches out to
  it and ours does not.
- The outlines of holes are further polygons that wind the other way. Read as COCO's tools read polygons, as a union, the holes are
  filled, and the areas of stuff around a thing would be up to twice as large; `assemble` cuts them out.

What remains of it
- Things and smaller stuff on top take pixels from what they cover, and the box of what remains may be smaller. How many pixels is
  counted here by pycocotools, independently.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from minidetr.curate.assemble import draw
from minidetr.curate.export import read_export
from minidetr.curate.outlines import Outline, fill, outlines_of, window_of
from tests.reference import REFERENCE, needs_reference

pytestmark = [needs_reference, pytest.mark.slow, pytest.mark.timeout(1200)]  # half a gigapixel
FOLDER = REFERENCE / "construction"
TRACED = 3.0  # pixels between a side of a mask and that of its traced outline: 2 rounded off, 0.5 by the shift, 0.5 by filling it


@dataclass
class Compared:
    """One annotation: what theirs says of it, why ours differs, and what ours says in the end."""

    annotation_id: int
    is_thing: bool
    in_theirs: bool
    in_ours: bool
    area: str  # kinds of difference
    box: str
    change: float  # our area over theirs, less 1
    covered: int  # pixels taken by what lies on top
    shrunk: bool  # whether the box of what remains is smaller than that of the whole
    is_right: bool  # ours is exactly what it is by itself, less what covers it


@pytest.fixture(scope="module")
def findings() -> dict[str, list[str]]:
    return defaultdict(list)


@pytest.fixture(scope="module")
def compared(findings) -> list[Compared]:
    """All annotations."""
    export = read_export(FOLDER / "export.json")
    theirs = {a["image_id"]: a["segments_info"] for a in json.loads((FOLDER / "segments.json").read_text())["annotations"]}
    rows: list[Compared] = []
    for image in export.images:
        annotations = export.annotations[image.id]
        outlines = {o.annotation["id"]: o for o in outlines_of(annotations, export.categories, image.size, export.path, findings)}
        segment_ids, segments = draw(list(outlines.values()), image.size, "smaller", findings)
        assert len(segments) == len(outlines)
        # Nothing is hidden and no class of stuff annotated twice, so both are in the order of the file.
        ours = dict(zip(outlines, segments, strict=True))

        said = Counter((s["category_id"], s["area"], tuple(s["bbox"])) for s in theirs[image.id])
        copied = Counter((a["category_id"], a["area"], tuple(a["bbox"])) for a in annotations)
        assert not said - copied  # every segment is the copy of an annotation
        assert max(copied.values()) == 1  # of one annotation only
        encoded = {number: encode(outline, image.size) for number, outline in outlines.items()}
        for a in annotations:
            in_theirs = (a["category_id"], a["area"], tuple(a["bbox"])) in said
            outline, segment = outlines.get(a["id"]), ours.get(a["id"])
            is_thing = export.categories[a["category_id"]].is_thing
            if not in_theirs:
                hidden: dict[str, list[str]] = defaultdict(list)
                draw(list(outlines.values()), image.size, "listed", hidden)
                assert hidden["hidden"] == [f"annotation {a['id']}"]
            if outline is None:
                assert is_outline(a["area"], 0, a)
                rows.append(Compared(a["id"], is_thing, in_theirs, False, "no pixel", "no pixel", -1.0, 0, False, True))
                continue
            above = coco_mask.merge([encoded[n] for n, other in outlines.items() if lies_on(other, outline)])
            covered = int(coco_mask.area(coco_mask.merge([encoded[a["id"]], above], intersect=True))) if above["counts"] else 0
            remains = box_of(outline.window, (segment_ids[outline.window] == segment["id"]) & outline.mask)
            is_right = (segment["category_id"], segment["area"], segment["bbox"]) == (
                a["category_id"],
                outline.area - covered,
                [remains[0], remains[1], remains[2] - remains[0], remains[3] - remains[1]],
            )
            shrunk = remains != box_of(outline.window, outline.mask)
            kinds = kind_of_area(a, outline), kind_of_box(a, outline, image.size)
            rows.append(
                Compared(a["id"], is_thing, in_theirs, True, *kinds, segment["area"] / a["area"] - 1, covered, shrunk, is_right)
            )
    return rows


def encode(outline: Outline, size: tuple[int, int]) -> dict:
    mask = np.zeros(size, np.uint8, order="F")
    mask[outline.window] = outline.mask
    return coco_mask.encode(mask)


def box_of(window: tuple[slice, slice], mask: np.ndarray) -> list[int]:
    """Left, top, right, bottom of a mask in a window of the image, right and bottom exclusive."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    top, left = (part.start for part in window)
    return [int(left + columns[0]), int(top + rows[0]), int(left + columns[-1] + 1), int(top + rows[-1] + 1)]


def lies_on(one: Outline, other: Outline) -> bool:
    """The documented rule, in other words than `draw` has it: things over stuff, the smaller over the larger."""
    if one.category.is_thing != other.category.is_thing:
        return one.category.is_thing
    return one.area < other.area or (one.area == other.area and one.annotation["id"] > other.annotation["id"])


def polygons_of(annotation: dict) -> list[np.ndarray]:
    return [np.reshape(polygon, (-1, 2)) for polygon in annotation["segmentation"]]


def is_outline(theirs: float, ours: int, annotation: dict) -> bool:
    """Whether two areas differ by less than a pixel for each pixel of outline."""
    length = sum(np.hypot(*(points - np.roll(points, 1, axis=0)).T).sum() for points in polygons_of(annotation))
    return abs(theirs - ours) < length


def kind_of_area(annotation: dict, outline: Outline) -> str:
    theirs, ours = annotation["area"], outline.area
    if theirs == ours:
        return "equal"
    if not annotation["segmentation"]:
        _, _, width, height = annotation["bbox"]
        return "rectangle" if theirs == pytest.approx(width * height) and abs(theirs - ours) < width + height else "unexplained"
    if not outline.category.is_thing and is_outline(theirs, ours, annotation):
        return "traced outline"
    return "unexplained"


def kind_of_box(annotation: dict, outline: Outline, size: tuple[int, int]) -> str:
    x, y, width, height = annotation["bbox"]
    theirs = np.array([x, y, x + width, y + height])
    ours = np.array(box_of(outline.window, outline.mask))
    polygons = polygons_of(annotation)
    if not polygons:
        return "fractions of a pixel" if np.abs(theirs - ours).max() < 1 else "unexplained"
    points = np.concatenate(polygons)
    extent = np.array([*points.min(0), *points.max(0)])
    if outline.category.is_thing:
        if np.abs(extent - theirs).max() > 0.011:  # both files have two decimals
            return "unexplained"
        far = np.flatnonzero(np.abs(ours - theirs) > 1)
        if not len(far):
            return "equal" if (ours == theirs).all() else "fractions of a pixel"
        return "thin tip" if all(is_tip(polygons, side, ours[side], theirs[side]) for side in far) else "unexplained"
    if (ours == theirs).all():
        return "equal"
    if np.abs(theirs - ours).max() <= TRACED:
        return "traced outline"
    traced = np.concatenate([points for points in polygons if fill(points, size)[1].any()])
    # How far their mask reached beyond every polygon of it that has a pixel.
    beyond = (theirs - [*traced.min(0), *traced.max(0)]) * [-1, -1, 1, 1]
    far = np.flatnonzero(np.abs(theirs - ours) > TRACED)
    is_explained = all(beyond[side] > TRACED or is_tip(polygons, side, ours[side], extent[side]) for side in far)
    return "specks" if is_explained else "unexplained"


def is_tip(polygons: list[np.ndarray], side: int, ours: float, theirs: float) -> bool:
    """Whether what the polygons have beyond our box, at that side of it, is thinner than a pixel on average."""
    axis, sign = side % 2, 1 if side >= 2 else -1
    beyond = sum(abs(area_beyond(points[:, axis] * sign, points[:, 1 - axis], ours * sign)) for points in polygons)
    return (theirs - ours) * sign > 0 and beyond < (theirs - ours) * sign


def area_beyond(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Signed area of the part of a polygon where x > limit (cut off after Sutherland and Hodgman)."""
    corners = []
    for x0, y0, x1, y1 in zip(x, y, np.roll(x, -1), np.roll(y, -1), strict=True):
        if x0 > limit:
            corners.append((x0, y0))
        if (x0 > limit) != (x1 > limit):
            corners.append((limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)))
    if not corners:
        return 0.0
    a, b = np.array(corners).T
    return 0.5 * float(a @ np.roll(b, -1) - b @ np.roll(a, -1))


def count(rows: list[Compared], name: str, is_thing: bool) -> Counter:
    return Counter(getattr(row, name) for row in rows if row.is_thing == is_thing)


def test_every_difference_has_its_reason(compared):
    for name in ("area", "box"):
        for is_thing in (True, False):
            print(f"{name} of {'things' if is_thing else 'stuff'}:", dict(count(compared, name, is_thing)))
    for name in ("covered", "shrunk"):
        print(
            f"{name}:",
            {is_thing: sum(bool(getattr(r, name)) for r in compared if r.is_thing == is_thing) for is_thing in (True, False)},
        )
    for is_thing in (True, False):
        changes = [row.change for row in compared if row.is_thing == is_thing and row.in_ours]
        print(
            f"our area / theirs - 1, {'things' if is_thing else 'stuff'}, at 0, 5, 25, 50, 75, 95, 100 %:",
            np.percentile(changes, [0, 5, 25, 50, 75, 95, 100]).round(4).tolist(),
        )
    assert len(compared) == 840 and sum(row.is_thing for row in compared) == 336
    assert [row for row in compared if "unexplained" in (row.area, row.box) or not row.is_right] == []


def test_which_segments_there_are(compared):
    assert sum(row.in_theirs for row in compared) == 839
    assert [row.annotation_id for row in compared if not row.in_theirs] == [21521]
    assert [row.annotation_id for row in compared if not row.in_ours] == [8772]


def test_areas_of_things_are_theirs_before_anything_covers_them(compared):
    assert count(compared, "area", True) == {"equal": 335, "rectangle": 1}
    assert count(compared, "box", True).keys() <= {"equal", "fractions of a pixel", "thin tip"}


def test_areas_of_stuff_are_those_of_traced_outlines(compared):
    assert count(compared, "area", False).keys() <= {"equal", "traced outline", "no pixel"}
    assert count(compared, "box", False).keys() <= {"equal", "traced outline", "specks", "no pixel"}


def test_what_the_summary_tells(compared, findings):
    assert {kind: len(places) for kind, places in findings.items() if kind != "hole"} == {"rectangle": 1, "empty": 1}
    assert findings["rectangle"] == ["annotation 26986"] and findings["empty"] == ["annotation 8772"]
    assert len(findings["hole"]) > 500


def test_without_holes_the_areas_would_be_far_off(compared):
    """The reason for cutting holes out: the same annotations filled as a union."""
    export = read_export(FOLDER / "export.json")
    filled = cut = 0.0
    for image in export.images[:40]:
        for outline in outlines_of(export.annotations[image.id], export.categories, image.size):
            polygons = polygons_of(outline.annotation)
            if outline.category.is_thing or len(polygons) < 2:
                continue
            rows, columns = window_of(np.concatenate(polygons), image.size)
            encoded = coco_mask.frPyObjects([p.ravel().tolist() for p in polygons if len(p) > 2], rows.stop, columns.stop)
            theirs = outline.annotation["area"]
            filled = max(filled, float(coco_mask.area(coco_mask.merge(encoded))) / theirs)
            cut = max(cut, outline.area / theirs)
    assert filled > 1.5 and cut < 1.1
