"""The sizes of every model minidetr knows, and where the published weights lie. No torch here: `--help` reads it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from minidetr.errors import InputError

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Preset:
    """Everything that decides the shapes of a PanopticDETR but its classes.

    `mask_widths` are the output channels of the mask head's five 3x3 convolutions (None: a detection model without one).
    `dilation` keeps the last ResNet stage at the resolution of the one before (the published DC5 models).
    `norm` is "frozen" where published or ImageNet weights are used, "batch" where the backbone is trained from scratch.
    `pixel_width`, `masked_attention` and `starts` are ideas from after DETR (`minidetr.after`): masks as dot products with so many
    channels, in place of `mask_widths`; decoder layers that look where a query's mask is; queries that start from cells.
    `short_side` and `long_side` bound the size that images are resized to; queries scored below `threshold` are dropped.
    """

    backbone: str = "resnet50"
    dilation: bool = False
    norm: str = "frozen"
    width: int = 256
    heads: int = 8
    feedforward: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    queries: int = 100
    dropout: float = 0.1
    mask_widths: tuple[int, ...] | None = (264, 128, 64, 32, 16)
    short_side: int = 800
    long_side: int = 1333
    threshold: float = 0.85
    pixel_width: int | None = None
    masked_attention: bool = False
    starts: bool = False

    @property
    def has_masks(self) -> bool:
        """Whether the model has a mask head, of either kind; one without finds boxes alone."""
        return self.mask_widths is not None or self.pixel_width is not None

    @property
    def after(self) -> bool:
        """Whether it has an idea from after DETR: `minidetr.after.build` makes its model."""
        return self.pixel_width is not None or self.masked_attention or self.starts


_NO_MASKS: dict[str, Any] = {"mask_widths": None}

PUBLISHED: dict[str, tuple[Preset, str]] = {  # name -> (preset, file name; the last part is the start of its SHA-256)
    "detr-r50": (Preset(**_NO_MASKS), "detr-r50-e632da11.pth"),
    "detr-r50-dc5": (Preset(dilation=True, **_NO_MASKS), "detr-r50-dc5-f0fb7ef5.pth"),
    "detr-r101": (Preset(backbone="resnet101", **_NO_MASKS), "detr-r101-2c7b67e5.pth"),
    "detr-r101-dc5": (Preset(backbone="resnet101", dilation=True, **_NO_MASKS), "detr-r101-dc5-a2e86def.pth"),
    "detr-r50-panoptic": (Preset(), "detr-r50-panoptic-00ce5173.pth"),
    "detr-r50-dc5-panoptic": (Preset(dilation=True), "detr-r50-dc5-panoptic-da08f1b1.pth"),
    "detr-r101-panoptic": (Preset(backbone="resnet101"), "detr-r101-panoptic-40021d53.pth"),
}
PUBLISHED_ADDRESS = "https://dl.fbaipublicfiles.com/detr/"

SCENE_SIZE = 288  # pixels: the side of rendered scenes, and what the shipped `tiny` was trained on last

_TINY = Preset(
    backbone="narrow10",
    dilation=True,
    norm="batch",
    width=128,
    feedforward=512,
    encoder_layers=2,
    decoder_layers=3,
    queries=20,
    dropout=0.0,
    mask_widths=(128, 96, 64, 48, 32),
    short_side=SCENE_SIZE,
    long_side=480,
    threshold=0.7,
)
_R18 = Preset(backbone="resnet18", feedforward=1024, encoder_layers=3, decoder_layers=3, short_side=480, long_side=800)
PIXEL_WIDTH = 64  # channels of dot-product masks
_DOT_MASKS: dict[str, Any] = {"mask_widths": None, "pixel_width": PIXEL_WIDTH}

TRAINABLE: dict[str, Preset] = {
    "tiny": _TINY,
    "tiny-after": replace(_TINY, **_DOT_MASKS),
    "r18": _R18,
    "r18-after": replace(_R18, **_DOT_MASKS),
    "r50": Preset(),
    "r50-dc5": Preset(dilation=True),
    "r101": Preset(backbone="resnet101"),
}


def from_plain(kind: type[Settings], values: dict[str, Any]) -> Settings:
    """A dataclass of settings from what JSON made of it: lists are tuples, names of other versions are left out."""
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]  # `kind` is a dataclass
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known})


def preset(name: str) -> Preset:
    """The preset of a published or trainable model. Raises InputError with the names there are."""
    if name in TRAINABLE:
        return TRAINABLE[name]
    if name in PUBLISHED:
        return PUBLISHED[name][0]
    raise InputError(f"there is no preset {name!r}: choose one of {', '.join([*TRAINABLE, *PUBLISHED])}")
