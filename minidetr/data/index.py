"""What a panoptic JSON says, checked and kept small: at COCO's size it is read in seconds, and processes that share it copy little.

`PanopticIndex.read` tries the strict way first, which knows one form and keeps numbers in arrays. Where that does not fit it takes
the other, `read_panoptic_json`: through `data.foreign`, entry by entry, with a sentence for whatever is wrong.
"""

from __future__ import annotations

import mmap
import re
from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from minidetr.data.foreign import LEFT_OUT, Remarks, new_remarks, number_of, plain
from minidetr.data.names import Finder
from minidetr.errors import InputError
from minidetr.panoptic import MAX_CATEGORY_ID, Category, leads_out, read_json


@dataclass
class PanopticIndex:
    """The images of a panoptic JSON, N of them, and their segments, S in all.

    `image_ids`, `file_names` and `pngs` have N entries; the segments of image i are `starts[i]` to `starts[i + 1]` (N + 1) of
    `segment_ids`, `category_ids` (int32) and `crowds` (bool), S each. `remarks` tell what was read otherwise than written.
    """

    categories: list[Category]
    image_ids: list[int | str]
    file_names: list[str]
    pngs: list[str]
    starts: np.ndarray
    segment_ids: np.ndarray
    category_ids: np.ndarray
    crowds: np.ndarray
    remarks: Remarks

    @classmethod
    def read(
        cls, path: str | Path, photos: Finder | None = None, pngs: Finder | None = None, void: Collection[int] = ()
    ) -> PanopticIndex:
        """Read and check a panoptic JSON; `photos`, `pngs` and `void` as `data.foreign.plain` takes them. Raises InputError."""
        return _read_strictly(Path(path), void) or _of_entries(*read_panoptic_json(path, photos, pngs, void))

    def entries(self, index: int) -> list[dict]:
        """The segments of an image: `id`, `category_id` and `iscrowd` of each, as COCO's `segments_info` has them."""
        these = slice(self.starts[index], self.starts[index + 1])
        columns = (self.segment_ids[these].tolist(), self.category_ids[these].tolist(), self.crowds[these].tolist())
        return [{"id": i, "category_id": c, "iscrowd": int(crowd)} for i, c, crowd in zip(*columns, strict=True)]


# --- the strict way ---------------------------------------------------------------------------------------------------------


class _Segment(msgspec.Struct, gc=False):
    id: int
    category_id: int
    iscrowd: int = 0


class _Annotation(msgspec.Struct, gc=False):
    image_id: int | str
    file_name: str
    segments_info: list[_Segment]


class _Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[msgspec.Raw]  # one after the other, so that never more than one is there as objects
    categories: list[dict[str, Any]]


PLAIN_NAME = re.compile(r"(?!.*\.\.)[^/\\\0][^\\\0]*")


def _read_strictly(path: Path, void: Collection[int]) -> PanopticIndex | None:
    """The index of a file in the form that the format describes, with nothing wrong in it; None for any other."""
    try:
        with path.open("rb") as file:  # mapped, not read: the pages are the system's, and gone with the last view of them
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _strict_index(msgspec.json.decode(content, type=_File), path, void)
    except (OSError, ValueError, RecursionError, InputError, OverflowError):  # told by the other way, in a sentence
        return None


