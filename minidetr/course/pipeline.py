"""The pipeline: the whole way of an image through DETR as one picture, with its branches, and stages of it lit up."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from minidetr.course.trace import SCENE, Trace, draw_box, example, plain, principal_colors
from minidetr.panoptic import Panoptic
from minidetr.plot import new_figure, overlay, picture_of
from minidetr.scenes.render import render_scene

LIT, INK, DIM = "#d55e00", "#1f2328", 0.28  # frame of the stage that is lit, text, opacity of the others


# name of the stage: (title, shape at 640x640 with ResNet-50, its column and row: the lower row runs from right to left)
STAGES = {
    "image": ("image", "3 x 640 x 640", 0, 0),
    "backbone": ("ResNet-50", "Res5: 2048 x 20 x 20", 1, 0),
    "encoder": ("encoder", "256 x 20 x 20", 2, 0),
    "decoder": ("decoder and heads", "100 classes and boxes", 3, 0),
    "heatmaps": ("attention heatmaps", "K x 8 x 20 x 20", 3, 1),
    "mask_head": ("FPN mask head", "K x 160 x 160", 2, 1),
    "merge": ("pixel-wise argmax", "640 x 640 ids", 1, 1),
    "quality": ("panoptic quality", "PQ = SQ x RQ", 0, 1),
}
TRAINING = {"matching": (3, "in training: matching, set loss"), "mask_losses": (2, "in training: DICE and focal loss")}
SIDE, LEFT, STEP, BOTTOMS = 1.5, 0.3, 2.06, (3.85, 0.82)  # inches: a picture's side, the first one's left, columns, rows


def pipeline(*lit: str) -> Image.Image:
    """The whole way of an image, with the stages named `lit` highlighted: names of STAGES, "matching" or "mask_losses"."""
    unknown = set(lit) - {*STAGES, *TRAINING}
    if unknown:
        raise ValueError(f"there is no stage {', '.join(sorted(unknown))}: choose from {', '.join([*STAGES, *TRAINING])}")
    found = example()
    figure = new_figure(8.3, 5.95)
    figure.set_layout_engine("none")
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, 8.3), ylim=(0, 5.95))
    page.axis("off")
    for name, (title, shape, column, row) in STAGES.items():
        x, y = LEFT + STEP * column, BOTTOMS[row]
        dim = bool(lit) and name not in lit
        if name in lit:
            frame = FancyBboxPatch((x - 0.08, y - 0.33), SIDE + 0.16, SIDE + 0.68, "round,pad=0,rounding_size=0.1")
            frame.set(facecolor="#fff4e8", edgecolor=LIT, linewidth=2.5)
            page.add_patch(frame)
        axes = figure.add_axes((x / 8.3, y / 5.95, SIDE / 8.3, SIDE / 5.95))
        thumbnail(axes, name, found)
        if dim:
            dimmed(axes)
        page.text(x + SIDE / 2, y + SIDE + 0.12, title, ha="center", fontsize=10.5, weight="bold", alpha=0.5 if dim else 1)
        page.text(x + SIDE / 2, y - 0.2, shape, ha="center", fontsize=9.5, alpha=0.5 if dim else 1)
    connect(page)
    for name, (column, text) in TRAINING.items():
        x, y = LEFT + STEP * column + SIDE / 2, 5.75 if name == "matching" else 0.3
        on = name in lit
        box = {"boxstyle": "round,pad=0.3", "facecolor": "#fff4e8" if on else "white", "edgecolor": LIT if on else "#afb8c1"}
        page.text(min(x, 7.1), y, text, ha="center", va="center", fontsize=9, bbox=box, weight="bold" if on else "normal")
    page.text(4.15, 0.06, WHOSE, ha="center", va="center", fontsize=8, color="#57606a")
    return picture_of(figure)


WHOSE = "Shapes: ResNet-50 at 640x640. Pictures: the shipped model on a 288x288 scene, whose grid has 18x18 cells."


def connect(page: Axes) -> None:
    """The pipeline's arrows: along the rows, and the branches between them."""
    upper, lower = (bottom + SIDE / 2 for bottom in BOTTOMS)
    for column in range(3):
        gap = LEFT + STEP * column + SIDE
        arrow(page, (gap + 0.05, upper), (gap + STEP - SIDE - 0.05, upper))
        arrow(page, (gap + STEP - SIDE - 0.05, lower), (gap + 0.05, lower))
    below, above = BOTTOMS[0] - 0.26, BOTTOMS[1] + SIDE + 0.32  # where lines leave the upper row, where they end
    backbone, encoder, decoder = (LEFT + STEP * column + SIDE / 2 for column in (1, 2, 3))
    route(page, (backbone, below), (backbone, 3.2), (encoder - 0.3, 3.2), (encoder - 0.3, above))
    route(page, (encoder + 0.3, below), (encoder + 0.3, 3.2), (decoder - 0.3, 3.2), (decoder - 0.3, above))
    route(page, (decoder + 0.3, below), (decoder + 0.3, above))
    words = {"fontsize": 8.5, "color": "#57606a", "va": "bottom"}
    page.text(backbone + 0.06, 3.23, "Res5, Res4, Res3, Res2", words)
    page.text(encoder + 0.36, 3.23, "encoded image", words)
    page.text(decoder + 0.36, 3.0, "K of 100\nqueries", words)


def route(page: Axes, *points: tuple[float, float]) -> None:
    """A line through points that ends in an arrow."""
    page.plot(*zip(*points[:-1], strict=True), color=INK, linewidth=1.4, solid_joinstyle="round")
    arrow(page, points[-2], points[-1])


def dimmed(axes: Axes) -> None:
    """Fade a picture: the darker it is the more, so that none turns into a grey block."""
    for picture in axes.images:
        values = np.asarray(picture.to_rgba(np.asarray(picture.get_array()), norm=True))[..., :3]  # 0..1
        light = float(values.mean() / (255 if values.max() > 1 else 1))
        picture.set_alpha(DIM * min(1, 0.25 + light))
    behind = [patch for patch in (text.get_bbox_patch() for text in axes.texts) if patch is not None]
    for artist in (*axes.lines, *axes.texts, *axes.patches, *behind):
        artist.set_alpha(DIM)


def thumbnail(axes: Axes, name: str, found: Trace) -> None:
    """What a stage of the pipeline made of the image."""
    k = found.object()
    categories = found.model.categories
    if name in ("image", "decoder"):
        plain(axes, found.image)
        if name == "decoder":
            for one in range(len(found.labels)):
                draw_box(axes, found, one, width=1.5)
    elif name == "backbone":
        plain(axes, principal_colors(found.seen.features.res5[0]))
    elif name == "encoder":
        plain(axes, principal_colors(found.seen.memory[0]))
    elif name == "heatmaps":
        plain(axes, found.heatmaps[k].sum(0), cmap="magma")
    elif name == "mask_head":
        plain(axes, found.masks[k].sigmoid(), cmap="magma", vmin=0, vmax=1)
    elif name == "merge":
        plain(axes, overlay(found.image, found.panoptic, categories))
    else:
        truth = render_scene(SCENE)
        known = Panoptic.of_entries(truth.segment_ids, truth.segments_info, categories)
        plain(axes, overlay(found.image, known, categories))
        white = {"fontsize": 9, "color": "white", "weight": "bold", "backgroundcolor": "#1f2328aa"}
        axes.text(0.5, 0.07, "against the truth", white, transform=axes.transAxes, ha="center")


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A thin arrow between two points of the page."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=INK, linewidth=1.4, shrinkA=0, shrinkB=0))
