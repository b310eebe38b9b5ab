"""The models in the box: small enough, loadable, and as good as their cards say on scenes they have never seen."""

from __future__ import annotations

import re

import pytest
from safetensors import safe_open

from minidetr.evaluate.model import evaluate_model
from minidetr.model import PanopticDETR
from minidetr.scenes.dataset import HELD_OUT_SEED, SceneData
from minidetr.scenes.painters import CATEGORIES
from minidetr.weights.load import SHIPPED, load, shipped_weights

SHIPPED_MODELS = sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


@pytest.fixture(scope="module", params=SHIPPED_MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> PanopticDETR:
    return load(name)


def test_two_are_shipped() -> None:
    assert SHIPPED_MODELS == ["tiny", "tiny-after"]


def test_file_is_small_and_half_precision_but_for_statistics(name: str) -> None:
    path = shipped_weights(name)
    assert path.stat().st_size <= 8_000_000
    with safe_open(path, framework="pt") as file:
        kinds = {key: str(file.get_tensor(key).dtype) for key in file.keys()}  # noqa: SIM118 (not a dict)
    statistics = {kind for key, kind in kinds.items() if "running_" in key}
    weights = {kind for key, kind in kinds.items() if "running_" not in key and "num_batches" not in key}
    assert (statistics, weights) == ({"torch.float32"}, {"torch.float16"})


def test_it_knows_the_classes_of_the_scenes(model: PanopticDETR) -> None:
    assert [(c.id, c.name, c.is_thing) for c in model.categories] == [(c.id, c.name, c.is_thing) for c in CATEGORIES]


def test_it_is_as_good_as_its_card_says(name: str, model: PanopticDETR) -> None:
    card = (SHIPPED / f"{name}.md").read_text(encoding="utf-8")
    stated = float(re.search(r"^All +([\d.]+)", card, re.MULTILINE)[1])  # PQ on 500 held-out scenes
    readme = (SHIPPED.parents[1] / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if f"[card](minidetr/weights/{name}.md)" in line)
    assert f"PQ {stated} on 500 held-out scenes" in row
    data = SceneData(40, HELD_OUT_SEED)
    measured = 100 * evaluate_model(model, data, range(40)).panoptic_quality(data).all.pq
    assert abs(measured - stated) < 8  # 40 scenes of the 500: their PQ is noisy, a broken model's is not near it
