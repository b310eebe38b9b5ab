"""The format of `transformers`: a folder for DetrForSegmentation (or DetrForObjectDetection) and its image processor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from minidetr.data.coco import whole_folder
from minidetr.data.images import MEAN, STD
from minidetr.errors import InputError
from minidetr.export.engine import empty
from minidetr.export.official import refuse_after
from minidetr.model import PanopticDETR
from minidetr.panoptic import write_json
from minidetr.presets import Preset
from minidetr.weights.published import own_to_official
from minidetr.weights.transformers import preset_of_sizes

# Published names -> those that `transformers` had before its version 5, which reads them still.
NAMES = (
    (r"transformer\.(encoder|decoder)\.", r"model.\1."),
    (r"(encoder\.layers\.\d+)\.norm2\.", r"\1.final_layer_norm."),
    (r"(decoder\.layers\.\d+)\.norm2\.", r"\1.encoder_attn_layer_norm."),
    (r"\.norm1\.", ".self_attn_layer_norm."),
    (r"\.norm3\.", ".final_layer_norm."),
    (r"decoder\.norm\.", "decoder.layernorm."),
    (r"\.multihead_attn\.", ".encoder_attn."),
    (r"\.linear([12])\.", r".fc\1."),
    (r"input_proj\.", "model.input_projection."),
    (r"query_embed\.", "model.query_position_embeddings."),
    (r"class_embed\.", "class_labels_classifier."),
    (r"bbox_embed\.", "bbox_predictor."),
    (r"backbone\.0\.body\.", "model.backbone.conv_encoder.model."),
)
RESNET_NAMES = (  # of its own ResNet; with dilation it takes timm's, whose names are torchvision's
    (r"model\.conv1\.", "model.embedder.embedder.convolution."),
    (r"model\.bn1\.", "model.embedder.embedder.normalization."),
    (r"\.downsample\.0\.", ".shortcut.convolution."),
    (r"\.downsample\.1\.", ".shortcut.normalization."),
    (r"model\.layer(\d)\.(\d+)\.", lambda m: f"model.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}."),
    (r"(layers\.\d+)\.conv(\d)\.", lambda m: f"{m[1]}.layer.{int(m[2]) - 1}.convolution."),
    (r"(layers\.\d+)\.bn(\d)\.", lambda m: f"{m[1]}.layer.{int(m[2]) - 1}.normalization."),
)
RESNETS: dict[str, dict[str, Any]] = {
    "resnet18": {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"},
    "resnet50": {"depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048], "layer_type": "bottleneck"},
    "resnet101": {"depths": [3, 4, 23, 3], "hidden_sizes": [256, 512, 1024, 2048], "layer_type": "bottleneck"},
}


def export(model: PanopticDETR, folder: str | Path) -> None:
    """Write model.safetensors, config.json with the classes' names in `id2label`, and preprocessor_config.json.

    What is stuff, `transformers` is told at each call: `post_process_panoptic_segmentation(..., label_ids_to_fuse=IDS)`;
    config.json keeps the ids as `stuff_ids`, which `load` reads back with size and threshold. A model with a dilated last stage
    (DC5) needs timm there. Raises InputError for a model that `transformers` has no DETR of (ideas from after DETR, other
    backbones, a mask head of other widths) and for a folder that is not empty.
    """
    refuse_after(model, "transformers")
    refuse_unlike(model.preset)
    with whole_folder(empty(folder)) as part:
        save_file(renamed(model), part / "model.safetensors", metadata={"format": "pt"})
        write_json(part / "config.json", config_of(model))
        preset = model.preset
        processor = {
            "image_processor_type": "DetrImageProcessor",
            "format": "coco_detection" if preset.mask_widths is None else "coco_panoptic",
            "do_resize": True,
            "size": {"shortest_edge": preset.short_side, "longest_edge": preset.long_side},
            "resample": 2,  # bilinear
            "do_rescale": True,
            "do_normalize": True,
            "image_mean": MEAN,
            "image_std": STD,
            "do_pad": True,
        }
        write_json(part / "preprocessor_config.json", processor)


def refuse_unlike(preset: Preset) -> None:
    """Raise InputError for a model that differs from all of `transformers`' in more than its sizes."""
    if preset.backbone not in RESNETS:
        raise InputError(f"transformers has no backbone {preset.backbone}: its DETR takes {', '.join(RESNETS)}")
    sizes = {name: getattr(preset, name) for name in ("width", "heads", "feedforward", "encoder_layers", "decoder_layers")}
    widths = preset_of_sizes(preset.backbone, preset.dilation, sizes).mask_widths
    if preset.mask_widths not in (None, widths):
        raise InputError(f"transformers' mask head has the widths {widths} where this one has {preset.mask_widths}")


def renamed(model: PanopticDETR) -> dict[str, Tensor]:
    """The weights in float32 with the names of `transformers`; its attention has three projections for one of 3 d here."""
    state = {key: value.detach().cpu().float() for key, value in model.state_dict().items() if value.is_floating_point()}
    found: dict[str, Tensor] = {}
    for key, value in own_to_official(state).items():
        for pattern, replacement in (*NAMES, *(() if model.preset.dilation else RESNET_NAMES)):
            key = re.sub(pattern, replacement, key)  # type: ignore[arg-type]  # a text or a function, as re.sub takes them
        if ".in_proj_" in key:
            for p, third in zip("qkv", value.chunk(3), strict=True):
                found[key.replace(".in_proj_", f".{p}_proj.")] = third.contiguous()
        else:
            found[key] = value.contiguous()
    return found


def config_of(model: PanopticDETR) -> dict[str, Any]:
    """The content of config.json."""
    preset = model.preset
    names = {c.id: c.name for c in model.categories}
    labels = {i: names.get(i, f"LABEL_{i}") for i in range(model.num_classes)}  # its own word for a class without a name
    stages = [f"stage{i}" for i in (1, 2, 3, 4)]
    resnet = {"model_type": "resnet", "embedding_size": 64, "out_features": stages, **RESNETS[preset.backbone]}
    backbone: dict[str, Any] = {"use_timm_backbone": False, "backbone": None, "backbone_config": resnet, "dilation": False}
    if preset.dilation:
        backbone = {"use_timm_backbone": True, "backbone": preset.backbone, "backbone_config": None, "dilation": True}
    return {
        "architectures": ["DetrForObjectDetection" if preset.mask_widths is None else "DetrForSegmentation"],
        "model_type": "detr",
        **backbone,
        "use_pretrained_backbone": False,
        "d_model": preset.width,
        "encoder_layers": preset.encoder_layers,
        "decoder_layers": preset.decoder_layers,
        "encoder_attention_heads": preset.heads,
        "decoder_attention_heads": preset.heads,
        "encoder_ffn_dim": preset.feedforward,
        "decoder_ffn_dim": preset.feedforward,
        "dropout": preset.dropout,
        "num_queries": preset.queries,
        "position_embedding_type": "sine",
        "id2label": labels,
        "label2id": {name: i for i, name in labels.items()},
        "score_threshold": float(preset.threshold),
        "stuff_ids": [c.id for c in model.categories if not c.is_thing],
    }
