"""One training step's forward pass: images and targets in, losses out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert

from minidetr.after import AfterDETR, Sightings
from minidetr.after.denoising import Denoising
from minidetr.after.dot_masks import DotMasks
from minidetr.after.groups import Groups
from minidetr.after.pixel_loss import discrimination_loss
from minidetr.data.batch import Batch
from minidetr.data.targets import Target
from minidetr.model import Detections, Features, PanopticDETR
from minidetr.presets import PIXEL_WIDTH
from minidetr.training.losses import LossWeights, Normalisers, SetLoss, at_least_one, giou_loss, process_mean
from minidetr.training.matching import CostWeights, Drawn, Matches, match_layers
from minidetr.training.options import TrainOptions

FINER = 4  # pixels that a cell of the encoded image tells the class of, in each direction


class Objective(nn.Module):
    """The model and its losses in one module, so that DistributedDataParallel sees a single forward pass.

    `step` says what trains: "joint" everything, "boxes" all but the masks, "masks" the mask head on a frozen rest.

    Two further losses, off in the published recipe, teach a model that starts from nothing what the image shows long before its
    queries have found out where to look: a dozen matched queries say little about a backbone, all cells of an image say much.
    Both judge the encoded image, in training alone: inference stays plain DETR, which has no use for them.
    - `pixel_class`: a convolution that only training knows tells the classes of 4 x 4 pixels in each cell.
    - `cells`: every cell passes the model's own heads, as if it were a query, and should say class and box of its segment.

    And what came after DETR (`minidetr.after`), as far as training alone knows it: `groups`, `denoising`, and a `helper` that draws
    dot-product masks of a model that has none, or heatmaps, where the options ask for such masks.
    """

    def __init__(self, model: PanopticDETR, options: TrainOptions, step: str):
        super().__init__()
        self.model, self.step = model, step
        self.pixel_class_weight, self.cells_weight = (0.0, 0.0) if step == "masks" else (options.pixel_class, options.cells)
        weights = LossWeights(focal=options.focal, dice=options.dice, no_object=options.no_object)
        self.set_loss = SetLoss(
            weights,
            costs=CostWeights(masks=options.mask_cost),
            train_boxes=step != "masks",
            masks_per_image=options.masks_per_image or None,
            mask_stride=options.mask_stride,
        )
        width, classes = model.preset.width, model.num_classes
        self.pixel_class = nn.Conv2d(width, classes * FINER**2, kernel_size=1) if self.pixel_class_weight else None
        later = step != "masks"  # whose queries are frozen
        self.dot_masks = step != "boxes" and model.preset.pixel_width is not None
        helped = later and model.preset.pixel_width is None and options.asks_for_dot_masks
        self.helper = DotMasks(width, model.backbone.channels, PIXEL_WIDTH) if helped else None
        self.auxiliary_masks = later and options.auxiliary_masks
        self.discrimination = options.discrimination
        self.groups = Groups(options.groups, model.preset.queries, width) if later and options.groups > 1 else None
        self.denoising = Denoising(options.denoise, width, classes) if later and options.denoise else None

    def train(self, mode: bool = True) -> Objective:
        """Frozen stages (in the mask step, the model) stay in eval mode: they have no dropout and keep their statistics."""
        super().train(mode)
        if self.step == "masks":
            self.model.eval()  # the mask head is the same in both modes
        for module in self.model.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self

    def forward(self, batch: Batch, targets: list[Target], normalisers: Normalisers | None = None) -> dict[str, Tensor]:
        """Scalars by name, as `SetLoss` gives them; "total" is to be minimised. `normalisers`: of a batch taken in parts."""
        seen = self.model.detect(batch) if self.step != "masks" else self.detect_frozen(batch)
        divide_by = normalisers or self.set_loss.normalisers(targets, self.model.preset.queries)
        compute_masks = drawn = None
        if self.dot_masks or self.helper is not None:
            drawn = self.draw(seen, targets, batch.size)
        if self.step != "boxes" and not self.dot_masks:
            compute_masks = lambda image_index, query_index: self.model.masks(seen, image_index, query_index)  # noqa: E731
        losses = self.set_loss(seen, targets, compute_masks, batch.size, normalisers=divide_by, drawn=drawn)
        if self.groups is not None:  # the mean over all groups, of which one is the model's own
            losses["groups"] = self.groups_loss(self.groups, seen, targets, divide_by, drawn)
            losses["total"] = (losses["total"] + self.groups.count * losses["groups"]) / (1 + self.groups.count)
        if self.denoising is not None:
            losses["denoising"] = self.denoising_loss(self.denoising, seen, targets, divide_by, drawn)
            losses["total"] = losses["total"] + losses["denoising"]
        if isinstance(seen, Sightings) and seen.cells is not None and self.step != "masks":
            losses["starts"] = self.starts_loss(seen.cells, targets, divide_by)
            losses["total"] = losses["total"] + losses["starts"]
        if self.discrimination and drawn is not None and drawn.pixels is not None:
            images = divide_by.images or process_mean(len(targets), seen.logits.device)
            losses["discrimination"] = discrimination_loss(drawn.pixels, drawn.shares) / images
            losses["total"] = losses["total"] + self.discrimination * losses["discrimination"]
        if self.pixel_class is not None:
            pixels = F.pixel_shuffle(self.pixel_class(seen.memory), FINER)  # B C 4h 4w
            same = drawn is not None and drawn.masks[0].shape[-2:] == pixels.shape[-2:]
            shares = drawn.shares if drawn and same else segment_shares(targets, batch.size, pixels.shape[-2:])
            losses["pixel_class"] = grid_class_loss(pixels, targets, shares, normalisers.pixel_classes if normalisers else None)
            losses["total"] = losses["total"] + self.pixel_class_weight * losses["pixel_class"]
        if self.cells_weight:
            classes, l1, giou = self.cell_losses(seen.memory, targets, batch.size, normalisers)
            losses |= {"cell_class": classes, "cell_l1": l1, "cell_giou": giou}
            weights = self.set_loss.weights
            of_cells = weights.class_ * classes + weights.l1 * l1 + weights.giou * giou
            losses["total"] = losses["total"] + self.cells_weight * of_cells
        return losses

    def draw(self, seen: Detections, targets: list[Target], size: tuple[int, int]) -> Drawn:
        """The dot-product masks of all queries, after every decoder layer that is judged, and the truth at their size."""
        assert isinstance(self.model, AfterDETR) and isinstance(seen, Sightings)
        pixels = self.model.pixels(seen) if self.helper is None else self.helper(seen.memory, seen.features)
        layers = [seen.queries, *(seen.earlier if self.auxiliary_masks else ())]
        masks = [self.draws.of_all(queries, pixels) for queries in layers]  # B N H/4 W/4 each
        return Drawn(masks, segment_shares(targets, size, pixels.shape[-2:]), pixels)

    @property
    def draws(self) -> DotMasks:
        """What draws the dot-product masks: the helper, or the model's own mask head."""
        return self.model.mask_head if self.helper is None else self.helper

    def said(self, layers: list[Tensor], drawn: Drawn | None) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
        """What queries B N d say after each layer, the last one first: (logits, boxes) of each, masks of as many as `drawn` has."""
        layers = layers[-1:] + layers[:-1]
        found = [self.model.heads(x) for x in layers]
        if drawn is None or drawn.pixels is None:
            return found, []
        return found, [self.draws.of_all(x, drawn.pixels) for x in layers[: len(drawn.masks)]]

    def groups_loss(
        self, groups: Groups, seen: Detections, targets: list[Target], divide_by: Normalisers, drawn: Drawn | None
    ) -> Tensor:
        """The set loss of the further groups of queries, each matched by itself, as their mean."""
        found, masks = self.said(groups(self.model, seen), drawn)
        found = [(groups.apart(logits), groups.apart(boxes)) for logits, boxes in found]
        targets = groups.repeated(targets)
        own = drawn and Drawn([groups.apart(x) for x in masks], groups.repeated(drawn.shares))
        device = seen.logits.device
        matches = [one.to(device) for one in match_layers(found, targets, self.set_loss.costs, own)]
        return self.set_loss.weighted(self.set_loss.of_layers(found, matches, targets, divide_by.times(groups.count), own))

    def denoising_loss(
        self, denoising: Denoising, seen: Detections, targets: list[Target], divide_by: Normalisers, drawn: Drawn | None
    ) -> Tensor:
        """The set loss of the noised truth's queries, which answer for the segments they come from, as the mean of its groups."""
        layers, pairs = denoising(self.model, seen, [t.labels for t in targets], [t.boxes for t in targets])
        found, masks = self.said(layers, drawn)
        all_matched = replace(divide_by, classes=divide_by.segments).times(denoising.groups)
        judge = replace(self.set_loss, weights=replace(self.set_loss.weights, no_object=0.0))  # of queries without a segment
        own = drawn and Drawn(masks, drawn.shares)
        return judge.weighted(judge.of_layers(found, [Matches(*pairs)] * len(found), targets, all_matched, own))

    def starts_loss(self, cells: tuple[Tensor, Tensor], targets: list[Target], divide_by: Normalisers) -> Tensor:
        """The set loss of the cells that queries start from, logits B h*w C+1 and boxes B h*w 4, matched one to one."""
        classes = divide_by.start_classes
        if classes is None:
            classes = self.set_loss.normalisers(targets, cells[0].shape[1]).classes
        [matches] = match_layers([cells], targets, self.set_loss.costs)
        divide_by = replace(divide_by, classes=classes)
        return self.set_loss.weighted(self.set_loss.of_layers([cells], [matches.to(cells[0].device)], targets, divide_by))

    @torch.no_grad()
    def normalisers(self, batch: Batch, targets: list[Target]) -> Normalisers:
        """What the losses of the whole batch are divided by, for a batch that is taken in parts."""
        found = self.set_loss.normalisers(targets, self.model.preset.queries)
        stride = 16 if self.model.preset.dilation else 32
        height, width = (-(-side // stride) for side in batch.size)
        if self.discrimination:
            found = replace(found, images=process_mean(len(targets), batch.images.device))
        if self.model.preset.starts:
            found = replace(found, start_classes=self.set_loss.normalisers(targets, height * width).classes)
        if self.pixel_class is not None:
            shares = segment_shares(targets, batch.size, (FINER * height, FINER * width))
            found = replace(found, pixel_classes=labelled_cells(shares))
        if self.cells_weight:
            shares = segment_shares(targets, batch.size, (height, width))
            found = replace(found, cell_classes=labelled_cells(shares), cells=segments_with_cells(shares))
        return found

    @torch.no_grad()
    def detect_frozen(self, batch: Batch) -> Detections:
        """What a frozen model sees in a batch: no gradient, and nothing kept for one.

        On a CPU in bfloat16 it looks at one image after the other: attention of several without a gradient multiplies every image's
        tokens by the weights on their own, copied for each, and takes twice as long (nn.MultiheadAttention, torch 2.14).
        """
        if not torch.is_autocast_enabled("cpu"):
            seen = self.model.detect(batch)
            return replace(seen, pixels=None) if isinstance(seen, Sightings) else seen  # they train: to be made with a gradient
        return join([self.model.detect(image) for image in batch.split()])

    def cell_losses(
        self, memory: Tensor, targets: list[Target], size: tuple[int, int], normalisers: Normalisers | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Class, L1 and GIoU loss of the encoded image's cells, memory B d h w, each taken for a query."""
        logits, boxes = self.model.heads(memory.flatten(2).transpose(1, 2))  # B h*w C+1, B h*w 4
        grid = memory.shape[-2:]
        shares = segment_shares(targets, size, grid)
        l1, giou = grid_box_losses(boxes.unflatten(1, grid), targets, shares, normalisers.cells if normalisers else None)
        of_cells = logits.transpose(1, 2).unflatten(2, grid)  # B C+1 h w
        return grid_class_loss(of_cells, targets, shares, normalisers.cell_classes if normalisers else None), l1, giou


def join(parts: Sequence[Detections]) -> Detections:
    """What was seen in batches padded to one size, as if it had been one batch: without what only training of boxes asks for."""
    features = Features(*(torch.cat([getattr(p.features, f.name) for p in parts]) for f in fields(Features)))
    names = ("logits", "boxes", "queries", "memory", "padding")
    tensors: dict[str, Any] = {name: torch.cat([getattr(p, name) for p in parts]) for name in names}
    return type(parts[0])(**tensors, features=features, is_padded=any(p.is_padded for p in parts))


def segment_shares(targets: list[Target], size: tuple[int, int], grid: Sequence[int]) -> list[Tensor]:
    """How much of each cell of a grid over the padded input (H, W) `size` is each segment's: for each image K h w in 0..1."""
    shares = []
    for target in targets:
        K, height, width = target.masks.shape
        padded = F.pad(target.masks, (0, size[1] - width, 0, size[0] - height)).float()  # K H W
        shares.append(F.adaptive_avg_pool2d(padded, (grid[0], grid[1])) if K else padded.new_zeros(0, *grid))
    return shares


def labelled_cells(shares: list[Tensor]) -> float | Tensor:
    """How many cells of a batch's grids belong to segments, averaged over the processes, at least 1; `shares` as above."""
    return at_least_one(process_mean(torch.stack([of_segments.sum() for of_segments in shares]).sum()))


def segments_with_cells(shares: list[Tensor]) -> float | Tensor:
    """How many segments have most of some cell, averaged over the processes, at least 1; `shares` as above."""
    counts = [(cells_of_segments(of_segments)[2] > 0).sum() for of_segments in shares if len(of_segments)]
    return at_least_one(process_mean(torch.stack([shares[0].new_zeros(()), *counts]).sum()))


def cells_of_segments(shares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shares K h w -> each cell's largest share and whose it is, h*w each, and what each segment's cells have of it in all, K."""
    share, owner = shares.flatten(1).max(0)
    return share, owner, share.new_zeros(len(shares)).index_add_(0, owner, share)


def grid_class_loss(
    logits: Tensor, targets: list[Target], shares: list[Tensor], normaliser: float | Tensor | None = None
) -> Tensor:
    """Cross entropy between the class logits B C h w of a grid over the image and the shares of the classes in its cells.

    `shares` are those of `segment_shares`. The mean is over the labelled cells (`normaliser`, if known) of all processes, see
    `class_loss`.
    """
    expected = torch.zeros_like(logits, dtype=torch.float32)  # B C h w
    for of_classes, target, of_segments in zip(expected, targets, shares, strict=True):
        of_classes.index_add_(0, target.labels, of_segments)
    loss = -(expected * logits.float().log_softmax(1)).sum()
    return loss / (labelled_cells(shares) if normaliser is None else normaliser)


def grid_box_losses(
    boxes: Tensor, targets: list[Target], shares: list[Tensor], normaliser: float | Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """L1 and GIoU loss between the boxes B h w 4 of a grid's cells and the box of the segment that has most of each cell.

    `shares` are those of `segment_shares`. Every segment counts once: its cells share its weight by how much of them it has.
    Segments that have most of no cell are left out; the sum is divided by the number of the others (`normaliser`, if known),
    averaged over the processes. Returns two scalars.
    """
    boxes = boxes.float()
    l1, giou = boxes.sum() * 0, boxes.sum() * 0
    for predicted, target, of_segments in zip(boxes.flatten(1, 2), targets, shares, strict=True):  # h*w 4, K h w
        if not len(target.labels):
            continue
        share, owner, total = cells_of_segments(of_segments)
        weight = share / total[owner].clamp(min=1e-6)  # h*w
        expected = target.boxes[owner]
        corners = (box_convert(box, "cxcywh", "xyxy") for box in (predicted, expected))
        l1 = l1 + (weight * (predicted - expected).abs().sum(-1)).sum()
        giou = giou + (weight * giou_loss(*corners)).sum()
    count = segments_with_cells(shares) if normaliser is None else normaliser
    return l1 / count, giou / count


def start_step(model: PanopticDETR, options: TrainOptions, step: str) -> Objective:
    """The objective of a step, with `requires_grad` set: frozen stages off, and in the mask step everything but the mask head."""
    from minidetr.training.options import STAGES

    frozen = tuple(prefix for stage in options.freeze for prefix in STAGES[stage])
    for name, parameter in model.named_parameters():
        trains = not name.startswith(frozen) if frozen else True
        if step == "masks":
            trains = name.startswith(STAGES["mask-head"])
        elif step == "boxes":
            trains = trains and not name.startswith(STAGES["mask-head"])
        parameter.requires_grad_(trains)
    return Objective(model, options, step)
