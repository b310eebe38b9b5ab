"""COCO files as other tools write them -> the one form that everything else reads.

`plain` changes what can mean one thing only, and says so: each change is a remark of a kind in `READINGS`. What is ambiguous it
leaves as it is, for the reader to refuse in a sentence. Assembling, training and checking read through it alike.
"""

from __future__ import annotations

import ast
import contextlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection
from math import isfinite
from pathlib import PurePosixPath
from typing import Any

from minidetr.data.names import Finder, key_of, safe
from minidetr.errors import InputError

Remarks = defaultdict[str, list[tuple[str, str]]]  # kind -> places, each (image file or "", where in words)

LEFT_OUT = "left out"  # a key of entries that readers pass over; they keep their place, so that messages count as the file does

# Kinds of remarks: what was met, and how it is read.
READINGS = {
    "id-text": "id that is a text or has a point, such as '7' or 7.0: read as the number",
    "flag-text": "'iscrowd' or 'isthing' that is no 0 or 1, such as null, true or '1': read as what it means",
    "name-found": "file name with a folder, a drive, backslashes or escapes of elsewhere: the one file that fits is taken",
    "size-unsaid": "'width' and 'height' are missing, 0 or no numbers: the photo tells them",
    "outline-shape": "outline in another shape than COCO's (flat list, pairs, whole floats, run lengths in a list): read as meant",
    "fractions": "outline or box within the first pixel, in fractions: drawn there, for COCO counts pixels, not shares of the size",
    "ignored": "annotation with 'ignore' 1: read as a crowd, neither trained on nor counted",
    "no-geometry": "annotation with neither outline nor box: left out",
    "same-file": "two entries of 'images' for one file: one image, with the annotations of both",
}


def new_remarks() -> Remarks:
    """No remarks yet."""
    return defaultdict(list)


def plain(
    content: dict,
    panoptic: bool,
    remarks: Remarks,
    photos: Finder | None = None,
    pngs: Finder | None = None,
    void: Collection[int] = (),
) -> dict:
    """A copy of a COCO file's content in the plain form, of the panoptic or the detection format; the input is not changed.

    Ids that are digits in quotes or whole floats are whole numbers; `iscrowd` and `isthing` are 0 or 1; file names are those of
    files that `photos` and `pngs` find, or at least lie inside their folder; sizes are whole numbers or missing; outlines have
    COCO's shapes; entries of 'images' for one file are one, and annotations without any geometry are none: those too many have
    the key `LEFT_OUT`. Segments of the ids `void` are none. A name that fits two files is remarked on as "name-unclear".
    """
    content = dict(content)
    for key in ("categories", "images", "annotations"):
        if isinstance(content.get(key), list):
            content[key] = [dict(entry) if isinstance(entry, dict) else entry for entry in content[key]]
    for index, entry in _dicts(content, "categories"):
        where = f"categories[{index}]"
        _number(entry, "id", where, remarks)
        _flag(entry, "isthing", where, remarks)
    for finder, key in ((photos, "images"), (pngs, "annotations" if panoptic else "")):
        if finder is not None:
            finder.claim([entry["file_name"] for _, entry in _dicts(content, key) if isinstance(entry.get("file_name"), str)])
    for index, entry in _dicts(content, "images"):
        where = f"images[{index}]"
        _number(entry, "id", where, remarks)
        _file_name(entry, where, remarks, photos)
        _size(entry, where, remarks)
    for index, entry in _dicts(content, "annotations"):
        where = f"annotations[{index}]"
        for key in ("image_id", "category_id", "id"):
            _number(entry, key, where, remarks)
        if panoptic:
            _file_name(entry, where, remarks, pngs)
            segments = entry.get("segments_info")
            if isinstance(segments, list):
                entry["segments_info"] = [dict(segment) if isinstance(segment, dict) else segment for segment in segments]
                for number, segment in _dicts(entry, "segments_info"):
                    place = f"{where}.segments_info[{number}]"
                    for key in ("id", "category_id"):
                        _number(segment, key, place, remarks)
                    _flag(segment, "iscrowd", place, remarks)
                if void:
                    entry["segments_info"] = [
                        s for s in entry["segments_info"] if not (isinstance(s, dict) and s.get("id") in void)
                    ]
        else:
            _flag(entry, "iscrowd", where, remarks)
            _outline(entry, where, remarks)
    if not panoptic:
        _join_same_files(content, remarks)
        _leave_out_shapeless(content, remarks)
    return content


def is_panoptic(content: dict) -> bool:
    """Whether a COCO file's annotations are of the panoptic format; else they are of the detection format."""
    entries = content.get("annotations")
    return isinstance(entries, list) and any(isinstance(entry, dict) and "segments_info" in entry for entry in entries)


