"""Photos of every kind -> RGB -> tensors. The one place that opens image files."""

from __future__ import annotations

import io
import os
import re
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, features
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from minidetr.data.names import HEIC_SUFFIXES, RAW_SUFFIXES
from minidetr.errors import InputError
from minidetr.panoptic import MAX_PIXELS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB in 0..1: what the backbone was trained with
EXIF_ORIENTATION = 0x0112  # the tag that says how a camera was held
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")  # no format whose reading runs a program (EPS)
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # what a HEIC file says that it is
NEEDS_HEIC = "pip install 'minidetr[heic]' reads them"
NEEDS_AVIF = "pip install --upgrade pillow reads them"
NEEDS_EXPORT = "raw camera files, export them as JPEG"

ImageSource: TypeAlias = str | Path | BinaryIO | Image.Image | np.ndarray | Tensor  # what `pixels_of` takes


def read_image(source: str | Path | BinaryIO | Image.Image | np.ndarray) -> Image.Image:
    """A photo as an RGB image, upright.

    `source` is a path, a file open in binary mode (`io.BytesIO` too), an image of Pillow or a uint8 array, H x W grey,
    H x W x 3 RGB or H x W x 4 RGBA. The camera's EXIF rotation is applied; grey, palette and CMYK images become RGB; 16-bit
    grey is divided by 256; what is transparent shows white; of an animation the first frame counts. Raises InputError, naming
    the file, when it is missing, empty, broken, no image, or larger than `MAX_PIXELS`, for HEIC without pillow-heif (the extra
    `heic`), and for any other `source`.
    """
    if isinstance(source, np.ndarray):
        source = _of_array(source)
    if isinstance(source, Image.Image):
        image, name = source, "the given image"
        _check_size(image, name)
    else:
        image, name = open_image(source), _name_of(source)
    try:
        image.load()
        return _to_rgb(_upright(image))
    except InputError as error:
        raise InputError(f"{name} {error}") from None
    except Exception as error:  # a lazily decoded image given by the caller may be broken too
        advice = "give it before it is closed" if "closed" in str(error) else "save it as an ordinary JPEG or PNG"
        raise InputError(f"{name} cannot be converted to RGB ({error}): {advice}") from error


def open_image(source: str | Path | BinaryIO) -> Image.Image:
    """The decoded image of a file, in the mode it was stored in. Raises InputError as `read_image` does."""
    name, file = _name_of(source), _file_of(source)
    if Path(name).suffix.lower() in RAW_SUFFIXES:  # some are TIFF files that begin with a thumbnail
        raise InputError(f"{name} is a raw camera file: export it as JPEG or PNG")
    formats: tuple[str, ...] = FORMATS
    try:
        if isinstance(file, Path):
            with file.open("rb") as opened:
                head = opened.read(64)
        else:
            head = file.getvalue()[:64]
        formats = _formats_of(head, name)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=formats)
        _check_size(image, name)
        image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(f"{name} has more than {MAX_PIXELS // 10**6} million pixels: make it smaller first") from None
    except InputError:
        raise
    except Image.UnidentifiedImageError:
        if formats != FORMATS:  # it said itself which one it is
            raise InputError(f"{name} is a broken image: copy it again") from None
        raise InputError(f"{name} is not an image that can be read: use JPEG or PNG") from None
    except Exception as error:  # Pillow's decoders raise anything from OSError to SyntaxError and struct.error on broken files
        raise InputError(f"{name} is a broken image ({error}): copy it again") from error
    return image


def not_read_here(name: str) -> str | None:
    """What would read a photo, judged by its name's extension; None where nothing is missing."""
    suffix = Path(name).suffix.lower()
    if suffix in RAW_SUFFIXES:
        return NEEDS_EXPORT
    if suffix in HEIC_SUFFIXES and not reads_heic():
        return NEEDS_HEIC
    return NEEDS_AVIF if suffix == ".avif" and not features.check("avif") else None


@cache
def reads_heic() -> bool:
    """Whether HEIC photos can be read. Where pillow-heif is installed (the extra `heic`), it is registered with Pillow."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()  # it turns photos upright itself, and says so in their EXIF data
    return True


def to_tensor(image: Image.Image | np.ndarray) -> Tensor:
    """RGB image of Pillow or H W 3 uint8 array -> 3 H W uint8."""
    return F.to_image(image).as_subclass(Tensor)


def pixels_of(image: ImageSource) -> Tensor:
    """A photo (as `read_image` takes it) or an RGB tensor 3 H W (uint8, or float in 0..1) -> 3 H W. Raises InputError."""
    if not isinstance(image, Tensor):
        return to_tensor(read_image(image))
    right_type = image.dtype == torch.uint8 or image.is_floating_point()
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape or not right_type:
        raise InputError(f"an image tensor must be RGB, 3 x H x W, uint8 or float in 0..1, not {image.dtype} {list(image.shape)}")
    if image.is_floating_point() and not 0 <= image.min() <= image.max() <= 1:
        raise InputError("the values of a float image tensor must lie in 0..1: divide by 255, and do not normalise it")
    return image


def normalise(image: Tensor) -> Tensor:
    """3 H W, uint8 or float in 0..1 -> 3 H W float32 with ImageNet's mean 0 and standard deviation 1 per channel."""
    image = image.contiguous()  # Pillow's pixels are interleaved, and the arithmetic is three times slower on those
    return F.normalize(F.to_dtype(image, torch.float32, scale=True), MEAN, STD)


