"""Photos and Python objects as other people have them: each row of the tables names its source and what must come out of it.

Out comes either the right thing (pixels, names, ids), or one sentence. "Made up like X" stands for files that nobody has sent,
built as X builds them.
"""

from __future__ import annotations

import copy
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

from minidetr import PanopticDETR
from minidetr.commands import main as cli
from minidetr.curate.assemble import assemble
from minidetr.curate.label_stuff import label_stuff
from minidetr.data import images
from minidetr.data.batch import Batch
from minidetr.data.coco import CocoPanoptic
from minidetr.data.images import normalise, pixels_of, read_image, reads_heic, to_tensor
from minidetr.errors import InputError
from minidetr.evaluate.model import box_predictions
from minidetr.panoptic import Category, Panoptic, Segment, decode_ids, write_json
from minidetr.scenes.dataset import SceneData

ORIENTATION = 0x0112

Y, X = np.mgrid[0:40, 0:60]
PIXELS = np.stack([X * 4, Y * 6, 255 - X * 2 - Y * 3], axis=-1).astype(np.uint8)  # H W 3, another colour in each corner
PICTURE = Image.fromarray(PIXELS)
GREY = np.asarray(PICTURE.convert("L"))
HALF = np.where(X[..., None] < 30, PIXELS, 255).astype(np.uint8)  # the right half transparent, shown on white


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags.tobytes()


def saved(image: Image.Image, name: str, **options: Any) -> Callable[[Path], Path]:
    """Write an image by Pillow, under any name."""

    def write(folder: Path) -> Path:
        if options.get("format") == "HEIF":
            reads_heic()  # registers it
        image.save(folder / name, **options)
        return folder / name

    return write


def bytes_in(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def jpeg() -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def rgba() -> Image.Image:
    image = PICTURE.copy()
    image.putalpha(Image.fromarray(np.where(X < 30, 255, 0).astype(np.uint8)))
    return image


def gif(folder: Path) -> Path:
    """Two frames; of the first, palette entry 3 is transparent."""
    first = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8).repeat(20, 0).repeat(30, 1)).convert("P")
    first.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    second = Image.new("P", (60, 40), 0)
    second.putpalette([1, 2, 3] * 4)
    first.save(folder / "a.gif", save_all=True, append_images=[second], transparency=3, disposal=2, optimize=False)
    return folder / "a.gif"


GIF = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8).repeat(20, 0).repeat(30, 1)


