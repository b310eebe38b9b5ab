"""Fine-tuning on few photos: its recipe, batches taken in parts, what a run says of its length, when it is judged."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from minidetr.data.coco import write_coco_panoptic
from minidetr.data.targets import PackedTarget, Target, boxes_from_masks
from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.panoptic import read_json
from minidetr.presets import TRAINABLE
from minidetr.scenes.dataset import SceneData
from minidetr.scenes.painters import CATEGORIES
from minidetr.training.devices import start_devices
from minidetr.training.feed import EpochBatches, augmentation, collate, loader
from minidetr.training.loop import train
from minidetr.training.objective import start_step
from minidetr.training.options import TrainOptions
from minidetr.training.recipes import FEW_PHOTOS, FINE_TUNING
from minidetr.training.report import read_rows
from minidetr.training.schedule import estimate
from minidetr.training.step import Place, Run, Step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six scenes of 64 pixels as a user's data set."""
    path = tmp_path_factory.mktemp("photos") / "data"
    write_coco_panoptic(SceneData(6, 0, 64), path)
    return path


@pytest.fixture
def short(folder, monkeypatch) -> dict:
    """A run of a few iterations on photos, from weights that have learned."""
    from minidetr.training.report import Report

    for name in ("curves", "pictures"):
        monkeypatch.setattr(Report, name, lambda *_: None)
    run = {"data": str(folder), "from_": "tiny", "size": 64, "batch_size": 2, "workers": 0, "device": "cpu"}
    return run | {"precision": "float32", "epochs": 1, "quiet": True}


# --- the recipe


@pytest.mark.parametrize(
    ("given", "photos", "expected"),
    [
        ({"from_": "tiny"}, 300, "fine-tuning"),
        ({"preset": "r18"}, 300, "fine-tuning"),  # from an ImageNet backbone
        ({"preset": "r50", "backbone_weights": "imagenet"}, FEW_PHOTOS, "fine-tuning"),
        ({"preset": "r50"}, FEW_PHOTOS + 1, "preset"),
        ({"preset": "r18", "backbone_weights": "none"}, 300, "preset"),  # nothing has learned
        ({"preset": "tiny"}, 300, "preset"),
        ({"preset": "r18"}, None, "preset"),  # scenes
        ({"preset": "r18", "recipe": "preset"}, 300, "preset"),
        ({"preset": "tiny", "recipe": "fine-tuning"}, None, "fine-tuning"),
    ],
)
def test_few_photos_and_learned_weights_choose_the_recipe(given, photos, expected):
    filled = TrainOptions(**given).filled(photos)
    assert filled.recipe == expected
    assert (filled.augment == "colour") == (expected == "fine-tuning")
    assert filled.filled(photos) == filled  # a resumed run has the same


def test_what_is_given_stands_and_the_rest_is_the_recipes():
    filled = TrainOptions(preset="r18", learning_rate=5e-5, epochs=7).filled(300)
    assert (filled.learning_rate, filled.epochs) == (5e-5, 7)
    assert all(getattr(filled, name) == value for name, value in FINE_TUNING.items() if name != "learning_rate")
    assert filled.size == 480 and filled.freeze == ("stem", "res2")  # the preset's
    assert TrainOptions(from_="tiny").filled(300).half_size_until == 0  # a whole model has learned at a size of its own


@pytest.mark.parametrize(("photos", "epochs"), [(3, 1000), (320, 100), (367, 87), (FEW_PHOTOS, 20)])
def test_the_epochs_follow_the_number_of_photos(photos, epochs):
    assert TrainOptions(preset="r18").filled(photos).epochs == epochs


def test_a_run_on_photos_uses_it_and_says_so(short, tmp_path, capsys):
    train(output=str(tmp_path / "run"), **short)
    told = capsys.readouterr().out
    assert "recipe: fine-tuning, for few photos: 1 epoch of batches of 2 at 64 pixels, rate" in told
    assert "augmentation colour, ema 0.998, pixel-class 2, cells 0.5" in told
    assert read_json(tmp_path / "run" / "options.json", "options")["recipe"] == "fine-tuning"


def test_the_preset_s_recipe_on_request(short, tmp_path, capsys):
    train(output=str(tmp_path / "run"), recipe="preset", **short)
    assert "recipe: that of tiny" in capsys.readouterr().out


def test_colours_change_and_ids_do_not(folder):
    from minidetr.data.coco import CocoPanoptic

    drawn = {}
    for kind in ("full", "colour"):
        settings = TrainOptions(data=str(folder), augment=kind, size=64, preset="tiny").filled()
        data = CocoPanoptic.from_folder(folder, augmentation(settings))
        torch.manual_seed(4)
        drawn[kind] = data[0]
    (image, target), (colours, same) = drawn.values()
    assert image.shape == colours.shape and not torch.allclose(image, colours, atol=0.05)
    assert torch.equal(target.masks, same.masks) and torch.equal(target.boxes, same.boxes)


