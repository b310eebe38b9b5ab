"""Whole runs with the ideas from after DETR: in two steps, resumed, from other weights, and refused where they make no sense."""

from __future__ import annotations

import pytest
import torch

from minidetr.after import AfterDETR
from minidetr.model import PanopticDETR
from minidetr.presets import TRAINABLE
from minidetr.scenes.painters import CATEGORIES
from minidetr.training.loop import train
from minidetr.training.options import TrainOptions, restored_options
from minidetr.training.recipes import REFERENCE_RECIPE
from minidetr.training.report import Report, read_rows
from minidetr.training.start import starting_model
from minidetr.weights.load import load, save

ALL = {"preset": "tiny-after", "groups": 2, "denoise": 2, "starts": True, "masked_attention": True}


@pytest.fixture
def short(tmp_path_factory, monkeypatch) -> dict:
    """Options of a run that takes seconds: 3 iterations an epoch."""
    for name in ("curves", "pictures"):
        monkeypatch.setattr(Report, name, lambda *_: None)
    run = {"scenes": 10, "validation_images": 2, "size": 64, "batch_size": 4, "workers": 0, "device": "cpu", "quiet": True}
    cache = str(tmp_path_factory.getbasetemp() / "scenes")
    return run | {"precision": "float32", "cache": cache, "dropout": 0.1, "ema": 0.9, "epochs": 2, "evaluate_every": 2}


def test_a_resumed_run_ends_as_one_that_never_stopped(short, tmp_path):
    whole, again = tmp_path / "whole", tmp_path / "again"
    train(**short, **ALL, output=str(whole), schedule="drop", warmup=0.0, drop=1.0)
    train(**short | {"epochs": 1}, **ALL, output=str(again), schedule="drop", warmup=0.0, drop=1.0)
    train(resume=str(again), epochs=2)
    one, other = (load(run / "last.safetensors").state_dict() for run in (whole, again))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    names = read_rows(whole / "losses.csv")[-1].keys()
    assert {"groups", "denoising", "starts", "discrimination", "dice_1"} <= names


def test_in_two_steps(short, tmp_path):
    model = train(
        **short | {"mask_epochs": 1}, preset="tiny-after", groups=2, denoise=2, steps="boxes,masks", output=str(tmp_path / "r")
    )
    assert isinstance(model, AfterDETR)
    rows = read_rows(tmp_path / "r" / "losses.csv")
    assert rows[-1]["dice"] and rows[-1]["denoising"] and rows[-1]["discrimination"]
    found = load(tmp_path / "r").segment([torch.zeros(3, 50, 70)], threshold=0.0)
    assert found[0].segment_ids.shape == (50, 70)


@pytest.mark.parametrize("steps", ["joint", "boxes,masks"])
def test_a_helper_leaves_a_plain_model(short, tmp_path, steps):
    """Dot-product masks in the training of a model of heatmaps: nothing of them stays."""
    run = tmp_path / "run"
    helped = {"auxiliary_masks": True, "mask_cost": 1.0, "discrimination": 1.0, "steps": steps, "mask_epochs": 1.0}
    train(**short | {"epochs": 1}, **helped, preset="tiny", output=str(run))
    model = load(run / "last.safetensors")
    assert type(model) is PanopticDETR and model.preset.pixel_width is None
    row = read_rows(run / "losses.csv")[-1]
    assert row["dice"] and row["dice_0"] and row["discrimination"]


def test_from_a_model_of_heatmaps_to_dot_products_and_back(tmp_path):
    options = {"size": 64, "device": "cpu"}
    path = tmp_path / "plain.safetensors"
    save(PanopticDETR(TRAINABLE["tiny"], CATEGORIES), path)
    model, lines = starting_model(TrainOptions(from_=str(path), preset="tiny", masks="dot", **options).filled(), CATEGORIES)
    assert isinstance(model, AfterDETR) and "replaced: the mask head, by dot products" in lines
    before = load(path)
    assert torch.equal(model.encoder.layers[0].linear1.weight, before.encoder.layers[0].linear1.weight)
    save(model, path)
    model, lines = starting_model(TrainOptions(from_=str(path), preset="tiny", masks="heatmaps", **options).filled(), CATEGORIES)
    assert type(model) is PanopticDETR and model.preset.mask_widths == TRAINABLE["tiny"].mask_widths
    assert "replaced: the mask head, by that of heatmaps" in lines
    same, lines = starting_model(TrainOptions(from_=str(path), preset="tiny", starts=True, **options).filled(), CATEGORIES)
    assert same.starts is not None and any(line.startswith("new: starts") for line in lines)
    assert torch.equal(same.mask_head.output.weight, load(path).mask_head.output.weight)


def test_the_kind_of_masks_decides_the_recipe():
    dot, heatmaps = TrainOptions(preset="tiny", masks="dot").filled(), TrainOptions(preset="tiny-after", masks="heatmaps").filled()
    assert dot.auxiliary_masks and dot.mask_cost and not heatmaps.auxiliary_masks and not heatmaps.mask_cost
    assert starting_model(heatmaps, CATEGORIES)[0].preset.mask_widths == TRAINABLE["tiny"].mask_widths
    assert TrainOptions(preset="r18-after", recipe="fine-tuning").filled().auxiliary_masks


def test_a_checkpoint_from_before_these_options_is_gone_on_with():
    saved = {"preset": "tiny", "steps": "joint", "queries": None, "output": "r"} | {
        name: value for name, value in REFERENCE_RECIPE.items() if name not in ("groups", "denoise", "mask_cost", "discrimination")
    }
    options = restored_options(saved, {})
    assert (options.groups, options.denoise, options.mask_cost) == (1, 0, 0.0)
