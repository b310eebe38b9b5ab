"""An annotation export, a COCO detection file as CVAT and others write it, read and checked."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minidetr.curate.outlines import name_of
from minidetr.data.foreign import LEFT_OUT, Remarks, many_crowds, new_remarks, plain
from minidetr.data.index import read_category, read_file_name, read_id, read_value
from minidetr.data.names import Finder, png_names
from minidetr.errors import InputError
from minidetr.panoptic import MAX_PIXELS, Category, read_json


@dataclass(frozen=True)
class ExportImage:
    """An image of the export. `size` is (height, width) in pixels, None where the export does not say; `png` names its ids' PNG."""

    id: int | str
    file_name: str
    size: tuple[int, int] | None
    png: str


@dataclass
class Export:
    """A checked export: `annotations` are its entries in the plain form, by image id, in the order of the file.

    `remarks` tell what was read otherwise than written, or left out: kinds of `data.foreign.READINGS` and of `EXPORT_FINDINGS`.
    """

    path: Path
    categories: dict[int, Category]
    images: list[ExportImage]
    annotations: dict[int | str, list[dict]]
    remarks: Remarks


EXPORT_FINDINGS = {
    "parent": "category above all others, as Roboflow adds it, that no annotation has: left out",
    "orphan": "annotation of an image that is not listed: left out",
    "no-photo": "image whose photo is not in the folder: left out with its annotations",
    "many-crowds": "much consists of crowds, which training and evaluation leave out; CVAT writes that for every brush or AI mask: "
    "--crowds as-objects reads them as objects",
    "only-stuff": "every annotation is of stuff: no object is left to be told from another, see --stuff",
    "stuff-unused": "part of --stuff that reaches beyond the ids of the categories",
    "crowd-read": "crowd read as an object",
    "name-twice": "category name that two categories share: two classes of one name",
}


def read_export(
    path: str | Path,
    stuff: Sequence[str] | None = None,
    photos: str | Path | None = None,
    skip_missing: bool = False,
    crowds: str = "as-crowds",
    without: Collection[int] = (),
) -> Export:
    """Read and check a COCO detection file, in whatever form other tools write it (see `data.foreign`).

    `stuff`, `skip_missing`, `crowds` and `without` as `assemble` says; `photos` is the folder in which file names are looked for
    (None: they are taken as written). Raises InputError, naming the file, the entry and the field.
    """
    path, remarks = Path(path), new_remarks()
    finder = Finder(photos) if photos is not None else None
    content = plain(read_json(path, "the annotation export, a COCO JSON file"), False, remarks, finder)
    if remarks["name-unclear"]:
        raise InputError(f"{path}: {remarks['name-unclear'][0][1]}")

    categories: dict[int, Category] = {}
    for where, entry in _list(content, "categories", path):
        says = {"isthing": 1} if isinstance(entry, dict) and entry.get("isthing") is None else {}
        category = read_category({**entry, **says} if isinstance(entry, dict) else entry, where)
        if category.id in without:
            remarks["parent"].append(("", category.name))
            continue
        if category.id in categories:
            raise InputError(f"{where}: the category id {category.id} occurs twice, give each category its own")
        if any(category.name == other.name for other in categories.values()):
            remarks["name-twice"].append(("", f"{category.name!r}"))
        categories[category.id] = category
    if stuff is not None:
        chosen = chosen_ids(stuff, categories, path, remarks)
        categories = {i: replace(c, is_thing=i not in chosen) for i, c in categories.items()}

    found: dict[int | str, tuple[str, tuple[int, int] | None]] = {}
    without_photo: set[int | str] = set()
    for where, entry in _list(content, "images", path):
        image_id, name = read_id(entry, "id", where), read_file_name(entry, where)
        if image_id in found or image_id in without_photo:
            raise InputError(f"{where}: the image id {image_id} occurs twice, give each image its own")
        if skip_missing and finder is not None and not (finder.folder / name).is_file():
            remarks["no-photo"].append((name, name))
            without_photo.add(image_id)
            continue
        found[image_id] = name, _size(entry, where)
    pngs = png_names([name for name, _ in found.values()])
    images = [ExportImage(i, name, size, png) for (i, (name, size)), png in zip(found.items(), pngs, strict=True)]

    annotations: dict[int | str, list[dict]] = {image_id: [] for image_id in found}
    orphans: list[str] = []
    for where, entry in _list(content, "annotations", path, may_be_empty=True):
        image_id, category_id = read_id(entry, "image_id", where), read_value(entry, "category_id", int, where)
        place = f"{where} ({name_of(entry)})"
        if category_id not in categories:
            raise InputError(f"{place}: no category has the category_id {category_id}, add it to 'categories'")
        if entry.get("iscrowd", 0) not in (0, 1):
            raise InputError(f"{place}: the field 'iscrowd' must be 0 or 1, but is {entry['iscrowd']!r}")
        if image_id in found:
            annotations[image_id].append(entry)
        elif image_id not in without_photo:
            orphans.append(f"{place}: no image has the image_id {image_id!r}")
            remarks["orphan"].append(("", place))
    if orphans and not skip_missing:
        more = f" ({len(orphans)} such annotations)" if len(orphans) > 1 else ""
        raise InputError(f"{orphans[0]}{more}: add it to 'images', remove the annotation, or leave them out with --skip-missing")
    _judge_crowds(annotations, categories, crowds, remarks)
    used = {categories[entry["category_id"]].is_thing for entries in annotations.values() for entry in entries}
    if stuff is not None and used == {False}:
        remarks["only-stuff"].append(("", f"{sum(map(len, annotations.values()))} annotations"))
    return Export(path, categories, images, annotations, remarks)


