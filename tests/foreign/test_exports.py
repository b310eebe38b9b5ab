"""Annotation exports as other tools write them: what each comes to, or the sentence that refuses it.

Every row names where it comes from: the report of somebody who met it with another tool, or what it was made up after.
"""

# ruff: noqa: E501 (a row is a line)
from __future__ import annotations

import itertools
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from minidetr.curate.assemble import assemble
from minidetr.curate.check import check
from minidetr.curate.findings import BREAKS
from minidetr.data.coco import CocoPanoptic
from minidetr.errors import InputError

WIDTH, HEIGHT = 48, 32
SQUARE = [5, 5, 25, 5, 25, 25, 5, 25]  # 400 pixels
PAIRS = [[5, 5], [25, 5], [25, 25], [5, 25]]
MASK = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
MASK[5:25, 5:25] = 1
TEXT = coco_mask.encode(MASK)["counts"]
COUNTS = [len(list(run)) for _, run in itertools.groupby(MASK.ravel(order="F"))]
RUNS = {"size": [HEIGHT, WIDTH], "counts": COUNTS}
NFC, NFD = (unicodedata.normalize(form, "décran.jpg") for form in ("NFC", "NFD"))


def image(**changed: Any) -> dict:
    return {"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT} | changed


def thing(**changed: Any) -> dict:
    entry = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [SQUARE], "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
    return entry | changed


def without(entry: dict, *keys: str) -> dict:
    return {key: value for key, value in entry.items() if key not in keys}


CATEGORIES = [{"id": 1, "name": "crane", "supercategory": ""}, {"id": 2, "name": "worker", "supercategory": ""}]
A = ("a.jpg",)
WHOLE = [(1, 1, 400)]  # image id, category id, pixels of every segment

# (id, source, photos, images, annotations, categories, options, what comes out, the finding that tells it or None)
READ: list[tuple] = [
    ("plain", "CVAT's COCO 1.0", A, [image()], [thing()], CATEGORIES, {}, WHOLE, None),
    # ids
    ("image-id-text", "cityscapesScripts createPanopticImgs.py", A, [image(id="town_1")], [thing(image_id="town_1")], CATEGORIES, {}, [("town_1", 1, 400)], None),
    ("ids-in-quotes", "cvat#298, yolact#156", A, [image(id="7")], [thing(image_id="7")], CATEGORIES, {}, [(7, 1, 400)], "id-text"),
    ("one-in-quotes", "cocoapi#373", A, [image(id=7)], [thing(image_id="7")], CATEGORIES, {}, [(7, 1, 400)], "id-text"),
    ("ids-with-a-point", "mmdetection PR#89 (pandas)", A, [image(id=7.0)], [thing(image_id=7.0)], CATEGORIES, {}, [(7, 1, 400)], "id-text"),
    ("category-in-quotes", "EfficientDet#60", A, [image()], [thing(category_id="1")], [{"id": "1", "name": "crane"}], {}, WHOLE, "id-text"),
    ("category-with-a-point", "made up like pandas", A, [image()], [thing(category_id=1.0)], CATEGORIES, {}, WHOLE, "id-text"),
    ("annotation-id-text", "VIA", A, [image()], [thing(id="a1")], CATEGORIES, {}, WHOLE, None),
    ("annotation-without-id", "made up like own scripts", A, [image()], [without(thing(), "id")], CATEGORIES, {}, WHOLE, None),
    ("category-id-0", "detectron2's rule of contiguous ids", A, [image()], [thing(category_id=0)], [{"id": 0, "name": "crane"}], {}, [(1, 0, 400)], None),
    # names
    ("backslash", "label-studio#7294", ("images/a.jpg",), [image(file_name="images\\a.jpg")], [thing()], CATEGORIES, {}, WHOLE, "name-found"),
    ("leads-up", "label-studio#7294", A, [image(file_name="..\\..\\media\\upload\\4\\a.jpg")], [thing()], CATEGORIES, {}, WHOLE, "name-found"),
    ("absolute", "label-studio#1266, X-AnyLabeling#700", A, [image(file_name="/home/someone/a.jpg")], [thing()], CATEGORIES, {}, WHOLE, "name-found"),
    ("drive", "X-AnyLabeling on Windows", A, [image(file_name="C:\\photos\\a.jpg")], [thing()], CATEGORIES, {}, WHOLE, "name-found"),
    ("folder-in-front", "label-studio#4903", A, [image(file_name="images/a.jpg")], [thing()], CATEGORIES, {}, WHOLE, "name-found"),
    ("other-folder", "label-studio-converter#188", ("images/a.jpg",), [image(file_name="images/1/a.jpg")], [thing()], CATEGORIES, {}, WHOLE, "name-found"),
    ("deeper", "made up like photos sorted by day", ("2024/05/a.jpg",), [image()], [thing()], CATEGORIES, {}, WHOLE, "name-found"),
    ("escaped", "label-studio#1266 (d%C3%A9cran)", (NFC,), [image(file_name="d%C3%A9cran.jpg")], [thing()], CATEGORIES, {}, WHOLE, "name-found"),
    ("space-escaped", "label-studio#4473", ("a b.jpg",), [image(file_name="a%20b.jpg")], [thing()], CATEGORIES, {}, WHOLE, "name-found"),
    ("unicode-form", "macOS against Linux", (NFD,), [image(file_name=NFC)], [thing()], CATEGORIES, {}, WHOLE, "name-found"),
    ("case", "Windows against Linux", A, [image(file_name="A.JPG")], [thing()], CATEGORIES, {}, WHOLE, "name-found"),
    ("address", "Roboflow, encord-active PR#218", A, [image(file_name="https://storage.example.org/site/a.jpg")], [thing()], CATEGORIES, {}, WHOLE, "name-found"),
    ("local-files", "Label Studio's local storage", A, [image(file_name="/data/local-files/?d=site/a.jpg")], [thing()], CATEGORIES, {}, WHOLE, "name-found"),
    ("jpg-beside-png", "made up like screenshots", ("a.jpg", "a.png"), [image(), image(id=2, file_name="a.png")], [thing()], CATEGORIES, {}, WHOLE, None),
    ("no-extension", "frames of a video (frame.001)", ("frame.001", "frame.002"), [image(file_name="frame.001"), image(id=2, file_name="frame.002")], [thing()], CATEGORIES, {}, WHOLE, None),
    ("same-stem-two-folders", "cameras north and south", ("n/1.jpg", "s/1.jpg"), [image(file_name="n/1.jpg"), image(id=2, file_name="s/1.jpg")], [thing(image_id=2)], CATEGORIES, {}, [(2, 1, 400)], None),
    ("one-file-twice", "label-studio#1289, #7096", A, [image(), image(id=2)], [thing(), thing(id=2, image_id=2, category_id=2, segmentation=[[30, 5, 40, 5, 40, 15, 30, 15]])], CATEGORIES, {}, [(1, 1, 400), (1, 2, 100)], "same-file"),
    # sizes
    ("size-0", "label-studio exports without size", A, [image(width=0, height=0)], [thing()], CATEGORIES, {}, WHOLE, "size-unsaid"),
    ("size-null", "made up like SuperAnnotate", A, [image(width=None, height=None)], [thing()], CATEGORIES, {}, WHOLE, "size-unsaid"),
    ("size-missing", "made up like hand-written JSON", A, [without(image(), "width", "height")], [thing()], CATEGORIES, {}, WHOLE, "size-unsaid"),
    ("size-text", "VIA's converters", A, [image(width=str(WIDTH), height=str(HEIGHT))], [thing()], CATEGORIES, {}, WHOLE, "id-text"),
    ("size-float", "pandas", A, [image(width=float(WIDTH), height=float(HEIGHT))], [thing()], CATEGORIES, {}, WHOLE, "id-text"),
    # outlines
    ("flat-list", "cvat#6392, supervision#205, ybat#22", A, [image()], [thing(segmentation=SQUARE)], CATEGORIES, {}, WHOLE, "outline-shape"),
    ("pairs", "myvision#17", A, [image()], [thing(segmentation=PAIRS)], CATEGORIES, {}, WHOLE, "outline-shape"),
    ("pairs-in-a-list", "yolact#156", A, [image()], [thing(segmentation=[PAIRS])], CATEGORIES, {}, WHOLE, "outline-shape"),
    ("runs-in-a-list", "cocostuff10k#4", A, [image()], [thing(segmentation=[RUNS])], CATEGORIES, {}, WHOLE, "outline-shape"),
    ("runs-with-points", "pandas", A, [image()], [thing(segmentation={"size": [32.0, 48.0], "counts": [float(n) for n in COUNTS]})], CATEGORIES, {}, WHOLE, "outline-shape"),
    ("runs-as-bytes", "cocoapi#70", A, [image()], [thing(segmentation={"size": [32, 48], "counts": str(TEXT)})], CATEGORIES, {}, WHOLE, "outline-shape"),
    ("runs-compressed", "pycocotools' own", A, [image()], [thing(segmentation={"size": [32, 48], "counts": TEXT.decode()})], CATEGORIES, {}, WHOLE, None),
    ("whole-floats", "CVAT", A, [image()], [thing(segmentation=[[float(v) for v in SQUARE]])], CATEGORIES, {}, WHOLE, None),
    ("empty-polygon", "X-AnyLabeling#397", A, [image()], [thing(segmentation=[[]])], CATEGORIES, {}, WHOLE, "rectangle"),
    ("no-outline-key", "detection alone (labelImg converters)", A, [image()], [without(thing(), "segmentation")], CATEGORIES, {}, WHOLE, "rectangle"),
    ("outline-null", "made up like Supervisely", A, [image()], [thing(segmentation=None)], CATEGORIES, {}, WHOLE, "rectangle"),
    ("box-as-polygon", "tensorpack#1041", A, [image()], [thing(segmentation=[[5, 5, 25, 25]])], CATEGORIES, {}, WHOLE, "rectangle"),
    ("turned-box", "cvat#4745, #6785", A, [image()], [thing(segmentation=[], bbox=[5, 10, 20, 10], attributes={"rotation": 90.0})], CATEGORIES, {}, [(1, 1, 200)], "turned-box"),
    ("turned-box-whole-turn", "cvat", A, [image()], [thing(segmentation=[], attributes={"rotation": 0.0})], CATEGORIES, {}, WHOLE, "rectangle"),
    ("no-geometry", "X-AnyLabeling#397 (bbox [])", A, [image()], [thing(id=2, segmentation=[], bbox=[], area=0), thing()], CATEGORIES, {}, WHOLE, "no-geometry"),
    ("tag-alone", "CVAT's tags", A, [image()], [without(thing(id=2), "segmentation", "bbox"), thing()], CATEGORIES, {}, WHOLE, "no-geometry"),
    # flags and classes
    ("iscrowd-null", "made up like Datumaro", A, [image()], [thing(iscrowd=None)], CATEGORIES, {}, WHOLE, "flag-text"),
    ("iscrowd-missing", "Label Studio", A, [image()], [without(thing(), "iscrowd")], CATEGORIES, {}, WHOLE, None),
    ("iscrowd-false", "made up like jsonified booleans", A, [image()], [thing(iscrowd=False)], CATEGORIES, {}, WHOLE, "flag-text"),
    ("isthing-true", "made up like jsonified booleans", A, [image()], [thing()], [{"id": 1, "name": "crane", "isthing": True}], {}, WHOLE, "flag-text"),
    ("crowds-as-objects", "cvat: iscrowd 1 of every mask", A, [image()], [thing(segmentation=RUNS, iscrowd=1)], CATEGORIES, {"crowds": "as-objects"}, WHOLE, "crowd-read"),
    ("crowds", "cvat: iscrowd 1 of every mask", A, [image()], [thing(segmentation=RUNS, iscrowd=1)], CATEGORIES, {}, WHOLE, "many-crowds"),
    ("crowds-in-all", "made up: half of all things, no class wholly", A, [image()], [thing(segmentation=RUNS, iscrowd=1), thing(id=2, segmentation=[[30, 5, 40, 5, 40, 15, 30, 15]])], CATEGORIES, {}, [(1, 1, 400), (1, 1, 100)], "many-crowds"),
    ("stuff-beyond", "made up: a range from a list of other length", A, [image()], [thing(), thing(id=2, category_id=2, segmentation=[[30, 5, 40, 5, 40, 15, 30, 15]])], CATEGORIES, {"stuff": ["2-9"]}, [(1, 1, 400), (1, 2, 100)], "stuff-unused"),
    ("stuff-all", "made up: all that was annotated named as stuff", A, [image()], [thing()], CATEGORIES, {"stuff": ["crane"]}, WHOLE, "only-stuff"),
    ("outline-of-opencv", "cv2.findContours: points N x 1 x 2", A, [image()], [thing(segmentation=[[[[5, 5]], [[25, 5]], [[25, 25]], [[5, 25]]]])], CATEGORIES, {}, WHOLE, "outline-shape"),
    ("outline-of-shares", "YOLO's shares of the size", A, [image()], [thing(segmentation=[[0.1, 0.2, 0.9, 0.2, 0.9, 0.8]]), thing(id=2)], CATEGORIES, {}, WHOLE, "fractions"),
    ("box-of-shares", "YOLO's shares of the size", A, [image()], [thing(segmentation=[], bbox=[0.1, 0.2, 0.5, 0.5]), thing(id=2)], CATEGORIES, {}, [(1, 1, 1), (1, 1, 400)], "fractions"),
    ("ignore", "mmdetection skips them", A, [image()], [thing(ignore=1)], CATEGORIES, {}, WHOLE, "ignored"),
    ("turned-box-text", "made up like attributes in quotes", A, [image()], [thing(segmentation=[], bbox=[5, 10, 20, 10], attributes={"rotation": "90.0"})], CATEGORIES, {}, [(1, 1, 200)], "turned-box"),
    ("name-twice-stuff", "rf-detr PR#1303, roboflow-100#45", A, [image()], [thing(category_id=0), thing(id=2, segmentation=[[30, 5, 40, 5, 40, 15, 30, 15]])], [{"id": 0, "name": "sky"}, {"id": 1, "name": "sky"}], {"stuff": ["sky"]}, [(1, 0, 400), (1, 1, 100)], "name-twice"),
    ("annotation-of-no-image", "COCO-Assistant#16 (merged exports)", A, [image()], [thing(), thing(id=2, image_id=9)], CATEGORIES, {"skip_missing": True}, WHOLE, "orphan"),
    ("image-without-photo", "Roboflow, deleted photos", A, [image(), image(id=2, file_name="b.jpg")], [thing(), thing(id=2, image_id=2)], CATEGORIES, {"skip_missing": True}, WHOLE, "no-photo"),
]  # fmt: skip

# (id, source, photos, images, annotations, categories, the sentence)
REFUSED: list[tuple] = [
    ("category-no-number", "made up like labelme", A, [image()], [thing(category_id="crane")], [{"id": "crane", "name": "crane"}], r"categories\[0\]: the field 'id' must be a whole number, but is 'crane'"),
    ("image-id-half", "made up", A, [image(id=1.5)], [thing()], CATEGORIES, r"images\[0\]: the field 'id' must be a whole number or a text, but is 1\.5"),
    ("number-twice", "\"7\" beside 7", A, [image(id=7), image(id="7", file_name="b.jpg")], [], CATEGORIES, r"images\[1\]: the image id 7 occurs twice"),
    ("name-of-two-files", "cameras north and south", ("n/1.jpg", "s/1.jpg"), [image(file_name="1.jpg")], [thing()], CATEGORIES, r"images\[0\]\.file_name '1\.jpg' may be n/1\.jpg or s/1\.jpg"),
    ("photo-of-another-folder", "made up: one of two cameras' 1.jpg is gone", ("a/1.jpg", "b/2.jpg"), [image(file_name="a/1.jpg"), image(id=2, file_name="b/1.jpg")], [thing()], CATEGORIES, r"b/1\.jpg is not there, but"),
    ("photo-claimed", "made up: b's folder is gone, too", ("a/1.jpg",), [image(file_name="a/1.jpg"), image(id=2, file_name="b/1.jpg")], [thing()], CATEGORIES, r"b/1\.jpg is not there, but"),
    ("photos-flattened", "two cameras' 1.jpg copied into one folder", ("1.jpg",), [image(file_name="north/1.jpg"), image(id=2, file_name="south/1.jpg")], [thing()], CATEGORIES, r"'south/1\.jpg' and 'north/1\.jpg' may both be 1\.jpg"),
    ("case-alone", "made up: A.jpg beside a.jpg, one gone", A, [image(), image(id=2, file_name="A.jpg")], [thing()], CATEGORIES, r"A\.jpg is not there, but"),
    ("one-file-two-sizes", "made up like a photo replaced by a larger one", A, [image(), image(id=2, width=192, height=128)], [thing()], CATEGORIES, r"images\[1\]: 'a\.jpg' is listed twice, as 48 x 32 and 192 x 128 pixels"),
    ("name-outside", "made up like an attack", A, [image(file_name="../../etc/passwd")], [], CATEGORIES, r"images\[0\].*must lie inside its folder"),
    ("photo-missing", "made up", A, [image(file_name="b.jpg")], [], CATEGORIES, r"b\.jpg is not there, but .*export\.json names it.*--skip-missing"),
    ("orphans", "COCO-Assistant#16", A, [image()], [thing(image_id=8), thing(id=2, image_id=9)], CATEGORIES, r"no image has the image_id 8 \(2 such annotations\).*--skip-missing"),
    ("unknown-category", "cvat#7938", A, [image()], [thing(category_id=5)], CATEGORIES, r"annotations\[0\] \(annotation 1\): no category has the category_id 5"),
    ("odd-polygon", "made up like a cut file", A, [image()], [thing(segmentation=[[1, 1, 9, 1, 9, 9, 1]])], CATEGORIES, r"annotation 1: segmentation\[0\] must be a list of x, y"),
    ("text-polygon", "made up like SVG", A, [image()], [thing(segmentation="M 5 5 L 25 5")], CATEGORIES, r"'segmentation' must be a list of polygons"),
    ("percent-polygon", "Label Studio's own format", A, [image()], [thing(segmentation=[[500, 500, 2500, 500, 2500, 2500]])], CATEGORIES, r"lies far outside of its image"),
    ("runs-of-another-size", "yolact#156 (width and height exchanged)", A, [image()], [thing(segmentation={"size": [WIDTH, HEIGHT], "counts": COUNTS})], CATEGORIES, r"segmentation\.size must be \[32, 48\]"),
    ("three-numbers", "made up", A, [image()], [thing(segmentation=[], bbox=[1, 2, 3])], CATEGORIES, r"no outline in 'segmentation' and no four numbers in 'bbox'"),
    ("negative-box", "made up like drag to the left", A, [image()], [thing(segmentation=[], bbox=[25, 25, -20, -20])], CATEGORIES, r"'bbox' .*sizes not negative"),
    ("photo-resized", "Roboflow's resize, another version's photos", A, [image(width=640, height=640)], [thing()], CATEGORIES, r"a\.jpg is 48 x 32 pixels, but .* says 640 x 640"),
    ("iscrowd-2", "made up", A, [image()], [thing(iscrowd=2)], CATEGORIES, r"'iscrowd' must be 0 or 1, but is 2"),
    ("no-categories", "made up like a results file", A, [image()], [thing()], [], r"no list 'categories', or it is empty"),
]  # fmt: skip


def written(folder: Path, photos: tuple[str, ...], images: list, annotations: list, categories: list) -> Path:
    for number, name in enumerate(photos):
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (number, 7, 7)).save(path, "PNG" if name.endswith(".png") else "JPEG")
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "export.json").write_text(json.dumps(content))
    return folder / "export.json"


