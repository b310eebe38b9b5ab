"""A run on a machine that goes away: its backup has what is needed, in files that stay the same, and is gone on with elsewhere."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.training.backup import Backup, write_in_place
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


def iterations(folder: Path) -> dict[str, int]:
    """Of each checkpoint in a folder; -1 of one that isn't whole."""
    found = {}
    for name in (NAME, PREVIOUS):
        if (folder / name).exists():
            try:
                found[name] = torch.load(folder / name, weights_only=True)["place"]["iteration"]
            except Exception:
                found[name] = -1
    return found


def test_a_run_goes_on_from_its_backup_on_another_machine(tiny, tmp_path, monkeypatch):
    """And ends as one that was never cut off, whose tables it has; the backup follows, in files that stay the same."""
    expected = train(output=str(tmp_path / "whole"), **tiny)
    drive = tmp_path / "drive"
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        train(output=str(tmp_path / "first"), backup=str(drive), **tiny)
    names = {NAME, PREVIOUS, "best.safetensors", "best.next.safetensors", "options.json", "scores.csv"}
    assert {path.name for path in drive.iterdir()} == names and sorted(iterations(drive).values()) == [2, 3]
    inodes = {path.name: path.stat().st_ino for path in drive.iterdir()}
    resumed = train(resume=drive, output=str(tmp_path / "second"))
    for key, value in expected.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    for name in ("scores.csv", "losses.csv"):
        whole, second = (read_rows(tmp_path / run / name) for run in ("whole", "second"))
        assert [row | {"images_per_second": ""} for row in whole] == [row | {"images_per_second": ""} for row in second]
    assert {path.name: path.stat().st_ino for path in drive.iterdir() if path.name in inodes} == inodes  # nothing in the trash
    assert max(iterations(drive).values()) == 4
    best = (PanopticDETR.from_pretrained(path / "best.safetensors").state_dict() for path in (tmp_path / "second", drive))
    assert all(torch.equal(*values) for values in zip(*(state.values() for state in best), strict=True))


def test_a_backup_is_gone_on_with_in_its_place_from_the_newer_checkpoint(tiny, tmp_path, monkeypatch, capsys):
    """Whatever its name and its time, as after a download; nothing else is written to."""
    drive, run = tmp_path / "drive", tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        train(output=str(run), backup=str(drive), **tiny)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    moved = drive.rename(tmp_path / "moved")
    for name in (NAME, PREVIOUS):
        os.utime(moved / name, (0, 0))
    capsys.readouterr()
    train(resume=moved)
    told = capsys.readouterr().out
    assert f"resumed: {moved} at iteration 3" in told and f"no longer backed up to {drive}" in told
    assert iterations(moved)[NAME] == 4 and not drive.exists()
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_a_run_copied_to_go_its_own_way_leaves_the_first_as_it_is(tiny, tmp_path):
    run = tmp_path / "run"
    train(output=str(run), **tiny)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    train(resume=run, output=str(tmp_path / "branch"), epochs=3)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    assert iterations(tmp_path / "branch")[NAME] == 6


def test_a_full_or_missing_drive_does_not_end_the_run(tiny, tmp_path, capsys, monkeypatch):
    drive = tmp_path / "drive"

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minidetr.training.backup.write_in_place", full)
    train(output=str(tmp_path / "run"), backup=str(drive), **tiny)
    assert (tmp_path / "run" / "last.safetensors").is_file()
    assert f"attention: no backup to {drive} (No space left on device): the run goes on" in capsys.readouterr().out


