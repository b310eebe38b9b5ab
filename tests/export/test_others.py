"""Exports that other projects' own code loads: transformers of two generations, the published code's names, the hub."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minidetr.commands.main import main
from minidetr.data.batch import Batch, same_size
from minidetr.data.images import normalise
from minidetr.errors import InputError
from minidetr.export import hub
from minidetr.export import transformers as transformers_format
from minidetr.model import PanopticDETR
from minidetr.panoptic import Category, write_json
from minidetr.presets import TRAINABLE, Preset, preset
from minidetr.weights.load import load, save
from tests.model.spread import spread
from tests.reference import REFERENCE

os.environ.setdefault("HF_HUB_OFFLINE", "1")
CATEGORIES = [Category(1, "worker", True), Category(2, "tower crane", True), Category(4, "sky", False)]
SMALL = {"encoder_layers": 1, "decoder_layers": 2, "short_side": 160, "long_side": 200}
PRESETS = {
    "r50": Preset(width=128, mask_widths=(136, 64, 32, 16, 8), queries=9, **SMALL),
    "r18": replace(TRAINABLE["r18"], queries=9, short_side=160, long_side=200),
    "boxes": Preset(mask_widths=None, queries=9, **SMALL),
    "dc5": Preset(dilation=True, queries=9, **SMALL),
}
OLD = "4.57.3"  # the last of transformers before its new DETR
WITH_OLD = (
    f"transformers=={OLD}",
    "huggingface_hub<1",
    "tokenizers>=0.22,<0.23",
    "requests",
    "urllib3",
    "idna",
    "certifi",
    "charset-normalizer",
)

# What a user of transformers does with a folder, in a process of its own: whichever version its PYTHONPATH says.
THEIRS = """
import json, sys, numpy, torch, transformers
from PIL import Image
folder, photo, out = sys.argv[1:]
print("transformers", transformers.__version__)
kind = json.load(open(folder + "/config.json"))["architectures"][0]
model, told = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
wrong = {k: sorted(v) for k, v in told.items() if v}
assert not wrong, wrong
processor = transformers.AutoImageProcessor.from_pretrained(folder)
inputs = processor(images=Image.open(photo).convert("RGB"), return_tensors="pt")
with torch.no_grad():
    found = model.eval()(**inputs)
arrays = {"pixels": inputs["pixel_values"], "logits": found.logits, "boxes": found.pred_boxes}
if "Segmentation" in kind:
    arrays["masks"] = found.pred_masks
    size = Image.open(photo).size[::-1]
    ids = set(model.config.stuff_ids)
    (result,) = processor.post_process_panoptic_segmentation(found, 0.1, 0.5, 0.5, label_ids_to_fuse=ids, target_sizes=[size])
    assert result["segmentation"].shape == size
numpy.savez(out, names=json.dumps(model.config.id2label), **{k: v.numpy() for k, v in arrays.items()})
"""


def drawn(preset: Preset) -> PanopticDETR:
    model = PanopticDETR(preset, CATEGORIES)
    spread(model, preset.width)
    return model.eval()


@pytest.fixture(scope="module")
def old_transformers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the transformers before its rewrite, for a PYTHONPATH; skips where pip reaches no index."""
    folder = tmp_path_factory.mktemp("old")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), *WITH_OLD]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"transformers {OLD} could not be fetched: {done.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("generation", ["installed", "old"])
