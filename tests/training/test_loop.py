"""The whole training on tiny runs: it learns, resumes to the last bit, keeps frozen what is frozen, and fails in one sentence."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.ops import box_convert, generalized_box_iou

from minidetr.data.batch import Batch
from minidetr.data.coco import write_coco_panoptic
from minidetr.data.targets import Target
from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.presets import TRAINABLE
from minidetr.scenes.dataset import SceneData
from minidetr.scenes.painters import CATEGORIES
from minidetr.training.checkpoint import NAME, PREVIOUS
from minidetr.training.devices import best_precision, start_devices, training_attention
from minidetr.training.feed import collate
from minidetr.training.loop import train
from minidetr.training.objective import Objective, grid_box_losses, grid_class_loss, join, segment_shares, start_step
from minidetr.training.options import STAGES, TrainOptions
from minidetr.training.recipes import MASK_DROP
from minidetr.training.report import Report, read_rows
from minidetr.training.schedule import MovingAverage, kept_share, parameter_groups, schedule
from minidetr.training.step import Step

SIZE = 64
MASK_HEAD = STAGES["mask-head"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> str:
    return str(tmp_path_factory.getbasetemp() / "scenes")


@pytest.fixture
def tiny(cache) -> dict:
    """Options of a run that takes seconds: 3 iterations an epoch, with dropout and drawn masks, so that random states matter."""
    run = {"preset": "tiny", "scenes": 10, "validation_images": 2, "size": SIZE, "batch_size": 4, "workers": 0, "device": "cpu"}
    return run | {"precision": "float32", "cache": cache, "dropout": 0.1, "masks_per_image": 2, "ema": 0.9, "evaluate_every": 1}


@pytest.fixture
def no_pictures(monkeypatch):
    """Curves and pictures take longer than the training here; test_report.py has them."""
    for name in ("curves", "pictures"):
        monkeypatch.setattr(Report, name, lambda *_: None)


def options(**given) -> TrainOptions:
    return TrainOptions(**({"preset": "tiny", "size": SIZE} | given)).filled()


def equal(one: dict, other: dict, *but: str) -> bool:
    """Whether two state dicts agree to the last bit in all names but those that start with one of `but`."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one if not but or not k.startswith(but))


def at_iteration(monkeypatch, iteration: int, action) -> None:
    """Call `action` once, in the middle of an iteration."""
    real, called = Step.count, []

    def count(self, *rest):
        real(self, *rest)
        if self.run.place.iteration == iteration and not called:
            called.append(True)
            action()

    monkeypatch.setattr(Step, "count", count)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


# --- resume


@pytest.mark.slow
def test_a_run_cut_off_again_and_again_ends_as_one_never_cut_off(tiny, tmp_path, no_pictures, monkeypatch, capsys):
    """Boxes in iterations 1 to 6, masks in 7 to 12, evaluated every 3; 2 and 8 lie within an epoch, 3 at the end of one."""
    tiny |= {"steps": "boxes,masks", "epochs": 2, "mask_epochs": 2}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    expected = train(output=whole, **tiny)

    def crash() -> None:
        raise RuntimeError("the power fails")

    for number, (iteration, workers) in enumerate(((2, 0), (3, 1), (6, 0), (8, 1), (12, 0))):
        with monkeypatch.context() as patch:
            at_iteration(patch, iteration, terminate)
            given = {"resume": cut, "workers": workers} if number else tiny | {"output": str(cut)}
            train(**given)
            assert f"stopped: go on with --resume {cut}" in capsys.readouterr().out
        assert torch.load(cut / NAME, weights_only=True)["place"]["iteration"] == iteration
        if iteration == 6:  # the end of the first step, before a checkpoint of the second
            with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="the power fails"):
                at_iteration(patch, 7, crash)
                train(resume=cut)
    resumed = train(resume=str(cut))

    assert equal(expected.state_dict(), resumed.state_dict())
    one, other = (torch.load(run / NAME, weights_only=True) for run in (whole, cut))
    for part in ("objective", "average"):
        assert equal(one[part], other[part]), part
    for state, state_2 in zip(one["optimizer"]["state"].values(), other["optimizer"]["state"].values(), strict=True):
        assert equal(state, state_2)
    assert (one["place"] | {"seconds": 0, "evaluated": 0}) == (other["place"] | {"seconds": 0, "evaluated": 0})
    assert torch.equal(one["random"][0]["torch"], other["random"][0]["torch"])
    scores = (whole / "scores.csv").read_text()
    assert [line.partition(",")[0] for line in scores.splitlines()] == ["iteration", "3", "6", "9", "12"]
    assert scores == (cut / "scores.csv").read_text()
    for name in ("last.safetensors", "best.safetensors"):
        assert equal(*(PanopticDETR.from_pretrained(run / name).state_dict() for run in (whole, cut))), name

    again = train(resume=cut)  # a run that is done stays as it is
    assert equal(expected.state_dict(), again.state_dict()) and scores == (cut / "scores.csv").read_text()


