"""Names of photos: what counts as an extension, which PNG belongs to a photo, and which file a name from elsewhere means."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from minidetr.errors import InputError

HEIC_SUFFIXES = (".heic", ".heif", ".hif")
PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm"),
    *(".avif", *HEIC_SUFFIXES),
)
RAW_SUFFIXES = (  # of cameras
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef"),
    *(".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)


def stem_of(name: str) -> str:
    """A photo's path without its extension: "south/001.jpg" -> "south/001"; "frame.001" has none and stays as it is."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in PHOTO_SUFFIXES and path.stem else str(path)


def png_names(names: Sequence[str]) -> list[str]:
    """The PNG of every photo, by the photos' paths below their folder, each another one even where case is ignored.

    a/1.jpg -> a/1.png; where two photos would have the same one, both keep their extensions: 1.jpg.png and 1.png.png.
    """
    stems = [stem_of(name) for name in names]
    count = Counter(stem.casefold() for stem in stems)
    chosen: list[str] = []
    used = {str(folder).casefold() for name in names for folder in PurePosixPath(name).parents}  # a folder may be called a.png
    for name, stem in zip(names, stems, strict=True):
        png = f"{stem}.png" if count[stem.casefold()] == 1 else f"{PurePosixPath(name)}.png"
        number = 2
        while png.casefold() in used:  # A.jpg beside a.jpg, or a.jpg.webp beside a.jpg and a.png
            png = f"{PurePosixPath(name)}-{number}.png"
            number += 1
        used.add(png.casefold())
        chosen.append(png)
    return chosen


class Finder:
    """The files below a folder, found by names that other tools wrote: with a folder or a drive in front, backslashes, URL escapes,
    another Unicode form or case. The folder is listed when it is first asked; nothing outside of it is ever found."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._files: dict[tuple[str, ...], list[str]] | None = None
        self._folders: set[tuple[str, ...]] = set()
        self._listed: Sequence[str] = ()
        self._claims: set[str] | None = None
        self._owners: dict[str, str] = {}

    def claim(self, names: Sequence[str]) -> None:
        """All names of one list, of which each means another file: one that is another name as it stands is not found any more."""
        self._listed, self._claims, self._owners = names, None, {}

    def find(self, name: str) -> str | None:
        """The path below the folder, with "/", of the one file that `name` means; None if there is none.

        A file of exactly that name comes first. Else the longest end of the name that fits a file decides, as "b/c.jpg" of
        "a/b/c.jpg" does; but where there is a folder b without a c.jpg, the c.jpg of another folder is not meant. Raises
        InputError where two files fit equally well, or two of the names that were `claim`ed fit one file.
        """
        if safe(name) and (self.folder / name).is_file():
            return PurePosixPath(name).as_posix()
        parts = key_of(name)
        for start in range(len(parts)):
            fitting = self.files().get(parts[start:], [])
            if len(fitting) > 1:
                raise InputError(f"{name!r} may be {fitting[0]} or {fitting[1]} in {self.folder}: rename or remove one of them")
            if fitting:
                return self._unclaimed(fitting[0], name)
            if parts[start:-1] in self._folders:
                return None
        return None

    def _unclaimed(self, file: str, name: str) -> str | None:
        if not self._listed:
            return file
        if self._claims is None:
            self._claims = {PurePosixPath(listed).as_posix() for listed in self._listed}
        if file in self._claims:
            return None
        if key_of(owner := self._owners.setdefault(file, name)) != key_of(name):
            raise InputError(f"{name!r} and {owner!r} may both be {file} in {self.folder}: one of the two files is missing")
        return file

    def files(self) -> dict[tuple[str, ...], list[str]]:
        """Every end of every file's path -> the files that have it; whole paths before ends of others."""
        if self._files is None:
            whole: dict[tuple[str, ...], list[str]] = defaultdict(list)
            ends: dict[tuple[str, ...], list[str]] = defaultdict(list)
            for path in files_below(self.folder):
                parts = key_of(path)
                whole[parts].append(path)
                self._folders.update(parts[start:-1] for start in range(len(parts) - 1))
                for start in range(1, len(parts)):
                    ends[parts[start:]].append(path)
            self._files = {**ends, **whole}
        return self._files


def files_below(folder: Path, follow: bool = False) -> list[str]:
    """The paths of all files below a folder, sorted, with "/"; hidden files, and links that lead out of it, are left out.

    With `follow` all links are followed, to each folder once. Raises InputError for a folder that may not be read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}): give yourself the right to, or move it elsewhere")

    inside = os.path.realpath(folder)
    found, seen = [], set()
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=follow):
        real = os.path.realpath(place)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and real not in seen)
        if real in seen:
            continue
        seen.add(real)
        for name in files:
            path = os.path.join(place, name)
            is_inside = follow or not os.path.islink(path) or Path(os.path.realpath(path)).is_relative_to(inside)
            if is_inside and not name.startswith("."):
                found.append(Path(os.path.relpath(path, folder)).as_posix())
    return sorted(found)


def key_of(name: str) -> tuple[str, ...]:
    """The parts of a name as they are compared: without drive, "." and "..", unescaped, in one Unicode form, case ignored."""
    name = re.sub(r"^[a-z][a-z0-9+.-]*://[^/]*", "", name, flags=re.IGNORECASE)  # of an address the path alone
    name = unicodedata.normalize("NFC", unquote(name.partition("?d=")[2] or name)).casefold()  # Label Studio: /data/local-files/?d=
    parts = name.replace("\\", "/").split("/")
    return tuple(part for part in parts if part not in ("", ".", "..") and not re.fullmatch(r"[a-z]:", part))


def safe(name: str) -> bool:
    """Whether a name can be joined to a folder as it is."""
    return bool(name) and "\0" not in name and "\\" not in name and not os.path.isabs(name) and ".." not in name.split("/")
