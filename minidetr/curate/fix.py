"""Mend in a data set what can be mended without guessing, into a new folder; `minidetr.curate.check` says what that is."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minidetr.curate.check import check, opened
from minidetr.curate.checker import exif_case
from minidetr.curate.findings import BENDS, BREAKS, KINDS
from minidetr.curate.outlines import box_of, crosses_itself, outlines_of, signed_area
from minidetr.curate.report import Report
from minidetr.curate.split import link_or_copy
from minidetr.data.coco import check_empty, whole_folder
from minidetr.data.foreign import LEFT_OUT, READINGS, is_panoptic, new_remarks, plain
from minidetr.data.images import EXIF_ORIENTATION, open_image, read_image
from minidetr.data.names import Finder
from minidetr.data.pngs import open_png, void_ids
from minidetr.errors import InputError
from minidetr.panoptic import Category, boxes_of_ids, encode_ids, leads_out, read_json, write_json, write_png


@dataclass
class Fixed:
    """`done` counts what was mended, in words; `left` is what a new look finds in the result."""

    done: Counter[str]
    left: Report

    def summary(self) -> str:
        """What was done, and what is left that needs a person to decide."""
        lines = [f"{count:>7}  {what}" for what, count in self.done.most_common()] or ["nothing could be mended without guessing"]
        rest = self.left.kinds(BREAKS, BENDS)
        left = [f"{len(self.left.found[kind]):>7}  {KINDS[kind][1]}" for kind in rest]
        left = left or ["nothing that breaks training or bends a metric"]
        return "\n".join(["mended:", *lines, "left, because only you can decide:" if rest else "left:", *left])


def fix(path: str | Path, out: str | Path, photos: str | Path | None = None, void: Collection[int] = ()) -> Fixed:
    """Write a mended copy of a data set or of a COCO JSON file (see `check`) into the new folder OUT, whole or not at all.

    A data set becomes OUT/panoptic.json, OUT/images, OUT/panoptic (and OUT/detection.json when there is one); files that need no
    mending are hard links, or copies. A JSON file in detection format becomes OUT/NAME.json; `photos` then only help the new
    look at it. Pixels of the ids `void` in PNGs are written as 0, which needs no saying, and their segments are left out. The input
    is never changed. Raises InputError as `check`, for a panoptic JSON without its folder, and when OUT
    holds anything.
    """
    path, out = Path(path), Path(out).resolve()
    check_empty(out)
    path, photos = opened(path, photos)
    check(path, photos, void=void)  # refuses what is no data set
    done: Counter[str] = Counter()
    if path.is_dir():
        with whole_folder(out) as part:
            _fix_folder(path, part, done, void_ids(void))
        return Fixed(+done, check(out))  # + leaves out what was counted 0 times
    content = read_json(path)
    if is_panoptic(content):
        raise InputError(f"{path} is a panoptic JSON, whose PNGs and photos are mended with it: give the folder that holds them")
    with whole_folder(out) as part:
        write_json(part / path.name, fixed_detection(content, done, Path(photos) if photos is not None else None))
    return Fixed(+done, check(out / path.name, photos))


# --- a panoptic data set ----------------------------------------------------------------------------------------------------


def _fix_folder(folder: Path, out: Path, done: Counter[str], void: Collection[int]) -> None:
    content = whole(read_json(folder / "panoptic.json"), True, done, folder / "images", folder / "panoptic", void)
    images = {image["id"]: image for image in content["images"] if isinstance(image, dict) and "id" in image}
    renamed: dict[str, str] = {}
    for name in ("images", "panoptic"):
        (out / name).mkdir()
    for annotation in tqdm(content["annotations"], desc="mending", unit="image", disable=None):
        try:
            image, png = images[annotation["image_id"]], annotation["file_name"]
            segments = annotation["segments_info"]
            listed = {segment["id"] for segment in segments}
            photo = image["file_name"]
            if leads_out(photo, folder / "images") or leads_out(png, folder / "panoptic"):
                continue
        except (KeyError, TypeError):
            continue  # a field is missing: left as it is, for a person
        size = _fix_png(folder / "panoptic" / png, out / "panoptic" / png, annotation, listed, void, done)
        if photo not in renamed:
            renamed[photo] = _fix_photo(folder / "images", out / "images", photo, size, done)
        image["file_name"] = renamed[photo]
        if size and (image.get("width"), image.get("height")) != size:
            try:
                same = read_image(out / "images" / image["file_name"]).size == size
            except InputError:
                same = False
            if same:
                image["width"], image["height"] = size
                done["'width' and 'height' written again"] += 1
    for name, entries in (("images", images.values()), ("panoptic", content["annotations"])):
        for entry in entries:  # what was passed over above, for a person to look at
            file_name = entry.get("file_name") if isinstance(entry, dict) else None
            if not isinstance(file_name, str) or leads_out(file_name, folder / name):
                continue
            if (folder / name / file_name).is_file():
                link_or_copy(folder / name / file_name, out / name / file_name)
    write_json(out / "panoptic.json", content)
    if (folder / "detection.json").is_file():
        detection = fixed_detection(read_json(folder / "detection.json"), done, folder / "images")
        for image in detection["images"]:
            image["file_name"] = renamed.get(image.get("file_name"), image.get("file_name"))
        write_json(out / "detection.json", detection)


def _fix_png(
    source: Path, target: Path, annotation: dict, listed: set[int], void: Collection[int], done: Counter[str]
) -> tuple[int, int] | None:
    """Write the PNG as RGB and the segments as their pixels are. Returns the PNG's size (width, height), None if unreadable."""
    try:
        coded = open_png(source)
    except InputError:
        if source.is_file():
            link_or_copy(source, target)
        return None
    segment_ids = coded.ids(listed, void)
    has_void = coded.is_coded and (unread := coded.ids(listed)) is not None and bool(np.isin(unread, [*{*void} - {0}]).any())
    if segment_ids is None or coded.is_coded and not has_void:
        link_or_copy(source, target)
    else:
        write_png(target, encode_ids(segment_ids))
        done["panoptic PNGs written with 0 for void" if has_void else "panoptic PNGs written as RGB with 8 bits a channel"] += 1
    if segment_ids is None:
        return coded.image.size
    segments = annotation["segments_info"]
    areas, boxes = boxes_of_ids(segment_ids, np.array([segment["id"] for segment in segments], np.int64))
    has_strangers = bool(set(np.unique(segment_ids).tolist()) - listed - {0})  # perhaps those of an entry that has none
    kept = []
    for segment, area, box in zip(segments, areas.tolist(), boxes.tolist(), strict=True):
        if area:
            done["areas counted again"] += segment.get("area") != area
            done["boxes measured again"] += segment.get("bbox") != box
            kept.append(segment | {"area": area, "bbox": box})
        elif has_strangers:
            kept.append(segment)
        else:
            done["segments without a pixel dropped"] += 1
    annotation["segments_info"] = kept
    return coded.image.size


