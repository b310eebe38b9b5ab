"""COCO files of other tools in the plain form: what means one thing only is read and remarked on, the rest stays as it is."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from minidetr.data.foreign import LEFT_OUT, flag_of, new_remarks, number_of, outline_of, plain
from minidetr.data.names import Finder

SQUARE = [5, 5, 25, 5, 25, 25, 5, 25]


@pytest.mark.parametrize(
    ("value", "number"),
    [(7, 7), (7.0, 7), ("7", 7), (" 7 ", 7), ("7.0", 7), ("-3", -3), ("007", 7), (7.5, 7.5), ("7a", "7a"), ("", ""), (None, None)]
    + [("1e3", "1e3"), (float("inf"), float("inf")), ([7], [7]), ("٣", "٣"), ("9" * 30, "9" * 30)],
)
def test_numbers(value: Any, number: Any) -> None:
    assert number_of(value) == number and type(number_of(value)) is type(number)


def test_flags() -> None:
    assert [flag_of(value) for value in (0, 1, True, False, "1", "0", 1.0, "True", "false")] == [0, 1, 1, 0, 1, 0, 1, 1, 0]
    assert [flag_of(value) for value in (2, "yes", None)] == [2, "yes", None]


def test_outlines() -> None:
    mask = np.zeros((64, 96), np.uint8, order="F")
    mask[5:25, 5:25] = 1
    text = coco_mask.encode(mask)["counts"].decode()
    counts = [len(list(run)) for _, run in itertools.groupby(mask.ravel(order="F"))]
    runs = {"size": [64, 96], "counts": text}
    pairs = [[x, y] for x, y in zip(SQUARE[::2], SQUARE[1::2], strict=True)]
    for value, meant in (
        ([SQUARE], [SQUARE]),
        (SQUARE, [SQUARE]),
        (pairs, [SQUARE]),
        ([pairs], [SQUARE]),
        ([pairs, SQUARE], [SQUARE, SQUARE]),
        ([[]], []),
        ([[], SQUARE], [SQUARE]),
        (None, []),
        ("", []),
        ({}, []),
        ([runs], runs),
        (runs, runs),
        (runs | {"counts": str(text.encode())}, runs),
        ({"size": [64.0, 96.0], "counts": [float(n) for n in counts]}, {"size": [64, 96], "counts": counts}),
        ([[5, 5, 25, 25]], [[5, 5, 25, 25]]),
        ("none", "none"),
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]]),  # two points are no polygon
        ([SQUARE, runs], [SQUARE, runs]),  # a mixture means nothing
    ):
        before = copy.deepcopy(value)
        assert outline_of(value) == meant
        assert value == before
    assert all(type(n) is int for n in outline_of({"size": [64.0, 96], "counts": counts})["size"])


def test_a_file_in_the_plain_form_is_left_as_it_is(tmp_path: Path) -> None:
    content = {
        "info": {"year": "2020"},
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 96, "height": 64},
            {"id": "x", "file_name": "b/c.jpg", "width": 1, "height": 1},
        ],
        "categories": [{"id": 1, "name": "7", "isthing": 1}],
        "annotations": [{"id": 3, "image_id": 1, "category_id": 1, "segmentation": [SQUARE], "bbox": [5, 5, 20, 20], "iscrowd": 0}],
    }
    remarks = new_remarks()
    assert plain(content, False, remarks) == content and not remarks


def test_everything_at_once_and_the_input_stays(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    content = {
        "images": [
            {"id": "1", "file_name": "images\\a.jpg", "width": 0, "height": None},
            {"id": 2.0, "file_name": "images/a.jpg", "width": 96, "height": 64},
            {"id": 3, "file_name": "b.jpg", "width": "96", "height": 64.0},
        ],
        "categories": [{"id": "1", "name": "crane", "isthing": True}],
        "annotations": [
            {"id": 1, "image_id": 2, "category_id": 1.0, "segmentation": SQUARE, "iscrowd": None},
            {"id": 2, "image_id": "3", "category_id": 1, "segmentation": [[]], "bbox": []},
        ],
    }
    before, remarks = copy.deepcopy(content), new_remarks()
    read = plain(content, False, remarks, Finder(tmp_path))
    assert content == before
    assert read["images"] == [
        {"id": 1, "file_name": "a.jpg", "width": 96, "height": 64},  # the size of its other entry
        {"id": 2, "file_name": "a.jpg", "width": 96, "height": 64, LEFT_OUT: True},
        {"id": 3, "file_name": "b.jpg", "width": 96, "height": 64},
    ]
    assert read["categories"] == [{"id": 1, "name": "crane", "isthing": 1}]
    assert read["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [SQUARE]},
        {"id": 2, "image_id": 3, "category_id": 1, "segmentation": [], LEFT_OUT: True},
    ]
    counts = {kind: len(places) for kind, places in remarks.items()}
    expected = {
        "id-text": 6,
        "flag-text": 2,
        "name-found": 2,
        "size-unsaid": 1,
        "same-file": 1,
        "outline-shape": 1,
        "no-geometry": 1,
    }
    assert counts == expected


def test_a_name_that_fits_two_files_is_remarked_on_and_stays(tmp_path: Path) -> None:
    for name in ("south/1.jpg", "north/1.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    content = {"images": [{"id": 1, "file_name": "1.jpg", "width": 3, "height": 3}], "annotations": [], "categories": []}
    remarks = new_remarks()
    assert plain(content, False, remarks, Finder(tmp_path)) == content
    assert list(remarks) == ["name-unclear"] and "north/1.jpg or south/1.jpg" in remarks["name-unclear"][0][1]


def test_without_files_a_name_is_what_it_would_be_inside(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "..\\..\\up\\A b.jpg", "width": 3, "height": 3}],
        "annotations": [],
        "categories": [],
    }
    assert plain(content, False, new_remarks())["images"][0]["file_name"] == "up/A b.jpg"
    assert (
        plain(content, False, new_remarks(), Finder(tmp_path))["images"][0]["file_name"] == "..\\..\\up\\A b.jpg"
    )  # nothing there fits
