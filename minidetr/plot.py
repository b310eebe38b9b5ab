"""Pictures of segmentations, and the one visual style of every figure: colours, font, sizes.

Pictures (overlays, legends, grids) are composed pixel by pixel with NumPy and PIL; charts are matplotlib's, drawn on `Figure`
objects of their own, so that nothing depends on pyplot's global state or on a screen. Everything has an opaque white background
and stays legible both at the width GitHub shows (about 830 pixels) and on a dark page.

Shapes: H W are the image's own height and width here, in pixels; pictures are H x W x 3 uint8 RGB.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from minidetr.errors import InputError
from minidetr.panoptic import Category, Panoptic, Segment

Color = tuple[int, int, int]

INK: Color = (31, 35, 40)  # text
PAPER: Color = (255, 255, 255)  # background
NARROWEST, LARGEST = 640, 1600  # pixels: width that pictures are enlarged to, longer side that they are reduced to

# Seven colours that people with any colour vision tell apart (Okabe and Ito 2008, "Color Universal Design"; their eighth is black).
OKABE_ITO = np.array([[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]])

# Linear RGB to cone responses, and their cube roots to OKLab (Ottosson 2020, "A perceptual color space for image processing").
TO_CONES = np.array([[0.412221, 0.211903, 0.088302], [0.536333, 0.680700, 0.281719], [0.051446, 0.107397, 0.629979]])
TO_OKLAB = np.array([[0.210454, 1.977998, 0.025904], [0.793618, -2.428592, 0.782772], [-0.004072, 0.450594, -0.808676]])

# What red-green colour-blind eyes see, as matrices on linear RGB (Machado, Oliveira and Fernandes 2009, severity 1).
PROTANOPIA = np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]])
DEUTERANOPIA = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]])


# --- colours ----------------------------------------------------------------------------------------------------------------


def perceived(colors: np.ndarray, vision: np.ndarray | None = None) -> np.ndarray:
    """Colours as the eye tells them apart: K x 3 RGB in 0..255 -> K x 3 OKLab (lightness 0..1, green-red, blue-yellow).

    Euclidean distance in OKLab is close to the difference one sees. `vision` is one of the matrices above.
    """
    srgb = np.asarray(colors, float) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    if vision is not None:
        linear = (linear @ vision.T).clip(0, 1)
    return np.cbrt(linear @ TO_CONES) @ TO_OKLAB


@cache
def palette(n: int) -> tuple[Color, ...]:
    """`n` RGB colours (0..255) that stay apart, for colour-blind eyes too; a longer palette begins with the shorter one.

    The first seven are Okabe and Ito's; each further one is the colour, of a grid of strong and neither too dark nor too pale
    colours, that lies farthest from all before it for whichever of three kinds of eyes tells them apart worst.
    """
    levels = np.arange(0, 256, 17)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = perceived(grid)
    grid = grid[(lab[:, 0] > 0.35) & (lab[:, 0] < 0.92) & (np.hypot(lab[:, 1], lab[:, 2]) > 0.07)]
    candidates = np.concatenate([OKABE_ITO, grid])
    seen = [perceived(candidates, vision) for vision in (None, PROTANOPIA, DEUTERANOPIA)]
    nearest = np.full(len(candidates), np.inf)  # of every candidate to the colours picked so far
    picked: list[int] = []
    for k in range(n):
        picked.append(k if k < len(OKABE_ITO) else int(nearest.argmax()))
        distance = np.min([np.linalg.norm(lab - lab[picked[-1]], axis=1) for lab in seen], axis=0)
        nearest = np.minimum(nearest, distance)
    return tuple((int(r), int(g), int(b)) for r, g, b in candidates[picked])


def color_of(category: Category) -> Color:
    """RGB in 0..255: the category's own colour when it has one, else the palette's at its id (repeating after 200)."""
    return category.color or palette(200)[(category.id - 1) % 200]


def shade(color: Color, instance: int) -> Color:
    """The colour of a class's `instance`-th object (from 0): the class's colour itself, then lighter and darker in turn."""
    towards_white = (0.0, 0.3, -0.25, 0.5, -0.4)[instance % 5]
    target = 255 if towards_white > 0 else 0
    weight = abs(towards_white)
    r, g, b = (round((1 - weight) * channel + weight * target) for channel in color)
    return r, g, b


def segment_colors(panoptic: Panoptic, categories: Sequence[Category]) -> dict[int, Color]:
    """Segment id -> RGB: one colour a class, one shade of it for each object, the largest object in the class's own colour.

    Raises `InputError` when a segment's category is not among `categories`.
    """
    known = {category.id: category for category in categories}
    count: dict[int, int] = {}
    colors: dict[int, Color] = {}
    for segment in sorted(panoptic.segments, key=lambda s: -s.area):
        if segment.category_id not in known:
            raise InputError(f"segment {segment.id} has category {segment.category_id}, which is not among the categories given")
        category = known[segment.category_id]
        instance = count.get(category.id, 0) if segment.is_thing else 0
        count[category.id] = instance + 1
        colors[segment.id] = shade(color_of(category), instance)
    return colors


# --- overlays ---------------------------------------------------------------------------------------------------------------


def boundaries(segment_ids: np.ndarray) -> np.ndarray:
    """H x W ids -> H x W bool: pixels with another id right, left, above or below them, so lines are two pixels wide."""
    edge = np.zeros(segment_ids.shape, bool)
    across = segment_ids[:, 1:] != segment_ids[:, :-1]
    down = segment_ids[1:] != segment_ids[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def overlay(
    image: np.ndarray, panoptic: Panoptic, categories: Sequence[Category], alpha: float = 0.55, outlines: bool = True
) -> np.ndarray:
    """The image with every segment tinted in its colour: H x W x 3 uint8 -> H x W x 3 uint8.

    `alpha` is the tint's share (0 shows the image, 1 the colours alone); void pixels keep the image. `outlines` draws white lines
    between segments. Raises `InputError` when image and segmentation differ in size or a category is unknown.
    """
    if image.shape != (*panoptic.segment_ids.shape, 3):
        expected = (*panoptic.segment_ids.shape, 3)
        raise InputError(f"the image's shape is {image.shape} but its segmentation needs {expected}: they must belong together")
    colors = segment_colors(panoptic, categories)
    ids, place = np.unique(panoptic.segment_ids, return_inverse=True)
    tint = np.array([colors.get(i, PAPER) for i in ids.tolist()], np.float32).reshape(-1, 3)
    share = np.array([alpha if i in colors else 0 for i in ids.tolist()], np.float32)
    place = place.reshape(panoptic.segment_ids.shape)
    weight = share[place][..., None]  # H W 1
    picture = (image * (1 - weight) + tint[place] * weight).round().astype(np.uint8)  # H W 3
    if outlines:
        picture[boundaries(panoptic.segment_ids)] = PAPER
    return picture


def for_display(image: np.ndarray, panoptic: Panoptic) -> tuple[np.ndarray, Panoptic]:
    """Both at a size to look at: small images enlarged to 640 pixels' width, large ones reduced to 1600 on the longer side.

    Enlarging comes before drawing, so lines and letters stay sharp on a 96-pixel image. Areas and boxes follow the new size.
    """
    height, width = panoptic.segment_ids.shape
    scale = min(max(1.0, NARROWEST / width), LARGEST / max(height, width))
    if scale == 1:
        return image, panoptic
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    rows = np.arange(new_height) * height // new_height
    columns = np.arange(new_width) * width // new_width
    segments = [replace(s, area=round(s.area * scale**2), box=scale_box(s.box, scale)) for s in panoptic.segments]
    resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.LANCZOS)
    return np.asarray(resized), Panoptic(panoptic.segment_ids[rows[:, None], columns], segments)


def scale_box(box: tuple[int, int, int, int], scale: float) -> tuple[int, int, int, int]:
    """(x, y, width, height) times `scale`, in whole pixels."""
    x, y, width, height = (round(side * scale) for side in box)
    return x, y, width, height


def labelled_overlay(
    image: np.ndarray, panoptic: Panoptic, categories: Sequence[Category], alpha: float = 0.55, panels: int = 1
) -> np.ndarray:
    """The overlay as a picture to look at: enlarged or reduced for display, segments named where there is room, legend below.

    H x W x 3 uint8 -> another size, uint8. Things carry their score, unless it is 1 (which is the truth's). The legend counts
    things: "worker ×3". With `panels`, the number of pictures that will stand side by side, letters grow to stay legible there
    and the legend is left to `grid`, which has room for a common one.
    """
    image, panoptic = for_display(image, panoptic)
    size = round(font_size(image.shape[1]) * panels**0.5)
    picture = draw_labels(overlay(image, panoptic, categories, alpha), panoptic, categories, size)
    if panels > 1:
        return picture
    below = legend(legend_entries([panoptic], categories), picture.shape[1])
    return np.concatenate([picture, below])


def draw_labels(picture: np.ndarray, panoptic: Panoptic, categories: Sequence[Category], size: int) -> np.ndarray:
    """Write each segment's name, `size` pixels high, where the segment is widest; leave out what does not fit or would overlap.

    The largest segment comes first. H x W x 3 uint8 -> the same size.
    """
    colors = segment_colors(panoptic, categories)
    names = {category.id: category.name for category in categories}
    canvas = Image.fromarray(picture)
    taken: list[tuple[float, float, float, float]] = []
    for segment in sorted(panoptic.segments, key=lambda s: -s.area):
        text = names[segment.category_id] + (f" {segment.score:.2f}" if segment.is_thing and segment.score < 1 else "")
        width, height = font(size).getlength(text) + size, 1.6 * size
        x, y, room = widest_place(panoptic.segment_ids, segment)
        x = min(max(x, width / 2 + 2), picture.shape[1] - width / 2 - 2)  # whole inside the picture
        y = min(max(y, height / 2 + 2), picture.shape[0] - height / 2 - 2)
        left, top, right, bottom = box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        fits = room > 0.45 * height and width < 0.9 * segment.box[2]
        free = all(left > r or right < l or top > b or bottom < t for l, t, r, b in taken)  # noqa: E741
        if fits and free:
            taken.append(box)
            rounded(canvas, box, colors[segment.id], radius=0.35 * height)
            ImageDraw.Draw(canvas).text((x, y), text, font=font(size), fill=readable_on(colors[segment.id]), anchor="mm")
    return np.asarray(canvas)


def widest_place(segment_ids: np.ndarray, segment: Segment) -> tuple[float, float, float]:
    """The pixel (x, y) of a segment that is farthest from its border, and how far: the centre of mass may lie outside of it."""
    x, y, width, height = segment.box
    inside = np.pad(segment_ids[y : y + height, x : x + width] == segment.id, 1)
    distance = ndimage.distance_transform_edt(inside)[1:-1, 1:-1]
    if not distance.size or not distance.any():
        return x, y, 0.0
    row, column = np.unravel_index(distance.argmax(), distance.shape)
    return float(x + column), float(y + row), float(distance.max())


# --- legends, grids of pictures ---------------------------------------------------------------------------------------------


def legend_entries(panoptics: Sequence[Panoptic], categories: Sequence[Category]) -> list[tuple[Color, str]]:
    """Colour and text for every class in the segmentations, things first, then by area; things counted when there is one image."""
    area: dict[int, int] = {}
    count: dict[int, int] = {}
    for segment in (s for panoptic in panoptics for s in panoptic.segments):
        area[segment.category_id] = area.get(segment.category_id, 0) + segment.area
        count[segment.category_id] = count.get(segment.category_id, 0) + 1
    present = sorted((c for c in categories if c.id in area), key=lambda c: (not c.is_thing, -area[c.id]))
    counted = len(panoptics) == 1
    return [(color_of(c), f"{c.name} ×{count[c.id]}" if c.is_thing and counted and count[c.id] > 1 else c.name) for c in present]


def legend(entries: Sequence[tuple[Color, str]], width: int) -> np.ndarray:
    """A panel `width` pixels wide: a swatch and a name for each entry, in as many lines as it takes (height 0 for no entries)."""
    if not entries:
        return np.zeros((0, width, 3), np.uint8)
    size = font_size(width)
    gap, line = size, round(1.9 * size)
    places, x, y = [], gap, gap // 2
    for color, text in entries:
        needed = round(1.6 * size + font(size).getlength(text))
        if x + needed > width - gap and x > gap:
            x, y = gap, y + line
        places.append((x, y, color, text))
        x += needed + round(1.6 * size)
    canvas = Image.new("RGB", (width, y + line + gap // 2), PAPER)
    for x, y, color, text in places:
        middle = y + line / 2
        rounded(canvas, (x, middle - size / 2, x + size, middle + size / 2), color, radius=0.25 * size)
        ImageDraw.Draw(canvas).text((x + 1.5 * size, middle), text, font=font(size), fill=INK, anchor="lm")
    return np.asarray(canvas)


def side_by_side(pictures: Sequence[np.ndarray], titles: Sequence[str] = (), below: Sequence[tuple[Color, str]] = ()) -> np.ndarray:
    """Pictures in one row with a title above each, for example photo | truth | prediction, and a legend of entries `below`."""
    return grid(pictures, len(pictures), titles, below)


def grid(
    pictures: Sequence[np.ndarray], columns: int, titles: Sequence[str] = (), below: Sequence[tuple[Color, str]] = ()
) -> np.ndarray:
    """Pictures in rows of `columns`, all of one width, `titles` above the first of them, a legend of entries `below`.

    The whole is at least 640 and at most 1600 pixels wide; a picture keeps its proportions.
    """
    if not pictures:
        raise InputError("there is no picture to arrange")
    gap = 12
    wanted = columns * max(picture.shape[1] for picture in pictures) + (columns + 1) * gap
    cell = (min(max(wanted, NARROWEST), LARGEST) - (columns + 1) * gap) // columns
    width = columns * cell + (columns + 1) * gap
    size = font_size(width)
    rows = []
    for start in range(0, len(pictures), columns):
        row, words = pictures[start : start + columns], titles[start : start + columns]
        heights = [max(1, round(picture.shape[0] * cell / picture.shape[1])) for picture in row]
        title_height = round(1.8 * size) if any(words) else 0
        canvas = Image.new("RGB", (width, gap + title_height + max(heights)), PAPER)
        for k, (picture, height) in enumerate(zip(row, heights, strict=True)):
            resized = Image.fromarray(picture).resize((cell, height), Image.Resampling.LANCZOS)
            canvas.paste(resized, (gap + k * (cell + gap), gap + title_height))
        for k, text in enumerate(words):
            middle = (gap + k * (cell + gap) + cell / 2, gap + title_height / 2 - 2)
            ImageDraw.Draw(canvas).text(middle, text, font=font(size, bold=True), fill=INK, anchor="mm")
        rows.append(np.asarray(canvas))
    margin = legend(below, width) if below else np.full((gap, width, 3), 255, np.uint8)
    return np.concatenate([*rows, margin])


# --- letters and boxes ------------------------------------------------------------------------------------------------------


def font_size(width: int) -> int:
    """Letters' size in pixels for a picture of this width: readable when GitHub shows it 830 pixels wide."""
    return max(14, round(width / 56))


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, the file that comes with matplotlib: the same letters in every picture, chart and machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def readable_on(color: Color) -> Color:
    """Ink or paper, whichever contrasts more with a background of this colour."""
    lightness = perceived(np.array([color]))[0, 0]
    return INK if lightness > 0.62 else PAPER


def rounded(canvas: Image.Image, box: tuple[float, float, float, float], color: Color, radius: float) -> None:
    """Draw a filled box (left, top, right, bottom) with smooth round corners onto the canvas: four times larger, then reduced."""
    left, top, right, bottom = (round(side) for side in box)
    size = (right - left, bottom - top)
    mask = Image.new("L", (4 * size[0], 4 * size[1]))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * size[0] - 1, 4 * size[1] - 1), 4 * radius, fill=255)
    canvas.paste(color, (left, top), mask.resize(size, Image.Resampling.LANCZOS))


