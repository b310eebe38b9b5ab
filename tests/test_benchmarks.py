"""The benchmark of a GPU runs whole on a CPU, in its small form: what a lent GPU's minutes are not to be spent on finding out.

And the tables: they say what was measured, and stand between their markers.
"""

from __future__ import annotations

import json
import re

import pytest

from benchmarks import after
from benchmarks.gpu import HEADS, main
from benchmarks.results import RESULTS, write_section
from minidetr.training.options import TrainOptions


def test_the_gpu_benchmark_in_its_small_form(tmp_path):
    main(["--device", "cpu", "--small", "--output", str(tmp_path / "GPU.md")])
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
