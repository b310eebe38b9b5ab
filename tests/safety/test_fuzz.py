"""Properties that hold for any input, tried on inputs that hypothesis makes up.

CI tries a few dozen of each; `MINIDETR_FUZZ_EXAMPLES=20000` (make fuzz) tries as many. The number tried is printed at the end.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from minidetr.commands import main as cli
from minidetr.curate.assemble import assemble
from minidetr.curate.check import check
from minidetr.curate.findings import BREAKS
from minidetr.data.coco import CocoPanoptic, measured, write_coco_panoptic
from minidetr.data.images import FORMATS, read_image, to_tensor
from minidetr.data.pngs import read_ids
from minidetr.data.transforms import evaluation_transform, training_transform
from minidetr.errors import InputError
from minidetr.evaluate import QualityCounts, panoptic_quality
from minidetr.model import PanopticDETR
from minidetr.model.merge import kept_queries, merge
from minidetr.panoptic import Category, Panoptic, boxes_of_ids, decode_ids, encode_ids, read_json
from minidetr.presets import TRAINABLE
from minidetr.training.feed import collate, looked_through, open_data
from minidetr.training.objective import start_step
from minidetr.training.options import TrainOptions
from minidetr.weights.load import load_file, shipped_weights

EXAMPLES = int(os.environ.get("MINIDETR_FUZZ_EXAMPLES", "0"))
CATEGORIES = [Category(0, "sky", False), Category(2, "worker", True), Category(3, "crane", True), Category(6, "ground", False)]
BY_ID = {category.id: category for category in CATEGORIES}
GAPS = 8  # classes of the model: ids 1, 4, 5 and 7 belong to no category
TRIED: Counter[str] = Counter()


def fuzz(examples: int, **strategies: st.SearchStrategy) -> Callable:
    """`given`, with `examples` in CI; counts what was tried."""

    def decorate(test: Callable) -> Callable:
        def counted(**drawn: object) -> None:
            TRIED[test.__name__] += 1
            test(**drawn)

        counted.__name__, counted.__doc__ = test.__name__, test.__doc__
        checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
        profile = settings(
            max_examples=EXAMPLES or examples, deadline=None, suppress_health_check=checks, database=None, derandomize=not EXAMPLES
        )
        return pytest.mark.timeout(0 if EXAMPLES else 300)(profile(given(**strategies)(counted)))

    return decorate


@pytest.fixture(scope="module", autouse=True)
def told() -> Iterator[None]:
    """Say at the end how many cases were tried (pytest -s shows it)."""
    yield
    print("".join(f"\n{count:7d}  {name}" for name, count in TRIED.items()) + f"\n{TRIED.total():7d}  cases in all")


# --- what may be anything


@st.composite
def segmentations(draw: st.DrawFn, size: tuple[int, int] | None = None, crowds: bool = True) -> tuple[np.ndarray, list[dict]]:
    """Ids H x W and the entries of those that have a pixel: any number of segments, of any ids a PNG holds, void among them."""
    height, width = size or (draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    ids = draw(st.lists(st.one_of(st.integers(1, 300), st.integers(1, 256**3 - 1)), max_size=6, unique=True))
    table = np.array([0, *ids], np.int32)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    blocks = rng.integers(len(table), size=(-(-height // draw(st.integers(1, 5))), -(-width // draw(st.integers(1, 5)))))
    blown = np.kron(blocks, np.ones((5, 5), int))[:height, :width]
    segment_ids = np.zeros((height, width), np.int32)
    segment_ids[: blown.shape[0], : blown.shape[1]] = table[blown]
    present = [i for i in ids if (segment_ids == i).any()]
    classes = [int(rng.choice([c.id for c in CATEGORIES])) for _ in present]
    crowd = [int(crowds and rng.random() < 0.2) for _ in present]
    return segment_ids, [{"id": i, "category_id": c, "iscrowd": k} for i, c, k in zip(present, classes, crowd, strict=True)]


@st.composite
def data_sets(draw: st.DrawFn) -> list[tuple[np.ndarray, list[dict]]]:
    """One to three images with their segmentation."""
    return draw(st.lists(segmentations(), min_size=1, max_size=3))


def written(folder: Path, images: list[tuple[np.ndarray, list[dict]]]) -> Path:
    """A panoptic data set of these segmentations, with photos of noise."""
    for name in ("images", "panoptic"):
        (folder / name).mkdir()
    entries, annotations = [], []
    for number, (segment_ids, segments) in enumerate(images):
        noise = np.random.default_rng(number).integers(256, size=(*segment_ids.shape, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"images/{number}.png")
        Image.fromarray(encode_ids(segment_ids)).save(folder / f"panoptic/{number}.png")
        entries.append({"id": number, "file_name": f"{number}.png", "height": noise.shape[0], "width": noise.shape[1]})
        listed = [m | s for m, s in zip(measured(segment_ids, segments), segments, strict=True)]
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": listed})
    content = {"images": entries, "annotations": annotations, "categories": [c.to_json() for c in CATEGORIES]}
    (folder / "panoptic.json").write_text(json.dumps(content))
    return folder


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["../a", "/a", "0.png", 0, 1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "file_name", "bbox", "counts"]), inner),
    max_leaves=6,
)


def spoilt(content: object, data: st.DataObject, values: st.SearchStrategy = JSON) -> object:
    """A JSON with one value, anywhere in it, replaced by any other or taken away."""
    places: list[tuple] = []

    def walk(value: object) -> None:
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            places.append((value, key))
            walk(value[key])

    walk(content)
    assume(places)
    owner, key = data.draw(st.sampled_from(places))
    if data.draw(st.booleans()):
        del owner[key]
    else:
        owner[key] = deepcopy(data.draw(values))  # hypothesis may give the same list again
    return content


def damaged(content: bytes, data: st.DataObject) -> bytes:
    """Bytes with one changed, some missing, some repeated, or cut off."""
    place = data.draw(st.integers(0, max(len(content) - 1, 0)))
    length = data.draw(st.integers(1, 20))
    kind = data.draw(st.sampled_from(("flip", "cut", "drop", "twice", "random")))
    middle = {
        "flip": bytes(b ^ data.draw(st.integers(1, 255)) for b in content[place : place + 1]),
        "drop": b"",
        "twice": content[place : place + length] * 2,
        "random": data.draw(st.binary(max_size=20)),
    }
    return content[:place] + (b"" if kind == "cut" else middle[kind] + content[place + (1 if kind == "flip" else length) :])


# --- the merge


@fuzz(40, data=st.data(), N=st.integers(1, 12), h=st.integers(1, 9), w=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_the_merge_overlaps_nowhere_and_covers_what_it_says(data, N, h, w, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    scale = data.draw(st.sampled_from((0.0, 1.0, 1e4, 1e30)))
    logits = torch.randn(N, GAPS + 1, generator=generator) * data.draw(st.sampled_from((0.0, 1.0, 20.0, 1e30)))
    masks = torch.randn(N, h, w, generator=generator) * scale
    if data.draw(st.booleans()):
        masks[torch.rand(masks.shape, generator=generator) < 0.2] = data.draw(st.sampled_from((float("inf"), -float("inf"))))
    threshold = data.draw(st.floats(0, 1))
    query_index, scores, labels = kept_queries(logits, threshold, BY_ID)
    padded = 4 * h, 4 * w
    size = data.draw(st.integers(1, padded[0])), data.draw(st.integers(1, padded[1]))
    original = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    found = merge(masks[query_index], scores, labels, BY_ID, padded, size, original)

    assert found.segment_ids.shape == original and found.segment_ids.dtype == np.int32
    ids = [segment.id for segment in found.segments]
    assert ids == list(range(1, len(ids) + 1))  # unique, 0 is void
    assert set(np.unique(found.segment_ids).tolist()) - {0} == set(ids)  # one id a pixel: no overlap, and none is empty
    assert sum(segment.area for segment in found.segments) == np.count_nonzero(found.segment_ids)
    for segment in found.segments:
        rows, columns = np.nonzero(found.segment_ids == segment.id)
        box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert segment.area == len(rows) and segment.box == box and segment.area > 4
        assert segment.category_id in BY_ID and segment.is_thing == BY_ID[segment.category_id].is_thing
        assert threshold < segment.score <= 1
    stuff = [segment.category_id for segment in found.segments if not segment.is_thing]
    assert len(stuff) == len(set(stuff))  # a stuff class is one segment
    assert not found.segments or np.count_nonzero(found.segment_ids) == found.segment_ids.size  # then nothing is void


# --- the metric


@fuzz(30, truth=segmentations(), seed=st.integers(0, 2**32 - 1))
def test_quality_is_one_against_itself_and_blind_to_ids(truth, seed) -> None:
    ids, segments = truth
    assume(any(not s["iscrowd"] for s in segments))
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(np.arange(1, 500))[: len(segments)]
    renamed = np.zeros_like(ids)
    for segment, number in zip(segments, numbers.tolist(), strict=True):
        renamed[ids == segment["id"]] = number
    others = [segment | {"id": number} for segment, number in zip(segments, numbers.tolist(), strict=True)]
    order = rng.permutation(len(others)).tolist()
    for prediction in ((ids, segments), (renamed, [others[k] for k in order])):
        counts = QualityCounts()
        counts.add_image(ids, segments, *prediction)
        result = counts.result(CATEGORIES)
        assert result.all.pq == result.all.sq == result.all.rq == 1


@fuzz(30, data=st.data(), height=st.integers(1, 20), width=st.integers(1, 20))
def test_quality_lies_in_0_to_1_and_swaps_misses_with_false_alarms(data, height, width) -> None:
    (ids, segments), (other, predicted) = (data.draw(segmentations((height, width), crowds=False)) for _ in range(2))
    counts, back = QualityCounts(), QualityCounts()
    counts.add_image(ids, segments, other, predicted)
    for group in (counts.result(CATEGORIES).all, counts.result(CATEGORIES).things, counts.result(CATEGORIES).stuff):
        assert group.n == 0 or all(0 <= score <= 1 for score in (group.pq, group.sq, group.rq))
        assert group.n == 0 or group.pq <= min(group.sq, group.rq) + 1e-12
    total = sum(c.tp + c.fn for c in counts.classes.values())
    assert total == len(segments) and sum(c.tp + c.fp for c in counts.classes.values()) <= len(predicted)
    if ids.all() and other.all():  # without void, truth and prediction are alike
        back.add_image(other, predicted, ids, segments)
        for category in BY_ID:
            one, two = counts.classes[category], back.classes[category]
            assert (one.tp, one.fp, one.fn) == (two.tp, two.fn, two.fp) and one.iou == pytest.approx(two.iou)


@fuzz(30, parts=st.lists(segmentations((6, 7)), min_size=2, max_size=5))
def test_counts_add_up_in_any_order(parts) -> None:
    one, two = QualityCounts(), QualityCounts()
    images = list(zip(parts, parts[::-1], strict=True))
    for (ids, segments), (other, predicted) in images:
        one.add_image(ids, segments, other, predicted)
    for (ids, segments), (other, predicted) in images[::-1]:
        single = QualityCounts()
        single.add_image(ids, segments, other, predicted)
        two = two + single
    for category in BY_ID:
        a, b = one.classes[category], two.classes[category]
        assert (a.tp, a.fp, a.fn) == (b.tp, b.fp, b.fn) and a.iou == pytest.approx(b.iou)


# --- ids and files


@fuzz(30, drawn=segmentations())
def test_encode_then_decode_is_the_identity(drawn) -> None:
    ids, segments = drawn
    assert np.array_equal(decode_ids(encode_ids(ids)), ids)
    with tempfile.TemporaryDirectory() as name:
        Image.fromarray(encode_ids(ids)).save(Path(name, "ids.png"))
        assert np.array_equal(read_ids(Path(name, "ids.png")), ids)
    areas, boxes = boxes_of_ids(ids, np.array([s["id"] for s in segments], np.int64))
    for segment, area, (x, y, width, height) in zip(segments, areas, boxes, strict=True):
        inside = ids[y : y + height, x : x + width] == segment["id"]
        assert inside.sum() == area == (ids == segment["id"]).sum()
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


@fuzz(8, images=data_sets(), seed=st.integers(0, 2**62), size=st.integers(8, 48))
def test_the_loader_yields_boxes_that_fit_their_masks(images, seed, size) -> None:
    """Untransformed, resized and with all of DETR's augmentation; and what is written is read back."""
    with tempfile.TemporaryDirectory() as name:
        folder = written(Path(name), images)
        crops = training_transform((size, size + 7), 2 * size, (size, size + 5), (size // 2, size))
        for transform in (None, evaluation_transform(size, 2 * size), crops):
            torch.manual_seed(seed % 2**32)
            for image, target in CocoPanoptic.from_folder(folder, transform):
                assert torch.isfinite(image).all() and image.shape[1:] == target.masks.shape[1:]
                assert (target.boxes >= 0).all() and (target.boxes <= 1).all()
                assert target.masks.sum(0).max() <= 1 if len(target.masks) else True
                H, W = image.shape[1:]
                for (x, y, w, h), mask in zip(target.boxes.tolist(), target.masks, strict=True):
                    rows, columns = torch.nonzero(mask.any(1)).flatten(), torch.nonzero(mask.any(0)).flatten()
                    edges = [columns[0] / W, rows[0] / H, (columns[-1] + 1) / W, (rows[-1] + 1) / H]
                    assert [x - w / 2, y - h / 2, x + w / 2, y + h / 2] == pytest.approx([float(e) for e in edges], abs=1e-5)
                assert set(target.labels.tolist()) <= set(BY_ID)
        with contextlib.redirect_stderr(io.StringIO()):
            write_coco_panoptic(CocoPanoptic.from_folder(folder), folder / "again")
        for (ids, segments), number in zip(images, range(len(images)), strict=True):
            photo, back, entries = CocoPanoptic.from_folder(folder / "again").read(number)
            assert np.array_equal(back, ids) and [e["id"] for e in entries] == [s["id"] for s in segments]
            Panoptic.of_entries(back, entries, CATEGORIES)
        quality = panoptic_quality(*[folder / "panoptic.json", folder / "panoptic"] * 2)
        assert quality.all.n == 0 or quality.all.pq == 1


# --- damage: never anything but InputError


@fuzz(15, images=data_sets(), data=st.data())
def test_a_spoilt_json_is_read_or_refused(images, data) -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        folder = written(Path(name), images)
        content = spoilt(read_json(folder / "panoptic.json"), data)
        (folder / "panoptic.json").write_text(json.dumps(content))
        for read in (
            lambda: list(CocoPanoptic.from_folder(folder)),
            lambda: panoptic_quality(*[folder / "panoptic.json", folder / "panoptic"] * 2),
            lambda: check(folder),
        ):
            with contextlib.suppress(InputError):
                read()
        files = [folder / "panoptic.json", folder / "panoptic"] * 2
        with contextlib.redirect_stdout(io.StringIO()):
            assert cli.main(["evaluate", *map(str, files), "--boxes"]) in (0, 2)
        (folder / "panoptic.json").write_bytes(damaged((folder / "panoptic.json").read_bytes(), data))
        with contextlib.suppress(InputError):
            list(CocoPanoptic.from_folder(folder))


@fuzz(25, data=st.data(), points=st.lists(st.floats(-40, 40) | st.integers(0, 20), max_size=12))
def test_a_spoilt_export_is_assembled_or_refused(data, points) -> None:
    outline = data.draw(st.sampled_from(([points], {"size": [12, 16], "counts": [50, 60, 82]}, [])))
    annotations = [{"id": 1, "image_id": 1, "category_id": 2, "segmentation": outline, "bbox": [1, 2, 3, 4], "iscrowd": 0}]
    images = [{"id": 1, "file_name": "a.png", "width": 16, "height": 12}]
    content: object = {"images": images, "annotations": annotations, "categories": [c.to_json() for c in CATEGORIES]}
    if data.draw(st.booleans()):
        content = spoilt(content, data)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        file, out = Path(name, "export.json"), Path(name, "out")
        file.write_text(json.dumps(content))
        with contextlib.suppress(InputError):
            check(file)
        try:
            assemble(file, None, out)
        except InputError:
            assert not out.exists()
        else:
            [annotation] = read_json(out / "panoptic.json")["annotations"]
            ids = read_ids(out / "panoptic" / annotation["file_name"])
            assert {s["id"]: s["area"] for s in annotation["segments_info"]} == {
                int(i): int((ids == i).sum()) for i in np.unique(ids) if i
            }


# --- check tells the truth about assemble and training: nothing that breaks is found <=> both succeed


def one_iteration(folder: Path) -> None:
    """Read all of a data set and train on it once, as `minidetr train` begins. Raises InputError."""
    options = TrainOptions(preset="tiny", data=str(folder), size=32, augment="none", device="cpu", workers=0).filled()
    train, validation = open_data(options)
    model = PanopticDETR(replace(TRAINABLE["tiny"], width=32, feedforward=32, mask_widths=(32, 16, 8, 8, 8)), train.categories)
    looked_through(train, validation, len(validation), model.preset.queries)
    objective = start_step(model, options, "joint").train()
    batch, targets = collate([train[index] for index in range(len(train))])
    losses = objective(batch, targets)
    losses["total"].backward()
    assert torch.isfinite(losses["total"])


def breaks(path: Path, photos: Path | None = None) -> list[str]:
    """What `check` finds that breaks training."""
    report = check(path, photos)
    return [f"{kind}: {report.found[kind][0][1]}" for kind in report.kinds(BREAKS)]


VALUES = st.sampled_from(
    ["1", "2", 1.0, 2.0, 1.5, -1, 0, 7, 10**6, None, True, False, "", "sky", "1e3"]
    + ["a.png", "b/c.png", "b\\c.png", "..\\a.png", "/x/a.png", "A.PNG", {"rotation": 30.0}]
    + [[], [[]], [1, 1, 9, 1, 9, 9], [[1, 1], [9, 1], [9, 9]], [[1, 1, 9, 9]], [[1, 1, 9, 1, 9]], [1, 2, 3, 4], [1, 2, -3, 4]]
    + [
        {"size": [12, 16], "counts": [50, 60, 82]},
        [{"size": [12, 16], "counts": [50.0, 60, 82]}],
        {"size": [16, 12], "counts": [192]},
    ]
)


@fuzz(40, data=st.data(), spoil=st.integers(0, 3), with_photos=st.booleans())
def test_check_says_of_an_export_what_assembling_and_training_do(data, spoil, with_photos) -> None:
    first = {"id": 1, "image_id": 1, "category_id": 2, "segmentation": [[1, 1, 9, 1, 9, 9]], "bbox": [1, 1, 8, 8], "iscrowd": 0}
    second = {"id": 2, "image_id": 2, "category_id": 0, "segmentation": [], "bbox": [2, 2, 8, 8], "attributes": {"rotation": 30.0}}
    sizes = {"width": 16, "height": 12}
    images = [{"id": 1, "file_name": "a.png"} | sizes, {"id": 2, "file_name": "b/c.png"} | sizes]
    content: object = {"images": images, "annotations": [first, second], "categories": [c.to_json() for c in CATEGORIES[:2]]}
    for _ in range(spoil):
        content = spoilt(content, data, VALUES | JSON)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        file, photos, out = Path(name, "export.json"), Path(name, "photos"), Path(name, "out")
        for photo in ("a.png", "b/c.png"):
            (photos / photo).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 12), (1, 2, 3)).save(photos / photo)
        file.write_text(json.dumps(content))
        try:
            found = breaks(file, photos if with_photos else None)
        except InputError:
            found = ["no COCO file"]
        try:
            assemble(file, photos if with_photos else None, out)
            if with_photos:
                one_iteration(out)
        except InputError as error:
            assert found, f"assemble or train: {error}"
        else:
            assert not found, found


