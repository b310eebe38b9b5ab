"""Masked attention: after its first layer, the decoder looks for each query only where the query's own mask is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def hidden_cells(mask_logits: Tensor, size: Sequence[int]) -> Tensor:
    """mask_logits B N H/4 W/4, size (h, w) -> B N h*w, True where a query may not look: outside its mask.

    A query whose mask has no cell looks everywhere: it would see nothing, ever. Source: Cheng et al., Masked-attention Mask
    Transformer for Universal Image Segmentation (2022), section 3.2.1.
    """
    hidden = F.interpolate(mask_logits.float(), size=tuple(size), mode="area").flatten(2) < 0
    return hidden & ~hidden.all(-1, keepdim=True)