@pytest.mark.parametrize("name", PRESETS)
def test_transformers_computes_the_same(name: str, generation: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if name == "dc5":
        pytest.importorskip("timm", reason="timm is not installed: pip install 'minidetr[test]'")
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'minidetr[test]'")
    path = str(request.getfixturevalue("old_transformers")) if generation == "old" else ""
    model, folder, photo = drawn(PRESETS[name]), tmp_path / "out", tmp_path / "photo.png"
    transformers_format.export(model, folder)
    Image.fromarray((np.random.default_rng(0).random((150, 190, 3)) * 255).astype("uint8")).save(photo)
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", THEIRS, str(folder), str(photo), str(tmp_path / "found.npz")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert generation == "installed" or f"transformers {OLD}" in done.stdout
    found = np.load(tmp_path / "found.npz")
    [(group, _)] = same_size([photo], model.preset.short_side, model.preset.long_side, 1)
    batch = Batch.pad([normalise(group[0])])
    np.testing.assert_allclose(found["pixels"], batch.images, atol=1e-5)  # its image processor resizes and normalises as we do
    with torch.inference_mode():
        seen = model.detect(batch)
        np.testing.assert_allclose(found["logits"], seen.logits, rtol=1e-4, atol=2e-4)
        np.testing.assert_allclose(found["boxes"], seen.boxes, rtol=1e-4, atol=1e-4)
        if name != "boxes":
            every = torch.arange(model.preset.queries)
            masks = model.masks(seen, torch.zeros_like(every), every)
            assert masks.std() > 0.1
            np.testing.assert_allclose(found["masks"][0], masks, rtol=1e-4, atol=1e-4)
    names = json.loads(str(found["names"]))
    assert names == {"0": "LABEL_0", "1": "worker", "2": "tower crane", "3": "LABEL_3", "4": "sky"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r50", "r18"])
def test_what_was_exported_for_transformers_comes_back(name: str, tmp_path: Path) -> None:
    model = drawn(PRESETS[name])
    transformers_format.export(model, tmp_path / "out")
    again = load(tmp_path / "out")
    for key, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)
    assert again.categories == CATEGORIES  # which of them are stuff, too, and no class for a gap
    sides = [(model.preset.short_side, model.preset.long_side, model.preset.threshold) for model in (model, again)]
    assert sides[0] == sides[1]


@pytest.mark.slow
def test_the_published_code_s_file_comes_back(tmp_path: Path) -> None:
    model = PanopticDETR(preset("detr-r50-panoptic"), CATEGORIES, 7).eval()
    save(model, tmp_path / "mine.safetensors")
    out = tmp_path / "out.pth"
    assert main(["export", str(tmp_path / "mine.safetensors"), "--to", "official", str(out)]) == 0
    again = load(out, "detr-r50-panoptic")
    assert again.num_classes == 7
    for key, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)
    if not REFERENCE.is_dir():
        pytest.skip("the names of the published code are not here to compare with")
    shapes = json.loads((REFERENCE / "official_state_dicts.json").read_text())["detr_resnet50_panoptic"]
    state = torch.load(out, weights_only=True)["model"]
    wrong = {key for key in shapes.keys() | state.keys() if list(state.get(key, torch.empty(0)).shape) != shapes.get(key)}
    assert wrong == {"detr.class_embed.weight", "detr.class_embed.bias"}  # 8 outputs instead of 251


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("tiny-after", ["--to", "official", "out.pth"], "the published code knows DETR's own heatmaps"),
        ("tiny-after", ["--to", "transformers", "out"], "transformers knows DETR's own heatmaps"),
        ("tiny", ["--to", "transformers", "out"], "transformers has no backbone narrow10"),
        ("tiny", ["--to", "official", "out"], "give a name that ends in .pth"),
        ("tiny", ["--to", "hub", "out"], "--repo ORG/NAME goes with --to hub"),
        ("tiny", ["--to", "hub", "out", "--repo", "no name"], "no name is no name of the hub"),
        ("tiny", ["--to", "onnx", "out", "--yes"], "--repo ORG/NAME goes with --to hub"),
        ("tiny", ["--to", "hub", "out", "--repo", "a/b", "--int8", "x"], "--int8 is an option of --to onnx"),
    ],
)
def test_what_cannot_be_exported_is_said(
    name: str, arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", name, *arguments]) == 2
    assert sentence in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_mask_head_of_other_widths_is_refused() -> None:
    with pytest.raises(InputError, match="mask head has the widths"):
        transformers_format.refuse_unlike(replace(PRESETS["r50"], mask_widths=(136, 64, 32, 16, 16)))


# The hub


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with what the card is written from."""
    folder = tmp_path / "run"
    (folder / "validation").mkdir(parents=True)
    (folder / "why").mkdir()
    save(load("tiny"), folder / "best.safetensors")
    options = {
        "preset": "tiny",
        "data": "/home/somebody/secret/site",
        "steps": "joint",
        "minutes": 20.0,
        "batch_size": 8,
        "seed": 3,
        "from_": None,
    }
    write_json(folder / "options.json", options)
    row = {"pq": 0.4203, "sq": 0.51, "rq": 0.5}
    quality = {"All": row, "Things": {"pq": None, "sq": None, "rq": None}, "per_class": {"1": {"name": "sky", **row, "pq": 0.938}}}
    write_json(folder / "why" / "why.json", {"images": 101, "quality": quality})
    write_json(folder / "test.json", {"data": "test", "images": 40, "PQ": 41.25, "box AP": 30.0})
    for name in ("00000100", "00000200"):
        Image.new("RGB", (4, 4), "red" if name.endswith("200") else "blue").save(folder / "validation" / f"{name}.png")
    return folder


def test_the_card_says_what_the_run_wrote(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    assert main(["export", str(run), "--to", "hub", str(out), "--repo", "me/site"]) == 0
    said = capsys.readouterr().out
    assert "nothing is uploaded without --yes" in said and f"scores and validation.png of {run}" in said
    card = (out / "README.md").read_text()
    for said in (
        'from_pretrained("me/site")',
        "| data | site |",
        "| minutes | 20.0 |",
        "| All | 42.0 | 51.0 | 50.0 |",
        "| Things | - | - | - |",
        "| sky | 93.8 |",
        "On 101 validation images, on which weights and threshold were chosen",
        "On 40 test images, evaluated once: PQ 41.2, box AP 30.0",
        "score above 0.7 are kept",
        "excavator, dump truck",
        "![validation](validation.png)",
    ):
        assert said in card, said
    assert "secret" not in card and "somebody" not in card
    assert Image.open(out / "validation.png").getpixel((0, 0)) == (255, 0, 0)  # the last one
    assert load(out).preset == load("tiny").preset


def test_scores_are_of_the_weights_that_are_exported(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "last.safetensors").write_bytes((run / "best.safetensors").read_bytes())
    monkeypatch.chdir(tmp_path)
    run.rename(tmp_path / "tiny")  # and the shipped model of that name is not the run's
    for number, name in enumerate(("tiny/last.safetensors", "tiny")):
        assert main(["export", name, "--to", "hub", f"out{number}", "--repo", "me/site"]) == 0
        assert "no scores" in capsys.readouterr().out
        assert "## Scores" not in (tmp_path / f"out{number}" / "README.md").read_text()
        assert sorted(path.name for path in (tmp_path / f"out{number}").iterdir()) == ["README.md", "model.safetensors"]
    assert main(["export", "tiny/best.safetensors", "--to", "hub", "out", "--repo", "me/site"]) == 0
    assert "## Scores" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("name", ["test.json", "options.json", "why/why.json"])
def test_a_run_s_file_that_is_not_its_own_is_told(name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (run / name).write_text('{"data": 5}')
    assert main(["export", str(run), "--to", "hub", str(tmp_path / "out"), "--repo", "me/site"]) == 2
    assert "is not as a run writes it" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "mine.pth").write_text("mine")
    assert main(["export", "tiny", "--to", "official", str(tmp_path / "mine.pth")]) == 2
    assert "is there already" in capsys.readouterr().err and (tmp_path / "mine.pth").read_text() == "mine"


@pytest.fixture
def fake_hub() -> Iterator[tuple[str, dict[str, bytes]]]:
    """The address of a hub that takes small files, and what it was given."""
    kept: dict[str, bytes] = {}

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            address = f"http://127.0.0.1:{self.server.server_port}/me/site"
            if self.path.endswith("/repos/create"):
                kept["created"] = body
                answer = {"url": address, "id": "me/site"}
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                answer = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            elif self.path.endswith("/validate-yaml"):
                answer = {"errors": [], "warnings": []}
            else:
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        kept[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                answer = {"commitOid": "0" * 40, "commitUrl": f"{address}/commit/0"}
            self.reply(200, answer)

        def do_GET(self) -> None:
            self.reply(200, {"id": "me/site", "sha": "0" * 40, "siblings": []})

        def reply(self, code: int, answer: dict) -> None:
            text = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", kept
    server.shutdown()


def test_an_upload_holds_every_file(run: Path, tmp_path: Path, fake_hub: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    address, kept = fake_hub
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    out = tmp_path / "out"
    hub.export(load(run), out, run, "me/site")
    where = hub.upload(out, "me/site", endpoint=address, token="hf_secret")
    assert where.endswith("me/site") and json.loads(kept.pop("created"))["name"] == "site"
    assert kept == {path.name: path.read_bytes() for path in out.iterdir()}


def test_without_a_token_nothing_is_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(InputError, match="no token of the Hugging Face hub: run `hf auth login`"):
        hub.upload(tmp_path, "me/site")


def test_what_the_hub_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="me/site could not be uploaded .*is whole"):
        hub.upload(tmp_path, "me/site", endpoint="http://127.0.0.1:9", token="hf_secret")
