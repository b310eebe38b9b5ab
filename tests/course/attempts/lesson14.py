"""Plausible wrong answers to the exercises of lesson 14, each with a piece of the sentence that catches it, and right ones."""

from __future__ import annotations

FOCAL = (
    "def my_focal_cost(mask_logits, truth):\n"
    "    x, t = mask_logits.flatten(1), truth.flatten(1).T\n"
    "    p = x.sigmoid()\n"
    "    a, b = {a} * (1 - p)**2 * F.softplus(-x), {b} * p**2 * F.softplus(x)\n"
    "    return {end}"
)
END = "((a - b) @ t + b.sum(1)[:, None]) / len(t)"

WRONG: dict[str, list[tuple[str, str]]] = {
    "dot_masks": [
        (
            'def my_dot_masks(embeddings, pixels, image_index):\n    return torch.einsum("kc,chw->khw", embeddings, pixels[0])',
            "the first image's pixels",
        ),
        (
            "def my_dot_masks(embeddings, pixels, image_index):\n"
            '    return torch.einsum("kc,kchw->khw", embeddings, pixels[image_index.sort().values])',
            "sorted by image",
        ),
        (
            "def my_dot_masks(embeddings, pixels, image_index):\n"
            "    return (embeddings[:, :, None, None] * pixels[image_index]).mean(1)",
            "a dot product is the sum",
        ),
        (
            "def my_dot_masks(embeddings, pixels, image_index):\n"
            '    return torch.einsum("kc,kchw->khw", embeddings, pixels[image_index]).sigmoid()',
            "these are probabilities",
        ),
    ],
    "dice_cost": [
        (
            "def my_dice_cost(mask_logits, truth):\n"
            "    p, t = mask_logits.sigmoid().flatten(1), truth.flatten(1).T\n"
            "    return (2 * p @ t + 1) / (p.sum(1)[:, None] + t.sum(0) + 1)",
            "that is the overlap",
        ),
        (
            "def my_dice_cost(mask_logits, truth):\n"
            "    p, t = mask_logits.sigmoid().flatten(1), truth.flatten(1).T\n"
            "    return 1 - 2 * p @ t / (p.sum(1)[:, None] + t.sum(0))",
            "the two ones are missing",
        ),
        (
            "def my_dice_cost(mask_logits, truth):\n"
            "    p, t = mask_logits.sigmoid().flatten(1), truth.flatten(1).T\n"
            "    return 1 - (p @ t + 1) / (p.sum(1)[:, None] + t.sum(0) + 1)",
            "takes the overlap twice",
        ),
        (
            "def my_dice_cost(mask_logits, truth):\n"
            "    p, t = (mask_logits > 0).float().flatten(1), truth.flatten(1).T\n"
            "    return 1 - (2 * p @ t + 1) / (p.sum(1)[:, None] + t.sum(0) + 1)",
            "cut at 0",
        ),
    ],
    "focal_cost": [
        (FOCAL.format(a="0.75", b="0.25", end=END), "0.75 the others"),
        (FOCAL.format(a="1.0", b="1.0", end=END), "alpha is missing"),
        (FOCAL.format(a="0.25", b="0.75", end=END).replace("/ len(t)", ""), "the sum over the pixels"),
        (FOCAL.format(a="0.25", b="0.75", end=END).replace("**2", "**0"), "are missing"),
        (FOCAL.format(a="0.25", b="0.75", end=END).replace("**2", ""), "gamma is 2"),
        (FOCAL.format(a="0.25", b="0.75", end="((b - a) @ t + a.sum(1)[:, None]) / len(t)"), "exchanged"),
        (FOCAL.format(a="0.25", b="0.75", end="((a - b) @ t) / len(t)"), "the pixels outside"),
        (
            FOCAL.format(a="0.25", b="0.75", end="(a[:, :, None] * t + b[:, :, None] * (1 - t)).mean(1)"),
            "every pixel of every pair",
        ),
    ],
    "culprit": [
        ("line = 1", "one by one"),
        ("line = 2", "in their order"),
        ("line = 3", "their own image"),
        ("line = 5", "one of the lines"),
    ],
    "break_even": [
        (
            "def break_even(image_a, object_a, image_b, object_b):\n    return (image_b - image_a) / (object_a - object_b)",
            "a whole number",
        ),
        (
            "def break_even(image_a, object_a, image_b, object_b):\n"
            "    return max(0, (image_b - image_a) // (object_a - object_b))",
            "not cheaper yet",
        ),
        (
            "def break_even(image_a, object_a, image_b, object_b):\n    return (image_b - image_a) // (object_a - object_b) + 1",
            "is 0, not -7",
        ),
    ],
}

HARMLESS: dict[str, list[str]] = {
    "dot_masks": [
        "def my_dot_masks(embeddings, pixels, image_index):\n"
        "    return (embeddings[:, :, None, None] * pixels[image_index]).sum(1)",
        "def my_dot_masks(embeddings, pixels, image_index):\n"
        "    masks = [F.conv2d(pixels[i : i + 1], e[None, :, None, None])[0, 0] for e, i in zip(embeddings, image_index)]\n"
        "    return torch.stack(masks)",
        "def my_dot_masks(embeddings, pixels, image_index):\n"
        "    h, w = pixels.shape[-2:]\n"
        "    return torch.bmm(embeddings[:, None], pixels[image_index].flatten(2)).view(-1, h, w)",
    ],
    "dice_cost": [
        "def my_dice_cost(mask_logits, truth):\n"
        "    p = torch.sigmoid(mask_logits)\n"
        "    overlap = torch.einsum('nhw,thw->nt', p, truth)\n"
        "    return 1 - (2 * overlap + 1) / (p.sum((1, 2))[:, None] + truth.sum((1, 2))[None] + 1)",
        "def my_dice_cost(mask_logits, truth):\n"
        "    return torch.stack([torch.stack([dice_loss(m[None], t[None], 1.0) for t in truth]) for m in mask_logits])",
    ],
    "focal_cost": [
        "def my_focal_cost(mask_logits, truth):\n"
        "    p = mask_logits.sigmoid()\n"
        "    one = -0.25 * (1 - p) ** 2 * p.log()\n"
        "    zero = -0.75 * p**2 * (1 - p).log()\n"
        "    inside, outside = torch.einsum('nhw,thw->nt', one, truth), torch.einsum('nhw,thw->nt', zero, 1 - truth)\n"
        "    return (inside + outside) / truth[0].numel()",
        "def my_focal_cost(mask_logits, truth):\n"
        "    x, t = mask_logits.flatten(1), truth.flatten(1)\n"
        "    ones, zeros = torch.ones_like(x), torch.zeros_like(x)\n"
        "    a = 0.25 * (1 - x.sigmoid()).pow(2) * F.binary_cross_entropy_with_logits(x, ones, reduction='none')\n"
        "    b = 0.75 * x.sigmoid().pow(2) * F.binary_cross_entropy_with_logits(x, zeros, reduction='none')\n"
        "    return (a @ t.T + b @ (1 - t).T) / x.shape[1]",
        "def my_focal_cost(mask_logits, truth):\n"
        "    rows = [torch.stack([focal_loss(m[None], t[None], 1.0) for t in truth]) for m in mask_logits]\n"
        "    return torch.stack(rows)",
    ],
    "break_even": [
        "def break_even(image_a, object_a, image_b, object_b):\n"
        "    return max(0, (image_b - image_a) // (object_a - object_b) + 1)",
        "def break_even(image_a, object_a, image_b, object_b):\n"
        "    return next(K for K in range(10**6) if image_b + K * object_b < image_a + K * object_a)",
    ],
}
