"""How the weights move: which of them with what learning rate, how the rate changes, and the average that is kept of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from minidetr.errors import InputError
from minidetr.training.objective import Objective
from minidetr.training.options import TrainOptions


def schedule(options: TrainOptions, progress: float, drop: float) -> float:
    """The factor of the learning rate at `progress` in 0..1 of a step; "drop" divides by ten from `drop` on."""
    warm = min(1.0, (progress + 1e-3) / options.warmup) if options.warmup else 1.0
    if options.schedule == "drop":
        return warm * (0.1 if progress >= drop else 1.0)
    return warm * (0.01 + 0.99 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2)


def moving_average(decay: float) -> Callable:
    """`AveragedModel`'s update: average = d * average + (1 - d) * weights, where d grows to `decay`.

    With `decay` from the first iteration on, the random start would still be a third of the average after 500 iterations at 0.998.
    d = (1 + n) / (10 + n) after n iterations keeps about the last tenth of them instead, until that is more than `decay` keeps.
    """

    def update(averages: Any, weights: Any, count: Tensor) -> None:
        get_ema_multi_avg_fn(min(decay, (1 + int(count)) / (10 + int(count))))(averages, weights, count)

    return update


def parameter_groups(objective: Objective, options: TrainOptions) -> list[dict]:
    """What trains, the backbone with its own learning rate; "base" is the rate before the schedule."""
    named = [(n, p) for n, p in objective.named_parameters() if p.requires_grad]
    backbone = [p for n, p in named if n.startswith("model.backbone.resnet.")]
    rest = [p for n, p in named if not n.startswith("model.backbone.resnet.")]
    rates = ((rest, options.learning_rate), (backbone, options.backbone_learning_rate))
    groups = [{"params": parameters, "lr": rate, "base": rate} for parameters, rate in rates if parameters]
    if not groups:
        raise InputError("--freeze leaves nothing to train in this step: freeze fewer stages")
    return groups
