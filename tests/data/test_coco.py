"""Data sets: targets agree with the official annotation, broken data is refused by name, writing and reading are inverse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minidetr.data.coco import CocoPanoptic, PanopticDataset, measured, write_coco_panoptic
from minidetr.data.images import denormalise, to_tensor
from minidetr.data.targets import boxes_from_masks, target_from_panoptic
from minidetr.data.transforms import evaluation_transform, training_transform
from minidetr.errors import InputError
from minidetr.panoptic import decode_ids, encode_ids
from minidetr.scenes.dataset import SceneData

COCO = Path(__file__).parents[2] / ".." / "shared" / "reference" / "coco"
needs_coco = pytest.mark.skipif(not COCO.is_dir(), reason="the reference cases (../shared/reference/coco) are not here")

CATEGORIES = [
    {"id": 3, "name": "cone", "isthing": 1, "color": [255, 0, 0]},
    {"id": 7, "name": "sky", "isthing": 0},
    {"id": 40, "name": "worker", "isthing": 1},
]
IDS = np.zeros((6, 8), np.int32)
IDS[0:3, :] = 1000  # sky
IDS[3:6, 0:3] = 70_000  # cone
IDS[5, 7] = 5  # a worker of one pixel
IDS[4, 4:6] = 9  # a crowd of cones
SEGMENTS = [
    {"id": 5, "category_id": 40, "iscrowd": 0},
    {"id": 1000, "category_id": 7, "iscrowd": 0},
    {"id": 9, "category_id": 3, "iscrowd": 1},
    {"id": 70_000, "category_id": 3},
]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A data set of two images: four segments, one of them a crowd, and void; and an image without segments."""
    root = tmp_path / "data"
    for name in ("images", "panoptic"):
        (root / name).mkdir(parents=True)
    for index, ids in enumerate((IDS, np.zeros((4, 5), np.int32))):
        Image.fromarray(np.full((*ids.shape, 3), 50 + index, np.uint8)).save(root / "images" / f"{index}.jpg")
        Image.fromarray(encode_ids(ids)).save(root / "panoptic" / f"{index}.png")
    content = {
        "images": [{"id": 11, "file_name": "0.jpg"}, {"id": 22, "file_name": "1.jpg"}],
        "annotations": [
            {"image_id": 22, "file_name": "1.png", "segments_info": []},
            {"image_id": 11, "file_name": "0.png", "segments_info": SEGMENTS},
        ],
        "categories": CATEGORIES,
    }
    (root / "panoptic.json").write_text(json.dumps(content))
    return root


def change(folder: Path, edit) -> None:
    content = json.loads((folder / "panoptic.json").read_text())
    edit(content)
    (folder / "panoptic.json").write_text(json.dumps(content))


# --- targets


def test_target_of_a_hand_made_image():
    target = target_from_panoptic(IDS, SEGMENTS, image_id=11)
    assert target.labels.tolist() == [40, 7, 3]  # no crowd, in the order of the entries
    expected = [[7.5 / 8, 5.5 / 6, 1 / 8, 1 / 6], [0.5, 0.25, 1, 0.5], [1.5 / 8, 4.5 / 6, 3 / 8, 0.5]]
    torch.testing.assert_close(target.boxes, torch.tensor(expected))
    for mask, segment_id in zip(target.masks, (5, 1000, 70_000), strict=True):
        assert torch.equal(mask, torch.from_numpy(segment_id == IDS))
    assert (target.image_id, target.size) == (11, (6, 8))
    assert (target.labels.dtype, target.boxes.dtype, target.masks.dtype) == (torch.int64, torch.float32, torch.bool)


@pytest.mark.parametrize("segments", [[], [SEGMENTS[2]], [{"id": 12345, "category_id": 3}]], ids=["none", "crowd", "no pixel"])
def test_target_without_segments_keeps_its_shapes(segments):
    target = target_from_panoptic(IDS, segments, image_id=1)
    assert (target.labels.shape, target.boxes.shape, target.masks.shape) == ((0,), (0, 4), (0, 6, 8))


