"""Other people's truths and predictions: what `evaluate` makes of each, the right value or a sentence that says what to do.

A row is one kind of file that people have had trouble with; its source is the report it is like, or the format it is made up like.
Nothing is copied: truth and prediction are three small images, perfect but for what the row changes. The images differ, so that a
wrong pair, of images or of classes, costs quality.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import unicodedata
import zlib
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minidetr.commands import main as cli
from minidetr.data.coco import CocoPanoptic
from minidetr.data.pngs import read_ids
from minidetr.errors import InputError
from minidetr.evaluate import PanopticQuality, panoptic_quality, segment_box_average_precision
from minidetr.evaluate.model import evaluate_model
from minidetr.evaluate.worst import worst_images
from minidetr.panoptic import encode_ids
from minidetr.predict import load_model
from minidetr.training.feed import open_data
from minidetr.training.options import TrainOptions

SKY, WORKER, CRANE = 1, 2, 3
CLASSES = {SKY: "sky", WORKER: "worker", CRANE: "crane"}
HEIGHT, WIDTH = 12, 16
TURNED = [{10: 20, 20: 30, 30: 10}.get(place, 0) * (channel == 0) for place in range(256) for channel in range(3)]
PALETTE = np.random.default_rng(0).integers(1, 256, 768).tolist()


class Files:
    """A truth and a prediction equal to it, on disk once `write` is called; a row changes them before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.void: Collection[int] = ()
        self.ids: dict[str, list[np.ndarray]] = {}
        self.content: dict[str, dict] = {}
        self.save: dict[str, Callable[[Path, np.ndarray], None]] = dict.fromkeys(("truth", "pred"), save_rgb)
        for side in self.save:
            self.ids[side] = []
            segments = [{"id": 10 * c, "category_id": c, "iscrowd": 0} for c in CLASSES]
            names = [{"id": c, "name": name, "isthing": int(c != SKY)} for c, name in CLASSES.items()]
            self.content[side] = {"images": [], "annotations": [], "categories": names}
            for number in range(3):
                ids = np.full((HEIGHT, WIDTH), 10 * CRANE, np.int32)
                ids[:, : 3 + 5 * number] = 10 * WORKER
                ids[: 2 + 4 * number] = 10 * SKY
                self.ids[side].append(ids)
                name = "abc"[number]
                self.content[side]["images"].append({"id": number + 1, "file_name": f"{name}.jpg"})
                entry = {"image_id": number + 1, "file_name": f"{name}.png", "segments_info": [dict(s) for s in segments]}
                self.content[side]["annotations"].append(entry)

    @property
    def truth(self) -> dict:
        return self.content["truth"]

    @property
    def pred(self) -> dict:
        return self.content["pred"]

    def segments(self, side: str) -> list[dict]:
        return [segment for annotation in self.content[side]["annotations"] for segment in annotation["segments_info"]]

    def write(self) -> tuple[Path, Path, Path, Path]:
        for side, content in self.content.items():
            (self.folder / side).mkdir(exist_ok=True)
            for annotation, ids in zip(content["annotations"], self.ids[side], strict=False):
                self.save[side](self.folder / side / annotation["file_name"], ids)
            (self.folder / f"{side}.json").write_text(json.dumps(content))
        return tuple(self.folder / name for name in ("truth.json", "truth", "pred.json", "pred"))


# --- PNGs of every kind


def save_rgb(path: Path, ids: np.ndarray) -> None:
    Image.fromarray(encode_ids(ids)).save(path)


def save_grey(path: Path, ids: np.ndarray) -> None:
    Image.fromarray(ids.astype(np.uint8)).save(path)


def save_grey_16(path: Path, ids: np.ndarray) -> None:
    Image.fromarray(ids.astype(np.uint16)).save(path)


def save_palette(path: Path, ids: np.ndarray, palette: list[int] = PALETTE, **options: int) -> None:
    image = Image.fromarray(ids.astype(np.uint8), "P")
    image.putpalette(palette)
    image.save(path, **options)


def save_rgba(path: Path, ids: np.ndarray) -> None:
    Image.fromarray(encode_ids(ids)).convert("RGBA").save(path)


def save_transparent_void(path: Path, ids: np.ndarray) -> None:
    colours = np.where(ids[..., None] == 0, 9, encode_ids(ids))
    Image.fromarray(np.concatenate([colours, 255 * (ids > 0)[..., None]], axis=-1).astype(np.uint8)).save(path)


