"""The page of `evaluate --why`: one file of HTML with its pictures in it, and the same numbers as JSON."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from minidetr.data.coco import PanopticDataset, check_empty, whole_folder
from minidetr.evaluate.why import NOTHING, REASONS, Explanation, Image
from minidetr.evaluate.worst import embedded
from minidetr.panoptic import Category, write_json
from minidetr.plot import color_of, grid, labelled_overlay, new_figure, picture_of, use_style

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Why is it bad?</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem }}
body {{ color: #1f2328; background: #fff }}
h2 {{ margin: 2.5rem 0 .5rem }} h3 {{ margin: 1.5rem 0 .25rem }} p {{ margin: .25rem 0 .75rem; max-width: 60rem }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }} img {{ max-width: 100%; height: auto }}
th, td {{ padding: .15rem .5rem; text-align: right; border: 1px solid #d1d9e0 }}
th:first-child, td:first-child, .left {{ text-align: left }}
.scroll td:first-child {{ white-space: nowrap }} .scroll th:last-child {{ min-width: 6rem }}
thead th {{ font-weight: 600; vertical-align: bottom; background: #f6f8fa }} .scroll {{ overflow-x: auto }}
.whole {{ white-space: nowrap }}
.bar {{ display: flex; width: 28rem; height: 1.1rem; background: #eee }}
.bar span {{ display: block; height: 100%; font-size: .8rem; line-height: 1.1rem; text-align: center }}
.key {{ display: inline-block; width: .9rem; height: .9rem; margin-right: .4rem; vertical-align: -1px }}
</style></head><body>
<h1>PQ {pq}: where the other {lost} points are</h1>
<p>{images} images{size}{threshold}. All numbers are percent.</p>
<ul>
{sentences}
</ul>
<p>PQ is the mean over the classes. A class's own: each match costs 1 - IoU, each segment missed or too many a half, all divided by
TP + FP/2 + FN/2.{example} Each mistake is put down to the first reason that holds, in the order of "reasons" in why.json.</p>
{reasons}
<h2>Class by class</h2>
<p>What was found is grey, what was lost has the colours above. "Points" is what the class costs of the {lost}.{ceiling}</p>
<div class="scroll">{classes}</div>
{curve}
<h2>What the pixels of each class were taken for</h2>
<p>A row is a class of the truth, its pixels 100 (rounded). Blue is right, red is wrong.</p>
<div class="scroll">{confusion}</div>
<h2>The {count} worst images</h2>
<p>By their own PQ, the mean over the classes in each. Photo, truth, prediction.</p>
<p>{key}</p>
{worst}
</body></html>
"""
COLORS = {  # outlines blue, missed warm and brown, too many green: apart from each other in hue or in lightness
    "outline": "#4c78a8",
    "small": "#5b3a1e",
    "threshold": "#f2c500",
    "class": "#e4572e",
    "merged": "#ff9da7",
    "split": "#d37295",
    "half": "#f28e2b",
    "void": "#e8d8b0",
    "unseen": "#8c1c2b",
    "extra class": "#1b5e4b",
    "extra part": "#59a14f",
    "extra": "#b5dba4",
}


def write_why(explanation: Explanation, photo: Callable[[int], tuple[str, np.ndarray]], out_dir: str | Path) -> dict[str, Any]:
    """Write OUT/index.html and OUT/why.json, whole or not at all; `photo` gives an image's name and pixels H x W x 3 by its index.

    Returns what why.json says. Raises InputError when OUT holds anything.
    """
    out = Path(out_dir).resolve()
    check_empty(out)
    content = explanation.to_json()
    sections, names = [], []
    for rank, image in enumerate(explanation.worst, start=1):
        name, pixels = photo(image.index)
        names.append(name)
        sides = [pixels, *(labelled_overlay(pixels, p, explanation.categories, panels=3) for p in (image.truth, image.predicted))]
        title = f"{rank}. {name}: PQ {100 * image.pq:.1f}"
        told = in_words(image, explanation.categories) or "nothing missed, nothing too many: its outlines are what costs"
        sheet = grid(sides, 3, ["photo", "truth", "prediction"])
        sections.append(f"<h3>{html.escape(title)}</h3>\n<p>{told}</p>\n{embedded(sheet, title)}")
    for entry, name in zip(content["worst"], names, strict=True):
        entry["image"] = name
    with whole_folder(out) as part:
        write_json(part / "why.json", content)
        (part / "index.html").write_text(page(explanation, sections), encoding="utf-8")
    return content


