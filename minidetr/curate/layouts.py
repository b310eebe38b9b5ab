"""Which tool wrote a folder: where its annotations and its photos lie, and what each part of it is for.

`layout_of` looks at names alone, in the order of `LAYOUTS`: the first that fits is it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minidetr.data.foreign import is_panoptic
from minidetr.errors import InputError
from minidetr.panoptic import read_json

PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}  # of a data set


@dataclass(frozen=True)
class Part:
    """One part of a data set: `name` is train, val, test, or "" where there is one part alone.

    `json_file` is in detection or in panoptic format, `photos` the folder of its photos, `pngs` that of a panoptic file's PNGs.
    Photos are not called as the JSON says but with `renamed[1]` for `renamed[0]`, where that is not None.
    """

    name: str
    json_file: Path
    photos: Path
    pngs: Path | None = None
    renamed: tuple[str, str] | None = None

    @property
    def inputs(self) -> list[Path]:
        """Everything that is read of it: file and folders."""
        return [path for path in (self.json_file, self.photos, self.pngs) if path is not None]


@dataclass(frozen=True)
class Layout:
    """A data set as a tool wrote it; `tool` says which, for people. `left_out`: what looks like more parts, but is incomplete."""

    tool: str
    parts: list[Part]
    left_out: list[str]


def layout_of(folder: str | Path) -> Layout:
    """The layout of a folder. Raises InputError, naming what was looked for, where none fits."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder: give the folder that a tool's export was unpacked to, or its JSON and its photos"
        )
    for tool, find in LAYOUTS:
        if parts := find(folder):
            return Layout(tool, parts, incomplete(folder, parts))
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if len(inner) == 1:  # unpacked into a folder of the archive's name
        return layout_of(inner[0])
    looked_for = (
        "annotations/instances_*.json (CVAT), train/_annotations.coco.json (Roboflow), result.json (Label Studio), panoptic.json"
    )
    raise InputError(f"{folder} is laid out as no tool's export that is known here ({looked_for}): give EXPORT.json and PHOTOS")


def incomplete(folder: Path, parts: list[Part]) -> list[str]:
    """Annotations of segments, and folders called like a part, that none of `parts` reads: paths below `folder`."""
    read = {path for part in parts for path in part.inputs}
    patterns = ("*/instances_*.json", "*/panoptic_*.json", "*_panoptic_*.json", "gtFine/*_panoptic_*.json")
    files = [path for pattern in patterns for path in folder.glob(pattern) if path not in read]
    read_too = {parent for path in read for parent in path.parents}
    places = [folder / part for part in PARTS if (folder / part).is_dir()]
    places = [p for p in places if p not in read_too and not any(p.is_relative_to(part.photos) for part in parts)]
    return sorted({path.relative_to(folder).as_posix() for path in [*files, *places]})


# --- one function a layout: the parts found, [] if it is another ----------------------------------------------------------------


def own(folder: Path) -> list[Part]:
    """minidetr's own: panoptic.json, images/, panoptic/; or that in train/ and val/."""
    found = []
    for place, name in [(folder, ""), *((folder / part, PARTS[part]) for part in PARTS)]:
        if (place / "panoptic.json").is_file() and (place / "images").is_dir() and (place / "panoptic").is_dir():
            found.append(Part(name, place / "panoptic.json", place / "images", place / "panoptic"))
    return found


def coco_panoptic(folder: Path) -> list[Part]:
    """COCO's: annotations/panoptic_val2017.json, val2017/, and panoptic_val2017/ there or beside the JSON."""
    found = []
    for json_file in sorted((folder / "annotations").glob("panoptic_*.json")):
        subset = json_file.stem.removeprefix("panoptic_")
        pngs = next((p for p in (folder / json_file.stem, json_file.with_suffix("")) if p.is_dir()), None)
        photos = next((p for p in (folder / subset, folder / "images" / subset, folder / "images") if p.is_dir()), None)
        if pngs and photos:
            found.append(Part(part_of(subset), json_file, photos, pngs))
    return found


