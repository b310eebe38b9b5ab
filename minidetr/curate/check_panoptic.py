"""The checks of a panoptic data set: its annotations, their segments and their PNGs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minidetr.curate.checker import Checker, box_kind, size_text
from minidetr.curate.findings import BREAKS
from minidetr.curate.report import Report
from minidetr.data.index import read_panoptic_json
from minidetr.data.pngs import open_png
from minidetr.errors import InputError
from minidetr.panoptic import boxes_of_ids, leads_out


class PanopticChecker(Checker):
    """A panoptic data set under examination."""

    is_panoptic = True
    void: Collection[int] = ()  # ids in PNGs that mean void

    def check(self) -> Report:
        """Every annotation with its PNG and its photo."""
        panoptic_dir = self.json_file.parent / "panoptic"
        has_pngs = self.json_file.name == "panoptic.json" or panoptic_dir.is_dir()
        if not has_pngs:
            self.report.unchecked.append("PNGs are not checked: there is no folder panoptic/ beside the JSON")
        by_name: dict[str, str] = {}
        segments: list[tuple[int | str, int]] = []
        seen: dict[int | str, str] = {}
        listed = set()
        fields = {"image_id": (int, str), "file_name": str, "segments_info": list}
        entries = tqdm(list(self.entries(self.content, "annotations", fields)), desc="checking", unit="image", disable=None)
        for where, annotation in entries:
            image = self.annotation_of(where, annotation)
            listed.add(annotation["file_name"])
            self.check_name(where, annotation["file_name"], by_name)
            if image is None:
                continue
            if image["id"] in seen:
                self.found("image-annotation-twice", f"{where} and {seen[image['id']]}", image["file_name"])
                continue
            seen[image["id"]] = where
            infos = self.check_segments(annotation, where, image["file_name"])
            segments += [(image["id"], s["category_id"]) for s in infos]
            size = self.check_png(panoptic_dir, annotation, infos, image) if has_pngs else None
            if size and (image.get("width"), image.get("height")) != size:
                stated = f"{image.get('width')} x {image.get('height')}"
                self.found(
                    "json-size", f"{image['file_name']}: {stated} in the JSON, the PNG is {size_text(size)}", image["file_name"]
                )
            self.check_photo(image, size)
        for image_id in self.images.keys() - seen.keys():
            self.found("image-without-annotation", f"image {image_id}", self.images[image_id]["file_name"])
        if has_pngs:
            self.unlisted(panoptic_dir, listed)
        if not self.report.kinds(BREAKS):
            try:
                read_panoptic_json(self.json_file)  # what training itself asks for
            except InputError as error:
                self.found("field", str(error))
        return self.finish(segments)

    def check_segments(self, annotation: dict, where: str, name: str) -> list[dict]:
        """The segments of an image that have an id and a category; each id once."""
        infos: dict[int, dict] = {}
        stuff: Counter[int] = Counter()
        for place, segment in self.entries(annotation, "segments_info", {"id": int, "category_id": int}, f"{where}.", name):
            if segment["id"] in self.void:
                continue
            if segment["id"] in infos:
                self.found("segment-id-twice", f"{place}.id {segment['id']} ({name})", name)
                continue
            if not 0 < segment["id"] < 256**3:
                self.found("segment-id-range", f"{place}.id {segment['id']} ({name})", name)
            if 0 <= segment["id"] < 256**3:
                infos[segment["id"]] = segment
            if segment["category_id"] not in self.categories:
                self.found("unknown-category", f"{place}.category_id {segment['category_id']} ({name})", name)
            elif self.categories[segment["category_id"]].get("isthing") == 0:
                stuff[segment["category_id"]] += not segment.get("iscrowd")
        for category_id, count in stuff.items():
            if count > 1:
                self.found("stuff-twice", f"{name}: {count} segments of {self.categories[category_id]['name']}", name)
        return list(infos.values())

    def check_png(self, folder: Path, annotation: dict, infos: list[dict], image: dict) -> tuple[int, int] | None:
        """Compare a PNG with the JSON's entries; its size (width, height), or None when it can't be read."""
        name, png = image["file_name"], annotation["file_name"]
        if leads_out(png, folder):
            if not leads_out(png):  # else it was found by its name
                self.found("file-name", f"{png!r} is a link out of {folder}", name)
            return None
        try:
            coded = open_png(folder / png)
        except InputError as error:
            self.found("png", str(error), name)
            return None
        segment_ids = coded.ids({s["id"] for s in infos}, self.void)
        if segment_ids is None:
            self.found("png-mode", str(coded.refusal({s["id"] for s in infos}, self.void)), name)
            return coded.image.size
        if not coded.is_coded:
            self.found("png-form", f"{png} is {coded.image.mode}, {coded.depth} bits", name)
        ids = np.array([s["id"] for s in infos], np.int64)
        for stranger in sorted(set(np.unique(segment_ids).tolist()) - {0} - set(ids.tolist())):
            self.found("id-not-listed", f"{png}: id {stranger}, {int((segment_ids == stranger).sum())} pixels", name)
        areas, boxes = boxes_of_ids(segment_ids, ids)
        for segment, area, box in zip(infos, areas.tolist(), boxes, strict=True):
            where = f"{png}: segment {segment['id']} ({self.name(segment)})"
            if not area:
                self.found("id-without-pixel", where, name)
                continue
            if segment.get("area") != area:
                self.found("stale-area", f"{where} has {area} pixels, 'area' is {segment.get('area')}", name)
            kind_of_box = box_kind(segment.get("bbox"), box)
            if kind_of_box:
                self.found(kind_of_box, f"{where} has the box {box.tolist()}, 'bbox' is {segment.get('bbox')}", name)
        covered = int((segment_ids != 0).sum())
        self.check_image(name, infos, areas, covered, coded.image.size)
        return coded.image.size
