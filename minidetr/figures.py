"""The figures of the README and the lessons, every one drawn from tensors of the shipped model on a held-out scene.

`python -m minidetr.figures images` draws them all. Each function gives a PIL image, which a notebook shows as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert

from minidetr.data.batch import Batch
from minidetr.data.images import normalise, to_tensor
from minidetr.data.scene_data import HELD_OUT_SEED
from minidetr.data.scenes import render_scene
from minidetr.model import Detections, PanopticDETR
from minidetr.model.merge import kept_queries
from minidetr.panoptic import Panoptic
from minidetr.plot import color_of, new_figure, overlay, picture_of

LIT, INK, DIM = "#d55e00", "#1f2328", 0.28  # frame of the stage that is lit, text, opacity of the others
SCENE = HELD_OUT_SEED + 4  # the scene of the figures


@dataclass
class Trace:
    """One image's way through the model: what every stage made of it, for the K kept objects."""

    model: PanopticDETR
    image: np.ndarray  # H W 3 uint8
    batch: Batch
    seen: Detections
    query_index: Tensor  # K
    scores: Tensor  # K
    labels: Tensor  # K category ids
    heatmaps: Tensor  # K M h w
    masks: Tensor  # K H/4 W/4 logits
    panoptic: Panoptic

    def boxes(self) -> Tensor:
        """The boxes of the kept objects, K 4: left, top, right, bottom in pixels."""
        height, width = self.image.shape[:2]
        return box_convert(self.seen.boxes[0, self.query_index], "cxcywh", "xyxy") * torch.tensor([width, height, width, height])

    def names(self) -> list[str]:
        """The class names of the kept objects."""
        names = {c.id: c.name for c in self.model.categories}
        return [names[int(label)] for label in self.labels]

    def object(self) -> int:
        """The object that figures of one object show: the largest kept thing (the largest segment, where there is no thing)."""
        things = {c.id for c in self.model.categories if c.is_thing}
        areas = (self.masks > 0).flatten(1).sum(1)
        return max(range(len(self.labels)), key=lambda k: (int(self.labels[k]) in things, int(areas[k])))


@torch.inference_mode()
def trace(model: PanopticDETR, image: np.ndarray) -> Trace:
    """Take an image (H W 3 uint8) through every stage of a model in eval mode, at its own size, and keep all that comes out."""
    batch = Batch.pad([normalise(to_tensor(Image.fromarray(image)))])
    seen = model.detect(batch)
    query_index, scores, labels = kept_queries(seen.logits[0], model.preset.threshold, {c.id: c for c in model.categories})
    image_index = torch.zeros_like(query_index)
    heatmaps, masks = model.heatmaps(seen, image_index, query_index), model.masks(seen, image_index, query_index)
    panoptic = model.panoptic(seen, batch, [image.shape[:2]], model.preset.threshold)[0]
    return Trace(model, image, batch, seen, query_index, scores, labels, heatmaps, masks, panoptic)


@cache
def example() -> Trace:
    """The shipped model on the scene of the figures."""
    return trace(PanopticDETR.from_pretrained("tiny").eval(), render_scene(SCENE, 192, 192).image)


def principal_colors(features: Tensor) -> np.ndarray:
    """Feature maps d h w -> h w 3 in 0..1: their three strongest directions of variation (PCA) as red, green and blue."""
    d, h, w = features.shape
    cells = features.flatten(1).T  # h*w d
    cells = cells - cells.mean(0)
    _, _, directions = torch.linalg.svd(cells, full_matrices=False)
    parts = cells @ directions[:3].T  # h*w 3
    low, high = parts.quantile(0.02, dim=0), parts.quantile(0.98, dim=0)
    return ((parts - low) / (high - low)).clamp(0, 1).view(h, w, 3).numpy()


def plain(axes: Axes, image: np.ndarray | Tensor, **how: object) -> None:
    """An image without ticks, grid or frame."""
    axes.imshow(np.asarray(image), **how)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def draw_boxes(axes: Axes, found: Trace, width: float = 1.5) -> None:
    """The kept objects' boxes in the colours of their classes."""
    categories = {c.id: c for c in found.model.categories}
    for (left, top, right, bottom), label in zip(found.boxes().tolist(), found.labels.tolist(), strict=True):
        color = tuple(value / 255 for value in color_of(categories[label]))
        axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=color, linewidth=width)


# --- the pipeline -----------------------------------------------------------------------------------------------------------