def save_raw(path: Path, pixels: np.ndarray, depth: int, kind: int) -> None:
    """A PNG that Pillow can't write: rows of bytes, the depth and the kind of colour of its header."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + bytes(row) for row in pixels))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def save_rgb_16(path: Path, ids: np.ndarray) -> None:
    save_raw(path, np.repeat(encode_ids(ids).reshape(HEIGHT, -1), 2, axis=1), 16, 2)  # each byte twice: 8 bits as 16


def save_grey_4(path: Path, ids: np.ndarray) -> None:
    save_raw(path, (ids[:, ::2] << 4 | ids[:, 1::2]).astype(np.uint8), 4, 0)


def save_black_and_white(path: Path, ids: np.ndarray) -> None:
    Image.fromarray(ids > 0).save(path)


def save_bgr(path: Path, ids: np.ndarray) -> None:
    Image.fromarray(encode_ids(ids)[..., ::-1].copy()).save(path)


def save_grey_as_rgb(path: Path, ids: np.ndarray) -> None:
    Image.fromarray(ids.astype(np.uint8)).convert("RGB").save(path)


def save_jpeg(path: Path, ids: np.ndarray) -> None:
    Image.fromarray(encode_ids(ids)).save(path, "JPEG")


# --- changes


def renamed(side: str, *names: str) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        for image, name in zip(files.content[side]["images"], names, strict=True):
            image["file_name"] = name

    return change


def numbered(side: str, *numbers: object) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        lists = (files.content[side]["images"], files.content[side]["annotations"])
        for image, annotation, number in zip(*lists, numbers, strict=True):
            image["id"] = annotation["image_id"] = number

    return change


def without(side: str, *keys: str) -> Callable[[Files], None]:
    return lambda files: [files.content[side].pop(key) for key in keys]


def classes(side: str, names: dict, moved: dict[int, object] | None = None) -> Callable[[Files], None]:
    """The categories of a side (id: name), and where its segments go by category id."""

    def change(files: Files) -> None:
        entries = [{"id": c, "name": name, "isthing": int((name or CLASSES[c]).lower() != "sky")} for c, name in names.items()]
        files.content[side]["categories"] = [{k: v for k, v in e.items() if v is not None} for e in entries]
        for segment in files.segments(side):
            segment["category_id"] = (moved or {}).get(segment["category_id"], segment["category_id"])

    return change


def saved(save: Callable[[Path, np.ndarray], None], *sides: str, ids: dict[int, int] | None = None) -> Callable[[Files], None]:
    """PNGs of another kind, with other ids in them (old: new)."""

    def change(files: Files) -> None:
        for side in sides or ("truth", "pred"):
            files.save[side] = save
            for old, new in (ids or {}).items():
                for image in files.ids[side]:
                    image[image == old] = new
                for segment in files.segments(side):
                    segment["id"] = new if segment["id"] == old else segment["id"]

    return change


def border(value: int, *sides: str, listed: bool = False) -> Callable[[Files], None]:
    """A column of another id, which the JSON lists or does not."""

    def change(files: Files) -> None:
        for side in sides or ("truth", "pred"):
            for image, annotation in zip(files.ids[side], files.content[side]["annotations"], strict=True):
                image[:, 1] = value
                if listed:
                    annotation["segments_info"].append({"id": value, "category_id": 255})

    return change


def void(*ids: int) -> Callable[[Files], None]:
    return lambda files: setattr(files, "void", ids)


def only(side: str, count: int) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        for key in ("images", "annotations"):
            del files.content[side][key][count:]

    return change


def set_field(side: str, path: str, value: object) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        *keys, last = (int(key) if key.isdigit() else key for key in path.split("."))
        owner = files.content[side]
        for key in keys:
            owner = owner[key]
        if value is None:
            del owner[last]
        else:
            owner[last] = value

    return change


def put(name: str, content: bytes) -> Callable[[Files], None]:
    """A file instead of each PNG of the prediction."""
    return lambda files: files.save.update(pred=lambda path, ids: path.write_bytes(content))


def subfolders(side: str) -> Callable[[Files], None]:
    return renamed(side, "south/001.jpg", "north/001.jpg", "north/002.jpg")


def backwards(files: Files) -> None:
    for key in ("images", "annotations"):
        files.pred[key].reverse()
    files.ids["pred"].reverse()


# --- the table: id, where it comes from, what is changed, and the outcome: PQ; (PQ, a note); or a sentence

ROWS: list[tuple[str, str, list, float | tuple[float, str] | str]] = [
    # Images
    ("ids-in-another-order", "cocoapi#497", [numbered("pred", 2, 3, 1)], 1.0),
    ("one-id-in-common", "cocoapi#230", [numbered("pred", 3, 4, 5)], 1.0),
    ("names-as-ids", "yolov9#466", [numbered("pred", "a", "b", "c")], 1.0),
    ("ids-do-not-follow-names", "coco-annotator#212", [numbered("truth", 42, 7, 19), numbered("pred", 7, 19, 42)], 1.0),
    ("another-order-of-entries", "made up like a prediction of several processes", [backwards], 1.0),
    ("prediction-names-no-image", "made up like panopticapi's predictions", [without("pred", "images")], 1.0),
    (
        "names-of-pngs-against-ids",
        "made up like a prediction numbered anew",
        [numbered("pred", 2, 1, 3), without("pred", "images")],
        (1 / 3, r"paired by 'image_id', since .*pred\.json names none .*: 2, such as 1, 'a\.jpg' in .* but 'b\.png' in"),
    ),
    (
        "one-png-for-two-images",
        "made up like a file edited by hand",
        [set_field("pred", "annotations.1.file_name", "a.png"), set_field("pred", "annotations.0.file_name", "a.png")],
        (2 / 3, r"PNGs that several annotations of .*pred\.json name, .*: 'a\.png'"),
    ),
    ("truth-names-no-image", "made up like a truth of annotations alone", [without("truth", "images")], 1.0),
    ("ids-as-text", "yolov9#466", [numbered("pred", "1", "2", "3"), without("pred", "images")], 1.0),
    ("ids-as-text-with-zeros", "yolov9#466", [numbered("pred", "000001", "000002", "000003"), without("pred", "images")], 1.0),
    ("ids-as-floats", "made up like a table saved by pandas", [numbered("pred", 1.0, 2.0, 3.0), without("pred", "images")], 1.0),
    ("ids-of-both-kinds", "made up like a merge of two exports", [numbered(side, 1, "xx", 3) for side in ("truth", "pred")], 1.0),
    (
        "ids-as-broken-floats",
        "made up like a table saved by pandas",
        [numbered("pred", 1.5, 2.0, 3.0)],
        r"pred\.json has no field 'i",
    ),
    (
        "text-ids-without-names",
        "made up like Cityscapes' panoptic JSON",
        [
            *(numbered(side, "frankfurt_000000_000294", "frankfurt_000000_000576", "lindau_1") for side in ("truth", "pred")),
            backwards,
            *(without(side, "images") for side in ("truth", "pred")),
        ],
        1.0,
    ),
    (
        "a-folder-in-front",
        "coco-annotator#212",
        [renamed("truth", *(f"val2017/{n}.jpg" for n in "abc")), numbered("pred", 3, 1, 2)],
        1.0,
    ),
    ("a-drive-in-front", "made up like VIA on Windows", [renamed("pred", *(rf"C:\data\val\{n}.jpg" for n in "abc"))], 1.0),
    ("subfolders", "cvat#4185", [subfolders("truth"), subfolders("pred"), numbered("pred", 3, 1, 2), backwards], 1.0),
    (
        "another-subfolder",
        "cvat#4185",
        [subfolders("truth"), renamed("pred", "west/001.jpg", "west/002.jpg", "west/003.jpg")],
        r"image 1 is 'south/001\.jpg' in .*truth\.json but 'west/001\.jpg' in .*pred\.json",
    ),
    (
        "a-photo-of-either-subfolder",
        "cvat#4185",
        [subfolders("truth"), only("pred", 1), renamed("pred", "001.jpg")],
        r"'001\.jpg' of .*pred\.json may be 'south/001\.jpg' or 'north/001\.jpg'",
    ),
    (
        "two-folders-for-one-photo",
        "made up like a merge of two exports",
        [renamed("pred", "south/a.jpg", "north/a.jpg", "c.jpg")],
        r"'a\.jpg' of .*truth\.json may be 'north/a\.jpg' or 'south/a\.jpg'",
    ),
    (
        "another-unicode-form",
        "made up like names from macOS",
        [
            renamed("truth", *(unicodedata.normalize("NFC", f"é{n}.jpg") for n in "abc")),
            renamed("pred", *(unicodedata.normalize("NFD", f"é{n}.jpg") for n in "abc")),
            numbered("pred", 3, 1, 2),
        ],
        1.0,
    ),
    (
        "another-case",
        "made up like names from Windows",
        [renamed("pred", "A.JPG", "B.JPG", "C.JPG"), numbered("pred", 2, 3, 1)],
        1.0,
    ),
    (
        "case-alone-differs",
        "made up like names from Linux",
        [renamed("truth", "x.jpg", "X.jpg", "c.jpg"), renamed("pred", "x.png", "X.png", "c.png"), numbered("pred", 2, 1, 3)],
        1.0,
    ),
    (
        "case-does-not-tell",
        "made up like names from Linux",
        [renamed("truth", "Photo.jpg", "PHOTO.jpg", "c.jpg"), only("pred", 1), renamed("pred", "photo.jpg")],
        r"'photo\.jpg' of .* may be 'Photo\.jpg' or 'PHOTO\.jpg'",
    ),
    (
        "png-for-jpg",
        "made up like detectron2's predictions",
        [renamed("pred", "a.png", "b.png", "c.png"), numbered("pred", 3, 1, 2)],
        1.0,
    ),
    (
        "dots-that-start-no-extension",
        "made up like frames of a video",
        [*(renamed(side, "cam.001", "cam.002", "cam.003") for side in ("truth", "pred")), numbered("pred", 3, 1, 2)],
        1.0,
    ),
    (
        "escaped-names",
        "made up like Label Studio",
        [renamed("truth", *(f"site one/{n}.jpg" for n in "abc")), renamed("pred", *(f"site%20one/{n}.jpg" for n in "abc"))],
        1.0,
    ),
    (
        "a-name-twice",
        "made up like a merge of two exports",
        [renamed("pred", "a.jpg", "a.jpg", "c.jpg")],
        r"two images named 'a\.jpg'",
    ),
    (
        "other-photos-of-the-same-ids",
        "cocoapi#497",
        [renamed("pred", "x.jpg", "y.jpg", "z.jpg")],
        r"image 1 is 'a\.jpg' .*'x\.jpg'",
    ),
    (
        "nothing-agrees",
        "cocoapi#230",
        [renamed("pred", "x.jpg", "y.jpg", "z.jpg"), numbered("pred", 7, 8, 9)],
        r"no prediction in .*pred\.json belongs to an annotated image of .*truth\.json",
    ),
    (
        "a-third-predicted",
        "yolov9#466",
        [only("pred", 1)],
        (0.5, r"images of .*truth\.json with a prediction in .*pred\.json: 1 of 3; the others count as missed"),
    ),
    (
        "one-not-predicted",
        "made up like a prediction that was cut off",
        [only("pred", 2)],
        (0.8, r"images of .*truth\.json with a prediction in .*pred\.json: 2 of 3; the others count as missed"),
    ),
    (
        "more-predicted",
        "made up like a folder with new photos",
        [only("truth", 2)],
        (1.0, r"predictions in .* does not annotate, which do not count: 1"),
    ),
    (
        "an-id-with-two-names",
        "made up like a merge of two exports",
        [lambda files: files.truth["images"].append({"id": 1, "file_name": "new.jpg"})],
        r"truth\.json has two 'images' with the id 1, 'a\.jpg' and 'new\.jpg'",
    ),
    (
        "an-image-not-listed",
        "made up like a file cut by hand",
        [lambda files: files.pred["images"].pop()],
        r"image 3 in .*pred\.json has no entry in 'images'",
    ),
    # Classes
    (
        "the-same-names-other-ids",
        "ISAT_with_segment_anything#36",
        [classes("pred", {1: "sky", 2: "crane", 3: "worker"}, {WORKER: 3, CRANE: 2})],
        1.0,
    ),
    ("names-swapped", "cvat#7938", [classes("pred", {1: "sky", 2: "crane", 3: "worker"})], 1 / 3),
    ("ids-from-0", "tf-faster-rcnn#128", [classes("pred", {0: "sky", 1: "worker", 2: "crane"}, {1: 0, 2: 1, 3: 2})], 1.0),
    ("another-case-of-names", "made up like Roboflow", [classes("pred", {1: "Sky", 2: " WORKER", 3: "Crane "})], 1.0),
    (
        "case-alone-tells-classes",
        "made up like labels typed by two people",
        [classes("truth", {1: "sky", 2: "Car", 3: "car"}), classes("pred", {1: "sky", 2: "car", 3: "Car"}, {2: 3, 3: 2})],
        1.0,
    ),
    (
        "case-tells-all-but-one",
        "made up like labels typed by two people",
        [classes("truth", {1: "sky", 2: "Car", 3: "car"}), classes("pred", {1: "sky", 2: "car", 3: "CAR"}, {2: 3, 3: 2})],
        1.0,
    ),
    (
        "case-tells-no-class",
        "made up like labels typed by two people",
        [classes("truth", {1: "sky", 2: "Car", 3: "car"}), classes("pred", {1: "sky", 2: "CAR", 3: "cAR"})],
        r"category_id 2, which .*pred\.json names 'CAR', but several classes have that name, case aside",
    ),
    (
        "a-class-renamed",
        "cvat#7938",
        [classes("pred", {1: "sky", 2: "pedestrian", 3: "crane"})],
        r"segment 20 in .*category_id 2, which is 'pedestrian' in .*pred\.json but 'worker' in .*truth\.json",
    ),
    (
        "a-renamed-class-nobody-has",
        "cvat#7938",
        [
            classes("truth", {**CLASSES, 4: "cone"}),
            classes("pred", {**CLASSES, 4: "pylon"}),
        ],
        1.0,
    ),
    (
        "a-class-the-truth-lacks",
        "made up like COCO's 133 classes",
        [classes("pred", {**CLASSES, 200: "rug"}, {CRANE: 200})],
        (2 / 3, r"segments in .*pred\.json of classes that .*truth\.json lacks \('rug'\), which count as unlabelled: 3"),
    ),
    (
        "its-id-means-another-class",
        "made up like COCO's 133 classes",
        [classes("pred", {1: "person", 119: "sky", 2: "worker", 3: "crane"}, {SKY: 119, CRANE: 1})],
        (2 / 3, r"lacks \('person'\), .*: 3"),
    ),
    ("no-categories", "made up like panopticapi's predictions", [without("pred", "categories")], 1.0),
    (
        "ids-of-classes-as-text",
        "made up like keys of a Python dict",
        [classes("pred", {"1": "sky", "2": "worker", "3": "crane"})],
        1.0,
    ),
    (
        "a-name-for-two-classes",
        "COCO-Assistant#16",
        [classes(side, {1: "sky", 2: "man", 3: "man"}) for side in ("truth", "pred")],
        1.0,
    ),
    (
        "a-name-for-two-other-classes",
        "COCO-Assistant#16",
        [classes("truth", {1: "sky", 2: "man", 3: "man"}), classes("pred", {1: "sky", 2: "man", 8: "man"}, {3: 8})],
        r"category_id 8, which .*pred\.json names 'man', but several classes have that name",
    ),
    ("no-names", "made up like labels that are numbers", [classes("truth", dict.fromkeys((1, 2, 3)))], 1.0),
    (
        "things-that-are-stuff",
        "made up like a model of things alone",
        [set_field("pred", "categories.0.isthing", 1)],
        (1.0, r"'isthing' of 'sky' in .*pred\.json is not that in .*truth\.json"),
    ),
    (
        "a-class-not-listed",
        "made up like a file cut by hand",
        [set_field("pred", "categories.2", None)],
        r"category_id 3, which is not among",
    ),
    ("isthing-as-truth-value", "made up like JSON of Python", [set_field("truth", "categories.1.isthing", True)], 1.0),
    (
        "isthing-as-text",
        "made up like a CSV turned into JSON",
        [set_field("truth", "categories.1.isthing", "1"), set_field("truth", "categories.0.isthing", "false")],
        1.0,
    ),
    (
        "isthing-of-another-kind",
        "made up like a CSV turned into JSON",
        [set_field("truth", "categories.1.isthing", "thing")],
        r"category 2 of .*truth\.json has the 'isthing' 'thing', but it must be 1",
    ),
    ("no-crowd-as-text", "made up like JSON of Python", [set_field("pred", "annotations.0.segments_info.0.iscrowd", "False")], 1.0),
    (
        "a-crowd-as-text",
        "made up like a CSV turned into JSON",
        [set_field("truth", "annotations.0.segments_info.0.iscrowd", "yes")],
        r"'iscrowd' 'yes'",
    ),
    # PNGs
    ("grey-16-bits", "made up like Cityscapes' instanceIds", [saved(save_grey_16, ids={20: 24003, 30: 26001})], 1.0),
    ("grey-8-bits", "made up like a mask of OpenCV", [saved(save_grey)], 1.0),
    ("grey-4-bits", "made up like a mask that optipng made smaller", [saved(save_grey_4, ids={10: 1, 20: 2, 30: 15})], 1.0),
    ("palette", "made up like Pascal VOC", [saved(save_palette)], 1.0),
    (
        "palette-4-bits",
        "made up like Pascal VOC",
        [saved(lambda p, ids: save_palette(p, ids, bits=4), ids={10: 1, 20: 2, 30: 15})],
        1.0,
    ),
    (
        "palette-with-border",
        "made up like Pascal VOC",
        [border(255), saved(save_palette)],
        r"its palette places are the ids 10, 20, 30, 255, but .* lists the ids 10, 20, 30; .*--void",
    ),
    ("palette-with-declared-border", "made up like Pascal VOC", [border(255), saved(save_palette), void(255)], 1.0),
    (
        "palette-of-two-readings",
        "made up like a palette of ids in another order",
        [saved(lambda path, ids: save_palette(path, ids, TURNED), "pred")],
        r"is a palette image of 8 bits whose colours and palette places both are the ids",
    ),
    (
        "palette-of-colours",
        "made up like an RGB PNG that an editor made smaller",
        [saved(lambda p, ids: Image.fromarray(encode_ids(ids)).quantize(8).save(p), ids={30: 70000})],
        1.0,
    ),
    (
        "blue-green-red",
        "made up like cv2.imwrite of RGB",
        [saved(save_bgr, "pred")],
        r"a\.png has pixels of .*OpenCV's order: write them as red",
    ),
    (
        "grey-as-rgb",
        "made up like cv2.imread of a grey mask",
        [saved(save_grey_as_rgb, "truth")],
        r"a\.png has pixels of .*as grey, .*save it as RGB",
    ),
    ("opaque-alpha", "made up like GIMP", [saved(save_rgba)], 1.0),
    ("transparent-void", "made up like GIMP", [border(0), saved(save_transparent_void)], 1.0),
    ("rgb-16-bits", "made up like ImageMagick", [saved(save_rgb_16)], 1.0),
    (
        "grey-of-other-ids",
        "made up like a semantic mask",
        [saved(save_grey, "pred"), lambda files: files.ids["pred"][0].fill(7)],
        r"grey values are the ids 7, but its JSON lists the ids 10, 20, 30",
    ),
    (
        "a-jpeg",
        "made up like a mask saved as JPEG",
        [saved(save_jpeg, "pred")],
        r"a\.png can't be read as a PNG \(it is a JPEG, which changes colours\)",
    ),
    (
        "a-pointer",
        "made up like a clone without git-lfs",
        [put("pred", b"version https://git-lfs.github.com/spec/v1\n")],
        r"git lfs pull",
    ),
    (
        "another-size",
        "made up like a prediction at the model's size",
        [lambda files: files.ids.update(pred=[i[::2, ::2] for i in files.ids["pred"]])],
        r"a\.png is 8 x 6 pixels .* 16 x 12",
    ),
    (
        "white-void",
        "made up like COCO-Stuff",
        [border(2**24 - 1, "truth")],
        r"pixels of segment 16777215, which 'segments_info' does not list",
    ),
    ("declared-white-void", "made up like COCO-Stuff", [border(2**24 - 1, "truth"), void(2**24 - 1)], 1.0),
    ("a-void-that-is-listed", "made up like ADE20K", [border(255, "truth", listed=True), void(255)], 1.0),
    ("a-segment-called-as-void", "made up like ids of panopticapi", [saved(save_rgb, "pred", ids={30: 255}), void(255)], 1.0),
]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize(("source", "changes", "outcome"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_evaluate(files: Files, source: str, changes: list, outcome: float | tuple[float, str] | str) -> None:
    """PQ and, where the files can be compared at all, the same pairs in the box AP and on the page of the worst."""
    assert source
    for change in changes:
        change(files)
    paths = files.write()
    if isinstance(outcome, str):
        with pytest.raises(InputError, match=outcome) as error:
            panoptic_quality(*paths, void=files.void)
        assert "\n" not in str(error.value) and str(files.folder) in str(error.value)
        return
    pq, note = outcome if isinstance(outcome, tuple) else (outcome, None)
    quality = panoptic_quality(*paths, void=files.void)
    assert quality.all.pq == pytest.approx(pq)
    assert len(quality.notes) == (note is not None) and all(re.search(note, sentence) for sentence in quality.notes)
    boxes = segment_box_average_precision(paths[0], paths[2], paths[1], paths[3], files.void)
    assert (boxes["AP"] == pytest.approx(1)) == (pq == 1)  # measured in the PNGs: no JSON here has a 'bbox'
    photos = {image["file_name"] for image in files.truth.get("images", ())}
    if photos:
        for name in photos:
            (files.folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT)).save(files.folder / "photos" / name, "PNG")
        worst = worst_images(*paths, files.folder / "photos", files.folder / "worst", count=1, void=files.void)
        assert (worst[0][1] == pytest.approx(1)) == (pq == 1)


def test_the_table_is_large_and_each_row_has_its_own_name() -> None:
    assert len({row[0] for row in ROWS}) == len(ROWS) >= 35


@pytest.mark.parametrize("name", ["panoptic\\{}.png", "/data/coco/panoptic/{}.png", "{}.PNG", "panoptic/val/{}.png"])
def test_pngs_are_found_by_names_of_elsewhere(files: Files, name: str) -> None:
    """label-studio#7294, X-AnyLabeling#700: names with the folders of another computer."""
    paths = files.write()
    for annotation, letter in zip(files.pred["annotations"], "abc", strict=True):
        annotation["file_name"] = name.format(letter)
    paths[2].write_text(json.dumps(files.pred))
    assert panoptic_quality(*paths).all.pq == 1
    (files.folder / "d.png").write_bytes((files.folder / "pred" / "a.png").read_bytes())
    files.pred["annotations"][0]["file_name"] = "../d.png"
    paths[2].write_text(json.dumps(files.pred))
    with pytest.raises(InputError, match=r"'\.\./d\.png'.*inside"):
        panoptic_quality(*paths)


