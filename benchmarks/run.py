"""The table of benchmarks/RESULTS.md: minidetr against what one would pick instead, by one command.

    python -m benchmarks.run                     # everything, on one thread
    python -m benchmarks.run --only merge PQ     # some rows again; the others keep what was measured before
    python -m benchmarks.run --threads 2 --slow-repeats 3

Both sides of a row run in turns, each in a process of its own, with the same weights and inputs, and what comes out is compared
in the same run. On one thread, seconds are those that a side had the core for, so other work on the machine hardly changes them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks import data, models
from benchmarks.floor import floor, machine
from benchmarks.race import Contestant, Measured, race
from benchmarks.results import RESULTS, write_section
from minidetr.training.devices import best_precision

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- benchmarks: made by `make bench` -->", "<!-- end of benchmarks -->"
MEGA = 1e6


@dataclass
class Row:
    """One line of the table. `ratio` and `memory_ratio` are theirs over ours; `wanted` and `memory_wanted` the targets."""

    what: str
    ours: str
    theirs: str
    ratio: float
    wanted: float
    memory: str = ""
    memory_ratio: float = 0.0
    memory_wanted: float = 0.0
    equal: bool = True
    compared: str = ""
    date: str = ""

    @property
    def met(self) -> bool:
        """Fast enough, small enough and equal."""
        return self.ratio >= self.wanted and self.memory_ratio >= self.memory_wanted and self.equal

    def line(self) -> str:
        """As Markdown."""
        target = f"{self.wanted:g}x" + (f", memory {self.memory_wanted:g}x" if self.memory_wanted else "")
        ratio = f"{self.ratio:.1f}x" + (f", memory {self.memory_ratio:.1f}x" if self.memory_wanted else "")
        verdict = "met" if self.met else "**missed**"
        cells = (self.what, self.ours, self.theirs, self.memory, target, ratio, verdict, self.compared, self.date)
        return f"| {' | '.join(cells)} |"


@dataclass
class Settings:
    """What the rows need to know."""

    folder: Path
    threads: int
    repeats: int
    slow_repeats: int
    images: int

    def contestant(self, build: Callable, *arguments: object) -> Contestant:
        """A side of a row."""
        return Contestant(build, *arguments, threads=self.threads)


def timed(side: Measured) -> str:
    """Median and number of runs."""
    unit = f"{side.seconds:.2f} s" if side.seconds >= 1 else f"{1000 * side.seconds:.1f} ms"
    return f"{unit} ({side.runs})"


def row_of(
    what: str, ours: Measured, theirs: Measured, wanted: float, compared: tuple[bool, str], memory: str = "", less: float = 0
):
    """A row of two sides; `memory` is "peak" or "above", `less` how many times less ours should hold."""
    row = Row(what, timed(ours), timed(theirs), theirs.seconds / ours.seconds, wanted, equal=compared[0], compared=compared[1])
    if memory:
        held = [getattr(side, memory) for side in (ours, theirs)]
        row.memory = " / ".join(f"{size / MEGA:.0f}" for size in held) + " MB"
        row.memory_ratio, row.memory_wanted = held[1] / max(held[0], 1), less
    return row


def same_pixels(ours: tuple, theirs: tuple, share: float = 0.999) -> tuple[bool, str]:
    """Whether two (segment ids, count) agree."""
    equal = float((ours[0] == theirs[0]).mean())
    return equal >= share and len(np.unique(ours[0])) > 3, f"{100 * equal:.3f}% of pixels, {theirs[1]} kept"


def same_values(ours: dict, theirs: dict, tolerance: float = 1e-4) -> tuple[bool, str]:
    """Whether arrays of the same names agree, relative to the largest value of each."""
    errors = {name: float(np.abs(ours[name] - theirs[name]).max() / np.abs(theirs[name]).max()) for name in ours}
    worst = max(errors, key=lambda name: errors[name])
    return errors[worst] <= tolerance, f"losses, gradients to {errors[worst]:.0e} in float64 at {models.COMPARED} pixels"


# --- rows: each yields lines of the table -----------------------------------------------------------------------------------


def panoptic(s: Settings, size: tuple[int, int], wanted: float) -> Row:
    """An image to its segment map."""
    sides = s.contestant(models.panoptic_ours, s.folder, *size), s.contestant(models.panoptic_theirs, s.folder, *size)
    ours, theirs = race(*sides, s.repeats, s.slow_repeats)
    what = f"R50 panoptic, image to segment map, 12 of 100 queries kept, {size[0]}x{size[1]}"
    return row_of(what, ours, theirs, wanted, same_pixels(ours.result, theirs.result), "peak", 4)


def bfloat16(s: Settings, size: tuple[int, int], wanted: float) -> Row | str:
    """The same in bfloat16 against the peer's float32; the targets are for AMX, a CPU with AVX-512 BF16 alone is told so."""
    fast, amx = best_precision(on_cpu=True) == "bf16", torch.cpu._is_amx_tile_supported()
    what = f"the same, bfloat16 on {'AVX-512 (the target is for AMX)' if fast and not amx else 'AMX'}, {size[0]}x{size[1]}"
    if not fast:
        return f"| {what} | | | | {wanted:g}x | | not measurable here: this CPU has neither AMX nor AVX-512 BF16 | | |"
    sides = s.contestant(models.panoptic_ours, s.folder, *size, True), s.contestant(models.panoptic_theirs, s.folder, *size)
    ours, theirs = race(*sides, s.repeats, s.slow_repeats)
    return row_of(what, ours, theirs, wanted, same_pixels(ours.result, theirs.result, 0.99))


