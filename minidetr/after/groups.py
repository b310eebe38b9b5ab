"""More to learn from each image: further groups of queries, in training alone, each of which finds all objects by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from minidetr.after.decode import decode_again
from minidetr.model import Detections, PanopticDETR

T = TypeVar("T")


class Groups(nn.Module):
    """The query embeddings of the further groups. They look at the image through the model's own decoder.

    The groups do not see each other: that each finds all objects is one more lesson for the decoder from the same image, not one
    more place to find them. Source: Chen et al., Group DETR (2022).
    """

    def __init__(self, groups: int, queries: int, width: int):
        super().__init__()
        self.count = groups - 1  # beside the model's own
        self.query_embedding = nn.Parameter(torch.randn(self.count * queries, width))

    def forward(self, model: PanopticDETR, seen: Detections) -> list[Tensor]:
        """The box embeddings B groups*N d after each layer, group after group."""
        group = torch.arange(self.count, device=seen.memory.device).repeat_interleave(model.preset.queries)
        strangers = group[:, None] != group  # queries of other groups
        return decode_again(model, seen, self.query_embedding, strangers=strangers)

    def apart(self, of_queries: Tensor) -> Tensor:
        """B groups*N ... -> B*groups N ...: every group as if it were an image of its own."""
        return of_queries.unflatten(1, (self.count, -1)).flatten(0, 1)

    def repeated(self, of_images: Sequence[T]) -> list[T]:
        """What is known of each image, once for each of its groups: beside `apart`."""
        return [one for one in of_images for _ in range(self.count)]