# --- boxes


def test_boxes_without_a_folder_of_pngs(files: Files) -> None:
    paths = files.write()
    with pytest.raises(InputError, match=r"image 1 in .*truth\.json has a segment without 'bbox'; add it, or give the folder"):
        segment_box_average_precision(paths[0], paths[2])
    for side in ("truth", "pred"):
        for segment in files.segments(side):
            segment["bbox"] = [segment["id"], 0, 9, 9]
    paths = files.write()
    assert segment_box_average_precision(paths[0], paths[2])["AP"] == pytest.approx(1)


def test_a_stated_box_stays_and_a_missing_area_is_measured(files: Files) -> None:
    for segment in files.segments("truth"):
        segment["bbox"] = [0, 0, 100, 100]  # would be large, but its pixels are few
    for segment in files.segments("pred"):
        segment["bbox"] = [0, 0, 100, 100]
    paths = files.write()
    measured = segment_box_average_precision(paths[0], paths[2], paths[1], paths[3])
    assert measured["APs"] > 0 and np.isnan(measured["APl"])
    assert segment_box_average_precision(paths[0], paths[2])["APl"] > 0


# --- the command


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_the_command_counts_images_and_takes_void(files: Files, capsys: pytest.CaptureFixture) -> None:
    for change in (border(255), saved(save_palette), only("pred", 1)):
        change(files)
    paths = files.write()
    assert run("evaluate", *paths, "--json", "--boxes", "--void", "7,255") == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["images"] == {"annotated": 3, "predicted": 1, "unknown": 0} and result["All"]["pq"] == pytest.approx(0.5)
    assert [line for line in err.splitlines() if line.startswith("note: ")] == [
        f"note: images of {paths[0]} with a prediction in {paths[2]}: 1 of 3; the others count as missed"
    ]
    for wrong in ("x", "-1", "16777216", "1,,2", ""):
        with pytest.raises(SystemExit, match="2"):
            run("evaluate", *paths, f"--void={wrong}")
        assert "is not a list of ids" in capsys.readouterr().err
    for void in ([256**3], [-1], ["255"], 255, [True]):
        with pytest.raises(InputError, match=r"void .* takes ids of a panoptic PNG"):
            panoptic_quality(*paths, void=void)