def photo_of(data: PanopticDataset) -> Callable[[int], tuple[str, np.ndarray]]:
    """What `write_why` takes for `photo`, of a data set."""
    return lambda index: (data.file_names[index], np.asarray(data.read(index)[0]))


def page(explanation: Explanation, sections: Sequence[str]) -> str:
    """The whole page; `sections` are those of the worst images."""
    quality, cells = explanation.quality, ""
    ceiling = explanation.ceiling.result(explanation.categories) if explanation.ceiling else None
    if ceiling is not None:
        cells = (
            " The last column is the PQ of the truth itself where each cell of the mask's grid, 4 x 4 pixels of what the model"
            " sees, says its share of the segment: about what masks can show at this size"
            f" ({percent(ceiling.all.pq)} over all). A larger <span class=whole>--size</span> lifts it."
        )
    else:
        cells = " Without --model, queries below the threshold and what is too small for the masks count as something else."
    seen = [c for c in explanation.categories if quality.per_class[c.id].seen]
    example = ""
    if seen:
        one = max(seen, key=lambda c: min(quality.per_class[c.id].tp, quality.per_class[c.id].fn + quality.per_class[c.id].fp))
        counts = quality.per_class[one.id]
        total = counts.tp + counts.fp / 2 + counts.fn / 2
        example = (
            f" {html.escape(one.name)}: {counts.tp} matched, {counts.fn} missed, {counts.fp} too many, so divided by {total:g};"
            f" the IoUs sum to {counts.iou:.1f}, PQ is {percent(counts.pq)}."
        )
    return PAGE.format(
        pq=percent(quality.all.pq),
        lost=percent(1 - quality.all.pq),
        images=explanation.images,
        size="" if explanation.size is None else f", seen with a short side of {explanation.size} pixels",
        threshold="" if explanation.threshold is None else f", queries above a score of {explanation.threshold:g}",
        sentences="\n".join(f"<li>{html.escape(sentence)}</li>" for sentence in explanation.sentences()),
        example=example,
        reasons=reasons_table(explanation.lost_in_all()),
        ceiling=cells,
        classes=classes_table(explanation),
        curve=curve(explanation),
        confusion=confusion_table(explanation),
        count=len(sections),
        key=" &nbsp; ".join(named(category) for category in seen),
        worst="\n".join(sections),
    )


def in_words(image: Image, categories: Sequence[Category]) -> str:
    """The mistakes of an image by class, as HTML."""
    known = {c.id: c.name for c in categories}
    by_class: dict[int, list[str]] = {}
    for category_id, what, count in image.words:
        by_class.setdefault(category_id, []).append(what + (f" ×{count}" if count > 1 else ""))
    return "<br>".join(f"<b>{html.escape(known[c])}</b>: {html.escape('; '.join(words))}" for c, words in by_class.items())


def percent(value: float | None) -> str:
    """In percent with one decimal, "-" for nan and nothing."""
    return "-" if value is None or isnan(value) else f"{100 * value:.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML; the cells are HTML already."""
    cells = "".join(f"<th scope=col>{cell}</th>" for cell in head)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>\n{body}\n</tbody></table>"


def reasons_table(lost: dict[str, float]) -> str:
    """What each reason costs over all classes."""
    key = "<span class=key style='background:{}'></span>{}"
    return table(["points of PQ lost to", "all"], [[key.format(COLORS[r], REASONS[r]), percent(v)] for r, v in lost.items()])