def test_the_first_part_trains_at_half_the_size(short, tmp_path, monkeypatch):
    seen = []
    real = Step.iterate
    monkeypatch.setattr(Step, "iterate", lambda self, batch, *rest: (seen.append(batch.size), real(self, batch, *rest))[1])
    train(output=str(tmp_path / "run"), **short | {"epochs": 4, "half_size_until": 0.5, "augment": "none"})
    assert seen == [(32, 32)] * 6 + [(64, 64)] * 6


@pytest.mark.parametrize("name", ["accumulate", "half_size_until", "evaluate_minutes"])
def test_values_that_make_no_sense(name):
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')}"):
        TrainOptions(**{name: -1}).filled()


# --- batches in parts


@pytest.fixture(scope="module")
def batch():
    data = SceneData(5, 30, 64)
    return collate([data[index] for index in range(5)])


@pytest.mark.parametrize("step", ["joint", "boxes", "masks"])
@pytest.mark.parametrize("parts", [2, 3, 5])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(batch, step, parts):
    """With all masks judged, no dropout, and normalisation that does not look at the batch."""
    images, targets = batch
    targets[2] = Target(targets[2].labels[:0], targets[2].boxes[:0], targets[2].masks[:0], 2, (64, 64))  # an image without segments
    given = TrainOptions(preset="tiny", size=64, masks_per_image=0, pixel_class=2, cells=0.5).filled()
    torch.manual_seed(1)
    objective = start_step(PanopticDETR(TRAINABLE["tiny"], CATEGORIES), given, step).eval()  # eval: of the normalisation
    objective.model.training = True  # the losses of all decoder layers

    whole = objective(images, targets)
    whole["total"].backward()
    expected = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
    assert len(expected) > 5 and ("class_0" in whole) == (step != "masks")
    objective.zero_grad()

    normalisers = objective.normalisers(images, targets)
    size, total = -(-5 // parts), {}
    for part, start in zip(images.split(size), range(0, 5, size), strict=True):
        losses = objective(part, targets[start : start + size], normalisers)
        losses["total"].backward()
        total = {name: total.get(name, 0) + value.detach() for name, value in losses.items()}
    for name, parameter in objective.named_parameters():
        if name in expected:
            assert (parameter.grad - expected[name]).norm() <= 1e-4 * expected[name].norm() + 1e-6, name
    for name in whole.keys() - {"class_error"}:
        torch.testing.assert_close(total[name], whole[name].detach(), rtol=1e-4, atol=1e-6)


def test_the_loop_adds_up_the_gradient_of_the_parts(batch):
    """Of a model with frozen normalisation: the whole batch's, in the parts that the loop makes, and the same losses."""
    images, targets = batch
    found = []
    for parts in (1, 2, 5):
        given = {"preset": "r18", "size": 64, "accumulate": parts, "dropout": 0.0, "device": "cpu", "precision": "float32"}
        settings = TrainOptions(**given, pixel_class=2, cells=0.5, batch_size=5, quiet=True).filled()
        torch.manual_seed(1)
        model = PanopticDETR(replace(TRAINABLE["r18"], dropout=0.0), CATEGORIES)
        run = Run(start_devices(settings), settings, SceneData(1, 0, 64), SceneData(1, 0, 64), {}, Place(), None)
        step = Step(run, model, "joint", None)
        step.wrapped.train()
        losses = step.add_gradient(images, targets)
        gradient = torch.cat([p.grad.flatten() for p in step.objective.model.parameters() if p.grad is not None])
        found.append((losses, gradient))
    (whole, expected), *others = found
    for losses, gradient in others:
        assert (gradient - expected).norm() < 1e-3 * expected.norm()
        for name in whole.keys() - {"class_error"}:
            torch.testing.assert_close(losses[name], whole[name], rtol=1e-4, atol=1e-6)


def test_a_run_in_parts_has_as_many_iterations(short, tmp_path):
    for parts in (1, 2):
        run = tmp_path / str(parts)
        train(output=str(run), **short | {"accumulate": parts})
        assert read_rows(run / "scores.csv")[-1]["iteration"] == "3"


# --- on the way to a device


def test_masks_travel_as_one_plane():
    random = torch.Generator().manual_seed(2)
    number = torch.randint(0, 40, (33, 47), generator=random)
    masks = number == torch.arange(1, 40)[:, None, None]
    target = Target(torch.arange(39), boxes_from_masks(masks), masks, "a", (66, 94))
    packed = PackedTarget.of(target)
    assert packed.number.shape == (33, 47) and packed.number.element_size() * packed.number.numel() * 19 < masks.numel()
    back = packed.to("cpu")
    assert torch.equal(back.masks, masks) and torch.equal(back.boxes, target.boxes) and torch.equal(back.labels, target.labels)
    assert (back.image_id, back.size) == ("a", (66, 94))


def test_loading_processes_live_from_epoch_to_epoch():
    """The batches go on without an end; those of two epochs come from the same two processes."""
    data = Where()
    reader = loader(data, EpochBatches(4, 1, 0).endless(0, 2), 2)
    batches = [next(reader)[1][0] for _ in range(2 + 4 + 4)]
    reader.close()
    assert len({target.image_id for target in batches}) == 2
    order = [int(target.labels[0]) for target in batches]
    expected = [batch[0][0] for epoch, start in ((0, 2), (1, 0), (2, 0)) for batch in EpochBatches(4, 1, 0).of_epoch(epoch, start)]
    assert order == expected and sorted(order[2:6]) == [0, 1, 2, 3]


class Where(SceneData):
    """Images that say which process read them."""

    def __init__(self):
        pass

    def __len__(self):
        return 4

    def __getitem__(self, index):
        import os

        mask = torch.ones(1, 8, 8, dtype=torch.bool)
        return torch.zeros(3, 8, 8), Target(torch.tensor([index]), torch.ones(1, 4), mask, os.getpid(), (8, 8))


# --- how long, and when


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0.5, 200, None, 10), "less than two minutes on this machine"),
        (
            (0.5, 1200, None, 10),
            "about 10 min on this machine (evaluations not counted): --minutes to bound it",
        ),
        ((3.0, 2600, None, 10), "about 2 h 10 min on this machine"),
        ((0.5, 7, 20, 46), "about 2,400 iterations in 20 minutes, 52.2 passes over the data"),
        ((0.5, 1200, None, 10, 0.4), "about 28 min on this machine"),  # 480 as fast as now, 720 four times slower
        ((0.5, 7, 20, 46, 0.4), "about 1,320 iterations in 20 minutes"),
    ],
)
def test_the_length_of_a_run_in_words(arguments, expected):
    assert estimate(*arguments).startswith(expected)


