"""The benchmark of a GPU runs whole on a CPU, in its small form: what a lent GPU's minutes are not to be spent on finding out.

And the tables: they say what was measured, and stand between their markers.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch

from benchmarks import after, engines, steps
from benchmarks.gpu import HEADS
from benchmarks.plain import PlainDETR
from benchmarks.results import RESULTS, write_section
from minidetr.data.batch import Batch
from minidetr.model import PanopticDETR
from minidetr.presets import Preset
from minidetr.scenes.painters import CATEGORIES
from minidetr.training.options import TrainOptions
from tests.model.spread import spread


def test_the_gpu_benchmark_in_its_small_form(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--small", "--output", str(tmp_path / "GPU.md")]
    subprocess.run(command, check=True, cwd=RESULTS.parents[1])  # as people call it; compiled code beside nobody else's libraries
    written = (tmp_path / "GPU.md").read_text()
    assert re.match(r"# On .+\n\n\d{4}-\d\d-\d\d, torch ", written)
    for head in HEADS.values():
        assert f"| {head[0]} |" in written
    assert "| 0.0e+00 | 0.0e+00 | 0.0e+00 | 100.000 % |" in written  # the CPU against itself
    assert "accumulate 2" in written and "bfloat16" in written and "stopped at iteration 5 of 8 | 0.0e+00" in written


def test_a_section_takes_the_place_of_the_one_before(tmp_path):
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\nfirst\n")
    write_section(path, "<start>", "<end>", "old")
    path.write_text(path.read_text() + "\nlast\n")
    write_section(path, "<start>", "<end>", "new")
    assert path.read_text() == "# Results\n\nfirst\n\n<start>\n\nnew\n\n<end>\n\nlast\n"


def run(row: str, seed: int, minutes: float, pq: float) -> dict:
    scores = [{"PQ": pq, "PQ things": pq - 1, "PQ stuff": pq + 1, "box AP": 1.0, "iteration": 10.0}]
    about = {"row": row, "seed": seed, "minutes": minutes, "processes": 2, "date": "2026-01-01", "machine": "a machine"}
    return about | {"scores": scores}


def test_runs_of_other_lengths_have_a_table_of_their_own():
    text = after.tables([run("plain", 0, 6.0, 40), run("plain", 1, 6.0, 50), run("dot", 0, 6.0, 52), run("plain", 0, 60.0, 70)])
    six, hour = text.split("## After DETR: from nothing in ")[1:]
    assert six.startswith("6 minutes") and hour.startswith("60 minutes")
    assert "| 2 | 45.0 (40.0 to 50.0) | 44.0 | 46.0 | 1.0 | 10 |" in six and "| 1 | 52.0 |" in six
    assert "| 1 | 70.0 |" in hour and "dot" not in hour


def test_what_was_measured_is_what_the_results_say():
    assert after.tables(json.loads(after.MEASURED.read_text())) in RESULTS.read_text(encoding="utf-8")


@pytest.mark.parametrize("row", after.ROWS)
def test_every_row_trains_with_options_that_there_are(row, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr("minidetr.training.loop.train", lambda resume, **options: asked.update(options))
    from minidetr.commands.main import main as minidetr

    minidetr(["train", "--minutes", "1", *after.COMMON.split(), *after.ROWS[row][1].split(), "--output", str(tmp_path)])
    assert TrainOptions(**asked).filled().minutes == 1


def test_passes_have_a_table_of_their_own_too():
    of_passes = {**run("plain", 0, 6.0, 33), "passes": 2}
    del of_passes["minutes"]
    text = after.tables([run("plain", 0, 6.0, 40), of_passes])
    assert "from nothing in 6 minutes" in text and "from nothing in 2 passes over 8,000 scenes" in text


def test_the_plain_peer_computes_what_the_model_does():
    model = PanopticDETR(
        Preset(encoder_layers=1, decoder_layers=2, queries=5, width=64, mask_widths=(72, 32, 16, 8, 8)), CATEGORIES
    )
    spread(model, 64)
    image = torch.randn(1, 3, 96, 128)
    with torch.inference_mode():
        seen = model.detect(Batch.pad([image[0]]))
        masks = model.masks(seen, torch.zeros(5, dtype=torch.long), torch.arange(5))
        for theirs, ours in zip(PlainDETR(model.eval())(image), (seen.logits, seen.boxes, masks[None]), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "tiny-after"])
def test_every_engine_is_timed_on_the_same_images(name, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "SCENES", 1)
    monkeypatch.setattr(engines, "ENGINES", engines.ENGINES[:2])  # the others have tests of their own
    monkeypatch.setattr(engines.onnx, "export", lambda model, folder: None)
    lines = engines.table(tmp_path, name, 1)
    assert [line.split(" | ")[1] for line in lines][-2:] == ["PyTorch", "PyTorch"] and lines[-2].endswith("| 100.000 |")


@pytest.mark.slow
@pytest.mark.parametrize("name", steps.MODELS)
def test_every_model_makes_a_training_step(name):
    run, _ = steps.step_of(name, 64)
    assert 0 < run() < float("inf")
