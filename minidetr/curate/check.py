"""Everything wrong or odd in a data set, by file and field, counted, what matters most first.

Two kinds of input: a panoptic data set (panoptic.json, images/, panoptic/), and an annotation export in COCO's detection format
(polygons or run lengths), which is what annotation tools write. Nothing is changed here; `minidetr.curate.fix` mends.

Every kind of finding is a line of `KINDS`. A check is a method of `_Checker` that calls `found(kind, where, image)`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from numbers import Real
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from minidetr.curate.outlines import Outline, outlines_of, signed_area
from minidetr.curate.split import looks, same_looks
from minidetr.data.coco import read_panoptic_json
from minidetr.data.images import open_image, read_image
from minidetr.errors import InputError
from minidetr.panoptic import MAX_PIXELS, Category, boxes_of_ids, decode_ids, leads_out, read_json

LEVELS = ("breaks training", "bends a metric", "good to know")
BREAKS, BENDS, KNOW = range(3)

QUERIES = 100  # of the published models
LONGEST = 1333  # pixels: longer photos are reduced to this before the model sees them
CELL = 4 * 4  # pixels of the image behind one cell of the predicted masks
EXIF_ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)  # values of it that exchange width and height

# kind: (level, what it is, how `--fix` mends it; empty: it would have to guess)
KINDS: dict[str, tuple[int, str, str]] = {
    "field": (BREAKS, "a field is missing or holds the wrong kind of value", ""),
    "file-name": (BREAKS, "file name that leads out of its folder", ""),
    "isthing": (BREAKS, "category without 'isthing' 0 or 1: nothing says whether it is a thing or stuff", ""),
    "category-id-twice": (BREAKS, "category id used twice", "identical entries are dropped"),
    "image-id-twice": (BREAKS, "image id used twice", "identical entries are dropped"),
    "image-annotation-twice": (BREAKS, "image with two panoptic annotations", "identical entries are dropped"),
    "segment-id-twice": (BREAKS, "segment id used twice in an image", "identical entries are dropped"),
    "segment-id-range": (BREAKS, "segment id outside 1..16777215: 0 is void, and a PNG holds no more", ""),
    "unknown-image": (BREAKS, "annotation of an image that is not listed", ""),
    "unknown-category": (BREAKS, "category id that is not listed", ""),
    "image-without-annotation": (BREAKS, "image without a panoptic annotation", ""),
    "photo": (BREAKS, "photo is missing or can't be read", ""),
    "png": (BREAKS, "panoptic PNG is missing or can't be read", ""),
    "png-mode": (BREAKS, "panoptic PNG is not RGB with 8 bits a channel", "written as RGB where one reading alone fits the JSON"),
    "size": (BREAKS, "photo and annotation have different sizes", ""),
    "exif-unrotated": (BREAKS, "photo is turned by its EXIF orientation, its annotation is not", "written without turning"),
    "id-not-listed": (BREAKS, "PNG has pixels of an id that the JSON does not list", ""),
    "id-without-pixel": (BREAKS, "JSON lists a segment without a pixel in the PNG", "dropped, unless an id is not listed"),
    "polygon-odd": (BREAKS, "polygon with an odd number of coordinates", ""),
    "polygon-far": (BREAKS, "polygon far outside of its image", ""),
    "run-lengths": (BREAKS, "run lengths that do not fit the image's size", ""),
    "same-stem": (BREAKS, "images whose PNGs would have the same name", ""),
    "no-outline": (BENDS, "annotation without an outline: assemble draws its box, without one the object is lost", ""),
    "paints-nothing": (BENDS, "outline that covers no pixel: the object is lost", ""),
    "polygon-short": (BENDS, "polygon of fewer than 3 points: left out by assemble, 2 are read as a box by pycocotools", "dropped"),
    "stale-area": (BENDS, "'area' differs from the pixels", "counted again"),
    "stale-box": (BENDS, "'bbox' disagrees with the pixels by more than a pixel", "measured again"),
    "json-size": (BENDS, "'width' and 'height' in the JSON differ from the photo's and PNG's", "written again"),
    "exif-unclear": (BENDS, "photo is turned by its EXIF orientation, and no size tells whether its annotation is", ""),
    "duplicate-annotation": (BENDS, "annotation identical to another but for its id", "dropped"),
    "drawn-twice": (BENDS, "two annotations of one class cover the same pixels (IoU above 0.8)", ""),
    "stuff-twice": (BENDS, "stuff class with several segments in an image, each counted by the metric", ""),
    "category-name-twice": (BENDS, "category name used twice", ""),
    "file-twice": (BENDS, "two images with the same photo or PNG", ""),
    "near-duplicate": (BENDS, "photo looks like another one; `minidetr data split` keeps them on one side", ""),
    "annotation-id-twice": (BENDS, "annotation id used twice: pycocotools keeps the last one only", "numbered again"),
    "hole": (KNOW, "outline with holes (polygons that wind the other way): assemble cuts them out, COCO's tools fill them", ""),
    "isthing-unsaid": (KNOW, "category without 'isthing': assemble takes it for a thing unless --stuff names it", ""),
    "outside": (KNOW, "polygon reaches out of the image by more than a pixel: what is outside is cut off", ""),
    "polygon-empty": (KNOW, "polygon with an area of 0 (a dot or a line)", "dropped"),
    "polygon-crossing": (KNOW, "polygon crosses itself: tools disagree on what it encloses", ""),
    "small-area-difference": (KNOW, "'area' differs from the pixels by at most 5 %: another convention", "counted again"),
    "box-convention": (KNOW, "'bbox' is off by at most a pixel: measured by another convention", "measured again"),
    "exif-upright": (KNOW, "photo is turned by its EXIF orientation, its annotation too: some tools ignore it", "written upright"),
    "photo-mode": (KNOW, "photo is not RGB (grey, palette, 16 bits, CMYK, transparent): converted on reading", "written as RGB"),
    "empty-image": (KNOW, "image without any segment", ""),
    "no-thing": (KNOW, "image with stuff only", ""),
    "no-stuff": (KNOW, "image with things only", ""),
    "mostly-void": (KNOW, "more than half of the image belongs to no segment", ""),
    "overlap": (KNOW, "outlines overlap on more than a tenth of the image: assemble's --order decides", ""),
    "tiny": (KNOW, "segment smaller than a cell of the predicted masks (4 x 4 pixels, as the model sees the photo)", ""),
    "queries": (KNOW, "image with more segments than the model has queries", ""),
    "crowd": (KNOW, "crowd: not trained on, never counted as missed", ""),
    "class-unused": (KNOW, "class that no segment has", ""),
    "class-once": (KNOW, "class in one image only: it can be trained on or measured, not both", ""),
    "imbalance": (KNOW, "class with less than a hundredth of the most frequent class's segments", ""),
    "attributes": (KNOW, "annotation with 'attributes' of the annotation tool, which are not read", ""),
    "unlisted-file": (KNOW, "file that the JSON does not name", ""),
}


@dataclass
class Report:
    """What was found. `found` holds for each kind its places, (image file or "", where in words), in the order of the file."""

    path: Path
    images: int = 0
    segments: int = 0
    void: float | None = None  # share of all pixels that belong to no segment
    classes: dict[str, dict[str, int]] = field(default_factory=dict)  # name -> {"images", "segments"}
    found: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    unchecked: list[str] = field(default_factory=list)  # what was not looked at, and why

    def kinds(self, *levels: int) -> list[str]:
        """The kinds found (of these levels only), what matters most first: by level, then by how often."""
        chosen = [kind for kind in self.found if not levels or KINDS[kind][0] in levels]
        return sorted(chosen, key=lambda kind: (KINDS[kind][0], -len(self.found[kind]), list(KINDS).index(kind)))

    def table(self, examples: int = 3) -> str:
        """The findings for reading: count, what it is, whether `--fix` mends it, and a few places of each."""
        void = "" if self.void is None else f", {100 * self.void:.1f} % of the pixels are void"
        lines = [f"{self.path}: {self.images} images, {self.segments} segments, {len(self.classes)} classes{void}", *self.unchecked]
        level = None
        for kind in self.kinds():
            this_level, title, mend = KINDS[kind]
            if this_level != level:
                lines += ["", LEVELS[this_level]]
                level = this_level
            places = self.found[kind]
            lines.append(f"{len(places):>7}  {title}" + (f" [--fix: {mend}]" if mend else ""))
            lines += [f"{'':9}- {where}" for _, where in places[:examples]]
            lines += [f"{'':9}- and {len(places) - examples} more"] * (len(places) > examples)
        return "\n".join(lines if self.found else [*lines, "nothing wrong or odd found"])

    def to_json(self) -> dict:
        """Everything, with every place of every finding."""
        findings = []
        for kind in self.kinds():
            level, title, mend = KINDS[kind]
            places = [{"image": image, "where": where} for image, where in self.found[kind]]
            entry = {"kind": kind, "level": LEVELS[level], "what": title, "count": len(places), "fix": mend or None}
            findings.append(entry | {"places": places})
        summary = {"path": str(self.path), "images": self.images, "segments": self.segments, "void": self.void}
        return summary | {"unchecked": self.unchecked, "classes": self.classes, "findings": findings}

    def trouble(self) -> dict[str, list[str]]:
        """Image file -> the kinds found in it, the worst first; images with none are left out."""
        by_image: dict[str, list[str]] = defaultdict(list)
        for kind in self.kinds():
            for image in dict.fromkeys(image for image, _ in self.found[kind]):
                if image:
                    by_image[image].append(kind)
        return dict(by_image)


def check(path: str | Path, photos: str | Path | None = None, queries: int = QUERIES) -> Report:
    """Look for everything wrong or odd in a data set.

    `path` is the folder of a panoptic data set, or a COCO JSON file: an export in detection format, or a panoptic JSON, whose
    PNGs are then looked for in `panoptic/` beside it. `photos` is the folder of the photos; those of a data set are in its
    `images/`, those of a JSON file are not checked without it. `queries` is the number of objects that the model can find. Raises
    InputError when there is no such file or it holds no COCO data at all; everything else is a finding.
    """
    path = Path(path)
    json_file = path / "panoptic.json" if path.is_dir() else path
    if path.is_dir() and not json_file.is_file():
        raise InputError(f"{json_file} is missing: give a folder that holds panoptic.json, images/ and panoptic/, or a JSON file")
    content = read_json(json_file)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise InputError(f"{json_file} has no list '{key}': a COCO file has images, annotations and categories")
    if photos is not None and not Path(photos).is_dir():
        raise InputError(f"{photos} is not a folder: give the folder of the photos")
    if photos is None and path.is_dir():
        photos = path / "images"
    checker = _Checker(json_file, content, Path(photos) if photos else None, queries)
    if photos is None:
        checker.report.unchecked.append("photos are not checked: give their folder with --photos")
    return checker.check_panoptic() if is_panoptic(content) else checker.check_detection()


def is_panoptic(content: dict) -> bool:
    """Whether a COCO file's annotations are of the panoptic format; else they are of the detection format."""
    return any(isinstance(a, dict) and "segments_info" in a for a in content["annotations"])


