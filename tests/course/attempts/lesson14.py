"""Plausible wrong answers to the exercises of lesson 14, each with a piece of the sentence that catches it."""

from __future__ import annotations

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