def test_boxes_ignore_the_annotated_bbox():
    segments = [s | {"bbox": [0, 0, 1, 1]} for s in SEGMENTS]
    assert torch.equal(target_from_panoptic(IDS, segments, 1).boxes, target_from_panoptic(IDS, SEGMENTS, 1).boxes)


def test_boxes_from_masks():
    masks = torch.zeros(4, 5, 9, dtype=torch.bool)
    masks[0, 2, 3] = True  # one pixel
    masks[1] = True  # everything
    masks[2, 0, 8] = masks[2, 4, 1] = True  # two corners; masks[3] is empty
    assert boxes_from_masks(masks).tolist() == [[3, 2, 4, 3], [0, 0, 9, 5], [1, 0, 9, 5], [0, 0, 0, 0]]


def test_target_moves_to_a_device():
    target = target_from_panoptic(IDS, SEGMENTS, image_id=11).to("meta")
    assert target.boxes.device.type == target.masks.device.type == target.labels.device.type == "meta"
    assert (target.image_id, target.size) == (11, (6, 8))


# --- reading


@needs_coco
def test_targets_agree_with_the_official_annotation():
    dataset = CocoPanoptic.from_folder(COCO)
    content = json.loads((COCO / "panoptic.json").read_text())
    annotations = {a["image_id"]: [s for s in a["segments_info"] if not s["iscrowd"]] for a in content["annotations"]}
    assert len(dataset) == len(annotations) == 11
    total = 0
    for index, image_id in enumerate(dataset.image_ids):
        image, target = dataset[index]
        segments, (height, width) = annotations[image_id], target.size
        assert image.shape[1:] == target.masks.shape[1:] == (height, width)
        assert target.image_id == image_id
        assert target.labels.tolist() == [s["category_id"] for s in segments]
        assert target.masks.sum((1, 2)).tolist() == [s["area"] for s in segments]
        centre, sides = target.boxes.split(2, dim=1)
        pixels = torch.cat([centre - sides / 2, sides], dim=1) * torch.tensor([width, height, width, height])
        torch.testing.assert_close(pixels, torch.tensor([s["bbox"] for s in segments], dtype=torch.float32), atol=1e-3, rtol=0)
        total += len(segments)
    assert total == sum(len(a) for a in annotations.values()) > 150  # crowds are left out, nothing else
    assert {c.id: (c.name, c.is_thing) for c in dataset.categories} == {
        c["id"]: (c["name"], c["isthing"] == 1) for c in content["categories"]
    }


def test_read_and_item(folder):
    dataset = CocoPanoptic.from_folder(folder)
    assert (dataset.image_ids, dataset.file_names) == ([11, 22], ["0.jpg", "1.jpg"])
    image, ids, segments = dataset.read(0)
    assert image.mode == "RGB" and ids.dtype == np.int32 and segments == measured(IDS, SEGMENTS)
    np.testing.assert_array_equal(ids, IDS)

    tensor, target = dataset[0]
    assert tensor.dtype == torch.float32 and type(tensor) is type(target.masks) is torch.Tensor
    torch.testing.assert_close(denormalise(tensor), to_tensor(image) / 255)
    assert torch.equal(target.masks, target_from_panoptic(IDS, SEGMENTS, 11).masks)
    assert len(list(dataset)) == 2  # iteration ends


def test_image_without_segments(folder):
    image, target = CocoPanoptic.from_folder(folder, transform=evaluation_transform(8, 20))[1]
    assert image.shape == (3, 8, 10) and target.masks.shape == (0, 8, 10) and target.size == (4, 5)


def test_things_are_what_the_json_says(folder):
    assert [(c.id, c.is_thing, c.color) for c in CocoPanoptic.from_folder(folder).categories] == [
        (3, True, (255, 0, 0)),
        (7, False, None),
        (40, True, None),
    ]


