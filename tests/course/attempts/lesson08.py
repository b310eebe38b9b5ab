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
    "focal_loss": [
        (
            """
def focal_loss(mask_logits, masks, alpha=0.25, gamma=2.0):
    return package.focal_loss(mask_logits, masks, len(masks), 1 - alpha, gamma)
""",
            "exchanged",
        ),
        (
            """
def focal_loss(mask_logits, masks, alpha=0.25, gamma=2.0):
    return package.focal_loss(mask_logits, masks, 1, alpha, gamma)
""",
            "masks are added up",
        ),
        (
            """
def focal_loss(mask_logits, masks, alpha=0.25, gamma=2.0):
    return package.focal_loss(mask_logits, masks, len(masks), alpha, 0)
""",
            "(1 - p_t)^gamma is missing",
        ),
        (
            """
def focal_loss(mask_logits, masks, alpha=0.25, gamma=2.0):
    p = mask_logits.sigmoid()
    p_t = p * masks + (1 - p) * (1 - masks)
    entropy = F.binary_cross_entropy_with_logits(mask_logits, masks, reduction="none")
    return (alpha * (1 - p_t) ** gamma * entropy).mean()
""",
            "the weight is 1 - alpha",
        ),
        (
            """
def focal_loss(mask_logits, masks, alpha=0.25, gamma=2.0):
    p = mask_logits.sigmoid()
    p_t = p * masks + (1 - p) * (1 - masks)
    alpha_t = alpha * masks + (1 - alpha) * (1 - masks)
    entropy = -(masks * p.log() + (1 - masks) * (1 - p).log())
    return (alpha_t * (1 - p_t) ** gamma * entropy).mean()
""",
            "sure mistake",
        ),
        (
            """
def focal_loss(mask_logits, masks, alpha=0.25, gamma=2.0):
    return package.focal_loss(mask_logits, masks, len(masks), alpha, 2.0)
""",
            "gamma",
        ),
    ],
    "dice_loss": [
        (
            """
def dice_loss(mask_logits, masks):
    return package.dice_loss(mask_logits, masks, 1)
""",
            "masks are added up",
        ),
        (
            """
def dice_loss(mask_logits, masks):
    p = mask_logits.sigmoid()
    return 1 - (2 * (p * masks).sum() + 1) / (p.sum() + masks.sum() + 1)
""",
            "taken for one",
        ),
        (
            """
def dice_loss(mask_logits, masks):
    p = mask_logits.sigmoid()
    return (1 - 2 * (p * masks).sum((1, 2)) / (p.sum((1, 2)) + masks.sum((1, 2)))).mean()
""",
            "the + 1",
        ),
        (
            """
def dice_loss(mask_logits, masks):
    overlap = (mask_logits * masks).sum((1, 2))
    return (1 - (2 * overlap + 1) / (mask_logits.sum((1, 2)) + masks.sum((1, 2)) + 1)).mean()
""",
            "these are logits",
        ),
        (
            """
def dice_loss(mask_logits, masks):
    return 1 - package.dice_loss(mask_logits, masks, len(masks))
""",
            "1 minus it",
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

HARMLESS: dict[str, list[str]] = {
    "focal_loss": [
        """
def focal_loss(mask_logits, masks, alpha=0.25, gamma=2.0):
    return package.focal_loss(mask_logits, masks, len(masks), alpha, gamma)
""",
        """
def focal_loss(mask_logits, masks, alpha=0.25, gamma=2.0):
    x, m = mask_logits.flatten(), masks.flatten()
    wrong = (torch.sigmoid(x) + m - 2 * torch.sigmoid(x) * m).pow(gamma)
    weight = (1 - alpha) + (2 * alpha - 1) * m
    return torch.sum(weight * wrong * F.binary_cross_entropy_with_logits(x, m, reduction="none")) / x.numel()
""",
    ],
    "dice_loss": [
        """
def dice_loss(mask_logits, masks):
    return package.dice_loss(mask_logits, masks, len(masks))
""",
        """
def dice_loss(mask_logits, masks):
    losses = []
    for x, m in zip(mask_logits, masks):
        p = 1 / (1 + torch.exp(-x))
        losses.append((p.sum() + m.sum() - 2 * (p * m).sum()) / (p.sum() + m.sum() + 1))
    return sum(losses) / len(losses)
""",
    ],
    "jaccard_loss": [
        """
def jaccard_loss(mask_logits, masks):
    p = torch.sigmoid(mask_logits).flatten(1)
    both, either = (p * masks.flatten(1)).sum(1), torch.maximum(p, torch.zeros(())).sum(1) + masks.flatten(1).sum(1)
    return 1 - ((both + 1) / (either - both + 1)).mean()
""",
        """
def jaccard_loss(mask_logits, masks):
    p, m = mask_logits.sigmoid(), masks.float()
    union = (p + m - p * m).sum((-2, -1))
    return torch.stack([1 - (i + 1) / (u + 1) for i, u in zip((p * m).sum((-2, -1)), union)]).mean()
""",
    ],
    "matched_masks": [
        """
def matched_masks(masks, image_index, segment_index, size):
    chosen = [masks[image][segment] for image, segment in zip(image_index, segment_index)]
    return torch.stack([F.pad(mask, (0, size[1] - mask.shape[1], 0, size[0] - mask.shape[0])) for mask in chosen])
""",
        """
def matched_masks(masks, image_index, segment_index, size):
    padded = [F.pad(m.float(), (0, size[1] - m.shape[2], 0, size[0] - m.shape[1])) for m in masks]
    return torch.cat([padded[i][s : s + 1] for i, s in zip(image_index, segment_index)])
""",
    ],
    "train_masks_only": [
        """
def train_masks_only(model):
    model.eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.split(".")[0] in ("mask_head", "heatmap_attention")
    return [*model.heatmap_attention.parameters(), *model.mask_head.parameters()]
""",
        """
def train_masks_only(model):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.train(False)
    trained = [*model.mask_head.parameters(), *model.heatmap_attention.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    model.mask_head.train()
    return trained
""",
    ],
}
