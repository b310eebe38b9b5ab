"""Where each cell of the grid lies: sine and cosine waves of its row and column."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_position(padding: Tensor, width: int, temperature: float = 10000.0) -> Tensor:
    """padding B h w (True where padded) -> position encoding B d h w, with d = `width`; the first half encodes the row.

    Rows and columns are counted over the image alone and scaled to 0..2 pi, so that an image has the same encoding whatever
    the batch pads it to. Channel 2i is sin(p / t), channel 2i+1 is cos(p / t) with t = temperature^(2i / (d/2)).
    Source: DETR, section 3.2 and appendix A.4; Vaswani et al., section 3.5.
    """
    inside = (~padding).float()
    row, column = inside.cumsum(dim=1), inside.cumsum(dim=2)  # B h w, counted from 1
    row = row / (row[:, -1:, :] + 1e-6) * 2 * math.pi
    column = column / (column[:, :, -1:] + 1e-6) * 2 * math.pi
    half = width // 2
    channel = torch.arange(half, dtype=torch.float32, device=padding.device)
    wavelength = temperature ** (2 * torch.div(channel, 2, rounding_mode="floor") / half)  # d/2
    waves = []
    for place in (row, column):
        angle = place[..., None] / wavelength  # B h w d/2
        waves.append(torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(-2))
    return torch.cat(waves, dim=-1).permute(0, 3, 1, 2)  # B d h w
