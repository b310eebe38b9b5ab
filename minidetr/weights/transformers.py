"""The files of `transformers`: their names to the published ones, and the model that their config.json describes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor

from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.panoptic import Category
from minidetr.presets import PUBLISHED, Preset
from minidetr.presets import preset as preset_of
from minidetr.weights.published import from_renamed, official_to_own

# Each row replaces a part of a key (patterns, since it numbers a ResNet's stages from 0): -> published names.
TRANSFORMERS_NAMES = (
    (r"^(detr\.)?(model\.)?", ""),
    (r"backbone\.(conv_encoder\.)?model\.", "backbone.0.body."),
    (r"embedder\.embedder\.convolution\.", "conv1."),
    (r"embedder\.embedder\.normalization\.", "bn1."),
    (r"body\.encoder\.stages\.(\d)\.layers\.", lambda m: f"body.layer{int(m[1]) + 1}."),
    (r"shortcut\.convolution\.", "downsample.0."),
    (r"shortcut\.normalization\.", "downsample.1."),
    (r"\.layer\.(\d)\.convolution\.", lambda m: f".conv{int(m[1]) + 1}."),
    (r"\.layer\.(\d)\.normalization\.", lambda m: f".bn{int(m[1]) + 1}."),
    (r"^input_projection\.", "input_proj."),
    (r"^query_position_embeddings\.", "query_embed."),
    (r"^class_labels_classifier\.", "class_embed."),
    (r"^bbox_predictor\.", "bbox_embed."),
    (r"^(encoder|decoder)\.", r"transformer.\1."),
    (r"decoder\.layernorm\.", "decoder.norm."),
    (r"(encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm2."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.encoder_attn_layer_norm\.", ".norm2."),
    (r"\.final_layer_norm\.", ".norm3."),
    (r"\.encoder_attn\.", ".multihead_attn."),
    (r"\.o_proj\.", ".out_proj."),
    (r"\.(mlp\.)?fc([12])\.", r".linear\2."),
    (r"^bbox_attention\.([qk])_proj\.", r"bbox_attention.\1_linear."),
    (r"^mask_head\.conv([12])\.conv\.", r"mask_head.lay\1."),
    (r"^mask_head\.conv([12])\.norm\.", r"mask_head.gn\1."),
    (r"^mask_head\.fpn_stages\.(\d)\.fpn_adapter\.", lambda m: f"mask_head.adapter{int(m[1]) + 1}."),
    (r"^mask_head\.fpn_stages\.(\d)\.refine\.conv\.", lambda m: f"mask_head.lay{int(m[1]) + 3}."),
    (r"^mask_head\.fpn_stages\.(\d)\.refine\.norm\.", lambda m: f"mask_head.gn{int(m[1]) + 3}."),
    (r"^mask_head\.output_conv\.", "mask_head.out_lay."),
)


def from_transformers(state_dict: dict[str, Tensor], path: Path, preset: str | None) -> PanopticDETR:
    """A model from a `.safetensors` of `transformers`' DetrForSegmentation or DetrForObjectDetection.

    The architecture is read from the `config.json` beside it, or said by `preset`. Raises InputError.
    """
    fused: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        for pattern, replacement in TRANSFORMERS_NAMES:
            key = re.sub(pattern, replacement, key)
        if not key.endswith("num_batches_tracked"):
            fused[key] = value
    for key in [k for k in fused if ".q_proj." in k]:  # queries, keys and values: three projections there, one of 3 d here
        leaf = key.rsplit(".", 1)[1]
        parts = [fused.pop(key.replace(".q_proj.", f".{p}_proj."), torch.empty(0)) for p in "qkv"]
        fused[key.replace(f".q_proj.{leaf}", f".in_proj_{leaf}")] = torch.cat(parts)
    categories = None
    config_file = path.with_name("config.json")
    if preset is not None:
        chosen = preset_of(preset)
    elif config_file.is_file():
        chosen, categories = read_transformers_config(config_file)
    else:
        raise InputError(
            f"{path} does not say which model it is: put its config.json beside it, or give preset=, one of {', '.join(PUBLISHED)}"
        )
    own = official_to_own(fused)
    return from_renamed(own, chosen, path, categories if len(own.get("heads.classes.bias", ())) not in (92, 251) else None)


def read_transformers_config(path: Path) -> tuple[Preset, list[Category]]:
    """The preset and the categories of a `config.json` of `transformers`."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        inner = config.get("backbone_config") or {}  # of a ResNet by its depths, or of a timm model by its name
        depths, named = tuple(inner.get("depths") or ()), inner.get("backbone") or config.get("backbone")
        backbone = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (): named}.get(depths)
        if backbone not in ("resnet50", "resnet101"):
            raise InputError(
                f"{path}: the backbone {backbone or depths} is not one of resnet50 and resnet101, which minidetr knows"
            )
        d, M = config["d_model"], config["encoder_attention_heads"]
        chosen = Preset(
            backbone=backbone,
            dilation=bool(config.get("dilation", False)),
            width=d,
            heads=M,
            feedforward=config["encoder_ffn_dim"],
            encoder_layers=config["encoder_layers"],
            decoder_layers=config["decoder_layers"],
            mask_widths=(d + M, d // 2, d // 4, d // 8, d // 16),
        )
        labels = config.get("id2label") or {}
        return chosen, [Category(int(i), str(n), True) for i, n in labels.items()]
    except InputError:
        raise
    except Exception as error:  # a file from elsewhere may hold anything
        raise InputError(f"{path}: {error!r} is missing or wrong: it is not the config.json of a DETR of transformers") from error
