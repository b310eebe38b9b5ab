"""Pictures: sizes, colours that stay apart, lines only where segments meet, labels only where they fit."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from minidetr import plot
from minidetr.errors import InputError
from minidetr.panoptic import Category, Panoptic, Segment, boxes_of_ids, decode_ids
from tests.reference import REFERENCE, needs_reference

SKY, WORKER = Category(1, "sky", False), Category(2, "worker", True)
CATEGORIES = [SKY, WORKER]


def panoptic_of(ids: np.ndarray, category_of: dict[int, int], score: float = 0.9) -> Panoptic:
    keys = np.array(sorted(category_of), np.int64)
    areas, boxes = boxes_of_ids(ids, keys)
    segments = [
        Segment(int(k), category_of[int(k)], score, category_of[int(k)] == WORKER.id, int(area), tuple(box.tolist()))
        for k, area, box in zip(keys, areas, boxes, strict=True)
    ]
    return Panoptic(ids.astype(np.int32), segments)


def scene(height: int, width: int) -> tuple[np.ndarray, Panoptic]:
    """Void on the left, sky in the middle, two workers on the right."""
    ids = np.zeros((height, width), np.int32)
    ids[:, width // 4 :] = 7
    ids[: height // 2, width // 2 :] = 300
    ids[height // 2 :, width // 2 :] = 70000
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, panoptic_of(ids, {7: 1, 300: 2, 70000: 2})


def closest_pair(colors: tuple, vision: np.ndarray | None) -> float:
    seen = plot.perceived(np.array(colors), vision)
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    return distances[np.triu_indices(len(colors), 1)].min()


@pytest.mark.parametrize("vision", [None, plot.PROTANOPIA, plot.DEUTERANOPIA], ids=["normal", "protanopia", "deuteranopia"])
def test_colours_stay_apart_for_every_eye(vision: np.ndarray | None) -> None:
    just_seen = np.linalg.norm(np.diff(plot.perceived(np.array([[0, 158, 115], [0, 168, 125]])), axis=0))  # a step one can just see
    assert closest_pair(plot.palette(20), vision) > 2 * just_seen
    assert closest_pair(((255, 0, 0), (0, 255, 0)), None) > 3 * closest_pair(((255, 0, 0), (96, 96, 0)), plot.PROTANOPIA)


def test_a_longer_palette_begins_with_the_shorter() -> None:
    assert plot.palette(40)[:9] == plot.palette(9)
    assert len(set(plot.palette(200))) == 200


def test_a_categorys_own_colour_wins() -> None:
    assert plot.color_of(Category(3, "cone", True, (1, 2, 3))) == (1, 2, 3)
    assert plot.color_of(SKY) != plot.color_of(WORKER)


def test_objects_of_a_class_get_shades_and_stuff_does_not() -> None:
    ids = np.arange(1, 7).reshape(2, 3)
    colors = plot.segment_colors(panoptic_of(ids, {1: 1, 2: 1, 3: 2, 4: 2, 5: 2, 6: 2}), CATEGORIES)
    assert colors[1] == colors[2] == plot.color_of(SKY)
    assert len({colors[k] for k in (3, 4, 5, 6)}) == 4


def test_overlay_blends_segments_and_leaves_void_alone() -> None:
    image, panoptic = scene(20, 32)
    picture = plot.overlay(image, panoptic, CATEGORIES, alpha=1, outlines=False)
    assert picture.shape == image.shape and picture.dtype == np.uint8
    void = panoptic.segment_ids == 0
    np.testing.assert_array_equal(picture[void], image[void])
    colors = plot.segment_colors(panoptic, CATEGORIES)
    for segment in panoptic.segments:
        assert (picture[panoptic.segment_ids == segment.id] == colors[segment.id]).all()
    np.testing.assert_array_equal(plot.overlay(image, panoptic, CATEGORIES, alpha=0, outlines=False), image)
    half = plot.overlay(image, panoptic, CATEGORIES, alpha=0.5, outlines=False)
    assert np.abs(half[~void].astype(float) - (image[~void] / 2 + picture[~void] / 2)).max() <= 1


def test_outlines_are_where_segments_meet_and_nowhere_else() -> None:
    ids = np.random.default_rng(1).integers(1, 3, (9, 13)).repeat(3, 0).repeat(3, 1)
    image = np.zeros((*ids.shape, 3), np.uint8)
    panoptic = panoptic_of(ids, {1: 1, 2: 2})
    with_lines, without = (plot.overlay(image, panoptic, CATEGORIES, outlines=outlines) for outlines in (True, False))
    changed = (with_lines != without).any(-1)
    expected = np.zeros_like(changed)
    for y, x in np.ndindex(*ids.shape):
        neighbours = [(y + dy, x + dx) for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))]
        expected[y, x] = any(ids[n] != ids[y, x] for n in neighbours if 0 <= n[0] < ids.shape[0] and 0 <= n[1] < ids.shape[1])
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(changed, expected)


def test_what_does_not_belong_together_is_refused() -> None:
    image, panoptic = scene(20, 32)
    with pytest.raises(InputError, match="belong together"):
        plot.overlay(image[:-1], panoptic, CATEGORIES)
    with pytest.raises(InputError, match="category 2"):
        plot.overlay(image, panoptic, [SKY])
    with pytest.raises(InputError, match="no picture"):
        plot.side_by_side([])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((96, 96), (640, 640)),
        ((700, 900), (700, 900)),
        ((3000, 4000), (1200, 1600)),
        ((4000, 1000), (1600, 400)),
        ((1, 1), (640, 640)),
    ],
)
def test_pictures_are_enlarged_or_reduced_to_look_at(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image, panoptic = scene(*size)
    shown, its_ids = plot.for_display(image, panoptic)
    assert shown.shape == (*expected, 3) and its_ids.segment_ids.shape == expected
    assert set(np.unique(its_ids.segment_ids)) == set(np.unique(panoptic.segment_ids))
    picture = plot.labelled_overlay(image, panoptic, CATEGORIES)
    assert picture.dtype == np.uint8 and picture.shape[1] == expected[1]
    assert picture.shape[0] > expected[0]  # the legend


def test_boxes_follow_the_new_size() -> None:
    _, panoptic = plot.for_display(*scene(96, 128))
    for segment in panoptic.segments:
        areas, boxes = boxes_of_ids(panoptic.segment_ids, np.array([segment.id]))
        assert segment.box == tuple(boxes[0]) and segment.area == areas[0]


def test_a_picture_without_segments_is_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (650, 700, 3), dtype=np.uint8)
    picture = plot.labelled_overlay(image, Panoptic(np.zeros((650, 700), np.int32)), CATEGORIES)
    np.testing.assert_array_equal(picture, image)


def test_labels_are_written_only_where_they_fit() -> None:
    ids = np.full((400, 600), 1)
    ids[100:106, 100:106] = 2  # far too small for a word
    panoptic = panoptic_of(ids, {1: 1, 2: 2})
    image = np.zeros((400, 600, 3), np.uint8)
    written = (plot.draw_labels(image, panoptic, CATEGORIES, size=14) != image).any(-1)
    assert written.sum() > 14 * 14
    x, y, _ = plot.widest_place(panoptic.segment_ids, panoptic.segments[0])
    rows, columns = np.nonzero(written)  # one label, around the place where the sky is widest
    assert abs(rows.mean() - y) < 3 and abs(columns.mean() - x) < 3 and np.ptp(rows) < 2 * 14
    assert not (plot.draw_labels(image, panoptic, CATEGORIES, size=300) != image).any()


def test_things_show_their_score_unless_it_is_the_truths() -> None:
    ids = np.full((300, 600), 5)
    blank = np.zeros((300, 600, 3), np.uint8)
    pictures = [plot.draw_labels(blank, panoptic_of(ids, {5: 2}, score), CATEGORIES, size=16) for score in (0.91, 0.55, 1.0)]
    widths = [np.ptp(np.nonzero(picture.any((0, 2)))[0]) for picture in pictures]
    assert widths[2] < widths[0] and (pictures[0] != pictures[1]).any()
    stuff = [plot.draw_labels(blank, panoptic_of(ids, {5: 1}, score), CATEGORIES, size=16) for score in (0.91, 1.0)]
    np.testing.assert_array_equal(*stuff)


def test_the_widest_place_lies_inside_a_hollow_segment() -> None:
    ids = np.zeros((60, 60), np.int32)
    ids[10:50, 10:50] = 4
    ids[14:46, 20:50] = 0  # a C: its centre of mass is outside of it
    panoptic = panoptic_of(ids, {4: 2})
    x, y, room = plot.widest_place(panoptic.segment_ids, panoptic.segments[0])
    assert ids[int(y), int(x)] == 4 and room == 5


def test_legend_counts_things_and_wraps() -> None:
    _, panoptic = scene(40, 60)
    assert [text for _, text in plot.legend_entries([panoptic], CATEGORIES)] == ["worker ×2", "sky"]
    assert [text for _, text in plot.legend_entries([panoptic, panoptic], CATEGORIES)] == ["worker", "sky"]
    entries = [((0, 0, 0), f"class number {k}") for k in range(12)]
    narrow, wide = plot.legend(entries, 640), plot.legend(entries, 1600)
    assert narrow.shape[1] == 640 and wide.shape[1] == 1600
    assert (narrow[:, -8:] == 255).all()  # nothing runs over the edge
    assert len(narrow) > 2 * len(plot.legend(entries[:1], 640))


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (3, 3), (5, 2), (12, 6)])
def test_grids_stay_between_the_widths(count: int, columns: int) -> None:
    pictures = [np.full((50 + 10 * k, 100, 3), k, np.uint8) for k in range(count)]
    sheet = plot.grid(pictures, columns, titles=["photo", "truth"][:columns], below=[((9, 9, 9), "sky")])
    assert plot.NARROWEST - columns <= sheet.shape[1] <= plot.LARGEST
    for k in range(count):
        assert (sheet == k).all(-1).any()  # every picture is on it


def test_charts_are_opaque_and_need_no_pyplot() -> None:
    figure = plot.new_figure(3, 2)
    figure.subplots().plot([1, 2], [3, 4])
    figure.canvas.draw()
    assert (np.asarray(figure.canvas.buffer_rgba())[..., 3] == 255).all()
    check = "import sys, minidetr.plot; print('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout.strip() == "False"


@needs_reference
def test_coco_photos_keep_their_official_colours() -> None:
    content = json.loads((REFERENCE / "coco" / "panoptic.json").read_text(encoding="utf-8"))
    categories = [Category(c["id"], c["name"], bool(c["isthing"]), tuple(c["color"])) for c in content["categories"]]
    known = {category.id: category for category in categories}
    for annotation in content["annotations"]:
        with Image.open(REFERENCE / "coco" / "panoptic" / annotation["file_name"]) as png:
            ids = decode_ids(np.asarray(png.convert("RGB")))
        segments = [
            Segment(s["id"], s["category_id"], 1.0, known[s["category_id"]].is_thing, s["area"], tuple(s["bbox"]))
            for s in annotation["segments_info"]
        ]
        picture = plot.overlay(np.zeros((*ids.shape, 3), np.uint8), Panoptic(ids, segments), categories, alpha=1, outlines=False)
        for segment in segments:
            if not segment.is_thing:
                assert (picture[ids == segment.id] == known[segment.category_id].color).all()


def test_a_small_object_keeps_its_colour_in_a_small_palette() -> None:
    """Beside 60,000 pixels of textured sky and ground, 9 orange ones: the usual median cut gives them a colour of the ground."""
    pixels = np.random.default_rng(0).integers(0, 60, (250, 250, 3)) + np.linspace((40, 90, 170), (120, 100, 60), 250)[:, None]
    pixels[40:43, 40:43] = 230, 120, 20
    few = plot.few_colors(Image.fromarray(pixels.astype(np.uint8)))
    assert few.getcolors(256) is not None and few.mode == "P"
    assert np.abs(np.asarray(few.convert("RGB"))[41, 41].astype(int) - (230, 120, 20)).max() < 30


def test_a_title_that_square_panels_push_over_the_edge_is_whole() -> None:
    figure = plot.new_figure(8.3, 2.9)
    for axes in figure.subplots(1, 3):
        axes.imshow(np.zeros((96, 96)))
        axes.set(xticks=[], yticks=[])
        axes.set_title("Which one?", weight="bold")
    rows = np.asarray(plot.picture_of(figure).convert("L"))
    assert rows.shape[1] == 913 and (rows[0] > 235).all() and (rows[:30] < 100).any()


def test_a_figure_with_room_for_its_titles_keeps_its_size() -> None:
    figure = plot.new_figure(8.3, 4)
    figure.subplots().set_title("enough room")
    assert plot.picture_of(figure).size == (913, 440)
