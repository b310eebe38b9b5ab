"""Answers to the exercises of lesson 01: plausible wrong ones, with a piece of the sentence each should get, and right ones."""

from __future__ import annotations

START = """
def target_of(ids, segments):
    wanted = [s for s in segments if not s["iscrowd"] and (ids == s["id"]).any()]
    labels = torch.tensor([s["category_id"] for s in wanted])
    masks = torch.stack([ids == s["id"] for s in wanted])
    boxes = []
    for mask in masks:
        y, x = mask.nonzero().T
        left, right, top, bottom = x.min(), x.max() + 1, y.min(), y.max() + 1
"""
END = "    return labels, torch.tensor(boxes), masks\n"


def with_box(line: str) -> str:
    """The right answer but for the line that makes a box of left, right, top, bottom."""
    return START + f"        {line}\n" + END


RIGHT_BOX = "boxes.append([(left + right) / 20, (top + bottom) / 12, (right - left) / 10, (bottom - top) / 6])"

WRONG: dict[str, list[tuple[str, str]]] = {
    "target_of": [
        (with_box(RIGHT_BOX).replace('not s["iscrowd"] and ', ""), "the crowd"),
        (with_box(RIGHT_BOX).replace('s["category_id"]', 's["id"]'), "segments' ids"),
        (with_box(RIGHT_BOX).replace(" + 1", ""), "+1 is missing"),
        (with_box("boxes.append([left / 10, top / 6, right / 10, bottom / 6])"), "these are left, top"),
        (with_box("boxes.append([left / 10, top / 6, (right - left) / 10, (bottom - top) / 6])"), "the corner"),
        (with_box("boxes.append([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])"), "these are pixels"),
        (
            with_box("boxes.append([(left + right) / 12, (top + bottom) / 20, (right - left) / 6, (bottom - top) / 10])"),
            "are exchanged: x is divided",
        ),
        (with_box(RIGHT_BOX).replace("y, x = mask", "x, y = mask"), "rows and columns"),
        (with_box("boxes.append([(top + bottom) / 12, (left + right) / 20, (bottom - top) / 6, (right - left) / 10])"), "x and y"),
        (
            """
def target_of(ids, segments):
    wanted = [s for s in segments if not s["iscrowd"]]
    labels = torch.tensor([s["category_id"] for s in wanted])
    masks = torch.stack([ids == s["id"] for s in wanted])
    return labels, torch.zeros(len(wanted), 4), masks
""",
            "without a pixel",
        ),
        (
            """
def target_of(ids, segments):
    wanted = [s for s in segments if not s["iscrowd"] and (ids == s["id"]).any()]
    labels = torch.tensor([s["category_id"] for s in wanted])
    masks = torch.stack([ids == s["id"] for s in wanted])
    x, y, w, h = torch.tensor([s["bbox"] for s in wanted]).T
    return labels, torch.stack([(x + w / 2) / 10, (y + h / 2) / 6, w / 10, h / 6], 1), masks
""",
            "JSON's bbox",
        ),
    ],
    "planted": [
        ("line = 5", "line 5 is right"),
        ("line = 3", "one mask per entry"),
        ("line = 7", "in all three"),
        ("line = 9", "1 to 7"),
    ],
    "side": [("n = 20", "both sides"), ("n = 39", "not above"), ("n = 41", "smallest"), ("n = 5", "0.6400")],
    "resize_ids": [
        (
            """
def resize_ids(ids, height, width):
    return torch.nn.functional.interpolate(ids[None, None].float(), (height, width), mode="nearest")[0, 0].int()
""",
            "has moved",
        ),
        (
            """
def resize_ids(ids, height, width):
    return torch.nn.functional.interpolate(ids[None, None].float(), (height, width), mode="bilinear")[0, 0].round().int()
""",
            "do not average",
        ),
        (
            """
def resize_ids(ids, height, width):
    return torch.tensor(np.asarray(Image.fromarray(ids.numpy()).resize((height, width), Image.Resampling.NEAREST)))
""",
            "should have the shape",
        ),
        (
            """
def resize_ids(ids, height, width):
    rows = torch.linspace(0, ids.shape[0] - 1, height).round().long()
    columns = torch.linspace(0, ids.shape[1] - 1, width).round().long()
    return ids[rows[:, None], columns]
""",
            "under their centre",
        ),
    ],
}

HARMLESS: dict[str, list[str]] = {
    "target_of": [
        with_box(RIGHT_BOX),
        """
def target_of(ids, segments):
    H, W = ids.shape
    labels, boxes, masks = [], [], []
    for segment in segments:
        mask = ids == segment["id"]
        if segment.get("iscrowd") or not mask.any():
            continue
        rows, columns = mask.any(1).nonzero().squeeze(1), mask.any(0).nonzero().squeeze(1)
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        labels.append(segment["category_id"])
        boxes.append(torch.stack([(left + right) / 2 / W, (top + bottom) / 2 / H, (right - left) / W, (bottom - top) / H]))
        masks.append(mask)
    return torch.tensor(labels), torch.stack(boxes), torch.stack(masks)
""",
        """
def target_of(ids, segments):
    H, W = ids.shape
    wanted = [s for s in segments if s["iscrowd"] == 0]
    masks = ids == torch.tensor([s["id"] for s in wanted])[:, None, None]
    keep = masks.flatten(1).any(1)
    masks, labels = masks[keep], torch.tensor([s["category_id"] for s in wanted])[keep]
    corners = torchvision.ops.masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
    return [labels, torchvision.ops.box_convert(corners, "xyxy", "cxcywh") / torch.tensor([W, H, W, H]), masks]
""",
    ],
    "resize_ids": [
        """
def resize_ids(ids, height, width):
    return torch.nn.functional.interpolate(ids[None, None].double(), (height, width), mode="nearest-exact")[0, 0].int()
""",
        """
def resize_ids(ids, height, width):
    H, W = ids.shape
    rows = [ids[(2 * i + 1) * H // (2 * height)] for i in range(height)]
    return np.array([[row[(2 * j + 1) * W // (2 * width)] for j in range(width)] for row in rows])
""",
        """
def resize_ids(ids, height, width):
    return torch.tensor(np.asarray(Image.fromarray(ids.numpy()).resize((width, height), Image.Resampling.NEAREST)))
""",
    ],
}
