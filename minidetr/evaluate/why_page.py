"""The page of `evaluate --why`: one file of HTML with its pictures in it, and the same numbers as JSON."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from math import isnan
from pathlib import Path

import numpy as np

from minidetr.data.coco import PanopticDataset, whole_folder
from minidetr.evaluate.why import REASONS, Explanation
from minidetr.evaluate.worst import embedded, empty_folder
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
th:first-child, td:first-child {{ text-align: left }}
thead th {{ font-weight: 600; vertical-align: bottom; background: #f6f8fa }} .scroll {{ overflow-x: auto }}
.bar {{ display: flex; width: 30rem; height: 1.1rem; background: #eee }} .bar span {{ display: block; height: 100% }}
.key {{ display: inline-block; width: .9rem; height: .9rem; margin-right: .4rem; vertical-align: -1px }}
</style></head><body>
<h1>PQ {pq}: where the other {lost} points are</h1>
<p>{images} images{threshold}. Of each class, a match costs 1 - IoU and each segment missed or too many a half, over
TP + FP/2 + FN/2: with what was found that makes 100. All numbers are percent; the mean over the classes is that of PQ.</p>
{reasons}
<h2>Class by class</h2>
<p>What was found is grey, what was lost has the colours above.{ceiling}</p>
<div class="scroll">{classes}</div>
{curve}
<h2>What the pixels of each class were taken for</h2>
<p>A row is a class of the truth, its pixels 100.</p>
<div class="scroll">{confusion}</div>
<h2>The {count} worst images</h2>
<p>By their own PQ, the mean over the classes in each. Photo, truth, prediction.</p>
{worst}
</body></html>
"""
COLORS = {  # outlines blue, missed warm, too many purple
    "outline": "#4c78a8",
    "small": "#7f4f24",
    "threshold": "#f2a900",
    "class": "#e4572e",
    "merged": "#b23a48",
    "split": "#ff9f80",
    "half": "#d98032",
    "void": "#f7d488",
    "unseen": "#8c2f39",
    "extra class": "#6a4c93",
    "extra part": "#a58bc9",
    "extra": "#d0bfe6",
}


def write_why(explanation: Explanation, photo: Callable[[int], tuple[str, np.ndarray]], out_dir: str | Path) -> None:
    """Write OUT/index.html and OUT/why.json, whole or not at all; `photo` gives an image's name and pixels H x W x 3 by its index.

    Raises InputError when OUT holds anything.
    """
    out = empty_folder(out_dir)
    content = explanation.to_json()
    sections, names = [], []
    for rank, image in enumerate(explanation.worst, start=1):
        name, pixels = photo(image.index)
        names.append(name)
        sides = [pixels, *(labelled_overlay(pixels, p, explanation.categories, panels=3) for p in (image.truth, image.predicted))]
        title = f"{rank}. {name}: PQ {100 * image.pq:.1f}"
        known = {c.id: c for c in explanation.categories}
        words = [f"{known[c].name} {what}" + (f" ×{n}" if n > 1 else "") for c, what, n in image.words]
        told = "; ".join(words) or "nothing missed, nothing too many: its outlines are what costs"
        sheet = grid(sides, 3, ["photo", "truth", "prediction"])
        sections.append(f"<h3>{html.escape(title)}</h3>\n<p>{html.escape(told)}</p>\n{embedded(sheet, title)}")
    for entry, name in zip(content["worst"], names, strict=True):
        entry["image"] = name
    with whole_folder(out) as part:
        write_json(part / "why.json", content)
        (part / "index.html").write_text(page(explanation, sections), encoding="utf-8")


def photo_of(data: PanopticDataset) -> Callable[[int], tuple[str, np.ndarray]]:
    """What `write_why` takes for `photo`, of a data set."""
    return lambda index: (data.file_names[index], np.asarray(data.read(index)[0]))


def page(explanation: Explanation, sections: Sequence[str]) -> str:
    """The whole page; `sections` are those of the worst images."""
    quality = explanation.quality
    pq = quality.all.pq
    ceiling = explanation.ceiling.result(explanation.categories) if explanation.ceiling else None
    told = ""
    if ceiling is not None:
        told = (
            " The last column is the PQ of the truth itself where each cell of the mask's grid says its share of the segment: about"
            f" what masks can show at this size ({percent(ceiling.all.pq)} over all). A larger --size lifts it."
        )
    return PAGE.format(
        pq=percent(pq),
        lost=percent(1 - pq),
        images=explanation.images,
        threshold="" if explanation.threshold is None else f", queries above a score of {explanation.threshold:g}",
        reasons=reasons_table(explanation.lost_in_all()),
        ceiling=told,
        classes=classes_table(explanation),
        curve=curve(explanation),
        confusion=confusion_table(explanation),
        count=len(sections),
        worst="\n".join(sections),
    )


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
    """PQ, SQ and RQ of each class, a bar of what is lost, the counts, and what the mask's grid would allow."""
    ceiling = explanation.ceiling.result(explanation.categories).per_class if explanation.ceiling else {}
    rows, head = [], ["class", "PQ", "SQ", "RQ", "found and lost", "matched", "missed", "too many"]
    for category in sorted(explanation.categories, key=lambda c: not c.is_thing):
        counts, lost = explanation.quality.per_class[category.id], explanation.lost().get(category.id)
        if lost is None:
            continue
        pieces = [("#b8c0c8", counts.pq, "found"), *((COLORS[r], v, REASONS[r]) for r, v in lost.items())]
        spans = "".join(
            f"<span style='background:{c};width:{100 * v:.2f}%' title='{t}: {100 * v:.1f}'></span>" for c, v, t in pieces
        )
        scores = [percent(value) for value in (counts.pq, counts.sq, counts.rq)]
        row = [html.escape(category.name), *scores, f"<div class=bar>{spans}</div>", str(counts.tp), str(counts.fn), str(counts.fp)]
        rows.append(row + ([percent(ceiling[category.id].pq)] if ceiling else []))
    return table(head + (["PQ of the truth on the grid"] if ceiling else []), rows)


def confusion_table(explanation: Explanation) -> str:
    """Classes of the truth against the classes predicted, shaded by their share."""
    rows = explanation.confusion()
    seen = [c for c in explanation.categories if c.id in rows or any(c.id in row for row in rows.values())]
    columns: list[tuple[int, str]] = [(c.id, c.name) for c in seen] + [(0, "left open")]
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
    axes.set(xlabel="score above which a query is kept", ylabel="PQ, percent", ylim=(0, 100), xlim=(0, 1))
    axes.legend(fontsize="small")
    best = max(results, key=lambda t: np.nan_to_num(results[t].all.pq))
    text = f"PQ over the score threshold; the highest, {percent(results[best].all.pq)}, is at {best:g}."
    picture = np.asarray(picture_of(figure).convert("RGB"))
    return f"<h2>The threshold</h2>\n<p>{text}</p>\n{embedded(picture, text)}"
