"""Real photos all the way: through `minidetr predict` and back through `minidetr evaluate`, and the truth against itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from minidetr.commands.main import main
from minidetr.model import PanopticDETR
from minidetr.presets import preset
from minidetr.weights.load import save
from minidetr.weights.published import coco_categories
from tests.reference import REFERENCE, needs_reference

PHOTOS = {"coco": 11, "construction": 3}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights for COCO's classes: what they say means nothing, that all of it arrives is what is tested."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    model = PanopticDETR(preset("tiny"), coco_categories(250), 250)
    known = [c.id for c in model.categories]
    with torch.no_grad():  # a random head mostly says "no object" or a number that is no class: leave it the classes only
        bias = torch.full_like(model.heads.classes.bias, -100)
        bias[known] = model.heads.classes.bias[known]
        model.heads.classes.bias.copy_(bias)
    save(model, path)
    return path


@needs_reference
@pytest.mark.parametrize("name", PHOTOS)
def test_photos_are_segmented_and_evaluated(name: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, out = REFERENCE / name, tmp_path / "out"
    # Random scores are low, so keep everything: every photo then has segments to write and to read back.
    assert main(["predict", str(folder / "images"), "--model", str(weights), "--output", str(out), "--threshold", "0"]) == 0
    content = json.loads((out / "panoptic.json").read_text())
    assert len(content["images"]) == len(content["annotations"]) == PHOTOS[name]
    assert sum(len(a["segments_info"]) for a in content["annotations"]) > 0
    assert len(list((out / "overlays").iterdir())) == PHOTOS[name]
    capsys.readouterr()
    of_truth = folder if name == "coco" else out  # the construction photos have no panoptic truth: theirs is the prediction
    truth = [str(of_truth / "panoptic.json"), str(of_truth / "panoptic")]
    assert main(["evaluate", *truth, str(out / "panoptic.json"), str(out / "panoptic"), "--json"]) == 0
    quality = json.loads(capsys.readouterr().out)
    everything = next(value for key, value in quality.items() if key.lower() == "all")
    assert everything["pq"] < 0.2 if name == "coco" else everything["pq"] == 1.0  # random weights know nothing of COCO


@needs_reference
def test_the_truth_against_itself_is_perfect(capsys: pytest.CaptureFixture) -> None:
    truth = [str(REFERENCE / "coco/panoptic.json"), str(REFERENCE / "coco/panoptic")]
    assert main(["evaluate", *truth, *truth, "--json", "--boxes"]) == 0
    measured = json.loads(capsys.readouterr().out)
    everything = next(value for key, value in measured.items() if key.lower() == "all")
    assert (everything["pq"], everything["sq"], everything["rq"]) == (1.0, 1.0, 1.0)
    assert measured["boxes"]["AP"] > 0.99
