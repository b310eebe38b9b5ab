"""The published code's format: a `.pth` with the names of facebookresearch/detr."""

from __future__ import annotations

from pathlib import Path

import torch

from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.panoptic import whole_file
from minidetr.weights.published import own_to_official


def export(model: PanopticDETR, path: str | Path) -> None:
    """Write {"model": state_dict} with the published names, in float32; the class head has C+1 outputs, the last "no object".

    Raises InputError for a path that is there already, and for a model that the published code cannot build: one with ideas from
    after DETR.
    """
    refuse_after(model, "the published code")
    if Path(path).exists():
        raise InputError(f"{path} is there already: choose another name for the export")
    state = {key: value.detach().cpu().float() for key, value in model.state_dict().items() if value.is_floating_point()}
    with whole_file(path) as temporary:
        torch.save({"model": own_to_official(state)}, temporary)


def refuse_after(model: PanopticDETR, who: str) -> None:
    """Raise InputError for a model with ideas from after DETR, which `who` does not know."""
    if model.preset.after:
        raise InputError(f"{who} knows DETR's own heatmaps and mask head, and this model is made otherwise: export it to onnx")