class _Checker:
    """One file under examination; what is found goes to `report`."""

    def __init__(self, json_file: Path, content: dict, photos: Path | None, queries: int) -> None:
        self.report = Report(json_file, images=len(content["images"]))
        self.json_file, self.content, self.photos, self.queries = json_file, content, photos, queries
        self.categories = self._check_categories()
        self.images = self._check_images()
        self.bits: dict[str, np.ndarray] = {}  # what each photo looks like
        self.pixels = self.covered = 0

    def found(self, kind: str, where: str, image: str = "") -> None:
        self.report.found[kind].append((image, where))

    def entries(
        self, owner: dict, key: str, fields: dict[str, type], where: str = "", image: str = ""
    ) -> Iterator[tuple[str, dict]]:
        """(where, entry) for the entries of a list that have the fields, of the right type; the others are found wanting."""
        for index, entry in enumerate(owner[key]):
            place = f"{where}{key}[{index}]"
            wrong = [name for name, kind in fields.items() if not _is(entry.get(name) if isinstance(entry, dict) else None, kind)]
            for name in wrong:
                self.found("field", f"{place}.{name}", image)
            if not wrong:
                yield place, entry

    # --- what both formats share ---

    def _check_categories(self) -> dict[int, dict]:
        categories: dict[int, dict] = {}
        names: Counter[str] = Counter()
        for where, entry in self.entries(self.content, "categories", {"id": int, "name": str}):
            if entry["id"] < 0:
                self.found("field", f"{where}.id is {entry['id']}, but ids count the model's outputs from 0")
            if entry["id"] in categories:
                self.found("category-id-twice", f"{where}.id {entry['id']}")
            if entry.get("isthing") not in (0, 1):
                unsaid = "isthing" not in entry and not is_panoptic(self.content)
                self.found("isthing-unsaid" if unsaid else "isthing", f"{where} ({entry['name']})")
            names[entry["name"]] += 1
            categories.setdefault(entry["id"], entry)
        for name, count in names.items():
            if count > 1:
                self.found("category-name-twice", f"{name!r} ({count} times)")
        return categories

    def _check_images(self) -> dict[int, dict]:
        images: dict[int, dict] = {}
        by_name: dict[str, str] = {}
        for where, entry in self.entries(self.content, "images", {"id": int, "file_name": str}):
            name = entry["file_name"]
            if entry["id"] in images:
                self.found("image-id-twice", f"{where}.id {entry['id']}", name)
            images.setdefault(entry["id"], entry)
            self.check_name(where, name, by_name)
        stems = Counter(Path(image["file_name"]).with_suffix("").as_posix().casefold() for image in images.values())
        for image in images.values():
            name = image["file_name"]
            if not is_panoptic(self.content) and stems[Path(name).with_suffix("").as_posix().casefold()] > 1:
                self.found("same-stem", name, name)
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
        try:
            stored = open_image(self.photos / name)
            upright = read_image(stored)
        except InputError as error:
            self.found("photo", str(error), name)
            return None
        self.bits[name] = looks(upright)
        orientation = stored.getexif().get(EXIF_ORIENTATION, 1)
        if stored.mode != "RGB" or stored.has_transparency_data:
            self.found("photo-mode", f"{name} is {stored.mode}", name)
        if orientation in range(2, 9):
            turned = exif_case(stored, upright, size)
            self.found(turned, f"{name} has the EXIF orientation {orientation}", name)
        if size and size not in (upright.size, stored.size):
            self.found("size", f"{name} is {_size(upright.size)}, its annotation {_size(size)}", name)
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
            if segment.get("iscrowd") == 1:
                self.found("crowd", f"{name}: segment {segment['id']} ({self.name(segment)})", name)
            if 0 < area * scale**2 < CELL:
                self.found("tiny", f"{name}: segment {segment['id']} ({self.name(segment)}) has {area} pixels", name)

    def name(self, segment: dict) -> str:
        return self.categories.get(segment["category_id"], {}).get("name", f"category {segment['category_id']}")

    def finish(self, segments: list[tuple[int, int]]) -> Report:
        """What only the whole shows. `segments` are (image id, category id)."""
        report = self.report
        report.segments = len(segments)
        report.void = 1 - self.covered / self.pixels if self.pixels else None
        count = Counter(category for _, category in segments)
        in_images = Counter(category for _, category in set(segments))
        most = max(count.values(), default=0)
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

    # --- panoptic ---

    def check_panoptic(self) -> Report:
        panoptic_dir = self.json_file.parent / "panoptic"
        has_pngs = self.json_file.name == "panoptic.json" or panoptic_dir.is_dir()
        if not has_pngs:
            self.report.unchecked.append("PNGs are not checked: there is no folder panoptic/ beside the JSON")
        by_name: dict[str, str] = {}
        segments: list[tuple[int, int]] = []
        seen: dict[int, str] = {}
        listed = set()
        fields = {"image_id": int, "file_name": str, "segments_info": list}
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
                self.found("json-size", f"{image['file_name']}: {stated} in the JSON, the PNG is {_size(size)}", image["file_name"])
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
            coded = open_image(folder / png)
        except InputError as error:
            self.found("png", str(error), name)
            return None
        segment_ids = read_ids_of(coded, folder / png, {s["id"] for s in infos})
        if not is_coded(coded, folder / png):
            kind = "another" if segment_ids is None else "one"
            self.found("png-mode", f"{png} is {coded.mode}, {_bits(folder / png)} bits ({kind} reading fits the JSON)", name)
        if segment_ids is None:
            return coded.size
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
            kind = _box_kind(segment.get("bbox"), box)
            if kind:
                self.found(kind, f"{where} has the box {box.tolist()}, 'bbox' is {segment.get('bbox')}", name)
        covered = int((segment_ids != 0).sum())
        self.check_image(name, infos, areas, covered, coded.size)
        return coded.size

    # --- detection ---

    def check_detection(self) -> Report:
        by_image: dict[int, list[tuple[str, dict]]] = {image_id: [] for image_id in self.images}
        numbers: set[int] = set()
        fields: dict[str, type] = {"id": int, "image_id": int, "category_id": int}
        for where, annotation in self.entries(self.content, "annotations", fields):
            if self.annotation_of(where, annotation) is None:
                continue
            if annotation["id"] in numbers:
                self.found("annotation-id-twice", f"{where}.id {annotation['id']}")
            numbers.add(annotation["id"])
            by_image[annotation["image_id"]].append((where, annotation))
        segments = [(image_id, a["category_id"]) for image_id, entries in by_image.items() for _, a in entries]
        for image_id, entries in tqdm(by_image.items(), desc="checking", unit="image", disable=None):
            image = self.images[image_id]
            size = image.get("width"), image.get("height")
            has_size = all(_is(side, int) and side > 0 for side in size)
            if has_size and size[0] * size[1] > MAX_PIXELS:
                self.found(
                    "field", f"{image['file_name']}: 'width' and 'height' are {_size(size)}, too large to draw", image["file_name"]
                )
                continue
            upright = self.check_photo(image, size if has_size else None)
            if has_size or upright:
                self.check_annotations(image["file_name"], size if has_size else upright, entries)
            else:
                self.found("field", f"{image['file_name']}: 'width' and 'height', and no photo to tell them", image["file_name"])
        return self.finish(segments)

    def check_annotations(self, name: str, size: tuple[int, int], entries: list[tuple[str, dict]]) -> None:
        """The annotations of one image of `size` (width, height): one by one, then against each other."""
        drawn: list[Outline] = []
        contents = []
        for where, annotation in entries:
            place = f"{name}: {where} (id {annotation['id']}, {self.name(annotation)})"
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
                self.found("drawn-twice", f"{name}: ids {one.annotation['id']} and {other.annotation['id']}", name)
        twice = (areas.sum() - covered) / canvas.size
        if twice > 0.1:
            self.found("overlap", f"{name}: {100 * twice:.0f} % of the image", name)

    def check_outline(self, annotation: dict, size: tuple[int, int], place: str, name: str) -> Outline | None:
        """One annotation's polygons or run lengths, and its 'area' and 'bbox' against what assemble draws of them, if anything."""
        drawable, stated = annotation.get("segmentation"), annotation.get("area")
        if not drawable:
            self.found("no-outline", f"{place}, 'area' {stated}", name)
            return None
        if not isinstance(drawable, dict):
            drawable = self.check_polygons(drawable if isinstance(drawable, list) else [drawable], size, place, name)
        remarks: dict[str, list[str]] = defaultdict(list)
        category = Category(annotation["category_id"], "", is_thing=True)
        try:
            copy = annotation | {"segmentation": drawable}
            outline = next(iter(outlines_of([copy], {category.id: category}, size[::-1], "", remarks) if drawable else ()), None)
        except InputError as error:
            self.found("run-lengths", f"{name}{error}", name)
            return None
        if outline is None:
            self.found("paints-nothing", f"{place}, 'area' {stated}", name)
            return None
        if remarks["hole"]:
            self.found("hole", f"{place}: {len(remarks['hole'])} holes", name)
        difference = abs(stated - outline.area) if _is(stated, Real) else np.inf
        if difference >= 1:
            kind = "stale-area" if difference > max(0.05 * outline.area, 2) else "small-area-difference"
            self.found(kind, f"{place} has {outline.area} pixels, 'area' is {stated}", name)
        box = box_of(outline)
        box_kind = _box_kind(annotation.get("bbox"), box)
        if box_kind:
            self.found(box_kind, f"{place} has the box {box.round(2).tolist()}, 'bbox' is {annotation.get('bbox')}", name)
        return outline

    def check_polygons(self, polygons: list, size: tuple[int, int], place: str, name: str) -> list[list[float]]:
        """The polygons of an annotation that can be drawn; `size` is the image's (width, height)."""
        good = []
        for index, polygon in enumerate(polygons):
            where = f"{place}.segmentation[{index}]"
            if not isinstance(polygon, list) or not all(_is(value, Real) and np.isfinite(value) for value in polygon):
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


