"""Costs by arithmetic equal those counted while the model runs, whatever the preset, the size, K and the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from minidetr.course.cost import cost_figure, measured_multiply_adds, stage_costs
from minidetr.presets import PUBLISHED, TRAINABLE, preset

CASES = [
    ("r50", 640, 640, 12, 1),
    ("r50", 800, 1066, 3, 2),
    ("r50-dc5", 333, 500, 1, 1),
    ("r101", 97, 130, 0, 1),
    ("r18", 480, 801, 5, 3),
    ("tiny", 192, 255, 7, 2),
    ("detr-r50", 200, 300, 0, 1),
    ("tiny-after", 288, 288, 9, 1),
    ("r18-after", 480, 801, 5, 1),
]


@pytest.mark.parametrize("name, height, width, objects, batch", CASES)
def test_arithmetic_equals_the_flop_counter(name: str, height: int, width: int, objects: int, batch: int) -> None:
    costs = stage_costs(preset(name), height, width, objects, batch, classes=17)
    counted = measured_multiply_adds(preset(name), height, width, objects, batch, classes=17)
    assert {cost.stage: cost.multiply_adds for cost in costs} == counted


def test_every_preset_has_a_cost() -> None:
    for name in (*TRAINABLE, *PUBLISHED):
        stages = stage_costs(preset(name), 64, 64, 1)
        assert len(stages) == (7 if preset(name).mask_widths else 6 if preset(name).pixel_width else 4)
        assert all(cost.multiply_adds > 0 and cost.activation_bytes > 0 for cost in stages)


def test_what_grows_with_what() -> None:
    """Twice the side: four times the convolutions, more than that for attention. More objects: their own stages alone."""
    one, two = ({c.stage: c for c in stage_costs(preset("r50"), side, side, 12)} for side in (640, 1280))
    assert two["backbone"].multiply_adds == 4 * one["backbone"].multiply_adds
    assert two["backbone"].activation_bytes == 4 * one["backbone"].activation_bytes
    assert 4 < two["encoder"].multiply_adds / one["encoder"].multiply_adds < 16
    all_masks = {c.stage: c for c in stage_costs(preset("r50"), 640, 640, 100)}
    changed = {stage for stage in one if one[stage] != all_masks[stage]}
    assert changed == {"heatmaps", "mask head, each object"}
    more_queries = {c.stage for c in stage_costs(replace(preset("r50"), queries=200), 640, 640, 12)}
    assert more_queries == one.keys()


def test_figure_shows_the_costs() -> None:
    bars, lines = cost_figure().axes
    total = sum(c.multiply_adds for c in stage_costs(preset("r50"), 640, 640, 12)) / 1e9
    assert f" {total:.0f}" in {text.get_text() for text in bars.texts}
    assert len(lines.lines) == 7
