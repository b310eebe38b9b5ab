"""Annotation exports: geometry of every kind, one rule for overlaps, real warts told, files that a data set can be read from."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from minidetr.curate.assemble import assemble, draw
from minidetr.curate.check import check
from minidetr.curate.export import read_export
from minidetr.curate.outlines import counts_of_text, mask_of_polygons, outlines_of
from minidetr.data.coco import CocoPanoptic
from minidetr.errors import InputError
from minidetr.evaluate import box_average_precision
from minidetr.panoptic import Category, encode_ids, write_json, write_png

SKY, GROUND, CONE, TRUCK = 1, 2, 5, 9
CATEGORIES = {c.id: c for c in (Category(SKY, "sky", False), Category(GROUND, "ground", False))} | {
    c.id: c for c in (Category(CONE, "cone", True, (255, 0, 0)), Category(TRUCK, "truck", True))
}


def rectangle(left, top, right, bottom) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def annotation(number, category_id, *polygons, **more) -> dict:
    return {"id": number, "image_id": 1, "category_id": category_id, "segmentation": list(polygons), "iscrowd": 0} | more


def run(annotations, size=(8, 10), order="smaller", below=None):
    """Category ids H x W (0 = void), the segments, the findings."""
    findings = defaultdict(list)
    outlines = outlines_of(annotations, CATEGORIES, size, "e.json", findings)
    ids, segments = draw(outlines, size, order, findings, below)
    table = np.array([0] + [s["category_id"] for s in segments])
    assert [s["id"] for s in segments] == list(range(1, len(segments) + 1))
    return table[ids], segments, dict(findings)


# --- overlaps


def test_things_lie_over_stuff_and_stuff_of_a_class_is_one_segment():
    classes, segments, findings = run(
        [
            annotation(1, CONE, rectangle(4, 2, 6, 6)),
            annotation(2, SKY, rectangle(0, 0, 5, 8)),  # larger than the cone, and listed later
            annotation(3, SKY, rectangle(7, 0, 9, 3)),
        ]
    )
    expected = np.zeros((8, 10), int)
    expected[0:8, 0:5] = SKY
    expected[0:3, 7:9] = SKY
    expected[2:6, 4:6] = CONE
    np.testing.assert_array_equal(classes, expected)
    assert segments == [
        {"id": 1, "category_id": CONE, "area": 8, "bbox": [4, 2, 2, 4], "iscrowd": 0},
        {"id": 2, "category_id": SKY, "area": 40 - 4 + 6, "bbox": [0, 0, 9, 8], "iscrowd": 0},
    ]
    assert findings == {}


@pytest.mark.parametrize(
    ("order", "areas", "hidden"),
    [
        ("smaller", [24 - 4 - 2, 6 - 2, 4], []),
        ("larger", [24, 6 - 4], ["annotation 3"]),
        ("listed", [24 - 4 - 2, 6 - 2, 4], []),
    ],
)
def test_the_order_of_things(order, areas, hidden):
    things = [
        annotation(1, TRUCK, rectangle(0, 0, 6, 4)),  # 24 pixels
        annotation(2, CONE, rectangle(4, 2, 7, 4)),  # 6, of them 4 over the truck
        annotation(3, TRUCK, rectangle(5, 2, 6, 4), rectangle(0, 0, 1, 2)),  # 2 over both, 2 over the truck: one segment
    ]
    _, segments, findings = run(things, order=order)
    assert [s["area"] for s in segments] == areas and findings.get("hidden", []) == hidden


def test_listed_puts_the_later_on_top_where_smaller_does_not():
    things = [annotation(1, CONE, rectangle(1, 1, 3, 3)), annotation(2, TRUCK, rectangle(0, 0, 8, 8))]
    assert [s["category_id"] for s in run(things)[1]] == [CONE, TRUCK]
    _, segments, findings = run(things, order="listed")
    assert [(s["id"], s["category_id"]) for s in segments] == [(1, TRUCK)] and findings == {"hidden": ["annotation 1"]}
    equal = [annotation(1, CONE, rectangle(0, 0, 4, 4)), annotation(2, TRUCK, rectangle(1, 0, 5, 4))]
    assert [s["area"] for s in run(equal)[1]] == [4, 16]  # of equal size: the later


def test_a_crowd_lies_between_stuff_and_things_and_stays_a_crowd():
    counts = [0, 32, 48]  # the four columns on the left
    crowd = annotation(1, CONE, iscrowd=1) | {"segmentation": {"size": [8, 10], "counts": counts}}
    annotations = [crowd, annotation(2, TRUCK, rectangle(2, 0, 10, 8)), annotation(3, SKY, rectangle(0, 0, 2, 2))]
    classes, segments, findings = run(annotations)
    assert [(s["category_id"], s["area"], s["iscrowd"]) for s in segments] == [(CONE, 16, 1), (TRUCK, 64, 0)]
    assert findings == {"crowd": ["annotation 1"], "hidden": ["annotation 3"]}
    stuff = annotation(4, SKY, rectangle(0, 0, 10, 8), iscrowd=1)
    assert run([stuff])[1][0]["iscrowd"] == 0  # stuff is not counted, so it cannot be a crowd


def test_what_lies_below_fills_the_void_and_joins_its_class():
    below = np.full((8, 10), -1)
    below[:, :5], below[:, 5:8] = SKY, GROUND
    classes, segments, _ = run([annotation(1, CONE, rectangle(0, 0, 2, 2)), annotation(2, SKY, rectangle(7, 0, 9, 8))], below=below)
    expected = np.zeros((8, 10), int)
    expected[:, :5], expected[:, 5:7], expected[:, 7:9], expected[:2, :2] = SKY, GROUND, SKY, CONE
    np.testing.assert_array_equal(classes, expected)
    assert [s["category_id"] for s in segments] == [CONE, SKY, GROUND]


# --- geometry


@pytest.mark.parametrize("seed", range(20))
def test_polygons_and_run_lengths_are_drawn_as_pycocotools_draws_them(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(5, 40, 2).tolist()
    # Some reach out of the image; sorted by angle, so that all wind one way.
    polygons = []
    for _ in range(rng.integers(1, 4)):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        centre, radius = rng.uniform(0, [width, height]), rng.uniform(0.5, 12)
        points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
        polygons.append(np.clip(points, [-width, -height], [2 * width, 2 * height]).ravel().tolist())
    encoded = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    expected = coco_mask.decode(encoded).astype(bool)
    window, mask = mask_of_polygons(polygons, (height, width), "here")
    drawn = np.zeros((height, width), bool)
    drawn[window] = mask
    np.testing.assert_array_equal(drawn, expected)

    compressed = encoded["counts"].decode()
    plain = counts_of_text(compressed)
    for counts in (compressed, plain):
        rle = annotation(1, CONE) | {"segmentation": {"size": [height, width], "counts": counts}}
        outlines = outlines_of([rle], CATEGORIES, (height, width))
        if expected.any():
            drawn = np.zeros((height, width), bool)
            drawn[outlines[0].window] = outlines[0].mask
            np.testing.assert_array_equal(drawn, expected)
        assert len(outlines) == expected.any()


def test_long_runs_of_compressed_counts():
    rng = np.random.default_rng(1)
    mask = np.asfortranarray(np.repeat(rng.integers(0, 2, (1, 60)), 900, axis=0).astype(np.uint8))  # runs of thousands
    text = coco_mask.encode(mask)["counts"].decode()
    counts = counts_of_text(text)
    assert max(counts) > 2**10 and sum(counts) == mask.size
    values = np.repeat(np.arange(len(counts)) % 2, counts).reshape(mask.shape, order="F")
    np.testing.assert_array_equal(values, mask)


def reverse(polygon: list[float]) -> list[float]:
    return np.array(polygon).reshape(-1, 2)[::-1].ravel().tolist()


def test_holes_wind_the_other_way_and_islands_lie_in_them():
    outer, hole, island = rectangle(0, 0, 10, 8), rectangle(2, 2, 8, 7), rectangle(4, 4, 6, 6)
    _, segments, findings = run([annotation(1, SKY, reverse(hole), island, outer)])
    assert segments[0]["area"] == 80 - 30 + 4 and findings == {"hole": ["annotation 1 segmentation[0]"]}
    assert run([annotation(1, SKY, hole, outer)])[1][0]["area"] == 80  # winds the same way: COCO's union
    beside = reverse(rectangle(7, 0, 10, 8))  # winds the other way, but lies mostly beside the first: a part drawn by hand
    _, segments, findings = run([annotation(1, CONE, rectangle(0, 0, 8, 8), beside)])
    assert segments[0]["area"] == 80 and findings == {}


def test_warts_are_drawn_as_far_as_they_can_be_and_told():
    annotations = [
        annotation(1, CONE, [1, 1, 3, 3], rectangle(0, 0, 2, 2)),  # a line, and a polygon
        annotation(2, TRUCK, bbox=[4.2, 1, 2.9, 3]),  # a box alone
        annotation(3, CONE, rectangle(8, 6, 12, 9)),  # leaves the image
        annotation(4, CONE, rectangle(11, 9, 12, 10)),  # lies outside
        annotation(5, CONE, [1, 1, 3, 3]),
        annotation(6, CONE, rectangle(5.1, 5.1, 5.3, 5.3)),  # too small for a pixel
    ]
    classes, segments, findings = run(annotations)
    assert [(s["category_id"], s["area"], s["bbox"]) for s in segments] == [
        (CONE, 4, [0, 0, 2, 2]),
        (TRUCK, 9, [4, 1, 3, 3]),
        (CONE, 4, [8, 6, 2, 2]),
    ]
    assert findings == {
        "thin": ["annotation 1 segmentation[0]", "annotation 5 segmentation[0]"],
        "rectangle": ["annotation 2"],
        "outside": ["annotation 3", "annotation 4"],
        "empty": ["annotation 4", "annotation 5", "annotation 6"],
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": [[1, 1, 3, 1, 3]]}, r"segmentation\[0\].*even number"),
        ({"segmentation": [[1, 1, 3, 1, 3, "3"]]}, r"segmentation\[0\].*finite numbers"),
        ({"segmentation": [[1, 1, 3, 1, 3, float("nan")]]}, r"segmentation\[0\].*finite numbers"),
        ({"segmentation": [1, 1, 3, 1, 3, 3]}, r"segmentation\[0\] must be a list of x, y"),
        ({"segmentation": "none"}, r"'segmentation' must be a list of polygons"),
        ({"segmentation": [[1, 1, 1e9, 1, 3, 3]]}, r"segmentation\[0\] lies far outside .* 10 x 8 pixels"),
        ({"segmentation": {"size": [10, 8], "counts": [80]}}, r"segmentation.size must be \[8, 10\].*\[10, 8\]"),
        ({"segmentation": {"size": [8, 10], "counts": [1, 2]}}, r"segmentation.counts must add up to the 8 x 10"),
        ({"segmentation": {"size": [8, 10], "counts": [90, -10]}}, r"segmentation.counts"),
        ({"segmentation": {"size": [8, 10], "counts": "~~"}}, r"segmentation.counts"),
        ({"segmentation": {"size": [8, 10], "counts": "oo0P"}}, r"segmentation.counts"),
        ({"segmentation": {"size": [8, 10]}}, r"segmentation.counts"),
        ({"segmentation": [], "bbox": [1, 2, 3]}, r"no outline in 'segmentation' and no four numbers in 'bbox'"),
        ({"segmentation": []}, r"no outline in 'segmentation' and no four numbers in 'bbox'"),
        ({"segmentation": [], "bbox": [1, 2, 3, float("inf")]}, r"'bbox' .*finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(change, message):
    with pytest.raises(InputError, match=rf"^e\.json: annotation 7.*{message}"):
        outlines_of([annotation(7, CONE) | change], CATEGORIES, (8, 10), "e.json")


def test_an_unknown_order_is_refused():
    with pytest.raises(InputError, match="smaller, larger, listed"):
        draw([], (8, 10), "biggest")


# --- files


@pytest.fixture
def export(tmp_path) -> Path:
    """An export of two photos, the second without an annotation."""
    photos = tmp_path / "photos"
    (photos / "b").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
    Image.fromarray(noise).save(photos / "a.png")
    Image.fromarray(noise[:6, :5]).save(photos / "b" / "c.jpg", quality=90)
    content = {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 10, "height": 8},
            {"id": 2, "file_name": "b/c.jpg", "width": 5, "height": 6},
        ],
        "annotations": [
            annotation(1, CONE, rectangle(4, 2, 6, 6)),
            annotation(2, SKY, rectangle(0, 0, 10, 4)),
            annotation(3, TRUCK, rectangle(5, 3, 10, 8)),
        ],
        "categories": [category.to_json() for category in CATEGORIES.values()],
    }
    (tmp_path / "export.json").write_text(json.dumps(content))
    return tmp_path / "export.json"


def edit(export: Path, change) -> None:
    content = json.loads(export.read_text())
    change(content)
    export.write_text(json.dumps(content))


def test_the_result_is_a_data_set(export, tmp_path):
    report = assemble(export, tmp_path / "photos", tmp_path / "out")
    dataset = CocoPanoptic.from_folder(tmp_path / "out")  # which checks ids, sizes and categories
    assert dataset.categories == list(CATEGORIES.values())
    (photo, ids, segments), (_, empty, none) = dataset.read(0), dataset.read(1)
    assert [(s["category_id"], s["area"]) for s in segments] == [(CONE, 8), (SKY, 40 - 4 - 4), (TRUCK, 25 - 3)]
    assert (ids[3, 5], ids[7, 9], ids[7, 0], empty.shape, empty.any(), none) == (1, 3, 0, (6, 5), False, [])
    np.testing.assert_array_equal(np.asarray(photo), np.asarray(Image.open(tmp_path / "photos" / "a.png")))

    detection = json.loads((tmp_path / "out" / "detection.json").read_text())
    assert [(a["image_id"], a["category_id"], a["bbox"], a["area"]) for a in detection["annotations"]] == [
        (1, s["category_id"], s["bbox"], s["area"]) for s in segments
    ]
    perfect = [a | {"score": 1.0} for a in detection["annotations"]]
    assert box_average_precision(tmp_path / "out" / "detection.json", perfect)["AP"] == pytest.approx(1)

    void = 80 - 8 - 32 - 22 + 30
    assert (report.images, report.things, report.stuff, report.void, report.pixels) == (2, 2, 1, void, 110)
    text = report.summary()
    assert "2 images, 2 thing and 1 stuff" in text and "sky, ground" in text and "hard-linked (2)" in text
    assert "1 x image has no annotation" in text and "b/c.jpg" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["export.json", "out", "photos"]


def test_without_photos_the_sizes_are_enough(export, tmp_path):
    assemble(export, tmp_path / "photos", tmp_path / "with")
    assemble(export, None, tmp_path / "without")
    assert not (tmp_path / "without" / "images").exists()
    for name in ("panoptic.json", "detection.json", "panoptic/a.png", "panoptic/b/c.png"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes(), name
    edit(export, lambda content: content["images"][1].pop("width"))
    edit(export, lambda content: content["images"][1].pop("height"))
    with pytest.raises(InputError, match=r"export\.json: image 2 has no 'height' and 'width'"):
        assemble(export, None, tmp_path / "again")
    assemble(export, tmp_path / "photos", tmp_path / "again")  # the photo says it


@pytest.mark.parametrize("annotated_upright", [True, False])
def test_rotated_photos_are_saved_as_they_were_annotated(export, tmp_path, annotated_upright):
    pixels = np.zeros((6, 10, 3), np.uint8)
    pixels[:3] = 255  # as stored: white above black; upright, turned clockwise: white at the right
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "photos" / "b" / "c.jpg", quality=95, exif=exif)
    width, height = (6, 10) if annotated_upright else (10, 6)
    edit(export, lambda content: content["images"][1].update(width=width, height=height))
    report = assemble(export, tmp_path / "photos", tmp_path / "out")
    image, ids, _ = CocoPanoptic.from_folder(tmp_path / "out").read(1)
    assert image.size == (width, height) and ids.shape == (height, width)
    seen = np.asarray(image).mean(2)
    light, dark = (seen[:, 3:], seen[:, :3]) if annotated_upright else (seen[:3], seen[3:])
    assert light.min() > 200 and dark.max() < 50
    plain = Image.open(tmp_path / "out" / "images" / "b" / "c.jpg")
    assert plain.size == image.size and not plain.getexif().get(0x0112)  # every reader sees it so
    assert report.findings["turned" if annotated_upright else "unturned"] == ["b/c.jpg"]
    assert Image.open(tmp_path / "photos" / "b" / "c.jpg").size == (10, 6)  # the original is untouched


def test_outlines_beyond_a_size_read_without_the_rotation_are_those_of_the_upright_photo(export, tmp_path):
    """Sizes by Pillow, which ignores EXIF, outlines by a viewer that does not (6 x 10 upright)."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (10, 6)).save(tmp_path / "photos" / "b" / "c.jpg", exif=exif)
    edit(export, lambda content: content["images"][1].update(width=10, height=6))
    drawn = annotation(9, CONE, [1, 7, 5, 7, 5, 10, 1, 10]) | {"image_id": 2}
    edit(export, lambda content: content.update(annotations=[drawn]))
    report = assemble(export, tmp_path / "photos", tmp_path / "out")
    image, ids, entries = CocoPanoptic.from_folder(tmp_path / "out").read(1)
    assert image.size == (6, 10) and ids.shape == (10, 6) and [entry["area"] for entry in entries] == [12]
    assert report.findings["turned"] == ["b/c.jpg"] and not report.findings["unturned"]


