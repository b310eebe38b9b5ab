"""Lesson 11, your own data: the zip it works on, as CVAT would export it, checks of its exercises, its pictures."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from contourpy import contour_generator
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

from minidetr.course import answer, exercise, pictures, require
from minidetr.course.lesson00 import map_of
from minidetr.course.schematic import Schematic
from minidetr.curate.label_stuff import label_stuff
from minidetr.data.coco import CocoPanoptic, measured
from minidetr.data.index import read_panoptic_json
from minidetr.evaluate.why_page import COLORS
from minidetr.model import PanopticDETR
from minidetr.panoptic import Panoptic, decode_ids, encode_ids, write_json, write_png
from minidetr.plot import labelled_overlay, new_figure, picture_of
from minidetr.presets import SCENE_SIZE
from minidetr.scenes.dataset import HELD_OUT_SEED
from minidetr.scenes.painters import CATEGORIES
from minidetr.scenes.render import render_scene

# --- an export like one from an annotation tool -----------------------------------------------------------------------------

SEED = HELD_OUT_SEED + 100  # of the first photo
CLASSES = {1: "machine", 2: "worker", 3: "bricks", 4: "cone"}  # what the site's owner wants to find
MEANING = {"excavator": 1, "dump truck": 1, "tower crane": 1, "traffic cone": 4, "brick stack": 3, "worker": 2}
STUFF = {"sky": "sky", "ground": "ground", "building": "scenery", "vegetation": "scenery"}
BRUSHED = 2  # workers are painted with the brush, everything else is outlined by polygons


def make_zip(path: Path | str, count: int, size: int = SCENE_SIZE) -> None:
    """Render `count` scenes and write them with their things as CVAT's zip "COCO 1.0": annotations/instances_default.json, images/.

    Polygons are lists of x, y; what was painted with the brush are run lengths with `iscrowd` 1, as CVAT's exporter writes them.
    """
    path = Path(path)
    photos = path.with_suffix("") / "images"
    class_of = {category.id: MEANING.get(category.name) for category in CATEGORIES}
    images: list[dict] = []
    annotations: list[dict] = []
    for number in range(1, count + 1):
        scene, name = render_scene(SEED + number, size, size), f"site-{number:02d}.jpg"
        photos.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(photos / name, quality=92)
        images.append({"id": number, "width": size, "height": size, "file_name": name, "license": 0, "date_captured": 0})
        for segment in scene.segments_info:
            category_id, mask = class_of[segment["category_id"]], scene.segment_ids == segment["id"]
            polygons = outline(mask)
            if category_id is None or not polygons:
                continue
            annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": category_id}
            if category_id == BRUSHED:
                drawn = coco_mask.encode(np.asfortranarray(mask, np.uint8))
                shape: dict[str, Any] = {"segmentation": {"counts": runs_of(mask), "size": [size, size]}, "iscrowd": 1}
            else:
                drawn = coco_mask.merge(coco_mask.frPyObjects(polygons, size, size))
                shape = {"segmentation": polygons, "iscrowd": 0}
            shape |= {"area": int(coco_mask.area(drawn)), "bbox": coco_mask.toBbox(drawn).tolist()}
            annotations.append(annotation | shape | {"attributes": {"occluded": False}})
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in CLASSES.items()]
    export = {"images": images, "annotations": annotations, "categories": categories}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("annotations/instances_default.json", json.dumps(export))
        for entry in images:
            file.write(photos / entry["file_name"], f"images/{entry['file_name']}")
    shutil.rmtree(path.with_suffix(""))


def outline(mask: np.ndarray) -> list[list[float]]:
    """A mask H W -> its outer polygons [x0, y0, x1, y1, ...] in pixels; holes are filled, crumbs left out."""
    filled = np.pad(ndimage.binary_fill_holes(mask), 1).astype(float)
    rings = contour_generator(z=filled).lines(0.5)  # x, y of pixel centres, moved by the padding
    return [(np.asarray(ring, np.float64) - 0.5).round(1).ravel().tolist() for ring in rings if len(ring) > 8]


def runs_of(mask: np.ndarray) -> list[int]:
    """A mask H W -> COCO's run lengths: column by column, pixels outside first."""
    flat = mask.ravel(order="F")
    runs = np.diff([0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1), flat.size]).tolist()
    return [0, *runs] if flat[0] else runs


