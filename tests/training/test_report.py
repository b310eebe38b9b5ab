"""What a run leaves to look at: CSV files that survive a step's end and a resume, curves and pictures of something."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidetr import plot
from minidetr.model import PanopticDETR
from minidetr.panoptic import Panoptic
from minidetr.presets import TRAINABLE
from minidetr.scenes.dataset import SceneData
from minidetr.scenes.painters import CATEGORIES
from minidetr.training.report import LOSSES, SCORES, Report, read_rows


def losses(**values: float) -> dict[str, float]:
    return values


def filled(run: Path, iterations: range) -> None:
    report = Report(run, iterations.start - 1)
    for i in iterations:
        report.losses(losses(total=3.0 / i, l1=2.0 / i, **{"class": 1.0 / i}), {"iteration": i, "epoch": i / 4}, every=2)
        report.add(SCORES, {"iteration": i, "epoch": i / 4, "PQ": 10.0 * i, "box AP": 5.0 * i, "PQ stuff": float("nan")})
    report.close()


def test_losses_are_means_over_the_iterations_since_the_last_row(tmp_path):
    report = Report(tmp_path, 0)
    for i, value in enumerate((1.0, 3.0, 10.0, 20.0, 5.0), start=1):
        report.losses(losses(l1=value, total=2 * value), {"iteration": i, "epoch": i / 4}, every=2)
    rows = read_rows(tmp_path / LOSSES)
    assert rows == [
        {"iteration": "2", "epoch": "0.5", "l1": "2", "total": "4"},
        {"iteration": "4", "epoch": "1", "l1": "15", "total": "30"},
    ]


def test_another_step_has_other_columns(tmp_path):
    report = Report(tmp_path, 0)
    report.losses(losses(l1=1.0, total=1.0), {"iteration": 1}, every=1)
    report.losses(losses(l1=2.0, total=2.0), {"iteration": 2}, every=1)
    report.losses(losses(focal=3.0, total=3.0), {"iteration": 3}, every=1)
    report.losses(losses(focal=4.0, total=4.0), {"iteration": 4}, every=1)
    report.losses(losses(total=5.0, l1=5.0), {"iteration": 5}, every=1)
    columns = [[row[name] for row in read_rows(tmp_path / LOSSES)] for name in ("iteration", "l1", "focal", "total")]
    assert columns == [["1", "2", "3", "4", "5"], ["1", "2", "", "", "5"], ["", "", "3", "4", ""], ["1", "2", "3", "4", "5"]]
    with (tmp_path / LOSSES).open() as file:
        assert {len(row) for row in csv.reader(file)} == {4}


def test_rows_past_the_checkpoint_are_dropped(tmp_path):
    """A run that went on to iteration 9 after its checkpoint at 6, and is resumed from there, reads like one never cut off."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for run in (whole, cut):
        run.mkdir()
        filled(run, range(1, 7))
    filled(whole, range(7, 11))
    filled(cut, range(7, 10))
    (cut / (LOSSES + ".part")).write_text("half a")  # left by a killed process
    filled(cut, range(7, 11))
    for name in (LOSSES, SCORES):
        assert (whole / name).read_text() == (cut / name).read_text()
    assert [row["iteration"] for row in read_rows(cut / SCORES)] == [str(i) for i in range(1, 11)]


def test_tensorboard_has_the_same_numbers(tmp_path):
    filled(tmp_path, range(1, 5))
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("scores/PQ")] == [(i, 10.0 * i) for i in range(1, 5)]
    assert [e.step for e in events.Scalars("losses/total")] == [2, 4]


def ink(path: Path) -> list[int]:
    """How many pixels of each half of a picture are not white."""
    pixels = np.asarray(Image.open(path).convert("L"))
    half = pixels.shape[1] // 2
    return [int((part < 250).sum()) for part in (pixels[:, :half], pixels[:, half:])]


def test_the_curves_show_losses_and_scores(tmp_path):
    Report(tmp_path, 0).curves()  # nothing yet is no error
    empty = ink(tmp_path / "curves.png")
    filled(tmp_path, range(1, 21))
    Report(tmp_path, 20).curves()
    full = ink(tmp_path / "curves.png")
    assert all(after > before + 300 for before, after in zip(empty, full, strict=True)), (empty, full)


def test_losses_and_scores_are_drawn_over_the_same_iterations(tmp_path, monkeypatch):
    """Judged only at its end, a run must not look as if it had been judged all along."""
    filled(tmp_path, range(1, 21))
    rows = (tmp_path / SCORES).read_text().splitlines()
    (tmp_path / SCORES).write_text("\n".join([rows[0], *rows[-2:]]) + "\n")
    drawn = []
    real = plot.new_figure
    monkeypatch.setattr(plot, "new_figure", lambda *size: drawn.append(real(*size)) or drawn[-1])
    Report(tmp_path, 20).curves()
    left, right = drawn[0].axes
    assert left.get_xlim() == right.get_xlim() and left.get_xlim()[0] == 0 and 20 < left.get_xlim()[1] < 22


def test_pictures_show_truth_beside_prediction(tmp_path, tmp_path_factory):
    data = SceneData(2, 0, 64, cache=str(tmp_path_factory.getbasetemp() / "scenes"), workers=1)
    Report(tmp_path, 0).pictures(PanopticDETR(TRAINABLE["tiny"], CATEGORIES), data, "00000007")
    picture = Image.open(tmp_path / "validation" / "00000007.png").convert("RGB")
    assert picture.width > picture.height / 2
    left, right = np.split(np.asarray(picture)[:, : picture.width // 2 * 2], 2, axis=1)
    assert (left != right).any(axis=2).mean() > 0.2  # an untrained model finds nothing of the truth
    assert len(np.unique(left.reshape(-1, 3), axis=0)) > 50


def test_truth_as_a_panoptic(tmp_path):
    data = SceneData(1, 3, 64)
    _, ids, entries = data.read(0)
    panoptic = Panoptic.of_entries(ids, entries, data.categories)
    things = {c.id for c in CATEGORIES if c.is_thing}
    assert np.array_equal(panoptic.segment_ids, ids)
    assert [(s.id, s.category_id, s.area) for s in panoptic.segments] == [(e["id"], e["category_id"], e["area"]) for e in entries]
    assert all(s.is_thing == (s.category_id in things) and s.score == 1 for s in panoptic.segments)
