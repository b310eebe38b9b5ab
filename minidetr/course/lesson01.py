"""Lesson 01, the data: checks of its exercises, and its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert

from minidetr.course import answer, close, exercise, require, require_tensor
from minidetr.course.lesson00 import map_of
from minidetr.course.trace import plain
from minidetr.data.images import denormalise
from minidetr.data.targets import Target, boxes_from_masks
from minidetr.panoptic import Category
from minidetr.plot import color_of, new_figure, picture_of

# --- pictures ---------------------------------------------------------------------------------------------------------------


def targets(pairs: Sequence[tuple[Tensor, Target]], titles: Sequence[str], categories: Sequence[Category]) -> Image.Image:
    """What a data set gives, side by side: images with their masks and boxes; boxes of stuff are dashed."""
    figure = new_figure(8.3, 8.3 / len(pairs) + 0.35)
    for axes, (image, target), title in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, titles, strict=True):
        draw_target(axes, image, target, {c.id: c for c in categories})
        axes.set_title(title, fontsize=11)
    return picture_of(figure)


def draw_target(axes: Axes, image: Tensor, target: Target, categories: dict[int, Category]) -> None:
    """One normalised image 3 H W with the masks and boxes of its target."""
    height, width = image.shape[-2:]
    picture = denormalise(image).permute(1, 2, 0).numpy()  # H W 3
    boxes = box_convert(target.boxes, "cxcywh", "xyxy") * torch.tensor([width, height, width, height])
    for label, mask, box in zip(target.labels.tolist(), target.masks.numpy(), boxes.tolist(), strict=True):
        color = np.array(color_of(categories[label])) / 255
        picture[mask] = 0.5 * picture[mask] + 0.5 * color
        left, top, right, bottom = (edge - 0.5 for edge in box)  # a pixel's middle is at a whole number in the figure
        style = "-" if categories[label].is_thing else "--"
        axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], style, color=tuple(0.8 * color), linewidth=2)
    plain(axes, picture)
    axes.set(xlim=(-4, width + 3), ylim=(height + 3, -4))


# --- exercises --------------------------------------------------------------------------------------------------------------


@exercise
def decode(attempt: Callable) -> None:
    """RGB -> ids: `attempt(rgb)` for H W 3 uint8."""
    rgb = np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    rgb[0, 0], rgb[0, 1] = (255, 255, 255), (0, 0, 0)
    red, green, blue = rgb.astype(np.int64).transpose(2, 0, 1)
    found = map_of(attempt(rgb.copy()), (5, 9))
    require(
        not np.array_equal(found, blue + 256 * green + 65536 * red),
        "red and blue are exchanged: red counts the ones, blue the 65536s.",
    )
    require(
        not np.array_equal(found, red + 255 * green + 255**2 * blue),
        "a channel has 256 values, 0 to 255: the factors are 256 and 65536.",
    )
    require(found.max() > 65535, "the ids ran over: a channel is uint8, so make it int32 before you multiply.")
    require(np.array_equal(found, red + 256 * green + 65536 * blue), "the ids differ from R + 256 G + 65536 B.")


@exercise
def boxes_of(attempt: Callable) -> None:
    """Masks -> boxes (left, top, right, bottom) that end behind the last pixel: `attempt(masks)` for K H W bool."""
    masks = torch.zeros(4, 7, 10, dtype=torch.bool)
    masks[0, 2:5, 1:8] = True
    masks[1, 6, 9] = True  # one pixel, in the corner
    masks[2, 0, 3] = masks[2, 5, 0] = True  # two pixels far apart
    masks[3, 1:, 4] = True
    wanted = boxes_from_masks(masks)
    found = require_tensor(attempt(masks), (4, 4), "the boxes").double()
    size = wanted - wanted[:, [0, 1, 0, 1]] * torch.tensor([0, 0, 1, 1])
    require(not close(found, wanted[:, [1, 0, 3, 2]]), "x and y are exchanged: columns give left and right, rows top and bottom.")
    require(not close(found, size), "these are x, y, width, height: give right and bottom instead of width and height.")
    require(
        not close(found, wanted - torch.tensor([0, 0, 1, 1])),
        "the +1 is missing: the one-pixel mask gets a box without width and height.",
    )
    require(close(found[1], wanted[1]), f"the pixel in row 6, column 9 should give 9, 6, 10, 7, not {found[1].tolist()}.")
    require(close(found, wanted), "the boxes of masks with several pixels are not right: take the smallest and the largest index.")


@exercise
def centred(attempt: Callable) -> None:
    """x, y, width, height in pixels -> cx, cy, w, h in 0..1: `attempt(boxes, height, width)` for K 4."""
    height, width = 50, 80
    boxes = torch.tensor([[0.0, 0.0, 80.0, 50.0], [8.0, 30.0, 4.0, 20.0], [79.0, 10.0, 1.0, 1.0]])
    scale = torch.tensor([width, height, width, height])
    wanted = box_convert(boxes, "xywh", "cxcywh") / scale
    given = boxes.clone()
    found = require_tensor(answer(attempt(given, height, width)), (3, 4), "the boxes")
    require(torch.equal(given, boxes), "the boxes given were changed in place: return new ones.")
    require(not close(found, boxes / scale), "the corner is still there: the centre lies half a width and half a height further.")
    require(
        not close(found, wanted * scale), "these are pixels: divide x and width by the image's width, the others by its height."
    )
    require(
        not close(found, wanted * scale / scale[[1, 0, 1, 0]]),
        "width and height of the image are exchanged: x is divided by the width.",
    )
    require(close(found[0], torch.tensor([0.5, 0.5, 1, 1])), "a box around the whole image should be 0.5, 0.5, 1, 1.")
    require(close(found, wanted), "the box of the whole image is right, but others are not.")