def test_the_score_is_said_before_the_photo_that_is_missing(files: Files, capsys: pytest.CaptureFixture) -> None:
    renamed("truth", *(f"val2017/{n}.jpg" for n in "abc"))(files)
    paths, photos = files.write(), files.folder / "photos"
    photos.mkdir()
    assert run("evaluate", *paths, "--worst", files.folder / "worst", "--photos", photos) == 2
    out, err = capsys.readouterr()
    assert re.search(r"All +100\.0", out) and "a.jpg is missing, but" in err
    for name in "abc":
        Image.new("RGB", (WIDTH, HEIGHT)).save(photos / f"{name}.jpg")
    assert run("evaluate", *paths, "--worst", files.folder / "worst", "--photos", photos) == 0
    assert (files.folder / "worst" / "index.html").is_file()


# --- PNGs alone


@pytest.mark.parametrize(("listed", "value"), [({1}, 1), ({255}, 255)])
def test_black_and_white_is_1_or_255_as_the_json_says(tmp_path: Path, listed: set[int], value: int) -> None:
    ids = np.eye(5, dtype=np.int32)
    save_black_and_white(tmp_path / "a.png", ids)
    assert np.array_equal(read_ids(tmp_path / "a.png", listed), ids * value)
    with pytest.raises(InputError, match=r"a\.png is a black and white image of 1 bit; .*lists the ids 2"):
        read_ids(tmp_path / "a.png", {2})


