"""Two contestants, each in a fresh process of its own, run in turns: seconds, peak memory and what came out."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Build = Callable[..., tuple[Callable[[], Any], Callable[[Any], Any]]]
"""Prepares everything that is not timed; returns what is timed, and what makes of its result something small to compare."""


@dataclass(frozen=True)
class Measured:
    """`seconds` is the median of `runs`; `peak` is the most memory the process ever held, `above` that less what it held when
    everything was loaded; both in bytes."""

    seconds: float
    runs: int
    peak: float
    above: float
    result: Any


class Contestant:
    """A process that prepares itself with `build(*arguments)` and then runs when told."""

    def __init__(self, build: Build, *arguments: Any, threads: int = 1) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, build, arguments, threads), daemon=False)
        self.process.start()
        other.close()
        self.times: list[float] = []
        self.pipe.recv()  # prepared

    def run(self) -> None:
        """Run once and note the time."""
        self.pipe.send("run")
        self.times.append(self.pipe.recv())

    def finish(self) -> Measured:
        """End the process; what was measured."""
        self.pipe.send("finish")
        result, peak, above = self.pipe.recv()
        self.process.join()
        return Measured(statistics.median(self.times), len(self.times), peak, above, result)


def serve(pipe: Any, build: Build, arguments: tuple, threads: int) -> None:
    """What a contestant's process does."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    run, result = build(*arguments)
    loaded = memory_now()
    pipe.send("prepared")
    raw = None
    while pipe.recv() == "run":
        del raw
        start = now(threads)
        raw = run()
        pipe.send(now(threads) - start)
    peak = peak_memory()
    pipe.send((result(raw), peak, max(peak - loaded, 0)))


def race(ours: Contestant, theirs: Contestant, repeats: int, slow_repeats: int | None = None) -> tuple[Measured, Measured]:
    """In turns, theirs only `slow_repeats` times."""
    for turn in range(repeats):
        ours.run()
        if turn < (slow_repeats or repeats):
            theirs.run()
    return ours.finish(), theirs.finish()


def now(threads: int) -> float:
    """Seconds: with one thread those that this process had a core for, whatever else the machine does; else the clock's."""
    return time.process_time() if threads == 1 else time.perf_counter()


def peak_memory() -> float:
    """The most bytes this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_now() -> float:
    """Bytes this process holds (on Linux; elsewhere the most it ever held)."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * resource.getpagesize() if status.exists() else peak_memory()
