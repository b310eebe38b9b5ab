"""What learners may write for lesson 03's exercises: wrong answers with a piece of what the learner should read, and right ones."""

from __future__ import annotations

TO_GRID = """
def to_grid(sequence, h, w):
    return sequence.transpose(1, 2).unflatten(2, (h, w))
"""

WAVES = """
def sine_axis(count, channels):
    place = torch.arange({start}, count + {start}) / {divide} * {full}
    channel = torch.arange(channels)
    angle = place[:, None] / 10000 ** ({exponent} / channels)
    return {result}
"""
RIGHT = {
    "start": "1",
    "divide": "count",
    "full": "2 * torch.pi",
    "exponent": "(channel // 2 * 2)",
    "result": "torch.where(channel % 2 == 0, angle.sin(), angle.cos())",
}

WEIGHTS = """
def attention_weights(query, key, heads, padding):
    query, key = (rearrange(x, "{split}", M=heads) for x in (query, key))
    scores = query @ key.mT {scale}
    {mask}
    return {result}
"""
RIGHT_WEIGHTS = {
    "split": "B L (M e) -> B M L e",
    "scale": "/ query.shape[-1] ** 0.5",
    "mask": "scores = scores.masked_fill(padding[:, None, None], -torch.inf)",
    "result": "scores.softmax(-1)",
}

STEP = """
def step_matrix(rows, count, channels):
    delta = {step} {divide}
    sin, cos = delta.sin(), delta.cos()
    return torch.block_diag(*torch.stack([{block}], dim=-1).view(-1, 2, 2))
"""
RIGHT_STEP = {
    "step": "2 * torch.pi * rows / count",
    "divide": "/ 10000 ** (torch.arange(0, channels, 2) / channels)",
    "block": "cos, sin, -sin, cos",
}

LAYER = """
def encoder_layer(layer, x, position, padding):
    own = layer.self_attention
    {first}
    W, b = own.inputs.weight.chunk(3), own.inputs.bias.chunk(3)
    query, key, value = (F.linear(s, W[i], b[i]) for i, s in enumerate(({sources})))
    query, key, value = (rearrange(part, "B L (M e) -> B M L e", M={heads}) for part in (query, key, value))
    scores = query @ key.mT {scale}
    {mask}
    attended = {output}(rearrange(scores.softmax(-1) @ value, "B M L e -> B L (M e)"))
    x = layer.norm1({sum1})
    return layer.norm2({sum2})
"""
RIGHT_LAYER = {
    "first": "pass",
    "sources": "x + position, x + position, x",
    "heads": "own.heads",
    "scale": "/ query.shape[-1] ** 0.5",
    "mask": "scores = scores.masked_fill(padding[:, None, None], -torch.inf)",
    "output": "own.output",
    "sum1": "x + attended",
    "sum2": "x + layer.linear2(layer.linear1(x).relu())",
}

