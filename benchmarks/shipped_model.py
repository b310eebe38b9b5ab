"""Measure a trained model on held-out scenes and put it in the package, with its card.

    python benchmarks/shipped_model.py runs/tiny-192 --hours 3 --machine "two CPU cores" --command "`minidetr train ...`"

Writes minidetr/weights/tiny.safetensors (float16, normalisation statistics in float32), minidetr/weights/tiny.md and the curve
beside it. What is measured is what is written: the half-precision file is loaded again first.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from minidetr.data.scene_data import HELD_OUT_SEED, VALIDATION_SEED, SceneData
from minidetr.evaluate.model import Evaluation, evaluate_model
from minidetr.evaluate.panoptic_quality import PanopticQuality
from minidetr.model import PanopticDETR
from minidetr.weights import SHIPPED, save


def measure(model: PanopticDETR, count: int, size: int) -> tuple[PanopticQuality, float, float]:
    """PQ and box AP on `count` held-out scenes of `size` pixels, and seconds an image."""
    data = SceneData(count, HELD_OUT_SEED, size)
    found, start = Evaluation(), time.perf_counter()
    for index in tqdm(range(count), unit="scene"):
        found += evaluate_model(model, data, [index])
    seconds = (time.perf_counter() - start) / count
    return found.panoptic_quality(data), found.box_average_precision(data)["AP"], seconds


def best_threshold(model: PanopticDETR, size: int) -> float:
    """The threshold with the highest PQ on 100 validation scenes, none of which is among the held-out ones."""
    data = SceneData(100, VALIDATION_SEED, size)
    scores = {t: evaluate_model(model, data, range(100), t).panoptic_quality(data).all.pq for t in (0.4, 0.5, 0.6, 0.7, 0.8)}
    print("PQ on validation scenes by threshold:", {t: f"{100 * pq:.1f}" for t, pq in scores.items()})
    return max(scores, key=lambda t: scores[t])


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run whose last weights are shipped")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--threshold", type=float, help="of the shipped model (default: the best on validation scenes)")
    parser.add_argument("--hours", type=float, required=True, help="of training, for the card")
    parser.add_argument("--machine", required=True, help="it was trained on, for the card")
    parser.add_argument("--command", required=True, help="the command or commands that trained it, for the card")
    arguments = parser.parse_args()

    model = PanopticDETR.from_pretrained(arguments.run / "last.safetensors")
    threshold = arguments.threshold or best_threshold(model, arguments.size)
    model.preset = replace(model.preset, threshold=threshold)
    SHIPPED.mkdir(exist_ok=True)
    target = SHIPPED / "tiny.safetensors"
    save(model, target, half=True, notes={"trained_by": arguments.command})
    model = PanopticDETR.from_pretrained(target)
    quality, average_precision, seconds = measure(model, arguments.count, arguments.size)
    for curve in sorted(arguments.run.glob("curves.png")):
        shutil.copy(curve, SHIPPED / "tiny_curves.png")
    options = json.loads((arguments.run / "options.json").read_text(encoding="utf-8"))
    with (arguments.run / "scores.csv").open(newline="", encoding="utf-8") as file:
        iterations = list(csv.DictReader(file))[-1]["iteration"]
    (SHIPPED / "tiny.md").write_text(
        card(model, quality, average_precision, seconds, options, iterations, arguments), encoding="utf-8"
    )
    print(quality.table(per_class=True))


def card(model, quality, average_precision, seconds, options, iterations, arguments) -> str:
    """The model card, in Markdown; every number in it was measured or is an option of the run."""
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    size = (SHIPPED / "tiny.safetensors").stat().st_size / 1e6
    table = quality.table(per_class=True)
    rows = {
        "trained by": f"{arguments.command}; random weights at the start, rendered scenes as the only data",
        "data": f"`minidetr.data.scenes`, seeds {options['scene_seed']} to {options['scene_seed'] + options['scenes'] - 1}",
        "last step": f"{options['size']} pixels, {iterations} iterations of {options['batch_size']} images, seed {options['seed']}",
        "machine and time": f"{arguments.machine}, {arguments.hours:g} hours",
        "measured on": f"{arguments.count} scenes of {arguments.size} pixels, seeds from {HELD_OUT_SEED}, never trained on",
        "threshold": f"queries scored above {model.preset.threshold} are kept",
        "box AP": f"{100 * average_precision:.1f} (boxes around stuff and things)",
        "speed": f"{seconds:.3f} s an image in that measurement, rendering included, one process on a CPU",
    }
    about = "\n".join(f"| {name} | {text} |" for name, text in rows.items())
    return f"""# tiny: the model in the box

A plain DETR of {parameters:.1f} million parameters ({size:.1f} MB, float16 but for normalisation statistics).

| | |
|---|---|
{about}

```
{table}
```

![losses and validation scores of the last step](tiny_curves.png)

## What it cannot do

It has seen drawn construction scenes and nothing else. On photos its answer means nothing: fine-tune `r18`, or use published
weights. It has {model.preset.queries} queries, so at most so many segments an image, and it was trained on square images of
{options["size"]} pixels. Its outlines are worst at thin parts (crane hooks, booms, limbs); what it misses most is far or hidden.
"""


if __name__ == "__main__":
    main()
