"""Ids in a PNG, areas and boxes of segments, and files written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidetr.errors import InputError
from minidetr.panoptic import Category, Panoptic, Segment, boxes_of_ids, decode_ids, encode_ids, write_json


def test_encoding_is_that_of_coco() -> None:
    """id = R + 256 G + 65536 B."""
    assert encode_ids(np.array([[0, 1, 256, 65536, 3 + 256 * 5 + 65536 * 7]])).tolist() == [
        [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [3, 5, 7]],
    ]


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32])
def test_decoding_undoes_encoding(dtype: type) -> None:
    ids = np.random.default_rng(0).integers(0, 256**3, (31, 17)).astype(dtype)
    ids[0, 0], ids[0, 1] = 0, 256**3 - 1
    decoded = decode_ids(encode_ids(ids))
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, ids)


@pytest.mark.parametrize("wrong", [-1, 256**3])
def test_ids_that_fit_no_png(wrong: int) -> None:
    with pytest.raises(InputError, match=f"0..16777215.*{wrong}"):
        encode_ids(np.array([[1, wrong]]))


@pytest.mark.parametrize("largest", [9999999, 60000])  # too large for a table of ids, and not
def test_boxes_against_one_id_at_a_time(largest: int) -> None:
    rng = np.random.default_rng(0)
    segment_ids = rng.integers(0, 12, (23, 31)) * 1000
    ids = np.array([11000, 2000, 0, 77, 5000, largest, 1000])  # unsorted, two without a pixel, one beyond the largest, not all
    areas, boxes = boxes_of_ids(segment_ids, ids)
    for i, area, box in zip(ids, areas, boxes, strict=True):
        rows, columns = np.nonzero(segment_ids == i)
        assert area == len(rows)
        expected = [columns.min(), rows.min(), columns.max() - columns.min() + 1, rows.max() - rows.min() + 1] if area else [0] * 4
        assert box.tolist() == expected
    assert (areas == 0).sum() == 2


def test_box_of_one_pixel_and_of_no_ids() -> None:
    areas, boxes = boxes_of_ids(np.array([[0, 0, 0], [0, 0, 4]]), np.array([4]))
    assert areas.tolist() == [1] and boxes.tolist() == [[2, 1, 1, 1]]
    areas, boxes = boxes_of_ids(np.zeros((2, 3), int), np.array([], int))
    assert areas.shape == (0,) and boxes.shape == (0, 4)


@pytest.fixture
def panoptic() -> Panoptic:
    segments = [Segment(1, 17, 0.87654321, True, 2, (1, 0, 1, 2)), Segment(300, 4, 0.5, False, 3, (0, 0, 3, 2))]
    return Panoptic(np.array([[300, 1, 0], [300, 1, 300]], np.int32), segments)


def test_annotation_is_an_entry_of_a_coco_file(panoptic: Panoptic) -> None:
    entry = panoptic.annotation(139, "000139.png")
    assert (entry["image_id"], entry["file_name"]) == (139, "000139.png")
    info = {"id": 1, "category_id": 17, "area": 2, "bbox": [1, 0, 1, 2], "iscrowd": 0, "score": 0.8765}
    assert entry["segments_info"][0] == info
    assert [s["id"] for s in entry["segments_info"]] == [1, 300]
    assert json.loads(json.dumps(entry)) == entry


def test_save_writes_both_files_whole(panoptic: Panoptic, tmp_path: Path) -> None:
    png, json_file = tmp_path / "made" / "a.png", tmp_path / "other" / "a.json"
    panoptic.save(png, str(json_file))
    with Image.open(png) as image:
        np.testing.assert_array_equal(decode_ids(np.asarray(image)), panoptic.segment_ids)
    content = json.loads(json_file.read_text())
    assert content["file_name"] == "a.png"
    assert [Segment(**s | {"box": tuple(s["box"])}) for s in content["segments"]] == panoptic.segments
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == ["a.json", "a.png"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}
    panoptic = Panoptic(np.array([[256**3]]))
    with pytest.raises(InputError):
        panoptic.save(tmp_path / "a.png", path)
    assert json.loads(path.read_text()) == {"old": 1} and not (tmp_path / "a.png").exists()


def test_category_entry() -> None:
    assert Category(3, "truck", True, (1, 2, 3)).to_json() == {"id": 3, "name": "truck", "isthing": 1, "color": [1, 2, 3]}
    assert Category(4, "sky", False).to_json() == {"id": 4, "name": "sky", "isthing": 0}
