"""The set losses: what matched queries should have said, and how far off they were (DETR, sections 3.1 and 4.2, appendix A.2).

Every query answers for its matched segment, or for "no object". Classes are judged on all B x N queries, boxes and masks on the
K matched pairs alone, so masks are never computed for anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torchvision.ops import box_convert, sigmoid_focal_loss

from minidetr.data.targets import Target
from minidetr.model import Detections
from minidetr.training.matching import CostWeights, Drawn, Matches, match_layers


@dataclass(frozen=True)
class LossWeights:
    """How much each loss counts in the total, and how much the class "no object" counts among the classes (DETR, appendix A.4)."""

    class_: float = 1.0
    l1: float = 5.0
    giou: float = 2.0
    focal: float = 1.0
    dice: float = 1.0
    no_object: float = 0.1


@dataclass(frozen=True)
class Normalisers:
    """What the losses' sums are divided by. A batch that is taken in parts divides those of each part by the whole batch's.

    Each is averaged over the processes, so that the average of their gradients is that of one large batch.
    """

    classes: float | Tensor  # the weights of all queries in the class loss
    segments: float | Tensor  # segments in the truth, at least 1
    masks: float | Tensor  # matched pairs whose masks are judged, at least 1
    cells: float | Tensor | None = None  # segments that have most of a cell, see `grid_box_losses`
    cell_classes: float | Tensor | None = None  # labelled cells, see `grid_class_loss`
    pixel_classes: float | Tensor | None = None
    images: float | Tensor | None = None  # for the loss of the pixels' embeddings (`minidetr.after`)
    start_classes: float | Tensor | None = None  # the weights of all cells in the class loss of those that queries start from

    def times(self, count: int) -> Normalisers:
        """Those of the queries, where there are so many groups of them."""
        return replace(self, classes=self.classes * count, segments=self.segments * count, masks=self.masks * count)


def class_loss(
    logits: Tensor,
    matches: Matches,
    targets: Sequence[Target],
    no_object: float = 0.1,
    normaliser: float | Tensor | None = None,
) -> Tensor:
    """Cross entropy of all queries' classes: `logits` B x N x (C+1) -> scalar.

    Unmatched queries should say "no object" (the last class). Most are unmatched, so that class is weighted down by `no_object`;
    the mean is over the weights, not over the queries, and over those of all processes, so that their gradients' average is that
    of one large batch (the reference averages each process's own mean). `normaliser` is the sum of the weights, if known.
    """
    no_object_class = logits.shape[-1] - 1
    expected = torch.full(logits.shape[:2], no_object_class, device=logits.device)  # B N
    expected[matches.image_index, matches.query_index] = matches.select([target.labels for target in targets])
    weight = torch.ones(logits.shape[-1], device=logits.device)  # C+1
    weight[no_object_class].fill_(no_object)  # filled, not set: setting copies the number to a GPU and waits for it
    total = F.cross_entropy(logits.float().flatten(0, 1), expected.flatten(), weight, reduction="sum")
    if normaliser is None:
        normaliser = process_mean(len(matches) + no_object * (expected.numel() - len(matches)), logits.device)
    return total / normaliser


def class_error(logits: Tensor, matches: Matches, targets: Sequence[Target]) -> Tensor:
    """A figure to watch, without gradient: percentage of matched queries with the wrong class, 0 when nothing is matched."""
    predicted = logits[matches.image_index, matches.query_index].argmax(-1)  # K
    wrong = predicted != matches.select([target.labels for target in targets])
    return 100 * wrong.sum() / max(len(matches), 1)


def box_losses(boxes: Tensor, matches: Matches, targets: Sequence[Target], normaliser: float | Tensor) -> tuple[Tensor, Tensor]:
    """L1 and GIoU loss of the matched boxes, summed over pairs / `normaliser`: `boxes` B x N x 4 -> two scalars.

    Boxes are (cx, cy, w, h) in 0..1 of the image. L1 alone would forgive small boxes their relative error; GIoU does
    not depend on the scale (DETR, section 3.1).
    """
    predicted = boxes[matches.image_index, matches.query_index].float()  # K 4
    expected = matches.select([target.boxes for target in targets])  # K 4
    l1 = F.l1_loss(predicted, expected, reduction="sum")
    corners = (box_convert(box, "cxcywh", "xyxy") for box in (predicted, expected))
    return l1 / normaliser, giou_loss(*corners).sum() / normaliser


def giou_loss(predicted: Tensor, expected: Tensor) -> Tensor:
    """1 - generalised IoU of boxes K x 4, (left, top, right, bottom) with left <= right, top <= bottom: -> K, each in 0..2.

    It is torchvision's `generalized_box_iou_loss` without its selection of the pairs that overlap, for which a GPU is waited for.
    eps only guards against 0/0: torchvision's default, 1e-7, is a tenth of a pixel's area in a 1000 x 1000 image.
    """
    eps = 1e-12
    overlap = torch.minimum(predicted[:, 2:], expected[:, 2:]) - torch.maximum(predicted[:, :2], expected[:, :2])  # K 2
    around = torch.maximum(predicted[:, 2:], expected[:, 2:]) - torch.minimum(predicted[:, :2], expected[:, :2])  # K 2
    intersection, enclosing = overlap.clamp(min=0).prod(-1), around.prod(-1)  # K
    union = (predicted[:, 2:] - predicted[:, :2]).prod(-1) + (expected[:, 2:] - expected[:, :2]).prod(-1) - intersection
    return 1 - (intersection / (union + eps) - (enclosing - union) / (enclosing + eps))


def dice_loss(mask_logits: Tensor, masks: Tensor, normaliser: float | Tensor) -> Tensor:
    """1 - twice the overlap over the sum of the areas, summed over masks / `normaliser`: two tensors K x H x W -> scalar.

    It counts a mask as a whole, so small segments weigh as much as large ones (V-Net, Milletari et al. 2016). The +1 keeps
    empty masks finite.
    """
    probability, masks = mask_logits.float().sigmoid().flatten(1), masks.float().flatten(1)  # K HW
    overlap = (probability * masks).sum(1)  # K
    dice = (2 * overlap + 1) / (probability.sum(1) + masks.sum(1) + 1)  # K
    return (1 - dice).sum() / normaliser


def focal_loss(mask_logits: Tensor, masks: Tensor, normaliser: float | Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Binary cross entropy of every pixel, times (1 - probability of the truth)^gamma: two tensors K x H x W -> scalar.

    Pixels already right hardly count, so the many easy background pixels do not drown the border. Truth 1 weighs `alpha`, truth
    0 weighs 1 - `alpha`. Mean over pixels, summed over masks / `normaliser` (RetinaNet, Lin et al. 2017).
    """
    loss = sigmoid_focal_loss(mask_logits.float(), masks.float(), alpha, gamma)  # K H W
    return loss.flatten(1).mean(1).sum() / normaliser


def mask_losses(
    mask_logits: Tensor,
    targets: Sequence[Target],
    matches: Matches,
    normaliser: float | Tensor,
    size: tuple[int, int],
    stride: int = 1,
) -> tuple[Tensor, Tensor]:
    """Focal and DICE loss of the matched masks: `mask_logits` K x h x w, in the order of `matches` -> two scalars.

    `size` is the padded input (H, W); targets are padded to it with zeros. With `stride` 1 the logits are upsampled to it, as in
    the reference. With `stride` 4 the losses are taken at the logits' own size, and each target pixel is the share of the segment
    in it (area average): about 16 times less to compute and to keep, but thin segments and borders are judged more coarsely.
    """
    height, width = size
    padded = [F.pad(target.masks, (0, width - target.masks.shape[2], 0, height - target.masks.shape[1])) for target in targets]
    masks = matches.select(padded)  # K H W bool
    # Each loss keeps several float32 maps of the full size for its gradient. Eight objects at a time, recomputed in the backward
    # pass, keep none: the same numbers from about half the memory (40 objects at 800 x 1216).
    focal, dice = [], []
    for some_logits, some_masks in zip(mask_logits.split(8), masks.split(8), strict=True):
        pair = checkpoint(_resize_and_compare, some_logits, some_masks, normaliser, stride, use_reentrant=False)
        focal.append(pair[0])
        dice.append(pair[1])
    return torch.stack(focal).sum(), torch.stack(dice).sum()


def _resize_and_compare(mask_logits: Tensor, masks: Tensor, normaliser: float | Tensor, stride: int) -> tuple[Tensor, Tensor]:
    mask_logits, masks = mask_logits[:, None].float(), masks[:, None].float()  # K 1 h w, K 1 H W
    if stride == 1:
        mask_logits = F.interpolate(mask_logits, masks.shape[-2:], mode="bilinear", align_corners=False)  # K 1 H W
    else:
        masks = F.interpolate(masks, mask_logits.shape[-2:], mode="area")  # K 1 h w
    return focal_loss(mask_logits, masks, normaliser), dice_loss(mask_logits, masks, normaliser)


def process_mean(value: float | Tensor, device: torch.device | None = None) -> float | Tensor:
    """`value` averaged over all processes, which is `value` itself where there is one. `device` is where the processes meet.

    Every process then divides by the same number, so the average of their gradients is that of one large batch. A tensor stays
    one: to ask a GPU for its number would mean to wait for it.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    total = value.float() if isinstance(value, Tensor) else torch.full((), value, dtype=torch.float32, device=device)
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def at_least_one(value: float | Tensor) -> float | Tensor:
    """The value, but 1 for less, so that nothing is divided by zero."""
    return value.clamp(min=1.0) if isinstance(value, Tensor) else max(value, 1.0)


def segment_count(targets: Sequence[Target]) -> float | Tensor:
    """Number of segments in a process's batch, averaged over all processes, at least 1: what box and mask losses are divided by."""
    return at_least_one(process_mean(sum(len(target.labels) for target in targets), targets[0].labels.device))


@dataclass(frozen=True)
class SetLoss:
    """All losses of a training step.

    `train_boxes` False means that only the mask head trains (the second of the two steps): classes and boxes are then matched, not
    judged. `masks_per_image` draws at most that many matched pairs of an image for the mask losses, to save time and memory;
    the mask losses are then divided by the number of pairs drawn. `mask_stride` is the `stride` of `mask_losses`.
    """

    weights: LossWeights = LossWeights()
    costs: CostWeights = CostWeights()
    train_boxes: bool = True
    masks_per_image: int | None = None
    mask_stride: int = 1

    def __call__(
        self,
        detections: Detections,
        targets: Sequence[Target],
        compute_masks: Callable[[Tensor, Tensor], Tensor] | None = None,
        size: tuple[int, int] | None = None,
        generator: torch.Generator | None = None,
        normalisers: Normalisers | None = None,
        drawn: Drawn | None = None,
    ) -> dict[str, Tensor]:
        """Scalars by name, unweighted, and only of what trains: "class", "l1", "giou", "focal", "dice"; "class_0", "l1_0",
        "giou_0", "class_1", ... of the earlier decoder layers; "total", the weighted sum, to call `backward` on; "class_error", to
        watch.

        `compute_masks(image_index K, query_index K) -> K x h x w` is called once, for the pairs to be judged and no others; None
        trains no masks. `size` is the padded input (H, W), by default the largest target's. `generator` draws the pairs.
        `normalisers` are those of a whole batch of which this is a part; by default the batch's own. `drawn` has dot-product masks
        of all queries: every matched one is judged; "focal_0", "dice_0" are of the earlier layers. Where `compute_masks` is given,
        too, those of the last layer are "focal_dot", "dice_dot".
        A batch without segments gives zeros that are still connected to the model, so that distributed training does not wait for
        a gradient that never comes. Raises ValueError when there is nothing to train, FloatingPointError as `match` does.
        """
        if not self.train_boxes and compute_masks is None and drawn is None:
            raise ValueError("nothing to train: with train_boxes=False, pass compute_masks")
        divide_by = normalisers or self.normalisers(targets, detections.logits.shape[1])
        layers = [(detections.logits, detections.boxes), *(detections.auxiliary if self.train_boxes else ())]
        on_host = match_layers(layers, targets, self.costs, drawn)
        device = detections.logits.device
        matches = [own.to(device) for own in on_host]
        losses = self.of_layers(layers, matches, targets, divide_by, drawn)
        if compute_masks is not None:
            losses = {f"{name}_dot" if name in ("focal", "dice") else name: loss for name, loss in losses.items()}
            judged = on_host[0] if self.masks_per_image is None else on_host[0].sample(self.masks_per_image, generator)
            losses |= self._mask_losses(compute_masks, judged.to(device), targets, size, divide_by)
        watched = {"class_error": class_error(detections.logits, matches[0], targets)} if self.train_boxes else {}
        return losses | {"total": self.weighted(losses)} | watched

    def of_layers(
        self,
        layers: Sequence[tuple[Tensor, Tensor]],
        matches: Sequence[Matches],
        targets: Sequence[Target],
        divide_by: Normalisers,
        drawn: Drawn | None = None,
    ) -> dict[str, Tensor]:
        """The losses of decoder layers, the last one first, a (logits, boxes) and its matches each, named as `__call__` says."""
        losses: dict[str, Tensor] = {}
        for layer, ((logits, boxes), own) in enumerate(zip(layers, matches, strict=True)):
            found = self._detection_losses(logits, boxes, own, targets, divide_by) if self.train_boxes else {}
            if drawn is not None and layer < len(drawn.masks):
                masks, expected = drawn.masks[layer][own.image_index, own.query_index], own.select(drawn.shares)  # K h w each
                found["focal"] = focal_loss(masks, expected, divide_by.masks)
                found["dice"] = dice_loss(masks, expected, divide_by.masks)
            losses |= {name if layer == 0 else f"{name}_{layer - 1}": loss for name, loss in found.items()}
        return losses

    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        """The sum of `of_layers`, each loss times its weight."""
        weights = {name.rstrip("_"): weight for name, weight in asdict(self.weights).items()}  # class_ -> class
        return torch.stack([weights[name.partition("_")[0]] * loss for name, loss in losses.items()]).sum()

    def normalisers(self, targets: Sequence[Target], queries: int) -> Normalisers:
        """What the losses of a batch are divided by; known before anything is matched, for N queries match min(N, T) segments."""
        device = targets[0].labels.device
        pairs = [min(queries, len(target.labels)) for target in targets]
        unmatched = queries * len(targets) - sum(pairs)
        drawn = sum(pairs if self.masks_per_image is None else [min(count, self.masks_per_image) for count in pairs])
        segments = segment_count(targets)
        return Normalisers(
            process_mean(sum(pairs) + self.weights.no_object * unmatched, device),
            segments,
            segments if self.masks_per_image is None else at_least_one(process_mean(drawn, device)),
        )

    def _detection_losses(
        self, logits: Tensor, boxes: Tensor, matches: Matches, targets: Sequence[Target], divide_by: Normalisers
    ) -> dict[str, Tensor]:
        l1, giou = box_losses(boxes, matches, targets, divide_by.segments)
        classes = class_loss(logits, matches, targets, self.weights.no_object, divide_by.classes)
        return {"class": classes, "l1": l1, "giou": giou}

    def _mask_losses(
        self,
        compute_masks: Callable[[Tensor, Tensor], Tensor],
        matches: Matches,
        targets: Sequence[Target],
        size: tuple[int, int] | None,
        divide_by: Normalisers,
    ) -> dict[str, Tensor]:
        if size is None:
            height, width = (max(target.masks.shape[axis] for target in targets) for axis in (1, 2))
            size = height, width
        mask_logits = compute_masks(matches.image_index, matches.query_index)  # K h w
        focal, dice = mask_losses(mask_logits, targets, matches, divide_by.masks, size, self.mask_stride)
        return {"focal": focal, "dice": dice}
