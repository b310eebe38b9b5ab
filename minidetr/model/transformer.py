"""The encoder, where every cell of the image attends to every other, and the decoder, where object queries look at the image.

Letters: B images, h w the grid, d model width, N object queries. The layers are post-norm, as published (DETR, figure 10):
positions are added to queries and keys in every attention, never to values, and nothing is added to the residual stream.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EncoderLayer(nn.Module):
    """Self-attention over the h*w cells, then a two-layer perceptron, each with a residual and a LayerNorm."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        self.self_attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None) -> Tensor:
        """x, position B h*w d; padding B h*w (True: never attended to) or None -> B h*w d."""
        query = key = x + position
        attended, _ = self.self_attention(query, key, x, key_padding_mask=padding, need_weights=False)
        x = self.norm1(x + self.dropout(attended))
        hidden = self.dropout(self.linear1(x).relu())  # B h*w feedforward
        return self.norm2(x + self.dropout(self.linear2(hidden)))  # B h*w d


class Encoder(nn.Module):
    """grid -> sequence -> layers that keep the shape -> grid: the encoded image."""

    def __init__(self, layers: int, width: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, heads, feedforward, dropout) for _ in range(layers))

    def forward(self, grid: Tensor, position: Tensor, padding: Tensor | None) -> Tensor:
        """grid, position B d h w; padding B h w or None -> memory B d h w. At 640x640: 256x20x20 -> 400x256 -> 256x20x20."""
        B, d, h, w = grid.shape
        x = to_sequence(grid)  # B h*w d
        position = to_sequence(position)  # B h*w d
        padding = None if padding is None else padding.flatten(1)  # B h*w
        for layer in self.layers:
            x = layer(x, position, padding)  # B h*w d
        return x.transpose(1, 2).reshape(B, d, h, w)


class DecoderLayer(nn.Module):
    """Queries attend to each other, then to the image, then pass a perceptron, each with a residual and a LayerNorm."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        self.self_attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, query_embedding: Tensor, memory: Tensor, position: Tensor, padding: Tensor | None) -> Tensor:
        """x, query_embedding B N d; memory, position B h*w d; padding B h*w or None -> B N d."""
        query = key = x + query_embedding
        attended, _ = self.self_attention(query, key, x, need_weights=False)
        x = self.norm1(x + self.dropout(attended))
        query, key = x + query_embedding, memory + position
        attended, _ = self.cross_attention(query, key, memory, key_padding_mask=padding, need_weights=False)
        x = self.norm2(x + self.dropout(attended))
        hidden = self.dropout(self.linear1(x).relu())  # B N feedforward
        return self.norm3(x + self.dropout(self.linear2(hidden)))  # B N d


class Decoder(nn.Module):
    """N learned queries, zero at first and told apart by their embedding, become N box embeddings.

    Every layer's output passes the same final LayerNorm and is returned: in training each layer is supervised.
    """

    def __init__(self, layers: int, width: int, heads: int, feedforward: int, dropout: float, queries: int):
        super().__init__()
        self.query_embedding = nn.Embedding(queries, width)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, feedforward, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, memory: Tensor, position: Tensor, padding: Tensor | None) -> list[Tensor]:
        """memory, position B d h w; padding B h w or None -> the box embeddings B N d after each layer."""
        memory, position = to_sequence(memory), to_sequence(position)  # B h*w d
        padding = None if padding is None else padding.flatten(1)  # B h*w
        query_embedding = self.query_embedding.weight.expand(len(memory), -1, -1)  # B N d
        x, outputs = torch.zeros_like(query_embedding), []
        for layer in self.layers:
            x = layer(x, query_embedding, memory, position, padding)  # B N d
            outputs.append(self.norm(x))
        return outputs


def to_sequence(grid: Tensor) -> Tensor:
    """B d h w -> B h*w d, row after row: 256x20x20 -> 400x256."""
    return grid.flatten(2).transpose(1, 2)
