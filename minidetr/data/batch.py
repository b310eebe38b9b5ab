"""Images of different sizes in one tensor."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from minidetr.data.images import ImageSource, pixels_of
from minidetr.errors import InputError


@dataclass
class Batch:
    """Normalised images padded with zeros, at the right and at the bottom, to the largest of them.

    `images` B 3 H W float; `padding` B H W bool, True where padded; `sizes` (height, width) of every image before padding.
    """

    images: Tensor
    padding: Tensor
    sizes: list[tuple[int, int]]

    @classmethod
    def pad(cls, images: list[Tensor]) -> Batch:
        """Stack float images 3 H W of any sizes. Raises InputError for an empty list or a tensor of another shape."""
        if not images:
            raise InputError("a batch needs at least one image")
        for index, image in enumerate(images):
            if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point() or 0 in image.shape:
                raise InputError(
                    f"image {index} of the batch must be a normalised float tensor 3 x H x W, not {image.dtype} {list(image.shape)}"
                )
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
        stacked = images[0].new_zeros(len(images), 3, height, width)
        padding = torch.ones(len(images), height, width, dtype=torch.bool, device=stacked.device)
        for index, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
            stacked[index, :, :h, :w] = image
            padding[index, :h, :w] = False
        return cls(stacked, padding, sizes)

    def split(self, count: int = 1) -> list[Batch]:
        """Batches of `count` images, the last of perhaps fewer, padded as they are here."""
        sizes = [self.sizes[first : first + count] for first in range(0, len(self.sizes), count)]
        parts = zip(self.images.split(count), self.padding.split(count), sizes, strict=True)
        return [Batch(images, padding, sizes) for images, padding, sizes in parts]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the padded images."""
        return self.images.shape[2], self.images.shape[3]

    @property
    def is_padded(self) -> bool:
        """Whether any image is smaller than the batch (known without asking the device)."""
        return any(size != self.size for size in self.sizes)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        return Batch(moved(self.images, device), moved(self.padding, device), self.sizes)

    def pin_memory(self) -> Batch:
        """The same batch in memory that a GPU can fetch from by itself; torch's DataLoader calls this."""
        return Batch(self.images.pin_memory(), self.padding.pin_memory(), self.sizes)


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`, without waiting for a GPU: only pinned memory can be copied while the program goes on."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def processed_size(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """The (height, width) that DETR resizes an image to: `short_side`, unless the other would pass `long_side`; at least 1 each."""
    short, long = min(height, width), max(height, width)
    if long / short * short_side > long_side:
        short_side = max(1, round(long_side * short / long))
    other = min(max(1, int(short_side * long / short)), long_side)
    return (short_side, other) if height <= width else (other, short_side)


def same_size(
    images: Sequence[ImageSource], short_side: int, long_side: int, batch_size: int
) -> Iterator[tuple[list[Tensor], list[tuple[int, int]]]]:
    """Groups of up to `batch_size` neighbours that need no padding, resized, each with their (height, width) before.

    `images` are photos or tensors as `pixels_of` takes them; they get the size that `processed_size` says, and are not normalised.
    Raises InputError, also for a single image in place of the list.
    """
    shape = list(getattr(images, "shape", [1, 1, 1, 1]))  # of an array or a tensor; one of several images is as good as a list
    if isinstance(images, (str, bytes, os.PathLike, Image.Image)) or hasattr(images, "read") or len(shape) < 4:
        what = f"image (an array of {' x '.join(map(str, shape))})" if len(shape) < 4 else "image"
        raise InputError(f"segment takes a list of images: put the one {what} in brackets")
    if batch_size < 1:
        raise InputError(f"the batch size must be at least 1, not {batch_size}")
    group: list[Tensor] = []
    originals: list[tuple[int, int]] = []
    for image in images:
        pixels = pixels_of(image)  # 3 H W
        height, width = pixels.shape[-2:]
        resized = resize(pixels, list(processed_size(height, width, short_side, long_side)), antialias=True)
        if group and (len(group) == batch_size or resized.shape != group[0].shape):
            yield group, originals
            group, originals = [], []
        group.append(resized)
        originals.append((height, width))
    if group:
        yield group, originals