WRONG: dict[str, list[tuple[str, str]]] = {
    "there_and_back": [
        ("def to_sequence(grid):\n    return grid.flatten(2)\n" + TO_GRID, "should have the shape 2x15x6"),
        ('def to_sequence(grid):\n    return rearrange(grid, "B d h w -> B (w h) d")\n' + TO_GRID, "column after column"),
        ("def to_sequence(grid):\n    B, d, h, w = grid.shape\n    return grid.reshape(B, h * w, d)\n" + TO_GRID, "mixes channels"),
        (
            "def to_sequence(grid):\n    return grid.flatten(2).transpose(1, 2)\n\n\n"
            "def to_grid(sequence, h, w):\n    return sequence.reshape(len(sequence), -1, h, w)\n",
            "only looks right",
        ),
    ],
    "sine_axis": [
        (WAVES.format(**{**RIGHT, "start": "0"}), "counted from 0"),
        (WAVES.format(**{**RIGHT, "divide": "1", "full": "1"}), "not scaled"),
        (WAVES.format(**{**RIGHT, "full": "1"}), "run to 1"),
        (WAVES.format(**{**RIGHT, "exponent": "channel"}), "wavelength of its own"),
        (WAVES.format(**{**RIGHT, "result": "torch.cat([angle[:, 0::2].sin(), angle[:, 1::2].cos()], 1)"}), "have to alternate"),
        (WAVES.format(**{**RIGHT, "result": "torch.where(channel % 2 == 0, angle.cos(), angle.sin())"}), "exchanged"),
    ],
    "step_matrix": [
        (STEP.format(**{**RIGHT_STEP, "block": "cos, -sin, sin, cos"}), "wrong way"),
        (STEP.format(**{**RIGHT_STEP, "divide": "* torch.ones(channels // 2)"}), "angle of its own"),
        (STEP.format(**{**RIGHT_STEP, "step": "rows"}), "counted in rows"),
        (STEP.format(**{**RIGHT_STEP, "block": "sin, cos, cos, -sin"}), "does not take every row"),
    ],
    "encoder_layer": [
        (LAYER.format(**{**RIGHT_LAYER, "sources": "x + position, x + position, x + position"}), "to the values too"),
        (LAYER.format(**{**RIGHT_LAYER, "sources": "x, x, x"}), "positions are missing"),
        (LAYER.format(**{**RIGHT_LAYER, "first": "x = x + position", "sources": "x, x, x"}), "travel on"),
        (LAYER.format(**{**RIGHT_LAYER, "heads": "1"}), "heads are missing"),
        (LAYER.format(**{**RIGHT_LAYER, "scale": ""}), "scale is missing"),
        (LAYER.format(**{**RIGHT_LAYER, "mask": "pass"}), "minus infinity"),
        (LAYER.format(**{**RIGHT_LAYER, "output": ""}), "last linear map"),
        (LAYER.format(**{**RIGHT_LAYER, "sum1": "attended"}), "before norm1"),
        (LAYER.format(**{**RIGHT_LAYER, "sum2": "layer.linear2(layer.linear1(x).relu())"}), "before norm2"),
        (LAYER.format(**{**RIGHT_LAYER, "sum2": "x + layer.linear2(layer.linear1(x))"}), "ReLU"),
        (
            "def encoder_layer(layer, x, position, padding):\n    own, y = layer.self_attention, layer.norm1(x)\n"
            "    W, b = own.inputs.weight.chunk(3), own.inputs.bias.chunk(3)\n"
            "    parts = [F.linear(s, W[i], b[i]) for i, s in enumerate((y + position, y + position, y))]\n"
            '    q, k, v = (rearrange(part, "B L (M e) -> B M L e", M=own.heads) for part in parts)\n'
            "    mixed = F.scaled_dot_product_attention(q, k, v, ~padding[:, None, None])\n"
            '    x = x + own.output(rearrange(mixed, "B M L e -> B L (M e)"))\n'
            "    return x + layer.linear2(layer.linear1(layer.norm2(x)).relu())\n",
            "norms stand before",
        ),
    ],
    "why_nothing": [
        ('choice = "A"\n', "moves by more than a tenth"),
        ('choice = "C"\n', "PQ does see"),
        ('choice = "d"\n', "same for every image"),
        ('choice = "AB"\n', "one letter"),
    ],
    "attention_weights": [
        (WEIGHTS.format(**{**RIGHT_WEIGHTS, "mask": "pass"}), "get attention"),
        (WEIGHTS.format(**{**RIGHT_WEIGHTS, "scale": ""}), "scale is missing"),
        (WEIGHTS.format(**{**RIGHT_WEIGHTS, "scale": "/ (heads * query.shape[-1]) ** 0.5"}), "square root of d:"),
        (WEIGHTS.format(**{**RIGHT_WEIGHTS, "result": "scores.softmax(-2).nan_to_num()"}), "over the queries"),
        (
            WEIGHTS.format(**{**RIGHT_WEIGHTS, "mask": "pass", "result": "scores.softmax(-1) * ~padding[:, None, None]"}),
            "after the softmax",
        ),
        (WEIGHTS.format(**{**RIGHT_WEIGHTS, "split": "B L (e M) -> B M L e"}), "cut wrongly"),
    ],
}

