"""minidetr: DETR panoptic segmentation, from the image to one id per pixel.

    from minidetr import PanopticDETR
    model = PanopticDETR.from_pretrained("tiny")
    panoptic, = model.segment([image])

The names below are imported when first used, so that `import minidetr` and `minidetr --help` load neither torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minidetr.data.batch import Batch as Batch
    from minidetr.errors import InputError as InputError
    from minidetr.evaluate import panoptic_quality as panoptic_quality
    from minidetr.model import PanopticDETR as PanopticDETR
    from minidetr.panoptic import Category as Category
    from minidetr.panoptic import Panoptic as Panoptic
    from minidetr.panoptic import Segment as Segment
    from minidetr.training.loop import train as train

    __version__: str

_HOME = {  # public name -> the module it lives in
    "Batch": "minidetr.data.batch",
    "Category": "minidetr.panoptic",
    "InputError": "minidetr.errors",
    "Panoptic": "minidetr.panoptic",
    "PanopticDETR": "minidetr.model",
    "Segment": "minidetr.panoptic",
    "panoptic_quality": "minidetr.evaluate",
    "train": "minidetr.training.loop",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("minidetr")
        except PackageNotFoundError:  # run from a folder without being installed
            return "unknown"
    if name not in _HOME:
        raise AttributeError(f"module 'minidetr' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
