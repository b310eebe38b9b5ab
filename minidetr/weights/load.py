"""Weights in and out: `load` finds out what a name or a file is, `save` writes minidetr's own format."""

from __future__ import annotations

import errno
import json
import os
import re
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from minidetr.after import build
from minidetr.data.index import read_category
from minidetr.errors import InputError, InputWarning
from minidetr.model import PanopticDETR
from minidetr.panoptic import whole_file
from minidetr.presets import PUBLISHED, TRAINABLE, Preset, from_plain
from minidetr.weights.describe import Categories, described_categories, described_preset, given_categories
from minidetr.weights.files import read_pickle, read_safetensors, read_shards, unwrapped
from minidetr.weights.hub import fetched, is_hub_name
from minidetr.weights.published import assign, download, from_renamed, official_to_own, outputs_of
from minidetr.weights.transformers import transformers_to_official

SHIPPED = Path(__file__).parent


def shipped_weights(name: str) -> Path | None:
    """The file of a model that comes with the package, or None."""
    path = SHIPPED / f"{name}.safetensors"
    return path if path.is_file() else None


def load(
    name_or_path: str | Path,
    preset: str | None = None,
    categories: Categories | None = None,
    *,
    otherwise: str | None = None,
    headless: bool = False,
) -> PanopticDETR:
    """A model in eval mode from a name or a file.

    A name is that of a published model (downloaded once, hash-checked, kept in torch.hub's folder), of a shipped one, or
    `org/name` on the Hugging Face hub (kept in its cache). A path, which wins over a name of the hub, is a file or the folder that
    holds it: minidetr's `.safetensors` (of a run's folder the best), or a `.pth`, `.ckpt`, `.bin`, `.safetensors` or `*.index.json`
    with the names of the published code or of `transformers`, whatever a training framework wrote before them.

    `preset` names the published model that a renamed or fine-tuned file has the shape of. `categories` say what its classes are: a
    JSON with "categories" in COCO's format, "coco" for COCO's own, or a list of Category; see `described_categories` for what they
    are without. For training: `otherwise` is the preset of a file that says none, and with `headless` a file whose class head is
    cut off gives a model with a random one and no categories. Raises InputError.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise InputError(f"name_or_path must be a model's name or a path, but is {name_or_path!r}")
    name = str(name_or_path)
    if name in PUBLISHED:
        return load_file(download(name), name, categories, name)
    path = Path(name_or_path)
    if name in TRAINABLE:
        shipped = shipped_weights(name)
        if shipped is None:
            raise InputError(
                f"the preset {name!r} comes without weights of its own: train it, or give a file or one of {', '.join(PUBLISHED)}"
            )
        path = shipped
    elif not path.exists() and is_hub_name(name):
        path = fetched(name)
    if path.is_dir():
        path = weights_in(path)
    if not path.is_file():
        known = ", ".join([n for n in TRAINABLE if shipped_weights(n)] + list(PUBLISHED))
        raise InputError(f"there is no model or file {name!r}: give a path to weights or one of {known}")
    return load_file(path, preset, categories, name, otherwise=otherwise, headless=headless)


# What a folder is known by, the first that is there: minidetr's, those of `transformers`, the published code's.
IN_FOLDERS = (
    *("best.safetensors", "last.safetensors"),
    *("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    "checkpoint.pth",
)


def weights_in(folder: Path) -> Path:
    """The weights file of a folder; of the output of `transformers`' Trainer, that of the newest checkpoint. Raises InputError."""
    for name in IN_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    checkpoints = [path for path in folder.iterdir() if re.fullmatch(r"checkpoint-\d+", path.name)]
    steps = {int(path.name.removeprefix("checkpoint-")): path for path in checkpoints}
    for step in sorted(steps, reverse=True):
        if any((steps[step] / name).is_file() for name in IN_FOLDERS):
            sentence = f"{folder} holds checkpoints of a training: taken is {steps[step].name}, the newest"
            warnings.warn(sentence, InputWarning, stacklevel=2)
            return weights_in(steps[step])
    only = sorted(folder.glob("*.safetensors"))
    if len(only) == 1:
        return only[0]
    if (folder / "model.json").is_file() and (folder / "decode.onnx").is_file() | (folder / "decode.xml").is_file():
        raise InputError(f"{folder} is an export, which `minidetr predict` alone takes: give the weights that it was made of")
    raise InputError(f"{folder} holds no {', '.join(IN_FOLDERS[:-1])} or {IN_FOLDERS[-1]}: give a run's folder or a weights file")


def load_file(
    path: Path,
    preset: str | None,
    categories: Categories | None = None,
    name: str = "",
    *,
    otherwise: str | None = None,
    headless: bool = False,
) -> PanopticDETR:
    """A model from one weights file of any kind, as `load` says; `name` is what the user called it.

    Raises InputError naming the file.
    """
    arguments: dict[str, Any] = {}
    if path.name.endswith(".index.json"):
        state = read_shards(path)
    elif path.suffix == ".safetensors":
        state, metadata = read_safetensors(path)
        if "minidetr" in metadata:
            return from_own(state, metadata["minidetr"], path, categories)
    else:
        state, arguments = read_pickle(path)
    state = official_to_own(transformers_to_official(unwrapped(state, path)))
    shape = described_preset(path, preset, arguments, otherwise)
    if headless and "heads.classes.bias" not in state:
        state |= {f"heads.classes.{k}": v for k, v in nn.Linear(shape.width, 2).state_dict().items()}
        return from_renamed(state, shape, path, [])
    return from_renamed(state, shape, path, described_categories(path, name, outputs_of(state, path), categories))


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


def from_own(state: dict[str, Tensor], about: str, path: Path, other: Categories | None = None) -> PanopticDETR:
    """A model from a file that `save` wrote; with `other` categories, those."""
    try:
        content = json.loads(about)
        categories = [read_category(entry, f"categories[{i}]") for i, entry in enumerate(content["categories"])]
        if len({category.id for category in categories}) < len(categories):
            raise InputError("two 'categories' have the same id")
        if not categories and other is None:
            raise InputError("'categories' is empty")
        with torch.device("meta"):
            model = build(from_plain(Preset, content["preset"]), categories, content["num_classes"])
    except Exception as error:  # a description from elsewhere may hold anything, and PyTorch's modules assert and divide
        why = error if isinstance(error, InputError) else repr(error)
        raise InputError(f"{path}: its description is damaged ({why}): save the model again with minidetr") from error
    if other is not None:
        model.categories = given_categories(other, model.num_classes, path)
    assign(model, state, path)
    return model.eval()
