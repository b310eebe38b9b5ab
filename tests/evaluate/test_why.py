"""What panoptic quality is lost to: every reason on an image made for it, and that the shares add up."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from minidetr.commands.main import main
from minidetr.data.coco import write_coco_panoptic
from minidetr.evaluate.model import THRESHOLDS, evaluate_model
from minidetr.evaluate.why import REASONS, Explanation, explain, on_the_grid
from minidetr.evaluate.why_page import write_why
from minidetr.model import PanopticDETR
from minidetr.panoptic import Category, Panoptic
from minidetr.scenes.dataset import SceneData
from minidetr.weights.load import save

CAR, SKY, TREE = Category(1, "car", True), Category(2, "sky", False), Category(3, "tree", False)
CLASSES = [CAR, SKY, TREE]


def picture(*rectangles: tuple[int, int, int, int, int], size: int = 40) -> tuple[np.ndarray, list[dict]]:
    """Ids and entries of rectangles (category id, left, top, right, bottom), later ones on top."""
    ids, entries = np.zeros((size, size), np.int32), []
    for number, (category_id, left, top, right, bottom) in enumerate(rectangles, start=1):
        ids[top:bottom, left:right] = number
        entries.append({"id": number, "category_id": category_id, "iscrowd": 0})
    return ids, [entry for entry in entries if (ids == entry["id"]).any()]


def reasons(truth, predicted, **more) -> dict[str, float]:
    explanation = Explanation(CLASSES)
    ids, entries = predicted
    explanation.add(0, *truth, Panoptic.of_entries(ids, entries, CLASSES), **more)
    return {f"{c} {r}": cost for (c, r), cost in explanation.cost.items() if cost}


WHOLE = (1, 0, 0, 20, 20)


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [
        ([WHOLE], [WHOLE], {}),
        ([WHOLE], [(1, 0, 0, 20, 16)], {"1 outline": pytest.approx(0.2)}),
        ([WHOLE], [(3, 0, 0, 20, 20)], {"1 class": 0.5, "3 extra class": 0.5}),
        ([WHOLE], [(1, 0, 0, 8, 20), (1, 12, 0, 20, 20)], {"1 split": 0.5, "1 extra part": 1.0}),
        ([(1, 0, 0, 9, 9), (1, 9, 0, 18, 9)], [(1, 0, 0, 18, 9)], {"1 merged": 1.0, "1 extra part": 0.5}),
        ([WHOLE], [(1, 0, 0, 20, 8)], {"1 half": 0.5, "1 extra part": 0.5}),
        ([WHOLE], [], {"1 void": 0.5}),
        ([WHOLE, (3, 0, 20, 40, 40)], [(3, 0, 0, 40, 40)], {"1 unseen": 0.5, "3 outline": pytest.approx(1 / 3)}),
        ([(2, 0, 0, 40, 40)], [(2, 0, 0, 40, 40), (1, 5, 5, 9, 9)], {"1 extra": 0.5, "2 outline": pytest.approx(0.01)}),
        ([(2, 0, 0, 40, 40)], [(1, 0, 0, 40, 40)], {"1 extra class": 0.5, "2 class": 0.5}),
    ],
)
def test_every_reason(truth, predicted, expected):
    assert reasons(picture(*truth), picture(*predicted)) == expected


def test_a_query_below_the_threshold_and_a_segment_too_small_for_the_grid():
    truth, nothing = picture(WHOLE), picture()
    good, other = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    good[:20, :15], other[:20, :9] = True, True
    assert reasons(truth, nothing, unused=lambda c: [other, good] if c == 1 else []) == {"1 threshold": 0.5}
    assert reasons(truth, nothing, unused=lambda c: [other] if c == 1 else [good]) == {"1 void": 0.5}
    assert reasons(truth, nothing, drawable=np.array([False])) == {"1 small": 0.5}


def test_what_is_lost_and_what_was_found_make_one():
    """On random rectangles, by class and in all; and nothing is lost to a reason that has no words."""
    random, explanation = np.random.default_rng(5), Explanation(CLASSES)
    for index in range(60):
        truth, predicted = (
            picture(
                *(
                    (int(c), int(x), int(y), int(x + w), int(y + h))
                    for c, x, y, w, h in zip(*random.integers((1, 0, 0, 4, 4), (4, 30, 30, 25, 25), (n, 5)).T, strict=True)
                )
            )
            for n in random.integers(0, 7, 2)
        )
        if index % 3:  # most of them nearly right
            predicted = (np.roll(truth[0], index % 4, axis=1), truth[1])
        explanation.add(index, *truth, Panoptic.of_entries(*predicted, CLASSES))
    quality, lost = explanation.quality, explanation.lost()
    for category in CLASSES:
        assert 0.05 < quality.per_class[category.id].pq < 0.95
        assert sum(lost[category.id].values()) == pytest.approx(1 - quality.per_class[category.id].pq)
    assert sum(explanation.lost_in_all().values()) == pytest.approx(1 - quality.all.pq)
    assert {reason for _, reason in explanation.cost} <= REASONS.keys() and len(explanation.cost) > 12
    assert [image.pq for image in explanation.worst] == sorted(image.pq for image in explanation.worst)
    assert len(explanation.worst) == 10
    for row in explanation.confusion().values():
        assert sum(row.values()) == pytest.approx(1)


def test_crowds_and_void_cost_nothing():
    ids, entries = picture((1, 0, 0, 20, 20), (1, 20, 0, 40, 20))
    entries[1]["iscrowd"] = 1
    predicted = picture((1, 0, 0, 20, 20), (1, 20, 0, 40, 20), (2, 0, 22, 40, 40))
    assert reasons((ids, entries), predicted) == {}


def test_the_truth_on_the_masks_grid():
    """A square of the cells' own size and place survives whole; a line a fifth of a cell wide does not at all."""
    ids, entries = picture((2, 0, 0, 80, 80), (1, 16, 16, 48, 48), (3, 60, 0, 61, 80), size=80)
    drawn = on_the_grid(ids, entries, CLASSES, (80, 80))
    kinds = {segment.category_id: segment.area for segment in drawn.segments}
    assert kinds.keys() == {1, 2} and abs(kinds[1] - 32 * 32) < 150
    ids[:, 30:34] = 0
    assert not on_the_grid(ids, entries, CLASSES, (80, 80)).segment_ids[:, 30:34].any()


