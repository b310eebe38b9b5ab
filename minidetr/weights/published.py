"""The published models: where their files come from, their names and ours, and a model from their weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor

from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.panoptic import Category
from minidetr.presets import PUBLISHED, PUBLISHED_ADDRESS, Preset
from minidetr.presets import preset as preset_of
from minidetr.weights.files import hash_of, unwrapped

# The map between names: published -> minidetr. Every row replaces a part of a key; read right to left it is the way back.
OFFICIAL_NAMES = (
    ("backbone.0.body.", "backbone.resnet."),
    ("input_proj.", "backbone.projection."),
    ("transformer.encoder.", "encoder."),
    ("transformer.decoder.", "decoder."),
    (".self_attn.", ".self_attention."),
    (".multihead_attn.", ".cross_attention."),
    ("query_embed.", "decoder.query_embedding."),
    ("class_embed.", "heads.classes."),
    ("bbox_embed.layers.2.", "heads.boxes.4."),
    ("bbox_embed.layers.1.", "heads.boxes.2."),
    ("bbox_embed.layers.0.", "heads.boxes.0."),
    ("bbox_attention.q_linear.", "heatmap_attention.query."),
    ("bbox_attention.k_linear.", "heatmap_attention.key."),
    *((f"mask_head.lay{i + 1}.", f"mask_head.convolutions.{i}.") for i in range(5)),
    *((f"mask_head.gn{i + 1}.", f"mask_head.norms.{i}.") for i in range(5)),
    *((f"mask_head.adapter{i + 1}.", f"mask_head.laterals.{i}.") for i in range(3)),
    ("mask_head.out_lay.", "mask_head.output."),
)


COCO_CLASSES = (91, 250)  # outputs of the published detection and panoptic models


def cached(name: str) -> Path | None:
    """Where the published file of `name` lies once it has been downloaded, or None."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / PUBLISHED[name][1]
    return path if path.is_file() else None


def download(name: str) -> Path:
    """The published file of `name`: from the cache if its hash is right, else over https to a temporary name, then checked."""
    file_name = PUBLISHED[name][1]
    path, url = Path(torch.hub.get_dir()) / "checkpoints" / file_name, PUBLISHED_ADDRESS + file_name
    prefix = file_name.rsplit("-", 1)[1].removesuffix(".pth")
    if path.is_file():
        if hash_of(path).startswith(prefix):
            return path
        raise InputError(f"{path} is damaged (its SHA-256 does not start with {prefix}): delete it and try again")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix)
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(f"{url} could not be downloaded ({error}): fetch it by hand and put it at {path}") from error
    return path


def from_official(state_dict: dict[str, Tensor], name: str) -> PanopticDETR:
    """A model with the weights of a published state dict; its classes and queries follow from the shapes.

    `name` is one of the published models'. Raises InputError when a key is missing, left over or of another shape.
    """
    own = official_to_own(unwrapped(state_dict, name))
    return from_renamed(own, preset_of(name), name, coco_categories(outputs_of(own, name)))


def outputs_of(state: dict[str, Tensor], source: str | Path) -> int:
    """The number of classes C of a state dict in minidetr's names: its class head has one output more, "no object"."""
    for key in ("decoder.query_embedding.weight", "heads.classes.bias"):
        if key in state and (state[key].ndim == 0 or len(state[key]) < 1):
            raise InputError(f"{source}: the weights have another shape for {key}: they belong to another model")
    if "decoder.query_embedding.weight" not in state:
        raise InputError(f"{source}: the weights lack 'decoder.query_embedding.weight': they are not those of a DETR")
    if "heads.classes.bias" not in state:
        raise InputError(
            f"{source}: the class head is missing (class_embed, in published names), so it can only be trained from: "
            f"minidetr train --from {source} --data FOLDER gives it a new one"
        )
    return len(state["heads.classes.bias"]) - 1