def classes_table(explanation: Explanation) -> str:
    """Each class, the dearest first: points lost, PQ, SQ, RQ, a bar, the counts, and what the mask's grid would allow."""
    ceiling = explanation.ceiling.result(explanation.categories).per_class if explanation.ceiling else {}
    known, lost = {c.id: c for c in explanation.categories}, explanation.lost()
    head = ["class", "points", "PQ", "SQ", "RQ", "<div class=left>found and lost</div>", "matched", "missed", "too many"]
    head += ["in training"] * (explanation.trained_on is not None) + ["PQ of the truth on the grid"] * bool(ceiling)
    rows = []
    for category_id, points in explanation.points().items():
        counts = explanation.quality.per_class[category_id]
        pieces = [("#b8c0c8", counts.pq, "found"), *((COLORS[r], v, REASONS[r]) for r, v in lost[category_id].items())]
        spans = "".join(bar(color, share, text) for color, share, text in pieces)
        scores = [percent(value) for value in (points, counts.pq, counts.sq, counts.rq)]
        row = [named(known[category_id]), *scores, f"<div class=bar>{spans}</div>", str(counts.tp), str(counts.fn), str(counts.fp)]
        if explanation.trained_on is not None:
            row.append(f"{explanation.trained_on.get(category_id, 0):,}")
        rows.append(row + ([percent(ceiling[category_id].pq)] if ceiling else []))
    return table(head, rows)


def bar(color: str, share: float, text: str) -> str:
    """A piece of a bar, as wide as its share, its number in it where there is room."""
    number = f"{100 * share:.0f}" if share >= 0.08 else ""
    ink = "#fff" if color in ("#4c78a8", "#5b3a1e", "#e4572e", "#8c1c2b", "#1b5e4b", "#d37295") else "#1f2328"
    style = f"background:{color};color:{ink};width:{100 * share:.2f}%"
    return f'<span style="{style}" title="{html.escape(text)}: {100 * share:.1f}">{number}</span>'


def confusion_table(explanation: Explanation) -> str:
    """Classes of the truth against the classes predicted, shaded by their share."""
    rows = explanation.confusion()
    seen = [c for c in explanation.categories if c.id in rows or any(c.id in row for row in rows.values())]
    columns: list[tuple[int, str]] = [(c.id, c.name) for c in seen]
    if any(row.get(NOTHING, 0) >= 0.005 for row in rows.values()):
        columns.append((NOTHING, "left open"))
    body = []
    for category in seen:
        shares = rows.get(category.id)
        if shares is not None:
            body.append([named(category), *(shaded(shares.get(c, 0.0), c == category.id) for c, _ in columns)])
    return table(["truth \\ predicted", *(html.escape(name) for _, name in columns)], body)


def named(category: Category) -> str:
    """A class with the colour that it has in the pictures."""
    return "<span class=key style='background:rgb({},{},{})'></span>".format(*color_of(category)) + html.escape(category.name)


def shaded(share: float, right: bool) -> str:
    """A cell of the confusion matrix: blue where it is right, red where it is not, the number where there is something to say."""
    color = f"rgba({'76,120,168' if right else '228,87,46'},{min(1.0, share):.2f})"
    text = f"{100 * share:.0f}" if share >= 0.005 else ""
    ink = "#fff" if share > 0.6 else "inherit"
    return f"<div style='background:{color};color:{ink};min-width:2rem'>{text}&nbsp;</div>"


def curve(explanation: Explanation) -> str:
    """PQ over the score threshold, as a picture; nothing where one threshold was counted."""
    if len(explanation.curve) < 2:
        return ""
    results = {t: counts.result(explanation.categories) for t, counts in sorted(explanation.curve.items())}
    use_style()
    figure = new_figure(7, 3.2)
    axes = figure.subplots()
    for name, of in (("all", lambda r: r.all), ("things", lambda r: r.things), ("stuff", lambda r: r.stuff)):
        axes.plot(list(results), [100 * of(r).pq for r in results.values()], marker="o", markersize=3, label=name)
    if explanation.threshold is not None:
        axes.axvline(explanation.threshold, color="#888", linestyle="--", linewidth=1, label=f"used: {explanation.threshold:g}")
    top = max(100 * np.nan_to_num(r.pq) for result in results.values() for r in (result.all, result.things, result.stuff))
    axes.set(xlabel="score above which a query is kept", ylabel="PQ, percent", ylim=(0, 1.1 * top + 1), xlim=(0, 1))
    axes.legend(fontsize="small")
    scores = {t: float(np.nan_to_num(result.all.pq)) for t, result in results.items()}
    best = max(scores.values())
    near = [t for t, pq in scores.items() if pq >= best - 0.01]
    text = f"PQ over the score threshold: {percent(best)} at best, and within one point of it from {near[0]:g} to {near[-1]:g}."
    picture = np.asarray(picture_of(figure).convert("RGB"))
    return f"<h2>The threshold</h2>\n<p>{text}</p>\n{embedded(picture, text)}"
