"""Data sets in COCO's panoptic format: one JSON, one photo and one RGB-coded PNG of segment ids per image; reading and writing."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm import tqdm

from minidetr.data.images import normalise, read_image, to_tensor
from minidetr.data.pngs import misread, read_ids, void_ids
from minidetr.data.targets import Target, target_from_panoptic
from minidetr.errors import InputError
from minidetr.panoptic import (
    MAX_CATEGORY_ID,
    Category,
    boxes_of_ids,
    encode_ids,
    leads_out,
    path_inside,
    read_json,
    write_json,
    write_png,
)


class PanopticDataset(Dataset, ABC):
    """Images with their segments. A kind of data set says how to `read` one; this makes model input and target of it."""

    categories: list[Category]
    image_ids: list[int]
    file_names: list[str]
    transform: v2.Transform | None = None

    @abstractmethod
    def read(self, index: int) -> tuple[Image.Image, np.ndarray, list[dict]]:
        """The RGB image, its segment ids (H W int32, 0 = void) and the segments' entries, crowds among them, untransformed."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """The transformed image, 3 H W float32 normalised, and its target."""
        picture, segment_ids, segments_info = self.read(index)
        image, ids = tv_tensors.Image(to_tensor(picture)), tv_tensors.Mask(torch.from_numpy(segment_ids)[None])
        if self.transform is not None:
            image, ids = self.transform(image, ids)
        image, ids = image.as_subclass(Tensor), ids[0].as_subclass(Tensor)
        return normalise(image), target_from_panoptic(ids, segments_info, self.image_ids[index], size=segment_ids.shape)


class CocoPanoptic(PanopticDataset):
    """A data set on disk. The JSON is checked once, here; photos and PNGs when they are read.

    `json_file` is the panoptic JSON, `images_dir` holds its photos, `panoptic_dir` its PNGs. `transform` takes and gives
    `(image, segment_ids)`, see `minidetr.data.transforms`. Pixels of the ids `void` are void, their segments are left out. Raises
    InputError naming the file and the field.
    """

    def __init__(
        self,
        json_file: str | Path,
        images_dir: str | Path,
        panoptic_dir: str | Path,
        transform: v2.Transform | None = None,
        void: Collection[int] = (),
    ) -> None:
        self.json_file, self.images_dir, self.panoptic_dir = Path(json_file), Path(images_dir), Path(panoptic_dir)
        self.transform, self.void = transform, void_ids(void)
        for folder in (self.images_dir, self.panoptic_dir):
            if not folder.is_dir():
                raise InputError(f"{folder} is not a folder: give the folders of the photos and of the panoptic PNGs")
        self.categories, images, self._annotations = read_panoptic_json(self.json_file)
        self.image_ids, self.file_names = list(images), list(images.values())
        for entry in self._annotations.values() if self.void else ():
            entry["segments_info"] = [segment for segment in entry["segments_info"] if segment["id"] not in self.void]

    @classmethod
    def from_folder(cls, folder: str | Path, transform: v2.Transform | None = None, void: Collection[int] = ()) -> CocoPanoptic:
        """The data set of FOLDER/panoptic.json, FOLDER/images and FOLDER/panoptic."""
        folder = Path(folder)
        return cls(folder / "panoptic.json", folder / "images", folder / "panoptic", transform, void)

    def read(self, index: int) -> tuple[Image.Image, np.ndarray, list[dict]]:
        """One image as `PanopticDataset.read` says. Raises InputError when the photo, the PNG and the JSON disagree."""
        annotation = self._annotations[self.image_ids[index]]
        photo = path_inside(self.images_dir, self.file_names[index], self.json_file)
        png = path_inside(self.panoptic_dir, annotation["file_name"], self.json_file)
        listed = {segment["id"] for segment in annotation["segments_info"]}
        image, segment_ids = read_image(photo), read_ids(png, listed, self.void)
        if segment_ids.shape != (image.height, image.width):
            sizes = f"{image.width} x {image.height} and {segment_ids.shape[1]} x {segment_ids.shape[0]}"
            raise InputError(f"{photo} and {png} must have the same size, but are {sizes} pixels (upright, width x height)")
        painted = set(np.unique(segment_ids).tolist()) - {0}
        if painted - listed:
            why = misread(png, listed, self.void)
            raise InputError(
                f"{png} has pixels of ids {_some(painted - listed)}, which {self.json_file} does not list: add them{why}"
            )
        if listed - painted:
            raise InputError(f"{png} has no pixel of ids {_some(listed - painted)}, which {self.json_file} lists: remove them")
        return image, segment_ids, annotation["segments_info"]


