"""Weights files: pickles (by torch's weights-only unpickler, which runs nothing in them) and safetensors, whole or in shards.

Also what frameworks put around a model's weights: other things in the same dictionary, prefixes before every name.
"""

from __future__ import annotations

import os
import pickle
import re
from argparse import Namespace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minidetr.errors import InputError
from minidetr.panoptic import leads_out, read_json


def hash_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict in a `.pth`, `.ckpt` or `.bin`, and the arguments that the training code wrote beside it ({} if none).

    By torch's weights-only unpickler: tensors and plain containers, and for this one load `argparse.Namespace` and paths as plain
    data, because the published training code saves its arguments so. Nothing else, and nothing is run. Raises InputError.
    """
    try:
        with torch.serialization.safe_globals([Namespace, *PATHS]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        what = f"{refused[1]} beside its weights" if refused else "more than tensors, or is no weights file"
        raise InputError(
            f"{path} is refused: it holds {what}, and loading it could run code: if you trust it, save its state dict alone"
        ) from error
    except Exception as error:  # on damaged files the unpickler raises anything, IndexError and struct.error among them
        raise InputError(f"{path} is damaged or no weights file: fetch it again") from error
    state = state_in(content)
    if state is None:
        names = f"{', '.join(map(repr, STATES))} or, alone, one of {', '.join(map(repr, AVERAGES))}"
        raise InputError(f"{path} holds no state dict: it must be one, or a dict with one under {names}")
    arguments = None if state is content else content.get("args")
    arguments = vars(arguments) if isinstance(arguments, Namespace) else arguments
    return state, arguments if isinstance(arguments, dict) else {}


def path_parts(*parts: object) -> tuple:
    """What stands in for every path in a pickle: a WindowsPath cannot be made on Linux, nor a PosixPath on Windows."""
    return parts


PATHS: list[Any] = [  # what the weights-only unpickler makes of a name: Python 3.13 has its paths in a module of their own
    (path_parts, f"{module}.{kind}")
    for module in ("pathlib", "pathlib._local")
    for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path", "PurePath")
]

STATES = ("model", "state_dict", "model_state_dict")  # of the published code, of Lightning, of PyTorch's tutorials
AVERAGES = ("model_ema", "ema_model", "ema", "state_dict_ema")  # moving averages of the weights, as forks save them


def state_in(content: Any) -> dict[str, Tensor] | None:
    """The state dict that a pickle is or holds. A moving average is taken only where it stands alone."""
    if not isinstance(content, dict):
        return None
    for key in STATES:
        if is_state(content.get(key)):
            return content[key]
    if is_state(content) and not any(key in content for key in STATES):
        return content
    averages = [content[key] for key in AVERAGES if isinstance(content.get(key), dict)]
    averages = [average.get("module", average) for average in averages]
    return averages[0] if len(averages) == 1 and is_state(averages[0]) else None


def is_state(content: Any) -> bool:
    """Whether something is a state dict: names and tensors."""
    entries = content.items() if isinstance(content, dict) else ()
    return len(entries) > 0 and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in entries)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a `.safetensors` file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or no safetensors file: fetch or save it again") from error


def read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all files that a `*.index.json` of `transformers` lists, each a `.safetensors` or a pickle beside it."""
    files = read_json(index, "the index of a model in several files").get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(name, str) for name in files.values()):
        raise InputError(f"{index}: the field 'weight_map' must say which file has which tensor: fetch or save the model again")
    folder = index.parent
    state: dict[str, Tensor] = {}
    # In the hub's cache every file is a link to one in the model's own folder, two levels up.
    inside = os.path.realpath(folder.parents[1] if folder.parent.name == "snapshots" else folder)
    for name in sorted(set(files.values())):
        path = folder / name
        if leads_out(name) or not Path(os.path.realpath(path)).is_relative_to(inside):
            raise InputError(f"{index}: the file {name!r} in 'weight_map' must lie beside it, by no '/', '..' or link elsewhere")
        if not path.is_file():
            raise InputError(f"{path} is missing, which {index} lists: fetch it, too")
        state |= read_safetensors(path)[0] if path.suffix == ".safetensors" else read_pickle(path)[0]
    return state


def unwrapped(state: dict[str, Tensor], source: str | Path, more: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The same tensors under the names that the model itself gives them.

    Training frameworks put words before them, in any order: `module.` (DataParallel), `_orig_mod.` (torch.compile), `model.` or
    another attribute's name (Lightning), which stands before the object queries, too; `more` are words of the caller's. What a
    loss keeps and what an average counts are left out. Raises InputError when two tensors come to the same name: a model and its
    moving average, for example.
    """
    queries = [key.split(".")[:-2] for key in state if key.endswith((".query_embed.weight", ".query_position_embeddings.weight"))]
    words = {"model", "detr", *more}.union(*queries)
    plain: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for key, value in state.items():
        if key.rsplit(".", 1)[-1] == "n_averaged":  # torch.optim.swa_utils.AveragedModel counts beside its `module.`
            continue
        parts = [part for part in key.split(".") if part not in ("module", "_orig_mod")]
        while len(parts) > 1 and parts[0] in words:
            del parts[0]
        name = ".".join(parts)
        if name in plain:
            raise InputError(f"{source} holds {name} twice, as {origin[name]} and {key}: keep one of the models in it")
        if parts[0] != "criterion":
            plain[name], origin[name] = value, key
    return plain
