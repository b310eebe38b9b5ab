"""Checks and mending: a good data set has nothing wrong, each way of spoiling one is found as what it is, and mended or left."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidetr.commands.main import build_parser, main
from minidetr.curate.check import check
from minidetr.curate.findings import BENDS, BREAKS, KINDS, LEVELS
from minidetr.curate.fix import fix
from minidetr.curate.report import Report
from minidetr.data.coco import CocoPanoptic, write_coco_panoptic
from minidetr.errors import InputError
from minidetr.panoptic import decode_ids
from minidetr.scenes.dataset import SceneData
from tests.reference import REFERENCE, needs_reference

Edit = Callable[[dict], object]


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes of 96 x 64 pixels, so that a quarter turn changes the size."""
    folder = tmp_path_factory.mktemp("good") / "data"
    write_coco_panoptic(SceneData(4, seed=60, size=96), folder)
    content = json.loads((folder / "panoptic.json").read_text())
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        for kind in ("images", "panoptic"):
            with Image.open(folder / kind / image["file_name"]) as whole:
                whole.crop((0, 16, 96, 80)).save(folder / kind / image["file_name"])
        ids = decode_ids(np.asarray(Image.open(folder / "panoptic" / image["file_name"])))
        image["height"] = 64
        kept = []
        for segment in annotation["segments_info"]:
            rows, columns = np.nonzero(ids == segment["id"])
            if len(rows):
                box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
                kept.append(segment | {"area": len(rows), "bbox": [int(side) for side in box]})
        annotation["segments_info"] = kept
    (folder / "panoptic.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    for path in good.rglob("*.*"):
        target = tmp_path / "data" / path.relative_to(good)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path / "data"


def change(json_file: Path, edit: Edit) -> None:
    content = json.loads(json_file.read_text())
    edit(content)
    json_file.write_text(json.dumps(content))


def serious(report: Report) -> dict[str, int]:
    """What breaks training or bends a metric, with counts."""
    return {kind: len(report.found[kind]) for kind in report.kinds(BREAKS, BENDS)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_good_data_set_has_nothing_serious(good: Path) -> None:
    report = check(good)
    assert serious(report) == {}
    assert report.images == 4 and report.void == 0
    content = json.loads((good / "panoptic.json").read_text())
    assert report.segments == sum(len(a["segments_info"]) for a in content["annotations"])
    used = {s["category_id"] for a in content["annotations"] for s in a["segments_info"]}
    unused = [c["name"] for c in content["categories"] if c["id"] not in used]
    assert [where for _, where in report.found["class-unused"]] == unused
    assert sum(count["segments"] for count in report.classes.values()) == report.segments


# --- the JSON of a panoptic data set ------------------------------------------------------------------------------------------


def segment(content: dict, image: int = 1, index: int = 0) -> dict:
    return content["annotations"][image]["segments_info"][index]


def repeat(entries: list, **changes: object) -> None:
    entries.append(copy.deepcopy(entries[0]) | changes)


@pytest.mark.parametrize(
    ("edit", "expected", "left"),
    [
        (lambda c: c["images"][1].pop("file_name"), {"field": 1, "unknown-image": 1}, None),
        (lambda c: segment(c).pop("category_id"), {"field": 1, "id-not-listed": 1}, None),
        (lambda c: c["categories"][0].update(isthing="no"), {"isthing": 1}, None),
        (lambda c: c["categories"][0].update(color=[1, 2]), {"field": 1}, None),  # found as training itself would
        (lambda c: c["categories"].append(c["categories"][0]), {"category-id-twice": 1, "category-name-twice": 1}, {}),
        (lambda c: repeat(c["categories"], name="x"), {"category-id-twice": 1}, None),
        (lambda c: c["categories"][0].update(name=c["categories"][1]["name"]), {"category-name-twice": 1}, None),
        (lambda c: repeat(c["images"]), {"image-id-twice": 1, "file-twice": 1}, {}),
        (lambda c: repeat(c["annotations"]), {"image-annotation-twice": 1, "file-twice": 1}, {}),
        (lambda c: repeat(c["annotations"][1]["segments_info"]), {"segment-id-twice": 1}, {}),
        (lambda c: c["annotations"].pop(0), {"image-without-annotation": 1}, {}),
        (lambda c: c["annotations"][0].update(image_id=77), {"image-without-annotation": 1, "unknown-image": 1}, {}),
        (lambda c: segment(c).update(category_id=99), {"unknown-category": 1}, None),
        (lambda c: segment(c).update(id=0), {"segment-id-range": 1, "id-not-listed": 1, "id-without-pixel": 1}, None),
        (lambda c: segment(c).update(id=4000), {"id-not-listed": 1, "id-without-pixel": 1}, None),
        (lambda c: repeat(c["annotations"][1]["segments_info"], id=4000, category_id=8), {"id-without-pixel": 1}, {}),
        (lambda c: segment(c).update(area=segment(c)["area"] + 1), {"stale-area": 1}, {}),
        (lambda c: segment(c).pop("area"), {"stale-area": 1}, {}),
        (lambda c: segment(c)["bbox"].__setitem__(0, segment(c)["bbox"][0] + 2), {"stale-box": 1}, {}),
        (lambda c: segment(c).update(bbox="none"), {"stale-box": 1}, {}),
        (lambda c: c["images"][0].update(width=64, height=96), {"json-size": 1}, {}),
        (lambda c: c["images"][0].update(file_name="../0.png"), {"file-name": 1}, None),
    ],
)
def test_what_is_wrong_in_the_json_is_found(folder: Path, tmp_path: Path, edit: Edit, expected: dict, left: dict | None) -> None:
    """`left` is what mending leaves; None: all of it."""
    change(folder / "panoptic.json", edit)
    before = contents(folder)
    assert serious(check(folder)) == expected
    fixed = fix(folder, tmp_path / "out")
    assert serious(fixed.left) == (expected if left is None else left)
    assert contents(folder) == before  # the input is as it was
    if not serious(fixed.left):
        dropped = sum(count for what, count in fixed.done.items() if "images without annotation" in what)
        assert len(list(CocoPanoptic.from_folder(tmp_path / "out"))) == 4 - dropped  # reads and checks every image
        assert fixed.done and "nothing that breaks training" in fixed.summary()


def test_boxes_of_another_convention_are_counted_apart(folder: Path, tmp_path: Path) -> None:
    def without_plus_one(content: dict) -> None:
        for annotation in content["annotations"]:
            for s in annotation["segments_info"]:
                s["bbox"] = [*s["bbox"][:2], s["bbox"][2] - 1, s["bbox"][3] - 1]

    change(folder / "panoptic.json", without_plus_one)
    report = check(folder)
    assert serious(report) == {} and len(report.found["box-convention"]) == report.segments
    fixed = fix(folder, tmp_path / "out")
    assert fixed.done == {"boxes measured again": report.segments} and not fixed.left.found.get("box-convention")


def test_what_is_worth_knowing(folder: Path) -> None:
    def edit(content: dict) -> None:
        segment(content)["iscrowd"] = 1
        for c in content["categories"]:
            c["isthing"] = 0

    change(folder / "panoptic.json", edit)
    ids = Image.new("RGB", (96, 64))
    ids.paste((1, 0, 0), (0, 0, 3, 5))
    ids.save(folder / "panoptic" / "000002.png")
    change(folder / "panoptic.json", lambda c: c["annotations"][2].update(segments_info=[{"id": 1, "category_id": 3}]))
    Image.new("RGB", (96, 64)).save(folder / "panoptic" / "000003.png")
    change(folder / "panoptic.json", lambda c: c["annotations"][3].update(segments_info=[]))
    (folder / "images" / "notes.txt").write_text("mine")
    report = check(folder, queries=4)
    names = {kind: [image for image, _ in places] for kind, places in report.found.items()}
    assert names["crowd"] == ["000001.png"] and "000002.png" in names["tiny"] and names["empty-image"] == ["000003.png"]
    assert names["no-thing"] == ["000000.png", "000001.png", "000002.png"] and names["mostly-void"] == ["000002.png"]
    content = json.loads((folder / "panoptic.json").read_text())
    crowded = [f"{i:06d}.png" for i, a in enumerate(content["annotations"]) if len(a["segments_info"]) > 4]
    assert names["queries"] == crowded != [] and report.found["unlisted-file"] == [("", "images/notes.txt")]
    assert report.void is not None and report.void > 0.4
    assert "stuff-twice" in names  # workers or cones that count as stuff now


# --- its files ----------------------------------------------------------------------------------------------------------------


def save_photo(folder: Path, orientation: int, stored_turned: bool) -> None:
    """Replace the first photo by a JPEG with an EXIF orientation; `stored_turned`: with its pixels stored so that 6 undoes it."""
    path = folder / "images" / "000000.png"
    photo = Image.open(path)
    if stored_turned:
        photo = photo.transpose(Image.Transpose.ROTATE_90)  # orientation 6 turns by 90 degrees clockwise
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.save(folder / "images" / "turned.jpg", exif=exif, quality=95)
    path.unlink()
    change(folder / "panoptic.json", lambda c: c["images"][0].update(file_name="turned.jpg"))


@pytest.mark.parametrize(
    ("orientation", "stored_turned", "kind"),
    [(6, True, "exif-upright"), (6, False, "exif-unrotated"), (3, False, "exif-unclear"), (1, False, None)],
)
def test_turned_photos_stand_as_annotated_after_mending(
    good: Path, folder: Path, tmp_path: Path, orientation: int, stored_turned: bool, kind: str | None
) -> None:
    save_photo(folder, orientation, stored_turned)
    report = check(folder)
    assert [k for k in report.found if k.startswith("exif")] == ([kind] if kind else [])
    fixed = fix(folder, tmp_path / "out")
    photo = CocoPanoptic.from_folder(tmp_path / "out").read(0)[0]
    if kind in ("exif-upright", "exif-unrotated"):
        assert not any(k.startswith("exif") for k in fixed.left.found)
        original = np.asarray(Image.open(good / "images" / "000000.png"), float)
        assert np.abs(np.asarray(photo, float) - original).mean() < 10  # JPEG's error; another way round it is far more
        assert np.abs(np.asarray(photo, float)[::-1, ::-1] - original).mean() > 20
        assert fixed.done == {"photos written upright, as annotated": 1}
    else:
        assert [k for k in fixed.left.found if k.startswith("exif")] == ([kind] if kind else [])


def test_missing_broken_and_unfitting_files(folder: Path, tmp_path: Path) -> None:
    (folder / "images" / "000000.png").unlink()
    (folder / "images" / "000001.png").write_bytes(b"no image")
    Image.new("RGB", (95, 64)).save(folder / "images" / "000002.png")
    (folder / "panoptic" / "000003.png").unlink()
    report = check(folder)
    assert serious(report) == {"no-photo": 1, "photo": 1, "size": 1, "png": 1}
    assert [report.found[kind][0][0] for kind in ("no-photo", "photo")] == ["000000.png", "000001.png"]
    assert serious(fix(folder, tmp_path / "out").left) == {"photo": 1, "size": 1, "png": 1}


def test_near_duplicates_are_found(folder: Path) -> None:
    with Image.open(folder / "images" / "000000.png") as photo:
        photo.point(lambda value: min(255, value + 12)).save(folder / "images" / "000003.png")
    assert check(folder).found["near-duplicate"] == [("000003.png", "000003.png looks like 000000.png")]


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "RGBA"])
def test_pngs_with_one_possible_reading_are_mended(good: Path, folder: Path, tmp_path: Path, mode: str) -> None:
    path = folder / "panoptic" / "000001.png"
    image = Image.open(path)
    ids = decode_ids(np.asarray(image))
    if mode == "RGBA":
        image.convert("RGBA").save(path)
    elif mode == "P":
        coded = Image.fromarray(ids.astype(np.uint8), "P")
        coded.putpalette(np.random.default_rng(0).integers(1, 256, 768).tolist())
        coded.save(path)
    else:
        Image.fromarray(ids.astype(np.uint8 if mode == "L" else np.uint16)).save(path)
    assert serious(check(folder)) == {} and len(check(folder).found["png-form"]) == 1
    np.testing.assert_array_equal(CocoPanoptic.from_folder(folder).read(1)[1], ids)  # as it is
    fixed = fix(folder, tmp_path / "out")
    assert serious(fixed.left) == {} and not fixed.left.found.get("png-form")
    np.testing.assert_array_equal(CocoPanoptic.from_folder(tmp_path / "out").read(1)[1], ids)

    change(folder / "panoptic.json", lambda c: segment(c).update(id=200))  # now no reading fits: a person must look
    wrong = {"id-not-listed": 1, "id-without-pixel": 1} if mode == "RGBA" else {"png-mode": 1}
    assert serious(fix(folder, tmp_path / "out2").left) == wrong


