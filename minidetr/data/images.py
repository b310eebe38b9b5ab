"""Photos of every kind -> RGB -> tensors. The one place that opens image files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from minidetr.errors import InputError
from minidetr.panoptic import MAX_PIXELS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB in 0..1: what the backbone was trained with
EXIF_ORIENTATION = 0x0112  # the tag that says how a camera was held
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")  # no format whose reading runs a program (EPS)


def read_image(source: str | Path | Image.Image) -> Image.Image:
    """A photo as an RGB image, upright.

    `source` is a path or an image of Pillow. The camera's EXIF rotation is applied; grey, palette and CMYK images become RGB;
    16-bit grey is divided by 256; what is transparent shows white. Raises InputError, naming the file, when it is missing,
    empty, broken, no image, or larger than `MAX_PIXELS`.
    """
    if isinstance(source, Image.Image):
        image, name = source, "the given image"
        _check_size(image, name)
    else:
        image, name = open_image(source), str(source)
    try:
        return _to_rgb(_upright(image))
    except InputError as error:
        raise InputError(f"{name} {error}") from None
    except Exception as error:  # a lazily decoded image given by the caller may be broken too
        raise InputError(f"{name} cannot be converted to RGB ({error}): save it as an ordinary JPEG or PNG") from error


def open_image(path: str | Path) -> Image.Image:
    """The decoded image of a file, in the mode it was stored in. Raises InputError as `read_image` does."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file: check the name of the image")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty: copy the image again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
        _check_size(image, str(path))
        image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(f"{path} has more than {MAX_PIXELS // 10**6} million pixels: make it smaller first") from None
    except InputError:
        raise
    except Image.UnidentifiedImageError:
        raise InputError(f"{path} is not an image that can be read: use JPEG or PNG") from None
    except Exception as error:  # Pillow's decoders raise anything from OSError to SyntaxError and struct.error on broken files
        raise InputError(f"{path} is a broken image ({error}): copy it again") from error
    return image


def to_tensor(image: Image.Image | np.ndarray) -> Tensor:
    """RGB image of Pillow or H W 3 uint8 array -> 3 H W uint8."""
    return F.to_image(image).as_subclass(Tensor)


def pixels_of(image: str | Path | Image.Image | Tensor) -> Tensor:
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
