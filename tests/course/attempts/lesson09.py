"""Answers to the exercises of lesson 09: wrong ones, each with a piece of the sentence that catches it, and right ones."""

from __future__ import annotations

COUNTS = """
def panoptic_counts(truth, true_segments, predicted, segments):
    counts = {{s["category_id"]: [0, 0, 0, 0.0] for s in [*true_segments, *segments]}}
    found_true, found_predicted = set(), set()
    for g in true_segments:
        for s in segments:
            there, here = truth == g["id"], predicted == s["id"]
            union = {union}
            iou = float((there & here).sum() / union)
            if {fits}:
                counts[g["category_id"]][0] += 1
                counts[g["category_id"]][3] += iou
                found_true.add(g["id"])
                found_predicted.add(s["id"])
    for g in true_segments:
        if g["id"] not in found_true{missed}:
            counts[g["category_id"]][2] += 1
    for s in segments:
        crowds = [g["id"] for g in true_segments if {crowds}]
        here = predicted == s["id"]
        forgiven = (here & torch.isin(truth, torch.tensor({forgiving}))).sum()
        if s["id"] not in found_predicted and {extra}:
            counts[s["category_id"]][1] += 1
    return counts
"""
RIGHT_COUNTS = {
    "union": "(there | here).sum() - (here & (truth == 0)).sum()",
    "fits": 'g["category_id"] == s["category_id"] and not g["iscrowd"] and iou > 0.5',
    "missed": ' and not g["iscrowd"]',
    "crowds": 'g["iscrowd"] and g["category_id"] == s["category_id"]',
    "forgiving": "[0, *crowds]",
    "extra": "2 * forgiven <= here.sum()",
}


def counts(**changes: str) -> str:
    """The right answer with changes."""
    return COUNTS.format(**RIGHT_COUNTS | changes)


WRONG: dict[str, list[tuple[str, str]]] = {
    "argmax_to_ids": [
        (
            "def argmax_to_ids(mask_logits, padded_size, size):\n"
            "    z = F.interpolate(mask_logits[None], size=padded_size, mode='bilinear')[0]\n"
            "    return z[:, :size[0], :size[1]].argmax(0)",
            "start at 0",
        ),
        (
            "def argmax_to_ids(mask_logits, padded_size, size):\n"
            "    return F.interpolate(mask_logits[None], size=size, mode='bilinear')[0].argmax(0) + 1",
            "squeezed",
        ),
        (
            "def argmax_to_ids(mask_logits, padded_size, size):\n"
            "    return F.interpolate(mask_logits[None], size=padded_size, mode='bilinear')[0].argmax(0) + 1",
            "still cover the padding",
        ),
        (
            "def argmax_to_ids(mask_logits, padded_size, size):\n"
            "    z = F.interpolate(mask_logits[None], size=padded_size, mode='nearest')[0]\n"
            "    return z[:, :size[0], :size[1]].argmax(0) + 1",
            "of the pixels have the right id",
        ),
    ],
    "fuse_stuff": [
        (
            "def fuse_stuff(owner, labels, things):\n    return (labels[:, None] == labels).int().argmax(1)[owner]",
            "things were fused",
        ),
        ("def fuse_stuff(owner, labels, things):\n    return owner", "nothing was fused"),
        (
            "def fuse_stuff(owner, labels, things):\n"
            "    last = {c: k for k, c in enumerate(labels.tolist())}\n"
            "    table = [k if c in things else last[c] for k, c in enumerate(labels.tolist())]\n"
            "    return torch.tensor(table)[owner]",
            "first mask of its class",
        ),
    ],
    "chosen": [
        ("choice = (0.7, 80.3)", "best on the test scenes"),
        ("choice = (0.85, 81.6)", "it flatters"),
        ("choice = (0.85, 80.3)", "another threshold than the one you ship"),
        ("choice = (0.5, 79.8)", "highest PQ on the validation scenes"),
        ("choice = 0.85", "give two numbers"),
        ("choice = (0.75, 80.0)", "not among the thresholds"),
    ],
    "one_extra_less": [
        ("percent = 22.0", "with both extras"),
        ("percent = 55", "55 is SQ"),
        ("percent = 100 * 0.55 / 3", "count half each"),
        ("percent = 100 * 0.55 / 1.5", "without any extra"),
        ("percent = 40", "TP = 1, FP = 1, FN = 1"),
    ],
    "panoptic_counts": [
        (counts(fits='not g["iscrowd"] and iou > 0.5'), "classes have to agree"),
        (counts(fits='g["category_id"] == s["category_id"] and not g["iscrowd"] and iou >= 0.5'), "exactly one half"),
        (counts(union="(there | here).sum()"), "void in the truth"),
        (counts(fits='g["category_id"] == s["category_id"] and iou > 0.5'), "a crowd was matched"),
        (counts(missed=""), "counted as missed"),
        (counts(extra="True"), "is no false positive"),
        (counts(forgiving="[0]"), "crowds of the same class forgive"),
        (counts(forgiving="[-1, *crowds]"), "void forgives"),
        (counts(crowds='g["iscrowd"]'), "its own class only"),
        (counts(missed=" and False"), "should have (TP, FP, FN, sum of IoU)"),
        ("def panoptic_counts(*_):\n    return [1, 0, 0, 0.9]", "a dictionary"),
    ],
}

