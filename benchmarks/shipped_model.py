"""Measure a trained model on held-out scenes and put it in the package, with its card.

    python -m benchmarks.shipped_model runs/tiny-boxes runs/tiny --command "make weights"

The runs are given in their order, the last one's weights are shipped. Writes minidetr/weights/tiny.safetensors (float16,
normalisation statistics in float32), minidetr/weights/tiny.md and the runs' curves beside it. What is measured is what is written:
the half-precision file is loaded again first.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

from tqdm import tqdm

from benchmarks.floor import machine
from minidetr.evaluate.model import Evaluation, evaluate_model
from minidetr.evaluate.panoptic_quality import PanopticQuality
from minidetr.model import PanopticDETR
from minidetr.presets import SCENE_SIZE
from minidetr.scenes.dataset import HELD_OUT_SEED, VALIDATION_SEED, SceneData
from minidetr.training.checkpoint import read_checkpoint
from minidetr.training.devices import PRECISIONS, best_precision
from minidetr.training.report import LOSSES
from minidetr.weights.load import SHIPPED, save


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
    parser.add_argument(
        "runs", type=Path, nargs="+", help="folders of the runs, each but the first from the weights of the one before"
    )
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--size", type=int, default=SCENE_SIZE)
    parser.add_argument("--threshold", type=float, help="of the shipped model (default: the best on validation scenes)")
    parser.add_argument("--machine", default=f"{machine()}, {PRECISIONS[best_precision(True)]}", help="for the card")
    parser.add_argument("--name", default="tiny", help="preset, and name of the files")
    parser.add_argument("--command", required=True, help="the command that trained it, for the card")
    arguments = parser.parse_args()

    model = PanopticDETR.from_pretrained(arguments.runs[-1] / "last.safetensors")
    threshold = arguments.threshold or best_threshold(model, arguments.size)
    model.preset = replace(model.preset, threshold=threshold)
    SHIPPED.mkdir(exist_ok=True)
    name = arguments.name
    target = SHIPPED / f"{name}.safetensors"
    save(model, target, half=True, notes={"trained_by": arguments.command})
    model = PanopticDETR.from_pretrained(target)
    quality, average_precision, seconds = measure(model, arguments.count, arguments.size)
    for old in SHIPPED.glob(f"{name}_curves*.png"):
        old.unlink()
    for number, run in enumerate(arguments.runs, 1):
        shutil.copy(run / "curves.png", SHIPPED / f"{name}_curves_{number}.png")
    (SHIPPED / f"{name}.md").write_text(card(model, quality, average_precision, seconds, arguments), encoding="utf-8")
    print(quality.table(per_class=True))


def described(run: Path) -> str:
    """One run in words: what it trained on what, how long."""
    saved, _ = read_checkpoint(run)
    options, iterations = saved["options"], saved["place"]["iteration"]
    first, last = options["scene_seed"], options["scene_seed"] + options["scenes"] - 1
    what = f"{options['steps']} at {options['size']} pixels, scenes of seeds {first} to {last}"
    return f"{what}, {iterations} iterations of {options['batch_size']}, {training_hours(run):.1f} hours, seed {options['seed']}"


def training_hours(run: Path) -> float:
    """Hours that a run's iterations took, from its rate of images (evaluation left out)."""
    options = read_checkpoint(run)[0]["options"]
    with (run / LOSSES).open(newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    return int(last["iteration"]) * options["batch_size"] / float(last["images_per_second"]) / 3600


def card(model, quality, average_precision, seconds, arguments) -> str:
    """The model card, in Markdown; every number in it was measured or is an option of the runs."""
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    name = arguments.name
    size = (SHIPPED / f"{name}.safetensors").stat().st_size / 1e6
    table = quality.table(per_class=True)
    runs = {f"run {n}": described(run) for n, run in enumerate(arguments.runs, 1)}
    hours = sum(training_hours(run) for run in arguments.runs)
    rows = {
        "trained by": f"`{arguments.command}`; random weights at the start, rendered scenes as the only data",
        **runs,
        "machine and time": f"{arguments.machine}, {date.today()}, {hours:.1f} hours",
        "measured on": f"{arguments.count} scenes of {arguments.size} pixels, seeds from {HELD_OUT_SEED}, never trained on",
        "threshold": f"queries scored above {model.preset.threshold} are kept",
        "box AP": f"{100 * average_precision:.1f} (boxes around stuff and things)",
        "speed": f"{seconds:.3f} s an image in that measurement, rendering included, one process on a CPU",
    }
    about = "\n".join(f"| {name} | {text} |" for name, text in rows.items())
    curves = "\n\n".join(f"![losses and validation scores of {run}]({name}_curves_{run[-1]}.png)" for run in runs)
    kind = "A plain DETR" if not model.preset.after else "A DETR whose masks are dot products (lesson 14)"
    return f"""# {name}: {"the model in the box" if name == "tiny" else "beside the model in the box"}

{kind} of {parameters:.1f} million parameters ({size:.1f} MB, float16 but for normalisation statistics).

| | |
|---|---|
{about}

```
{table}
```

{curves}

## What it cannot do

It has seen drawn construction scenes and nothing else. On photos its answer means nothing: fine-tune `r18`, or use published
weights. It has {model.preset.queries} queries, so at most so many segments an image, and it was trained on square images of
{model.preset.short_side} pixels. Its outlines are worst at thin parts (crane hooks, booms, limbs); what it misses most is far or
hidden.
"""


if __name__ == "__main__":
    main()
