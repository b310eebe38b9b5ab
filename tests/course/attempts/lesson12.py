"""Plausible wrong answers to the exercises of lesson 12, each with a piece of the sentence that catches it, and right ones."""

from __future__ import annotations

DECODER = "def decoder_layer(N, cells, d, hidden):\n    return "
SELF, CROSS, PERCEPTRON = "4 * N * d**2 + 2 * N**2 * d", "2 * N * d**2 + 2 * cells * d**2 + 2 * N * cells * d", "2 * N * d * hidden"
WINNERS = "def winners(mask_logits, size):\n    "
LOOP = (
    "highest, best = torch.full(size, {low}), torch.zeros(size, dtype=torch.long)\n"
    "    for k, mask in enumerate(mask_logits):\n"
    "        plane = F.interpolate(mask[None, None], size, mode='{mode}')[0, 0]\n"
    "        best = torch.where(plane > highest, k, best)\n"
    "        highest = torch.maximum(highest, plane)\n"
    "    return best"
)

WRONG: dict[str, list[tuple[str, str]]] = {
    "decoder_layer": [
        (f"{DECODER}{SELF} + {CROSS}", "feed-forward layer is missing"),
        (f"{DECODER}{SELF} + {CROSS} + N * d * hidden", "two linear layers"),
        (f"{DECODER}{SELF} + {CROSS} + 2 * cells * d * hidden", "runs on the queries"),
        (f"{DECODER}{CROSS} + {PERCEPTRON}", "self-attention is missing"),
        (f"{DECODER}{SELF} + 4 * N * d**2 + 2 * N * cells * d + {PERCEPTRON}", "for each cell, not for each query"),
        (f"{DECODER}{SELF} + 2 * N * d**2 + 2 * cells * d**2 + 2 * cells**2 * d + {PERCEPTRON}", "N x cells pairs"),
        (f"{DECODER}2 * ({SELF} + {CROSS} + {PERCEPTRON})", "those are FLOPs"),
        (f"{DECODER}4 * cells * d**2 + 2 * cells**2 * d + 2 * cells * d * hidden", "multiply-adds, not"),
    ],
    "takes_over": [
        ("side = 2560", "the number of cells"),
        ("side = 32 * (2 * 256) ** 0.5", "the feed-forward layer counts, too"),
        ("side = 2560 ** 0.5", "the side in cells"),
        ("side = 1280", "38 %"),
        ("side = 640", "solve for n"),
    ],
    "saves_most": [
        ("step = 3", "by no more than chance"),
        ("step = 4", "a third of the multiply-adds"),
        ("step = 5", "an eighth of the masks"),
        ("step = 1", "where the ladder begins"),
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
    "winners": [
        (f"{WINNERS}return F.interpolate(mask_logits[None], size, mode='bilinear')[0].argmax(0)", "enlarge one mask at a time"),
        (
            f"{WINNERS}planes = [F.interpolate(m[None, None], size, mode='bilinear')[0, 0] for m in mask_logits]\n"
            "    return torch.stack(planes).argmax(0)",
            "a tensor of 9 planes",
        ),
        (WINNERS + LOOP.format(low="-float('inf')", mode="nearest"), "the edges are blocks"),
        (WINNERS + LOOP.format(low="0.0", mode="bilinear"), "begin with the first mask"),
        (
            f"{WINNERS}winner = mask_logits.argmax(0)[None, None].float()\n"
            "    return F.interpolate(winner, size, mode='nearest')[0, 0].long()",
            "the edges are blocks",
        ),
        (WINNERS + LOOP.format(low="-float('inf')", mode="bilinear").replace("return best", "return highest"), "its highest mask"),
        (
            WINNERS + LOOP.format(low="-float('inf')", mode="bilinear").replace("='bilinear'", "='bilinear', align_corners=True"),
            "align_corners",
        ),
    ],
}

HARMLESS: dict[str, list[str]] = {
    "decoder_layer": [
        "def decoder_layer(N, cells, d, hidden):\n"
        "    def attention(queries, keys):\n"
        "        return 2 * queries * d * d + 2 * keys * d * d + 2 * queries * keys * d\n"
        "    return attention(N, N) + attention(N, cells) + N * d * hidden + N * hidden * d",
        "def decoder_layer(N, cells, d, hidden):\n"
        "    linear = (6 * N + 2 * cells) * d**2\n"
        "    pairs = 2 * N * (N + cells) * d\n"
        "    return float(linear + pairs + 2 * N * d * hidden)",
        "def decoder_layer(N, cells, d, hidden):\n"
        "    total = sum(cost.linear(d, d, n)[0] for n in (N, N, N, N, N, N, cells, cells))\n"
        "    total += cost.attention(N, N, d)[0] + cost.attention(N, cells, d)[0]\n"
        "    return total + cost.linear(d, hidden, N)[0] + cost.linear(hidden, d, N)[0]",
    ],
    "heatmap_multiply_adds": [
        "def heatmap_multiply_adds(K, B, d, M, cells):\n    c = d // M\n    return d * d * (K + B * cells) + M * c * K * cells",
        "heatmap_multiply_adds = lambda K, B, d, M, cells: cost.linear(d, d, K + B * cells)[0] + cells * cost.linear(d, 1, K)[0]",
    ],
    "winners": [
        WINNERS + LOOP.format(low="-float('inf')", mode="bilinear"),
        "def winners(mask_logits, size):\n"
        "    H, W = size\n"
        "    best = torch.zeros(H, W, dtype=torch.int16)\n"
        "    highest = F.interpolate(mask_logits[:1, None], size=size, mode='bilinear')[0, 0]\n"
        "    for k in range(1, len(mask_logits)):\n"
        "        plane = F.interpolate(mask_logits[k : k + 1, None], size=size, mode='bilinear')[0, 0]\n"
        "        higher = plane > highest\n"
        "        best[higher], highest[higher] = k, plane[higher]\n"
        "    return best",
        "def winners(mask_logits, size):\n    return best_masks(mask_logits, list(range(len(mask_logits))), size, size)",
        "def winners(mask_logits, size):\n"
        "    up = nn.Upsample(size=size, mode='bilinear')\n"
        "    best, highest = 0, None\n"
        "    for k in range(mask_logits.shape[0]):\n"
        "        plane = up(mask_logits[k].unsqueeze(0).unsqueeze(0)).squeeze()\n"
        "        best = torch.zeros_like(plane, dtype=torch.int) if highest is None else best.masked_fill(plane > highest, k)\n"
        "        highest = plane if highest is None else torch.max(plane, highest)\n"
        "    return best",
    ],
}
