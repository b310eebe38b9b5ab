"""Plausible wrong answers to the exercises of lesson 15, each with a piece of the sentence that catches it."""

from __future__ import annotations

WRONG: dict[str, list[tuple[str, str]]] = {
    "flips": [
        ("def my_flips(before, after):\n    return (torch.cat(before) != torch.cat(after)).sum()", "divide by how many"),
        (
            "def my_flips(before, after):\n    return (torch.cat(before) == torch.cat(after)).float().mean()",
            "that stayed",
        ),
        (
            "def my_flips(before, after):\n    return sum((b != a).float().mean() for b, a in zip(before, after)) / len(before)",
            "let each segment count the same",
        ),
        (
            "def my_flips(before, after):\n"
            "    changed = sum(len(set(b.tolist()) - set(a.tolist())) for b, a in zip(before, after))\n"
            "    return changed / sum(len(b) for b in before)",
            "compare in order",
        ),
    ],
    "strangers": [
        (
            "def my_strangers(groups, N):\n"
            "    group = torch.arange(groups).repeat_interleave(N)\n"
            "    return group[:, None] == group",
            "the other way round",
        ),
        (
            "def my_strangers(groups, N):\n    group = torch.arange(groups).repeat(N)\n    return group[:, None] != group",
            "divide by N",
        ),
        ("def my_strangers(groups, N):\n    return ~torch.eye(groups * N, dtype=torch.bool)", "its group should see it"),
        (
            "def my_strangers(groups, N):\n"
            "    group = torch.arange(groups).repeat_interleave(N)\n"
            "    return (group[:, None] - group).abs()",
            "compare, don't subtract",
        ),
    ],
    "culprit": [
        ("line = 4", "line 4 lets every query see itself"),
        ("line = 2", "line 2 hides nothing yet"),
        ("line = 1", "rows and columns from N on are its own"),
        ("line = 5", "one of the lines 1 to 4"),
    ],
    "hidden": [
        (
            "def my_hidden(mask_logits):\n    outside = mask_logits.flatten(1) <= 0\n    return ~outside",
            "the other way round",
        ),
        ("def my_hidden(mask_logits):\n    return mask_logits.flatten(1) <= 0", "sees nothing now"),
        (
            "def my_hidden(mask_logits):\n    outside = mask_logits.flatten(1) <= 0\n    return outside & ~outside.all(1).any()",
            "not all of them",
        ),
    ],
}