def test_a_turned_photo_loses_little_whatever_its_format(export, tmp_path):
    """Phones write MPO under .jpg: a JPEG with another one behind it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    noise.save(tmp_path / "photos" / "b" / "c.jpg", "MPO", quality=95, save_all=True, append_images=[noise], exif=exif)
    noise.save(tmp_path / "photos" / "a.jpg", "WEBP", lossless=True, exif=exif)
    names = ("a.jpg", "b/c.jpg")
    edit(export, lambda content: [image.update(width=64, height=96) for image in content["images"]])
    edit(export, lambda content: [image.update(file_name=name) for image, name in zip(content["images"], names, strict=True)])
    assemble(export, tmp_path / "photos", tmp_path / "out")
    upright = np.asarray(noise.transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert (np.asarray(Image.open(tmp_path / "out/images/a.jpg").convert("RGB")) == upright).all()
    again = Image.open(tmp_path / "out/images/b/c.jpg")
    assert again.format == "JPEG" and again.size == (64, 96)
    assert again.quantization[0][0] <= 2  # quality 95, and not Pillow's 75, where it is 8


@pytest.mark.parametrize(
    ("stuff", "names"),
    [
        (None, ["sky", "ground"]),
        (["cone"], ["cone"]),
        (["1-4", "truck"], ["sky", "ground", "truck"]),
        (["5", "9"], ["cone", "truck"]),
    ],
)
def test_who_is_stuff(export, stuff, names):
    assert [c.name for c in read_export(export, stuff).categories.values() if not c.is_thing] == names


def test_without_isthing_a_category_is_of_things(export):
    edit(export, lambda content: [c.pop("isthing") for c in content["categories"]])
    assert all(c.is_thing for c in read_export(export).categories.values())
    assert [c.is_thing for c in read_export(export, ["1-2"]).categories.values()] == [False, False, True, True]


@pytest.mark.parametrize("text", ["grass", "20-30", "1-", ""])
def test_unknown_stuff_is_refused(export, text):
    with pytest.raises(InputError, match=rf"export\.json has no category '{text}'"):
        read_export(export, ["sky", text])


def put(kind, index, **values):
    return lambda content: content[kind][index].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("images"), "no list 'images'"),
        (lambda content: content.pop("annotations"), "no list 'annotations'"),
        (lambda content: content["categories"].clear(), "no list 'categories'"),
        (put("images", 1, id=1), r"images\[1\]: the image id 1 occurs twice"),
        (put("images", 1, file_name="../d.jpg"), r"images\[1\].*must lie inside"),
        (put("images", 1, width=10**6, height=10**6), r"images\[1\].*more than 90 million pixels"),
        (put("categories", 1, id=1), r"categories\[1\].* 1 occurs twice"),
        (put("categories", 1, isthing="no"), r"categories\[1\].*'isthing'"),
        (put("categories", 1, name=None), r"categories\[1\].*'name'"),
        (put("annotations", 1, image_id=7), r"annotations\[1\] \(annotation 2\): no image has the image_id 7"),
        (put("annotations", 1, category_id=7), r"annotations\[1\] \(annotation 2\): no category has the category_id 7"),
        (put("annotations", 1, category_id=None), r"annotations\[1\].*'category_id'"),
        (put("annotations", 1, iscrowd=2), r"annotations\[1\] \(annotation 2\).*'iscrowd'"),
        (lambda content: content["annotations"].append(None), r"annotations\[3\].*'image_id'"),
        (put("annotations", 2, segmentation=[[1, 2, 3, 4, 5]]), r"annotation 3.*segmentation\[0\]"),
        (put("images", 1, width=6), r"c\.jpg is 5 x 6 pixels, but .*export\.json says 6 x 6 of image 2"),
        (put("images", 1, file_name="d.jpg"), r"d\.jpg is not there, but .*export\.json names it"),
    ],
)
def test_a_broken_export_is_refused_and_nothing_is_written(export, tmp_path, change, message):
    edit(export, change)
    with pytest.raises(InputError, match=message):
        assemble(export, tmp_path / "photos", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["export.json", "photos"]


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (put("images", 1, file_name="../c.jpg"), "name-found"),
        (put("images", 1, width="5"), "id-text"),
        (put("images", 1, width=0), "size-unsaid"),
        (put("annotations", 0, image_id="1"), "id-text"),
        (put("annotations", 0, iscrowd=None), "flag-text"),
        (put("categories", 2, name="sky"), "name-twice"),
    ],
)
def test_what_means_one_thing_only_is_read_and_told(export, tmp_path, change, finding):
    assemble(export, tmp_path / "photos", tmp_path / "right")
    edit(export, change)
    report = assemble(export, tmp_path / "photos", tmp_path / "out")
    assert len(report.findings[finding]) == 1
    for name in ("panoptic/a.png", "panoptic/b/c.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "right" / name).read_bytes()


def test_a_class_of_crowds_is_said_loudly_and_can_be_read_as_objects(export, tmp_path):
    """CVAT's exporter writes iscrowd 1 for every brush or AI mask (cvat#4185 and others)."""
    edit(export, lambda content: [entry.update(iscrowd=1) for entry in content["annotations"]])
    report = assemble(export, tmp_path / "photos", tmp_path / "out")
    assert report.summary().startswith("ATTENTION:") and "--crowds as-objects" in report.summary().splitlines()[0]

    def crowd_flags(name: str) -> list[int]:
        data = CocoPanoptic.from_folder(tmp_path / name)
        return [entry["iscrowd"] for index in range(len(data)) for entry in data.read(index)[2]]

    report = assemble(export, tmp_path / "photos", tmp_path / "objects", crowds="as-objects")
    assert any(crowd_flags("out")) and not any(crowd_flags("objects"))
    assert len(report.findings["crowd-read"]) == sum(crowd_flags("out"))


