"""Checks and pictures of lesson 08: how a mask is judged, and how the mask head learns alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import LogNorm
from PIL import Image
from torch import Tensor, nn

from minidetr.course import answer, close, exercise, require, require_tensor
from minidetr.course.figures import LIT, titled
from minidetr.course.schematic import Schematic
from minidetr.course.trace import plain
from minidetr.data.batch import Batch
from minidetr.model import PanopticDETR
from minidetr.plot import new_figure, picture_of
from minidetr.presets import TRAINABLE
from minidetr.scenes.painters import CATEGORIES
from minidetr.training import losses as package
from minidetr.training.options import STAGES

# --- exercises --------------------------------------------------------------------------------------------------------------


def some_masks(K: int = 5, h: int = 7, w: int = 11) -> tuple[Tensor, Tensor]:
    """Logits and shares in 0..1, K h w each; one mask is empty."""
    logits, shares = 2 * torch.randn(K, h, w), (3 * torch.rand(K, h, w) - 1).clamp(0, 1)
    shares[1] = 0
    return logits, shares


@exercise
def focal_loss(attempt: Callable[..., Any]) -> None:
    """`attempt(mask_logits, masks, alpha, gamma)`: K h w each, masks in 0..1 -> scalar, the mean over all masks and pixels."""
    logits, masks = some_masks()
    value = require_tensor(attempt(logits.clone(), masks.clone(), 0.3, 1.5), (), "the loss")
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    right = probability * masks + (1 - probability) * (1 - masks)
    alpha = 0.3 * masks + 0.7 * (1 - masks)
    expected = (alpha * (1 - right) ** 1.5 * entropy).mean()
    require(not close(value, (alpha * entropy).mean()), "this is weighted cross entropy: the factor (1 - p_t)^gamma is missing.")
    require(not close(value, ((1 - right) ** 1.5 * entropy).mean()), "alpha is missing: pixels weigh alpha where the truth is 1.")
    flat = (0.3 * (1 - right) ** 1.5 * entropy).mean()
    require(not close(value, flat), "alpha holds where the truth is 1; where it is 0, the weight is 1 - alpha.")
    require(not close(value, ((1 - alpha) * (1 - right) ** 1.5 * entropy).mean()), "alpha and 1 - alpha are exchanged.")
    require(not close(value, (alpha * right**1.5 * entropy).mean()), "pixels that are right should count less: it is 1 - p_t.")
    require(not close(value, expected * masks[0].numel()), "the pixels are added up: take their mean.")
    require(not close(value, expected * masks.numel()), "everything is added up: take the mean over masks and pixels.")
    require(not close(value, expected * len(masks)), "the masks are added up: take their mean.")
    fixed = (alpha * (1 - right) ** 2 * entropy).mean()
    require(not close(value, fixed), "gamma is not used as given: this is the loss with 2.")
    require(close(value, expected), "the value differs from the mean of alpha_t (1 - p_t)^gamma times the cross entropy.")
    sure = attempt(torch.tensor([[[200.0, -200.0]]]), torch.tensor([[[0.0, 1.0]]]), 0.25, 2.0)
    require(torch.as_tensor(sure).isfinite(), "it is infinite or NaN for a sure mistake: take log p from the logit (F.logsigmoid).")


@exercise
def dice_loss(attempt: Callable[..., Any]) -> None:
    """`attempt(mask_logits, masks)`: K h w each, masks in 0..1 -> scalar, the mean of 1 - (2 overlap + 1) / (areas + 1)."""
    logits, masks = some_masks()
    value = require_tensor(attempt(logits.clone(), masks.clone()), (), "the loss")
    probability = logits.sigmoid()
    overlap, areas = (probability * masks).sum((1, 2)), probability.sum((1, 2)) + masks.sum((1, 2))
    expected = (1 - (2 * overlap + 1) / (areas + 1)).mean()
    require(not close(value, 1 - expected), "this is the overlap itself, which is 1 for a perfect mask: the loss is 1 minus it.")
    require(not close(value, expected * len(masks)), "the masks are added up: take their mean.")
    whole = 1 - (2 * overlap.sum() + 1) / (areas.sum() + 1)
    require(not close(value, whole), "all masks are taken for one: sum over each mask's own pixels, then take the mean.")
    require(not close(value, (1 - (overlap + 1) / (areas + 1)).mean()), "the overlap counts twice, as it is in both areas.")
    bare = (1 - 2 * overlap / areas).mean()
    require(
        not close(value, bare), "the + 1 in numerator and denominator is missing: an empty mask would cost 1 however well done."
    )
    raw = (1 - (2 * (logits * masks).sum((1, 2)) + 1) / (logits.sum((1, 2)) + masks.sum((1, 2)) + 1)).mean()
    require(not close(value, raw), "these are logits: turn them into probabilities first.")
    squares = probability.square().sum((1, 2)) + masks.square().sum((1, 2))
    squared = (1 - (2 * overlap + 1) / (squares + 1)).mean()
    require(not close(value, squared), "these are V-Net's squares in the denominator: DETR adds up plain areas.")
    require(close(value, expected), "the value differs from the mean of 1 - (2 overlap + 1) / (sum of both areas + 1).")


@exercise
def jaccard_loss(attempt: Callable[..., Any]) -> None:
    """`attempt(mask_logits, masks)`: two tensors K H W -> scalar, the mean of 1 - (intersection + 1) / (union + 1)."""
    logits, masks = 2 * torch.randn(5, 7, 11), torch.rand(5, 7, 11) > 0.6
    masks[1] = False
    value = require_tensor(attempt(logits.clone(), masks.clone()), (), "the loss")
    one_by_one = []
    for some_logits, mask in zip(logits, masks, strict=True):
        probability = 1 / (1 + np.exp(-some_logits.double().numpy()))
        intersection = probability[mask.numpy()].sum()
        one_by_one.append(1 - (intersection + 1) / (probability.sum() + int(mask.sum()) - intersection + 1))
    expected = torch.tensor(one_by_one).mean()
    areas = logits.sigmoid().sum((1, 2)) + masks.sum((1, 2))
    twice = 1 - ((logits.sigmoid() * masks).sum((1, 2)) + 1) / (areas + 1)
    require(not close(value, twice.mean()), "the union is too large: pixels in both masks are counted twice, take them off once.")
    require(
        not close(value, package.dice_loss(logits, masks, 5)), "this is DICE: the union is the areas' sum less the intersection."
    )
    require(not close(value, expected * 5), "the masks are added up: take their mean.")
    sharp = torch.where(masks, 40.0, -40.0)  # a perfect answer
    require(float(attempt(sharp, masks)) < 1e-3, "a perfect mask should cost nothing: are the logits turned into probabilities?")
    require(close(value, expected), "the value is not right: judge every mask on its own, then take the mean over the masks.")


@exercise
def matched_masks(attempt: Callable[..., Any]) -> None:
    """`attempt(masks, image_index, segment_index, size)`: B of T H_i W_i bool, two lists of K, (H, W) -> K H W."""
    sizes, counts = [(9, 13), (12, 7), (5, 6)], [4, 2, 3]
    masks = [torch.rand(count, *size) > 0.4 for count, size in zip(counts, sizes, strict=True)]
    image_index, segment_index = [2, 0, 0, 1, 2], [1, 3, 0, 1, 2]
    result = require_tensor(attempt(masks, image_index, segment_index, (12, 13)), (5, 12, 13), "the matched masks").float()
    expected = torch.zeros(5, 12, 13)
    stretched = torch.zeros(5, 12, 13)
    for k, (image, segment) in enumerate(zip(image_index, segment_index, strict=True)):
        height, width = sizes[image]
        expected[k, :height, :width] = masks[image][segment].float()
        stretched[k] = F.interpolate(masks[image][segment].float()[None, None], size=(12, 13))[0, 0]
    concatenated = torch.cat([F.pad(m.float(), (0, 13 - m.shape[2], 0, 12 - m.shape[1])) for m in masks])
    require(not close(result, stretched), "the masks are stretched to the padded size: pad them, as the images were padded.")
    require(not close(result, concatenated[segment_index]), "segment_index counts within its image, not over all images.")
    ends = torch.stack([mask.sum() for mask in expected])
    if torch.equal(result.sum((1, 2)), ends):
        require(close(result, expected), "the right masks, in the wrong place: images are padded at the right and at the bottom.")
    require(close(result, expected), "these are other masks: result k is segment segment_index[k] of image image_index[k].")


@exercise
def train_masks_only(attempt: Callable[..., Any]) -> None:
    """`attempt(model)`: freezes all but the mask stage (requires_grad, mode), gives the list of parameters that train."""
    shape = replace(TRAINABLE["tiny"], dropout=0.1, encoder_layers=1, decoder_layers=1)
    model = PanopticDETR(shape, CATEGORIES).train()
    given = answer(attempt(model))
    require(isinstance(given, (list, tuple)), "give a list of the parameters that train, for the optimizer.")
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    right = {name for name, _ in model.named_parameters() if name.startswith(STAGES["mask-head"])}
    stage = {name.split(".")[0] for name in trains - right}
    require(not stage, f"{', '.join(sorted(stage))} would train as well: only the mask stage may.")
    missing = {name.split(".")[0] for name in right - trains}
    require(not missing, f"{', '.join(sorted(missing))} belongs to the mask stage, too, but is frozen.")
    wanted = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    require({id(p) for p in given} == wanted, "the list should hold exactly the parameters that train.")
    batch = Batch.pad([torch.randn(3, 64, 96)])
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    one, other = model.detect(batch), model.detect(batch)
    same = all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    require(same, "nothing has a gradient, and yet the running statistics of BatchNorm moved: put the model into eval mode.")
    require(torch.equal(one.logits, other.logits), "the frozen model gives two answers for one image: dropout is still on.")


# --- pictures ---------------------------------------------------------------------------------------------------------------


def focal_curves() -> Image.Image:
    """Loss of one pixel over the probability of its truth, for several gamma; and the same on a logarithmic scale."""
    truth = torch.linspace(0.01, 0.99, 99)  # probability that the model gives to what is true
    figure = new_figure(8.3, 3.1)
    for axes, scale in zip(figure.subplots(1, 2), ("linear", "log"), strict=True):
        for gamma, style in ((0, "-"), (1, "--"), (2, "-"), (5, ":")):
            label = "cross entropy (γ = 0)" if gamma == 0 else f"focal, γ = {gamma}"
            color = "#57606a" if gamma == 5 else None
            axes.plot(truth, -((1 - truth) ** gamma) * truth.log(), style, color=color, label=label)
        axes.set(xlabel="probability given to the truth", ylabel="loss", yscale=scale)
        titled(axes, "one pixel's loss" if scale == "linear" else "the same, logarithmic")
    figure.axes[1].set_ylim(1e-6, 10)
    figure.axes[0].legend(fontsize=9)
    return picture_of(figure)


def loss_maps(image: np.ndarray, probability: Tensor, truth: Tensor) -> Image.Image:
    """Where the loss of one mask comes from, cut out around the object: both losses on one logarithmic scale."""
    right = torch.where(truth, probability, 1 - probability).clamp(1e-6, 1 - 1e-6)
    entropy = -right.log()
    rows, columns = (torch.nonzero((truth | (probability > 0.3)).any(axis)).flatten() for axis in (1, 0))
    cut = (slice(max(0, int(rows[0]) - 3), int(rows[-1]) + 4), slice(max(0, int(columns[0]) - 3), int(columns[-1]) + 4))
    stride = image.shape[0] // truth.shape[0]
    photo = image[tuple(slice(stride * part.start, stride * part.stop) for part in cut)]
    figure = new_figure(8.3, 2.2)
    panels: list[tuple[str, Any]] = [("scene, cut out", photo), ("truth", truth[cut]), ("prediction", probability[cut])]
    panels += [("cross entropy", entropy[cut]), ("focal loss (γ = 2)", ((1 - right) ** 2 * entropy)[cut])]
    axes_row = figure.subplots(1, 5)
    for axes, (name, values) in zip(axes_row, panels, strict=True):
        logarithmic = {"norm": LogNorm(1e-5, 3, clip=True)} if "o" in name and "loss" in name or "entropy" in name else {}
        plain(axes, values, cmap="magma", **logarithmic)
        titled(axes, name, 9)
    bar = figure.colorbar(axes_row[-1].images[0], ax=axes_row[3:], location="bottom", shrink=0.8, aspect=30, pad=0.03)
    bar.set_label("loss of a pixel, logarithmic", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return picture_of(figure)


def disk(radius: float, size: int = 96, shift: float = 0.0) -> Tensor:
    """A drawn round object: size size bool, `shift` pixels right of the middle."""
    place = torch.arange(size) - size / 2 + 0.5
    return place[:, None] ** 2 + (place[None, :] - shift) ** 2 <= radius**2


def small_and_large() -> Image.Image:
    """What a missed disk costs, and a disk predicted one pixel beside its place, over its radius: DICE against mean focal loss."""
    radii = torch.arange(2, 41, 2)
    truth = torch.stack([disk(float(radius)) for radius in radii])
    beside = torch.stack([disk(float(radius), shift=1.0) for radius in radii])
    figure = new_figure(8.3, 3.1)
    left, right = figure.subplots(1, 2)
    for axes, answers, title in ((left, torch.zeros_like(truth), "the disk is missed"), (right, beside, "it is one pixel off")):
        logits = torch.where(answers, 4.0, -4.0)  # 98 per cent sure of every pixel
        for name, loss in (("DICE", package.dice_loss), ("focal, mean over pixels", package.focal_loss)):
            axes.plot(radii, [float(loss(x[None], t[None], 1)) for x, t in zip(logits, truth, strict=True)], label=name)
        axes.set(xlabel="radius of the disk in pixels, of 96 x 96", ylabel="loss", yscale="log", ylim=(5e-4, 2))
        titled(axes, title)
    left.legend(fontsize=9)
    return picture_of(figure)


def quarter_truth(image: np.ndarray, fine: Tensor, coarse: Tensor) -> Image.Image:
    """A segment's truth at the input's size and as shares at a quarter of it, cut out around the segment."""
    rows, columns = (torch.nonzero(fine.any(axis)).flatten() for axis in (1, 0))
    middle = (int(rows.float().mean()), int(columns.float().mean()))
    half = 32
    top, left = (max(0, min(place - half, length - 2 * half)) // 4 * 4 for place, length in zip(middle, fine.shape, strict=True))
    figure = new_figure(8.3, 2.9)
    window = (slice(top, top + 2 * half), slice(left, left + 2 * half))
    small = (slice(top // 4, (top + 2 * half) // 4), slice(left // 4, (left + 2 * half) // 4))
    panels: list[tuple[str, Any]] = [
        ("scene, cut out", image[window]),
        ("stride 1: yes or no", fine[window]),
        ("stride 4: a share", coarse[small]),
    ]
    for axes, (name, values) in zip(figure.subplots(1, 3), panels, strict=True):
        plain(axes, values, cmap="magma", vmin=0, vmax=1)
        titled(axes, name)
    return picture_of(figure)


def intersection_over_union(probability: Tensor, truth: Tensor) -> Tensor:
    """Masks K h w (probabilities, shares) -> K: IoU of what both put above one half."""
    found, true = probability > 0.5, truth > 0.5
    return (found & true).sum((1, 2)) / (found | true).sum((1, 2)).clamp(min=1)


def album(
    image: np.ndarray, boxes: Tensor, names: Sequence[str], columns: dict[str, Tensor], truth: Tensor, rows: Sequence[int]
) -> Image.Image:
    """The same objects' masks at several moments, with their IoU: a row per object, a column per moment (title -> K h w)."""
    figure = new_figure(8.3, 1.32 * len(rows) + 0.3)
    grid = figure.subplots(len(rows), 2 + len(columns), squeeze=False)
    values = {title: intersection_over_union(masks, truth) for title, masks in columns.items()}
    for line, k in zip(grid, rows, strict=True):
        plain(line[0], image)
        left, top, right, bottom = boxes[k].clamp(0, image.shape[0] - 1).tolist()
        line[0].plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=LIT, linewidth=2)
        line[0].set_ylabel(names[k], fontsize=9)
        for axes, (title, masks) in zip(line[1:], columns.items(), strict=False):
            plain(axes, masks[k], cmap="magma", vmin=0, vmax=1)
            axes.set_xlabel(f"IoU {values[title][k]:.2f}", fontsize=8.5, labelpad=2)
        plain(line[-1], truth[k], cmap="magma", vmin=0, vmax=1)
    for axes, title in zip(grid[0], ["box", *columns, "truth"], strict=True):
        titled(axes, title, 9)
    return picture_of(figure)


