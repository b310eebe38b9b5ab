"""Splits: shares, classes on both sides, near duplicates together, the same again with the same seed, files whole."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from minidetr.curate import split as split_module
from minidetr.curate.split import deal, looks, same_looks, split
from minidetr.data.coco import CocoPanoptic, write_coco_panoptic
from minidetr.errors import InputError
from minidetr.scenes.dataset import SceneData
from tests.reference import REFERENCE, needs_reference


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scenes; the photo of number 4 is number 3's, brighter; detection.json lists one box an image."""
    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_coco_panoptic(SceneData(12, seed=20, size=64), folder)
    with Image.open(folder / "images" / "000003.png") as photo:
        ImageEnhance.Brightness(photo).enhance(1.2).save(folder / "images" / "000004.png")
    content = json.loads((folder / "panoptic.json").read_text())
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 9, 9]} for i in (im["id"] for im in content["images"])]
    (folder / "detection.json").write_text(json.dumps(content | {"annotations": boxes, "info": "kept"}))
    return folder


def names_in(folder: Path) -> set[str]:
    content = json.loads((folder / "panoptic.json").read_text())
    listed = {image["file_name"] for image in content["images"]}
    assert listed == {path.name for path in (folder / "images").iterdir()}
    assert {a["file_name"] for a in content["annotations"]} == {path.name for path in (folder / "panoptic").iterdir()}
    return listed


def test_two_parts_hold_every_image_once_and_near_duplicates_together(scenes: Path, tmp_path: Path) -> None:
    result = split(scenes, tmp_path / "out", share=0.7, seed=1)
    train, val = names_in(tmp_path / "out" / "train"), names_in(tmp_path / "out" / "val")
    assert not train & val and train | val == {f"{i:06d}.png" for i in range(12)}
    assert result.images == {"train": len(train), "val": len(val)} and 2 <= len(val) <= 6
    assert result.kept_together == [["000003.png", "000004.png"]]
    assert {"000003.png", "000004.png"} <= train or {"000003.png", "000004.png"} <= val
    assert "2 near-duplicate photos kept together in 1 group" in result.summary()
    original, part = CocoPanoptic.from_folder(scenes), CocoPanoptic.from_folder(tmp_path / "out" / "val")
    for index, image_id in enumerate(part.image_ids):
        np.testing.assert_array_equal(part.read(index)[1], original.read(original.image_ids.index(image_id))[1])
    detection = json.loads((tmp_path / "out" / "val" / "detection.json").read_text())
    assert detection["info"] == "kept" and [a["image_id"] for a in detection["annotations"]] == part.image_ids


def test_the_seed_decides(scenes: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1), ("d", 2), ("e", 3)):
        split(scenes, tmp_path / name, seed=seed)
    assert names_in(tmp_path / "a" / "val") == names_in(tmp_path / "b" / "val")
    assert len({frozenset(names_in(tmp_path / name / "val")) for name in "bcde"}) > 1


def test_folds_validate_every_image_once(scenes: Path, tmp_path: Path) -> None:
    result = split(scenes, tmp_path / "out", folds=3)
    everything = names_in(scenes)
    validated: list[str] = []
    for k in range(3):
        train, val = (names_in(tmp_path / "out" / f"fold-{k}" / side) for side in ("train", "val"))
        assert train | val == everything and not train & val
        assert result.images[f"fold-{k}/val"] == len(val) >= 2
        assert ("000003.png" in val) == ("000004.png" in val)
        validated += val
    assert sorted(validated) == sorted(everything)