def test_orphans_are_left_out_when_asked(export, tmp_path):
    def spoil(content):
        content["annotations"].append(content["annotations"][0] | {"id": 90, "image_id": 77})
        content["images"].append({"id": 3, "file_name": "gone.jpg", "width": 4, "height": 4})
        content["annotations"].append(content["annotations"][0] | {"id": 91, "image_id": 3})
        content["images"].append({"id": 4, "file_name": "broken.jpg", "width": 4, "height": 4})

    edit(export, spoil)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no photo")
    with pytest.raises(InputError, match=r"no image has the image_id 77.*--skip-missing"):
        assemble(export, tmp_path / "photos", tmp_path / "out")
    report = assemble(export, tmp_path / "photos", tmp_path / "out", skip_missing=True)
    assert report.images == 2 and len(CocoPanoptic.from_folder(tmp_path / "out")) == 2
    assert {kind: len(report.findings[kind]) for kind in ("orphan", "no-photo", "unreadable")} == {
        "orphan": 1,
        "no-photo": 1,
        "unreadable": 1,
    }


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"[" * 100_000])
def test_what_is_no_export_is_refused(tmp_path, content):
    (tmp_path / "export.json").write_bytes(content)
    with pytest.raises(InputError, match=r"export\.json"):
        read_export(tmp_path / "export.json")
    with pytest.raises(InputError, match=r"other\.json cannot be read"):
        read_export(tmp_path / "other.json")


