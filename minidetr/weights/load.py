"""Weights in and out: published ones (.pth, or as `transformers` saves them), the shipped model, and minidetr's own files.

Nothing in a file is ever run: pickles are read by torch's weights-only unpickler, everything else is safetensors.
"""

from __future__ import annotations

import errno
import json
import pickle
import re
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.panoptic import Category, whole_file
from minidetr.presets import PUBLISHED, PUBLISHED_ADDRESS, TRAINABLE, Preset, from_plain
from minidetr.presets import preset as preset_of

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

# The same for the files of `transformers` (patterns, since it numbers a ResNet's stages from 0): -> published names.
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

SHIPPED = Path(__file__).parent


def shipped_weights(name: str) -> Path | None:
    """The file of a model that comes with the package, or None."""
    path = SHIPPED / f"{name}.safetensors"
    return path if path.is_file() else None


def load(name_or_path: str | Path, preset: str | None = None) -> PanopticDETR:
    """A model in eval mode from a name or a file.

    A name is that of a published model (downloaded once, hash-checked, kept in torch.hub's folder) or of a shipped one. A path is
    a `.safetensors` of minidetr or of `transformers`, a `.pth` of the published code, or a folder that holds one (a run's best
    weights). `preset` names the published model that a renamed or fine-tuned file has the shape of. Raises InputError.
    """
    name = str(name_or_path)
    if name in PUBLISHED:
        return from_official(read_pickle(download(name)), name)
    if name in TRAINABLE:
        path = shipped_weights(name)
        if path is None:
            raise InputError(
                f"the preset {name!r} comes without weights of its own: train it, or give a file or one of {', '.join(PUBLISHED)}"
            )
        return load_file(path, preset)
    path = Path(name_or_path)
    if path.is_dir():
        found = [path / n for n in ("best.safetensors", "last.safetensors", "model.safetensors") if (path / n).is_file()]
        if not found:
            raise InputError(
                f"{path} holds no best.safetensors, last.safetensors or model.safetensors: give a run's folder or a weights file"
            )
        path = found[0]
    if not path.is_file():
        known = ", ".join([n for n in TRAINABLE if shipped_weights(n)] + list(PUBLISHED))
        raise InputError(f"there is no model or file {name!r}: give a path to weights or one of {known}")
    return load_file(path, preset)


def load_file(path: Path, preset: str | None) -> PanopticDETR:
    """A model from one weights file of any of the three kinds. Raises InputError naming the file."""
    if path.suffix != ".safetensors":
        chosen = preset_of(preset or name_of_file(path))
        return from_renamed(official_to_own(read_pickle(path)), chosen, path)
    state, metadata = read_safetensors(path)
    if "minidetr" in metadata:
        return from_own(state, metadata["minidetr"], path)
    return from_transformers(state, path, preset)


def name_of_file(path: Path) -> str:
    """The published model that a file's name says it is: the longest known name it starts with."""
    names = [n for n in PUBLISHED if path.name.startswith(n)]
    if not names:
        raise InputError(f"{path} does not say which model it is: give preset=, one of {', '.join(PUBLISHED)}")
    return max(names, key=len)


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


def hash_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The state dict in a `.pth`, by torch's weights-only unpickler: tensors and plain containers, nothing else."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is refused: it holds more than tensors, or is no weights file, and loading it could run code"
        ) from error
    except Exception as error:  # on damaged files the unpickler raises anything, IndexError and struct.error among them
        raise InputError(f"{path} is damaged or no weights file: fetch it again") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise InputError(f"{path} holds no state dict: it must be one, or a dict with one under 'model'")
    return state


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a `.safetensors` file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or no safetensors file: fetch or save it again") from error


def from_official(state_dict: dict[str, Tensor], name: str) -> PanopticDETR:
    """A model with the weights of a published state dict; its classes and queries follow from the shapes.

    `name` is one of the published models'. Raises InputError when a key is missing, left over or of another shape.
    """
    return from_renamed(official_to_own(state_dict), preset_of(name), name)


def from_renamed(
    state: dict[str, Tensor], preset: Preset, source: str | Path, categories: list[Category] | None = None
) -> PanopticDETR:
    """A model in eval mode from a state dict in minidetr's names."""
    try:
        logits, queries = len(state["heads.classes.bias"]), len(state["decoder.query_embedding.weight"])
    except KeyError as error:
        raise InputError(f"{source}: the weights lack {error}: they are not those of a DETR") from None
    if preset.mask_widths and "mask_head.output.weight" not in state:
        preset = replace(preset, mask_widths=None)
    with torch.device("meta"):  # no time spent on values that the weights replace
        model = PanopticDETR(replace(preset, queries=queries), categories or coco_categories(logits - 1), logits - 1)
    assign(model, state, source)
    return model.eval()


def assign(model: PanopticDETR, state: dict[str, Tensor], source: str | Path) -> None:
    """Put a state dict in minidetr's names into a model on the meta device, in float32. Raises InputError if it doesn't fit."""
    expected = model.state_dict()
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    wrong = [k for k in expected if k in state and expected[k].shape != state[k].shape]
    for keys, what in ((missing, "lack"), (unexpected, "have beyond the model"), (wrong, "have another shape for")):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise InputError(f"{source}: the weights {what} {keys[0]}{more}: they belong to another model")
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()}, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)


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


def coco_categories(num_classes: int) -> list[Category]:
    """COCO's 133 panoptic categories (250 classes) or the 80 things among them (91); else nameless things 0..C-1."""
    if num_classes not in (91, 250):
        return [Category(i, f"class {i}", True) for i in range(num_classes)]
    rows = json.loads(Path(__file__).with_name("coco_categories.json").read_text(encoding="utf-8"))
    return [Category(r["id"], r["name"], bool(r["isthing"])) for r in rows if r["id"] < num_classes]


def save(model: PanopticDETR, path: str | Path, half: bool = False, notes: dict | None = None) -> None:
    """Write a model whole or not at all: weights, preset, categories and `notes` in one safetensors file.

    `half` stores weights in float16; normalisation statistics stay float32 (float16 ones cost more than a point of PQ).
    """
    about = {
        "preset": asdict(model.preset),
        "categories": [c.to_json() for c in model.categories],
        "num_classes": model.num_classes,
        **(notes or {}),
    }
    tensors = {}
    for key, value in model.state_dict().items():
        shrink = half and value.is_floating_point() and "running_" not in key
        tensors[key] = value.detach().to("cpu", torch.float16 if shrink else value.dtype).contiguous()
    with whole_file(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"minidetr": json.dumps(about)})
        except SafetensorError as error:  # so it calls a full disk, too
            raise OSError(errno.EIO, str(error)) from error


def from_own(state: dict[str, Tensor], about: str, path: Path) -> PanopticDETR:
    """A model from a file that `save` wrote."""
    try:
        content = json.loads(about)
        categories = [
            Category(c["id"], c["name"], bool(c["isthing"]), tuple(c["color"]) if c.get("color") else None)
            for c in content["categories"]
        ]
        with torch.device("meta"):
            model = PanopticDETR(from_plain(Preset, content["preset"]), categories, content["num_classes"])
    except Exception as error:  # a description from elsewhere may hold anything, and PyTorch's modules assert and divide
        raise InputError(f"{path}: its description is damaged ({error!r}): save the model again with minidetr") from error
    assign(model, state, path)
    return model.eval()
