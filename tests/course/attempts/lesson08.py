"""Plausible wrong answers to the exercises of lesson 08, each with a piece of the sentence that should catch it."""

from __future__ import annotations

WRONG: dict[str, list[tuple[str, str]]] = {
    "jaccard_loss": [
        (
            """
def jaccard_loss(mask_logits, masks):
    probability, masks = mask_logits.sigmoid(), masks.float()
    intersection = (probability * masks).sum((1, 2))
    return (1 - (intersection + 1) / (probability.sum((1, 2)) + masks.sum((1, 2)) + 1)).mean()
""",
            "counted twice",
        ),
        (
            """
def jaccard_loss(mask_logits, masks):
    probability, masks = mask_logits.sigmoid(), masks.float()
    intersection = (probability * masks).sum((1, 2))
    return (1 - (2 * intersection + 1) / (probability.sum((1, 2)) + masks.sum((1, 2)) + 1)).mean()
""",
            "this is DICE",
        ),
        (
            """
def jaccard_loss(mask_logits, masks):
    probability, masks = mask_logits.sigmoid(), masks.float()
    intersection = (probability * masks).sum()
    union = probability.sum() + masks.sum() - intersection
    return 1 - (intersection + 1) / (union + 1)
""",
            "judge every mask on its own",
        ),
        (
            """
def jaccard_loss(mask_logits, masks):
    masks = masks.float()
    intersection = (mask_logits * masks).sum((1, 2))
    union = mask_logits.sum((1, 2)) + masks.sum((1, 2)) - intersection
    return (1 - (intersection + 1) / (union + 1)).mean()
""",
            "turned into probabilities",
        ),
        (
            """
def jaccard_loss(mask_logits, masks):
    probability, masks = mask_logits.sigmoid(), masks.float()
    intersection = (probability * masks).sum((1, 2))
    union = probability.sum((1, 2)) + masks.sum((1, 2)) - intersection
    return (1 - (intersection + 1) / (union + 1)).sum()
""",
            "take their mean",
        ),
    ],
    "matched_masks": [
        (
            """
def matched_masks(masks, image_index, segment_index, size):
    whole = torch.cat([F.pad(m.float(), (0, size[1] - m.shape[2], 0, size[0] - m.shape[1])) for m in masks])
    return whole[segment_index]
""",
            "counts within its image",
        ),
        (
            """
def matched_masks(masks, image_index, segment_index, size):
    pairs = zip(image_index, segment_index)
    return torch.cat([F.interpolate(masks[i][s].float()[None, None], size=size)[0] for i, s in pairs])
""",
            "stretched to the padded size",
        ),
        (
            """
def matched_masks(masks, image_index, segment_index, size):
    result = torch.zeros(len(image_index), *size)
    for k, (image, segment) in enumerate(zip(image_index, segment_index)):
        mask = masks[image][segment]
        result[k, size[0] - mask.shape[0] :, size[1] - mask.shape[1] :] = mask
    return result
""",
            "in the wrong place",
        ),
        (
            """
def matched_masks(masks, image_index, segment_index, size):
    return torch.stack([masks[image][segment] for image, segment in zip(image_index, segment_index)])
""",
            "your code raised",
        ),
    ],
    "train_masks_only": [
        (
            """
def train_masks_only(model):
    model.requires_grad_(False)
    model.mask_head.requires_grad_(True)
    model.heatmap_attention.requires_grad_(True)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
""",
            "running statistics of BatchNorm moved",
        ),
        (
            """
def train_masks_only(model):
    model.requires_grad_(False).eval()
    model.mask_head.requires_grad_(True)
    return list(model.mask_head.parameters())
""",
            "heatmap_attention belongs to the mask stage",
        ),
        (
            """
def train_masks_only(model):
    model.eval()
    return [*model.mask_head.parameters(), *model.heatmap_attention.parameters()]
""",
            "would train as well",
        ),
        (
            """
def train_masks_only(model):
    model.requires_grad_(False)
    model.backbone.eval()
    model.mask_head.requires_grad_(True)
    model.heatmap_attention.requires_grad_(True)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
""",
            "dropout is still on",
        ),
        (
            """
def train_masks_only(model):
    model.requires_grad_(False).eval()
    model.mask_head.requires_grad_(True)
    model.heatmap_attention.requires_grad_(True)
    return list(model.parameters())
""",
            "exactly the parameters that train",
        ),
    ],
}