@pytest.mark.parametrize("times", [1, 2, 3])
def test_copies_cut_off_again_and_again_leave_a_whole_one(tiny, tmp_path, monkeypatch, times):
    """In one process, and after a restart of it."""
    run, drive = tmp_path / "run", tmp_path / "drive"
    train(output=str(run), backup=str(drive), **tiny)
    identity = torch.load(run / NAME, weights_only=True)["identity"]

    def cut(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(5, "the machine is gone")

    for restarted in (False, True):
        backup = Backup(drive, run, identity)
        with monkeypatch.context() as patch:
            patch.setattr("minidetr.training.backup.write_in_place", cut)
            for _ in range(times):
                backup = Backup(drive, run, identity) if restarted else backup
                assert "the run goes on" in backup.copy(run)
        assert max(iterations(drive).values()) >= 3 and min(iterations(drive).values()) == -1
        assert Backup(drive, run, identity).copy(run) == "" and max(iterations(drive).values()) == 4


def test_best_weights_cut_off_are_there_a_second_time(tiny, tmp_path, capsys):
    drive = tmp_path / "drive"
    train(output=str(tmp_path / "run"), backup=str(drive), **tiny)
    whole = (drive / "best.safetensors").read_bytes()
    (drive / "best.safetensors").write_bytes(whole[:5000])
    train(resume=drive, output=str(tmp_path / "second"))
    assert (tmp_path / "second" / "best.safetensors").read_bytes() == whole
    for name in ("best.safetensors", "best.next.safetensors"):
        (drive / name).write_bytes(whole[:5000])
    train(resume=drive, output=str(tmp_path / "third"), epochs=3)
    assert "has no whole best weights" in capsys.readouterr().out
    PanopticDETR.from_pretrained(tmp_path / "third" / "best.safetensors")


def test_overwriting_a_longer_file_leaves_no_end_of_it(tmp_path):
    (tmp_path / "new").write_bytes(b"short")
    (tmp_path / "old").write_bytes(b"much longer")
    write_in_place(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == b"short"


def test_folders_that_do_not_go_together(tiny, tmp_path):
    run, drive = tmp_path / "run", tmp_path / "drive"
    with pytest.raises(InputError, match="is the run's own folder or in it"):
        train(**tiny, output=str(run), backup=str(run / "backup"))
    with pytest.raises(InputError, match="is the run's own folder"):
        train(output=str(run), backup=str(run), **tiny)
    with pytest.raises(InputError, match="can't be made .*is the drive mounted"):
        train(output=str(run), backup=str(tmp_path / "not" / "mounted"), **tiny)
    with pytest.raises(InputError, match="neither 'scenes' nor a folder"):
        train(output=str(run), backup=str(drive), **tiny | {"data": "nowhere"})
    assert not run.exists() and not drive.exists()  # nothing is left of what was refused
    train(output=str(run), backup=str(drive), **tiny)
    before = iterations(drive)
    for given in (
        {"output": str(tmp_path / "another")} | tiny,
        {"resume": other_run(tiny, tmp_path)},
        {"resume": other_run(tiny, tmp_path), "output": str(tmp_path / "x")},
    ):
        with pytest.raises(InputError, match=f"--backup {drive} holds another run"):
            train(backup=str(drive), **given)
    assert iterations(drive) == before and not (tmp_path / "x").exists()
    with pytest.raises(InputError, match="run holds a run already"):
        train(resume=drive, output=str(run))
    with pytest.raises(InputError, match="holds no checkpoint.pt"):
        train(resume=tmp_path / "nowhere", output=str(tmp_path / "x"))
    (tmp_path / "foreign").mkdir()
    torch.save({"model": {}}, tmp_path / "foreign" / NAME)
    with pytest.raises(InputError, match="is not the checkpoint of a training run"):
        train(resume=tmp_path / "foreign", output=str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def other_run(tiny: dict, tmp_path: Path) -> Path:
    """A run that has nothing to do with the others."""
    if not (tmp_path / "other").exists():
        train(output=str(tmp_path / "other"), **tiny)
    return tmp_path / "other"


def test_a_backup_asked_for_later_is_made(tiny, tmp_path):
    train(output=str(tmp_path / "run"), **tiny)
    train(resume=tmp_path / "run", backup=str(tmp_path / "drive"), epochs=3)
    assert max(iterations(tmp_path / "drive").values()) == 6


def test_losses_of_a_resumed_run_are_those_of_one_never_stopped(tiny, tmp_path, monkeypatch):
    """Each row the mean of all iterations since the last one, also of those before the stop."""
    tiny |= {"epochs": 11, "evaluate_every": 11}
    train(output=str(tmp_path / "whole"), **tiny)
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        train(output=str(tmp_path / "cut"), **tiny)
    train(resume=tmp_path / "cut")
    whole, cut = (read_rows(tmp_path / name / "losses.csv") for name in ("whole", "cut"))
    assert [row["iteration"] for row in whole] == ["20", "22"]
    assert [row | {"images_per_second": ""} for row in whole] == [row | {"images_per_second": ""} for row in cut]