def _judge_crowds(annotations: dict[int | str, list[dict]], categories: dict[int, Category], crowds: str, remarks: Remarks) -> None:
    """Read crowds as objects where asked to; else remark on classes of things, or all of them, with too many."""
    of_things = [entry for entries in annotations.values() for entry in entries if categories[entry["category_id"]].is_thing]
    if crowds == "as-objects":
        for entry in of_things:
            if entry.get("iscrowd"):
                entry["iscrowd"] = 0
                remarks["crowd-read"].append(("", name_of(entry)))
        return
    every = Counter(entry["category_id"] for entry in of_things)
    crowded = Counter(entry["category_id"] for entry in of_things if entry.get("iscrowd"))
    names = {category.id: category.name for category in categories.values() if category.is_thing}
    remarks["many-crowds"] += [("", many) for many in many_crowds(every, crowded, names)]


def chosen_ids(choice: Sequence[str], categories: dict[int, Category], path: Path, remarks: Remarks) -> set[int]:
    """Names, ids and ranges of ids ("1-16") -> the ids of those categories; a remark where a range's end is no category."""
    by_name: dict[str, set[int]] = defaultdict(set)
    for category in categories.values():
        by_name[category.name].add(category.id)
    chosen: set[int] = set()
    for text in choice:
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
        if text in by_name and text.isdecimal() and int(text) in categories and by_name[text] != {int(text)}:
            raise InputError(f"{path}: {text!r} of --stuff is the name of one category and the id of another: rename the first")
        if text in by_name:
            found = by_name[text]
        elif span:
            first, last = int(span[1]), int(span[2] or span[1])
            found = {i for i in categories if first <= i <= last}
            if not {first, last} <= categories.keys():
                remarks["stuff-unused"].append(("", f"{text}: ids are {min(categories)} to {max(categories)}"))
        else:
            found = set()
        if not found:
            raise InputError(f"{path} has no category {text!r}: --stuff takes its names, ids, or ranges of ids such as 1-16")
        chosen |= found
    return chosen


def _list(content: dict, key: str, path: Path, may_be_empty: bool = False) -> list[tuple[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not (entries or may_be_empty):
        raise InputError(f"{path} has no list '{key}', or it is empty: it must list images, annotations and categories")
    places = ((f"{path}: {key}[{index}]", entry) for index, entry in enumerate(entries))
    return [(place, entry) for place, entry in places if not (isinstance(entry, dict) and LEFT_OUT in entry)]


def _size(entry: dict, where: str) -> tuple[int, int] | None:
    if "height" not in entry:  # the plain form has both, or none
        return None
    height, width = entry["height"], entry["width"]
    if height * width > MAX_PIXELS:
        raise InputError(f"{where}: 'height' and 'width' are {height} and {width}, more than {MAX_PIXELS // 10**6} million pixels")
    return height, width
