"""Weights files: pickles (by torch's weights-only unpickler, which runs nothing in them) and safetensors; their hash."""

from __future__ import annotations

import pickle
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minidetr.errors import InputError


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
