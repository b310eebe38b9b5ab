"""Photos in, COCO panoptic files and overlays out: what `minidetr predict` does, and the demo with it."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from minidetr.data.coco import whole_folder
from minidetr.data.images import open_image, read_image
from minidetr.data.names import PHOTO_SUFFIXES
from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.panoptic import Category, Panoptic, encode_ids, write_json, write_png
from minidetr.plot import labelled_overlay

WRITTEN = ("panoptic.json", "panoptic", "overlays")  # what `segment_into` puts into its folder


def find_photos(inputs: Sequence[Path]) -> list[Path]:
    """Files as given, and the image files directly inside folders, sorted; each once.

    Raises InputError for a folder without an image, and for two photos whose results would have the same name.
    """
    photos: dict[Path, Path] = {}  # by absolute path, so that a photo given twice counts once
    for given in inputs:
        found = [given]
        if given.is_dir():
            found = sorted(p for p in given.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES and p.is_file())
            if not found:
                raise InputError(f"{given} holds no photo: put files there that end in {', '.join(PHOTO_SUFFIXES)}")
        photos |= {path.resolve(): path for path in found}
    by_stem: dict[str, Path] = {}
    for path in photos.values():
        other = by_stem.setdefault(path.stem.casefold(), path)  # some file systems ignore case
        if other is not path:
            raise InputError(f"{other} and {path} would both be written as {path.stem}.png: rename one of them")
    return list(photos.values())


def check_photos(photos: Sequence[Path]) -> None:
    """Decode every photo once, before hours of work may end in a broken file. Raises InputError naming the first and how many."""

    def problem(path: Path) -> InputError | None:
        try:
            open_image(path)
        except InputError as error:
            return error
        return None

    with ThreadPoolExecutor() as pool:  # Pillow decodes outside of Python's lock
        checked = pool.map(problem, photos)
        progress = tqdm(checked, desc="checking photos", total=len(photos), unit="photo", disable=None, leave=False)
        problems = [error for error in progress if error is not None]
    if problems:
        more = f" (and {len(problems) - 1} more of the {len(photos)} photos cannot be read)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{more}")


def image_ids(photos: Sequence[Path]) -> list[int]:
    """COCO's image ids: the files' names where all are different numbers (as COCO's own are), else 1, 2, 3, ..."""
    stems = [path.stem for path in photos]
    if all(stem.isascii() and stem.isdigit() for stem in stems) and len({int(stem) for stem in stems}) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(stems) + 1))


@contextmanager
def output_folder(folder: Path, names: Sequence[str] = WRITTEN, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into that becomes `folder` at the end, whole or not at all.

    `folder` must be new or empty. With `overwrite` it may also hold an earlier result, files and folders called `names` and
    nothing else, so that nobody's photos are deleted. Raises InputError otherwise.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: choose another folder for the results")
    present = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    foreign = sorted(present - set(names))
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


def segment_into(
    folder: Path,
    photos: Sequence[Path],
    model: PanopticDETR,
    threshold: float | None = None,
    batch_size: int = 1,
    precision: str = "float32",
    say: Callable[[str], None] = lambda line: None,
) -> float:
    """Segment photos and write FOLDER/panoptic.json, FOLDER/panoptic/STEM.png (RGB-coded ids) and FOLDER/overlays/STEM.png.

    `threshold` is a score in 0..1 (None: the model's own); `precision` is "float32" or "bfloat16"; `say` gets a line for each
    photo. Returns the seconds that the model took for all of them, without reading and writing files.
    """
    device = next(model.parameters()).device
    images: list[dict] = []
    annotations: list[dict] = []
    seconds = 0.0
    numbers = image_ids(photos)
    with tqdm(desc="segmenting", total=len(photos), unit="photo", disable=None) as progress:
        for start in range(0, len(photos), batch_size):
            paths = photos[start : start + batch_size]
            pictures = [read_image(path) for path in paths]
            began = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                results = model.segment(pictures, threshold, batch_size)  # their ids are on the CPU: the GPU has finished
            seconds += time.perf_counter() - began
            for path, picture, panoptic in zip(paths, pictures, results, strict=True):
                number, name = numbers[len(images)], f"{path.stem}.png"
                images.append({"id": number, "file_name": path.name, "height": picture.height, "width": picture.width})
                annotations.append(panoptic.annotation(number, name))
                write_png(folder / "panoptic" / name, encode_ids(panoptic.segment_ids))
                write_png(folder / "overlays" / name, labelled_overlay(np.asarray(picture), panoptic, model.categories))
                say(f"{path.name}: {summary(panoptic, model.categories)}")
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
