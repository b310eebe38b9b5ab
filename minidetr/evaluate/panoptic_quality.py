"""Panoptic quality (Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4), by the rules of COCO's panopticapi.

A predicted and a ground-truth segment match (TP) if they have the same class and overlap by more than half of their union. As
segments never overlap within an image, each has at most one such partner. What stays unmatched is a false positive (FP) or a
false negative (FN), and per class

    PQ = sum of the matches' IoU / (TP + FP/2 + FN/2) = SQ * RQ,   SQ = sum of IoU / TP,   RQ = TP / (TP + FP/2 + FN/2)

Nobody is blamed where the truth does not say what is there. *Void* is ground-truth id 0, *crowd* a ground-truth segment with
`iscrowd` 1 (a group drawn as one blob):
- the union leaves out what the prediction covers of void;
- a crowd is never matched and never missed;
- an unmatched prediction with more than half of its pixels on void or on crowds of its own class is no false positive.

Where this departs from panopticapi:
- Areas are counted in the PNG, so a wrong `area` in the JSON changes nothing.
- Several crowds of one class in an image all count; panopticapi knows the last one only.
- An image without a prediction counts as missed; no things, no stuff or a class nobody has seen are no crash.
- A ground-truth PNG with an id its JSON does not list is an error.
- Images are paired by the names of their files, ids decide where a file has no names; classes by their names.
- Pixels of a predicted class that the truth does not have are unlabelled: what lies under them is missed, and no class has a false
  positive of them.
"""

from __future__ import annotations

import multiprocessing
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from math import isnan, nan
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minidetr.errors import InputError, WorkerDied
from minidetr.evaluate.files import ImageCounts, Labels, compare
from minidetr.panoptic import Category

Task = tuple[Labels, Path, Labels | None, Path | None]  # what the truth and the prediction say of an image, with their PNGs
CHUNK = 16  # images a worker takes at a time; the same for every `jobs`, so that sums are added in the same order


@dataclass(frozen=True)
class QualityScores:
    """Averages over `n` classes, each in 0..1; nan if `n` is 0."""

    pq: float
    sq: float
    rq: float
    n: int


@dataclass
class ClassQuality:
    """Counts of one class: matches `tp`, false positives `fp`, false negatives `fn`, and `iou`, the sum over the matches."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    iou: float = 0.0

    def __iadd__(self, other: ClassQuality) -> ClassQuality:
        self.tp += other.tp
        self.fp += other.fp
        self.fn += other.fn
        self.iou += other.iou
        return self

    @property
    def seen(self) -> bool:
        """Whether truth or prediction has the class at all; if not, it is left out of every average."""
        return self.tp + self.fp + self.fn > 0

    @property
    def pq(self) -> float:
        """Panoptic quality in 0..1, nan if the class is not seen."""
        return self.iou / (self.tp + self.fp / 2 + self.fn / 2) if self.seen else nan

    @property
    def sq(self) -> float:
        """Segmentation quality in 0..1, the matches' mean IoU; 0 without a match, nan if the class is not seen."""
        return self.iou / max(self.tp, 1) if self.seen else nan

    @property
    def rq(self) -> float:
        """Recognition quality in 0..1 (the F1 score), nan if the class is not seen."""
        return self.tp / (self.tp + self.fp / 2 + self.fn / 2) if self.seen else nan


