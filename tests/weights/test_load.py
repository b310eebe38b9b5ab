"""Weights in and out: every kind of file, and what is said of files that are damaged, hostile or of another model."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.panoptic import Category
from minidetr.presets import PUBLISHED, TRAINABLE, preset
from minidetr.weights import load as weights
from minidetr.weights import published
from minidetr.weights.load import load, save
from minidetr.weights.published import coco_categories, from_official, official_to_own, own_to_official

NAME = "detr-r50-panoptic"
SMALL = replace(TRAINABLE["tiny"], norm="frozen")  # published models have frozen norms
CATEGORIES = [Category(2, "sky", False, (10, 20, 30)), Category(5, "crane", True)]


def published_state(classes: int = 250, queries: int = SMALL.queries) -> dict[str, Tensor]:
    """A state dict in published names, of the sizes of `SMALL`."""
    return own_to_official(PanopticDETR(replace(SMALL, queries=queries), coco_categories(classes), classes).state_dict())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """A state dict of the R50 panoptic model, which is a small one for the time of the test."""
    monkeypatch.setitem(PUBLISHED, NAME, (SMALL, PUBLISHED[NAME][1]))
    return published_state()


def assert_same_weights(model: PanopticDETR, state: dict[str, Tensor]) -> None:
    ours = own_to_official(model.state_dict())
    assert ours.keys() == state.keys()
    for key, value in state.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=0)
    assert not model.training and all(p.requires_grad and not p.is_meta for p in model.parameters())


def written(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


# Names


def test_published_names_of_every_part() -> None:
    """One key of each part, as the published files have it."""
    with torch.device("meta"):
        panoptic = own_to_official(PanopticDETR(preset(NAME), [], 250).state_dict())
        detection = own_to_official(PanopticDETR(preset("detr-r50"), [], 91).state_dict())
    assert len(panoptic) == len(detection) + 32
    shapes = {
        "detr.backbone.0.body.layer4.2.bn3.running_var": [2048],
        "detr.backbone.0.body.layer1.0.downsample.0.weight": [256, 64, 1, 1],
        "detr.input_proj.weight": [256, 2048, 1, 1],
        "detr.transformer.encoder.layers.5.self_attn.in_proj_weight": [768, 256],
        "detr.transformer.decoder.layers.0.multihead_attn.out_proj.bias": [256],
        "detr.transformer.decoder.norm.weight": [256],
        "detr.query_embed.weight": [100, 256],
        "detr.class_embed.weight": [251, 256],
        "detr.bbox_embed.layers.2.bias": [4],
        "bbox_attention.q_linear.weight": [256, 256],
        "mask_head.lay1.weight": [264, 264, 3, 3],
        "mask_head.gn5.bias": [16],
        "mask_head.adapter1.weight": [128, 1024, 1, 1],
        "mask_head.out_lay.weight": [1, 16, 3, 3],
    }
    assert {key: list(panoptic[key].shape) for key in shapes} == shapes
    assert list(detection["class_embed.weight"].shape) == [92, 256]
    assert official_to_own(detection).keys() < official_to_own(panoptic).keys()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("detr-r5", "no model or file 'detr-r5'.*detr-r50-panoptic"),
        ("no/such.pth", "no/such.pth"),
        (None, "^name_or_path must be .* but is None$"),
    ],
)
def test_unknown_name(name: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        load(name)


def test_unknown_preset(small: dict[str, Tensor], tmp_path: Path) -> None:
    path = written(tmp_path / "mine.pth", small)
    with pytest.raises(InputError, match="'r51'.*r50.*detr-r50"):
        load(path, preset="r51")


def test_shipped_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SHIPPED", tmp_path)
    with pytest.raises(InputError, match="'tiny' comes without weights"):
        load("tiny")
    model = PanopticDETR(TRAINABLE["tiny"], CATEGORIES)
    save(model, tmp_path / "tiny.safetensors")
    assert_same_weights(PanopticDETR.from_pretrained("tiny"), own_to_official(model.state_dict()))


# Published files


@pytest.mark.parametrize("wrap", [lambda state: {"model": state, "epoch": 3}, lambda state: state], ids=["under model", "bare"])
def test_published_file(small: dict[str, Tensor], tmp_path: Path, wrap: Callable) -> None:
    path = written(tmp_path / f"{NAME}-00ce5173.pth", wrap(small))
    assert_same_weights(load(path), small)
    assert_same_weights(load(str(path)), small)


def test_renamed_file_needs_its_preset(small: dict[str, Tensor], tmp_path: Path) -> None:
    path = written(tmp_path / "epoch_12.pth", {"model": small})
    with pytest.raises(InputError, match=r"epoch_12\.pth.*preset=.*detr-r50-panoptic"):
        load(path)
    assert_same_weights(load(path, preset=NAME), small)


def test_half_precision_file_is_computed_in_float32(small: dict[str, Tensor]) -> None:
    model = from_official({k: v.half() for k, v in small.items()}, NAME)
    assert {v.dtype for v in model.state_dict().values()} == {torch.float32}


def test_published_classes_are_those_of_coco(small: dict[str, Tensor]) -> None:
    model = from_official(small, NAME)
    assert (model.num_classes, len(model.categories)) == (250, 133)
    things = {c.id for c in model.categories if c.is_thing}
    assert len(things) == 80 and max(things) == 90 and all(not c.is_thing for c in model.categories if c.id > 90)
    names = {c.id: c.name for c in model.categories}
    assert (names[1], names[90], names[92], names[200]) == ("person", "toothbrush", "banner", "rug-merged")


def test_fine_tuned_head_decides_classes_and_queries(small: dict[str, Tensor]) -> None:
    state = published_state(classes=7, queries=13)
    model = from_official(state, NAME)
    assert (model.num_classes, model.preset.queries) == (7, 13)
    assert [c.id for c in model.categories] == list(range(7))
    assert_same_weights(model, state)


def test_detection_weights_of_a_panoptic_preset(small: dict[str, Tensor]) -> None:
    """Fine-tuning starts from boxes: a state dict without a mask head gives a model without one."""
    boxes = {k.removeprefix("detr."): v for k, v in small.items() if not k.startswith(("mask_head", "bbox_attention"))}
    model = from_official(boxes, NAME)
    assert model.mask_head is None
    assert_same_weights(model, boxes)


def without(*parts: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {k: v for k, v in state.items() if not any(part in k for part in parts)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without("mask_head.gn3.weight"), "lack mask_head.norms.2.weight:"),
        (without("layer4"), "lack backbone.resnet.layer4.*and [0-9]+ more"),
        (without("class_embed"), "the class head is missing.*can only be trained from: minidetr train --from"),
        (without("query_embed"), "lack 'decoder.query_embedding.weight'"),
        (lambda state: state | {"detr.backbone.0.body.layer3.22.conv1.weight": torch.zeros(1)}, "beyond the model.*layer3.22"),
        (
            lambda state: state | {"detr.input_proj.weight": torch.zeros(256, 512, 1, 1)},
            "another shape for backbone.projection.weight",
        ),
        (lambda state: state | {"detr.class_embed.bias": torch.zeros(251, dtype=torch.int8)}, "hold int8 for heads.classes.bias,"),
        (lambda state: state | {"detr.class_embed.bias": torch.full((251,), torch.nan)}, "heads.classes.bias holds .* NaN or inf"),
        (
            lambda state: state | {"detr.class_embed.bias": torch.tensor([torch.inf] * 251).half()},
            "heads.classes.bias holds .* NaN",
        ),
    ],
    ids=[
        *("a key missing", "many missing", "no classes", "no queries", "a key too many", "another shape"),
        *("quantised", "not a number", "infinite"),
    ],
)
def test_weights_of_another_model(small: dict[str, Tensor], tmp_path: Path, change: Callable, sentence: str) -> None:
    path = written(tmp_path / "other.pth", change(small))
    with pytest.raises(InputError, match=rf"other\.pth.*{sentence}"):
        load(path, preset=NAME)


def test_own_weights_of_a_run_that_diverged(trained: PanopticDETR, tmp_path: Path) -> None:
    with torch.no_grad():
        trained.decoder.query_embedding.weight[0, 0] = torch.nan
    save(trained, tmp_path / "last.safetensors")
    with pytest.raises(InputError, match=r"last\.safetensors: decoder\.query_embedding\.weight holds values that are NaN"):
        load(tmp_path)


def test_r101_weights_for_r50(small: dict[str, Tensor], tmp_path: Path) -> None:
    path = written(tmp_path / "detr-r101-panoptic-40021d53.pth", small)
    with pytest.raises(InputError, match=r"detr-r101-panoptic-40021d53\.pth: the weights lack"):
        load(path)


# Hostile and damaged files


class Hostile:
    """Unpickled the ordinary way, it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("kind", ["zip", "old torch", "bare pickle"])
