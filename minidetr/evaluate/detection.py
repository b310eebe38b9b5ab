"""Average precision of boxes, as COCO measures it: pycocotools does the measuring."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Sequence
from math import isfinite, nan
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from minidetr.errors import InputError
from minidetr.evaluate.files import Labels, PanopticFile, compare, require
from minidetr.panoptic import boxes_of_ids, read_json


def box_average_precision(gt: dict | str | Path, predictions: Sequence[dict]) -> dict[str, float]:
    """Average precision of predicted boxes in 0..1, averaged over the classes that the truth has.

    `gt` is a COCO file or its content, either panoptic (one box a segment, stuff and things) or detection (one box an
    annotation); `iscrowd` boxes neither help nor hurt. `predictions` are dicts with `image_id`, `category_id`, `bbox` (x, y,
    width, height in pixels) and `score`; the 100 best of an image and class count.

    Returns AP (mean over IoU thresholds 0.50 to 0.95), AP50, AP75, and APs, APm, APl for objects of less than 32^2 pixels,
    32^2 to 96^2, and more. Each is nan if the truth has no object it could be measured on, 0 if nothing was found.
    Raises InputError for a field that is missing or an image or category that the truth does not have.
    """
    name = "the ground truth" if isinstance(gt, dict) else str(gt)
    return _average_precision(gt if isinstance(gt, dict) else read_json(gt), name, predictions)


def _average_precision(content: dict, name: str, predictions: Sequence[dict], places: Sequence[str] = ()) -> dict[str, float]:
    """`box_average_precision` of a file's content; for sentences, `name` is the file's and `places` are the predictions'."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    categories = require(content, "categories", list, name)
    category_ids = {require(category, "id", Integral, f"a category of {name}") for category in categories}
    boxes, evaluated, known = _truth_boxes(content, category_ids, name)
    detections = _detections(predictions, known, category_ids, name, places)
    # pycocotools sorts ids, but a number and a text have no order: it gets numbers of ours.
    ordered = sorted(known, key=lambda image_id: (isinstance(image_id, str), image_id))
    numbers = {image_id: number for number, image_id in enumerate(ordered, start=1)}
    for annotation in (*boxes, *detections):
        annotation["image_id"] = numbers[annotation["image_id"]]
    images = [{"id": numbers[image_id]} for image_id in evaluated]

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        indexes = []
        for annotations in (boxes, detections):
            index = COCO()
            index.dataset = {"images": images, "categories": categories, "annotations": annotations}
            index.createIndex()
            indexes.append(index)
        evaluation = COCOeval(*indexes, iouType="bbox")
        if not images or not categories:
            stats = [-1.0] * 6  # pycocotools can't count nothing
        else:
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            stats = evaluation.stats[:6]
    values = (float(value) if value >= 0 else nan for value in stats)  # pycocotools says -1 where there is nothing to measure
    return dict(zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), values, strict=True))


def segment_box_average_precision(
    gt_json: str | Path,
    pred_json: str | Path,
    gt_dir: str | Path | None = None,
    pred_dir: str | Path | None = None,
    void: Collection[int] = (),
) -> dict[str, float]:
    """Box AP of a panoptic prediction, from the "bbox" and "score" of its segments (1 where there is no score).

    Both are panoptic JSON files, their images, classes and `void` treated as `panoptic_quality` does. Boxes and areas that are not
    in the JSON are measured in the PNGs, in the folders `gt_dir` and `pred_dir`. Only segments that were kept count, so it is lower
    than that of all of a model's queries. Returns and raises as `box_average_precision`.
    """
    compared = compare(gt_json, gt_dir, pred_json, pred_dir, void)
    truth: list[dict] = []
    boxes: list[dict] = []
    places: list[str] = []
    for gt, predicted in compared.pairs:
        truth.append({"image_id": gt.image_id, "segments_info": _with_boxes(compared.truth, gt)})
        for segment in _with_boxes(compared.prediction, predicted) if predicted else ():
            boxes.append({"score": 1.0} | segment | {"image_id": gt.image_id})
            places.append(f"segment {segment['id']} in {predicted.where}" if predicted else "")
    return _average_precision({"annotations": truth, "categories": compared.entries}, str(gt_json), boxes, places)


