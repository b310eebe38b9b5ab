"""A run on a machine that goes away: its backup has what is needed, in files that stay the same, and is gone on with elsewhere."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.training.backup import back_up, write_in_place
from minidetr.training.checkpoint import NAME, PREVIOUS
from minidetr.training.loop import train
from minidetr.training.report import Report, read_rows
from minidetr.training.step import Step


@pytest.fixture
def tiny(tmp_path_factory, monkeypatch) -> dict:
    for name in ("curves", "pictures"):
        monkeypatch.setattr(Report, name, lambda *_: None)
    run = {"preset": "tiny", "scenes": 8, "validation_images": 1, "size": 64, "batch_size": 4, "workers": 0, "device": "cpu"}
    run |= {
        "cache": str(tmp_path_factory.getbasetemp() / "scenes"),
        "precision": "float32",
        "ema": 0.9,
        "dropout": 0.1,
        "quiet": True,
    }
    return run | {"epochs": 2, "evaluate_every": 1, "steps": "boxes", "checkpoint_minutes": 0, "backup_minutes": 0}


def stop_at(monkeypatch, iteration: int) -> None:
    real = Step.count

    def count(self, *rest):
        real(self, *rest)
        if self.run.place.iteration == iteration:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Step, "count", count)


def test_a_run_goes_on_from_its_backup_on_another_machine(tiny, tmp_path, monkeypatch):
    """And ends as one that was never cut off; the backup follows, and is gone on with in its place, too."""
    expected = train(output=str(tmp_path / "whole"), **tiny)
    drive = tmp_path / "drive" / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        train(output=str(tmp_path / "first"), backup=str(drive), **tiny)
    files = {path.name for path in drive.iterdir()}
    assert files == {NAME, PREVIOUS, "best.safetensors", "options.json", "scores.csv"}
    inodes = {path.name: path.stat().st_ino for path in drive.iterdir()}
    resumed = train(resume=drive, output=str(tmp_path / "second"))
    for key, value in expected.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert [row["iteration"] for row in read_rows(tmp_path / "second" / "scores.csv")] == ["2", "4"]
    assert {path.name: path.stat().st_ino for path in drive.iterdir()} == inodes  # nothing was thrown into the trash
    newest = max((torch.load(drive / name, weights_only=True) for name in (NAME, PREVIOUS)), key=lambda c: c["place"]["iteration"])
    assert newest["place"]["iteration"] == 4 and newest["options"]["backup"] == str(drive)
    best = (PanopticDETR.from_pretrained(path / "best.safetensors").state_dict() for path in (tmp_path / "second", drive))
    assert all(torch.equal(*values) for values in zip(*(state.values() for state in best), strict=True))
    in_place = train(resume=drive)
    assert torch.equal(in_place.heads.classes.weight, expected.heads.classes.weight)


def test_the_newer_of_two_whole_checkpoints_is_taken_whatever_their_times(tiny, tmp_path):
    drive = tmp_path / "drive"
    train(output=str(tmp_path / "run"), backup=str(drive), **tiny)
    iterations = {name: torch.load(drive / name, weights_only=True)["place"]["iteration"] for name in (NAME, PREVIOUS)}
    assert sorted(iterations.values()) == [3, 4]
    for name in (NAME, PREVIOUS):
        os.utime(drive / name, (0, 0))  # as after a download
    newest = max(iterations, key=lambda name: iterations[name])
    train(resume=drive, output=str(tmp_path / "second"))
    assert torch.load(tmp_path / "second" / NAME, weights_only=True)["place"]["iteration"] == 4
    damaged = drive / newest
    damaged.write_bytes(damaged.read_bytes()[:1000])
    train(resume=drive, output=str(tmp_path / "third"))
    assert torch.load(tmp_path / "third" / NAME, weights_only=True)["place"]["iteration"] == 4


def test_a_full_or_missing_drive_does_not_end_the_run(tiny, tmp_path, capsys, monkeypatch):
    drive = tmp_path / "drive"

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minidetr.training.backup.write_in_place", full)
    train(output=str(tmp_path / "run"), backup=str(drive), **tiny)
    assert (tmp_path / "run" / "last.safetensors").is_file()
    assert f"attention: no backup to {drive} (No space left on device): the run goes on" in capsys.readouterr().out
    drive.rmdir()
    assert "the run goes on" in back_up(tmp_path / "run", drive)


def test_a_copy_cut_off_leaves_the_other_one_whole(tiny, tmp_path, monkeypatch):
    run, drive = tmp_path / "run", tmp_path / "drive"
    train(output=str(run), backup=str(drive), **tiny)
    for slot in (drive / NAME, drive / PREVIOUS):
        before = slot.read_bytes()
        (other,) = {drive / NAME, drive / PREVIOUS} - {slot}
        os.utime(slot, (1, 1))

        def cut(source: Path, target: Path) -> None:
            target.write_bytes(b"half")
            raise OSError(5, "the machine is gone")

        with monkeypatch.context() as patch:
            patch.setattr("minidetr.training.backup.write_in_place", cut)
            assert back_up(run, drive)
        assert slot.read_bytes() == b"half"
        assert torch.load(other, weights_only=True)["place"]["iteration"] >= 3
        slot.write_bytes(before)


def test_overwriting_a_longer_file_leaves_no_end_of_it(tmp_path):
    (tmp_path / "new").write_bytes(b"short")
    (tmp_path / "old").write_bytes(b"much longer")
    write_in_place(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == b"short"


def test_folders_that_do_not_go_together(tiny, tmp_path):
    run, drive = tmp_path / "run", tmp_path / "drive"
    with pytest.raises(InputError, match="is the run's own folder"):
        train(output=str(run), backup=str(run), **tiny)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be made .*is the drive mounted"):
        train(output=str(run), backup=str(tmp_path / "file" / "x"), **tiny)
    assert not run.exists()
    train(output=str(run), backup=str(drive), **tiny)
    with pytest.raises(InputError, match=f"--backup {drive} holds a run already: go on with it by --resume {drive} --output"):
        train(output=str(tmp_path / "another"), backup=str(drive), **tiny)
    with pytest.raises(InputError, match="--output .*run holds a run already"):
        train(resume=drive, output=str(run))
    with pytest.raises(InputError, match="holds no whole checkpoint.pt"):
        train(resume=tmp_path / "nowhere", output=str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()
