"""The files of `transformers`: their names to the published ones, and what their config.json says of the model."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidetr.errors import InputError, InputWarning
from minidetr.panoptic import Category, read_json
from minidetr.presets import Preset
from minidetr.weights.published import COCO_CLASSES, coco_categories, nameless

# Each row replaces a part of a key (patterns, since it numbers a ResNet's stages from 0): -> published names.
TRANSFORMERS_NAMES = (
    (r"^backbone\.(conv_encoder\.)?model\.(_backbone\.)?", "backbone.0.body."),
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


def transformers_to_official(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of `transformers`' DetrForSegmentation or DetrForObjectDetection -> published ones; published ones stay as they are."""
    fused: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        for pattern, replacement in TRANSFORMERS_NAMES:
            key = re.sub(pattern, replacement, key)
        fused[key] = value
    for key in [k for k in fused if ".q_proj." in k]:  # queries, keys and values: three projections there, one of 3 d here
        leaf = key.rsplit(".", 1)[1]
        parts = [fused.pop(key.replace(".q_proj.", f".{p}_proj."), torch.empty(0)) for p in "qkv"]
        if parts[0].ndim and len({part.shape for part in parts}) == 1:  # else it is left out, and missed
            fused[key.replace(f".q_proj.{leaf}", f".in_proj_{leaf}")] = torch.cat(parts)
    return fused


def preset_of_config(path: Path) -> Preset:
    """The preset of a `config.json` of `transformers`. Raises InputError when it is that of another model."""
    config = read_json(path, "the config.json of a DETR of transformers")
    try:
        inner = config.get("backbone_config") or {}  # of a ResNet by its depths, or of a timm model by its name
        depths, named = tuple(inner.get("depths") or ()), inner.get("backbone") or config.get("backbone")
        backbone = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (): named}.get(depths)
        if backbone not in ("resnet18", "resnet50", "resnet101"):
            raise InputError(
                f"{path}: the backbone {backbone or depths} is not one of resnet18, resnet50 and resnet101, which minidetr knows"
            )
        sizes = {
            "width": config["d_model"],
            "heads": config["encoder_attention_heads"],
            "feedforward": config["encoder_ffn_dim"],
            "encoder_layers": config["encoder_layers"],
            "decoder_layers": config["decoder_layers"],
        }
        preset = preset_of_sizes(backbone, bool(config.get("dilation", False)), sizes)
        beside = path.with_name("preprocessor_config.json")  # what its image processor makes of photos
        size = read_json(beside, "the preprocessor_config.json beside it").get("size") if beside.is_file() else None
        short, long = (size.get("shortest_edge"), size.get("longest_edge")) if isinstance(size, dict) else (None, None)
        if isinstance(short, int) and isinstance(long, int) and 0 < short <= long:
            preset = replace(preset, short_side=short, long_side=long)
        threshold = config.get("score_threshold")  # minidetr's own exports have it
        return replace(preset, threshold=float(threshold)) if isinstance(threshold, float) and 0 <= threshold <= 1 else preset
    except InputError:
        raise
    except Exception as error:  # a file from elsewhere may hold anything
        raise InputError(f"{path}: {error!r} is missing or wrong: it is not the config.json of a DETR of transformers") from error


def preset_of_sizes(backbone: str, dilation: bool, sizes: dict[str, Any]) -> Preset:
    """A preset with the mask head's widths that the published code derives from the others. Raises ValueError for a wrong size."""
    for name, value in sizes.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} = {value!r}")
    d, M = sizes["width"], sizes["heads"]
    return Preset(backbone=backbone, dilation=dilation, mask_widths=(d + M, d // 2, d // 4, d // 8, d // 16), **sizes)


def labels_of_config(path: Path, num_classes: int) -> list[Category] | None:
    """The categories 0..C-1 that a `config.json` of `transformers` names in its `id2label`; None where it names none.

    Labels beyond the model's classes are ignored, and classes without one are nameless; all are things, which the file does not
    say, unless minidetr wrote it (`stuff_ids`). COCO's own labels give COCO's categories, stuff among them. LABEL_0, LABEL_1, ...
    are `transformers`' words for no names.
    Raises InputError where the labels seem to count from 1: whether the outputs were trained so, too, the file does not say. Two
    classes of one name are said in a warning.
    """
    content = read_json(path, "the config.json of a DETR of transformers")
    labels = content.get("id2label") or {}
    try:
        names = {int(i): name for i, name in labels.items() if 0 <= int(i) < num_classes and name != f"LABEL_{int(i)}"}
        numbers = {int(i) for i in labels}
        if not all(isinstance(name, str) for name in names.values()):
            raise TypeError("a label is no text")
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: the field 'id2label' must have a name for each class's number, but {error}: mend it") from None
    if numbers and 0 not in numbers and max(numbers) >= num_classes:
        raise InputError(
            f"{path}: the field 'id2label' names {max(numbers)} but not 0, and the model's classes are 0..{num_classes - 1}: count "
            "the labels from 0, or say with categories= (--categories) which class is which"
        )
    if not names:
        return None
    if num_classes in COCO_CLASSES and all(names.get(c.id) == c.name for c in coco_categories(num_classes)):
        return coco_categories(num_classes)
    [(name, count)] = Counter(name for name in names.values() if name != "N/A").most_common(1) or [("", 0)]
    if count > 1:
        sentence = f"{path}: the field 'id2label' names {count} classes {name!r}: give each a name of its own there"
        warnings.warn(sentence, InputWarning, stacklevel=2)
    if isinstance(stuff := content.get("stuff_ids"), list):  # minidetr's own export: it names every class that there is
        return [Category(i, name, i not in stuff) for i, name in sorted(names.items())]
    return [Category(c.id, names.get(c.id, c.name), True) for c in nameless(num_classes)]