def test_there_are_enough_rows() -> None:
    assert len(READ) >= 50 and len(REFUSED) >= 15
    assert len({row[0] for row in READ + REFUSED}) == len(READ + REFUSED)


@pytest.mark.parametrize(
    ("source", "photos", "images", "annotations", "categories", "options", "expected", "finding"),
    [pytest.param(*row[1:], id=row[0]) for row in READ],
)
def test_exports_that_are_read(
    tmp_path: Path, source: str, photos: tuple, images: list, annotations: list, categories: list, options: dict,
    expected: list, finding: str | None,
) -> None:  # fmt: skip
    export = written(tmp_path, photos, images, annotations, categories)
    report = assemble(export, tmp_path / "photos", tmp_path / "out", **options)
    data = CocoPanoptic.from_folder(tmp_path / "out")
    segments = [(data.image_ids[i], s["category_id"], s["area"]) for i in range(len(data)) for s in data.read(i)[2]]
    assert segments == expected
    assert finding is None or report.findings[finding], dict(report.findings)
    if finding not in ("orphan", "no-photo"):  # left out because that was asked for; check tells them
        assert check(export, tmp_path / "photos").kinds(BREAKS) == []


@pytest.mark.parametrize(
    ("source", "photos", "images", "annotations", "categories", "sentence"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED]
)
def test_exports_that_are_refused(
    tmp_path: Path, source: str, photos: tuple, images: list, annotations: list, categories: list, sentence: str
) -> None:
    export = written(tmp_path, photos, images, annotations, categories)
    with pytest.raises(InputError, match=sentence):
        assemble(export, tmp_path / "photos", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export.json", "photos"]
    if categories:
        assert check(export, tmp_path / "photos").kinds(BREAKS)