def pgm(largest: int) -> tuple[bytes, np.ndarray]:
    """A grey ramp with `largest` as its white, two bytes a pixel, the larger first; and what it must look like."""
    grey = np.linspace(0, largest, 40 * 60).astype(int).reshape(40, 60)
    eight = (grey * 65535 // largest // 256).astype(np.uint8)
    return f"P5\n# {largest}\n60 40\n{largest}\n".encode() + grey.astype(">u2").tobytes(), np.repeat(eight[..., None], 3, -1)


def ftyp(brand: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0" + brand + b"isom" + b"\0" * 100


# --- files ------------------------------------------------------------------------------------------------------------------

FILES = [  # (id, source, how the file is written, what must come out: H W 3 and by how much it may differ, or a sentence)
    (
        "jfif",
        "a user: photos were skipped in silence",
        saved(PICTURE, "c.jfif", format="JPEG", quality=95, subsampling=0),
        PIXELS,
        8,
    ),
    ("jpe", "made up like an old Windows scanner", saved(PICTURE, "c.JPE", format="JPEG", quality=95, subsampling=0), PIXELS, 8),
    ("gif", "a user: photos were skipped in silence", gif, GIF, 0),
    ("ppm", "made up like netpbm", saved(PICTURE, "a.ppm"), PIXELS, 0),
    ("pgm", "made up like netpbm", saved(PICTURE.convert("L"), "a.pgm"), np.repeat(GREY[..., None], 3, -1), 0),
    ("pgm-16-bit", "made up like a depth camera", bytes_in("a.pgm", pgm(65535)[0]), pgm(65535)[1], 0),
    ("pgm-10-bit", "made up like a machine-vision camera", bytes_in("a.pgm", pgm(1023)[0]), pgm(1023)[1], 1),
    ("webp-transparent", "made up like a web export", saved(rgba(), "a.webp", lossless=True, exact=True), HALF, 0),
    ("tiff-turned", "python-pillow/Pillow#7383", saved(PICTURE.rotate(90, expand=True), "a.tif", exif=exif(6)), PIXELS, 0),
    ("mpo", "python-pillow/Pillow#1138", saved(PICTURE, "a.jpg", format="MPO", quality=95, subsampling=0), PIXELS, 8),
    ("jpeg-called-heic", "monostream/tifig#43", bytes_in("IMG_6012.HEIC", jpeg()), PIXELS, 8),
    ("heic-called-jpg", "python-pillow/Pillow#2806", saved(PICTURE, "a.jpg", format="HEIF", quality=100), PIXELS, 14),
    ("heic-called-png", "python-pillow/Pillow#4163", saved(PICTURE, "IMG_2342.png", format="HEIF", quality=100), PIXELS, 14),
    (
        "heic-turned",
        "bigcat88/pillow_heif#86",
        saved(PICTURE.rotate(90, expand=True), "a.HEIC", format="HEIF", quality=100, exif=exif(6)),
        PIXELS,
        14,
    ),
    (
        "heic-mirrored",
        "made up like a selfie",
        saved(PICTURE.transpose(Image.Transpose.TRANSPOSE), "a.heic", format="HEIF", quality=100, exif=exif(5)),
        PIXELS,
        14,
    ),
    ("heic-transparent", "made up like a cut-out of iOS 16", saved(rgba(), "a.heif", format="HEIF", quality=100), HALF, 40),
    ("avif", "made up like a web export", saved(PICTURE, "a.avif", quality=100, subsampling="4:4:4"), PIXELS, 8),
    ("no-extension", "a user: one image, two entries", saved(PICTURE, "frame.001", format="PNG"), PIXELS, 0),
    ("heic-broken", "a user: photos were skipped in silence", bytes_in("b.HEIC", ftyp(b"heic")), r"b\.HEIC is a broken image", 0),
    (
        "raw-tiff",
        "made up like Nikon, a thumbnail first",
        saved(PICTURE, "a.NEF", format="TIFF"),
        r"a\.NEF is a raw camera file",
        0,
    ),
    ("raw-cr3", "made up like Canon", bytes_in("a.CR3", ftyp(b"crx ")), r"a\.CR3 is a raw camera file: export it as JPEG", 0),
    ("video", "made up like a live photo", bytes_in("a.jpg", ftyp(b"qt  ")), r"a\.jpg is not an image that can be read", 0),
    ("html", "made up like a failed download", bytes_in("a.jpg", b"<html>404"), r"a\.jpg is not an image that can be read", 0),
    ("cut-off", "made up like a full disk", bytes_in("a.jpg", jpeg()[:-900]), r"a\.jpg is a broken image .*copy it again", 0),
    (
        "apple-double",
        "SanjaySoniLV/ProjectKestrel#58",
        bytes_in("._a.jpg", b"\0\5\x16\7\0\2\0\0Mac OS X"),
        r"\._a\.jpg is not an",
        0,
    ),
]


NEEDS = {
    "heic": pytest.mark.skipif(not reads_heic(), reason="pillow-heif (the extra 'heic') is not installed"),
    "avif": pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF decoder"),
}


@pytest.mark.parametrize(
    ("source", "write", "expected", "atol"),
    [pytest.param(*row[1:], id=row[0], marks=NEEDS.get(row[0].partition("-")[0], ())) for row in FILES],
)
def test_files(tmp_path: Path, source: str, write: Any, expected: Any, atol: int) -> None:
    path = write(tmp_path)
    for given in (path, str(path), io.BytesIO(path.read_bytes())):
        if isinstance(expected, str):
            if isinstance(given, io.BytesIO):
                continue  # has no name
            with pytest.raises(InputError, match=expected) as told:
                read_image(given)
            assert "\n" not in str(told.value)
        else:
            image = read_image(given)
            assert image.mode == "RGB"
            np.testing.assert_allclose(np.asarray(image).astype(int), expected.astype(int), atol=atol)


def test_without_the_decoders_the_sentence_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "reads_heic", lambda: False)
    monkeypatch.setattr(images.features, "check", lambda name: False)
    for name, brand, told in (("a.heic", b"heic", r"minidetr\[heic\]"), ("b.jpg", b"mif1", "HEIC"), ("c.avif", b"avif", "pillow")):
        (tmp_path / name).write_bytes(ftyp(brand))
        with pytest.raises(InputError, match=rf"{name} is .* photo: pip install .*{told}|{told} photo: pip install"):
            read_image(tmp_path / name)


# --- folders, by the commands -------------------------------------------------------------------------------------------------


class LeftAndRight(torch.nn.Module):
    """A model whose answer says which photo it saw: the left `red` columns are sky, where red is the photo's first value."""

    categories = [Category(3, "sky", False), Category(5, "excavator", True)]

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def segment(self, photos: list[Image.Image], threshold: float | None, batch_size: int) -> list[Panoptic]:
        return [self.see(photo) for photo in photos]

    def see(self, photo: Image.Image) -> Panoptic:
        red = photo.getpixel((0, 0))[0]
        ids = np.full((photo.height, photo.width), 2, np.int32)
        ids[:, :red] = 1
        right = (red, 0, photo.width - red, photo.height)
        sky = Segment(1, 3, 0.9, False, red * photo.height, (0, 0, red, photo.height))
        return Panoptic(ids, [sky, Segment(2, 5, 0.9, True, right[2] * photo.height, right)])


# What lies below the folder: a number is a photo of that red, text a file of that content.
Tree = dict[str, int | str]
PLAIN = {"a.jpg": 5}
RESULT = {"out/panoptic.json": "{}", "out/panoptic/a.png": 1, "out/overlays/a.png": 1}
FOLDERS: list[tuple[str, str, Tree, str, dict[str, str], list[int] | None, str | None]] = [
    # (id, source, tree, what is given, PNG of each photo, image ids, what was left out)
    (
        "folders-kept",
        "microsoft/Biodiversity#503",
        {"south/001.png": 5, "north/001.png": 6},
        ".",
        {"north/001.png": "north/001.png", "south/001.png": "south/001.png"},
        [1, 2],
        None,
    ),
    (
        "recursive",
        "tryolabs/luminoth#297",
        {"a/b/c/7.png": 5, "8.png": 6},
        ".",
        {"8.png": "8.png", "a/b/c/7.png": "a/b/c/7.png"},
        [8, 7],
        None,
    ),
    (
        "same-name-of-two-folders",
        "vincentgong7/VG_AlexeyAB_darknet#25",
        {"one/1.png": 5, "two/1.png": 6, "two/n/2.png": 7},
        "one two",
        {"one/1.png": "one/1.png", "two/1.png": "two/1.png", "two/n/2.png": "two/n/2.png"},
        None,
        None,
    ),
    (
        "same-folder-name-too",
        "made up like photos/ of two sites",
        {"x/photos/1.png": 5, "y/photos/1.png": 6},
        "x/photos y/photos",
        {"x/photos/1.png": "x/photos/1.png", "y/photos/1.png": "y/photos/1.png"},
        None,
        None,
    ),
    (
        "other-names-of-two-folders",
        "made up like two memory cards",
        {"one/3.png": 5, "two/12.png": 6},
        "one two",
        {"3.png": "3.png", "12.png": "12.png"},
        [3, 12],
        None,
    ),
    (
        "given-twice",
        "made up like a careless glob",
        {"n/3.png": 5, "12.png": 6},
        "n . 12.png",
        {"3.png": "3.png", "12.png": "12.png"},
        [3, 12],
        None,
    ),
    (
        "jpg-beside-png",
        "a user: one image, two entries",
        {"a.jpg": 5, "a.png": 6, "b.png": 7},
        ".",
        {"a.jpg": "a.jpg.png", "a.png": "a.png.png", "b.png": "b.png"},
        None,
        None,
    ),
    (
        "upper-and-lower-case",
        "a user: one image, two entries",
        {"A.png": 5, "a.png": 6},
        ".",
        {"A.png": "A.png.png", "a.png": "a.png-2.png"},
        None,
        None,
    ),
    (
        "frames",
        "a user: one image, two entries",
        {"frame.001": 5, "frame.002": 6},
        "frame.001 frame.002",
        {"frame.001": "frame.001.png", "frame.002": "frame.002.png"},
        None,
        None,
    ),
    (
        "folder-called-png",
        "made up",
        {"a.jpg": 5, "a.png/1.png": 6},
        ".",
        {"a.jpg": "a.jpg-2.png", "a.png/1.png": "a.png/1.png"},
        None,
        None,
    ),
    (
        "left-out",
        "a user: photos were skipped in silence",
        {**PLAIN, "n/b.cr2": "raw", "c.DNG": "raw", "notes.txt": "x", "n/list.csv": "x"},
        ".",
        {"a.jpg": "a.png"},
        None,
        "left out: 4 files (2 .cr2, .dng: raw camera files, export them as JPEG; n/list.csv, notes.txt)",
    ),
    (
        "many-others",
        "made up like Google Takeout",
        {**PLAIN, **{f"{i}.json": "{}" for i in range(8)}},
        ".",
        {"a.jpg": "a.png"},
        None,
        "left out: 8 files (0.json, 1.json, 2.json, 3.json, 4.json and 3 more)",
    ),
    (
        "hidden",
        "apple/turicreate#644",
        {**PLAIN, ".DS_Store": "x", "._a.jpg": "x", ".cache/b.png": 6},
        ".",
        {"a.jpg": "a.png"},
        None,
        None,
    ),
    (
        "earlier-results",
        "made up like predict . twice",
        {**PLAIN, **RESULT, "out.17.part/overlays/a.png": 1},
        ".",
        {"a.jpg": "a.png"},
        None,
        "left out: 4 files (4 of earlier results)",
    ),
    (
        "data-set",
        "made up like minidetr scenes",
        {"images/1.png": 5, "panoptic/1.png": 6, "panoptic.json": "{}"},
        ".",
        {"images/1.png": "images/1.png"},
        [1],
        "left out: 2 files (2 of earlier results)",
    ),
    (
        "broken-skipped",
        "a user: one broken photo of thousands",
        {**PLAIN, "n/b.jpg": "<html>", "c.png": "cut"},
        ".",
        {"a.jpg": "a.png"},
        None,
        "left out: 2 files (c.png, n/b.jpg: cannot be read)",
    ),
]


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def plant(folder: Path, tree: Tree) -> None:
    for name, content in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        else:
            kind = "JPEG" if path.suffix == ".jpg" else "PNG"
            Image.new("RGB", (20, 4), (content, content, content)).save(path, kind, **({"quality": 100} if kind == "JPEG" else {}))


@pytest.mark.parametrize(
    ("command", "source", "tree", "given", "pngs", "ids", "left_out"),
    [
        pytest.param(command, *row[1:], id=f"{command}-{row[0]}")
        for command in ("predict", "label-stuff")
        for row in FOLDERS
        if command == "predict" or row[3].split()[0] == "."  # label-stuff takes one folder
    ],
)
def test_folders(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    command: str,
    source: str,
    tree: Tree,
    given: str,
    pngs: dict[str, str],
    ids: list[int] | None,
    left_out: str | None,
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "result"
    plant(photos, tree)
    monkeypatch.chdir(photos)
    monkeypatch.setattr(
        PanopticDETR, "from_pretrained", classmethod(lambda cls, name, preset=None, categories=None: LeftAndRight())
    )
    (tmp_path / "map.toml").write_text("[stuff]\nair = ['sky']\n")
    if command == "predict":
        words = ["predict", *given.split(), "--output", str(out), "--model", "m"]
    else:
        words = ["data", "label-stuff", *given.split(), str(out), "--weights", "m", "--map", str(tmp_path / "map.toml")]
    assert cli.main([*words, "--device", "cpu"]) == 0

    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last == left_out if left_out else "left out" not in last
    content = json.loads((out / "panoptic.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    assert {names[a["image_id"]]: a["file_name"] for a in content["annotations"]} == pngs
    assert sorted(names) == sorted(ids or range(1, len(pngs) + 1)) and list(names) == (ids or sorted(names))
    written = files_in(out / "panoptic")
    assert written == set(pngs.values())
    if command == "predict":
        assert files_in(out / "overlays") == written
    for name, png in pngs.items():  # the PNG is of that photo and no other: they differ by their red
        [red] = {content for path, content in tree.items() if f"/{path}".endswith(f"/{name}")}
        sky = decode_ids(np.asarray(Image.open(out / "panoptic" / png))) == 1
        assert sky.sum() == 4 * int(red) and sky[:, : int(red)].all()
    if given == ".":
        assert len(list(CocoPanoptic(out / "panoptic.json", photos, out / "panoptic"))) == len(pngs)  # names that others find


REFUSED = [  # (id, source, tree, what is given, the sentence)
    (
        "broken",
        "a user: one broken photo of thousands",
        {**PLAIN, "b.jpg": "<", "c.jpg": "<"},
        "b.jpg c.jpg a.jpg",
        r"b\.jpg is not.*1 more of the 3",
    ),
    ("all-broken", "made up", {"b.jpg": "<", "c.jpg": "<"}, ".", r"b\.jpg is not an image .*1 more of the 2"),
    (
        "only-raw",
        "made up like a camera's card",
        {"DCIM/1.CR2": "raw"},
        ".",
        r"holds no photo that can be read here.*1 \.cr2: raw camera files",
    ),
    ("only-results", "made up like predict out", RESULT, "out", r"out holds no photo .*3 of earlier results"),
    ("missing", "made up like a typing mistake", PLAIN, "a.jpeg a.jpg", r"a\.jpeg is not a file, nor a folder"),
    ("nothing", "made up", {"n/list.csv": "x"}, "n", r"n holds no photo .*left out: 1 file \(list\.csv\): put files there"),
]


@pytest.mark.parametrize(("source", "tree", "given", "told"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_folders_that_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, source: str, tree: Tree, given: str, told: str
) -> None:
    plant(tmp_path, tree)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["predict", *given.split(), "--output", str(tmp_path / "result"), "--model", "m"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("minidetr: ") and error.count("\n") == 1
    assert re.search(told, error)
    assert not (tmp_path / "result").exists()


def test_stuff_of_subfolders_lies_under_the_photos_of_the_same_path(tmp_path: Path) -> None:
    """A user: one image, two entries. Labelled, exported and assembled, 1.jpg of two folders keep their own stuff."""
    reds = {"south/1.jpg": 5, "north/1.jpg": 6, "1.png": 7}
    plant(tmp_path / "photos", dict(reds))
    (tmp_path / "map.toml").write_text("[stuff]\nair = ['sky']\n")
    label_stuff([tmp_path / "photos"], tmp_path / "stuff", LeftAndRight(), tmp_path / "map.toml")
    listed = [{"id": i, "file_name": name, "width": 20, "height": 4} for i, name in enumerate(reds, start=1)]
    crane = {"id": 1, "name": "crane", "isthing": 1}
    write_json(tmp_path / "export.json", {"images": listed, "annotations": [], "categories": [crane]})
    assemble(tmp_path / "export.json", tmp_path / "photos", tmp_path / "out", under=tmp_path / "stuff")
    dataset = CocoPanoptic.from_folder(tmp_path / "out")
    assert {name: (dataset.read(i)[1] > 0).sum() for i, name in enumerate(dataset.file_names)} == {
        n: 4 * r for n, r in reds.items()
    }


# --- Python objects -----------------------------------------------------------------------------------------------------------

SCENE = SceneData(1, 60_000).read(0)[0]
ARRAY = np.asarray(SCENE)  # H W 3, read only, as Pillow gives it
SCENE_GREY = np.asarray(SCENE.convert("L"))
SIDE = ARRAY.shape[0]


def png_in(file: Any) -> Any:
    """The scene written into an open file, which then stands at its end."""
    SCENE.save(file, "PNG")
    return file


def spooled() -> Any:
    return png_in(tempfile.SpooledTemporaryFile())  # noqa: SIM115, whoever gets it closes it


def in_zip() -> Any:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.png", png_in(io.BytesIO()).getvalue())
    return zipfile.ZipFile(packed).open("a.png")


class OddPath:
    """A path of another library."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def scene_file(folder: Path) -> Path:
    SCENE.save(folder / "a.png")
    return folder / "a.png"


def opened(path: Path) -> Any:
    return path.open("rb")


REPORT = "a user: Python inputs"
GIVEN: list[
    tuple[str, str, Callable[[Path], Any], Any]
] = [  # (id, source, what segment gets, the pixels it must see or a sentence)
    ("array", REPORT, lambda folder: [ARRAY], ARRAY),
    ("opencv-turned-around", "made up like cv2.imread(...)[..., ::-1]", lambda folder: [ARRAY[..., ::-1].copy()[..., ::-1]], ARRAY),
    ("array-by-columns", "made up like MATLAB's", lambda folder: [np.asfortranarray(ARRAY)], ARRAY),
    ("array-grey", "made up like scikit-image", lambda folder: [SCENE_GREY], np.repeat(SCENE_GREY[..., None], 3, -1)),
    ("array-rgba", "made up like a screenshot", lambda folder: [np.asarray(SCENE.convert("RGBA"))], ARRAY),
    ("array-of-images", "made up like numpy.stack", lambda folder: np.stack([ARRAY]), ARRAY),
    ("open-file", REPORT, lambda folder: [opened(scene_file(folder))], ARRAY),
    ("bytes-io-at-its-end", "made up like a web upload", lambda folder: [png_in(io.BytesIO())], ARRAY),
    ("spooled-file", "made up like FastAPI's UploadFile.file", lambda folder: [spooled()], ARRAY),
    ("zip-member", "made up like a data set in a ZIP", lambda folder: [in_zip()], ARRAY),
    ("path-of-another-library", "made up like py.path", lambda folder: [OddPath(scene_file(folder))], ARRAY),
    ("generator", "made up like a loop over files", lambda folder: (image for image in [SCENE]), ARRAY),
    ("tensor-half", "made up like a GPU pipeline", lambda folder: [(to_tensor(SCENE) / 255).double()], ARRAY),
    (
        "array-bare",
        REPORT,
        lambda folder: ARRAY,
        rf"takes a list of images: put the one image \(an array of {SIDE} x {SIDE} x 3\) in br",
    ),
    ("array-grey-bare", REPORT, lambda folder: SCENE_GREY, rf"put the one image \(an array of {SIDE} x {SIDE}\) in brackets"),
    ("tensor-bare", REPORT, lambda folder: to_tensor(SCENE), rf"put the one image \(an array of 3 x {SIDE} x {SIDE}\) in brackets"),
    ("file-bare", REPORT, lambda folder: opened(scene_file(folder)), "put the one image in brackets"),
    ("path-bare", REPORT, lambda folder: scene_file(folder), "put the one image in brackets"),
    ("image-bare", REPORT, lambda folder: SCENE, "put the one image in brackets"),
    (
        "array-float",
        "made up like skimage.img_as_float",
        lambda folder: [ARRAY / 255],
        r"must be uint8.* not float64 .*multiply .* by 255",
    ),
    (
        "array-16-bit",
        "made up like cv2.IMREAD_UNCHANGED",
        lambda folder: [ARRAY.astype(np.uint16)],
        r"not uint16 .*divided by 256 first",
    ),
    (
        "array-channels-first",
        "made up like rasterio",
        lambda folder: [ARRAY.transpose(2, 0, 1)],
        r"transpose\(1, 2, 0\) puts the channels",
    ),
    ("array-of-truth-values", "made up like a mask", lambda folder: [SCENE_GREY > 9], r"must be uint8, .* not bool"),
    ("array-of-two-channels", "made up like an optical flow", lambda folder: [ARRAY[..., :2]], rf"not uint8 \[{SIDE}, {SIDE}, 2\]"),
    ("array-empty", "made up like a crop beside the image", lambda folder: [ARRAY[:0]], rf"not uint8 \[0, {SIDE}, 3\]"),
    ("nothing", "made up like cv2.imread of a wrong name", lambda folder: [None], r"not NoneType \(cv2\.imread gives None"),
    (
        "bytes",
        "made up like requests' .content",
        lambda folder: [png_in(io.BytesIO()).getvalue()],
        r"not bytes: put the bytes into io\.Byt",
    ),
    (
        "text-file",
        "made up like open() without a mode",
        lambda folder: [io.StringIO("x")],
        r"open as text: open images in binary mode",
    ),
    ("empty-file", "made up like a request without a body", lambda folder: [io.BytesIO()], "the given file is empty"),
    ("address", "made up like a notebook", lambda folder: ["https://host/a.jpg"], r"https://host/a\.jpg is an address: download"),
    (
        "tensor-255",
        "made up like torchvision's v1",
        lambda folder: [to_tensor(SCENE).float()],
        r"must lie in 0\.\.1: divide by 255",
    ),
]


@pytest.fixture(scope="module")
def tiny() -> PanopticDETR:
    return PanopticDETR.from_pretrained("tiny").eval()


@pytest.mark.parametrize(("source", "give", "expected"), [pytest.param(*row[1:], id=row[0]) for row in GIVEN])
def test_python_objects(tmp_path: Path, tiny: PanopticDETR, source: str, give: Any, expected: Any) -> None:
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected) as told:
            tiny.segment(give(tmp_path))
        assert "\n" not in str(told.value)
        return
    [seen] = (pixels_of(image) for image in give(tmp_path))
    pixels = (seen * 255).round().byte() if seen.is_floating_point() else seen
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), expected)
    [result], [reference] = tiny.segment(give(tmp_path)), tiny.segment([Image.fromarray(expected)])
    assert len(reference.segments) >= 2 and (result.segment_ids == reference.segment_ids).mean() > 0.9999


def test_an_open_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_text("x")
    with (tmp_path / "b.jpg").open("rb") as file, pytest.raises(InputError, match=r"b\.jpg is not an image"):
        read_image(file)


# --- models of other types ----------------------------------------------------------------------------------------------------

TYPES = [  # (type, source, pixels that agree with float32, scores, logits)
    pytest.param(torch.float16, "facebookresearch/detectron2#504", 0.999, 2e-3, 0.1, id="half"),
    pytest.param(torch.bfloat16, "open-mmlab/mmdetection#5182", 0.99, 3e-2, 0.8, id="bfloat16"),
    pytest.param(torch.float64, REPORT, 0.99999, 1e-5, 1e-4, id="double"),
]


@pytest.mark.parametrize(("dtype", "source", "agreement", "scores", "logits"), TYPES)
def test_models_of_every_type(
    tiny: PanopticDETR, dtype: torch.dtype, source: str, agreement: float, scores: float, logits: float
) -> None:
    model = copy.deepcopy(tiny).to(dtype)
    pictures = [SCENE, SCENE.crop((0, 0, SIDE, SIDE // 2))]
    for result, expected in zip(model.segment(pictures), tiny.segment(pictures), strict=True):
        assert len(expected.segments) >= 2
        assert [s.category_id for s in result.segments] == [s.category_id for s in expected.segments]
        assert (result.segment_ids == expected.segment_ids).mean() > agreement
        np.testing.assert_allclose([s.score for s in result.segments], [s.score for s in expected.segments], atol=scores)

    batch = Batch.pad([normalise(to_tensor(picture)) for picture in pictures])  # the second is padded
    with torch.inference_mode():
        seen, expected = model(batch), tiny.detect(batch)
    assert seen.logits.dtype == seen.boxes.dtype == seen.features.res2.dtype == dtype
    assert (seen.logits - expected.logits).abs().max() < logits
    assert (seen.boxes - expected.boxes).abs().max() < 0.05
    assert batch.images.dtype == torch.float32


def test_calling_the_model_detects(tiny: PanopticDETR) -> None:
    batch = Batch.pad([normalise(to_tensor(SCENE))])
    with torch.inference_mode():
        called, detected = tiny(batch), tiny.detect(batch)
    assert torch.equal(called.logits, detected.logits) and torch.equal(called.memory, detected.memory)


def test_boxes_of_a_half_model_reach_the_edge() -> None:
    """bfloat16 has no 1333, only 1328 and 1336."""
    boxes = torch.tensor([[0.5, 0.5, 1, 1]], dtype=torch.bfloat16)
    [found] = box_predictions(torch.tensor([[9.0, 0]], dtype=torch.bfloat16), boxes, 1, (1333, 801), {0})
    assert found["bbox"] == [0, 0, 1333, 801]
