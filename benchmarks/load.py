"""Does memory grow? Evaluate thousands of predictions and train over thousands of scenes, and note the peak on the way.

    python -m benchmarks.load --predictions 5000 --scenes 20000

Predictions are rendered scenes of 64 x 64 pixels with their segments moved by a few pixels, written as files. The training is the
`tiny` preset on 64 x 64 pixels, boxes alone, one pass over the scenes, read by this process. Peaks are the process's own (resident
memory, `ru_maxrss`), each part in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from minidetr.data.coco import measured
from minidetr.evaluate import panoptic_quality
from minidetr.panoptic import encode_ids
from minidetr.scenes.dataset import SceneData
from minidetr.training import loop
from minidetr.training.report import Report

FIRST = 1000  # images after which the first peak is noted
SIZE = 64


def peak() -> float:
    """The most memory this process has had, in MB."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS, in KiB elsewhere
    return largest * (1 if sys.platform == "darwin" else 1024) / 1e6


def now() -> float:
    """The memory this process has now, in MB (on Linux; elsewhere its peak)."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * resource.getpagesize() / 1e6 if pages.exists() else peak()


def write_predictions(folder: Path, count: int) -> None:
    """Truth and prediction of `count` images: 100 different scenes, again and again."""
    data = SceneData(min(count, 100), 5_000_000, SIZE)
    rendered = [data.read(index)[1:] for index in range(len(data))]
    for name in ("truth", "prediction"):
        (folder / name).mkdir()
        images, annotations = [], []
        for number in range(count):
            ids, segments = rendered[number % len(rendered)]
            if name == "prediction":
                ids = np.roll(ids, (number % 5, number % 3), axis=(0, 1))
            file_name = f"{number:06d}.png"
            Image.fromarray(encode_ids(ids)).save(folder / name / file_name, compress_level=1)
            images.append({"id": number, "file_name": file_name, "height": SIZE, "width": SIZE})
            annotations.append({"image_id": number, "file_name": file_name, "segments_info": measured(ids, segments)})
        content = {"images": images, "annotations": annotations, "categories": [c.to_json() for c in data.categories]}
        (folder / f"{name}.json").write_text(json.dumps(content))


def evaluate(folder: Path) -> None:
    """Panoptic quality of all, the peak noted after the first thousand."""
    module = sys.modules[panoptic_quality.__module__]
    real, counted, began = module._count_chunk, [0], time.monotonic()
    start = peak()

    def count_chunk(tasks: list[list]) -> object:
        counts = real(tasks)
        if counted[0] < FIRST <= counted[0] + len(tasks):
            print(f"evaluate: {FIRST} images, peak {peak():.0f} MB, now {now():.0f} (before: {start:.0f} MB)", flush=True)
        counted[0] += len(tasks)
        return counts

    module._count_chunk = count_chunk
    files = [folder / name for name in ("truth.json", "truth", "prediction.json", "prediction")]
    result = panoptic_quality(*files)
    seconds, quality = time.monotonic() - began, 100 * result.all.pq
    print(f"evaluate: {counted[0]} images, peak {peak():.0f} MB, now {now():.0f}, PQ {quality:.1f}, {seconds:.0f} s", flush=True)


def train(folder: Path, scenes: int, batch_size: int) -> None:
    """One pass over the scenes, the peak noted after the first thousand."""
    real, began = Report.losses, time.monotonic()

    def losses(self: Report, values: dict, row: dict, *rest: int) -> None:
        real(self, values, row, *rest)
        seen = int(row["iteration"]) * batch_size
        if seen % FIRST < batch_size:
            print(f"train: {seen} scenes, peak {peak():.0f} MB, now {now():.0f}, {time.monotonic() - began:.0f} s", flush=True)

    Report.losses = losses  # type: ignore[method-assign]
    given = {
        "preset": "tiny",
        "size": SIZE,
        "steps": "boxes",
        "epochs": 1,
        "evaluate_every": 1,
        "validation_images": 2,
        "workers": 0,
    }
    loop.train(output=str(folder / "run"), scenes=scenes, batch_size=batch_size, device="cpu", cache=str(folder / "cache"), **given)
    print(
        f"train: done, peak {peak():.0f} MB, now {now():.0f} with the evaluation at its end, {time.monotonic() - began:.0f} s",
        flush=True,
    )


def apart(work: object, *given: object) -> None:
    """Run in a new process, whose peak is its own."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=given)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


def main() -> None:
    """See the file's first lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", type=int, default=5000, help="0: none")
    parser.add_argument("--scenes", type=int, default=20_000, help="0: none")
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--cache", type=Path, help="where to work (default: a temporary folder)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.cache) as name:
        folder = Path(name)
        if given.predictions:
            write_predictions(folder, given.predictions)
            apart(evaluate, folder)
        if given.scenes:
            apart(train, folder, given.scenes, given.batch_size)


if __name__ == "__main__":
    main()
