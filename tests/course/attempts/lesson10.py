"""Plausible wrong answers to the exercises of lesson 10, each with a piece of the sentence that should catch it."""

from __future__ import annotations

WRONG: dict[str, list[tuple[str, str]]] = {
    "learning_rate_factor": [
        (
            """
def learning_rate_factor(progress, kind, warmup, drop):
    if kind == "drop":
        return 0.1 if progress >= drop else 1.0
    return 0.01 + 0.99 * (1 + torch.cos(torch.tensor(torch.pi * progress)).item()) / 2
""",
            "the warm-up rises from 0 to 1 first",
        ),
        (
            """
def learning_rate_factor(progress, kind, warmup, drop):
    warm = min(1.0, progress / warmup)
    if kind == "drop":
        return warm * (0.1 if progress >= drop else 1.0)
    return warm * (1 + torch.cos(torch.tensor(torch.pi * progress)).item()) / 2
""",
            "should be",
        ),
        (
            """
def learning_rate_factor(progress, kind, warmup, drop):
    warm = min(1.0, progress / warmup)
    if kind == "drop":
        return warm * (0.1 if progress > drop else 1.0)
    return warm * (0.01 + 0.99 * (1 + torch.cos(torch.tensor(torch.pi * progress)).item()) / 2)
""",
            "the drop itself included",
        ),
        (
            """
def learning_rate_factor(progress, kind, warmup, drop):
    warm = min(1.0, progress / warmup)
    if kind == "drop":
        return warm * (0.1 if progress >= drop else 1.0)
    return warm * (0.01 + 0.99 * torch.cos(torch.tensor(torch.pi * progress / 2)).item())
""",
            "should be",
        ),
    ],
    "gradient_of_all": [
        ("def gradient_of_all(sums, counts):\n    return (sums / counts[:, None]).mean(0)", "the processes' means"),
        ("def gradient_of_all(sums, counts):\n    return (sums / counts[:, None]).sum(0)", "the means are added up"),
        ("def gradient_of_all(sums, counts):\n    return (sums / counts.float().mean()).sum(0)", "P times too large"),
        ("def gradient_of_all(sums, counts):\n    return (sums / counts.sum()).mean(0)", "not right"),
    ],
    "what_trains": [
        (
            """
def what_trains(names, freeze):
    return [name for name in names if not name.startswith(tuple(freeze))]
""",
            "should not train",
        ),
        (
            """
def what_trains(names, freeze):
    frozen = tuple(start for stage in freeze for start in STAGES[stage])
    return [name for name in names if name.startswith(frozen)]
""",
            "these are the frozen ones",
        ),
        (
            """
def what_trains(names, freeze):
    frozen = [start.rstrip(".") for stage in freeze for start in STAGES[stage]]
    return [name for name in names if not any(start in name for start in frozen) and "norm" not in name]
""",
            "should train",
        ),
    ],
    "averaged": [
        ("def averaged(average, weights, n, decay):\n    return decay * average + (1 - decay) * weights", "follow faster"),
        (
            """
def averaged(average, weights, n, decay):
    d = min(decay, (1 + n) / (10 + n))
    return (1 - d) * average + d * weights
""",
            "exchanged",
        ),
        (
            """
def averaged(average, weights, n, decay):
    d = (1 + n) / (10 + n)
    return d * average + (1 - d) * weights
""",
            "never be more than the decay",
        ),
    ],
}
