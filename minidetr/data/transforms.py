"""Augmentations, as transforms of torchvision v2 that take and give `(image, segment_ids)`.

The data sets pass the image (`tv_tensors.Image`, 3 H W uint8) and the map of segment ids (`tv_tensors.Mask`, 1 H W int32)
through the same transform, the ids by nearest neighbour. Masks and boxes are made from the transformed ids afterwards
(`minidetr.data.targets`), so that a box can't disagree with its mask, and one plane is resized rather than K. Any other
transform of torchvision v2 works as well; where it fills new pixels, give them the id 0, void, which is its default.

The random numbers are torch's: `torch.manual_seed` makes a run repeat.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from torchvision.transforms.v2 import query_size

from minidetr.data.batch import processed_size
from minidetr.errors import InputError


class ResizeShortSide(v2.Transform):
    """Resize the short side to one of `short_sides`, drawn at random, unless the long side would exceed `max_size`.

    Where it would, that becomes `max_size`: the sizes are those of `minidetr.data.batch.processed_size`.
    """

    def __init__(self, short_sides: Sequence[int], max_size: int = sys.maxsize) -> None:
        super().__init__()
        if not short_sides or min(short_sides) < 1 or max(short_sides) > max_size:
            raise InputError(f"the short sides {list(short_sides)} must lie in 1..{max_size}, the largest size allowed")
        self.short_sides, self.max_size = tuple(short_sides), max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw one size for the image and its ids; called by torchvision."""
        short_side = self.short_sides[_random(0, len(self.short_sides) - 1)]
        height, width = query_size(flat_inputs)
        return {"size": processed_size(height, width, short_side, self.max_size)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize the image or the ids; called by torchvision."""
        return _resize(inpt, params["size"])


class RandomSizeCrop(v2.Transform):
    """Crop to a random height and a random width, each in `smallest`..`largest` pixels (never larger than the image)."""

    def __init__(self, smallest: int, largest: int) -> None:
        super().__init__()
        self.smallest, self.largest = smallest, largest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, int]:
        """Draw one crop for the image and its ids; called by torchvision."""
        height, width = query_size(flat_inputs)
        crop_height, crop_width = (_random(min(self.smallest, side), min(self.largest, side)) for side in (height, width))
        top, left = _random(0, height - crop_height), _random(0, width - crop_width)
        return {"top": top, "left": left, "height": crop_height, "width": crop_width}

    def transform(self, inpt: Any, params: dict[str, int]) -> Any:
        """Apply the crop to the image or to the ids; called by torchvision."""
        return self._call_kernel(F.crop, inpt, **params)


def training_transform(
    short_sides: Sequence[int] = tuple(range(480, 801, 32)),
    max_size: int = 1333,
    crop_short_sides: Sequence[int] = (400, 500, 600),
    crop_sizes: tuple[int, int] = (384, 600),
) -> v2.Transform:
    """DETR's augmentation (section A.4 of the paper): a random flip, half of the time a random crop, a random size.

    The image's short side becomes one of `short_sides`, unless its long side would exceed `max_size`. Before a crop of
    `crop_sizes` pixels the short side becomes one of `crop_short_sides`.
    """
    resize = ResizeShortSide(short_sides, max_size)
    crop = v2.Compose([ResizeShortSide(crop_short_sides), RandomSizeCrop(*crop_sizes), resize])
    return v2.Compose([v2.RandomHorizontalFlip(), v2.RandomChoice([resize, crop])])


def evaluation_transform(short_side: int = 800, max_size: int = 1333) -> v2.Transform:
    """Resize the short side to `short_side`, unless the long side would exceed `max_size`: then that to `max_size`."""
    return ResizeShortSide([short_side], max_size)


def _resize(inpt: Tensor, size: Sequence[int]) -> Tensor:
    # torchvision resizes masks with "nearest", which takes another pixel than the one under the new pixel's centre and so moves
    # the ids by up to half a pixel against the bilinear image. "nearest-exact" does not.
    if isinstance(inpt, tv_tensors.Mask):
        resized = F.resize_image(inpt.as_subclass(Tensor), list(size), interpolation=v2.InterpolationMode.NEAREST_EXACT)
        return tv_tensors.wrap(resized, like=inpt)
    return F.resize(inpt, list(size))  # bilinear, antialiased


def _random(low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, ()))