# --- charts -----------------------------------------------------------------------------------------------------------------

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#57606a",
    "axes.labelcolor": "#1f2328",
    "axes.prop_cycle": cycler(color=["#{:02x}{:02x}{:02x}".format(*color) for color in palette(8)]),
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "text.color": "#1f2328",
    "xtick.color": "#57606a",
    "ytick.color": "#57606a",
    "lines.linewidth": 2,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
}


def use_style() -> None:
    """Draw every later matplotlib figure of this process in the project's style (the lessons call it once)."""
    matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]


def new_figure(width: float = 8.3, height: float = 4.0) -> Figure:
    """An empty figure in the project's style, `width` x `height` inches; 8.3 inches fill the width GitHub shows.

    Axes are made with `figure.subplots()` and the picture written with `figure.savefig(path)`; no pyplot involved.
    """
    use_style()
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def picture_of(figure: Figure, dots: int = 110) -> Image.Image:
    """A figure as a picture of `dots` pixels an inch: what a notebook shows, small enough to be kept in it.

    It grows by titles that stand over its upper edge, where square panels leave them no room. Its colours are reduced, see
    `few_colors`.
    """
    figure.draw_without_rendering()  # now everything has its place
    width, height = figure.get_size_inches()
    page = Bbox([[0, 0], [width, max(height, figure.get_tightbbox().y1 + 0.03)]])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots, bbox_inches=page)
    return few_colors(Image.open(buffer))


def few_colors(picture: Image.Image) -> Image.Image:
    """A picture with a palette of 256 colours, which makes its file much smaller.

    The palette is spread over the colours there are, not over the pixels, so that small objects keep theirs.
    """
    return picture.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