# --- pixels and shapes ------------------------------------------------------------------------------------------------------


def exif_case(stored: Image.Image, upright: Image.Image, size: tuple[int, int] | None) -> str:
    """The kind of finding for a photo with an EXIF orientation, whose annotation has the `size` (width, height), if known."""
    if size is None or stored.size == upright.size:
        return "exif-unclear"
    return "exif-unrotated" if size == stored.size else "exif-upright" if size == upright.size else "exif-unclear"


def is_coded(image: Image.Image, path: Path) -> bool:
    """Whether a PNG is RGB with 8 bits a channel. Pillow opens 16 bits as RGB too, dropping the lower 8."""
    return image.mode == "RGB" and _bits(path) == 8


def read_ids_of(image: Image.Image, path: Path, listed: set[int]) -> np.ndarray | None:
    """The ids in a panoptic PNG, H W int32. If it is not RGB: by the one reading (colours, or grey values and palette places as
    ids) that gives exactly the ids `listed`; None if none or both do."""
    if is_coded(image, path):
        return decode_ids(np.asarray(image))
    readings = []
    if image.mode in ("P", "RGB", "RGBA", "L"):
        readings.append(decode_ids(np.asarray(image.convert("RGB"))))
    if np.asarray(image).ndim == 2:
        readings.append(np.asarray(image).astype(np.int32))
    fitting = [ids for ids in readings if set(np.unique(ids).tolist()) - {0} == listed]
    return fitting[0] if len(fitting) == 1 else None


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


def _box_kind(stated: object, box: np.ndarray) -> str | None:
    """Whether a stated box (x, y, width, height) is stale, or off by a convention, or right (None)."""
    if not isinstance(stated, list) or len(stated) != 4 or not all(_is(value, Real) for value in stated):
        return "stale-box"
    corners, expected = (np.array([x, y, x + w, y + h], float) for x, y, w, h in (stated, box))
    difference = np.abs(corners - expected).max()
    return None if difference <= 0.02 else "box-convention" if difference <= 1.01 else "stale-box"


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)  # True is no number here


def _bits(path: Path) -> int:
    """Bits a channel of a PNG: the 25th byte of the file; 8 for other formats."""
    with path.open("rb") as file:
        head = file.read(25)
    return head[24] if head.startswith(b"\x89PNG") else 8


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
