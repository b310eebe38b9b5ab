"""Checks and pictures of lesson 12: what every stage costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from minidetr.course import answer, exercise, require, require_tensor
from minidetr.course.cost import stage_costs
from minidetr.course.schematic import Schematic
from minidetr.model.heatmaps import HeatmapAttention
from minidetr.model.transformer import DecoderLayer
from minidetr.plot import new_figure, picture_of
from minidetr.presets import preset

# --- exercises --------------------------------------------------------------------------------------------------------------


def counted(module: nn.Module, *inputs: Any) -> int:
    """Multiply-adds of one call of a module, as PyTorch's own counter sees them."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2


class Largest(TorchDispatchMode):
    """Notes how many values the largest tensor has that any operation inside puts out."""

    values = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at its results; a view, which takes no memory, counts as nothing."""
        found = function(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else [found]:
            if isinstance(one, Tensor):
                self.values = max(self.values, one.untyped_storage().nbytes() // max(1, one.element_size()))
        return found


@exercise
def decoder_layer(attempt: Callable[..., Any]) -> None:
    """`attempt(N, cells, d, hidden)`: multiply-adds of one decoder layer: N queries of width d look at `cells` of the image."""
    for N, cells, d, hidden in ((7, 35, 48, 100), (50, 12, 32, 256), (100, 400, 256, 2048)):
        found = answer(attempt(N, cells, d, hidden))
        with torch.device("meta"):
            layer = DecoderLayer(d, 4, hidden, 0.0).eval()
            x, image = torch.empty(1, N, d), torch.empty(1, cells, d)
            right = counted(layer, x, x, image, image, None)
        case = f"N={N}, {cells} cells, d={d}, hidden={hidden}"
        among, pairs = 4 * N * d * d, 2 * N * N * d  # of the queries' self-attention
        outside, keys, seen = 2 * N * d * d, 2 * cells * d * d, 2 * N * cells * d  # of the attention to the image
        perceptron = 2 * N * d * hidden
        require(isinstance(found, Real), f"{case}: the cost should be a number.")
        require(found != 2 * right, f"{case}: those are FLOPs, two for each multiply-add.")
        require(found != right - perceptron, f"{case}: the feed-forward layer is missing: d -> hidden -> d for each query.")
        require(found != right - perceptron // 2, f"{case}: the feed-forward layer has two linear layers, d -> hidden -> d.")
        require(
            found != right - perceptron + 2 * cells * d * hidden,
            f"{case}: the feed-forward layer runs on the queries, not on cells.",
        )
        require(found != right - among - pairs, f"{case}: the queries attend to each other first: that self-attention is missing.")
        sentence = (
            "keys and values of the cross-attention are made of the cells: two linear layers for each cell, not for each query."
        )
        require(found not in (right - keys + outside, right - keys), f"{case}: {sentence}")
        sentence = "the cross-attention has N x cells pairs, each a product of length d, and once more for the values."
        require(
            found not in (right - seen + 2 * cells**2 * d, right - seen + pairs, right - seen // 2, right - seen),
            f"{case}: {sentence}",
        )
        require(found == right, f"{case} takes {right:,} multiply-adds, not {found:,}.")


@exercise
def takes_over(attempt: Any) -> None:
    """The side in pixels of a square image at which the pairs cost half of one of R50's encoder layers (d 256, hidden 2048)."""
    side = answer(attempt)
    require(isinstance(side, Real), "the side of the image should be a number of pixels.")
    require(not 2500 <= side <= 2620, "that is the number of cells n: a cell is 32 pixels wide, and n = (side / 32)^2.")
    require(not 45 <= side <= 55, "that is the side in cells: a cell is 32 pixels wide.")
    require(not 700 <= side <= 740, "that is where the pairs equal the four linear layers: the feed-forward layer counts, too.")
    sentence = "the pairs take 38 % there. Set them equal to all the rest of the layer, and divide by 2 n d."
    require(not 1250 <= side <= 1310, f"{sentence}")
    require(1595 <= side <= 1640, "set 2 n^2 d equal to 4 n d^2 + 2 n d hidden and solve for n; then side = 32 sqrt(n).")


