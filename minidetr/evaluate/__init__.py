"""How good a prediction is: panoptic quality of masks, average precision of boxes. Needs no torch."""

from minidetr.evaluate.detection import box_average_precision, segment_box_average_precision
from minidetr.evaluate.panoptic_quality import ClassQuality, PanopticQuality, QualityCounts, QualityScores, panoptic_quality

__all__ = [
    "ClassQuality",
    "PanopticQuality",
    "QualityCounts",
    "QualityScores",
    "box_average_precision",
    "panoptic_quality",
    "segment_box_average_precision",
]
