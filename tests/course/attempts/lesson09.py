"""Plausible wrong answers to the exercises of lesson 09, each with a piece of the sentence that catches it."""

from __future__ import annotations

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
    "pq_from_counts": [
        (
            "def pq_from_counts(counts):\n"
            "    seen = [c for c in counts if sum(c[:3])]\n"
            "    return sum(iou / (tp + fp + fn) for tp, fp, fn, iou in seen) / len(seen)",
            "half each",
        ),
        (
            "def pq_from_counts(counts):\n"
            "    tp, fp, fn, iou = (sum(column) for column in zip(*counts))\n"
            "    return iou / (tp + fp / 2 + fn / 2)",
            "thrown together",
        ),
        (
            "def pq_from_counts(counts):\n"
            "    return sum(iou / max(tp + fp / 2 + fn / 2, 1) for tp, fp, fn, iou in counts) / len(counts)",
            "leave it out of the average",
        ),
        (
            "def pq_from_counts(counts):\n    return sum(iou / max(tp, 1) for tp, fp, fn, iou in counts) / len(counts)",
            "SQ",
        ),
    ],
}
