"""How good a model is on a data set: panoptic quality and box AP, computed in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torchvision.ops import box_convert

from minidetr.data.batch import Batch, same_size
from minidetr.data.coco import PanopticDataset
from minidetr.evaluate.detection import box_average_precision, with_boxes
from minidetr.evaluate.panoptic_quality import PanopticQuality, QualityCounts
from minidetr.model import PanopticDETR
from minidetr.model.merge import kept_queries, merge
from minidetr.panoptic import Panoptic


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
    categories = {category.id: category for category in model.categories}
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    found = Evaluation()
    for index in indices:
        picture, segment_ids, segments_info = data.read(index)
        [(group, originals)] = same_size([picture], model.preset.short_side, model.preset.long_side, 1)
        batch = Batch.pad(group).to(device)
        with autocast():
            seen = model.detect(batch)
            if masks and model.mask_head is not None:
                query_index, scores, labels = kept_queries(seen.logits[0], thresholds[0], categories)  # K each
                mask_logits = model.masks(seen, torch.zeros_like(query_index), query_index)  # K H/4 W/4
        image_id = data.image_ids[index]
        found.truth.append({"image_id": image_id, "segments_info": with_boxes(segment_ids, segments_info)})
        found.boxes += box_predictions(seen.logits[0], seen.boxes[0], image_id, picture.size, {c.id for c in model.categories})
        if not masks or model.mask_head is None:
            continue
        results: dict[int, Panoptic] = {}  # of each number of queries: the higher threshold keeps fewer of the same
        for t in thresholds:
            kept = scores > t
            if (count := int(kept.sum())) not in results:
                chosen = (mask_logits[kept], scores[kept], labels[kept])
                results[count] = merge(*chosen, categories, batch.size, batch.sizes[0], originals[0])
            entries = results[count].annotation(image_id, "")["segments_info"]
            counts = found.quality.setdefault(t, QualityCounts())
            counts.add_image(segment_ids, segments_info, results[count].segment_ids, entries)
    model.train(was_training)
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
