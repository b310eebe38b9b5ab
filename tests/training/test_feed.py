"""What the loop is fed with: every image once an epoch over all processes, resumable anywhere, augmented by seed alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from minidetr.data.coco import CocoPanoptic, write_coco_panoptic
from minidetr.errors import InputError
from minidetr.scenes.dataset import VALIDATION_SEED, SceneData
from minidetr.training import loop
from minidetr.training.feed import EpochBatches, Seeded, is_training_data, loader, looked_through, open_data, something_to_learn
from minidetr.training.options import TrainOptions

SIZE = 64


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> str:
    return str(tmp_path_factory.getbasetemp() / "scenes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cache):
    """A data set of two scenes on disk."""
    path = tmp_path_factory.mktemp("feed") / "data"
    write_coco_panoptic(SceneData(2, 7, SIZE), path)
    return path


# --- batches


def every_case():
    for length in (1, 2, 3, 7, 8, 9, 20):
        for world in (1, 2, 3):
            for batch_size in (1, 2, 4, 5):
                yield length, batch_size, world


def test_every_image_once_an_epoch_over_all_processes():
    for length, batch_size, world in every_case():
        shares = [EpochBatches(length, batch_size, 5, rank, world) for rank in range(world)]
        for epoch in (0, 3):
            mine = [share.of_epoch(epoch) for share in shares]
            assert {len(batches) for batches in mine} == {len(shares[0])}  # all take the same number of steps
            whole_batches = [[item for batches in mine for item in batches[i]] for i in range(len(shares[0]))]
            assert all(batches[i] for batches in mine for i in range(len(batches)))  # nobody has nothing to do
            indices = [index for batch in whole_batches for index, _ in batch]
            assert set(indices) == set(range(length))
            repeated = len(indices) - length  # only where the last batch has fewer images than there are processes
            last = length % shares[0].batch_size or shares[0].batch_size
            assert repeated == max(0, world - last), (length, batch_size, world)
            assert all(len(batch) <= max(batch_size, world) for batch in whole_batches)


def test_processes_share_the_batches_that_one_process_would_have():
    for length, batch_size, world in every_case():
        if batch_size < world or 0 < length % batch_size < world:
            continue
        alone = EpochBatches(length, batch_size, 5).of_epoch(2)
        mine = [EpochBatches(length, batch_size, 5, rank, world).of_epoch(2) for rank in range(world)]
        for number, batch in enumerate(alone):
            assert sorted(batch) == sorted(item for batches in mine for item in batches[number])


def test_the_last_batch_may_be_smaller():
    assert [len(batch) for batch in EpochBatches(10, 4, 0).of_epoch(0)] == [4, 4, 2]
    assert [[len(b) for b in EpochBatches(7, 4, 0, rank, 2).of_epoch(0)] for rank in (0, 1)] == [[2, 2], [2, 1]]


def test_epochs_and_seeds_differ_and_repeat():
    batches = EpochBatches(20, 4, 1)
    assert batches.of_epoch(0) == EpochBatches(20, 4, 1).of_epoch(0)
    assert batches.of_epoch(0) != batches.of_epoch(1) != EpochBatches(20, 4, 2).of_epoch(1)
    assert len({seed for epoch in range(3) for batch in batches.of_epoch(epoch) for _, seed in batch}) == 60


def test_an_epoch_goes_on_where_it_was():
    for rank in (0, 1):
        batches = EpochBatches(11, 4, 3, rank, 2)
        for start in range(len(batches) + 1):
            assert batches.of_epoch(4, start) == batches.of_epoch(4)[start:]


# --- samples


@pytest.fixture
def scenes(cache) -> SceneData:
    return SceneData(4, 0, SIZE, v2.ColorJitter(brightness=0.2), cache, workers=1)


def same(one, other) -> bool:
    (image, target), (image_2, target_2) = one, other
    return torch.equal(image, image_2) and torch.equal(target.masks, target_2.masks) and torch.equal(target.boxes, target_2.boxes)


def test_a_sample_depends_on_its_seed_alone(scenes):
    data = Seeded(scenes)
    first, other = data[2, 2**61 + 5], data[2, 6]
    assert not same(first, other)  # the augmentation is drawn
    torch.manual_seed(99)
    torch.rand(7)
    data[0, 1]
    assert same(first, data[2, 2**61 + 5])


def test_reading_leaves_the_global_generator_alone(scenes):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    Seeded(scenes)[1, 5]
    list(loader(scenes, [[(0, 1)]], workers=0))
    assert torch.equal(torch.rand(4), expected)


def test_workers_change_nothing(scenes):
    batches = EpochBatches(4, 3, 0).of_epoch(0)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    for (batch, targets), (batch_2, targets_2) in zip(loader(scenes, batches, 0), loader(scenes, batches, 2), strict=True):
        assert torch.equal(batch.images, batch_2.images)
        assert [t.image_id for t in targets] == [t.image_id for t in targets_2]
        assert all(torch.equal(t.to("cpu").masks, t2.to("cpu").masks) for t, t2 in zip(targets, targets_2, strict=True))
    assert torch.equal(torch.rand(4), expected)


def test_no_batches_end_at_once(scenes):
    assert list(loader(scenes, [], 0)) == list(loader(scenes, [], 1)) == []


# --- data sets


def options(**given) -> TrainOptions:
    return TrainOptions(**({"preset": "tiny", "size": SIZE, "scenes": 3, "validation_images": 2, "workers": 1} | given)).filled()


def test_scenes_are_split_by_seed(cache):
    train, validation = open_data(options(cache=cache, scene_seed=4))
    assert (len(train), len(validation)) == (3, 2)
    assert (train.seed, validation.seed) == (4, VALIDATION_SEED)
    assert train.transform is not None and validation.transform is None
    assert train[0][0].shape == (3, SIZE, SIZE)
    with pytest.raises(InputError, match="seeds below 1000000.*--scene-seed or --scenes"):
        open_data(options(cache=cache, scene_seed=999_998))


@pytest.mark.parametrize("kind", ["scenes", "folder"])
def test_how_much_is_augmented(kind, folder, cache):
    """Seen with 12 seeds: "none" gives one picture, "flip" that and its mirror image, "full" a new one nearly each time."""
    seen = {}
    for augment in ("none", "flip", "full"):
        data = Seeded(open_data(options(cache=cache, augment=augment, data="scenes" if kind == "scenes" else str(folder)))[0])
        seen[augment] = [data[1, seed][0] for seed in range(12)]
    plain = seen["none"][0]
    assert plain.shape == (3, SIZE, SIZE) and all(torch.equal(image, plain) for image in seen["none"])
    if kind == "scenes":
        assert torch.equal(plain, SceneData(2, 0, SIZE)[1][0])  # as it was rendered
    mirrored = [torch.equal(image, plain.flip(2)) for image in seen["flip"]]
    assert 0 < sum(mirrored) < 12
    assert all(flipped or torch.equal(image, plain) for image, flipped in zip(seen["flip"], mirrored, strict=True))
    if kind == "scenes":
        assert all(torch.equal(*pair) for pair in zip(seen["flip"], seen["full"], strict=True))
    else:
        assert len({image.numpy().tobytes() for image in seen["full"]}) > 6


def test_a_folder_without_splits_is_also_what_is_evaluated_on(folder):
    train, validation = open_data(options(data=str(folder)))
    assert len(train) == len(validation) == 2 and validation.transform is None
    image, target = train[0]
    assert image.shape[1:] == target.masks.shape[1:] and min(image.shape[1:]) >= SIZE * 480 // 800


def test_splits_of_a_folder_and_another_validation_folder(folder, tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    for split, count in (("train", 2), ("val", 1)):
        write_coco_panoptic(SceneData(count, 3, SIZE), root / split)
    write_coco_panoptic(SceneData(1, 9, SIZE), other)
    train, validation = open_data(options(data=str(root)))
    assert (len(train), len(validation)) == (2, 1)
    assert open_data(options(data=str(root), validation=str(other)))[1].json_file == other / "panoptic.json"
    (root / "val").rename(tmp_path / "away")
    assert len(open_data(options(data=str(root)))[1]) == 2


def change(json_file, edit) -> None:
    content = json.loads(json_file.read_text())
    edit(content)
    json_file.write_text(json.dumps(content))


def test_data_that_cannot_be_trained_on_is_named(folder, tmp_path):
    with pytest.raises(InputError, match="nowhere is neither 'scenes' nor a folder"):
        open_data(options(data=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match=r"panoptic\.json|is not a folder"):
        (tmp_path / "empty").mkdir()
        open_data(options(data=str(tmp_path / "empty")))

    none = tmp_path / "none"
    write_coco_panoptic(SceneData(1, 0, SIZE), none)
    change(none / "panoptic.json", lambda content: content.update(images=[], annotations=[]))
    with pytest.raises(InputError, match=r"none.*images"):
        open_data(options(data=str(none)))


@pytest.mark.parametrize("edit", [{"id": 77}, {"isthing": 1}])
def test_categories_must_agree(folder, tmp_path, edit):
    other = tmp_path / "other"
    write_coco_panoptic(SceneData(1, 0, SIZE), other)
    change(other / "panoptic.json", lambda content: content["categories"].append({"id": 50, "name": "new", "isthing": 0} | edit))
    with pytest.raises(InputError, match="category .*other.panoptic.json.*: use one list of .categories. for both"):
        open_data(replace(options(data=str(folder)), validation=str(other)))


def test_targets_of_a_batch_stay_with_their_images(scenes):
    [(batch, targets)] = loader(scenes, [[(3, 1), (1, 2)]], 0)
    assert [t.image_id for t in targets] == [3, 1]
    assert batch.images.shape == (2, 3, SIZE, SIZE)
    assert all(t.to("cpu").masks.shape[1:] == size for t, size in zip(targets, batch.sizes, strict=True))
    assert np.isfinite(batch.images.numpy()).all()


# --- what is told and found before the first iteration


def segment_entry(content: dict) -> dict:
    return content["annotations"][0]["segments_info"][0]


def edited(folder: Path, change: Any) -> Path:
    content = json.loads((folder / "panoptic.json").read_text())
    change(content)
    (folder / "panoptic.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Three scenes as a data set on disk."""
    write_coco_panoptic(SceneData(3, seed=5, size=64), tmp_path / "site")
    return tmp_path / "site"


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_folders_that_hold_validation_data(written: Path, tmp_path: Path, name: str) -> None:
    both = tmp_path / "both"
    shutil.copytree(written, both / "train")
    write_coco_panoptic(SceneData(2, seed=9, size=64), both / name)
    train, validation = open_data(TrainOptions(preset="tiny", data=str(both), size=64).filled())
    assert (len(train), len(validation)) == (3, 2) and not is_training_data(train, validation)
    lines = looked_through(train, validation, 10, 100)
    assert lines == []


