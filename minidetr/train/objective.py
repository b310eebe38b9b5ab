"""One training step's forward pass: images and targets in, losses out."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidetr.data.batch import Batch
from minidetr.data.targets import Target
from minidetr.model import PanopticDETR
from minidetr.train.losses import LossWeights, SetLoss, process_mean
from minidetr.train.options import TrainOptions


class Objective(nn.Module):
    """The model and its losses in one module, so that DistributedDataParallel sees a single forward pass.

    `step` says what trains: "joint" everything, "boxes" all but the masks, "masks" the mask head on a frozen rest.
    """

    def __init__(self, model: PanopticDETR, options: TrainOptions, step: str):
        super().__init__()
        self.model, self.step, self.pixel_class_weight = model, step, options.pixel_class if step != "masks" else 0.0
        weights = LossWeights(focal=options.focal, dice=options.dice, no_object=options.no_object)
        self.set_loss = SetLoss(
            weights,
            train_boxes=step != "masks",
            masks_per_image=options.masks_per_image or None,
            mask_stride=options.mask_stride,
        )
        self.pixel_class = nn.Conv2d(model.preset.width, model.num_classes, kernel_size=1) if self.pixel_class_weight else None

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

    def forward(self, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Scalars by name, as `SetLoss` gives them; "total" is to be minimised."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.step != "masks"):  # frozen: no gradient, nothing kept for it
            seen = self.model.detect(batch)
        compute_masks = None
        if self.step != "boxes":
            compute_masks = lambda image_index, query_index: self.model.masks(seen, image_index, query_index)  # noqa: E731
        losses = self.set_loss(seen, targets, compute_masks, batch.size)
        if self.pixel_class is not None:
            losses["pixel_class"] = cell_class_loss(self.pixel_class(seen.memory), targets, batch.size)
            losses["total"] = losses["total"] + self.pixel_class_weight * losses["pixel_class"]
        return losses


def cell_class_loss(logits: Tensor, targets: list[Target], size: tuple[int, int]) -> Tensor:
    """Cross entropy between each cell's class logits B C h w and the shares of the classes among its pixels.

    It teaches a backbone that starts from nothing what the image shows, long before boxes and masks do; inference has no use
    for it. `size` is the padded input (H, W). The mean is over the labelled cells of all processes, see `class_loss`.
    """
    B, C, h, w = logits.shape
    shares = logits.new_zeros(B, C, *size, dtype=torch.float32)
    for share, target in zip(shares, targets, strict=True):
        K, height, width = target.masks.shape
        share[:, :height, :width].index_add_(0, target.labels, target.masks.float())
    shares = F.adaptive_avg_pool2d(shares, (h, w))  # B C h w
    loss = -(shares * logits.float().log_softmax(1)).sum(1)  # B h w
    return loss.sum() / max(process_mean(float(shares.sum()), logits.device), 1.0)


def start_step(model: PanopticDETR, options: TrainOptions, step: str) -> Objective:
    """The objective of a step, with `requires_grad` set: frozen stages off, and in the mask step everything but the mask head."""
    from minidetr.train.options import STAGES

    frozen = tuple(prefix for stage in options.freeze for prefix in STAGES[stage])
    for name, parameter in model.named_parameters():
        trains = not name.startswith(frozen) if frozen else True
        if step == "masks":
            trains = name.startswith(STAGES["mask-head"])
        elif step == "boxes":
            trains = trains and not name.startswith(STAGES["mask-head"])
        parameter.requires_grad_(trains)
    return Objective(model, options, step)


def with_size(model: PanopticDETR, options: TrainOptions) -> None:
    """Let the model resize images, from now on, to the size it is trained at."""
    ratio = model.preset.long_side / model.preset.short_side
    model.preset = replace(model.preset, short_side=options.size, long_side=round(options.size * ratio))
