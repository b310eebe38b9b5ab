"""The recipe of each preset, and that of fine-tuning on few photos. No torch here: `--help` reads it."""

from __future__ import annotations

from typing import Any

from minidetr.presets import SCENE_SIZE

REFERENCE_RECIPE = {  # DETR, appendix A.4, and the reference's README
    "freeze": ("stem", "res2"),
    "size": 800,
    "epochs": 300,
    "mask_epochs": 25,
    "batch_size": 2,
    "learning_rate": 1e-4,
    "backbone_learning_rate": 1e-5,
    "clip": 0.1,
    "warmup": 0.0,
    "schedule": "drop",
    "drop": 2 / 3,  # at epoch 200 of 300; at 15 of 25 for the masks: see MASK_DROP
    "dropout": 0.1,
    "ema": 0.0,
    "no_object": 0.1,
    "focal": 1.0,
    "dice": 1.0,
    "pixel_class": 0.0,
    "cells": 0.0,
    "auxiliary_masks": False,
    "mask_cost": 0.0,
    "discrimination": 0.0,
    "groups": 1,
    "denoise": 0,
    "masks_per_image": 0,
    "mask_stride": 1,
    "augment": "full",
    "half_size_until": 0.0,
    "evaluate_minutes": 0.0,
}
MASK_DROP = 15 / 25

RECIPES: dict[str, dict[str, Any]] = {
    "r18": REFERENCE_RECIPE | {"size": 480, "epochs": 100, "batch_size": 4, "backbone_learning_rate": 3e-5, "warmup": 0.02},
    "tiny": REFERENCE_RECIPE
    | {
        "freeze": (),
        "size": SCENE_SIZE,
        "epochs": 30,
        "batch_size": 8,
        "learning_rate": 6e-4,
        "backbone_learning_rate": 6e-4,
        "clip": 1.0,
        "warmup": 0.08,
        "schedule": "cosine",
        "dropout": 0.0,
        "ema": 0.998,
        "no_object": 0.3,
        "focal": 20.0,
        "dice": 2.0,
        "pixel_class": 4.0,
        "cells": 1.0,
        "masks_per_image": 6,
        "mask_stride": 4,
    },
}

# Dot-product masks cost next to nothing: all are judged, after every decoder layer, and take part in the matching.
AFTER: dict[str, Any] = {"auxiliary_masks": True, "mask_cost": 1.0, "discrimination": 1.0}
RECIPES |= {f"{name}-after": RECIPES[name] | AFTER for name in ("tiny", "r18")}

# For a run that trains the mask head alone: a small part on fixed features bears longer steps; many small batches bring a new head
# further in a few minutes than few large ones; and what the frozen part sees in an image is paid once for all of its masks.
MASK_RECIPES: dict[str, dict[str, Any]] = {"tiny": {"batch_size": 2, "learning_rate": 1e-3, "masks_per_image": 8}}

FEW_PHOTOS = 5000  # with more of them, and more time, the preset's own recipe has its place

# For hundreds of photos and a start from learned weights. Most of it is `tiny`'s: losses on every cell, where queries alone would
# need far more photos to find out where to look, an average of the weights, a cosine. benchmarks/RESULTS.md measures some.
FINE_TUNING: dict[str, Any] = {
    "batch_size": 8,
    "learning_rate": 3e-4,
    "backbone_learning_rate": 1e-4,
    "clip": 1.0,
    "warmup": 0.05,
    "schedule": "cosine",
    "dropout": 0.0,
    "ema": 0.998,
    "focal": 20.0,
    "dice": 2.0,
    "pixel_class": 2.0,
    "cells": 0.5,
    "masks_per_image": 6,
    "mask_stride": 4,
    "augment": "colour",
    "half_size_until": 0.4,
    "evaluate_minutes": 5.0,
}
FINE_TUNING_IMAGES = 32_000  # seen in all, whatever their number: 87 epochs of 367


def recipe_of(preset: str, steps: str, photos: int | None, whole: bool = False, masks: str | None = None) -> dict[str, Any]:
    """The values of a run's options that nobody gave. `photos`: so many are there to fine-tune on; None: the preset's recipe.

    `masks` is the option of that name, None for the preset's kind.

    `whole`: the run starts from a whole model, which has learned at a size of its own, and not from a backbone alone.
    """
    recipe = RECIPES.get(preset, REFERENCE_RECIPE)
    if masks is not None:
        recipe = recipe | (AFTER if masks == "dot" else {name: REFERENCE_RECIPE[name] for name in AFTER})
    if photos is not None:
        epochs = max(20, min(1000, round(FINE_TUNING_IMAGES / photos)))
        recipe = recipe | FINE_TUNING | {"epochs": epochs, "mask_epochs": epochs} | ({"half_size_until": 0.0} if whole else {})
    return recipe | (MASK_RECIPES.get(preset, {}) if steps == "masks" else {})
