"""Lesson 00, panoptic segmentation in five minutes: checks of its exercises, and its pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch

from minidetr.course import answer, exercise, require, require_tensor, sizes
from minidetr.panoptic import Category, Panoptic
from minidetr.plot import color_of, palette

# --- pictures ---------------------------------------------------------------------------------------------------------------


def class_colors(semantic: np.ndarray, categories: Sequence[Category]) -> np.ndarray:
    """A semantic map (H W category ids, 0 = none) -> H W 3 uint8, each class in its colour, none in white."""
    table = np.full((max(c.id for c in categories) + 1, 3), 255, np.uint8)
    for category in categories:
        table[category.id] = color_of(category)
    return table[semantic]


def object_colors(instance: np.ndarray, image: np.ndarray) -> np.ndarray:
    """An instance map (H W ids, 0 = no object) -> H W 3 uint8: each object in a colour of its own, the rest the image, pale."""
    grey = image.mean(axis=2, keepdims=True)  # H W 1
    picture = np.repeat(150 + 0.4 * grey, 3, axis=2).clip(0, 255).astype(np.uint8)
    for segment_id, color in zip(np.unique(instance[instance > 0]), palette(100), strict=False):
        picture[instance == segment_id] = color
    return picture


# --- exercises --------------------------------------------------------------------------------------------------------------

CATEGORIES = [
    Category(2, "ground", is_thing=False),
    Category(3, "sky", is_thing=False),
    Category(5, "worker", is_thing=True),
    Category(7, "crane", is_thing=True),
    Category(11, "truck", is_thing=True),
]


def example() -> Panoptic:
    """A segmentation of 7 x 11 pixels: void, two stuff segments, two workers, one crane; ids in no order, unlike any class id."""
    ids = np.zeros((7, 11), np.int32)
    ids[0:3, 1:] = 9  # sky
    ids[3:, 1:] = 4  # ground
    ids[2:5, 2:4] = 8  # worker, 6 pixels
    ids[2:6, 4:7] = 6  # worker, 12 pixels
    ids[1:6, 8:10] = 1  # crane, 10 pixels
    classes = {1: 7, 4: 2, 6: 5, 8: 5, 9: 3}
    return Panoptic.of_entries(ids, [{"id": i, "category_id": c} for i, c in classes.items()], CATEGORIES)


def map_of(value: object, shape: tuple[int, ...]) -> np.ndarray:
    """The attempt's result as an array of that shape."""
    value = answer(value)
    require(isinstance(value, np.ndarray), f"the result should be an array of {sizes(shape)}, not {type(value).__name__}.")
    return require_tensor(torch.as_tensor(np.asarray(value, np.float64)), shape).numpy()


@exercise
def count_things(attempt: Callable) -> None:
    """How many objects of each class of things: `attempt(panoptic, categories)` -> {name: count}."""
    panoptic = example()
    found = answer(attempt(panoptic, CATEGORIES))
    require(isinstance(found, dict | Counter), f"the result should be a dictionary from name to count, not {type(found).__name__}.")
    found = {name: count for name, count in found.items() if count}
    require(not {"sky", "ground"} & found.keys(), "stuff is counted as well: one can't count sky; look at segment.is_thing.")
    require(found.keys() <= {"worker", "crane"}, "the keys should be the names of the classes, such as 'worker'.")
    require(found.keys() == {"worker", "crane"}, "a class of things that is in the image is missing.")
    require(found["worker"] != 18, "these are pixels: count segments, one for each object.")
    require(found["worker"] == 2, f"there are 2 workers in the check's image, not {found['worker']}: two segments of one class.")
    require(found["crane"] == 1, f"there is 1 crane in the check's image, not {found['crane']}.")


@exercise
def instance_map(attempt: Callable) -> None:
    """Objects numbered 1, 2, ... from the largest to the smallest, 0 elsewhere: `attempt(panoptic)` -> H W."""
    panoptic = example()
    before = panoptic.segment_ids.copy()
    found = map_of(attempt(panoptic), (7, 11))
    require(np.array_equal(panoptic.segment_ids, before), "the panoptic map itself was changed: write into an array of your own.")
    things = np.isin(before, [1, 6, 8])
    require(not found[before == 0].any(), "void pixels belong to no object: they should be 0.")
    require(not found[np.isin(before, [4, 9])].any(), "stuff should be 0: sky and ground are no objects.")
    require(found[things].all(), "some pixels of things are 0: every thing gets a number, starting from 1.")
    wanted = np.select([before == 6, before == 1, before == 8], [1, 2, 3], 0)
    require(len(np.unique(found[things])) == 3, "two objects have the same number: number segments, not classes.")
    require(set(np.unique(found)) == {0, 1, 2, 3}, "the numbers should run 1, 2, 3, ... without a gap, not be the segment ids.")
    require(np.array_equal(found, wanted), "the order is another one: 1 should be the object with the largest area.")


@exercise
def one_number(attempt: Callable) -> None:
    """Class and object in one number, class * 1000 + object: `attempt(semantic, instance)` -> H W."""
    generator = np.random.default_rng(0)
    semantic = generator.integers(0, 12, (5, 8)).astype(np.uint8)  # uint8, as label maps are stored: 12 * 1000 needs more
    instance = np.where(semantic > 4, generator.integers(1, 40, (5, 8)), 0).astype(np.uint8)
    semantic[0, :3], instance[0, :3] = (5, 6, 7), (2, 1, 0)  # sums alike, pairs not
    found = map_of(attempt(semantic, instance), (5, 8))
    wanted = semantic.astype(np.int64) * 1000 + instance
    require(
        not np.array_equal(found, semantic.astype(np.int64) + instance),
        "the sum alone is ambiguous: class 5, object 2 and class 6, object 1 get the same number.",
    )
    require(
        not np.array_equal(found, instance.astype(np.int64) * 1000 + semantic),
        "class and object are exchanged: the class counts the thousands.",
    )
    require(np.array_equal(found, wanted), "the numbers differ from class * 1000 + object (did they run over? the maps are uint8).")