def test_scores_of_the_training_data_are_said_to_be_that(written: Path) -> None:
    train, validation = open_data(TrainOptions(preset="tiny", data=str(written), size=64).filled())
    assert is_training_data(train, validation)
    [line] = looked_through(train, validation, 10, 100)
    assert "scores are those of the training data" in line
    scenes = SceneData(1, size=64)
    assert not is_training_data(scenes, scenes)


def test_a_class_of_crowds_is_told_and_can_be_read_as_objects(written: Path) -> None:
    edited(written, lambda c: [s.update(iscrowd=1) for a in c["annotations"] for s in a["segments_info"]])
    train, validation = open_data(TrainOptions(preset="tiny", data=str(written), size=64).filled())
    told = [line for line in looked_through(train, validation, 10, 100) if "crowds" in line]
    things = {c.name for c in train.categories if c.is_thing and c.id in train.index.category_ids}
    assert len(told) == 1 and told[0].startswith("attention: ")
    assert all(f"{name}: " in told[0] for name in {*things, "all things"})
    assert all(len(target.labels) == 0 for _, target in train)
    train, validation = open_data(TrainOptions(preset="tiny", data=str(written), size=64, crowds="as-objects").filled())
    assert all(len(target.labels) > 0 for _, target in train)
    assert not [line for line in looked_through(train, validation, 10, 100) if "crowds" in line]