def test_a_damaged_newest_checkpoint_is_passed_over(tiny, tmp_path, no_pictures, monkeypatch, capsys):
    tiny |= {"steps": "boxes", "epochs": 1}
    expected = train(output=str(tmp_path / "whole"), **tiny)
    run = tmp_path / "cut"
    for iteration, given in ((1, tiny | {"output": str(run)}), (2, {"resume": run})):
        with monkeypatch.context() as patch:
            at_iteration(patch, iteration, terminate)
            train(**given)
    (run / NAME).write_bytes((run / NAME).read_bytes()[:100_000])
    capsys.readouterr()
    resumed = train(resume=run)
    assert f"{run / NAME} is damaged" in (out := capsys.readouterr().out) and f"resumed: {run} at iteration 1" in out
    assert equal(expected.state_dict(), resumed.state_dict())
    assert (run / PREVIOUS).exists()


def test_masks_are_judged_where_they_train(tiny, tmp_path, no_pictures, capsys):
    train(output=str(tmp_path), **tiny | {"steps": "boxes,masks", "epochs": 1, "mask_epochs": 1, "evaluate_every": 1})
    boxes, masks = read_rows(tmp_path / "scores.csv")
    assert boxes["PQ"] == "" and 0 <= float(boxes["box AP"]) <= 100 and 0 <= float(masks["PQ"]) <= 100
    out = capsys.readouterr().out
    assert f"iteration {boxes['iteration']}: box AP" in out and f"iteration {masks['iteration']}: PQ" in out
    best = torch.load(tmp_path / NAME, weights_only=True)["place"]["best"]
    assert best == pytest.approx(float(masks["PQ"]), rel=1e-4)  # the box step's AP must not stand above every PQ


