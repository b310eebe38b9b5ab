"""What is looked at in both formats alike: categories, images, file names, photos, and what only the whole shows.

A check is a method of a `Checker` that calls `found(kind, where, image)`; every kind is a line of `findings.KINDS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minidetr.curate.report import Report
from minidetr.curate.split import looks, same_looks
from minidetr.data.foreign import LEFT_OUT, many_crowds, new_remarks, plain
from minidetr.data.images import EXIF_ORIENTATION, open_image, read_image
from minidetr.data.names import Finder
from minidetr.errors import InputError
from minidetr.panoptic import leads_out

LONGEST = 1333  # pixels: longer photos are reduced to this before the model sees them
CELL = 4 * 4  # pixels of the image behind one cell of the predicted masks


class Checker(ABC):
    """One file under examination; what is found goes to `report`. A format says how to `check` its annotations."""

    is_panoptic: bool

    def __init__(self, json_file: Path, content: dict, photos: Path | None, queries: int) -> None:
        self.report = Report(json_file)
        remarks, panoptic_dir = new_remarks(), json_file.parent / "panoptic"
        pngs = Finder(panoptic_dir) if self.is_panoptic and panoptic_dir.is_dir() else None
        content = plain(content, self.is_panoptic, remarks, Finder(photos) if photos is not None else None, pngs)
        for kind, places in remarks.items():
            self.report.found[kind] += places
        self.json_file, self.content, self.photos, self.queries = json_file, content, photos, queries
        self.report.images = sum(1 for _ in self.listed("images"))
        self.categories = self._check_categories()
        self.images = self._check_images()
        self.bits: dict[str, np.ndarray] = {}  # what each photo looks like
        self.pixels = self.covered = 0
        self.every: Counter[int] = Counter()
        self.crowds: Counter[int] = Counter()

    @abstractmethod
    def check(self) -> Report:
        """Look at everything."""

    def found(self, kind: str, where: str, image: str = "") -> None:
        self.report.found[kind].append((image, where))

    def listed(self, key: str) -> Iterator[tuple[int, Any]]:
        """The entries of a list of the file with their places, but for those that `data.foreign.plain` left out."""
        return ((i, entry) for i, entry in enumerate(self.content[key]) if not (isinstance(entry, dict) and LEFT_OUT in entry))

    def entries(
        self, owner: dict, key: str, fields: dict[str, Any], where: str = "", image: str = ""
    ) -> Iterator[tuple[str, dict]]:
        """(where, entry) for the entries of a list that have the fields, of the right type; the others are found wanting."""
        for index, entry in self.listed(key) if owner is self.content else enumerate(owner[key]):
            place = f"{where}{key}[{index}]"
            wrong = [name for name, kind in fields.items() if not is_a(entry.get(name) if isinstance(entry, dict) else None, kind)]
            for name in wrong:
                self.found("field", f"{place}.{name}", image)
            if not wrong:
                yield place, entry

    def _check_categories(self) -> dict[int, dict]:
        categories: dict[int, dict] = {}
        names: Counter[str] = Counter()
        for where, entry in self.entries(self.content, "categories", {"id": int, "name": str}):
            if entry["id"] < 0:
                self.found("field", f"{where}.id is {entry['id']}, but ids count the model's outputs from 0")
            if entry["id"] in categories:
                self.found("category-id-twice", f"{where}.id {entry['id']}")
            if entry.get("isthing") not in (0, 1):
                unsaid = "isthing" not in entry and not self.is_panoptic
                self.found("isthing-unsaid" if unsaid else "isthing", f"{where} ({entry['name']})")
            names[entry["name"]] += 1
            categories.setdefault(entry["id"], entry)
        for name, count in names.items():
            if count > 1:
                self.found("category-name-twice", f"{name!r} ({count} times)")
        return categories

    def _check_images(self) -> dict[int | str, dict]:
        images: dict[int | str, dict] = {}
        by_name: dict[str, str] = {}
        for where, entry in self.entries(self.content, "images", {"id": (int, str), "file_name": str}):
            name = entry["file_name"]
            if entry["id"] in images:
                self.found("image-id-twice", f"{where}.id {entry['id']}", name)
            images.setdefault(entry["id"], entry)
            self.check_name(where, name, by_name)
        return images

    def check_name(self, where: str, name: str, by_name: dict[str, str]) -> None:
        """A file name must lie in its folder and be used once; `by_name` holds the place of those seen before."""
        if leads_out(name):
            self.found("file-name", f"{where}.file_name {name!r}", name)
        if name in by_name:
            self.found("file-twice", f"{where}.file_name {name!r}, as {by_name[name]}", name)
        by_name.setdefault(name, where)

    def annotation_of(self, where: str, entry: dict) -> dict | None:
        """The image an annotation belongs to, or None."""
        if entry["image_id"] not in self.images:
            self.found("unknown-image", f"{where}.image_id {entry['image_id']}")
        return self.images.get(entry["image_id"])

    def check_photo(self, image: dict, size: tuple[int, int] | None) -> tuple[int, int] | None:
        """Compare a photo with `size` (width, height), that of the annotation; its own upright size, or None without a photo."""
        name = image["file_name"]
        if self.photos is None or leads_out(name):
            return None
        if leads_out(name, self.photos):
            self.found("file-name", f"{name!r} is a link out of {self.photos}", name)
            return None
        if not (self.photos / name).is_file():
            self.found("no-photo", name, name)
            return None
        try:
            stored = open_image(self.photos / name)
            upright = read_image(stored if stored.mode == "RGB" else self.photos / name)
        except InputError as error:
            self.found("photo", str(error), name)
            return None
        self.bits[name] = looks(upright)
        orientation = stored.getexif().get(EXIF_ORIENTATION, 1)
        if stored.mode != "RGB" or stored.has_transparency_data:
            self.found("photo-mode", f"{name} is {stored.mode}", name)
        if orientation in range(2, 9):
            turned = exif_case(stored, upright, size)
            turned = "exif-unturned" if turned == "exif-unrotated" and not self.is_panoptic else turned  # assemble sees to it
            self.found(turned, f"{name} has the EXIF orientation {orientation}", name)
        if size and size not in (upright.size, stored.size):
            self.found("size", f"{name} is {size_text(upright.size)}, its annotation {size_text(size)}", name)
        return upright.size

    def check_image(self, name: str, segments: list[dict], areas: np.ndarray, covered: int, size: tuple[int, int]) -> None:
        """What is worth knowing about an image's segments: `areas` in pixels, `covered` of the image's width x height, `size`."""
        pixels = size[0] * size[1]
        self.covered += covered
        self.pixels += pixels
        if covered < pixels / 2 and segments:
            self.found("mostly-void", f"{name}: {100 * (1 - covered / pixels):.0f} % void", name)
        if len(segments) > self.queries:
            self.found("queries", f"{name}: {len(segments)} segments, {self.queries} queries", name)
        if not segments:
            self.found("empty-image", name, name)
        said = [self.categories[s["category_id"]].get("isthing") for s in segments if s["category_id"] in self.categories]
        things = set(said) if all(value in (0, 1) for value in said) else set()
        if things == {0}:
            self.found("no-thing", name, name)
        if things == {1}:
            self.found("no-stuff", name, name)
        scale = min(1.0, LONGEST / max(size))
        for segment, area in zip(segments, areas, strict=True):
            self.every[segment["category_id"]] += 1
            if segment.get("iscrowd") == 1:
                self.crowds[segment["category_id"]] += 1
                self.found("crowd", f"{name}: segment {segment.get('id')} ({self.name(segment)})", name)
            if 0 < area * scale**2 < CELL:
                self.found("tiny", f"{name}: segment {segment.get('id')} ({self.name(segment)}) has {area} pixels", name)

    def name(self, segment: dict) -> str:
        return self.categories.get(segment["category_id"], {}).get("name", f"category {segment['category_id']}")

    def finish(self, segments: list[tuple[Any, int]]) -> Report:
        """What only the whole shows. `segments` are (image id, category id)."""
        report = self.report
        report.segments = len(segments)
        report.void = 1 - self.covered / self.pixels if self.pixels else None
        count = Counter(category for _, category in segments)
        in_images = Counter(category for _, category in set(segments))
        most = max(count.values(), default=0)
        things = {number: entry["name"] for number, entry in self.categories.items() if entry.get("isthing") != 0}
        for many in many_crowds(self.every, self.crowds, things):
            self.found("many-crowds", many)
        for category_id, entry in self.categories.items():
            name = entry["name"]
            report.classes[name] = {"images": in_images[category_id], "segments": count[category_id]}
            if not count[category_id]:
                self.found("class-unused", name)
            elif in_images[category_id] == 1:
                self.found("class-once", name)
            if 0 < 100 * count[category_id] < most:
                self.found("imbalance", f"{name}: {count[category_id]} of {most}")
        if self.bits:
            names = np.array(list(self.bits))
            groups = same_looks(np.array(list(self.bits.values())))
            for group, members in Counter(groups.tolist()).items():
                if members > 1:
                    first, *others = names[groups == group].tolist()
                    for other in others:
                        self.found("near-duplicate", f"{other} looks like {first}", other)
        if self.photos is not None:
            self.unlisted(self.photos, {image["file_name"] for image in self.images.values()})
        return report

    def unlisted(self, folder: Path, listed: set[str]) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and str(path.relative_to(folder)) not in listed:
                self.found("unlisted-file", f"{folder.name}/{path.relative_to(folder)}")


def exif_case(stored: Image.Image, upright: Image.Image, size: tuple[int, int] | None) -> str:
    """The kind of finding for a photo with an EXIF orientation, whose annotation has the `size` (width, height), if known."""
    if size is None or stored.size == upright.size:
        return "exif-unclear"
    return "exif-unrotated" if size == stored.size else "exif-upright" if size == upright.size else "exif-unclear"


def is_a(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)  # True is no number here


def size_text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def box_kind(stated: object, box: np.ndarray) -> str | None:
    """Whether a stated box (x, y, width, height) is stale, or off by a convention, or right (None)."""
    if not isinstance(stated, list) or len(stated) != 4 or not all(is_a(value, Real) for value in stated):
        return "stale-box"
    corners, expected = (np.array([x, y, x + w, y + h], float) for x, y, w, h in (stated, box))
    difference = np.abs(corners - expected).max()
    return None if difference <= 0.02 else "box-convention" if difference <= 1.01 else "stale-box"
