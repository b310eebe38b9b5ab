"""Plausible wrong answers to the exercises of lesson 01, and a piece of the sentence that each should get."""

from __future__ import annotations

WRONG: dict[str, list[tuple[str, str]]] = {
    "decode": [
        (
            """
def decode(rgb):
    blue, green, red = rgb.astype(np.int32).transpose(2, 0, 1)
    return red + 256 * green + 65536 * blue
""",
            "exchanged",
        ),
        (
            """
def decode(rgb):
    red, green, blue = rgb.astype(np.int32).transpose(2, 0, 1)
    return red + 255 * green + 255 * 255 * blue
""",
            "256 values",
        ),
        (
            """
def decode(rgb):
    red, green, blue = rgb.transpose(2, 0, 1)
    return red + (green << 8) + (blue << 16)
""",
            "ran over",
        ),
    ],
    "boxes_of": [
        (
            """
def boxes_of(masks):
    return torchvision.ops.masks_to_boxes(masks)
""",
            "+1 is missing",
        ),
        (
            """
def boxes_of(masks):
    boxes = []
    for mask in masks:
        x, y = mask.nonzero().T
        boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
    return torch.tensor(boxes)
""",
            "exchanged",
        ),
        (
            """
def boxes_of(masks):
    boxes = []
    for mask in masks:
        y, x = mask.nonzero().T
        boxes.append([x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()])
    return torch.tensor(boxes)
""",
            "width and height",
        ),
    ],
    "centred": [
        (
            """
def centred(boxes, height, width):
    return boxes / torch.tensor([width, height, width, height])
""",
            "half a width",
        ),
        (
            """
def centred(boxes, height, width):
    x, y, w, h = boxes.unbind(1)
    return torch.stack([x + w / 2, y + h / 2, w, h], 1) / torch.tensor([height, width, height, width])
""",
            "exchanged",
        ),
        (
            """
def centred(boxes, height, width):
    x, y, w, h = boxes.unbind(1)
    return torch.stack([x + w / 2, y + h / 2, w, h], 1)
""",
            "these are pixels",
        ),
    ],
}
