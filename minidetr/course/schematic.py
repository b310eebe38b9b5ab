"""Schematics of a stage: blocks and arrows, drawn by code, in one style for every lesson.

    page = Schematic(8.3, 2.4)
    x = page.block(1, 1.2, "x", "256 x 20 x 20", kind="data")
    convolution = page.block(3, 1.2, "3x3 convolution", kind="learned")
    page.arrow(x, convolution)
    page.picture()

Coordinates are inches from the lower left corner; a block lies around its centre.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from PIL import Image

from minidetr.plot import new_figure, picture_of

INK, QUIET, LIT = "#1f2328", "#57606a", "#d55e00"
KINDS = {  # what a block is -> (its colour, the key's words)
    "data": ("#ffffff", "a tensor"),
    "learned": ("#cfe3f5", "has weights"),
    "fixed": ("#eceff2", "has none"),
    "loss": ("#f9dcc9", "a loss"),
}


@dataclass(frozen=True)
class Block:
    """Where a block lies: its centre, width and height in inches."""

    x: float
    y: float
    width: float
    height: float

    def edge(self, towards: tuple[float, float]) -> tuple[float, float]:
        """The point of the block's rim from which a line leaves for `towards`: the middle of the side that faces it."""
        right, up = towards[0] - self.x, towards[1] - self.y
        if abs(right) * self.height >= abs(up) * self.width:
            return self.x + (self.width if right > 0 else -self.width) / 2, towards[1] if self.spans(towards[1]) else self.y
        return towards[0] if abs(right) < self.width / 2 else self.x, self.y + (self.height if up > 0 else -self.height) / 2

    def spans(self, y: float) -> bool:
        """Whether a horizontal line at `y` meets the block."""
        return abs(y - self.y) < self.height / 2


Place = Block | tuple[float, float]


class Schematic:
    """A page of `width` x `height` inches (8.3 is a lesson's width)."""

    def __init__(self, width: float = 8.3, height: float = 3.0) -> None:
        self.figure = new_figure(width, height)
        self.figure.set_layout_engine("none")
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
        self.axes.axis("off")

    def block(
        self,
        x: float,
        y: float,
        name: str,
        shape: str = "",
        kind: str = "learned",
        width: float = 1.3,
        height: float = 0.5,
        lit: bool = False,
    ) -> Block:
        """A box around (x, y) with its name and, smaller below it, a shape; `kind` is one of KINDS; `lit` frames it."""
        rim: dict[str, Any] = {
            "edgecolor": LIT if lit else "#8c959f",
            "linewidth": 2.2 if lit else 1.1,
            "facecolor": KINDS[kind][0],
        }
        self.axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, "round,pad=0,rounding_size=0.07", **rim))
        lift = 0.09 if shape else 0
        self.axes.text(x, y + lift, name, ha="center", va="center", fontsize=9.5, color=INK, linespacing=1.1)
        if shape:
            self.axes.text(x, y - 0.12, shape, ha="center", va="center", fontsize=8.5, color=QUIET)
        return Block(x, y, width, height)

    def sign(self, x: float, y: float, text: str = "+") -> Block:
        """A small circle with a sign in it: + where two tensors are added, x where they are multiplied, c where concatenated."""
        self.axes.add_patch(Circle((x, y), 0.13, facecolor="white", edgecolor=INK, linewidth=1.1))
        self.axes.text(x, y - 0.005, text, ha="center", va="center", fontsize=10, color=INK)
        return Block(x, y, 0.26, 0.26)

    def arrow(self, *way: Place, text: str = "", lit: bool = False, dashed: bool = False, head: bool = True) -> None:
        """An arrow through blocks or points; a corner is a point. `text` stands over its longest piece."""
        points = [(place.x, place.y) if isinstance(place, Block) else place for place in way]
        for end, neighbour in ((0, 1), (-1, -2)):
            place = way[end]
            if isinstance(place, Block):
                points[end] = place.edge(points[neighbour])
        how: dict[str, Any] = {"color": LIT if lit else INK, "linewidth": 1.3, "linestyle": "--" if dashed else "-"}
        if len(points) > 2:
            self.axes.plot(*zip(*points[:-1], strict=True), solid_joinstyle="round", **how)
        tip = "-|>" if head else "-"
        self.axes.add_patch(FancyArrowPatch(points[-2], points[-1], arrowstyle=tip, mutation_scale=10, shrinkA=0, shrinkB=0, **how))
        if text:
            start, stop = max(zip(points, points[1:], strict=False), key=lambda piece: math.dist(*piece))
            upright = abs(stop[0] - start[0]) < abs(stop[1] - start[1])
            x, y = (start[0] + stop[0]) / 2, (start[1] + stop[1]) / 2
            where: dict[str, Any] = {"ha": "left", "va": "center"} if upright else {"ha": "center", "va": "bottom"}
            self.text(x + (0.06 if upright else 0), y + (0 if upright else 0.04), text, **where)

    def text(self, x: float, y: float, text: str, size: float = 8.5, weight: str = "normal", **how: Any) -> None:
        """Words on the page, centred unless `ha` and `va` say otherwise."""
        words: dict[str, Any] = {"ha": "center", "va": "center", "color": QUIET, "fontsize": size, "weight": weight}
        self.axes.text(x, y, text, **(words | how))

    def frame(self, left: float, bottom: float, right: float, top: float, text: str = "") -> None:
        """A dashed frame around blocks that belong together, its name in the upper left corner."""
        rim = FancyBboxPatch((left, bottom), right - left, top - bottom, "round,pad=0,rounding_size=0.12")
        rim.set(facecolor="none", edgecolor="#8c959f", linewidth=1, linestyle=(0, (4, 3)))
        self.axes.add_patch(rim)
        self.text(left + 0.1, top - 0.12, text, ha="left")

    def key(self, x: float, y: float, kinds: Sequence[str] = ("data", "learned", "fixed")) -> None:
        """What the colours mean, in one line that begins at (x, y)."""
        for kind in kinds:
            color, words = KINDS[kind]
            self.axes.add_patch(FancyBboxPatch((x, y - 0.06), 0.2, 0.12, "round,pad=0", facecolor=color, edgecolor="#8c959f"))
            self.text(x + 0.28, y, words, ha="left")
            x += 0.45 + 0.068 * len(words)

    def picture(self) -> Image.Image:
        """The page as an image, which a notebook shows as it is."""
        return picture_of(self.figure)