def test_a_run_tells_how_far_it_gets(short, tmp_path, capsys):
    train(output=str(tmp_path / "run"), **short | {"minutes": 0.15, "steps": "boxes"})
    told = re.search(r"about ([\d,]+) iterations in 0.15 minutes, [\d.]+ passes over the data", capsys.readouterr().out)
    count = int(read_rows(tmp_path / "run" / "scores.csv")[-1]["iteration"])
    assert told and count / 4 < int(told[1].replace(",", "")) < 4 * count  # shared machines are noisy


@pytest.mark.parametrize(
    ("minutes", "took", "expected"),
    [
        (4, 0.0, ["4", "8", "9"]),  # every four minutes of training, whatever an epoch is
        (1, 90.0, ["6", "9"]),  # judging takes at most a fifth of the time: 6 x 60 s = 4 x 90 s
    ],
)
def test_a_run_on_photos_is_judged_by_the_clock(short, tmp_path, monkeypatch, minutes, took, expected):
    """A minute an iteration, and `took` seconds to judge, which are not counted."""
    monkeypatch.setattr(Step, "progress", lambda self: self.run.place.step_iteration / 9)
    real = Step.count

    def count(self, *rest):
        real(self, *rest)
        self.run.place.seconds = 60.0 * self.run.place.iteration
        self.evaluation_took = took

    monkeypatch.setattr(Step, "count", count)
    train(output=str(tmp_path / "run"), **short | {"evaluate_minutes": minutes, "epochs": 3})
    assert [row["iteration"] for row in read_rows(tmp_path / "run" / "scores.csv")] == expected


def test_the_mask_head_compiled(short, tmp_path, monkeypatch):
    """It is asked for once, for any number of objects, and changes no name in the weights; boxes have no use for it."""
    asked = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: asked.append((type(self).__name__, how)))
    model = train(output=str(tmp_path / "run"), **short | {"compile": True, "steps": "boxes,masks", "mask_epochs": 0.3})
    assert asked == [("MaskHead", {"dynamic": True})]
    assert model.state_dict().keys() == PanopticDETR.from_pretrained("tiny").state_dict().keys()


def test_a_run_ends_with_a_page_of_what_is_wrong(short, tmp_path, capsys):
    """Of the best weights, at their threshold; a run gone on with at its end writes it anew."""
    run = tmp_path / "run"
    train(output=str(run), **short)
    content = read_json(run / "why" / "why.json", "the page's numbers")
    row = max(read_rows(run / "scores.csv"), key=lambda row: float(row["PQ"]))
    assert 100 * content["quality"]["All"]["pq"] == pytest.approx(float(row["PQ"]), abs=1e-3)
    assert content["threshold"] == float(row["threshold"]) and (run / "why" / "index.html").is_file()
    assert "points of PQ are lost:" in capsys.readouterr().out
    (run / "why" / "index.html").unlink()
    train(resume=str(run))
    assert (run / "why" / "index.html").is_file()
