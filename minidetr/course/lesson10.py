"""Checks and pictures of lesson 10: the schedule, several processes, what trains under --freeze, the moving average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from minidetr.course import answer, close, exercise, require, require_tensor
from minidetr.course.figures import boxes_on, titled
from minidetr.course.trace import Trace, plain
from minidetr.model import PanopticDETR
from minidetr.panoptic import Panoptic
from minidetr.plot import for_display, new_figure, overlay, picture_of
from minidetr.presets import preset
from minidetr.scenes.painters import CATEGORIES
from minidetr.training.objective import start_step
from minidetr.training.options import TrainOptions
from minidetr.training.report import read_rows
from minidetr.training.schedule import kept_share, schedule

# --- exercises --------------------------------------------------------------------------------------------------------------


@exercise
def learning_rate_factor(attempt: Callable[..., Any]) -> None:
    """`attempt(progress, kind, warmup, drop)`: the learning rate's factor at `progress` in 0..1 of a step."""
    for kind in ("drop", "cosine"):
        for warmup, drop in ((0.2, 0.7), (0.05, 0.4)):
            options = TrainOptions(preset="tiny", schedule=kind, warmup=warmup, drop=drop).filled()
            for progress in (0.3 * warmup, 0.7 * warmup, 1.5 * warmup, 0.35, drop, 0.99, 1.0):
                value = float(answer(attempt(progress, kind, warmup, drop)))
                expected = schedule(options, progress, drop)
                place = f"{kind}, warm-up {warmup}, drop {drop}: at progress {progress:.3g} it"
                early = progress < warmup
                unwarmed = schedule(TrainOptions(preset="tiny", schedule=kind, warmup=0.0, drop=drop).filled(), progress, drop)
                if early:
                    require(abs(value - unwarmed) > 0.02, f"{place} is {value:.3g} already: the warm-up rises from 0 to 1 first.")
                if progress == 1.0 and kind == "cosine":
                    require(value > 1e-3, f"{place} is {value:.3g}: the cosine ends at a hundredth, not at zero.")
                if progress == drop and kind == "drop":
                    require(value < 0.5, f"{place} is {value:.3g}: from the drop on, the drop itself included, it is a tenth.")
                near = 0.03 if early else 1e-3  # the package starts its warm-up a little above 0
                require(abs(value - expected) <= near, f"{place} should be {expected:.3g}, not {value:.3g}.")


@exercise
def gradient_of_all(attempt: Callable[..., Any]) -> None:
    """`attempt(sums, counts)`: P x D gradients of summed losses, P counts -> D, the gradient of the mean over everything."""
    sums, counts = torch.randn(3, 7), torch.tensor([2, 11, 5])
    value = require_tensor(attempt(sums.clone(), counts.clone()), (7,), "the gradient")
    expected = sums.sum(0) / counts.sum()
    means = sums / counts[:, None]
    require(not close(value, means.mean(0)), "this averages the processes' means: few segments then count too much.")
    require(not close(value, means.sum(0)), "the means are added up: with more processes the steps would be larger.")
    require(not close(value, expected * 3), "this is P times too large: DistributedDataParallel takes the mean over processes.")
    require(close(value, expected), "the value is not right: it should be the summed gradient over the number of all segments.")


@exercise
def what_trains(attempt: Callable[..., Any]) -> None:
    """`attempt(names, freeze)`: parameter names and frozen stages -> the names of those that train, in their order."""
    model = PanopticDETR(preset("tiny"), CATEGORIES)
    names = [name for name, _ in model.named_parameters()]
    for freeze in (("stem", "res2"), ("backbone",), ("mask-head", "encoder"), ("heads", "decoder", "projection"), ()):
        given = answer(attempt(list(names), freeze))
        start_step(model, TrainOptions(preset="tiny", freeze=freeze).filled(), "joint")
        expected = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        given = list(given)
        frozen = [name for name in names if name not in expected]
        require(not freeze or given != frozen, "these are the frozen ones: give those that train.")
        wrong = [name for name in given if name in frozen]
        require(not wrong, f"--freeze {','.join(freeze)}: {(wrong or [''])[0]} should not train; STAGES tells how its name begins.")
        lost = [name for name in expected if name not in given]
        require(not lost, f"--freeze {','.join(freeze) or 'nothing'}: {(lost or [''])[0]} should train.")
        require(given == expected, "the right names, but in another order or twice.")


