"""Panoptic PNGs -> ids: the one reader, for evaluation, training and curation alike. Needs no torch.

COCO's form is RGB with 8 bits a channel, id = R + 256 G + 65536 B. Other tools write ids as grey values (Cityscapes, 16 bits) or as
places in a palette (Pascal VOC), or add an opaque alpha channel. Such a file is read where there is one way to read it that gives
exactly the ids its JSON lists, and refused where there is none or more than one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minidetr.errors import InputError
from minidetr.panoptic import MAX_PIXELS, decode_ids

FORM = "save it as RGB with 8 bits a channel, id = R + 256 G + 65536 B"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
KINDS = {"1": "black and white", "L": "grey", "LA": "grey with transparency", "P": "palette", "RGBA": "RGB with transparency"}


@dataclass(frozen=True)
class PanopticPng:
    """A decoded PNG: `image` in the mode it was stored in, and its `depth`, bits a channel (Pillow opens 16 of RGB as 8)."""

    path: Path
    image: Image.Image
    depth: int

    @property
    def is_coded(self) -> bool:
        """Whether it has COCO's form: RGB with 8 bits a channel."""
        return self.image.mode == "RGB" and self.depth == 8

    def ids(self, listed: Collection[int], void: Collection[int] = ()) -> np.ndarray | None:
        """The ids, H W int32, those in `void` made 0. RGB, and RGB with an opaque alpha channel, are read as they are; anything
        else by the one reading that gives exactly the ids `listed` (but 0 and `void`), None if no reading does or several do."""
        if self.is_coded:
            # Four bytes a pixel are one 32-bit number: no arithmetic on three channels. The fourth byte is padding.
            pixels = np.frombuffer(self.image.tobytes("raw", "RGBX"), "<i4").reshape(self.image.height, self.image.width)
            return _without(pixels & 0xFFFFFF, void)
        readings = [_without(ids, void) for ids in self.readings().values()]
        if self.image.mode == "RGBA" and self.depth == 8 and len(readings) == 1:
            return readings[0]
        wanted = set(listed) - set(void) - {0}
        fitting: list[np.ndarray] = []
        for ids in readings:
            if _painted(ids) == wanted and not any(np.array_equal(ids, other) for other in fitting):
                fitting.append(ids)
        return fitting[0] if len(fitting) == 1 else None

    def readings(self) -> dict[str, np.ndarray]:
        """Every way to read ids from the pixels, by its name: H W int32 each."""
        image, found = self.image, {}
        if image.mode in ("P", "RGB", "RGBA", "L"):
            found["colours"] = decode_ids(np.asarray(image.convert("RGB")))
        if image.mode not in ("RGB", "RGBA"):
            values = np.atleast_3d(np.asarray(image))[..., 0].astype(np.int32)
            if image.mode in ("1", "L") and self.depth < 8:  # Pillow stretches 2 and 4 bits to 0..255
                top = 255 // (2**self.depth - 1)
                found["stretched grey values"] = values if image.mode == "L" else values * top
                values = found["stretched grey values"] // top
            found["palette places" if image.mode == "P" else "grey values"] = values
        if image.mode in ("P", "RGBA", "L", "LA") and image.has_transparency_data:
            seen = np.asarray(image.convert("RGBA"))[..., 3] > 0
            if not seen.all():
                found |= {f"{name} of what is not transparent": np.where(seen, ids, 0) for name, ids in found.items()}
        return found

    def refusal(self, listed: Collection[int], void: Collection[int] = ()) -> InputError:
        """What there is to say of a PNG whose `ids` are None."""
        wanted = set(listed) - set(void) - {0}
        painted = {name: _painted(_without(ids, void)) for name, ids in self.readings().items()}
        colour = KINDS.get(self.image.mode, "grey" if self.image.mode.startswith("I") else self.image.mode)
        kind = f"{self.path} is a {colour} image of {self.depth} bit{'s' * (self.depth > 1)}"
        fitting = [name for name, ids in painted.items() if ids == wanted]
        if fitting:
            return InputError(f"{kind} whose {' and '.join(fitting)} both are the ids that its JSON lists; {FORM}, to tell which")
        found = " and ".join(f"its {name} are {_some(ids)}" for name, ids in painted.items())
        return InputError(
            f"{kind}; {found}, but its JSON lists {_some(wanted)}; {FORM}, correct the list, or name the ids that "
            "mean void (--void)"
        )


