"""Photos in, COCO panoptic files and overlays out: what `minidetr predict` does, and the demo with it."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from tqdm import tqdm

from minidetr.data.coco import whole_folder
from minidetr.data.images import ImageSource, read_image
from minidetr.data.names import png_names
from minidetr.data.photos import check_names, image_ids
from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.panoptic import Category, Panoptic, encode_ids, write_json, write_png
from minidetr.plot import labelled_overlay

WRITTEN = ("panoptic.json", "panoptic", "overlays")  # what `segment_into` puts into its folder


@contextmanager
def output_folder(
    folder: Path, names: Sequence[str] = WRITTEN, overwrite: bool = False, inputs: Collection[str | Path] = ()
) -> Iterator[Path]:
    """A folder to write into that becomes `folder` at the end, whole or not at all.

    `folder` must be new or empty. With `overwrite` it may also hold an earlier result, files and folders called `names` and
    nothing else, so that nobody's photos are deleted; nor may any of `inputs`, what the command reads, lie in it. Raises
    InputError otherwise.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: choose another folder for the results")
    present = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    foreign = sorted(present - set(names))
    within = [path for path in inputs if present and Path(path).resolve().is_relative_to(folder)]
    if within:
        raise InputError(f"{within[0]} lies in {folder}, which would be replaced: choose another folder for the results")
    if present and not overwrite:
        raise InputError(f"{folder} is not empty: choose another folder, or replace the result in it with --overwrite")
    if foreign:
        raise InputError(f"{folder} holds {foreign[0]}, which is no result of this command: choose another folder")
    with whole_folder(folder) as part:
        yield part
        for name in present:
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def load_model(
    name_or_path: str, device: str | None = None, preset: str | None = None, categories: str | None = None
) -> PanopticDETR:
    """A model in eval mode on `device` (None: the GPU when there is one); the rest as in `PanopticDETR.from_pretrained`.

    Raises InputError for an unknown model or device.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(f"there is no device {chosen!r} here: use cpu, or cuda where PyTorch finds a GPU") from None
    return PanopticDETR.from_pretrained(name_or_path, preset, categories).to(chosen).eval()


class Segmenter(Protocol):
    """What segments photos: a PanopticDETR, or another engine that runs one."""

    categories: list[Category]

    def segment(self, images: Sequence[ImageSource], threshold: float | None = None, batch_size: int = 1) -> list[Panoptic]:
        """As `PanopticDETR.segment`."""


def segment_into(
    folder: Path,
    photos: Mapping[str, Path],
    model: Segmenter,
    threshold: float | None = None,
    batch_size: int = 1,
    precision: str = "float32",
    say: Callable[[str], None] = lambda line: None,
) -> float:
    """Segment photos and write FOLDER/panoptic.json, FOLDER/panoptic/*.png (RGB-coded ids) and FOLDER/overlays/*.png.

    `photos` by their names, as in `Photos.files`: "south/001.jpg" is written as panoptic/south/001.png. `threshold` is a score in
    0..1 (None: the model's own); `precision` is a PanopticDETR's, "float32" or "bfloat16" (other engines have their own); `say`
    gets a line for each photo. Returns the seconds that the model took for all of them, without reading and writing files. Raises
    InputError, before any work, for a photo whose name is too long.
    """
    check_names(photos, folder)
    autocast: Callable[[], AbstractContextManager] = nullcontext
    if isinstance(model, torch.nn.Module) and precision == "bfloat16":
        autocast = partial(torch.autocast, next(model.parameters()).device.type, torch.bfloat16)
    images: list[dict] = []
    annotations: list[dict] = []
    seconds = 0.0
    names = list(photos)
    entries = list(zip(image_ids(names), names, png_names(names), strict=True))
    with tqdm(desc="segmenting", total=len(photos), unit="photo", disable=None) as progress:
        for start in range(0, len(entries), batch_size):
            group = entries[start : start + batch_size]
            pictures = [read_image(photos[name]) for _, name, _ in group]
            began = time.perf_counter()
            with autocast():
                results = model.segment(pictures, threshold, batch_size)  # their ids are on the CPU: the GPU has finished
            seconds += time.perf_counter() - began
            for (number, name, png), picture, panoptic in zip(group, pictures, results, strict=True):
                images.append({"id": number, "file_name": name, "height": picture.height, "width": picture.width})
                annotations.append(panoptic.annotation(number, png))
                write_png(folder / "panoptic" / png, encode_ids(panoptic.segment_ids))
                write_png(folder / "overlays" / png, labelled_overlay(np.asarray(picture), panoptic, model.categories))
                say(f"{name}: {summary(panoptic, model.categories)}")
                progress.update()
    categories = [category.to_json() for category in model.categories]
    write_json(folder / "panoptic.json", {"images": images, "annotations": annotations, "categories": categories})
    return seconds


def summary(panoptic: Panoptic, categories: Sequence[Category]) -> str:
    """One line about a segmentation: "5 segments: worker x3, sky, ground", the largest class first."""
    names = {category.id: category.name for category in categories}
    count = Counter(names[s.category_id] for s in sorted(panoptic.segments, key=lambda s: -s.area))
    listed = ", ".join(f"{name} x{n}" if n > 1 else name for name, n in count.items())
    n = len(panoptic.segments)
    return f"{n} segment{'s' * (n != 1)}: {listed}" if n else "no segment above the threshold"