def _set(keys: str, value):
    """`_set("images.0.id", 5)` -> the edit that sets it; the value `del` removes it."""
    *path, last = [int(key) if key.isdigit() else key for key in keys.split(".")]

    def edit(content):
        for key in path:
            content = content[key]
        if value == "del":
            del content[last]
        else:
            content[last] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_set("images", "del"), "no list 'images'"),
        (_set("images", []), "no list 'images'"),
        (_set("annotations", {}), "no list 'annotations'"),
        (_set("categories", "del"), "no list 'categories'"),
        (_set("images.1", 5), r"images\[1\].*'id'"),
        (_set("images.1.id", "del"), r"images\[1\].*'id'.*missing"),
        (_set("images.1.id", True), r"images\[1\].*'id'"),
        (_set("images.1.file_name", "del"), r"images\[1\].*'file_name'"),
        (_set("images.1.id", 11), r"images\[1\].* 11 occurs twice"),
        (_set("categories.1.id", 3), r"categories\[1\].* 3 occurs twice"),
        (_set("categories.1.id", -1), r"categories\[1\].* -1 is negative"),
        (_set("categories.1.name", "del"), r"categories\[1\].*'name'"),
        (_set("categories.1.isthing", "del"), r"categories\[1\].*'isthing'"),
        (_set("categories.1.isthing", "yes"), r"categories\[1\].*'isthing'"),
        (_set("categories.1.color", [1, 2]), r"categories\[1\].*'color'"),
        (_set("annotations.0.image_id", 99), r"annotations\[0\].*no image has the id 99"),
        (_set("annotations.0.image_id", 11), r"annotations\[1\].*image 11 has two annotations"),
        (_set("annotations.0.file_name", "del"), r"annotations\[0\].*'file_name'"),
        (_set("annotations.0.segments_info", "del"), r"annotations\[0\].*'segments_info'"),
        (_set("annotations.1.segments_info.2", None), r"annotations\[1\].segments_info\[2\].*'id'"),
        (_set("annotations.1.segments_info.2.id", "9a"), r"segments_info\[2\].*'id'.*'9a'"),
        (_set("annotations.1.segments_info.2.id", 5), r"segments_info\[2\].*segment id 5 occurs twice"),
        (_set("annotations.1.segments_info.2.id", 0), r"segments_info\[2\].*0 is void"),
        (_set("annotations.1.segments_info.2.id", 256**3), r"segments_info\[2\].*16777216"),
        (_set("annotations.1.segments_info.2.category_id", "del"), r"segments_info\[2\].*'category_id'"),
        (_set("annotations.1.segments_info.2.category_id", 4), r"segments_info\[2\].*no category has the id 4"),
        (_set("annotations.1.segments_info.2.iscrowd", 2), r"segments_info\[2\].*'iscrowd'"),
        (_set("annotations.0", "del"), r"'annotations' has no entry for 22 \(1.jpg\)"),
    ],
)
def test_a_broken_json_is_refused_on_load(folder, edit, message):
    change(folder, edit)
    with pytest.raises(InputError, match=rf"panoptic\.json.*{message}"):
        CocoPanoptic.from_folder(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"[" * 100_000])
def test_what_is_no_panoptic_json_is_refused(folder, content):
    (folder / "panoptic.json").write_bytes(content)
    with pytest.raises(InputError, match=r"panoptic\.json"):
        CocoPanoptic.from_folder(folder)


def test_missing_files_are_named(folder):
    with pytest.raises(InputError, match=r"nowhere.images is not a folder"):
        CocoPanoptic.from_folder(folder / "nowhere")
    for name, pattern in (("images/0.jpg", r"0\.jpg"), ("panoptic/1.png", r"1\.png"), ("panoptic.json", r"panoptic\.json")):
        (folder / name).rename(folder / "away")
        with pytest.raises(InputError, match=pattern):
            list(CocoPanoptic.from_folder(folder))
        (folder / "away").rename(folder / name)


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "..\\secret.png", "/etc/passwd", "", "a\0b"])
@pytest.mark.parametrize("kind", ["images", "annotations"])
def test_file_names_must_not_leave_their_folder(folder, kind, name):
    Image.new("RGB", (8, 6)).save(folder / "secret.png")
    change(folder, _set(f"{kind}.0.file_name", name))
    with pytest.raises(InputError, match=rf"{kind}\[0\].*must lie inside its folder"):
        CocoPanoptic.from_folder(folder)