def test_a_used_folder_is_only_replaced_when_asked(export, tmp_path):
    assemble(export, None, tmp_path / "out")
    with pytest.raises(InputError, match="--overwrite"):
        assemble(export, None, tmp_path / "out")
    assemble(export, tmp_path / "photos", tmp_path / "out", overwrite=True)
    assert len(list(CocoPanoptic.from_folder(tmp_path / "out"))) == 2
    with pytest.raises(InputError, match="nowhere is not a folder"):
        assemble(export, tmp_path / "nowhere", tmp_path / "out2")


def test_photos_nobody_asked_for_are_told(export, tmp_path):
    Image.new("RGB", (3, 3)).save(tmp_path / "photos" / "b" / "stray.jpg")
    assert assemble(export, tmp_path / "photos", tmp_path / "out").findings["extra"] == ["b/stray.jpg"]
    assert not (tmp_path / "out" / "images" / "b" / "stray.jpg").exists()


# --- predicted stuff below


@pytest.fixture
def below(tmp_path) -> Path:
    """Stuff as label_stuff writes it, for both photos: sky on the left, and water, which the export does not know."""
    folder = tmp_path / "stuff"
    (folder / "panoptic" / "b").mkdir(parents=True)
    annotations = []
    for number, (stem, height, width) in enumerate([("a", 8, 10), ("b/c", 6, 5)], start=1):
        ids = np.full((height, width), 2, np.int32)
        ids[:, :3], ids[0, -1] = 1, 0
        Image.fromarray(encode_ids(ids)).save(folder / "panoptic" / f"{stem}.png")
        segments = [{"id": 1, "category_id": 7}, {"id": 2, "category_id": 8}]
        annotations.append({"image_id": number, "file_name": f"{stem}.png", "segments_info": segments})
    content = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "B/C.JPG"}],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "Sky", "isthing": 0}, {"id": 8, "name": "water", "isthing": 0}],
    }
    (folder / "panoptic.json").write_text(json.dumps(content))
    return folder


