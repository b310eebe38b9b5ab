"""Every kind of bad input, through the commands themselves: one sentence that says what to do, exit code 2, nothing half-written.

`CASES` is the table: how the good inputs of `world` are spoilt, the command, and what the sentence must say.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from minidetr.commands import main as cli
from minidetr.panoptic import encode_ids
from minidetr.training.checkpoint import NAME, PREVIOUS
from minidetr.training.options import TrainOptions, as_plain
from minidetr.weights.load import shipped_weights

TINY = str(shipped_weights("tiny"))
WIDTH, HEIGHT = 8, 6
TRAIN = "train --preset tiny --data data --device cpu --workers 0 --size 64 --output run"
EVALUATE = "evaluate data/panoptic.json data/panoptic guess.json data/panoptic"
PREDICT = "predict photo.png --model tiny --device cpu --output out"
ASSEMBLE = "data assemble export.json - out"
WITH_PHOTOS = "data assemble export.json data/images out"


# --- good inputs


def world(folder: Path) -> None:
    """data/ (two photos of 8 x 6, panoptic), guess.json (a prediction equal to it), export.json (detection), photo.png."""
    for name in ("images", "panoptic"):
        (folder / "data" / name).mkdir(parents=True)
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    ids[:3], ids[3:, :4] = 1, 300
    picture = np.random.default_rng(0).integers(256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
    for number, name in enumerate(("a.png", "b.png")):
        Image.fromarray(picture[:, :: 1 - 2 * number]).save(folder / "data/images" / name)
        Image.fromarray(encode_ids(ids)).save(folder / "data/panoptic" / name)
    Image.fromarray(picture).save(folder / "photo.png")
    segments = [{"id": 1, "category_id": 2, "bbox": [0, 0, 8, 3]}, {"id": 300, "category_id": 1, "bbox": [0, 3, 4, 3]}]
    content = {
        "images": [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in ((1, "a.png"), (2, "b.png"))],
        "annotations": [{"image_id": i, "file_name": name, "segments_info": segments} for i, name in ((1, "a.png"), (2, "b.png"))],
        "categories": [{"id": 1, "name": "worker", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}],
    }
    (folder / "data/panoptic.json").write_text(json.dumps(content))
    (folder / "guess.json").write_text(json.dumps(content))
    outline = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 6, 1, 6, 5]], "bbox": [1, 1, 5, 4]}
    (folder / "export.json").write_text(json.dumps(content | {"annotations": [outline]}))


# --- ways to spoil them: each gives a function of the folder


def put(name: str, content: bytes | str) -> Callable[[Path], None]:
    """Write a file."""

    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def cut(name: str, share: float = 0.5) -> Callable[[Path], None]:
    """Cut a file off."""
    return lambda folder: put(name, (data := (folder / name).read_bytes())[: int(share * len(data))])(folder)


def gone(name: str) -> Callable[[Path], None]:
    """Take a file away."""
    return lambda folder: (folder / name).unlink()


def image(name: str, mode: str = "RGB", size: tuple[int, int] = (WIDTH, HEIGHT), colour: Any = 0) -> Callable[[Path], None]:
    """Write an image."""
    return lambda folder: Image.new(mode, size, colour).save(folder / name)


def change(name: str, keys: str, value: Any = "del") -> Callable[[Path], None]:
    """Set a field of a JSON, such as "images.0.id"; without a value, remove it."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        *path, last = (int(key) if key.isdigit() else key for key in keys.split("."))
        owner = content
        for key in path:
            owner = owner[key]
        if value == "del":
            del owner[last]
        else:
            owner[last] = value
        (folder / name).write_text(json.dumps(content))

    return spoil


def truth(keys: str, value: Any = "del") -> Callable[[Path], None]:
    """`change` in the data set's JSON."""
    return change("data/panoptic.json", keys, value)


def guess(keys: str, value: Any = "del") -> Callable[[Path], None]:
    """`change` in the prediction's."""
    return change("guess.json", keys, value)


def drawn(value: Any, field: str = "segmentation") -> Callable[[Path], None]:
    """Another outline, or another field, of the export's annotation."""
    return change("export.json", f"annotations.0.{field}", value)