@dataclass(frozen=True)
class PanopticQuality:
    """Scores of all classes, of things and of stuff, and the counts of every category by its id.

    Of files, `images` counts them, and `notes` are sentences on what may not be expected, such as images without a prediction.
    """

    all: QualityScores
    things: QualityScores
    stuff: QualityScores
    per_class: dict[int, ClassQuality]
    categories: tuple[Category, ...]
    images: ImageCounts | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict:
        """The result as JSON can hold it: scores in 0..1, null where there is none, classes by their id as text."""
        result: dict = {name: _without_nan(asdict(scores)) for name, scores in self._groups()}
        result["per_class"] = {}
        for category in self.categories:
            counts = self.per_class[category.id]
            row = {"name": category.name, "isthing": int(category.is_thing), "pq": counts.pq, "sq": counts.sq, "rq": counts.rq}
            result["per_class"][str(category.id)] = _without_nan(row | asdict(counts))
        return result | ({"images": asdict(self.images)} if self.images else {})

    def table(self, per_class: bool = False) -> str:
        """The table people know: PQ, SQ and RQ in percent and N, the number of classes; one more row a class on request."""
        rows: list[tuple[str, QualityScores | ClassQuality, str]] = [(name, group, str(group.n)) for name, group in self._groups()]
        if per_class:
            rows += [(category.name, self.per_class[category.id], "") for category in self.categories]
        width = max(10, *(len(name) for name, _, _ in rows))
        lines = [f"{'':{width}} {'PQ':>6} {'SQ':>6} {'RQ':>6} {'N':>5}", "-" * (width + 27)]
        for name, scores, n in rows:
            percents = ["-" if isnan(score) else f"{100 * score:.1f}" for score in (scores.pq, scores.sq, scores.rq)]
            lines.append(f"{name:{width}} {percents[0]:>6} {percents[1]:>6} {percents[2]:>6} {n:>5}".rstrip())
        return "\n".join(lines)

    def _groups(self) -> tuple[tuple[str, QualityScores], ...]:
        return ("All", self.all), ("Things", self.things), ("Stuff", self.stuff)


@dataclass(frozen=True)
class SegmentMatches:
    """What the G segments of a truth and the P of a prediction have to do with each other, by the rules above."""

    gt_class: np.ndarray  # G category ids
    pred_class: np.ndarray  # P
    gt_area: np.ndarray  # G pixels
    pred_area: np.ndarray  # P
    overlap: np.ndarray  # G x P pixels
    union: np.ndarray  # G x P, without what the prediction covers of void
    matched: np.ndarray  # G x P bool, at most one in a row and in a column
    missed: np.ndarray  # G bool: false negatives
    spurious: np.ndarray  # P bool: false positives
    crowd: np.ndarray  # G bool

    @property
    def iou(self) -> np.ndarray:
        """G x P, intersection over union; 0 for a pair without a pixel."""
        return self.overlap / np.maximum(self.union, 1)


def match_segments(
    gt_ids: np.ndarray,
    gt_segments: Sequence[dict],
    pred_ids: np.ndarray,
    pred_segments: Sequence[dict],
    *,
    gt_name: str = "the ground truth",
    pred_name: str = "the prediction",
) -> SegmentMatches:
    """Match one image's segments; see `QualityCounts.add_image` for what is given and what raises InputError."""
    if gt_ids.shape != pred_ids.shape:
        pred_size, gt_size = (f"{ids.shape[1]} x {ids.shape[0]}" for ids in (pred_ids, gt_ids))
        raise InputError(f"{pred_name} is {pred_size} pixels (width x height) but {gt_name} is {gt_size}; write it at that size")
    if any(segment["id"] == 0 for segment in gt_segments):
        raise InputError(f"{gt_name} lists a segment with id 0, which means void there; number its segments from 1")

    # Neighbours mostly share both ids, so count runs of equal pixels: thousands to look up instead of hundreds of thousands.
    gt_pixels, pred_pixels = gt_ids.ravel(), pred_ids.ravel()
    changes = (gt_pixels[1:] != gt_pixels[:-1]) | (pred_pixels[1:] != pred_pixels[:-1])
    starts = np.append(0, np.flatnonzero(changes) + 1)[: gt_pixels.size]
    lengths = np.diff(starts, append=gt_pixels.size)
    gt_index = _index_of(gt_pixels[starts], gt_segments, gt_name)
    pred_index = _index_of(pred_pixels[starts], pred_segments, pred_name)

    # Pixels shared by every pair, (G + 1) x (P + 1): row 0 is void, column 0 what no predicted segment covers.
    shape = len(gt_segments) + 1, len(pred_segments) + 1
    shared = np.bincount(gt_index * shape[1] + pred_index, weights=lengths, minlength=shape[0] * shape[1])
    shared = shared.astype(np.int64).reshape(shape)
    gt_area, pred_area = shared.sum(axis=1)[1:], shared.sum(axis=0)[1:]
    void, overlap = shared[0, 1:], shared[1:, 1:]
    if not pred_area.all():
        missing = pred_segments[int(pred_area.argmin())]["id"]
        raise InputError(f"{pred_name} has no pixel of segment {missing}, which 'segments_info' lists; take the entry out")

    gt_class = np.array([segment["category_id"] for segment in gt_segments], np.int64)
    pred_class = np.array([segment["category_id"] for segment in pred_segments], np.int64)
    crowd = np.array([segment.get("iscrowd", 0) == 1 for segment in gt_segments], bool)
    same_class = gt_class[:, None] == pred_class  # G x P
    union = gt_area[:, None] + pred_area - void - overlap
    matched = same_class & ~crowd[:, None] & (2 * overlap > union)  # IoU > 1/2 in whole numbers: nothing is rounded
    ignored = void + (overlap * (same_class & crowd[:, None])).sum(axis=0)
    missed = ~crowd & ~matched.any(axis=1)
    spurious = ~matched.any(axis=0) & (2 * ignored <= pred_area)
    return SegmentMatches(gt_class, pred_class, gt_area, pred_area, overlap, union, matched, missed, spurious, crowd)


