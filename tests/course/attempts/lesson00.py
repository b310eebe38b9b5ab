"""Plausible wrong answers to the exercises of lesson 00, and a piece of the sentence that each should get."""

from __future__ import annotations

WRONG: dict[str, list[tuple[str, str]]] = {
    "count_things": [
        (
            """
def count_things(panoptic, categories):
    names = {category.id: category.name for category in categories}
    return Counter(names[segment.category_id] for segment in panoptic.segments)
""",
            "stuff is counted",
        ),
        (
            """
def count_things(panoptic, categories):
    names = {category.id: category.name for category in categories}
    return {names[segment.category_id]: 1 for segment in panoptic.segments if segment.is_thing}
""",
            "2 workers",
        ),
        (
            """
def count_things(panoptic, categories):
    names = {category.id: category.name for category in categories}
    counts = Counter()
    for segment in panoptic.segments:
        if segment.is_thing:
            counts[names[segment.category_id]] += segment.area
    return counts
""",
            "these are pixels",
        ),
    ],
    "instance_map": [
        (
            """
def instance_map(panoptic):
    things = [segment.id for segment in panoptic.segments if segment.is_thing]
    return np.where(np.isin(panoptic.segment_ids, things), panoptic.segment_ids, 0)
""",
            "without a gap",
        ),
        (
            """
def instance_map(panoptic):
    numbers = np.zeros_like(panoptic.segment_ids)
    things = sorted((segment for segment in panoptic.segments if segment.is_thing), key=lambda segment: segment.area)
    for number, segment in enumerate(things, start=1):
        numbers[panoptic.segment_ids == segment.id] = number
    return numbers
""",
            "largest area",
        ),
        (
            """
def instance_map(panoptic):
    numbers = np.zeros_like(panoptic.segment_ids)
    for number, segment in enumerate(sorted(panoptic.segments, key=lambda segment: -segment.area), start=1):
        numbers[panoptic.segment_ids == segment.id] = number
    return numbers
""",
            "stuff should be 0",
        ),
        (
            """
def instance_map(panoptic):
    numbers = np.zeros_like(panoptic.segment_ids)
    things = sorted((segment for segment in panoptic.segments if segment.is_thing), key=lambda segment: -segment.area)
    for number, segment in enumerate(things):
        numbers[panoptic.segment_ids == segment.id] = number
    return numbers
""",
            "starting from 1",
        ),
    ],
    "one_number": [
        ("def one_number(semantic, instance):\n    return semantic.astype(np.int32) + instance", "ambiguous"),
        ("def one_number(semantic, instance):\n    return instance.astype(np.int32) * 1000 + semantic", "exchanged"),
        ("def one_number(semantic, instance):\n    return semantic.astype(np.int32) * 100 + instance", "differ"),
    ],
}
