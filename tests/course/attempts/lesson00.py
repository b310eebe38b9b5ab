"""Answers to the exercises of lesson 00: plausible wrong ones, with a piece of the sentence each should get, and right ones."""

from __future__ import annotations

WRONG: dict[str, list[tuple[str, str]]] = {
    "owners": [
        ("def owners(mask_logits):\n    return mask_logits.argmax(0)", "which means void"),
        ("def owners(mask_logits):\n    return mask_logits.argmax(-1) + 1", "5x9"),
        ("def owners(mask_logits):\n    return mask_logits.argmin(0) + 1", "lowest logit"),
        ("def owners(mask_logits):\n    return (mask_logits.argmax(0) + 1) * (mask_logits > 0).any(0)", "owns the pixel"),
        (
            """
def owners(mask_logits):
    ids = torch.ones(mask_logits.shape[1:], dtype=torch.long)
    for k, mask in enumerate(mask_logits):
        ids[mask > 0] = k + 1
    return ids
""",
            "the last one won",
        ),
        (
            """
def owners(mask_logits):
    return mask_logits.sub_(mask_logits.mean()).argmax(0) + 1
""",
            "in place",
        ),
        ("def owners(mask_logits):\n    return mask_logits.max(0).values", "right id"),
    ],
    "raised": [
        ('prediction = {"segments": "more", "void pixels": "same", "sky pixels": "more"}', "segments: only"),
        ('prediction = {"segments": "fewer", "void pixels": "more", "sky pixels": "more"}', "every pixel has an owner"),
        ('prediction = {"segments": "fewer", "void pixels": "same", "sky pixels": "fewer"}', "who owns their pixels"),
        ('prediction = {"segments": 4, "void pixels": 0, "sky pixels": "more"}', '"more", "fewer"'),
    ],
    "two_sources": [
        (
            """
def two_sources(semantic, masks, scores):
    ids, number = np.zeros(semantic.shape, int), 0
    for mask in masks:
        free = mask & (ids == 0)
        if free.sum() >= mask.sum() / 2:
            number += 1
            ids[free] = number
    return np.where(ids > 0, ids, 1000 + semantic)
""",
            "in the order they came",
        ),
        (
            """
def two_sources(semantic, masks, scores):
    ids, number = np.zeros(semantic.shape, int), 0
    for k in np.argsort(scores):
        free = masks[k] & (ids == 0)
        if free.sum() >= masks[k].sum() / 2:
            number += 1
            ids[free] = number
    return np.where(ids > 0, ids, 1000 + semantic)
""",
            "least sure object came first",
        ),
        (
            """
def two_sources(semantic, masks, scores):
    ids = np.zeros(semantic.shape, int)
    for number, k in enumerate(np.argsort(-scores), start=1):
        ids[masks[k] & (ids == 0)] = number
    return np.where(ids > 0, ids, 1000 + semantic)
""",
            "less than half",
        ),
        (
            """
def two_sources(semantic, masks, scores):
    ids = np.zeros(semantic.shape, int)
    for k in np.argsort(-scores):
        free = masks[k] & (ids == 0)
        if free.sum() >= masks[k].sum() / 2:
            ids[free] = k + 1
    return np.where(ids > 0, ids, 1000 + semantic)
""",
            "owner",
        ),
        (
            """
def two_sources(semantic, masks, scores):
    ids, number = np.zeros(semantic.shape, int), 0
    for k in np.argsort(-scores):
        free = masks[k] & (ids == 0)
        if free.sum() > masks[k].sum() / 2:
            number += 1
            ids[free] = number
    return np.where(ids > 0, ids, 1000 + semantic)
""",
            "exactly half",
        ),
        (
            """
def two_sources(semantic, masks, scores):
    ids, number = np.zeros(semantic.shape, int), 0
    for k in np.argsort(-scores):
        free = masks[k] & (ids == 0)
        if free.sum() >= masks[k].sum() / 2:
            number += 1
            ids[free] = number
    return np.where(ids > 0, ids, semantic)
""",
            "1000 + its class",
        ),
        (
            """
def two_sources(semantic, masks, scores):
    ids, number = np.zeros(semantic.shape, int), 0
    for k in np.argsort(-scores):
        free = masks[k] & (ids == 0)
        if free.mean() >= 0.5:
            number += 1
            ids[free] = number
    return np.where(ids > 0, ids, 1000 + semantic)
""",
            "object's own size",
        ),
        (
            """
def two_sources(semantic, masks, scores):
    ids, number = 1000 + semantic, 0
    for k in np.argsort(-scores):
        free = masks[k] & (ids >= 1000)
        if free.sum() >= masks[k].sum() / 2:
            number += 1
            ids[masks[k]] = number
    return ids
""",
            "painted once",
        ),
    ],
}

HARMLESS: dict[str, list[str]] = {
    "owners": [
        "def owners(mask_logits):\n    return mask_logits.sigmoid().double().max(dim=0).indices.int() + 1",
        "def owners(mask_logits):\n    return np.argmax(mask_logits.numpy(), axis=0) + 1",
        """
def owners(mask_logits):
    highest, ids = mask_logits[0], torch.ones(mask_logits.shape[1:], dtype=torch.int32)
    for k in range(1, len(mask_logits)):
        ids[mask_logits[k] > highest] = k + 1
        highest = torch.maximum(highest, mask_logits[k])
    return ids
""",
    ],
    "two_sources": [
        """
def two_sources(semantic, masks, scores):
    ids, number = semantic + 1000, 0
    for k in sorted(range(len(scores)), key=lambda k: -scores[k]):
        free = masks[k] & (ids >= 1000)
        if free.sum() / masks[k].sum() < 0.5:
            continue
        number += 1
        ids[free] = number
    return ids
""",
        """
def two_sources(semantic, masks, scores):
    ids = np.zeros_like(semantic)
    taken = np.zeros(semantic.shape, bool)
    for mask in masks[np.argsort(scores)[::-1]]:
        free = np.logical_and(mask, ~taken)
        if 2 * free.sum() >= mask.sum():
            ids[free] = ids.max() + 1
            taken |= free
    ids[~taken] = 1000 + semantic[~taken]
    return ids
""",
    ],
}