@pytest.fixture
def shipped():
    return PanopticDETR.from_pretrained("tiny")


@pytest.fixture(scope="module")
def scenes():
    return SceneData(5, 3_000_000, 96)


def test_a_model_is_explained_by_the_same_quality(shipped, scenes):
    at = 0.6
    found = evaluate_model(shipped, scenes, range(5), [at, 0.9])
    explanation = explain(shipped, scenes, range(5), at, thresholds=(at, 0.9))
    for t in (at, 0.9):
        assert explanation.curve[t].result(scenes.categories).all == found.panoptic_quality(scenes, t).all
    assert explanation.quality.all == found.panoptic_quality(scenes, at).all
    assert sum(explanation.lost_in_all().values()) == pytest.approx(1 - explanation.quality.all.pq)
    assert explanation.ceiling.result(scenes.categories).all.pq > 0.6


def test_a_threshold_too_high_is_named(shipped, scenes):
    strict, free = (explain(shipped, scenes, range(5), t).lost_in_all().get("threshold", 0) for t in (0.99, 0.3))
    assert strict > free + 0.1


def test_the_page_and_its_numbers(shipped, scenes, tmp_path, capsys):
    """From the model and from files, by the commands; both say the same of the same prediction."""
    folder = tmp_path / "data"
    write_coco_panoptic(scenes, folder)
    truth = [str(folder / "panoptic.json"), str(folder / "panoptic")]
    photos = ["--photos", str(folder / "images")]
    shipped.preset = replace(shipped.preset, threshold=0.6)
    save(shipped, tmp_path / "weights.safetensors")
    assert main(["evaluate", *truth, "--model", str(tmp_path / "weights.safetensors"), *photos, "--why", str(tmp_path / "a")]) == 0
    assert "points of PQ lost, over all classes" in capsys.readouterr().out
    model = json.loads((tmp_path / "a" / "why.json").read_text())
    assert model["threshold"] == 0.6 and len(model["curve"]) == len(THRESHOLDS) and len(model["worst"]) == 5
    page = (tmp_path / "a" / "index.html").read_text()
    assert page.count("<img ") == 1 + 5 and "The threshold" in page and "http" not in page

    weights = str(tmp_path / "weights.safetensors")
    assert main(["predict", str(folder / "images"), "--output", str(tmp_path / "p"), "--model", weights]) == 0
    predicted = [str(tmp_path / "p" / "panoptic.json"), str(tmp_path / "p" / "panoptic")]
    assert main(["evaluate", *truth, *predicted, *photos, "--why", str(tmp_path / "b")]) == 0
    files = json.loads((tmp_path / "b" / "why.json").read_text())
    assert files["quality"]["All"]["pq"] == pytest.approx(model["quality"]["All"]["pq"])
    assert sum(files["lost"].values()) == pytest.approx(sum(model["lost"].values()))
    assert files["confusion"].keys() == model["confusion"].keys() and files["curve"] == {} and files["ceiling"] is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "tiny"], "--model needs --why"),
        (["--model", "tiny", "--why", "w", "--photos", "p", "--worst", "x"], "leave out PREDICTED.json"),
        ([], "give PREDICTED.json and PREDICTED_DIR"),
        (["p.json", "p", "--why", "w"], "go together"),
        (["--model", "tiny", "--why", "full", "--photos", "p"], "is not an empty folder"),
    ],
)
def test_what_does_not_go_together(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    assert main(["evaluate", "t.json", "t", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_other_classes_are_refused(shipped, tmp_path):
    data = SceneData(1, 3_000_000, 96)
    data.categories = data.categories[:-1]
    with pytest.raises(Exception, match="the model has other classes than the truth"):
        explain(shipped, data, [0])


def test_an_image_with_nothing_in_it(tmp_path):
    """No class was seen: no PQ, no row, and still a page."""
    explanation = Explanation(CLASSES)
    explanation.add(0, *picture(), Panoptic(np.zeros((40, 40), np.int32)))
    write_why(explanation, lambda index: ("a.png", np.zeros((40, 40, 3), np.uint8)), tmp_path / "why")
    content = json.loads((tmp_path / "why" / "why.json").read_text())
    assert content["lost"] == {} and content["worst"] == [] and content["quality"]["All"]["pq"] is None
