"""Which photos a command works on: files and folders of them, the names they keep in what is written, and what is left out."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from errno import ENAMETOOLONG
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from minidetr.data.images import not_read_here, open_image
from minidetr.data.names import PHOTO_SUFFIXES, RAW_SUFFIXES, files_below, png_names, stem_of
from minidetr.errors import InputError

EARLIER = "of earlier results"
BROKEN = "cannot be read"


@dataclass
class Photos:
    """`files`: photos by the names they keep in what is written, such as "south/001.jpg". `left_out`: (name, why) of others.

    `named` are the paths that were given one by one, not by their folder.
    """

    files: dict[str, Path]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    named: set[Path] = field(default_factory=set)

    def left_out_line(self) -> str | None:
        """One line: how many files were left out and which, such as "left out: 2 files (1 .dng: ...; notes.txt)"; None without."""
        if not self.left_out:
            return None
        named: dict[str, list[str]] = defaultdict(list)
        for name, why in self.left_out:
            named[why].append(name)
        parts = []
        for why in sorted(named, key=lambda why: not why):  # files that are no photos come last
            names = named[why]
            suffixes = ", ".join(sorted({PurePosixPath(name).suffix.lower() for name in names}))
            other = f"{len(names)} {suffixes}: {why}"
            parts.append({"": some(names), BROKEN: f"{some(names)}: {why}", EARLIER: f"{len(names)} {why}"}.get(why, other))
        number = len(self.left_out)
        return f"left out: {number} file{'s' * (number > 1)} ({'; '.join(parts)})"


def find_photos(inputs: Iterable[Path]) -> Photos:
    """Files as given, and all photos below folders, sorted; each once.

    A photo's name is its path below the folder that was given, or its file's name. Where two would have the same, each is named
    by its path below the folder that all of `inputs` share: 1.jpg of a/ and of b/ are a/1.jpg and b/1.jpg. Photos that cannot be
    read here, files that are no photos, and what this package wrote are left out; hidden files do not count. Raises InputError
    for an input that is not there and for a folder without a photo.
    """
    found: dict[str, tuple[str, Path]] = {}  # by absolute path, so that a photo given twice counts once
    left_out: dict[str, tuple[str, str]] = {}
    named: set[Path] = set()
    for given in inputs:
        if not given.is_dir():
            if not given.is_file():
                raise InputError(f"{given} is not a file, nor a folder: check the name")
            found.setdefault(os.path.abspath(given), (given.name, given))
            named.add(given)
            continue
        below = files_below(given, follow=True)
        reasons = {name: why for name, why in why_left_out(below).items() if why is not None}
        left_out |= {os.path.abspath(given / name): (name, why) for name, why in reasons.items()}
        photos = [name for name in below if name not in reasons]
        if not photos:
            line = Photos({}, list(reasons.items())).left_out_line()
            kinds = ", ".join(PHOTO_SUFFIXES)
            told = f" that can be read here, {line}" if line else ""
            raise InputError(f"{given} holds no photo{told}: put files there that end in {kinds}")
        for name in photos:
            found.setdefault(os.path.abspath(given / name), (name, given / name))
    files = {name: path for name, path in found.values()}
    if len(files) < len(found):
        try:
            shared = os.path.commonpath([os.path.dirname(place) for place in found])
        except ValueError:  # on Windows, of different drives
            raise InputError("photos of different drives have the same name: give one drive at a time") from None
        files = {Path(os.path.relpath(place, shared)).as_posix(): path for place, (_, path) in found.items()}
    return Photos(files, [entry for place, entry in left_out.items() if place not in found], named)


def why_left_out(names: Sequence[str]) -> dict[str, str | None]:
    """Of each file below a folder why it is left out: what would read it, what it is, "" for no photo; None for a photo."""
    listed = {PurePosixPath(name).parent for name in names if PurePosixPath(name).name == "panoptic.json"}
    reasons: dict[str, str | None] = {}
    for name in names:
        path = PurePosixPath(name)
        of_result = path.name == "panoptic.json" or any(
            folder.name in ("panoptic", "overlays") and folder.parent in listed or re.search(r"\.\d+\.part$", folder.name)
            for folder in path.parents
        )
        if of_result:
            reasons[name] = EARLIER
        else:
            is_photo = path.suffix.lower() in (*PHOTO_SUFFIXES, *RAW_SUFFIXES)
            reasons[name] = not_read_here(name) if is_photo else ""
    return reasons


def check_photos(photos: Photos) -> Photos:
    """Decode every photo once, before hours of work may end in a broken file.

    Of a folder's photos those that cannot be read are left out, counted and named. Raises InputError, naming the first and how
    many they are, for photos that were given by name, and where no photo can be read.
    """

    def problem(path: Path) -> InputError | None:
        try:
            open_image(path)
        except InputError as error:
            return error
        return None

    with ThreadPoolExecutor() as pool:  # Pillow decodes outside of Python's lock
        checked = pool.map(problem, photos.files.values())
        progress = tqdm(checked, desc="checking photos", total=len(photos.files), unit="photo", disable=None, leave=False)
        problems = {name: error for name, error in zip(photos.files, progress, strict=True) if error is not None}
    readable = {name: path for name, path in photos.files.items() if name not in problems}
    asked_for = [error for name, error in problems.items() if not readable or photos.files[name] in photos.named]
    if asked_for:
        more = f" (and {len(asked_for) - 1} more of the {len(photos.files)} photos cannot be read)" if len(asked_for) > 1 else ""
        raise InputError(f"{asked_for[0]}{more}")
    return Photos(readable, [*photos.left_out, *((name, BROKEN) for name in problems)], photos.named)


def check_names(photos: Mapping[str, Path], folder: Path) -> None:
    """Raise InputError, naming the photo, whose name is too long for the PNG of it that will be written into `folder`."""
    for name, png in zip(photos, png_names(list(photos)), strict=True):
        try:
            os.lstat(folder / f"{PurePosixPath(png).name}.part")  # as it is called while it is written
        except OSError as error:
            if error.errno == ENAMETOOLONG:
                raise InputError(f"{photos[name]} has too long a name for the PNG that is written of it: shorten it") from None


def image_ids(names: Sequence[str]) -> list[int]:
    """COCO's image ids: the files' names where all are different numbers (as COCO's own are), else 1, 2, 3, ..."""
    stems = [PurePosixPath(stem_of(name)).name for name in names]
    if all(stem.isascii() and stem.isdigit() for stem in stems) and len({int(stem) for stem in stems}) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(stems) + 1))


def some(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
