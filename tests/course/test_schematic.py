"""Schematics: arrows leave and reach blocks at their rims, and everything lies on the page."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.patches import FancyArrowPatch

from minidetr.course.schematic import Block, Schematic


@pytest.mark.parametrize(
    "towards, rim",
    [
        ((9, 2), (3.5, 2)),
        ((-9, 2), (0.5, 2)),
        ((2, 9), (2, 2.5)),
        ((2, -9), (2, 1.5)),
        ((9, 2.2), (3.5, 2.2)),
        ((2.4, 9), (2.4, 2.5)),
    ],
)
def test_a_line_leaves_from_the_side_that_faces_its_goal(towards, rim):
    assert Block(2, 2, 3, 1).edge(towards) == rim


def test_a_page_is_drawn_with_its_arrows():
    page = Schematic(4, 2)
    a, b = page.block(0.8, 1, "a", "3 x 4", "data"), page.block(3, 1, "b")
    page.arrow(a, b, text="here")
    page.arrow(a, (0.8, 0.3), (3, 0.3), b)
    ends = [patch._posA_posB for patch in page.axes.patches if isinstance(patch, FancyArrowPatch)]
    assert ends[0] == [(0.8 + 0.65, 1), (3 - 0.65, 1)]
    assert ends[1] == [(3, 0.3), (3, 0.75)]
    picture = np.asarray(page.picture().convert("RGB"))
    assert picture.shape[1] > 1.9 * picture.shape[0]
    assert (picture < 250).any()
    rim = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert (rim == 255).all()
