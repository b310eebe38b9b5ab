"""Checks and pictures of lesson 09: from mask logits to one id per pixel, and how good that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.patches import Patch
from PIL import Image
from torch import Tensor

from minidetr.course import answer, exercise, require, require_tensor
from minidetr.course.figures import titled
from minidetr.course.pictures import row
from minidetr.course.schematic import Schematic
from minidetr.course.trace import Trace, plain
from minidetr.evaluate import PanopticQuality, QualityCounts
from minidetr.evaluate.model import Seen, look_at
from minidetr.model import PanopticDETR
from minidetr.model.merge import SMALLEST_AREA, group_of, merge
from minidetr.panoptic import Category, Panoptic
from minidetr.plot import boundaries, draw_labels, for_display, new_figure, overlay, picture_of
from minidetr.scenes.dataset import HELD_OUT_SEED, SceneData
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
        whole = F.interpolate(logits[None], size=size, mode="bilinear")[0].argmax(0) + 1
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
def chosen(attempt: Any) -> None:
    """`attempt`: the threshold to ship, and the PQ to tell the world, read off the lesson's table."""
    pair = answer(attempt)
    require(isinstance(pair, (tuple, list)) and len(pair) == 2, "give two numbers: the threshold, and the PQ you report.")
    threshold, reported = (float(answer(value)) for value in pair)
    require(threshold in (0.1, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95), f"{threshold:g} is not among the thresholds of the table.")
    on_test = "that threshold is the best on the test scenes: what is chosen there is measured nowhere."
    require(threshold not in (0.6, 0.7), on_test)
    require(threshold == 0.85, "take the threshold with the highest PQ on the validation scenes.")
    require(reported != 81.6, "that PQ was measured on the scenes the threshold was chosen on: it flatters.")
    require(reported != 80.3, "that is the best of the test column, but at another threshold than the one you ship.")
    require(reported == 76.5, "report the PQ of the test scenes at the threshold you ship.")


@exercise
def one_extra_less(attempt: Any) -> None:
    """`attempt`: the PQ in percent of a class with one match of IoU 0.55, one miss and one extra instead of two."""
    value = float(answer(attempt))
    value *= 100 if value <= 1 else 1
    require(abs(value - 22) > 0.3, "22.0 is the PQ with both extras: TP + FP/2 + FN/2 was 1 + 1 + 1/2.")
    require(abs(value - 55) > 0.3, "55 is SQ: the miss still costs.")
    require(abs(value - 55 / 3) > 0.3, "an extra and a miss count half each.")
    require(abs(value - 36.7) > 0.3, "36.7 is the PQ without any extra; one of two is left.")
    require(abs(value - 27.5) < 0.3, "PQ = sum of IoU / (TP + FP/2 + FN/2), here with TP = 1, FP = 1, FN = 1.")


MISTAKES = {  # what may be wrong with a matcher -> the sentence for the learner
    "classless": "segments of different classes were matched: classes have to agree.",
    "half": "a pair with an IoU of exactly one half was matched: it has to be more.",
    "void in union": "the union leaves out the pixels of the prediction that are void in the truth.",
    "crowd matched": "a crowd was matched: it never is.",
    "crowd missed": "a crowd without a partner was counted as missed: it never is.",
    "never forgiven": "an unmatched prediction that lies more than half on void or a crowd of its class is no false positive.",
    "void only": "crowds of the same class forgive, too: void and crowd pixels are added.",
    "any crowd": "a crowd forgives predictions of its own class only.",
    "void forgotten": "void forgives, too: void and crowd pixels are added.",
}


def counted(
    truth: Tensor, true_segments: list[dict], predicted: Tensor, segments: list[dict], mistake: str = ""
) -> dict[int, list[float]]:
    """Class -> [TP, FP, FN, sum of IoU] by COCO's rules, or with one of MISTAKES."""
    counts = {s["category_id"]: [0, 0, 0, 0.0] for s in [*true_segments, *segments]}
    partners = set()
    for g in true_segments:
        matched = False
        for s in segments:
            there, here = truth == g["id"], predicted == s["id"]
            union = int((there | here).sum()) - (0 if mistake == "void in union" else int((here & (truth == 0)).sum()))
            iou = int((there & here).sum()) / union
            fits = g["category_id"] == s["category_id"] or mistake == "classless"
            fits &= not g["iscrowd"] or mistake == "crowd matched"
            if fits and (iou > 0.5 or (mistake == "half" and iou == 0.5)) and not matched and s["id"] not in partners:
                counts[g["category_id"]][0] += 1
                counts[g["category_id"]][3] += iou
                partners.add(s["id"])
                matched = True
        counts[g["category_id"]][2] += not matched and (not g["iscrowd"] or mistake == "crowd missed")
    for s in segments:
        same = [g for g in true_segments if g["iscrowd"] and (g["category_id"] == s["category_id"] or mistake == "any crowd")]
        forgiving = ([] if mistake == "void forgotten" else [0]) + ([] if mistake == "void only" else [g["id"] for g in same])
        here = predicted == s["id"]
        share = 0 if mistake == "never forgiven" else int((here & torch.isin(truth, torch.tensor(forgiving))).sum())
        counts[s["category_id"]][1] += s["id"] not in partners and 2 * share <= int(here.sum())
    return counts


