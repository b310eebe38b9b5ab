"""What learners may answer in lesson 11: wrong, with a piece of the sentence that catches it, and right, written otherwise."""

from __future__ import annotations

WRONG: dict[str, list[tuple[str, str]]] = {
    "polygon_mask": [
        (
            """
def polygon_mask(points, height, width):
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    centres = np.stack([y.ravel(), x.ravel()], axis=1)
    return Outline(np.reshape(points, (-1, 2))).contains_points(centres).reshape(height, width)
""",
            "exchanged",
        ),
        (
            """
def polygon_mask(points, height, width):
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    (left, top), (right, bottom) = np.reshape(points, (-1, 2)).min(0), np.reshape(points, (-1, 2)).max(0)
    return (x > left) & (x < right) & (y > top) & (y < bottom)
""",
            "too many pixels",
        ),
        (
            """
def polygon_mask(points, height, width):
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    corners = np.stack([x.ravel(), y.ravel()], axis=1)
    return Outline(np.reshape(points, (-1, 2)) + 1e-6).contains_points(corners).reshape(height, width)
""",
            "corners",
        ),
    ],
    "paint": [
        (
            """
def paint(stuff, masks, classes):
    canvas = stuff.copy()
    for mask, category_id in zip(masks, classes, strict=True):
        canvas[mask] = category_id
    return canvas
""",
            "small thing is hidden",
        ),
        (
            """
def paint(stuff, masks, classes):
    canvas = np.zeros_like(stuff)
    for k in np.argsort(-masks.sum(axis=(1, 2))):
        canvas[masks[k]] = classes[k]
    canvas[stuff > 0] = stuff[stuff > 0]
    return canvas
""",
            "stuff covers a thing",
        ),
        (
            """
def paint(stuff, masks, classes):
    for k in np.argsort(-masks.sum(axis=(1, 2))):
        stuff[masks[k]] = classes[k]
    return stuff
""",
            "itself was changed",
        ),
    ],
    "mask_of_runs": [
        (
            """
def mask_of_runs(counts, height, width):
    inside = np.arange(len(counts)) % 2 == 0
    return np.repeat(inside, counts).reshape(height, width, order="F")
""",
            "inside and outside are exchanged",
        ),
        (
            """
def mask_of_runs(counts, height, width):
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(height, width)
""",
            "not along the rows",
        ),
        (
            """
def mask_of_runs(counts, height, width):
    counts = [count for count in counts if count]
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(height, width, order="F")
""",
            "exchanged",
        ),
        (
            """
def mask_of_runs(counts, height, width):
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height)
""",
            "should have the shape",
        ),
        (
            """
def mask_of_runs(counts, height, width):
    mask = np.zeros((height, width), bool)
    for start, length in zip(counts[::2], counts[1::2]):
        mask.T.reshape(-1)[start : start + length] = True
    return mask
""",
            "are others",
        ),
    ],
    "split_groups": [
        (
            """
def split_groups(groups, shares):
    parts, start = {}, 0
    for name, share in shares.items():
        stop = start + round(share * len(groups))
        parts[name], start = list(range(start, min(stop, len(groups)))), stop
    return parts
""",
            "lie in two parts",
        ),
        (
            """
def split_groups(groups, shares):
    parts = {name: [] for name in shares}
    for turn, group in enumerate(sorted(set(groups))):
        parts[list(shares)[turn % len(shares)]] += [i for i, g in enumerate(groups) if g == group]
    return parts
""",
            "its share would be",
        ),
        (
            """
def split_groups(groups, shares):
    parts = {name: [] for name in shares}
    for group in sorted(set(groups), key=groups.count, reverse=True):
        lacks = {name: share * len(groups) - len(parts[name]) for name, share in shares.items()}
        parts[max(lacks, key=lacks.get)].append(groups.index(group))
    return parts
""",
            "belongs to some part",
        ),
        (
            """
def split_groups(groups, shares):
    parts = {name: [] for name in shares}
    for group in sorted(set(groups), key=groups.count, reverse=True):
        lacks = {name: share * len(groups) - len(parts[name]) for name, share in shares.items()}
        parts[max(lacks, key=lacks.get)].append(group)
    return parts
""",
            "photo",
        ),
    ],
    "leaks": [
        ("steps = {1, 3, 5, 6}", "1 is none"),
        ("steps = {2, 3, 5, 6}", "2 is none"),
        ("steps = {3, 4, 5, 6}", "4 is none"),
        ("steps = {5, 6}", "nearly the same photo"),
        ("steps = {3, 6}", "its score flatters"),
        ("steps = [3, 5]", "choice by the test score"),
        ("steps = 3", "a set of numbers"),
    ],
}

HARMLESS: dict[str, list[str]] = {
    "polygon_mask": [
        """
def polygon_mask(points, height, width):
    corners = np.asarray(points, float).reshape(-1, 2)
    rows, columns = np.indices((height, width))
    centres = np.column_stack([columns.ravel(), rows.ravel()]) + 0.5
    return Outline(corners).contains_points(centres).reshape((height, width))
""",
        """
def polygon_mask(points, height, width):
    corners = list(zip(points[::2], points[1::2]))
    mask = np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1]):
                y = row + 0.5
                if (ay > y) != (by > y) and column + 0.5 < ax + (bx - ax) * (y - ay) / (by - ay):
                    mask[row, column] = not mask[row, column]
    return mask
""",
    ],
    "mask_of_runs": [
        """
def mask_of_runs(counts, height, width):
    flat, place = np.zeros(height * width, bool), 0
    for number, count in enumerate(counts):
        flat[place : place + count] = number % 2
        place += count
    return flat.reshape(width, height).T
""",
        """
def mask_of_runs(counts, height, width):
    runs = coco_mask.frPyObjects({"counts": counts, "size": [height, width]}, height, width)
    return coco_mask.decode(runs) == 1
""",
    ],
    "paint": [
        """
def paint(stuff, masks, classes):
    canvas = np.array(stuff)
    areas = [int(mask.sum()) for mask in masks]
    for mask, category_id in (pair[1:] for pair in sorted(zip(areas, masks, classes), key=lambda t: t[0], reverse=True)):
        canvas = np.where(mask, category_id, canvas)
    return canvas
""",
        """
def paint(stuff, masks, classes):
    areas = masks.sum(axis=(1, 2))
    cost = np.where(masks, areas[:, None, None], np.inf)
    owner = cost.argmin(axis=0)
    return np.where(masks.any(axis=0), np.asarray(classes)[owner], stuff)
""",
    ],
    "split_groups": [
        """
def split_groups(groups, shares):
    groups = np.asarray(groups)
    names, counts = np.unique(groups, return_counts=True)
    parts, sizes = {name: [] for name in shares}, dict.fromkeys(shares, 0)
    for k in np.argsort(-counts):
        name = min(shares, key=lambda part: sizes[part] - shares[part] * len(groups))
        sizes[name] += int(counts[k])
        parts[name].extend(np.flatnonzero(groups == names[k]).tolist())
    return parts
""",
        """
def split_groups(groups, shares):
    members = {}
    for i, group in enumerate(groups):
        members.setdefault(group, set()).add(i)
    parts = {name: set() for name in shares}
    for photos in sorted(members.values(), key=len)[::-1]:
        wanted = max(shares, key=lambda name: shares[name] * len(groups) - len(parts[name]))
        parts[wanted] |= photos
    return parts
""",
    ],
}
