"""Weights in and out: `load` finds out what a name or a file is, `save` writes minidetr's own format."""

from __future__ import annotations

import errno
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.panoptic import Category, whole_file
from minidetr.presets import PUBLISHED, TRAINABLE, Preset, from_plain
from minidetr.presets import preset as preset_of
from minidetr.weights.files import read_pickle, read_safetensors
from minidetr.weights.published import assign, download, from_official, from_renamed, official_to_own
from minidetr.weights.transformers import from_transformers

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