def patchwork() -> tuple[Tensor, list[dict], Tensor, list[dict]]:
    """A random truth with void and crowds and a prediction that is right in most places: ids 9 x 16 of 3 x 4 patches, segments."""

    def large(patches: Tensor) -> Tensor:
        return patches.repeat_interleave(3, 0).repeat_interleave(4, 1)

    truth = torch.randint(0, 5, (3, 4))
    predicted = torch.where(torch.rand(3, 4) < 0.6, truth, torch.randint(0, 5, (3, 4))).clamp(min=1)
    classes = torch.randint(2, 4, (5,)).tolist()
    others = [c if torch.rand(()) < 0.8 else 5 - c for c in classes]
    true_segments = [{"id": i, "category_id": classes[i], "iscrowd": int(i == 4)} for i in truth.unique().tolist() if i]
    segments = [{"id": i + 10, "category_id": others[i]} for i in predicted.unique().tolist()]
    return large(truth), true_segments, large(predicted) + 10, segments


@exercise
def panoptic_counts(attempt: Callable[..., Any]) -> None:
    """`attempt(truth, true_segments, predicted, segments)` -> {class: (TP, FP, FN, sum of IoU)} of one image."""
    suspects, wrong = dict(MISTAKES), ""
    for _ in range(80):
        case = patchwork()
        package = QualityCounts()
        package.add_image(case[0].numpy(), case[1], case[2].numpy(), case[3])
        expected = {c: (q.tp, q.fp, q.fn, q.iou) for c, q in package.classes.items()}
        found = answer(attempt(*(part.clone() if isinstance(part, Tensor) else [dict(s) for s in part] for part in case)))
        require(isinstance(found, dict), "the result should be a dictionary: class -> (TP, FP, FN, sum of IoU).")
        if not wrong and not alike(found, expected):
            c = next(
                c for c in sorted({*found, *expected}) if not alike({c: found.get(c, (0, 0, 0, 0))}, {c: expected.get(c, (0,) * 4)})
            )
            told, right = (tuple(round(float(v), 2) for v in counts.get(c, (0,) * 4)) for counts in (found, expected))
            wrong = f"class {c} should have (TP, FP, FN, sum of IoU) = {right}, not {told}."
        suspects = {name: words for name, words in suspects.items() if alike(found, counted(*case, mistake=name))}
    require(not wrong, next(iter(suspects.values()), wrong))


def alike(found: dict, expected: dict) -> bool:
    """Whether two results count the same; classes without a count may be left out."""
    none = (0, 0, 0, 0.0)
    pairs = [(found.get(c, none), expected.get(c, none)) for c in {*found, *expected}]
    return all(len(a) == 4 and all(abs(float(x) - float(y)) < 1e-4 for x, y in zip(a, b, strict=True)) for a, b in pairs)


# --- what the lesson measures with ------------------------------------------------------------------------------------------


def add(counts: QualityCounts, scene: Scene, found: Panoptic) -> None:
    """Count one more image: the scene's truth against what was found in it."""
    counts.add_image(scene.segment_ids, scene.segments_info, found.segment_ids, found.annotation(0, "")["segments_info"])


def quality(scene: Scene, found: Panoptic, categories: Sequence[Category]) -> PanopticQuality:
    """Panoptic quality of one image."""
    counts = QualityCounts()
    add(counts, scene, found)
    return counts.result(categories)


def looked(model: PanopticDETR, count: int) -> list[Seen]:
    """What the model sees in `count` scenes it was not trained on, with the masks of all queries scored above 0.1."""
    return list(look_at(model, SceneData(count, HELD_OUT_SEED), range(count), 0.1))


def add_owner(counts: QualityCounts, one: Seen, owner: Tensor, labels: Tensor) -> None:
    """Count one more image of which `owner` H W says whose mask each pixel belongs to."""
    present = [{"id": k + 1, "category_id": int(labels[k])} for k in owner.unique().tolist()]
    counts.add_image(one.segment_ids, one.segments_info, owner.int().numpy() + 1, present)


