"""Weights in and out: `load` and its `load` and `save`; the shipped model, its card and its curves lie here, too."""

from __future__ import annotations

from importlib import import_module

_HOME = {  # names that were here before 0.2 -> the module they live in; imported when first used
    "cached": "published",
    "coco_categories": "published",
    "from_official": "published",
    "official_to_own": "published",
    "own_to_official": "published",
    "save": "load",
    "shipped_weights": "load",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'minidetr.weights' has no attribute '{name}'")
    return getattr(import_module(f"minidetr.weights.{_HOME[name]}"), name)