def progress(history: Sequence[dict[str, float]], quality: dict[int, Tensor], names: Sequence[str]) -> Image.Image:
    """Both losses over the iterations (thick: the mean of fifteen), and the IoU of some objects' masks, iteration -> K."""
    figure = new_figure(8.3, 2.7)
    *losses, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.35))
    for axes, name in zip(losses, ("focal", "dice"), strict=True):
        values = np.array([found[name] for found in history])
        window = min(15, len(values))
        axes.plot(values, linewidth=0.7, alpha=0.4)
        axes.plot(np.arange(window - 1, len(values)), np.convolve(values, np.ones(window) / window, "valid"), color=LIT)
        axes.set(xlabel="iteration", ylim=(0, None))
        titled(axes, f"{name} loss")
    for k, name in enumerate(names):
        right.plot(list(quality), [float(values[k]) for values in quality.values()], "o-", markersize=3.5, label=name)
    right.set(xlabel="iteration", ylim=(0, 1))
    right.legend(fontsize=8)
    titled(right, "IoU of masks, a held-out scene")
    for axes in figure.axes:
        axes.tick_params(labelsize=9)
    return picture_of(figure)


def schematic() -> Image.Image:
    """What is frozen in the mask step, what trains, and what is supervised by what; dashed: losses of the first step."""
    page = Schematic(8.3, 3.72)
    page.frame(0.12, 1.72, 6.0, 3.6, "step 1, then frozen: no gradient, eval mode")
    image = page.block(0.78, 2.3, "image", kind="data", width=0.9)
    backbone = page.block(2.0, 2.3, "backbone", width=1.05)
    encoder = page.block(3.25, 2.3, "encoder", width=1.0)
    decoder = page.block(4.45, 2.3, "decoder", width=1.0)
    heads = page.block(5.5, 2.3, "heads", width=0.75)
    page.block(7.2, 2.6, "class, L1, GIoU", "step 1, every layer", "loss", 1.75)
    cells = page.block(3.25, 2.98, "pixel_class, cells", "recipe of tiny", "loss", 1.6, 0.44)
    match = page.block(7.2, 1.95, "matching", "K of B x N pairs", "fixed", 1.75)
    heatmaps = page.block(4.45, 1.15, "heatmap attention", "K x M x h x w", width=1.6, lit=True)
    head = page.block(4.45, 0.38, "mask head", "K x H/4 x W/4", width=1.6, lit=True)
    loss = page.block(7.2, 0.38, "focal and DICE", "K masks with their truth", "loss", 1.85)
    for start, end in ((image, backbone), (backbone, encoder), (encoder, decoder), (decoder, heads)):
        page.arrow(start, end)
    page.arrow(encoder, cells, dashed=True)
    page.arrow((5.88, 2.4), (6.32, 2.6), dashed=True)
    page.arrow((5.88, 2.2), (6.32, 1.95))
    page.arrow(decoder, heatmaps)
    page.arrow((3.25, 2.05), (3.25, 1.15), (3.65, 1.15))
    page.arrow(heatmaps, head)
    page.arrow((2.0, 2.05), (2.0, 0.38), (3.65, 0.38))
    page.text(2.08, 0.52, "Res2 to Res5", ha="left")
    page.arrow(head, loss, lit=True)
    page.arrow(match, loss)
    page.arrow((7.0, 1.7), (7.0, 1.15), (5.25, 1.15))
    page.text(6.12, 1.27, "which K")
    page.text(0.2, 1.2, "orange: trains in step 2", ha="left", color=LIT, weight="bold")
    return page.picture()


# --- measuring --------------------------------------------------------------------------------------------------------------


def kept_for_backward(model: nn.Module, forward: Callable[[], Any]) -> float:
    """MiB of activations that a forward pass keeps for its gradient: every storage once, the model's own weights not counted."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Tensor] = {}  # the tensors are held until counted, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 2**20
