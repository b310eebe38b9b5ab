"""The images that a prediction got most wrong, as a page: photo, truth and prediction side by side, and what went wrong."""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from minidetr.data.coco import check_empty, whole_folder
from minidetr.data.images import read_image
from minidetr.data.names import Finder, stem_of
from minidetr.errors import InputError
from minidetr.evaluate.files import Comparison, Labels, compare
from minidetr.evaluate.panoptic_quality import QualityCounts
from minidetr.panoptic import Category, Panoptic, path_inside, write_png
from minidetr.plot import Color, color_of, grid, labelled_overlay

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>The {count} worst of {total} images</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 100rem; padding: 0 1rem }}
body {{ color: #1f2328; background: #fff }}
h2 {{ margin: 2.5rem 0 .25rem }} p {{ margin: .25rem 0 }} img {{ width: 100%; height: auto }}
</style></head><body>
<h1>The {count} worst of {total} images</h1>
<p>Each image by its own panoptic quality (PQ), the mean over the classes in it. Photo, truth, prediction.</p>
{images}
</body></html>
"""


@dataclass(frozen=True)
class Mistakes:
    """What went wrong in one image: its own PQ (0..1) and category ids with how often each.

    A segment of the truth without a match is `missed`, one of the prediction `spurious`; a pair of both that covers the same
    pixels (IoU above 1/2) with different classes is `confused` instead, (class of the truth, class predicted).
    """

    pq: float
    missed: Counter[int]
    spurious: Counter[int]
    confused: Counter[tuple[int, int]]

    def entries(self, categories: Sequence[Category]) -> list[tuple[Color, str]]:
        """(colour, words) of every mistake, the most frequent first."""
        known = {category.id: category for category in categories}
        counted: list[tuple[int, int, str]] = []
        counted += [(n, a, f"{known[a].name} taken for {known[b].name}") for (a, b), n in self.confused.items()]
        counted += [(n, a, f"missed {known[a].name}") for a, n in self.missed.items()]
        counted += [(n, a, f"spurious {known[a].name}") for a, n in self.spurious.items()]
        counted.sort(key=lambda entry: -entry[0])
        return [(color_of(known[a]), f"{text} ×{n}" if n > 1 else text) for n, a, text in counted]


def worst_images(
    gt_json: str | Path,
    gt_dir: str | Path,
    pred_json: str | Path,
    pred_dir: str | Path,
    photos_dir: str | Path,
    out_dir: str | Path,
    count: int = 12,
    void: Collection[int] = (),
) -> list[tuple[str, float]]:
    """Write OUT/index.html, a page with its pictures in it, and the pictures OUT/01-NAME.png, ..., whole or not at all.

    Truth, prediction and `void` as `panoptic_quality` takes them; `photos_dir` holds the photos that the truth's JSON names. Images
    with neither a segment nor a prediction have no PQ and are left out. Returns (file name of the photo, PQ in 0..1) of the `count`
    worst, the worst first. Raises InputError for input that is missing or contradicts itself, and when OUT holds anything.
    """
    out, photos_dir = Path(out_dir).resolve(), Path(photos_dir)
    check_empty(out)
    finder = Finder(photos_dir)
    compared = compare(gt_json, gt_dir, pred_json, pred_dir, void)
    categories = colored(compared)
    ranked: list[tuple[float, int, Path, Labels, Labels | None, Mistakes]] = []  # PQ, number, photo, truth, prediction
    for gt, pred in tqdm(compared.pairs, desc="looking for mistakes", unit="image", disable=None):
        photo = photo_named(gt, finder, gt_json)
        gt_ids, pred_ids = read_both(compared, gt, pred)
        found = mistakes(gt_ids, gt.segments, pred_ids, pred.segments if pred else [], categories)
        if not isnan(found.pq):
            ranked.append((found.pq, len(ranked), photo, gt, pred, found))
    ranked.sort(key=lambda entry: entry[:2])

    sections = []
    with whole_folder(out) as part:
        for rank, (pq, _, photo, gt, pred, found) in enumerate(tqdm(ranked[:count], desc="drawing", disable=None), start=1):
            gt_ids, pred_ids = read_both(compared, gt, pred)
            words = found.entries(categories)
            sides = [read_photo(photo, gt_ids, compared.truth.png(gt))]
            for ids, segments in ((gt_ids, gt.segments), (pred_ids, pred.segments if pred else [])):
                panoptic = Panoptic.of_entries(ids, segments, categories)
                sides.append(labelled_overlay(sides[0], panoptic, categories, panels=3))
            name = photo.relative_to(photos_dir).as_posix()
            title = f"{rank}. {name}: PQ {100 * pq:.1f}"
            sheet = grid(sides, 3, [f"PQ {100 * pq:.1f}", "truth", "prediction"], words)
            write_png(part / f"{rank:02d}-{stem_of(name).replace('/', '-')}.png", sheet)
            told = "; ".join(text for _, text in words) or "nothing missed or confused: its outlines are what costs"
            sections.append(f"<h2>{html.escape(title)}</h2>\n<p>{html.escape(told)}</p>\n{embedded(sheet, title)}")
        page = PAGE.format(count=len(sections), total=len(ranked), images="\n".join(sections))
        (part / "index.html").write_text(page, encoding="utf-8")
    return [(photo.relative_to(photos_dir).as_posix(), pq) for pq, _, photo, *_ in ranked[:count]]


def colored(compared: Comparison) -> list[Category]:
    """The truth's categories with the colours that its JSON names."""
    return [replace(c, color=_color(entry)) for c, entry in zip(compared.categories, compared.entries, strict=True)]


def photo_named(gt: Labels, finder: Finder, gt_json: str | Path) -> Path:
    """The photo of an image, in the folder of `finder`. Raises InputError where the truth names none, or it is not there."""
    if gt.photo is None:
        raise InputError(f"{gt_json} names no photo of image {gt.image_id} in 'images': add its entry with a 'file_name'")
    photo = path_inside(finder.folder, finder.find(gt.photo) or gt.photo, gt_json)
    if not photo.is_file():
        raise InputError(f"{photo} is missing, but {gt_json} names it in 'images': give the folder of the photos")
    return photo


def read_photo(photo: Path, gt_ids: np.ndarray, png: Path) -> np.ndarray:
    """The photo's pixels H x W x 3. Raises InputError where its size is not that of the truth's ids, read from `png`."""
    pixels = np.asarray(read_image(photo))
    if pixels.shape[:2] != gt_ids.shape:
        photo_size, size = (f"{width} x {height}" for height, width in (pixels.shape[:2], gt_ids.shape))
        raise InputError(f"{photo} is {photo_size} pixels, but {png} is {size}: use the photo that was annotated")
    return pixels


def mistakes(
    gt_ids: np.ndarray, gt_segments: list[dict], pred_ids: np.ndarray, pred_segments: list[dict], categories: Sequence[Category]
) -> Mistakes:
    """What went wrong in one image. H x W ids and COCO's entries as `QualityCounts.add_image`, which counts, takes them."""
    counts = QualityCounts()
    counts.add_image(gt_ids, gt_segments, pred_ids, pred_segments)
    missed = Counter({c: count.fn for c, count in counts.classes.items()})
    spurious = Counter({c: count.fp for c, count in counts.classes.items()})
    gt_class = {s["id"]: s["category_id"] for s in gt_segments if not s.get("iscrowd")}
    pred_class = {s["id"]: s["category_id"] for s in pred_segments}

    shared = _pixels(gt_ids.astype(np.int64) * 256**3 + pred_ids)  # of every pair of ids that meet
    gt_area, pred_area = _pixels(gt_ids), _pixels(pred_ids)
    confused: Counter[tuple[int, int]] = Counter()
    for pair, overlap in shared.items():
        g, p = divmod(pair, 256**3)
        if g in gt_class and p in pred_class and gt_class[g] != pred_class[p]:
            a, b = gt_class[g], pred_class[p]
            if 2 * overlap > gt_area[g] + pred_area[p] - overlap and missed[a] and spurious[b]:
                confused[a, b] += 1
                missed[a] -= 1
                spurious[b] -= 1
    return Mistakes(counts.result(categories).all.pq, +missed, +spurious, confused)


def _pixels(ids: np.ndarray) -> dict[int, int]:
    """How many pixels each id has."""
    found, count = np.unique(ids, return_counts=True)
    return dict(zip(found.tolist(), count.tolist(), strict=True))


def read_both(compared: Comparison, gt: Labels, pred: Labels | None) -> tuple[np.ndarray, np.ndarray]:
    """The ids of the truth and of the prediction, H x W each; an image without a prediction has none."""
    gt_ids = gt.read(compared.truth.png(gt))
    return gt_ids, pred.read(compared.prediction.png(pred)) if pred else np.zeros_like(gt_ids)


def _color(entry: dict) -> Color | None:
    color = entry.get("color")
    if isinstance(color, list) and len(color) == 3 and all(type(value) is int and 0 <= value < 256 for value in color):
        return color[0], color[1], color[2]
    return None


def embedded(picture: np.ndarray, text: str) -> str:
    """An <img> with the picture in it, so that the page is one file that can be sent on."""
    buffer = io.BytesIO()
    small = Image.fromarray(picture)
    small.thumbnail((16_000, 16_000))  # JPEG ends at 65,500 pixels, and so do a very narrow photo's three panels
    small.save(buffer, "JPEG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(text)}" src="data:image/jpeg;base64,{data}">'