def bfloat16_trained(s: Settings) -> str:
    """What bfloat16 does to a trained model's result."""
    count = 60
    same_id, same_class = models.shares_in_bfloat16(count)
    text = f"{100 * same_id:.2f}% of pixels have the same id, {100 * same_class:.2f}% the same class"
    verdict = "met" if same_id >= 0.99 else "**missed**"
    what = f"bfloat16 against float32, the trained `tiny` on {count} held-out scenes"
    return f"| {what} | | | | 99% of pixels | | {verdict} | {text} | {date.today()} |"


def mask_head(s: Settings) -> Row:
    """Heatmaps and mask head alone."""
    size = (640, 640)
    own_all = s.contestant(models.masks_ours, s.folder, *size, 100)
    sides = s.contestant(models.masks_ours, s.folder, *size, 12), s.contestant(models.masks_theirs, s.folder, *size)
    for _ in range(s.slow_repeats):
        own_all.run()
    every = own_all.finish()
    ours, theirs = race(*sides, s.repeats, s.slow_repeats)
    error = float(np.abs(ours.result - theirs.result).max())
    compared = error < 2e-3, f"12 masks' logits to {error:.0e}; minidetr for all 100: {timed(every)}"
    return row_of("mask head and heatmaps alone, K = 12 against all 100, 640x640", ours, theirs, 8, compared)


def training(s: Settings, step: str, side: int, wanted: float, less: float) -> Row:
    """A training step on two images of `side` x `side`."""
    sides = [s.contestant(build, s.folder, step, side) for build in (models.training_ours, models.training_theirs)]
    ours, theirs = race(*sides, s.slow_repeats, s.slow_repeats)
    what = {"masks": "training step of the mask head on a frozen model", "joint": "the same with masks trained jointly"}[step]
    what += f", 2 images of {side}x{side}, 10 segments each"
    return row_of(what, ours, theirs, wanted, same_values(ours.result, theirs.result), "above", less)


def merging(s: Settings) -> Row:
    """Kept masks to a segment map."""
    ours, theirs = race(s.contestant(models.merge_ours), s.contestant(models.merge_theirs), 4 * s.repeats)
    compared = same_pixels(ours.result, theirs.result)
    return row_of("merge, 12 of 100 queries kept, 800x1066", ours, theirs, 3, compared)


