"""Wrong answers to the exercises of lesson 04, and a piece of the sentence that each should get."""

from __future__ import annotations

WRONG: dict[str, list[tuple[str, str]]] = {
    "to_pixels": [
        (
            """
def to_pixels(boxes, height, width):
    cx, cy, w, h = boxes.unbind(-1)
    corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)
    return corners * torch.tensor([height, width, height, width])
""",
            "height and width are exchanged",
        ),
        (
            """
def to_pixels(boxes, height, width):
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack([cx - w, cy - h, cx + w, cy + h], dim=-1) * torch.tensor([width, height, width, height])
""",
            "half a side each way",
        ),
        (
            """
def to_pixels(boxes, height, width):
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)
""",
            "still in 0..1",
        ),
        (
            """
def to_pixels(boxes, height, width):
    x, y, w, h = boxes.unbind(-1)
    return torch.stack([x, y, x + w, y + h], dim=-1) * torch.tensor([width, height, width, height])
""",
            "the centre, not a corner",
        ),
    ],
    "keep": [
        (
            """
def keep(logits, threshold):
    scores, labels = logits.softmax(-1).max(-1)
    query_index = (scores > threshold).nonzero().squeeze(1)
    return query_index, scores[query_index], labels[query_index]
""",
            "the last class is not an object",
        ),
        (
            """
def keep(logits, threshold):
    scores, labels = logits[:, :-1].softmax(-1).max(-1)
    query_index = (scores > threshold).nonzero().squeeze(1)
    return query_index, scores[query_index], labels[query_index]
""",
            "no object",
        ),
        (
            """
def keep(logits, threshold):
    best, labels = logits.max(-1)
    scores = logits.softmax(-1).max(-1).values
    query_index = ((labels < logits.shape[-1] - 1) & (scores > threshold)).nonzero().squeeze(1)
    return query_index, best[query_index].sigmoid(), labels[query_index]
""",
            "should be probabilities",
        ),
    ],
    "look": [
        (
            """
def look(x, embedding, memory, position, to_query, to_key, to_value):
    q, k, v = (x + embedding) @ to_query.T, (memory + position) @ to_key.T, (memory + position) @ to_value.T
    return (q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ v
""",
            "added to the values too",
        ),
        (
            """
def look(x, embedding, memory, position, to_query, to_key, to_value):
    q, k, v = (x + embedding) @ to_query.T, (memory + position) @ to_key.T, memory @ to_value.T
    return (q @ k.T / q.shape[-1] ** 0.5).softmax(0) @ v
""",
            "the softmax runs over the queries",
        ),
        (
            """
def look(x, embedding, memory, position, to_query, to_key, to_value):
    q, k, v = (x + embedding) @ to_query.T, (memory + position) @ to_key.T, memory @ to_value.T
    return (q @ k.T).softmax(-1) @ v
""",
            "not divided by the square root",
        ),
        (
            """
def look(x, embedding, memory, position, to_query, to_key, to_value):
    q, k, v = x @ to_query.T, (memory + position) @ to_key.T, memory @ to_value.T
    return (q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ v
""",
            "the query embedding is missing",
        ),
    ],
}