def test_files_are_linked_or_else_copied(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert split(scenes, tmp_path / "links").linked
    for side in ("train", "val"):
        for path in (tmp_path / "links" / side / "images").iterdir():
            assert os.path.samefile(path, scenes / "images" / path.name)

    def refuses(*_: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(split_module.os, "link", refuses)
    result = split(scenes, tmp_path / "copies")
    assert not result.linked and "copies" in result.summary()
    for path in (tmp_path / "copies" / "val" / "images").iterdir():
        assert not os.path.samefile(path, scenes / "images" / path.name)
        assert path.read_bytes() == (scenes / "images" / path.name).read_bytes()


@pytest.mark.parametrize("seed", range(20))
def test_classes_in_two_groups_are_on_both_sides(seed: int) -> None:
    """Classes that pairs of images share form a chain or a tree here, so there always is a way."""
    generator = np.random.default_rng(seed)
    present = np.zeros((60, 12), bool)
    for c in range(12):  # two to thirty images of their own for each class, and common classes in many others
        present[5 * c : 5 * c + 2, c] = True
    present[:, 0] |= generator.random(60) < 0.5
    part = deal(np.arange(60), present, [0.8, 0.2], seed)
    for p in (0, 1):
        assert present[part == p].any(axis=0).all()
    assert 10 <= (part == 1).sum() <= 20
    assert 0.1 <= present[part == 1, 0].sum() / present[:, 0].sum() <= 0.35


def test_groups_move_where_dealing_alone_leaves_a_class_on_one_side() -> None:
    present = np.zeros((8, 4), bool)
    for image, c in ((0, 0), (0, 1), (0, 2), (2, 0), (2, 2), (2, 3), (3, 2), (3, 3), (4, 0), (6, 1), (6, 3)):
        present[image, c] = True
    part = deal(np.arange(8), present, [0.8, 0.2])
    assert present[part == 0].any(axis=0).all() and present[part == 1].any(axis=0).all()


def test_shares_hold_for_common_classes() -> None:
    present = np.random.default_rng(3).random((1000, 4)) < [0.9, 0.5, 0.2, 0.05]
    part = deal(np.arange(1000), present, [0.8, 0.2])
    np.testing.assert_allclose((part == 1).mean(), 0.2, atol=0.02)
    np.testing.assert_allclose(present[part == 1].sum(axis=0) / present.sum(axis=0), 0.2, atol=0.03)
    np.testing.assert_array_equal(np.bincount(deal(np.arange(10), np.zeros((10, 1), bool), [0.25] * 4)) >= 2, True)


def test_groups_stay_whole_and_no_part_is_empty() -> None:
    part = deal(np.array([0, 0, 1, 0]), np.array([[1, 0], [0, 1], [0, 0], [0, 0]], bool), [0.9, 0.1])
    assert sorted(part) == [0, 1]  # two groups, two parts
    assert sorted(deal(np.arange(3), np.eye(3, dtype=bool), [0.98, 0.01, 0.01])) == [0, 1, 2]


def test_a_class_that_cannot_be_on_both_sides_is_named(tmp_path: Path) -> None:
    """Three images, each pair shares a class: two of the three are on one side, whatever the split."""
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for i, classes in enumerate([(1, 3), (1, 2), (2, 3, 4)]):
        ids = np.zeros((32, 32, 3), np.uint8)
        for k, c in enumerate(classes):
            ids[8 * k : 8 * k + 8, :, 0] = c
        for kind, pixels in (("images", generator.integers(0, 256, (32, 32, 3), np.uint8)), ("panoptic", ids)):
            (tmp_path / "data" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "data" / kind / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 32, "width": 32})
        segments = [{"id": c, "category_id": c, "area": 256, "bbox": [0, 0, 32, 8], "iscrowd": 0} for c in classes]
        annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": segments})
    categories = [{"id": c, "name": f"class {c}", "isthing": 1} for c in range(1, 6)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "data" / "panoptic.json").write_text(json.dumps(content))
    result = split(tmp_path / "data", tmp_path / "out")
    assert len(result.one_side) == 1 and result.one_side[0] in ("class 1", "class 2", "class 3")
    assert result.too_rare == ["class 4"]  # in one image; class 5 is in none
    assert result.one_side[0] in result.summary() and "class 4" in result.summary() and "class 5" not in result.summary()


def test_looks_survive_saving_and_differ_between_photos(tmp_path: Path) -> None:
    pictures = [SceneData(8, seed=40, size=96).read(i)[0] for i in range(8)]
    variants = []
    for index, picture in enumerate(pictures):
        picture.save(tmp_path / f"{index}.jpg", quality=40)
        saved = Image.open(tmp_path / f"{index}.jpg")
        variants.append(ImageEnhance.Brightness(saved.resize((64, 80))).enhance(1.2))
    groups = same_looks(np.array([looks(picture) for picture in pictures + variants]))
    assert groups[:8].tolist() == groups[8:].tolist() and len(set(groups)) == 8


@pytest.mark.parametrize(
    ("options", "message"), [({"share": 1.0}, "share is 1.0"), ({"folds": 1}, "folds is 1"), ({"folds": 99}, "too few")]
)
def test_senseless_splits_are_refused(scenes: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split(scenes, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_after_an_error_and_a_used_folder_is_kept(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        split(scenes, tmp_path / "used")
    assert (tmp_path / "used" / "mine.txt").read_text() == "mine"
    png = scenes / "panoptic" / "000005.png"
    png.rename(tmp_path / "away")
    try:
        with pytest.raises(InputError, match=r"000005\.png is not a file"):
            split(scenes, tmp_path / "out")
    finally:
        (tmp_path / "away").rename(png)
    assert [path.name for path in tmp_path.iterdir()] == ["used"]


@needs_reference
def test_real_photos_are_split(tmp_path: Path) -> None:
    result = split(REFERENCE / "coco", tmp_path / "out")
    assert sum(result.images.values()) == 11 and not result.kept_together
    on_both = [names_in(tmp_path / "out" / side) for side in ("train", "val")]
    assert min(map(len, on_both)) >= 2


# --- a third part, and data of other tools


def test_a_third_part_for_the_test(tmp_path: Path) -> None:
    write_coco_panoptic(SceneData(20, seed=3, size=64), tmp_path / "site")
    result = split(tmp_path / "site", tmp_path / "out", share=0.6, test=0.2)
    assert set(result.images) == {"train", "val", "test"} and sum(result.images.values()) == 20
    assert result.images["train"] == 12 and result.images["test"] == 4
    ids = [CocoPanoptic.from_folder(tmp_path / "out" / name).image_ids for name in result.images]
    assert sorted(itertools.chain(*ids)) == list(range(20))  # every image once
    again = split(tmp_path / "site", tmp_path / "again", share=0.6, test=0.2)
    assert again.images == result.images
    for given, sentence in (({"share": 0.8, "test": 0.2}, "stay below 1"), ({"test": 0.1, "folds": 3}, "do not go together")):
        with pytest.raises(InputError, match=sentence):
            split(tmp_path / "site", tmp_path / "never", **given)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("write_id", "place", "read_id"), [("town_{}", "images\\", "town_{}"), ("{}", "C:\\photos\\", None), ("0{}", "/home/me/", None)]
)
def test_ids_and_names_of_other_tools(tmp_path: Path, write_id: str, place: str, read_id: str | None) -> None:
    """cityscapesScripts' text ids, label-studio#7294's backslashes, digits in quotes, a drive: each part can be read."""
    write_coco_panoptic(SceneData(6, seed=3, size=64), tmp_path / "site")
    file = tmp_path / "site" / "panoptic.json"
    content = json.loads(file.read_text())
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        image["id"] = annotation["image_id"] = write_id.format(image["id"])
        image["file_name"] = place + image["file_name"]
    file.write_text(json.dumps(content))
    split(tmp_path / "site", tmp_path / "out", share=0.5)
    parts = [CocoPanoptic.from_folder(tmp_path / "out" / name) for name in ("train", "val")]
    assert sorted(i for part in parts for i in part.image_ids) == [read_id.format(i) if read_id else i for i in range(6)]
    assert all(part.read(index)[0].size == (64, 64) for part in parts for index in range(len(part)))
