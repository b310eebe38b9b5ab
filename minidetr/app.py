"""A page to try a model on: a photo in; its overlay and segments out; and, of the object that is clicked, where its query looked.

`minidetr app MODEL` serves it here. The same file is a Space of the Hugging Face hub, with MODEL in the variable MINIDETR_MODEL.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minidetr.data.batch import Batch, same_size
from minidetr.data.images import normalise, read_image
from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.model.merge import kept_queries, merge
from minidetr.panoptic import Panoptic, Segment
from minidetr.plot import labelled_overlay, new_figure, picture_of
from minidetr.predict import load_model
from minidetr.presets import PUBLISHED
from minidetr.weights.hub import is_hub_name
from minidetr.weights.load import shipped_weights

NEEDS = "pip install 'minidetr[app]' brings it"
COLUMNS = ("class", "kind", "score", "pixels", "share")
SPACE = """---
title: {title}
sdk: gradio
app_file: app.py
---
Panoptic segmentation by [minidetr](https://github.com/minidetr/minidetr). The model is {model}; MINIDETR_MODEL names another.
"""


@dataclass
class Look:
    """A photo H W and what a model saw in it: K kept queries, their classes, mask logits, and heatmaps (None: it makes none)."""

    photo: np.ndarray  # H W 3
    overlay: np.ndarray  # H' W' 3, with labels and a legend below; a small photo is shown enlarged
    panoptic: Panoptic
    labels: Tensor  # K
    masks: Tensor  # K H/4 W/4 of the size that the model works at
    heatmaps: Tensor | None  # K M h w

    def at(self, x: int, y: int) -> tuple[Segment, int] | None:
        """The segment at a pixel of the overlay, and which of the K queries made it there; None where there is none."""
        height, width = self.panoptic.segment_ids.shape
        x, y = (place * width // self.overlay.shape[1] for place in (x, y))  # of the photo, where it isn't the legend below
        if not (0 <= x < width and 0 <= y < height and self.panoptic.segment_ids[y, x]):
            return None
        segment = next(s for s in self.panoptic.segments if s.id == self.panoptic.segment_ids[y, x])
        h, w = self.masks.shape[1:]
        there = self.masks[:, y * h // height, x * w // width].clone()  # K
        there[self.labels != segment.category_id] = -torch.inf
        return segment, int(there.argmax())


@torch.inference_mode()
def look(model: PanopticDETR, image: str | Path | Image.Image, threshold: float) -> Look:
    """Segment a photo and keep what was seen on the way. Raises InputError for a photo that cannot be read."""
    photo = read_image(image)
    [(group, _)] = same_size([photo], model.preset.short_side, model.preset.long_side, 1)
    batch = Batch.pad([normalise(group[0])]).to(next(model.parameters()).device)
    seen, categories = model.detect(batch), {c.id: c for c in model.categories}
    query_index, scores, labels = kept_queries(seen.logits[0], threshold, categories)
    masks = model.masks(seen, torch.zeros_like(query_index), query_index)
    panoptic = merge(masks, scores, labels, categories, batch.size, batch.size, (photo.height, photo.width))
    has_heatmaps = model.preset.pixel_width is None and len(labels)
    heatmaps = model.heatmaps(seen, torch.zeros_like(query_index), query_index).cpu() if has_heatmaps else None
    overlay = labelled_overlay(np.asarray(photo), panoptic, model.categories)
    return Look(np.asarray(photo), overlay, panoptic, labels.cpu(), masks.cpu(), heatmaps)


def rows(found: Look, model: PanopticDETR) -> list[list[Any]]:
    """A row for each segment, the largest first."""
    names = {c.id: c.name for c in model.categories}
    pixels = found.panoptic.segment_ids.size
    return [
        [names[s.category_id], "thing" if s.is_thing else "stuff", round(s.score, 2), s.area, f"{100 * s.area / pixels:.1f} %"]
        for s in sorted(found.panoptic.segments, key=lambda s: -s.area)
    ]


def heads(found: Look, k: int, title: str) -> Image.Image:
    """The M heatmaps of one query over the photo, each with its share of the whole; or its mask, of a model without heatmaps."""
    maps = found.masks[k : k + 1].sigmoid() if found.heatmaps is None else found.heatmaps[k]
    shares = [f"{100 * float(head.sum() / maps.sum()):.0f} %" for head in maps]
    titles = ["its mask"] if found.heatmaps is None else [f"head {m}: {share}" for m, share in enumerate(shares)]
    height, width = found.photo.shape[:2]
    columns = min(4, len(maps))
    lines = -(-len(maps) // columns)
    figure = new_figure(8.3, 0.5 + lines * (0.25 + 8.3 / columns * height / width))
    figure.suptitle(title)
    for axes, head, name in zip(np.ravel(figure.subplots(lines, columns)), maps, titles, strict=False):
        axes.imshow(found.photo, extent=(0, width, height, 0))
        axes.imshow(head, extent=(0, width, height, 0), cmap="inferno", alpha=0.75, vmin=0, vmax=float(maps.max()))
        axes.set_title(name, fontsize=9)
        axes.axis("off")
    return picture_of(figure)


def build(name_or_path: str, device: str | None = None) -> Any:
    """The page, a gradio.Blocks. Raises InputError without gradio, and for a model that cannot be loaded."""
    try:
        import gradio
    except ImportError:
        raise InputError(f"gradio is not installed: {NEEDS}") from None
    model = load_model(name_or_path, device)
    if not model.preset.has_masks:
        raise InputError(f"{name_or_path} is a detection model without masks: give a panoptic one")

    def segment(photo: str | None, threshold: float) -> tuple[Any, ...]:
        """Photo and threshold -> overlay, table, what was seen, and no heatmaps yet."""
        if photo is None:
            raise gradio.Error("Give a photo first.")
        try:
            found = look(model, photo, threshold)
        except InputError as error:
            raise gradio.Error(str(error)) from None
        return found.overlay, rows(found, model), found, None

    def click(found: Look | None, event: gradio.SelectData) -> Image.Image | None:
        """A click into the overlay -> the heatmaps of the query that made the segment there."""
        hit = found.at(*event.index) if found is not None else None
        if found is None or hit is None:
            return None
        of_segment, k = hit
        name = next(c.name for c in model.categories if c.id == of_segment.category_id)
        return heads(found, k, f"Where the query of this {name} looked (score {of_segment.score:.2f})")

    click.__annotations__["event"] = gradio.SelectData  # it is told by its type what it is to give
    with gradio.Blocks(title=f"minidetr: {name_or_path}") as page:
        gradio.Markdown(f"# {name_or_path}\nA class and an object for every pixel. Click an object to see where its query looked.")
        seen = gradio.State()
        with gradio.Row():
            with gradio.Column():
                photo = gradio.Image(type="filepath", image_mode=None, label="photo")  # as it is: read_image knows all kinds
                threshold = gradio.Slider(0.05, 0.95, model.preset.threshold, step=0.05, label="score above which a query is kept")
                start = gradio.Button("Segment", variant="primary")
            overlay = gradio.Image(label="segments (click one)", interactive=False)
        table = gradio.Dataframe(headers=list(COLUMNS), label="segments", interactive=False)
        heatmaps = gradio.Image(label="heatmaps of the clicked object", interactive=False)
        start.click(segment, [photo, threshold], [overlay, table, seen, heatmaps], api_name="segment")
        overlay.select(click, [seen], [heatmaps])
    return page


def write_space(folder: Path, model: str) -> None:
    """Write what a Space of the hub needs: this file as app.py, requirements.txt and README.md.

    Raises InputError for a model that a Space cannot load: one that is neither shipped nor published nor on the hub.
    """
    if shipped_weights(model) is None and model not in PUBLISHED and not is_hub_name(model):
        raise InputError(f"{model} is no model that a Space can load: give tiny, a published one, or ORG/NAME of the hub")
    before, _, after = Path(__file__).read_text(encoding="utf-8").rpartition('"tiny"')  # at the file's end
    (folder / "app.py").write_text(f'{before}"{model}"{after}', encoding="utf-8")
    (folder / "requirements.txt").write_text("minidetr[app] @ git+https://github.com/minidetr/minidetr\n", encoding="utf-8")
    (folder / "README.md").write_text(SPACE.format(title=model.rsplit("/", 1)[-1], model=model), encoding="utf-8")


if __name__ == "__main__":
    build(os.environ.get("MINIDETR_MODEL", "tiny")).launch()