def test_hostile_pickle_is_refused_and_runs_nothing(kind: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "was run", tmp_path / f"{NAME}.pth"
    content = {"model": {"detr.query_embed.weight": torch.zeros(3, 4)}, "optimizer": Hostile(marker)}
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(InputError, match=rf"{NAME}\.pth is refused.*could run code"):
        load(path)
    assert not marker.exists()
    torch.load(path, weights_only=False) if kind != "bare pickle" else pickle.loads(path.read_bytes())
    assert marker.exists(), "the file was harmless"


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_pickle(small: dict[str, Tensor], tmp_path: Path, zipped: bool, part: float) -> None:
    path = tmp_path / f"{NAME}.pth"
    torch.save({"model": small}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(InputError, match=rf"{NAME}\.pth is (damaged|refused)"):
        load(path)


@pytest.mark.parametrize(
    "content", [{"model": "r50"}, {"model": torch.zeros(3)}, {}, [], torch.zeros(2), {"a": 1}, {1: torch.zeros(1)}]
)
def test_file_without_a_state_dict(tmp_path: Path, content: Any) -> None:
    path = written(tmp_path / f"{NAME}.pth", content)
    with pytest.raises(InputError, match=rf"{NAME}\.pth holds no state dict"):
        load(path)


@pytest.mark.parametrize("part", [0.0, 0.0001, 0.5, 0.99])
def test_truncated_safetensors(tmp_path: Path, part: float) -> None:
    path = tmp_path / "cut.safetensors"
    save(PanopticDETR(TRAINABLE["tiny"], CATEGORIES), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(InputError, match=r"cut\.safetensors is damaged"):
        load(path)


@pytest.mark.parametrize("about", ["{", "{}", "[]", '{"preset": {"width": "wide"}, "categories": [], "num_classes": 3}'])
def test_damaged_description(tmp_path: Path, about: str) -> None:
    path = tmp_path / "mine.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"minidetr": about})
    with pytest.raises(InputError, match=r"mine\.safetensors: its description is damaged"):
        load(path)


@pytest.mark.parametrize(
    ("categories", "sentence"),
    [
        ([{"id": 2, "name": 5, "isthing": 1}], r"categories\[0\]: the field 'name' must be a text"),
        ([{"id": 2, "name": "sky", "isthing": 0}] * 2, "two 'categories' have the same id"),
        ([{"id": 99, "name": "sky", "isthing": 0}], r"must lie in 0\.\.8"),
        ([], "'categories' is empty"),
    ],
)
def test_damaged_categories(trained: PanopticDETR, tmp_path: Path, categories: list, sentence: str) -> None:
    path = tmp_path / "mine.safetensors"
    save(trained, path, notes={"categories": categories})
    with pytest.raises(InputError, match=rf"mine\.safetensors: its description is damaged \(.*{sentence}.*\): save"):
        load(path)


def test_foreign_safetensors(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors.*config\.json"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"model\.safetensors: the weights lack"):
        load(tmp_path, preset=NAME)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [("{", "is not valid JSON"), ("[]", "holds a list"), ('{"backbone": "resnet50"}', ": .*'d_model'.* is missing or wrong")],
)
def test_damaged_config(tmp_path: Path, config: str, sentence: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match=rf"config\.json{' ' * (sentence[0] != ':')}{sentence}"):
        load(tmp_path)


# Downloads


@pytest.fixture
def server(small: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the published address, with the file under the hash it really has; torch's cache is apart."""
    folder = tmp_path / "server"
    folder.mkdir()
    digest = sha256(written(folder / "file", {"model": small}).read_bytes()).hexdigest()
    path = (folder / "file").rename(folder / f"{NAME}-{digest[:8]}.pth")
    monkeypatch.setitem(PUBLISHED, NAME, (SMALL, path.name))
    monkeypatch.setattr(published, "PUBLISHED_ADDRESS", folder.as_uri() + "/")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    return path


def cached(server: Path) -> Path:
    return server.parents[1] / "cache" / "checkpoints" / server.name


def test_download_once(server: Path, small: dict[str, Tensor]) -> None:
    assert_same_weights(PanopticDETR.from_pretrained(NAME), small)
    assert cached(server).read_bytes() == server.read_bytes()
    server.unlink()
    assert_same_weights(PanopticDETR.from_pretrained(NAME), small)


def test_damaged_cache_is_named(server: Path) -> None:
    cached(server).parent.mkdir(parents=True)
    cached(server).write_bytes(server.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"{cached(server).name} is damaged.*delete it"):
        load(NAME)


def test_failed_download_names_address_and_destination(server: Path) -> None:
    server.unlink()
    with pytest.raises(InputError) as error:
        load(NAME)
    assert server.as_uri() in str(error.value) and str(cached(server)) in str(error.value)


def test_download_of_other_content_leaves_nothing(server: Path) -> None:
    server.write_bytes(b"not what was published")
    with pytest.raises(InputError, match="could not be downloaded.*invalid hash"):
        load(NAME)
    assert list(cached(server).parent.iterdir()) == []


# minidetr's own files


@pytest.fixture
def trained() -> PanopticDETR:
    """A `tiny` whose statistics are not the initial ones."""
    model = PanopticDETR(TRAINABLE["tiny"], CATEGORIES, num_classes=9)
    with torch.no_grad():
        model.backbone(torch.randn(2, 3, 64, 64))
    return model


def test_round_trip_is_exact(trained: PanopticDETR, tmp_path: Path) -> None:
    path = tmp_path / "made" / "run.safetensors"
    save(trained, path, notes={"epoch": 4})
    model = load(path)
    for key, value in trained.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=0, atol=0)
    assert (model.preset, model.categories, model.num_classes) == (trained.preset, CATEGORIES, 9)
    assert not model.training and trained.training
    assert [p.name for p in path.parent.iterdir()] == ["run.safetensors"]
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["minidetr"])["epoch"] == 4


def test_half_keeps_statistics_exact(trained: PanopticDETR, tmp_path: Path) -> None:
    save(trained, tmp_path / "full.safetensors")
    save(trained, tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.55 * (tmp_path / "full.safetensors").stat().st_size
    model = load(tmp_path / "half.safetensors")
    state = model.state_dict()
    statistics = 0
    for key, value in trained.state_dict().items():
        assert state[key].dtype == value.dtype
        if "running_" in key or not value.is_floating_point():
            torch.testing.assert_close(state[key], value, rtol=0, atol=0)
            statistics += 1
        else:
            torch.testing.assert_close(state[key], value, rtol=1e-3, atol=1e-6)
    assert statistics > 20
    assert any(not torch.equal(state[key], value) for key, value in trained.state_dict().items()), "nothing was stored in float16"


@pytest.mark.parametrize("names", [["last", "best"], ["model", "last"], ["model"]])
def test_a_runs_folder_gives_its_best_weights(names: list[str], tmp_path: Path) -> None:
    for queries, name in enumerate(names, start=3):  # the last of `names` is the one to be taken
        save(PanopticDETR(replace(TRAINABLE["tiny"], queries=queries), CATEGORIES), tmp_path / f"{name}.safetensors")
    assert load(tmp_path).preset.queries == 2 + len(names)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no best.safetensors"):
        load(tmp_path)


def test_a_failed_save_leaves_the_old_file(trained: PanopticDETR, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    save(trained, path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save(trained, path, notes={"not": object()})
    assert path.read_bytes() == before
