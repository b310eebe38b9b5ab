"""Image, masks and boxes go through every augmentation together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from minidetr.data.batch import processed_size
from minidetr.data.targets import Target, boxes_from_masks, target_from_panoptic
from minidetr.data.transforms import RandomSizeCrop, evaluation_transform, training_transform
from minidetr.errors import InputError

TRAINING = training_transform((120, 140, 160), 300, crop_short_sides=(100, 130), crop_sizes=(80, 110))
SEGMENTS = [{"id": 1000 * k + 7, "category_id": k} for k in range(1, 13)]


def coded_image(height: int = 90, width: int = 150) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """Twelve unequal rectangles; the first channel of the image is 20 k where the segment is 1000 k + 7."""
    rows, columns = np.digitize(np.arange(height), [20, 61]), np.digitize(np.arange(width), [33, 50, 110])
    k = torch.from_numpy(rows[:, None] * 4 + columns[None] + 1)
    image = torch.stack([20 * k, torch.full_like(k, 100), 255 - 20 * k]).to(torch.uint8)
    return tv_tensors.Image(image), tv_tensors.Mask((1000 * k + 7).int()[None])


def transformed(transform: v2.Transform, seed: int) -> tuple[Tensor, Target]:
    torch.manual_seed(seed)
    image, ids = transform(*coded_image())
    return image.as_subclass(Tensor), target_from_panoptic(ids[0].as_subclass(Tensor), SEGMENTS, image_id=1, size=(90, 150))


def inside(mask: Tensor) -> Tensor:
    """The pixels of `mask` 5 pixels or more from its edge, where no bilinear resize has blended the image with a neighbour."""
    return -torch.nn.functional.max_pool2d(-mask[None].float(), 9, stride=1, padding=4)[0] > 0.5


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("transform", [TRAINING, evaluation_transform(200, 300)], ids=["training", "evaluation"])
def test_image_masks_and_boxes_agree(transform, seed):
    image, target = transformed(transform, seed)
    height, width = image.shape[1:]
    assert target.masks.shape[1:] == (height, width) and target.size == (90, 150)
    assert len(target.labels) == len(target.boxes) == len(target.masks) > 0
    assert (target.masks.sum(0) == 1).all()  # every pixel is in one segment, cropped ones are gone

    compared = 0
    for label, mask in zip(target.labels, target.masks, strict=True):
        values = image[0][inside(mask)].int()
        assert ((values - 20 * label).abs() <= 1).all()
        compared += len(values)
    assert compared > height * width / 5

    corners = boxes_from_masks(target.masks) / torch.tensor([width, height, width, height])
    expected = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
    torch.testing.assert_close(target.boxes, expected)
    assert corners.min() >= 0 and corners.max() <= 1 and (target.boxes[:, 2:] > 0).all()


def test_crops_drop_segments_and_flips_happen():
    results = [transformed(TRAINING, seed) for seed in range(30)]
    assert {len(target.labels) for _, target in results} > {12}  # some lost segments, some did not
    left = [target.labels[target.masks[:, 0, 0]].item() < target.labels[target.masks[:, 0, -1]].item() for _, target in results]
    assert True in left and False in left


def test_a_flip_mirrors_exactly():
    image, ids = coded_image()
    before = target_from_panoptic(ids[0].as_subclass(Tensor), SEGMENTS, 1)
    flipped_image, flipped_ids = v2.RandomHorizontalFlip(p=1)(image, ids)
    after = target_from_panoptic(flipped_ids[0].as_subclass(Tensor), SEGMENTS, 1)
    assert torch.equal(flipped_image, image.flip(-1)) and torch.equal(after.masks, before.masks.flip(-1))
    torch.testing.assert_close(after.boxes, before.boxes * torch.tensor([-1.0, 1, 1, 1]) + torch.tensor([1.0, 0, 0, 0]))


def test_the_seed_decides():
    (image, target), (image_2, target_2) = transformed(TRAINING, 4), transformed(TRAINING, 4)
    assert torch.equal(image, image_2) and torch.equal(target.masks, target_2.masks)
    others = [transformed(TRAINING, seed)[0] for seed in range(5, 10)]
    assert any(other.shape != image.shape or not torch.equal(other, image) for other in others)


@pytest.mark.parametrize("size", [(480, 640), (427, 640), (100, 100), (3000, 500), (640, 481)])
def test_evaluation_size(size):
    zeros = torch.zeros(3, *size, dtype=torch.uint8)
    image, ids = evaluation_transform()(tv_tensors.Image(zeros), tv_tensors.Mask(zeros[:1].int()))
    height, width = image.shape[1:]
    assert image.shape[1:] == ids.shape[1:] == processed_size(*size, 800, 1333)
    assert min(height, width) == 800 or max(height, width) in (1332, 1333)


def test_training_sizes_are_the_chosen_ones():
    sizes = [transformed(TRAINING, seed)[0].shape[1:] for seed in range(40)]
    assert {min(size) for size in sizes} == {120, 140, 160}
    assert max(max(size) for size in sizes) <= 300


def test_crop_sizes_stay_in_their_range():
    torch.manual_seed(0)
    shapes = [RandomSizeCrop(30, 60)(*coded_image())[0].shape[1:] for _ in range(200)]
    heights, widths = ({shape[axis] for shape in shapes} for axis in (0, 1))
    assert (min(heights), max(heights)) == (min(widths), max(widths)) == (30, 60)
    assert RandomSizeCrop(384, 600)(*coded_image())[0].shape[1:] == (90, 150)  # smaller than any crop: left whole


@pytest.mark.parametrize("short_side", [60, 75, 135, 200])
def test_ids_lie_exactly_over_the_image(short_side):
    """An edge between 0 and 200 stays in the middle of the bilinear blend: where the image is above 100, the id is that of 200."""
    for edge in range(40, 50):
        columns = (torch.arange(90) >= edge).expand(1, 90, 90)
        image, ids = tv_tensors.Image((200 * columns).to(torch.uint8).expand(3, 90, 90)), tv_tensors.Mask(columns.int())
        image, ids = evaluation_transform(short_side, 400)(image, ids)
        clear = (image[0].int() - 100).abs() > 1  # exactly in the middle either id is right
        assert torch.equal((image[0] > 100)[clear], (ids[0] == 1)[clear])


def test_large_ids_survive_resizing():
    ids = tv_tensors.Mask(torch.tensor([[[256**3 - 1, 256**3 - 2], [1, 0]]], dtype=torch.int32))
    _, resized = evaluation_transform(64, 64)(tv_tensors.Image(torch.zeros(3, 2, 2, dtype=torch.uint8)), ids)
    assert resized.unique(return_counts=True)[1].tolist() == [1024] * 4
    assert resized.unique().tolist() == [0, 1, 256**3 - 2, 256**3 - 1]


@pytest.mark.parametrize("arguments", [(900, 800), (0, 800)])
def test_senseless_sizes_are_refused(arguments):
    with pytest.raises(InputError, match="short sides"):
        evaluation_transform(*arguments)
    with pytest.raises(InputError, match="short sides"):
        training_transform(())
