"""ONNX and OpenVINO: the same results as PyTorch's, for any size and number of objects, from files that say what they are."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from minidetr.after import build
from minidetr.commands.main import main
from minidetr.data.batch import Batch, same_size
from minidetr.data.images import normalise
from minidetr.errors import InputError
from minidetr.export import engines, openvino
from minidetr.export import onnx as onnx_format
from minidetr.export.engine import Engine
from minidetr.model import PanopticDETR
from minidetr.panoptic import Category
from minidetr.presets import TRAINABLE, Preset
from minidetr.scenes.dataset import HELD_OUT_SEED, SceneData
from minidetr.scenes.painters import CATEGORIES
from minidetr.weights.load import load, save
from tests.model.spread import spread

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'minidetr[test]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'minidetr[test]'")
pytest.importorskip("openvino", reason="openvino is not installed: pip install 'minidetr[test]'")

GAPPED = [Category(1, "worker", True), Category(4, "sky", False), Category(6, "crane", True)]
SIZES = ((288, 288), (200, 311), (33, 480), (1, 5000))


def drawn(preset: Preset) -> PanopticDETR:
    """A model with random weights whose masks differ from query to query, of classes with gaps between their ids."""
    model = build(preset, GAPPED)
    spread(model, preset.width)
    return model.eval()


def r50() -> PanopticDETR:
    return drawn(Preset(encoder_layers=1, decoder_layers=2, queries=12, short_side=160, long_side=200, threshold=0.2))


def boxes() -> PanopticDETR:
    return drawn(replace(TRAINABLE["tiny"], mask_widths=None, starts=True))  # its queries start from cells, too


MODELS = {
    "tiny": lambda: load("tiny"),
    "tiny-after": lambda: load("tiny-after"),
    "r50": r50,
    "boxes": boxes,
}
WITH_MASKS = [name for name in MODELS if name != "boxes"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[PanopticDETR, Path]]:
    """Models and their exports, each made when it is first asked for."""
    made: dict[str, tuple[PanopticDETR, Path]] = {}

    class Exports(dict):
        def __missing__(self, name: str) -> tuple[PanopticDETR, Path]:
            model, folder = MODELS[name](), tmp_path_factory.mktemp("exports") / name
            onnx_format.export(model, folder)
            self[name] = (model, folder)
            return self[name]

    return Exports(made)


def photo(size: tuple[int, int]) -> np.ndarray:
    """Blobs rather than noise, H W 3."""
    small = np.random.default_rng(0).random((4, 5, 3)) * 255
    return np.asarray(torch.nn.functional.interpolate(torch.tensor(small).permute(2, 0, 1)[None], size)[0].permute(1, 2, 0)).astype(
        "uint8"
    )


def pixels(model: PanopticDETR, image: np.ndarray) -> torch.Tensor:
    [(group, _)] = same_size([image], model.preset.short_side, model.preset.long_side, 1)
    return group[0]


def agreement(model: PanopticDETR, engine: Engine, images: list) -> float:
    """The share of pixels with the same segment."""
    same = total = 0
    for image in images:
        ours, theirs = model.segment([image])[0], engine.segment([image])[0]
        same += int((ours.segment_ids == theirs.segment_ids).sum())
        total += ours.segment_ids.size
    return same / total


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_MASKS)
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_an_engine_segments_as_pytorch_does(name: str, engine: str, exported: dict) -> None:
    model, folder = exported[name]
    images = [SceneData(20, HELD_OUT_SEED).read(i)[0] for i in range(20)] if name.startswith("tiny") else [photo(s) for s in SIZES]
    assert agreement(model, engines.opened(folder, engine, "float32"), images) >= 0.9999
    assert any(len(model.segment([image])[0].segments) > 2 for image in images)  # it is not nothing on both sides


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_logits_boxes_and_masks_are_equal(name: str, exported: dict) -> None:
    model, folder = exported[name]
    session = onnxruntime.InferenceSession(folder / "whole.onnx")
    for size in SIZES:
        image = pixels(model, photo(size))
        with torch.inference_mode():
            seen = model.detect(Batch.pad([normalise(image)]))
        inputs = {"pixels": image[None].float().numpy()}
        if name == "boxes":
            logits, found = session.run(None, inputs)
        else:
            for K in (1, 5):
                logits, found, query_index, masks = session.run(None, inputs | {"ranks": np.arange(K)})
                with torch.inference_mode():
                    ours = model.masks(seen, torch.zeros(K, dtype=torch.long), torch.from_numpy(query_index))
                np.testing.assert_allclose(masks, ours, rtol=1e-4, atol=2e-3)
                scores, labels = seen.logits[0].softmax(-1).max(-1)
                known = torch.isin(labels, torch.tensor([c.id for c in model.categories]))
                order = (scores * known).argsort(descending=True)[:K]
                torch.testing.assert_close((scores * known)[query_index], (scores * known)[order])  # ties may be either way round
        np.testing.assert_allclose(logits, seen.logits[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found, seen.boxes[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_files_say_what_they_are_and_whose_machine_made_them_they_do_not(exported: dict) -> None:
    model, folder = exported["tiny"]
    about = json.loads((folder / "model.json").read_text())
    assert about["kind"] == "heatmaps" and about["graphs"].keys() == {"encode", "decode", "heatmaps", "mask_head", "whole"}
    assert [entry["name"] for entry in about["categories"]] == [c.name for c in CATEGORIES]
    sizes = {path.stem: path.stat().st_size for path in folder.glob("*.onnx")}
    assert sizes.keys() == about["graphs"].keys()
    assert sizes["whole"] < 6_200_000 and sum(sizes.values()) < 12_400_000  # weights of float16 are stored as float16
    for name, graph in about["graphs"].items():
        proto = onnx.load(folder / f"{name}.onnx")
        assert json.loads(proto.metadata_props[0].value) == about
        assert [value.name for value in proto.graph.input] == graph["inputs"]
        assert [value.name for value in proto.graph.output] == graph["outputs"]
        assert str(Path(__file__).parents[2]).encode() not in proto.SerializeToString()
        assert proto.opset_import[0].version == about["opset"] == onnx_format.OPSET


@pytest.mark.slow
def test_nothing_kept_is_a_result_without_a_segment(exported: dict) -> None:
    _, folder = exported["tiny"]
    (panoptic,) = onnx_format.run(folder, [photo((50, 60))], threshold=1.0)
    assert panoptic.segments == [] and panoptic.segment_ids.shape == (50, 60) and not panoptic.segment_ids.any()


@pytest.mark.slow
def test_float_tensors_are_photos_too(exported: dict) -> None:
    model, folder = exported["tiny"]
    image = torch.from_numpy(photo((288, 288)).copy()).permute(2, 0, 1)
    of_bytes, of_floats = onnx_format.OnnxEngine(folder).segment([image, image / 255])
    assert np.mean(of_bytes.segment_ids != of_floats.segment_ids) < 1e-3


@pytest.mark.slow
def test_int8_says_what_it_loses(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = SceneData(6, HELD_OUT_SEED)
    (tmp_path / "photos").mkdir()
    for i in range(6):
        data.read(i)[0].save(tmp_path / "photos" / f"{i}.png")
    out = tmp_path / "int8"
    assert main(["export", "tiny", "--to", "onnx", str(out), "--int8", str(tmp_path / "photos")]) == 0
    said = float(capsys.readouterr().out.rsplit("int8: ", 1)[1].split(" %")[0])
    kinds = {node.op_type for node in onnx.load(out / "encode.onnx").graph.node}
    assert 99 < said < 100 and "DequantizeLinear" in kinds
    assert json.loads((out / "model.json").read_text())["convolutions"] == "int8"


@pytest.mark.slow
def test_openvino_has_files_of_its_own(exported: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = exported["tiny-after"]
    monkeypatch.setattr(onnx_format, "export", lambda _, to: shutil.copytree(folder, to))  # once more would be the same
    openvino.export(model, tmp_path / "out")
    engine = openvino.OpenvinoEngine(tmp_path / "out")
    assert engine.format == "openvino" and sorted(path.suffix for path in (tmp_path / "out").glob("whole.*")) == [".bin", ".xml"]
    assert agreement(model, engine, [SceneData(3, HELD_OUT_SEED).read(i)[0] for i in range(3)]) >= 0.9999
    found, by = engines.load_engine(str(tmp_path / "out"))
    assert isinstance(found, openvino.OpenvinoEngine) and by == "openvino, float32"
    with pytest.raises(InputError, match="is an export for OpenVINO: leave out --engine onnx"):
        engines.load_engine(str(tmp_path / "out"), "onnx")


IN_BFLOAT16 = """
import sys
from minidetr.export.engines import opened
from minidetr.scenes.dataset import HELD_OUT_SEED, SceneData
from minidetr.weights.load import load
model, engine = load("tiny"), opened(__import__("pathlib").Path(sys.argv[1]), "openvino", "bfloat16")
images = [SceneData(4, HELD_OUT_SEED).read(i)[0] for i in range(4)]
pairs = zip(model.segment(images), engine.segment(images), strict=True)
print(min(float((ours.segment_ids == theirs.segment_ids).mean()) for ours, theirs in pairs))
"""


@pytest.mark.slow
def test_bfloat16_is_near(exported: dict) -> None:
    # In a process of its own: in bfloat16 OpenVINO 2026.4 has more than one fault, and what came later in this one crashed once.
    command = [sys.executable, "-c", IN_BFLOAT16, str(exported["tiny"][1])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) > 0.95


@pytest.mark.slow
def test_numbers_that_are_none_are_told(exported: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = exported["tiny"]
    engine = onnx_format.OnnxEngine(folder)
    run = engine.run
    broken = lambda name, inputs: {key: value * np.nan for key, value in run(name, inputs).items()}  # noqa: E731
    monkeypatch.setattr(engine, "run", broken)
    with pytest.raises(InputError, match="computes no numbers"):
        engine.segment([photo((60, 60))])


@pytest.mark.slow
def test_predict_takes_an_export_and_writes_what_pytorch_writes(
    exported: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    _, folder = exported["tiny"]
    (tmp_path / "photos").mkdir()
    SceneData(1, HELD_OUT_SEED).read(0)[0].save(tmp_path / "photos" / "a.png")
    for model, out in (("tiny", "ours"), (str(folder), "theirs")):
        assert main(["predict", str(tmp_path / "photos"), "--model", model, "--output", str(tmp_path / out)]) == 0
    assert "by onnx, float32" in capsys.readouterr().out
    ours, theirs = (json.loads((tmp_path / out / "panoptic.json").read_text()) for out in ("ours", "theirs"))
    assert ours["categories"] == theirs["categories"]
    classes = [[s["category_id"] for s in content["annotations"][0]["segments_info"]] for content in (ours, theirs)]
    assert classes[0] == classes[1]


@pytest.mark.slow
def test_a_model_is_exported_on_the_way(exported: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = exported["tiny-after"][1]
    monkeypatch.setattr(onnx_format, "export", lambda _, to: shutil.copytree(folder, to, dirs_exist_ok=True))
    engine, by = engines.load_engine("tiny-after", "onnx")
    assert isinstance(engine, onnx_format.OnnxEngine) and "made ready in" in by and not engine.folder.exists()
    assert engine.segment([photo((60, 60))])[0].segment_ids.shape == (60, 60)


@pytest.mark.slow
def test_a_model_s_name_wins_over_a_folder_of_that_name(exported: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(exported["tiny-after"][1], tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    assert engines.load_engine("tiny")[0].preset == TRAINABLE["tiny"]
    with pytest.raises(InputError, match="is an export, which `minidetr predict` alone takes"):
        load(tmp_path / "tiny")
    with pytest.raises(InputError, match="one photo after the other"):
        onnx_format.OnnxEngine(tmp_path / "tiny").segment([photo((9, 9))], batch_size=2)


def test_a_detection_model_is_refused_before_it_is_exported(tmp_path: Path) -> None:
    save(boxes(), tmp_path / "boxes.safetensors")
    with pytest.raises(InputError, match="boxes.safetensors is a detection model without masks"):
        engines.load_engine(str(tmp_path / "boxes.safetensors"), "onnx")


def test_auto_is_pytorch_where_an_export_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert engines.fastest(None, None, photos=3) == "torch"
    assert engines.fastest(None, None, photos=1000) == "onnx" == engines.fastest("cpu", "onnx", photos=1)
    assert engines.fastest(None, None, photos=1000, precision="bfloat16") == "torch"
    assert (
        engines.fastest(None, "onnx", photos=1, precision="bfloat16") == "openvino" == engines.fastest(None, "openvino", photos=1)
    )
    assert engines.fastest("cuda", None, photos=1000) == "torch"
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == "onnxruntime" else object())
    assert engines.fastest(None, None, photos=1000) == "openvino"
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert engines.fastest(None, None, photos=1000) == "torch"


def edited(change):
    """A change of a folder's model.json."""

    def work(folder: Path) -> None:
        about = json.loads((folder / "model.json").read_text())
        change(about)
        (folder / "model.json").write_text(json.dumps(about))

    return work


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: (f / "decode.onnx").write_bytes(b"no graph"), "decode.onnx is missing or damaged"),
        (lambda f: (f / "decode.onnx").unlink(), "decode.onnx is missing or damaged"),
        (lambda f: (f / "model.json").write_text("{}"), "model.json is damaged .*'preset'"),
        (edited(lambda about: about["preset"].update(short_side="288")), "model.json is damaged .*'short_side'"),
        (edited(lambda about: about["preset"].update(long_side=0)), "model.json is damaged .*'long_side'"),
        (edited(lambda about: about["preset"].update(threshold=7)), "model.json is damaged .*'threshold' must lie in 0..1"),
        (edited(lambda about: about["preset"].pop("threshold")), "model.json is damaged .*'threshold'"),
        (edited(lambda about: about["categories"][0].update(id=50)), "model.json is damaged .*'num_classes'"),
        (edited(lambda about: about["categories"][0].update(id=about["categories"][1]["id"])), "ids of their own"),
        (edited(lambda about: about.update(categories=[])), "model.json is damaged .*ids of their own"),
        (edited(lambda about: about.update(kind="foo")), "model.json is damaged .*'foo'"),
        (edited(lambda about: about.update(kind="heatmaps")), "model.json is damaged .*do not fit 'kind'"),
        (edited(lambda about: about.update(graphs={})), "model.json is damaged .*do not fit 'kind'"),
        (edited(lambda about: about["graphs"].update(encode=None)), "model.json is damaged"),
        (edited(lambda about: about.update(format="foo")), "model.json is damaged .*'format'"),
        (lambda f: (f / "model.json").write_text("["), "model.json is not valid JSON"),
    ],
)
def test_damaged_exports_are_named(change, sentence: str, exported: dict, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exported["tiny-after"][1], folder)
    change(folder)
    with pytest.raises(InputError, match=sentence):
        engines.load_engine(str(folder), "onnx")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("tiny", "cuda", "onnx"), "computes on the CPU"),
        (("tiny", None, "onnx", "bfloat16"), "computes in float32"),
    ],
)
def test_what_an_engine_cannot_do_is_said(arguments: tuple, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, device, engine, *precision = arguments
    monkeypatch.setattr(onnx_format, "export", lambda model, folder: None)
    with pytest.raises(InputError, match=sentence):
        engines.load_engine(name, engine, device, precision=precision[0] if precision else "float32")


@pytest.mark.parametrize("name", ["masked attention", "half", "folder"])
def test_what_cannot_be_exported_is_said(name: str, tmp_path: Path) -> None:
    model = drawn(replace(TRAINABLE["tiny-after"], masked_attention=name == "masked attention"))
    if name == "half":
        model.half()
    if name == "folder":
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("kept")
    sentence = {"masked attention": "masked attention", "half": "float32 on the CPU", "folder": "is not an empty folder"}[name]
    with pytest.raises(InputError, match=sentence):
        onnx_format.export(model, tmp_path / "out")
    assert name != "folder" or [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "openvino"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    about = {"categories": [{"id": 1, "name": "sky", "isthing": 0}], "kind": "dot", "format": "onnx", "num_classes": 2}
    about |= {"preset": {"short_side": 1, "long_side": 1, "threshold": 0.5}}
    about |= {"graphs": dict.fromkeys(("encode", "decode", "dot_products"), {"inputs": [], "outputs": []})}
    (tmp_path / "model.json").write_text(json.dumps(about))
    work = {
        "onnx": lambda: onnx_format.export(boxes(), tmp_path / "out"),
        "onnxruntime": lambda: onnx_format.OnnxEngine(tmp_path),
        "openvino": lambda: openvino.OpenvinoEngine(tmp_path),
    }[package]
    with pytest.raises(
        InputError, match=rf"not installed: pip install 'minidetr\[{'openvino' if package == 'openvino' else 'onnx'}\]'"
    ):
        work()
