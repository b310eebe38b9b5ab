"""What the model should find in one image, made from its panoptic segmentation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert

from minidetr.data.batch import moved


@dataclass
class Target:
    """The K segments of one image, things and stuff alike: DETR finds both with the same queries. K may be 0.

    `labels` K, int64, category ids; `boxes` K 4, float32, centre x, centre y, width, height in 0..1 of the image that the
    model sees; `masks` K H W, bool, of that image; `size` is (H, W) of the original image, before any resizing or cropping.
    """

    labels: Tensor
    boxes: Tensor
    masks: Tensor
    image_id: int | str
    size: tuple[int, int]

    def to(self, device: torch.device | str) -> Target:
        """The same target with its tensors on `device`."""
        labels, boxes, masks = (moved(tensor, device) for tensor in (self.labels, self.boxes, self.masks))
        return Target(labels, boxes, masks, self.image_id, self.size)


@dataclass
class PackedTarget:
    """A `Target` on its way to a device: its K masks, which don't overlap, as one plane of numbers, unpacked where they arrive.

    `number` H W, int16 (int32 for more than 32,767 segments): k + 1 where segment k is, else 0. Of 32 segments that
    is a sixteenth of the bytes.
    """

    labels: Tensor
    boxes: Tensor
    number: Tensor
    image_id: int | str
    size: tuple[int, int]

    @classmethod
    def of(cls, target: Target) -> PackedTarget:
        """Of a target whose masks don't overlap, as those of a panoptic segmentation never do."""
        kind = torch.int16 if len(target.masks) <= torch.iinfo(torch.int16).max else torch.int32
        number = torch.zeros(target.masks.shape[1:], dtype=kind)
        for k, mask in enumerate(target.masks):
            number.masked_fill_(mask, k + 1)
        return cls(target.labels, target.boxes, number, target.image_id, target.size)

    def to(self, device: torch.device | str) -> Target:
        """The target on `device`."""
        labels, boxes, number = (moved(tensor, device) for tensor in (self.labels, self.boxes, self.number))
        numbers = torch.arange(1, len(labels) + 1, dtype=self.number.dtype, device=device)
        return Target(labels, boxes, number == numbers[:, None, None], self.image_id, self.size)

    def pin_memory(self) -> PackedTarget:
        """The same in memory that a GPU can fetch from by itself; torch's DataLoader calls this."""
        labels, boxes, number = (tensor.pin_memory() for tensor in (self.labels, self.boxes, self.number))
        return PackedTarget(labels, boxes, number, self.image_id, self.size)


def target_from_panoptic(
    segment_ids: np.ndarray | Tensor, segments_info: list[dict], image_id: int | str, size: tuple[int, int] | None = None
) -> Target:
    """The target of one image.

    `segment_ids` H W (integers, 0 = void), `segments_info` the segments' entries of COCO's panoptic JSON. `size` is that of
    the original image where `segment_ids` has been resized or cropped.

    - Crowds ("iscrowd": 1) are left out: a crowd is no object (the reference trains on them as if it were one).
    - Segments without a pixel (cropped away) are left out.
    - A box always follows from its segment's pixels, never from "bbox", so that the two agree after every crop and resize.
    """
    ids = torch.as_tensor(segment_ids)
    height, width = ids.shape
    segments = [segment for segment in segments_info if not segment.get("iscrowd", 0)]
    wanted = torch.tensor([segment["id"] for segment in segments], dtype=ids.dtype, device=ids.device)
    labels = torch.tensor([segment["category_id"] for segment in segments], dtype=torch.int64, device=ids.device)

    masks = ids == wanted[:, None, None]  # K H W
    corners = boxes_from_masks(masks)  # K 4
    boxes = box_convert(corners, "xyxy", "cxcywh") / corners.new_tensor([width, height, width, height])
    seen = boxes[:, 2] > 0
    if not seen.all():
        labels, boxes, masks = labels[seen], boxes[seen], masks[seen]
    return Target(labels, boxes, masks, image_id, size or (height, width))


def boxes_from_masks(masks: Tensor) -> Tensor:
    """Masks K H W, bool -> boxes K 4, float32: left, top, right, bottom in pixels, right and bottom exclusive.

    The reference (and `torchvision.ops.masks_to_boxes`) ends a box at the last pixel's left edge, which leaves a one-pixel
    segment with an empty box. Here one pixel has a box of 1 x 1, and an empty mask a box of zeros.
    """
    height, width = masks.shape[-2:]
    pixels = masks.view(torch.uint8)  # the largest of uint8 is ten times faster on a CPU than any() of bool
    edges = []
    for occupied, length in ((pixels.amax(dim=1) > 0, width), (pixels.amax(dim=2) > 0, height)):  # K W: columns; K H: rows
        position = torch.arange(length, device=masks.device)
        first = torch.where(occupied, position, length).amin(dim=1)  # K, `length` where nothing is occupied
        last = torch.where(occupied, position + 1, 0).amax(dim=1)  # K
        edges.append((torch.minimum(first, last), last))  # an empty mask: 0, 0
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], dim=1).float()  # K 4
