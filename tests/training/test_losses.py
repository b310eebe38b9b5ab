"""The set losses by hand, their edges, and the published reference's numbers and gradients."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from minidetr.data.targets import Target
from minidetr.training.losses import (
    LossWeights,
    SetLoss,
    box_losses,
    class_error,
    class_loss,
    dice_loss,
    focal_loss,
    giou_loss,
    mask_losses,
    segment_count,
)
from minidetr.training.matching import Matches, match
from tests.reference import REFERENCE, needs_reference

CLASSES, QUERIES = 6, 9


@dataclass
class Predictions:
    """A stand-in for a model: its outputs are leaves, so that their gradients can be read; `asked` records who wanted masks."""

    logits: Tensor
    boxes: Tensor
    mask_logits: Tensor
    auxiliary: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    asked: list[tuple[list[int], list[int]]] = field(default_factory=list)

    def masks(self, image_index: Tensor, query_index: Tensor) -> Tensor:
        self.asked.append((image_index.tolist(), query_index.tolist()))
        return self.mask_logits[image_index, query_index]

    @property
    def leaves(self) -> list[Tensor]:
        return [self.logits, self.boxes, self.mask_logits, *(leaf for layer in self.auxiliary for leaf in layer)]


def random_predictions(images: int, layers: int = 2) -> Predictions:
    def layer() -> tuple[Tensor, Tensor]:
        return torch.randn(images, QUERIES, CLASSES + 1, requires_grad=True), random_boxes(images, QUERIES).requires_grad_()

    return Predictions(*layer(), torch.randn(images, QUERIES, 6, 8, requires_grad=True), [layer() for _ in range(layers)])


def random_boxes(*shape: int) -> Tensor:
    return torch.rand(*shape, 4) * 0.4 + torch.tensor([0.3, 0.3, 0.05, 0.05])


def random_target(count: int, height: int = 24, width: int = 32) -> Target:
    masks = torch.rand(count, height, width) < 0.3
    return Target(torch.randint(CLASSES, (count,)), random_boxes(count), masks, image_id=1, size=(height, width))


# --- by hand -----------------------------------------------------------------------------------------------------------------


def test_dice_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)]], [[100.0, -100.0]]])  # probabilities 1/2, 3/4 and 1, 0
    masks = torch.tensor([[[True, False]], [[True, False]]])
    first = 1 - (2 * 0.5 + 1) / (1.25 + 1 + 1)
    torch.testing.assert_close(dice_loss(logits, masks, normaliser=1), torch.tensor(first))  # the second is perfect: 0
    torch.testing.assert_close(dice_loss(logits, masks, normaliser=4), torch.tensor(first / 4))


def test_focal_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)]]])
    masks = torch.tensor([[[True, False]]])
    true_pixel = 0.25 * 0.5**2 * math.log(2)  # truth 1, said 1/2
    false_pixel = 0.75 * 0.75**2 * math.log(4)  # truth 0, said 3/4
    torch.testing.assert_close(focal_loss(logits, masks, normaliser=1), torch.tensor((true_pixel + false_pixel) / 2))
    twice = focal_loss(logits.expand(2, 1, 2), masks.expand(2, 1, 2), normaliser=1)  # mean over pixels, sum over objects
    torch.testing.assert_close(twice, torch.tensor(true_pixel + false_pixel))


def test_focal_without_focus_is_half_the_cross_entropy() -> None:
    logits, masks = torch.randn(3, 4, 5), torch.rand(3, 4, 5) < 0.5
    expected = 0.5 * F.binary_cross_entropy_with_logits(logits, masks.float()) * 3
    torch.testing.assert_close(focal_loss(logits, masks, 1, alpha=0.5, gamma=0), expected)


def test_class_loss_by_hand() -> None:
    logits = torch.randn(2, 3, 4)
    targets = [random_target(1), random_target(0)]
    targets[0].labels[:] = 2
    matches = Matches(torch.tensor([0]), torch.tensor([1]), torch.tensor([0]))
    log_probability = logits.log_softmax(-1)
    unmatched = log_probability[:, :, 3].sum() - log_probability[0, 1, 3]
    expected = -(log_probability[0, 1, 2] + 0.1 * unmatched) / (1 + 0.1 * 5)
    torch.testing.assert_close(class_loss(logits, matches, targets, no_object=0.1), expected)


def test_class_error_counts_matched_queries_only() -> None:
    logits = torch.zeros(1, 4, 4)
    logits[0, 0, 1] = logits[0, 1, 3] = logits[0, 2, 0] = logits[0, 3, 2] = 1.0
    target = random_target(3)
    target.labels[:] = torch.tensor([0, 1, 2])
    matches = Matches(torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]))  # right, "no object", right
    assert class_error(logits, matches, [target]).item() == pytest.approx(100 / 3)


def test_box_losses_by_hand() -> None:
    target = random_target(1)
    target.boxes[:] = torch.tensor([0.25, 0.25, 0.5, 0.5])
    boxes = torch.tensor([[[0.9, 0.9, 0.1, 0.1], [0.75, 0.75, 0.5, 0.5]]])
    matches = Matches(torch.tensor([0]), torch.tensor([1]), torch.tensor([0]))
    l1, giou = box_losses(boxes, matches, [target], normaliser=2)
    torch.testing.assert_close(l1, torch.tensor(0.5))  # |0.5| + |0.5|, over 2
    torch.testing.assert_close(giou, torch.tensor(0.75))  # GIoU -0.5: no overlap, half of the enclosing box is empty


def test_giou_is_the_same_for_a_box_of_one_pixel() -> None:
    target = random_target(1)
    matches = Matches(torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))
    box, other = torch.tensor([0.5, 0.5, 0.4, 0.4]), torch.tensor([[[0.5, 0.5, 0.2, 0.4]]])
    for scale in (1.0, 1 / 400):  # the small box is a pixel of a 1000 x 1000 image
        target.boxes[:] = box * scale
        torch.testing.assert_close(box_losses(other * scale, matches, [target], 1)[1], torch.tensor(0.5))


# --- masks -------------------------------------------------------------------------------------------------------------------


def test_mask_losses_equal_the_plain_formula_with_its_gradient() -> None:
    targets = [random_target(11), random_target(9, 20, 28)]  # more than one part of eight, and of unequal sizes
    image_index = torch.tensor([0] * 11 + [1] * 9)
    matches = Matches(image_index, torch.arange(20), torch.cat([torch.randperm(11), torch.randperm(9)]))
    logits = torch.randn(20, 6, 8, requires_grad=True)

    masks = torch.zeros(20, 24, 32)
    for k, (b, t) in enumerate(zip(image_index.tolist(), matches.target_index.tolist(), strict=True)):
        height, width = targets[b].masks.shape[1:]
        masks[k, :height, :width] = targets[b].masks[t]
    large = F.interpolate(logits[None], (24, 32), mode="bilinear", align_corners=False)[0]
    expected = focal_loss(large, masks, 7), dice_loss(large, masks, 7)
    losses = mask_losses(logits, targets, matches, 7, (24, 32))
    torch.testing.assert_close(losses, expected)
    gradient, expected_gradient = (torch.autograd.grad(sum(pair), logits)[0] for pair in (losses, expected))
    torch.testing.assert_close(gradient, expected_gradient)

    # With stride 4, 4 x 4 pixels of the target are averaged.
    small = masks.view(20, 6, 4, 8, 4).mean((2, 4))
    expected = focal_loss(logits, small, 7), dice_loss(logits, small, 7)
    torch.testing.assert_close(mask_losses(logits, targets, matches, 7, (24, 32), stride=4), expected)


def test_right_masks_cost_less_than_wrong_ones_at_both_strides() -> None:
    target = random_target(2)
    target.masks[:] = False
    target.masks[0, :12], target.masks[1, :, 16:] = True, True
    matches = Matches(torch.tensor([0, 0]), torch.tensor([3, 5]), torch.tensor([0, 1]))
    right = F.max_pool2d(target.masks.float(), 4) * 20 - 10
    for stride in (1, 4):
        good = mask_losses(right, [target], matches, 2, (24, 32), stride)
        bad = mask_losses(right.flip(0), [target], matches, 2, (24, 32), stride)
        assert good[0] < 0.1 * bad[0] and good[1] < 0.2 * bad[1]


# --- all together ------------------------------------------------------------------------------------------------------------


def test_names_total_and_gradient() -> None:
    seen, targets = random_predictions(2), [random_target(3), random_target(5)]
    weights = LossWeights(class_=2, l1=3, giou=5, focal=7, dice=11)
    losses = SetLoss(weights)(seen, targets, seen.masks)
    detection = {"class": 2, "l1": 3, "giou": 5}
    weight_of = {f"{name}{suffix}": weight for name, weight in detection.items() for suffix in ("", "_0", "_1")}
    weight_of |= {"focal": 7, "dice": 11}
    assert set(losses) == {*weight_of, "total", "class_error"}
    torch.testing.assert_close(losses["total"], sum(weight * losses[name] for name, weight in weight_of.items()))
    assert not losses["class_error"].requires_grad
    losses["total"].backward()
    assert all(leaf.grad is not None and leaf.grad.abs().sum() > 0 for leaf in seen.leaves)


def test_masks_are_asked_for_matched_pairs_only() -> None:
    seen, targets = random_predictions(3), [random_target(3), random_target(0), random_target(5)]
    losses = SetLoss()(seen, targets, seen.masks)
    matches = match(seen.logits, seen.boxes, targets)
    assert seen.asked == [(matches.image_index.tolist(), matches.query_index.tolist())]
    losses["total"].backward()
    touched = seen.mask_logits.grad.abs().sum((2, 3)) > 0
    assert touched.nonzero().T.tolist() == [matches.image_index.tolist(), matches.query_index.tolist()]


def test_auxiliary_layers_are_matched_on_their_own() -> None:
    seen, targets = random_predictions(2, layers=1), [random_target(3), random_target(4)]
    losses = SetLoss()(seen, targets)
    alone = SetLoss()(Predictions(*seen.auxiliary[0], seen.mask_logits), targets)
    for name in ("class", "l1", "giou"):
        torch.testing.assert_close(losses[f"{name}_0"], alone[name])
        assert losses[f"{name}_0"] != losses[name]


def test_mask_step_returns_and_trains_masks_only() -> None:
    seen, targets = random_predictions(2), [random_target(3), random_target(5)]
    losses = SetLoss(train_boxes=False)(seen, targets, seen.masks)
    assert set(losses) == {"focal", "dice", "total"}
    jointly = SetLoss()(seen, targets, seen.masks)
    torch.testing.assert_close(losses["total"], jointly["focal"] + jointly["dice"])
    losses["total"].backward()
    assert seen.mask_logits.grad is not None and seen.logits.grad is None and seen.boxes.grad is None


def test_box_step_asks_for_no_masks() -> None:
    seen, targets = random_predictions(2, layers=0), [random_target(3), random_target(5)]
    assert set(SetLoss()(seen, targets)) == {"class", "l1", "giou", "total", "class_error"}
    with pytest.raises(ValueError, match="nothing to train"):
        SetLoss(train_boxes=False)(seen, targets)


def test_order_of_segments_does_not_matter() -> None:
    seen, targets = random_predictions(2), [random_target(4), random_target(12)]  # the second has more segments than queries
    order = [torch.randperm(4), torch.randperm(12)]
    shuffled = [replace(t, labels=t.labels[o], boxes=t.boxes[o], masks=t.masks[o]) for t, o in zip(targets, order, strict=True)]
    torch.testing.assert_close(SetLoss()(seen, shuffled, seen.masks), SetLoss()(seen, targets, seen.masks))


def test_more_segments_than_queries_divides_by_the_segments() -> None:
    seen, targets = random_predictions(1, layers=0), [random_target(QUERIES + 4)]
    losses = SetLoss()(seen, targets, seen.masks)
    matches = match(seen.logits, seen.boxes, targets)
    assert len(matches) == QUERIES
    predicted, expected = seen.boxes[0, matches.query_index], targets[0].boxes[matches.target_index]
    torch.testing.assert_close(losses["l1"], (predicted - expected).abs().sum() / (QUERIES + 4))


@pytest.mark.parametrize("train_boxes", [True, False])
def test_a_batch_without_segments_is_zero_but_connected(train_boxes: bool) -> None:
    seen, targets = random_predictions(2), [random_target(0), random_target(0)]
    losses = SetLoss(train_boxes=train_boxes)(seen, targets, seen.masks)
    assert seen.asked == [([], [])]
    assert all(losses[name] == 0 for name in losses if name.startswith(("l1", "giou", "focal", "dice", "class_error")))
    losses["total"].backward()
    connected = seen.leaves if train_boxes else [seen.mask_logits]
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in connected)
    assert not seen.mask_logits.grad.any()
    assert not train_boxes or seen.logits.grad.any()  # the queries still learn to say "no object"


def test_masks_per_image_draws_and_divides_by_the_drawn() -> None:
    seen, targets = random_predictions(2, layers=0), [random_target(6), random_target(1)]
    one = SetLoss(masks_per_image=2)(seen, targets, seen.masks, generator=torch.Generator().manual_seed(3))
    (images, queries), matches = seen.asked[0], match(seen.logits, seen.boxes, targets)
    assert images == [0, 0, 1]
    pairs = list(zip(matches.image_index.tolist(), matches.query_index.tolist(), strict=True))
    keep = torch.tensor([pairs.index(pair) for pair in zip(images, queries, strict=True)])
    drawn = Matches(matches.image_index[keep], matches.query_index[keep], matches.target_index[keep])
    expected = mask_losses(seen.mask_logits[drawn.image_index, drawn.query_index], targets, drawn, 3, (24, 32))
    torch.testing.assert_close((one["focal"], one["dice"]), expected)
    all_pairs = SetLoss(masks_per_image=6)(seen, targets, seen.masks)  # room for every pair: nothing changes
    torch.testing.assert_close(all_pairs["dice"], SetLoss()(seen, targets, seen.masks)["dice"])


def test_padding_counts_as_background() -> None:
    seen, targets = random_predictions(1, layers=0), [random_target(3)]
    padded = [replace(targets[0], masks=F.pad(targets[0].masks, (0, 8, 0, 4)))]
    loss = SetLoss()
    torch.testing.assert_close(loss(seen, targets, seen.masks, size=(28, 40)), loss(seen, padded, seen.masks))
    assert loss(seen, targets, seen.masks)["focal"] != loss(seen, padded, seen.masks)["focal"]


def test_autocast_changes_no_loss() -> None:
    seen, targets = random_predictions(2), [random_target(3), random_target(5)]
    with torch.autocast("cpu", torch.bfloat16):
        losses = SetLoss()(seen, targets, seen.masks)
    torch.testing.assert_close(losses, SetLoss()(seen, targets, seen.masks))


def test_half_precision_predictions_are_judged_in_float32() -> None:
    seen, targets = random_predictions(2, layers=0), [random_target(3), random_target(5)]
    half = Predictions(*(leaf.detach().bfloat16() for leaf in seen.leaves))
    full = Predictions(*(leaf.float() for leaf in half.leaves))
    torch.testing.assert_close(SetLoss()(half, targets, half.masks), SetLoss()(full, targets, full.masks), rtol=0, atol=0)


# --- normaliser --------------------------------------------------------------------------------------------------------------


def test_the_giou_loss_and_its_gradient_are_torchvisions() -> None:
    corners = torch.rand(400, 2, 2).sort(1).values.flatten(1)  # K 4, some pairs apart
    expected = torch.rand(400, 2, 2).sort(1).values.flatten(1)
    mine, theirs = corners.clone().requires_grad_(), corners.clone().requires_grad_()
    loss, reference = giou_loss(mine, expected), generalized_box_iou_loss(theirs, expected, eps=1e-12)
    torch.testing.assert_close(loss, reference)
    loss.sum().backward()
    reference.sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    assert 50 < (loss > 1).sum() < 350  # both with and without an overlap


def test_segment_count_is_at_least_one() -> None:
    assert segment_count([random_target(3), random_target(0), random_target(4)]) == 7
    assert segment_count([random_target(0)]) == 1


def _losses_of_images(images: slice) -> dict[str, Tensor]:
    torch.manual_seed(1)
    seen, targets = random_predictions(2), [random_target(1), random_target(7)]
    part = Predictions(*(leaf[images] for leaf in (seen.logits, seen.boxes, seen.mask_logits)))
    part.auxiliary = [(logits[images], boxes[images]) for logits, boxes in seen.auxiliary]
    return SetLoss()(part, targets[images], part.masks)


def _one_image_in_process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    count = segment_count([random_target(rank * 5)])  # 0 and 5 segments
    losses = _losses_of_images(slice(rank, rank + 1))
    torch.save((count, {name: loss.detach() for name, loss in losses.items()}), Path(folder, str(rank)))
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(sys.platform != "linux", reason="starts two processes by fork, which is safe on Linux only")
def test_two_processes_average_to_one_large_batch(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(_one_image_in_process, (str(tmp_path),), nprocs=2, start_method="fork")
    (count, losses), (other_count, other_losses) = (torch.load(tmp_path / str(rank)) for rank in range(2))
    assert count == other_count == 2.5
    for name, whole in _losses_of_images(slice(0, 2)).items():
        if name != "class_error":  # a percentage of each process's own pairs
            torch.testing.assert_close((losses[name] + other_losses[name]) / 2, whole)


# --- the published reference -------------------------------------------------------------------------------------------------


@pytest.fixture
def reference() -> tuple[dict[str, np.ndarray], Predictions, list[Target]]:
    case = dict(np.load(REFERENCE / "criterion.npz"))
    tensor = {name: torch.from_numpy(value) for name, value in case.items() if value.dtype.kind != "U"}
    seen = Predictions(*(tensor[name].requires_grad_() for name in ("logits", "boxes", "masks")))
    seen.auxiliary = [(tensor[f"aux{layer}_logits"], tensor[f"aux{layer}_boxes"]) for layer in range(2)]
    targets = []
    for image in range(3):
        labels, boxes, masks = (tensor[f"target{image}_{name}"] for name in ("labels", "boxes", "masks"))
        targets.append(Target(labels, boxes, masks, image_id=image, size=tuple(masks.shape[1:])))
    return case, seen, targets


@needs_reference
def test_reference_matches(reference: tuple[dict[str, np.ndarray], Predictions, list[Target]]) -> None:
    case, seen, targets = reference
    matches = match(seen.logits, seen.boxes, targets)
    for image in range(3):
        of_image = matches.image_index == image
        assert matches.query_index[of_image].tolist() == case[f"match{image}_query"].tolist()
        assert matches.target_index[of_image].tolist() == case[f"match{image}_target"].tolist()


@needs_reference
def test_reference_losses_and_gradients(reference: tuple[dict[str, np.ndarray], Predictions, list[Target]]) -> None:
    case, seen, targets = reference
    losses = SetLoss()(seen, targets, seen.masks)
    names = {"loss_ce": "class", "loss_bbox": "l1", "loss_giou": "giou", "loss_mask": "focal", "loss_dice": "dice"}
    compared = 0
    for name, value in json.loads(str(case["losses"])).items():
        parts = name.split("_")
        if parts[0] == "cardinality":
            continue  # a figure to watch that minidetr does not compute
        ours = "class_error" if name == "class_error" else "_".join([names["_".join(parts[:2])], *parts[2:]])
        assert losses[ours].item() == pytest.approx(value, abs=1e-5, rel=1e-6), name
        compared += 1
    assert compared == len(losses) - 1  # all but the total
    last_layer = losses["class"] + 5 * losses["l1"] + 2 * losses["giou"] + losses["focal"] + losses["dice"]
    gradients = torch.autograd.grad(last_layer, (seen.logits, seen.boxes, seen.mask_logits))
    for gradient, name in zip(gradients, ("logits", "boxes", "masks"), strict=True):
        torch.testing.assert_close(gradient, torch.from_numpy(case[f"grad_{name}"]), atol=1e-5, rtol=1e-4)
