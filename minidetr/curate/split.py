"""A data set in two parts, or in k folds: every class on both sides, near-duplicate photos never on both.

Three steps, one function each: photos that look the same form a group (`groups_of_photos`), groups are dealt out so that every
class is spread as the images are (`deal`), and each part becomes a data set of its own (`split`).
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.fft import dctn
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from minidetr.data.coco import check_empty, whole_folder
from minidetr.data.foreign import LEFT_OUT, new_remarks, plain
from minidetr.data.images import read_image
from minidetr.data.index import read_panoptic_json
from minidetr.data.names import Finder
from minidetr.errors import InputError
from minidetr.panoptic import path_inside, read_json, write_json

# Measured on photos and on rendered scenes: a photo saved again, halved, brightened, or cut by 3 % at one side differs from itself
# in up to 0.17 of the bits, and two different photos in at least 0.33. Cut by 5 % on every side (0.34) it passes as another one.
SAME = 0.2


@dataclass(frozen=True)
class Split:
    """What `split` did. `images` counts them by part ("train", "fold-0/val", ...); names are of categories and photos."""

    images: dict[str, int]
    kept_together: list[list[str]]  # the groups of photos that look the same
    one_side: list[str]  # classes that some part lacks although they have at least two groups of photos
    too_rare: list[str]  # classes all of whose photos form one group, so that they can't be on both sides
    linked: bool  # files are hard links; otherwise copies

    def summary(self) -> str:
        """The lines to show the user."""
        lines = [", ".join(f"{name}: {count} images" for name, count in self.images.items())]
        lines.append("files are hard links: one changed in place changes in both folders" if self.linked else "files are copies")
        if self.kept_together:
            count = sum(map(len, self.kept_together))
            groups, example = len(self.kept_together), ", ".join(self.kept_together[0][:3])
            lines.append(f"{count} near-duplicate photos kept together in {groups} group{'s' * (groups > 1)}, such as {example}")
        for classes, why in (
            (self.too_rare, "have photos for one side only: more are needed to train and to measure them"),
            (self.one_side, "are missing on one side: the photos they share with other classes leave no way to have all on both"),
        ):
            if classes:
                more = f" and {len(classes) - 10} more" if len(classes) > 10 else ""
                lines.append(f"{len(classes)} classes {why}: {', '.join(classes[:10])}{more}")
        return "\n".join(lines)


def split(
    folder: str | Path, out: str | Path, share: float | None = None, folds: int | None = None, seed: int = 0, test: float = 0.0
) -> Split:
    """Divide the data set FOLDER (panoptic.json, images/, panoptic/ and, where there is one, detection.json).

    Writes OUT/train with about `share` (0..1; None: 0.8 less `test`) of the images,
    OUT/val with the others, and with `test` above 0 about so many of them
    as OUT/test, to be measured once at the very end, for on OUT/val one chooses; or, with `folds` (2, 3, ...), OUT/fold-0/train and
    OUT/fold-0/val up to fold k-1, where every image is in exactly one val. Each is a data set like FOLDER; files are hard links, or
    copies where the file system has none. The same `seed` gives the same split on every machine.
    OUT appears whole or not at all. Raises InputError for data that can't be read or divided, or when OUT holds anything.
    """
    folder, out = Path(folder), Path(out).resolve()
    share = round(0.8 - test, 9) if share is None and test < 0.8 else 0.8 if share is None else share
    if not 0 < share < 1:
        raise InputError(f"share is {share}, but it must lie between 0 and 1: 0.8 trains on four images of five")
    if not 0 <= test < 1 - share:
        raise InputError(f"test is {test} and share {share}, but together they must stay below 1: the rest is for validation")
    if folds is not None and test:
        raise InputError("folds and test do not go together: split once for the test, then the rest of it into folds")
    if seed < 0:
        raise InputError(f"seed is {seed}, but it must be 0 or more")
    if folds is not None and folds < 2:
        raise InputError(f"folds is {folds}, but it takes at least 2 to have one for validation and one to train on")
    check_empty(out)
    finders = Finder(folder / "images"), Finder(folder / "panoptic")
    categories, images, annotations, _ = read_panoptic_json(folder / "panoptic.json", *finders)
    shares = [1 / folds] * folds if folds is not None else [share, 1 - share - test] + [test] * (test > 0)

    groups = groups_of_photos([path_inside(folder / "images", name, folder / "panoptic.json") for name in images.values()])
    if groups.max() + 1 < len(shares):
        raise InputError(
            f"{folder / 'panoptic.json'} lists {len(images)} images that form {groups.max() + 1} groups of photos that differ, "
            f"too few for {len(shares)} parts: add images to it"
        )
    classes = [{segment["category_id"] for segment in annotations[i]["segments_info"]} for i in images]
    present = np.array([[category.id in found for category in categories] for found in classes])  # images x categories
    part_of_group = deal(groups, present, shares, seed)
    part = part_of_group[groups]

    names = np.array(list(images.values()))
    sides = {name: part == k for k, name in enumerate(("train", "val", "test")[: len(shares)])}
    if folds is not None:
        sides = {f"fold-{k}/{side}": (part == k) == (side == "val") for k in range(folds) for side in ("train", "val")}
    linked = True
    with whole_folder(out) as whole:
        for name, chosen in tqdm(sides.items(), desc="writing parts", disable=None):
            linked &= _write_part(folder, whole / name, {image_id for image_id, mine in zip(images, chosen, strict=True) if mine})

    sides_needed = len(shares) if folds is None else 2  # of folds, two parts with a class give it to both sides of each
    groups_with_class = np.array([len(set(groups[column])) for column in present.T])
    parts_with_class = np.array([len(set(part[column])) for column in present.T])
    return Split(
        images={name: int(chosen.sum()) for name, chosen in sides.items()},
        kept_together=[names[groups == g].tolist() for g, count in Counter(groups.tolist()).items() if count > 1],
        one_side=[
            c.name
            for c, g, p in zip(categories, groups_with_class, parts_with_class, strict=True)
            if g > 1 and p < min(g, sides_needed)
        ],
        too_rare=[c.name for c, g in zip(categories, groups_with_class, strict=True) if g == 1],
        linked=linked,
    )


# --- photos that look the same ----------------------------------------------------------------------------------------------


def looks(image: Image.Image) -> np.ndarray:
    """255 bits, bool, that say what an image looks like: alike for a photo saved again, resized or brightened.

    The signs of the lowest 16 x 16 frequencies (discrete cosine transform) of the image in grey at 64 x 64 pixels, without the
    mean brightness (perceptual hashing: Zauner 2010, "Implementation and benchmarking of perceptual image hash functions").
    """
    grey = np.asarray(image.convert("L").resize((64, 64), Image.Resampling.BOX), np.float64)
    return dctn(grey, norm="ortho")[:16, :16].ravel()[1:] > 1e-6  # not 0, around which an even grey image only has rounding


def same_looks(bits: np.ndarray) -> np.ndarray:
    """Group of every image, 0, 1, ..., from their K x 255 bits: chains of images that differ in at most `SAME` of the bits."""
    signs = np.where(bits, 1, -1).astype(np.float32)  # K x 255
    alike = np.zeros((len(bits), len(bits)), bool)
    for start in range(0, len(bits), 1000):  # a block of rows at a time, for the memory of 10,000 images and more
        agreement = signs[start : start + 1000] @ signs.T  # equal bits minus different bits
        alike[start : start + 1000] = agreement >= (1 - 2 * SAME) * bits.shape[1]
    return connected_components(alike, directed=False)[1]


def groups_of_photos(paths: Sequence[Path]) -> np.ndarray:
    """Group of every photo, 0, 1, ...; those that look the same share one. Raises InputError for one that can't be read."""
    bits = [looks(read_image(path)) for path in tqdm(paths, desc="comparing photos", unit="photo", disable=None)]
    return same_looks(np.array(bits))


