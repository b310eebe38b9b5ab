"""Plausible wrong answers to the exercises of lesson 12, each with a piece of the sentence that catches it."""

from __future__ import annotations

WRONG: dict[str, list[tuple[str, str]]] = {
    "convolution_multiply_adds": [
        (
            "def convolution_multiply_adds(inputs, outputs, kernel, height, width, stride):\n"
            "    return inputs * outputs * kernel**2 * height * width",
            "with a stride",
        ),
        (
            "def convolution_multiply_adds(inputs, outputs, kernel, height, width, stride):\n"
            "    return inputs * outputs * kernel * -(-height // stride) * -(-width // stride)",
            "kernel x kernel",
        ),
        (
            "def convolution_multiply_adds(inputs, outputs, kernel, height, width, stride):\n"
            "    return outputs * kernel**2 * -(-height // stride) * -(-width // stride)",
            "input channels",
        ),
        (
            "def convolution_multiply_adds(inputs, outputs, kernel, height, width, stride):\n"
            "    return inputs * outputs * kernel**2 * (height // stride) * (width // stride)",
            "rounded up",
        ),
    ],
    "heatmap_multiply_adds": [
        (
            "def heatmap_multiply_adds(K, B, d, M, cells):\n    return K * d * d + B * cells * d * d + M * K * cells * d",
            "share the width",
        ),
        (
            "def heatmap_multiply_adds(K, B, d, M, cells):\n    return K * d * d + K * cells * d * d + K * cells * d",
            "once for each image",
        ),
        ("def heatmap_multiply_adds(K, B, d, M, cells):\n    return K * cells * d", "linear layer"),
        (
            "def heatmap_multiply_adds(K, B, d, M, cells):\n    return K * d * d + B * cells * d * d + 2 * K * cells * d",
            "no values",
        ),
    ],
    "thrown_away": [
        ("def thrown_away(N, K, H, W):\n    return 4 * N * H * W, (N - K) / N", "both directions"),
        ("def thrown_away(N, K, H, W):\n    return 4 * N * H * W // 4, (N - K) / N", "a sixteenth"),
        ("def thrown_away(N, K, H, W):\n    return N * (H // 4) * (W // 4), (N - K) / N", "four bytes"),
        ("def thrown_away(N, K, H, W):\n    return 4 * N * (H // 4) * (W // 4), K / N", "share that is kept"),
    ],
}
