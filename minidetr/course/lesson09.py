"""Checks and pictures of lesson 09: from mask logits to one id per pixel, and how good that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.patches import Patch
from PIL import Image
from torch import Tensor

from minidetr.course import answer, exercise, require, require_tensor
from minidetr.course.figures import titled
from minidetr.course.pictures import row
from minidetr.course.trace import Trace, plain
from minidetr.evaluate import ClassQuality, PanopticQuality, QualityCounts
from minidetr.model.merge import SMALLEST_AREA, group_of, merge
from minidetr.panoptic import Category, Panoptic
from minidetr.plot import boundaries, draw_labels, for_display, new_figure, overlay, picture_of
from minidetr.scenes.render import Scene

# --- exercises --------------------------------------------------------------------------------------------------------------


def blobs(count: int, height: int, width: int) -> Tensor:
    """Mask logits `count` height width of one soft disc each, at random places."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    places = torch.rand(count, 2) * torch.tensor([height, width])
    distance = (rows - places[:, :1, None]) ** 2 + (columns - places[:, 1:, None]) ** 2
    return 3 - distance.sqrt() + torch.rand(count, 1, 1)


@exercise
def argmax_to_ids(attempt: Callable[..., Any]) -> None:
    """`attempt(mask_logits, padded_size, size)`: K h w -> ids H W of the image alone; mask k has the id k + 1."""
    padded_size, size = (44, 60), (31, 52)
    tried = 0
    while tried < 3:
        logits = blobs(5, 11, 15)
        categories = {c: Category(c, str(c), True) for c in range(5)}
        expected = merge(logits, torch.ones(5), torch.arange(5), categories, padded_size, size, size)
        if min(s.area for s in expected.segments) <= SMALLEST_AREA or len(expected.segments) < 5:
            continue  # one mask wins nowhere: what is left to its neighbours is another step's matter
        tried += 1
        ids = answer(attempt(logits.clone(), padded_size, size))
        require(isinstance(ids, Tensor), f"the result should be a tensor, not {type(ids).__name__}.")
        require(tuple(ids.shape) != padded_size, "the ids still cover the padding: crop to the image's own size.")
        ids = require_tensor(ids, size, "the ids")
        right = torch.from_numpy(expected.segment_ids)
        require(not torch.equal(ids, right - 1), "the ids start at 0, which is void: count from 1.")
        whole = torch.nn.functional.interpolate(logits[None], size=size, mode="bilinear")[0].argmax(0) + 1
        require(
            not torch.equal(ids, whole), "the padding was squeezed into the image: enlarge to the padded size first, then crop."
        )
        agree = float((ids == right).float().mean())
        require(
            agree == 1, f"only {agree:.0%} of the pixels have the right id: bilinear enlarging, crop, argmax over the masks, + 1."
        )


@exercise
def fuse_stuff(attempt: Callable[..., Any]) -> None:
    """`attempt(owner, labels, things)`: H W indices of masks -> the same, duplicates of a stuff class as the first of them."""
    for labels in ([4, 7, 4, 9, 7, 9, 2], [3, 3, 8, 8, 3, 1]):
        things = {7, 8, 2}
        categories = {c: Category(c, str(c), c in things) for c in labels}
        owner = torch.randint(len(labels), (5, 9))
        owner[0, : len(labels)] = torch.arange(len(labels))
        fused = require_tensor(attempt(owner.clone(), torch.tensor(labels), things), (5, 9), "the fused owners")
        expected = group_of(labels, categories)[owner]
        is_thing = torch.tensor([c in things for c in labels])[owner]
        require(
            torch.equal(fused[is_thing], owner[is_thing]),
            "things were fused, too: two workers are two objects, whatever their class.",
        )
        require(not torch.equal(fused, owner), "nothing was fused: two masks of one stuff class still count as two.")
        first = "a stuff pixel should carry the index of the first mask of its class (not the class, not a later mask)."
        require(torch.equal(fused, expected), first)


@exercise
def pq_from_counts(attempt: Callable[..., Any]) -> None:
    """`attempt(counts)`: a list of (tp, fp, fn, sum of IoU), one for each class -> the mean PQ of the classes that occur."""
    cases = [
        [(3, 1, 2, 2.4)],
        [(3, 1, 2, 2.4), (0, 2, 0, 0.0), (1, 0, 0, 0.9)],
        [(5, 0, 4, 3.6), (0, 0, 0, 0.0), (1, 3, 0, 0.55)],
    ]
    for counts in cases:
        value = float(answer(attempt(list(counts))))
        quality = QualityCounts()
        quality.classes.update({c: ClassQuality(*count) for c, count in enumerate(counts)})
        expected = quality.result([Category(c, str(c), True) for c in range(len(counts))]).all.pq
        tp, fp, fn, iou = (sum(column) for column in zip(*counts, strict=True))
        unhalved = abs(value - 2.4 / 6) < 1e-9
        require(not (len(counts) == 1 and unhalved), "a false positive and a false negative count half each.")
        require(
            not (len(counts) == 1 and abs(value - 2.4 / 3) < 1e-9),
            "that is SQ, the matches' mean IoU: what is missed and extra has to cost.",
        )
        pooled = len(counts) > 1 and abs(value - iou / (tp + fp / 2 + fn / 2)) < 1e-9
        require(not pooled, "all classes were thrown together: PQ is computed for each class, then averaged.")
        unseen = sum(1 for count in counts if not any(count[:3]))
        with_unseen = expected * (len(counts) - unseen) / len(counts)
        wrong = unseen and (value != value or abs(value - with_unseen) < 1e-9)
        require(not wrong, "a class that neither the truth nor the prediction has says nothing: leave it out of the average.")
        require(abs(value - expected) < 1e-9, f"PQ should be {expected:.4f} for the counts {counts}, not {value:.4f}.")


