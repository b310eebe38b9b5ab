"""Options of a training run: recipes, and one sentence for each value that makes no sense."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from minidetr.commands.main import build_parser
from minidetr.errors import InputError
from minidetr.training.options import STAGES, TrainOptions, preset_of_source
from minidetr.training.recipes import MASK_DROP


def test_the_recipe_fills_what_is_not_given():
    tiny, r50 = TrainOptions(preset="tiny", batch_size=3).filled(), TrainOptions(preset="r50").filled()
    assert (tiny.batch_size, tiny.learning_rate, tiny.schedule, tiny.ema) == (3, 6e-4, "cosine", 0.998)
    assert (r50.batch_size, r50.learning_rate, r50.backbone_learning_rate, r50.clip, r50.schedule) == (2, 1e-4, 1e-5, 0.1, "drop")
    assert (r50.epochs, r50.drop, r50.mask_epochs, MASK_DROP) == (300, 200 / 300, 25, 15 / 25)
    still_none = {f.name for f in fields(TrainOptions) if getattr(r50, f.name) is None}
    assert still_none == {
        "backup",
        "validation",
        "test",
        "threshold",
        "from_",
        "categories",
        "backbone_weights",
        "queries",
        "minutes",
        "evaluate_every",
        "masks",
        "masked_attention",
        "starts",
    }


def test_the_mask_head_alone_has_a_recipe_of_its_own():
    assert TrainOptions(preset="tiny", steps="masks").filled().learning_rate > TrainOptions(preset="tiny").filled().learning_rate
    given = TrainOptions(preset="tiny", steps="masks", batch_size=3, learning_rate=1e-5).filled()
    assert (given.batch_size, given.learning_rate) == (3, 1e-5)
    both = TrainOptions(preset="tiny", steps="boxes,masks").filled()
    assert both.learning_rate == TrainOptions(preset="tiny").filled().learning_rate


def test_zero_is_a_value_of_its_own():
    options = TrainOptions(preset="tiny", ema=0.0, warmup=0.0, dropout=0.0, pixel_class=0.0, masks_per_image=0, freeze=()).filled()
    assert options.ema == options.warmup == options.dropout == options.pixel_class == options.masks_per_image == 0
    assert TrainOptions(preset="r18", freeze=()).filled().freeze == ()


def test_the_preset_follows_from_the_weights(tmp_path):
    assert preset_of_source(None) == preset_of_source("tiny") == "tiny"
    assert preset_of_source("detr-r50-panoptic") == preset_of_source("detr-r50") == "r50"
    assert preset_of_source("detr-r50-dc5-panoptic") == "r50-dc5"
    assert preset_of_source("detr-r101-dc5") == "r101"
    (tmp_path / "options.json").write_text(json.dumps({"preset": "r18"}))
    assert preset_of_source(tmp_path) == preset_of_source(str(tmp_path / "best.safetensors")) == "r18"
    assert TrainOptions(from_=tmp_path / "best.safetensors").filled().preset == "r18"


def test_stages_may_be_a_text_as_on_the_command_line():
    options = TrainOptions(preset="tiny", reset="mask-head", freeze="stem,res2").filled()
    assert (options.reset, options.freeze) == (("mask-head",), ("stem", "res2"))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"preset": "huge"}, "no preset 'huge'.*tiny, tiny-after, r18, r18-after, r50, r50-dc5, r101"),
        ({"preset": "detr-r50"}, "no preset 'detr-r50'"),
        ({"steps": "masks,boxes"}, "--steps must be one of joint, .*not masks,boxes"),
        ({"schedule": "linear"}, "--schedule must be one of drop, cosine"),
        ({"precision": "int8"}, "--precision must be one of"),
        ({"mask_stride": 2}, "--mask-stride must be one of 1, 4, not 2"),
        ({"freeze": ("res9",)}, "no stage 'res9'.*mask-head"),
        ({"reset": ("head",)}, "no stage 'head'"),
        ({"epochs": 0}, "--epochs must be more than 0, not 0"),
        ({"mask_epochs": -1}, "--mask-epochs must be more than 0"),
        ({"minutes": 0}, "--minutes must be more than 0"),
        ({"batch_size": 0}, "--batch-size must be more than 0"),
        ({"learning_rate": float("nan")}, "--learning-rate must be more than 0, not nan"),
        ({"size": -64}, "--size must be more than 0"),
        ({"size": 1}, "--size must be at least 32 pixels, a cell of the encoded image, but is 1"),
        ({"masks": "dots"}, "--masks must be one of heatmaps, dot"),
        ({"groups": 0}, "--groups must be more than 0"),
        ({"denoise": -1}, "--denoise must not be negative"),
        ({"mask_cost": -1.0}, "--mask-cost must not be negative"),
        ({"masked_attention": True, "steps": "boxes,masks"}, "--masked-attention: .*--steps joint"),
        ({"steps": "masks", "groups": 3}, "--groups and --denoise .*--steps masks"),
        ({"steps": "masks", "denoise": 2}, "--groups and --denoise .*--steps masks"),
        ({"queries": 0}, "--queries must be more than 0"),
        ({"scenes": 0}, "--scenes must be more than 0"),
        ({"validation_images": 0}, "--validation-images must be more than 0"),
        ({"ema": 1}, "--ema must lie in 0..1, below 1, not 1"),
        ({"ema": -0.1}, "--ema must lie in 0..1"),
        ({"dropout": 1.0}, "--dropout must lie in 0..1, below 1"),
        ({"dropout": -0.5}, "--dropout must not be negative"),
        ({"seed": -1}, "--seed must not be negative"),
        ({"workers": -1}, "--workers must not be negative"),
    ],
)
def test_a_senseless_value_is_one_sentence(given, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        TrainOptions(**({"preset": "tiny"} | given)).filled()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"epochs": "1"}, "--epochs must be a number, but is '1'"),
        ({"batch_size": 2.5}, "--batch-size must be a whole number, but is 2.5"),
        ({"size": True}, "--size must be a whole number, but is True"),
        ({"preset": ["tiny"]}, "--preset must be a text, but is .'tiny'."),
        ({"from_": 7}, "--from must be a text, but is 7"),
        ({"workers": None}, "--workers must be a whole number, but is None"),
        ({"freeze": 3}, "--freeze must be names of stages, .*, but is 3"),
        ({"reset": (["stem"],)}, "--reset must be names of stages"),
        ({"quiet": "yes"}, "--quiet must be True or False, but is 'yes'"),
        ({"steps": ["boxes", "masks"]}, "--steps must be a text"),
        ({"void": "255"}, "void is '255'"),
    ],
)
def test_a_value_of_another_type_is_one_sentence(given, sentence):
    with pytest.raises(InputError, match=sentence):
        TrainOptions(**({"preset": "tiny"} | given)).filled()


def test_values_that_do_for_a_type():
    given = {"data": Path("data"), "epochs": 1, "size": np.int64(64), "freeze": ["stem"], "reset": "res2", "queries": None}
    options = TrainOptions(preset="tiny", **given).filled()
    assert (options.freeze, options.reset) == (["stem"], ("res2",))


def test_every_stage_names_parameters_and_together_they_name_all():
    from minidetr.model import PanopticDETR
    from minidetr.panoptic import Category
    from minidetr.presets import preset

    for name in ("tiny", "r18"):
        names = [n for n, _ in PanopticDETR(preset(name), [Category(1, "sky", False)]).named_parameters()]
        for stage, prefixes in STAGES.items():
            assert any(n.startswith(prefixes) for n in names), (name, stage)
        assert all(any(n.startswith(prefixes) for prefixes in STAGES.values()) for n in names)


def test_the_command_line_has_the_same_names():
    parser = build_parser()
    line = ["train", "--preset", "r18", "--from", "some.safetensors", "--freeze", "stem,res2", "--epochs", "0.5", "--ema", "0"]
    given = vars(parser.parse_args(line))
    known = {f.name for f in fields(TrainOptions)}
    assert set(given) - known == {"command", "resume", "run", "version"}
    options = TrainOptions(**{k: v for k, v in given.items() if v is not None and k in known})
    assert (options.from_, options.freeze, options.epochs, options.ema) == ("some.safetensors", ("stem", "res2"), 0.5, 0)
    with pytest.raises(SystemExit):
        parser.parse_args(["train", "--freeze", "stem,res9"])


def test_the_folder_of_the_run():
    assert TrainOptions(output="runs/a").run == Path("runs/a")
