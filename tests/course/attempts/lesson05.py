"""Wrong answers to the exercises of lesson 05, and a piece of the sentence that each should get."""

from __future__ import annotations

WRONG: dict[str, list[tuple[str, str]]] = {
    "giou": [
        (
            """
def giou(a, b):
    sides = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    overlap = sides.prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - overlap
    return overlap / union
""",
            "this is the plain IoU",
        ),
        (
            """
def giou(a, b):
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - overlap
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    return overlap / union - (hull - union) / hull
""",
            "negative length",
        ),
        (
            """
def giou(a, b):
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    return overlap / union - (hull - union) / hull
""",
            "counts the overlap twice",
        ),
    ],
    "cost_matrix": [
        (
            """
def cost_matrix(logits, boxes, labels, target_boxes):
    overlap = generalized_box_iou(boxes, target_boxes)
    return -logits.softmax(-1)[:, labels] + 5 * torch.cdist(boxes, target_boxes, p=1) - 2 * overlap
""",
            "GIoU needs corners",
        ),
        (
            """
def cost_matrix(logits, boxes, labels, target_boxes):
    overlap = generalized_box_iou(box_convert(boxes, "cxcywh", "xyxy"), box_convert(target_boxes, "cxcywh", "xyxy"))
    return -logits.log_softmax(-1)[:, labels] + 5 * torch.cdist(boxes, target_boxes, p=1) - 2 * overlap
""",
            "not its logarithm",
        ),
        (
            """
def cost_matrix(logits, boxes, labels, target_boxes):
    overlap = generalized_box_iou(box_convert(boxes, "cxcywh", "xyxy"), box_convert(target_boxes, "cxcywh", "xyxy"))
    return -logits.softmax(-1)[:, labels] + torch.cdist(boxes, target_boxes, p=1) - overlap
""",
            "unweighted",
        ),
        (
            """
def cost_matrix(logits, boxes, labels, target_boxes):
    overlap = generalized_box_iou(box_convert(boxes, "cxcywh", "xyxy"), box_convert(target_boxes, "cxcywh", "xyxy"))
    return (-logits.softmax(-1)[:, labels] + 5 * torch.cdist(boxes, target_boxes, p=1) - 2 * overlap).T
""",
            "queries are the rows",
        ),
    ],
    "class_loss": [
        (
            """
def class_loss_of(logits, expected, weight_of_none):
    return F.cross_entropy(logits, expected)
""",
            "counts as much as any class",
        ),
        (
            """
def class_loss_of(logits, expected, weight_of_none):
    weight = torch.ones(logits.shape[-1])
    weight[-1] = weight_of_none
    return F.cross_entropy(logits, expected, weight, reduction="sum") / len(logits)
""",
            "not by the number of queries",
        ),
        (
            """
def class_loss_of(logits, expected, weight_of_none):
    weight = torch.full((logits.shape[-1],), weight_of_none)
    weight[-1] = 1
    return F.cross_entropy(logits, expected, weight)
""",
            "on the wrong queries",
        ),
    ],
    "brute_force": [
        (
            """
def brute_force(cost):
    cost, rows = cost.clone(), [0] * cost.shape[1]
    for _ in rows:
        row, column = divmod(int(cost.argmin()), cost.shape[1])
        rows[column] = row
        cost[row], cost[:, column] = torch.inf, torch.inf
    return rows
""",
            "there is a cheaper assignment",
        ),
        (
            """
def brute_force(cost):
    return cost.argmin(0)
""",
            "two columns get the same row",
        ),
        (
            """
def brute_force(cost):
    N, T = cost.shape
    return max(permutations(range(N), T), key=lambda rows: float(cost[list(rows), range(T)].sum()))
""",
            "the dearest",
        ),
        (
            """
def brute_force(cost):
    N, T = cost.shape
    return min(permutations(range(T)), key=lambda rows: float(cost[list(rows), range(T)].sum()))
""",
            "there is a cheaper assignment",
        ),
        (
            """
def brute_force(cost):
    return cost.argmin(1)
""",
            "a row for each of the",
        ),
    ],
}

HARMLESS: dict[str, list[str]] = {
    "giou": [
        """
def giou(a, b):
    return generalized_box_iou(a, b).diagonal()
""",
        """
def giou(a, b):
    values = []
    for (l, t, r, d), (L, T, R, D) in zip(a.tolist(), b.tolist()):
        inside = max(0, min(r, R) - max(l, L)) * max(0, min(d, D) - max(t, T))
        union = (r - l) * (d - t) + (R - L) * (D - T) - inside
        hull = (max(r, R) - min(l, L)) * (max(d, D) - min(t, T))
        values.append(inside / union - 1 + union / hull)
    return torch.tensor(values)
""",
    ],
    "cost_matrix": [
        """
def cost_matrix(logits, boxes, labels, target_boxes):
    distance = (boxes[:, None] - target_boxes).abs().sum(-1)
    a, b = (torch.cat([x[:, :2] - x[:, 2:] / 2, x[:, :2] + x[:, 2:] / 2], 1) for x in (boxes, target_boxes))
    return 5 * distance - 2 * generalized_box_iou(a, b) - F.softmax(logits, dim=1).index_select(1, labels)
""",
        """
def cost_matrix(logits, boxes, labels, target_boxes):
    return matching_cost(logits, boxes, labels, target_boxes)
""",
    ],
    "class_loss": [
        """
def class_loss_of(logits, expected, weight_of_none):
    weight = torch.where(expected == logits.shape[-1] - 1, weight_of_none, 1.0)
    return (weight * F.cross_entropy(logits, expected, reduction="none")).sum() / weight.sum()
""",
        """
def class_loss_of(logits, expected, weight_of_none):
    total, weights = 0.0, 0.0
    for row, k in zip(logits.log_softmax(-1), expected.tolist()):
        weight = weight_of_none if k == len(row) - 1 else 1.0
        total, weights = total - weight * row[k], weights + weight
    return total / weights
""",
    ],
    "brute_force": [
        """
def brute_force(cost):
    rows, columns = linear_sum_assignment(cost.T.numpy())
    return torch.from_numpy(columns)
""",
        """
def brute_force(cost):
    best, least = None, float("inf")
    for rows in permutations(range(len(cost)), cost.shape[1]):
        total = sum(cost[row, column] for column, row in enumerate(rows))
        if total < least:
            best, least = rows, total
    return list(best)
""",
    ],
}
