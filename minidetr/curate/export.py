"""An annotation export, a COCO detection file as CVAT and others write it, read and checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minidetr.curate.outlines import name_of
from minidetr.data.coco import read_category, read_file_name, read_value
from minidetr.errors import InputError
from minidetr.panoptic import MAX_PIXELS, Category, read_json


@dataclass(frozen=True)
class ExportImage:
    """An image of the export. `size` is (height, width) in pixels, None where the export does not say."""

    id: int
    file_name: str
    size: tuple[int, int] | None


@dataclass
class Export:
    """A checked export: `annotations` are its entries as they are, by image id, in the order of the file."""

    path: Path
    categories: dict[int, Category]
    images: list[ExportImage]
    annotations: dict[int, list[dict]]


def read_export(path: str | Path, stuff: Sequence[str] | None = None) -> Export:
    """Read and check a COCO detection file: its lists and the ids in them. `stuff` as `assemble` says. Raises InputError."""
    path = Path(path)
    content = read_json(path, "the annotation export, a COCO JSON file")

    categories: dict[int, Category] = {}
    for where, entry in _list(content, "categories", path):
        says = {"isthing": 1} if isinstance(entry, dict) and entry.get("isthing") is None else {}
        category = read_category({**entry, **says} if isinstance(entry, dict) else entry, where)
        if category.id in categories:
            raise InputError(f"{where}: the category id {category.id} occurs twice, give each category its own")
        categories[category.id] = category
    if stuff is not None:
        chosen = chosen_ids(stuff, categories, path)
        categories = {i: replace(c, is_thing=i not in chosen) for i, c in categories.items()}

    images: dict[int, ExportImage] = {}
    stems: dict[str, str] = {}
    for where, entry in _list(content, "images", path):
        image_id, name = read_value(entry, "id", int, where), read_file_name(entry, where)
        if image_id in images:
            raise InputError(f"{where}: the image id {image_id} occurs twice, give each image its own")
        stem = Path(name).with_suffix("").as_posix().casefold()
        if other := stems.get(stem):
            raise InputError(f"{where}: {name} and {other} would have the same PNG: rename one of them")
        stems[stem] = name
        images[image_id] = ExportImage(image_id, name, _size(entry, where))

    annotations: dict[int, list[dict]] = {image_id: [] for image_id in images}
    for where, entry in _list(content, "annotations", path, may_be_empty=True):
        image_id, category_id = read_value(entry, "image_id", int, where), read_value(entry, "category_id", int, where)
        place = f"{where} ({name_of(entry)})"
        if image_id not in images:
            raise InputError(f"{place}: no image has the image_id {image_id}, add it to 'images' or remove the annotation")
        if category_id not in categories:
            raise InputError(f"{place}: no category has the category_id {category_id}, add it to 'categories'")
        if entry.get("iscrowd", 0) not in (0, 1):
            raise InputError(f"{place}: the field 'iscrowd' must be 0 or 1, but is {entry['iscrowd']!r}")
        annotations[image_id].append(entry)
    return Export(path, categories, list(images.values()), annotations)


def chosen_ids(choice: Sequence[str], categories: dict[int, Category], path: Path) -> set[int]:
    """Names, ids and ranges of ids ("1-16") -> the ids of those categories."""
    by_name = {category.name: category.id for category in categories.values()}
    chosen: set[int] = set()
    for text in choice:
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
        if text in by_name:
            found = {by_name[text]}
        elif span:
            first, last = int(span[1]), int(span[2] or span[1])
            found = {i for i in categories if first <= i <= last}
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
    return [(f"{path}: {key}[{index}]", entry) for index, entry in enumerate(entries)]


def _size(entry: dict, where: str) -> tuple[int, int] | None:
    if entry.get("height") is None and entry.get("width") is None:
        return None
    height, width = read_value(entry, "height", int, where), read_value(entry, "width", int, where)
    if height < 1 or width < 1:
        raise InputError(f"{where}: the fields 'height' and 'width' must be above 0, but are {height} and {width}")
    if height * width > MAX_PIXELS:
        raise InputError(f"{where}: 'height' and 'width' are {height} and {width}, more than {MAX_PIXELS // 10**6} million pixels")
    return height, width
