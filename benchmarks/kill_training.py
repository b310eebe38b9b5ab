"""Cut a training run off again and again and see that nothing is lost.

    python -m benchmarks.kill_training --kills 20

A small run (rendered scenes of 64 pixels, a checkpoint after every iteration) is ended by SIGKILL at random moments, by SIGKILL
while a checkpoint is being written, and by a full disk; after each it is resumed. When it gets to its end, its weights, optimiser
and moving average must be those of a run that was never cut off, to the last bit. Runs on a CPU, on Linux and macOS.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.utils.tensorboard  # noqa: F401 (imported here, so that a forked process need not)

from minidetr.commands import main as cli
from minidetr.training import loop  # noqa: F401 (as above)
from minidetr.training.checkpoint import NAME, read_checkpoint, read_whole

LIMIT = 900  # seconds that any one life of the run may take


def arguments_of(run: Path, cache: Path, iterations: int) -> list[str]:
    """The command line of the run: two iterations an epoch, evaluated in the middle and at the end."""
    given = {
        "preset": "tiny", "scenes": 8, "batch-size": 4, "size": 64, "validation-images": 1, "workers": 0, "device": "cpu",
        "precision": "float32", "dropout": 0.1, "ema": 0.9, "steps": "joint", "epochs": iterations / 2,
        "evaluate-every": iterations / 4, "checkpoint-minutes": 0, "cache": cache, "output": run,
    }  # fmt: skip
    return [text for name, value in given.items() for text in (f"--{name}", str(value))]


def live(arguments: list[str], log: Path, largest_file: int | None) -> None:
    """`minidetr train` in this process, what it prints in a file; writing more than `largest_file` bytes to a file fails."""
    torch.set_num_threads(1)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    sys.exit(cli.main(["train", *arguments]))


def start(run: Path, cache: Path, iterations: int, largest_file: int | None = None) -> BaseProcess:
    """A new life of the run: from its checkpoint where there is one. Forked, so that PyTorch is imported only once."""
    try:
        read_checkpoint(run)
        arguments = ["--resume", str(run)]
    except ValueError:
        arguments = arguments_of(run, cache, iterations)
    process = multiprocessing.get_context("fork").Process(
        target=live, args=(arguments, run.with_name(run.name + ".log"), largest_file)
    )
    process.start()
    return process


def finish(process: BaseProcess, log: Path) -> int:
    """Wait for a life's end; its exit code."""
    process.join(LIMIT)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"a run did not end in {LIMIT} seconds; its last words: {log.read_text()[-2000:]}")
    return process.exitcode


def kill(process: BaseProcess, moment: float, writing: Path | None) -> bool:
    """SIGKILL after `moment` seconds, or that long after the file `writing` appeared; False if the run ended before."""
    until = time.monotonic() + LIMIT
    while writing is not None and not writing.exists() and process.is_alive() and time.monotonic() < until:
        time.sleep(0.0005)
    process.join(moment)
    ended = not process.is_alive()
    process.kill()
    process.join()
    return not ended