def test_many_small_masks_take_little_memory():
    height, width = 600, 800
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[100:110, 200:230] = 1
    runs = {"size": [height, width], "counts": coco_mask.encode(mask)["counts"].decode()}
    outlines = outlines_of([annotation(i, CONE) | {"segmentation": runs} for i in range(50)], CATEGORIES, (height, width))
    assert (
        sum(outline.mask.base.nbytes if outline.mask.base is not None else outline.mask.nbytes for outline in outlines) == 50 * 300
    )


def test_predicted_stuff_lies_under_and_its_new_classes_are_added(export, below, tmp_path):
    assemble(export, tmp_path / "photos", tmp_path / "out", under=below)
    dataset = CocoPanoptic.from_folder(tmp_path / "out")
    assert [(c.id, c.name) for c in dataset.categories] == [(1, "sky"), (2, "ground"), (5, "cone"), (9, "truck"), (10, "water")]
    _, ids, segments = dataset.read(0)
    assert [s["category_id"] for s in segments] == [CONE, SKY, TRUCK, 10]
    assert segments[1]["area"] == 32 + 3 * 4 and (ids > 0).all()  # sky by hand and sky predicted are one segment
    _, ids, segments = dataset.read(1)
    assert [(s["category_id"], s["area"]) for s in segments] == [(SKY, 18), (10, 11)] and (ids == 0).sum() == 1