def true_masks(one: Seen, z: Tensor, labels: Tensor) -> Tensor:
    """K H W bool: the true segment of each mask's class that it overlaps most."""
    ids = torch.from_numpy(np.array(one.segment_ids))
    masks = torch.zeros(z.shape, dtype=torch.bool)
    for k, c in enumerate(labels.tolist()):
        same = [ids == s["id"] for s in one.segments_info if s["category_id"] == c]
        if same:
            masks[k] = max(same, key=lambda true: int((true & (z[k] > 0)).sum()))  # noqa: B023  # used at once
    return masks


def near_border(owner: Tensor) -> Tensor:
    """H W bool: the pixels within 4 of one that has another owner."""
    values = owner[None].float()
    return (F.max_pool2d(values, 9, 1, 4) != -F.max_pool2d(-values, 9, 1, 4))[0]


def binned(p: Tensor, right: Tensor, bins: int = 10) -> Tensor:
    """2 x bins: how many values of `p` fall into each tenth of 0..1, and how many of those are `right`."""
    place = (p.flatten() * bins).long().clamp(max=bins - 1)
    return torch.stack(
        [torch.bincount(place, weights=w, minlength=bins) for w in (torch.ones(len(place)), right.flatten().float())]
    )


# --- pictures ---------------------------------------------------------------------------------------------------------------

MATCHED, MISSED, EXTRA = (0, 114, 178), (230, 159, 0), (204, 121, 167)  # Okabe and Ito's blue, orange and pink


def schematic() -> Image.Image:
    """From mask logits to segments; shapes at 640x640 for a photo of 480x480."""
    page = Schematic(8.3, 3.0)
    y = 2.55
    masks = page.block(0.8, y, "mask logits", "Kx160x160", kind="data", width=1.2)
    large = page.block(2.6, y, "bilinear, x 4", "Kx640x640", kind="fixed", width=1.4)
    cut = page.block(4.45, y, "crop padding", "Kx560x560", kind="fixed", width=1.4)
    photo = page.block(6.55, y, "to the photo's size", "Kx480x480", kind="fixed", width=1.7)
    page.arrow(masks, large)
    page.arrow(large, cut)
    page.arrow(cut, photo)
    y = 0.95
    best = page.block(0.95, y, "argmax over K", "480x480", kind="fixed", width=1.4)
    groups = page.block(2.95, y, "stuff: one group", "480x480", kind="fixed", width=1.5)
    crumbs = page.block(4.95, y, "4 pixels or fewer?", kind="fixed", width=1.6)
    ids = page.block(7.2, y, "ids 1, 2, 3, ...", "480x480", kind="data", width=1.6)
    page.arrow(photo, (6.55, 1.75), (0.95, 1.75), best)
    page.arrow(best, groups)
    page.arrow(groups, crumbs)
    page.arrow(crumbs, ids, text="no")
    page.arrow(crumbs, (4.95, 0.3), (0.95, 0.3), best, dashed=True)
    page.text(2.95, 0.42, "yes: without those masks")
    page.arrow((3.6, 1.5), (3.6, 1.2))
    page.text(3.68, 1.45, "classes of the K queries", ha="left")
    return page.picture()


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


def colored(found: Trace, owner: Tensor, labels: Tensor) -> np.ndarray:
    """`owner` H W (whose mask each pixel belongs to) over the trace's image, segments named."""
    present = [{"id": k + 1, "category_id": int(labels[k])} for k in owner.unique().tolist()]
    result = Panoptic.of_entries(owner.numpy() + 1, present, found.model.categories)
    return named(found.image, result, found.model.categories)


