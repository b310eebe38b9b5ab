"""What panoptic quality is lost to: every reason on an image made for it, and that the shares add up."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from minidetr.commands.main import main
from minidetr.data.coco import write_coco_panoptic
from minidetr.errors import InputError
from minidetr.evaluate.model import THRESHOLDS, evaluate_model
from minidetr.evaluate.why import NOTHING, REASONS, Explanation, explain, on_the_grid
from minidetr.evaluate.why_page import write_why
from minidetr.model import PanopticDETR
from minidetr.panoptic import Category, Panoptic
from minidetr.presets import TRAINABLE
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
    assert files["classes"].keys() == model["classes"].keys() and files["curve"] == {}
    assert all(entry["ceiling"] is None for entry in files["classes"].values())
    for content in (files, model):
        for c, entry in content["classes"].items():
            assert entry["name"] and (entry["lost"] is None or sum(entry["pixels"].values()) in (0, pytest.approx(1))), c


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


def test_a_class_with_id_0_is_not_what_was_left_open():
    """And two classes of one name stay two."""
    classes = [Category(0, "car", True), Category(1, "car", True)]
    explanation = Explanation(classes)
    ids, entries = picture((1, 0, 0, 20, 20), (0, 20, 0, 40, 20))
    predicted = picture((0, 0, 0, 10, 20), (0, 20, 0, 40, 20))  # of the 1 half is taken for 0, half left open
    explanation.add(0, ids, entries, Panoptic.of_entries(*predicted, classes))
    assert explanation.confusion() == {0: {0: 1.0}, 1: {NOTHING: 0.5, 0: 0.5}}
    found = explanation.to_json()["classes"]
    assert found["1"]["pixels"] == {"none": 0.5, "0": 0.5} and found["0"]["pixels"] == {"0": 1.0}
    assert [entry["name"] for entry in found.values()] == ["car", "car"] and found["0"]["lost"] != found["1"]["lost"]


def test_crowds_are_nobodys_place_to_spread_on_the_grid():
    ids, entries = picture((2, 0, 0, 64, 20), (3, 0, 20, 64, 64), size=64)
    for crowd in (0, 1):
        entries[1]["iscrowd"] = crowd
        drawn = on_the_grid(ids, entries, CLASSES, (64, 64))
        [sky] = [segment for segment in drawn.segments if segment.category_id == 2]
        assert abs(sky.area - 64 * 20) <= 64


def test_two_segments_of_a_stuff_class_are_drawn_as_two():
    ids, entries = picture((2, 0, 0, 20, 40), (2, 20, 0, 40, 40))
    drawn = on_the_grid(ids, entries, CLASSES, (40, 40))
    assert sorted(segment.area for segment in drawn.segments) == [800, 800]


def test_many_segments_take_no_cube_of_their_number():
    """1,600 missed ones in one image: seconds of work if each looked at all pairs anew."""
    size = 160
    ids = np.arange(1, 1601, dtype=np.int32).reshape(40, 40).repeat(4, 0).repeat(4, 1)
    entries = [{"id": number, "category_id": 1, "iscrowd": 0} for number in range(1, 1601)]
    predicted = picture((1, 0, 0, size, size), size=size)
    explanation = Explanation(CLASSES)
    explanation.add(0, ids, entries, Panoptic.of_entries(*predicted, CLASSES))
    assert {r: cost for (_, r), cost in explanation.cost.items()} == {"merged": 800.0, "extra part": 0.5}


def test_a_very_narrow_photo_has_its_page(tmp_path):
    explanation = Explanation(CLASSES)
    ids = np.ones((900, 1), np.int32)
    explanation.add(0, ids, [{"id": 1, "category_id": 2, "iscrowd": 0}], Panoptic(np.zeros((900, 1), np.int32)))
    write_why(explanation, lambda index: ("narrow.png", np.zeros((900, 1, 3), np.uint8)), tmp_path / "why")
    assert "narrow.png" in (tmp_path / "why" / "index.html").read_text()


def test_names_cannot_write_into_the_page(tmp_path):
    classes = [Category(1, "<script>alert(1)</script>", True), Category(2, "a'\"b", False)]
    explanation = Explanation(classes)
    explanation.add(0, *picture((1, 0, 0, 20, 20), (2, 0, 20, 40, 40)), Panoptic(np.zeros((40, 40), np.int32)))
    write_why(explanation, lambda index: ("<b>.png", np.zeros((40, 40, 3), np.uint8)), tmp_path / "why")
    page = (tmp_path / "why" / "index.html").read_text()
    assert "<script" not in page and "<b>.png" not in page and "&lt;script&gt;" in page


def test_a_detection_model_is_refused(scenes):
    model = PanopticDETR(replace(TRAINABLE["tiny"], mask_widths=None), scenes.categories)
    with pytest.raises(InputError, match="without a mask head"):
        explain(model, scenes, [0])


def test_what_stands_out_is_said_with_its_numbers():
    explanation = Explanation(CLASSES, trained_on={1: 12})
    explanation.add(0, *picture((1, 0, 0, 20, 20), (2, 0, 20, 40, 40)), Panoptic.of_entries(*picture((2, 0, 0, 40, 40)), CLASSES))
    first, second = explanation.sentences()[:2]
    assert first == "Of the 66.7 points lost, most by class: car 50.0, sky 16.7."  # sky: 1 - 800 / 1200 without void, a half of it
    assert second == "car: never predicted (1 in the truth, 12 to learn from); its pixels went to sky 100 %."
    assert sum(explanation.points().values()) == pytest.approx(1 - explanation.quality.all.pq)
