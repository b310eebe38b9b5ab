"""Panoptic models of `transformers` as labellers: MaskFormer, Mask2Former, OneFormer, EoMT and whatever joins them there."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from minidetr.errors import InputError
from minidetr.panoptic import Category, Panoptic, Segment, boxes_of_ids
from minidetr.weights.published import coco_categories

PREFIX = "transformers:"
NEEDS = "pip install 'minidetr[transformers]' brings it"


class TransformersModel:
    """A panoptic model of `transformers` that segments photos as a PanopticDETR does, so that `label_stuff` takes it.

    `name_or_path` is a folder with the model and its processor, or a name on the Hugging Face hub. `categories` are those of its
    `id2label`, in COCO's own spelling where they are COCO's. Raises InputError without transformers, and for what is no such model.
    """

    def __init__(self, name_or_path: str, device: str | None = None):
        try:
            import transformers
        except ImportError:
            raise InputError(f"transformers is not installed: {NEEDS}") from None
        try:
            self.model = transformers.AutoModelForUniversalSegmentation.from_pretrained(name_or_path).eval()
            self.processor = transformers.AutoProcessor.from_pretrained(name_or_path)
        except Exception as error:  # of its files, of the hub, of its own checks: it raises anything
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            what = "its folder" if Path(name_or_path).exists() else "its name on the hub"
            raise InputError(f"{name_or_path} is no panoptic model of transformers ({why}): check {what}") from error
        images = getattr(self.processor, "image_processor", self.processor)
        self.post_process: Any = getattr(images, "post_process_panoptic_segmentation", None)
        if self.post_process is None:
            raise InputError(f"{name_or_path}: its processor makes no panoptic segmentation: give a panoptic model")
        self.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        coco = {plain(c.name): c for c in coco_categories(250)}
        labels = {int(i): str(label) for i, label in self.model.config.id2label.items()}
        stuff = set(getattr(self.model.config, "stuff_ids", []))  # as minidetr's own exports say
        known = {i: coco.get(plain(label), Category(i, label, i not in stuff)) for i, label in labels.items()}
        self.categories = [Category(i, known[i].name, known[i].is_thing) for i in sorted(known)]

    @torch.inference_mode()
    def segment(self, images: Sequence[Image.Image], threshold: float | None = None, batch_size: int = 1) -> list[Panoptic]:
        """A panoptic segmentation of each photo, one after the other, as the model's own processor makes it.

        `threshold` is the score of a segment to be kept, in 0..1 (None: the processor's own). Raises InputError for a batch.
        """
        if batch_size != 1:
            raise InputError("a model of transformers takes one photo after the other: leave out the batch size (--batch-size)")
        return [self.panoptic(image, threshold) for image in images]

    def panoptic(self, image: Image.Image, threshold: float | None) -> Panoptic:
        """The segmentation of one photo; pixels that the processor leaves to nobody are void."""
        asked: dict[str, Any] = {"images": image, "return_tensors": "pt"}
        if self.model.config.model_type == "oneformer":
            asked["task_inputs"] = ["panoptic"]  # its tasks are told apart by a text
        taken = inspect.signature(self.model.forward).parameters
        made = self.processor(**asked)
        inputs = {k: v.to(self.model.device) for k, v in made.items() if k in taken and isinstance(v, torch.Tensor)}
        stuff = {c.id for c in self.categories if not c.is_thing}
        settings = inspect.signature(self.post_process).parameters
        fuse = "label_ids_to_fuse" if "label_ids_to_fuse" in settings else "stuff_classes"
        options: dict[str, Any] = {fuse: stuff}
        if threshold is not None:
            options["threshold"] = threshold
        (found,) = self.post_process(self.model(**inputs), target_sizes=[(image.height, image.width)], **options)
        ids = found["segmentation"].cpu().numpy().astype(np.int32)
        return panoptic_of(ids, found["segments_info"], stuff)


def panoptic_of(ids: np.ndarray, entries: Sequence[dict[str, Any]], stuff: set[int]) -> Panoptic:
    """What a processor of `transformers` makes, ids H W and their entries, as a Panoptic; ids without an entry are void."""
    of_id = {int(entry["id"]): entry for entry in entries}
    old = [i for i in np.unique(ids).tolist() if i in of_id]  # some count from 0, and write -1 for nothing
    segment_ids = np.zeros(ids.shape, np.int32)
    for number, i in enumerate(old, start=1):
        segment_ids[ids == i] = number
    areas, boxes = boxes_of_ids(segment_ids, np.arange(1, len(old) + 1))
    segments = []
    for number, i in enumerate(old, start=1):
        label, (x, y, w, h) = int(of_id[i]["label_id"]), boxes[number - 1].tolist()
        score = float(of_id[i].get("score", 1.0))
        segments.append(Segment(number, label, score, label not in stuff, int(areas[number - 1]), (x, y, w, h)))
    return Panoptic(segment_ids, segments)


def plain(name: str) -> str:
    """A class's name without what spellings differ in: case, spaces, hyphens and underscores."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())