@dataclass
class QualityCounts:
    """Adds up images: `add_image` each, merge with `+` what several processes counted, then `result`."""

    classes: defaultdict[int, ClassQuality] = field(default_factory=lambda: defaultdict(ClassQuality))

    def add_image(
        self,
        gt_ids: np.ndarray,
        gt_segments: Sequence[dict],
        pred_ids: np.ndarray,
        pred_segments: Sequence[dict],
        *,
        gt_name: str = "the ground truth",
        pred_name: str = "the prediction",
    ) -> None:
        """Count the matches, false positives and false negatives of one image.

        `gt_ids` and `pred_ids` are H x W integers, one id a pixel; `gt_segments` and `pred_segments` are COCO's `segments_info`,
        of which `id`, `category_id` and, in the truth, `iscrowd` are read. Ground-truth id 0 is void. Predicted id 0 is a pixel
        left open, unless the prediction lists a segment 0 as the published DETR does. A ground-truth segment without a pixel is
        a miss, as in panopticapi; ids that do not fit their list otherwise raise InputError, naming `gt_name` or `pred_name`.
        """
        self.add(match_segments(gt_ids, gt_segments, pred_ids, pred_segments, gt_name=gt_name, pred_name=pred_name))

    def add(self, found: SegmentMatches) -> None:
        """Count what `match_segments` found in one image."""
        iou = found.iou
        for g, p in zip(*np.nonzero(found.matched), strict=True):
            self.classes[int(found.gt_class[g])].tp += 1
            self.classes[int(found.gt_class[g])].iou += float(iou[g, p])
        for category_id in found.gt_class[found.missed].tolist():
            self.classes[category_id].fn += 1
        for category_id in found.pred_class[found.spurious].tolist():
            self.classes[category_id].fp += 1

    def __add__(self, other: QualityCounts) -> QualityCounts:
        merged = QualityCounts()
        for counts in (self, other):
            for category_id, count in counts.classes.items():
                merged.classes[category_id] += count
        return merged

    def result(self, categories: Iterable[Category]) -> PanopticQuality:
        """The scores; `categories` says which classes there are, and which are things. InputError if one is not among them."""
        categories = tuple(categories)
        unknown = sorted(self.classes.keys() - {category.id for category in categories})
        if unknown:
            raise InputError(f"category {unknown[0]} is in a segment but not among the categories; add it or correct the segment")
        per_class = {category.id: self.classes.get(category.id, ClassQuality()) for category in categories}
        return PanopticQuality(
            all=_average(per_class.values()),
            things=_average(per_class[category.id] for category in categories if category.is_thing),
            stuff=_average(per_class[category.id] for category in categories if not category.is_thing),
            per_class=per_class,
            categories=categories,
        )


def panoptic_quality(
    gt_json: str | Path,
    gt_dir: str | Path,
    pred_json: str | Path,
    pred_dir: str | Path,
    jobs: int = 1,
    progress: bool = False,
    void: Collection[int] = (),
) -> PanopticQuality:
    """Panoptic quality of predictions on disk, truth and predictions both in COCO's panoptic format.

    `gt_json` and `pred_json` are the JSON files, `gt_dir` and `pred_dir` the folders of the PNG files they name (RGB, id = R +
    256 G + 65536 B; `minidetr.data.pngs` says which others). Every annotated image of the truth counts; one without a prediction
    has missed everything. Images pair by the names in 'images', by id where a file has none; classes by name where the prediction
    has 'categories'. Pixels of the ids `void` count as unlabelled, and their segments are left out (`files.compare` has the rules).

    `jobs` processes share the work (from a script, call it under `if __name__ == "__main__":`), the result is the same to the
    last bit. `progress` counts the images on stderr. Raises InputError for input that is missing or contradicts itself, and
    WorkerDied if a process dies.
    """
    if jobs < 1:
        raise InputError(f"jobs is {jobs}, but it takes at least 1 process to count")
    compared = compare(gt_json, gt_dir, pred_json, pred_dir, void)
    tasks: list[Task] = []
    for gt, pred in compared.pairs:
        tasks.append((gt, compared.truth.png(gt), pred, compared.prediction.png(pred) if pred else None))
    quality = _count(tasks, jobs, progress).result(compared.categories)
    return replace(quality, images=compared.counts, notes=compared.notes)


