"""Mask logits of the kept queries -> one segment id per pixel: a pixel-wise argmax, so nothing can overlap."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minidetr.panoptic import Category, Panoptic, Segment, boxes_of_ids

SMALLEST_AREA = 4  # pixels; a segment that small or smaller goes to the next best masks


def kept_queries(logits: Tensor, threshold: float, categories: Mapping[int, Category]) -> tuple[Tensor, Tensor, Tensor]:
    """logits N C+1 of one image -> query_index K, scores K, labels K of the queries whose class is an object above `threshold`."""
    scores, labels = logits.float().softmax(-1).max(-1)  # N
    known = torch.zeros(logits.shape[-1], dtype=torch.bool)
    known[list(categories)] = True  # neither "no object" nor a gap in the ids
    query_index = torch.nonzero(known.to(labels.device)[labels] & (scores > threshold)).squeeze(1)  # K
    return query_index, scores[query_index], labels[query_index]


def merge(
    mask_logits: Tensor,
    scores: Tensor,
    labels: Tensor,
    categories: Mapping[int, Category],
    padded_size: tuple[int, int],
    size: tuple[int, int],
    original_size: tuple[int, int],
) -> Panoptic:
    """The panoptic segmentation of one image.

    `mask_logits` K h w at a quarter of `padded_size`; `scores` K in 0..1; `labels` K category ids; `size` is the image's own
    (height, width) inside the padding, `original_size` the photo's. No kept query (K = 0) gives an all-void result.

    Source: DETR, section 4.4, and the reference's PostProcessPanoptic, with three of its bugs mended: the padding is cropped
    before anything is resized (issues 263, 474); duplicates of a stuff class become one segment and their pixels stay theirs;
    ids start at 1, since 0 is void.
    """
    void = Panoptic(np.zeros(original_size, np.int32))
    if not len(labels):
        return void
    groups = group_of(labels.tolist(), categories).to(labels.device)  # K, the same number for duplicates of a stuff class
    alive = list(range(len(labels)))
    while alive:
        best = best_masks(mask_logits, alive, padded_size, size)  # H W of the image alone
        best = F.interpolate(best[None, None].float(), original_size, mode="nearest-exact")[0, 0]  # height width, as the photo
        owner = groups.take(best.long())  # height width, the group of each pixel's best mask
        areas = torch.bincount(owner.flatten(), minlength=len(labels))
        large = (areas[groups] > SMALLEST_AREA).tolist()
        if all(large[k] for k in alive):
            return panoptic_of(owner, areas, groups, scores, labels, categories)
        alive = [k for k in alive if large[k]]  # the pixels of what was dropped go to the next best mask
    return void


def best_masks(mask_logits: Tensor, alive: list[int], padded_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """mask_logits K h w -> H W int16: each pixel's best of the masks `alive`; upsampled one at a time, so memory does not grow."""
    enlarged = (F.interpolate(mask_logits[k][None, None].float(), padded_size, mode="bilinear")[0, 0] for k in alive)
    planes = (plane[: size[0], : size[1]] for plane in enlarged)  # without the padding
    highest = next(planes)  # H W
    best = torch.full_like(highest, alive[0], dtype=torch.int16)
    for k, plane in zip(alive[1:], planes, strict=True):
        torch.maximum(best, (plane > highest) * best.new_tensor(k), out=best)  # numbers ascend, so the newer one is the larger one
        torch.maximum(highest, plane, out=highest)
    return best


def group_of(labels: list[int], categories: Mapping[int, Category]) -> Tensor:
    """K labels -> K: each mask's own index, or that of the first mask of the same stuff class."""
    first: dict[int, int] = {}
    return torch.tensor([k if categories[c].is_thing else first.setdefault(c, k) for k, c in enumerate(labels)], dtype=torch.long)


def panoptic_of(
    owner: Tensor, areas: Tensor, groups: Tensor, scores: Tensor, labels: Tensor, categories: Mapping[int, Category]
) -> Panoptic:
    """owner H W (index of a mask per pixel), areas K (its pixels) -> segments with ids 1, 2, ... in the order of the queries."""
    id_of_mask = (areas > 0).cumsum(0)  # K, counts the masks that own a pixel
    segment_ids = id_of_mask.int().take(owner).cpu().numpy()
    present = torch.nonzero(areas).squeeze(1).tolist()
    counted, boxes = boxes_of_ids(segment_ids, np.arange(1, len(present) + 1))
    segments = []
    for index, k in enumerate(present):
        label = int(labels[k])
        score = float(scores[groups == k].max())  # of all masks of a stuff class
        x, y, w, h = boxes[index].tolist()
        segments.append(Segment(index + 1, label, score, categories[label].is_thing, int(counted[index]), (x, y, w, h)))
    return Panoptic(segment_ids, segments)