def read_panoptic_json(path: str | Path) -> tuple[list[Category], dict[int, str], dict[int, dict]]:
    """Read and check a COCO panoptic JSON: its categories, the photo's file name per image id, the annotation per image id.

    Required are "images" (id, file_name), "annotations" (image_id, file_name, segments_info with id and category_id) and
    "categories" (id, name, isthing). Raises InputError, naming the file and the field, for anything missing, doubled or unknown.
    """
    path = Path(path)
    content = read_json(path, "the panoptic JSON of the data set")

    categories: dict[int, Category] = {}
    for where, entry in _entries(content, "categories", path):
        category = read_category(entry, where)
        if category.id in categories:
            raise InputError(f"{where}: the category id {category.id} occurs twice, give each category its own")
        categories[category.id] = category

    images: dict[int, str] = {}
    for where, entry in _entries(content, "images", path):
        image_id = read_value(entry, "id", int, where)
        if image_id in images:
            raise InputError(f"{where}: the image id {image_id} occurs twice, give each image its own")
        images[image_id] = read_file_name(entry, where)

    annotations: dict[int, dict] = {}
    for where, entry in _entries(content, "annotations", path):
        image_id = read_value(entry, "image_id", int, where)
        if image_id not in images:
            raise InputError(f"{where}: no image has the id {image_id}, add it to 'images' or remove the annotation")
        if image_id in annotations:
            raise InputError(f"{where}: the image {image_id} has two annotations, keep one")
        read_file_name(entry, where)
        _check_segments(read_value(entry, "segments_info", list, where), categories, where)
        annotations[image_id] = entry

    missing = [f"{image_id} ({name})" for image_id, name in images.items() if image_id not in annotations]
    if missing:
        raise InputError(f"{path}: 'annotations' has no entry for {_some(missing)}: add one, its segments_info may be empty")
    return list(categories.values()), images, annotations


def write_coco_panoptic(dataset: PanopticDataset, folder: str | Path) -> None:
    """Write `dataset` as FOLDER/images/*.png (lossless), FOLDER/panoptic/*.png and FOLDER/panoptic.json, whole or not at all.

    Transforms are not applied. Areas and boxes are counted anew; segments without a pixel are left out. Raises InputError
    when FOLDER exists and holds anything.
    """
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder: choose another name or remove it")
    images, annotations = [], []
    with whole_folder(folder) as part:
        for index in tqdm(range(len(dataset)), desc=f"writing {folder.name}", unit="image", disable=None):
            image, segment_ids, segments_info = dataset.read(index)
            image_id, name = dataset.image_ids[index], f"{index:06d}.png"
            write_png(part / "images" / name, np.asarray(image))
            write_png(part / "panoptic" / name, encode_ids(segment_ids))
            images.append({"id": image_id, "file_name": name, "height": image.height, "width": image.width})
            annotations.append({"image_id": image_id, "file_name": name, "segments_info": measured(segment_ids, segments_info)})
        categories = [category.to_json() for category in dataset.categories]
        write_json(part / "panoptic.json", {"images": images, "annotations": annotations, "categories": categories})


def measured(segment_ids: np.ndarray, segments_info: list[dict]) -> list[dict]:
    """The entries with "area" and "bbox" (x, y, width, height in pixels) of their pixels in `segment_ids`; none without a pixel."""
    areas, boxes = boxes_of_ids(segment_ids, np.array([segment["id"] for segment in segments_info], np.int64))
    return [
        {"id": s["id"], "category_id": s["category_id"], "area": int(area), "bbox": box.tolist(), "iscrowd": s.get("iscrowd", 0)}
        for s, area, box in zip(segments_info, areas, boxes, strict=True)
        if area
    ]


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, renamed to it at the end and removed after an error: `folder` appears whole or not at all."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")  # two processes may be at it
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed and had the same number
    try:
        part.mkdir(parents=True)
        yield part
        if folder.exists():  # empty, but perhaps a mount or somebody's current folder: fill it rather than replace it
            for entry in sorted(part.iterdir()):
                shutil.move(entry, folder / entry.name)
        else:
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _entries(content: dict, key: str, path: Path) -> Iterator[tuple[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path} has no list '{key}', or it is empty: a COCO panoptic file has images, annotations and categories")
    return ((f"{path}: {key}[{index}]", entry) for index, entry in enumerate(entries))


def read_value(entry: Any, key: str, kind: type, where: str) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) is not kind:  # not isinstance: True is no id
        kind_name = {int: "a whole number", str: "a text", list: "a list"}[kind]
        raise InputError(f"{where}: the field '{key}' must be {kind_name}, but is {'missing' if value is None else repr(value)}")
    return value


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


def _some(values: set | list) -> str:
    values = sorted(values) if isinstance(values, set) else values
    return ", ".join(map(str, values[:5])) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