def as_roboflow(export: Path | str, folder: Path | str) -> None:
    """An unpacked CVAT export's first six photos as Roboflow lays them out: three parts, a parent class 0, its own file names."""
    content, folder = json.loads((Path(export) / "annotations/instances_default.json").read_text()), Path(folder)
    parent = {"id": 0, "name": "site", "supercategory": "none"}
    categories = [parent, *(entry | {"supercategory": "site"} for entry in content["categories"])]
    for part, images in (("train", content["images"][:4]), ("valid", content["images"][4:5]), ("test", content["images"][5:6])):
        (folder / part).mkdir(parents=True, exist_ok=True)
        renamed = []
        for entry in images:
            name = entry["file_name"].replace(".jpg", f"_jpg.rf.{entry['id']:08x}.jpg")
            shutil.copyfile(Path(export) / "images" / entry["file_name"], folder / part / name)
            renamed.append(entry | {"file_name": name})
        ids = {entry["id"] for entry in images}
        annotations = [entry | {"iscrowd": 0} for entry in content["annotations"] if entry["image_id"] in ids]
        written = {"images": renamed, "annotations": annotations, "categories": categories}
        (folder / part / "_annotations.coco.json").write_text(json.dumps(written))


def as_label_studio(export: Path | str, folder: Path | str) -> None:
    """An unpacked CVAT export's first six photos as Label Studio lays them out: result.json, names with backslashes."""
    content, folder = json.loads((Path(export) / "annotations/instances_default.json").read_text()), Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images = [entry | {"file_name": f"images\\{entry['id']:08x}-{entry['file_name']}"} for entry in content["images"][:6]]
    for entry, before in zip(images, content["images"], strict=False):
        shutil.copyfile(Path(export) / "images" / before["file_name"], folder / entry["file_name"].replace("\\", "/"))
    annotations = [entry | {"iscrowd": 0} for entry in content["annotations"] if entry["image_id"] <= 6]
    (folder / "result.json").write_text(json.dumps(content | {"images": images, "annotations": annotations}))


def drawn_by_the_renderer(folder: Path | str, out: Path | str) -> CocoPanoptic:
    """The data set FOLDER with what the renderer drew in place of its truth: the same photos, classes and file names."""
    folder, out = Path(folder), Path(out)
    categories, names, annotations, _ = read_panoptic_json(folder / "panoptic.json")
    id_of, known = {c.name: c.id for c in categories}, {c.id: c.name for c in CATEGORIES}
    entries = []
    for image_id, name in names.items():
        scene = render_scene(SEED + int(Path(name).stem.split("-")[1]), SCENE_SIZE, SCENE_SIZE)
        ids, segments = scene.segment_ids.copy(), {}
        for segment in scene.segments_info:
            old = known[segment["category_id"]]
            new = CLASSES[MEANING[old]] if old in MEANING else STUFF.get(old)
            number = segment["id"] if old in MEANING or new is None else 1000 + id_of[new]  # all stuff of a class is one segment
            ids[scene.segment_ids == segment["id"]] = number if new else 0
            if new:
                segments[number] = {"id": number, "category_id": id_of[new], "iscrowd": 0}
        write_png(out / "panoptic" / annotations[image_id]["file_name"], encode_ids(ids))
        entries.append(annotations[image_id] | {"segments_info": measured(ids, list(segments.values()))})
    images = [{"id": i, "file_name": name, "height": SCENE_SIZE, "width": SCENE_SIZE} for i, name in names.items()]
    written = {"images": images, "annotations": entries, "categories": [c.to_json() for c in categories]}
    write_json(out / "panoptic.json", written)
    return CocoPanoptic(out / "panoptic.json", folder / "images", out / "panoptic")