# --- what the lesson measures with ------------------------------------------------------------------------------------------


def add(counts: QualityCounts, scene: Scene, found: Panoptic) -> None:
    """Count one more image: the scene's truth against what was found in it."""
    counts.add_image(scene.segment_ids, scene.segments_info, found.segment_ids, found.annotation(0, "")["segments_info"])


def quality(scene: Scene, found: Panoptic, categories: Sequence[Category]) -> PanopticQuality:
    """Panoptic quality of one image."""
    counts = QualityCounts()
    add(counts, scene, found)
    return counts.result(categories)


# --- pictures ---------------------------------------------------------------------------------------------------------------

MATCHED, MISSED, EXTRA = (0, 114, 178), (230, 159, 0), (204, 121, 167)  # Okabe and Ito's blue, orange and pink


def kept_masks(found: Trace) -> Image.Image:
    """The mask logits of every kept query (red: it wants the pixel, blue: it does not), its class and its score."""
    columns = 6
    rows = -(-len(found.labels) // columns)
    figure = new_figure(8.3, 1.62 * rows + 0.45)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, mask, name, score in zip(grid, found.masks, found.names(), found.scores.tolist(), strict=False):
        plain(axes, mask, cmap="RdBu_r", vmin=-8, vmax=8)
        titled(axes, f"{name} {score:.2f}", 9)
    for axes in list(figure.axes)[len(found.labels) :]:
        axes.set_axis_off()
    bar = figure.colorbar(figure.axes[0].images[0], ax=figure.axes, orientation="horizontal", aspect=60, fraction=0.04, pad=0.02)
    bar.set_label("mask logit (0: undecided)", fontsize=9)
    return picture_of(figure)


def named(image: np.ndarray, panoptic: Panoptic, categories: Sequence[Category]) -> np.ndarray:
    """The overlay at a size to look at, segments named where there is room."""
    image, panoptic = for_display(image, panoptic)
    return draw_labels(overlay(image, panoptic, categories), panoptic, categories, 26)


def verdicts(image: np.ndarray, panoptic: Panoptic, good: Sequence[bool], bad_color: tuple[int, int, int]) -> np.ndarray:
    """H W 3: the grey image, matched segments tinted blue, the others in `bad_color`, white lines between them."""
    grey = np.repeat(image.mean(-1, keepdims=True), 3, axis=-1)
    picture = grey.copy()
    for segment, ok in zip(panoptic.segments, good, strict=True):
        inside = panoptic.segment_ids == segment.id
        picture[inside] = 0.4 * grey[inside] + 0.6 * np.array(MATCHED if ok else bad_color)
    bad = [segment.id for segment, ok in zip(panoptic.segments, good, strict=True) if not ok]
    picture[boundaries(panoptic.segment_ids) & ~np.isin(panoptic.segment_ids, bad)] = 255  # lines would hide small ones
    return picture.astype(np.uint8)


def matching(image: np.ndarray, truth: Panoptic, found: Panoptic, matched: Tensor, categories: Sequence[Category]) -> Image.Image:
    """Truth and prediction, above; below, which of their segments have a partner. `matched` is bool, truth x prediction."""
    figure = new_figure(8.3, 8.7)
    (top_left, top_right), (left, right) = figure.subplots(2, 2)
    plain(top_left, named(image, truth, categories))
    plain(top_right, named(image, found, categories))
    plain(left, verdicts(image, truth, matched.any(1).tolist(), MISSED))
    plain(right, verdicts(image, found, matched.any(0).tolist(), EXTRA))
    titles = ("truth", "prediction", "truth: matched or missed", "prediction: matched or extra")
    for axes, title in zip((top_left, top_right, left, right), titles, strict=True):
        titled(axes, title)
    labels = ("matched (TP)", "missed (FN)", "extra (FP)")
    patches = [
        Patch(color="#{:02x}{:02x}{:02x}".format(*c), label=t) for c, t in zip((MATCHED, MISSED, EXTRA), labels, strict=True)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, handlelength=3, handleheight=1.5)
    return picture_of(figure, 75)


def at_thresholds(found: Trace, scene: Scene, thresholds: Sequence[float]) -> Image.Image:
    """The segmentation at several score thresholds, with its number of segments and its panoptic quality."""
    pictures, titles = [], []
    for threshold in thresholds:
        result = found.model.panoptic(found.seen, found.batch, [found.image.shape[:2]], threshold)[0]
        score = quality(scene, result, found.model.categories).all.pq
        pictures.append(overlay(found.image, result, found.model.categories))
        titles.append(f"threshold {threshold:.4g}\n{len(result.segments)} segments, PQ {100 * score:.0f}")
    return row(pictures, titles, 2.65 if len(pictures) > 1 else 4)


def claims(masks: Tensor) -> Image.Image:
    """How many masks (bool K H W) claim each pixel: none, one, or several."""
    names, colors = ("nobody", "one mask", "two or more"), (MISSED, (225, 229, 234), MATCHED)
    picture = np.array(colors, np.uint8)[masks.sum(0).clamp(max=2).numpy()]
    figure = new_figure(5.6, 4.0)
    plain(figure.subplots(), picture)
    patches = [Patch(color="#{:02x}{:02x}{:02x}".format(*c), label=t) for c, t in zip(colors, names, strict=True)]
    figure.legend(handles=patches, loc="outside right center", title="claimed by")
    return picture_of(figure, 90)
