"""Lesson 10, training: its schematic, checks of its exercises, its pictures, and six recorded runs of which five are sabotaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from minidetr.course import answer, close, exercise, require, require_tensor
from minidetr.course.figures import boxes_on, titled
from minidetr.course.schematic import Schematic
from minidetr.course.trace import Trace, plain
from minidetr.data.coco import write_coco_panoptic
from minidetr.panoptic import Panoptic
from minidetr.plot import for_display, new_figure, overlay, picture_of
from minidetr.scenes.dataset import VALIDATION_SEED, SceneData
from minidetr.training.loop import train
from minidetr.training.losses import LossWeights
from minidetr.training.options import TrainOptions
from minidetr.training.schedule import kept_share, schedule

# --- six runs, recorded ------------------------------------------------------------------------------------------------------

SABOTAGES: dict[str, dict[str, Any]] = {  # what is changed of the healthy run
    "healthy": {},
    "high": {"learning_rate": 6e-2},
    "low": {"learning_rate": 6e-6, "backbone_learning_rate": 1e-6},
    "renamed": {"data": "renamed"},
    "frozen": {"freeze": ("mask-head",)},
    "few": {"data": "few", "epochs": 200, "evaluate_every": 20.0, "augment": "none"},
}
LETTERS = {"A": "frozen", "B": "low", "C": "few", "D": "high", "E": "renamed"}


def record(names: Sequence[str] = tuple(SABOTAGES)) -> None:
    """Train the runs of `RECORDED` into runs/NAME, data beside it, all in the current folder; some minutes each on a core.

    From `tiny` with fresh heads and a fresh mask head: 200 iterations of 8 scenes of 64 pixels.
    """
    for folder, count in (("good", 160), ("few", 8)):
        write_coco_panoptic(SceneData(count, 0, 64), f"{folder}/train")
        write_coco_panoptic(SceneData(16, VALIDATION_SEED, 64), f"{folder}/val")
    shutil.copytree("good", "renamed")
    path = Path("renamed/val/panoptic.json")
    content = json.loads(path.read_text())
    ids = [category["id"] for category in content["categories"]]
    moved = dict(zip(ids, ids[1:] + ids[:1], strict=True))
    for segment in (segment for annotation in content["annotations"] for segment in annotation["segments_info"]):
        segment["category_id"] = moved[segment["category_id"]]
    path.write_text(json.dumps(content))
    common: dict[str, Any] = {
        "from_": "tiny",
        "reset": ("heads", "mask-head"),
        "size": 64,
        "batch_size": 8,
        "augment": "flip",
        "ema": 0.0,
    }
    common |= {"learning_rate": 6e-4, "backbone_learning_rate": 1e-4, "device": "cpu", "precision": "bfloat16", "workers": 0}
    common |= {"epochs": 10, "evaluate_every": 1.0, "quiet": True, "data": "good"}
    for name in names:
        train(output=f"runs/{name}", **common | SABOTAGES[name])


# What `record` left in losses.csv and scores.csv every 20 iterations (2026-11-29, one thread on a busy AMD EPYC, torch 2.14.1).
RECORDED: dict[str, dict[str, tuple[float, ...]]] = {
    "healthy": {
        "total": (27.0, 16.8, 14.5, 13.3, 12.6, 11.9, 11.5, 11.1, 11.0, 10.9),
        "class_error": (63.4, 56.0, 47.3, 41.9, 36.3, 34.8, 31.7, 30.6, 30.2, 29.8),
        "giou": (0.805, 0.576, 0.511, 0.483, 0.451, 0.423, 0.412, 0.398, 0.389, 0.389),
        "dice": (0.857, 0.789, 0.715, 0.666, 0.611, 0.587, 0.565, 0.550, 0.543, 0.539),
        "PQ": (13.2, 14.2, 16.0, 15.5, 17.4, 17.8, 17.8, 18.9, 19.3, 19.1),
        "box AP": (10.7, 18.5, 19.7, 21.2, 23.6, 24.1, 24.5, 25.6, 26.2, 26.2),
    },
    "high": {
        "total": (53.8, 56.3, 55.6, 55.8, 56.9, 56.1, 55.7, 57.5, 59.5, 58.9),
        "class_error": (89.5, 100.0, 100.0, 100.0, 100.0, 89.7, 71.3, 81.0, 90.1, 93.3),
        "giou": (1.532, 1.764, 1.765, 1.764, 1.584, 1.603, 1.604, 1.585, 1.575, 1.593),
        "dice": (0.874, 0.869, 0.868, 0.864, 0.867, 0.869, 0.868, 0.866, 0.866, 0.866),
        "PQ": (0.0, 0.0, 0.0, 0.0, 0.0, 0.3, 0.3, 0.3, 0.3, 0.3),
        "box AP": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    },
    "low": {
        "total": (33.1, 32.7, 32.4, 32.1, 31.9, 31.7, 31.6, 31.5, 31.5, 31.4),
        "class_error": (70.4, 68.9, 68.8, 67.6, 67.1, 66.3, 66.1, 65.9, 66.2, 66.0),
        "giou": (0.930, 0.923, 0.918, 0.913, 0.910, 0.907, 0.905, 0.905, 0.902, 0.902),
        "dice": (0.875, 0.872, 0.872, 0.872, 0.868, 0.867, 0.869, 0.866, 0.866, 0.869),
        "PQ": (0.0, 0.0, 0.0, 0.4, 0.8, 1.2, 1.2, 1.6, 1.9, 1.6),
        "box AP": (0.6, 0.6, 0.6, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7),
    },
    "renamed": {
        "total": (27.0, 16.8, 14.5, 13.3, 12.6, 11.9, 11.5, 11.1, 11.0, 10.9),
        "class_error": (63.4, 56.0, 47.3, 41.9, 36.3, 34.8, 31.7, 30.6, 30.2, 29.8),
        "giou": (0.805, 0.576, 0.511, 0.483, 0.451, 0.423, 0.412, 0.398, 0.389, 0.389),
        "dice": (0.857, 0.789, 0.715, 0.666, 0.611, 0.587, 0.565, 0.550, 0.543, 0.539),
        "PQ": (0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.5, 0.4, 0.4),
        "box AP": (0.3, 0.7, 0.5, 0.5, 0.3, 0.3, 0.3, 0.4, 0.4, 0.4),
    },
    "frozen": {
        "total": (27.2, 17.3, 15.2, 14.2, 13.5, 12.9, 12.6, 12.3, 12.1, 12.0),
        "class_error": (63.4, 55.7, 44.0, 40.3, 34.3, 33.4, 31.8, 31.0, 29.7, 29.0),
        "giou": (0.806, 0.583, 0.507, 0.473, 0.446, 0.424, 0.410, 0.396, 0.381, 0.382),
        "dice": (0.876, 0.878, 0.876, 0.877, 0.876, 0.872, 0.877, 0.875, 0.874, 0.874),
        "PQ": (0.0, 0.0, 0.3, 0.6, 0.0, 0.6, 0.3, 0.0, 0.3, 0.3),
        "box AP": (10.4, 19.0, 21.9, 23.3, 23.4, 24.8, 24.9, 24.8, 25.3, 25.5),
    },
    "few": {
        "total": (25.3, 11.3, 6.8, 5.1, 4.3, 3.9, 3.5, 3.2, 3.1, 3.0),
        "class_error": (43.4, 14.2, 3.3, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        "giou": (0.777, 0.397, 0.233, 0.147, 0.106, 0.091, 0.065, 0.046, 0.032, 0.023),
        "dice": (0.856, 0.731, 0.609, 0.507, 0.451, 0.415, 0.393, 0.371, 0.367, 0.360),
        "PQ": (14.1, 15.3, 15.6, 15.2, 15.2, 15.0, 15.1, 15.1, 15.0, 15.0),
        "box AP": (10.7, 18.6, 18.9, 19.3, 19.6, 18.8, 18.7, 18.8, 18.8, 18.7),
    },
}


# --- exercises --------------------------------------------------------------------------------------------------------------


class Toy(nn.Module):
    """An objective small enough to know its gradient: the mean of (w x - y)^2 over a batch."""

    def __init__(self, start: torch.Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(start.clone())

    def forward(self, batch: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        total = (batch @ self.w - targets).square().mean()
        return {"class": total / 2, "total": total}


@exercise
def one_iteration(attempt: Callable[..., Any]) -> None:
    """`attempt(objective, optimizer, batch, targets, clip, factor)`: a step against the gradient; the total comes back."""
    start, base = torch.randn(5), 0.5
    objective = Toy(start)
    optimizer = torch.optim.SGD([{"params": [objective.w], "lr": 7.0, "base": base}])
    w, left, rate = start.clone(), torch.zeros(5), base
    for number, (spread, factor, clip) in enumerate(((3.0, 0.5, 0.3), (3.0, 0.8, 0.3), (0.3, 1.0, 9.0))):
        batch, targets = torch.randn(4, 5) * spread, torch.randn(4) * spread
        gradient = 2 * batch.T @ (batch @ w - targets) / 4
        total, rate, at = float((batch @ w - targets).square().mean()), rate * factor, base * factor
        value = answer(attempt(objective, optimizer, batch, targets, clip, factor))
        require(not (isinstance(value, torch.Tensor) and value.requires_grad), "give a number: .item() lets the graph go.")
        now, short = objective.w.detach().clone(), clipped(gradient, clip)
        right = w - at * short
        mistakes = {
            "the weights did not move: backward, then the optimizer's step.": w,
            "the gradient was not clipped before the step.": w - at * gradient,
            "the step goes up the gradient, not down.": w + at * short,
            "the gradient of the batch before is still in it: zero it.": w - at * clipped(gradient + left, clip),
            "the rate is still that of the start: set every group's to base x factor.": w - 7.0 * short,
            "the rate is the base: it should be base x factor.": w - base * short,
            "the factor multiplies the rate of the step before: take every group's base times the factor.": w - rate * short,
            "a gradient shorter than clip was made longer: clipping only shortens.": w - at * gradient * clip / gradient.norm(),
        }
        for words, mistaken in mistakes.items():
            require(close(mistaken, right) or not close(now, mistaken), words)
        require(close(now, right), f"after step {number + 1} the weights are others than they should be.")
        require(abs(float(value) - total) < 1e-3 * max(1, total), f"the total is {total:.4g}, not {float(value):.4g}.")
        w, left = now, short


def clipped(gradient: torch.Tensor, length: float) -> torch.Tensor:
    """The gradient, shortened to `length` where it is longer."""
    return gradient * min(1.0, length / float(gradient.norm()))


@exercise
def learning_rate_factor(attempt: Callable[..., Any]) -> None:
    """`attempt(progress, kind, warmup, drop)`: the learning rate's factor at `progress` in 0..1 of a step."""
    for kind in ("drop", "cosine"):
        for warmup, drop in ((0.2, 0.7), (0.05, 0.4), (0.0, 0.6)):
            options = TrainOptions(preset="tiny", schedule=kind, warmup=warmup, drop=drop).filled()
            for progress in (1.0, 0.3 * warmup, 0.7 * warmup, 1.5 * warmup, 0.35, drop, 0.99):
                try:
                    value = float(answer(attempt(progress, kind, warmup, drop)))
                except ZeroDivisionError:
                    require(warmup, "without a warm-up (0, as in the recipe of r50) this divides by zero: the factor is 1 at once.")
                    raise
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


