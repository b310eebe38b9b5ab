"""Image to segment map by every engine that is here, and by those one would use instead, with the same weights, in turns.

    python -m benchmarks.engines                 # the table of benchmarks/RESULTS.md
    python -m benchmarks.engines --repeats 3

Each side is a process of its own on one thread; seconds are those it had the core for, so other work on the machine changes them
little.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import models
from benchmarks.floor import machine
from benchmarks.plain import PlainDETR
from benchmarks.race import Build, Contestant, Measured
from benchmarks.results import RESULTS, write_section
from minidetr.data.batch import Batch
from minidetr.data.images import normalise, pixels_of
from minidetr.export import onnx
from minidetr.export.engines import opened
from minidetr.model import PanopticDETR
from minidetr.model.merge import kept_queries, merge
from minidetr.scenes.dataset import HELD_OUT_SEED, SceneData
from minidetr.weights.load import load

START, END = "<!-- engines: made by `python -m benchmarks.engines` -->", "<!-- end of engines -->"
SCENES = 20
ENGINES = (("PyTorch", "float32"), ("PyTorch", "bfloat16"), ("onnx", "float32"), ("openvino", "float32"), ("openvino", "bfloat16"))


def segmenting(folder: Path, name: str, engine: str, precision: str) -> Build:
    """A model on all of its images: the drawn R50 on a picture, a shipped one on scenes."""
    model, images, threshold = subject(folder, name)
    segmenter: Any = model if engine == "PyTorch" else opened(folder / f"export-{name}", engine, precision)

    def run() -> list[np.ndarray]:
        with torch.autocast("cpu", torch.bfloat16, enabled=engine == "PyTorch" and precision == "bfloat16"):
            return [segmenter.segment([image], threshold)[0].segment_ids for image in images]

    return run, lambda found: found


def plainly(folder: Path, name: str) -> Build:
    """DETR's own arithmetic, a mask of every query."""
    model, images, threshold = subject(folder, name)
    plain, categories = PlainDETR(model), {c.id: c for c in model.categories}

    @torch.inference_mode()
    def run() -> list[np.ndarray]:
        found = []
        for image in images:
            batch = Batch.pad([normalise(pixels_of(image))])
            logits, _, masks = plain(batch.images)
            kept, scores, labels = kept_queries(logits[0], threshold, categories)
            found.append(merge(masks[0, kept], scores, labels, categories, batch.size, batch.size, batch.size).segment_ids)
        return found

    return run, lambda found: found


def theirs(folder: Path, height: int, width: int) -> Build:
    """`transformers`, as in `benchmarks.models`."""
    run, result = models.panoptic_theirs(folder, height, width)
    return run, lambda output: [result(output)[0]]


def subject(folder: Path, name: str) -> tuple[PanopticDETR, list[Any], float]:
    """A model, its images and its threshold. Sizes of the drawn R50 stand in its name: r50-640x640."""
    if name.startswith("r50"):
        height, width = map(int, name.removeprefix("r50-").split("x"))
        threshold = models.threshold_of(folder, height, width)
        return models.model_of(folder, height, width), [models.picture(height, width)], threshold
    model, scenes = load(name), SceneData(SCENES, HELD_OUT_SEED)
    return model, [scenes.read(index)[0] for index in range(SCENES)], model.preset.threshold


def table(folder: Path, name: str, repeats: int) -> list[str]:
    """A model's rows: milliseconds an image, times as fast as the peers, and pixels that are those of PyTorch in float32."""
    model, images, threshold = subject(folder, name)
    onnx.export(exported(model, threshold), folder / f"export-{name}")
    del model
    sides: dict[tuple[str, str], Contestant] = {}
    if name.startswith("r50"):
        sides["`transformers`", "float32"] = Contestant(theirs, folder, *map(int, name.removeprefix("r50-").split("x")))
    if name != "tiny-after":
        sides["DETR's own arithmetic, every mask", "float32"] = Contestant(plainly, folder, name)
    for engine, precision in ENGINES:
        sides[engine, precision] = Contestant(segmenting, folder, name, engine, precision)
    for _ in range(repeats):
        for side in sides.values():
            side.run()
    found: dict[tuple[str, str], Measured] = {key: side.finish() for key, side in sides.items()}
    exact = found["PyTorch", "float32"].result
    peers = [key for key in found if key[0] not in {engine for engine, _ in ENGINES}]
    lines = []
    for (who, precision), measured in found.items():
        same = np.mean([float((a == b).mean()) for a, b in zip(measured.result, exact, strict=True)])
        times = [f"{found[peer].seconds / measured.seconds:.1f}" for peer in peers]
        times = ["", *times] if len(times) == 1 else times or ["", ""]
        cells = (name, who, precision, f"{1000 * measured.seconds / len(images):.1f}", *times, f"{100 * same:.3f}")
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def exported(model: PanopticDETR, threshold: float) -> PanopticDETR:
    """The model with its threshold, to export."""
    model.preset = replace(model.preset, threshold=threshold)
    return model


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=["r50-640x640", "r50-800x1066", "tiny", "tiny-after"])
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "openvino", "transformers"))
    lines = [
        "## Engines",
        "",
        f"`python -m benchmarks.engines`: {machine()}; {versions}; {date.today()}.",
        f"One thread, seconds that a process had the core for, median of {arguments.repeats} turns; image to segment map. The",
        f"R50's weights are drawn (12 of 100 queries kept), the shipped models segment {SCENES} held-out scenes.",
        "",
        "| model | engine | precision | ms an image | times `transformers` | times DETR's arithmetic | % of pixels the same |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if any(name.startswith("r50") for name in arguments.models):
            models.prepare(folder)
        for name in arguments.models:
            lines += table(folder, name, arguments.repeats)
    write_section(RESULTS, START, END, "\n".join(lines))


if __name__ == "__main__":
    main()