@exercise
def heatmap_multiply_adds(attempt: Callable[..., Any]) -> None:
    """`attempt(K, B, d, M, cells)`: of the heatmap attention for K objects of B images with `cells` = h*w each."""
    for K, B, d, M, h, w in ((7, 2, 48, 6, 3, 5), (1, 3, 32, 4, 6, 7), (50, 1, 64, 8, 9, 4)):
        found = answer(attempt(K, B, d, M, h * w))
        module = HeatmapAttention(d, M)
        right = counted(module, torch.randn(K, d), torch.randn(B, d, h, w), torch.zeros(K, dtype=torch.long))
        query, key, scores = K * d * d, B * h * w * d * d, K * h * w * d
        case = f"K={K}, B={B}, d={d}, M={M}, {h * w} cells"
        sentence = "the heads share the width d (d/M channels each), so their number doesn't change the cost."
        require(found != query + key + M * scores, f"{case}: {sentence}")
        sentence = "the keys belong to the image: they are projected once for each image, not for each object."
        require(found != query + K * h * w * d * d + scores, f"{case}: {sentence}")
        require(
            found not in (scores, key + scores, query + scores), f"{case}: queries and keys pass a linear layer d -> d each first."
        )
        require(
            found not in (2 * right, query + key + 2 * scores),
            f"{case}: there are no values here, and one multiply-add is not two.",
        )
        require(found == right, f"{case} takes {right:,} multiply-adds, not {found:,}.")


@exercise
def winners(attempt: Callable[..., Any]) -> None:
    """`attempt(mask_logits K h w, size (H, W))`: H W, the number of each pixel's highest mask, a few planes H W in memory."""
    K, h, w, H, W = 9, 6, 10, 24, 40
    logits = torch.randn(K, h, w) - 4
    with Largest() as largest:
        found = attempt(logits.clone(), (H, W))
    found = require_tensor(found, (H, W), "the map").long()
    enlarged = F.interpolate(logits[None], (H, W), mode="bilinear")[0]
    expected = enlarged.argmax(0)
    require(not torch.equal(found, enlarged.argmin(0)), "those are the lowest masks.")
    coarse = F.interpolate(logits.argmax(0)[None, None].float(), (H, W))[0, 0].long()
    nearest = F.interpolate(logits[None], (H, W))[0].argmax(0)
    for other in (coarse, nearest):
        require(not torch.equal(found, other), "the edges are blocks: enlarge each mask bilinearly, and compare after that.")
    corners = F.interpolate(logits[None], (H, W), mode="bilinear", align_corners=True)[0].argmax(0)
    require(not torch.equal(found, corners), "leave align_corners as it is, False.")
    after = torch.where(enlarged.amax(0) > 0, expected, 0)
    require(
        not torch.equal(found, after) or torch.equal(after, expected),
        "all these logits are below 0: begin with the first mask, not with 0.",
    )
    require((found == expected).float().mean() > 0.999, "each pixel should have the number of its highest mask.")
    sentence = f"right, but a tensor of {largest.values / (H * W):.0f} planes H x W was made: enlarge one mask at a time."
    require(largest.values <= 3 * H * W, sentence)


@exercise
def saves_most(attempt: Any) -> None:
    """The step of the ladder, 2 to 5, that saves most time beyond its share of multiply-adds."""
    step = answer(attempt)
    wrong = {
        1: "step 1 is where the ladder begins.",
        3: "step 3 changes no count, and its time changes by no more than chance.",
        4: "step 4 saves a third of the multiply-adds and somewhat more of the time. Which step also stops writing copies?",
        5: "step 5 computes an eighth of the masks, and takes an eighth of the time. Which step also stops writing copies?",
    }
    require(step not in wrong, f"{wrong.get(step, '')}")
    require(step == 2, "one of the steps 2 to 5.")


