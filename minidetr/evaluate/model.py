"""How good a model is on a data set: panoptic quality and box AP, computed in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torchvision.ops import box_convert

from minidetr.data.batch import Batch, same_size
from minidetr.data.coco import PanopticDataset
from minidetr.evaluate.detection import box_average_precision, with_boxes
from minidetr.evaluate.panoptic_quality import PanopticQuality, QualityCounts
from minidetr.model import PanopticDETR


@dataclass
class Evaluation:
    """What was counted on some images; those of several processes are put together with `+`."""

    quality: QualityCounts = field(default_factory=QualityCounts)
    boxes: list[dict] = field(default_factory=list)  # predicted, as pycocotools takes them
    truth: list[dict] = field(default_factory=list)  # annotations of a panoptic JSON

    def __add__(self, other: Evaluation) -> Evaluation:
        return Evaluation(self.quality + other.quality, self.boxes + other.boxes, self.truth + other.truth)

    def panoptic_quality(self, data: PanopticDataset) -> PanopticQuality:
        """PQ, SQ, RQ of the images counted."""
        return self.quality.result(data.categories)

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
    threshold: float | None = None,
    masks: bool = True,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
) -> Evaluation:
    """Segment the images `indices` of `data` (untransformed) and count. `threshold` as in `PanopticDETR.segment`.

    Without `masks`, or of a model without a mask head, boxes are counted only.
    """
    threshold = model.preset.threshold if threshold is None else threshold
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    found = Evaluation()
    for index in indices:
        picture, segment_ids, segments_info = data.read(index)
        [(group, originals)] = same_size([picture], model.preset.short_side, model.preset.long_side, 1)
        batch = Batch.pad(group).to(device)
        with autocast():
            seen = model.detect(batch)
            results = model.panoptic(seen, batch, originals, threshold) if masks and model.mask_head is not None else []
        image_id = data.image_ids[index]
        found.truth.append({"image_id": image_id, "segments_info": with_boxes(segment_ids, segments_info)})
        found.boxes += box_predictions(seen.logits[0], seen.boxes[0], image_id, picture.size, {c.id for c in model.categories})
        for result in results:
            found.quality.add_image(
                segment_ids, segments_info, result.segment_ids, result.annotation(image_id, "")["segments_info"]
            )
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
