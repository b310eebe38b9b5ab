"""Lesson 15, why DETR learned slowly: its checks, what it measures, and its pictures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from minidetr.course import answer, close, exercise, require, require_tensor
from minidetr.course.figures import enlarged, titled
from minidetr.course.schematic import Schematic
from minidetr.course.trace import plain
from minidetr.data.images import denormalise
from minidetr.model import PanopticDETR
from minidetr.plot import new_figure, picture_of
from minidetr.training.matching import CostWeights, match_layers

# --- checks -----------------------------------------------------------------------------------------------------------------


@exercise
def flips(attempt: Callable[..., Any]) -> None:
    """`attempt(before, after)`, for each image the query of each of its T segments: the share of segments that changed theirs."""
    before = [torch.tensor([3, 1, 7, 0]), torch.tensor([2, 5]), torch.tensor([4])]
    after = [torch.tensor([3, 7, 1, 0]), torch.tensor([2, 5]), torch.tensor([9])]
    found = answer(attempt([x.clone() for x in before], [x.clone() for x in after]))
    require(isinstance(found, int | float | Tensor), "the share should be a number.")
    require(abs(float(found) - 3) > 1e-6, "that is how many changed: divide by how many segments there are.")
    require(abs(float(found) - 4 / 7) > 1e-6, "that is the share that stayed.")
    require(abs(float(found) - (1 / 2 + 0 + 1) / 3) > 1e-6, "each image counts the same here: let each segment count the same.")
    require(abs(float(found) - 1 / 7) > 1e-6, "two segments that exchange their queries have both another one: compare in order.")
    require(abs(float(found) - 3 / 7) < 1e-6, "3 of these 7 segments changed, so the share is 3/7.")
    require(abs(float(attempt(before, before))) < 1e-6, "where nothing changes the share is 0.")


@exercise
def strangers(attempt: Callable[..., Any]) -> None:
    """`attempt(groups, N)`: bool groups*N x groups*N, True where query i, of its row, may not look at query j, of its column."""
    for groups, N in ((3, 2), (2, 5), (1, 4)):
        found = require_tensor(attempt(groups, N), (groups * N, groups * N), "the mask")
        require(found.dtype == torch.bool, "the mask should be of True and False: compare, don't subtract.")
        same = torch.block_diag(*[torch.ones(N, N)] * groups).bool()
        interleaved = torch.arange(groups * N)[:, None] % groups != torch.arange(groups * N) % groups
        if groups > 1:
            require(not torch.equal(found, same), "True means: may not look. That is the other way round.")
            require(not torch.equal(found, interleaved), "the first N queries are the first group: divide by N, don't count round.")
            require(
                not torch.equal(found, ~torch.eye(groups * N).bool()), "each query sees but itself: its group should see it, too."
            )
            require(not torch.equal(found, ~same.roll(1, 0)), "the groups begin one query too late.")
        require(torch.equal(found, ~same), "True where the two are of different groups, and nowhere else.")


@exercise
def cells(attempt: Callable[..., Any]) -> None:
    """`attempt(weights ... n)`, attention weights that sum to 1: to how many cells each row attends, exp of its entropy."""
    n = 7
    weights = torch.randn(3, 4, n).mul(2).softmax(-1)
    weights[0, 0], weights[0, 1] = 1 / n, torch.eye(n)[2]  # all alike, and all on one
    weights[1, 2] = torch.tensor([0.5, 0.5, 0, 0, 0, 0, 0])
    found = answer(attempt(weights.clone()))
    require(isinstance(found, Tensor), "the result should be a tensor: a number for each row of weights.")
    require(
        found.shape == (3, 4), f"for weights 3x4x{n} the result should be 3x4, a number for each row: sum over the last axis alone."
    )
    require(
        not found.isnan().any(), "a weight of 0 gives NaN, since 0 log 0 is computed as 0 times minus infinity: it counts as 0."
    )
    entropy = -torch.xlogy(weights, weights).sum(-1)
    require(not close(found, entropy), "that is the entropy itself: take its exponential.")
    require(not close(found, (-entropy).exp()), "the sign is missing: the entropy is minus the sum.")
    require(not close(found, 1 / weights.square().sum(-1)), "that is 1 over the sum of squares, another count of the same kind.")
    require(not close(found, (weights > 0).sum(-1).float()), "a cell of little weight should count little, not as a whole one.")
    require(not close(found, 1 / weights.amax(-1)), "that is 1 over the largest weight: use all weights.")
    require(not close(found, (entropy / math.log(2)).exp()), "a logarithm of base 2 goes with a power of 2: take both natural.")
    require(close(found, entropy.exp()), "each number should be exp(-sum a log a) of its row.")


@exercise
def hidden(attempt: Callable[..., Any]) -> None:
    """`attempt(mask_logits B N H' W', size (h, w))`: bool B N h*w, True at the cells a query may not look at; a cell's logit is the
    mean of those it covers, and a mask without any cell hides nothing."""
    logits = torch.randn(2, 4, 9, 20)
    logits[0, 2] = -logits[0, 2].abs() - 0.1  # empty
    logits[1, 0], logits[1, 0, :, :8], logits[1, 0, :, 8:12] = -1, 0, 1  # two columns of cells at 0, which is inside
    found = require_tensor(attempt(logits.clone(), (3, 5)), (2, 4, 15), "the mask")
    require(found.dtype == torch.bool, "the mask should be of True and False.")
    outside = (logits.unflatten(3, (5, 4)).unflatten(2, (3, 3)).mean((3, 5)) < 0).flatten(2)
    empty = outside.all(2, keepdim=True)
    picked = (logits[:, :, ::3, ::4] < 0).flatten(2)
    require(not torch.equal(found, ~(outside & ~empty)), "True means: may not look. That is the other way round.")
    require(not torch.equal(found, ~outside), "True means: may not look. That is the other way round.")
    require(not torch.equal(found, outside), "the third mask is empty: its query sees nothing now, and attention would be NaN.")
    require(not torch.equal(found, picked & ~picked.all(2, keepdim=True)), "that is one pixel of each cell: take the mean of all.")
    require(not found[1, 0].view(3, 5)[:, :2].any(), "a logit of exactly 0 is inside: hide what is below 0.")
    require(found[0, [0, 1, 3]].any(), "an empty mask lets its own query look everywhere, not all of them.")
    require(not found[~outside].any(), "cells whose mean logit is 0 or more should not be hidden.")
    require(torch.equal(found, outside & ~empty), "hide where the mean logit is below 0, but nothing where all of a mask is.")


@exercise
def culprit(attempt: Any) -> None:
    """The number of the line that lets the model's queries see the noised truth."""
    line = answer(attempt)
    right = {
        1: "line 1 puts the noised truth behind the model's N queries: rows and columns from N on are its own.",
        2: "line 2 hides nothing yet, of as many queries as there are: a start, no leak.",
        4: "line 4 lets every query see itself, which nothing is learned from.",
    }
    require(line not in right, f"{right.get(line, '')} Which rows look, and which columns are looked at?")
    require(line == 3, "one of the lines 1 to 4.")


