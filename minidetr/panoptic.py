"""A panoptic segmentation, its segments and categories, the RGB coding of ids in COCO's PNG files; reading and writing files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from errno import ENAMETOOLONG
from math import isfinite
from pathlib import Path

import numpy as np
from PIL import Image

from minidetr.errors import InputError

MAX_PIXELS = 90_000_000  # of an image: a file of a few kilobytes can claim to be larger than memory
MAX_CATEGORY_ID = 99_999  # far above any list of classes: a class head for an id in the billions would fill the memory


@dataclass(frozen=True)
class Category:
    """A class of the data set: `is_thing` is data, never a rule on the id. `color` is RGB in 0..255, or None."""

    id: int
    name: str
    is_thing: bool
    color: tuple[int, int, int] | None = None

    def to_json(self) -> dict:
        """The entry of a COCO panoptic file's `categories`."""
        entry = {"id": self.id, "name": self.name, "isthing": int(self.is_thing)}
        return entry | ({"color": list(self.color)} if self.color else {})


@dataclass(frozen=True)
class Segment:
    """One segment of an image. `area` counts pixels; `box` is (x, y, width, height) in pixels of the image."""

    id: int
    category_id: int
    score: float
    is_thing: bool
    area: int
    box: tuple[int, int, int, int]


@dataclass
class Panoptic:
    """Every pixel of one image in exactly one segment, or void.

    `segment_ids` is H x W, int32, 0 = void; `segments` describe every id in it but 0.
    """

    segment_ids: np.ndarray
    segments: list[Segment] = field(default_factory=list)

    @classmethod
    def of_entries(cls, segment_ids: np.ndarray, entries: Sequence[dict], categories: Sequence[Category]) -> Panoptic:
        """From ids H x W and the `segments_info` of a COCO panoptic file; areas and boxes are measured, a truth's score is 1."""
        is_thing = {category.id: category.is_thing for category in categories}
        areas, boxes = boxes_of_ids(segment_ids, np.array([entry["id"] for entry in entries], np.int64))
        segments = []
        for entry, area, (x, y, width, height) in zip(entries, areas.tolist(), boxes.tolist(), strict=True):
            category_id, score = entry["category_id"], entry.get("score", 1.0)
            segments.append(Segment(entry["id"], category_id, score, is_thing[category_id], area, (x, y, width, height)))
        return cls(segment_ids, segments)

    def annotation(self, image_id: int | str, png_name: str) -> dict:
        """The entry of a COCO panoptic file's `annotations`."""
        info = [
            {
                "id": s.id,
                "category_id": s.category_id,
                "area": s.area,
                "bbox": list(s.box),
                "iscrowd": 0,
                "score": round(s.score, 4),
            }
            for s in self.segments
        ]
        return {"image_id": image_id, "file_name": png_name, "segments_info": info}

    def save(self, png: str | Path, json_file: str | Path) -> None:
        """Write the RGB-coded ids to `png` and the segments to `json_file`, whole or not at all."""
        write_png(png, encode_ids(self.segment_ids))
        write_json(json_file, {"segments": [asdict(s) for s in self.segments], "file_name": Path(png).name})


def encode_ids(segment_ids: np.ndarray) -> np.ndarray:
    """H x W ids -> H x W x 3 uint8: id = R + 256 G + 65536 B (COCO panoptic format)."""
    if segment_ids.size and not 0 <= segment_ids.min() <= segment_ids.max() < 256**3:
        raise InputError(
            f"segment ids must lie in 0..{256**3 - 1} to fit a PNG, but they span {segment_ids.min()}..{segment_ids.max()}"
        )
    ids = segment_ids.astype(np.uint32)
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)


def decode_ids(rgb: np.ndarray) -> np.ndarray:
    """H x W x 3 uint8 -> H x W int32 ids, the inverse of `encode_ids`."""
    rgb = rgb.astype(np.int32)
    return rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]


def boxes_of_ids(segment_ids: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area and box of every id in one pass over the pixels.

    `segment_ids` H x W, `ids` K -> areas K (int64) and boxes K x 4 (x, y, width, height; int64), with +1 so that one pixel has
    a box of 1 x 1 (the reference leaves it out). An id without a pixel has area 0 and an all-zero box.
    """
    from scipy import ndimage  # here: importing it takes half a second, and the processes that count PQ never call this

    areas, boxes = np.zeros(len(ids), np.int64), np.zeros((len(ids), 4), np.int64)
    if not len(ids):
        return areas, boxes
    if (largest := max(ids.max(), segment_ids.max())) < 1 << 16:  # the usual case, by a table: several times faster
        table = np.zeros(largest + 1, np.int32)
        table[ids] = np.arange(1, len(ids) + 1)
        index = table.take(segment_ids)  # 1..K, 0 where the pixel has none of the ids
    else:
        order = np.argsort(ids)
        place = np.searchsorted(ids, segment_ids, sorter=order).clip(max=len(ids) - 1)
        index = np.where(ids[order[place]] == segment_ids, order[place] + 1, 0)
    areas[:] = np.bincount(index.ravel(), minlength=len(ids) + 1)[1:]
    for k, slices in enumerate(ndimage.find_objects(index, max_label=len(ids))):
        if slices is not None:
            rows, columns = slices
            boxes[k] = columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
    return areas, boxes


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; renamed to `path` at the end, removed if anything fails before.

    Raises InputError where the name is too long for the file system.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno == ENAMETOOLONG:
            raise InputError(
                f"{path.name} is too long for a file's name here: shorten the name of the photo it stands for"
            ) from error
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(path)  # a full disk is told without it
        raise


def write_png(path: str | Path, rgb: np.ndarray) -> None:
    """Write H x W x 3 uint8 as PNG, whole or not at all."""
    with whole_file(path) as temporary:
        Image.fromarray(rgb).save(temporary, format="PNG")


def write_json(path: str | Path, content: object) -> None:
    """Write JSON, whole or not at all; numbers that are not finite, which JSON lacks, as null."""
    try:
        text = json.dumps(content, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(content), allow_nan=False)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _finite(content: object) -> object:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not isfinite(content) else content


def read_json(path: str | Path, what: str = "a COCO-format JSON file") -> dict:
    """The object in a JSON file; `what` names the file that is wanted. InputError if it is missing, not JSON or no object."""
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give {what}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): write or export it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__} where an object is expected: give {what}")
    return content


def checked_threshold(threshold: float) -> float:
    """A score threshold that someone gave. Raises InputError unless it is a number that lies in 0..1."""
    if isinstance(threshold, str) or not 0 <= threshold <= 1:
        raise InputError(f"the threshold must be a number that lies in 0..1, not {threshold!r}")
    return threshold


def leads_out(name: str, folder: Path | None = None) -> bool:
    """Whether a file name from a JSON is not one inside its folder: absolute, with `..`, or (in `folder`) a link to elsewhere."""
    if not name.strip("./\\") or "\0" in name or os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
        return True
    return folder is not None and not Path(os.path.realpath(folder / name)).is_relative_to(os.path.realpath(folder))


def path_inside(folder: Path, name: str, json_file: str | Path) -> Path:
    """FOLDER/NAME. Raises InputError where the name, or a link, leads out of it: a JSON from elsewhere opens no other file."""
    if leads_out(name):
        raise InputError(f"the file_name {name!r} in {json_file} must lie inside its folder, without leading '/' and '..'")
    if leads_out(name, folder):
        raise InputError(f"{folder / name}, named in {json_file}, leads out of {folder}: put the file itself there")
    return folder / name