def test_counting_imports_neither_torch_nor_scipy(files: Files) -> None:
    for change in (numbered("pred", 3, 1, 2), saved(save_palette), classes("pred", {**CLASSES, 9: "rug"})):
        change(files)
    call = f"minidetr.panoptic_quality(*{[str(path) for path in files.write()]}, void=(255,))"
    code = f"import sys, minidetr; print({call}.all.pq, *({{'torch', 'scipy', 'matplotlib'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1.0"


# --- training on the same files


def data_set(folder: Path, changes: list) -> Path:
    files = Files(folder)
    for change in changes:
        change(files)
    folder.mkdir(parents=True, exist_ok=True)
    truth = files.write()
    (folder / "images").mkdir()
    for image in files.truth["images"]:
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / image["file_name"])
    truth[0].rename(folder / "panoptic.json")
    truth[1].rename(folder / "panoptic")
    return folder


@pytest.mark.parametrize(
    ("changes", "ids"),
    [
        ([saved(save_grey_16, ids={20: 24003, 30: 26001})], (24003, ())),
        ([saved(save_palette)], (20, ())),
        ([border(255), saved(save_palette)], (20, (255,))),
        ([border(255), saved(save_rgb)], (20, (255,))),
        ([saved(save_rgba)], (20, ())),
    ],
    ids=["Cityscapes", "Pascal VOC", "Pascal VOC with its border", "RGB with void 255", "opaque alpha"],
)
def test_training_reads_what_evaluation_reads(tmp_path: Path, changes: list, ids: tuple[int, tuple[int, ...]]) -> None:
    folder = data_set(tmp_path / "data", changes)
    dataset = CocoPanoptic.from_folder(folder, void=ids[1])
    _, segment_ids, segments = dataset.read(0)
    assert segment_ids.dtype == np.int32 and (segment_ids == ids[0]).any() and len(segments) == 3
    assert np.array_equal(segment_ids, read_ids(folder / "panoptic" / "a.png", [s["id"] for s in segments], ids[1]))
    assert (segment_ids[:, 1] == 0).all() == bool(ids[1])
    image, target = dataset[0]
    assert target.masks.sum() == (segment_ids > 0).sum() and image.shape[1:] == (HEIGHT, WIDTH)
    if ids[1]:
        with pytest.raises(InputError, match=r"a\.png .*255"):
            CocoPanoptic.from_folder(folder).read(0)
        with pytest.raises(InputError, match="void .* takes ids of a panoptic PNG"):
            TrainOptions(void=(-1,)).filled()
        assert open_data(TrainOptions(data=str(folder), void=ids[1]).filled())[1].read(0)[1].max() == 30
        assert run("data", "check", folder, "--void", 255) == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            [classes("truth", {1: "sky", 2: "crane", 3: "worker"})],
            r"category 2 is 'worker' in .*train.* but 'crane' in .*val.*panoptic\.json",
        ),
        (
            [set_field("truth", "categories.0.isthing", 1)],
            r"the 'isthing' of category 1, 'sky', differs between .*train.* and .*val",
        ),
        ([classes("truth", {**CLASSES, 7: "cone"})], r"category 7, 'cone' in .*val.*panoptic\.json, is not in .*train"),
        ([classes("truth", {1: "Sky", 2: "worker ", 3: "crane"}), set_field("truth", "categories.0.isthing", 0)], None),
    ],
    ids=["ISAT_with_segment_anything#36", "isthing", "one more", "case and spaces"],
)
def test_training_and_validation_must_mean_the_same(tmp_path: Path, changes: list, sentence: str | None) -> None:
    for part, its_changes in (("train", []), ("val", changes)):
        data_set(tmp_path / part, its_changes)
    options = TrainOptions(data=str(tmp_path)).filled()
    if sentence is None:
        assert len(open_data(options)[1]) == 3
        return
    with pytest.raises(InputError, match=sentence):
        open_data(options)


