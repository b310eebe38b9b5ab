"""The decoder of `minidetr.model.transformer` with all that came after it: other queries, and two more masks of attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minidetr.model import Detections, PanopticDETR
from minidetr.model.position import sine_position
from minidetr.model.transformer import Decoder, DecoderLayer, to_sequence


def decode(
    decoder: Decoder,
    memory: Tensor,
    position: Tensor,
    padding: Tensor | None,
    query_embedding: Tensor | None = None,
    x: Tensor | None = None,
    strangers: Tensor | None = None,
    hides: Callable[[Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """memory, position B d h w; padding B h w or None -> the box embeddings B N d after each layer.

    With nothing else it is `decoder` itself. `query_embedding` N d or B N d and `x` B N d replace what the queries are told apart
    by and what they start from; `strangers` N N or B N N is True where a query does not attend to another; `hides` makes of the box
    embeddings B N d after a layer the cells B N h*w that the next layer's queries do not look at.
    """
    memory, position = to_sequence(memory), to_sequence(position)  # B h*w d
    padding = None if padding is None else padding.flatten(1)  # B h*w
    learned = decoder.query_embedding.weight if query_embedding is None else query_embedding
    query_embedding = learned.expand(len(memory), -1, -1)  # B N d
    x = torch.zeros_like(query_embedding) if x is None else x
    outputs: list[Tensor] = []
    for layer in decoder.layers:
        hidden = hides(outputs[-1]) if hides is not None and outputs else None
        x = through(layer, x, query_embedding, memory, position, padding, strangers, hidden)  # B N d
        outputs.append(decoder.norm(x))
    return outputs


def decode_again(
    model: PanopticDETR, seen: Detections, query_embedding: Tensor, x: Tensor | None = None, strangers: Tensor | None = None
) -> list[Tensor]:
    """`decode` for other queries than the model's own, on what it has seen: a pass by itself, which cannot reach theirs."""
    position = sine_position(seen.padding, seen.memory.shape[1]).to(seen.memory.dtype)
    padding = seen.padding if seen.is_padded else None
    return decode(model.decoder, seen.memory, position, padding, query_embedding, x, strangers)


def through(
    layer: DecoderLayer | Any,
    x: Tensor,
    query_embedding: Tensor,
    memory: Tensor,
    position: Tensor,
    padding: Tensor | None,
    strangers: Tensor | None,
    hidden: Tensor | None,
) -> Tensor:
    """x, query_embedding B N d; memory, position B h*w d -> B N d: a decoder layer, step by step as its own `forward`."""
    query = key = x + query_embedding
    attended, _ = layer.self_attention(query, key, x, attn_mask=per_head(layer, strangers), need_weights=False)
    x = layer.norm1(x + layer.dropout(attended))
    query, key = x + query_embedding, memory + position
    masks = {"key_padding_mask": padding, "attn_mask": per_head(layer, hidden)}
    attended, _ = layer.cross_attention(query, key, memory, **masks, need_weights=False)
    x = layer.norm2(x + layer.dropout(attended))
    return layer.norm3(x + layer.dropout(layer.linear2(layer.dropout(layer.linear1(x).relu()))))


def per_head(layer: DecoderLayer | Any, mask: Tensor | None) -> Tensor | None:
    """A mask of B images as nn.MultiheadAttention takes it: B*M N S; one for all images, N S, as it is."""
    return mask if mask is None or mask.ndim == 2 else mask.repeat_interleave(layer.self_attention.num_heads, dim=0)