def test_a_link_out_of_the_folder_is_refused_but_the_folder_may_be_one(folder, tmp_path):
    (folder / "images").rename(tmp_path / "elsewhere")
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    assert len(list(CocoPanoptic.from_folder(folder))) == 2
    (tmp_path / "elsewhere" / "0.jpg").rename(tmp_path / "outside.jpg")
    (tmp_path / "elsewhere" / "0.jpg").symlink_to(tmp_path / "outside.jpg")
    with pytest.raises(InputError, match=r"0\.jpg.*leads out"):
        CocoPanoptic.from_folder(folder).read(0)


def test_photo_and_png_of_different_size_are_both_named(folder):
    Image.new("RGB", (9, 6)).save(folder / "images" / "0.jpg")
    with pytest.raises(InputError, match=r"0\.jpg and .*0\.png .*9 x 6 and 8 x 6"):
        CocoPanoptic.from_folder(folder).read(0)


def test_a_png_that_codes_no_ids_is_refused(folder):
    Image.new("L", (8, 6)).save(folder / "panoptic" / "0.png")
    with pytest.raises(InputError, match=r"0\.png is a grey image of 8 bits; .*RGB"):
        CocoPanoptic.from_folder(folder).read(0)


def test_ids_of_png_and_json_must_agree(folder):
    change(folder, lambda content: content["annotations"][1]["segments_info"].pop(1))
    with pytest.raises(InputError, match=r"0\.png has pixels of ids 1000, .*panoptic\.json"):
        CocoPanoptic.from_folder(folder).read(0)
    change(folder, _set("annotations.1.segments_info", [*SEGMENTS, {"id": 77, "category_id": 3}, {"id": 78, "category_id": 3}]))
    with pytest.raises(InputError, match=r"0\.png has no pixel of ids 77, 78, .*panoptic\.json"):
        CocoPanoptic.from_folder(folder).read(0)


# --- writing


def assert_same(one: PanopticDataset, other: PanopticDataset) -> None:
    """Same categories, pixels, ids and targets."""
    assert one.categories == other.categories and one.image_ids == other.image_ids and len(one) > 0
    for index in range(len(one)):
        (image, target), (image_2, target_2) = one[index], other[index]
        torch.testing.assert_close(image, image_2, atol=0, rtol=0)
        for name in ("labels", "boxes", "masks"):
            assert torch.equal(getattr(target, name), getattr(target_2, name)), (index, name)
        np.testing.assert_array_equal(one.read(index)[1], other.read(index)[1])


def test_written_data_is_read_back_the_same(folder, tmp_path):
    dataset = CocoPanoptic.from_folder(folder)
    write_coco_panoptic(dataset, tmp_path / "out")
    assert_same(dataset, CocoPanoptic.from_folder(tmp_path / "out"))
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert content["annotations"][0]["segments_info"] == [
        {"id": 5, "category_id": 40, "area": 1, "bbox": [7, 5, 1, 1], "iscrowd": 0},
        {"id": 1000, "category_id": 7, "area": 24, "bbox": [0, 0, 8, 3], "iscrowd": 0},
        {"id": 9, "category_id": 3, "area": 2, "bbox": [4, 4, 2, 1], "iscrowd": 1},
        {"id": 70_000, "category_id": 3, "area": 9, "bbox": [0, 3, 3, 3], "iscrowd": 0},
    ]
    assert content["images"][0] == {"id": 11, "file_name": "000000.png", "height": 6, "width": 8}
    png = np.asarray(Image.open(tmp_path / "out" / "panoptic" / "000000.png"))
    np.testing.assert_array_equal(decode_ids(png), IDS)


