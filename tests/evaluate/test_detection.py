"""Box AP: the ends of the scale, both kinds of ground truth, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from minidetr.errors import InputError
from minidetr.evaluate import box_average_precision, segment_box_average_precision

CATEGORIES = [{"id": 1, "name": "sky", "isthing": 0}, {"id": 2, "name": "car", "isthing": 1}]
BOXES = {7: [(1, [0, 0, 100, 100]), (2, [10, 10, 20, 20])], 8: [(2, [5, 5, 50, 40])]}  # large, small; medium


def panoptic_truth() -> dict:
    annotations = [
        {
            "image_id": image_id,
            "file_name": f"{image_id}.png",
            "segments_info": [
                {"id": 5 + k, "category_id": category_id, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                for k, (category_id, box) in enumerate(boxes)
            ],
        }
        for image_id, boxes in BOXES.items()
    ]
    return {"images": [{"id": i} for i in BOXES], "annotations": annotations, "categories": CATEGORIES}


def detection_truth() -> dict:
    truth = panoptic_truth()
    truth["annotations"] = [{"image_id": a["image_id"]} | s for a in truth["annotations"] for s in a["segments_info"]]
    return truth


def perfect() -> list[dict]:
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": box, "score": 0.9}
        for image_id, boxes in BOXES.items()
        for category_id, box in boxes
    ]


@pytest.mark.parametrize("truth", [panoptic_truth, detection_truth])
def test_perfect_predictions(truth, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    result = box_average_precision(truth(), perfect())
    assert list(result) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert list(result.values()) == pytest.approx([1.0] * 6)
    (tmp_path / "truth.json").write_text(json.dumps(truth()))
    assert box_average_precision(tmp_path / "truth.json", perfect()) == result
    assert capsys.readouterr() == ("", "")


def test_ids_of_images_may_be_numbers_and_texts_at_once() -> None:
    truth, predictions = panoptic_truth(), perfect()
    for entry in (*truth["annotations"], *predictions):
        entry["image_id"] = {7: 7, 8: "eight"}[entry["image_id"]]
    del truth["images"]
    assert box_average_precision(truth, predictions)["AP"] == pytest.approx(1)


def test_a_wrong_class_costs_the_class_it_is_missing_from() -> None:
    predictions = perfect()
    predictions[0]["category_id"] = 2  # the sky is called a car, with a lower score than the cars
    predictions[0]["score"] = 0.1
    result = box_average_precision(panoptic_truth(), predictions)
    assert result["AP"] == pytest.approx(0.5)  # sky 0, cars 1
    assert result["APl"] == 0.0


def test_a_loose_box_counts_at_low_thresholds_only() -> None:
    predictions = perfect()
    predictions[0]["bbox"] = [0, 0, 100, 62]  # IoU 0.62: a match at 0.50, 0.55 and 0.60 of ten thresholds
    result = box_average_precision(panoptic_truth(), predictions)
    assert result["AP50"] == pytest.approx(1.0)
    assert result["AP75"] == pytest.approx(0.5)
    assert result["AP"] == pytest.approx((0.3 + 1.0) / 2)


def test_no_predictions_is_zero_and_no_truth_is_nan() -> None:
    assert list(box_average_precision(panoptic_truth(), []).values()) == [0.0] * 6
    truth = panoptic_truth()
    for annotation in truth["annotations"]:
        annotation["segments_info"] = []
    for predictions in ([], perfect()):
        assert all(math.isnan(value) for value in box_average_precision(truth, predictions).values())
    assert all(math.isnan(v) for v in box_average_precision({"annotations": [], "categories": []}, []).values())


def test_crowds_neither_help_nor_hurt() -> None:
    truth, predictions = panoptic_truth(), perfect()
    truth["annotations"][1]["segments_info"][0]["iscrowd"] = 1
    assert box_average_precision(truth, predictions)["AP"] == pytest.approx(1.0)
    assert box_average_precision(truth, predictions[:2])["AP"] == pytest.approx(1.0)


def test_images_a_panoptic_truth_does_not_annotate_are_not_measured() -> None:
    extra = {"image_id": 9, "category_id": 2, "bbox": [0, 0, 9, 9], "score": 1.0}
    truth = panoptic_truth()
    truth["images"].append({"id": 9})
    assert box_average_precision(truth, [*perfect(), extra])["AP"] == pytest.approx(1.0)
    truth = detection_truth()
    truth["images"].append({"id": 9})
    assert box_average_precision(truth, [*perfect(), extra])["AP"] < 0.95


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"category_id": 3}, "prediction 1 has the category_id 3"),
        ({"image_id": 3}, "prediction 1 has the image_id 3"),
        ({"category_id": None}, "prediction 1 has no field 'category_id'"),
        ({"image_id": [7]}, "prediction 1 has no field 'image_id'"),
        ({"score": float("nan")}, "prediction 1 has the 'score' nan"),
        ({"score": None}, "prediction 1 has no field 'score'"),
        ({"bbox": [1, 2, 3]}, "prediction 1 has no field 'bbox' of four numbers"),
        ({"bbox": [1, 2, 3, float("inf")]}, "prediction 1 has a 'bbox' with a number that is not finite"),
    ],
)
def test_wrong_predictions(change: dict, sentence: str) -> None:
    predictions = perfect()
    predictions[0] |= change
    with pytest.raises(InputError, match=sentence.replace("'", ".")):
        box_average_precision(panoptic_truth(), predictions)


def test_wrong_truth(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="truth.json cannot be read"):
        box_average_precision(tmp_path / "truth.json", [])
    with pytest.raises(InputError, match="the ground truth has no field 'categories'"):
        box_average_precision({"annotations": []}, [])
    truth = panoptic_truth()
    del truth["annotations"][0]["segments_info"][0]["bbox"]
    with pytest.raises(InputError, match="an object of image 7 in the ground truth has no field 'bbox'"):
        box_average_precision(truth, [])
    truth = panoptic_truth()
    truth["annotations"][0]["segments_info"][0]["category_id"] = 6
    with pytest.raises(InputError, match="image 7 in the ground truth has the category_id 6"):
        box_average_precision(truth, [])


def test_boxes_of_a_panoptic_prediction_against_its_truth(tmp_path):
    """Two segments, the second in the wrong place in the prediction; images paired by name."""
    categories = [{"id": 1, "name": "sky", "isthing": 0}, {"id": 2, "name": "cone", "isthing": 1}]
    sky, cone = {"id": 1, "category_id": 1, "bbox": [0, 0, 90, 50]}, {"id": 2, "category_id": 2, "bbox": [10, 60, 30, 30]}

    def written(name, image_id, segments):
        content = {"images": [{"id": image_id, "file_name": "a.jpg"}], "categories": categories}
        content["annotations"] = [{"image_id": image_id, "file_name": "a.png", "segments_info": segments}]
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path / name

    truth = written("truth.json", 7, [sky, cone])
    assert segment_box_average_precision(truth, truth)["AP"] == pytest.approx(1)
    elsewhere = written("elsewhere.json", 3, [sky | {"score": 0.9}, cone | {"score": 0.8, "bbox": [60, 60, 30, 30]}])
    assert segment_box_average_precision(truth, elsewhere)["AP"] == pytest.approx(0.5)