def denormalise(image: Tensor) -> Tensor:
    """3 H W normalised -> 3 H W float32 in 0..1, the inverse of `normalise`: to look at what the model sees."""
    mean, std = (torch.tensor(values, device=image.device)[:, None, None] for values in (MEAN, STD))
    return (image * std + mean).clamp(0, 1)


def _name_of(source: Any) -> str:
    """What to call a file in a sentence."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    name = getattr(source, "name", None)  # of an open file; a number where it was opened by one
    return name if isinstance(name, str) and name else "the given file"


def _file_of(source: Any) -> Path | io.BytesIO:
    """The path of a file that is there, or the content of an open one, from its beginning if it can be rewound."""
    name = _name_of(source)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if re.match(r"https?:/", name):
            raise InputError(f"{name} is an address: download the image and give its file")
        if not path.is_file():
            raise InputError(f"{path} is not a file: check the name of the image")
        if not path.stat().st_size:
            raise InputError(f"{path} is empty: copy the image again")
        return path
    if not hasattr(source, "read"):
        hint = {type(None): " (cv2.imread gives None for a file that it cannot read)", bytes: ": put the bytes into io.BytesIO"}
        kinds = "a path, an open file, an image of Pillow, a uint8 array or a tensor"
        raise InputError(f"an image must be {kinds}, not {type(source).__name__}{hint.get(type(source), '')}")
    with suppress(AttributeError, OSError):  # of a stream, which has no beginning to go back to
        source.seek(0)
    content = source.read()
    if not isinstance(content, bytes):
        raise InputError(f"{name} is open as text: open images in binary mode, open(path, 'rb')")
    if not content:
        raise InputError(f"{name} is empty: copy the image again")
    return io.BytesIO(content)


def _formats_of(head: bytes, name: str) -> tuple[str, ...]:
    """Pillow's names of the formats that a file may have, by its first bytes: phones call HEIC photos .jpg, too."""
    brands = head[8 : int.from_bytes(head[:4], "big")] if head[4:8] == b"ftyp" else b""
    if b"avif" in brands or b"avis" in brands:
        if not features.check("avif"):
            raise InputError(f"{name} is an AVIF photo: {NEEDS_AVIF}")
        return ("AVIF",)
    if any(brand in brands for brand in HEIC_BRANDS):
        if not reads_heic():
            raise InputError(f"{name} is a HEIC photo: {NEEDS_HEIC}")
        return ("HEIF",)
    return FORMATS


def _of_array(array: np.ndarray) -> Image.Image:
    """uint8 H W, H W 3 or H W 4 -> an image of Pillow. Raises InputError, saying what to do, for any other array."""
    shape = list(array.shape)
    if array.dtype == np.uint8 and 0 not in shape and (array.ndim == 2 or array.ndim == 3 and shape[2] in (3, 4)):
        return Image.fromarray(array)
    todo = ""
    if array.dtype.kind == "f":
        todo = ": multiply an array of 0..1 by 255, then .astype(numpy.uint8)"
    elif array.dtype.kind in "iu" and array.dtype != np.uint8:
        todo = ": .astype(numpy.uint8), 16-bit values divided by 256 first"
    elif array.ndim == 3 and shape[0] in (3, 4):
        todo = ": .transpose(1, 2, 0) puts the channels last"
    raise InputError(f"an image array must be uint8, H x W, H x W x 3 (RGB) or H x W x 4 (RGBA), not {array.dtype} {shape}{todo}")


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        raise InputError(f"{name} is {size} pixels, more than {MAX_PIXELS // 10**6} million: make it smaller first")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing about the orientation, and the pixels are fine
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):  # 16-bit grey: "I;16" and its byte orders, or "I" where Pillow widens it to 32 bits
        grey = np.asarray(image).astype(np.int64)  # convert("RGB") would clip everything above 255 to white
        if grey.size and not 0 <= grey.min() <= grey.max() < 65536:
            raise InputError("has grey values outside of 0..65535: save it with 8 or 16 bits per channel")
        return Image.fromarray((grey // 256).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise InputError("has floating point pixels, whose white is unknown: save it with 8 or 16 bits per channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
