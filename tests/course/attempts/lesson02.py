"""What learners may write for lesson 02's exercises, and a piece of what the learner should read."""

from __future__ import annotations

PROJECT = "def project(features, weight, bias):\n    return {}\n"
NORM = """
def frozen_norm(x, weight, bias, mean, variance):
    w, b, m, v = (t[:, None, None] for t in (weight, bias, mean, variance))
"""
SIZE = "def output_size(size, kernel, stride, padding, dilation):\n    return {}\n"

WRONG: dict[str, list[tuple[str, str]]] = {
    "project": [
        (PROJECT.format('einsum(features, weight, "B c h w, d c -> B d h w")'), "bias is missing"),
        (
            PROJECT.format("(features.reshape(2, 15, 7) @ weight.T + bias).transpose(1, 2).reshape(2, 4, 3, 5)"),
            "channels of several cells are mixed",
        ),
        (PROJECT.format('einsum(features, weight, "B c h w, d c -> B h w d") + bias'), "should have the shape 2x4x3x5"),
        (
            PROJECT.format('einsum(features, weight, "B c h w, d c -> B d").div(15).add(bias)[..., None, None].expand(2, 4, 3, 5)'),
            "every cell got the same numbers",
        ),
    ],
    "frozen_norm": [
        (NORM + "    return (x - m) / (v + 1e-5) * w + b\n", "square root"),
        (NORM + "    return (x - m) / v.sqrt() * w + b\n", "epsilon is missing"),
        (NORM + "    return (x - m) / (v + 1e-5).sqrt()\n", "weight and bias"),
        (
            NORM + "    m, v = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)\n"
            "    return (x - m) / (v + 1e-5).sqrt() * w + b\n",
            "of this batch",
        ),
    ],
    "output_size": [
        (SIZE.format("(size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1"), "divide with //"),
        (SIZE.format("(size + 2 * padding - dilation * (kernel - 1) - 1) // stride"), "add 1"),
        (SIZE.format("(size + 2 * padding - kernel) // stride + 1"), "dilation widens"),
        (SIZE.format("(size + padding - dilation * (kernel - 1) - 1) // stride + 1"), "both sides"),
        (SIZE.format("-((size + 2 * padding - dilation * (kernel - 1) - 1) // -stride) + 1"), "round down"),
    ],
}
