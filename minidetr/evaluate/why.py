"""Why is it bad? What panoptic quality is lost to, class by class, by counting alone.

Of a class, 1 - PQ is a sum: each match adds 1 - IoU, each segment that is missed or too many a half, all over TP + FP/2 + FN/2.
So every mistake costs a known share of PQ. Each is put down to the first of its `REASONS` that holds; the shares add up to 1 - PQ.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from math import isnan
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minidetr.data.coco import PanopticDataset
from minidetr.data.targets import Target, target_from_panoptic
from minidetr.errors import InputError
from minidetr.evaluate.model import Seen, look_at
from minidetr.evaluate.panoptic_quality import PanopticQuality, QualityCounts, SegmentMatches, match_segments
from minidetr.model import PanopticDETR
from minidetr.model.merge import merge
from minidetr.panoptic import Category, Panoptic, boxes_of_ids

# What can be wrong: matches first, then what is missed, then what is too many; of several the first that holds is counted.
REASONS = {
    "outline": "found, its outline is off",
    "small": "missed: too thin or small for the mask's cells, where the truth itself is lost",
    "threshold": "missed: a query found it, but scored below the threshold",
    "class": "missed: right shape (IoU above 1/2), wrong class",
    "merged": "missed: merged with another one of its class",
    "split": "missed: split into several",
    "half": "missed: one of its class overlaps it, by half or less",
    "void": "missed: nothing of its class there, most of it left open",
    "unseen": "missed: nothing of its class there, most of it given to others",
    "extra class": "too many: right shape, wrong class",
    "extra part": "too many: part or double of one of its class",
    "extra": "too many: nothing of its class is there",
}
NOTHING = -1  # in place of a category id: no segment, for 0 may be a class
LOWEST = 0.05  # queries scored below it are not looked at


@dataclass
class Image:
    """What went wrong in one image."""

    index: int
    pq: float
    words: list[tuple[int, str, int]]  # category id, what, how often
    truth: Panoptic
    predicted: Panoptic


@dataclass
class Explanation:
    """Adds up images, see `add`; `lost` and `confusion` say what went wrong."""

    categories: list[Category]
    threshold: float | None = None
    keep: int = 10  # of the worst images so many
    counts: QualityCounts = field(default_factory=QualityCounts)
    cost: defaultdict[tuple[int, str], float] = field(default_factory=lambda: defaultdict(float))  # by class, reason
    pixels: defaultdict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))  # by both classes; NOTHING: none
    ceiling: QualityCounts | None = None  # of the truth itself on the mask's grid
    curve: dict[float, QualityCounts] = field(default_factory=dict)
    worst: list[Image] = field(default_factory=list)
    images: int = 0
    size: int | None = None  # short side at which the model sees the photos
    trained_on: dict[int, int] | None = None  # segments of each category in the training data

    def add(
        self,
        index: int,
        segment_ids: np.ndarray,
        segments_info: Sequence[dict],
        predicted: Panoptic,
        unused: Callable[[int], Iterable[np.ndarray]] = lambda category_id: (),
        drawable: np.ndarray | None = None,
    ) -> None:
        """Count an image. `unused` gives the masks H x W of the queries of a class that the threshold dropped.

        `drawable` says of each segment of the truth whether the mask's grid can show it at all.
        """
        entries = predicted.annotation(0, "")["segments_info"]
        found = match_segments(segment_ids, segments_info, predicted.segment_ids, entries)
        own = QualityCounts()
        own.add(found)
        self.counts += own
        iou, words = found.iou, defaultdict[tuple[int, str], int](int)
        for g, p in zip(*np.nonzero(found.matched), strict=True):
            self.cost[int(found.gt_class[g]), "outline"] += 1 - float(iou[g, p])
        holders = segments_held(found)
        for g in np.flatnonzero(found.missed).tolist():
            shown = drawable is None or bool(drawable[g])
            of_class = unused(int(found.gt_class[g]))
            reason = missed_because(found, iou, holders, g, segment_ids == segments_info[g]["id"], shown, of_class)
            self.cost[int(found.gt_class[g]), reason] += 0.5
            words[int(found.gt_class[g]), reason] += 1
        for p in np.flatnonzero(found.spurious).tolist():
            reason = too_many_because(found, iou, p)
            self.cost[int(found.pred_class[p]), reason] += 0.5
            words[int(found.pred_class[p]), reason] += 1
        self._count_pixels(found)
        self.images += 1
        pq = own.result(self.categories).all.pq
        if not isnan(pq):
            truth = Panoptic.of_entries(segment_ids, list(segments_info), self.categories)
            ranked = sorted(((c, REASONS[r], n) for (c, r), n in words.items()), key=lambda entry: -entry[2])
            self.worst = sorted([*self.worst, Image(index, pq, ranked, truth, predicted)], key=lambda i: i.pq)[: self.keep]

    def _count_pixels(self, found: SegmentMatches) -> None:
        for g, gt_class in enumerate(found.gt_class.tolist()):
            if found.crowd[g]:
                continue
            for p, pred_class in enumerate(found.pred_class.tolist()):
                self.pixels[gt_class, pred_class] += int(found.overlap[g, p])
            self.pixels[gt_class, NOTHING] += int(found.gt_area[g] - found.overlap[g].sum())

    @property
    def quality(self) -> PanopticQuality:
        """PQ, SQ and RQ of the images."""
        return self.counts.result(self.categories)

    def lost(self) -> dict[int, dict[str, float]]:
        """By category id: what each reason costs of the class's PQ, in 0..1; they add up to 1 - PQ. Of the classes seen."""
        result: dict[int, dict[str, float]] = {}
        for category in self.categories:
            counts = self.counts.classes[category.id]
            if counts.seen:
                total = counts.tp + counts.fp / 2 + counts.fn / 2
                result[category.id] = {r: self.cost[category.id, r] / total for r in REASONS if (category.id, r) in self.cost}
        return result

    def lost_in_all(self) -> dict[str, float]:
        """What each reason costs of PQ over all classes, in 0..1, the dearest first; they add up to 1 - PQ."""
        rows = self.lost().values()
        sums = {reason: sum(row.get(reason, 0.0) for row in rows) / max(len(rows), 1) for reason in REASONS}
        return dict(sorted(((r, v) for r, v in sums.items() if v), key=lambda entry: -entry[1]))

    def confusion(self) -> dict[int, dict[int, float]]:
        """By the class of the truth: the share of its pixels given to each class, NOTHING for those given to none."""
        totals: defaultdict[int, int] = defaultdict(int)
        for (gt_class, _), count in self.pixels.items():
            totals[gt_class] += count
        rows: dict[int, dict[int, float]] = defaultdict(dict)
        for (gt_class, pred_class), count in sorted(self.pixels.items()):
            if count:
                rows[gt_class][pred_class] = count / totals[gt_class]
        return dict(rows)

    def points(self) -> dict[int, float]:
        """By category id: what of 1 - PQ over all classes is lost by this one, in 0..1, the dearest first."""
        lost = {c: sum(row.values()) for c, row in self.lost().items()}
        return dict(sorted(((c, v / len(lost)) for c, v in lost.items()), key=lambda entry: -entry[1]))

    def sentences(self) -> list[str]:
        """What stands out, each with its numbers."""
        known, quality, points = {c.id: c.name for c in self.categories}, self.quality, self.points()
        confusion, lost = self.confusion(), self.lost_in_all()
        told = []
        if points:
            first = list(points.items())[:3]
            names = ", ".join(f"{known[c]} {100 * v:.1f}" for c, v in first)
            told.append(f"Of the {100 * sum(points.values()):.1f} points lost, most by class: {names}.")
        for c in points:
            counts = quality.per_class[c]
            if counts.tp + counts.fn and not counts.tp + counts.fp:
                row = sorted(confusion.get(c, {}).items(), key=lambda entry: -entry[1])[:3]
                went = ", ".join(f"{known.get(b, 'left open')} {100 * share:.0f} %" for b, share in row)
                trained = "" if self.trained_on is None else f", {self.trained_on.get(c, 0):,} to learn from"
                told.append(f"{known[c]}: never predicted ({counts.fn} in the truth{trained}); its pixels went to {went}.")
        if (small := lost.get("small", 0)) >= 0.005:
            told.append(f"{100 * small:.1f} points are segments too thin or small for the masks: a larger --size may find them.")
        if (below := lost.get("threshold", 0)) >= 0.005:
            told.append(f"{100 * below:.1f} points were found, but scored below the threshold.")
        return told

    def table(self) -> str:
        """What stands out, and what is lost in all, the dearest first, in points of PQ."""
        lines = ["", *self.sentences(), "", "points of PQ lost, over all classes"]
        lines += [f"  {100 * cost:5.1f}  {REASONS[reason]}" for reason, cost in self.lost_in_all().items()]
        if self.ceiling is None:
            lines.append("(without --model, queries below the threshold and what is too small for the masks are not known)")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures; shares in 0..1, classes by their id as text, "none" where there is no segment."""
        quality, lost, points, confusion = self.quality, self.lost(), self.points(), self.confusion()
        ceiling = self.ceiling.result(self.categories).per_class if self.ceiling else None
        classes = {}
        for category in self.categories:
            c = category.id
            pixels = {"none" if b == NOTHING else str(b): share for b, share in confusion.get(c, {}).items()}
            classes[str(c)] = {"name": category.name, "points": points.get(c), "lost": lost.get(c), "pixels": pixels}
            classes[str(c)]["ceiling"] = _number(ceiling[c].pq) if ceiling else None
        return {
            "images": self.images,
            "threshold": self.threshold,
            "size": self.size,
            "quality": quality.to_json(),
            "reasons": REASONS,
            "lost": self.lost_in_all(),
            "classes": classes,
            "curve": {f"{t:g}": _number(counts.result(self.categories).all.pq) for t, counts in sorted(self.curve.items())},
            "worst": [
                {"image": i.index, "pq": i.pq, "mistakes": [{"class": c, "what": w, "count": n} for c, w, n in i.words]}
                for i in self.worst
            ],
        }


def _number(value: float) -> float | None:
    return None if isnan(value) else value


def segments_held(found: SegmentMatches) -> dict[int, np.ndarray]:
    """By category id: of how many segments of the truth each of the P predicted ones has most, P. Crowds are none."""
    held = (2 * found.overlap > found.gt_area[:, None]) & ~found.crowd[:, None]  # G x P
    return {c: held[found.gt_class == c].sum(axis=0) for c in set(found.gt_class.tolist())}


def missed_because(
    found: SegmentMatches,
    iou: np.ndarray,
    holders: dict[int, np.ndarray],
    g: int,
    mask: np.ndarray,
    shown: bool,
    candidates: Iterable[np.ndarray],
) -> str:
    """Why segment `g` of the truth is missed, one of `REASONS`.

    `holders` are those of `segments_held`, `mask` H W the segment's pixels, `candidates` masks of its class that were dropped.
    """
    area, own = found.gt_area[g], found.gt_class[g]
    same, overlap = found.pred_class == own, found.overlap[g]
    if not shown:
        return "small"
    for candidate in candidates:
        shared = int((candidate & mask).sum())
        if 2 * shared > int(candidate.sum()) + int(mask.sum()) - shared:
            return "threshold"
    if (iou[g, ~same] > 0.5).any():
        return "class"
    mine = 2 * overlap > area  # P: has most of it
    if (same & mine & (holders[int(own)] > 1)).any():
        return "merged"
    parts = same & (2 * overlap > found.pred_area)  # P: lie mostly in it
    shared = overlap[parts].sum()
    if parts.sum() > 1 and 2 * shared > area + found.pred_area[parts].sum() - shared:
        return "split"
    if (iou[g, same] > 0.1).any():
        return "half"
    return "void" if 2 * overlap.sum() < area else "unseen"


def too_many_because(found: SegmentMatches, iou: np.ndarray, p: int) -> str:
    """Why segment `p` of the prediction is one too many, one of `REASONS`."""
    same, real = found.gt_class == found.pred_class[p], ~found.crowd
    if (iou[~same & real, p] > 0.5).any():
        return "extra class"
    covered = found.overlap[same & real, p].sum()
    return "extra part" if 2 * covered > found.pred_area[p] or (iou[same & real, p] > 0.1).any() else "extra"


def explain(
    model: PanopticDETR,
    data: PanopticDataset,
    indices: Iterable[int],
    threshold: float | None = None,
    thresholds: Sequence[float] = (),
    autocast: Callable[[], AbstractContextManager] = nullcontext,
) -> Explanation:
    """Segment the images `indices` of `data` and find out what is lost at `threshold` (None: the model's), and why.

    At `thresholds`, too, PQ is counted, for the curve. Of each photo the truth itself is put on the mask's grid, a quarter of the
    size that the model sees: what isn't matched then is too small for masks that say each cell's share. Raises InputError where
    the classes differ.
    """
    if model.mask_head is None:
        raise InputError("this is a detection model without a mask head: give the weights of a panoptic one")
    if {(c.id, c.name) for c in model.categories} != {(c.id, c.name) for c in data.categories}:
        raise InputError("the model has other classes than the truth: predict into files and give those, they are compared by name")
    at = model.preset.threshold if threshold is None else threshold
    result = Explanation(data.categories, at, ceiling=QualityCounts(), size=model.preset.short_side)
    assert result.ceiling is not None
    for seen in look_at(model, data, indices, min([LOWEST, at, *thresholds]), True, autocast):
        ids, infos = seen.segment_ids, seen.segments_info
        drawn = on_the_grid(ids, infos, data.categories, seen.batch.sizes[0])
        entries = drawn.annotation(0, "")["segments_info"]
        shown = match_segments(ids, infos, drawn.segment_ids, entries)
        result.ceiling.add(shown)
        result.add(seen.index, ids, infos, seen.panoptic(at), masks_below(seen, at), np.asarray(shown.matched.any(axis=1)))
        for t in thresholds:
            predicted = seen.panoptic(t)
            counts = result.curve.setdefault(t, QualityCounts())
            counts.add_image(ids, infos, predicted.segment_ids, predicted.annotation(0, "")["segments_info"])
    return result


def masks_below(seen: Seen, threshold: float) -> Callable[[int], Iterator[np.ndarray]]:
    """The masks H x W, where their own logits are above 0, of the queries that the threshold dropped: a function of the class."""

    def of_class(category_id: int) -> Iterator[np.ndarray]:
        assert seen.mask_logits is not None
        for k in torch.nonzero((seen.scores <= threshold) & (seen.labels == category_id)).flatten().tolist():
            plane = F.interpolate(seen.mask_logits[k][None, None].float(), seen.batch.size, mode="bilinear")
            plane = F.interpolate(plane, seen.size, mode="nearest-exact")[0, 0]
            yield (plane > 0).cpu().numpy()

    return of_class


def on_the_grid(
    segment_ids: np.ndarray, segments_info: list[dict], categories: Sequence[Category], size: tuple[int, int]
) -> Panoptic:
    """The truth drawn as if a model knew every pixel: each segment's share of the mask's cells for its logits, then the argmax.

    `size` is the (height, width) at which the model sees the photo; the mask's cells are a quarter of that.
    """
    target: Target = target_from_panoptic(segment_ids, segments_info, 0)
    if not len(target.labels):
        return Panoptic(np.zeros(segment_ids.shape, np.int32))
    grid = [-(-side // 4) for side in size]
    shares: list[Tensor] = [F.interpolate(m[None, None].float(), grid, mode="area")[0, 0] for m in target.masks]
    every = torch.ones(len(shares))
    classes = {c.id: replace(c, is_thing=True) for c in categories}  # each segment by itself: merging joins those of a stuff class
    drawn = merge(torch.stack(shares), every, target.labels, classes, size, size, target.size)
    crowds = [info["id"] for info in segments_info if info.get("iscrowd")]
    nobodys = np.isin(segment_ids, [0, *crowds])  # where others may spread without being blamed
    return without(drawn, nobodys) if nobodys.any() else drawn


def without(panoptic: Panoptic, mask: np.ndarray) -> Panoptic:
    """The segmentation with the pixels of `mask` left open; segments that had no others are gone."""
    ids = np.where(mask, 0, panoptic.segment_ids)
    areas, boxes = boxes_of_ids(ids, np.array([segment.id for segment in panoptic.segments], np.int64))
    measured = zip(panoptic.segments, areas.tolist(), boxes.tolist(), strict=True)
    return Panoptic(ids, [replace(segment, area=area, box=tuple(box)) for segment, area, box in measured if area])