def _without_nan(row: dict) -> dict:
    return {name: None if isinstance(value, float) and isnan(value) else value for name, value in row.items()}


def _index_of(ids: np.ndarray, segments: Sequence[dict], name: str) -> np.ndarray:
    """The place of each id in `segments`, counted from 1; 0 for id 0 unless it is listed. InputError if an id is not listed."""
    listed = [segment["id"] for segment in segments]
    if len(set(listed)) < len(listed):
        twice = next(i for i in listed if listed.count(i) > 1)
        raise InputError(f"{name} has segment {twice} twice in 'segments_info'; give each segment an id of its own")
    keys = np.array([-1 if 0 in listed else 0, *listed], np.int64)  # no pixel has the id -1
    order = np.argsort(keys)
    place = order[np.searchsorted(keys, ids, sorter=order).clip(max=len(keys) - 1)]
    if not np.array_equal(keys[place], ids):
        stranger = ids[keys[place] != ids][0]
        raise InputError(f"{name} has pixels of segment {stranger}, which 'segments_info' does not list; add it there")
    return place


def _average(counts: Iterable[ClassQuality]) -> QualityScores:
    """Mean of the scores over the classes that are seen."""
    seen = [count for count in counts if count.seen]
    if not seen:
        return QualityScores(nan, nan, nan, 0)
    return QualityScores(
        pq=sum(count.pq for count in seen) / len(seen),
        sq=sum(count.sq for count in seen) / len(seen),
        rq=sum(count.rq for count in seen) / len(seen),
        n=len(seen),
    )


def _count(tasks: list[Task], jobs: int, progress: bool) -> QualityCounts:
    """Count all images, in chunks, on `jobs` processes; the chunks' counts are added in the order of the images."""
    chunks = [tasks[start : start + CHUNK] for start in range(0, len(tasks), CHUNK)]
    jobs = min(jobs, len(chunks))
    if jobs <= 1:
        return _add_up(map(_count_chunk, chunks), len(tasks), progress)
    try:
        # "spawn" is the one way to start a process that is safe beside threads and GPU libraries, and that every system has.
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            return _add_up(pool.map(_count_chunk, chunks), len(tasks), progress)
    except BrokenProcessPool as error:
        raise WorkerDied(
            f"one of the {jobs} processes that count panoptic quality died, perhaps for want of memory or because the calling "
            "script has no `if __name__ == '__main__':`; try jobs=1"
        ) from error


def _count_chunk(tasks: list[Task]) -> QualityCounts:
    """Read and count some images. Runs in a worker process."""
    counts = QualityCounts()
    for gt, gt_png, pred, pred_png in tasks:
        gt_ids = gt.read(gt_png)
        pred_ids = pred.read(pred_png) if pred and pred_png else np.zeros_like(gt_ids)
        pred_segments = pred.segments if pred else []
        try:
            counts.add_image(gt_ids, gt.segments, pred_ids, pred_segments, gt_name=str(gt_png), pred_name=str(pred_png))
        except InputError as error:
            why = gt.misread(gt_png) or (pred.misread(pred_png) if pred and pred_png else "")
            raise InputError(f"{error}{why}") from None
    return counts


def _add_up(chunks: Iterable[QualityCounts], images: int, progress: bool) -> QualityCounts:
    """Sum of the chunks' counts as they come in, told on stderr if `progress`."""
    total = QualityCounts()
    with tqdm(total=images, desc="panoptic quality", unit="image", disable=not progress) as bar:
        for counts in chunks:
            total = total + counts
            bar.update(min(CHUNK, images - bar.n))
    return total