CAUSES = {"high": 1, "low": 2, "renamed": 3, "frozen": 4, "few": 5}
SEEN = {
    "frozen": "its dice is flat while class error and giou fall as in the healthy run, and box AP rises",
    "low": "everything moves in the right direction, hardly",
    "few": "its training losses go far below the healthy run's, its scores on val stay below them",
    "high": "its giou is higher than at the healthy run's start, and its class error jumps about",
    "renamed": "its training curves are exactly the healthy run's, and yet nothing scores on val, boxes neither",
}


@exercise
def diagnosis(attempt: Any) -> None:
    """Which cause each of the runs A to E has: {"A": a number, ...}."""
    found = answer(attempt)
    require(isinstance(found, dict), 'give a dictionary, {"A": the number of its cause, ...}.')
    lacking = [letter for letter in LETTERS if letter not in found]
    require(not lacking, f"there is no answer for {', '.join(lacking)}.")
    wrong = [letter for letter, name in LETTERS.items() if found[letter] != CAUSES[name]]
    letter = (wrong or ["A"])[0]
    require(not wrong, f"{len(wrong)} of 5 are wrong. Look at {letter} again: {SEEN[LETTERS[letter]]}.")


# --- pictures ---------------------------------------------------------------------------------------------------------------


def schematic() -> Image.Image:
    """One iteration of training, with what each of the two steps freezes."""
    page = Schematic(8.3, 3.75)
    top, middle, low = 2.85, 1.75, 0.6
    batch = page.block(0.8, top, "batch", "B 3 H W", kind="data", width=1.1)
    truth = page.block(0.8, middle, "truth", "T segments each", kind="data", width=1.25)
    detect = page.block(2.6, top, "detect", "N classes, boxes", width=1.45)
    match = page.block(4.35, top, "match", "K pairs", kind="fixed", width=1.1)
    masks = page.block(5.95, top, "masks", "K h' w'", width=1.1)
    losses = page.block(7.5, top, "losses", "a number each", kind="loss", width=1.3)
    page.arrow(batch, detect)
    page.arrow(detect, match)
    page.arrow(match, masks)
    page.arrow(masks, losses)
    page.arrow(detect, (2.6, 3.4), (7.5, 3.4), losses)
    page.text(5.0, 3.44, "classes and boxes of all N", va="bottom")
    page.arrow(truth, (4.35, middle), match)
    page.arrow((4.35, middle), (7.35, middle), (7.35, top - 0.25))
    gradient = page.block(7.5, low, "gradient", "backward", kind="fixed", width=1.1)
    clip = page.block(5.95, low, "clip", "its length", kind="fixed", width=1.0)
    step = page.block(4.35, low, "AdamW step", "rate: schedule", kind="fixed", width=1.35)
    weights = page.block(2.6, low, "weights", kind="data", width=1.1)
    average = page.block(0.8, low, "average", "to judge, keep", kind="data", width=1.2)
    page.arrow((7.65, top - 0.25), (7.65, low + 0.25), lit=True)
    page.arrow(gradient, clip, lit=True)
    page.arrow(clip, step, lit=True)
    page.arrow(step, weights, lit=True)
    page.arrow(weights, average)
    page.text(2.75, 1.2, "joint: all blue blocks train;  boxes: masks do not run;", ha="left")
    page.text(2.75, 1.02, "masks: all the rest is frozen (eval mode, no gradient)", ha="left")
    page.arrow((2.4, low + 0.25), (2.4, top - 0.25), dashed=True)
    page.key(0.25, 3.55, kinds=("data", "learned", "fixed", "loss"))
    return page.picture()


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