def quality(s: Settings, peer: str) -> Row:
    """Panoptic quality of files on disk; few for torchmetrics, which takes a second for each."""
    few = peer == "torchmetrics"
    folder, images = s.folder / ("few" if few else "data"), min(s.images, 40) if few else s.images
    if few:
        data.prepare(folder, images)
    builds = {
        "torchmetrics": data.quality_torchmetrics,
        "panopticapi's rule in NumPy": data.quality_numpy,
        "hotcoco 1.3": data.quality_hotcoco,
    }
    build = builds[peer]
    ours, theirs = race(s.contestant(data.quality_ours, folder), s.contestant(build, folder), s.slow_repeats)
    error = abs(ours.result - theirs.result)
    what = f"PQ of {images} predictions of 640x480 with 20 segments from disk, {peer}"
    target = 1 if peer.startswith("hotcoco") else 5
    return row_of(what, ours, theirs, target, (error < 1e-6, f"PQ {ours.result:.6f}, difference {error:.0e}"))


def quality_jobs(s: Settings) -> str:
    """How `minidetr evaluate --jobs` scales, by the clock, its start included."""
    folder, seconds = s.folder / "data", defaultdict(list)
    files = [str(folder / name) for name in ("truth.json", "truth", "prediction.json", "prediction")]
    for _ in range(s.repeats):
        for jobs in (1, 2):
            start = time.perf_counter()
            command = [sys.executable, "-m", "minidetr", "evaluate", *files, "--jobs", str(jobs)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[jobs].append(time.perf_counter() - start)
    one, two = (median(seconds[jobs]) for jobs in (1, 2))
    text = f"--jobs 1: {one:.2f} s, --jobs 2: {two:.2f} s by the clock ({s.repeats}), {one / two:.1f}x"
    text += f" (load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores)"
    verdict = "met" if one > 1.5 * two else "**missed**"
    return f"| the same by `minidetr evaluate` with two processes | {text} | | | scales | | {verdict} | | {date.today()} |"


def loading(s: Settings, augment: bool) -> Row:
    """A data set's samples."""
    folder = s.folder / "data"
    sides = s.contestant(data.loading_ours, folder, augment), s.contestant(data.loading_plain, folder, augment)
    ours, theirs = race(*sides, s.repeats)
    compared = True, "random, not compared: see the next row"
    if not augment:
        errors = [float(np.abs(a.astype(float) - b.astype(float)).max()) for a, b in zip(ours.result, theirs.result, strict=True)]
        compared = max(errors) < 1e-5, f"image, boxes, masks to {max(errors):.0e}"
    what = f"loading {data.IMAGES} samples: photo, PNG, targets" + (", augmentation" if augment else " (no augmentation)")
    return row_of(what, ours, theirs, 1, compared)


def starting(s: Settings, what: str, arguments: list[str]) -> str:
    """Seconds of a fresh Python."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    middle = median(seconds)
    verdict = "met" if middle < 0.5 else "**missed**"
    return f"| {what} | {1000 * middle:.0f} ms (5) | | | under 500 ms | | {verdict} | | {date.today()} |"


ROWS: dict[str, Callable[[Settings], Row | str]] = {
    "panoptic-640": lambda s: panoptic(s, models.SIZES[0], 12),
    "panoptic-800": lambda s: panoptic(s, models.SIZES[1], 8),
    "bfloat16-640": lambda s: bfloat16(s, models.SIZES[0], 25),
    "bfloat16-800": lambda s: bfloat16(s, models.SIZES[1], 16),
    "bfloat16-trained": bfloat16_trained,
    "mask-head": mask_head,
    "training-masks": lambda s: training(s, "masks", 640, 5, 5),
    "training-joint": lambda s: training(s, "joint", 512, 2, 2),  # at 640x640 the peer may not fit a machine of 24 GB
    "merge": merging,
    "PQ-torchmetrics": lambda s: quality(s, "torchmetrics"),
    "PQ-numpy": lambda s: quality(s, "panopticapi's rule in NumPy"),
    "PQ-hotcoco": lambda s: quality(s, "hotcoco 1.3"),
    "PQ-jobs": quality_jobs,
    "loading": lambda s: loading(s, True),
    "loading-plain": lambda s: loading(s, False),
    "import": lambda s: starting(s, "`import minidetr`", ["-c", "import minidetr"]),
    "help": lambda s: starting(s, "`minidetr --help`", ["-m", "minidetr", "--help"]),
}


def floor_tables(s: Settings) -> str:
    """Distance from the floor, and growth, as Markdown."""
    contestant = s.contestant(floor, s.folder)
    contestant.run()
    rows, growth = contestant.finish().result
    (products, copies), *stages = rows
    lines = [
        f"### How far from the floor ({date.today()})",
        "",
        f"A 2048x2048 matrix product reaches {products / 1e9:.0f} billion multiply-adds a second here, copying",
        f"{copies / 1e9:.1f} GB/s. The floor of a stage is its multiply-adds at the one rate plus its layers' outputs,",
        "written and read once, at the other.",
        "",
        "| image | stage | multiply-adds | outputs | floor | measured | times the floor |",
        "|---|---|---|---|---|---|---|",
    ]
    for image, stage, seconds, multiply_adds, size, least in stages:
        cells = image, stage, f"{multiply_adds / 1e9:.2f} G", f"{size / MEGA:.1f} MB", f"{1000 * least:.1f} ms"
        lines.append(f"| {' | '.join(cells)} | {1000 * seconds:.1f} ms | {seconds / least:.1f} |")
    lines += [
        "",
        "### How cost grows",
        "",
        "Multiply-adds are those of `minidetr.course.cost`, which tests hold against PyTorch's FLOP counter.",
        "",
    ]
    lines += ["| image | K | batch | detect | masks | multiply-adds |", "|---|---|---|---|---|---|"]
    for image, count, images, detect, masks, total in growth:
        lines.append(f"| {image} | {count} | {images} | {1000 * detect:.0f} ms | {1000 * masks:.0f} ms | {total / 1e9:.1f} G |")
    return "\n".join(lines)


def section(kept: dict[str, dict | str], s: Settings) -> str:
    """The whole section of RESULTS.md from what was measured, now or before."""
    names = ("torch", "torchvision", "transformers", "torchmetrics", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    where = f"{machine()}, Python {platform.python_version()}, {versions}"
    clock = "seconds that the process had the core for" if s.threads == 1 else "seconds by the clock"
    lines = [
        "## minidetr and its peers",
        "",
        f"`make bench` on {where}; float32, {s.threads} thread{'s' * (s.threads > 1)} on either side, {clock} (PQ with two",
        "processes by the clock). Random weights, the same on both sides; medians of the number of runs in brackets, in turns,",
        "without warm-up; memory is the peak of a fresh process for each side (training: less what it held with all loaded). The",
        "peer is `transformers`' `DetrForSegmentation` with its own post-processing and loss where no other is named.",
        "",
        "| what | minidetr | peer | memory | target | ratio | | compared | measured |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in ROWS:
        if name in kept:
            found = kept[name]
            lines.append(found if isinstance(found, str) else Row(**found).line())
    if "floor" in kept:
        lines += ["", str(kept["floor"])]
    return "\n".join(lines)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="ROW", help=f"rows that start so: {', '.join([*ROWS, 'floor'])}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slow-repeats", type=int, default=5, help="runs of what takes a peer many seconds")
    parser.add_argument("--images", type=int, default=500, help="predictions that PQ is computed for")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # for the contestants' processes

    store = ROOT / "build" / "benchmarks.json"  # what was measured so far, so that some rows can be measured again
    wanted = [n for n in [*ROWS, "floor"] if not arguments.only or n.startswith(tuple(arguments.only))]
    with tempfile.TemporaryDirectory() as folder:
        s = Settings(Path(folder), arguments.threads, arguments.repeats, arguments.slow_repeats, arguments.images)
        if set(wanted) - {"merge", "import", "help", "bfloat16-trained"}:
            models.prepare(s.folder)
        if any(name.startswith(("PQ", "loading")) for name in wanted):
            data.prepare(s.folder / "data", s.images)
        for name in wanted:
            found = floor_tables(s) if name == "floor" else ROWS[name](s)
            if isinstance(found, Row):
                found.date = str(date.today())
            kept = json.loads(store.read_text()) if store.exists() else {}  # another run may have measured other rows meanwhile
            kept[name] = asdict(found) if isinstance(found, Row) else found
            print(found.line() if isinstance(found, Row) else found, flush=True)
            store.parent.mkdir(exist_ok=True)
            store.write_text(json.dumps(kept))
            write_section(arguments.results, START, END, section(kept, s))


if __name__ == "__main__":
    main()
