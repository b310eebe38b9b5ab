"""Lesson 01, the data: checks of its exercises, and its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torchvision.ops import box_convert

from minidetr.course import answer, close, exercise, require, require_tensor
from minidetr.course.schematic import Schematic
from minidetr.course.trace import plain
from minidetr.data.images import denormalise
from minidetr.data.targets import Target, boxes_from_masks, target_from_panoptic
from minidetr.panoptic import Category
from minidetr.plot import color_of, new_figure, palette, picture_of

# --- pictures ---------------------------------------------------------------------------------------------------------------


def schematic() -> Image.Image:
    """From the three files on disk to a target, and who uses what of it."""
    page = Schematic(8.3, 3.9)
    rows, columns = (3.25, 2.3, 1.45, 0.6), (0.85, 2.45, 4.0, 5.7, 7.45)
    photo = page.block(columns[0], rows[0], "photo", "H x W x 3", kind="data")
    coded = page.block(columns[0], rows[1], "PNG of colours", "H x W x 3", kind="data")
    listed = page.block(columns[0], rows[3], "JSON", "classes, crowds", kind="data")
    ids = page.block(columns[1], rows[1], "segment ids", "H x W", kind="data")
    page.block(columns[2], (rows[0] + rows[1]) / 2, "flip, crop,\nresize:\none for both", kind="fixed", height=1.6, width=1.2)
    page.frame(4.92, 0.2, 6.48, 2.82, "target of K segments")
    image = page.block(columns[3], rows[0], "image", "3 x H x W", kind="data")
    masks = page.block(columns[3], rows[1], "masks", "K x H x W", kind="data")
    boxes = page.block(columns[3], rows[2], "boxes", "K x 4", kind="data")
    classes = page.block(columns[3], rows[3], "classes", "K", kind="data")
    network = page.block(columns[4], rows[0], "the model", "lessons 02 to 07", kind="learned")
    drawn = page.block(columns[4], rows[1], "mask losses", "lesson 08", kind="loss")
    page.block(columns[4], (rows[2] + rows[3]) / 2, "matching,\nset loss", kind="loss", height=1.3)
    page.text(columns[4], 0.62, "lesson 05")
    page.arrow(coded, ids)
    page.arrow(photo, (columns[2] - 0.6, rows[0]))
    page.arrow(ids, (columns[2] - 0.6, rows[1]))
    page.arrow((columns[2] + 0.6, rows[0]), image)
    page.arrow((columns[2] + 0.6, rows[1]), masks)
    page.arrow(masks, boxes, text="edges")
    page.arrow(listed, classes, text="without crowds and what the crop cut away")
    page.arrow(image, network)
    page.arrow(masks, drawn)
    page.arrow(boxes, (columns[4] - 0.65, rows[2]))
    page.arrow(classes, (columns[4] - 0.65, rows[3]))
    return page.picture()


def id_map(maps: Sequence[np.ndarray], titles: Sequence[str], extra: tuple[np.ndarray, str] | None = None) -> Image.Image:
    """Maps of ids H W side by side: each id in one colour, the same in all of them, with its number where it is widest.

    `extra` is a map of bools drawn last, with its title: True in orange.
    """
    known = np.unique(np.concatenate([ids.ravel() for ids in maps])).tolist()
    colors = dict(zip(known, palette(max(known) + 1), strict=False))
    panels = len(maps) + (extra is not None)
    figure = new_figure(8.3 if panels > 1 else 4.2, 8.3 / max(panels, 2) + 0.35)
    axes_row = figure.subplots(1, panels, squeeze=False)[0]
    for axes, ids, title in zip(axes_row, maps, titles, strict=False):
        picture = (0.75 * np.array([colors[i] for i in known]) + 0.25 * 255).astype(np.uint8)[np.searchsorted(known, ids)]
        plain(axes, picture)
        for i in np.unique(ids).tolist():
            distance = ndimage.distance_transform_edt(np.pad(ids == i, 1))[1:-1, 1:-1]
            y, x = np.unravel_index(distance.argmax(), distance.shape)
            if distance.max() > ids.shape[1] / 60:
                axes.text(x, y, str(i), ha="center", va="center", fontsize=9, bbox=PAPER_BOX)
        axes.set_title(title, fontsize=10)
    if extra is not None:
        plain(axes_row[-1], np.where(extra[0][..., None], (213, 94, 0), (236, 239, 242)).astype(np.uint8))
        axes_row[-1].set_title(extra[1], fontsize=10)
    return picture_of(figure)


PAPER_BOX = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}


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
def target_of(attempt: Callable) -> None:
    """`attempt(ids, segments)`: H W ids and the JSON's entries -> labels K, boxes K 4 (cx, cy, w, h in 0..1), masks K H W."""
    ids = torch.zeros(6, 10, dtype=torch.int32)
    ids[0:3, 1:9] = 40
    ids[3:6, 0:4] = 7
    ids[5, 9] = 300  # one pixel
    ids[3, 6] = ids[4, 7] = 12
    ids[0, 0] = 5
    stale = [1, 1, 2, 2]  # of the image before it was cropped
    entries = [
        {"id": i, "category_id": c, "iscrowd": crowd, "bbox": stale, "area": 3}
        for i, c, crowd in ((7, 2, 0), (300, 9, 0), (5, 4, 1), (99, 3, 0), (40, 2, 0), (12, 8, 0))
    ]
    right = target_from_panoptic(ids, entries, 1)
    found = answer(attempt(ids.clone(), [dict(entry) for entry in entries]))
    require(isinstance(found, (tuple, list)) and len(found) == 3, "return three things: labels, boxes, masks.")
    for value in found:
        answer(value)
    labels, boxes, masks = (torch.as_tensor(value) for value in found)
    require(len(labels) != 6, "all six entries are there: leave out the crowd and the segment without a pixel.")
    require(
        len(labels) != 5 or 4 not in labels.tolist(),
        "the crowd (iscrowd 1) is among the segments: nobody counted it, leave it out.",
    )
    require(
        len(labels) != 5 or 3 not in labels.tolist(), "a segment without a pixel is among them: the crop cut it away, leave it out."
    )
    require(labels.tolist() != [7, 300, 40, 12], "the labels are the segments' ids: give their category_id.")
    require(sorted(labels.tolist()) == [2, 2, 8, 9], f"the labels should be 2, 9, 2, 8, not {labels.tolist()}.")
    require(labels.tolist() == right.labels.tolist(), "keep the order of the JSON's entries: labels 2, 9, 2, 8.")
    require(not labels.is_floating_point(), "labels are classes: whole numbers (int64).")
    require(tuple(masks.shape) == (4, 6, 10), f"the masks should have the shape 4x6x10, not {'x'.join(map(str, masks.shape))}.")
    require(bool((masks == right.masks).all()), "the masks differ: mask k is True where ids == the id of segment k.")
    check_boxes(require_tensor(boxes, (4, 4), "the boxes"), right)


