"""Random weights with which a wrong mask head cannot agree by chance.

With the usual initialisation all queries see nearly the same heatmaps, and the masks come out equal whichever query is asked. Here
activations stay moderate through the ResNet, attention selects, and the heatmaps reach the mask head as loud as the features do.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

GAINS = {  # the variance of an output for an input of variance 1, by a part of the key: minidetr's names and those of transformers
    r"heatmap_attention|bbox_attention": 3.0,
    r"in_proj_weight|(self|encoder)_attn\.[qk]_proj": 5.0,
    r"(cross_attention|encoder_attn)\.o(ut)?_proj": 5.0,
    r"self_att.*\.o(ut)?_proj|linear2|fc2": 0.05,
    r"laterals|fpn_adapter": 0.05,
    r"heads\.|class_labels_classifier|bbox_predictor": 3.0,
}


@torch.no_grad()
def spread(model: nn.Module, width: int, seed: int = 0) -> None:
    """Draw all weights of a DETR of model width `width` anew, in place, and put it in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            value.copy_(drawn(key, torch.randn(value.shape, generator=generator), width))
    model.eval()


def drawn(key: str, noise: Tensor, width: int) -> Tensor:
    """The weight `key` from standard normal `noise` of its shape."""
    if key.endswith("running_var"):
        return 1 + 0.2 * noise.abs()
    if key.endswith("running_mean"):
        return 0.1 * noise
    if "query" in key and "embedding" in key:
        return noise
    if noise.ndim <= 1:
        last_of_block = re.search(r"bn3\.|layer\.2\.normalization\.", key)
        return (0.25 if last_of_block else 1.0) * (1 + 0.1 * noise) if key.endswith("weight") else 0.05 * noise
    if re.search(r"input_projection|backbone\.projection", key):
        noise = noise - noise.mean(dim=1, keepdim=True)  # a ReLU's outputs are positive: places differ more than their average
    gain = next((g for part, g in GAINS.items() if re.search(part, key)), 2.0)
    weight = noise * (gain / noise[0].numel()) ** 0.5
    if re.search(r"mask_head\.conv(olutions\.0|1\.conv)\.weight", key):
        weight[:, width:] *= 2000  # heatmaps sum to 1 over heads and pixels
    return weight
