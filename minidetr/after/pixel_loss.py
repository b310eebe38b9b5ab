"""More to learn from masks as dot products: every pixel's embedding should say which segment it is of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def discrimination_loss(pixels: Tensor, shares: Sequence[Tensor], temperature: float = 0.3) -> Tensor:
    """Each pixel's embedding should be nearer to the mean of its own segment's than to those of the image's others -> scalar.

    `pixels` B c h w are compared by their direction alone; `shares` of B images, K h w, say how much of each pixel is the
    segment's. Every segment of an image weighs the same, and the images are summed up. The masks of a dozen matched queries say
    little about a pixel; this asks all pixels, whatever the queries have found. Images with fewer than two segments add nothing.
    Source: Wang et al., MaX-DeepLab (2021), section 3.4, "instance discrimination".
    """
    losses = [pixels.sum() * 0]  # connected to the model, so that no process waits for a gradient that never comes
    for embeddings, of_segments in zip(pixels.permute(0, 2, 3, 1).flatten(1, 2), shares, strict=True):  # P c, K h w
        if len(of_segments) > 1:
            directions = F.normalize(embeddings.float(), dim=1)  # P c
            share = of_segments.flatten(1)  # K P
            share = share / share.sum(1, keepdim=True).clamp(min=1e-6)
            means = F.normalize(share @ directions, dim=1)  # K c
            nearness = means @ directions.T / temperature  # K P
            losses.append(-(share * nearness.log_softmax(0)).sum() / len(share))
    return torch.stack(losses).sum()