def test_data_without_anything_to_learn_is_refused(written: Path, tmp_path: Path) -> None:
    """Crowds and void alone: such a run went on to the end with a PQ of nan."""
    both, given = tmp_path / "both", {"preset": "tiny", "data": str(tmp_path / "both"), "size": 64}
    shutil.copytree(written, both / "train")
    shutil.copytree(written, both / "val")
    assert something_to_learn(*open_data(TrainOptions(**given).filled()), 10) == []

    edited(both / "val", lambda c: [s.update(iscrowd=1) for a in c["annotations"][:2] for s in a["segments_info"]])
    data = open_data(TrainOptions(**given).filled())
    assert something_to_learn(*data, 3) == []  # the third image has objects
    [line] = something_to_learn(*data, 2)
    assert (
        f"nan: {both / 'val' / 'panoptic.json'} has in its first 2 images no segment but crowds" in line and "attention: " in line
    )

    edited(both / "train", lambda c: [s.update(iscrowd=1) for a in c["annotations"] for s in a["segments_info"]])
    with pytest.raises(InputError, match=r"train.panoptic\.json has no segment but crowds: .*--crowds as-objects"):
        something_to_learn(*open_data(TrainOptions(**given).filled()), 2)
    assert something_to_learn(*open_data(TrainOptions(**given, crowds="as-objects").filled()), 2) == []

    edited(both / "train", lambda c: [a.update(segments_info=[]) for a in c["annotations"]])
    with pytest.raises(InputError, match=r"train.panoptic\.json has no segment, all is void: annotate them"):
        something_to_learn(*open_data(TrainOptions(**given).filled()), 2)
    with pytest.raises(InputError, match="nothing to learn"):
        loop.train(output=str(tmp_path / "run"), **given, device="cpu", workers=0)


