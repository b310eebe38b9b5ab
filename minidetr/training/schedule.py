"""How the weights move: which of them with what learning rate, how the rate changes, and the average that is kept of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from minidetr.errors import InputError
from minidetr.training.objective import Objective
from minidetr.training.options import TrainOptions


def schedule(options: TrainOptions, progress: float, drop: float) -> float:
    """The factor of the learning rate at `progress` in 0..1 of a step; "drop" divides by ten from `drop` on."""
    warm = min(1.0, (progress + 1e-3) / options.warmup) if options.warmup else 1.0
    if options.schedule == "drop":
        return warm * (0.1 if progress >= drop else 1.0)
    return warm * (0.01 + 0.99 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2)


def kept_share(decay: float, count: int) -> float:
    """The share d that a moving average keeps of itself in its update number `count`; it grows to `decay`.

    With `decay` from the first iteration on, the random start would still be a third of the average after 500 iterations at 0.998.
    d = (1 + n) / (10 + n) after n iterations keeps about the last tenth of them instead, until that is more than `decay` keeps.
    """
    return min(decay, (1 + count) / (10 + count))


class MovingAverage(AveragedModel):
    """A model's moving average: average = d * average + (1 - d) * weights, d by `kept_share`.

    Unlike torch's, it counts on the host: no GPU is waited for.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, use_buffers=True)
        self.decay, self.count = decay, 0

    def load_state_dict(self, state_dict: Mapping[str, Any], *rest: Any, **more: Any) -> Any:
        """As every module's."""
        loaded = super().load_state_dict(state_dict, *rest, **more)
        self.count = int(self.n_averaged)
        return loaded

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the weights of `model` as they are now; the first time, all of them."""
        share = kept_share(self.decay, self.count) if self.count else 0.0
        averages, weights = ([*m.parameters(), *m.buffers()] for m in (self.module, model))
        floats = [(a, w) for a, w in zip(averages, weights, strict=True) if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floats], [w for _, w in floats], 1 - share)
        for average, now in zip(averages, weights, strict=True):
            if not average.is_floating_point():  # batch normalisation's counters
                average.copy_(now)
        self.count += 1
        self.n_averaged.fill_(self.count)


MARKS = 15  # iterations after which the length of a run is told


def estimate(each: float, left: int, minutes: float | None, an_epoch: int, small_until: float = 0.0) -> str:
    """How long a step takes, in words: an iteration takes `each` seconds, `left` are left.

    With `minutes` the clock ends it: then it is told how far it gets, in passes over the data, each of `an_epoch` iterations. Until
    `small_until` of the step the images have half the size; four times the pixels are taken to last four times as long.
    """
    if minutes is not None:
        count = 60 * minutes / each * (small_until + (1 - small_until) / 4 if small_until else 1)
        return f"about {count:,.0f} iterations in {minutes:g} minutes, {count / an_epoch:.1f} passes over the data"
    seconds = each * left * (small_until + (1 - small_until) * 4 if small_until else 1)
    if seconds < 120:
        return "less than two minutes on this machine"
    hours, rest = divmod(round(seconds / 60), 60)
    length = f"{hours} h {rest} min" if hours else f"{rest} min"
    return f"about {length} on this machine (evaluations not counted): --minutes to bound it"


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
