"""Masks -> one id per pixel: nothing overlaps, duplicates keep their pixels, padding goes first."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from minidetr.model.merge import SMALLEST_AREA, kept_queries, merge
from minidetr.panoptic import Category, Panoptic

SKY, GROUND, CAR, PERSON = 1, 3, 4, 9  # ids with gaps
CATEGORIES = {
    SKY: Category(SKY, "sky", False),
    GROUND: Category(GROUND, "ground", False),
    CAR: Category(CAR, "car", True),
    PERSON: Category(PERSON, "person", True),
}


def merged(
    masks: Tensor, labels: list[int], size: tuple[int, int] | None = None, original: tuple[int, int] | None = None
) -> Panoptic:
    """Merge quarter-size `masks` K h w; `size` is the image inside the padding, `original` the photo's."""
    padded = (4 * masks.shape[1], 4 * masks.shape[2])
    scores = torch.linspace(0.9, 0.99, len(labels))
    size = size or padded
    return merge(masks, scores, torch.tensor(labels, dtype=torch.long), CATEGORIES, padded, size, original or size)


def halves(*values: float) -> Tensor:
    """Masks 8 x 8 with the upper half at each of `values`, and the lower half at its negative."""
    masks = torch.ones(len(values), 8, 8) * torch.tensor(values)[:, None, None]
    masks[:, 4:] *= -1
    return masks


