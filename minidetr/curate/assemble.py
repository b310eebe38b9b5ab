"""An annotation export (COCO detection format, as CVAT and others write it) -> a panoptic data set.

An export holds outlines that may overlap; a panoptic data set holds one segment per pixel. `draw` is where the one becomes the
other, by one rule: things lie over stuff, crowds between the two, and within each kind the smaller lies on top.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minidetr.curate.export import EXPORT_FINDINGS, Export, ExportImage, read_export
from minidetr.curate.outlines import Outline, is_finite, name_of, outlines_of
from minidetr.data.coco import measured
from minidetr.data.foreign import READINGS
from minidetr.data.images import EXIF_ORIENTATION, open_image, read_image
from minidetr.data.index import read_panoptic_json
from minidetr.data.names import PHOTO_SUFFIXES, stem_of
from minidetr.data.pngs import read_ids
from minidetr.errors import InputError
from minidetr.panoptic import Category, encode_ids, path_inside, write_json, write_png
from minidetr.predict import output_folder

CROWDS = ("as-crowds", "as-objects")
ORDERS = ("smaller", "larger", "listed")
WRITTEN = ("panoptic.json", "panoptic", "detection.json", "images")

# What an export may hold beside plain outlines, and what is done about it: nothing is changed or left out without being counted.
FINDINGS = {
    **EXPORT_FINDINGS,
    **READINGS,
    "turned-box": "box with a rotation in its attributes (CVAT): drawn turned about its centre",
    "unreadable": "photo that can't be read: left out with its annotations",
    "rectangle": "annotation has no outline, only a box: drawn as that rectangle",
    "thin": "polygon has fewer than three points: left out",
    "hole": "polygon winds the other way inside another of its annotation: cut out of it as a hole",
    "outside": "annotation reaches beyond its image: cut off at the edge",
    "empty": "annotation covers no pixel: left out",
    "hidden": "annotation is hidden completely by what lies on top: left out",
    "crowd": "annotation of a thing is a crowd: kept as one, training leaves it out",
    "turned": "photo has a rotation in its EXIF data: saved again, upright",
    "unturned": "photo was annotated without the rotation in its EXIF data: saved again as it was annotated",
    "unannotated": "image has no annotation: all of it is void, or what lies under",
    "extra": "photo in the folder is not in the export: left out",
}


@dataclass
class Assembled:
    """What `assemble` made and what it met: `findings` lists, for each of `FINDINGS`, the annotations or files concerned."""

    images: int = 0
    things: int = 0
    stuff: int = 0
    pixels: int = 0
    void: int = 0
    photos: str = "none"
    linked: bool = False
    stuff_names: list[str] = field(default_factory=list)
    findings: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def summary(self) -> str:
        """A few lines to read: what was made, then every kind of finding with its number and the first of its places."""
        share = 100 * self.void / max(self.pixels, 1)
        lines = [
            f"{self.images} images, {self.things} thing and {self.stuff} stuff segments, {share:.1f} % of the pixels void",
            f"photos: {self.photos}" + ("; one changed in place changes in both folders" if self.linked else ""),
            f"stuff: {', '.join(self.stuff_names) or 'no category (name them with --stuff)'}",
        ]
        for kind, text in FINDINGS.items():
            if places := self.findings.get(kind):
                more = f" and {len(places) - 3} more" if len(places) > 3 else ""
                line = f"{len(places):6d} x {text} ({', '.join(places[:3])}{more})"
                lines.insert(0, f"ATTENTION:{line}") if kind in ("many-crowds", "only-stuff") else lines.append(line)
        return "\n".join(lines)


def assemble(
    export_json: str | Path,
    photos_dir: str | Path | None,
    out: str | Path,
    order: str = "smaller",
    stuff: Sequence[str] | None = None,
    under: str | Path | None = None,
    overwrite: bool = False,
    skip_missing: bool = False,
    crowds: str = "as-crowds",
    without: Collection[int] = (),
) -> Assembled:
    """Write OUT/panoptic.json, OUT/panoptic/*.png, OUT/detection.json (a box a segment) and OUT/images, whole or not at all.

    - `photos_dir` holds the photos by the export's file names. They are hard-linked, or copied where that cannot be; only one
      with a rotation in its EXIF data is saved again, so that every reader sees it as it was annotated. None: no photos, the
      sizes in the export are enough to draw.
    - `order` says what lies on top among outlines of a kind: the "smaller", the "larger", or what is "listed" later.
    - `stuff` names the stuff categories: names, ids and ranges of ids such as "1-16". None: what the categories' `isthing` says,
      and without one a category is of things, which is what people draw by hand.
    - `skip_missing` leaves out, and counts, annotations of unlisted images, and images whose photo is missing or can't be read.
    - `crowds`: "as-crowds" keeps things with `iscrowd` 1 as crowds, which are not trained on; "as-objects" reads them as objects.
    - `without`: ids of categories that are left out as if the export did not list them.
    - `under` is a folder that `label_stuff` wrote. Its segments fill the pixels that no annotation covers; classes of the same
      name are the same class, new ones get new ids.

    Areas and boxes are those of the pixels that remain. Pixels of nothing are void (0). Raises InputError for what cannot be
    drawn, naming the file, the annotation and the field; what can be drawn with a remark is counted in the result's findings.
    """
    if crowds not in CROWDS:
        raise InputError(f"crowds must be one of {', '.join(CROWDS)}, not {crowds!r}")
    if photos_dir is not None and not Path(photos_dir).is_dir():
        raise InputError(f"{photos_dir} is not a folder: give the folder of the photos, or - to do without")
    export = read_export(export_json, stuff, photos_dir, skip_missing, crowds, without)
    below = PredictedStuff(Path(under), export) if under is not None else None
    categories = below.categories if below else export.categories
    report = Assembled(stuff_names=[c.name for c in categories.values() if not c.is_thing])
    for kind, places in export.remarks.items():
        report.findings[kind] += [where for _, where in places]
    photos = find_photos_of(export, Path(photos_dir), report) if photos_dir is not None else {}
    images: list[dict] = []
    panoptic: list[dict] = []
    detection: list[dict] = []
    ways: dict[str, int] = defaultdict(int)
    inputs = [path for path in (export_json, photos_dir, under) if path is not None]
    with output_folder(Path(out), WRITTEN, overwrite, inputs) as part:
        for image in tqdm(export.images, desc="assembling", unit="image", disable=None):
            if photos:
                target, annotations = part / "images" / image.file_name, export.annotations[image.id]
                if skip_missing and (reason := unreadable(photos[image.id])):
                    report.findings["unreadable"].append(reason)
                    continue
                image, way = place_photo(photos[image.id], image, annotations, target, export.path, report)
                ways[way] += 1
            if image.size is None:
                raise InputError(f"{export.path}: image {image.id} has no 'height' and 'width': give the folder of the photos")
            annotations = export.annotations[image.id]
            if not annotations:
                report.findings["unannotated"].append(image.file_name)
            stuff_below = below.read(image, image.size) if below else None
            outlines = outlines_of(annotations, categories, image.size, export.path, report.findings)
            segment_ids, segments = draw(outlines, image.size, order, report.findings, stuff_below)

            write_png(part / "panoptic" / image.png, encode_ids(segment_ids))
            height, width = image.size
            images.append({"id": image.id, "file_name": image.file_name, "height": height, "width": width})
            panoptic.append({"image_id": image.id, "file_name": image.png, "segments_info": segments})
            for s in segments:
                detection.append({**s, "id": len(detection) + 1, "image_id": image.id, "segment_id": s["id"]})
                report.things += categories[s["category_id"]].is_thing
                report.stuff += not categories[s["category_id"]].is_thing
            report.images += 1
            report.pixels += height * width
            report.void += height * width - sum(s["area"] for s in segments)
        listed = [category.to_json() for category in categories.values()]
        write_json(part / "panoptic.json", {"images": images, "annotations": panoptic, "categories": listed})
        write_json(part / "detection.json", {"images": images, "annotations": detection, "categories": listed})
        if not images:
            raise InputError(f"{export.path}: no image is left to assemble")
    if ways:
        report.linked = "hard-linked" in ways
        report.photos = ", ".join(f"{way} ({number})" for way, number in ways.items())
    return report


# --- the rule: outlines -> one segment per pixel ------------------------------------------------------------------------------


def draw(
    outlines: Sequence[Outline],
    size: tuple[int, int],
    order: str = "smaller",
    findings: dict[str, list[str]] | None = None,
    below: np.ndarray | None = None,
) -> tuple[np.ndarray, list[dict]]:
    """Outlines of one image -> segment ids H x W (int32, 0 = void) and the segments' entries (COCO panoptic format).

    Painted from the bottom up: `below` (H x W category ids of stuff, -1 for none), stuff, crowds, things; within each by
    `order`. A thing's annotation is one segment; all stuff of a class is one segment. Ids are 1, 2, ... in the order of the
    list. Areas and boxes are counted on the painted pixels; a segment without a pixel is left out and told in `findings`.
    """
    if order not in ORDERS:
        raise InputError(f"the order must be one of {', '.join(ORDERS)}, not {order!r}")
    findings = defaultdict(list) if findings is None else findings
    canvas = np.zeros(size, np.int32)
    segments: list[dict] = []
    of_stuff: dict[int, int] = {}  # category id -> segment id

    def segment_of(category: Category, is_crowd: bool = False) -> int:
        if not category.is_thing and category.id in of_stuff:
            return of_stuff[category.id]
        segments.append({"id": len(segments) + 1, "category_id": category.id, "iscrowd": int(is_crowd)})
        if not category.is_thing:
            of_stuff[category.id] = len(segments)
        return len(segments)

    numbers = [segment_of(outline.category, outline.is_crowd) for outline in outlines]
    if below is not None:
        for category_id in np.unique(below[below >= 0]).tolist():
            canvas[below == category_id] = segment_of(Category(category_id, "", is_thing=False))

    def height_of(k: int) -> tuple[int, int]:  # sorted() is stable, so of equal ones the one listed later lies on top
        outline = outlines[k]
        layer = 0 if not outline.category.is_thing else 1 if outline.is_crowd else 2
        return layer, {"smaller": -outline.area, "larger": outline.area, "listed": 0}[order]

    for k in sorted(range(len(outlines)), key=height_of):
        canvas[outlines[k].window][outlines[k].mask] = numbers[k]

    entries = measured(canvas, segments)
    visible = {entry["id"] for entry in entries}
    for number, outline in zip(numbers, outlines, strict=True):
        if number not in visible:
            findings["hidden"].append(name_of(outline.annotation))
    renumbered = np.zeros(len(segments) + 1, np.int32)
    for number, entry in enumerate(entries, start=1):
        renumbered[entry["id"]] = number
        entry["id"] = number
    return renumbered[canvas], entries


# --- photos -------------------------------------------------------------------------------------------------------------------


def find_photos_of(export: Export, folder: Path, report: Assembled) -> dict[int | str, Path]:
    """The photo of every image, by image id. Raises InputError naming the first that is missing and how many are."""
    photos = {image.id: path_inside(folder, image.file_name, export.path) for image in export.images}
    missing = [path for path in photos.values() if not path.is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more of {len(photos)})" if len(missing) > 1 else ""
        raise InputError(
            f"{missing[0]}{more} is not there, but {export.path} names it in 'images': add it, remove its entry, or leave out such "
            "images with --skip-missing"
        )
    wanted = set(photos.values())
    others = [path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES and path not in wanted]
    report.findings["extra"] += sorted(path.relative_to(folder).as_posix() for path in others)
    return photos


def unreadable(photo: Path) -> str:
    """Why a photo can't be read; an empty text where it can."""
    try:
        if open_image(photo).mode != "RGB":
            read_image(photo)
    except InputError as error:
        return str(error)
    return ""


def reaches_beyond(annotations: Sequence[dict], size: tuple[int, int]) -> bool:
    """Whether an outline made of polygons reaches more than a pixel beyond an image of `size` (width, height)."""
    polygons = [polygon for a in annotations if isinstance(a.get("segmentation"), list) for polygon in a["segmentation"]]
    points = [np.reshape(p, (-1, 2)) for p in polygons if isinstance(p, list) and p and len(p) % 2 == 0 and is_finite(p)]
    return bool(points) and bool((np.concatenate(points).max(0) > np.add(size, 1)).any())


def place_photo(
    photo: Path, image: ExportImage, annotations: Sequence[dict], target: Path, export: Path, report: Assembled
) -> tuple[ExportImage, str]:
    """Put a photo to `target`, standing as it was annotated. Returns the image with its size, and how it was done."""
    stored = open_image(photo)
    is_rotated = stored.getexif().get(EXIF_ORIENTATION, 1) not in (0, 1)
    # Upright, as CVAT and every viewer show it; what is not RGB must at least become so.
    shown = read_image(photo) if is_rotated or stored.mode != "RGB" else stored
    if is_rotated and image.size == (stored.height, stored.width) != (shown.height, shown.width):
        if reaches_beyond(annotations, stored.size) and not reaches_beyond(annotations, shown.size):
            image = replace(image, size=None)  # the size was read without the rotation, but drawn was with it
        else:
            shown = stored  # annotated in a tool that does not know of the rotation
    size = shown.height, shown.width
    if image.size not in (None, size):
        raise InputError(
            f"{photo} is {size[1]} x {size[0]} pixels, but {export} says {image.size[1]} x {image.size[0]} of image {image.id} "
            "('width', 'height'): use the photo that was annotated"
        )
    image = replace(image, size=size)
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_rotated:
        report.findings["unturned" if shown is stored else "turned"].append(image.file_name)
        kind = "JPEG" if stored.format == "MPO" else stored.format  # MPO: a JPEG with another photo behind it, as phones write it
        options: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}
        shown.convert("RGB").save(target, format=kind, exif=b"", **options.get(kind or "", {}))
        return image, "saved again"
    try:
        os.link(photo.resolve(), target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(photo, target)
        return image, "copied"
    return image, "hard-linked"


# --- stuff that a model predicted ---------------------------------------------------------------------------------------------


class PredictedStuff:
    """A folder that `label_stuff` wrote, to lie under the annotations of an export.

    `categories` are the export's, and those of the folder that the export lacks with new ids behind them.
    """

    def __init__(self, folder: Path, export: Export) -> None:
        self.folder, self.path = folder, folder / "panoptic.json"
        predicted, names, annotations, _ = read_panoptic_json(self.path)
        self.categories = dict(export.categories)
        by_name = {category.name.casefold(): category for category in self.categories.values()}
        self.category_id: dict[int, int] = {}  # the folder's -> that of the data set
        for category in predicted:
            if category.is_thing:
                raise InputError(f"{self.path}: the category {category.name!r} is a thing: only stuff can lie under")
            same = by_name.get(category.name.casefold())
            if same is None:
                same = replace(category, id=max(self.categories) + 1)
                self.categories[same.id] = same
            elif same.is_thing:
                raise InputError(f"{self.path}: the category {category.name!r} is a thing in {export.path}: rename one")
            self.category_id[category.id] = same.id
        self.annotations = {name: annotations[image_id] for image_id, name in names.items()}
        for key in (str.casefold, lambda name: stem_of(name).casefold()):  # a.png may have been exported as A.jpg,
            count = Counter(map(key, names.values()))
            for image_id, name in names.items():
                if count[key(name)] == 1:  # but not where both were labelled
                    self.annotations.setdefault(key(name), annotations[image_id])
        missing = [image.file_name for image in export.images if self.annotation(image) is None]
        if missing:
            raise InputError(f"{self.path} has no image like {missing[0]} ({len(missing)} missing): run label-stuff on all photos")

    def annotation(self, image: ExportImage) -> dict | None:
        """The prediction for the photo of this path; in another case, or with another extension, where only one photo has it."""
        name = image.file_name
        ways = (name, name.casefold(), stem_of(name).casefold())
        return next((self.annotations[way] for way in ways if way in self.annotations), None)

    def read(self, image: ExportImage, size: tuple[int, int]) -> np.ndarray:
        """Category ids of the data set, H x W int64, -1 where nothing was predicted; `size` is the image's (height, width)."""
        annotation = self.annotation(image)
        assert annotation is not None  # all images were looked for at the beginning
        png = path_inside(self.folder / "panoptic", annotation["file_name"], self.path)
        segment_ids = read_ids(png, {segment["id"] for segment in annotation["segments_info"]})
        if segment_ids.shape != size:
            sizes = [f"{width} x {height}" for height, width in (segment_ids.shape, size)]
            raise InputError(f"{png} is {sizes[0]} pixels, but {image.file_name} is {sizes[1]}: run label-stuff again")
        ids, place = np.unique(segment_ids, return_inverse=True)
        of_segment = {s["id"]: self.category_id[s["category_id"]] for s in annotation["segments_info"]}
        return np.array([of_segment.get(i, -1) for i in ids.tolist()])[place].reshape(size)
