"""The figures show the tensors they say they show, and images/ holds what the code draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minidetr.course import figures

IMAGES = Path(__file__).resolve().parents[2] / "images"


def test_images_holds_every_figure_and_no_other() -> None:
    drawn = {f"{name}.png" for name in figures.DRAWINGS} | {"way.gif", "demo.png"}
    assert {path.name for path in IMAGES.iterdir()} == drawn


def test_the_animation_shows_every_stage() -> None:
    with Image.open(IMAGES / "way.gif") as animation:
        assert animation.n_frames >= 12
        assert animation.width <= 830


def test_a_trace_is_what_the_model_computes() -> None:
    found = figures.example()
    image = Image.fromarray(found.image)
    assert np.array_equal(found.panoptic.segment_ids, found.model.segment([image])[0].segment_ids)
    torch.testing.assert_close(found.heatmaps.sum((1, 2, 3)), torch.ones(len(found.labels)))
    assert len(found.names()) == len(found.scores) == len(found.masks) > 3
    assert found.boxes().shape == (len(found.labels), 4)


def test_a_lit_stage_changes_the_pipeline_and_an_unknown_one_is_refused() -> None:
    plain, lit = (np.asarray(figures.pipeline(*names).convert("RGB")) for names in ((), ("encoder",)))
    assert plain.shape == lit.shape
    assert plain.shape[1] <= 1000
    assert (plain != lit).any()
    with pytest.raises(ValueError, match="no stage neck"):
        figures.pipeline("neck")


def test_stages_of_the_mask_head_end_in_its_mask() -> None:
    found = figures.example()
    k = found.object()
    stages = figures.mask_head_stages(found, k)
    assert [tuple(maps.shape[-2:]) for _, maps in stages] == [(18, 18)] * 3 + [(36, 36), (72, 72), (72, 72)]
    torch.testing.assert_close(stages[-1][1][0], found.masks[k], rtol=1e-4, atol=1e-4)


def test_attention_drawn_is_attention() -> None:
    found = figures.example()
    h, w = found.seen.memory.shape[-2:]
    weights = figures.attention_weights(found, found.model.encoder.layers[-1], "self_attention")
    assert weights.shape == (8, h * w, h * w)
    torch.testing.assert_close(weights.sum(-1), torch.ones(8, h * w))
    weights = figures.attention_weights(found, found.model.decoder.layers[-1], "cross_attention")
    assert weights.shape == (8, found.seen.logits.shape[1], h * w)


def test_the_map_shown_is_the_one_most_like_the_mask() -> None:
    logits = torch.zeros(8, 8)
    logits[2:5, 3:6] = 9.0
    maps = torch.rand(5, 8, 8)
    maps[3] = logits.sigmoid() + 0.01 * torch.rand(8, 8)
    assert torch.equal(figures.most_alike(maps, logits), maps[3])