HARMLESS: dict[str, list[str]] = {
    "argmax_to_ids": [
        """
def argmax_to_ids(mask_logits, padded_size, size):
    up = torch.nn.Upsample(size=padded_size, mode="bilinear", align_corners=False)
    z = up(mask_logits.unsqueeze(1)).squeeze(1)
    height, width = size
    return 1 + z[:, :height, :width].max(dim=0).indices
""",
        """
def argmax_to_ids(mask_logits, padded_size, size):
    p = F.interpolate(mask_logits[None], padded_size, mode="bilinear")[0]
    return (p.softmax(0).argmax(0) + 1)[: size[0], : size[1]].int()
""",
    ],
    "fuse_stuff": [
        """
def fuse_stuff(owner, labels, things):
    classes = labels.tolist()
    table = torch.tensor([k if c in things else classes.index(c) for k, c in enumerate(classes)])
    return table[owner]
""",
        """
def fuse_stuff(owner, labels, things):
    out = owner.clone()
    for c in set(labels.tolist()) - set(things):
        same = (labels == c).nonzero().flatten()
        out[torch.isin(owner, same)] = same.min()
    return out
""",
    ],
    "panoptic_counts": [
        """
def panoptic_counts(truth, true_segments, predicted, segments):
    result = QualityCounts()
    result.add_image(truth.numpy(), true_segments, predicted.numpy(), segments)
    return {c: (q.tp, q.fp, q.fn, q.iou) for c, q in result.classes.items()}
""",
        """
def panoptic_counts(truth, true_segments, predicted, segments):
    true = torch.stack([truth == g["id"] for g in true_segments]) if true_segments else torch.zeros(0, *truth.shape).bool()
    ours = torch.stack([predicted == s["id"] for s in segments])
    shared = torch.einsum("ghw,shw->gs", true.double(), ours.double())
    void = (ours & (truth == 0)).sum((1, 2))
    iou = shared / (true.sum((1, 2))[:, None] + ours.sum((1, 2)) - void - shared)
    gc = torch.tensor([g["category_id"] for g in true_segments], dtype=torch.long)
    sc = torch.tensor([s["category_id"] for s in segments])
    crowd = torch.tensor([g["iscrowd"] == 1 for g in true_segments], dtype=torch.bool)
    agree = gc[:, None] == sc
    matched = agree & ~crowd[:, None] & (iou > 0.5)
    ignored = void + (shared * (agree & crowd[:, None])).sum(0)
    extra = ~matched.any(0) & ~(ignored > ours.sum((1, 2)) / 2)
    missed = ~matched.any(1) & ~crowd
    result = {}
    for c in torch.cat([gc, sc]).unique().tolist():
        hits = matched[gc == c]
        result[c] = (int(hits.sum()), int(extra[sc == c].sum()), int(missed[gc == c].sum()), float((iou[gc == c] * hits).sum()))
    return result
""",
    ],
}