def test_ids_that_mean_void_are_written_as_0(folder: Path, tmp_path: Path) -> None:
    """The mended copy needs no --void: neither the new look nor training stumbles over what the JSON doesn't list."""
    change(folder / "panoptic.json", lambda c: c["annotations"][1]["segments_info"].append({"id": 255, "category_id": 1}))
    before = CocoPanoptic.from_folder(folder).index
    for name in ("000000.png", "000001.png"):
        colours = np.asarray(Image.open(folder / "panoptic" / name)).copy()
        colours[:10, :10] = (255, 0, 0)
        Image.fromarray(colours).save(folder / "panoptic" / name)
    assert serious(check(folder)).keys() >= {"id-not-listed"}
    fixed = fix(folder, tmp_path / "out", void=(255,))
    assert serious(fixed.left) == {} and fixed.done["panoptic PNGs written with 0 for void"] == 2
    data = CocoPanoptic.from_folder(tmp_path / "out")
    assert len(data.index.segment_ids) <= len(before.segment_ids) - 1 and 255 not in data.index.segment_ids
    for index in range(2):
        assert not data.read(index)[1][:10, :10].any()
    unchanged = "000002.png"
    assert (tmp_path / "out" / "panoptic" / unchanged).read_bytes() == (folder / "panoptic" / unchanged).read_bytes()
    argv = ["data", "check", str(folder), "--void", "255", "--fix", str(tmp_path / "again")]
    assert main(argv) == 0 and contents(tmp_path / "again") == contents(tmp_path / "out")


