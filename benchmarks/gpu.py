"""What a GPU makes of it, in one command of at most nine minutes; the table goes to benchmarks/GPU.md.

    python -m benchmarks.gpu                                # on a machine with a GPU
    python -m benchmarks.gpu --device cpu --small           # everything once, tiny: what CI runs
    python -m benchmarks.gpu --weights                      # then `make weights` for the minutes that are left

Measured: equal results on CPU and GPU; inference and training of the R50 model and of `tiny` in float32, bfloat16 and float16 (with
scaled gradients), batch 1 and 8; the peak memory of joint training at 800 x 1066 with batch 2, against a 15 GB card; the compiled
mask head; a run that is stopped on the GPU and gone on with. Each time is the median of several, after some that don't count.
Without a GPU no number of memory is there, and float16 is left out.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.floor import machine
from minidetr.data.batch import Batch
from minidetr.data.images import normalise
from minidetr.data.targets import PackedTarget
from minidetr.model import PanopticDETR
from minidetr.presets import TRAINABLE
from minidetr.scenes.dataset import SceneData
from minidetr.scenes.painters import CATEGORIES
from minidetr.training.devices import start_devices
from minidetr.training.loop import train
from minidetr.training.options import TrainOptions
from minidetr.training.step import Place, Run, Step

CARD = 15.0  # GB of the smallest card that Colab lends, less what the driver keeps
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KEPT = 12  # objects an image whose masks are computed in inference


@dataclass
class Bench:
    """Where, how large, how often, and what came out: rows of Markdown by table."""

    device: str
    small: bool
    until: float  # the clock's time at which nothing new begins
    tables: dict[str, list[list[str]]] = field(default_factory=dict)

    def add(self, table: str, *row: str) -> None:
        """Add a row to a table, and print it."""
        self.tables.setdefault(table, []).append(list(row))
        print(f"{table}: {' | '.join(row)}", flush=True)

    @property
    def precisions(self) -> list[str]:
        """Those the device trains in."""
        return list(PRECISIONS) if self.device == "cuda" else ["float32", "bfloat16"]

    @property
    def models(self) -> tuple[tuple[str, int, int], ...]:
        """(preset, height, width) of inference."""
        return (("tiny", 64, 64), ("r18", 64, 96)) if self.small else (("tiny", 288, 288), ("r50", 800, 1066))

    def seconds_of(self, run: Callable[[], Any]) -> float:
        """Median seconds of `run`, the GPU's work done at both ends."""
        times: list[float] = []
        for _ in range(2 if self.small else 8):
            wait(self.device)
            start = time.perf_counter()
            run()
            wait(self.device)
            times.append(time.perf_counter() - start)
        return statistics.median(times[len(times) // 3 :])  # the first ones choose their kernels


def wait(device: str) -> None:
    """Until the GPU has done all it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def model_of(preset: str) -> PanopticDETR:
    """The shipped `tiny`, or another preset with random weights, in which heatmaps and masks differ from object to object."""
    if preset == "tiny":
        return PanopticDETR.from_pretrained("tiny")
    torch.manual_seed(1)
    return PanopticDETR(TRAINABLE[preset], CATEGORIES).eval()


def pictures(count: int, height: int, width: int) -> Tensor:
    """Smooth blobs: B 3 H W, normalised."""
    images = []
    generator = torch.Generator().manual_seed(3)
    for _ in range(count):
        blobs = torch.rand(1, 3, 5, 7, generator=generator)
        large = torch.nn.functional.interpolate(blobs, (height, width), mode="bicubic")[0].clamp(0, 1)
        images.append(normalise((255 * large).byte()))
    return torch.stack(images)


def targets_of(count: int, height: int, width: int, segments: int) -> list[PackedTarget]:
    """Truth for training: `segments` stripes an image."""
    bounds = torch.linspace(0, 1, segments + 1)
    boxes = torch.stack([(bounds[1:] + bounds[:-1]) / 2, torch.full((segments,), 0.5), bounds.diff(), torch.ones(segments)], 1)
    number = (torch.arange(width) * segments // width + 1).to(torch.int16).expand(height, width).contiguous()
    labels = torch.tensor([CATEGORIES[k % len(CATEGORIES)].id for k in range(segments)])
    return [PackedTarget(labels, boxes, number, k, (height, width)) for k in range(count)]


def in_precision(device: str, precision: str) -> AbstractContextManager:
    """Autocast, or nothing for float32."""
    return nullcontext() if precision == "float32" else torch.autocast(device, PRECISIONS[precision])


@torch.inference_mode()
def see(model: PanopticDETR, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, boxes, and the masks of the first `KEPT` queries of each image."""
    seen = model.detect(batch)
    query = torch.arange(KEPT, device=batch.images.device).repeat(len(batch.sizes))
    image = torch.arange(len(batch.sizes), device=batch.images.device).repeat_interleave(KEPT)
    return seen.logits, seen.boxes, model.masks(seen, image, query)


def equality(bench: Bench) -> None:
    """The same numbers on both devices, in float32 without TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for preset, height, width in bench.models:
        model, batch = model_of(preset), Batch.pad(list(pictures(2, height, width)))
        expected = see(model, batch)
        found = [t.cpu() for t in see(model.to(bench.device), batch.to(bench.device))]
        spread = [float((a - b).abs().max() / a.abs().max()) for a, b in zip(expected, found, strict=True)]
        same = float(((expected[2] > 0) == (found[2] > 0)).float().mean())
        bench.add("equality", f"{preset}, {height} x {width}", *(f"{value:.1e}" for value in spread), f"{100 * same:.3f} %")
        if max(spread) > 1e-3 or same < 0.999:
            raise SystemExit(f"{preset}: {bench.device} and cpu do not agree: {spread}, {same}")
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def inference(bench: Bench) -> None:
    """Detection and the masks of `KEPT` objects an image, from a batch on the device."""
    for preset, height, width in bench.models:
        model = model_of(preset).to(bench.device).to(memory_format=torch.channels_last)
        for count in (1, 8):
            batch = Batch.pad(list(pictures(count, height, width))).to(bench.device)
            batch.images = batch.images.contiguous(memory_format=torch.channels_last)
            cells = []
            for precision in bench.precisions:
                with in_precision(bench.device, precision):
                    cells.append(f"{count / bench.seconds_of(lambda: see(model, batch)):.1f}")  # noqa: B023  # run at once
            bench.add("inference", f"{preset}, {height} x {width}, batch {count}", *cells)


def training(bench: Bench) -> None:
    """Joint training, the loop's own iteration on a batch that is read already; images a second and peak memory."""
    sizes = [(64, 96, 2)] if bench.small else [(800, 1066, 2), (800, 1066, 8)]
    cases: list[tuple[str, int, int, int, dict[str, Any]]] = [("r18" if bench.small else "r50", *size, {}) for size in sizes]
    cases += [("tiny", *((64, 64, 2) if bench.small else (288, 288, 8)), {})]
    cases += [(*cases[0][:4], {"accumulate": 2}), (*cases[0][:4], {"masks_per_image": 6, "mask_stride": 4})]
    for preset, height, width, count, options in cases:
        words = ", ".join(f"{name} {value}" for name, value in options.items())
        for precision in bench.precisions if not options else bench.precisions[1:2]:
            if time.monotonic() > bench.until:
                return
            step = step_of(bench, preset, count, precision, **options)
            row = measured(bench, step, pictures(count, height, width), targets_of(count, height, width, 14))
            bench.add("training", f"{preset}, {height} x {width}, batch {count}{', ' + words if words else ''}", precision, *row)


def compiled(bench: Bench) -> None:
    """The mask head by torch.compile, against the same without, on the device; on a CPU it is left out, for it needs a compiler."""
    if bench.device != "cuda":
        return
    for compile_it in (False, True):
        step = step_of(bench, "r50", 2, "bfloat16", compile=compile_it)
        row = measured(bench, step, pictures(2, 800, 1066), targets_of(2, 800, 1066, 14))
        bench.add("training", f"r50, 800 x 1066, batch 2, mask head {'compiled' if compile_it else 'as it is'}", "bfloat16", *row)


def step_of(bench: Bench, preset: str, count: int, precision: str, **options: Any) -> Step:
    """A joint step of a run, in the preset's own recipe."""
    given = {"preset": preset, "batch_size": count, "precision": precision, "device": bench.device, "quiet": True}
    settings = TrainOptions(**given | options).filled()
    model = PanopticDETR(replace(TRAINABLE[preset]), CATEGORIES)
    run = Run(start_devices(settings), settings, SceneData(1, 0, 64), SceneData(1, 0, 64), {}, Place(), None)
    return Step(run, model, "joint", None)


def measured(bench: Bench, step: Step, images: Tensor, targets: list[PackedTarget]) -> tuple[str, str]:
    """Images a second of the step's iterations, and the peak memory in GB: "-" without a GPU, "too much" where it isn't enough."""
    batch = Batch.pad(list(images))
    step.wrapped.train()

    def iterate() -> None:
        step.sent = step.iterate(Batch(batch.images, batch.padding, batch.sizes), targets, 1e-6)
        step.sent.row = {"iteration": 1, "images_per_second": 0.0}
        step.settle()

    if bench.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        seconds = bench.seconds_of(iterate)
    except torch.OutOfMemoryError:
        return "-", "too much"
    peak = torch.cuda.max_memory_allocated() / 1e9 if bench.device == "cuda" else None
    return f"{len(images) / seconds:.1f}", "-" if peak is None else f"{peak:.1f}{'' if peak < CARD else ' (more than 15)'}"


def resumed(bench: Bench) -> None:
    """A run that is stopped half way and gone on with, against one that never was: the last losses of both, relative."""
    size = 64 if bench.small else 192
    with tempfile.TemporaryDirectory() as folder:
        given: dict[str, Any] = {"scenes": 16, "validation_images": 2, "size": size, "batch_size": 4, "epochs": 2, "workers": 0}
        given |= {"device": bench.device, "cache": f"{folder}/scenes", "quiet": True, "evaluate_every": 2, "precision": "float32"}
        ends = []
        for name, stop in (("whole", None), ("cut", 5)):
            run = f"{folder}/{name}"
            real = Step.count

            def count(self: Step, *rest: Any, stop: int | None = stop, real: Any = real) -> None:
                real(self, *rest)
                if self.run.place.iteration == stop:
                    os.kill(os.getpid(), signal.SIGTERM)

            Step.count = count  # type: ignore[method-assign]
            try:
                model = train(output=run, **given)
                if stop is not None:
                    model = train(resume=run)
            finally:
                Step.count = real  # type: ignore[method-assign]
            ends.append(torch.cat([p.detach().flatten().cpu() for p in model.parameters()]))
        apart = float((ends[0] - ends[1]).abs().max())
    bench.add("resumed", f"tiny, {size} x {size}, stopped at iteration 5 of 8", f"{apart:.1e}")
    if apart > 1e-2:
        raise SystemExit(f"a run gone on with ends elsewhere: {apart}")


HEADS = {
    "equality": ["CPU against the device, float32", "logits", "boxes", "mask logits", "mask pixels that agree"],
    "inference": ["images a second, detection and 12 masks an image", *PRECISIONS],
    "training": ["joint training", "precision", "images a second", "peak memory, GB"],
    "resumed": ["a run gone on with", "largest difference of a weight from one never stopped"],
}


def write(bench: Bench, path: Path) -> None:
    """The tables, with date and hardware."""
    name = torch.cuda.get_device_name() if bench.device == "cuda" else machine()
    command = " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])
    lines = [f"# On {name}", "", f"{date.today()}, torch {torch.__version__}, by `{command}`."]
    for table, rows in bench.tables.items():
        head = HEADS[table][: len(rows[0])]
        lines += ["", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="tiny sizes, two repeats")
    parser.add_argument("--minutes", type=float, default=9, help="at most, in all")
    parser.add_argument("--weights", action="store_true", help="then `make weights` for the minutes that are left")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("GPU.md"))
    arguments = parser.parse_args(argv)
    start = time.monotonic()
    bench = Bench(arguments.device, arguments.small, start + 60 * arguments.minutes * 0.7)
    for part in (equality, inference, training, compiled, resumed):
        if time.monotonic() < bench.until:
            part(bench)
            write(bench, arguments.output)  # after each part: what was measured stays
    left = int(arguments.minutes - (time.monotonic() - start) / 60)
    if arguments.weights and left > 0:
        subprocess.run(["make", "weights", f"MINUTES={left}", "WORKERS=1", "RUNS=runs/gpu"], check=True)


if __name__ == "__main__":
    main()