def _strict_index(content: _File, path: Path, void: Collection[int]) -> PanopticIndex | None:
    categories = [read_category(entry, str(path)) for entry in content.categories]
    place = {image.id: index for index, image in enumerate(content.images)}
    names = [image.file_name for image in content.images]
    count = len(names)
    if not categories or not count or len(place) < count or len(content.annotations) != count:
        return None
    if any(isinstance(number_of(image_id), int) for image_id in place if isinstance(image_id, str)):
        return None  # numbers in quotes
    pngs = [""] * count
    owners, ids, classes, crowds = array("i"), array("i"), array("i"), array("b")
    decoder = msgspec.json.Decoder(_Annotation)
    for raw in content.annotations:
        annotation = decoder.decode(raw)
        index = place.get(annotation.image_id, -1)
        if index < 0 or pngs[index]:
            return None
        pngs[index] = annotation.file_name
        for segment in annotation.segments_info:
            if segment.id in void:
                continue
            owners.append(index)
            ids.append(segment.id)
            classes.append(segment.category_id)
            crowds.append(segment.iscrowd)
    if not all(PLAIN_NAME.fullmatch(name) for names_of_one in (names, pngs) for name in names_of_one):
        return None
    owner, segment_ids, category_ids, is_crowd = (np.array(column, np.int32) for column in (owners, ids, classes, crowds))
    order = np.argsort(owner, kind="stable")
    keys = owner.astype(np.int64) << 24 | segment_ids
    known = [category.id for category in categories]
    fine = len(set(known)) == len(known) and np.isin(category_ids, known).all() and np.isin(is_crowd, (0, 1)).all()
    if not fine or segment_ids.size and not 0 < segment_ids.min() <= segment_ids.max() < 256**3:
        return None
    if np.unique(keys).size < keys.size:
        return None
    starts = np.searchsorted(owner[order], np.arange(count + 1))
    columns = segment_ids[order], category_ids[order], is_crowd[order].astype(bool)
    return PanopticIndex(categories, [image.id for image in content.images], names, pngs, starts, *columns, new_remarks())


# --- the other way ----------------------------------------------------------------------------------------------------------


def _of_entries(
    categories: list[Category], images: dict[int | str, str], annotations: dict[int | str, dict], remarks: Remarks
) -> PanopticIndex:
    """The index of what `read_panoptic_json` gives."""
    per_image = [annotations[image_id] for image_id in images]
    segments = [segment for annotation in per_image for segment in annotation["segments_info"]]
    starts = np.cumsum([0, *(len(annotation["segments_info"]) for annotation in per_image)])
    ids, classes = (np.array([segment[key] for segment in segments], np.int32) for key in ("id", "category_id"))
    crowds = np.array([segment.get("iscrowd", 0) == 1 for segment in segments], bool)
    pngs = [annotation["file_name"] for annotation in per_image]
    return PanopticIndex(categories, list(images), list(images.values()), pngs, starts, ids, classes, crowds, remarks)


def read_panoptic_json(
    path: str | Path, photos: Finder | None = None, pngs: Finder | None = None, void: Collection[int] = ()
) -> tuple[list[Category], dict[int | str, str], dict[int | str, dict], Remarks]:
    """Read and check a COCO panoptic JSON: its categories, the photo's file name and the annotation per image id, and remarks.

    Required are "images" (id, file_name), "annotations" (image_id, file_name, segments_info with id and category_id) and
    "categories" (id, name, isthing). What other tools write is read as `data.foreign.plain` says, with names looked for by `photos`
    and `pngs`, and segments of the ids `void` left out. Raises InputError, naming the file and the field, for anything missing,
    doubled, unknown or unclear.
    """
    path, remarks = Path(path), new_remarks()
    content = read_json(path, "the panoptic JSON of the data set")
    entries = content.get("annotations")
    if isinstance(entries, list) and entries and all(isinstance(e, dict) and "bbox" in e and "category_id" in e for e in entries):
        raise InputError(f"{path} is in detection format: make a panoptic data set of it by `minidetr data assemble`")
    content = plain(content, True, remarks, photos, pngs, void)
    if remarks["name-unclear"]:
        raise InputError(f"{path}: {remarks['name-unclear'][0][1]}")

    categories: dict[int, Category] = {}
    for where, entry in _entries(content, "categories", path):
        category = read_category(entry, where)
        if category.id in categories:
            raise InputError(f"{where}: the category id {category.id} occurs twice, give each category its own")
        categories[category.id] = category

    images: dict[int | str, str] = {}
    for where, entry in _entries(content, "images", path):
        image_id = read_id(entry, "id", where)
        if image_id in images:
            raise InputError(f"{where}: the image id {image_id} occurs twice, give each image its own")
        images[image_id] = read_file_name(entry, where)

    annotations: dict[int | str, dict] = {}
    for where, entry in _entries(content, "annotations", path):
        image_id = read_id(entry, "image_id", where)
        if image_id not in images:
            raise InputError(f"{where}: no image has the id {image_id}, add it to 'images' or remove the annotation")
        if image_id in annotations:
            raise InputError(f"{where}: the image {image_id} has two annotations, keep one")
        read_file_name(entry, where)
        _check_segments(read_value(entry, "segments_info", list, where), categories, where)
        annotations[image_id] = entry

    missing = [f"{image_id} ({name})" for image_id, name in images.items() if image_id not in annotations]
    if missing:
        raise InputError(f"{path}: 'annotations' has no entry for {some(missing)}: add one, its segments_info may be empty")
    return list(categories.values()), images, annotations, remarks


