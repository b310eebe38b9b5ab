"""The page of the worst images: ranked by their own PQ, told what went wrong, in one file."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidetr.errors import InputError
from minidetr.evaluate import QualityCounts, panoptic_quality
from minidetr.evaluate.worst import mistakes, worst_images
from minidetr.panoptic import Category, decode_ids, encode_ids
from tests.reference import REFERENCE, needs_reference

CATEGORIES = [Category(1, "sky", False), Category(2, "<crane>", True), Category(3, "cone", True)]
TRUTH = np.repeat([1, 2, 3, 0], [40, 30, 20, 10]).reshape(10, 10)
CLASSES = {1: 1, 2: 2, 3: 3}
# name -> (predicted ids, class of each id, what to find: missed, spurious, confused)
PREDICTIONS: dict[str, tuple[np.ndarray, dict[int, int], tuple[dict, dict, dict]]] = {
    "perfect": (TRUTH, CLASSES, ({}, {}, {})),
    "confused": (TRUTH, {1: 1, 2: 3, 3: 3}, ({}, {}, {(2, 3): 1})),
    "missing": (np.where(TRUTH == 2, 0, TRUTH), {1: 1, 3: 3}, ({2: 1}, {}, {})),
    "nothing": (np.zeros_like(TRUTH), {}, ({1: 1, 2: 1, 3: 1}, {}, {})),
    "shifted": (np.roll(np.where(TRUTH == 1, 0, TRUTH), 3, axis=0), {2: 2, 3: 3}, ({1: 1, 2: 1}, {3: 1}, {(3, 2): 1})),
}


def entries(classes: dict[int, int]) -> list[dict]:
    return [{"id": i, "category_id": c, "iscrowd": 0} for i, c in classes.items()]


@pytest.mark.parametrize("name", PREDICTIONS)
def test_mistakes_are_named_and_add_up(name: str) -> None:
    ids, classes, expected = PREDICTIONS[name]
    found = mistakes(TRUTH, entries(CLASSES), ids, entries(classes), CATEGORIES)
    assert (dict(found.missed), dict(found.spurious), dict(found.confused)) == expected
    counts = QualityCounts()
    counts.add_image(TRUTH, entries(CLASSES), ids, entries(classes))
    assert found.pq == counts.result(CATEGORIES).all.pq
    confused = sum(found.confused.values())
    assert sum(found.missed.values()) + confused == sum(count.fn for count in counts.classes.values())
    assert sum(found.spurious.values()) + confused == sum(count.fp for count in counts.classes.values())


def test_crowds_are_never_missed_nor_confused() -> None:
    crowd = [segment | {"iscrowd": 1} for segment in entries(CLASSES)]
    found = mistakes(TRUTH, crowd, TRUTH, entries({1: 1, 2: 3, 3: 3}), CATEGORIES)
    assert not found.missed and not found.confused and dict(found.spurious) == {3: 1}


def test_words_tell_the_most_frequent_first() -> None:
    ids = np.repeat([1, 2, 3, 4, 5], 20).reshape(10, 10)
    found = mistakes(ids, entries({1: 2, 2: 2, 3: 3, 4: 1, 5: 3}), np.where(ids > 3, ids, 0), entries({4: 2, 5: 3}), CATEGORIES)
    assert [text for _, text in found.entries(CATEGORIES)] == ["missed <crane> ×2", "sky taken for <crane>", "missed cone"]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Truth, prediction and photos of the images above on disk."""
    content = {"categories": [c.to_json() for c in CATEGORIES], "images": [], "annotations": []}
    predicted: list[dict] = []
    for kind in ("truth", "prediction", "photos"):
        (tmp_path / kind).mkdir()
    for image_id, (name, (ids, classes, _)) in enumerate(PREDICTIONS.items()):
        Image.fromarray(encode_ids(TRUTH)).save(tmp_path / "truth" / f"{name}.png")
        Image.fromarray(encode_ids(ids)).save(tmp_path / "prediction" / f"{name}.png")
        Image.new("RGB", (10, 10), (200, 100, image_id)).save(tmp_path / "photos" / f"{name}.jpg")
        content["images"].append({"id": image_id, "file_name": f"{name}.jpg", "width": 10, "height": 10})
        annotation = {"image_id": image_id, "file_name": f"{name}.png"}
        content["annotations"].append(annotation | {"segments_info": entries(CLASSES)})
        if name != "nothing":  # an image without a prediction
            predicted.append(annotation | {"segments_info": entries(classes)})
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "prediction.json").write_text(json.dumps(content | {"annotations": predicted}))
    names = {"gt_json": "truth.json", "gt_dir": "truth", "pred_json": "prediction.json", "pred_dir": "prediction"}
    return {argument: tmp_path / name for argument, name in (names | {"photos_dir": "photos", "out_dir": "out"}).items()}


