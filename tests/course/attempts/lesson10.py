"""What learners may answer in lesson 10: wrong, with a piece of the sentence that catches it, and right, written otherwise."""

from __future__ import annotations

STEP = """
def one_iteration(objective, optimizer, batch, targets, clip, factor):
    for group in optimizer.param_groups:
        {rate}
    total = objective(batch, targets)["total"]
    total.backward()
    {clip}
    {step}
    {zero}
    return {value}
"""
RIGHT = {
    "rate": 'group["lr"] = group["base"] * factor',
    "clip": "torch.nn.utils.clip_grad_norm_(objective.parameters(), clip)",
    "step": "optimizer.step()",
    "zero": "optimizer.zero_grad()",
    "value": "total.item()",
}
LONGER = "g = next(objective.parameters()).grad; g.mul_(clip / g.norm())"
AFTER = "optimizer.step(); torch.nn.utils.clip_grad_norm_(objective.parameters(), clip)"
UP = "total = total; [p.grad.neg_() for p in objective.parameters()]; torch.nn.utils.clip_grad_norm_(objective.parameters(), clip)"
FACTOR = """
def learning_rate_factor(progress, kind, warmup, drop):
    warm = {warm}
    if kind == "drop":
        return warm * (0.1 if progress {at} drop else 1.0)
    return warm * ({wave})
"""
RISE = "min(1.0, progress / warmup) if warmup else 1.0"
WAVE = "0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2"


def step(**changed: str) -> str:
    """The solution of exercise 1 with some of its lines changed."""
    return STEP.format(**RIGHT | changed)


def factor(warm: str = RISE, at: str = ">=", wave: str = WAVE) -> str:
    """The solution of exercise 2 with some of it changed."""
    return FACTOR.format(warm=warm, at=at, wave=wave)


WRONG: dict[str, list[tuple[str, str]]] = {
    "one_iteration": [
        (step(zero="pass"), "zero it"),
        (step(clip="pass"), "not clipped before the step"),
        (step(clip="pass", step=AFTER), "not clipped before the step"),
        (step(clip=UP), "goes up the gradient"),
        (step(clip=LONGER), "only shortens"),
        (step(rate='group["lr"] = group["base"]'), "it should be base x factor"),
        (
            step(rate='group["lr"] = group.get("now", group["base"]) * factor; group["now"] = group["lr"]'),
            "the rate of the step before",
        ),
        (step(rate="pass"), "still that of the start"),
        (step(step="pass"), "did not move"),
        (step(value="total"), "lets the graph go"),
        (step(value="0.0"), "the total is"),
        (step(clip="torch.nn.utils.clip_grad_value_(objective.parameters(), clip)"), "others than they should be"),
    ],
    "learning_rate_factor": [
        (factor(warm="1.0"), "the warm-up rises from 0 to 1 first"),
        (factor(warm="min(1.0, progress / warmup)"), "without a warm-up"),
        (factor(wave="(1 + math.cos(math.pi * progress)) / 2"), "a hundredth, not at zero"),
        (factor(at=">"), "the drop itself included"),
        (factor(wave="0.01 + 0.99 * math.cos(math.pi * progress / 2)"), "should be"),
        (factor(warm="min(1.0, progress / max(warmup, 1e-9))"), "should be"),
    ],
    "gradient_of_all": [
        ("def gradient_of_all(sums, counts):\n    return (sums / counts[:, None]).mean(0)", "the processes' means"),
        ("def gradient_of_all(sums, counts):\n    return (sums / counts[:, None]).sum(0)", "the means are added up"),
        ("def gradient_of_all(sums, counts):\n    return (sums / counts.float().mean()).sum(0)", "P times too large"),
        ("def gradient_of_all(sums, counts):\n    return (sums / counts.sum()).mean(0)", "not right"),
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
    "diagnosis": [
        ('causes = {"A": 4, "B": 1, "C": 5, "D": 2, "E": 3}', "Look at B again"),
        ('causes = {"A": 3, "B": 2, "C": 5, "D": 1, "E": 4}', "Look at A again"),
        ('causes = {"A": 4, "B": 2, "C": 3, "D": 1, "E": 5}', "Look at C again"),
        ('causes = {"A": 4, "B": 2, "C": 5, "D": 1}', "no answer for E"),
        ("causes = [4, 2, 5, 1, 3]", "give a dictionary"),
    ],
}

HARMLESS: dict[str, list[str]] = {
    "one_iteration": [
        """
def one_iteration(objective, optimizer, batch, targets, clip, factor):
    optimizer.zero_grad(set_to_none=False)
    losses = objective(batch, targets)
    losses["total"].backward()
    parameters = [p for p in objective.parameters() if p.grad is not None]
    norm = torch.cat([p.grad.flatten() for p in parameters]).norm()
    for p in parameters:
        p.grad *= min(1.0, clip / norm)
    for group in optimizer.param_groups:
        group.update(lr=factor * group["base"])
    optimizer.step()
    return float(losses["total"].detach())
""",
        step(value="total.detach()", zero="objective.zero_grad()"),
    ],
    "learning_rate_factor": [
        """
def learning_rate_factor(progress, kind, warmup, drop):
    if kind == "cosine":
        factor = np.interp(np.cos(np.pi * progress), [-1, 1], [0.01, 1])
    else:
        factor = 1.0 if progress < drop else 1 / 10
    return factor * (progress / warmup if progress < warmup else 1)
""",
        factor(warm="1.0 if warmup == 0 else max(0.0, min(progress / warmup, 1.0))", wave=WAVE.replace("math.pi", "np.pi")),
        factor(warm="min(1.0, (progress + 1e-3) / warmup) if warmup else 1"),
    ],
    "gradient_of_all": [
        "def gradient_of_all(sums, counts):\n    return sums.sum(0) / counts.sum()",
        """
def gradient_of_all(sums, counts):
    processes = len(counts)
    return torch.stack([s / (counts.sum() / processes) for s in sums]).mean(dim=0)
""",
    ],
    "averaged": [
        "def averaged(average, weights, n, decay):\n    return torch.lerp(weights, average, min((n + 1) / (n + 10), decay))",
        """
def averaged(average, weights, n, decay):
    keep = (1 + n) / (10 + n)
    if keep > decay:
        keep = decay
    average += (1 - keep) * (weights - average)
    return average
""",
    ],
}