def test_writing_refuses_a_used_folder_and_fills_an_empty_one(folder, tmp_path):
    dataset, out = CocoPanoptic.from_folder(folder), tmp_path / "out"
    out.mkdir()
    write_coco_panoptic(dataset, out)
    before = (out / "panoptic.json").stat().st_mtime_ns
    for used in (out, out / "panoptic.json"):
        with pytest.raises(InputError, match="exists and is not an empty folder"):
            write_coco_panoptic(dataset, used)
    assert (out / "panoptic.json").stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]  # nothing left beside


def test_writing_leaves_nothing_after_an_error(folder, tmp_path):
    (folder / "images" / "1.jpg").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"1\.jpg"):
        write_coco_panoptic(CocoPanoptic.from_folder(folder), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


# --- rendered scenes


def test_scenes_are_valid_and_exported_whole(tmp_path):
    dataset = SceneData(count=2, seed=5, size=64)
    write_coco_panoptic(dataset, tmp_path / "out")
    assert_same(dataset, CocoPanoptic.from_folder(tmp_path / "out"))  # which checks the ids against the entries
    image, target = dataset[1]
    assert image.shape == (3, 64, 64) and len(target.labels) > 1
    assert set(target.labels.tolist()) <= {category.id for category in dataset.categories}
    assert len(list(dataset)) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_cached_scenes_are_the_rendered_ones(tmp_path, monkeypatch, workers):
    plain, cached = SceneData(5, seed=3, size=64), SceneData(5, seed=3, size=64, cache=tmp_path, workers=workers)
    assert_same(plain, cached)
    assert [plain.read(i)[2] for i in range(5)] == [cached.read(i)[2] for i in range(5)]
    assert len(list(tmp_path.iterdir())) == 1  # and no part of it

    monkeypatch.setattr("minidetr.scenes.dataset.render", None)  # the second time nothing is rendered
    assert_same(cached, SceneData(5, seed=3, size=64, cache=tmp_path))
    with pytest.raises(TypeError):
        SceneData(5, seed=4, size=64, cache=tmp_path, workers=1)  # another seed is another cache
    assert len(list(tmp_path.iterdir())) == 1


def test_cached_entries_are_those_of_the_renderer():
    from minidetr.scenes.render import render_scene

    scene, (image, ids, segments) = render_scene(9, 64, 64), SceneData(10, seed=0, size=64).read(9)
    np.testing.assert_array_equal(scene.image, np.asarray(image))
    np.testing.assert_array_equal(scene.segment_ids, ids)
    wanted = sorted(scene.segments_info, key=lambda s: s["id"])
    assert [s | {"bbox": list(s["bbox"])} for s in wanted] == segments


def test_a_broken_cache_is_named(tmp_path):
    dataset = SceneData(2, size=64, cache=tmp_path, workers=1)
    (dataset.cache / "ids.npy").write_bytes(b"broken")
    with pytest.raises(InputError, match="is a broken cache"):
        dataset.read(0)


@pytest.mark.parametrize("arguments", [{"count": 0}, {"count": 1, "size": 8}, {"count": 1, "seed": -1}])
def test_senseless_scenes_are_refused(arguments):
    with pytest.raises(InputError, match="scenes need"):
        SceneData(**arguments)


def test_a_data_loader_with_processes_gives_the_same(tmp_path):
    dataset = SceneData(4, size=64, cache=tmp_path, workers=1)
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork")
    for (image, target), (image_2, target_2) in zip(loader, dataset, strict=True):
        assert torch.equal(image, image_2) and torch.equal(target.masks, target_2.masks)


def test_transformed_scenes_repeat_with_the_seed():
    dataset = SceneData(1, size=64, transform=training_transform((48,), 64, (48,), (30, 48)))
    torch.manual_seed(1)
    (first, target), (other, _) = dataset[0], dataset[0]
    torch.manual_seed(1)
    again, target_again = dataset[0]
    assert torch.equal(first, again) and torch.equal(target.masks, target_again.masks)
    assert not torch.equal(first, other)
    assert first.shape == (3, 48, 48) and target.size == (64, 64)


def test_a_copied_data_set_works(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")  # nothing in it depends on where it lies
    assert_same(CocoPanoptic.from_folder(folder), CocoPanoptic.from_folder(tmp_path / "copy"))