# --- dealing out ------------------------------------------------------------------------------------------------------------


def deal(groups: np.ndarray, present: np.ndarray, shares: Sequence[float], seed: int = 0) -> np.ndarray:
    """Part (0, 1, ...) of every group, so that each part has about its share of the images and of every class's images.

    `groups` holds the group of each image, `present` (images x classes, bool) the classes in it, `shares` sum to 1. Rarest class
    first, its groups go to a part that lacks the class, else to the part that wants it most (iterative stratification: Sechidis,
    Tsoumakas, Vlahavas 2011, "On the stratification of multi-label data"). Groups are then moved as long as that gives
    another class to a part that lacks it.
    """
    generator = np.random.default_rng(seed)
    count = groups.max() + 1
    size = np.bincount(groups).astype(float)  # images of each group
    holds = np.zeros((count, present.shape[1]))  # groups x classes: images with the class
    np.add.at(holds, groups, present)
    wanted_images = np.outer(shares, size.sum())[:, 0]  # of each part, what it still lacks
    wanted = np.outer(shares, holds.sum(axis=0))  # parts x classes
    luck = generator.random(count)  # settles ties, the same way for every class
    part = np.full(count, -1)
    has = np.zeros(wanted.shape, bool)

    def give(group: int, chosen: int) -> None:
        part[group] = chosen
        has[chosen] |= holds[group] > 0
        wanted[chosen] -= holds[group]
        wanted_images[chosen] -= size[group]

    while (part < 0).any():
        open_groups = part < 0
        left = (holds[open_groups] > 0).sum(axis=0)  # of each class, groups to deal out
        if left.any():
            rarest = int(np.where(left > 0, left, np.inf).argmin())
            mine = np.flatnonzero(open_groups & (holds[:, rarest] > 0))
            for group in sorted(mine, key=lambda g: (-holds[g, rarest], luck[g])):
                order = [(not has[p, rarest], wanted[p, rarest], wanted_images[p], -p) for p in range(len(shares))]
                give(int(group), -max(order)[-1])
        else:  # images without a segment
            for group in sorted(np.flatnonzero(open_groups), key=lambda g: (-size[g], luck[g])):
                give(int(group), int(wanted_images.argmax()))
    for empty in set(range(len(shares))) - set(part.tolist()):  # a few images, each with classes of its own
        crowded = np.bincount(part, minlength=len(shares)).argmax()
        part[min(np.flatnonzero(part == crowded), key=lambda g: (size[g], luck[g]))] = empty
    return _repair(part, holds > 0, len(shares))