def cityscapes(folder: Path) -> list[Part]:
    """Cityscapes after createPanopticImgs.py: gtFine/cityscapes_panoptic_val.json, its folder, leftImg8bit/val/CITY/."""
    found = []
    for json_file in sorted([*folder.glob("cityscapes_panoptic_*.json"), *folder.glob("gtFine/cityscapes_panoptic_*.json")]):
        subset, pngs = json_file.stem.removeprefix("cityscapes_panoptic_"), json_file.with_suffix("")
        photos = next((p for p in (folder / "leftImg8bit" / subset, folder / "leftImg8bit") if p.is_dir()), None)
        if subset in PARTS and pngs.is_dir() and photos:
            found.append(Part(PARTS[subset], json_file, photos, pngs, ("_gtFine_leftImg8bit", "_leftImg8bit")))
    return found


def ade20k(folder: Path) -> list[Part]:
    """ADE20k after Mask2Former's prepare_ade20k_pan_seg.py: ade20k_panoptic_val.json, its folder, images/validation/."""
    found = []
    for json_file in sorted(folder.glob("ade20k_panoptic_*.json")):
        subset, pngs = json_file.stem.removeprefix("ade20k_panoptic_"), json_file.with_suffix("")
        names = [name for name, part in PARTS.items() if part == PARTS.get(subset)]
        photos = next((folder / "images" / name for name in names if (folder / "images" / name).is_dir()), None)
        if pngs.is_dir() and photos:
            found.append(Part(PARTS[subset], json_file, photos, pngs))
    return found


def roboflow(folder: Path) -> list[Part]:
    """Roboflow's: train/, valid/, test/, each with _annotations.coco.json beside its photos; or one such folder alone."""
    places = [(folder, ""), *((folder / part, PARTS[part]) for part in PARTS)]
    return [Part(name, place / ROBOFLOW, place) for place, name in places if (place / ROBOFLOW).is_file()]


ROBOFLOW = "_annotations.coco.json"


def cvat(folder: Path) -> list[Part]:
    """CVAT's COCO export: annotations/instances_SUBSET.json and images/, of several subsets images/SUBSET/."""
    found = []
    files = sorted((folder / "annotations").glob("instances_*.json"))
    for json_file in files:
        subset = json_file.stem.removeprefix("instances_")
        own = folder / "images" / subset
        photos = own if own.is_dir() else folder / "images"
        others = any((folder / "images" / other.stem.removeprefix("instances_")).is_dir() for other in files)
        if photos.is_dir() and (photos == own or not others):  # the photos of another subset are not those of this one
            found.append(Part(part_of(subset) if len(files) > 1 else "", json_file, photos))
    return found


def coco(folder: Path) -> list[Part]:
    """COCO's own: annotations/instances_val2017.json and val2017/."""
    files = sorted((folder / "annotations").glob("instances_*.json"))
    photos = {path: folder / path.stem.removeprefix("instances_") for path in files}
    return [Part(part_of(place.name), path, place) for path, place in photos.items() if place.is_dir()]


def label_studio(folder: Path) -> list[Part]:
    """Label Studio's COCO export: result.json and images/."""
    json_file, photos = folder / "result.json", folder / "images"
    return [Part("", json_file, photos)] if json_file.is_file() and photos.is_dir() else []


def one_json(folder: Path) -> list[Part]:
    """Anything else with exactly one COCO file in it: that, and the photos wherever they lie below the folder."""
    files = [path for path in sorted([*folder.glob("*.json"), *folder.glob("annotations/*.json")]) if is_coco(path)]
    if len(files) != 1 or is_panoptic(read_json(files[0])):
        return []
    photos = folder / "images" if (folder / "images").is_dir() else folder
    return [Part("", files[0], photos)]


def is_coco(path: Path) -> bool:
    """Whether a JSON holds the lists of a COCO file."""
    try:
        content = read_json(path)
    except InputError:
        return False
    return all(isinstance(content.get(key), list) for key in ("images", "annotations", "categories"))


def part_of(subset: str) -> str:
    """train, val or test for a subset's name such as "val2017" or "Validation"; the name itself for any other."""
    word = re.sub(r"[\d_-]+$", "", subset.casefold())
    return PARTS.get(word, subset)


LAYOUTS: list[tuple[str, Callable[[Path], list[Part]]]] = [
    ("minidetr", own),
    ("Cityscapes", cityscapes),
    ("ADE20k", ade20k),
    ("COCO panoptic", coco_panoptic),
    ("Roboflow", roboflow),
    ("CVAT", cvat),
    ("COCO", coco),
    ("Label Studio", label_studio),
    ("one COCO file", one_json),
]