def schematic() -> Image.Image:
    """From an export to a model: the commands of `minidetr`, and which part of the photos reaches which of them."""
    page = Schematic(8.3, 3.5)
    y, low = 2.85, 0.75
    zipped = page.block(0.85, y, "export", "JSON, photos", kind="data")
    stuff = page.block(2.6, 1.85, "label-stuff", "sky, ground, ...")
    assemble = page.block(4.35, y, "assemble", "paints", kind="fixed")
    site = page.block(6.1, y, "data set", "ids H x W", kind="data")
    check = page.block(7.5, 1.85, "check, show", "looks", kind="fixed", width=1.25)
    split = page.block(6.1, 1.85, "split", "in three", kind="fixed", width=1.0)
    page.arrow(zipped, assemble, text="outlines")
    page.arrow(zipped, (0.85, 1.85), stuff)
    page.text(1.38, 1.95, "photos", va="bottom")
    page.arrow(stuff, (4.35, 1.85), assemble)
    page.arrow(assemble, site)
    page.arrow(site, (7.5, y), check)
    page.arrow(site, split)
    train = page.block(4.1, low, "train", "weights, losses")
    threshold = page.block(2.35, low, "threshold", "chosen", kind="fixed", width=1.2)
    evaluate = page.block(0.85, low, "evaluate", "once", kind="fixed", width=1.2)
    page.arrow(split, (6.1, low), train)
    page.text(5.45, low + 0.06, "train", va="bottom")
    page.arrow(train, threshold)
    page.arrow(threshold, evaluate)
    page.arrow(split, (5.3, 1.85), (5.3, 1.3), (2.35, 1.3), threshold)
    page.text(3.4, 1.34, "val", va="bottom")
    page.arrow((6.1, low), (6.1, 0.25), (0.85, 0.25), evaluate, dashed=True)
    page.text(3.4, 0.12, "test: nothing is chosen on it")
    page.text(0.25, 3.35, "blue: a model computes here; white: files", ha="left")
    return page.picture()


