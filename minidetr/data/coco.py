"""Data sets in COCO's panoptic format: one JSON, one photo and one RGB-coded PNG of segment ids per image; reading and writing."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm import tqdm

from minidetr.data.images import normalise, read_image, to_tensor
from minidetr.data.index import PanopticIndex, some
from minidetr.data.names import Finder, files_below
from minidetr.data.pngs import misread, read_ids, void_ids
from minidetr.data.targets import Target, target_from_panoptic
from minidetr.errors import InputError
from minidetr.panoptic import (
    Category,
    boxes_of_ids,
    encode_ids,
    path_inside,
    write_json,
    write_png,
)


class PanopticDataset(Dataset, ABC):
    """Images with their segments. A kind of data set says how to `read` one; this makes model input and target of it."""

    categories: list[Category]
    image_ids: list[int | str]
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
    """A data set on disk. The JSON is checked once, here; photos and PNGs when they are read, or all at once by `check_files`.

    `json_file` is the panoptic JSON, `images_dir` holds its photos, `panoptic_dir` its PNGs. `transform` takes and gives
    `(image, segment_ids)`, see `minidetr.data.transforms`. `crowds` "as-objects" reads crowds as objects. Pixels of the ids `void`
    are void, their segments are left out. `remarks` tell what was read otherwise than written (`data.foreign.READINGS`). Raises
    InputError naming the file and the field.
    """

    def __init__(
        self,
        json_file: str | Path,
        images_dir: str | Path,
        panoptic_dir: str | Path,
        transform: v2.Transform | None = None,
        crowds: str = "as-crowds",
        void: Collection[int] = (),
    ) -> None:
        self.json_file, self.images_dir, self.panoptic_dir = Path(json_file), Path(images_dir), Path(panoptic_dir)
        self.transform, self.void = transform, void_ids(void)
        for folder in (self.images_dir, self.panoptic_dir):
            if not folder.is_dir():
                raise InputError(f"{folder} is not a folder: give the folders of the photos and of the panoptic PNGs")
        self._photos, self._pngs = Finder(self.images_dir), Finder(self.panoptic_dir)
        self.index = PanopticIndex.read(self.json_file, self._photos, self._pngs, self.void)
        self.categories, self.remarks = self.index.categories, self.index.remarks
        self.image_ids, self.file_names = self.index.image_ids, self.index.file_names
        self._photos.claim(self.file_names)
        self._pngs.claim(self.index.pngs)
        if crowds == "as-objects":
            self.index.crowds[:] = False

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        transform: v2.Transform | None = None,
        crowds: str = "as-crowds",
        void: Collection[int] = (),
    ) -> CocoPanoptic:
        """The data set of FOLDER/panoptic.json, FOLDER/images and FOLDER/panoptic."""
        folder = Path(folder)
        return cls(folder / "panoptic.json", folder / "images", folder / "panoptic", transform, crowds, void)

    def read(self, index: int) -> tuple[Image.Image, np.ndarray, list[dict]]:
        """One image as `PanopticDataset.read` says; areas and boxes of the entries are measured on the PNG, whatever the JSON says.

        Raises InputError when the photo, the PNG and the JSON disagree.
        """
        photo, png = self.files(index)
        segments = self.index.entries(index)
        listed = {segment["id"] for segment in segments}
        image, segment_ids = read_image(photo), read_ids(png, listed, self.void)
        if segment_ids.shape != (image.height, image.width):
            sizes = f"{image.width} x {image.height} and {segment_ids.shape[1]} x {segment_ids.shape[0]}"
            raise InputError(f"{photo} and {png} must have the same size, but are {sizes} pixels (upright, width x height)")
        entries = measured(segment_ids, segments)
        if sum(entry["area"] for entry in entries) + np.count_nonzero(segment_ids == 0) < segment_ids.size:
            strangers, why = set(np.unique(segment_ids).tolist()) - {0} - listed, misread(png, listed, self.void)
            raise InputError(f"{png} has pixels of ids {some(strangers)}, which {self.json_file} does not list: add them{why}")
        if len(entries) < len(segments):
            unseen = listed - {entry["id"] for entry in entries}
            raise InputError(f"{png} has no pixel of ids {some(unseen)}, which {self.json_file} lists: remove them")
        return image, segment_ids, entries

    def check_files(self) -> None:
        """Raise InputError, naming the first and how many, where a photo or a PNG is missing; nothing is opened."""
        for finder, names in ((self._photos, self.file_names), (self._pngs, self.index.pngs)):
            there = set(files_below(finder.folder))
            absent = [name for name in names if PurePosixPath(name).as_posix() not in there]
            absent = [name for name in absent if not self._file(finder, name).is_file()]
            if absent:
                more = f" (and {len(absent) - 1} more of {len(names)})" if len(absent) > 1 else ""
                raise InputError(
                    f"{finder.folder / absent[0]} is not a file{more}, but {self.json_file} names it: put it there, or write a "
                    "copy without by `minidetr data check --fix`"
                )

    def files(self, index: int) -> tuple[Path, Path]:
        """Photo and PNG of an image: as named, or else the one file that the name fits. Raises InputError where it leads out."""
        named = ((self._photos, self.file_names[index]), (self._pngs, self.index.pngs[index]))
        photo, png = (self._file(finder, name) for finder, name in named)
        return photo, png

    def _file(self, finder: Finder, name: str) -> Path:
        path = path_inside(finder.folder, name, self.json_file)
        if path.is_file() or (found := finder.find(name)) is None:
            return path  # reading a missing one says so
        return path_inside(finder.folder, found, self.json_file)


def write_coco_panoptic(dataset: PanopticDataset, folder: str | Path) -> None:
    """Write `dataset` as FOLDER/images/*.png (lossless), FOLDER/panoptic/*.png and FOLDER/panoptic.json, whole or not at all.

    Transforms are not applied. Areas and boxes are counted anew; segments without a pixel are left out. Raises InputError
    when FOLDER exists and holds anything.
    """
    folder = Path(folder).resolve()
    check_empty(folder)
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


def check_empty(folder: Path) -> None:
    """Raise InputError where a folder to be written is there and holds anything, or is a file."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder: choose another name or remove it")


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
