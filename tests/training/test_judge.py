"""The threshold that a run learns and keeps in its weights, and the test that it sees once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minidetr
from minidetr import PanopticDETR
from minidetr.data.coco import CocoPanoptic, write_coco_panoptic
from minidetr.errors import InputError
from minidetr.evaluate.model import THRESHOLDS, evaluate_model
from minidetr.scenes.dataset import SceneData
from minidetr.training.report import SCORES, read_rows

SIZE = 64


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/, val/ and test/ of rendered scenes."""
    folder = tmp_path_factory.mktemp("site")
    for name, count, seed in (("train", 8, 5), ("val", 4, 50), ("test", 3, 90)):
        write_coco_panoptic(SceneData(count, seed=seed, size=SIZE), folder / name)
    return folder


@pytest.fixture(scope="module")
def given(site: Path) -> dict[str, Any]:
    return {
        "preset": "tiny", "data": str(site), "size": SIZE, "augment": "none", "workers": 0, "device": "cpu", "precision": "float32",
        "epochs": 12, "evaluate_every": 6, "batch_size": 4, "quiet": True,
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(site: Path, given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PanopticDETR]:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, minidetr.train(**given, output=str(folder), test=str(site / "test"))


def test_the_threshold_is_the_best_on_the_validation_images_and_stays_in_the_weights(run, site: Path) -> None:
    folder, last = run
    rows = read_rows(folder / SCORES)
    assert len(rows) == 2 and all(float(row["threshold"]) in THRESHOLDS for row in rows)
    best_row = max(rows, key=lambda row: float(row["PQ"]))
    best = PanopticDETR.from_pretrained(folder / "best.safetensors")
    assert best.preset.threshold == float(best_row["threshold"])
    assert last.preset.threshold == float(rows[-1]["threshold"])
    validation = CocoPanoptic.from_folder(site / "val")
    counted = evaluate_model(best, validation, range(4), THRESHOLDS)
    qualities = {t: counted.panoptic_quality(validation, t).all.pq for t in THRESHOLDS}
    assert qualities[best.preset.threshold] == max(qualities.values())
    assert 100 * max(qualities.values()) == pytest.approx(float(best_row["PQ"]), rel=1e-4)


def test_segment_uses_the_learned_threshold(run, site: Path) -> None:
    folder, _ = run
    model = PanopticDETR.from_pretrained(folder)
    photo = site / "val" / "images" / "000000.png"
    [as_it_is], [said] = model.segment([photo]), model.segment([photo], threshold=model.preset.threshold)
    np.testing.assert_array_equal(as_it_is.segment_ids, said.segment_ids)


def test_the_test_is_seen_once_at_the_end_by_the_best_weights(run, site: Path) -> None:
    folder, _ = run
    told = json.loads((folder / "test.json").read_text())
    data = CocoPanoptic.from_folder(site / "test")
    best = PanopticDETR.from_pretrained(folder / "best.safetensors")
    quality = evaluate_model(best, data, range(3)).panoptic_quality(data)
    assert (told["data"], told["images"]) == (str(site / "test"), 3)
    assert told["PQ"] == pytest.approx(100 * quality.all.pq) and told["threshold"] == best.preset.threshold


def test_a_threshold_that_is_given_is_kept(given: dict[str, Any], tmp_path: Path) -> None:
    model = minidetr.train(**given | {"epochs": 1, "evaluate_every": 1}, output=str(tmp_path / "run"), threshold=0.35)
    assert model.preset.threshold == 0.35
    assert PanopticDETR.from_pretrained(tmp_path / "run").preset.threshold == 0.35
    assert not (tmp_path / "run" / "test.json").exists()


def test_a_test_that_does_not_fit_is_refused_before_the_first_iteration(given: dict[str, Any], site: Path, tmp_path: Path) -> None:
    content = json.loads((site / "test" / "panoptic.json").read_text())
    content["categories"][4]["name"] = "digger"
    other = tmp_path / "other"
    write_coco_panoptic(SceneData(1, seed=3, size=SIZE), other)
    single = json.loads((other / "panoptic.json").read_text())
    (other / "panoptic.json").write_text(json.dumps(single | {"categories": content["categories"]}))
    with pytest.raises(InputError, match="category 5 is 'excavator' in .* but 'digger'"):
        minidetr.train(**given, output=str(tmp_path / "run"), test=str(other))
    assert not list((tmp_path / "run").glob("*.safetensors"))