def assert_consistent(result: Panoptic) -> None:
    """Ids are 1, 2, ... and every pixel, area and box is what the map says."""
    ids = [s.id for s in result.segments]
    assert ids == list(range(1, len(ids) + 1))
    assert set(np.unique(result.segment_ids)) == (set(ids) or {0})
    for segment in result.segments:
        rows, columns = np.nonzero(result.segment_ids == segment.id)
        assert segment.area == len(rows) > SMALLEST_AREA
        assert segment.box == (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert segment.is_thing == CATEGORIES[segment.category_id].is_thing


@pytest.mark.parametrize("count", [1, 2, 7, 30])
def test_every_pixel_belongs_to_one_segment(count: int) -> None:
    labels = [list(CATEGORIES)[i] for i in torch.randint(len(CATEGORIES), (count,))]
    result = merged(3 * torch.randn(count, 9, 13), labels, size=(33, 49), original=(70, 101))
    assert result.segment_ids.shape == (70, 101)
    assert (result.segment_ids > 0).all(), "some mask is the best one everywhere"
    assert sum(s.area for s in result.segments) == 70 * 101
    assert_consistent(result)


def test_no_kept_query_is_all_void() -> None:
    result = merged(torch.empty(0, 9, 13), [], original=(21, 17))
    assert result.segments == []
    assert result.segment_ids.shape == (21, 17)
    assert result.segment_ids.dtype == np.int32 and not result.segment_ids.any()


def test_duplicates_of_stuff_become_one_segment_and_keep_their_pixels() -> None:
    """Two masks of sky share the upper half, and a car is second best there: the reference gives it a part of the sky."""
    masks = halves(5.0, 5.0, 1.0, -2.0)
    masks[0, :, 5:] = masks[1, :, :3] = -9  # each sky covers its side of the upper half, and both the middle
    result = merged(masks, [SKY, SKY, CAR, GROUND])
    assert [(s.category_id, s.area) for s in result.segments] == [(SKY, 16 * 32), (GROUND, 16 * 32)]
    assert (result.segment_ids[:16] == 1).all() and (result.segment_ids[16:] == 2).all()
    assert result.segments[0].score == pytest.approx(0.93), "the better of the duplicates' 0.9 and 0.93"
    assert_consistent(result)


def test_duplicates_of_things_stay_apart() -> None:
    masks = halves(5.0, -5.0)
    result = merged(masks, [CAR, CAR])
    assert [(s.category_id, s.area) for s in result.segments] == [(CAR, 512), (CAR, 512)]


def test_a_duplicate_counts_to_the_size_of_its_group() -> None:
    """Alone the second sky would be too small to be kept."""
    masks = halves(5.0, -9.0, -5.0)
    masks[1] = -9
    masks[1, 7, 7] = 5.2
    result = merged(masks, [SKY, SKY, CAR], original=(8, 8))
    assert result.segment_ids[7, 7] == result.segment_ids[0, 0] == 1
    assert result.segments[0].area == 33


@pytest.mark.parametrize(("side", "kept"), [(2, False), (3, True)])
def test_small_segments_go_to_the_next_best(side: int, kept: bool) -> None:
    masks = torch.zeros(3, 8, 8)
    masks[0], masks[1], masks[2] = 1.0, 0.0, -5.0
    masks[2, :side, :side] = 9.0
    masks[1, 0, 0] = 5.0  # second best at one pixel only, so that one falls too, in the next round
    result = merged(masks, [GROUND, PERSON, CAR], original=(8, 8))
    assert [s.category_id for s in result.segments] == ([GROUND, CAR] if kept else [GROUND])
    assert (result.segment_ids[:side, :side] == len(result.segments)).all()
    assert_consistent(result)


def test_areas_are_those_of_the_photo() -> None:
    """Small is what is small in the photo: 64 pixels here, 4 there."""
    masks = torch.zeros(2, 8, 8)
    masks[1] = -1.0
    masks[1, :2, :2] = 9.0
    assert len(merged(masks, [GROUND, CAR], original=(32, 32)).segments) == 2
    assert len(merged(masks, [GROUND, CAR], original=(8, 8)).segments) == 1


def test_padding_is_cropped_before_anything_is_resized() -> None:
    labels, size, original = [CAR, GROUND, PERSON, SKY, GROUND], (40, 56), (93, 127)
    masks = F.avg_pool2d(20 * torch.randn(5, 10, 14), 3, stride=1, padding=1)
    padded = F.pad(masks, (0, 8, 0, 5), mode="replicate")  # what the model says of the padding must not matter, but at the rim
    padded[:, 12:], padded[:, :, 16:] = 50, -50
    alone, in_batch = merged(masks, labels, size, original), merged(padded, labels, size, original)
    np.testing.assert_array_equal(alone.segment_ids, in_batch.segment_ids)
    assert alone.segments == in_batch.segments
    assert len(alone.segments) == 4


def test_masks_cover_what_they_cover_at_any_size() -> None:
    masks = halves(3.0, -3.0)
    for original in ((64, 40), (33, 17), (10, 200)):
        result = merged(masks, [SKY, GROUND], original=original)
        assert result.segment_ids.shape == original
        border = int(np.argmax(result.segment_ids[:, 0] == 2))
        assert border == pytest.approx(original[0] / 2, abs=1)
        assert (result.segment_ids == result.segment_ids[:, :1]).all()


def test_kept_queries() -> None:
    logits = torch.full((6, 11), -9.0)  # 10 classes and "no object"
    for query, (label, logit) in enumerate([(CAR, 9.0), (10, 9.0), (5, 9.0), (SKY, -8.0), (PERSON, 9.0), (0, 9.0)]):
        logits[query, label] = logit  # a car, no object, a gap, an unsure sky, a person, and id 0, which is another gap
    query_index, scores, labels = kept_queries(logits, 0.85, CATEGORIES)
    assert query_index.tolist() == [0, 4]
    assert labels.tolist() == [CAR, PERSON]
    torch.testing.assert_close(scores, logits.softmax(-1)[[0, 4], [CAR, PERSON]])


def test_gaps_are_never_predicted() -> None:
    _, _, labels = kept_queries(3 * torch.randn(500, 11), 0.0, CATEGORIES)
    assert set(labels.tolist()) == set(CATEGORIES)


def test_half_precision_masks_and_scores() -> None:
    scores, sizes = torch.tensor([0.9, 0.8]).bfloat16(), [(32, 32)] * 3
    result = merge(halves(3.0, -3.0).bfloat16(), scores, torch.tensor([SKY, CAR]), CATEGORIES, *sizes)
    assert [s.area for s in result.segments] == [512, 512]