def test_a_run_is_neither_overwritten_nor_made_up(tiny, tmp_path, no_pictures):
    train(output=str(tmp_path / "run"), **tiny | {"epochs": 0.3, "steps": "boxes"})
    before = (tmp_path / "run" / NAME).read_bytes()
    with pytest.raises(InputError, match=r"holds a run already: .*--resume"):
        train(output=str(tmp_path / "run"), **tiny)
    assert (tmp_path / "run" / NAME).read_bytes() == before
    with pytest.raises(InputError, match="nowhere holds no checkpoint.pt to resume from"):
        train(resume=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_run_that_goes_on_with_other_data_says_so(tiny, tmp_path, no_pictures, capsys):
    """Fewer images or another JSON are said in one line; the same data at another place, or an old checkpoint, are not."""
    first, moved, other = (tmp_path / name for name in ("first", "moved", "other"))
    write_coco_panoptic(SceneData(4, 0, SIZE), first)
    write_coco_panoptic(SceneData(2, 9, SIZE), other)
    run = tmp_path / "run"

    def told(data: Path) -> list[str]:
        capsys.readouterr()
        train(resume=run, data=str(data))
        out = capsys.readouterr().out
        assert f"resumed: {run}" in out
        return [line for line in out.splitlines() if "other data" in line]

    train(output=str(run), **tiny | {"data": str(first), "epochs": 1, "steps": "boxes"})
    first.rename(moved)
    assert told(moved) == []
    [line] = told(other)
    assert line.startswith("attention: ") and "training: 4 images then, 2 now; validation: 4 images then, 2 now" in line
    content = json.loads((moved / "panoptic.json").read_text())
    content["annotations"][0]["segments_info"][0]["area"] += 1
    (moved / "panoptic.json").write_text(json.dumps(content))
    assert "training: as many images, but another JSON" in told(moved)[0]
    saved = torch.load(run / NAME, weights_only=True)
    del saved["data"]
    torch.save(saved, run / NAME)
    assert told(other) == []


def test_a_checkpoint_of_another_version_is_a_sentence(tiny, tmp_path, no_pictures):
    train(output=str(tmp_path), **tiny | {"epochs": 0.3, "steps": "boxes"})
    saved = torch.load(tmp_path / NAME, weights_only=True)
    saved["objective"]["pixel_class.weight"] = saved["objective"]["pixel_class.weight"][:11]  # as large as it once was
    torch.save(saved, tmp_path / NAME)
    with pytest.raises(InputError, match=r"written by another version of minidetr .*start a new run from its weights, --from"):
        train(resume=tmp_path)


def test_a_run_by_the_clock_ends_and_is_evaluated(tiny, tmp_path, no_pictures):
    train(output=str(tmp_path), **tiny | {"minutes": 1e-6, "steps": "boxes,masks"})
    place = torch.load(tmp_path / NAME, weights_only=True)["place"]
    assert place["iteration"] == 2  # the time of each step was over after one iteration
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 3


# --- steps and freezing


@pytest.fixture
def batch(cache) -> tuple[Batch, list[Target]]:
    data = SceneData(3, 0, SIZE, cache=cache, workers=1)
    return collate([data[index] for index in range(3)])


def tiny_model(**changes) -> PanopticDETR:
    return PanopticDETR(replace(TRAINABLE["tiny"], **changes), CATEGORIES)


def take_steps(objective: Objective, given: TrainOptions, batch: tuple[Batch, list[Target]], count: int = 2) -> dict:
    optimizer = torch.optim.AdamW(parameter_groups(objective, given), weight_decay=0.1)
    objective.train()
    for _ in range(count):
        losses = objective(*batch)
        losses["total"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    return losses


def test_in_the_mask_step_nothing_but_the_mask_head_changes(batch, monkeypatch):
    """Weights, BatchNorm statistics and all; no dropout, no gradient, no activations kept, no loss of what doesn't train."""
    given, model = options(), tiny_model(dropout=0.5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    objective = start_step(model, given, "masks")
    seen = []
    real = PanopticDETR.detect
    monkeypatch.setattr(PanopticDETR, "detect", lambda self, images: seen.append(real(self, images)) or seen[-1])
    losses = take_steps(objective, given, batch)

    after = model.state_dict()
    assert equal(before, after, *MASK_HEAD)
    assert not any(torch.equal(before[key], value) for key, value in after.items() if key.startswith(MASK_HEAD))
    assert set(losses) == {"focal", "dice", "total"}
    for found in seen:
        tensors = [found.logits, found.boxes, found.queries, found.memory, *vars(found.features).values()]
        assert not any(tensor.requires_grad for tensor in tensors) and found.auxiliary == []
    assert torch.equal(seen[0].logits, seen[1].logits)  # no dropout
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == name.startswith(MASK_HEAD), name
    modes = {name: module.training for name, module in model.named_modules() if not f"{name}.".startswith(MASK_HEAD)}
    assert not any(modes.values())
    objective.eval()
    assert not any(module.training for module in objective.modules())


def test_what_a_frozen_model_sees_one_image_after_the_other_is_what_it_sees_in_a_batch(batch):
    """In bfloat16 on a CPU, also where one image is padded; without it the batch goes through at once."""
    images, _ = batch
    padded = Batch.pad([*images.images[:2], images.images[2, :, :40, :56]])
    model = tiny_model()
    objective = start_step(model, options(), "masks").train()
    expected = model.detect(padded)
    found = join([model.detect(image) for image in padded.split()])
    for name in ("logits", "boxes", "queries", "memory", "padding"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.features.res2, expected.features.res2, atol=1e-5, rtol=0)
    assert found.is_padded and not join([model.detect(image) for image in images.split()]).is_padded

    asked: list[int] = []
    real = model.detect
    model.detect = lambda batch: (asked.append(len(batch.images)), real(batch))[1]
    objective.detect_frozen(padded)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = objective.detect_frozen(padded)
    assert asked == [3, 1, 1, 1]
    torch.testing.assert_close(coarse.boxes.float(), expected.boxes, atol=0.05, rtol=0)


def test_in_the_box_step_the_mask_head_does_not_change(batch, monkeypatch):
    given, model = options(pixel_class=0.0, cells=0.0), tiny_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    monkeypatch.setattr(PanopticDETR, "masks", None)  # not even computed
    objective = start_step(model, given, "boxes")
    losses = take_steps(objective, given, batch)
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in after if key.startswith(MASK_HEAD))
    assert all(p.grad is None for n, p in model.named_parameters() if n.startswith(MASK_HEAD))
    assert not any(torch.equal(before[k], after[k]) for k in after if k.endswith("weight") and not k.startswith(MASK_HEAD))
    assert {"class", "l1", "giou", "class_0", "giou_1", "total"} <= set(losses) and not {"focal", "dice"} & set(losses)


@pytest.mark.parametrize("frozen", [("stem", "res2"), ("backbone",), ("encoder", "heads", "mask-head")])
def test_frozen_stages_keep_weights_and_statistics(batch, frozen):
    given, model = options(freeze=frozen), tiny_model(dropout=0.1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    prefixes = tuple(prefix for stage in frozen for prefix in STAGES[stage])
    objective = start_step(model, given, "joint")
    take_steps(objective, given, batch, count=1)
    after = model.state_dict()
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    assert not any(key.startswith(prefixes) for key in changed)
    assert {key for key in after if key.endswith("weight") and not key.startswith(prefixes)} <= changed
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.MultiheadAttention, torch.nn.Linear)):
            assert module.training != f"{name}.".startswith(prefixes), name


def test_freezing_everything_is_a_sentence():
    given = options(freeze=tuple(STAGES), pixel_class=0.0, cells=0.0)
    with pytest.raises(InputError, match="--freeze leaves nothing to train"):
        parameter_groups(start_step(tiny_model(), given, "joint"), given)


@pytest.mark.parametrize(("step", "per_image"), [("joint", 0), ("joint", 2), ("masks", 3)])
def test_masks_are_computed_for_matched_queries_only(batch, monkeypatch, step, per_image):
    asked = []
    real = PanopticDETR.masks

    def masks(self, seen, image_index, query_index):
        asked.append((image_index, query_index))
        return real(self, seen, image_index, query_index)

    monkeypatch.setattr(PanopticDETR, "masks", masks)
    objective = start_step(tiny_model(), options(masks_per_image=per_image), step)
    objective.train()
    objective(*batch)
    counts = [min(len(target.labels), 20, per_image or 20) for target in batch[1]]
    [(image_index, query_index)] = asked
    assert image_index.bincount(minlength=3).tolist() == counts
    assert len(set(zip(image_index.tolist(), query_index.tolist(), strict=True))) == sum(counts)


def test_images_without_segments_train(batch):
    images, targets = batch
    empty = [Target(t.labels[:0], t.boxes[:0], t.masks[:0], t.image_id, t.size) for t in targets]
    for step in ("joint", "masks"):
        model = tiny_model()
        objective = start_step(model, options(), step).train()
        losses = objective(images, empty)
        losses["total"].backward()
        assert all(torch.isfinite(value) for value in losses.values())
        assert losses["focal"] == losses["dice"] == 0
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        assert all(g is not None and torch.isfinite(g).all() for g in gradients)  # none is left out, which others would wait for
    mixed = [targets[0], *empty[1:]]
    assert torch.isfinite(start_step(tiny_model(), options(), "joint").train()(images, mixed)["total"])


def test_cell_classes_are_shares_of_pixels():
    """Two cells side by side: one all of class 2, one half of class 1 and half void."""
    masks = torch.zeros(2, 4, 8, dtype=torch.bool)
    masks[0, :, :4] = True
    masks[1, :2, 4:] = True
    target = Target(torch.tensor([2, 1]), torch.zeros(2, 4), masks, 0, (4, 8))
    logits = torch.randn(1, 3, 1, 2)
    log = logits.log_softmax(1)[0, :, 0]  # 3 classes, 2 cells
    expected = -(log[2, 0] + 0.5 * log[1, 1]) / 1.5
    torch.testing.assert_close(grid_class_loss(logits, [target], segment_shares([target], (4, 8), (1, 2))), expected)


def test_a_cell_should_have_the_box_of_the_segment_that_has_most_of_it():
    """Four cells in a row of an image 4 x 16 in an input padded to 8 x 16: the first two are segment 0's, the third is three
    quarters segment 1's and one quarter segment 0's, the last has nothing; segment 2 has a corner of the first."""
    masks = torch.zeros(3, 4, 16, dtype=torch.bool)
    masks[0, :, :8], masks[1, :3, 8:12], masks[0, 3, 8:12] = True, True, True
    masks[2, 0, 0], masks[0, 0, 0] = True, False
    truth = torch.tensor([[0.4, 0.5, 0.6, 0.9], [0.6, 0.4, 0.2, 0.7], [0.1, 0.1, 0.1, 0.1]])
    target = Target(torch.tensor([2, 1, 1]), truth, masks, 0, (4, 16))
    boxes = torch.rand(1, 2, 4, 4) * 0.2 + 0.4
    boxes.requires_grad_()
    l1, giou = grid_box_losses(boxes, [target], segment_shares([target], (8, 16), (2, 4)))

    def apart(cell: int, segment: int) -> float:
        return float((boxes[0, 0, cell].detach() - target.boxes[segment]).abs().sum())

    first, second = 15 / 16, 1.0  # shares of segment 0
    expected = (first * apart(0, 0) + second * apart(1, 0)) / (first + second) + apart(2, 1)
    torch.testing.assert_close(float(l1.detach()), expected / 2)  # two of the segments have most of a cell

    def missed(cell: int, segment: int) -> float:
        pair = (box_convert(box[None], "cxcywh", "xyxy") for box in (boxes[0, 0, cell].detach(), target.boxes[segment]))
        return 1 - float(generalized_box_iou(*pair))

    expected = (first * missed(0, 0) + second * missed(1, 0)) / (first + second) + missed(2, 1)
    torch.testing.assert_close(float(giou.detach()), expected / 2)
    l1.backward()
    assert (boxes.grad[0, 0, :3] != 0).all()
    assert not boxes.grad[0, 0, 3].any() and not boxes.grad[0, 1].any()  # neither void nor padding


def test_the_image_without_segments_has_nothing_to_say_to_its_cells():
    empty = Target(torch.zeros(0, dtype=torch.long), torch.zeros(0, 4), torch.zeros(0, 4, 8, dtype=torch.bool), 0, (4, 8))
    boxes = torch.rand(1, 1, 2, 4, requires_grad=True)
    shares = segment_shares([empty], (4, 8), (1, 2))
    losses = *grid_box_losses(boxes, [empty], shares), grid_class_loss(torch.randn(1, 3, 1, 2), [empty], shares)
    assert [float(loss) for loss in losses] == [0, 0, 0]
    losses[0].backward()  # connected all the same: other processes wait for the gradient
    assert not boxes.grad.any()


# --- learning


@pytest.mark.slow
def test_four_scenes_are_learned_by_heart(cache):
    """Everything jointly, then the masks alone, without augmentation: fails when a gradient or a target is wrong."""
    data = SceneData(4, 0, SIZE, cache=cache, workers=1)
    batch = collate([data[index] for index in range(4)])
    model = tiny_model(encoder_layers=1, decoder_layers=2, feedforward=256, mask_widths=(64, 48, 32, 24, 16))  # for speed

    def learn(step: str, rate: float) -> dict[str, torch.Tensor]:
        """60 iterations -> each loss over them."""
        given = options(masks_per_image=4, learning_rate=rate, backbone_learning_rate=rate)
        objective = start_step(model, given, step).train()
        optimizer = torch.optim.AdamW(parameter_groups(objective, given))
        history = []
        for iteration in range(60):
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * min(1, (iteration + 1) / 10)
            losses = objective(*batch)
            losses["total"].backward()
            torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            history.append({name: float(value.detach()) for name, value in losses.items()})
        return {name: torch.tensor([row[name] for row in history]) for name in history[0]}

    joint = learn("joint", 1e-3)
    for name in ("total", "class", "l1", "giou", "pixel_class", "cell_class", "cell_giou", "class_0", "giou_0"):
        share = 0.5 if name == "total" else 0.75
        assert joint[name][-10:].mean() < share * joint[name][0], (name, joint[name])
    masks = learn("masks", 3e-3)
    for name in ("focal", "dice"):
        assert masks[name][-10:].mean() < 0.8 * masks[name][:5].mean(), (name, masks[name])


# --- schedule and parameters


def test_the_schedules():
    drop = options(preset="r50", warmup=0.0)
    assert [schedule(drop, p, drop.drop) for p in (0.0, 199 / 300, 0.67, 1.0)] == [1, 1, 0.1, 0.1]
    masks = [schedule(drop, epoch / 25, MASK_DROP) for epoch in range(25)]
    assert masks == [1.0] * 15 + [0.1] * 10
    cosine = options(warmup=0.1)
    assert schedule(cosine, 0.0, 0.5) == pytest.approx(0.01)
    warming = [schedule(cosine, p / 100, 0.5) for p in range(11)]
    assert warming == sorted(warming) and warming[-1] == pytest.approx(0.976, abs=1e-3)
    assert schedule(options(warmup=0.0), 0.5, 0.5) == pytest.approx(0.505)
    assert schedule(cosine, 1.0, 0.5) == schedule(cosine, 1.7, 0.5) == pytest.approx(0.01)  # also when the clock runs over


def test_the_moving_average_forgets_the_start_early_and_keeps_its_decay_later():
    start, weights = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.ones_(start.weight)
    nn.init.zeros_(weights.weight)
    average = MovingAverage(start, 0.998)
    average.update_parameters(start)
    for _ in range(100):
        average.update_parameters(weights)
    assert average.module.weight.item() < 1e-4  # at 0.998 from the first iteration on it would be 0.82
    assert kept_share(0.5, 100) == 0.5 and kept_share(0.998, 8) == 0.5


def test_the_moving_average_is_that_of_torch():
    ours, theirs = (nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    mine = MovingAverage(ours, 0.6)
    reference = AveragedModel(theirs, multi_avg_fn=get_ema_multi_avg_fn(0.6), use_buffers=True)
    for count in range(20):
        if count >= 14:  # from there on (1 + n) / (10 + n) is more than 0.6: both keep the same share
            with torch.no_grad():
                for model in (ours, theirs):
                    model[0].weight.fill_(count)
                    model[1].running_mean.fill_(-count)
        mine.update_parameters(ours)
        reference.update_parameters(theirs)
    state = reference.state_dict()
    for key, value in mine.state_dict().items():
        torch.testing.assert_close(value, state[key])


def test_the_learning_rates_reach_the_optimiser(tiny, tmp_path, no_pictures, monkeypatch):
    rows = []
    monkeypatch.setattr(Report, "losses", lambda self, losses, row, *rest: rows.append(row))
    monkeypatch.setattr(Report, "add", lambda *_: None)
    mask_steps = {"steps": "masks", "schedule": "drop", "warmup": 0.0, "learning_rate": 1e-3, "mask_epochs": 10}
    rates = []
    step = torch.optim.AdamW.step

    def record(self, *arguments, **names):
        rates.append([group["lr"] for group in self.param_groups])
        return step(self, *arguments, **names)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    train(output=str(tmp_path), **tiny | mask_steps | {"scenes": 2, "evaluate_every": 10})
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3] * 6 + [1e-4] * 4)
    assert [rate for [rate] in rates] == pytest.approx([1e-3] * 6 + [1e-4] * 4)
    assert [row["epoch"] for row in rows] == list(range(1, 11))