def shares(losses: dict[str, float], options: TrainOptions) -> dict[str, float]:
    """What the losses of one iteration add to the total, each times its weight, those of one kind and all layers together."""
    weights = LossWeights(focal=options.focal, dice=options.dice)
    of_kind = {"class": weights.class_, "l1": weights.l1, "giou": weights.giou, "focal": weights.focal, "dice": weights.dice}
    parts = dict.fromkeys(of_kind, 0.0)
    for name, value in losses.items():
        if (kind := name.partition("_")[0]) in parts and name != "class_error":
            parts[kind] += of_kind[kind] * value
    cells = {"cell_class": weights.class_, "cell_l1": weights.l1, "cell_giou": weights.giou}
    parts["pixel_class"] = options.pixel_class * losses["pixel_class"]
    parts["cells"] = options.cells * sum(weight * losses[name] for name, weight in cells.items())
    return parts


def columns_of(rows: Sequence[dict[str, tuple[float, ...]]], names: Sequence[str]) -> Image.Image:
    """Rows of small charts, one chart for each of four columns: a run's curves in colour over those of the healthy run in grey."""
    heads = ("class error, % (train)", "giou (train)", "dice (train)", "val: PQ, box AP (- -)")
    keys, tops = (("class_error",), ("giou",), ("dice",), ("PQ", "box AP")), (105, 1.85, 1, 32)
    figure = new_figure(8.3, 1.28 * len(rows) + 0.5)
    grid = figure.subplots(len(rows), 4, squeeze=False, sharex=True)
    iterations = 20 * np.arange(1, 11)
    for line, run, name in zip(grid, rows, names, strict=True):
        line[0].set_ylabel(name, rotation=0, labelpad=18, fontsize=12, weight="bold", va="center")
        for axes, columns, top in zip(line, keys, tops, strict=True):
            for column, style in zip(columns, ("-", "--"), strict=False):
                axes.plot(iterations, RECORDED["healthy"][column], style, color="#b0b7be", linewidth=3)
                axes.plot(iterations, run[column], style, color="#d55e00", linewidth=1.6)
            axes.set(ylim=(0, top), xlim=(0, 205))
            axes.tick_params(labelsize=7.5)
    for axes, head in zip(grid[0], heads, strict=True):
        titled(axes, head, 9)
    for axes in grid[-1]:
        axes.set_xlabel("iteration", fontsize=8.5)
    return picture_of(figure)


def healthy() -> Image.Image:
    """The curves of the recorded run that nobody sabotaged."""
    return columns_of([RECORDED["healthy"]], [""])


def sabotaged() -> Image.Image:
    """The curves of the five recorded runs A to E, the healthy one in grey behind each."""
    return columns_of([RECORDED[name] for name in LETTERS.values()], list(LETTERS))


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
