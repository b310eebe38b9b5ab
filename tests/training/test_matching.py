"""Matching against brute force, its order, its edges, and the published reference's pairs."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from minidetr.data.targets import Target
from minidetr.training.matching import CostWeights, Matches, match, matching_cost


def random_boxes(count: int) -> Tensor:
    return torch.rand(count, 4) * 0.4 + torch.tensor([0.3, 0.3, 0.05, 0.05])  # cx cy w h, inside the image


def random_target(count: int, classes: int = 6) -> Target:
    masks = torch.rand(count, 12, 16) < 0.3
    return Target(torch.randint(classes, (count,)), random_boxes(count), masks, image_id=1, size=(12, 16))


def random_predictions(images: int, queries: int, classes: int = 6) -> tuple[Tensor, Tensor]:
    boxes = torch.stack([random_boxes(queries) for _ in range(images)])
    return torch.randn(images, queries, classes + 1), boxes


def pairs_of(matches: Matches) -> list[tuple[int, int, int]]:
    return list(zip(matches.image_index.tolist(), matches.query_index.tolist(), matches.target_index.tolist(), strict=True))


def test_cost_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [0.0, 2.0, 1.0]])  # two queries, two classes and "no object"
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]])
    cost = matching_cost(logits, boxes, torch.tensor([1]), boxes[:1], CostWeights(class_=1, l1=5, giou=2))
    probability = logits[1].exp()[1] / logits[1].exp().sum()
    # Query 0 has the very box: L1 0, GIoU 1. Query 1 shares a corner: L1 0.5 + 0.5, IoU 0, half of the enclosing box is empty.
    expected = torch.stack([-torch.tensor(1 / 3) - 2, -probability + 5 * 1.0 + 2 * 0.5])
    torch.testing.assert_close(cost[:, 0], expected)


def test_cost_ignores_what_has_no_weight() -> None:
    (logits,), (boxes,) = random_predictions(1, 4)
    target = random_target(3)
    cost = matching_cost(logits, boxes, target.labels, target.boxes, CostWeights(class_=2, l1=0, giou=0))
    torch.testing.assert_close(cost, -2 * logits.softmax(-1)[:, target.labels])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("queries", "segments"), [(5, 3), (4, 4), (3, 5), (1, 4), (4, 1)])
def test_match_is_the_cheapest_of_all_assignments(seed: int, queries: int, segments: int) -> None:
    torch.manual_seed(seed)
    logits, boxes = random_predictions(1, queries)
    target = random_target(segments)
    matches = match(logits, boxes, [target])
    cost = matching_cost(logits[0], boxes[0], target.labels, target.boxes)
    few, many = (cost, segments) if queries <= segments else (cost.T, queries)
    cheapest = min(sum(few[i, j] for i, j in enumerate(order)) for order in permutations(range(many), len(few)))
    assert len(matches) == min(queries, segments)
    assert len(set(matches.query_index.tolist())) == len(set(matches.target_index.tolist())) == len(matches)  # one to one
    torch.testing.assert_close(cost[matches.query_index, matches.target_index].sum(), cheapest)


def test_perfect_predictions_are_matched_to_themselves_in_order() -> None:
    targets = [random_target(3), random_target(0), random_target(5)]
    order = [torch.tensor([4, 0, 2]), torch.tensor([], dtype=torch.long), torch.tensor([1, 6, 3, 0, 5])]
    logits, boxes = random_predictions(3, 7)
    for image, (target, queries) in enumerate(zip(targets, order, strict=True)):
        boxes[image, queries] = target.boxes
        logits[image, queries, target.labels] = 20.0
    expected = [(image, int(query), k) for image, queries in enumerate(order) for k, query in enumerate(queries)]
    assert pairs_of(match(logits, boxes, targets)) == sorted(expected)


def test_images_do_not_influence_each_other() -> None:
    logits, boxes = random_predictions(3, 6)
    targets = [random_target(4), random_target(2), random_target(9)]
    alone = [match(logits[b : b + 1], boxes[b : b + 1], targets[b : b + 1]) for b in range(3)]
    expected = [(b, query, target) for b in range(3) for _, query, target in pairs_of(alone[b])]
    assert pairs_of(match(logits, boxes, targets)) == expected


def test_no_segment_anywhere() -> None:
    matches = match(*random_predictions(2, 4), [random_target(0), random_target(0)])
    assert pairs_of(matches) == []
    assert matches.query_index.dtype == torch.int64


def test_matching_has_no_gradient_and_survives_half_precision() -> None:
    logits, boxes = random_predictions(1, 6)
    target = random_target(4)
    with torch.autocast("cpu", torch.bfloat16):
        cost = matching_cost(logits[0].bfloat16(), boxes[0].bfloat16(), target.labels, target.boxes)
        matches = match(logits.bfloat16().requires_grad_(), boxes.bfloat16(), [target])
    assert cost.dtype == torch.float32
    same = matching_cost(logits[0].bfloat16().float(), boxes[0].bfloat16().float(), target.labels, target.boxes)
    torch.testing.assert_close(cost, same)
    assert len(matches) == 4


@pytest.mark.parametrize("part", ["logits", "boxes"])
def test_nan_predictions_say_what_to_do(part: str) -> None:
    logits, boxes = random_predictions(2, 4)
    (logits if part == "logits" else boxes)[1, 2, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="predicts NaN or infinity: lower the learning rate"):
        match(logits, boxes, [random_target(2), random_target(3)])


def test_label_of_no_object_is_refused() -> None:
    (logits,), (boxes,) = random_predictions(1, 4, classes=6)
    with pytest.raises(IndexError):
        matching_cost(logits, boxes, torch.tensor([6]), random_boxes(1))


def test_select_takes_each_pairs_own_row() -> None:
    values = [torch.tensor([10, 11, 12]), torch.tensor([], dtype=torch.long), torch.tensor([20, 21])]
    matches = Matches(torch.tensor([0, 0, 2]), torch.tensor([5, 6, 1]), torch.tensor([2, 0, 1]))
    assert matches.select(values).tolist() == [12, 10, 21]


def test_sample_keeps_at_most_so_many_of_an_image_and_every_pair_has_its_turn() -> None:
    matches = Matches(torch.tensor([0, 0, 0, 0, 1, 3, 3, 3]), torch.arange(8), torch.tensor([3, 2, 1, 0, 0, 2, 1, 0]))
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(50):
        drawn = pairs_of(matches.sample(2, generator))
        assert [image for image, _, _ in drawn] == [0, 0, 1, 3, 3]
        assert drawn == sorted(drawn)
        seen |= set(drawn)
    assert seen == set(pairs_of(matches))
    assert pairs_of(matches.sample(9)) == pairs_of(matches)