def _entries(content: dict, key: str, path: Path) -> Iterator[tuple[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path} has no list '{key}', or it is empty: a COCO panoptic file has images, annotations and categories")
    places = ((f"{path}: {key}[{index}]", entry) for index, entry in enumerate(entries))
    return ((place, entry) for place, entry in places if not (isinstance(entry, dict) and LEFT_OUT in entry))


def read_value(entry: Any, key: str, kind: type, where: str) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) is not kind:  # not isinstance: True is no id
        kind_name = {int: "a whole number", str: "a text", list: "a list"}[kind]
        raise InputError(f"{where}: the field '{key}' must be {kind_name}, but is {_shown(value)}")
    return value


def read_id(entry: Any, key: str, where: str) -> int | str:
    """An image's id: any whole number or text, for it is only compared."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) is int or isinstance(value, str) and value:
        return value
    raise InputError(f"{where}: the field '{key}' must be a whole number or a text, but is {_shown(value)}")


def read_category(entry: Any, where: str) -> Category:
    category_id, name = read_value(entry, "id", int, where), read_value(entry, "name", str, where)
    if category_id < 0:
        raise InputError(f"{where}: the category id {category_id} is negative, but the ids count the model's outputs from 0")
    if category_id > MAX_CATEGORY_ID:
        raise InputError(f"{where}: the category id {category_id} is above {MAX_CATEGORY_ID}, but the model has an output for each")
    is_thing, color = entry.get("isthing"), entry.get("color")
    if is_thing not in (0, 1):
        raise InputError(f"{where}: the field 'isthing' must be 1 (things are counted) or 0 (stuff is not), but is {is_thing!r}")
    is_color = isinstance(color, list) and len(color) == 3 and all(type(value) is int and 0 <= value < 256 for value in color)
    if color is not None and not is_color:
        raise InputError(f"{where}: the field 'color' must be three whole numbers in 0..255, but is {color!r}")
    return Category(category_id, name, bool(is_thing), tuple(color) if color else None)


def read_file_name(entry: Any, where: str) -> str:
    name = read_value(entry, "file_name", str, where)
    if leads_out(name):
        raise InputError(f"{where}: the file name {name!r} must lie inside its folder, without a leading '/' and without '..'")
    return name


def _check_segments(segments: list, categories: dict[int, Category], where: str) -> None:
    seen = set()
    for index, segment in enumerate(segments):
        place = f"{where}.segments_info[{index}]"
        segment_id, category_id = read_value(segment, "id", int, place), read_value(segment, "category_id", int, place)
        if not 0 < segment_id < 256**3:
            raise InputError(f"{place}: the segment id {segment_id} must lie in 1..{256**3 - 1}: 0 is void")
        if segment_id in seen:
            raise InputError(f"{place}: the segment id {segment_id} occurs twice in its image")
        if category_id not in categories:
            raise InputError(f"{place}: no category has the id {category_id}, add it to 'categories'")
        if segment.get("iscrowd", 0) not in (0, 1):
            raise InputError(f"{place}: the field 'iscrowd' must be 0 or 1, but is {segment['iscrowd']!r}")
        seen.add(segment_id)


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)


def some(values: set | list) -> str:
    values = sorted(values) if isinstance(values, set) else values
    return ", ".join(map(str, values[:5])) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