def test_the_page_shows_the_worst_first_and_needs_no_other_file(files: dict[str, Path]) -> None:
    ranked = worst_images(**files, count=4)
    assert [name for name, _ in ranked] == ["nothing.jpg", "shifted.jpg", "confused.jpg", "missing.jpg"]
    assert [round(pq, 4) for _, pq in ranked] == [0, 0, 0.5556, 0.6667]
    out = files["out_dir"]
    pictures = [f"{rank:02d}-{Path(name).stem}.png" for rank, (name, _) in enumerate(ranked, start=1)]
    assert sorted(path.name for path in out.iterdir()) == [*pictures, "index.html"]
    page = (out / "index.html").read_text()
    assert "The 4 worst of 5 images" in page and "perfect" not in page
    assert "&lt;crane&gt; taken for cone" in page and "<crane>" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    embedded = [base64.b64decode(data) for data in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)]
    assert len(embedded) == 4 and all(data[:2] == b"\xff\xd8" for data in embedded)
    for name in pictures:
        with Image.open(out / name) as sheet:
            assert 640 <= sheet.width <= 1600
    assert page.index("nothing.jpg") < page.index("shifted.jpg") < page.index("missing.jpg")


def test_photos_of_one_name_keep_their_folders_apart(files: dict[str, Path]) -> None:
    names = {"nothing": "south/1.jpg", "shifted": "north/1.jpg"}
    for name, other in names.items():
        (files["photos_dir"] / other).parent.mkdir()
        (files["photos_dir"] / f"{name}.jpg").rename(files["photos_dir"] / other)
    for key in ("gt_json", "pred_json"):
        content = json.loads(files[key].read_text())
        for image in content["images"]:
            image["file_name"] = names.get(Path(image["file_name"]).stem, image["file_name"])
        files[key].write_text(json.dumps(content))
    assert [name for name, _ in worst_images(**files, count=2)] == ["south/1.jpg", "north/1.jpg"]
    assert sorted(path.name for path in files["out_dir"].glob("*.png")) == ["01-south-1.png", "02-north-1.png"]
    page = (files["out_dir"] / "index.html").read_text()
    assert "1. south/1.jpg: PQ 0.0" in page and "2. north/1.jpg: PQ 0.0" in page


def test_bad_input_leaves_nothing_behind(files: dict[str, Path]) -> None:
    (files["photos_dir"] / "perfect.jpg").rename(files["photos_dir"] / "away")
    with pytest.raises(InputError, match=r"perfect\.jpg is missing"):
        worst_images(**files)
    (files["photos_dir"] / "away").rename(files["photos_dir"] / "perfect.jpg")
    Image.new("RGB", (11, 10)).save(files["photos_dir"] / "nothing.jpg")
    with pytest.raises(InputError, match=r"nothing\.jpg is 11 x 10 pixels, but .*nothing\.png is 10 x 10"):
        worst_images(**files)
    assert sorted(path.name for path in files["out_dir"].parent.iterdir()) == sorted(
        ["truth", "truth.json", "prediction", "prediction.json", "photos"]
    )
    files["out_dir"].mkdir()
    (files["out_dir"] / "mine").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        worst_images(**files)


@needs_reference
def test_the_mean_mistakes_of_real_photos_are_the_metrics(tmp_path: Path) -> None:
    """Eleven photos against their truth moved by four pixels: misses and spurious segments are those panoptic quality counts."""
    coco = REFERENCE / "coco"
    content = json.loads((coco / "panoptic.json").read_text())
    categories = [Category(c["id"], c["name"], bool(c["isthing"])) for c in content["categories"]]
    (tmp_path / "moved").mkdir()
    missed = spurious = 0
    for annotation in content["annotations"]:
        ids = decode_ids(np.asarray(Image.open(coco / "panoptic" / annotation["file_name"])))
        moved = np.roll(ids, 4, axis=1)
        Image.fromarray(encode_ids(moved)).save(tmp_path / "moved" / annotation["file_name"])
        segments = annotation["segments_info"]
        found = mistakes(ids, segments, moved, segments, categories)
        missed += sum(found.missed.values()) + sum(found.confused.values())
        spurious += sum(found.spurious.values()) + sum(found.confused.values())
    quality = panoptic_quality(coco / "panoptic.json", coco / "panoptic", coco / "panoptic.json", tmp_path / "moved")
    assert missed == sum(count.fn for count in quality.per_class.values()) > 0
    assert spurious == sum(count.fp for count in quality.per_class.values()) > 0
