"""What learners may write for lesson 03's exercises, and a piece of what the learner should read."""

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