def equal(one: object, other: object) -> bool:
    """Whether nested containers of tensors agree to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def same_end(run: Path, other: Path) -> bool:
    """Whether two finished runs have the same weights, optimiser, average, random state, scores and weights files."""
    states = [read_whole(folder / NAME) for folder in (run, other)]
    parts = ("objective", "optimizer", "average", "random")
    files = ("last.safetensors", "best.safetensors", "scores.csv")
    return all(equal(states[0][part], states[1][part]) for part in parts) and all(
        (run / name).read_bytes() == (other / name).read_bytes() for name in files
    )


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A disk of `size` bytes in memory mounted at `folder`; False where this user may not mount one."""
    folder.mkdir(parents=True)
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    try:
        yield mount.returncode == 0
    finally:
        if mount.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def kill_training(folder: Path, kills: int, iterations: int, seed: int) -> Counter[str]:
    """Do it in `folder`; counts of what happened. Raises AssertionError when anything was lost."""
    choose, told = random.Random(seed), Counter[str]()
    cache, whole = folder / "cache", folder / "whole"
    began = time.monotonic()
    process = start(whole, cache, iterations)
    while not (whole / (NAME + ".part")).exists() and process.is_alive():
        time.sleep(0.01)
    before_first = time.monotonic() - began
    assert finish(process, folder / "whole.log") == 0, (folder / "whole.log").read_text()[-3000:]
    an_iteration = (time.monotonic() - began - before_first) / iterations
    largest = (whole / NAME).stat().st_size
    print(f"uncut: {iterations} iterations, {an_iteration:.2f} s each with its checkpoint of {largest / 1e6:.0f} MB", flush=True)

    while told["killed"] < kills:
        told["runs"] += 1
        run = folder / f"cut-{told['runs']}"
        log = run.with_name(run.name + ".log")
        while True:
            part = run / (NAME + ".part")
            part.unlink(missing_ok=True)  # to see whether this life is killed while it writes one
            left = kills - told["killed"]
            if left > 0:
                kind = choose.choice(("at a random moment", "while a checkpoint is written"))
                if kind == "at a random moment":
                    happened = kill(start(run, cache, iterations), choose.uniform(0, before_first + 6 * an_iteration), None)
                else:
                    happened = kill(start(run, cache, iterations), choose.uniform(0, an_iteration / 2), part)
                told["killed"] += happened
                told[kind] += happened
                told["left a half-written checkpoint"] += part.exists()
                print(f"killed {told['killed']} of {kills}: {kind}" if happened else "ended before it was killed", flush=True)
                if not happened:
                    break
                if told["killed"] % 5 == 0:
                    code = finish(start(run, cache, iterations, choose.randrange(1000, largest)), log)
                    assert code == 2 and "File too large" in log.read_text(), log.read_text()[-3000:]
                    assert not part.exists()
                    told["stopped by a limit on file sizes"] += 1
            else:
                assert finish(start(run, cache, iterations), log) == 0, log.read_text()[-3000:]
                break
        assert "Traceback" not in log.read_text(), log.read_text()[-3000:]
        assert same_end(run, whole), f"{run} ended otherwise than {whole}"
        told["ended as never cut off, to the last bit"] += 1

    with small_disk(folder / "disk", int(2.2 * largest)) as mounted:
        if mounted:  # room for one checkpoint and the weights, but not for a second
            run = folder / "disk" / "run"
            log = folder / "disk.log"
            process = multiprocessing.get_context("fork").Process(
                target=live, args=(arguments_of(run, cache, iterations), log, None)
            )
            process.start()
            assert finish(process, log) == 2 and "No space left on device" in log.read_text(), log.read_text()[-3000:]
            assert "Traceback" not in log.read_text() and not list(run.glob("*.part")), log.read_text()[-3000:]
            read_checkpoint(run)
            subprocess.run(["mount", "-o", f"remount,size={20 * largest}", str(folder / "disk")], check=True)
            process = multiprocessing.get_context("fork").Process(target=live, args=(["--resume", str(run)], log, None))
            process.start()
            assert finish(process, log) == 0 and same_end(run, whole), log.read_text()[-3000:]
            told["stopped by a full disk, then ended to the last bit"] += 1
        else:
            print("no full disk was tried: this user may not mount one")
    return told


def main() -> None:
    """See the file's first lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=24, help="of the run")
    parser.add_argument(
        "--seed", type=int, default=int.from_bytes(os.urandom(3), "big"), help="of the moments (default: another each time)"
    )
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    given = parser.parse_args()
    print(f"seed {given.seed}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        told = kill_training((given.folder or Path(temporary)).resolve(), given.kills, given.iterations, given.seed)
    for what, count in told.items():
        print(f"{count:5d}  {what}")
    print(f"{time.monotonic() - began:.0f} seconds")


if __name__ == "__main__":
    main()