def test_the_backbone_has_a_learning_rate_of_its_own():
    given = options(preset="r18", learning_rate=1e-4, backbone_learning_rate=1e-5)
    model = PanopticDETR(TRAINABLE["r18"], CATEGORIES)
    objective = start_step(model, given, "joint")
    rest, backbone = parameter_groups(objective, given)
    assert (rest["lr"], rest["base"], backbone["lr"], backbone["base"]) == (1e-4, 1e-4, 1e-5, 1e-5)
    resnet = model.backbone.resnet
    trained = [p for part in (resnet.layer2, resnet.layer3, resnet.layer4) for p in part.parameters()]
    assert {id(p) for p in backbone["params"]} == {id(p) for p in trained}  # stem and first stage do not train
    others = [p for name, p in model.named_parameters() if ".resnet." not in name]
    assert {id(p) for p in rest["params"]} == {id(p) for p in others}
    [group] = parameter_groups(start_step(model, given, "masks"), given)
    head = [*model.heatmap_attention.parameters(), *model.mask_head.parameters()]
    assert {id(p) for p in group["params"]} == {id(p) for p in head} and group["lr"] == 1e-4


# --- devices


def test_precision_follows_the_hardware(monkeypatch):
    for amx, avx, expected in ((True, False, "bf16"), (False, True, "bf16"), (False, False, "no")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx=avx: avx)
        assert best_precision(on_cpu=True) == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for native, expected in ((True, "bf16"), (False, "fp16")):
        # A GPU of before 2020 emulates bfloat16, slower than float16: only what it can do by itself counts.
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, n=native: n or including_emulation)
        assert best_precision(on_cpu=False) == expected