def _fix_photo(folder: Path, out: Path, name: str, size: tuple[int, int] | None, done: Counter[str]) -> str:
    """Link the photo, or write it as an RGB PNG standing as its annotation of `size` does. Returns the name of its file."""
    source = folder / name
    try:
        stored = open_image(source)
        upright = read_image(source)
    except InputError:
        if source.is_file():
            link_or_copy(source, out / name)
        return name
    turned = stored.getexif().get(EXIF_ORIENTATION, 1) in range(2, 9)
    case = exif_case(stored, upright, size) if turned else ""
    rewrite = case in ("exif-upright", "exif-unrotated") or (not case and (stored.mode != "RGB" or stored.has_transparency_data))
    if not rewrite:
        link_or_copy(source, out / name)
        return name
    if case == "exif-unrotated":
        stored.getexif().clear()
        stored.info.pop("exif", None)
        upright = read_image(stored)
    new_name = Path(name).with_suffix(".png").as_posix()
    while new_name != name and ((folder / new_name).exists() or (out / new_name).exists()):
        new_name = Path(new_name).with_suffix("").as_posix() + "_.png"  # another photo has that name
    write_png(out / new_name, np.asarray(upright))
    done["photos written upright, as annotated" if case else "photos written as RGB"] += 1
    return new_name


# --- a file in detection format ---------------------------------------------------------------------------------------------


def fixed_detection(content: dict, done: Counter[str], photos: Path | None) -> dict:
    """A copy of a COCO detection file's content, mended; `done` counts what was; `photos` is the folder of the photos, if known."""
    content = whole(content, False, done, photos)
    images = [image for image in content["images"] if isinstance(image, dict) and "id" in image]
    sizes: dict[Any, tuple[Any, Any]] = {image["id"]: (image.get("height"), image.get("width")) for image in images}
    numbers = {a["id"] for a in content["annotations"] if isinstance(a, dict) and type(a.get("id")) is int}
    used: set[Any] = set()
    for annotation in content["annotations"]:
        if not isinstance(annotation, dict):
            continue
        if annotation.get("id") is None or annotation["id"] in used:
            annotation["id"] = max(numbers, default=0) + 1
            numbers.add(annotation["id"])
            done["annotations numbered again"] += 1
        used.add(annotation.get("id"))
        size = sizes.get(annotation.get("image_id"))
        if size and all(type(side) is int and side > 0 for side in size):
            _fix_annotation(annotation, size, done)
    return content


