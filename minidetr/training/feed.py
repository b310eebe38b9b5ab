"""What the training loop is fed with: data sets by option, and batches that can be resumed anywhere in an epoch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from minidetr.data.batch import Batch
from minidetr.data.coco import CocoPanoptic, PanopticDataset
from minidetr.data.foreign import READINGS, many_crowds
from minidetr.data.targets import PackedTarget, Target
from minidetr.data.transforms import evaluation_transform, training_transform
from minidetr.errors import InputError, WorkerDied
from minidetr.evaluate.pairs import class_key
from minidetr.scenes.dataset import HELD_OUT_SEED, VALIDATION_SEED, SceneData
from minidetr.training.options import TrainOptions
from minidetr.weights.files import hash_of

VALIDATION_NAMES = ("val", "valid", "validation")


def open_data(options: TrainOptions) -> tuple[PanopticDataset, PanopticDataset]:
    """The training and the validation data set. Raises InputError when there is no image, or classes disagree."""
    if options.data == "scenes":
        if options.scene_seed + options.scenes > HELD_OUT_SEED:
            raise InputError(
                f"training scenes must have seeds below {HELD_OUT_SEED}, where the held-out ones begin: "
                "lower --scene-seed or --scenes"
            )
        size = options.size
        kept: dict[str, Any] = {"cache": options.cache, "workers": options.workers or 1}
        rendered = SceneData(options.scenes, options.scene_seed, size, augmentation(options), **kept)
        return rendered, SceneData(options.validation_images, VALIDATION_SEED, size, **kept)
    folder = Path(options.data)
    if not folder.is_dir():
        raise InputError(f"--data {folder} is neither 'scenes' nor a folder with panoptic.json, images/ and panoptic/")
    training_folder = folder / "train" if (folder / "train").is_dir() else folder
    beside = [folder / name for name in VALIDATION_NAMES if training_folder != folder and (folder / name).is_dir()]
    validation_folder = options.validation or (beside[0] if beside else training_folder)
    train = CocoPanoptic.from_folder(training_folder, augmentation(options), options.crowds, options.void)
    validation = CocoPanoptic.from_folder(validation_folder, crowds=options.crowds, void=options.void)
    for data in (train, validation):
        if not len(data):
            raise InputError(f"the data set in {folder} has no image: there is nothing to train on")
    check_same_classes(train, validation)
    return train, validation


def open_test(options: TrainOptions, train: PanopticDataset) -> CocoPanoptic | None:
    """The data set of `options.test`, its files there and its classes those of `train`; None where none was given."""
    if options.test is None:
        return None
    test = CocoPanoptic.from_folder(options.test, crowds=options.crowds, void=options.void)
    if isinstance(train, CocoPanoptic):
        check_same_classes(train, test)
    elif [(c.id, c.name) for c in train.categories] != [(c.id, c.name) for c in test.categories]:
        raise InputError(f"--test {options.test} has other classes than rendered scenes: give scenes that `minidetr scenes` wrote")
    test.check_files()
    return test


def is_training_data(train: PanopticDataset, validation: PanopticDataset) -> bool:
    """Whether a model is judged by what it has learned from."""
    if not isinstance(train, CocoPanoptic) or not isinstance(validation, CocoPanoptic):
        return False
    return train.json_file.resolve() == validation.json_file.resolve()


def fingerprint(data: PanopticDataset) -> dict[str, Any]:
    """What tells a data set from another one, cheaply and wherever it lies: the number of images, and a hash of the JSON's bytes.

    Of rendered scenes it is the seed of the first one.
    """
    if not isinstance(data, CocoPanoptic):
        return {"images": len(data), "content": str(getattr(data, "seed", ""))}
    return {"images": len(data), "content": hash_of(data.json_file)}


def changed_data(before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> list[str]:
    """One line if a run goes on with other data than it began with, by their `fingerprint`s; none where one is not known."""
    told = []
    for part in before.keys() & now.keys():
        if before[part] != now[part]:
            old, new = before[part]["images"], now[part]["images"]
            told.append(f"{part}: {old} images then, {new} now" if old != new else f"{part}: as many images, but another JSON")
    advice = "give the earlier data, or start a new run with --from, if that is not what you want"
    return [f"attention: the run goes on with other data than it had before ({'; '.join(sorted(told))}): {advice}"] if told else []


def looked_through(train: PanopticDataset, validation: PanopticDataset, count: int, queries: int) -> list[str]:
    """Find every problem before the first iteration, not after hours; returns what is worth telling, a line each.

    Of the training data every file must be there; of the validation data the first `count` images, those that are judged, are read.
    `queries` is how many objects the model can find. Raises InputError.
    """
    lines: list[str] = []
    for data in (train,) if is_training_data(train, validation) else (train, validation):
        if isinstance(data, CocoPanoptic):
            data.check_files()
            lines += [f"{data.json_file}: {len(places)} x {READINGS[kind]}" for kind, places in data.remarks.items() if places]
            every, crowds = Counter(data.index.category_ids.tolist()), Counter(data.index.category_ids[data.index.crowds].tolist())
            things = {category.id: category.name for category in data.categories if category.is_thing}
            if many := ", ".join(many_crowds(every, crowds, things)):
                lines.append(
                    f"attention: {data.json_file}: crowds are neither trained on nor counted ({many}): --crowds as-objects"
                )
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside of Python's lock
        most = max(pool.map(lambda index: len(validation.read(index)[2]), range(min(len(validation), count))), default=0)
    if most > queries:
        lines.append(f"note: some images have {most} segments but the model {queries} queries: raise --queries")
    if is_training_data(train, validation):
        lines.append(
            "note: scores are those of the training data, what was learned by heart: give --validation, or train/ and val/"
        )
    return lines


def something_to_learn(train: PanopticDataset, validation: PanopticDataset, count: int) -> list[str]:
    """One line if none of the first `count` validation images, those that are judged, has a segment to be judged by.

    Crowds are none. Raises InputError, naming the JSON, where the whole training set has nothing to learn from.
    """
    if lack := without_segments(train, len(train)):
        raise InputError(f"there is nothing to learn: {lack}")
    lack = without_segments(validation, min(count, len(validation)))
    return [f"attention: scores will be nan: {lack}"] if lack else []


def without_segments(data: PanopticDataset, count: int) -> str:
    """What is to be said of a data set whose first `count` images have nothing but void and crowds; "" of any other."""
    if not isinstance(data, CocoPanoptic):
        return ""
    crowds = data.index.crowds[: data.index.starts[count]]
    if not crowds.all():
        return ""
    where = f"{data.json_file} has in its first {count} images" if count < len(data) else f"{data.json_file} has"
    if not len(crowds):
        return f"{where} no segment, all is void: annotate them, or correct --void"
    return f"{where} no segment but crowds: read them as objects by --crowds as-objects"


def check_same_classes(train: CocoPanoptic, validation: CocoPanoptic) -> None:
    """Raise InputError, naming the class, unless each id means the same class in both: its name, and whether it is a thing."""
    one, other = ({category.id: category for category in data.categories} for data in (train, validation))
    advice = "use one list of 'categories' for both"
    names = {category.name for category in one.values()}
    for category_id in sorted(one.keys() | other.keys()):
        if category_id not in one or category_id not in other:
            has, lacks, known = (train, validation, one) if category_id in one else (validation, train, other)
            name = known[category_id].name
            raise InputError(f"category {category_id}, {name!r} in {has.json_file}, is not in {lacks.json_file}: {advice}")
        a, b = one[category_id], other[category_id]
        if class_key(a.name) != class_key(b.name) or (a.name != b.name and b.name in names):  # "Car" and "car" may be two
            files = f"{a.name!r} in {train.json_file} but {b.name!r} in {validation.json_file}"
            raise InputError(f"category {category_id} is {files}: {advice}")
        if a.is_thing != b.is_thing:
            files = f"{train.json_file} and {validation.json_file}"
            raise InputError(f"the 'isthing' of category {category_id}, {a.name!r}, differs between {files}: {advice}")


def augmentation(options: TrainOptions) -> v2.Transform:
    """What is done to a training image: see `TrainOptions.augment`."""
    scale = options.size / 800  # the reference's augmentation, in proportion
    resize = evaluation_transform(options.size, max(options.size, round(1333 * scale)))
    if options.augment == "none":
        return resize
    # Scenes are not scarce: crops of them cost more than they bring, for what is learned of sizes and places fits them no more.
    if options.augment == "flip" or options.data == "scenes":
        return v2.Compose([v2.RandomHorizontalFlip(), resize])
    short_sides = tuple(round(side * scale) for side in range(480, 801, 32))
    crops, crop_range = tuple(round(side * scale) for side in (400, 500, 600)), (round(384 * scale), round(600 * scale))
    moved = training_transform(short_sides, round(1333 * scale), crops, crop_range)
    if options.augment == "full":
        return moved
    # As of another camera or another hour.
    return v2.Compose([moved, v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.02)])


class EpochBatches:
    """The batches of each epoch, shuffled by `seed` and epoch, shared out over processes.

    Process `rank` of `world` takes every world-th image of each global batch of `batch_size` images. The last batch may be smaller;
    every process always gets at least one image (the first ones again, where there are too few), so that none waits for another.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        self.length, self.batch_size, self.seed, self.rank, self.world = length, max(batch_size, world), seed, rank, world

    def __len__(self) -> int:
        return -(-self.length // self.batch_size)

    def of_epoch(self, epoch: int, start: int = 0) -> list[list[tuple[int, int]]]:
        """This process's batches from number `start` on: lists of (index, seed of the image's augmentation)."""
        generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        order, seeds = generator.permutation(self.length), generator.integers(2**62, size=self.length)
        batches = []
        for first in range(start * self.batch_size, self.length, self.batch_size):
            places = np.arange(first, min(first + self.batch_size, self.length))
            while len(places) < self.world:  # fewer images than processes: some twice
                places = np.concatenate([places, np.arange(self.world - len(places)) % self.length])
            batches.append([(int(order[p]), int(seeds[p])) for p in places[self.rank :: self.world]])
        return batches

    def endless(self, epoch: int, start: int) -> Iterator[list[tuple[int, int]]]:
        """The batches from number `start` of `epoch` on, epoch after epoch, so that loading need not begin anew with each."""
        while True:
            yield from self.of_epoch(epoch, start)
            epoch, start = epoch + 1, 0


class Seeded(Dataset):
    """A data set read by (index, seed): the augmentation depends on the seed alone, not on workers, order or what came before."""

    def __init__(self, data: PanopticDataset):
        self.data = data

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Target] | InputError:
        """Image and target; a mistake in the data is returned, because torch would write a traceback into its sentence."""
        index, seed = item
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                return self.data[index]
            except InputError as error:
                return error


