"""DETR's arithmetic in plain parts of torchvision and torch, every mask of every query: what the published code's layers compute.

No code of anyone is copied: a torchvision ResNet with frozen norms, nn.MultiheadAttention as it comes, positions added to queries
and keys, a mask head on the concatenation of each query's features and heatmaps. Its weights are those of a PanopticDETR.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter

from minidetr.model import PanopticDETR
from minidetr.model.position import sine_position
from minidetr.model.transformer import to_sequence


class PlainDETR(nn.Module):
    """A normalised image 1 3 H W -> logits 1 N C+1, boxes 1 N 4, mask logits 1 N H/4 W/4."""

    def __init__(self, model: PanopticDETR):
        super().__init__()
        layers = {f"layer{i}": f"res{i + 1}" for i in (1, 2, 3, 4)}
        self.body, self.model = IntermediateLayerGetter(model.backbone.resnet, layers), model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model: Any = self.model
        features = self.body(images)  # torchvision's own blocks, each norm after its convolution
        projected = model.backbone.projection(features["res5"])
        padding = torch.zeros(1, *projected.shape[-2:], dtype=torch.bool)
        grid = sine_position(padding, projected.shape[1])
        x, position, mask = to_sequence(projected), to_sequence(grid), padding.flatten(1)
        for layer in model.encoder.layers:
            q = k = x + position
            x = layer.norm1(x + layer.self_attention(q, k, x, key_padding_mask=mask)[0])
            x = layer.norm2(x + layer.linear2(F.relu(layer.linear1(x))))
        memory, embedding = x, model.decoder.query_embedding.weight[None]
        x = torch.zeros_like(embedding)
        for layer in model.decoder.layers:
            q = k = x + embedding
            x = layer.norm1(x + layer.self_attention(q, k, x)[0])
            x = layer.norm2(x + layer.cross_attention(x + embedding, memory + position, memory, key_padding_mask=mask)[0])
            x = layer.norm3(x + layer.linear2(F.relu(layer.linear1(x))))
        queries = model.decoder.norm(x)
        logits, boxes = model.heads(queries)
        return logits, boxes, self.masks(queries, memory.transpose(1, 2).unflatten(2, projected.shape[-2:]), features, projected)

    def masks(self, queries: Tensor, memory: Tensor, features: dict[str, Tensor], projected: Tensor) -> Tensor:
        """Heatmaps of all queries, concatenated with the features that are copied for each of them, through the whole head."""
        attention, head = self.model.heatmap_attention, self.model.mask_head
        N, M = queries.shape[1], attention.heads
        q = attention.query(queries).view(1, N, M, -1)
        k = F.conv2d(memory, attention.key.weight[..., None, None], attention.key.bias)
        k = k.view(1, M, -1, *k.shape[-2:])
        heatmaps = torch.einsum("bqnc,bnchw->bqnhw", q * attention.scale, k)
        heatmaps = heatmaps.flatten(2).softmax(-1).view_as(heatmaps).flatten(0, 1)
        x = torch.cat([projected.expand(N, -1, -1, -1), heatmaps], 1)
        for i in (0, 1):
            x = F.relu(head.norms[i](head.convolutions[i](x)))
        for i, (name, lateral) in enumerate(zip(("res4", "res3", "res2"), head.laterals, strict=True), start=2):
            side = lateral(features[name]).expand(N, -1, -1, -1)
            x = F.relu(head.norms[i](head.convolutions[i](side + F.interpolate(x, size=side.shape[-2:], mode="nearest"))))
        return head.output(x).view(1, N, *x.shape[-2:])
