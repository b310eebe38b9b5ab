"""Answers to the exercises of lesson 04: wrong ones, with a piece of the sentence each should get, and right ones."""

from __future__ import annotations

WRONG: dict[str, list[tuple[str, str]]] = {
    "decoder_layer": [
        (
            """
def decoder_layer(layer, x, embedding, memory, position, padding):
    none = torch.zeros(x.shape[:2], dtype=torch.bool)
    x = layer.norm1(x + attention(layer.self_attention, x + embedding, x + embedding, x + embedding, none))
    x = layer.norm2(x + attention(layer.cross_attention, x + embedding, memory + position, memory, padding))
    return layer.norm3(x + layer.linear2(layer.linear1(x).relu()))
""",
            "added to the value too: the value is x alone",
        ),
        (
            """
def decoder_layer(layer, x, embedding, memory, position, padding):
    none = torch.zeros(x.shape[:2], dtype=torch.bool)
    x = layer.norm1(x + attention(layer.self_attention, x + embedding, x + embedding, x, none))
    x = layer.norm2(x + attention(layer.cross_attention, x, memory + position, memory, padding))
    return layer.norm3(x + layer.linear2(layer.linear1(x).relu()))
""",
            "in cross-attention the embedding is missing",
        ),
        (
            """
def decoder_layer(layer, x, embedding, memory, position, padding):
    none = torch.zeros(x.shape[:2], dtype=torch.bool)
    x = layer.norm1(x + attention(layer.self_attention, x + embedding, x + embedding, x, none))
    x = layer.norm2(x + attention(layer.cross_attention, x + embedding, memory, memory, padding))
    return layer.norm3(x + layer.linear2(layer.linear1(x).relu()))
""",
            "positions are missing",
        ),
        (
            """
def decoder_layer(layer, x, embedding, memory, position, padding):
    none = torch.zeros(x.shape[:2], dtype=torch.bool)
    x = layer.norm1(x + attention(layer.self_attention, x + embedding, x + embedding, x, none))
    x = layer.norm2(x + attention(layer.cross_attention, x + embedding, memory + position, memory + position, padding))
    return layer.norm3(x + layer.linear2(layer.linear1(x).relu()))
""",
            "added to the values too: the values of cross",
        ),
        (
            """
def decoder_layer(layer, x, embedding, memory, position, padding):
    none = torch.zeros(x.shape[:2], dtype=torch.bool)
    x = layer.norm1(x + attention(layer.self_attention, x + embedding, x + embedding, x, none))
    x = layer.norm2(x + attention(layer.cross_attention, x + embedding, memory + position, memory, torch.zeros_like(padding)))
    return layer.norm3(x + layer.linear2(layer.linear1(x).relu()))
""",
            "padded cells were looked at",
        ),
        (
            """
def decoder_layer(layer, x, embedding, memory, position, padding):
    none = torch.zeros(x.shape[:2], dtype=torch.bool)
    x = layer.norm1(x + attention(layer.self_attention, x + embedding, x + embedding, x, none))
    x = layer.norm2(x + attention(layer.cross_attention, x + embedding, memory + position, memory, padding))
    return layer.norm3(x + layer.linear2(layer.linear1(x)))
""",
            "ReLU is missing",
        ),
        (
            """
def decoder_layer(layer, x, embedding, memory, position, padding):
    none = torch.zeros(x.shape[:2], dtype=torch.bool)
    x = layer.norm1(x + attention(layer.self_attention, x + embedding, x + embedding, x, none))
    x = layer.norm3(x + attention(layer.cross_attention, x + embedding, memory + position, memory, padding))
    return layer.norm3(x + layer.linear2(layer.linear1(x).relu()))
""",
            "three acts of the table",
        ),
        (
            """
def decoder_layer(layer, x, embedding, memory, position, padding):
    none = torch.zeros(x.shape[:2], dtype=torch.bool)
    x = layer.norm1(attention(layer.self_attention, x + embedding, x + embedding, x, none))
    x = layer.norm2(attention(layer.cross_attention, x + embedding, memory + position, memory, padding))
    return layer.norm3(layer.linear2(layer.linear1(x).relu()))
""",
            "each act adds its result",
        ),
        (
            """
def decoder_layer(layer, x, embedding, memory, position, padding):
    none = torch.zeros(x.shape[:2], dtype=torch.bool)
    x = x + layer.norm1(attention(layer.self_attention, x + embedding, x + embedding, x, none))
    x = x + layer.norm2(attention(layer.cross_attention, x + embedding, memory + position, memory, padding))
    return x + layer.norm3(layer.linear2(layer.linear1(x).relu()))
""",
            "the norm comes after the addition",
        ),
        (
            """
def decoder_layer(layer, x, embedding, memory, position, padding):
    none = torch.zeros(x.shape[:2], dtype=torch.bool)
    x = (x + attention(layer.self_attention, x + embedding, x + embedding, x, none))
    x = (x + attention(layer.cross_attention, x + embedding, memory + position, memory, padding))
    return (x + layer.linear2(layer.linear1(x).relu()))
""",
            "the norms are missing",
        ),
    ],
    "read_out": [
        (
            """
def read_out(x, heads, height, width):
    cx, cy, w, h = heads.boxes(x).sigmoid().unbind(-1)
    corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)
    return heads.classes(x).sigmoid(), corners * torch.tensor([width, height, width, height])
""",
            "the classes compete",
        ),
        (
            """
def read_out(x, heads, height, width):
    cx, cy, w, h = heads.boxes(x).sigmoid().unbind(-1)
    corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)
    return heads.classes(x).softmax(0), corners * torch.tensor([width, height, width, height])
""",
            "runs over the queries",
        ),
        (
            """
def read_out(x, heads, height, width):
    cx, cy, w, h = heads.boxes(x).unbind(-1)
    corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)
    return heads.classes(x).softmax(-1), corners * torch.tensor([width, height, width, height])
""",
            "sigmoid is missing",
        ),
        (
            """
def read_out(x, heads, height, width):
    cx, cy, w, h = heads.boxes(x).sigmoid().unbind(-1)
    corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)
    return heads.classes(x).softmax(-1), corners * torch.tensor([height, width, height, width])
""",
            "height and width are exchanged",
        ),
        (
            """
def read_out(x, heads, height, width):
    cx, cy, w, h = heads.boxes(x).sigmoid().unbind(-1)
    corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)
    return heads.classes(x).softmax(-1), corners
""",
            "still in 0..1",
        ),
        (
            """
def read_out(x, heads, height, width):
    cx, cy, w, h = heads.boxes(x).sigmoid().unbind(-1)
    corners = torch.stack([cx, cy, cx + w, cy + h], dim=-1)
    return heads.classes(x).softmax(-1), corners * torch.tensor([width, height, width, height])
""",
            "the centre, not a corner",
        ),
        (
            """
def read_out(x, heads, height, width):
    cx, cy, w, h = heads.boxes(x).sigmoid().unbind(-1)
    corners = torch.stack([cx, cy, w, h], dim=-1)
    return heads.classes(x).softmax(-1), corners * torch.tensor([width, height, width, height])
""",
            "still centre, width and height",
        ),
        (
            """
def read_out(x, heads, height, width):
    cx, cy, w, h = heads.boxes[4](heads.boxes[2](heads.boxes[0](x))).sigmoid().unbind(-1)
    corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)
    return heads.classes(x).softmax(-1), corners * torch.tensor([width, height, width, height])
""",
            "has a ReLU",
        ),
        (
            """
def read_out(x, heads, height, width):
    cx, cy, w, h = heads.boxes(x).sigmoid().unbind(-1)
    corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)
    return corners * torch.tensor([width, height, width, height])
""",
            "two tensors should come back",
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
        (
            """
def keep(logits, threshold):
    scores, labels = logits.softmax(-1)[:, :-1].max(-1)
    query_index = (scores > threshold).nonzero().squeeze(1)
    return query_index, scores[query_index], labels[query_index]
""",
            "query 17",
        ),
    ],
    "deaf_layer": [
        ("number = 1", "nobody hears anything"),
        ('number = "2"', "layer 3"),
        ("number = 4", "one layer"),
        ('number = "all"', "one layer"),
    ],
    "suppress": [
        (
            """
def suppress(boxes, scores, labels, limit):
    overlap, kept = box_iou(boxes, boxes), []
    for query in scores.argsort(descending=True).tolist():
        if not any(overlap[other, query] > limit for other in kept):
            kept.append(query)
    return torch.tensor(kept)
""",
            "compare boxes of one class only",
        ),
        (
            """
def suppress(boxes, scores, labels, limit):
    overlap, kept = box_iou(boxes, boxes), []
    for query in scores.argsort(descending=False).tolist():
        if not any(labels[other] == labels[query] and overlap[other, query] > limit for other in kept):
            kept.append(query)
    return torch.tensor(kept)
""",
            "the worst boxes were taken first",
        ),
        (
            """
def suppress(boxes, scores, labels, limit):
    overlap, kept = box_iou(boxes, boxes), []
    for query in scores.argsort(descending=True).tolist():
        if not any(labels[other] == labels[query] and overlap[other, query] > limit for other in kept):
            kept.append(query)
    return torch.tensor(kept).sort().values
""",
            "best score first",
        ),
        (
            """
def suppress(boxes, scores, labels, limit):
    overlap, kept = box_iou(boxes, boxes), []
    for query in scores.argsort(descending=True).tolist():
        if not any(labels[other] == labels[query] and overlap[other, query] > 0.9 for other in kept):
            kept.append(query)
    return torch.tensor(kept)
""",
            "and was kept",
        ),
        (
            """
def suppress(boxes, scores, labels, limit):
    overlap, order = box_iou(boxes, boxes), scores.argsort(descending=True).tolist()
    kept = []
    for place, query in enumerate(order):
        if not any(labels[other] == labels[query] and overlap[other, query] > limit for other in order[:place]):
            kept.append(query)
    return torch.tensor(kept)
""",
            "a dropped box silences nobody",
        ),
    ],
}

HARMLESS: dict[str, list[str]] = {
    "decoder_layer": [
        """
def decoder_layer(layer, x, embedding, memory, position, padding):
    B, N, d = x.shape
    query = key = x + embedding
    told = attention(layer.self_attention, query=query, key=key, value=x, padding=x.new_zeros(B, N, dtype=torch.bool))
    x = layer.norm1(told + x)
    seen = attention(layer.cross_attention, embedding + x, position + memory, memory, padding)
    x = layer.norm2(seen + x)
    hidden = F.relu(layer.linear1(x))
    return layer.norm3(layer.linear2(hidden) + x)
""",
        """
def decoder_layer(layer, x, embedding, memory, position, padding):
    nobody = torch.zeros_like(x[..., 0]).bool()
    asked = torch.add(x, embedding)
    x = x + attention(layer.self_attention, asked, asked, x, nobody)
    x = F.layer_norm(x, x.shape[-1:], layer.norm1.weight, layer.norm1.bias)
    x = x + attention(layer.cross_attention, torch.add(x, embedding), memory.add(position), memory, padding)
    x = F.layer_norm(x, x.shape[-1:], layer.norm2.weight, layer.norm2.bias)
    x = x + layer.linear2(layer.linear1(x).clamp(min=0))
    return F.layer_norm(x, x.shape[-1:], layer.norm3.weight, layer.norm3.bias)
""",
    ],
    "read_out": [
        """
def read_out(x, heads, height, width):
    logits, boxes = heads(x)
    size = torch.tensor([width, height] * 2)
    return F.softmax(logits, dim=1), box_convert(boxes, "cxcywh", "xyxy") * size
""",
        """
def read_out(x, heads, height, width):
    z = heads.classes(x)
    p = z.exp() / z.exp().sum(1, keepdim=True)
    four = torch.sigmoid(heads.boxes(x))
    centre, side = four[:, :2], four[:, 2:]
    corners = torch.cat([centre - side / 2, centre + side / 2], 1)
    corners[:, ::2] *= width
    corners[:, 1::2] *= height
    return p, corners
""",
    ],
    "keep": [
        """
def keep(logits, threshold):
    probabilities = F.softmax(logits, dim=-1)
    best = probabilities.argmax(-1)
    last = logits.shape[1] - 1
    query_index = torch.tensor([q for q, c in enumerate(best.tolist()) if c != last and probabilities[q, c] > threshold])
    return query_index, probabilities[query_index, best[query_index]], best[query_index]
""",
        """
def keep(logits, threshold):
    p = logits.softmax(1)
    scores, labels = p[:, :-1].max(1)
    mask = (scores > p[:, -1]) & (scores > threshold)
    return torch.where(mask)[0], scores[mask], labels[mask]
""",
    ],
    "suppress": [
        """
def suppress(boxes, scores, labels, limit):
    order = scores.sort(descending=True).indices
    hit = (box_iou(boxes[order], boxes[order]) > limit) & (labels[order][:, None] == labels[order])
    alive = torch.ones(len(order), dtype=torch.bool)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1 :] &= ~hit[i, i + 1 :]
    return order[alive]
""",
        """
def suppress(boxes, scores, labels, limit):
    left, kept = list(range(len(scores))), []
    while left:
        best = max(left, key=lambda q: float(scores[q]))
        kept.append(best)
        left = [
            q
            for q in left
            if q != best and (labels[q] != labels[best] or float(box_iou(boxes[q : q + 1], boxes[best : best + 1])) <= limit)
        ]
    return kept
""",
    ],
}