@fuzz(25, images=data_sets(), data=st.data(), spoil=st.integers(0, 3))
def test_check_says_of_a_data_set_what_training_does(images, data, spoil) -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        folder = written(Path(name), images)
        content: object = read_json(folder / "panoptic.json")
        for _ in range(spoil):
            content = spoilt(content, data, VALUES | JSON)
        (folder / "panoptic.json").write_text(json.dumps(content))
        try:
            found = breaks(folder)
        except InputError:
            found = ["no COCO file"]
        try:
            one_iteration(folder)
        except InputError as error:
            assert found, f"train: {error}"
        else:
            assert not found, found


# --- damaged files


@fuzz(60, data=st.data(), kind=st.sampled_from([f for f in FORMATS if f != "PPM"]), mode=st.sampled_from(("RGB", "L", "1", "P")))
def test_damaged_photos_are_read_or_refused(data, kind, mode) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(data.draw(st.integers(0, 99))).integers(256, size=(9, 11, 3), dtype=np.uint8)
    Image.fromarray(noise).convert("RGB" if kind == "WEBP" else "L" if kind == "JPEG" and mode != "RGB" else mode).save(
        buffer, kind
    )
    content = (
        damaged(buffer.getvalue(), data) if data.draw(st.booleans()) else data.draw(st.binary(max_size=60)) + buffer.getvalue()
    )
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "photo")
        path.write_bytes(content)
        try:
            image = read_image(path)
        except InputError as error:
            assert str(path) in str(error)
        else:
            assert image.mode == "RGB" and to_tensor(image).shape == (3, image.height, image.width)
        with contextlib.suppress(InputError):
            read_ids(path)


@fuzz(5, data=st.data())
def test_damaged_weights_are_read_or_refused(data) -> None:
    """The head of the file, where its description and the tensors' names, types and places are, or its end."""
    whole = shipped_weights("tiny").read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little")
    content = damaged(whole[:head], data) + whole[head:] if data.draw(st.booleans()) else damaged(whole, data)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "w.safetensors")
        path.write_bytes(content)
        try:
            model = load_file(path, None)
        except InputError as error:
            assert "w.safetensors" in str(error)
        else:
            assert len(model.categories) > 0
