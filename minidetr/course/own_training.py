"""What training needs of your own DETR: matching, losses and a loop. Goes with `own`, whose `use` replaces these pieces, too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from minidetr.course import own

WEIGHTS = {"class": 1.0, "l1": 5.0, "giou": 2.0, "focal": 20.0, "dice": 2.0, "cells": 3.0}
NO_OBJECT = 0.3  # what this class counts among the classes


def corners(boxes: Tensor) -> Tensor:
    """cx cy w h -> left top right bottom."""
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], dim=-1)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Boxes (left top right bottom) ... 4 and ... 4 -> generalised IoU of each pair."""
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - overlap
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    return overlap / union - (hull - union) / hull


def cost_matrix(logits: Tensor, boxes: Tensor, labels: Tensor, target_boxes: Tensor) -> Tensor:
    """N C+1, N 4, T, T 4 -> N T: what it costs to let a query answer for a segment."""
    N, T = len(boxes), len(labels)
    pairs = corners(boxes).repeat_interleave(T, 0), corners(target_boxes).repeat(N, 1)  # N*T 4 each
    distance = (boxes[:, None] - target_boxes).abs().sum(-1)  # N T
    return -logits.softmax(-1)[:, labels] + 5 * distance - 2 * giou(*pairs).view(N, T)


def assign(cost: Tensor) -> tuple[Tensor, Tensor]:
    """cost N T -> query_index and segment_index of the cheapest pairs."""
    query_index, segment_index = linear_sum_assignment(cost.detach().numpy())
    return torch.from_numpy(query_index), torch.from_numpy(segment_index)


def class_loss_of(logits: Tensor, expected: Tensor, no_object: float) -> Tensor:
    """N C+1, N -> scalar: cross entropy, in which "no object" counts less."""
    weight = torch.ones(logits.shape[-1])
    weight[-1] = no_object
    return F.cross_entropy(logits, expected, weight)


def dice_loss(mask_logits: Tensor, masks: Tensor) -> Tensor:
    """K h w each, masks in 0..1 -> scalar: twice the overlap over the sum of the areas, of each mask."""
    probability = mask_logits.sigmoid()
    dice = (2 * (probability * masks).sum((1, 2)) + 1) / (probability.sum((1, 2)) + masks.sum((1, 2)) + 1)
    return (1 - dice).mean()