def check_boxes(boxes: Tensor, right: Target) -> None:
    """A sentence of its own for each way to get boxes wrong."""
    scale = torch.tensor([10.0, 6, 10, 6])  # width, height of the check's image
    edges = boxes_from_masks(right.masks)
    boxes = boxes.double()
    for what, sentence in (
        (
            torch.tensor([[0.2, 1 / 3, 0.2, 1 / 3]]).expand(4, 4),
            "the boxes are the JSON's bbox, which is of the image before the crop.",
        ),
        (right.boxes * scale, "these are pixels: divide x and width by the image's width, the others by its height."),
        (right.boxes * scale / scale[[1, 0, 1, 0]], "width and height of the image are exchanged: x is divided by the width."),
        (edges / scale, "these are left, top, right, bottom: give the centre, then width and height."),
        (box_convert(edges, "xyxy", "xywh") / scale, "the corner is still there: the centre lies half a width and height further."),
        (
            box_convert(edges[:, [1, 0, 3, 2]], "xyxy", "cxcywh") / scale,
            "rows and columns are exchanged: the first column of nonzero() is the row, which is y.",
        ),
        (right.boxes[:, [1, 0, 3, 2]], "x and y are exchanged: columns give x, rows give y."),
        (
            box_convert(edges - torch.tensor([0, 0, 1, 1]), "xyxy", "cxcywh") / scale,
            "the +1 is missing: the one-pixel segment gets a box without width and height.",
        ),
    ):
        require(not close(boxes, what), sentence)
    require(
        close(boxes[1], right.boxes[1]),
        f"the pixel in row 5, column 9 of 6x10 has the box 0.95, 0.917, 0.1, 0.167, not {boxes[1].tolist()}.",
    )
    require(
        close(boxes, right.boxes), "the boxes of segments with several pixels are not right: smallest and largest row and column."
    )