def stuff_on(photo: Image.Image, model: PanopticDETR) -> Image.Image:
    """A photo and the stuff that `label_stuff` finds in it with a model that knows COCO and the default map; shares are printed."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        photo.save(folder / "photo.png")
        shares = label_stuff([folder / "photo.png"], folder / "stuff", model)
        categories, _, annotations, _ = read_panoptic_json(folder / "stuff/panoptic.json")
        (entry,) = annotations.values()
        ids = decode_ids(np.asarray(Image.open(folder / "stuff/panoptic" / entry["file_name"], formats=("PNG",))))
    print(", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005))
    found = Panoptic.of_entries(ids, entry["segments_info"], categories)
    image = np.asarray(photo)
    return pictures.row(
        [image, labelled_overlay(image, found, categories, panels=2)], ["photo", "stuff, as the default map names it"]
    )


def threshold_curves(curves: dict[str, dict[float, float]], marked: dict[str, float]) -> Image.Image:
    """PQ over the score threshold, a line for each part of the photos; dotted lines at the thresholds `marked`."""
    figure = new_figure(8.3, 3.0)
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(list(curve), list(curve.values()), marker="o", markersize=4, label=name)
    for name, threshold in marked.items():
        axes.axvline(threshold, color="#57606a", linestyle=":", linewidth=1.5)
        axes.text(threshold + 0.005, 3, name, rotation=90, fontsize=9, va="bottom", color="#57606a")
    axes.set(xlabel="score threshold", ylabel="PQ, percent", ylim=(0, 100), xlim=(0.08, 0.97))
    axes.legend(fontsize=9, loc="upper right")
    return picture_of(figure)


def lost_bars(page: Path | str) -> Image.Image:
    """What each class loses of its PQ and to what, from the numbers beside the page (why.json) of `evaluate --why`."""
    content = json.loads((Path(page) / "why.json").read_text())
    rows = [entry for entry in content["classes"].values() if entry["lost"]]
    figure = new_figure(8.3, 0.42 * len(rows) + 1.5)
    axes = figure.subplots()
    ends = np.zeros(len(rows))
    for reason in content["lost"]:
        shares = 100 * np.array([entry["lost"].get(reason, 0.0) for entry in rows])
        axes.barh([entry["name"] for entry in rows], shares, left=ends, color=COLORS[reason], label=content["reasons"][reason])
        ends += shares
    axes.invert_yaxis()
    axes.set(xlabel="points of the class's PQ that are lost", xlim=(0, max(60, 1.02 * ends.max())))
    figure.legend(fontsize=8, ncols=2, loc="outside lower center")
    return picture_of(figure)


# --- exercises --------------------------------------------------------------------------------------------------------------


@exercise
def mask_of_runs(attempt: Callable) -> None:
    """COCO's run lengths as pixels: `attempt(counts, height, width)` -> H W bool."""
    rng = np.random.default_rng(0)
    for height, width, first in ((5, 8, False), (7, 4, True), (3, 11, False)):
        mask = ndimage.binary_dilation(rng.random((height, width)) > 0.8)
        mask[0, 0], mask[-1, -1] = first, not first
        counts = runs_of(mask)
        found = map_of(attempt(list(counts), height, width), (height, width)).astype(bool)
        flat = mask.ravel(order="F")
        require(not np.array_equal(found, ~mask), "inside and outside are exchanged: the first number counts pixels outside.")
        by_rows = np.array_equal(found, flat.reshape(height, width))
        require(not by_rows, "the runs go down each column, one column after the other, not along the rows.")
        turned = np.array_equal(found.ravel(order="F")[: width * height], flat.reshape(height, width).ravel(order="F"))
        require(not turned, "the runs go down each column, one column after the other.")
        if first:
            started = np.array_equal(found, mask)
            require(started, "a mask that begins inside has 0 as its first number: no pixel outside, then the first run inside.")
        require(np.array_equal(found, mask), f"the pixels of the runs {counts} in {height} x {width} are others.")


