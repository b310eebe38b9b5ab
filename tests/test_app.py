"""The page to try a model on: what it answers to gradio's own client, and to a click."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidetr.app import build, heads, look, rows
from minidetr.commands.main import main
from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.presets import TRAINABLE
from minidetr.scenes.dataset import HELD_OUT_SEED, SceneData
from minidetr.scenes.painters import CATEGORIES
from minidetr.weights.load import load, save

gradio = pytest.importorskip("gradio", reason="gradio is not installed: pip install 'minidetr[test]'")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "site.png"
    SceneData(1, HELD_OUT_SEED).read(0)[0].save(path)
    return path


@pytest.mark.slow
def test_the_page_answers_gradios_client(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradio_client import Client, handle_file

    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    page = build("tiny")
    _, address, _ = page.launch(prevent_thread_lock=True, server_name="127.0.0.1", quiet=True, share=False)
    try:
        client = Client(address, verbose=False)
        overlay, table, *_ = client.predict(handle_file(photo), 0.7, api_name="/segment")
        ours = load("tiny").segment([photo], 0.7)[0]
        assert Image.open(overlay).width >= Image.open(photo).width
        assert sorted(row[3] for row in table["data"]) == sorted(segment.area for segment in ours.segments)
        assert table["headers"] == ["class", "kind", "score", "pixels", "share"]
        grey = photo.with_name("grey.png")  # 16 bits: gradio's own reading of it is white all over
        Image.fromarray((np.linspace(0, 60000, 96 * 96).reshape(96, 96)).astype(np.uint16)).save(grey)
        _, table, *_ = client.predict(handle_file(grey), 0.05, api_name="/segment")
        ours = load("tiny").segment([grey], 0.05)[0]
        assert sorted(row[3] for row in table["data"]) == sorted(segment.area for segment in ours.segments) != []
        with pytest.raises(Exception, match="Give a photo first"):
            client.predict(None, 0.7, api_name="/segment")
    finally:
        page.close()


@pytest.mark.parametrize("name", ["tiny", "tiny-after"])
def test_a_click_finds_the_query_that_made_the_segment(name: str, photo: Path) -> None:
    model = load(name)
    found = look(model, Image.open(photo), model.preset.threshold)
    assert (found.heatmaps is None) == (name == "tiny-after") and len(rows(found, model)) == len(found.panoptic.segments) > 3
    for segment in found.panoptic.segments:
        ys, xs = np.nonzero(found.panoptic.segment_ids == segment.id)
        middle, enlarged = len(ys) // 2, found.overlay.shape[1] / found.photo.shape[1]
        of_segment, k = found.at(int((xs[middle] + 0.5) * enlarged), int((ys[middle] + 0.5) * enlarged))
        assert of_segment is segment and found.labels[k] == segment.category_id
        assert heads(found, k, "title").width > 500
    assert found.at(-1, 0) is None and found.at(10**6, 0) is None
    assert found.at(5, found.overlay.shape[0] - 5) is None  # the legend


def test_where_nothing_is_there_is_no_query(photo: Path) -> None:
    found = look(load("tiny"), Image.open(photo), 1.0)
    assert found.panoptic.segments == [] and found.at(10, 10) is None and found.heatmaps is None


MAIN = """
import gradio, runpy
gradio.Blocks.launch = lambda page: print("served", page.title)
runpy.run_path("app.py", run_name="__main__")
"""


@pytest.mark.slow
def test_a_space_is_this_file_and_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    space = tmp_path / "space"
    assert main(["app", "tiny-after", "--space", str(space)]) == 0
    assert "upload it as a Space" in capsys.readouterr().out
    environment = {key: value for key, value in os.environ.items() if key != "MINIDETR_MODEL"}
    done = subprocess.run([sys.executable, "-c", MAIN], cwd=space, env=environment, capture_output=True, text=True)
    assert "served minidetr: tiny-after" in done.stdout, done.stderr
    assert "minidetr[app]" in (space / "requirements.txt").read_text() and "sdk: gradio" in (space / "README.md").read_text()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "app.py").write_text("mine")
    assert main(["app", "tiny", "--space", str(tmp_path / "mine")]) == 2 and (tmp_path / "mine" / "app.py").read_text() == "mine"


def test_without_gradio_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"gradio is not installed: pip install 'minidetr\[app\]'"):
        build("tiny")


def test_a_model_without_masks_is_refused(tmp_path: Path) -> None:
    save(PanopticDETR(replace(TRAINABLE["tiny"], mask_widths=None), CATEGORIES), tmp_path / "boxes.safetensors")
    with pytest.raises(InputError, match="boxes.safetensors is a detection model without masks"):
        build(str(tmp_path / "boxes.safetensors"))


@pytest.mark.parametrize("name", ["nosuchmodel", "runs/site/", 'a"b', "r18"])
def test_a_space_has_a_model_that_it_can_load(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["app", name, "--space", str(tmp_path / "space")]) == 2
    assert "is no model that a Space can load" in capsys.readouterr().err and not (tmp_path / "space").exists()
    assert main(["app", "tiny", "--space", str(tmp_path / "space"), "--port", "5"]) == 2
    assert main(["app", "tiny", "--port", "70000"]) == 2 and "65535" in capsys.readouterr().err