def test_what_was_read_otherwise_is_told(written: Path) -> None:
    edited(written, lambda c: segment_entry(c).update(id=str(segment_entry(c)["id"])))
    train, validation = open_data(TrainOptions(preset="tiny", data=str(written), size=64).filled())
    assert any("1 x id that is a text" in line for line in looked_through(train, validation, 10, 100))


def test_problems_are_found_before_the_first_iteration(written: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    shutil.copytree(written, both / "train")
    shutil.copytree(written, both / "val")
    options = TrainOptions(preset="tiny", data=str(both), size=64).filled()
    (both / "val" / "panoptic" / "000002.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"val.panoptic.000002\.png"):
        looked_through(*open_data(options), 10, 100)
    assert looked_through(*open_data(options), 2, 100) == []  # the third is not judged
    for name in ("000000.png", "000002.png"):
        (both / "train" / "images" / name).unlink()
    with pytest.raises(InputError, match=r"train.images.000000\.png is not a file \(and 1 more of 3\).*check --fix"):
        looked_through(*open_data(options), 2, 100)


def test_a_truth_without_bbox_and_area_is_measured(written: Path, tmp_path: Path) -> None:
    """panopticapi#57, detectron2#1691: converters write neither; training must not die of it at the first evaluation."""
    plain = [CocoPanoptic.from_folder(written).read(index)[2] for index in range(3)]
    edited(written, lambda c: [(s.pop("bbox"), s.pop("area")) for a in c["annotations"] for s in a["segments_info"]])
    assert [CocoPanoptic.from_folder(written).read(index)[2] for index in range(3)] == plain
    assert all(len(entry["bbox"]) == 4 and entry["area"] > 0 for entries in plain for entry in entries)
