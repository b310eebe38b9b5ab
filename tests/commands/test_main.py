"""The commands: files that belong together come out, and a user's mistake ends in one sentence and exit code 2."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minidetr.commands import main as cli
from minidetr.data.coco import CocoPanoptic
from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.panoptic import Category, Panoptic, Segment

CATEGORIES = [Category(1, "sky", False), Category(5, "excavator", True)]
NAMES = ("predict", "evaluate", "scenes", "demo")


class StandIn(torch.nn.Module):
    """A model whose answer is known: the upper half is sky, the lower left quarter an excavator, the rest void."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.categories = CATEGORIES
        self.calls: list[tuple[int, float | None, bool]] = []

    def segment(self, images: list[Image.Image], threshold: float | None, batch_size: int) -> list[Panoptic]:
        self.calls.append((len(images), threshold, torch.is_autocast_enabled("cpu")))
        assert len(images) <= batch_size
        return [self.halves(image) for image in images]

    def halves(self, image: Image.Image) -> Panoptic:
        height, width = image.height, image.width
        ids = np.zeros((height, width), np.int32)
        ids[: height // 2], ids[height // 2 :, : width // 2] = 1, 2
        low = height - height // 2
        sky = Segment(1, 1, 0.99, False, height // 2 * width, (0, 0, width, height // 2))
        excavator = Segment(2, 5, 0.91, True, low * (width // 2), (0, height // 2, width // 2, low))
        return Panoptic(ids, [sky, excavator])


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(PanopticDETR, "from_pretrained", classmethod(lambda cls, name, preset=None, categories=None: stand_in))
    return stand_in


def photo(path: Path, width: int = 30, height: int = 20, mode: str = "RGB", **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (width, height), 128).save(path, **options)
    return path


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def predict(*arguments: object) -> int:
    return run("predict", *arguments, "--model", "stand-in", "--device", "cpu")


def parts(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".part" in path.name]


# --- help -------------------------------------------------------------------------------------------------------------------


def test_help_loads_nothing_heavy() -> None:
    code = """
import contextlib, io, sys
from minidetr.commands.main import main
for arguments in (["--help"], *([name, "--help"] for name in sys.argv[1:])):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            main(arguments)
        except SystemExit as done:
            assert done.code == 0
    assert "usage: minidetr" in printed.getvalue()
print(sorted({"torch", "torchvision", "numpy", "scipy", "matplotlib", "PIL"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, *NAMES], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, minidetr; dir(minidetr); print('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_every_command_shows_an_example_that_parses(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        run("--help")
    listed = capsys.readouterr().out
    assert len(cli.COMMANDS) >= len(NAMES)
    names = [add.__name__.removeprefix("add_") for add in cli.COMMANDS]
    assert all(f"    {name} " in listed for name in names)
    names.remove("data")  # a group: its commands have the examples
    for name in (*names, "data assemble", "data label-stuff", "data split", "data check", "data show"):
        with pytest.raises(SystemExit):
            run(*name.split(), "--help")
        example = capsys.readouterr().out.split("example:\n")[1].strip().splitlines()[0]
        program, *arguments = shlex.split(example)
        assert program == "minidetr"
        assert arguments[: len(name.split())] == name.split()
        assert callable(cli.build_parser().parse_args(arguments).run)


def test_version(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as done:
        run("--version")
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith("minidetr ")


# --- mistakes ---------------------------------------------------------------------------------------------------------------


def make_inputs(folder: Path) -> None:
    """Photos in every state that a user may have them in."""
    photo(folder / "good" / "a.jpg")
    photo(folder / "bad" / "fine.png")
    (folder / "bad" / "broken.jpg").write_bytes((folder / "good" / "a.jpg").read_bytes()[:300])
    (folder / "bad" / "text.png").write_text("not a picture")
    (folder / "empty").mkdir()
    (folder / "file").write_text("x")
    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").write_text("precious")
    (folder / "broken.json").write_text("{")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("predict nowhere.jpg --model m --output out", "nowhere.jpg"),
        ("predict empty --model m --output out", "empty holds no photo"),
        ("predict bad/broken.jpg bad/text.png bad/fine.png --model m --output out", "1 more of the 3 photos"),
        ("predict good --model m --output full", "--overwrite"),
        ("predict good --model m --output full --overwrite", "thesis.txt"),
        ("predict good --model m --output file", "is a file"),
        ("predict good --model m --output file/out", "file"),
        ("predict good --model no-such-model --output out", "no-such-model"),
        ("predict good --model m --output out --device abacus", "abacus"),
        ("evaluate nowhere.json good nowhere.json good", "nowhere.json"),
        ("evaluate broken.json good broken.json good", "broken.json"),
        ("scenes full --count 1", "full"),
        ("scenes out --count 1 --seed -1", "seed"),
        ("scenes out --count 1 --size 3", "size"),
        ("demo --output full", "thesis.txt"),
    ],
)
def test_mistakes_end_in_one_sentence(
    command: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    make_inputs(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minidetr.commands.demo_scenes.shipped_weights", lambda name: tmp_path / "file")
    assert run(*command.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("minidetr: ") and told in lines[0]
    assert sorted(tmp_path.rglob("*")) == before  # nothing written, nothing deleted


@pytest.mark.parametrize(
    "command",
    [
        "",
        "no-such-command",
        "predict photo.jpg --model m",
        "predict photo.jpg --model m --output out --threshold 1.5",
        "predict photo.jpg --model m --output out --threshold nan",
        "predict photo.jpg --model m --output out --batch-size 0",
        "predict photo.jpg --model m --output out --precision float8",
        "scenes out --count many",
    ],
)
def test_wrong_arguments_exit_with_2(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as done:
        run(*command.split())
    assert done.value.code == 2
    assert "usage: minidetr" in capsys.readouterr().err


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "minidetr", "evaluate", "nowhere.json", ".", "nowhere.json", "."]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 2
    assert done.stdout == "" and len(done.stderr.strip().splitlines()) == 1 and "nowhere.json" in done.stderr


def test_names_that_the_output_cannot_show_discard_nothing(tmp_path: Path) -> None:
    """Redirected output has a code page of a few letters on Windows."""
    ids = np.zeros((4, 6, 3), np.uint8)
    ids[..., 0] = 1
    (tmp_path / "png").mkdir()
    Image.fromarray(ids).save(tmp_path / "png" / "0.png")
    segment = {"id": 1, "category_id": 1, "area": 24, "bbox": [0, 0, 6, 4], "iscrowd": 0}
    content = {
        "images": [{"id": 0, "file_name": "0.jpg", "width": 6, "height": 4}],
        "annotations": [{"image_id": 0, "file_name": "0.png", "segments_info": [segment]}],
        "categories": [{"id": 1, "name": "汽车", "isthing": 1}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    places = [tmp_path / "truth.json", tmp_path / "png"] * 2
    command = [sys.executable, "-m", "minidetr", "evaluate", *places, "--per-class"]
    settings = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, capture_output=True, encoding="cp1252", env=settings, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\u6c7d\u8f66" in done.stdout


@pytest.mark.parametrize("place", ["before", "behind"])
def test_debug_shows_the_traceback(place: str, tmp_path: Path) -> None:
    command = ["predict", tmp_path, "--model", "m", "--output", tmp_path / "out"]
    with pytest.raises(InputError):
        run(*(["--debug", *command] if place == "before" else [*command, "--debug"]))


def test_interrupting_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def interrupted(inputs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("minidetr.data.photos.find_photos", interrupted)
    assert run("predict", "photo.jpg", "--model", "m", "--output", "out") == 130
    assert capsys.readouterr().err == "minidetr: interrupted\n"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise on Windows")
def test_a_reader_who_has_seen_enough_is_no_mistake() -> None:
    code = """
import sys
from minidetr.commands import evaluate, main
def run_evaluate(arguments):
    print("x" * 10**6)
evaluate.run_evaluate = run_evaluate
sys.exit(main.main(["evaluate", "a", "b", "c", "d"]))
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_bug_is_not_dressed_up_as_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(inputs: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("minidetr.data.photos.find_photos", bug)
    with pytest.raises(ZeroDivisionError):
        run("predict", "photo.jpg", "--model", "m", "--output", "out")


# --- predict and evaluate ---------------------------------------------------------------------------------------------------


def test_predict_writes_coco_panoptic_files(tmp_path: Path, model: StandIn, capsys: pytest.CaptureFixture) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photo(photos / "000000000139.jpg", 31, 21)
    photo(photos / "7.PNG", 40, 50, mode="L")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    photo(photos / "12.jpeg", 60, 20, exif=exif)
    (photos / "notes.txt").write_text("no photo")
    options = ("--batch-size", 2, "--threshold", 0.5, "--precision", "bfloat16")
    assert predict(photos, photos / "7.PNG", "--output", out, *options) == 0

    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) == sorted(
        ["panoptic.json"] + [f"{kind}/{stem}.png" for kind in ("panoptic", "overlays") for stem in ("000000000139", "12", "7")]
    )
    assert parts(tmp_path) == []
    assert [calls for calls, _, _ in model.calls] == [2, 1]
    assert {(threshold, reduced) for _, threshold, reduced in model.calls} == {(0.5, True)}

    written = json.loads((out / "panoptic.json").read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in written["images"]}
    assert sizes == {139: (31, 21), 7: (40, 50), 12: (20, 60)}  # ids from the names, the third one upright
    dataset = CocoPanoptic(out / "panoptic.json", photos, out / "panoptic")  # reads and checks every field
    assert dataset.categories == CATEGORIES
    for index in range(len(dataset)):
        image, ids, segments = dataset.read(index)
        expected = model.halves(image)
        np.testing.assert_array_equal(ids, expected.segment_ids)
        assert [(s["id"], s["category_id"], s["area"], tuple(s["bbox"])) for s in segments] == [
            (s.id, s.category_id, s.area, s.box) for s in expected.segments
        ]
    told = capsys.readouterr().out
    assert "7.PNG: 2 segments: sky, excavator" in told
    assert told.strip().splitlines()[-2:] == [
        f"3 photos -> {out} (panoptic.json, panoptic/, overlays/)",
        "left out: 1 file (notes.txt)",
    ]


def test_photos_without_numbers_are_counted(tmp_path: Path, model: StandIn) -> None:
    photos = [photo(tmp_path / "b.png"), photo(tmp_path / "3.png")]
    assert predict(*photos, "--output", tmp_path / "out") == 0
    images = json.loads((tmp_path / "out" / "panoptic.json").read_text())["images"]
    assert [(image["id"], image["file_name"]) for image in images] == [(1, "b.png"), (2, "3.png")]
    assert model.calls[0][1:] == (None, False)  # the model's own threshold, full precision


@pytest.mark.skipif(sys.platform == "win32", reason="other limits there")
def test_a_name_too_long_for_what_is_written_is_one_sentence(tmp_path: Path, model: StandIn, capsys: pytest.CaptureFixture) -> None:
    """The temporary file has five letters more than the photo; it is said before any photo is worked on."""
    long = photo(tmp_path / "photos" / ("x" * 247 + ".jpg"))
    photo(tmp_path / "photos" / "a.jpg")
    assert predict(tmp_path / "photos", "--output", tmp_path / "out") == 2
    assert model.calls == [] and not (tmp_path / "out").exists() and not parts(tmp_path)
    assert capsys.readouterr().err == f"minidetr: {long} has too long a name for the PNG that is written of it: shorten it\n"
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "segmentation": [[1, 1, 9, 1, 9, 9]],
        "bbox": [1, 1, 8, 8],
        "iscrowd": 0,
    }
    content = {"images": [{"id": 1, "file_name": long.name}], "annotations": [annotation]}
    (tmp_path / "export.json").write_text(json.dumps(content | {"categories": [{"id": 1, "name": "crane"}]}))
    assert run("data", "assemble", tmp_path / "export.json", tmp_path / "photos", tmp_path / "out", "--skip-missing") == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert (
        sentence.startswith(f"minidetr: {long.stem}.png is too long for a file's name")
        and "shorten the name of the photo" in sentence
    )
    assert not (tmp_path / "out").exists() and not parts(tmp_path)


def test_overwriting_replaces_an_earlier_result_whole(tmp_path: Path, model: StandIn) -> None:
    out = tmp_path / "out"
    assert predict(photo(tmp_path / "old.png"), "--output", out) == 0
    assert predict(photo(tmp_path / "new.png"), "--output", out) == 2
    assert [p.name for p in (out / "panoptic").iterdir()] == ["old.png"]
    assert predict(tmp_path / "new.png", "--output", out, "--overwrite") == 0
    assert [p.name for p in (out / "panoptic").iterdir()] == ["new.png"] == [p.name for p in (out / "overlays").iterdir()]


def test_a_failure_halfway_leaves_nothing_new(tmp_path: Path, model: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    photos = [photo(tmp_path / f"{name}.png") for name in "abc"]
    assert predict(photos[0], "--output", out) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def fails_at_the_third(image: Image.Image) -> Panoptic:
        if len(model.calls) == 4:
            raise OSError("the disk is full")
        return StandIn.halves(model, image)

    monkeypatch.setattr(model, "halves", fails_at_the_third)
    assert predict(*photos, "--output", out, "--overwrite") == 2
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert predict(*photos, "--output", tmp_path / "other") == 0  # the fourth call is over: it works again
    assert parts(tmp_path) == []


def test_evaluate_prints_a_table_or_json(tmp_path: Path, model: StandIn, capsys: pytest.CaptureFixture) -> None:
    photo(tmp_path / "photos" / "1.png")
    photo(tmp_path / "photos" / "2.png", 50, 20)
    out = tmp_path / "out"
    assert predict(tmp_path / "photos", "--output", out) == 0
    capsys.readouterr()
    files = (out / "panoptic.json", out / "panoptic") * 2
    assert run("evaluate", *files, "--json") == 0
    assert json.loads(capsys.readouterr().out)["All"]["pq"] == 1
    assert run("evaluate", *files, "--jobs", 2) == 0
    table = capsys.readouterr().out
    assert "PQ" in table and "excavator" not in table
    assert run("evaluate", *files, "--per-class") == 0
    assert "excavator" in capsys.readouterr().out


# --- scenes and demo --------------------------------------------------------------------------------------------------------


def test_scenes_writes_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("scenes", tmp_path / "out", "--count", 3, "--seed", 5, "--size", 64) == 0
    assert capsys.readouterr().out.startswith("3 scenes -> ")
    dataset = CocoPanoptic.from_folder(tmp_path / "out")
    assert len(dataset) == 3
    image, ids, segments = dataset.read(1)
    assert image.size == (64, 64) and set(np.unique(ids)) - {0} == {s["id"] for s in segments}
    assert run("scenes", tmp_path / "later", "--count", 1, "--seed", 6, "--size", 64) == 0
    np.testing.assert_array_equal(CocoPanoptic.from_folder(tmp_path / "later").read(0)[1], ids)  # the next scene has the next seed


def test_demo_without_weights_says_so_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("minidetr.commands.demo_scenes.shipped_weights", lambda name: None)
    assert run("demo", "--output", tmp_path / "demo") == 0
    told = capsys.readouterr().out
    assert "random weights" in told and "means nothing" in told
    for shape in ("1 x 2048 x 20 x 20", "1 x 256 x 20 x 20", "1 x 100 x 256", "5 x 8 x 20 x 20", "5 x 160 x 160"):
        assert shape in told
    assert not (tmp_path / "demo").exists()


def test_demo_shows_truth_and_prediction_of_held_out_scenes(
    tmp_path: Path, model: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("minidetr.commands.demo_scenes.shipped_weights", lambda name: tmp_path)
    out = tmp_path / "demo"
    for count in (1, 3):  # the second run replaces what the first one wrote
        assert run("demo", "--output", out, "--count", count) == 0
        assert sorted(p.name for p in (out / "scenes").iterdir()) == [f"{index:06d}.png" for index in range(count)]
    assert parts(tmp_path) == []
    told = capsys.readouterr().out
    assert (out / "quality.txt").read_text() in told
    files = [out / kind / name for kind in ("truth", "prediction") for name in ("panoptic.json", "panoptic")]
    assert run("evaluate", *files, "--per-class") == 0
    for line in capsys.readouterr().out.strip().splitlines():
        assert line in told  # the demo's numbers are those of its files
    for path in (out / "contact_sheet.png", out / "scenes" / "000000.png"):
        with Image.open(path) as picture:
            assert 640 <= picture.width <= 1600
