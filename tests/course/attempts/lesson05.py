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
def class_loss_of(logits, expected, no_object):
    return F.cross_entropy(logits, expected)
""",
            "counts as much as any class",
        ),
        (
            """
def class_loss_of(logits, expected, no_object):
    weight = torch.ones(logits.shape[-1])
    weight[-1] = no_object
    return F.cross_entropy(logits, expected, weight, reduction="sum") / len(logits)
""",
            "not by the number of queries",
        ),
        (
            """
def class_loss_of(logits, expected, no_object):
    weight = torch.full((logits.shape[-1],), no_object)
    weight[-1] = 1
    return F.cross_entropy(logits, expected, weight)
""",
            "on the wrong queries",
        ),
    ],
}
