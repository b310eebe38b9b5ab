"""What learners may write for lesson 02's exercises: wrong answers with a piece of what the learner should read, and right ones."""

from __future__ import annotations

NORM = """
def frozen_norm(x, weight, bias, mean, variance):
    w, b, m, v = (t[:, None, None] for t in (weight, bias, mean, variance))
"""
SIZE = "def output_size(size, kernel, stride, padding, dilation):\n    return {}\n"
BLOCK = """
def residual_block(block, x):
    y = block.norm1(block.conv1(x)){relu}
    y = {second}
    skip = {skip}
    return {result}
"""
RIGHT_BLOCK = {
    "relu": ".relu()",
    "second": "block.norm2(block.conv2(y))",
    "skip": "block.skip_norm(block.skip(x)) if block.widens else x",
    "result": "(skip + y).relu()",
}
FIELD = """
def receptive_field(layers):
    field, step = {start}, 1
    for kernel, stride, dilation in layers:
        {before}
        field += {more}
        {after}
    return field
"""
RIGHT_FIELD = {"start": "1", "before": "pass", "more": "(kernel - 1) * dilation * step", "after": "step *= stride"}
COMPANY = "by_company, by_padding = {}\n"

WRONG: dict[str, list[tuple[str, str]]] = {
    "output_size": [
        (SIZE.format("(size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1"), "divide with //"),
        (SIZE.format("(size + 2 * padding - dilation * (kernel - 1) - 1) // stride"), "add 1"),
        (SIZE.format("(size + 2 * padding - kernel) // stride + 1"), "dilation widens"),
        (SIZE.format("(size + padding - dilation * (kernel - 1) - 1) // stride + 1"), "both sides"),
        (SIZE.format("-((size + 2 * padding - dilation * (kernel - 1) - 1) // -stride) + 1"), "round down"),
    ],
    "residual_block": [
        (BLOCK.format(**{**RIGHT_BLOCK, "result": "y.relu()"}), "shortcut is missing"),
        (BLOCK.format(**{**RIGHT_BLOCK, "result": "skip + y"}), "last ReLU is missing"),
        (BLOCK.format(**{**RIGHT_BLOCK, "result": "skip + y.relu()"}), "before the sum"),
        (BLOCK.format(**{**RIGHT_BLOCK, "result": "skip.relu() + y.relu()"}), "values are wrong"),
        (BLOCK.format(**{**RIGHT_BLOCK, "relu": ""}), "between the two convolutions"),
        (BLOCK.format(**{**RIGHT_BLOCK, "skip": "x"}), "does not fit"),
        (BLOCK.format(**{**RIGHT_BLOCK, "skip": "block.skip(x) if block.widens else x"}), "has a norm too"),
        ("def residual_block(block, x):\n    return (x + block.conv2(block.conv1(x).relu())).relu()\n", "norms are missing"),
        (
            "def residual_block(block, x):\n    y = block.norm2(block.conv2(block.norm1(block.conv1(x)).relu()))\n"
            "    x += y\n    return x.relu()\n",
            "overwrites its input",
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
    "moved_by_company": [
        (COMPANY.format('"ABC", "AB"'), "B measures each image by itself"),
        (COMPANY.format('"A", "AB"'), "C measures each pixel over"),
        (COMPANY.format('"AC", "ABC"'), "the padding lies at other pixels"),
        (COMPANY.format('"AC", "B"'), "zeros that are added"),
        (COMPANY.format('"ACD", "AB"'), "D measures nothing"),
        (COMPANY.format('"", ""'), "A measures over all images"),
    ],
    "receptive_field": [
        (FIELD.format(**{**RIGHT_FIELD, "more": "(kernel - 1) * step"}), "dilation is missing"),
        (FIELD.format(**{**RIGHT_FIELD, "more": "(kernel - 1) * dilation"}), "strides are missing"),
        (FIELD.format(**{**RIGHT_FIELD, "before": "step *= stride", "after": "pass"}), "layers behind it only"),
        (FIELD.format(**{**RIGHT_FIELD, "start": "0"}), "sees 1 pixel"),
        (FIELD.format(**{**RIGHT_FIELD, "more": "kernel * dilation * step"}), "its middle was counted"),
    ],
}

HARMLESS: dict[str, list[str]] = {
    "output_size": [
        SIZE.format("len(range(0, size + 2 * padding - dilation * (kernel - 1), stride))"),
        SIZE.format("F.conv1d(torch.zeros(1, 1, size), torch.zeros(1, 1, kernel), None, stride, padding, dilation).shape[2]"),
    ],
    "residual_block": [
        "def residual_block(block, x):\n    skip = x\n    if block.widens:\n        skip = block.skip_norm(block.skip(x))\n"
        "    layers = nn.Sequential(block.conv1, block.norm1, nn.ReLU(), block.conv2, block.norm2)\n"
        "    return torch.clamp(torch.add(layers(x), skip), min=0)\n",
        "def residual_block(block, x):\n    y = F.relu_(block.norm1(block.conv1(x)))\n    y = block.norm2(block.conv2(y))\n"
        "    y += block.skip_norm(block.skip(x)) if block.widens else x\n    return F.relu_(y)\n",
    ],
    "frozen_norm": [
        NORM + "    return (x - m) * (v + 1e-5).rsqrt() * w + b\n",
        "def frozen_norm(x, weight, bias, mean, variance):\n    return F.batch_norm(x, mean, variance, weight, bias)\n",
        "def frozen_norm(x, weight, bias, mean, variance):\n"
        "    return ((x.movedim(1, -1) - mean) / torch.sqrt(variance + 1e-5) * weight + bias).movedim(-1, 1)\n",
    ],
    "receptive_field": [
        "def receptive_field(layers):\n    field = 1\n    for kernel, stride, dilation in reversed(layers):\n"
        "        field = (field - 1) * stride + dilation * (kernel - 1) + 1\n    return field\n",
        "def receptive_field(layers):\n    strides = [stride for _, stride, _ in layers]\n"
        "    return 1 + sum((k - 1) * d * int(np.prod(strides[:i])) for i, (k, _, d) in enumerate(layers))\n",
    ],
}
