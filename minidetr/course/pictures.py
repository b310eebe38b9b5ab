"""Pictures that several lessons draw: rows of titled panels, one picture at a width to look at, and sliders over a picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from ipywidgets import FloatSlider, HBox, IntSlider, VBox
from ipywidgets import Image as ImageWidget
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from minidetr.course.figures import titled
from minidetr.course.trace import plain, principal_colors
from minidetr.plot import few_colors, new_figure, picture_of


def row(
    pictures: Sequence[np.ndarray | Tensor], titles: Sequence[str], height: float = 0, limit: float | None = None
) -> Image.Image:
    """Pictures side by side, each with a title; `height` of the whole in inches (0: to fit the first). See `draw`."""
    cell, first = 8.3 / len(pictures), np.asarray(pictures[0])
    lines = max(title.count("\n") for title in titles)
    figure = new_figure(8.3, height or cell * first.shape[0] / first.shape[1] + 0.35 + 0.2 * lines)
    for axes, picture, title in zip(figure.subplots(1, len(pictures), squeeze=False)[0], pictures, titles, strict=True):
        draw(axes, picture, limit)
        titled(axes, title)
    return picture_of(figure)


def draw(axes: Axes, picture: np.ndarray | Tensor, limit: float | None = None) -> None:
    """RGB images H W 3 as they are; maps h w in magma, or blue-white-red about 0 if any value is negative.

    `limit` is the brightest value of a map; None: its own largest.
    """
    picture = np.asarray(picture)
    if picture.ndim == 3:  # a large one is reduced smoothly, for the letters in it; small ones show their pixels
        plain(axes, picture, interpolation="antialiased" if picture.shape[1] > 300 else "nearest")
        return
    top = limit or float(np.abs(picture).max()) or 1.0
    signed = picture.min() < 0
    plain(axes, picture, cmap="RdBu_r" if signed else "magma", vmin=-top if signed else 0, vmax=top)


def beside(grids: dict[str, Tensor], image: np.ndarray) -> Image.Image:
    """The image beside grids d h w, each in principal colours of its own."""
    return row([image, *(principal_colors(grid) for grid in grids.values())], ["image", *grids])


def look(picture: np.ndarray, width: int = 480) -> Image.Image:
    """A picture (H W 3 uint8) at a width to look at."""
    height = round(picture.shape[0] * width / picture.shape[1])
    way = Image.Resampling.NEAREST if picture.shape[1] < 300 else Image.Resampling.LANCZOS
    return few_colors(Image.fromarray(picture).resize((width, height), way))


def sliders(picture: Callable[..., Image.Image], **ranges: tuple[float, float, float]) -> VBox:
    """A widget that shows `picture(**values)`, with a slider for each argument: name = (its first value, smallest, largest).

    Whole numbers step by one, others by a fiftieth of their range.
    """
    screen = ImageWidget(format="png")
    bars = {}
    for name, (first, low, high) in ranges.items():
        whole = all(isinstance(value, int) for value in (first, low, high))
        kind, step = (IntSlider, 1) if whole else (FloatSlider, (high - low) / 50)
        bars[name] = kind(first, min=low, max=high, step=step, description=name, continuous_update=False)

    def show(_: object = None) -> None:
        buffer = io.BytesIO()
        picture(**{name: bar.value for name, bar in bars.items()}).save(buffer, format="png")
        screen.value = buffer.getvalue()

    for bar in bars.values():
        bar.observe(show, "value")
    show()
    return VBox([HBox(list(bars.values())), screen])
