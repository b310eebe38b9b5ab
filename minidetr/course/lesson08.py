"""Checks and pictures of lesson 08: how a mask is judged, and how the mask head learns alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from minidetr.course import answer, close, exercise, require, require_tensor
from minidetr.course.figures import LIT, titled
from minidetr.course.trace import plain
from minidetr.data.batch import Batch
from minidetr.model import PanopticDETR
from minidetr.plot import new_figure, picture_of
from minidetr.presets import TRAINABLE
from minidetr.scenes.painters import CATEGORIES
from minidetr.training.losses import dice_loss, focal_loss
from minidetr.training.options import STAGES

# --- exercises --------------------------------------------------------------------------------------------------------------


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
    require(not close(value, dice_loss(logits, masks, 5)), "this is DICE: the union is the areas' sum less the intersection.")
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
    """Where the loss of one mask comes from: photo, truth, prediction, cross entropy and focal loss, each over its highest."""
    right = torch.where(truth, probability, 1 - probability).clamp(min=1e-6)
    entropy = -right.log()
    figure = new_figure(8.3, 2.1)
    panels: list[tuple[str, Any]] = [("scene", image), ("truth", truth), ("prediction", probability)]
    panels += [("cross entropy", entropy), ("focal loss", (1 - right) ** 2 * entropy)]
    for axes, (name, values) in zip(figure.subplots(1, 5), panels, strict=True):
        plain(axes, values, cmap="magma", vmin=0)
        titled(axes, name)
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
        for name, loss in (("DICE", dice_loss), ("focal, mean over pixels", focal_loss)):
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


def album(image: np.ndarray, boxes: Tensor, names: Sequence[str], columns: dict[str, Tensor], rows: Sequence[int]) -> Image.Image:
    """The same objects' masks at several moments: one row an object, one column a moment (title -> probabilities K h w)."""
    figure = new_figure(8.3, 1.33 * len(rows) + 0.3)
    grid = figure.subplots(len(rows), 1 + len(columns), squeeze=False)
    for line, k in zip(grid, rows, strict=True):
        plain(line[0], image)
        left, top, right, bottom = boxes[k].clamp(0, image.shape[0] - 1).tolist()
        line[0].plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=LIT, linewidth=2)
        line[0].set_ylabel(names[k], fontsize=9)
        for axes, masks in zip(line[1:], columns.values(), strict=True):
            plain(axes, masks[k], cmap="magma", vmin=0, vmax=1)
    for axes, title in zip(grid[0], ["box", *columns], strict=True):
        titled(axes, title, 9)
    return picture_of(figure)


def loss_curves(history: Sequence[dict[str, float]]) -> Image.Image:
    """Focal and DICE loss over the iterations, thin as they are, thick as a mean over fifteen of them."""
    figure = new_figure(8.3, 2.7)
    for axes, name in zip(figure.subplots(1, 2), ("focal", "dice"), strict=True):
        values = np.array([losses[name] for losses in history])
        window = min(15, len(values))
        axes.plot(values, linewidth=0.7, alpha=0.4)
        axes.plot(np.arange(window - 1, len(values)), np.convolve(values, np.ones(window) / window, "valid"), color=LIT)
        axes.set(xlabel="iteration", ylim=(0, None))
        titled(axes, f"{name} loss")
    return picture_of(figure)


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
