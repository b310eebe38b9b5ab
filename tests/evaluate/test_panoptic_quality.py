"""Panoptic quality: the published rule case by case, the reference's numbers, files, processes and every input error."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidetr.data.pngs import read_ids
from minidetr.errors import InputError
from minidetr.evaluate import PanopticQuality, QualityCounts, panoptic_quality
from minidetr.panoptic import Category, decode_ids, encode_ids, write_json, write_png
from tests.reference import REFERENCE, needs_reference

module = importlib.import_module("minidetr.evaluate.panoptic_quality")  # the package's attribute of that name is the function

SKY, CAR, DOG = 1, 2, 3
CATEGORIES = (Category(SKY, "sky", False), Category(CAR, "car", True), Category(DOG, "dog", True))


def segment(segment_id: int, category_id: int, iscrowd: int = 0) -> dict:
    return {"id": segment_id, "category_id": category_id, "iscrowd": iscrowd}


def row(*lengths_and_ids: tuple[int, int]) -> np.ndarray:
    """A 1 x W image of ids: so many pixels of each."""
    return np.concatenate([np.full(length, i, np.int32) for length, i in lengths_and_ids])[None]


def count(gt: np.ndarray, gt_segments: list[dict], pred: np.ndarray, pred_segments: list[dict]) -> PanopticQuality:
    counts = QualityCounts()
    counts.add_image(gt, gt_segments, pred, pred_segments)
    return counts.result(CATEGORIES)


def counted(quality: PanopticQuality, category_id: int) -> tuple[int, int, int]:
    c = quality.per_class[category_id]
    return c.tp, c.fp, c.fn


def random_case(rng: np.random.Generator, height: int = 24, width: int = 31) -> tuple[np.ndarray, list, np.ndarray, list]:
    """Overlapping rectangles with void, crowds and mistakes in class; the prediction is the shifted truth with other ids."""
    gt, pred = np.zeros((2, height, width), np.int32)
    classes, crowds = rng.integers(1, 4, 9), rng.random(9) < 0.25
    for k in range(1, 9):
        top, left, rows, columns = rng.integers(0, height), rng.integers(0, width), rng.integers(3, 15), rng.integers(3, 15)
        gt[top : top + rows, left : left + columns] = k * 70001 if k > 1 else 0
        shift = rng.integers(0, 4)
        pred[top + shift : top + rows, left : left + columns + shift] = k * 333
    predicted = np.where(rng.random(9) < 0.2, rng.integers(1, 4, 9), classes)
    gt_segments = [segment(i, int(classes[i // 70001]), int(crowds[i // 70001])) for i in np.unique(gt).tolist() if i]
    pred_segments = [segment(i, int(predicted[i // 333])) for i in np.unique(pred).tolist() if i]
    return gt, gt_segments, pred, pred_segments


def by_masks(gt: np.ndarray, gt_segments: list, pred: np.ndarray, pred_segments: list) -> dict[int, list]:
    """The rule once more, mask by mask and pair by pair: slow and literal."""
    result: dict[int, list] = {category.id: [0, 0, 0, 0.0] for category in CATEGORIES}
    void, matched_gt, matched_pred = gt == 0, set(), set()
    for g in gt_segments:
        for p in pred_segments:
            gt_mask, pred_mask = gt == g["id"], pred == p["id"]
            iou = (gt_mask & pred_mask).sum() / (gt_mask | (pred_mask & ~void)).sum()
            if not g["iscrowd"] and g["category_id"] == p["category_id"] and iou > 0.5:
                matched_gt.add(g["id"]), matched_pred.add(p["id"])
                result[g["category_id"]][0] += 1
                result[g["category_id"]][3] += iou
    for p in pred_segments:
        blameless = void.copy()
        for g in gt_segments:
            if g["iscrowd"] and g["category_id"] == p["category_id"]:
                blameless |= gt == g["id"]
        if p["id"] not in matched_pred and blameless[pred == p["id"]].mean() <= 0.5:
            result[p["category_id"]][1] += 1
    for g in gt_segments:
        result[g["category_id"]][2] += g["id"] not in matched_gt and not g["iscrowd"]
    return result


# The rule


def test_a_perfect_prediction_scores_one() -> None:
    ids = row((4, 1), (3, 2), (2, 70000), (1, 0))
    segments = [segment(1, SKY), segment(2, CAR), segment(70000, DOG)]
    quality = count(ids, segments, ids, segments)
    for scores, n in ((quality.all, 3), (quality.things, 2), (quality.stuff, 1)):
        assert (scores.pq, scores.sq, scores.rq, scores.n) == (1.0, 1.0, 1.0, n)


def test_an_iou_of_exactly_half_is_no_match_and_one_pixel_more_is() -> None:
    gt = row((6, 1), (6, 2))
    segments = [segment(1, CAR), segment(2, SKY)]
    half = count(gt, segments, row((3, 5), (9, 0)), [segment(5, CAR)])  # 3 of 6 pixels
    assert counted(half, CAR) == (0, 1, 1)
    more = count(gt, segments, row((4, 5), (8, 0)), [segment(5, CAR)])
    assert counted(more, CAR) == (1, 0, 0)
    assert more.per_class[CAR].iou == 4 / 6


def test_the_formula_by_hand() -> None:
    """Car: one match at IoU 4/5, one false positive, one miss."""
    gt = row((5, 1), (5, 2), (10, 3))
    pred = row((4, 7), (6, 0), (10, 8))
    quality = count(gt, [segment(1, CAR), segment(2, CAR), segment(3, SKY)], pred, [segment(7, CAR), segment(8, CAR)])
    car = quality.per_class[CAR]
    assert (car.tp, car.fp, car.fn) == (1, 1, 1)
    assert (car.sq, car.rq, car.pq) == pytest.approx((0.8, 0.5, 0.4), abs=1e-15)
    assert (quality.stuff.pq, quality.stuff.n) == (0.0, 1)  # the sky is missed
    assert quality.all.pq == pytest.approx(0.2, abs=1e-15)


def test_another_class_never_matches() -> None:
    ids = row((5, 1))
    quality = count(ids, [segment(1, CAR)], ids, [segment(1, DOG)])
    assert counted(quality, CAR) == (0, 0, 1)
    assert counted(quality, DOG) == (0, 1, 0)


def test_the_union_leaves_out_what_lies_on_void() -> None:
    gt = row((4, 1), (6, 0))
    quality = count(gt, [segment(1, CAR)], row((10, 9)), [segment(9, CAR)])  # 4 / 10 with void, 4 / 4 without
    assert quality.per_class[CAR].iou == 1.0
    assert counted(quality, CAR) == (1, 0, 0)


@pytest.mark.parametrize(("on_void", "false_positives"), [(5, 1), (6, 0)])
def test_a_prediction_mostly_on_void_is_ignored(on_void: int, false_positives: int) -> None:
    gt = row((on_void, 0), (10 - on_void, 1))
    quality = count(gt, [segment(1, SKY)], row((10, 9)), [segment(9, CAR)])
    assert counted(quality, CAR) == (0, false_positives, 0)


def test_a_crowd_is_neither_matched_nor_missed() -> None:
    ids = row((6, 1), (4, 2))
    truth = [segment(1, CAR, iscrowd=1), segment(2, SKY)]
    on_it = count(ids, truth, ids, [segment(1, CAR), segment(2, SKY)])
    assert counted(on_it, CAR) == (0, 0, 0)  # the prediction on the crowd is no false positive either
    assert on_it.all.n == 1
    of_another_class = count(ids, truth, ids, [segment(1, DOG), segment(2, SKY)])
    assert counted(of_another_class, DOG) == (0, 1, 0)


def test_void_and_every_crowd_of_the_class_add_up() -> None:
    gt = row((2, 0), (2, 1), (2, 2), (4, 3))  # void and two crowds of cars are 6 of the 10 pixels
    truth = [segment(1, CAR, iscrowd=1), segment(2, CAR, iscrowd=1), segment(3, SKY)]
    assert counted(count(gt, truth, row((10, 9)), [segment(9, CAR)]), CAR) == (0, 0, 0)
    truth[1]["category_id"] = DOG
    assert counted(count(gt, truth, row((10, 9)), [segment(9, CAR)]), CAR) == (0, 1, 0)


def test_a_truth_segment_without_a_pixel_is_a_miss() -> None:
    ids = row((5, 1))
    assert counted(count(ids, [segment(1, CAR), segment(2, CAR)], ids, [segment(1, CAR)]), CAR) == (1, 0, 1)


def test_a_predicted_segment_zero_counts_when_it_is_listed() -> None:
    """The published DETR numbers its segments from 0."""
    gt, pred = row((5, 1), (5, 2)), row((5, 0), (5, 1))
    truth = [segment(1, CAR), segment(2, SKY)]
    assert count(gt, truth, pred, [segment(0, CAR), segment(1, SKY)]).all.pq == 1.0
    assert counted(count(gt, truth, pred, [segment(1, SKY)]), CAR) == (0, 0, 1)


@pytest.mark.parametrize("case", range(40))
def test_random_images_equal_the_rule_mask_by_mask(case: int) -> None:
    arguments = random_case(np.random.default_rng(case))
    quality = count(*arguments)
    for category_id, (tp, fp, fn, iou) in by_masks(*arguments).items():
        assert counted(quality, category_id) == (tp, fp, fn)
        assert quality.per_class[category_id].iou == pytest.approx(iou, abs=1e-12)


def test_other_ids_and_another_order_change_nothing() -> None:
    rng = np.random.default_rng(3)
    gt, gt_segments, pred, pred_segments = random_case(rng)
    before = count(gt, gt_segments, pred, pred_segments)
    renamed = []
    for ids, segments in ((gt, gt_segments), (pred, pred_segments)):
        new = dict(zip((s["id"] for s in segments), rng.choice(2**24 - 1, len(segments), replace=False) + 1, strict=True)) | {0: 0}
        renamed.append(np.vectorize(new.get)(ids))
        renamed.append([segment(int(new[s["id"]]), s["category_id"], s["iscrowd"]) for s in reversed(segments)])
    after = count(*renamed)
    assert before.all.pq > 0
    assert after.all.pq == pytest.approx(before.all.pq, abs=1e-15)
    assert [counted(after, c.id) for c in CATEGORIES] == [counted(before, c.id) for c in CATEGORIES]


def test_adding_counts_equals_counting_together() -> None:
    together, parts = QualityCounts(), []
    for case in range(4):
        arguments = random_case(np.random.default_rng(case))
        together.add_image(*arguments)
        parts.append(QualityCounts())
        parts[-1].add_image(*arguments)
    merged = sum(parts, QualityCounts())
    for category in CATEGORIES:
        assert merged.classes[category.id].iou == pytest.approx(together.classes[category.id].iou, abs=1e-12)
        assert counted(merged.result(CATEGORIES), category.id) == counted(together.result(CATEGORIES), category.id)
    assert sum(c.tp + c.fn for c in parts[0].classes.values()) < sum(c.tp + c.fn for c in merged.classes.values())


# Where other code crashes


@pytest.mark.parametrize(("is_thing", "empty", "full"), [(False, "things", "stuff"), (True, "stuff", "things")])
def test_no_things_or_no_stuff(is_thing: bool, empty: str, full: str) -> None:
    ids = row((5, 1))
    counts = QualityCounts()
    counts.add_image(ids, [segment(1, 4)], ids, [segment(1, 4)])
    quality = counts.result([Category(4, "only", is_thing)])
    assert getattr(quality, empty).n == 0
    assert math.isnan(getattr(quality, empty).pq)
    assert getattr(quality, full).pq == quality.all.pq == 1.0
    assert json.loads(json.dumps(quality.to_json(), allow_nan=False))[empty.title()] == {"pq": None, "sq": None, "rq": None, "n": 0}
    assert [line.split() for line in quality.table().splitlines() if line.startswith(empty.title())] == [
        [empty.title(), "-", "-", "-", "0"]
    ]


def test_a_class_nobody_has_seen_is_left_out() -> None:
    ids = row((5, 1))
    quality = count(ids, [segment(1, CAR)], ids, [segment(1, CAR)])
    assert quality.all.n == quality.things.n == 1
    assert math.isnan(quality.per_class[DOG].pq)
    assert quality.to_json()["per_class"][str(DOG)]["pq"] is None
    assert quality.to_json()["per_class"][str(CAR)] == {
        "name": "car", "isthing": 1, "pq": 1.0, "sq": 1.0, "rq": 1.0, "tp": 1, "fp": 0, "fn": 0, "iou": 1.0
    }  # fmt: skip


def test_nothing_at_all() -> None:
    quality = QualityCounts().result(CATEGORIES)
    assert quality.all.n == 0
    assert math.isnan(quality.all.pq)


def test_table() -> None:
    gt = row((5, 1), (5, 2), (10, 3))
    quality = count(
        gt, [segment(1, CAR), segment(2, CAR), segment(3, SKY)], row((4, 7), (6, 0), (10, 8)), [segment(7, CAR), segment(8, SKY)]
    )
    rows = [line.split() for line in quality.table(per_class=True).splitlines()]
    assert rows[0] == ["PQ", "SQ", "RQ", "N"]
    assert rows[2:] == [
        ["All", "76.7", "90.0", "83.3", "2"],  # the car: 0.8 / 1.5
        ["Things", "53.3", "80.0", "66.7", "1"],
        ["Stuff", "100.0", "100.0", "100.0", "1"],
        ["sky", "100.0", "100.0", "100.0"],
        ["car", "53.3", "80.0", "66.7"],
        ["dog", "-", "-", "-"],
    ]
    assert len(quality.table().splitlines()) == 5


# Files


class Case:
    """Truth and predictions of `images` random images on disk, in two folders and two JSON files."""

    def __init__(self, folder: Path, images: int = 3) -> None:
        self.folder = folder
        self.content: dict[str, dict] = {}
        for name in ("gt", "pred"):
            self.content[name] = {"images": [], "annotations": [], "categories": [c.to_json() for c in CATEGORIES]}
        self.expected = QualityCounts()
        for i in range(images):
            case = random_case(np.random.default_rng(i))
            self.expected.add_image(*case)
            for name, ids, segments in (("gt", *case[:2]), ("pred", *case[2:])):
                write_png(folder / name / f"{i}.png", encode_ids(ids))
                self.content[name]["images"].append({"id": 10 + i, "file_name": f"photos/{i}.jpg"})
                self.content[name]["annotations"].append({"image_id": 10 + i, "file_name": f"{i}.png", "segments_info": segments})

    def run(self, **arguments: int) -> PanopticQuality:
        for name, content in self.content.items():
            write_json(self.folder / f"{name}.json", content)
        return self.run_as_is(**arguments)

    def expected_json(self) -> dict:
        counts = {"annotated": 3, "predicted": 3, "unknown": 0}
        return self.expected.result(CATEGORIES).to_json() | {"images": counts}

    def run_as_is(self, **arguments: int) -> PanopticQuality:
        gt, pred = self.folder / "gt", self.folder / "pred"
        return panoptic_quality(f"{gt}.json", gt, f"{pred}.json", pred, **arguments)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_files_count_like_arrays(case: Case) -> None:
    quality = case.run()
    assert quality.to_json() == case.expected_json()
    assert 0 < quality.all.pq < 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_read_ids_inverts_encode_ids(tmp_path: Path, mode: str) -> None:
    ids = np.random.default_rng(0).integers(0, 256**3, (17, 29))
    Image.fromarray(encode_ids(ids)).convert(mode).save(tmp_path / "ids.png")
    read = read_ids(tmp_path / "ids.png")
    assert np.array_equal(read, ids)
    assert np.array_equal(decode_ids(encode_ids(ids)), read)


def test_wrong_areas_in_the_json_change_nothing(case: Case) -> None:
    for s in case.content["gt"]["annotations"][0]["segments_info"]:
        s["area"] = 1
    assert case.run().to_json() == case.expected_json()


def test_an_image_without_a_prediction_has_missed_everything(case: Case) -> None:
    everything = sum(c.tp + c.fn for c in case.expected.classes.values())
    del case.content["pred"]["annotations"][1:]
    assert sum(c.tp + c.fn for c in case.run().per_class.values()) == everything
    case.content["pred"]["annotations"] = []
    quality = case.run()
    assert sum(c.fn for c in quality.per_class.values()) == everything
    assert quality.all.pq == 0.0


def test_images_are_paired_by_file_name_where_no_id_agrees(case: Case) -> None:
    for number, (image, annotation) in enumerate(
        zip(case.content["pred"]["images"], case.content["pred"]["annotations"], strict=True)
    ):
        image["id"] = annotation["image_id"] = 900 - number
        image["file_name"] = Path(image["file_name"]).stem + ".PNG"
    case.content["pred"]["annotations"].reverse()
    assert case.run().to_json() == case.expected_json()
    for content in case.content.values():  # without `images`, the PNG's name
        del content["images"]
    assert case.run().to_json() == case.expected_json()


def test_two_processes_count_like_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    case = Case(tmp_path, images=5)
    assert case.run(jobs=2).to_json() == case.run(jobs=1).to_json()
    assert capsys.readouterr().err == ""
    case.run(progress=True)
    assert "5/5" in capsys.readouterr().err
    Path(tmp_path / "pred" / "4.png").unlink()
    with pytest.raises(InputError, match=r"4\.png is missing"):
        case.run(jobs=2)


def test_a_worker_that_dies_is_an_error(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    (case.folder / "dying_worker.py").write_text("import os\ndef die(tasks):\n    os._exit(1)\n")
    monkeypatch.syspath_prepend(case.folder)
    from dying_worker import die  # a worker process imports it by this name

    monkeypatch.setattr(module, "CHUNK", 1)
    monkeypatch.setattr(module, "_count_chunk", die)
    with pytest.raises(RuntimeError, match="one of the 2 processes that count panoptic quality died"):
        case.run(jobs=2)


def test_evaluation_imports_nothing_heavy() -> None:
    code = (
        "import sys, minidetr; before = set(sys.modules); import minidetr.evaluate; "
        "print({'numpy', 'torch', 'pycocotools', 'matplotlib'} & (set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("{'numpy'}", "set()")


# Input errors: one sentence that names the file and the field


def assert_refused(case: Case, *parts: str, write: bool = True) -> None:
    with pytest.raises(InputError) as error:
        case.run() if write else case.run_as_is()
    sentence = str(error.value)
    assert "\n" not in sentence
    for part in parts:
        assert part in sentence


@pytest.mark.parametrize("name", ["gt", "pred"])
def test_missing_and_broken_json(case: Case, name: str) -> None:
    case.run()
    file = case.folder / f"{name}.json"
    file.write_text("{")
    assert_refused(case, str(file), "is not valid JSON", write=False)
    file.write_text("[]")
    assert_refused(case, str(file), "holds a list", write=False)
    file.write_bytes(b"\xff\xfe")
    assert_refused(case, str(file), "is not valid JSON", write=False)
    file.unlink()
    assert_refused(case, str(file), "cannot be read", write=False)


@pytest.mark.parametrize("name", ["gt", "pred"])
def test_missing_and_unreadable_png(case: Case, name: str) -> None:
    file = case.folder / name / "1.png"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert_refused(case, str(file), "can't be read as a PNG")
    file.write_text("text")
    assert_refused(case, str(file), "can't be read as a PNG")
    Image.new("L", (31, 24)).save(file)
    assert_refused(case, str(file), "grey image of 8 bits", "RGB")
    file.unlink()
    assert_refused(case, str(file), "is missing", "file_name")


def test_sizes_that_differ(case: Case) -> None:
    write_png(case.folder / "pred" / "2.png", encode_ids(np.ones((5, 7), int)))
    assert_refused(case, "pred/2.png is 7 x 5 pixels", "gt/2.png is 31 x 24")


@pytest.mark.parametrize("name", ["gt", "pred"])
def test_an_id_in_the_png_that_is_not_in_the_json(case: Case, name: str) -> None:
    gone = case.content[name]["annotations"][1]["segments_info"].pop()
    assert_refused(case, str(case.folder / name / "1.png"), f"pixels of segment {gone['id']},", "'segments_info' does not list")


def test_an_id_in_the_json_without_a_predicted_pixel(case: Case) -> None:
    case.content["pred"]["annotations"][1]["segments_info"].append(segment(4711, CAR))
    assert_refused(case, str(case.folder / "pred" / "1.png"), "no pixel of segment 4711,")


@pytest.mark.parametrize("name", ["gt", "pred"])
def test_wrong_segments(case: Case, name: str) -> None:
    file = str(case.folder / f"{name}.json")
    segments = case.content[name]["annotations"][1]["segments_info"]
    original = dict(segments[0])
    segments[0]["category_id"] = 99
    assert_refused(case, file, f"segment {original['id']} in the annotation of image 11", "category_id 99", "'categories'")
    for missing in ("id", "category_id"):
        segments[0] = {key: value for key, value in original.items() if key != missing}
        assert_refused(case, file, "image 11", f"'{missing}'")
    segments[0] = original | {"id": 256**3}
    assert_refused(case, file, "image 11", str(256**3))
    segments[0] = original
    segments.append(original)
    assert_refused(case, f"{name}/1.png", f"segment {original['id']} twice")


def test_a_truth_segment_called_void(case: Case) -> None:
    case.content["gt"]["annotations"][1]["segments_info"][0]["id"] = 0
    assert_refused(case, "gt/1.png", "id 0", "void")


@pytest.mark.parametrize("field", ["image_id", "file_name", "segments_info"])
@pytest.mark.parametrize("name", ["gt", "pred"])
def test_annotations_without_a_field(case: Case, name: str, field: str) -> None:
    del case.content[name]["annotations"][1][field]
    assert_refused(case, str(case.folder / f"{name}.json"), f"'{field}'")


def test_files_without_lists(case: Case) -> None:
    del case.content["pred"]["annotations"]
    assert_refused(case, "pred.json", "'annotations'")
    del case.content["gt"]["categories"]
    assert_refused(case, "gt.json", "'categories'")


def test_wrong_categories(case: Case) -> None:
    categories = case.content["gt"]["categories"]
    del categories[2]["isthing"]
    assert_refused(case, "category 3 of", "gt.json", "'isthing'")
    categories[2] = categories[1]
    assert_refused(case, "gt.json", "'categories' of the same 'id'")
    del categories[2]["id"]
    assert_refused(case, "gt.json", "'id'")


def test_counts_of_a_class_the_categories_lack() -> None:
    counts = QualityCounts()
    counts.add_image(row((3, 1)), [segment(1, 8)], row((3, 0)), [])
    with pytest.raises(InputError, match="category 8 is in a segment"):
        counts.result(CATEGORIES)


@pytest.mark.parametrize("file_name", ["../elsewhere/9.png", "a/../../elsewhere/9.png", "/elsewhere/9.png", "", "."])
@pytest.mark.parametrize("name", ["gt", "pred"])
def test_file_names_stay_in_their_folder(case: Case, name: str, file_name: str) -> None:
    case.content[name]["annotations"][1]["file_name"] = file_name
    assert_refused(case, str(case.folder / f"{name}.json"), "image 11", "file_name", "inside its folder")


def test_images_that_can_not_be_paired(case: Case) -> None:
    for annotation in case.content["pred"]["annotations"]:
        annotation["image_id"] += 500
    for image in case.content["pred"]["images"]:
        image["id"] += 500
        image["file_name"] = "other" + Path(image["file_name"]).name
    assert_refused(case, "no prediction in", "pred.json", "gt.json", "'image_id'", "'file_name'")
    case.content["pred"]["images"][1]["file_name"] = case.content["pred"]["images"][0]["file_name"]
    assert_refused(case, "pred.json", "two images named 'other0.jpg'")


def test_two_annotations_of_one_image(case: Case) -> None:
    case.content["pred"]["annotations"][1]["image_id"] = 10
    assert_refused(case, "pred.json", "two annotations of image 10")


def test_jobs_below_one(case: Case) -> None:
    with pytest.raises(InputError, match="jobs is 0"):
        case.run(jobs=0)


# Other people's numbers


@needs_reference
def test_reference_cases() -> None:
    folder = REFERENCE / "quality"
    expected = json.loads((folder / "expected.json").read_text())
    quality = panoptic_quality(folder / "gt.json", folder / "gt", folder / "pred.json", folder / "pred")
    for group, scores in (("All", quality.all), ("Things", quality.things), ("Stuff", quality.stuff)):
        assert scores.n == expected[group]["n"]
        for score in ("pq", "sq", "rq"):
            assert getattr(scores, score) == pytest.approx(expected[group][score], abs=1e-12, rel=0)
    assert {str(i) for i, c in quality.per_class.items() if c.seen} == set(expected["per_class"])
    for category_id, scores in expected["per_class"].items():
        for score, value in scores.items():
            assert getattr(quality.per_class[int(category_id)], score) == pytest.approx(value, abs=1e-12, rel=0)


@needs_reference
def test_coco_truth_against_itself_is_one() -> None:
    files = REFERENCE / "coco" / "panoptic.json", REFERENCE / "coco" / "panoptic"
    quality = panoptic_quality(*files, *files)
    for scores in (quality.all, quality.things, quality.stuff):
        assert (scores.pq, scores.sq, scores.rq) == (1.0, 1.0, 1.0)
        assert scores.n > 10