def test_predicted_stuff_is_that_of_the_same_path(tmp_path):
    """north/1.jpg and south/1.jpg, 2.jpg and 2.png, 3.jpg labelled and 3.png exported: each finds its own, and no other does."""
    labelled = {"1.jpg": 1, "2.JPG": 2, "2.png": 3, "north/1.jpg": 4, "south/1.jpg": 5, "3.jpg": 6}
    images, annotations = [], []
    for number, (name, left) in enumerate(labelled.items(), start=1):
        ids = np.ones((2, 9), np.int32)
        ids[:, left:] = 0
        write_png(tmp_path / "stuff" / "panoptic" / f"{number}.png", encode_ids(ids))
        images.append({"id": number, "file_name": name})
        segments = [{"id": 1, "category_id": 1}]
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
    sky = [{"id": 1, "name": "sky", "isthing": 0}]
    write_json(tmp_path / "stuff" / "panoptic.json", {"images": images, "annotations": annotations, "categories": sky})

    def exported(*names):
        images = [{"id": number, "file_name": name, "width": 9, "height": 2} for number, name in enumerate(names, start=1)]
        write_json(tmp_path / "export.json", {"images": images, "annotations": [], "categories": sky})
        return tmp_path / "export.json"

    names = {"South/1.jpg": 5, "north/1.jpg": 4, "1.jpg": 1, "2.jpg": 2, "3.png": 6}  # 2.png beside 2.jpg is refused elsewhere
    assemble(exported(*names), None, tmp_path / "out", stuff=["sky"], under=tmp_path / "stuff")
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    areas = [annotation["segments_info"][0]["area"] // 2 for annotation in content["annotations"]]
    found = dict(zip((image["file_name"] for image in content["images"]), areas, strict=True))
    assert found == names
    for name in ("west/1.jpg", "2.webp"):  # of another folder; of which of the two?
        with pytest.raises(InputError, match=rf"no image like {name} \(1 missing\)"):
            assemble(exported(name), None, tmp_path / "other", stuff=["sky"], under=tmp_path / "stuff")


@pytest.mark.parametrize(
    ("kind", "index", "values", "message"),
    [
        ("categories", 1, {"name": "truck"}, r"'truck' is a thing in .*export\.json: rename one"),
        ("categories", 1, {"isthing": 1}, r"'water' is a thing: only stuff"),
        ("images", 1, {"file_name": "x.jpg"}, r"has no image like b/c\.jpg"),
        ("annotations", 1, {"file_name": "a.png"}, r"a\.png is 10 x 8 pixels, but b/c\.jpg is 5 x 6"),
    ],
)
def test_predicted_stuff_that_does_not_fit_is_refused(export, below, tmp_path, kind, index, values, message):
    edit(below / "panoptic.json", put(kind, index, **values))
    with pytest.raises(InputError, match=message):
        assemble(export, tmp_path / "photos", tmp_path / "out", under=below)
    assert not (tmp_path / "out").exists()


# --- the command


def test_the_command(export, tmp_path, capsys):
    import argparse

    from minidetr.commands.data import add_data

    parser = argparse.ArgumentParser()
    add_data(parser.add_subparsers())
    arguments = parser.parse_args(
        ["data", "assemble", str(export), "-", str(tmp_path / "out"), "--stuff", "1-2, truck", "--order", "listed"]
    )
    arguments.run(arguments)
    told = capsys.readouterr().out
    assert "sky, ground, truck" in told and "photos: none" in told
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [c["isthing"] for c in content["categories"]] == [0, 0, 1, 0]
    with pytest.raises(SystemExit, match="0"):
        parser.parse_args(["data", "assemble", "--help"])
    assert "example:\n  minidetr data assemble export.json" in capsys.readouterr().out


def test_a_class_called_like_the_id_of_another_is_not_chosen_by_chance(export, tmp_path):
    edit(export, put("categories", 0, name="2"))
    edit(export, put("categories", 1, id=2))
    with pytest.raises(InputError, match="'2' of --stuff is the name of one category and the id of another"):
        read_export(export, stuff=["2"])


def test_a_photo_that_cannot_become_rgb_is_refused_or_left_out_now_not_at_training(export, tmp_path):
    """Heat maps of a drone: floating point, whose white nobody knows."""
    Image.fromarray(np.ones((6, 5), np.float32)).save(tmp_path / "photos" / "b" / "c.tif")
    edit(export, put("images", 1, file_name="b/c.tif"))
    with pytest.raises(InputError, match=r"c\.tif has floating point pixels"):
        assemble(export, tmp_path / "photos", tmp_path / "out")
    report = assemble(export, tmp_path / "photos", tmp_path / "out", skip_missing=True)
    assert report.images == 1 and len(report.findings["unreadable"]) == 1
    found = check(export, tmp_path / "photos").found
    assert "c.tif has floating point pixels" in found["photo"][0][1]