def _fix_annotation(annotation: dict, size: tuple[int, int], done: Counter[str]) -> None:
    """Drop the polygons that draw nothing; count the area and measure the box again. `size` is the image's (height, width)."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        numeric = all(isinstance(p, list) and all(type(value) in (int, float) for value in p) for p in segmentation)
        if not numeric or any(len(p) % 2 for p in segmentation):
            return  # only a person can say what is missing
        drawn = [p for p in segmentation if len(p) >= 6 and covers_something(np.reshape(p, (-1, 2)))]
        if drawn:  # else nothing would be left of the annotation, which is for a person to decide
            done["polygons of fewer than 3 points, or without an area, dropped"] += len(segmentation) - len(drawn)
            annotation["segmentation"] = drawn
    if not annotation.get("segmentation"):
        return
    category = Category(0, "", is_thing=True)
    try:
        outlines = outlines_of([annotation | {"category_id": 0}], {0: category}, size)
    except InputError:
        return
    for outline in outlines:
        area, stated = outline.area, annotation.get("area")
        if not isinstance(stated, (int, float)) or not abs(stated - area) < 1:  # nan is neither
            annotation["area"] = area
            done["areas counted again"] += 1
        box, old = box_of(outline), annotation.get("bbox")
        if not isinstance(old, list) or len(old) != 4 or not np.allclose(np.array(old, float), box, atol=0.02, rtol=0):
            annotation["bbox"] = box.round(2).tolist()
            done["boxes measured again"] += 1


def covers_something(points: np.ndarray) -> bool:
    """Whether a polygon P x 2 has an inside; the two halves of an 8 have one though their areas add up to 0."""
    return bool(signed_area(points)) or crosses_itself(points)


# --- both -------------------------------------------------------------------------------------------------------------------


def whole(
    content: dict,
    panoptic: bool,
    done: Counter[str],
    photos: Path | None,
    pngs: Path | None = None,
    void: Collection[int] = (),
) -> dict:
    """A copy in the plain form of `data.foreign`, without twins and without what has no counterpart.

    That is annotations of unlisted images, images without their photo, and in a panoptic file images without annotation. `photos`
    and `pngs` are folders, if known; segments of the ids `void` are left out.
    """
    remarks = new_remarks()
    of_photos, of_pngs = (Finder(folder) if folder is not None and folder.is_dir() else None for folder in (photos, pngs))
    content = plain(content, panoptic, remarks, of_photos, of_pngs, void)
    for kind, places in remarks.items():
        if KINDS[kind][2]:
            done[READINGS[kind]] += len(places)
    for key in ("images", "annotations"):
        content[key] = [entry for entry in content[key] if not (isinstance(entry, dict) and LEFT_OUT in entry)]
    content = without_twins(content, panoptic, done)

    def kept(key: str, missing: Callable[[dict], bool], what: str) -> None:
        left = [entry for entry in content[key] if not (isinstance(entry, dict) and missing(entry))]
        done[what] += len(content[key]) - len(left)
        content[key] = left

    def photo_is_gone(image: dict) -> bool:
        name = image.get("file_name")
        return photos is not None and isinstance(name, str) and not leads_out(name) and not (photos / name).is_file()

    def key_of(entry: Any, name: str) -> str:
        return repr(entry.get(name)) if isinstance(entry, dict) else ""

    listed = {key_of(image, "id") for image in content["images"]}
    kept("annotations", lambda entry: key_of(entry, "image_id") not in listed, "annotations of images that are not listed dropped")
    kept("images", photo_is_gone, "images whose photo is missing dropped, with their annotations")
    if panoptic:
        annotated = {key_of(entry, "image_id") for entry in content["annotations"]}
        kept("images", lambda entry: key_of(entry, "id") not in annotated, "images without annotation dropped")
    listed = {key_of(image, "id") for image in content["images"]}
    content["annotations"] = [entry for entry in content["annotations"] if key_of(entry, "image_id") in listed]
    return content


def without_twins(content: dict, panoptic: bool, done: Counter[str]) -> dict:
    """A copy without entries identical to another of their list: categories, images, annotations (but for the id), segments."""
    content = copy.deepcopy(content)
    owners: list[tuple[dict, str]] = [(content, "categories"), (content, "images"), (content, "annotations")]
    if panoptic:
        for annotation in content["annotations"]:
            if isinstance(annotation, dict) and isinstance(annotation.get("segments_info"), list):
                owners.append((annotation, "segments_info"))
    for owner, key in owners:
        ignored = ["id"] * (key == "annotations" and not panoptic)
        kept: list = []
        seen: dict[str, list] = defaultdict(list)
        for entry in owner[key]:
            bare = {k: v for k, v in entry.items() if k not in ignored} if isinstance(entry, dict) else entry
            same_place = str([bare.get(k) for k in ("id", "image_id", "category_id")]) if isinstance(bare, dict) else ""
            if bare in seen[same_place]:
                done[f"identical entries of '{key}' dropped"] += 1
                continue
            seen[same_place].append(bare)
            kept.append(entry)
        owner[key] = kept
    return content