@exercise
def averaged(attempt: Callable[..., Any]) -> None:
    """`attempt(average, weights, n, decay)`: the moving average after one more iteration; n of them came before."""
    start = torch.randn(6)
    for decay in (0.998, 0.6):
        mine, expected = start.clone(), [start.clone()]
        for n in range(1, 30):
            weights = start + torch.randn(6)
            before = expected[0].clone()
            expected[0] = expected[0].lerp(weights, 1 - kept_share(decay, n))
            mine = require_tensor(attempt(mine.clone(), weights.clone(), n, decay), (6,), "the average")
            share = min(decay, (1 + n) / (10 + n))
            exchanged = abs(share - 0.5) > 0.01 and close(mine, share * weights + (1 - share) * before)
            require(not exchanged, "the two shares are exchanged: the average keeps d of itself.")
            slow = decay * before + (1 - decay) * weights
            require(share == decay or not close(mine, slow), "early on the average should follow faster: d = (1 + n) / (10 + n).")
            fast = (9 * weights + (1 + n) * before) / (10 + n)
            too_fast = share == decay and close(mine, fast) and not close(mine, slow)
            require(not too_fast, "d must never be more than the decay: take the smaller of the two.")
            require(close(mine, expected[0]), f"the value is not right in iteration {n}, with a decay of {decay}.")


# --- pictures ---------------------------------------------------------------------------------------------------------------


def learning_rates() -> Image.Image:
    """The factor of the learning rate over a step: the published drop, the drop of the mask step, the cosine of `tiny`."""
    progress = np.linspace(0, 1, 401)
    published, tiny = TrainOptions(preset="r50").filled(), TrainOptions(preset="tiny").filled()
    figure = new_figure(8.3, 2.8)
    axes = figure.subplots()
    lines = (("published, boxes: drop at 2/3", published, 2 / 3), ("published, masks: drop at 15/25", published, 15 / 25))
    for style, (name, options, drop) in zip(("-", "--", "-"), (*lines, ("tiny: warm-up, then a cosine", tiny, 0.0)), strict=True):
        axes.plot(progress, [schedule(options, p, drop) for p in progress], style, label=name)
    axes.set(xlabel="how far the step is, 0 to 1", ylabel="factor of the learning rate", ylim=(0, 1.05))
    axes.legend(fontsize=9)
    return picture_of(figure)


def loss_columns(run: Path, names: Sequence[str]) -> Image.Image:
    """Some columns of a run's losses.csv over its iterations, one small chart each."""
    rows = read_rows(run / "losses.csv")
    figure = new_figure(8.3, 2.2)
    for axes, name in zip(figure.subplots(1, len(names)), names, strict=True):
        axes.plot([int(row["iteration"]) for row in rows], [float(row[name]) for row in rows], marker="o", markersize=3)
        axes.set(xlabel="iteration", ylim=(0, None))
        titled(axes, name)
    return picture_of(figure)


def boxes_then_masks(found: Trace, truth: Panoptic) -> Image.Image:
    """Three looks at one image: the boxes that were found, the segmentation they became, the truth."""
    figure = new_figure(8.3, 2.9)
    left, middle, right = figure.subplots(1, 3)
    boxes_on(left, found)
    titled(left, "1. are the boxes right?")
    for axes, panoptic, title in ((middle, found.panoptic, "2. and the masks?"), (right, truth, "truth")):
        plain(axes, overlay(*for_display(found.image, panoptic), found.model.categories))
        titled(axes, title)
    return picture_of(figure)
