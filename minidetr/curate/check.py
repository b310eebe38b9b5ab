"""Everything wrong or odd in a data set, by file and field, counted, what matters most first.

Two kinds of input: a panoptic data set (panoptic.json, images/, panoptic/), and an annotation export in COCO's detection format
(polygons or run lengths), which is what annotation tools write. Nothing is changed here; `minidetr.curate.fix` mends.

Every kind of finding is a line of `findings.KINDS`; `checker` has the checks that both formats share, and each format has a file.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from minidetr.curate.check_detection import DetectionChecker
from minidetr.curate.check_panoptic import PanopticChecker
from minidetr.curate.checker import Checker
from minidetr.curate.layouts import layout_of
from minidetr.curate.report import Report
from minidetr.data.foreign import is_panoptic
from minidetr.data.pngs import void_ids
from minidetr.errors import InputError
from minidetr.panoptic import read_json

QUERIES = 100  # of the published models


def check(path: str | Path, photos: str | Path | None = None, queries: int = QUERIES, void: Collection[int] = ()) -> Report:
    """Look for everything wrong or odd in a data set.

    `path` is the folder of a panoptic data set, that of a tool's export (see `layouts`) with one detection file in it, or a COCO
    JSON file: an export in detection format, or a panoptic JSON, whose PNGs are then looked for in `panoptic/` beside it.
    `photos` is the folder of the photos; those of a data set are in its `images/`, those of a JSON file are not checked without
    it. `queries` is the number of objects that the model can find. Pixels of the ids `void` in PNGs are void, their segments are
    left out. Raises InputError when there is no such file or it holds no COCO data at all; everything else is a finding.
    """
    path, photos = opened(path, photos)
    json_file = path / "panoptic.json" if path.is_dir() else path
    content = read_json(json_file)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise InputError(f"{json_file} has no list '{key}': a COCO file has images, annotations and categories")
    if photos is not None and not Path(photos).is_dir():
        raise InputError(f"{photos} is not a folder: give the folder of the photos")
    if photos is None and path.is_dir():
        photos = path / "images"
    kind: type[Checker] = PanopticChecker if path.is_dir() or is_panoptic(content) else DetectionChecker
    checker = kind(json_file, content, Path(photos) if photos else None, queries)
    if isinstance(checker, PanopticChecker):
        checker.void = void_ids(void)
    if photos is None:
        checker.report.unchecked.append("photos are not checked: give their folder with --photos")
    return checker.check()


def opened(path: str | Path, photos: str | Path | None) -> tuple[Path, str | Path | None]:
    """What to look at: the folder of a data set or a JSON file as given; of a tool's folder its one detection file and photos.

    Raises InputError for a folder that holds neither, or several files.
    """
    path = Path(path)
    if not path.is_dir() or (path / "panoptic.json").is_file():
        return path, photos
    if (path / "images").is_dir() and (path / "panoptic").is_dir():
        raise InputError(f"{path / 'panoptic.json'} is missing: a data set's folder holds panoptic.json, images/ and panoptic/")
    layout = layout_of(path)
    if layout.tool == "minidetr":
        raise InputError(f"{path} is in parts: give one of {', '.join(str(part.json_file.parent) for part in layout.parts)}")
    if len(layout.parts) > 1:
        files = ", ".join(str(part.json_file) for part in layout.parts)
        raise InputError(f"{path} is an export of {layout.tool} in several parts: give one of {files}, with --photos")
    part = layout.parts[0]
    if part.pngs is not None:
        raise InputError(f"{path} is laid out as {layout.tool}'s: `minidetr data assemble {path} OUT` first, then check OUT")
    return part.json_file, part.photos if photos is None else photos
