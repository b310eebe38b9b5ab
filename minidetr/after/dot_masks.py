"""Masks as dot products: one map of embeddings an image, one embedding a query, and nothing more for each object.

DETR's mask head runs once for every object, at up to H/4 x W/4. Here all that is large runs once an image; an object costs a
perceptron and a matrix product. So every query can have a mask after every decoder layer, and masks can take part in the matching.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidetr.model.backbone import Features


class DotMasks(nn.Module):
    """A Feature Pyramid Network over the image, c channels wide, and a three-layer perceptron over the queries.

    Source: Cheng et al., Per-Pixel Classification is Not All You Need for Semantic Segmentation (2021), section 3.3.
    """

    def __init__(self, width: int, channels: tuple[int, ...], pixel_width: int):
        super().__init__()
        c, finer = pixel_width, (channels[2], channels[1], channels[0])  # Res4, Res3, Res2
        self.start = nn.Conv2d(width, c, kernel_size=1)
        self.laterals = nn.ModuleList(nn.Conv2d(stage, c, kernel_size=1) for stage in finer)
        self.convolutions = nn.ModuleList(nn.Conv2d(c, c, kernel_size=3, padding=1) for _ in finer)
        self.norms = nn.ModuleList(nn.GroupNorm(min(8, c), c) for _ in finer)
        self.output = nn.Conv2d(c, c, kernel_size=1)
        self.embed = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, c))
        self.scale = c**-0.5
        self.bias = nn.Parameter(torch.tensor(-2.0))  # as MaskHead starts: most pixels are not the object's

    def forward(self, memory: Tensor, features: Features) -> Tensor:
        """The encoded image B d h w and the features of B images -> pixel embeddings B c H/4 W/4, once an image."""
        x = self.start(memory)  # B c h w
        finer = (features.res4, features.res3, features.res2)
        for stage, lateral, convolution, norm in zip(finer, self.laterals, self.convolutions, self.norms, strict=True):
            side = lateral(stage)  # B c H/16 W/16, then H/8 W/8, then H/4 W/4
            x = F.interpolate(x, size=side.shape[-2:], mode="nearest") + side
            x = norm(convolution(x)).relu_()
        return self.output(x)

    def of_all(self, queries: Tensor, pixels: Tensor) -> Tensor:
        """queries B N d, pixels B c H/4 W/4 -> mask logits B N H/4 W/4 of every query."""
        embeddings = self.embed(queries) * self.scale  # B N c
        return torch.bmm(embeddings, pixels.flatten(2).to(embeddings.dtype)).unflatten(2, pixels.shape[-2:]) + self.bias

    def of_some(self, queries: Tensor, pixels: Tensor, image_index: Tensor) -> Tensor:
        """queries K d of the asked objects, pixels of B images, image_index K (0..B-1) -> mask logits K H/4 W/4."""
        if len(pixels) == 1:
            return self.of_all(queries[None], pixels)[0]
        masks = [self.of_all(queries[None, image_index == image], pixels[image : image + 1])[0] for image in range(len(pixels))]
        order = image_index.argsort(stable=True)  # the masks lie image by image: each goes back to its own place
        return torch.cat(masks)[order.argsort()]


def mask_cost(mask_logits: Tensor, shares: Sequence[Tensor], focal: float = 20.0, dice: float = 2.0) -> list[Tensor]:
    """What it costs, by its mask, to let each of N queries answer for each of an image's T segments: B of N T, by matrix products.

    `mask_logits` B N h w; `shares` of B images, T h w, say how much of each pixel is the segment's. The cost is that of
    `focal_loss` (a mean over pixels) and of `dice_loss`, each times its weight: those of `tiny`'s recipe. Of a pixel that
    is a segment's in part, the focal loss is taken for the part and for the rest, which makes it a matrix product.
    """
    logits = mask_logits.detach().float().flatten(2)  # B N P
    p = logits.sigmoid()
    one, zero = 0.25 * (1 - p) ** 2 * F.softplus(-logits), 0.75 * p**2 * F.softplus(logits)  # focal loss for truth 1, and for 0
    costs = []
    for image, of_segments in enumerate(shares):
        truth = of_segments.flatten(1).T  # P T
        overlap = p[image] @ truth  # N T
        of_dice = 1 - (2 * overlap + 1) / (p[image].sum(1)[:, None] + truth.sum(0) + 1)
        of_focal = ((one[image] - zero[image]) @ truth + zero[image].sum(1)[:, None]) / len(truth)
        costs.append(focal * of_focal + dice * of_dice)
    return costs