def collate_or_mistake(items: list) -> tuple[Batch, list[PackedTarget]] | InputError:
    """`collate` with the targets packed, or the first mistake among the items."""
    mistake = next((item for item in items if isinstance(item, InputError)), None)
    if mistake is not None:
        return mistake
    batch, targets = collate(items)
    return batch, [PackedTarget.of(target) for target in targets]


def collate(items: list[tuple[Tensor, Target]]) -> tuple[Batch, list[Target]]:
    """Images and targets of one batch."""
    images, targets = zip(*items, strict=True)
    return Batch.pad(list(images)), list(targets)


def loader(
    data: PanopticDataset, batches: Iterable[list[tuple[int, int]]], workers: int
) -> Generator[tuple[Batch, list[PackedTarget]], None, None]:
    """The batches in order, read by `workers` processes (0: by this one), which live as long as there are batches.

    Raises InputError for data that can't be read, WorkerDied when a process dies.
    """
    read = DataLoader(
        Seeded(data),
        batch_sampler=cast(Any, batches),
        collate_fn=collate_or_mistake,
        num_workers=workers,
        worker_init_fn=one_thread if workers else None,
        pin_memory=torch.cuda.is_available(),  # a GPU fetches by itself what lies still
        generator=torch.Generator(),  # its own: the global one must not depend on how often a run was cut off
    )
    try:
        for batch in read:
            if isinstance(batch, InputError):
                raise batch
            yield batch
    except RuntimeError as error:
        if not re.search(r"DataLoader worker.*(exited unexpectedly|killed by)", str(error)):
            raise
        raise WorkerDied(
            f"one of the {workers} processes that load data died ({str(error).splitlines()[0]}), perhaps for want of memory: "
            "try fewer --workers, or --workers 0"
        ) from error


def one_thread(worker: int) -> None:
    """Keep each loading process to one core: the model needs the others."""
    torch.set_num_threads(1)