# --- what is measured -------------------------------------------------------------------------------------------------------


def cells_attended(model: PanopticDETR, images: Any) -> list[float]:
    """To how many cells of the encoded image a query attends in each decoder layer: exp of the entropy of its weights, as a mean
    over heads, queries and images. Weights that are all alike give the number of cells, all weight on one cell gives 1."""
    with torch.no_grad(), watched_attention(model) as weights:
        model.eval().detect(images)
    return [float((-torch.xlogy(w, w).sum(-1)).exp().mean()) for w in weights]


@contextmanager
def watched_attention(model: PanopticDETR) -> Iterator[list[Tensor]]:
    """The cross-attention weights B M N h*w of every decoder layer that runs inside."""
    weights: list[Tensor] = []
    layers: list[Any] = [layer.cross_attention for layer in model.decoder.layers]

    def watch(attention: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
        def told(*inputs: Any, **options: Any) -> Any:
            found = forward(*inputs, **options | {"need_weights": True, "average_attn_weights": False})
            weights.append(found[1])
            return found

        return told

    for attention in layers:
        attention.forward = watch(attention, attention.forward)
    try:
        yield weights
    finally:
        for attention in layers:
            del attention.forward  # the class has its own


def answering(model: PanopticDETR, images: Any, targets: Sequence[Any]) -> tuple[list[Tensor], float]:
    """Matched by classes and boxes: for each image the query of each of its T segments, and the mean IoU of the matched boxes."""
    with torch.no_grad():
        seen = model.eval().detect(images)
    [m] = match_layers([(seen.logits, seen.boxes)], targets, CostWeights())
    queries = []
    for image in range(len(targets)):
        here = m.image_index == image
        queries.append(m.query_index[here][m.target_index[here].argsort()])
    pairs = seen.boxes[m.image_index, m.query_index], m.select([t.boxes for t in targets])
    mine, truth = (box_convert(boxes, "cxcywh", "xyxy") for boxes in pairs)
    return queries, float(box_iou(mine, truth).diagonal().mean())


def flipped(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The share of segments whose query is another one than before, see `answering`."""
    return float((torch.cat(list(before)) != torch.cat(list(after))).float().mean())


def found_share(boxes: Sequence[Tensor], targets: Sequence[Any]) -> float:
    """Of all segments of the images, the share that some box (cx cy w h, K 4 for each image) overlaps by an IoU above 0.5."""
    hits = []
    for of_image, target in zip(boxes, targets, strict=True):
        mine, truth = (box_convert(x, "cxcywh", "xyxy") for x in (of_image, target.boxes))
        hits.append((box_iou(mine, truth) > 0.5).any(0))
    return float(torch.cat(hits).float().mean())


# --- pictures ---------------------------------------------------------------------------------------------------------------


def schematic() -> Image.Image:
    """A decoder layer in training, and where the four ideas of this lesson reach into it (framed in orange).
    As in the package, noised truth and further queries go through it in passes of their own."""
    page = Schematic(8.3, 4.5)
    page.frame(2.45, 1.45, 7.02, 4.2, "decoder layer")
    noised = page.block(1.05, 3.8, "noised truth", "denoising: own pass", "data", 1.6, lit=True)
    further = page.block(1.05, 3.1, "further queries", "groups: own pass", "data", 1.6, lit=True)
    queries = page.block(1.05, 2.4, "N queries", "", "data", 1.6)
    image = page.block(1.05, 1.05, "encoded image", "h w cells", "data", 1.6)
    among = page.block(3.25, 3.1, "self-attention", "", width=1.3)
    across = page.block(4.85, 3.1, "cross-attention", "", width=1.35)
    perceptron = page.block(6.35, 3.1, "feed-forward", "", width=1.15)
    page.arrow(noised, (3.25, 3.8), among)
    page.arrow(further, among)
    page.arrow(queries, (3.25, 2.4), among)
    page.arrow(among, across)
    page.arrow(across, perceptron)
    page.arrow(image, (4.6, 1.05), (4.6, across.y - across.height / 2))
    page.text(3.3, 0.93, "keys and values")
    page.arrow(image, queries, lit=True)
    page.text(1.12, 1.72, "starting cells", ha="left", color="#d55e00")
    masks = page.block(6.2, 1.95, "a mask per query", "masked attention", "data", 1.5, lit=True)
    page.arrow((6.35, perceptron.y - perceptron.height / 2), (6.35, masks.y + masks.height / 2))
    page.arrow(masks, (5.1, 1.95), (5.1, across.y - across.height / 2), lit=True)
    page.text(6.2, 1.58, "for the next layer", color="#d55e00")
    loss = page.block(7.68, 3.1, "matching,\nlosses", "", "loss", 1.0, 0.6)
    page.arrow(perceptron, loss)
    of_cells = page.block(3.3, 0.42, "losses on cells", "", "loss", 1.4, 0.4)
    page.arrow(image, (1.05, 0.42), of_cells)
    page.key(4.4, 0.25, ("data", "learned", "loss"))
    return page.picture()


def glances(picture: Tensor, rows: Mapping[str, Sequence[Tensor]]) -> Image.Image:
    """Where a query looks after each decoder layer, a row for each model: weights h w, as light on the picture 3 H W."""
    count = max(len(weights) for weights in rows.values())
    figure = new_figure(1.9 * count, 2.1 * len(rows))
    photo = denormalise(picture).permute(1, 2, 0)
    for axes_row, (name, weights) in zip(figure.subplots(len(rows), count, squeeze=False), rows.items(), strict=True):
        axes_row[0].set_ylabel(name, fontsize=9)
        for number, (axes, of_cells) in enumerate(zip(axes_row, weights, strict=True), 1):
            light = enlarged(of_cells / of_cells.max(), (photo.shape[0], photo.shape[1]))[..., None]
            plain(axes, (photo * (0.15 + 0.85 * light)).numpy())
            titled(axes, f"layer {number}", 9)
    return picture_of(figure)


def curves(runs: Mapping[str, Mapping[str, Sequence[float]]]) -> Image.Image:
    """For each run its values, epoch by epoch; a panel for each name of a value, and in "flips" what chance alone would do."""
    names = list(next(iter(runs.values())))
    figure = new_figure(8.3, 3.8)
    panels = figure.subplots(1, len(names))
    for axes, name in zip(panels, names, strict=True):
        for color, (run, values) in zip(COLORS, runs.items(), strict=False):
            axes.plot(range(1, len(values[name]) + 1), values[name], marker="o", markersize=3, label=run, color=color)
        axes.set(xlabel="epoch", ylabel=name)
        if name == "flips":
            axes.axhline(CHANCE, color="grey", linestyle="--", linewidth=1)
            axes.annotate("chance", (2, CHANCE), (0, 3), textcoords="offset points", color="grey", fontsize=8)
            axes.set_ylim(0, 1.05)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[-1].legend(fontsize=7.5, loc="lower right")
    return picture_of(figure)


@dataclass(frozen=True)
class Ancestor:
    """One of the family: what it measured on COCO after `epochs` of training. `arxiv` begins with year and month."""

    arxiv: str
    name: str
    epochs: int
    score: float
    measure: str  # "box AP" or "PQ"

    @property
    def year(self) -> float:
        """When it appeared."""
        return 2000 + int(self.arxiv[:2]) + (int(self.arxiv[2:4]) - 1) / 12


CHANCE = 1 - 1 / 20  # the share of segments that would have another of 20 queries if they were dealt out anew
COLORS = ("#1b1b1b", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#7f3fbf")

# ResNet-50 but for EoMT. From the model zoos and README files that the lesson links to.
FAMILY = [
    Ancestor("2005.12872", "DETR", 500, 42.0, "box AP"),
    Ancestor("2010.04159", "Deformable DETR, two-stage", 50, 46.9, "box AP"),
    Ancestor("2107.06278", "MaskFormer", 300, 46.5, "PQ"),
    Ancestor("2112.01527", "Mask2Former", 50, 51.9, "PQ"),
    Ancestor("2203.01305", "DN-DETR", 12, 43.4, "box AP"),
    Ancestor("2203.03605", "DINO", 12, 49.0, "box AP"),
    Ancestor("2503.19108", "EoMT (ViT-L, DINOv3)", 12, 58.9, "PQ"),
]


def family() -> Image.Image:
    """The family by year and epochs of training, each with what it reached."""
    figure = new_figure(8.3, 3.6)
    axes = figure.subplots()
    colors = {"box AP": "tab:blue", "PQ": "tab:orange"}
    counts: Counter[int] = Counter()
    for one in FAMILY:
        axes.scatter(one.year, one.epochs, color=colors[one.measure], s=40, zorder=3, label=one.measure)
        height = (5, -14, 16)[counts[one.epochs] % 3]  # of those with as many epochs, each name has a line of its own
        counts[one.epochs] += 1
        text = f"{one.name}: {one.measure} {one.score:.1f}"
        axes.annotate(text, (one.year, one.epochs), (7, height), textcoords="offset points", fontsize=8.5)
    axes.set(yscale="log", xlabel="year", ylabel="epochs on COCO", xlim=(2020, 2027.2), ylim=(8, 800))
    axes.set_yticks([12, 50, 300, 500], ["12", "50", "300", "500"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # one of each measure
    axes.legend(handles.values(), handles.keys(), loc="upper right")
    return picture_of(figure)
