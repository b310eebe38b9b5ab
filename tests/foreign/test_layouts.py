"""Folders as other tools lay them out: which tool it was, and the data sets that come of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidetr.commands.main import main
from minidetr.curate.assemble import assemble
from minidetr.curate.assemble_folder import assemble_folder
from minidetr.curate.check import check
from minidetr.curate.findings import BREAKS
from minidetr.curate.fix import fix
from minidetr.curate.layouts import layout_of
from minidetr.data.coco import CocoPanoptic
from minidetr.errors import InputError
from minidetr.panoptic import encode_ids

SQUARE = [5, 5, 25, 5, 25, 25, 5, 25]  # 400 pixels
IDS = np.repeat(np.array([[26, 24001]], np.int32), 24, axis=1).repeat(32, axis=0)  # stuff on the left, an object on the right
THINGS = [{"id": 1, "name": "crane", "supercategory": ""}]
BOTH = [{"id": 7, "name": "road", "isthing": 0}, {"id": 26, "name": "car", "isthing": 1}]


def photo(path: Path, red: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (48, 32), (red, 7, 7)).save(path, "PNG" if path.suffix == ".png" else "JPEG")


def detection(path: Path, names: list[str], categories: list[dict] = THINGS, category_id: int = 1) -> None:
    entry = {"category_id": category_id, "segmentation": [SQUARE], "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
    content = {
        "images": [{"id": i, "file_name": name, "width": 48, "height": 32} for i, name in enumerate(names, 1)],
        "annotations": [entry | {"id": i, "image_id": i} for i, _ in enumerate(names, 1)],
        "categories": categories,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def panoptic(json_file: Path, pngs: Path, names: list[tuple[int | str, str, str]]) -> None:
    """(image id, photo's name, PNG's name) of each image."""
    segments = [{"id": 26, "category_id": 7, "iscrowd": 0}, {"id": 24001, "category_id": 26, "iscrowd": 0}]
    content = {
        "images": [{"id": i, "file_name": name, "width": 48, "height": 32} for i, name, _ in names],
        "annotations": [{"image_id": i, "file_name": png, "segments_info": segments} for i, _, png in names],
        "categories": BOTH,
    }
    json_file.parent.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(content))
    pngs.mkdir(parents=True, exist_ok=True)
    for _, _, png in names:
        Image.fromarray(encode_ids(IDS)).save(pngs / png)


def cvat(folder: Path) -> None:
    photo(folder / "images" / "a.jpg")
    detection(folder / "annotations" / "instances_default.json", ["a.jpg"])


def cvat_without_folders(folder: Path) -> None:
    """Photos of subsets in images/SUBSET/, as newer versions write them."""
    for subset in ("Train", "Validation"):
        photo(folder / "images" / subset / f"{subset}.jpg")
        detection(folder / "annotations" / f"instances_{subset}.json", [f"{subset}.jpg"])


def zipped(folder: Path) -> None:
    """A zip unpacked into a folder of its own name."""
    cvat(folder / "task_12_coco")


def roboflow(folder: Path) -> None:
    parent = [{"id": 0, "name": "site", "supercategory": "none"}, {"id": 1, "name": "crane", "supercategory": "site"}]
    for part in ("train", "valid", "test"):
        photo(folder / part / f"{part}_jpg.rf.1.jpg")
        detection(folder / part / "_annotations.coco.json", [f"{part}_jpg.rf.1.jpg"], parent)
    (folder / "README.roboflow.txt").write_text("hello")


def label_studio(folder: Path) -> None:
    photo(folder / "images" / "1f2e-a.jpg")
    detection(folder / "result.json", ["images\\1f2e-a.jpg"])


def coco(folder: Path) -> None:
    for year in ("train2017", "val2017"):
        photo(folder / year / "000000000139.jpg")
        detection(folder / "annotations" / f"instances_{year}.json", ["000000000139.jpg"])  # is there, too
        panoptic(
            folder / "annotations" / f"panoptic_{year}.json",
            folder / "annotations" / f"panoptic_{year}",
            [(139, "000000000139.jpg", "000000000139.png")],
        )


def coco_beside(folder: Path) -> None:
    """The PNGs unpacked beside the photos, as detectron2 wants them."""
    photo(folder / "val2017" / "1.jpg")
    panoptic(folder / "annotations" / "panoptic_val2017.json", folder / "panoptic_val2017", [(1, "1.jpg", "1.png")])


def cityscapes(folder: Path) -> None:
    name = "frankfurt_000000_000294"
    photo(folder / "leftImg8bit" / "val" / "frankfurt" / f"{name}_leftImg8bit.png")
    files = [(name, f"{name}_gtFine_leftImg8bit.png", f"{name}_gtFine_panoptic.png")]
    panoptic(folder / "gtFine" / "cityscapes_panoptic_val.json", folder / "gtFine" / "cityscapes_panoptic_val", files)


def ade20k(folder: Path) -> None:
    name = "ADE_val_00000001"
    photo(folder / "images" / "validation" / f"{name}.jpg")
    panoptic(folder / "ade20k_panoptic_val.json", folder / "ade20k_panoptic_val", [(name, f"{name}.jpg", f"{name}.png")])


def own(folder: Path) -> None:
    for part in ("train", "val"):
        photo(folder / part / "images" / "x.jpg")
        panoptic(folder / part / "panoptic.json", folder / part / "panoptic", [(1, "x.jpg", "x.png")])


def one_json(folder: Path) -> None:
    photo(folder / "pictures" / "a.jpg")
    detection(folder / "labels.json", ["a.jpg"])


STUFF, OBJECT = (7, 768), (26, 768)  # category id, pixels
ROWS = [  # (function above, the tool that is named, part -> (photo's name, its segments))
    (cvat, "CVAT", {"": ("a.jpg", [(1, 400)])}),
    (cvat_without_folders, "CVAT", {"train": ("Train.jpg", [(1, 400)]), "val": ("Validation.jpg", [(1, 400)])}),
    (zipped, "CVAT", {"": ("a.jpg", [(1, 400)])}),
    (
        roboflow,
        "Roboflow",
        {name: (f"{file}_jpg.rf.1.jpg", [(1, 400)]) for name, file in (("train", "train"), ("val", "valid"), ("test", "test"))},
    ),
    (label_studio, "Label Studio", {"": ("1f2e-a.jpg", [(1, 400)])}),
    (coco, "COCO panoptic", {part: ("000000000139.jpg", [STUFF, OBJECT]) for part in ("train", "val")}),
    (coco_beside, "COCO panoptic", {"val": ("1.jpg", [STUFF, OBJECT])}),
    (cityscapes, "Cityscapes", {"val": ("frankfurt/frankfurt_000000_000294_leftImg8bit.png", [STUFF, OBJECT])}),
    (ade20k, "ADE20k", {"val": ("ADE_val_00000001.jpg", [STUFF, OBJECT])}),
    (own, "minidetr", {part: ("x.jpg", [STUFF, OBJECT]) for part in ("train", "val")}),
    (one_json, "one COCO file", {"": ("pictures/a.jpg", [(1, 400)])}),
]


@pytest.mark.parametrize(("lay_out", "tool", "parts"), ROWS, ids=[row[0].__name__ for row in ROWS])
def test_layouts(tmp_path: Path, lay_out, tool: str, parts: dict) -> None:
    lay_out(tmp_path / "in")
    made = assemble_folder(tmp_path / "in", tmp_path / "out")
    assert made.layout.tool == tool and set(made.parts) == set(parts)
    assert made.summary().startswith(f"an export of {tool}")
    for part, (name, segments) in parts.items():
        place = tmp_path / "out" / part
        data = CocoPanoptic.from_folder(place)
        assert data.file_names == [name]
        assert [(entry["category_id"], entry["area"]) for entry in data.read(0)[2]] == segments
        assert check(place).kinds(BREAKS) == []
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == (set(parts) if set(parts) != {""} else {"panoptic.json", "panoptic", "detection.json", "images"})


def test_roboflow_s_parent_class_is_dropped_where_nothing_has_it(tmp_path: Path) -> None:
    roboflow(tmp_path / "in")
    made = assemble_folder(tmp_path / "in", tmp_path / "out")
    assert [c.name for c in CocoPanoptic.from_folder(tmp_path / "out" / "train").categories] == ["crane"]
    assert made.parts["train"].findings["parent"] == ["site"]
    used = [{"id": 0, "name": "site", "supercategory": "none"}, {"id": 1, "name": "crane", "supercategory": "site"}]
    detection(tmp_path / "in" / "test" / "_annotations.coco.json", ["test_jpg.rf.1.jpg"], used, category_id=0)
    assemble_folder(tmp_path / "in", tmp_path / "again")  # one part has it: kept in all
    assert [c.name for c in CocoPanoptic.from_folder(tmp_path / "again" / "train").categories] == ["site", "crane"]


def test_all_parts_or_none(tmp_path: Path) -> None:
    roboflow(tmp_path / "in")
    (tmp_path / "in" / "valid" / "valid_jpg.rf.1.jpg").unlink()
    with pytest.raises(InputError, match=r"valid_jpg\.rf\.1\.jpg is not there"):
        assemble_folder(tmp_path / "in", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_missing_photo_of_panoptic_data(tmp_path: Path) -> None:
    coco_beside(tmp_path / "in")
    names = [(1, "1.jpg", "1.png"), (2, "2.jpg", "2.png")]
    panoptic(tmp_path / "in" / "annotations" / "panoptic_val2017.json", tmp_path / "in" / "panoptic_val2017", names)
    with pytest.raises(InputError, match=r"the photo or the PNG of 2\.jpg is not below"):
        assemble_folder(tmp_path / "in", tmp_path / "out")
    made = assemble_folder(tmp_path / "in", tmp_path / "out", skip_missing=True)
    assert "1 x image without photo or PNG: left out" in made.summary()
    assert CocoPanoptic.from_folder(tmp_path / "out" / "val").image_ids == [1]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: folder.mkdir(), "laid out as no tool's export that is known here"),
        (lambda folder: folder.parent.joinpath("in").write_text("x"), "is not a folder"),
        (lambda folder: [detection(folder / f"{n}.json", ["a.jpg"]) for n in "ab"], "laid out as no tool's export"),
        (lambda folder: detection(folder / "annotations" / "instances_default.json", ["a.jpg"]), r"a\.jpg is not there"),
    ],
    ids=["empty", "a file", "two files", "photos left out of the export"],
)
def test_folders_that_are_refused(tmp_path: Path, spoil, sentence: str) -> None:
    spoil(tmp_path / "in")
    with pytest.raises(InputError, match=sentence):
        assemble_folder(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_says_which_tool_it_was(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cvat(tmp_path / "in")
    assert main(["data", "assemble", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert "an export of CVAT" in capsys.readouterr().out
    assert main(["data", "assemble", str(tmp_path / "in"), "photos", str(tmp_path / "out2")]) == 2
    assert "leave photos out" in capsys.readouterr().err
    assert main(["data", "assemble", str(tmp_path / "in" / "annotations" / "instances_default.json"), str(tmp_path / "out2")]) == 2
    assert "EXPORT.json PHOTOS OUT" in capsys.readouterr().err


def test_check_opens_the_folder_of_a_tool(tmp_path: Path) -> None:
    cvat(tmp_path / "in")
    report = check(tmp_path / "in")
    assert report.path == tmp_path / "in" / "annotations" / "instances_default.json"
    assert not report.unchecked and report.kinds(BREAKS) == []
    assert fix(tmp_path / "in", tmp_path / "fixed").left.kinds(BREAKS) == []
    assert (tmp_path / "fixed" / "instances_default.json").is_file()


def test_check_names_the_files_of_an_export_in_parts(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        detection(tmp_path / "in" / part / "_annotations.coco.json", ["a.jpg"])
    with pytest.raises(InputError, match=r"an export of Roboflow in several parts: give one of .*train/_ann.*valid/_ann"):
        check(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no tool's export"):
        check(tmp_path / "empty")


def test_check_asks_to_assemble_panoptic_data_of_elsewhere(tmp_path: Path) -> None:
    panoptic(tmp_path / "in/annotations/panoptic_val2017.json", tmp_path / "in/panoptic_val2017", [(1, "1.jpg", "1.png")])
    photo(tmp_path / "in/val2017/1.jpg")
    with pytest.raises(InputError, match=r"COCO panoptic's: `minidetr data assemble .* OUT` first"):
        check(tmp_path / "in")


def test_parts_that_are_incomplete_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """COCO with the photos of one part only, and with panoptic PNGs that were not unpacked."""
    for year in ("train2017", "val2017"):
        detection(tmp_path / "in/annotations" / f"instances_{year}.json", ["1.jpg"])
    panoptic(tmp_path / "in/annotations/panoptic_val2017.json", tmp_path / "elsewhere", [(1, "1.jpg", "1.png")])
    photo(tmp_path / "in/val2017/1.jpg")
    assert main(["data", "assemble", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "an export of COCO" in told
    assert "ATTENTION: left out" in told and "instances_train2017.json, annotations/panoptic_val2017.json" in told


def test_a_part_without_its_json_is_told(tmp_path: Path) -> None:
    photo(tmp_path / "in/train/a.jpg")
    photo(tmp_path / "in/valid/b.jpg")
    detection(tmp_path / "in/train/_annotations.coco.json", ["a.jpg"])
    assert layout_of(tmp_path / "in").left_out == ["valid"]


def test_the_photos_of_another_subset_are_not_taken(tmp_path: Path) -> None:
    cvat_without_folders(tmp_path / "in")
    shutil.rmtree(tmp_path / "in/images/Train")
    layout = layout_of(tmp_path / "in")
    assert [part.name for part in layout.parts] == ["val"]
    assert layout.left_out == ["annotations/instances_Train.json"]


@pytest.mark.parametrize("option", [{"stuff": ["road"]}, {"under": "gone"}, {"order": "larger"}, {"crowds": "as-objects"}])
def test_options_for_outlines_are_refused_for_panoptic_data(tmp_path: Path, option: dict) -> None:
    panoptic(tmp_path / "in/annotations/panoptic_val2017.json", tmp_path / "in/panoptic_val2017", [(1, "1.jpg", "1.png")])
    photo(tmp_path / "in/val2017/1.jpg")
    with pytest.raises(InputError, match=r"panoptic_val2017\.json is panoptic.*leave --order, --stuff"):
        assemble_folder(tmp_path / "in", tmp_path / "out", **option)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_read_is_never_overwritten(tmp_path: Path, overwrite: bool) -> None:
    """The result may be written over an earlier one, but not over the photos or the JSON that it is made of."""
    cvat(tmp_path / "site")
    photo(tmp_path / "site/images/unlisted.jpg")
    shutil.move(tmp_path / "site/annotations/instances_default.json", tmp_path / "site.json")
    (tmp_path / "site/annotations").rmdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"images lies in .*site, which would be replaced"):
        assemble(tmp_path / "site.json", tmp_path / "site/images", tmp_path / "site", overwrite=overwrite)
    panoptic(tmp_path / "own/train/panoptic.json", tmp_path / "own/train/panoptic", [(1, "1.jpg", "1.png")])
    photo(tmp_path / "own/train/images/1.jpg")
    with pytest.raises(InputError, match=r"lies in .*own, which would be replaced"):
        assemble_folder(tmp_path / "own", tmp_path / "own", overwrite=overwrite)
    assert [path for path in sorted(tmp_path.rglob("*")) if not path.is_relative_to(tmp_path / "own")] == before
    assert (tmp_path / "own/train/images/1.jpg").is_file()


def test_photos_of_subsets_are_never_overwritten(tmp_path: Path) -> None:
    """images/train and images/val have the names of the parts of a result."""
    for subset in ("train", "val"):
        photo(tmp_path / "in/images" / subset / f"{subset}.jpg")
        detection(tmp_path / "in/annotations" / f"instances_{subset}.json", [f"{subset}.jpg"])
    with pytest.raises(InputError, match=r"images/train lies in .*images, which would be replaced"):
        assemble_folder(tmp_path / "in", tmp_path / "in/images", overwrite=True)
    assert (tmp_path / "in/images/train/train.jpg").is_file() and (tmp_path / "in/images/val/val.jpg").is_file()