def boxed(box: Any) -> Callable[[Path], None]:
    """An annotation of a box alone."""
    return lambda folder: (drawn([])(folder), drawn(box, "bbox")(folder))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def link_out(name: str) -> Callable[[Path], None]:
    """Replace a file by a link to one outside of its folder."""

    def spoil(folder: Path) -> None:
        (folder / name).rename(folder / "outside.png")
        (folder / name).symlink_to(folder / "outside.png")

    return spoil


def weights(name: str, tensors: dict | None = None, **about: Any) -> Callable[[Path], None]:
    """The shipped weights with other tensors, or another description."""

    def spoil(folder: Path) -> None:
        with safe_open(TINY, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            described = json.loads(file.metadata()["minidetr"])
        for key, value in about.items():
            described[key] = described[key] | value if isinstance(value, dict) else value
        save_file(state if tensors is None else tensors, folder / name, metadata={"minidetr": json.dumps(described)})

    return spoil


def saved(name: str, content: Any) -> Callable[[Path], None]:
    """A file of `torch.save`."""

    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        torch.save(content, folder / name)

    return spoil


class Hostile:
    """Would write a file called "ran" when unpickled."""

    def __reduce__(self) -> tuple:
        return Path("ran").write_text, ("it did",)


def checkpoint(**changed: Any) -> Callable[[Path], None]:
    """The checkpoint of a run that was cut off at once."""
    options = TrainOptions(preset="tiny", data="data", size=64, device="cpu", workers=0, output="run").filled()
    worker = {"id": 1, "name": "worker", "isthing": 1}
    parts: dict[str, Any] = dict.fromkeys(("place", "preset", "objective", "optimizer", "random"), {})
    return saved(f"run/{NAME}", parts | {"options": as_plain(options), "categories": [worker]} | changed)


NOTHING: Callable[[Path], None] = lambda folder: None  # noqa: E731
NESTED = "[" * 100_000
RLE = {"size": [HEIGHT, WIDTH], "counts": [10, 20, 18]}

# (what is wrong with it, command, words of the sentence)
CASES: list[tuple[Callable[[Path], Any], str, tuple[str, ...]]] = [
    # photos
    (gone("photo.png"), PREDICT, ("photo.png is not a file", "check the name")),
    (put("photo.png", b""), PREDICT, ("photo.png is empty", "copy")),
    (cut("photo.png"), PREDICT, ("photo.png is a broken image", "copy it again")),
    (put("photo.png", "not a picture"), PREDICT, ("photo.png is not an image", "JPEG or PNG")),
    (put("photo.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), PREDICT, ("photo.png is not an image",)),
    (put("photo.png", bomb(10_000, 10_000)), PREDICT, ("photo.png", "90 million pixels", "make it smaller")),
    (put("photo.png", bomb(200_000, 200_000)), PREDICT, ("photo.png", "90 million pixels")),
    (put("photo.png", bomb(60, 50)), PREDICT, ("photo.png is a broken image",)),
    (image("photo.tif", "F"), PREDICT.replace("png", "tif"), ("photo.tif has floating point pixels", "8 or 16 bits")),
    (image("photo.tif", "I", colour=-5), PREDICT.replace("png", "tif"), ("photo.tif has grey values outside of 0..65535",)),
    (lambda f: (image("photo.jpg")(f), cut("photo.jpg")(f)), PREDICT.replace("png", "jpg"), ("photo.jpg is a broken image",)),
    (lambda f: (image("photo.webp")(f), cut("photo.webp")(f)), PREDICT.replace("png", "webp"), ("photo.webp is",)),
    (lambda f: (f / "empty").mkdir(), PREDICT.replace("photo.png", "empty"), ("empty holds no photo", ".jpg")),
    (put("photo.heic", "no HEIC"), PREDICT.replace("png", "heic"), ("photo.heic is not an image", "JPEG or PNG")),
    (image("photo.bmp"), PREDICT.replace("photo.png", "photo.png nowhere"), ("nowhere is not a file",)),
    (cut("data/images/b.png"), PREDICT.replace("photo.png", "photo.png data/images/b.png"), ("b.png is a broken image",)),
    # what predict is told
    (NOTHING, PREDICT + " --threshold 1.5", ("--threshold", "1.5 is not a number from 0 to 1")),
    (NOTHING, PREDICT + " --threshold nan", ("--threshold", "nan is not a number from 0 to 1")),
    (NOTHING, PREDICT + " --threshold high", ("--threshold", "high")),
    (NOTHING, PREDICT + " --batch-size 0", ("--batch-size", "0 is not a whole number above 0")),
    (NOTHING, PREDICT + " --precision float8", ("--precision", "float32")),
    (NOTHING, PREDICT + " --device abacus", ("no device 'abacus'", "use cpu")),
    (NOTHING, PREDICT + " --device cuda:99", ("no device 'cuda:99'", "use cpu")),
    (NOTHING, PREDICT.replace("tiny", "huge"), ("no model or file 'huge'", "detr-r50-panoptic")),
    # weights
    (put("w.safetensors", b""), PREDICT.replace("tiny", "w.safetensors"), ("w.safetensors is damaged", "again")),
    (
        lambda f: (weights("w.safetensors")(f), cut("w.safetensors")(f)),
        PREDICT.replace("tiny", "w.safetensors"),
        ("w.safetensors is damaged", "fetch or save it again"),
    ),
    (weights("w.safetensors", {"a": torch.zeros(1)}), PREDICT.replace("tiny", "w.safetensors"), ("lack", "another model")),
    (weights("w.safetensors", num_classes=99), PREDICT.replace("tiny", "w.safetensors"), ("another shape for heads.classes",)),
    (weights("w.safetensors", num_classes=2), PREDICT.replace("tiny", "w.safetensors"), ("w.safetensors", "must lie in 0..1")),
    (weights("w.safetensors", preset={"width": 64}), PREDICT.replace("tiny", "w.safetensors"), ("another shape",)),
    (weights("w.safetensors", preset={"heads": 7}), PREDICT.replace("tiny", "w.safetensors"), ("its description is damaged",)),
    (weights("w.safetensors", preset={"mask_widths": [1]}), PREDICT.replace("tiny", "w.safetensors"), ("w.safetensors",)),
    (weights("w.safetensors", preset={"backbone": "os"}), PREDICT.replace("tiny", "w.safetensors"), ("no backbone 'os'",)),
    (
        lambda f: save_file({"a": torch.zeros(1)}, f / "w.safetensors"),
        PREDICT.replace("tiny", "w.safetensors"),
        ("w.safetensors does not say which model it is", "config.json"),
    ),
    (saved("w.pth", {"model": {"a": torch.zeros(1)}}), PREDICT.replace("tiny", "w.pth"), ("w.pth does not say which", "preset")),
    (saved("w.pth", {"a": 1}), PREDICT.replace("tiny", "w.pth --preset detr-r50"), ("w.pth holds no state dict",)),
    (saved("w.pth", {"a": torch.zeros(1)}), PREDICT.replace("tiny", "w.pth --preset detr-r50"), ("not those of a DETR",)),
    (saved("w.pth", {"a": torch.zeros(1)}), PREDICT.replace("tiny", "w.pth --preset r99"), ("no preset 'r99'", "detr-r50")),
    (saved("w.pth", Hostile()), PREDICT.replace("tiny", "w.pth --preset detr-r50"), ("w.pth is refused", "could run code")),
    (put("w.pth", pickle.dumps(Hostile())), PREDICT.replace("tiny", "w.pth --preset detr-r50"), ("w.pth is refused",)),
    (
        lambda f: (saved("w.pth", {"a": torch.zeros(999)})(f), cut("w.pth")(f)),
        PREDICT.replace("tiny", "w.pth --preset detr-r50"),
        ("w.pth is", "weights file"),
    ),
    # where results go
    (put("out/thesis.txt", "precious"), PREDICT, ("out is not empty", "--overwrite")),
    (put("out/thesis.txt", "precious"), PREDICT + " --overwrite", ("out holds thesis.txt", "choose another folder")),
    (put("out", "x"), PREDICT, ("out is a file", "choose another folder")),
    (put("out", "x"), PREDICT + "/below", ("out",)),
    (put("out/thesis.txt", "precious"), ASSEMBLE, ("out is not empty",)),
    (put("out/thesis.txt", "precious"), "data split data out --folds 2", ("out exists and is not an empty folder",)),
    (put("out/thesis.txt", "precious"), "data check data --fix out", ("out exists and is not an empty folder",)),
    (put("out/thesis.txt", "precious"), "data show data out", ("out exists and is not an empty folder",)),
    (put("out/thesis.txt", "precious"), "scenes out --count 1", ("out exists and is not an empty folder",)),
    (put("out/thesis.txt", "precious"), EVALUATE + " --worst out --photos data/images", ("out exists and is not an empty",)),
    (put("run", "x"), TRAIN, ("run: File exists",)),
    (put(f"run/{NAME}", "x"), TRAIN, ("run holds a run already", "--resume run")),
    (put(f"run/{PREVIOUS}", "x"), TRAIN, ("run holds a run already", "--resume run")),
    # the JSON of a data set
    (gone("data/panoptic.json"), TRAIN, ("panoptic.json cannot be read (No such file", "give the panoptic JSON")),
    (put("data/panoptic.json", ""), TRAIN, ("panoptic.json is not valid JSON", "export it again")),
    (cut("data/panoptic.json"), TRAIN, ("panoptic.json is not valid JSON",)),
    (put("data/panoptic.json", b"\xff\xfe\x00"), TRAIN, ("panoptic.json is not valid JSON",)),
    (put("data/panoptic.json", NESTED), TRAIN, ("panoptic.json is not valid JSON",)),
    (put("data/panoptic.json", "[]"), TRAIN, ("panoptic.json holds a list where an object is expected",)),
    (put("data/panoptic.json", "7" * 5000), TRAIN, ("panoptic.json is not valid JSON",)),
    (truth("images"), TRAIN, ("panoptic.json has no list 'images'",)),
    (truth("annotations", {}), TRAIN, ("panoptic.json has no list 'annotations'",)),
    (truth("categories", []), TRAIN, ("panoptic.json has no list 'categories', or it is empty",)),
    (truth("images.0.id", [1]), TRAIN, ("images[0]", "'id' must be a whole number or a text")),
    (truth("images.1.id", 1), TRAIN, ("images[1]: the image id 1 occurs twice",)),
    (truth("annotations.0"), TRAIN, ("'annotations' has no entry for 1 (a.png)", "add one")),
    (truth("annotations.1.image_id", 9), TRAIN, ("annotations[1]: no image has the id 9", "remove the annotation")),
    (truth("annotations.1.image_id", 1), TRAIN, ("annotations[1]: the image 1 has two annotations", "keep one")),
    (truth("annotations.0.segments_info.0.category_id", 77), TRAIN, ("no category has the id 77", "add it")),
    (truth("categories.1.id", 1), TRAIN, ("categories[1]: the category id 1 occurs twice",)),
    (truth("categories.1.isthing"), TRAIN, ("categories[1]", "'isthing' must be 1", "but is None")),
    (truth("categories.1.id", -1), TRAIN, ("the category id -1 is negative",)),
    (truth("categories.1.id", 10**12), TRAIN, ("the category id 1000000000000 is above 99999",)),
    (truth("categories.1.name"), TRAIN, ("categories[1]", "'name' must be a text", "missing")),
    (truth("annotations.0.segments_info.0.id", 0), TRAIN, ("segment id 0 must lie in 1..16777215",)),
    (truth("annotations.0.segments_info.0.id", 10**30), TRAIN, ("must lie in 1..16777215",)),
    (truth("annotations.0.segments_info.1.id", 1), TRAIN, ("segment id 1 occurs twice in its image",)),
    (truth("annotations.0.segments_info.0.iscrowd", 2), TRAIN, ("'iscrowd' must be 0 or 1",)),
    (truth("images.0.file_name", "../photo.png"), TRAIN, ("'../photo.png' must lie inside its folder",)),
    (truth("annotations.0.file_name", "/etc/passwd"), TRAIN, ("'/etc/passwd' must lie inside its folder",)),
    (link_out("data/images/a.png"), TRAIN, ("a.png", "leads out of", "put the file itself there")),
    (link_out("data/images/a.png"), "data split data out --folds 2", ("a.png", "leads out of")),
    # its PNGs and photos
    (gone("data/panoptic/b.png"), TRAIN, ("panoptic/b.png is not a file", "put it there")),
    (put("data/panoptic/b.png", b""), TRAIN, ("panoptic/b.png can't be read as a PNG (it is empty)",)),
    (cut("data/panoptic/b.png"), TRAIN, ("panoptic/b.png can't be read as a PNG", "write it again")),
    (image("data/panoptic/b.png", "L"), TRAIN, ("panoptic/b.png is a grey image of 8 bits", "save it as RGB")),
    (image("data/panoptic/b.png", size=(9, 9)), TRAIN, ("b.png", "same size", "8 x 6 and 9 x 9")),
    (truth("annotations.0.segments_info.1"), TRAIN, ("panoptic/a.png has pixels of ids 300", "add them")),
    (truth("annotations.0.segments_info.1.id", 301), TRAIN, ("panoptic/a.png has pixels of ids 300",)),
    (image("data/panoptic/b.png"), TRAIN, ("panoptic/b.png has no pixel of ids 1, 300", "remove them")),
    (gone("data/images/a.png"), TRAIN, ("images/a.png is not a file",)),
    (put("data/images/a.png", bomb(10_000, 10_000)), TRAIN, ("images/a.png", "90 million pixels")),
    # a prediction against the truth
    (gone("guess.json"), EVALUATE, ("guess.json cannot be read (No such file",)),
    (cut("guess.json"), EVALUATE, ("guess.json is not valid JSON",)),
    (put("guess.json", NESTED), EVALUATE, ("guess.json is not valid JSON",)),
    (guess("annotations"), EVALUATE, ("guess.json has no field 'annotations' that is a list",)),
    (guess("annotations.0.segments_info.0.category_id", 99), EVALUATE, ("segment 1", "category_id 99", "correct it")),
    (guess("annotations.0.segments_info.0.id", -3), EVALUATE, ("the id -3", "1..16777215")),
    (guess("annotations.0.segments_info.0.id", 5), EVALUATE, ("a.png has pixels of segment 1", "does not list")),
    (guess("annotations.0.file_name", "../photo.png"), EVALUATE, ("'../photo.png'", "image 1", "inside its folder")),
    (truth("categories.0.isthing"), EVALUATE, ("category 1", "no field 'isthing'")),
    (truth("categories.0.id", 10**30), EVALUATE, ("a category with the id", "0..99999")),
    (truth("annotations.0.segments_info.0.id", 0), EVALUATE, ("lists a segment with id 0",)),
    (link_out("data/panoptic/a.png"), EVALUATE, ("a.png", "leads out of")),
    (put("data/panoptic/a.png", bomb(10_000, 10_000)), EVALUATE, ("a.png has more than 90 million pixels",)),
    (put("data/panoptic/a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), EVALUATE, ("can't be read as a PNG",)),
    (guess("annotations.0.segments_info.0.bbox", [0, 0, -8, 3]), EVALUATE + " --boxes", ("negative width or height",)),
    (guess("annotations.0.segments_info.0.bbox", [float("nan"), 0, 8, 3]), EVALUATE + " --boxes", ("'bbox'", "not finite")),
    (guess("annotations.0.segments_info.0.bbox", [1, 2, 3]), EVALUATE + " --boxes", ("no field 'bbox' of four numbers",)),
    (guess("annotations.0.segments_info.0.score", "high"), EVALUATE + " --boxes", ("no field 'score' that is a number",)),
    (NOTHING, EVALUATE + " --worst out", ("--worst and --photos go together",)),
    (truth("images"), EVALUATE + " --worst out --photos data/images", ("names no photo of image 1",)),
    (NOTHING, EVALUATE + " --jobs 0", ("--jobs", "0 is not a whole number above 0")),
    # annotation exports
    (cut("export.json"), ASSEMBLE, ("export.json is not valid JSON",)),
    (drawn([[1, 1, 6, 1, 6]]), ASSEMBLE, ("annotation 1", "segmentation[0]", "an even number")),
    (drawn([[float("nan"), 1, 6, 1, 6, 5]]), ASSEMBLE, ("segmentation[0]", "finite numbers")),
    (drawn([[1e9, 1e9, 2e9, 1e9, 1e9, 2e9]]), ASSEMBLE, ("segmentation[0] lies far outside of its image of 8 x 6",)),
    (drawn("6 1 6 5"), ASSEMBLE, ("'segmentation' must be a list of polygons or a run-length encoding",)),
    (drawn(RLE | {"size": [9, 9]}), ASSEMBLE, ("segmentation.size must be [6, 8]", "but is [9, 9]")),
    (drawn(RLE | {"counts": [10, 20]}), ASSEMBLE, ("segmentation.counts must add up to the 6 x 8 pixels",)),
    (drawn(RLE | {"counts": "~~~"}), ASSEMBLE, ("segmentation.counts must add up",)),
    (boxed([5, 5, -4, -4]), ASSEMBLE, ("annotation 1 has the 'bbox' [5, 5, -4, -4]", "not negative")),
    (boxed([float("nan"), 1, 4, 4]), ASSEMBLE, ("annotation 1 has the 'bbox'", "finite")),
    (boxed([500, 500, 4, 4]), ASSEMBLE, ("annotation 1", "far outside of its image")),
    (boxed([1, 2]), ASSEMBLE, ("annotation 1", "no four numbers in 'bbox'")),
    (drawn(9, "category_id"), ASSEMBLE, ("no category has the category_id 9",)),
    (drawn(9, "image_id"), ASSEMBLE, ("no image has the image_id 9",)),
    (change("export.json", "categories.1.id", 1), ASSEMBLE, ("the category id 1 occurs twice",)),
    (change("export.json", "images.1.file_name", ""), ASSEMBLE, ("images[1]", "must lie inside its folder")),
    (change("export.json", "images.0.height", 0), ASSEMBLE, ("image 1 has no 'height' and 'width'", "give the folder of")),
    (change("export.json", "images.0.width", 10**9), ASSEMBLE, ("images[0]", "more than 90 million pixels")),
    (change("export.json", "images.0.width", 9), WITH_PHOTOS, ("a.png is 8 x 6 pixels", "9 x 6")),
    (gone("data/images/b.png"), WITH_PHOTOS, ("b.png is not there", "add it, remove its entry")),
    (change("export.json", "images.0.file_name", "../photo.png"), WITH_PHOTOS, ("must lie inside its folder",)),
    (NOTHING, ASSEMBLE + " --stuff lava", ("no category 'lava'", "--stuff takes")),
    (NOTHING, ASSEMBLE + " --under data", ("'worker' is a thing: only stuff can lie under",)),
    # what the other commands are told
    (NOTHING, "data split data out --share nan", ("share is nan", "between 0 and 1")),
    (NOTHING, "data split data out --folds 1", ("folds is 1", "at least 2")),
    (NOTHING, "data split data out --seed -1", ("seed is -1", "0 or more")),
    (gone("data/panoptic.json"), "data check data", ("panoptic.json is missing",)),
    (put("data/panoptic.json", "{}"), "data check data", ("panoptic.json has no list 'images'",)),
    (NOTHING, "data check guess.json --fix out", ("guess.json is a panoptic JSON", "give the folder")),
    (put("map.toml", "[stuff"), "data label-stuff data/images out --weights tiny --map map.toml", ("not valid TOML",)),
    (put("map.toml", 'rest = "x"'), "data label-stuff data/images out --weights tiny --map map.toml", ("table [stuff] is",)),
    (NOTHING, "scenes out --count 1 --size 3", ("size in 32..4096",)),
    (NOTHING, "scenes out --count 1 --seed -1", ("seed >= 0",)),
    (NOTHING, "scenes out --count 0", ("--count", "0 is not a whole number above 0")),
    # what training is told
    (NOTHING, TRAIN + " --data nowhere", ("--data nowhere is neither 'scenes' nor a folder",)),
    (NOTHING, TRAIN + " --preset huge", ("--preset", "tiny")),
    (NOTHING, TRAIN + " --epochs inf", ("--epochs must be a finite number",)),
    (NOTHING, TRAIN + " --evaluate-every 0", ("--evaluate-every must be more than 0",)),
    (NOTHING, TRAIN + " --checkpoint-minutes nan", ("--checkpoint-minutes must be a finite number",)),
    (NOTHING, TRAIN + " --no-object -1", ("--no-object must not be negative",)),
    (NOTHING, TRAIN + " --seed 5000000000", ("--seed must be below 2^32",)),
    (NOTHING, TRAIN + " --queries 1000000000", ("--queries must be at most 10000",)),
    (NOTHING, TRAIN + " --batch-size 0", ("--batch-size must be more than 0",)),
    (NOTHING, TRAIN + " --device tpu", ("--device must be auto, cpu, cuda or mps",)),
    (NOTHING, TRAIN + " --precision float16", ("--precision float16 needs a GPU",)),
    (NOTHING, TRAIN + " --freeze tail", ("no stage 'tail'", "mask-head")),
    (NOTHING, TRAIN + " --from nowhere", ("no model or file 'nowhere'",)),
    (put("mine/options.json", "{"), TRAIN.replace("--preset tiny", "--from mine"), ("mine/options.json is not valid JSON",)),
    (put("mine/options.json", "{}"), TRAIN.replace("--preset tiny", "--from mine"), ("no preset None", "give --preset")),
    (saved("b.pth", {"a": torch.zeros(1)}), TRAIN + " --backbone-weights b.pth", ("b.pth do not fit narrow10",)),
    # going on with a run
    (NOTHING, "train --resume run", ("run holds no checkpoint.pt to resume from",)),
    (put(f"run/{NAME}", "x"), "train --resume run", ("run: every checkpoint is damaged", "--from")),
    (saved(f"run/{NAME}", {"model": torch.zeros(1)}), "train --resume run", ("not the checkpoint of a training run",)),
    (saved(f"run/{NAME}", {"options": Hostile()}), "train --resume run", ("every checkpoint is damaged",)),
    (checkpoint(), "train --resume run", ("trained on other classes than data has",)),
    (checkpoint(), "train --resume run --preset r18", ("--preset cannot change", "it was tiny")),
    (checkpoint(), "train --resume run --steps boxes", ("--steps cannot change", "it was joint")),
]  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    """Every file in a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run(command: str, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """The exit code of a command and what it wrote to stderr."""
    capsys.readouterr()
    try:
        code = cli.main(command.split())
    except SystemExit as done:  # argparse
        code = int(done.code)
    return code, capsys.readouterr().err


def refused(command: str, words: tuple[str, ...], capsys: pytest.CaptureFixture) -> None:
    """Exit code 2 and one sentence with these words, no traceback."""
    code, told = run(command, capsys)
    sentence = told.strip().splitlines()[-1]
    assert code == 2 and "Traceback" not in told and told.count("minidetr: ") + told.count(": error: ") == 1, told
    assert sentence.startswith("minidetr") and all(word in sentence for word in words), sentence
    assert len(sentence) < 500


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 80


@pytest.mark.parametrize(("spoil", "command", "words"), CASES, ids=[f"{i:03d}" for i in range(len(CASES))])
def test_bad_input_is_one_sentence_and_leaves_nothing(spoil, command, words, tmp_path, monkeypatch, capsys) -> None:
    world(tmp_path)
    monkeypatch.chdir(tmp_path)
    spoil(tmp_path)
    before = files(tmp_path)
    refused(command, words, capsys)
    assert files(tmp_path) == before  # nothing written, nothing deleted, no code of a pickle run


# --- disks


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may become larger than `size` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
@pytest.mark.parametrize("size", [0, 60, 150])
@pytest.mark.parametrize("command", [PREDICT, ASSEMBLE, WITH_PHOTOS, "scenes out --count 1 --size 64", "data check data --fix out"])
def test_a_full_disk_leaves_nothing(command: str, size: int, tmp_path, monkeypatch, capsys) -> None:
    world(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    with largest_file(size):
        code, told = run(command, capsys)
    assert code == 2 and "Traceback" not in told and "File too large" in told.splitlines()[-1], told
    assert ".png" in told.splitlines()[-1] or ".json" in told.splitlines()[-1]  # and which file it was
    assert files(tmp_path) == before and not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no such rights there")
@pytest.mark.parametrize("command", [PREDICT, ASSEMBLE, "scenes out --count 1", "data show data out", TRAIN])
def test_a_folder_that_may_not_be_written(command: str, monkeypatch, capsys) -> None:
    with tempfile.TemporaryDirectory() as name:  # not pytest's folder, which nobody but its owner may enter
        folder = Path(name)
        world(folder)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        monkeypatch.chdir(folder)
        before, owner = files(folder), os.geteuid()
        if owner == 0:
            os.seteuid(65534)  # the administrator may write anywhere: be nobody for a while
        try:
            refused(command, ("Permission denied",), capsys)
        finally:
            os.seteuid(owner)
        assert files(folder) == before
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


# --- odd, but not wrong


@pytest.mark.parametrize(
    ("mode", "size"),
    [("RGB", (1, 1)), ("RGB", (1, 5000)), ("RGB", (5000, 1)), ("RGB", (3264, 2448)), ("L", (40, 30)), ("RGBA", (40, 30)),
     ("P", (40, 30)), ("I;16", (40, 30)), ("1", (9, 7)), ("LA", (9, 7))],
)  # fmt: skip
def test_odd_photos_are_segmented(mode: str, size: tuple[int, int], tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new(mode, size).save("photo.png")
    code, told = run(PREDICT, capsys)
    assert code == 0, told
    with Image.open("out/panoptic/photo.png") as png:
        assert png.size == size
    assert run("evaluate out/panoptic.json out/panoptic out/panoptic.json out/panoptic", capsys)[0] == 0


@pytest.mark.parametrize(
    ("spoil", "command", "told"),
    [
        (drawn([[1, 1, 6, 5, 6, 1, 1, 5]]), "data check export.json", "crosses itself"),
        (drawn([[1, 1, 6, 5, 6, 1, 1, 5]]), ASSEMBLE, "1 thing"),
        (drawn([[1, 1]]), "data check export.json", "fewer than 3 points"),
        (drawn([[1, 1]]), ASSEMBLE, "no outline, only a box: drawn as that rectangle"),
        (drawn([[1, 1, 12, 1, 6, 5]]), ASSEMBLE, "reaches beyond its image: cut off at the edge"),
        (drawn([[1, 1, 12, 1, 6, 5]]), "data check export.json", "reaches out of the image"),
        (drawn([[1, 1, 6, 1, 6]]), "data check export.json", "odd number of coordinates"),
        (drawn(RLE | {"size": [9, 9]}), "data check export.json", "do not fit the image's size"),
        (drawn([-5, -5, 3, 3], "bbox"), "data check export.json", "'bbox' disagrees with the pixels"),
        (drawn([5, 5, -3, -3], "bbox"), "data check export.json", "'bbox' disagrees with the pixels"),
        (change("export.json", "images.0.width", 10**6), "data check export.json --photos data/images", "8 x 6"),
        (change("export.json", "images.0.width", 10**9), "data check export.json", "too large to draw"),
        (change("export.json", "annotations", []), ASSEMBLE, "image has no annotation"),
        (truth("annotations.0.segments_info", []), "data check data", "id that the JSON does not list"),
        (truth("annotations.0.segments_info.0.id", 10**30), "data check data", "segment id outside 1..16777215"),
        (truth("categories.0.isthing"), "data check data", "without 'isthing'"),
        (truth("categories.1.id", 1), "data check data", "category id used twice"),
        (link_out("data/images/a.png"), "data check data", "a link out of"),
        (link_out("data/panoptic/a.png"), "data check data", "a link out of"),
        (truth("images.0.file_name", "../photo.png"), "data check data", "leads out of its folder"),
        (NOTHING, "data check data --queries 1", "more segments than the model has queries"),
        (gone("data/images/a.png"), "data check data", "photo is missing"),
        (guess("annotations", []), EVALUATE, "0.0"),
    ],
)
def test_odd_data_is_told_or_taken(spoil, command: str, told: str, tmp_path, monkeypatch, capsys) -> None:
    world(tmp_path)
    monkeypatch.chdir(tmp_path)
    spoil(tmp_path)
    capsys.readouterr()
    assert cli.main(command.split()) == 0
    assert told in capsys.readouterr().out
