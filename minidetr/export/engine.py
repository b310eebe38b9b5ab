"""A folder of exported graphs as a model: photos in, panoptic segmentations out, whatever engine runs the graphs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import minidetr
from minidetr.data.batch import same_size
from minidetr.data.coco import check_empty
from minidetr.data.images import ImageSource
from minidetr.data.index import read_category
from minidetr.errors import InputError
from minidetr.export.graphs import Graph, kind_of
from minidetr.model import PanopticDETR
from minidetr.model.merge import kept_queries, merge
from minidetr.panoptic import Panoptic, checked_threshold, read_json
from minidetr.presets import Preset, from_plain

ABOUT = "model.json"  # what a folder of graphs says of itself


class Engine(ABC):
    """Runs the graphs of a folder. A subclass says how one is run: `run(name, inputs)` with arrays in and out, by their names."""

    def __init__(self, folder: Path):
        about = read_json(folder / ABOUT, "what `minidetr export` wrote of a model")
        try:
            self.preset = checked_preset(about["preset"])
            self.categories = [read_category(entry, f"categories[{i}]") for i, entry in enumerate(about["categories"])]
            self.kind, self.format, self.graphs = about["kind"], about["format"], dict(about["graphs"])
            self.parts = [name for name in self.graphs if name != "whole"]  # which is for others
            ids = [category.id for category in self.categories]
            of_masks: dict[str, set[str]] = {"heatmaps": {"heatmaps", "mask_head"}, "dot": {"dot_products"}, "boxes": set()}
            wanted = {"encode", "decode"} | of_masks[self.kind]
            if not ids or len(set(ids)) < len(ids) or max(ids) >= about["num_classes"]:
                raise ValueError("'categories' must have ids of their own, below 'num_classes'")
            if set(self.parts) != wanted or self.format not in ("onnx", "openvino"):
                raise ValueError("'graphs' or 'format' do not fit 'kind'")
            if not all(isinstance(graph[way], list) for graph in self.graphs.values() for way in ("inputs", "outputs")):
                raise TypeError("'graphs' need lists of 'inputs' and 'outputs'")
        except (InputError, KeyError, TypeError, AttributeError, ValueError) as error:
            why = str(error) if isinstance(error, (InputError, ValueError)) else repr(error)
            raise InputError(f"{folder / ABOUT} is damaged ({why}): export the model again") from error
        self.folder = folder

    @abstractmethod
    def run(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of the graph `name`, by their names."""

    def segment(self, images: Sequence[ImageSource], threshold: float | None = None, batch_size: int = 1) -> list[Panoptic]:
        """As `PanopticDETR.segment`, but of one image after the other: a `batch_size` above 1 raises InputError, too."""
        if batch_size != 1:
            raise InputError("an exported model takes one photo after the other: leave out the batch size (--batch-size)")
        threshold = checked_threshold(self.preset.threshold if threshold is None else threshold)
        sizes = self.preset.short_side, self.preset.long_side
        return [
            self.panoptic(resized, original, threshold)
            for group, originals in same_size(images, *sizes, batch_size)
            for resized, original in zip(group, originals, strict=True)
        ]

    @torch.inference_mode()
    def panoptic(self, image: Tensor, original: tuple[int, int], threshold: float) -> Panoptic:
        """The Panoptic of one image 3 H W of the model's size (uint8, or float in 0..1), of the photo's own size `original`."""
        if self.kind == "boxes":
            raise InputError(f"{self.folder} is a detection model without masks: export a panoptic one")
        pixels = (image if image.dtype == torch.uint8 else image * 255)[None].float()
        seen = self.run("encode", {"pixels": pixels.numpy()})
        found = self.run("decode", {name: seen[name] for name in self.graphs["decode"]["inputs"]})
        if not np.isfinite(found["logits"]).all():
            raise InputError(f"{type(self).__name__} computes no numbers of {self.folder} here: use another engine or float32")
        categories = {c.id: c for c in self.categories}
        query_index, scores, labels = kept_queries(torch.from_numpy(found["logits"]), threshold, categories)  # K each
        masks = torch.zeros(0, 1, 1)
        if len(query_index):  # no graph is made for K = 0: GroupNorm has nothing to average there
            masks = torch.from_numpy(self.masks(found["queries"][query_index.numpy()], seen))
        size = (pixels.shape[2], pixels.shape[3])
        return merge(masks, scores, labels, categories, size, size, original)

    def masks(self, queries: np.ndarray, seen: dict[str, np.ndarray]) -> np.ndarray:
        """queries K d of the asked objects (K > 0), what `encode` gave -> mask logits K H/4 W/4."""
        last, asked = "dot_products", {"queries": queries}
        if self.kind == "heatmaps":
            last, asked = "mask_head", self.run("heatmaps", asked | {"memory": seen["memory"]})
        inputs = asked | seen
        return self.run(last, {name: inputs[name] for name in self.graphs[last]["inputs"]})["masks"]


def checked_preset(content: dict) -> Preset:
    """The preset in a model.json, with every field that decides how photos are prepared. Raises ValueError or KeyError."""
    preset = from_plain(Preset, content)
    sizes = content["short_side"], content["long_side"]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"'short_side' and 'long_side' must be whole numbers above 0, not {sizes}")
    if type(content["threshold"]) not in (int, float) or not 0 <= content["threshold"] <= 1:
        raise ValueError(f"'threshold' must lie in 0..1, not {content['threshold']!r}")
    return preset


def about_model(model: PanopticDETR, graphs: dict[str, Graph], **more: Any) -> dict:
    """What an engine, a page or another program must know to use the graphs."""
    return {
        "minidetr": minidetr.__version__,
        "kind": kind_of(model),
        **more,
        "graphs": {name: {"inputs": list(g.inputs), "outputs": list(g.outputs)} for name, g in graphs.items()},
        "preset": asdict(model.preset),
        "num_classes": model.num_classes,
        "categories": [category.to_json() for category in model.categories],
    }


def empty(folder: str | Path) -> Path:
    """A folder to write into. Raises InputError where something is in it, or it is a file."""
    folder = Path(folder).resolve()
    check_empty(folder)
    return folder