# name of the stage: (title, shape at 640x640 with ResNet-50)
STAGES = {
    "image": ("image", "3 x 640 x 640"),
    "backbone": ("ResNet-50", "Res5: 2048 x 20 x 20"),
    "encoder": ("encoder", "256 x 20 x 20"),
    "decoder": ("decoder and heads", "100 classes and boxes"),
    "heatmaps": ("attention heatmaps", "K x 8 x 20 x 20"),
    "mask_head": ("FPN mask head", "K x 160 x 160"),
    "merge": ("pixel-wise argmax", "640 x 640 ids"),
    "quality": ("panoptic quality", "PQ = SQ x RQ"),
}
TRAINING = {"matching": (3, "in training: matching, set loss"), "mask_losses": (5, "in training: DICE and focal loss")}


def pipeline(*lit: str) -> Image.Image:
    """The whole way of an image, with the stages named `lit` highlighted: names of STAGES, "matching" or "mask_losses"."""
    unknown = set(lit) - {*STAGES, *TRAINING}
    if unknown:
        raise ValueError(f"there is no stage {', '.join(sorted(unknown))}: choose from {', '.join([*STAGES, *TRAINING])}")
    found = example()
    figure = new_figure(8.3, 5.5)
    figure.set_layout_engine("none")
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, 8.3), ylim=(0, 5.5))
    page.axis("off")
    width, left, bottoms = 1.55, 0.33, (3.35, 0.62)  # of the pictures, in inches
    for number, (name, (title, shape)) in enumerate(STAGES.items()):
        x, y = left + 2.03 * (number % 4), bottoms[number // 4]
        bright = 1.0 if not lit or name in lit else DIM
        if name in lit:
            frame = FancyBboxPatch((x - 0.08, y - 0.33), width + 0.16, width + 0.68, "round,pad=0,rounding_size=0.1")
            frame.set(facecolor="#fff4e8", edgecolor=LIT, linewidth=2.5)
            page.add_patch(frame)
        axes = figure.add_axes((x / 8.3, y / 5.5, width / 8.3, width / 5.5))
        thumbnail(axes, name, found)
        for artist in (*axes.images, *axes.lines, *axes.texts, *axes.patches):
            artist.set_alpha(bright)
        page.text(x + width / 2, y + width + 0.12, title, ha="center", fontsize=10.5, weight="bold", alpha=max(bright, 0.45))
        page.text(x + width / 2, y - 0.2, shape, ha="center", fontsize=9.5, alpha=max(bright, 0.45))
        if number % 4:
            arrow(page, (x - 0.43, y + width / 2), (x - 0.05, y + width / 2))
    down = left + 3 * 2.03 + width / 2  # from the decoder to the second row
    page.plot([down, down, 0.14, 0.14], [3.02, 2.79, 2.79, bottoms[1] + width / 2], color=INK, linewidth=1.4)
    arrow(page, (0.12, bottoms[1] + width / 2), (0.31, bottoms[1] + width / 2))
    for name, (column, text) in TRAINING.items():
        x, y = left + 2.03 * (column % 4) + width / 2, (5.33, 0.16)[column // 4]
        on = name in lit
        box = {"boxstyle": "round,pad=0.3", "facecolor": "#fff4e8" if on else "white", "edgecolor": LIT if on else "#afb8c1"}
        page.text(min(x, 6.95), y, text, ha="center", va="center", fontsize=9, bbox=box, weight="bold" if on else "normal")
    return picture_of(figure)


def thumbnail(axes: Axes, name: str, found: Trace) -> None:
    """What a stage of the pipeline made of the image."""
    k = found.object()
    categories = found.model.categories
    if name in ("image", "decoder"):
        plain(axes, found.image)
        if name == "decoder":
            draw_boxes(axes, found)
    elif name == "backbone":
        plain(axes, principal_colors(found.seen.features.res5[0]))
    elif name == "encoder":
        plain(axes, principal_colors(found.seen.memory[0]))
    elif name == "heatmaps":
        plain(axes, found.heatmaps[k].sum(0), cmap="magma")
    elif name == "mask_head":
        plain(axes, found.masks[k].sigmoid(), cmap="magma", vmin=0, vmax=1)
    elif name == "merge":
        plain(axes, overlay(found.image, found.panoptic, categories))
    else:
        truth = render_scene(SCENE, 192, 192)
        known = Panoptic.of_entries(truth.segment_ids, truth.segments_info, categories)
        plain(axes, overlay(found.image, known, categories))
        axes.text(96, 178, "against the truth", ha="center", fontsize=9, color="white", weight="bold", backgroundcolor="#1f2328aa")


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A thin arrow between two points of the page."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=INK, linewidth=1.4, shrinkA=0, shrinkB=0))
