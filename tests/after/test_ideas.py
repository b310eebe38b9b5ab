"""Each idea from after DETR by itself: its shapes, what it leaves alone, and what would go wrong if it were broken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from minidetr.after import AfterDETR, Sightings, build
from minidetr.after.decode import decode
from minidetr.after.denoising import Denoising
from minidetr.after.dot_masks import mask_cost
from minidetr.after.groups import Groups
from minidetr.after.masked_attention import hidden_cells
from minidetr.after.pixel_loss import discrimination_loss
from minidetr.after.starts import Starts
from minidetr.data.batch import Batch
from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.presets import TRAINABLE
from minidetr.scenes.dataset import SceneData
from minidetr.scenes.painters import CATEGORIES
from minidetr.training.feed import collate
from minidetr.training.losses import dice_loss, focal_loss
from minidetr.training.matching import CostWeights, Drawn, match_layers
from minidetr.training.objective import start_step
from minidetr.training.options import TrainOptions
from minidetr.weights.load import load, save

SIZE = 64


@pytest.fixture(scope="module")
def batch():
    data = SceneData(4, 30, SIZE)
    return collate([data[index] for index in range(4)])


def model_of(**changes) -> PanopticDETR:
    torch.manual_seed(0)
    return build(replace(TRAINABLE["tiny-after"], short_side=SIZE, **changes), CATEGORIES).eval()


def photos(count: int, *sizes: tuple[int, int]) -> Batch:
    generator = torch.Generator().manual_seed(7)
    return Batch.pad([torch.randn(3, *(sizes[i] if sizes else (64, 96)), generator=generator) for i in range(count)])


def objective_of(step: str = "joint", **given):
    options = TrainOptions(**({"preset": "tiny-after", "size": SIZE} | given)).filled()
    torch.manual_seed(1)
    from minidetr.training.start import starting_model

    objective = start_step(starting_model(options, CATEGORIES)[0], options, step).eval()
    objective.model.training = step != "masks"
    return objective


# --- the decoder


def test_decode_with_nothing_else_is_the_decoder():
    model, batch = build(TRAINABLE["tiny"], CATEGORIES).eval(), photos(2, (64, 96), (48, 64))
    _, memory, position, padding = model.encode(batch)
    for mine, theirs in zip(
        decode(model.decoder, memory, position, padding), model.decoder(memory, position, padding), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_a_preset_without_ideas_is_the_model_it_was():
    assert type(build(TRAINABLE["tiny"], CATEGORIES)) is PanopticDETR
    with pytest.raises(InputError, match=r"minidetr\.after\.build makes its model"):
        PanopticDETR(TRAINABLE["tiny-after"], CATEGORIES)


def test_an_after_detr_without_ideas_sees_what_a_detr_sees():
    shape = TRAINABLE["tiny"]
    torch.manual_seed(0)
    plain = PanopticDETR(shape, CATEGORIES).eval()
    after = AfterDETR(shape, CATEGORIES).eval()
    after.load_state_dict(plain.state_dict())
    one, other = plain.detect(photos(2)), after.detect(photos(2))
    torch.testing.assert_close(other.logits, one.logits, rtol=0, atol=1e-5)
    pairs = torch.tensor([0, 1]), torch.tensor([3, 5])
    torch.testing.assert_close(after.masks(other, *pairs), plain.masks(one, *pairs), rtol=0, atol=1e-4)


# --- dot-product masks


@pytest.mark.parametrize("preset", ["tiny-after", "r18-after"])
def test_shapes_of_dot_masks(preset):
    model = build(TRAINABLE[preset], CATEGORIES).eval()
    seen = model.detect(photos(2))
    assert isinstance(seen, Sightings) and seen.pixels is None  # nobody has asked for them
    masks = model.masks(seen, torch.tensor([1, 0, 1]), torch.tensor([2, 2, 0]))
    assert masks.shape == (3, 16, 24) and seen.pixels.shape == (2, 64, 16, 24)
    none = torch.zeros(0, dtype=torch.long)
    assert model.masks(seen, none, none).shape == (0, 16, 24)
    with pytest.raises(InputError, match="made without heatmaps"):
        model.heatmaps(seen, none, none)


def test_a_mask_is_its_query_s_in_any_order_and_no_other_image_s():
    model = model_of()
    model.mask_head.scale *= 40  # as initialised, all masks are alike
    images = photos(3)
    seen = model.detect(images)
    every = model.mask_head.of_all(seen.queries, model.pixels(seen))  # B N h w
    image, query = torch.tensor([2, 0, 2, 1, 0]), torch.tensor([4, 1, 0, 3, 7])
    torch.testing.assert_close(model.masks(seen, image, query), every[image, query], rtol=1e-4, atol=1e-4)
    for index in range(3):  # alone, it is the same: nothing leaks from one image into another
        [alone] = [model.detect(Batch.pad([images.images[index]]))]
        mine = model.masks(alone, torch.zeros(20, dtype=torch.long), torch.arange(20))
        torch.testing.assert_close(mine, every[index], rtol=1e-3, atol=1e-3)
    assert (every[0] - every[1]).abs().max() > 0.1


def test_the_cost_of_masks_is_their_loss():
    logits, shares = 3 * torch.randn(2, 5, 8, 6), [(torch.rand(3, 8, 6) > 0.6).float(), torch.rand(0, 8, 6)]
    costs = mask_cost(logits, shares)
    assert [tuple(cost.shape) for cost in costs] == [(5, 3), (5, 0)]
    for n in range(5):
        for t in range(3):
            pair = logits[0, n][None], shares[0][t][None]
            expected = 20 * focal_loss(*pair, 1.0) + 2 * dice_loss(*pair, 1.0)
            torch.testing.assert_close(costs[0][n, t], expected, rtol=1e-4, atol=1e-4)


def test_masks_decide_the_matching_where_boxes_do_not(batch):
    _, targets = batch
    targets = [targets[0]]
    T = len(targets[0].labels)
    shares = [F.adaptive_avg_pool2d(targets[0].masks.float(), 16)]
    found = [(torch.zeros(1, T, 30), torch.full((1, T, 4), 0.5))]
    order = torch.randperm(T)
    drawn = Drawn([20 * (shares[0][order] - 0.5)[None]], shares)
    [matches] = match_layers(found, targets, CostWeights(masks=1.0), drawn)
    assert order.tolist() == matches.target_index.tolist()
    [without] = match_layers(found, targets, CostWeights(), drawn)
    assert order.tolist() != without.target_index.tolist()


def test_every_layer_s_masks_are_judged_if_asked_for(batch):
    last = objective_of(auxiliary_masks=False)(*batch)
    every = objective_of(auxiliary_masks=True)(*batch)
    assert {"focal", "dice"} <= last.keys() and "dice_0" not in last
    assert {"dice", "dice_0", "dice_1"} <= every.keys()
    assert "dice_0" not in objective_of("masks", steps="masks")(*batch)  # the earlier layers are frozen, too


def test_in_the_mask_step_the_pixels_train_and_nothing_else(batch):
    objective = objective_of("masks", steps="boxes,masks", groups=2, denoise=2)
    objective(*batch)["total"].backward()
    trained = {name for name, p in objective.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained and all(name.startswith("model.mask_head.") for name in trained)
    assert "model.mask_head.laterals.2.weight" in trained and objective.groups is None and objective.denoising is None


def test_a_model_of_dot_masks_is_saved_and_loaded(tmp_path):
    model = model_of(masked_attention=True, starts=True)
    save(model, tmp_path / "w.safetensors")
    again = load(tmp_path / "w.safetensors")
    assert isinstance(again, AfterDETR) and again.preset == model.preset
    torch.testing.assert_close(again.detect(photos(1)).logits, model.detect(photos(1)).logits)


def test_a_helper_teaches_the_whole_model_and_is_no_part_of_it(batch):
    helped = {"preset": "tiny", "auxiliary_masks": True, "mask_cost": 1.0, "discrimination": 1.0, "pixel_class": 0, "cells": 0}
    objective = objective_of(**helped)
    losses = objective(*batch)
    assert {"focal", "dice", "focal_dot", "dice_dot", "dice_0", "dice_1", "discrimination"} <= losses.keys()
    losses["discrimination"].backward()
    taught = {name for name, p in objective.named_parameters() if p.grad is not None and p.grad.any()}
    assert "model.backbone.resnet.conv1.weight" in taught and "helper.laterals.0.weight" in taught
    assert objective.model.state_dict().keys() == PanopticDETR(TRAINABLE["tiny"], CATEGORIES).state_dict().keys()
    assert objective_of("masks", steps="masks", **helped).helper is None  # there all that it could teach is frozen


# --- the loss of the pixels


def test_discrimination_asks_for_one_direction_a_segment():
    left = torch.zeros(2, 4, 6)
    left[0, :, :3], left[1, :, 3:] = 1, 1
    apart = torch.stack([left[0], left[1]])[None]  # B c h w: two directions at a right angle
    same = torch.ones(1, 2, 4, 6)
    alike = discrimination_loss(same, [left])
    torch.testing.assert_close(alike, torch.tensor(2.0).log())
    assert discrimination_loss(apart, [left]) < 0.05 < discrimination_loss(apart, [left.flip(2) * 0.5 + left * 0.5])
    pixels = torch.randn(1, 8, 4, 6, requires_grad=True)
    for _ in range(30):
        [gradient] = torch.autograd.grad(discrimination_loss(pixels, [left]), pixels)
        pixels = (pixels - 3 * gradient).detach().requires_grad_()
    assert discrimination_loss(pixels, [left]) < 0.3


def test_an_image_with_less_than_two_segments_adds_nothing_but_a_gradient():
    pixels = torch.randn(2, 8, 4, 6, requires_grad=True)
    loss = discrimination_loss(pixels, [torch.rand(1, 4, 6), torch.rand(0, 4, 6)])
    loss.backward()
    assert loss == 0 and pixels.grad is not None and not pixels.grad.any()


# --- groups


def test_a_group_with_the_model_s_own_queries_sees_what_they_see():
    model, images = model_of(), photos(2, (64, 96), (48, 64))
    groups = Groups(3, 20, 128)
    with torch.no_grad():
        groups.query_embedding[20:] = model.decoder.query_embedding.weight
    seen = model.detect(images)
    layers = groups(model, seen)
    torch.testing.assert_close(layers[-1][:, 20:], seen.queries, rtol=1e-4, atol=1e-4)
    before = layers[-1][:, 20:]
    with torch.no_grad():
        groups.query_embedding[:20] += 1  # another group's
    torch.testing.assert_close(groups(model, seen)[-1][:, 20:], before, rtol=0, atol=1e-6)
    assert groups.apart(layers[-1]).shape == (4, 20, 128)
    torch.testing.assert_close(groups.apart(layers[-1])[1], layers[-1][0, 20:])
    assert groups.repeated(["a", "b"]) == ["a", "a", "b", "b"]


def test_groups_that_are_all_alike_have_the_loss_of_one(batch):
    objective = objective_of(groups=3, masked_attention=False)
    with torch.no_grad():
        objective.groups.query_embedding.copy_(objective.model.decoder.query_embedding.weight.repeat(2, 1))
    losses = objective(*batch)
    alone = objective_of(groups=1)(*batch)
    names = [name for name in alone if name.partition("_")[0] in ("class", "l1", "giou", "focal", "dice") and name != "class_error"]
    own = objective.set_loss.weighted({name: alone[name] for name in names})
    torch.testing.assert_close(losses["groups"], own, rtol=1e-3, atol=1e-3)


# --- denoising


def test_noised_truth_is_near_the_truth():
    denoising = Denoising(1, 128, 9)
    boxes = torch.rand(1000, 4) * 0.2 + 0.3
    noised = denoising.noised(boxes)
    shift = (noised - boxes)[:, :2].abs() / boxes[:, 2:]
    assert 0.15 < shift.max() <= 0.2 + 1e-6 and (noised[:, 2:] / boxes[:, 2:]).min() >= 0.6 - 1e-6
    assert (denoising.noised(torch.tensor([[0.99, 0.5, 0.9, 1.0]]).expand(100, 4)) <= 1).all()


def test_what_answers_for_what():
    model, images = model_of(), photos(3)
    labels = [torch.tensor([1, 2, 3]), torch.tensor([], dtype=torch.long), torch.tensor([4])]
    boxes = [torch.rand(len(x), 4) for x in labels]
    layers, pairs = Denoising(2, 128, 9)(model, model.detect(images), labels, boxes)
    assert [tuple(x.shape) for x in layers] == [(3, 6, 128)] * 3 and all(x.isfinite().all() for x in layers)
    assert [x.tolist() for x in pairs] == [[0, 0, 0, 0, 0, 0, 2, 2], [0, 1, 2, 3, 4, 5, 0, 3], [0, 1, 2, 0, 1, 2, 0, 0]]


def test_a_group_of_noised_truth_sees_no_other_and_no_place_without_a_segment():
    model, images = model_of(), photos(1)
    seen = model.detect(images)
    denoising = Denoising(2, 128, 9, box_noise=0.0, class_noise=0.0)
    labels, boxes = torch.tensor([1, 2]), torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.3, 0.4]])
    layers, _ = denoising(model, seen, [labels], [boxes])
    torch.testing.assert_close(layers[-1][:, :2], layers[-1][:, 2:])  # without noise, both groups are the same
    more = Denoising(1, 128, 9, box_noise=0.0, class_noise=0.0)
    more.load_state_dict(denoising.state_dict())
    twice = model.detect(photos(2))
    wide, _ = more(model, twice, [labels, torch.tensor([3, 3, 3, 3])], [boxes, torch.rand(4, 4)])  # two places are left over
    torch.testing.assert_close(wide[-1][:1, :2], layers[-1][:, :2], rtol=1e-3, atol=1e-3)


def test_noise_reaches_neither_the_queries_nor_the_model(batch):
    with_noise, without = objective_of(denoise=3), objective_of()
    state = without.state_dict()
    with_noise.load_state_dict(state, strict=False)
    torch.manual_seed(5)
    noisy, plain = with_noise(*batch), without(*batch)
    for name in plain.keys() - {"total"}:
        torch.testing.assert_close(noisy[name], plain[name], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(noisy["total"], plain["total"] + noisy["denoising"])
    assert with_noise.model.state_dict().keys() == without.model.state_dict().keys()


# --- masked attention


def test_an_empty_mask_looks_everywhere_and_no_other():
    logits = torch.full((1, 3, 8, 8), -5.0)
    logits[0, 1, :4, :4] = 5.0  # of a grid of 2 x 2, the first cell
    logits[0, 2] = 5.0
    assert hidden_cells(logits, (2, 2)).tolist() == [[[False] * 4, [False, True, True, True], [False] * 4]]


def test_masked_attention_with_masks_of_everything_is_attention():
    model = model_of(masked_attention=True)
    model.mask_head.scale *= 500  # as initialised, all masks are empty
    images = photos(2, (64, 96), (48, 64))
    with torch.no_grad():
        seen = model.detect(images)
        model.mask_head.bias.fill_(1e4)
        everywhere = model.detect(images)
    plain = AfterDETR(replace(model.preset, masked_attention=False), CATEGORIES).eval()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(everywhere.logits, plain.detect(images).logits, rtol=1e-4, atol=1e-4)
    assert (seen.logits - everywhere.logits).abs().max() > 1e-3
    with pytest.raises(InputError, match="choose dot-product masks"):
        AfterDETR(replace(TRAINABLE["tiny"], masked_attention=True), CATEGORIES)


# --- queries that start from cells


def test_queries_start_from_the_surest_cells_and_never_from_padding():
    starts = Starts(16, 3)
    memory, position = torch.randn(2, 16, 3, 4), torch.randn(2, 16, 3, 4)
    padding = torch.zeros(2, 3, 4, dtype=torch.bool)
    padding[1, :, 2:] = True
    embedding, logits, boxes = starts(memory, position, padding, 5)
    assert embedding.shape == (2, 5, 16) and logits.shape == (2, 12, 4) and boxes.shape == (2, 12, 4)
    scores = logits.softmax(-1)[..., :-1].amax(-1).masked_fill(padding.flatten(1), -1)
    cells = (memory + position).flatten(2).transpose(1, 2)
    for image in range(2):
        best = scores[image].argsort(descending=True)[:5]
        torch.testing.assert_close(embedding[image], starts.embed(cells[image, best]))
    assert starts(memory, position, padding, 20)[0].shape == (2, 20, 16)  # with fewer cells than queries the others start as ever


def test_one_cell_an_object_is_told_to_speak(batch):
    objective = objective_of(starts=True)
    losses = objective(*batch)
    losses["starts"].backward()
    heads = [name for name, p in objective.named_parameters() if p.grad is not None and p.grad.any() and "starts.heads" in name]
    assert len(heads) == 8
    assert objective.model.starts.embed[0].weight.grad is None  # that learns from what the queries say


# --- all together


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(batch, parts):
    images, targets = batch
    given = {"groups": 2, "denoise": 2, "starts": True, "discrimination": 1.0}
    objective = objective_of(**given)
    objective.denoising.box_noise = objective.denoising.class_noise = 0.0  # drawn anew for every part
    whole = objective(images, targets)
    whole["total"].backward()
    expected = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
    objective.zero_grad()
    normalisers, size, total = objective.normalisers(images, targets), 4 // parts, {}
    for part, start in zip(images.split(size), range(0, 4, size), strict=True):
        losses = objective(part, targets[start : start + size], normalisers)
        losses["total"].backward()
        total = {name: total.get(name, 0) + value.detach() for name, value in losses.items()}
    for name in whole.keys() - {"class_error"}:
        torch.testing.assert_close(total[name], whole[name].detach(), rtol=1e-3, atol=1e-5)
    for name, parameter in objective.named_parameters():
        if name in expected:
            assert (parameter.grad - expected[name]).norm() <= 1e-3 * expected[name].norm() + 1e-5, name


def test_a_batch_without_segments_gives_every_part_a_gradient(batch):
    images, targets = batch
    empty = [replace(t, labels=t.labels[:0], boxes=t.boxes[:0], masks=t.masks[:0]) for t in targets]
    objective = objective_of(groups=2, denoise=2, starts=True)
    losses = objective(images, empty)
    assert all(loss.isfinite() for loss in losses.values())
    losses["total"].backward()
    missing = [name for name, p in objective.named_parameters() if p.grad is None]
    assert missing == []