HARMLESS: dict[str, list[str]] = {
    "there_and_back": [
        'def to_sequence(grid):\n    return rearrange(grid, "B d h w -> B (h w) d")\n\n\n'
        'def to_grid(sequence, h, w):\n    return rearrange(sequence, "B (h w) d -> B d h w", h=h, w=w)\n',
        "def to_sequence(grid):\n    return grid.permute(0, 2, 3, 1).reshape(len(grid), -1, grid.shape[1])\n\n\n"
        "def to_grid(sequence, h, w):\n    return sequence.reshape(len(sequence), h, w, -1).permute(0, 3, 1, 2)\n",
    ],
    "sine_axis": [
        "def sine_axis(count, channels):\n    u = torch.linspace(1 / count, 1, count) * 2 * torch.pi\n"
        "    angle = u[:, None] / 10000 ** (torch.arange(0, channels, 2) / channels)\n"
        "    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)\n",
        "def sine_axis(count, channels):\n    waves = np.zeros((count, channels), np.float32)\n"
        "    for row in range(count):\n        for i in range(channels // 2):\n"
        "            angle = 2 * np.pi * (row + 1) / count / 10000 ** (2 * i / channels)\n"
        "            waves[row, 2 * i], waves[row, 2 * i + 1] = np.sin(angle), np.cos(angle)\n"
        "    return torch.from_numpy(waves)\n",
    ],
    "step_matrix": [
        "def step_matrix(rows, count, channels):\n    matrix = torch.zeros(channels, channels)\n"
        "    for i in range(0, channels, 2):\n        angle = 2 * np.pi * rows / count / 10000 ** (i / channels)\n"
        "        matrix[i, i] = matrix[i + 1, i + 1] = np.cos(angle)\n"
        "        matrix[i, i + 1], matrix[i + 1, i] = np.sin(angle), -np.sin(angle)\n    return matrix\n",
        "def step_matrix(rows, count, channels):\n    t = 10000 ** (torch.arange(0, channels, 2, dtype=torch.float64) / channels)\n"
        "    z = torch.polar(torch.ones_like(t), -2 * torch.pi * rows / count / t)\n"
        "    return torch.block_diag(*[torch.tensor([[c.real, -c.imag], [c.imag, c.real]]) for c in z.tolist()])\n",
    ],
    "attention_weights": [
        "def attention_weights(query, key, heads, padding):\n"
        "    q, k = (x.unflatten(-1, (heads, -1)) for x in (query, key))\n"
        '    scores = torch.einsum("bnme,blme->bmnl", q, k) / np.sqrt(q.shape[-1])\n'
        "    weights = scores.exp() * ~padding[:, None, None]\n    return weights / weights.sum(-1, keepdim=True)\n",
        "def attention_weights(query, key, heads, padding):\n    e = query.shape[-1] // heads\n    parts = []\n"
        "    for m in range(heads):\n        cut = slice(m * e, (m + 1) * e)\n"
        "        scores = query[..., cut] @ key[..., cut].transpose(1, 2) * e**-0.5\n"
        "        parts.append((scores - padding[:, None] * 1e9).softmax(-1))\n    return torch.stack(parts, dim=1)\n",
    ],
    "encoder_layer": [
        "def encoder_layer(layer, x, position, padding):\n    own, d = layer.self_attention, x.shape[-1]\n"
        "    located, plain = own.inputs(x + position), own.inputs(x)\n"
        "    parts = located[..., :d], located[..., d : 2 * d], plain[..., 2 * d :]\n"
        "    q, k, v = (part.unflatten(2, (own.heads, -1)).transpose(1, 2) for part in parts)\n"
        "    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=~padding[:, None, None])\n"
        "    x = layer.norm1(own.output(mixed.transpose(1, 2).flatten(2)) + x)\n"
        "    return layer.norm2(layer.linear2(F.relu(layer.linear1(x))) + x)\n",
        "def encoder_layer(layer, x, position, padding):\n    own = layer.self_attention\n    q = x + position\n"
        "    mixed, _ = F.multi_head_attention_forward(\n"
        "        q.mT.permute(2, 0, 1), q.mT.permute(2, 0, 1), x.permute(1, 0, 2), x.shape[-1], own.heads, own.inputs.weight,\n"
        "        own.inputs.bias, None, None, False, 0.0, own.output.weight, own.output.bias, key_padding_mask=padding\n    )\n"
        "    x = layer.norm1(x + mixed.permute(1, 0, 2))\n"
        "    return layer.norm2(x + layer.linear2(layer.linear1(x).clamp(min=0)))\n",
    ],
}
