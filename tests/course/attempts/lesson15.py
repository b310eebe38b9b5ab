"""Plausible wrong answers to the exercises of lesson 15, each with a piece of the sentence that catches it, and right ones."""

from __future__ import annotations

CELLS = "def my_cells(weights):\n    return {}"
HIDDEN = (
    "def my_hidden(mask_logits, size):\n    outside = F.interpolate(mask_logits, size, mode='area').flatten(2) < 0\n    return {}"
)

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
    "cells": [
        (CELLS.format("-torch.xlogy(weights, weights).sum(-1)"), "the entropy itself"),
        (CELLS.format("(-(weights * weights.log()).sum(-1)).exp()"), "0 gives NaN"),
        (CELLS.format("torch.xlogy(weights, weights).sum(-1).exp()"), "the sign is missing"),
        (CELLS.format("1 / weights.square().sum(-1)"), "sum of squares"),
        (CELLS.format("(weights > 0).sum(-1).float()"), "not as a whole one"),
        (CELLS.format("1 / weights.amax(-1)"), "the largest weight"),
        (CELLS.format("(-torch.xlogy(weights, weights).sum()).exp()"), "a number for each row"),
        (CELLS.format("(-(weights * (weights + 1e-20).log2()).sum(-1)).exp()"), "base 2"),
    ],
    "hidden": [
        (HIDDEN.format("~outside"), "the other way round"),
        (HIDDEN.format("outside"), "sees nothing now"),
        (HIDDEN.format("outside & ~outside.all(2).any()"), "not all of them"),
        (HIDDEN.format("outside & ~outside.all(2, keepdim=True)").replace(", mode='area'", ""), "the mean of all"),
        (HIDDEN.format("outside & ~outside.all(2, keepdim=True)").replace("< 0", "<= 0"), "is inside"),
        (HIDDEN.format("outside & ~outside.all(2, keepdim=True)").replace(".flatten(2)", ""), "should have the shape"),
        (HIDDEN.format("(outside & ~outside.all(2, keepdim=True)).float()"), "True and False"),
        (
            HIDDEN.format("outside & ~outside.all(2, keepdim=True)").replace(
                "mask_logits, size,", "mask_logits.sigmoid() - 0.5, size,"
            ),
            "mean logit",
        ),
    ],
}

HARMLESS: dict[str, list[str]] = {
    "flips": [
        "def my_flips(before, after):\n"
        "    changed = total = 0\n"
        "    for b, a in zip(before, after):\n"
        "        changed, total = changed + int((b != a).sum()), total + len(b)\n"
        "    return changed / total",
        "def my_flips(before, after):\n    return 1 - torch.cat(after).eq(torch.cat(before)).double().mean()",
    ],
    "cells": [
        CELLS.format("torch.special.entr(weights).sum(-1).exp()"),
        CELLS.format("torch.distributions.Categorical(probs=weights).entropy().exp()"),
        CELLS.format("torch.prod(weights ** -weights, dim=-1)"),
        CELLS.format("torch.exp(-(weights * weights.clamp(min=1e-12).log()).sum(dim=-1))"),
    ],
    "strangers": [
        "def my_strangers(groups, N):\n    return ~torch.block_diag(*[torch.ones(N, N)] * groups).bool()",
        "def my_strangers(groups, N):\n"
        "    number = torch.arange(groups * N) // N\n"
        "    return number.view(-1, 1).ne(number.view(1, -1))",
        "def my_strangers(groups, N):\n"
        "    hidden = torch.ones(groups * N, groups * N, dtype=torch.bool)\n"
        "    for g in range(groups):\n"
        "        hidden[g * N : (g + 1) * N, g * N : (g + 1) * N] = False\n"
        "    return hidden",
    ],
    "hidden": [
        "def my_hidden(mask_logits, size):\n"
        "    logits = F.adaptive_avg_pool2d(mask_logits, size).flatten(2)\n"
        "    hidden = logits < 0\n"
        "    hidden[hidden.all(-1)] = False\n"
        "    return hidden",
        "def my_hidden(mask_logits, size):\n"
        "    B, N, H, W = mask_logits.shape\n"
        "    h, w = size\n"
        "    logits = mask_logits.reshape(B, N, h, H // h, w, W // w).mean((3, 5)).reshape(B, N, h * w)\n"
        "    return torch.where((logits >= 0).any(2, keepdim=True), logits < 0, False)",
        "def my_hidden(mask_logits, size):\n    return masked_attention.hidden_cells(mask_logits, size)",
    ],
}
