"""One image's way through a model, kept stage by stage, and the plain means of drawing what came out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert

from minidetr.data.batch import Batch
from minidetr.data.images import normalise, to_tensor
from minidetr.model import Detections, PanopticDETR
from minidetr.model.merge import kept_queries
from minidetr.panoptic import Panoptic
from minidetr.plot import color_of
from minidetr.scenes.dataset import HELD_OUT_SEED
from minidetr.scenes.render import render_scene

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

    def __repr__(self) -> str:
        return "\n".join(f"{name:15} {shape:14} {meaning}" for name, shape, meaning in self.table())

    def _repr_markdown_(self) -> str:
        rows = [f"| `{name}` | {shape} | {meaning} |" for name, shape, meaning in self.table()]
        return "\n".join(["| field | shape | what it is |", "|---|---|---|", *rows])

    def table(self) -> list[tuple[str, str, str]]:
        """What the fields hold: name, shape, meaning."""

        def of(values: Any) -> str:
            return " x ".join(str(size) for size in values.shape)

        return [
            ("model", "", f"the model that looked, {len(self.seen.logits[0])} queries"),
            ("image", of(self.image), "the image, uint8"),
            ("batch", of(self.batch.images), "the same, normalised, as a batch of one"),
            ("seen", "", "what `model.detect(batch)` gives: features, memory, queries, logits, boxes"),
            ("query_index", of(self.query_index), "numbers of the K queries that are kept"),
            ("scores", of(self.scores), "the highest class probability of each"),
            ("labels", of(self.labels), f"the class of each: {', '.join(self.names())}"),
            ("heatmaps", of(self.heatmaps), "K x M x h x w, where the heads of each look"),
            ("masks", of(self.masks), "K x H/4 x W/4, mask logits of each"),
            (
                "panoptic",
                of(self.panoptic.segment_ids),
                f"`segment_ids`, a number per pixel, and {len(self.panoptic.segments)} `segments`",
            ),
        ]

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
    return trace(PanopticDETR.from_pretrained("tiny").eval(), render_scene(SCENE).image)


def principal_colors(features: Tensor) -> np.ndarray:
    """Feature maps d h w -> h w 3 in 0..1: their three strongest directions of variation (PCA) as red, green and blue."""
    d, h, w = features.shape
    cells = features.flatten(1).T  # h*w d
    cells = cells - cells.mean(0)
    _, _, directions = torch.linalg.svd(cells, full_matrices=False)
    parts = cells @ directions[:3].T  # h*w 3
    low, high = parts.quantile(0.02, dim=0), parts.quantile(0.98, dim=0)
    return ((parts - low) / (high - low)).clamp(0, 1).view(h, w, 3).numpy()


def plain(axes: Axes, image: np.ndarray | Tensor, **how: Any) -> None:
    """An image without ticks, grid or frame."""
    axes.imshow(np.asarray(image), **how)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def draw_box(axes: Axes, found: Trace, k: int, color: Any = None, width: float = 2.5) -> None:
    """The box of kept object `k`, clipped to the image; by default in the colour of its class."""
    if color is None:
        category = next(c for c in found.model.categories if c.id == int(found.labels[k]))
        color = tuple(value / 255 for value in color_of(category))
    draw_rectangle(axes, found.boxes()[k], found.image.shape[:2], color, linewidth=width)


def draw_rectangle(axes: Axes, box: Tensor, size: tuple[int, ...], color: Any, **how: Any) -> None:
    """A box (left, top, right, bottom in pixels), clipped to an image of `size` (height, width); `how` is for plot."""
    height, width = size
    left, top, right, bottom = box.minimum(torch.tensor([width, height, width, height]) - 1).clamp(min=0).tolist()
    axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=color, **how)