def _repair(part: np.ndarray, holds: np.ndarray, parts: int) -> np.ndarray:
    """Move groups to parts that lack one of their classes, while the number of (part, class) pairs that are there grows."""

    def pairs(candidate: np.ndarray) -> int:
        return sum(int(holds[candidate == p].any(axis=0).sum()) for p in range(parts))

    best = pairs(part)
    moved = True
    while moved:
        moved = False
        for p in range(parts):
            lacking = holds.any(axis=0) & ~holds[part == p].any(axis=0) & (holds.sum(axis=0) > 1)
            for group in np.flatnonzero(holds[:, lacking].any(axis=1)):
                candidate = part.copy()
                candidate[group] = p
                if pairs(candidate) > best:
                    part, best, moved = candidate, pairs(candidate), True
    return part


# --- writing ----------------------------------------------------------------------------------------------------------------


def _write_part(folder: Path, out: Path, image_ids: set[int | str]) -> bool:
    """The images `image_ids` of the data set `folder` as the data set `out`. Returns whether every file could be linked."""
    linked = True
    (out / "images").mkdir(parents=True)
    (out / "panoptic").mkdir()
    for json_name in ("panoptic.json", "detection.json"):
        if json_name == "detection.json" and not (folder / json_name).is_file():
            continue
        is_panoptic = json_name == "panoptic.json"
        finders = Finder(folder / "images"), Finder(folder / "panoptic")
        content = plain(read_json(folder / json_name), is_panoptic, new_remarks(), *finders)
        for key, id_name in (("images", "id"), ("annotations", "image_id")):
            entries = content.get(key)
            if not isinstance(entries, list) or not all(
                isinstance(e, dict) and isinstance(e.get(id_name), (int, str)) for e in entries
            ):
                raise InputError(f"{folder / json_name}: '{key}' must be a list whose entries have an {id_name!r}: write it again")
            content[key] = [entry for entry in entries if entry[id_name] in image_ids and LEFT_OUT not in entry]
        write_json(out / json_name, content)
        if is_panoptic:
            for subfolder, entries in (("images", content["images"]), ("panoptic", content["annotations"])):
                for entry in entries:
                    source = path_inside(folder / subfolder, entry["file_name"], folder / json_name)
                    linked &= link_or_copy(source, out / subfolder / entry["file_name"])
    return linked


def link_or_copy(source: Path, target: Path) -> bool:
    """Make `target` a hard link to `source`, or a copy where the file system can't; returns whether it is a link."""
    if not source.is_file():
        raise InputError(f"{source} is not a file, but a 'file_name' in the JSON names it: put it there or correct the name")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():  # named twice
        return os.path.samefile(source, target)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)
        return False
    return True
