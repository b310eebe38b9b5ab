"""Evaluating a model in memory equals writing its predictions and evaluating the files; parts add up to the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from minidetr.data.coco import CocoPanoptic, write_coco_panoptic
from minidetr.evaluate import ClassQuality, QualityCounts, box_average_precision, panoptic_quality
from minidetr.evaluate.model import Evaluation, box_predictions, evaluate_model
from minidetr.model import PanopticDETR
from minidetr.panoptic import Panoptic, Segment, boxes_of_ids, encode_ids, write_json, write_png
from minidetr.presets import TRAINABLE
from minidetr.scenes.dataset import SceneData
from minidetr.scenes.painters import CATEGORIES

SIZE, COUNT = 64, 5


class NearlyRight(PanopticDETR):
    """A tiny model whose segmentation is the truth with a share of its columns lost, so that scores lie between 0 and 1."""

    def __init__(self, data: SceneData):
        super().__init__(replace(TRAINABLE["tiny"], short_side=SIZE), CATEGORIES)
        self.truth = [data.read(index) for index in range(len(data))]
        self.turn = 0

    def panoptic(self, seen, batch, originals, threshold):
        return [self.merged(size) for size in originals]

    def merged(self, size):
        _, ids, entries = self.truth[self.turn % len(self.truth)]
        kept = np.where(np.arange(size[1]) < size[1] * (0.4 + 0.1 * (self.turn % 5)), ids, 0)
        self.turn += 1
        boxes = boxes_of_ids(kept, np.array([e["id"] for e in entries]))
        things = {c.id for c in CATEGORIES if c.is_thing}
        rows = zip(entries, *boxes, strict=True)
        segments = [
            Segment(e["id"], e["category_id"], 0.9, e["category_id"] in things, int(area), tuple(box.tolist()))
            for e, area, box in rows
            if area
        ]
        return Panoptic(kept.astype(np.int32), segments)


@pytest.fixture
def nearly_right(data, monkeypatch) -> NearlyRight:
    """The model, whose segmentations stand in for what evaluation merges."""
    model = NearlyRight(data)
    monkeypatch.setattr("minidetr.evaluate.model.merge", lambda *given: model.merged(given[-1]))
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> SceneData:
    return SceneData(COUNT, 20, SIZE, cache=str(tmp_path_factory.getbasetemp() / "scenes"), workers=1)


@pytest.fixture(scope="module")
def written(data, tmp_path_factory) -> CocoPanoptic:
    folder = tmp_path_factory.mktemp("truth") / "data"
    write_coco_panoptic(data, folder)
    return CocoPanoptic.from_folder(folder)


def write_predictions(model: PanopticDETR, data: CocoPanoptic, folder) -> None:
    """Segment every image with `PanopticDETR.segment`'s own parts and write COCO's format."""
    annotations = []
    for index, image_id in enumerate(data.image_ids):
        [panoptic] = model.segment([data.read(index)[0]], threshold=0.0)
        write_png(folder / f"{index}.png", encode_ids(panoptic.segment_ids))
        annotations.append(panoptic.annotation(image_id, f"{index}.png"))
    write_json(folder / "predictions.json", {"annotations": annotations})


def test_files_give_the_same_quality(nearly_right, data, written, tmp_path):
    found = evaluate_model(nearly_right, written, range(COUNT)).panoptic_quality(written)
    write_predictions(NearlyRight(data), written, tmp_path)
    expected = panoptic_quality(written.json_file, written.panoptic_dir, tmp_path / "predictions.json", tmp_path)
    assert (found.all, found.things, found.stuff, found.per_class) == (
        expected.all,
        expected.things,
        expected.stuff,
        expected.per_class,
    )
    assert 0.05 < found.all.pq < 0.95


def test_a_real_model_gives_the_same_quality_as_its_files(written, tmp_path):
    """Untrained, at threshold 0: every query is kept, and some segments are right by chance or none is."""
    torch.manual_seed(1)
    model = PanopticDETR(replace(TRAINABLE["tiny"], short_side=SIZE), CATEGORIES).eval()
    with torch.no_grad():
        model.heads.classes.bias[-1] = -10  # never "no object"
    found = evaluate_model(model, written, range(COUNT), threshold=0.0).panoptic_quality(written)
    write_predictions(model, written, tmp_path)
    expected = panoptic_quality(written.json_file, written.panoptic_dir, tmp_path / "predictions.json", tmp_path)
    assert found.per_class == expected.per_class
    assert sum(count.fp for count in found.per_class.values()) > 0


def test_parts_add_up_to_the_whole(nearly_right, data):
    model = nearly_right
    whole = evaluate_model(model, data, range(COUNT))
    halves = []
    for indices in (range(0, 2), range(2, COUNT)):
        model.turn = indices.start
        halves.append(evaluate_model(model, data, indices))
    added = sum(halves, Evaluation())
    assert added.truth == whole.truth and added.boxes == whole.boxes
    one, other = added.panoptic_quality(data), whole.panoptic_quality(data)
    assert one.all.pq == pytest.approx(other.all.pq, abs=1e-12)
    for category_id, count in one.per_class.items():
        assert (count.tp, count.fp, count.fn) == tuple(getattr(other.per_class[category_id], k) for k in ("tp", "fp", "fn"))
    assert added.box_average_precision(data) == pytest.approx(whole.box_average_precision(data), nan_ok=True)


def test_evaluation_leaves_the_model_as_it_was(data):
    model = PanopticDETR(replace(TRAINABLE["tiny"], short_side=SIZE, dropout=0.5), CATEGORIES).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)
    one = evaluate_model(model, data, [0, 1])
    assert model.training and torch.equal(torch.rand(3), expected)  # BatchNorm, dropout and the random state are untouched
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert one.boxes == evaluate_model(model.eval(), data, [0, 1]).boxes and not model.training


def test_a_detection_model_has_its_boxes_counted(data):
    model = PanopticDETR(replace(TRAINABLE["tiny"], short_side=SIZE, mask_widths=None), CATEGORIES).eval()
    found = evaluate_model(model, data, range(2))
    assert not found.quality and np.isnan(found.panoptic_quality(data).all.pq)
    assert len(found.boxes) <= 2 * 20 and 0 <= found.box_average_precision(data)["AP"] <= 1


def test_predicted_boxes_are_in_pixels_of_the_photo():
    logits = torch.full((3, 6), -5.0)
    logits[0, 2], logits[1, 4] = 5.0, 5.0
    logits[2, 0] = 5.0  # a gap in the ids: no category has it
    boxes = torch.tensor([[0.5, 0.5, 0.5, 1.0], [0.25, 0.5, 0.5, 0.5], [0.5, 0.5, 1, 1]])
    rows = box_predictions(logits, boxes, 7, (40, 20), {2, 4})
    assert [(r["image_id"], r["category_id"], r["bbox"]) for r in rows] == [(7, 2, [10, 0, 20, 20]), (7, 4, [0, 5, 20, 10])]
    assert all(r["score"] > 0.99 for r in rows)
    truth = {"image_id": 7, "segments_info": [{"id": 1, "category_id": 2, "bbox": [10, 0, 20, 20], "area": 400, "iscrowd": 0}]}
    content = {"annotations": [truth], "categories": [c.to_json() for c in CATEGORIES]}
    assert box_average_precision(content, rows)["AP"] == pytest.approx(1)


# --- several thresholds at once


def test_several_thresholds_count_as_each_does_alone(written):
    """The model runs once, and every threshold has the quality that it has on its own."""
    torch.manual_seed(1)
    model = PanopticDETR(replace(TRAINABLE["tiny"], short_side=SIZE), CATEGORIES).eval()
    with torch.no_grad():
        model.heads.classes.weight *= 4  # scores of every height
    detect, runs = model.detect, []
    model.detect = lambda batch: (runs.append(1), detect(batch))[1]
    thresholds = (0.3, 0.5, 0.7, 0.9)
    together = evaluate_model(model, written, range(COUNT), thresholds)
    assert len(runs) == COUNT
    counts = set()
    for t in thresholds:
        alone = evaluate_model(model, written, range(COUNT), t)
        assert list(alone.quality) == [t]
        assert alone.panoptic_quality(written) == together.panoptic_quality(written, t)
        counts.add(sum(c.fp + c.tp for c in together.panoptic_quality(written, t).per_class.values()))
    assert len(counts) >= 3  # they keep other queries
    qualities = {t: together.panoptic_quality(written, t).all.pq for t in thresholds}
    assert together.panoptic_quality(written).all.pq == max(qualities.values())


def counted(tp: int) -> QualityCounts:
    counts = QualityCounts()
    counts.classes[CATEGORIES[0].id] = ClassQuality(tp=tp, fn=5 - tp, iou=0.9 * tp)
    return counts


def test_the_best_threshold_is_the_middle_of_the_best_ones(data):
    found = Evaluation({0.1: counted(1), 0.3: counted(4), 0.5: counted(4), 0.7: counted(4), 0.9: counted(2)})
    assert found.best_threshold(data) == 0.5
    assert Evaluation({0.1: counted(3), 0.3: counted(2)}).best_threshold(data) == 0.1
    assert Evaluation({0.2: counted(0), 0.8: counted(0)}).best_threshold(data) in (0.2, 0.8)
    parts = Evaluation({0.3: counted(1), 0.7: counted(0)}), Evaluation({0.3: counted(0), 0.7: counted(5)})
    assert sum(parts, Evaluation()).best_threshold(data) == 0.7