@pytest.mark.parametrize(
    ("precision", "amx", "fused"), [("float32", False, True), ("bfloat16", True, True), ("bfloat16", False, False)]
)
def test_attention_is_not_fused_where_that_is_slow_to_train(monkeypatch, precision, amx, fused):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    with training_attention(start_devices(options(device="cpu", precision=precision))):
        assert torch.backends.cuda.flash_sdp_enabled() == fused  # the switch is the CPU's, too
    assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.slow
def test_both_steps_train_in_bfloat16_on_a_cpu(tiny, tmp_path, no_pictures, capsys):
    model = train(output=str(tmp_path), **tiny | {"steps": "boxes,masks", "epochs": 1, "mask_epochs": 1, "precision": "bfloat16"})
    assert capsys.readouterr().out.count("million parameters train, on cpu in bfloat16") == 2
    state = model.state_dict()
    floats = [tensor for tensor in state.values() if tensor.is_floating_point()]
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in floats)
    assert len(read_rows(tmp_path / "scores.csv")) == 2


def test_the_devices_asked_for(monkeypatch):
    accelerator = start_devices(options(device="cpu", precision="bfloat16"))
    assert accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16"
    assert start_devices(options(device="cpu", precision="float32")).mixed_precision == "no"  # another precision, same process
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for given, sentence in (
        ({"device": "tpu"}, "--device must be auto, cpu, cuda or mps, not tpu"),
        ({"device": "cuda"}, "--device cuda: no such GPU"),
        ({"device": "mps"}, "--device mps: no such GPU"),
        ({"precision": "float16"}, "--precision float16 needs a GPU"),
        ({"device": "cpu", "precision": "float16"}, "--precision float16 needs a GPU"),
    ):
        with pytest.raises(InputError, match=sentence):
            start_devices(options(**given))