def open_png(path: str | Path) -> PanopticPng:
    """The decoded PNG. Raises InputError for a file that is missing, damaged, no PNG, or larger than `MAX_PIXELS`."""
    try:
        with open(path, "rb") as file:
            head = file.read(26)  # signature, length and name of the first chunk, width, height, depth, kind of colour
            if head[:8] != SIGNATURE or head[12:16] != b"IHDR":
                raise InputError(
                    f"{path} can't be read as a PNG (it is {_what_is(head)}); write it again as PNG, which keeps ids exactly"
                )
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # told below, in a sentence
                image = Image.open(file, formats=("PNG",))
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{path} has more than {MAX_PIXELS // 10**6} million pixels: make it smaller first")
            image.load()
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing, but a 'file_name' in its JSON names it; put it there or correct the name") from error
    except InputError:
        raise
    except Exception as error:  # on broken files Pillow's decoder raises anything, SyntaxError and struct.error among them
        raise InputError(f"{path} can't be read as a PNG ({error}); write it again") from error
    return PanopticPng(Path(path), image, head[24])


def read_ids(path: str | Path, listed: Collection[int] = (), void: Collection[int] = ()) -> np.ndarray:
    """The ids in a panoptic PNG: H W int32, 0 = void. `listed` are the ids in its JSON, which decide how a PNG that is not RGB is
    read (`PanopticPng.ids`); pixels of the ids `void` become 0. InputError for a file that can't be read, or in more than one way.
    """
    if (coded := _coded_ids(path)) is not None:
        return _without(coded, void)
    png = open_png(path)
    ids = png.ids(listed, void)
    if ids is None:
        raise png.refusal(listed, void)
    return ids


def _coded_ids(path: str | Path) -> np.ndarray | None:
    """The ids H W int32 of a PNG in COCO's form, by kornia_rs (the extra `fast`) in a third of Pillow's time; None without it, for
    any other file, and for a broken one, of which `open_png` has more to say. (torchvision's decoder crashes on broken ones.)"""
    decode = _fast_decoder()
    if decode is None:
        return None
    try:
        with open(path, "rb") as file:
            head = file.read(26)
        width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
        is_coded = head[:8] == SIGNATURE and head[12:16] == b"IHDR" and head[24:26] == b"\x08\x02"  # 8 bits, RGB
        if not is_coded or not 0 < width * height <= MAX_PIXELS:
            return None
        pixels = np.append(decode(os.fspath(path), "rgb"), np.uint8(0))  # H W 3, and one more for the last of the four-byte numbers
    except Exception:  # of Rust's
        return None
    if len(pixels) != 3 * width * height + 1:
        return None
    numbers = np.ndarray((height, width), "<i4", pixels, strides=(3 * width, 3))  # a pixel's three bytes and the next one's first
    return numbers & 0xFFFFFF


@cache
def _fast_decoder() -> Any:
    try:
        from kornia_rs.io import read_image_png_u8
    except ImportError:
        return None
    return read_image_png_u8


def misread(path: str | Path, listed: Collection[int], void: Collection[int] = ()) -> str:
    """The end of a sentence on a PNG in COCO's form whose ids are not those `listed`: what would give these ids, "" if nothing."""
    png, wanted = open_png(path), set(listed) - set(void) - {0}
    if png.is_coded and _painted(read_ids(path, listed, void)) != wanted:
        colours = np.asarray(png.image)
        if _painted(_without(decode_ids(colours[..., ::-1]), void)) == wanted:
            return "; its channels stand as blue, green, red, which is OpenCV's order: write them as red, green, blue"
        if (colours == colours[..., :1]).all() and _painted(_without(colours[..., 0].astype(np.int32), void)) == wanted:
            return "; its ids are written as grey, the same in all channels: " + FORM
    return ""


def void_ids(void: Collection[int]) -> frozenset[int]:
    """Ids that mean void, checked. Raises InputError for anything that is no collection of ids of a PNG."""
    whole = isinstance(void, Collection) and all(isinstance(one, Integral) and not isinstance(one, bool) for one in void)
    if not whole or not all(0 <= one < 256**3 for one in void):
        raise InputError(f"void is {void!r}, but it takes ids of a panoptic PNG, 0 to {256**3 - 1}, such as (255,)")
    return frozenset(map(int, void))


def _without(ids: np.ndarray, void: Collection[int]) -> np.ndarray:
    for one in void:
        ids[ids == one] = 0
    return ids


def _painted(ids: np.ndarray) -> set[int]:
    return set(np.unique(ids).tolist()) - {0}


def _some(ids: set[int]) -> str:
    some = ", ".join(map(str, sorted(ids)[:5]))
    return f"the ids {some} and {len(ids) - 5} more" if len(ids) > 5 else f"the ids {some}" if ids else "no id but 0"


def _what_is(head: bytes) -> str:
    """The kind of a file that is no PNG, from its first bytes."""
    known = {
        b"": "empty",
        b"\xff\xd8\xff": "a JPEG, which changes colours",
        b"RIFF": "a WebP",
        b"GIF8": "a GIF",
        b"BM": "a BMP",
        b"II*\0": "a TIFF",
        b"MM\0*": "a TIFF",
        b"version https://git-lfs": "a pointer of Git LFS, whose file `git lfs pull` fetches",
    }
    return next((words for start, words in known.items() if (head.startswith(start) if start else not head)), "no PNG")
