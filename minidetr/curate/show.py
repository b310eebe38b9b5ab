"""Contact sheets of a data set: photos with their segments, by class or by trouble."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minidetr.curate.check import check
from minidetr.curate.findings import KINDS, LEVELS
from minidetr.data.coco import CocoPanoptic, check_empty, whole_folder
from minidetr.data.foreign import Remarks
from minidetr.data.images import read_image
from minidetr.data.index import read_panoptic_json
from minidetr.data.names import Finder
from minidetr.errors import InputError
from minidetr.panoptic import Category, Panoptic, write_png
from minidetr.plot import grid, labelled_overlay

COLUMNS, SHEET = 3, 12  # pictures side by side and on a sheet
TITLE = 28  # letters that fit above a picture


def show(folder: str | Path, out: str | Path, sort: str = "class", count: int = 24) -> list[Path]:
    """Write contact sheets of up to `count` photos of the data set FOLDER (panoptic.json, images/, panoptic/).

    `out` is a PNG file that takes all of them, or a new folder for OUT/sheet-01.png, ... of 12 photos each. `sort` is
    - "class": one photo for every class, the one where it covers most, then a second for every class, ...; a class's photos
      stand together;
    - "trouble": the photos in which `check` finds something, the worst first.
    Returns the files written, whole or not at all. Raises InputError for data that can't be read; a photo or PNG that can't
    be shown is a grey picture that says so.
    """
    folder, out = Path(folder), Path(out)
    if sort not in ("class", "trouble"):
        raise InputError(f"sort is {sort!r}, but photos can be sorted by 'class' or by 'trouble'")
    if count < 1:
        raise InputError(f"count is {count}, but it takes at least 1 photo to show")
    if out.suffix.lower() != ".png":
        check_empty(out)
    dataset = CocoPanoptic.from_folder(folder)
    chosen = list(by_class(folder, count) if sort == "class" else by_trouble(folder, count))
    if not chosen:
        raise InputError(f"{folder}: there is nothing to show by {sort}")
    pictures = [picture(dataset, index) for index, _ in tqdm(chosen, desc="drawing", unit="photo", disable=None)]
    titles = [title for _, title in chosen]
    if out.suffix.lower() == ".png":
        write_png(out, grid(pictures, COLUMNS, titles))
        return [out]
    starts = range(0, len(pictures), SHEET)
    with whole_folder(out.resolve()) as part:
        for number, start in enumerate(starts, start=1):
            page = slice(start, start + SHEET)
            write_png(part / f"sheet-{number:02d}.png", grid(pictures[page], COLUMNS, titles[page]))
    return [out / f"sheet-{number:02d}.png" for number in range(1, len(starts) + 1)]


def by_class(folder: Path, count: int) -> Iterator[tuple[int, str]]:
    """(index of the image, title) of `count` images: a class after the other in the order of the categories, each image once.

    Where a class covers most is told by the segments' "area" alone, so that only the images shown are opened.
    """
    categories, images, annotations, _ = read_whole(folder)
    of_class: dict[int, list[tuple[float, int]]] = {category.id: [] for category in categories}
    for index, image_id in enumerate(images):
        covered: dict[int, float] = {}
        for segment in annotations[image_id]["segments_info"]:
            covered[segment["category_id"]] = covered.get(segment["category_id"], 0) + segment.get("area", 0)
        for category_id, area in covered.items():
            of_class[category_id].append((-area, index))
    waiting = {category_id: [index for _, index in sorted(entries)] for category_id, entries in of_class.items()}
    shown: dict[int, list[int]] = {category.id: [] for category in categories}
    taken: set[int] = set()
    while len(taken) < count and any(waiting.values()):
        for category_id, indices in waiting.items():
            while indices and indices[0] in taken:
                indices.pop(0)
            if indices and len(taken) < count:
                shown[category_id].append(indices[0])
                taken.add(indices[0])
    names = list(images.values())
    for category in categories:
        for index in shown[category.id]:
            yield index, shortened(f"{category.name} · {names[index]}")


def by_trouble(folder: Path, count: int) -> Iterator[tuple[int, str]]:
    """(index of the image, title) of up to `count` images in which `check` finds something, the worst first.

    Worse is a worse level, then more kinds of findings of that level.
    """
    trouble = check(folder).trouble()
    _, images, _, _ = read_whole(folder)
    index_of = {name: index for index, name in enumerate(images.values())}

    def badness(name: str) -> tuple[int, ...]:
        levels = [KINDS[kind][0] for kind in trouble[name]]
        return tuple(-levels.count(level) for level in range(len(LEVELS)))

    for name in sorted((name for name in trouble if name in index_of), key=badness)[:count]:
        yield index_of[name], shortened(f"{', '.join(trouble[name])} · {name}")


def read_whole(folder: Path) -> tuple[list[Category], dict, dict, Remarks]:
    """FOLDER/panoptic.json with the names that its files have, as `check` finds them."""
    return read_panoptic_json(folder / "panoptic.json", Finder(folder / "images"), Finder(folder / "panoptic"))


def picture(dataset: CocoPanoptic, index: int) -> np.ndarray:
    """One image with its segments named, H W 3 uint8. The photo alone when its PNG does not fit, grey when it can't be read."""
    try:
        photo, segment_ids, segments_info = dataset.read(index)
    except InputError:
        try:
            return np.asarray(read_image(dataset.images_dir / dataset.file_names[index]))
        except InputError:
            return np.full((480, 640, 3), 200, np.uint8)
    panoptic = Panoptic.of_entries(segment_ids, segments_info, dataset.categories)
    return labelled_overlay(np.asarray(photo), panoptic, dataset.categories, panels=COLUMNS)


def shortened(text: str) -> str:
    """At most `TITLE` letters, the middle left out."""
    return text if len(text) <= TITLE else f"{text[: TITLE - 13]}…{text[-12:]}"
