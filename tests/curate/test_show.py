"""Contact sheets: which photos are shown, in which order, and that they show the segments."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidetr.curate.show import TITLE, by_class, by_trouble, picture, shortened, show
from minidetr.data.coco import CocoPanoptic
from minidetr.errors import InputError

AREAS = {0: {1: 500, 2: 100}, 1: {1: 300, 2: 300}, 2: {1: 600}, 3: {3: 20, 1: 580}}  # image -> class -> pixels of 20 x 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images of the classes above, drawn row by row; a class's id is its segment's id."""
    images, annotations = [], []
    for image_id, areas in AREAS.items():
        ids = np.repeat(list(areas), list(areas.values())).reshape(20, 30).astype(np.uint8)
        rgb = np.zeros((20, 30, 3), np.uint8)
        rgb[..., 0] = ids
        photo = np.random.default_rng(image_id).integers(0, 256, (20, 30, 3), np.uint8)
        for kind, pixels in (("images", photo), ("panoptic", rgb)):
            (tmp_path / "data" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "data" / kind / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": 20, "width": 30})
        segments = []
        for c, area in areas.items():
            rows, columns = np.nonzero(ids == c)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            segments.append({"id": c, "category_id": c, "area": area, "bbox": [int(v) for v in box], "iscrowd": 0})
        annotations.append({"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments})
    categories = [{"id": c, "name": name, "isthing": int(c > 1)} for c, name in ((1, "sky"), (2, "crane"), (3, "cone"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "data" / "panoptic.json").write_text(json.dumps(content))
    return tmp_path / "data"


def test_every_class_gets_the_photo_where_it_covers_most(folder: Path) -> None:
    assert list(by_class(folder, 3)) == [(2, "sky · 2.png"), (1, "crane · 1.png"), (3, "cone · 3.png")]
    # The fourth is the second of sky (image 0); a class's photos stand together.
    assert [index for index, _ in by_class(folder, 9)] == [2, 0, 1, 3]
    assert [index for index, _ in by_class(folder, 1)] == [2]


def test_the_most_troubled_comes_first(folder: Path) -> None:
    content = json.loads((folder / "panoptic.json").read_text())
    content["annotations"][1]["segments_info"][0]["area"] = 7
    (folder / "panoptic.json").write_text(json.dumps(content))
    Image.new("RGB", (31, 20)).save(folder / "images" / "3.png")
    (first, why), (second, why_2), *_ = by_trouble(folder, 9)
    assert (first, second) == (3, 1) and why.startswith("size") and why_2.startswith("stale-area")
    assert len(list(by_trouble(folder, 1))) == 1


def test_a_picture_shows_the_segments_or_what_there_is(folder: Path) -> None:
    dataset = CocoPanoptic.from_folder(folder)
    whole = picture(dataset, 2)
    assert whole.shape[1] >= 640 and whole.std(axis=(0, 1)).min() > 0  # enlarged, tinted, named
    Image.new("RGB", (31, 20), (9, 8, 7)).save(folder / "images" / "2.png")
    np.testing.assert_array_equal(picture(dataset, 2), np.full((20, 31, 3), (9, 8, 7)))  # the photo alone
    (folder / "images" / "2.png").unlink()
    assert len(np.unique(picture(dataset, 2))) == 1  # grey


def test_sheets_are_one_file_or_a_folder_of_pages(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert show(folder, tmp_path / "sheet.png", "trouble", count=2) == [tmp_path / "sheet.png"]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert 640 <= sheet.width <= 1600
    monkeypatch.setattr("minidetr.curate.show.SHEET", 3)
    written = show(folder, tmp_path / "sheets")
    assert (
        written
        == [tmp_path / "sheets" / "sheet-01.png", tmp_path / "sheets" / "sheet-02.png"]
        == sorted((tmp_path / "sheets").iterdir())
    )
    heights = [Image.open(path).height for path in written]
    assert heights[0] == heights[1]  # three pictures in a row, then one
    with pytest.raises(InputError, match="not an empty folder"):
        show(folder, tmp_path / "sheets")


@pytest.mark.parametrize(("options", "message"), [({"sort": "size"}, "'class' or by 'trouble'"), ({"count": 0}, "at least 1")])
def test_senseless_options_are_refused(folder: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        show(folder, tmp_path / "sheet.png", **options)
    assert not (tmp_path / "sheet.png").exists()


def test_long_titles_keep_their_ends() -> None:
    text = "stale-area, stale-box, tiny · a_photo_1234.jpg"
    assert shortened("short") == "short" and len(shortened(text)) == TITLE
    assert shortened(text).startswith("stale-area") and shortened(text).endswith("1234.jpg")