def focal_loss(mask_logits: Tensor, masks: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """K h w each -> scalar: cross entropy of each pixel, times (1 - the probability of the truth)^gamma."""
    entropy = F.binary_cross_entropy_with_logits(mask_logits, masks, reduction="none")
    probability = mask_logits.sigmoid()
    wrong = probability * (1 - masks) + (1 - probability) * masks
    return ((alpha * masks + (1 - alpha) * (1 - masks)) * wrong**gamma * entropy).mean()


def shares(target: Any, seen: own.Seen, grid: Sequence[int]) -> Tensor:
    """How much of each cell of a grid over the padded image is each segment's: masks T H W -> T h w in 0..1."""
    height, width = (4 * side for side in seen.features.res2.shape[-2:])
    padded = F.pad(target.masks.float(), (0, width - target.masks.shape[2], 0, height - target.masks.shape[1]))
    return F.interpolate(padded[None], tuple(grid), mode="area")[0]


def cell_loss(model: Any, seen: own.Seen, targets: Sequence[Any]) -> Tensor:
    """Each cell of the encoded image, taken for a query, should say whose it is: cross entropy with the classes' shares in it.

    This loss is no part of DETR. It tells an encoder that starts from nothing about every cell, where few queries say little.
    """
    said = model.classes(own.to_sequence(seen.memory)).log_softmax(-1)  # B h*w C+1
    wanted = [shares(target, seen, seen.memory.shape[-2:]).flatten(1) for target in targets]  # T h*w each
    pairs = zip(wanted, said, targets, strict=True)
    return -sum((share * cells.T[t.labels]).sum() for share, cells, t in pairs) / sum(share.sum() for share in wanted)


def set_loss(model: Any, seen: own.Seen, targets: Sequence[Any]) -> dict[str, Tensor]:
    """Losses by name, added up over the decoder's layers, and "total". A target has labels T, boxes T 4 and masks T H W."""
    labels, target_boxes = torch.cat([t.labels for t in targets]), torch.cat([t.boxes for t in targets])
    first = [0, *torch.tensor([len(t.labels) for t in targets]).cumsum(0)]  # where each image's segments begin among all
    losses: dict[str, Any] = dict.fromkeys(WEIGHTS, 0.0)
    for logits, boxes in zip(seen.logits, seen.boxes, strict=True):  # B N C+1, B N 4
        pairs = [assign(cost_matrix(logits[k], boxes[k], t.labels, t.boxes)) for k, t in enumerate(targets)]
        image_index = torch.cat([torch.full_like(query, image) for image, (query, _) in enumerate(pairs)])  # K
        query_index = torch.cat([query for query, _ in pairs])
        matched = torch.cat([number + start for (_, number), start in zip(pairs, first, strict=False)])  # K
        expected = torch.full(logits.shape[:2], logits.shape[-1] - 1)  # B N
        expected[image_index, query_index] = labels[matched]
        found, wanted = boxes[image_index, query_index], target_boxes[matched]
        losses["class"] += class_loss_of(logits.flatten(0, 1), expected.flatten(), NO_OBJECT)
        losses["l1"] += (found - wanted).abs().sum(1).mean()
        losses["giou"] += (1 - giou(corners(found), corners(wanted))).mean()
    mask_logits = own.masks(model, seen, image_index, query_index)  # K H/4 W/4
    truth = torch.cat([shares(t, seen, mask_logits.shape[-2:]) for t in targets])[matched]
    losses["focal"], losses["dice"] = focal_loss(mask_logits, truth), dice_loss(mask_logits, truth)
    losses["cells"] = cell_loss(model, seen, targets)
    return losses | {"total": sum(WEIGHTS[name] * loss for name, loss in losses.items())}


# --- training from nothing --------------------------------------------------------------------------------------------------


def start(model: Any) -> Any:
    """The model with starting weights for training: DETR's for the transformer; a mask head that hears the heatmaps.

    A heatmap's numbers sum to 1 over all heads and cells, so they are small: lifted, they tell objects apart from the beginning.
    """
    for parameter in [*model.encoder.parameters(), *model.decoder.parameters()]:
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
    with torch.no_grad():
        model.mask_head.convolutions[0].weight[:, model.d :] *= 400
        model.mask_head.output.bias.fill_(-2.0)  # most pixels are not the object's
    return model


def batches(scenes: Sequence[Any], size: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor, list[Any]]]:
    """Batches of `size` scenes of one size for `train`, drawn without end, half of them mirrored."""
    random = torch.Generator().manual_seed(seed)
    while True:
        for some in torch.randperm(len(scenes), generator=random).split(size):
            mirror = (torch.rand(len(some), generator=random) < 0.5).tolist()
            images, targets = zip(
                *(mirrored(*scenes[k]) if m else scenes[k] for k, m in zip(some.tolist(), mirror, strict=True)), strict=True
            )
            stacked = torch.stack(images)
            yield stacked, torch.zeros(stacked[:, 0].shape, dtype=torch.bool), list(targets)


def mirrored(image: Tensor, target: Any) -> tuple[Tensor, Any]:
    """A scene as a mirror shows it."""
    boxes = target.boxes * torch.tensor([-1.0, 1, 1, 1]) + torch.tensor([1.0, 0, 0, 0])
    return image.flip(-1), replace(target, boxes=boxes, masks=target.masks.flip(-1))


def step(optimizer: Any, model: Any, loss: Tensor) -> None:
    """Change the weights against the gradient of a loss, with its length clipped to 1."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def train(model: Any, batches: Iterable[Any], iterations: int, rate: float = 6e-4) -> list[float]:
    """Train on `iterations` batches of (images, padding, targets); the total loss of each."""
    optimizer, history = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-4), []
    model.train()
    for done, (images, padding, targets) in zip(range(iterations), batches, strict=False):
        share = (done + 0.5) / iterations
        for group in optimizer.param_groups:  # warm up, then half a cosine
            group["lr"] = rate * min(1, share / 0.08) * (1 + math.cos(math.pi * share)) / 2
        loss = set_loss(model, own.detect(model, images, padding), targets)["total"]
        step(optimizer, model, loss)
        history.append(float(loss.detach()))
    return history


own.OURS |= {name: globals()[name] for names in own.PIECES.values() for name in names if name in globals()}
