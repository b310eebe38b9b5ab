"""Stuff labels from a model: people draw the things, a panoptic model that knows COCO paints what lies behind them.

A model's classes are finer than wanted and others than wanted, so a small TOML file says which of them count as which stuff:
`stuff.toml` beside this module is the example. `assemble(..., under=OUT)` lays the drawn things over the result.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

from minidetr.data.coco import measured
from minidetr.data.images import read_image
from minidetr.data.names import png_names
from minidetr.data.photos import check_photos, find_photos, image_ids
from minidetr.errors import InputError
from minidetr.panoptic import Category, Panoptic, encode_ids, write_json, write_png
from minidetr.predict import output_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXAMPLE = Path(__file__).with_name("stuff.toml")
WRITTEN = ("panoptic.json", "panoptic")


class PanopticModel(Protocol):
    """What `label_stuff` needs of a model: its categories, and segmentations of photos. `PanopticDETR` has both."""

    categories: list[Category]

    def segment(self, images: Sequence[Image.Image], threshold: float | None, batch_size: int) -> list[Panoptic]:
        """A panoptic segmentation of each photo, at the photo's own size."""


@dataclass(frozen=True)
class StuffMapping:
    """Stuff classes and the model's classes that become them. `rest`: the class of every other pixel, None for void."""

    path: Path
    classes: dict[str, list[str]]
    rest: str | None = None

    @classmethod
    def read(cls, path: str | Path = EXAMPLE) -> StuffMapping:
        """A mapping from a TOML file: `rest = "NAME"` (may be left out), then a table `[stuff]` of NAME = ["name", ...].

        Raises InputError, naming the file and the field, for anything else, and for a name on two right sides.
        """
        path = Path(path)
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): give a mapping of stuff classes, a TOML file") from None
        except ValueError as error:  # of TOML and of UTF-8 alike
            raise InputError(f"{path} is not valid TOML ({error}): see the example that comes with minidetr") from None
        classes, rest = content.get("stuff"), content.get("rest")
        if unknown := sorted(content.keys() - {"stuff", "rest"}):
            raise InputError(f"{path}: the field {unknown[0]!r} is unknown: there are 'rest' and the table [stuff]")
        if rest is not None and (not isinstance(rest, str) or not rest):
            raise InputError(f"{path}: the field 'rest' must be the name of a class, but is {rest!r}")
        if not isinstance(classes, dict) or not classes:
            raise InputError(f'{path}: the table [stuff] is missing or empty: write lines such as water = ["river", "sea"]')
        seen: dict[str, str] = {}
        for name, members in classes.items():
            if not isinstance(members, list) or not members or not all(isinstance(member, str) for member in members):
                raise InputError(f'{path}: stuff.{name} must be a list of names such as ["river", "sea"], but is {members!r}')
            for member in members:
                if member in seen:
                    raise InputError(f"{path}: {member!r} stands in both stuff.{seen[member]} and stuff.{name}: keep one")
                seen[member] = name
        return cls(path, classes, rest)

    @property
    def categories(self) -> list[Category]:
        """The stuff classes, ids 1, 2, ...: `rest` first, then in the order of the file."""
        names = dict.fromkeys([*([self.rest] if self.rest else []), *self.classes])
        return [Category(number, name, is_thing=False) for number, name in enumerate(names, start=1)]

    def fold(self, categories: Sequence[Category]) -> dict[int, int]:
        """The stuff class's id for each id of the model's `categories` that has one. Raises InputError for a name it lacks."""
        ids = {category.name: category.id for category in self.categories}
        by_name: dict[str, list[int]] = {}
        for category in categories:
            by_name.setdefault(category.name, []).append(category.id)  # a model may name two classes the same
        folded: dict[int, int] = {}
        for name, members in self.classes.items():
            for member in members:
                if member not in by_name:
                    some = ", ".join(list(by_name)[:5])
                    raise InputError(
                        f"{self.path}: stuff.{name} names {member!r}, which the model does not know: it has {some}, ...; "
                        "say which of its classes are which stuff with --map FILE.toml"
                    )
                folded |= dict.fromkeys(by_name[member], ids[name])
        return folded


def label_stuff(
    photos: Sequence[Path],
    out: str | Path,
    model: PanopticModel,
    mapping: str | Path | StuffMapping = EXAMPLE,
    threshold: float | None = None,
    batch_size: int = 1,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Write the stuff that `model` sees in photos as OUT/panoptic.json and OUT/panoptic/*.png, whole or not at all.

    `photos` are files, or folders, whose subfolders are kept in what is written: see `find_photos`. `mapping` says which of the
    model's classes count as which stuff, things of the model among them where they are background. All pixels of a stuff class
    in a photo are one segment; what is not mapped is of the class `rest`, or void. `threshold` as in `PanopticDETR.segment`.
    `say` gets a line about files that were left out, if any were. Returns each class's share of all pixels, "void" among them,
    the largest first. Raises InputError for photos that cannot be read (those of a folder are left out) and for a mapping
    that does not fit the model.
    """
    mapping = mapping if isinstance(mapping, StuffMapping) else StuffMapping.read(mapping)
    folded, categories = mapping.fold(model.categories), mapping.categories
    rest = categories[0].id if mapping.rest else 0
    found = find_photos([Path(photo) for photo in photos])
    images: list[dict] = []
    annotations: list[dict] = []
    pixels = np.zeros(len(categories) + 1, np.int64)
    with output_folder(Path(out), WRITTEN, overwrite, found.files.values()) as part:
        found = check_photos(found)
        names = list(found.files)
        to_do = list(zip(image_ids(names), names, png_names(names), strict=True))
        with tqdm(total=len(names), desc="labelling", unit="photo", disable=None) as bar:
            for start in range(0, len(to_do), batch_size):
                group = to_do[start : start + batch_size]
                pictures = [read_image(found.files[name]) for _, name, _ in group]
                results = model.segment(pictures, threshold, batch_size)
                for (number, name, png), picture, panoptic in zip(group, pictures, results, strict=True):
                    stuff = fold_segments(panoptic, folded, rest)
                    entries = [{"id": c.id, "category_id": c.id} for c in categories]
                    write_png(part / "panoptic" / png, encode_ids(stuff))
                    images.append({"id": number, "file_name": name, "height": picture.height, "width": picture.width})
                    annotations.append({"image_id": number, "file_name": png, "segments_info": measured(stuff, entries)})
                    pixels += np.bincount(stuff.ravel(), minlength=len(pixels))
                    bar.update()
        listed = [category.to_json() for category in categories]
        write_json(part / "panoptic.json", {"images": images, "annotations": annotations, "categories": listed})
    if line := found.left_out_line():
        say(line)
    shares = zip(["void", *(category.name for category in categories)], (pixels / pixels.sum()).tolist(), strict=True)
    return dict(sorted(shares, key=lambda share: -share[1]))


def fold_segments(panoptic: Panoptic, folded: dict[int, int], rest: int = 0) -> np.ndarray:
    """A segmentation -> the stuff class of every pixel, H x W int32; `rest` (0: void) where its segment's class has none."""
    largest = max((segment.id for segment in panoptic.segments), default=0)
    table = np.full(largest + 1, rest, np.int32)
    for segment in panoptic.segments:
        table[segment.id] = folded.get(segment.category_id, rest)
    return table[panoptic.segment_ids]
