"""Stuff labels from a model: the mapping, what is written, and how good the shipped model's labels are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from minidetr.curate.assemble import assemble
from minidetr.curate.label_stuff import StuffMapping, label_stuff
from minidetr.data.coco import CocoPanoptic, measured, write_coco_panoptic
from minidetr.errors import InputError
from minidetr.evaluate import panoptic_quality
from minidetr.panoptic import Category, Panoptic, Segment, decode_ids, encode_ids, write_json, write_png
from minidetr.scenes.dataset import SceneData
from minidetr.scenes.painters import CATEGORIES
from minidetr.weights.load import shipped_weights
from minidetr.weights.published import coco_categories

# --- the mapping


def test_the_shipped_mapping_has_every_stuff_class_of_coco_once():
    mapping, categories = StuffMapping.read(), coco_categories(250)
    stuff = sorted(c.name for c in categories if not c.is_thing)
    assert len(stuff) == 53 and sorted(sum(mapping.classes.values(), [])) == stuff
    names = [
        "misc",
        "water",
        "ground",
        "solid",
        "sky",
        "plant",
        "structural",
        "building",
        "food",
        "textile",
        "furniture",
        "window",
        "floor",
        "ceiling",
        "wall",
    ]
    assert [c.name for c in mapping.categories] == [*names, "raw material"]
    assert [c.id for c in mapping.categories] == list(range(1, 17)) and not any(c.is_thing for c in mapping.categories)
    folded = mapping.fold(categories)
    by_name = {c.name: c.id for c in categories}
    assert len(folded) == 53 and folded[by_name["sea"]] == folded[by_name["river"]] == 2 and by_name["person"] not in folded


def mapping_of(folder: Path, text: str) -> StuffMapping:
    (folder / "stuff.toml").write_text(text)
    return StuffMapping.read(folder / "stuff.toml")


def test_two_classes_of_one_name_are_both_folded(tmp_path: Path):
    mapping = mapping_of(tmp_path, '[stuff]\nroad = ["lane"]')
    assert mapping.fold([Category(7, "lane", True), Category(8, "lane", True)]) == {7: 1, 8: 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[stuff", "is not valid TOML"),
        ("", r"table \[stuff\] is missing"),
        ("[stuff]", r"table \[stuff\] is missing or empty"),
        ("rest = 3\n[stuff]\nsky = ['a']", "'rest' must be the name"),
        ("other = 3\n[stuff]\nsky = ['a']", "'other' is unknown"),
        ("[stuff]\nsky = 'a'", "stuff.sky must be a list"),
        ("[stuff]\nsky = []", "stuff.sky must be a list"),
        ("[stuff]\nsky = ['a', 1]", "stuff.sky must be a list"),
        ("[stuff]\nsky = ['a', 'b']\nsea = ['b']", "'b' stands in both stuff.sky and stuff.sea"),
        ("[stuff]\nsky = ['a', 'a']", "'a' stands in both stuff.sky and stuff.sky"),
    ],
)
def test_a_broken_mapping_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=rf"stuff\.toml.*{message}"):
        mapping_of(tmp_path, text)
    with pytest.raises(InputError, match=r"other\.toml cannot be read"):
        StuffMapping.read(tmp_path / "other.toml")


# --- what is written


class StandIn:
    """A model that sees the same in every photo: sky in two pieces, a worker, water, and nothing in the last column."""

    categories = [Category(3, "sky", False), Category(4, "sea", False), Category(7, "worker", True), Category(8, "cloud", False)]

    def segment(self, images, threshold, batch_size):
        assert batch_size >= len(images) and all(image.mode == "RGB" for image in images)
        results = []
        for image in images:
            ids = np.zeros((image.height, image.width), np.int32)
            ids[:2], ids[2:4], ids[4:], ids[:, -1] = 5, 2, 9, 0
            ids[0, 0] = 1
            seen = {5: 3, 1: 8, 2: 7, 9: 4}  # segment -> category
            results.append(Panoptic(ids, [Segment(i, c, 0.9, c == 7, 1, (0, 0, 1, 1)) for i, c in seen.items()]))
        return results


MAPPING = "[stuff]\nair = ['sky', 'cloud']\nwater = ['sea']\n"


@pytest.fixture
def photos(tmp_path) -> Path:
    (tmp_path / "photos").mkdir()
    for number, size in enumerate([(10, 8), (6, 6), (9, 7)]):
        Image.new("RGB", size).save(tmp_path / "photos" / f"p{number}.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # stands upright at 7 x 9
    Image.new("RGB", (9, 7)).save(tmp_path / "photos" / "turned.jpg", exif=exif)
    return tmp_path / "photos"


@pytest.mark.parametrize(("rest", "things"), [("", False), ("rest = 'misc'\n", False), ("", True)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_segments_are_folded_into_stuff(photos, tmp_path, rest, things, batch_size):
    mapping = mapping_of(tmp_path, rest + MAPPING + ("people = ['worker']\n" if things else ""))
    shares = label_stuff([photos], tmp_path / "out", StandIn(), mapping, batch_size=batch_size)
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [(i["file_name"], i["width"], i["height"]) for i in content["images"]] == [
        ("p0.png", 10, 8),
        ("p1.png", 6, 6),
        ("p2.png", 9, 7),
        ("turned.jpg", 7, 9),
    ]
    ids = {c["name"]: c["id"] for c in content["categories"]}
    assert list(ids) == [*(["misc"] if rest else []), "air", "water", *(["people"] if things else [])]
    nothing, worker = ids.get("misc", 0), ids.get("people", ids.get("misc", 0))
    counts = np.zeros(1 + len(ids))
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        expected = np.zeros((image["height"], image["width"]), int)
        expected[:2], expected[2:4], expected[4:], expected[:, -1] = ids["air"], worker, ids["water"], nothing
        painted = decode_ids(np.asarray(Image.open(tmp_path / "out" / "panoptic" / annotation["file_name"])))
        of_segment = {s["id"]: s["category_id"] for s in annotation["segments_info"]} | {0: 0}
        np.testing.assert_array_equal(np.vectorize(of_segment.get)(painted), expected)
        assert len(set(of_segment.values())) == len(of_segment)  # one segment a class
        assert all(s["area"] == (painted == s["id"]).sum() for s in annotation["segments_info"])
        counts += np.bincount(expected.ravel(), minlength=len(counts))
    assert shares == {name: pytest.approx(counts[i] / counts.sum()) for name, i in {"void": 0, **ids}.items()}
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_a_mapping_for_another_model_is_refused_before_any_work(photos, tmp_path):
    with pytest.raises(
        InputError, match=r"stuff\.toml: stuff\.water names 'river', which the model does not know: it has sky, sea"
    ):
        label_stuff([photos], tmp_path / "out", StandIn())
    mapping = mapping_of(tmp_path, MAPPING)
    (photos / "broken.jpg").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"broken\.jpg"):
        label_stuff([photos / "broken.jpg"], tmp_path / "out", StandIn(), mapping)
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith("out")]


def test_a_used_folder_is_only_replaced_when_asked(photos, tmp_path):
    mapping = mapping_of(tmp_path, MAPPING)
    label_stuff([photos], tmp_path / "out", StandIn(), mapping)
    with pytest.raises(InputError, match="--overwrite"):
        label_stuff([photos], tmp_path / "out", StandIn(), mapping)
    label_stuff([photos], tmp_path / "out", StandIn(), mapping, overwrite=True)


def test_the_command(photos, tmp_path, capsys, monkeypatch):
    import argparse

    from minidetr.commands.data import add_data

    mapping_of(tmp_path, MAPPING)
    loaded = []
    monkeypatch.setattr("minidetr.predict.load_model", lambda name, device, *_: loaded.append((name, device)) or StandIn())
    parser = argparse.ArgumentParser()
    add_data(parser.add_subparsers())
    words = ["data", "label-stuff", str(photos), str(tmp_path / "out"), "--weights", "tiny", "--map", str(tmp_path / "stuff.toml")]
    arguments = parser.parse_args(words)
    arguments.run(arguments)
    assert loaded == [("tiny", None)]
    told = capsys.readouterr().out
    assert "%  air" in told and "%  water" in told and "%  void" in told
    with pytest.raises(SystemExit, match="0"):
        parser.parse_args(["data", "label-stuff", "--help"])
    assert "example:\n  minidetr data label-stuff photos/" in capsys.readouterr().out


# --- how good they are

SCENE_MAPPING = "[stuff]\nair = ['sky']\nearth = ['ground']\nhouses = ['building']\nplants = ['vegetation']\n"


class Truth:
    """A model that is always right: it knows the scenes that it is shown, by their pixels."""

    categories = list(CATEGORIES)

    def __init__(self, dataset):
        is_thing = {c.id: c.is_thing for c in self.categories}
        self.known = {}
        for image, ids, entries in map(dataset.read, range(len(dataset))):
            segments = [Segment(s["id"], s["category_id"], 1.0, is_thing[s["category_id"]], s["area"], s["bbox"]) for s in entries]
            self.known[image.tobytes()] = Panoptic(ids, segments)

    def segment(self, images, threshold, batch_size):
        return [self.known[image.tobytes()] for image in images]


def from_things_to_a_data_set(model, folder: Path, count: int, seed: int):
    """Scenes; their things as a person would export them; stuff by `model`; both assembled. Returns two qualities.

    That of the pseudo-labels, where no thing is, and that of the whole data set.
    """
    dataset = SceneData(count, seed)
    write_coco_panoptic(dataset, folder / "truth")
    things = {c.id for c in dataset.categories if c.is_thing}

    images, exported, stuff = [], [], []
    for index, image_id in enumerate(dataset.image_ids):
        _, ids, segments = dataset.read(index)
        name = f"{index:06d}.png"  # as write_coco_panoptic names them
        images.append({"id": image_id, "file_name": name, "height": ids.shape[0], "width": ids.shape[1]})
        for s in segments:
            if s["category_id"] in things:
                rle = coco_mask.encode(np.asfortranarray((ids == s["id"]).astype(np.uint8)))
                rle["counts"] = rle["counts"].decode()
                exported.append(
                    {"id": len(exported) + 1, "image_id": image_id, "category_id": s["category_id"], "segmentation": rle}
                )
        kept = [s for s in segments if s["category_id"] not in things]
        of_stuff = np.where(np.isin(ids, [s["id"] for s in kept]), ids, 0)
        write_png(folder / "stuff-truth" / name, encode_ids(of_stuff))
        stuff.append({"image_id": image_id, "file_name": name, "segments_info": measured(of_stuff, kept)})

    coarse = {"sky": "air", "ground": "earth", "building": "houses", "vegetation": "plants"}
    categories = [c.to_json() | {"name": coarse.get(c.name, c.name)} for c in dataset.categories]
    write_json(folder / "export.json", {"images": images, "annotations": exported, "categories": categories})
    stuff_json = {"images": images, "annotations": stuff, "categories": [c for c in categories if not c["isthing"]]}
    write_json(folder / "stuff-truth.json", stuff_json)

    mapping = mapping_of(folder, SCENE_MAPPING)
    label_stuff([folder / "truth" / "images"], folder / "stuff", model, mapping)
    labelled = json.loads((folder / "stuff" / "panoptic.json").read_text())
    assert [i["id"] for i in labelled["images"]] == [i["id"] for i in images]  # both from the files' names
    pseudo = panoptic_quality(
        folder / "stuff-truth.json", folder / "stuff-truth", folder / "stuff" / "panoptic.json", folder / "stuff" / "panoptic"
    )
    assemble(folder / "export.json", folder / "truth" / "images", folder / "out", under=folder / "stuff")
    assert len(list(CocoPanoptic.from_folder(folder / "out"))) == count
    renamed = json.loads((folder / "truth" / "panoptic.json").read_text()) | {"categories": categories}
    write_json(folder / "truth" / "renamed.json", renamed)  # classes are compared by their names
    files = [
        (folder / name / json_name, folder / name / "panoptic")
        for name, json_name in (("truth", "renamed.json"), ("out", "panoptic.json"))
    ]
    return pseudo, panoptic_quality(*files[0], *files[1])


def test_labels_of_a_perfect_model_are_perfect_and_so_is_the_data_set(tmp_path):
    pseudo, whole = from_things_to_a_data_set(Truth(SceneData(3, 60_000)), tmp_path, 3, 60_000)
    assert pseudo.stuff.pq == whole.stuff.pq == whole.things.pq == 1


@pytest.mark.skipif(shipped_weights("tiny") is None, reason="the shipped model (minidetr/weights/tiny.safetensors) is not here")
def test_labels_of_the_shipped_model_are_good(tmp_path, record_property):
    from minidetr import PanopticDETR

    pseudo, whole = from_things_to_a_data_set(PanopticDETR.from_pretrained("tiny"), tmp_path, 24, 7_000_000)
    record_property("stuff PQ of the pseudo-labels", pseudo.stuff.pq)
    print(f"pseudo-labels of 24 scenes:\n{pseudo.table(per_class=True)}\nwith the things over them:\n{whole.table()}")
    assert pseudo.stuff.pq > 0.6
    assert whole.things.pq > 0.99  # drawn by hand, so they are right wherever the stuff is not
    assert whole.stuff.pq > 0.6
