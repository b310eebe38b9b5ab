"""How far each stage is from what the machine could do, and how times grow; a contestant of its own (see `benchmarks.race`)."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import CATEGORIES, KEPT, SIZES, model_of, picture
from benchmarks.race import Build, now
from minidetr.course.cost import stage_costs
from minidetr.data.batch import Batch
from minidetr.model import PanopticDETR
from minidetr.model.merge import kept_queries, merge
from minidetr.model.position import sine_position


def seconds_of(run: Callable[[], Any], repeats: int = 5) -> float:
    """Median of `repeats`, after one that does not count."""
    run()
    times = []
    for _ in range(repeats):
        start = now(torch.get_num_threads())
        run()
        times.append(now(torch.get_num_threads()) - start)
    return statistics.median(times)


def machine() -> str:
    """The CPU's name, what it can do and its number of cores."""
    information = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", information.read_text()) if information.exists() else None
    name = found[1].strip() if found else platform.processor() or platform.machine()
    return f"{name} with {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"


def machine_rates() -> tuple[float, float]:
    """Multiply-adds a second of a 2048 x 2048 matrix product, and bytes a second of copying 256 MB (each read and written)."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    c, d = torch.zeros(1 << 25), torch.zeros(1 << 25)
    copied = 2 * c.numel() * c.element_size()
    return 2048**3 / seconds_of(lambda: a @ b), copied / seconds_of(lambda: d.copy_(c))


def stages_of(model: PanopticDETR, batch: Batch, count: int) -> dict[str, Callable[[], Any]]:
    """What to run for each stage, with the inputs it has in a whole pass; `count` objects, spread over the images."""
    features = model.backbone(batch.images)
    grid = features.projected
    position = sine_position(torch.zeros(len(grid), *grid.shape[-2:], dtype=torch.bool), grid.shape[1])
    memory = model.encoder(grid, position, None)
    queries = model.decoder(memory, position, None)[-1]
    seen = model.detect(batch)
    image_index, query_index = torch.arange(count) % len(batch.images), torch.arange(count)
    heatmaps = model.heatmaps(seen, image_index, query_index)
    masks = model.mask_head(heatmaps, features, image_index)
    scores, labels = torch.full((count,), 0.9), torch.tensor(list(CATEGORIES)[:count])
    return {
        "backbone": lambda: model.backbone(batch.images),
        "encoder": lambda: model.encoder(grid, position, None),
        "decoder": lambda: model.decoder(memory, position, None),
        "classes and boxes": lambda: (model.heads(queries), kept_queries(seen.logits[0], 0.5, CATEGORIES)),
        "heatmaps": lambda: model.heatmaps(seen, image_index, query_index),
        "mask head": lambda: model.mask_head(heatmaps, features, image_index),
        "merge": lambda: merge(masks, scores, labels, CATEGORIES, batch.size, batch.size, batch.size),
    }


def costs_of(model: PanopticDETR, batch: Batch, count: int) -> dict[str, tuple[int, int]]:
    """Multiply-adds and bytes of each stage; the merge writes and reads `count` masks of full size."""
    costs: dict[str, tuple[int, int]] = {}
    for cost in stage_costs(model.preset, *batch.size, count, len(batch.images)):
        name = cost.stage.partition(",")[0]  # the mask head's two parts are one stage here
        before = costs.get(name, (0, 0))
        costs[name] = before[0] + cost.multiply_adds, before[1] + cost.activation_bytes
    return costs | {"merge": (0, 4 * count * batch.size[0] * batch.size[1])}


@torch.inference_mode()
def floor_rows(folder: Path) -> list[tuple]:
    """Per size and stage: seconds, multiply-adds, bytes, and the time that these would take at the machine's rates."""
    products, copies = machine_rates()
    rows = []
    for height, width in SIZES:
        model = model_of(folder, height, width)
        batch = Batch.pad([picture(height, width).float() / 255])
        costs = costs_of(model, batch, KEPT)
        for stage, run in stages_of(model, batch, KEPT).items():
            multiply_adds, size = costs[stage]
            least = multiply_adds / products + 2 * size / copies  # each value is written once and read once
            rows.append((f"{height}x{width}", stage, seconds_of(run), multiply_adds, size, least))
    return [(products, copies), *rows]


@torch.inference_mode()
def growth_rows(folder: Path) -> list[tuple]:
    """(image size, K, batch, seconds of detect, of masks, multiply-adds in all): one of the three grows at a time."""
    model = model_of(folder, 640, 640)
    cases = [((side, side), KEPT, 1) for side in (320, 480, 640)] + [((800, 1066), KEPT, 1)]
    cases += [((640, 640), count, 1) for count in (1, 50, 100)] + [((320, 320), KEPT, batch) for batch in (2, 4)]
    rows = []
    for size, count, images in cases:
        batch = Batch.pad([picture(*size, seed).float() / 255 for seed in range(images)])
        seen = model.detect(batch)
        image_index, query_index = torch.arange(count) % images, torch.arange(count)
        of_masks = seconds_of(lambda: model.masks(seen, image_index, query_index), 3)  # noqa: B023
        of_detect = seconds_of(lambda: model.detect(batch), 3)  # noqa: B023
        total = sum(c.multiply_adds for c in stage_costs(model.preset, *size, count, images))
        rows.append((f"{size[0]}x{size[1]}", count, images, of_detect, of_masks, total))
    return rows


def floor(folder: Path) -> Build:
    """Both tables."""
    return lambda: (floor_rows(folder), growth_rows(folder)), lambda rows: rows
