"""How good a model is on a data set: panoptic quality and box AP, computed in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert

from minidetr.data.batch import Batch, same_size
from minidetr.data.coco import PanopticDataset
from minidetr.data.images import normalise
from minidetr.evaluate.detection import box_average_precision, with_boxes
from minidetr.evaluate.panoptic_quality import PanopticQuality, QualityCounts
from minidetr.model import PanopticDETR
from minidetr.model.merge import kept_queries, merge
from minidetr.panoptic import Category, Panoptic

THRESHOLDS = tuple(k / 20 for k in range(2, 20))  # 0.1, 0.15, ... 0.95: of the score above which a query is kept


@dataclass
class Evaluation:
    """What was counted on some images; those of several processes are put together with `+`. `quality` is by score threshold."""

    quality: dict[float, QualityCounts] = field(default_factory=dict)
    boxes: list[dict] = field(default_factory=list)  # predicted, as pycocotools takes them
    truth: list[dict] = field(default_factory=list)  # annotations of a panoptic JSON

    def __add__(self, other: Evaluation) -> Evaluation:
        none = QualityCounts()
        thresholds = self.quality | other.quality
        quality = {t: self.quality.get(t, none) + other.quality.get(t, none) for t in thresholds}
        return Evaluation(quality, self.boxes + other.boxes, self.truth + other.truth)

    def panoptic_quality(self, data: PanopticDataset, threshold: float | None = None) -> PanopticQuality:
        """PQ, SQ, RQ of the images counted, at one of the thresholds they were counted at (None: at the best)."""
        threshold = self.best_threshold(data) if threshold is None else threshold
        return self.quality.get(threshold, QualityCounts()).result(data.categories)

    def best_threshold(self, data: PanopticDataset) -> float:
        """The threshold with the highest PQ; of several, the one in the middle, which other images are least likely to upset."""
        scores = {t: np.nan_to_num(counts.result(data.categories).all.pq) for t, counts in sorted(self.quality.items())}
        best = [t for t, pq in scores.items() if pq == max(scores.values())]
        return best[len(best) // 2] if best else 0.5

    def box_average_precision(self, data: PanopticDataset) -> dict[str, float]:
        """AP, AP50, ... in 0..1 of the images counted, boxes around stuff and things alike."""
        content = {
            "images": [{"id": a["image_id"]} for a in self.truth],
            "annotations": self.truth,
            "categories": [c.to_json() for c in data.categories],
        }
        return box_average_precision(content, self.boxes)


@dataclass
class Seen:
    """One image of a data set and what a model sees in it: the K queries above the lowest threshold asked for, with their masks."""

    index: int
    picture: Image.Image
    segment_ids: np.ndarray  # H W, the truth
    segments_info: list[dict]
    logits: Tensor  # N C+1
    boxes: Tensor  # N 4
    scores: Tensor  # K
    labels: Tensor  # K
    mask_logits: Tensor | None  # K h w; None: no masks were asked for, or the model has none
    batch: Batch
    categories: dict[int, Category]  # the model's
    merged: dict[int, Panoptic] = field(default_factory=dict)  # of each number of queries that was asked for

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the photo."""
        return self.picture.height, self.picture.width

    def panoptic(self, threshold: float) -> Panoptic:
        """The segmentation at one threshold: a higher one keeps fewer of the same queries."""
        assert self.mask_logits is not None
        kept = self.scores > threshold
        if (count := int(kept.sum())) not in self.merged:
            chosen = (self.mask_logits[kept], self.scores[kept], self.labels[kept])
            self.merged[count] = merge(*chosen, self.categories, self.batch.size, self.batch.sizes[0], self.size)
        return self.merged[count]


def look_at(
    model: PanopticDETR,
    data: PanopticDataset,
    indices: Iterable[int],
    lowest: float,
    masks: bool = True,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
) -> Iterator[Seen]:
    """What the model sees in the images `indices` of `data` (untransformed), with the masks of the queries above `lowest`."""
    categories = {category.id: category for category in model.categories}
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        for index in indices:
            picture, segment_ids, segments_info = data.read(index)
            [(group, _)] = same_size([picture], model.preset.short_side, model.preset.long_side, 1)
            batch = Batch.pad([normalise(image) for image in group]).to(device)
            mask_logits = None
            with torch.inference_mode(), autocast():
                seen = model.detect(batch)
                query_index, scores, labels = kept_queries(seen.logits[0], lowest, categories)  # K each
                if masks and model.mask_head is not None:
                    mask_logits = model.masks(seen, torch.zeros_like(query_index), query_index)  # K H/4 W/4
            found = (seen.logits[0], seen.boxes[0], scores, labels, mask_logits)
            yield Seen(index, picture, segment_ids, segments_info, *found, batch, categories)
    finally:
        model.train(was_training)


@torch.inference_mode()
def evaluate_model(
    model: PanopticDETR,
    data: PanopticDataset,
    indices: Iterable[int],
    threshold: float | Sequence[float] | None = None,
    masks: bool = True,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
) -> Evaluation:
    """Segment the images `indices` of `data` (untransformed) and count. `threshold` as in `PanopticDETR.segment`, or several.

    At several thresholds the model runs once: the masks of the queries above the lowest are merged for each threshold anew. Without
    `masks`, or of a model without a mask head, boxes are counted only.
    """
    given = model.preset.threshold if threshold is None else threshold
    thresholds = sorted({float(t) for t in ([given] if isinstance(given, (int, float)) else given)})
    classes, found = {c.id for c in model.categories}, Evaluation()
    for seen in look_at(model, data, indices, thresholds[0], masks, autocast):
        image_id = data.image_ids[seen.index]
        found.truth.append({"image_id": image_id, "segments_info": with_boxes(seen.segment_ids, seen.segments_info)})
        found.boxes += box_predictions(seen.logits, seen.boxes, image_id, seen.picture.size, classes)
        for t in thresholds if seen.mask_logits is not None else ():
            predicted = seen.panoptic(t)
            entries = predicted.annotation(image_id, "")["segments_info"]
            counts = found.quality.setdefault(t, QualityCounts())
            counts.add_image(seen.segment_ids, seen.segments_info, predicted.segment_ids, entries)
    return found


def box_predictions(
    logits: torch.Tensor, boxes: torch.Tensor, image_id: int | str, size: tuple[int, int], categories: set[int]
) -> list[dict]:
    """Every query's best class but "no object" and its box in pixels: logits N C+1, boxes N 4, size (width, height)."""
    scores, labels = logits.float().softmax(-1)[:, :-1].max(-1)  # N
    width, height = size
    boxes = boxes.float()  # of a model in half precision, which cannot hold every number of pixels
    corner = box_convert(boxes, "cxcywh", "xywh") * boxes.new_tensor([width, height, width, height])  # N 4
    rows = zip(corner.tolist(), scores.tolist(), labels.tolist(), strict=True)
    return [{"image_id": image_id, "category_id": c, "bbox": b, "score": s} for b, s, c in rows if c in categories]