def _with_boxes(file: PanopticFile, labels: Labels) -> list[dict]:
    """The segments of an image, measured in its PNG where the JSON has no "bbox" (or no "area", if there is a folder of PNGs)."""
    wanted = ("bbox",) if file.folder is None else ("bbox", "area")
    if all(segment.get(field) is not None for segment in labels.segments for field in wanted):
        return labels.segments
    return with_boxes(labels.read(file.png(labels)), labels.segments)


def with_boxes(ids: np.ndarray, segments: Sequence[dict]) -> list[dict]:
    """COCO's entries of an image with ids H W, a "bbox" and an "area" that they lack measured there."""
    areas, boxes = boxes_of_ids(ids, np.array([segment["id"] for segment in segments], np.int64))
    return [
        {"area": area, "bbox": box} | {key: value for key, value in segment.items() if value is not None}
        for segment, area, box in zip(segments, areas.tolist(), boxes.tolist(), strict=True)
    ]


def _truth_boxes(content: dict, category_ids: set, name: str) -> tuple[list[dict], set, set]:
    """The truth's boxes, the images they are measured on, and every image the file knows.

    A panoptic file may list images it has no annotation of: nobody knows what is in them, so they are not measured. In a
    detection file an image without an annotation is an image without an object.
    """
    annotations = require(content, "annotations", list, name)
    annotated = {require(annotation, "image_id", (Integral, str), f"an annotation of {name}") for annotation in annotations}
    listed = require(content, "images", list, name) if "images" in content else []
    known = annotated | {require(image, "id", (Integral, str), f"an image of {name}") for image in listed}
    panoptic = any("segments_info" in annotation for annotation in annotations)

    boxes: list[dict] = []
    for annotation in annotations:
        where = f"an object of image {annotation['image_id']} in {name}"
        for entry in require(annotation, "segments_info", list, where) if panoptic else [annotation]:
            x, y, width, height = _box(entry, where)
            category_id = require(entry, "category_id", Integral, where)
            if entry.get("iscrowd", 0) not in (0, 1):
                raise InputError(f"{where} has the 'iscrowd' {entry['iscrowd']!r}, but it must be 0 or 1")
            if not isinstance(entry.get("area", 0), Real):
                raise InputError(f"{where} has the 'area' {entry['area']!r}, but it must be a number")
            if category_id not in category_ids:
                raise InputError(f"{where} has the category_id {category_id}, which is not among its 'categories'; add it there")
            boxes.append(
                {
                    "id": len(boxes) + 1,  # pycocotools takes 0 for "not matched"
                    "image_id": annotation["image_id"],
                    "category_id": category_id,
                    "bbox": [x, y, width, height],
                    "area": entry.get("area", width * height),
                    "iscrowd": entry.get("iscrowd", 0),
                }
            )
    return boxes, annotated if panoptic else known, known


def _detections(predictions: Sequence[dict], images: set, categories: set, name: str, places: Sequence[str] = ()) -> list[dict]:
    """The predictions as pycocotools wants them: numbered from 1, with an area."""
    detections = []
    for number, prediction in enumerate(predictions, start=1):
        where = places[number - 1] if places else f"prediction {number}"
        x, y, width, height = _box(prediction, where)
        image_id = require(prediction, "image_id", (Integral, str), where)
        category_id = require(prediction, "category_id", Integral, where)
        score = float(require(prediction, "score", Real, where))
        for field, value, known in (("image_id", image_id, images), ("category_id", category_id, categories)):
            if value not in known:
                raise InputError(f"{where} has the {field} {value}, which {name} does not have; use the truth's ids")
        if not isfinite(score):
            raise InputError(f"{where} has the 'score' {score}; give a finite number, the probability of its class")
        detections.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": [x, y, width, height],
                "area": width * height,
                "iscrowd": 0,
                "score": score,
            }
        )
    return detections


def _box(entry: dict, where: str) -> tuple[float, float, float, float]:
    """`bbox` as four floats, or InputError."""
    try:
        x, y, width, height = (float(value) for value in entry["bbox"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where} has no field 'bbox' of four numbers (x, y, width, height in pixels); add it") from error
    if not all(map(isfinite, (x, y, width, height))):
        raise InputError(f"{where} has a 'bbox' with a number that is not finite; correct it")
    if width < 0 or height < 0:
        raise InputError(f"{where} has a 'bbox' of negative width or height; write x, y, width, height, not two corners")
    return x, y, width, height