def test_training_and_validation_may_not_swap_classes_that_case_tells(tmp_path: Path) -> None:
    for part, names in (("train", {1: "sky", 2: "Car", 3: "car"}), ("val", {1: "sky", 2: "car", 3: "Car"})):
        data_set(tmp_path / part, [classes("truth", names)])
    with pytest.raises(InputError, match=r"category 2 is 'Car' in .*train.* but 'car' in .*val"):
        open_data(TrainOptions(data=str(tmp_path)).filled())


# --- the README's own chain: split, predict, evaluate


@pytest.fixture(scope="module")
def split_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered scenes under names that are no numbers, with ids in another order than the names, divided."""
    folder = tmp_path_factory.mktemp("chain")
    assert run("scenes", folder / "site", "--count", 8, "--size", 128) == 0
    content = json.loads((folder / "site" / "panoptic.json").read_text())
    for number, (image, annotation) in enumerate(zip(content["images"], content["annotations"], strict=True)):
        image["id"] = annotation["image_id"] = number + 1
        for kind, entry in (("images", image), ("panoptic", annotation)):
            name = f"site_{'qwertyui'[number]}.png"
            (folder / "site" / kind / entry["file_name"]).rename(folder / "site" / kind / name)
            entry["file_name"] = name
    (folder / "site" / "panoptic.json").write_text(json.dumps(content))
    assert run("data", "split", folder / "site", folder / "split", "--share", 0.5) == 0
    return folder / "split" / "val"


def test_split_predict_evaluate_equals_evaluate_model(split_scenes: Path, tmp_path: Path) -> None:
    assert run("predict", split_scenes / "images", "--model", "tiny", "--output", tmp_path / "out", "--device", "cpu") == 0
    files = [folder / name for folder in (split_scenes, tmp_path / "out") for name in ("panoptic.json", "panoptic")]
    ids = [[image["id"] for image in json.loads(path.read_text())["images"]] for path in (files[0], files[2])]
    assert set(ids[0]) & set(ids[1]) and sorted(ids[0]) != sorted(ids[1])  # some ids agree, by chance
    data = CocoPanoptic.from_folder(split_scenes)
    with torch.inference_mode():
        found = evaluate_model(load_model("tiny", "cpu"), data, range(len(data)))
    quality = panoptic_quality(*files)
    assert quality.notes == () and quality.all.pq > 0.3
    for category_id, expected in found.panoptic_quality(data).per_class.items():
        assert quality.per_class[category_id].iou == pytest.approx(expected.iou)
        assert counts(quality, category_id) == (expected.tp, expected.fp, expected.fn)


def test_a_prediction_that_is_right_scores_100(split_scenes: Path, tmp_path: Path) -> None:
    """What `predict` would write of a perfect model: photos in the order of their names, numbered from 1."""
    content = json.loads((split_scenes / "panoptic.json").read_text())
    numbers = {image["id"]: place for place, image in enumerate(sorted(content["images"], key=lambda i: i["file_name"]), start=1)}
    assert list(numbers) != list(numbers.values())
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        image["id"], annotation["image_id"] = numbers[image["id"]], numbers[annotation["image_id"]]
    (tmp_path / "pred.json").write_text(json.dumps(content))
    quality = panoptic_quality(
        split_scenes / "panoptic.json", split_scenes / "panoptic", tmp_path / "pred.json", split_scenes / "panoptic"
    )
    assert quality.all.pq == 1 and quality.notes == ()


def counts(quality: PanopticQuality, category_id: int) -> tuple[int, int, int]:
    found = quality.per_class[category_id]
    return found.tp, found.fp, found.fn