# --- pictures ---------------------------------------------------------------------------------------------------------------


def schematic() -> Image.Image:
    """Where the multiply-adds of R50 at 640x640 go: what runs once per image, and what once per object."""
    one, none = ({c.stage: c.multiply_adds / 1e9 for c in stage_costs(preset("r50"), 640, 640, k)} for k in (1, 0))
    d, hidden, cells = 256, 2048, 400
    share = 2 * cells * d * hidden / (4 * cells * d**2 + 2 * cells**2 * d + 2 * cells * d * hidden)
    page = Schematic(8.3, 3.85)
    page.frame(0.08, 1.72, 8.22, 3.75, "once per image")
    page.frame(0.08, 0.42, 8.22, 1.6, "once per object, K times")
    image = page.block(0.72, 3.05, "image", "3x640x640", "data", 1.0)
    backbone = page.block(2.4, 3.05, "backbone", f"{one['backbone']:.2f} billion", width=1.5, lit=True)
    encoder = page.block(4.25, 3.05, "encoder, 6 layers", f"{one['encoder']:.2f} billion", width=1.5)
    decoder = page.block(6.05, 3.05, "decoder, 6 layers", f"{one['decoder']:.2f} billion", width=1.5)
    heads = page.block(7.55, 3.05, "heads", f"{one['classes and boxes']:.2f} billion", width=1.05)
    page.text(4.25, 3.45, f"{share:.0%} of it: feed-forward layers")
    for before, after in ((image, backbone), (backbone, encoder), (encoder, decoder), (decoder, heads)):
        page.arrow(before, after)
    of_image = page.block(2.4, 2.1, "laterals, first conv.", f"{one['mask head, each image']:.2f} billion", width=1.7)
    keys = page.block(4.25, 2.1, "heatmap keys", f"{none['heatmaps']:.2f} billion", width=1.5)
    page.arrow(backbone, of_image)
    page.arrow(encoder, keys)
    masks = page.block(0.72, 0.9, "mask", "160x160", "data", 1.0)
    head = page.block(2.4, 0.9, "mask head", f"{one['mask head, each object']:.2f} billion", width=1.7, lit=True)
    maps = page.block(4.25, 0.9, "heatmaps", f"{(one['heatmaps'] - none['heatmaps']) * 1e3:.1f} million", width=1.5)
    queries = page.block(6.05, 0.9, "K of N queries", "256 each", "data", 1.5)
    page.arrow(decoder, queries)
    for before, after in ((queries, maps), (maps, head), (head, masks), (keys, maps), (of_image, head)):
        page.arrow(before, after)
    page.key(0.2, 0.2, ("data", "learned"))
    page.text(8.1, 0.2, "multiply-adds, ResNet-50 at 640x640", ha="right")
    return page.picture()


def ladder(rows: Mapping[str, Sequence[float]], labels: Sequence[str]) -> Image.Image:
    """For each name two bars side by side, each panel with a scale of its own; `labels` name the units."""
    figure = new_figure(8.3, 0.4 * len(rows) + 1.0)
    panels = figure.subplots(1, len(labels), sharey=True)
    for number, (axes, label) in enumerate(zip(panels, labels, strict=True)):
        values = [row[number] for row in rows.values()]
        drawn = axes.barh(list(rows), values, color=("#0072b2", "#d55e00")[number % 2])
        axes.bar_label(drawn, [f" {value:,.1f}" if value < 100 else f" {value:,.0f}" for value in values], fontsize=9)
        axes.set(xlim=(0, 1.25 * max(values)), xlabel=label)
        axes.grid(axis="y", visible=False)
    panels[0].invert_yaxis()
    return picture_of(figure)