def verdicts(image: np.ndarray, panoptic: Panoptic, good: Sequence[bool], bad_color: tuple[int, int, int]) -> np.ndarray:
    """H W 3: the grey image, matched segments tinted blue, the others in `bad_color`, every second of these darker and striped."""
    grey = np.repeat(image.mean(-1, keepdims=True), 3, axis=-1)
    picture = grey.copy()
    bad = [segment.id for segment, ok in zip(panoptic.segments, good, strict=True) if not ok]
    for segment, ok in zip(panoptic.segments, good, strict=True):
        inside = panoptic.segment_ids == segment.id
        picture[inside] = (0.4 if ok else 0.2) * grey[inside] + (0.6 if ok else 0.8) * np.array(MATCHED if ok else bad_color)
        if segment.id in bad[1::2]:
            rows, columns = np.indices(inside.shape)
            picture[inside & ((rows + columns) // 4 % 2 == 0)] *= 0.45
    picture[boundaries(panoptic.segment_ids) & ~np.isin(panoptic.segment_ids, bad)] = 255  # lines would hide small ones
    return picture.astype(np.uint8)


def matching(
    image: np.ndarray, truth: Panoptic, found: Panoptic, matched: Tensor, categories: Sequence[Category], rows: slice
) -> Image.Image:
    """The `rows` of the image: truth and prediction, above; below, which of their segments have a partner.

    `matched` is bool, truth x prediction.
    """
    figure = new_figure(8.3, 6.2)
    (top_left, top_right), (left, right) = figure.subplots(2, 2)
    for axes, panoptic in ((top_left, truth), (top_right, found)):
        ids, names = panoptic.segment_ids[rows], panoptic.annotation(0, "")["segments_info"]
        cut = Panoptic.of_entries(ids, [entry for entry in names if (ids == entry["id"]).any()], categories)
        plain(axes, named(image[rows], cut, categories))
    plain(left, verdicts(image, truth, matched.any(1).tolist(), MISSED)[rows])
    plain(right, verdicts(image, found, matched.any(0).tolist(), EXTRA)[rows])
    titles = ("truth", "prediction", "truth: matched or missed", "prediction: matched or extra")
    for axes, title in zip((top_left, top_right, left, right), titles, strict=True):
        titled(axes, title)
    labels = ("matched (TP)", "missed (FN)", "extra (FP; a second one striped)")
    figure.legend(handles=patches((MATCHED, MISSED, EXTRA), labels), loc="outside lower center", ncols=3)
    return picture_of(figure)


def patches(colors: Sequence[tuple[int, int, int]], labels: Sequence[str]) -> list[Patch]:
    """Entries of a legend."""
    return [Patch(color="#{:02x}{:02x}{:02x}".format(*c), label=label) for c, label in zip(colors, labels, strict=True)]


def curve(scores: dict[float, PanopticQuality]) -> Image.Image:
    """PQ against the score threshold, and below it the false positives and false negatives."""
    figure = new_figure(8.3, 4.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.3, 1))
    thresholds = list(scores)
    above.plot(thresholds, [100 * q.all.pq for q in scores.values()], "o-", color="#0072b2")
    above.set(ylabel="PQ", ylim=(60, 90))
    for name, color, words in (("fp", "#cc79a7", "extra (FP)"), ("fn", "#e69f00", "missed (FN)")):
        totals = [sum(getattr(c, name) for c in q.per_class.values()) for q in scores.values()]
        below.plot(thresholds, totals, "o-", color=color, label=words)
    below.set(xlabel="score threshold", ylabel="segments", ylim=(0, None))
    below.legend()
    return picture_of(figure)


def reliability(curves: dict[str, Tensor]) -> Image.Image:
    """How often what was said with a probability is true, against that probability; `curves` are of `binned`."""
    figure = new_figure(8.3, 3.7)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color="#57606a", linewidth=1, label="said = true")
    for (name, counts), color in zip(curves.items(), ("#0072b2", "#d55e00"), strict=True):
        enough = counts[0] >= 200
        middle = (torch.arange(len(counts[0])) + 0.5) / len(counts[0])
        axes.plot(middle[enough], (counts[1] / counts[0].clamp(min=1))[enough], "o-", color=color, label=name)
    axes.set(xlabel="probability that was said", ylabel="share of pixels where true", xlim=(0, 1), ylim=(-0.02, 1.02))
    axes.legend()
    return picture_of(figure)


def at_threshold(found: Trace, scene: Scene, threshold: float) -> Image.Image:
    """The segmentation at a score threshold, with its number of segments and its panoptic quality."""
    result = found.model.panoptic(found.seen, found.batch, [found.image.shape[:2]], threshold)[0]
    score = quality(scene, result, found.model.categories).all.pq
    picture = overlay(found.image, result, found.model.categories)
    return row([picture], [f"threshold {threshold:.4g}\n{len(result.segments)} segments, PQ {100 * score:.0f}"], 4)


def claims(masks: Tensor) -> Image.Image:
    """How many masks (bool K H W) claim each pixel: none, one, or several."""
    names, colors = ("nobody", "one mask", "two or more"), (MISSED, (225, 229, 234), MATCHED)
    picture = np.array(colors, np.uint8)[masks.sum(0).clamp(max=2).numpy()]
    figure = new_figure(5.6, 4.0)
    plain(figure.subplots(), picture)
    figure.legend(handles=patches(colors, names), loc="outside right center", title="claimed by")
    return picture_of(figure, 90)
