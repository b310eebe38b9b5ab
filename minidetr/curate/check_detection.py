"""The checks of an annotation export in COCO's detection format: outlines one by one, then against each other."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from numbers import Real
from typing import Any

import numpy as np
from tqdm import tqdm

from minidetr.curate.checker import Checker, box_kind, is_a, size_text
from minidetr.curate.export import read_export
from minidetr.curate.findings import BREAKS
from minidetr.curate.outlines import Outline, box_of, crosses_itself, iou, outlines_of, rotation_of, signed_area, too_thin
from minidetr.curate.report import Report
from minidetr.errors import InputError
from minidetr.panoptic import MAX_PIXELS, Category


class DetectionChecker(Checker):
    """An annotation export under examination."""

    is_panoptic = False

    def check(self) -> Report:
        """Every annotation, image by image."""
        by_image: dict[int | str, list[tuple[str, dict]]] = {image_id: [] for image_id in self.images}
        numbers: set[Any] = set()
        fields = {"image_id": (int, str), "category_id": int}
        for where, annotation in self.entries(self.content, "annotations", fields):
            if self.annotation_of(where, annotation) is None:
                continue
            number = str(annotation.get("id", ""))
            if not number:
                self.found("annotation-without-id", where)
            elif number in numbers:
                self.found("annotation-id-twice", f"{where}.id {number}")
            numbers.add(number)
            by_image[annotation["image_id"]].append((where, annotation))
        segments = [(image_id, a["category_id"]) for image_id, entries in by_image.items() for _, a in entries]
        for image_id, entries in tqdm(by_image.items(), desc="checking", unit="image", disable=None):
            image = self.images[image_id]
            name, stated = image["file_name"], None
            width, height = (image.get(side, 0) for side in ("width", "height"))
            if is_a(width, int) and is_a(height, int) and width > 0 and height > 0:
                stated = width, height
            if stated and width * height > MAX_PIXELS:
                self.found("field", f"{name}: 'width' and 'height' are {size_text(stated)}, too large to draw", name)
                continue
            upright = self.check_photo(image, stated)
            size = stated or upright
            if size:
                self.check_annotations(name, size, entries)
            else:
                self.found("field", f"{name}: 'width' and 'height', and no photo to tell them", name)
        if not self.report.kinds(BREAKS):
            try:
                read_export(self.json_file, photos=self.photos)  # what assemble itself asks for
            except InputError as error:
                self.found("field", str(error))
        return self.finish(segments)

    def check_annotations(self, name: str, size: tuple[int, int], entries: list[tuple[str, dict]]) -> None:
        """The annotations of one image of `size` (width, height): one by one, then against each other."""
        drawn: list[Outline] = []
        contents = []
        for where, annotation in entries:
            place = f"{name}: {where} (id {annotation.get('id')}, {self.name(annotation)})"
            if annotation["category_id"] not in self.categories:
                self.found("unknown-category", f"{place}.category_id {annotation['category_id']}", name)
            if annotation.get("attributes"):
                self.found("attributes", f"{place}: {annotation['attributes']}", name)
            without_id = {key: value for key, value in annotation.items() if key != "id"}
            if without_id in contents:
                self.found("duplicate-annotation", place, name)
                continue
            contents.append(without_id)
            outline = self.check_outline(annotation, size, place, name)
            if outline is not None:
                drawn.append(outline)
        canvas = np.zeros(size[::-1], bool)  # H W
        for outline in drawn:
            canvas[outline.window] |= outline.mask
        covered, areas = int(np.count_nonzero(canvas)), np.array([outline.area for outline in drawn], np.int64)
        self.check_image(name, [outline.annotation for outline in drawn], areas, covered, size)
        for one, other in combinations(drawn, 2):
            if one.category.id == other.category.id and iou(one, other) > 0.8:
                self.found("drawn-twice", f"{name}: ids {one.annotation.get('id')} and {other.annotation.get('id')}", name)
        twice = (areas.sum() - covered) / canvas.size
        if twice > 0.1:
            self.found("overlap", f"{name}: {100 * twice:.0f} % of the image", name)

    def check_outline(self, annotation: dict, size: tuple[int, int], place: str, name: str) -> Outline | None:
        """One annotation's polygons or run lengths, and its 'area' and 'bbox' against what assemble draws of them, if anything."""
        drawable: Any = annotation.get("segmentation")
        stated: Any = annotation.get("area")
        box_alone = not drawable or "bbox" in annotation and too_thin(drawable)
        if box_alone:
            self.found("no-outline", f"{place}, 'area' {stated}", name)
            if rotation_of(annotation):
                self.found("turned-box", place, name)
            if drawable:
                self.check_polygons(drawable, size, place, name)
            drawable = []
        elif not isinstance(drawable, dict):
            drawable = self.check_polygons(drawable if isinstance(drawable, list) else [drawable], size, place, name)
        remarks: dict[str, list[str]] = defaultdict(list)
        category = Category(annotation["category_id"], "", is_thing=True)
        try:
            copy = annotation | {"segmentation": drawable}
            drawn = outlines_of([copy], {category.id: category}, size[::-1], "", remarks) if drawable or box_alone else []
            outline = next(iter(drawn), None)
        except InputError as error:
            self.found("field" if box_alone else "run-lengths", f"{name}{error}", name)
            return None
        if outline is None:
            self.found("paints-nothing", f"{place}, 'area' {stated}", name)
        if outline is None or box_alone:  # a box says nothing to compare with
            return outline
        if remarks["hole"]:
            self.found("hole", f"{place}: {len(remarks['hole'])} holes", name)
        difference = abs(stated - outline.area) if is_a(stated, Real) else np.inf
        if difference >= 1:
            kind = "stale-area" if difference > max(0.05 * outline.area, 2) else "small-area-difference"
            self.found(kind, f"{place} has {outline.area} pixels, 'area' is {stated}", name)
        box = box_of(outline)
        kind_of_box = box_kind(annotation.get("bbox"), box)
        if kind_of_box:
            self.found(kind_of_box, f"{place} has the box {box.round(2).tolist()}, 'bbox' is {annotation.get('bbox')}", name)
        return outline

    def check_polygons(self, polygons: list, size: tuple[int, int], place: str, name: str) -> list[list[float]]:
        """The polygons of an annotation that can be drawn; `size` is the image's (width, height)."""
        good = []
        for index, polygon in enumerate(polygons):
            where = f"{place}.segmentation[{index}]"
            if not isinstance(polygon, list) or not all(is_a(value, Real) and np.isfinite(value) for value in polygon):
                self.found("field", f"{where} is no list of numbers", name)
            elif len(polygon) % 2:
                self.found("polygon-odd", f"{where} has {len(polygon)} coordinates", name)
            elif len(polygon) < 6:
                self.found("polygon-short", f"{where} has {len(polygon) // 2} points", name)
            else:
                points = np.reshape(polygon, (-1, 2))
                beyond = np.maximum(-points, points - size).max(axis=0)  # by how many pixels it reaches out, in x and y
                if (beyond > size).any():
                    self.found("polygon-far", f"{where} reaches out by {beyond.max():.0f} pixels", name)
                    continue
                if (beyond > 1).any():
                    self.found("outside", f"{where} reaches out by {beyond.max():.0f} pixels", name)
                if crosses_itself(points):
                    self.found("polygon-crossing", where, name)
                elif not signed_area(points):  # (the two halves of an 8 add up to 0)
                    self.found("polygon-empty", where, name)
                good.append(polygon)
        return good
