"""What things are drawn with: a canvas measured in metres, colours, light, and the places of things."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLING = 2  # the canvas has this many samples per pixel in each direction
Colour = tuple[float, float, float]
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Light:
    """The time of day: colours of the sky's top and of the haze, colour of the light, how strong shadow, haze and clouds are."""

    zenith: Colour
    haze: Colour
    tint: Colour
    shadow: float
    visibility: float  # metres after which the haze has taken 63 % of a colour
    clouds: float


LIGHTS: tuple[Light, ...] = (
    Light((70, 130, 205), (196, 216, 232), (1.02, 1.0, 0.97), 0.55, 420, 0.5),  # noon
    Light((110, 150, 200), (222, 224, 220), (1.0, 1.0, 1.0), 0.4, 300, 0.9),  # a bright day with clouds
    Light((150, 155, 160), (196, 198, 198), (0.95, 0.96, 0.98), 0.2, 200, 0.35),  # overcast: a sky like concrete
    Light((120, 140, 190), (250, 206, 150), (1.1, 0.96, 0.78), 0.5, 240, 0.7),  # golden hour
    Light((84, 98, 150), (226, 170, 146), (0.9, 0.86, 0.96), 0.3, 220, 0.6),  # dusk
    Light((190, 196, 200), (216, 218, 216), (1.0, 0.99, 0.97), 0.2, 75, 0.2),  # mist
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One thing, or one piece of stuff, that stands on the ground: where, how far, and the seed of its own looks."""

    category_id: int
    across: float  # of its foot, 0..1 of the image's width
    depth: float  # metres
    seed: int


class Canvas:
    """Draws shapes in metres into a supersampled colour image and id map at once."""

    def __init__(self, background: np.ndarray, segment_ids: np.ndarray, haze: Colour, visibility: float) -> None:
        """`background` H x W x 3 uint8 and `segment_ids` H x W uint8, both already supersampled."""
        self.image, self.ids = Image.fromarray(background), Image.fromarray(segment_ids)
        self.pens = ImageDraw.Draw(self.image, "RGBA"), ImageDraw.Draw(self.ids)
        self.haze, self.visibility = haze, visibility

    def place(self, segment_id: int, foot: tuple[float, float], pixels_per_metre: float, facing: int, depth: float) -> None:
        """Put the origin of the next shapes at `foot` (canvas pixels): x runs the way the thing faces (+1 or -1), y runs up."""
        self.segment_id, self.foot, self.scale, self.facing = segment_id, foot, pixels_per_metre, facing
        self.clear = math.exp(-depth / self.visibility)

    def polygon(self, points: Points, colour: Sequence[float]) -> None:
        """Fill a polygon given in metres; a fourth value of the colour is its opacity 0..255 (image only, the id is opaque)."""
        pixels = [self._pixel(x, y) for x, y in points]
        self.pens[0].polygon(pixels, fill=self._seen_through_haze(colour))
        self.pens[1].polygon(pixels, fill=self.segment_id)

    def rectangle(self, left: float, bottom: float, right: float, top: float, colour: Sequence[float]) -> None:
        """Fill an upright rectangle given in metres."""
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], colour)

    def ellipse(self, x: float, y: float, across: float, up: float, colour: Sequence[float]) -> None:
        """Fill an ellipse around (x, y) with the half axes `across` and `up`, in metres."""
        (a, top), (b, bottom) = self._pixel(x - across, y + up), self._pixel(x + across, y - up)
        box = [min(a, b), top, max(a, b), bottom]
        self.pens[0].ellipse(box, fill=self._seen_through_haze(colour))
        self.pens[1].ellipse(box, fill=self.segment_id)

    def bar(
        self, start: tuple[float, float], end: tuple[float, float], width: float, colour: Sequence[float], tip: float = 0
    ) -> None:
        """Fill a bar from `start` to `end`, `width` metres thick (`tip` at its end, if given) and never under 1.5 pixels."""
        thinnest = 1.5 * SUPERSAMPLING / self.scale
        (a, b), (c, d) = start, end
        length = max(math.hypot(c - a, d - b), 1e-6)
        across, up = (b - d) / length / 2, (c - a) / length / 2
        w, t = max(width, thinnest), max(tip or width, thinnest)
        self.polygon(
            [
                (a + across * w, b + up * w),
                (c + across * t, d + up * t),
                (c - across * t, d - up * t),
                (a - across * w, b - up * w),
            ],
            colour,
        )

    def _seen_through_haze(self, colour: Sequence[float]) -> tuple[int, ...]:
        red, green, blue = (int(h + (v - h) * self.clear) for v, h in zip(colour, self.haze, strict=False))
        return red, green, blue, int(colour[3]) if len(colour) > 3 else 255

    def _pixel(self, x: float, y: float) -> tuple[int, int]:
        """The canvas pixel of a point in metres: whole numbers, so that every machine fills the same pixels."""
        return math.floor(self.foot[0] + self.facing * self.scale * x + 0.5), math.floor(self.foot[1] - self.scale * y + 0.5)


def shade(colour: Colour, factor: float) -> Colour:
    """A darker (factor < 1) or lighter (> 1) colour."""
    return min(255.0, colour[0] * factor), min(255.0, colour[1] * factor), min(255.0, colour[2] * factor)


def turned(points: Points, angle: float, pivot: tuple[float, float]) -> list[tuple[float, float]]:
    """`points` turned by `angle` (radians, counter-clockwise) around the origin and moved so that it lies on `pivot`."""
    c, s = math.cos(angle), math.sin(angle)
    return [(pivot[0] + c * x - s * y, pivot[1] + s * x + c * y) for x, y in points]


def pick(rng: np.random.Generator, colours: Sequence[Colour]) -> Colour:
    """One of the colours, slightly off, so that no two are quite alike."""
    colour = colours[int(rng.integers(len(colours)))]
    red, green, blue = (rng.uniform(0.85, 1.12) * rng.uniform(0.95, 1.05, 3) * colour).clip(0, 255).tolist()
    return red, green, blue