def test_numbers_that_json_lacks_are_not_written(folder: Path, tmp_path: Path) -> None:
    """Python writes NaN, which no other reader of JSON takes: areas and boxes are measured again, anything else is null."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    nan = float("nan")
    whole = json.loads((folder / "panoptic.json").read_text())
    change(folder / "panoptic.json", lambda c: c["annotations"][0]["segments_info"][0].update(area=nan, bbox=[nan] * 4))
    change(folder / "panoptic.json", lambda c: c["images"][0].update(taken=float("inf")))
    square = {"image_id": 0, "category_id": 1, "segmentation": [[1, 1, 11, 1, 11, 11, 1, 11]], "iscrowd": 0}
    boxes = [
        square | {"id": 1, "area": nan, "bbox": [nan, 1, 10, 10]},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, nan]},
    ]
    (folder / "detection.json").write_text(json.dumps(whole | {"annotations": boxes}))
    fix(folder, tmp_path / "out")
    panoptic, detection = (
        json.loads((tmp_path / "out" / name).read_text(), parse_constant=refuse) for name in ("panoptic.json", "detection.json")
    )
    assert panoptic["annotations"] == whole["annotations"] and panoptic["images"][0]["taken"] is None
    assert [detection["annotations"][0][key] for key in ("area", "bbox")] == [100, [1, 1, 10, 10]]
    assert detection["annotations"][1]["bbox"] == [0, 0, 9, None]


def test_photos_of_other_kinds_are_written_as_rgb(folder: Path, tmp_path: Path) -> None:
    Image.open(folder / "images" / "000000.png").convert("L").save(folder / "images" / "000000.png")
    Image.open(folder / "images" / "000001.png").convert("RGBA").save(folder / "images" / "000001.png")
    assert [image for image, _ in check(folder).found["photo-mode"]] == ["000000.png", "000001.png"]
    fixed = fix(folder, tmp_path / "out")
    assert fixed.done == {"photos written as RGB": 2} and not fixed.left.found.get("photo-mode")


# --- exports ------------------------------------------------------------------------------------------------------------------


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    annotation = {"image_id": 1, "category_id": 2, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 50, "height": 40}],
        "categories": [{"id": 1, "name": "sky", "isthing": 0}, {"id": 2, "name": "crane", "isthing": 1}],
        "annotations": [
            annotation | {"id": 5, "category_id": 1, "segmentation": [square(0, 0, 20)], "area": 400, "bbox": [0, 0, 20, 20]},
            annotation | {"id": 6, "segmentation": [square(20, 20, 15)], "area": 225.0, "bbox": [20, 20, 15, 15]},
        ],
    }
    (tmp_path / "export.json").write_text(json.dumps(content))
    return tmp_path / "export.json"


def crane(content: dict) -> dict:
    return content["annotations"][1]


RUNS = {"size": [40, 50], "counts": [20 * 40 + 20, 15] + [25, 15] * 14 + [25 - 20 + 15 * 40 - 20 + 20]}  # the crane's square
RUNS["counts"][-1] = 40 * 50 - sum(RUNS["counts"][:-1])


@pytest.mark.parametrize(
    ("edit", "expected", "left"),
    [
        (lambda c: crane(c).update(segmentation=RUNS), {}, {}),
        (lambda c: crane(c).update(segmentation=RUNS | {"size": [50, 40]}), {"run-lengths": 1}, None),
        (lambda c: crane(c).update(segmentation={"size": [40, 50], "counts": [3, 4]}), {"run-lengths": 1}, None),
        (lambda c: crane(c).update(segmentation=[]), {"no-outline": 1}, None),
        (lambda c: crane(c).update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), {"polygon-odd": 1, "paints-nothing": 1}, None),
        (lambda c: crane(c)["segmentation"].insert(0, [1, 2, 3, 4]), {"polygon-short": 1}, {}),
        (lambda c: crane(c).update(segmentation=[[1, 1, 1, 1, 1, 1]]), {"paints-nothing": 1}, None),
        (lambda c: crane(c).update(segmentation=[["x"] * 6]), {"field": 1, "paints-nothing": 1}, None),
        (lambda c: crane(c)["segmentation"].append(square(900, 9, 5)), {"polygon-far": 1}, None),
        (lambda c: crane(c).update(area=300), {"stale-area": 1}, {}),
        (lambda c: crane(c).update(bbox=[20, 20, 15, 18]), {"stale-box": 1}, {}),
        (lambda c: crane(c).pop("bbox"), {"stale-box": 1}, {}),
        (lambda c: c["annotations"].append(crane(c) | {"id": 7}), {"duplicate-annotation": 1}, {}),
        (lambda c: c["annotations"].append(crane(c) | {"id": 7, "iscrowd": 1}), {"drawn-twice": 1, "many-crowds": 1}, None),
        (lambda c: c["annotations"][0].update(id=6), {"annotation-id-twice": 1}, {}),
        (lambda c: crane(c).update(image_id=2), {"unknown-image": 1}, {}),
        (lambda c: crane(c).update(category_id=9), {"unknown-category": 1}, None),
        (lambda c: c["images"][0].pop("width"), {"field": 1}, None),
        (lambda c: c["images"].append(c["images"][0] | {"id": 2, "file_name": "A.png"}), {}, {}),  # each has a PNG of its own
        (lambda c: crane(c).pop("id"), {}, {}),
        (lambda c: crane(c).update(iscrowd=2), {"field": 1}, None),
        (lambda c: crane(c).update(segmentation=[], bbox=[1, 2, 3]), {"no-outline": 1, "field": 1}, None),
        (lambda c: crane(c).update(segmentation=[[]], bbox=[]), {"no-geometry": 1}, {}),
    ],
)
def test_what_is_wrong_in_an_export_is_found(export: Path, tmp_path: Path, edit: Edit, expected: dict, left: dict | None) -> None:
    assert serious(check(export)) == {}
    change(export, edit)
    before = export.read_bytes()
    assert serious(check(export)) == expected
    fixed = fix(export, tmp_path / "out")
    assert serious(fixed.left) == (expected if left is None else left)
    assert export.read_bytes() == before and [path.name for path in (tmp_path / "out").iterdir()] == ["export.json"]


def test_what_is_worth_knowing_of_an_export(export: Path, tmp_path: Path) -> None:
    def edit(content: dict) -> None:
        content["categories"][1].pop("isthing")
        hole = [24, 24, 24, 28, 28, 28, 28, 24]  # winds the other way
        crane(content).update(attributes={"occluded": True}, area=210, segmentation=[square(20, 20, 15), hole, [3, 3, 3, 4, 3, 5]])
        for number, x, y, side, area in ((7, 40, 30, 15, 100), (8, 2, 2, 18, 324)):
            shape = {"segmentation": [square(x, y, side)], "area": area, "bbox": [x, y, side, side]}
            content["annotations"].append(crane(content) | shape | {"id": number})

    change(export, edit)
    report = check(export)
    assert serious(report) == {"stale-box": 1}  # the third polygon reaches to x = 3
    counts = {kind: len(places) for kind, places in report.found.items()}
    known = ("isthing-unsaid", "attributes", "hole", "outside", "polygon-empty", "overlap", "small-area-difference")
    assert {kind: counts.get(kind) for kind in known} == dict.fromkeys(known, 1) | {"attributes": 3}
    assert "photos are not checked" in report.table()
    fixed = fix(export, tmp_path / "out")
    assert not {"stale-box", "polygon-empty", "small-area-difference"} & set(fixed.left.found)


def test_photos_of_an_export_are_checked_when_given(export: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 51, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photos" / "a.jpg")
    assert serious(check(export, tmp_path / "photos")) == {"size": 1}
    change(export, lambda c: [c["images"][0].pop(key) for key in ("width", "height")])
    assert serious(check(export, tmp_path / "photos")) == {}  # the photo tells the size
    (tmp_path / "photos" / "a.jpg").unlink()
    assert serious(check(export, tmp_path / "photos")) == {"no-photo": 1, "field": 1}


# --- telling ------------------------------------------------------------------------------------------------------------------


def test_what_matters_most_comes_first(folder: Path) -> None:
    change(folder / "panoptic.json", lambda c: segment(c).update(area=1))
    (folder / "images" / "000000.png").unlink()
    report = check(folder)
    levels = [KINDS[kind][0] for kind in report.kinds()]
    assert levels == sorted(levels) and {BREAKS, BENDS} < set(levels)
    lines = report.table(examples=1).splitlines()
    assert lines.index(LEVELS[0]) < lines.index(LEVELS[1]) < lines.index(LEVELS[2])
    entries = report.to_json()["findings"]
    assert [e["count"] for e in entries] == [len(e["places"]) for e in entries]
    assert [e["kind"] for e in entries][:2] == ["no-photo", "stale-area"]
    assert report.trouble()["000001.png"][0] == "stale-area" and next(iter(report.trouble())) == "000000.png"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", None, "x.json"),
        ("x.json", "[]", "x.json"),
        ("x.json", '{"images": []}', "no list 'annotations'"),
        (".", None, "panoptic.json"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        check(tmp_path / name)


def test_mending_refuses_a_used_folder_and_a_lone_panoptic_json(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not an empty folder"):
        fix(folder, folder)
    with pytest.raises(InputError, match="give the folder"):
        fix(folder / "panoptic.json", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_detection_json_of_a_data_set_is_mended_too(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "panoptic.json").read_text())
    box = {"id": 1, "image_id": content["images"][0]["id"], "category_id": 1, "bbox": [0, 0, 9, 9]}
    (folder / "detection.json").write_text(json.dumps(content | {"annotations": [box, box | {"id": 2}]}))
    save_photo(folder, 6, stored_turned=True)
    change(folder / "detection.json", lambda c: c["images"][0].update(file_name="turned.jpg"))
    fix(folder, tmp_path / "out")
    mended = json.loads((tmp_path / "out" / "detection.json").read_text())
    assert [a["id"] for a in mended["annotations"]] == [1]
    assert mended["images"][0]["file_name"] == "turned.png" and (tmp_path / "out" / "images" / "turned.png").is_file()


# --- real data ----------------------------------------------------------------------------------------------------------------


@needs_reference
def test_the_warts_of_the_construction_export() -> None:
    report = check(REFERENCE / "construction" / "export.json")
    counts = {kind: len(places) for kind, places in report.found.items()}
    assert (report.images, report.segments, len(report.classes)) == (250, 840, 64)
    assert serious(report) == {"stale-area": 47, "stale-box": 45, "no-outline": 1, "paints-nothing": 1}
    assert "id 26986," in report.found["no-outline"][0][1] and "id 8772," in report.found["paints-nothing"][0][1]
    known = {"polygon-empty": 1186, "box-convention": 458, "attributes": 336, "hole": 229, "no-stuff": 44, "no-thing": 3}
    known |= {"mostly-void": 26, "class-unused": 10, "class-once": 7, "imbalance": 6}
    assert {kind: counts[kind] for kind in known} == known
    assert counts["small-area-difference"] >= 455  # every stuff outline and those things whose pixels round otherwise


@needs_reference
def test_the_warts_of_the_construction_photos_and_of_coco() -> None:
    folder = REFERENCE / "construction"
    photos = check(folder / "photos.json", folder / "images")
    assert serious(photos) == {"stale-area": 2}
    assert (len(photos.found["polygon-empty"]), len(photos.found["box-convention"]), len(photos.found["hole"])) == (15, 9, 1)
    coco = check(REFERENCE / "coco")
    assert serious(coco) == {}
    counts = {kind: len(places) for kind, places in coco.found.items()}
    assert counts == {"class-unused": 86, "class-once": 34, "crowd": 6, "tiny": 4}


# --- commands -----------------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> None:
    """`minidetr data ...`, its errors not caught."""
    parsed = build_parser().parse_args(["data", *map(str, arguments)])
    parsed.run(parsed)


def test_commands(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run("check", folder, "--json", "--fix", tmp_path / "fixed")
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == 4 and told["fixed"]["left"]["findings"] == told["findings"]
    run("check", folder, "--examples", 1, "--fix", tmp_path / "fixed-2")
    table = capsys.readouterr().out
    assert "good to know" in table and "nothing could be mended" in table
    run("split", folder, tmp_path / "split", "--share", 0.5)
    assert "train: 2 images, val: 2 images" in capsys.readouterr().out
    run("split", folder, tmp_path / "folds", "--folds", 2)
    assert sorted(path.name for path in (tmp_path / "folds").iterdir()) == ["fold-0", "fold-1"]
    run("show", folder, tmp_path / "sheet.png", "--count", 2)
    assert (tmp_path / "sheet.png").is_file()
    with pytest.raises(InputError):
        run("check", tmp_path / "nothing")


@pytest.mark.parametrize("name", ["split", "check", "show"])
def test_help_has_an_example_and_loads_nothing_heavy(name: str) -> None:
    code = (
        "import sys; from minidetr.commands.main import build_parser\n"
        f"try: build_parser().parse_args(['data', '{name}', '--help'])\n"
        "except SystemExit: assert not {'numpy', 'torch', 'PIL'} & set(sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f"example:\n  minidetr data {name} data/" in told
