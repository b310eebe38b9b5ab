"""Rendered construction scenes as a data set: as many as one likes, the same for the same seed, no download."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms import v2
from tqdm import tqdm

from minidetr.data.coco import PanopticDataset, measured, whole_folder
from minidetr.errors import InputError
from minidetr.presets import SCENE_SIZE
from minidetr.scenes import render as scenes
from minidetr.scenes.painters import CATEGORIES

# Seeds are never shared: training takes its scenes from below the first, the demo and the model card from there on, validation
# during training from the second on.
HELD_OUT_SEED, VALIDATION_SEED = 1_000_000, 2_000_000


class SceneData(PanopticDataset):
    """`count` scenes of `size` x `size` pixels; scene `index` is `render_scene(seed + index)`, rendered when it is read.

    With `cache`, a folder, every scene is rendered once, by `workers` processes, and kept there; later runs with the same
    count, seed and size read them. That takes 4 bytes a pixel, and reading is some memory copies.
    """

    def __init__(
        self,
        count: int,
        seed: int = 0,
        size: int = SCENE_SIZE,
        transform: v2.Transform | None = None,
        cache: str | Path | None = None,
        workers: int | None = None,
    ) -> None:
        if count < 1 or not 32 <= size <= 4096 or seed < 0:
            raise InputError(
                f"scenes need count >= 1, size in 32..4096 and seed >= 0, but count, size, seed are {count}, {size}, {seed}"
            )
        self.seed, self.size, self.transform = seed, size, transform
        self.categories = list(CATEGORIES)
        self.image_ids = list(range(count))
        self.file_names = [f"{index:06d}.png" for index in range(count)]
        self.cache: Path | None = None
        if cache is not None:
            version = scenes.VERSION
            self.cache = Path(cache) / f"scenes-{version}-seed{seed}-{count}x{size}"
            if not self.cache.is_dir():
                _build_cache(self.cache, count, seed, size, workers or os.cpu_count() or 1)

    def read(self, index: int) -> tuple[Image.Image, np.ndarray, list[dict]]:
        """One scene as `PanopticDataset.read` says, its segments in the order of their ids."""
        index = range(len(self))[index]  # negative indices, and IndexError at the end
        image, ids, categories = _cached(self.cache, index) if self.cache else render(self.size, self.seed + index)
        segments = [{"id": int(i), "category_id": int(categories[i]), "iscrowd": 0} for i in np.flatnonzero(categories)]
        ids = ids.astype(np.int32)
        return Image.fromarray(image), ids, measured(ids, segments)


def render(size: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One scene, all uint8: image size size 3, segment ids size size, and the category of each of the 256 ids (0 = no segment)."""
    scene = scenes.render_scene(seed, size, size)
    categories = np.zeros(256, np.uint8)
    for segment in scene.segments_info:
        categories[segment["id"]] = segment["category_id"]  # IndexError above 255, where uint8 would wrap around
    return scene.image, scene.segment_ids.astype(np.uint8), categories


def _cached(cache: Path, index: int) -> tuple[np.ndarray, ...]:
    # Opened anew each time: memory maps kept by the data set would be copied whole into every process of a data loader.
    try:
        image, ids, categories = (np.load(cache / f"{name}.npy", mmap_mode="r")[index] for name in ("images", "ids", "categories"))
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{cache} is a broken cache ({error}): remove it, it will be rendered again") from error
    return image, ids, categories


def _build_cache(cache: Path, count: int, seed: int, size: int, workers: int) -> None:
    seeds, task = range(seed, seed + count), partial(render, size)
    cache.parent.mkdir(parents=True, exist_ok=True)
    needed, free = count * (4 * size * size + 256), shutil.disk_usage(cache.parent).free
    if needed > free:  # said now, because a disk that fills up under a memory map kills the process without a word
        raise InputError(
            f"{cache} needs {needed / 1e9:.1f} GB but its disk has {free / 1e9:.1f}: give another --cache or fewer scenes"
        )
    with whole_folder(cache) as part, ProcessPoolExecutor(workers) as pool:
        shapes = {"images": (count, size, size, 3), "ids": (count, size, size), "categories": (count, 256)}
        arrays = [np.lib.format.open_memmap(part / f"{name}.npy", "w+", np.uint8, shape) for name, shape in shapes.items()]
        rendered = pool.map(task, seeds, chunksize=8) if workers > 1 else map(task, seeds)
        for index, values in enumerate(tqdm(rendered, desc="rendering scenes", total=count, unit="scene", disable=None)):
            for array, value in zip(arrays, values, strict=True):
                array[index] = value
        for array in arrays:
            array.flush()
