"""Does memory grow? Evaluate thousands of predictions and train over thousands of scenes, and note the peak on the way.

    python -m benchmarks.load --predictions 5000 --scenes 20000 --images 118287

Predictions are rendered scenes of 64 x 64 pixels with their segments moved by a few pixels, written as files. The training is the
`tiny` preset on 64 x 64 pixels, boxes alone, one pass over the scenes, read by this process. Peaks are the process's own (resident
memory, `ru_maxrss`), each part in a process of its own. `--images` makes a panoptic JSON of COCO's size up (118,287 images with
11.5 segments each), reads it as training does, and sends 8 loader processes over all of its entries once.
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
from torch.utils.data import DataLoader, Dataset

from minidetr.data.coco import CocoPanoptic, measured
from minidetr.evaluate import panoptic_quality
from minidetr.panoptic import encode_ids
from minidetr.scenes.dataset import SceneData
from minidetr.training import loop
from minidetr.training.report import Report

LARGE = 118_287  # images of COCO's train2017
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


def write_large_json(path: Path, images: int) -> int:
    """A panoptic JSON of so many images, 11.5 segments each on average, as COCO's train2017; returns how many segments."""
    rng = np.random.default_rng(0)
    categories = [{"id": i, "name": f"class {i}", "isthing": int(i <= 80)} for i in range(1, 134)]
    count = 0
    with path.open("w") as file:
        listed = ({"id": n, "file_name": f"{n:012d}.jpg", "height": 480, "width": 640} for n in range(images))
        file.write('{"categories": ' + json.dumps(categories) + ', "images": [' + ", ".join(map(json.dumps, listed)))
        file.write('], "annotations": [')
        for n in range(images):
            ids = np.unique(rng.integers(1, 256**3, int(rng.integers(4, 20))))
            segments = [
                {
                    "id": int(i),
                    "category_id": int(i) % 133 + 1,
                    "area": int(i) % 300000,
                    "bbox": [int(i) % 640, 7, 100, 200],
                    "iscrowd": 0,
                }
                for i in ids
            ]
            count += len(segments)
            annotation = {"image_id": n, "file_name": f"{n:012d}.png", "segments_info": segments}
            file.write(", " * (n > 0) + json.dumps(annotation))
        file.write("]}")
    return count


def private() -> float:
    """The memory that is this process's alone, in MB (Linux)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024 / 1e6


def highest() -> float:
    """The most resident memory since the peak began anew, in MB (Linux)."""
    [line] = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


class Entries(Dataset):
    """What a loader process touches of a data set for each image, but for the files; the last item tells its memory."""

    def __init__(self, data: CocoPanoptic) -> None:
        self.data, self.start = data, 0.0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[int, float]:
        self.start = self.start or private()
        segments = self.data.index.entries(index)
        grown = private() - self.start if index % 500 == 0 else 0.0
        return len(segments) + 0 * len(self.data.file_names[index]) * len(self.data.index.pngs[index]), grown


def read_large_json(folder: Path, images: int, processes: int) -> None:
    """Seconds and memory of reading, then of an epoch over all entries in `processes` processes."""
    for name in ("images", "panoptic"):
        (folder / name).mkdir()
    segments = write_large_json(folder / "panoptic.json", images)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, now_before, began = private(), now(), time.process_time()
    data = CocoPanoptic.from_folder(folder)
    seconds = time.process_time() - began
    megabytes = (folder / "panoptic.json").stat().st_size / 1e6
    print(
        f"large JSON: {images} images, {segments} segments, {megabytes:.0f} MB: {seconds:.1f} s of CPU, "
        f"{private() - before:.0f} MB kept, {highest() - now_before:.0f} MB more at its peak, the file's pages among them",
        flush=True,
    )
    loader = DataLoader(Entries(data), batch_size=100, shuffle=True, num_workers=processes, multiprocessing_context="fork")
    counted, grown = 0, 0.0
    for counts, growths in loader:
        counted, grown = counted + int(counts.sum()), max(grown, float(growths.max()))
    assert counted == segments
    print(f"large JSON: an epoch over all entries in {processes} processes: at most {grown:.0f} MB more in each", flush=True)


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
    parser.add_argument("--images", type=int, default=LARGE, help="of the large JSON; 0: none")
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--cache", type=Path, help="where to work (default: a temporary folder)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.cache) as name:
        folder = Path(name)
        if given.images:
            (folder / "large").mkdir()
            apart(read_large_json, folder / "large", given.images, 8)
        if given.predictions:
            write_predictions(folder, given.predictions)
            apart(evaluate, folder)
        if given.scenes:
            apart(train, folder, given.scenes, given.batch_size)


if __name__ == "__main__":
    main()