# --- what goes wrong


def no_broken_weights(run: Path) -> bool:
    states = [PanopticDETR.from_pretrained(path).state_dict() for path in run.glob("*.safetensors")]
    states += [torch.load(path, weights_only=True)["objective"] for path in run.glob("*.pt")]
    assert not list(run.glob("*.part"))
    return all(torch.isfinite(value).all() for state in states for value in state.values())


@pytest.mark.parametrize("what", ["the loss", "the gradient", "the matching cost"])
def test_a_diverging_run_ends_in_a_sentence(tiny, tmp_path, no_pictures, monkeypatch, what):
    """At iteration 5; there is a checkpoint of the first, after which the run was resumed."""
    tiny |= {"epochs": 2, "batch_size": 3, "steps": "joint", "evaluate_every": 2}
    with monkeypatch.context() as patch:
        at_iteration(patch, 1, terminate)
        train(output=str(tmp_path), **tiny)
    calls = []
    real = Objective.forward

    def forward(self, batch, targets, normalisers=None):
        calls.append([t.image_id for t in targets])
        if len(calls) == 4 and what == "the matching cost":
            batch.images.fill_(float("nan"))
        losses = real(self, batch, targets)
        if len(calls) == 4 and what == "the loss":
            losses["l1"], losses["total"] = losses["l1"] * float("nan"), losses["total"] * float("nan")
        if len(calls) == 4 and what == "the gradient":  # the root of 0 has an infinite slope
            losses["total"] = losses["total"] + (self.model.heads.boxes[4].bias.sum() * 0).sqrt()
        return losses

    monkeypatch.setattr(Objective, "forward", forward)
    with pytest.raises(InputError, match=what + r".* at iteration 5, images .*--learning-rate") as caught:
        train(resume=str(tmp_path))
    sentence = str(caught.value)
    assert all(f"{index:06d}.png" in sentence for index in calls[3]) and str(tmp_path / NAME) in sentence
    assert ("l1" in sentence) == (what == "the loss")
    assert torch.load(tmp_path / NAME, weights_only=True)["place"]["iteration"] == 1
    assert no_broken_weights(tmp_path)


