"""Pictures that several lessons draw: rows of titled panels, one picture at a width to look at, and sliders over a picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ipywidgets import FloatSlider, HBox, IntSlider, VBox
from ipywidgets import Image as ImageWidget
from matplotlib.axes import Axes
from PIL import Image, ImageDraw
from torch import Tensor

from minidetr.course.figures import titled
from minidetr.course.trace import plain, principal_colors
from minidetr.plot import INK, PAPER, few_colors, font, new_figure, picture_of


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


class Sliders(VBox):
    """A widget of sliders over a picture; a page that doesn't run shows `still` instead, which `sliders` made."""

    still: bytes = b""

    def _repr_mimebundle_(self, **how: Any) -> Any:
        bundle = super()._repr_mimebundle_(**how)
        bundle["image/png"] = base64.b64encode(self.still).decode()
        bundle["text/plain"] = "sliders over a picture: run the cell to move them"
        return bundle


def sliders(
    picture: Callable[..., Image.Image], stills: Sequence[dict[str, float]] = (), **ranges: tuple[float, float, float]
) -> Sliders:
    """A widget that shows `picture(**values)`, with a slider for each argument: name = (its first value, smallest, largest).

    Whole numbers step by one, others by a fiftieth of their range. A page that doesn't run, as on GitHub, shows the pictures of
    the values `stills` below one another, each with its values above it; by default that of the first values alone.
    """
    screen = ImageWidget(format="png")
    bars = {}
    for name, (first, low, high) in ranges.items():
        whole = all(isinstance(value, int) for value in (first, low, high))
        kind, step = (IntSlider, 1) if whole else (FloatSlider, (high - low) / 50)
        bars[name] = kind(first, min=low, max=high, step=step, description=name, continuous_update=False)

    def show(_: object = None) -> None:
        screen.value = png(picture(**{name: bar.value for name, bar in bars.items()}))

    for bar in bars.values():
        bar.observe(show, "value")
    show()
    widget = Sliders([HBox(list(bars.values())), screen])
    first_values = {name: values[0] for name, values in ranges.items()}
    widget.still = png(stacked([(described(values), picture(**values)) for values in stills or [first_values]]))
    return widget


def described(values: dict[str, float]) -> str:
    """Sliders' values in words: "row = 8, column = 3"."""
    return ", ".join(f"{name} = {value:.3g}" for name, value in values.items())


def stacked(parts: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures below one another, each with a line of text above it."""
    line = 26
    width, height = max(part.width for _, part in parts), sum(part.height + line for _, part in parts)
    page = Image.new("RGB", (width, height), PAPER)
    draw, top = ImageDraw.Draw(page), 0
    for words, part in parts:
        draw.text((8, top + 5), f"(stands still here) {words}", fill=INK, font=font(15))
        page.paste(part.convert("RGB"), (0, top + line))
        top += part.height + line
    return few_colors(page)


def png(picture: Image.Image) -> bytes:
    """A picture as a PNG file's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    return buffer.getvalue()
