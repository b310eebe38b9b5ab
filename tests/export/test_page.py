"""The page's graphs say what the model says, and its scenes are those of the renderer."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minidetr.course.trace import example
from minidetr.errors import InputError
from minidetr.export import page
from minidetr.model import PanopticDETR
from minidetr.scenes.dataset import HELD_OUT_SEED
from minidetr.scenes.painters import VEGETATION
from minidetr.scenes.render import settled


@pytest.fixture(scope="module")
def model():
    return PanopticDETR.from_pretrained("tiny").eval()


def test_a_transposed_convolution_is_enlarging_and_convolving():
    x, weight = torch.randn(2, 5, 4, 7, dtype=torch.float64), torch.randn(3, 5, 3, 3, dtype=torch.float64)
    expected = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, padding=1)
    torch.testing.assert_close(F.conv_transpose2d(x, page.of_twofold(weight), stride=2, padding=1), expected)


@torch.inference_mode()
def test_the_shown_graphs_say_what_the_model_says(model):
    graphs, found = page.shown_graphs(model), example()
    pixels = torch.from_numpy(found.image).permute(2, 0, 1)[None].float()
    encoded = dict(zip(graphs["encode"].outputs, graphs["encode"].module(pixels), strict=True))
    torch.testing.assert_close(encoded["memory"], found.seen.memory, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(encoded["attention"].sum(-1), torch.ones(2, 8, 324))
    decoded = dict(zip(graphs["decode"].outputs, graphs["decode"].module(encoded["memory"], encoded["position"]), strict=True))
    torch.testing.assert_close(decoded["logits"], found.seen.logits[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(decoded["boxes"], found.seen.boxes[0], atol=1e-5, rtol=1e-4)
    assert decoded["looks"].shape == (3, 20, 324)
    features = [encoded[name] for name in ("res2", "res3", "res4", "projected")]
    masks, *stages = graphs["mask_head"].module(found.heatmaps, *features)
    torch.testing.assert_close(masks, found.masks, atol=1e-3, rtol=1e-3)
    assert [tuple(stage.shape[1:]) for stage in stages] == [(18, 18), (18, 18), (18, 18), (36, 36), (72, 72)]


def test_recorded_scenes_are_the_views(model):
    recorded = page.recorded(range(HELD_OUT_SEED, HELD_OUT_SEED + 3))
    assert json.loads(json.dumps(recorded))["scenes"]
    for scene in recorded["scenes"]:
        view, (_, ids, things) = settled(scene["seed"], 288, 288)
        assert [item["category"] for item in scene["items"]] == [item.category_id for item in view.items]
        assert [item["depth"] for item in scene["items"]] == sorted((item["depth"] for item in scene["items"]), reverse=True)
        assert (
            sum(item["category"] > VEGETATION for item in scene["items"]) == len(things) == len(np.unique(ids)[np.unique(ids) > 4])
        )
        assert {shape[0] for item in scene["items"] for shape in item["shapes"]} <= {"polygon", "ellipse", "bar"}


def test_other_models_and_full_folders_are_refused(model, tmp_path):
    with pytest.raises(InputError, match="dot-product"):
        page.export(PanopticDETR.from_pretrained("tiny-after").eval(), tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not an empty folder"):
        page.export(model, tmp_path)
