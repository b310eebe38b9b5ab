"""A run that is killed, or told to stop, loses nothing: three kills here, twenty by benchmarks/kill_training.py (make kill)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from minidetr.errors import WorkerDied
from minidetr.training import checkpoint
from minidetr.training.checkpoint import NAME, PREVIOUS, has_checkpoint, is_whole, read_checkpoint, write_checkpoint
from minidetr.training.feed import loader
from minidetr.training.report import read_rows

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")


def content(number: int) -> dict:
    return {"number": number, "weights": torch.full((1000,), float(number))}


def test_a_damaged_checkpoint_does_not_take_the_place_of_the_good_one_before_it(tmp_path, monkeypatch):
    """Else a run resumed from the previous one and killed between the two renames would be left with nothing."""
    write_checkpoint(tmp_path, content(1))
    write_checkpoint(tmp_path, content(2))
    (tmp_path / NAME).write_bytes((tmp_path / NAME).read_bytes()[:500])
    saved, warning = read_checkpoint(tmp_path)
    assert saved["number"] == 1 and f"{tmp_path / NAME} is damaged" in warning
    write_checkpoint(tmp_path, content(3))
    assert read_checkpoint(tmp_path)[0]["number"] == 3
    (tmp_path / NAME).unlink()  # as if killed between the renames of the next one
    assert read_checkpoint(tmp_path)[0]["number"] == 1 and has_checkpoint(tmp_path)


def test_a_full_disk_is_an_oserror_and_leaves_no_part(tmp_path):
    """torch makes a RuntimeError of it, whose traceback nobody should see."""
    import resource

    write_checkpoint(tmp_path, content(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_checkpoint(tmp_path, content(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path / NAME)
    assert [path.name for path in tmp_path.iterdir()] == [NAME] and read_checkpoint(tmp_path)[0]["number"] == 1


def test_what_does_not_read_back_is_no_checkpoint(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, content(1))
    monkeypatch.setattr(checkpoint.torch, "save", lambda whole, file: file.write(b"written, but broken"))
    with pytest.raises(Exception, match="cut off"):
        write_checkpoint(tmp_path, content(2))
    assert is_whole(tmp_path / NAME) and not (tmp_path / PREVIOUS).exists()


def test_a_row_cut_off_by_a_full_disk_is_left_out(tmp_path):
    (tmp_path / "losses.csv").write_text("iteration,class,giou\n20,1.5,0.7\n40,1.2,0.6\n6")
    assert [row["iteration"] for row in read_rows(tmp_path / "losses.csv")] == ["20", "40"]


@posix
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_three_times_a_run_ends_as_one_never_killed(tmp_path):
    command = [sys.executable, "-m", "benchmarks.kill_training", "--kills", "3", "--iterations", "4", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "3  killed" in done.stdout and "ended as never cut off, to the last bit" in done.stdout


def train(run: Path, *given: str) -> list[str]:
    """The command line of a run that would go on for long."""
    options = "--preset tiny --scenes 8 --batch-size 4 --size 64 --validation-images 1 --workers 0 --device cpu --epochs 1000"
    return ["train", *options.split(), "--cache", str(run.parent / "cache"), "--output", str(run), *given]


@posix
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 0), (signal.SIGINT, 2)])
def test_a_signal_saves_and_stops(tmp_path, number, workers):
    """Ctrl-C goes to the whole group of processes, those that load data among them."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "minidetr", *train(run, "--workers", str(workers), "--checkpoint-minutes", "0")]
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        until = time.monotonic() + 300
        while not (run / NAME).exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        os.killpg(process.pid, number) if number == signal.SIGINT else os.kill(process.pid, number)
        told, _ = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, told[-3000:]
    assert f"stopped: go on with --resume {run}" in told and "Traceback" not in told
    saved, warning = read_checkpoint(run)
    assert saved["place"]["iteration"] >= 1 and warning is None and not list(run.glob("*.part"))


class Deadly(torch.utils.data.Dataset):
    """Its second image takes the process that reads it with it, as the kernel does when memory runs out."""

    def __getitem__(self, index: int):
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        from minidetr.scenes.dataset import SceneData

        return SceneData(1, 0, 64)[0]


@posix
@pytest.mark.timeout(120)
def test_a_process_that_dies_while_it_loads_is_reported():
    with pytest.raises(WorkerDied, match="one of the 1 processes that load data died .*--workers 0"):
        list(loader(Deadly(), [[(0, 0)], [(1, 0)], [(0, 0)]], workers=1))


def launch(*arguments: str | Path) -> subprocess.Popen:
    """`accelerate launch` with two processes on a CPU, in a session of its own."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "minidetr"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_all(process: subprocess.Popen) -> None:
    """SIGKILL to a launcher and the processes it started, which have sessions of their own and would outlive it."""
    started = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    for number in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


@posix
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_killed_are_resumed_by_two(tmp_path):
    """SIGKILL to all of them while one writes its checkpoints; the resumed run goes on from the last and comes to its end."""
    run = tmp_path / "run"
    process = launch(*train(run, "--checkpoint-minutes", "0"))
    try:
        until = time.monotonic() + 400
        while not (run / PREVIOUS).exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        kill_all(process)
    told = process.communicate(timeout=60)[0]
    assert (run / PREVIOUS).exists(), told[-3000:]
    reached = read_checkpoint(run)[0]["place"]["iteration"]
    again = launch("train", "--resume", run, "--epochs", str((reached + 2) / 2))  # two iterations an epoch
    try:
        told = again.communicate(timeout=400)[0]
    finally:
        if again.poll() is None:
            kill_all(again)
    assert again.returncode == 0 and told.count(f"resumed: {run} at iteration {reached}") == 1, told[-3000:]
    saved, _ = read_checkpoint(run)
    assert saved["place"]["iteration"] == reached + 2 and len(saved["random"]) == 2
