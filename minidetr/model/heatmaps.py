"""Where in the image each object's M attention heads look: K box embeddings -> K M h w heatmaps."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class HeatmapAttention(nn.Module):
    """Multi-head attention of box embeddings over the encoded image, without values: the weights are the result.

    The softmax runs over heads and pixels together, so the M maps of one object share a total of 1; a head that finds nothing
    can stay dark. Published weights depend on it (DETR issue 247; the paper's figure 8 suggests one softmax a head).
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.heads, self.scale = heads, (width / heads) ** -0.5

    def forward(self, queries: Tensor, memory: Tensor, image_index: Tensor, padding: Tensor | None = None) -> Tensor:
        """queries K d of the asked objects, memory B d h w, image_index K (0..B-1), padding B h w or None -> heatmaps K M h w."""
        B, d, h, w = memory.shape
        K, M = queries.shape[0], self.heads
        query = self.query(queries).view(K, M, d // M) * self.scale
        key = self.key(memory.flatten(2).transpose(1, 2))  # B h*w d, once an image, however many objects it has
        key = key.view(B, h * w, M, d // M)
        scores = torch.einsum("kmc,kpmc->kmp", query, per_object(key, image_index))  # K M h*w
        if padding is not None:
            scores = scores.masked_fill(padding[image_index].flatten(1)[:, None], float("-inf"))
        return scores.flatten(1).softmax(dim=-1).view(K, M, h, w)


def per_object(of_image: Tensor, image_index: Tensor) -> Tensor:
    """B ... -> K ...: to each object what was computed of its image. One image only: 1 ..., broadcast instead of copied."""
    return of_image if len(of_image) == 1 else of_image[image_index]