def test_a_hopeless_learning_rate(tiny, tmp_path, no_pictures):
    with pytest.raises(InputError, match=r"not finite .*at iteration \d+, images .*; the last checkpoint is none yet"):
        train(output=str(tmp_path), **tiny | {"learning_rate": 1e30, "backbone_learning_rate": 1e30, "warmup": 0.0, "epochs": 3})
    assert no_broken_weights(tmp_path)


def test_too_few_queries_are_noted(tiny, tmp_path, no_pictures, capsys):
    train(output=str(tmp_path), **tiny | {"queries": 2, "epochs": 0.3, "steps": "boxes"})
    assert "the model 2 queries: raise --queries" in capsys.readouterr().out


def test_a_data_set_is_checked_before_a_run_begins(tiny, tmp_path):
    with pytest.raises(InputError, match="neither 'scenes' nor a folder"):
        train(output=str(tmp_path / "run"), **tiny | {"data": str(tmp_path / "nowhere")})
    assert not (tmp_path / "run").exists()


def test_a_refused_run_leaves_no_folder_of_its_own(tiny, tmp_path):
    """Neither the folder nor those above that were made for it; what was there stays."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    for name in ("new/below/run", "empty", "mine", "mine/run"):
        with pytest.raises(InputError, match="neither 'scenes' nor a folder"):
            train(output=str(tmp_path / name), **tiny | {"data": str(tmp_path / "nowhere")})
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "mine", "notes.txt"]


def test_a_data_set_without_any_segment_trains_and_is_evaluated(tiny, tmp_path, no_pictures, monkeypatch):
    real = SceneData.read
    monkeypatch.setattr(SceneData, "read", lambda self, index: (real(self, index)[0], real(self, index)[1] * 0, []))
    model = train(output=str(tmp_path), **tiny | {"epochs": 0.4})
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert (tmp_path / "best.safetensors").exists()


def test_what_a_run_leaves(tiny, tmp_path):
    """Weights to start another run from, curves and pictures, and no signal handler."""
    before = signal.getsignal(signal.SIGTERM)
    model = train(output=str(tmp_path / "run"), **tiny | {"epochs": 0.4})
    assert signal.getsignal(signal.SIGTERM) == before
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"last.safetensors", "best.safetensors", NAME, "scores.csv", "curves.png", "validation", "options.json"}
    assert not model.training
    last = PanopticDETR.from_pretrained(tmp_path / "run" / "last.safetensors")
    assert equal(model.state_dict(), last.state_dict()) and last.preset.short_side == SIZE
    tuned = train(output=str(tmp_path / "tuned"), from_=tmp_path / "run", **tiny | {"epochs": 0.3, "preset": None})
    assert tuned.preset == last.preset
