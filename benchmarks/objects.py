"""What `tiny` and `tiny-after` take at inference over the number of objects K: milliseconds and memory.

    python -m benchmarks.objects

One thread, one scene of 288 pixels: detect, the masks of K queries, and the argmax at the scene's size. The two models take turns,
and each figure is the median of the turns. Memory is the most that a process of its own held, less what it held with the model
loaded. The table in benchmarks/RESULTS.md is written anew. Weights are random: what they are decides nothing here.
"""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from statistics import median

import torch

from benchmarks.floor import machine
from benchmarks.results import RESULTS, write_section
from minidetr.after import build
from minidetr.data.batch import Batch
from minidetr.data.images import normalise, to_tensor
from minidetr.model import PanopticDETR
from minidetr.model.merge import merge
from minidetr.presets import SCENE_SIZE, preset
from minidetr.scenes.dataset import VALIDATION_SEED, SceneData
from minidetr.scenes.painters import CATEGORIES

MODELS = ("tiny", "tiny-after")
OBJECTS = (0, 1, 2, 5, 9, 20)
TURNS = 15


def prepared(name: str) -> tuple[PanopticDETR, Batch]:
    """A model and the scene it sees."""
    torch.set_num_threads(1)
    picture = SceneData(1, VALIDATION_SEED, SCENE_SIZE).read(0)[0]
    return build(preset(name), CATEGORIES).eval(), Batch.pad([normalise(to_tensor(picture))])


@torch.inference_mode()
def look(model: PanopticDETR, batch: Batch, objects: int) -> None:
    """One image, all the way, with `objects` queries kept."""
    seen = model.detect(batch)
    queries = torch.arange(objects)
    masks = model.masks(seen, torch.zeros_like(queries), queries)
    categories = {c.id: c for c in CATEGORIES}
    labels = torch.tensor([next(c.id for c in CATEGORIES if c.is_thing)]).expand(objects)
    size = (SCENE_SIZE, SCENE_SIZE)
    merge(masks, torch.ones(objects), labels, categories, size, size, size)


def milliseconds() -> dict[tuple[str, int], float]:
    """Of each model and K, the median of all turns."""
    ready = {name: prepared(name) for name in MODELS}
    taken: dict[tuple[str, int], list[float]] = {}
    for turn in range(TURNS + 1):
        for objects in OBJECTS:
            for name, (model, batch) in ready.items():
                start = time.perf_counter()
                look(model, batch, objects)
                if turn:  # the first warms up
                    taken.setdefault((name, objects), []).append(1000 * (time.perf_counter() - start))
    return {of: median(values) for of, values in taken.items()}


def megabytes(name: str, objects: int) -> float:
    """The most memory that looking took, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.objects", name, str(objects)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak() -> float:
    """MB that this process held at most, so far (Linux; getrusage would count what the parent held, too)."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def main() -> None:
    """See the module's docstring."""
    if len(sys.argv) == 3:
        model, batch = prepared(sys.argv[1])
        before = peak()
        look(model, batch, int(sys.argv[2]))
        print(peak() - before)
        return
    times = milliseconds()
    lines = [
        "## After DETR: what an object costs at inference",
        "",
        f"`python -m benchmarks.objects`: {machine()}; {date.today().isoformat()}; one thread, one scene of",
        f"{SCENE_SIZE} pixels, float32, median of {TURNS} turns, both models in each.",
        "",
        "| K | `tiny` ms | `tiny-after` ms | times as fast | `tiny` MB | `tiny-after` MB |",
        "|---|---|---|---|---|---|",
    ]
    for objects in OBJECTS:
        before, after = (times[name, objects] for name in MODELS)
        memory = " | ".join(f"{megabytes(name, objects):.0f}" for name in MODELS)
        lines.append(f"| {objects} | {before:.1f} | {after:.1f} | {before / after:.2f} | {memory} |")
    text = "\n".join(lines)
    print(text)
    write_section(RESULTS, "<!-- objects -->", "<!-- end of objects -->", text)


if __name__ == "__main__":
    main()