def inside(points: Sequence[float] | np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels whose centres lie in a polygon (even-odd rule), and those whose centres lie so close to an edge that both will do."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    corners = np.array(points, float).reshape(-1, 2)
    within, close = np.zeros((height, width), bool), np.zeros((height, width), bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crosses = (ay > y) != (by > y)
        within ^= crosses & (x < ax + (bx - ax) * (y - ay) / ((by - ay) or 1))
        share = (((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / max((bx - ax) ** 2 + (by - ay) ** 2, 1e-9)).clip(0, 1)
        close |= np.hypot(x - ax - share * (bx - ax), y - ay - share * (by - ay)) < 1e-3
    return within, close


@exercise
def polygon_mask(attempt: Callable) -> None:
    """A polygon as pixels: `attempt(points, height, width)` for [x0, y0, x1, y1, ...] -> H W bool."""
    for points in ([2, 1, 10.2, 3.3, 4.1, 6.8], [1, 2, 7, 2, 7, 5, 1, 5], [0, 0, 9, 0, 9, 6, 6, 6, 6, 2.2, 0, 2.2]):
        wanted, either = inside(points, 8, 11)
        found = map_of(attempt(list(points), 8, 11), (8, 11)).astype(bool)
        swapped, _ = inside(np.array(points).reshape(-1, 2)[:, ::-1].ravel(), 8, 11)
        require(not np.array_equal(found, swapped), "x and y are exchanged: a point is (x, y), a pixel is mask[row, column].")
        moved, touched = inside(np.array(points) + 0.5, 8, 11)
        sure = ~either & ~touched
        corners = np.array_equal(found[sure], moved[sure]) and not np.array_equal(moved[sure], wanted[sure])
        require(not corners, "this asks the pixels' corners: their centres lie at x + 0.5, y + 0.5.")
        require(
            found[~either].sum() <= wanted[~either].sum(),
            f"too many pixels, {found.sum()} instead of {wanted.sum()}: those that only touch the outline stay outside.",
        )
        require(np.array_equal(found[~either], wanted[~either]), f"the pixels inside of {points} are others.")


@exercise
def paint(attempt: Callable) -> None:
    """Things over stuff, smaller over larger: `attempt(stuff, masks, classes)` -> H W classes."""
    stuff = np.full((6, 9), 20)
    stuff[:2], stuff[5, 8] = 30, 0
    masks = np.zeros((4, 6, 9), bool)
    masks[0, 2:4, 2:4] = True  # small, and listed first
    masks[1, 1:6, 1:7] = True
    masks[2, 4:, 5:] = True
    masks[3, 0, 0] = True
    classes = [7, 2, 5, 3]
    wanted = stuff.copy()
    for k in (1, 2, 0, 3):
        wanted[masks[k]] = classes[k]
    given = stuff.copy()
    found = map_of(attempt(given, masks.copy(), list(classes)), (6, 9))
    require(np.array_equal(given, stuff), "the stuff map itself was changed: paint on a copy.")
    require((found[masks.any(0)] < 10).all(), "stuff covers a thing: lay the stuff first, then the things over it.")
    require(np.array_equal(found[~masks.any(0)], stuff[~masks.any(0)]), "where there is no thing, the stuff below should show.")
    require((found[2:4, 2:4] == 7).all(), "the small thing is hidden under the large one: paint from the largest to the smallest.")
    require(np.array_equal(found, wanted), "the classes differ from: stuff, then things from the largest to the smallest.")


@exercise
def split_groups(attempt: Callable) -> None:
    """`attempt(groups, shares)`: the group of each photo, {part: share} -> {part: photos}; a group is never divided."""
    rng = np.random.default_rng(1)
    for count, of_groups, shares in ((60, 25, {"train": 0.7, "val": 0.2, "test": 0.1}), (41, 41, {"train": 0.5, "test": 0.5})):
        groups = rng.integers(0, of_groups, count).tolist() if of_groups < count else list(range(count))
        found = answer(attempt(list(groups), dict(shares)))
        require(
            isinstance(found, dict) and set(found) == set(shares), f"the result should be a dictionary with {', '.join(shares)}."
        )
        parts = {name: [int(i) for i in photos] for name, photos in found.items()}
        every = sorted(i for photos in parts.values() for i in photos)
        require(len(every) == len(set(every)), "a photo is in two parts.")
        require(every == list(range(count)), f"every one of the photos 0 to {count - 1} belongs to some part.")
        of = {name: {groups[i] for i in photos} for name, photos in parts.items()}
        torn = [a for a in of for b in of if a < b and of[a] & of[b]]
        require(not torn, "photos of one group lie in two parts: deal out whole groups, not photos.")
        largest = max(groups.count(g) for g in set(groups))
        for name, share in shares.items():
            off = abs(len(parts[name]) - share * count)
            require(off <= largest, f"{name} has {len(parts[name])} of {count} photos, its share would be {share * count:.0f}.")


LEAKS = {3, 5, 6}


@exercise
def leaks(attempt: Any) -> None:
    """Which of the six steps let the test photos decide something: a set of numbers."""
    found = answer(attempt)
    require(isinstance(found, set | list | tuple), "give a set of numbers, such as {1, 2}.")
    found = {int(number) for number in found}
    require(1 not in found, "1 is none: the test photos are looked at once, after every choice has been made.")
    require(2 not in found, "2 is none: threshold and weights were chosen on validation photos, which is what these are for.")
    require(4 not in found, "4 is none: a mistake in the truth is mended in all parts alike, whatever any model says.")
    missing = {
        3: "one is missing: photos of one second are nearly the same photo, so who trains on one has seen the other.",
        5: "one is missing: the best of three on the test photos was chosen on them, so its score flatters.",
        6: "one is missing: leaving out the photos on which the model is bad is a choice by the test score.",
    }
    for number, words in missing.items():
        require(number in found, words)
    require(found == LEAKS, "there are only six steps, 1 to 6.")
