"""Hungarian matching: which query answers for which segment of the image (DETR, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from minidetr.after.dot_masks import mask_cost
from minidetr.data.batch import moved
from minidetr.data.targets import Target


@dataclass(frozen=True)
class CostWeights:
    """How much each term counts in the matching cost (DETR, appendix A.4); `masks` where every query has one (`minidetr.after`)."""

    class_: float = 1.0
    l1: float = 5.0
    giou: float = 2.0
    masks: float = 0.0  # of 20 times the focal loss and twice DICE, see `mask_cost`


@dataclass(frozen=True)
class Drawn:
    """The masks of all queries, where they cost next to nothing, and what they should be."""

    masks: list[Tensor]  # B N h w each, of the last decoder layer, and of the earlier ones, if they are judged, too
    shares: list[Tensor]  # of B images, T h w: how much of each pixel is the segment's
    pixels: Tensor | None = None  # B c h w, the embeddings that the masks are products with


@dataclass(frozen=True)
class Matches:
    """The K matched pairs of a batch, ordered by image, then by query. Three int64 tensors of length K.

    Pair k says: query `query_index[k]` of image `image_index[k]` answers for segment `target_index[k]` of that image's target.
    """

    image_index: Tensor
    query_index: Tensor
    target_index: Tensor

    def __len__(self) -> int:
        return len(self.image_index)

    def to(self, device: torch.device) -> Matches:
        """The same pairs on `device`."""
        return Matches(*moved(torch.stack([self.image_index, self.query_index, self.target_index]), device))

    def select(self, values: Sequence[Tensor]) -> Tensor:
        """One tensor (T, ...) for each image -> the row of each pair's segment: (K, ...)."""
        lengths = [0] + [len(value) for value in values[:-1]]
        start = moved(torch.tensor(lengths).cumsum(0), self.image_index.device)  # B: where each image's rows start, concatenated
        return torch.cat(list(values))[start[self.image_index] + self.target_index]

    def sample(self, per_image: int, generator: torch.Generator | None = None) -> Matches:
        """At most `per_image` pairs of every image, drawn at random (CPU generator; the global one by default), in order.

        Of matches on the host, as `match_layers` gives them: a GPU's would be waited for.
        """
        shuffled = torch.randperm(len(self), generator=generator)
        image = self.image_index[shuffled]
        drawn_before = (image[:, None] == image).tril(-1).sum(1)  # pairs of the same image that come earlier in the shuffle
        keep = shuffled[drawn_before < per_image].sort().values
        return Matches(self.image_index[keep], self.query_index[keep], self.target_index[keep])


def matching_cost(
    logits: Tensor, boxes: Tensor, labels: Tensor, target_boxes: Tensor, weights: CostWeights = CostWeights()
) -> Tensor:
    """What it costs to let each query of one image answer for each of its T segments.

    `logits` N x (C+1), `boxes` N x 4; `labels` T in 0..C-1, `target_boxes` T x 4; boxes are (cx, cy, w, h) in 0..1 of the image.
    Returns N x T, float32: -probability of the segment's class, L1 distance of the boxes and -GIoU, each times its weight.
    The class term is the probability, not its logarithm: p moves the cost by 1 at most and decides among boxes that are similarly
    good, where -log p is unbounded and could outvote any box (DETR, section 3.1: the terms shall be "commensurable").
    Raises IndexError on a CPU for a label beyond C-1: "no object" is no segment's class.
    """
    logits, boxes = logits.float(), boxes.float()  # half precision (autocast) is too coarse to rank queries
    probabilities = logits.softmax(-1)[:, :-1]  # N C
    class_cost = -probabilities[:, labels]  # N T
    l1_cost = torch.cdist(boxes, target_boxes, p=1)  # N T
    giou_cost = -generalized_box_iou(_corners(boxes), _corners(target_boxes))  # N T
    return weights.class_ * class_cost + weights.l1 * l1_cost + weights.giou * giou_cost


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, targets: Sequence[Target], weights: CostWeights = CostWeights()) -> Matches:
    """Pair queries with segments one to one, so that every image's total cost is the smallest possible.

    `logits` B x N x (C+1), `boxes` B x N x 4, B targets. Each image gets min(N, T) pairs: with more segments than queries the
    costliest stay unmatched. Matching decides what is compared and has no gradient. Raises FloatingPointError when a cost is
    not finite, which means that the model's predictions no longer are.
    """
    return match_layers([(logits, boxes)], targets, weights)[0].to(logits.device)


@torch.no_grad()
def match_layers(
    layers: Sequence[tuple[Tensor, Tensor]],
    targets: Sequence[Target],
    weights: CostWeights = CostWeights(),
    drawn: Drawn | None = None,
) -> list[Matches]:
    """`match` for several decoder layers, a (logits, boxes) each: an earlier layer may see the objects in other queries.

    `drawn` are the masks of the first of these layers, or of all; they count by `weights.masks`.
    The matches are on the host. All costs are fetched in one transfer, the only time in an iteration that a GPU is waited for:
    SciPy's algorithm runs on the CPU.
    """
    costs = [
        matching_cost(scores, places, target.labels, target.boxes, weights)  # N T
        for logits, boxes in layers
        for scores, places, target in zip(logits, boxes, targets, strict=True)
    ]
    if drawn is not None and weights.masks:
        of_masks = [cost for masks in drawn.masks for cost in mask_cost(masks, drawn.shares)]
        costs = [cost + weights.masks * of_mask for cost, of_mask in zip(costs, of_masks, strict=False)] + costs[len(of_masks) :]
    pairs = assign(torch.cat([cost.flatten() for cost in costs]).cpu(), [cost.shape for cost in costs])
    B = len(targets)
    return [in_order(pairs[first : first + B]) for first in range(0, len(pairs), B)]


def assign(flat: Tensor, shapes: Sequence[torch.Size]) -> list[tuple[Tensor, Tensor]]:
    """The (query, target) numbers of the cheapest pairs, min(N, T) each, of the costs N x T that lie one after the other."""
    if not flat.isfinite().all():
        raise FloatingPointError(
            "the matching cost is not finite because the model predicts NaN or infinity: "
            "lower the learning rate, clip the gradient or start from an earlier checkpoint"
        )
    blocks = flat.split([shape.numel() for shape in shapes])
    solved = (linear_sum_assignment(block.view(shape).numpy()) for block, shape in zip(blocks, shapes, strict=True))
    return [(torch.from_numpy(query), torch.from_numpy(target)) for query, target in solved]


def in_order(pairs: Sequence[tuple[Tensor, Tensor]]) -> Matches:
    """The (query, target) numbers of each image -> the pairs of the batch."""
    image = [torch.full_like(query, number) for number, (query, _) in enumerate(pairs)]
    queries, targets = zip(*pairs, strict=True)
    return Matches(torch.cat(image), torch.cat(queries), torch.cat(targets))


def _corners(boxes: Tensor) -> Tensor:
    return box_convert(boxes, "cxcywh", "xyxy")