def from_renamed(state: dict[str, Tensor], preset: Preset, source: str | Path, categories: list[Category]) -> PanopticDETR:
    """A model in eval mode from a state dict in minidetr's names; queries, and whether it has masks, follow from the weights.

    Raises InputError when a key is missing, left over or of another shape, or when no model of these sizes can be built.
    """
    logits, queries = outputs_of(state, source), len(state["decoder.query_embedding.weight"])
    if preset.mask_widths and "mask_head.output.weight" not in state:
        preset = replace(preset, mask_widths=None)
    try:
        if max(preset.encoder_layers, preset.decoder_layers) > len(state):  # sizes from a file may be any number
            raise ValueError(f"{preset.encoder_layers} + {preset.decoder_layers} layers are more than the weights have")
        with torch.device("meta"):  # no time spent on values that the weights replace
            model = PanopticDETR(replace(preset, queries=queries), categories, logits)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    except Exception as error:  # PyTorch's modules assert and divide
        raise InputError(f"{source}: no model has the sizes it is said to have ({error}): give the preset= that it has") from error
    assign(model, state, source)
    return model.eval()


def assign(model: PanopticDETR, state: dict[str, Tensor], source: str | Path) -> None:
    """Put a state dict in minidetr's names into a model on the meta device, in float32.

    Raises InputError when a key is missing, left over or of another shape, and for values that are integers or not finite.
    """
    expected = model.state_dict()
    # A model trained without frozen normalisation has counters beside the statistics: frozen normalisation needs none.
    state = {key: value for key, value in state.items() if key in expected or not key.endswith("num_batches_tracked")}
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    wrong = [k for k in expected if k in state and expected[k].shape != state[k].shape]
    for keys, what in ((missing, "lack"), (unexpected, "have beyond the model"), (wrong, "have another shape for")):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise InputError(f"{source}: the weights {what} {keys[0]}{more}: they belong to another model")
    for key in expected:
        if expected[key].is_floating_point():
            state[key] = checked(state[key], key, source)
    model.load_state_dict(state, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def checked(value: Tensor, key: str, source: str | Path) -> Tensor:
    """A weight in float32. Raises InputError, naming it, for integers and for values that are NaN or infinite."""
    if not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise InputError(
            f"{source}: the weights hold {kind} for {key}, as quantised models do: give the file with floating-point weights"
        )
    value = value.float()
    if not value.isfinite().all():
        raise InputError(
            f"{source}: {key} holds values that are NaN or infinite, as of a training that diverged: give weights saved before that"
        )
    return value


def official_to_own(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published names -> minidetr's."""
    own = {}
    for key, value in state_dict.items():
        key = key.removeprefix("detr.")
        for published, ours in OFFICIAL_NAMES:
            key = key.replace(published, ours)
        own[key] = value
    return own


def own_to_official(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """minidetr's names -> published ones (with the prefix `detr.` that a model with a mask head has there)."""
    with_masks = any(key.startswith("mask_head.") for key in state_dict)
    official = {}
    for key, value in state_dict.items():
        prefix = "detr." if with_masks and not key.startswith(("mask_head.", "heatmap_attention.")) else ""
        for published, ours in reversed(OFFICIAL_NAMES):
            key = key.replace(ours, published)
        official[prefix + key] = value
    return official


def nameless(num_classes: int) -> list[Category]:
    """Categories 0..C-1 for outputs of which nobody said what they are, things all."""
    return [Category(i, f"class {i}", True) for i in range(num_classes)]


def coco_categories(num_classes: int) -> list[Category]:
    """COCO's 133 panoptic categories (250 classes) or the 80 things among them (91); else nameless things 0..C-1."""
    if num_classes not in COCO_CLASSES:
        return nameless(num_classes)
    rows = json.loads(Path(__file__).with_name("coco_categories.json").read_text(encoding="utf-8"))
    return [Category(r["id"], r["name"], bool(r["isthing"])) for r in rows if r["id"] < num_classes]
