"""Wrong answers to the exercises of lesson 06, and what their verdicts must say."""

from __future__ import annotations

WRONG: dict[str, list[tuple[str, str]]] = {
    "one_head": [
        (
            """
def one_head(query, key, head, heads, h, w):
    query, key = query.view(heads, -1), key.view(h * w, heads, -1)
    return (key[:, head] @ query[head]).view(h, w)
""",
            "the scale is missing",
        ),
        (
            """
def one_head(query, key, head, heads, h, w):
    query, key = query.view(heads, -1), key.view(h * w, heads, -1)
    return (key[:, head] @ query[head]).view(h, w) * (heads * query.shape[1]) ** -0.5
""",
            "the scale is d ** -0.5",
        ),
        (
            """
def one_head(query, key, head, heads, h, w):
    c = len(query) // heads
    return (key[:, head::heads] @ query[head::heads]).view(h, w) * c**-0.5
""",
            "every M-th channel",
        ),
        (
            """
def one_head(query, key, head, heads, h, w):
    query, key = query.view(heads, -1), key.view(h * w, heads, -1)
    return (key[:, head] @ query[head]).view(w, h).T * query.shape[1] ** -0.5
""",
            "row after row",
        ),
        (
            """
def one_head(query, key, head, heads, h, w):
    return (key @ query).view(h, w) * (len(query) / heads) ** -0.5
""",
            "all d channels",
        ),
        (
            """
def one_head(query, key, head, heads, h, w):
    query, key = query.view(heads, -1), key.view(h * w, heads, -1)
    return key[:, head] @ query[head] * query.shape[1] ** -0.5
""",
            "should have the shape 3x7",
        ),
    ],
    "joint_softmax": [
        ("def joint_softmax(scores):\n    return scores.flatten(2).softmax(-1).view(scores.shape)", "over each head alone"),
        (
            "def joint_softmax(scores):\n    return scores.flatten(2).softmax(-1).view(scores.shape) / scores.shape[1]",
            "1/M of the total",
        ),
        ("def joint_softmax(scores):\n    return scores.softmax(1)", "the pixels have to compete"),
        (
            "def joint_softmax(scores):\n    return scores.flatten().softmax(0).view(scores.shape)",
            "each has a total of its own",
        ),
        ("def joint_softmax(scores):\n    return scores.flatten(1).softmax(-1)", "should have the shape 3x4x5x7"),
        ("def joint_softmax(scores):\n    return scores.exp()", "not softmax weights"),
    ],
    "without_padding": [
        (
            """
def without_padding(scores, padding, image_index):
    return scores.flatten(1).softmax(-1).view(scores.shape)
""",
            "the padding is ignored",
        ),
        (
            """
def without_padding(scores, padding, image_index):
    heatmaps = scores.flatten(1).softmax(-1).view(scores.shape)
    return heatmaps.masked_fill(padding[image_index][:, None], 0)
""",
            "no longer sums to 1",
        ),
        (
            """
def without_padding(scores, padding, image_index):
    scores = scores.masked_fill(padding[image_index][:, None], 0)
    return scores.flatten(1).softmax(-1).view(scores.shape)
""",
            "e^0 = 1",
        ),
        (
            """
def without_padding(scores, padding, image_index):
    scores = scores.masked_fill(~padding[image_index][:, None], float("-inf"))
    return scores.flatten(1).softmax(-1).view(scores.shape)
""",
            "the wrong way round",
        ),
        (
            """
def without_padding(scores, padding, image_index):
    scores = scores.masked_fill(padding[0], float("-inf"))
    return scores.flatten(1).softmax(-1).view(scores.shape)
""",
            "the padding of the first image",
        ),
        (
            """
def without_padding(scores, padding, image_index):
    scores = scores.masked_fill(padding[image_index][:, None], float("-inf"))
    return scores.flatten(2).softmax(-1).view(scores.shape)
""",
            "over each head alone",
        ),
    ],
}