@exercise
def planted(attempt: int) -> None:
    """In which line of `colleague` the bug is."""
    line = answer(attempt)
    require(isinstance(line, int), "give the number of the line, as in line = 1.")
    why = {
        1: "line 1 is right: the first axis is the rows, so height comes first.",
        2: "line 2 is right: crowds are left out.",
        3: "line 3 is right: one mask per entry, by its id.",
        4: "line 4 is right: the labels are the classes of the same entries, in the same order.",
        5: "line 5 is right: edges from the masks, then centre and size.",
        7: "line 7 is right: what has no pixel is left out, in all three.",
    }
    require(line == 6, why.get(line, "the lines are numbered 1 to 7."))


@exercise
def side(attempt: int) -> None:
    """The smallest whole side of a square object whose box without +1 has an IoU above 0.95 with the right one."""
    n = answer(attempt)
    require(isinstance(n, int), "give a whole number of pixels.")
    require(n != 20, "for 20 the widths agree to 0.95, but the IoU compares areas: both sides are too short.")
    require(
        n >= 40,
        f"for a side of {n} the IoU is ({n - 1}/{n}) squared = {(max(n, 1) - 1) ** 2 / max(n, 1) ** 2:.4f}, not above 0.95.",
    )
    require(n == 40, f"a side of {n} is enough, but {n - 1} is too: look for the smallest.")


@exercise
def resize_ids(attempt: Callable) -> None:
    """Nearest neighbour by pixel centres: `attempt(ids, height, width)`, H W -> height width."""
    for H, W, height, width in ((9, 12, 3, 4), (5, 9, 13, 6), (7, 10, 7, 10)):  # no new centre lies on an old pixel's edge
        ids = torch.randint(1, 2000, (H, W), dtype=torch.int32)
        right = nearest(ids, height, width, 0.5)
        found = answer(attempt(ids.clone(), height, width))
        found = require_tensor(torch.as_tensor(np.asarray(found)), (height, width), "the ids")
        require(
            bool(torch.isin(found.long(), ids.long()).all()),
            "there are ids that were not in the map: ids are names, do not average them.",
        )
        require(
            torch.equal(right, nearest(ids, height, width, 0))
            or not torch.equal(found.long(), nearest(ids, height, width, 0).long()),
            "the map has moved by up to half a pixel: take the old one under the new pixel's centre, (i + 0.5) H / height.",
        )
        require(
            torch.equal(found.long(), right.long()),
            f"from {H}x{W} to {height}x{width}, some pixels have another id than the one under their centre.",
        )


def nearest(ids: Tensor, height: int, width: int, offset: float) -> Tensor:
    """ids H W -> height width: the pixel under (i + offset) of each new one."""
    H, W = ids.shape
    rows = ((torch.arange(height, dtype=torch.float64) + offset) * H / height).long()
    columns = ((torch.arange(width, dtype=torch.float64) + offset) * W / width).long()
    return ids[rows[:, None], columns]