# --- single values ----------------------------------------------------------------------------------------------------------


def number_of(value: Any) -> Any:
    """7 for 7, 7.0, "7" and "7.0"; anything else as it is."""
    if type(value) is float and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,18}(\.0+)?\s*", value):
        return int(float(value)) if "." in value else int(value)
    return value


def flag_of(value: Any) -> Any:
    """0 or 1 for those, as numbers, texts or booleans; anything else as it is."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and value.strip().casefold() in ("true", "false"):
        return int(value.strip().casefold() == "true")
    return number_of(value)


def outline_of(value: Any) -> Any:
    """A 'segmentation' in one of COCO's shapes: a list of polygons [x, y, x, y, ...], or {"size", "counts"}; [] where it has none.

    Only what means one thing is changed: a flat list of numbers is one polygon, a list of pairs is one, too, run lengths alone in a
    list are these, whole floats in them are whole numbers, and text that shows Python's bytes is what is in it.
    """
    if value is None or value == "" or value == {}:
        return []
    if isinstance(value, list):
        parts = [part for part in value if part not in ([], None)]
        if not parts:
            return []
        if len(parts) == 1 and isinstance(parts[0], dict):
            return outline_of(parts[0])
        if all(_is_number(part) for part in parts):
            return [parts]
        if _are_points(parts):
            return [_flat(parts)]
        return [_flat(part) if isinstance(part, list) and _are_points(part) else part for part in parts]
    if isinstance(value, dict):
        counts, size = value.get("counts"), value.get("size")
        if isinstance(counts, str) and re.fullmatch(r"""b(['"]).*\1""", counts, re.DOTALL):
            with contextlib.suppress(ValueError, SyntaxError):
                counts = ast.literal_eval(counts).decode("ascii")
        elif isinstance(counts, list):
            counts = [number_of(count) if type(count) is float else count for count in counts]
        if isinstance(size, list):
            size = [number_of(side) for side in size]
        if (counts, size) != (value.get("counts"), value.get("size")) or _has_floats(value):
            return value | {"counts": counts, "size": size}
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)


def _are_points(parts: list) -> bool:
    """Whether a list holds three or more pairs of numbers: a polygon of one point means nothing, so pairs are points."""
    return len(parts) >= 3 and all(len(p) == 2 and _is_number(p[0]) and _is_number(p[1]) for p in map(_point, parts))


def _point(part: Any) -> list:
    """A point [x, y], also in a list of its own as OpenCV's contours have it; [] for anything else."""
    part = part[0] if isinstance(part, list) and len(part) == 1 else part
    return part if isinstance(part, list) else []


def _flat(points: list) -> list:
    return [value for point in points for value in _point(point)]


def _has_floats(value: dict) -> bool:
    lists = (value.get("counts"), value.get("size"))
    return any(type(number) is float for numbers in lists if isinstance(numbers, list) for number in numbers)


# --- fields of entries ------------------------------------------------------------------------------------------------------


def _dicts(owner: dict, key: str) -> list[tuple[int, dict]]:
    entries = owner.get(key)
    return [(i, entry) for i, entry in enumerate(entries) if isinstance(entry, dict)] if isinstance(entries, list) else []


def _number(entry: dict, key: str, where: str, remarks: Remarks) -> None:
    value = entry.get(key)
    if type(value) is int or value is None:
        return
    number = number_of(value)
    if number is not value:
        entry[key] = number
        remarks["id-text"].append(("", f"{where}.{key} is {value!r}"))


def _flag(entry: dict, key: str, where: str, remarks: Remarks) -> None:
    if key not in entry or (type(entry[key]) is int):
        return
    value = entry[key]
    if value is None:
        del entry[key]  # as if it were not said
    else:
        entry[key] = flag_of(value)
    if value is None or entry[key] is not value:
        remarks["flag-text"].append(("", f"{where}.{key} is {value!r}"))


def _file_name(entry: dict, where: str, remarks: Remarks, finder: Finder | None) -> None:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        return
    try:
        found = finder.find(name) if finder is not None else None
    except InputError as error:
        remarks["name-unclear"].append((name, f"{where}.file_name {error}"))
        return
    if found is None and not safe(name):
        found = "/".join(_written_parts(name)) or None  # as it would be inside the folder, for nothing else may be opened
        if finder is not None:
            return  # nothing there fits: the reader refuses the name as it is
    if found is not None and found != PurePosixPath(name).as_posix():
        entry["file_name"] = found
        remarks["name-found"].append((found, f"{where}.file_name {name!r} is {found}"))


def _written_parts(name: str) -> list[str]:
    """The parts of a name as written, without what leads out of a folder."""
    return [part for part in re.split(r"[/\\]", name) if key_of(part)]


def _size(entry: dict, where: str, remarks: Remarks) -> None:
    stated = entry.get("width"), entry.get("height")
    if all(type(side) is int and side > 0 for side in stated):
        return
    sides = [number_of(side) for side in stated]
    for key in ("width", "height"):
        entry.pop(key, None)
    if all(type(side) is int and side > 0 for side in sides):
        entry["width"], entry["height"] = sides
        remarks["id-text"].append(("", f"{where}.width and height are {stated[0]!r} and {stated[1]!r}"))
    else:
        name = str(entry.get("file_name", ""))
        remarks["size-unsaid"].append((name, f"{where} ({name}): {stated[0]!r} and {stated[1]!r}"))


def _outline(entry: dict, where: str, remarks: Remarks) -> None:
    value = entry.get("segmentation")
    outline = outline_of(value)
    if outline != value or isinstance(outline, dict) and outline is not value:
        entry["segmentation"] = outline
        if outline:
            remarks["outline-shape"].append(("", f"{where} (annotation {entry.get('id', 'without id')})"))
    if entry.get("bbox") in ([], None, {}, ""):
        entry.pop("bbox", None)
    polygons = entry.get("segmentation") or [entry.get("bbox")]
    numbers = [v for p in polygons if isinstance(p, list) for v in p] if isinstance(polygons, list) else []
    if numbers and all(_is_number(v) and 0 <= v <= 1 for v in numbers) and any(v not in (0, 1) for v in numbers):
        remarks["fractions"].append(("", f"{where} (annotation {entry.get('id', 'without id')})"))
    if flag_of(entry.get("ignore")) == 1 and not entry.get("iscrowd"):
        entry["iscrowd"] = 1
        remarks["ignored"].append(("", f"{where} (annotation {entry.get('id', 'without id')})"))


def _join_same_files(content: dict, remarks: Remarks) -> None:
    """Entries of 'images' with one file name are one image, the first; annotations of the others go there."""
    first: dict[str, dict] = {}
    same: dict[int | str, Any] = {}  # id -> id of the first entry of the file
    for index, entry in _dicts(content, "images"):
        name, number = entry.get("file_name"), entry.get("id")
        if not isinstance(name, str) or not isinstance(number, (int, str)):
            continue
        known = first.setdefault(name, entry)
        if known is entry or known["id"] == number:  # an id that occurs twice is refused by the reader
            continue
        sizes = [(one["width"], one["height"]) for one in (known, entry) if "width" in one and "height" in one]
        if len(set(sizes)) > 1:
            text = " and ".join(f"{width} x {height}" for width, height in sizes)
            remarks["name-unclear"].append((name, f"images[{index}]: {name!r} is listed twice, as {text} pixels: correct one"))
            continue
        same[number] = known["id"]
        entry[LEFT_OUT] = True
        remarks["same-file"].append((name, f"images[{index}] {name!r}: image {number} is image {known['id']}"))
        for key in ("width", "height"):
            if key in entry:
                known.setdefault(key, entry[key])
    for _, annotation in _dicts(content, "annotations") if same else ():
        if isinstance(annotation.get("image_id"), (int, str)):
            annotation["image_id"] = same.get(annotation["image_id"], annotation["image_id"])


def _leave_out_shapeless(content: dict, remarks: Remarks) -> None:
    for index, entry in _dicts(content, "annotations"):
        if not entry.get("segmentation") and "bbox" not in entry:
            entry[LEFT_OUT] = True
            remarks["no-geometry"].append(("", f"annotations[{index}] (annotation {entry.get('id', 'without id')})"))


CROWDED, CROWDED_IN_ALL = 0.9, 1 / 3  # of a class's segments, of all things: too many to be said in passing


def many_crowds(every: Counter[int], crowds: Counter[int], names: dict[int, str]) -> list[str]:
    """What consists of crowds in a data set, which are neither trained on nor counted: "crane: 9 of 10", "all things: 4 of 9".

    `every` and `crowds` count segments by category id, `names` are those of the things.
    """
    found = [f"{name}: {crowds[i]} of {every[i]}" for i, name in names.items() if crowds[i] >= max(1, CROWDED * every[i])]
    of_all, all_things = (sum(count[i] for i in names) for count in (crowds, every))
    return found + [f"all things: {of_all} of {all_things}"] * (of_all > CROWDED_IN_ALL * all_things)
