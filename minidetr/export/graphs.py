"""A model cut into graphs that other engines can run: encode, decode, and what makes the masks; and the whole in one.

Letters as in `minidetr.model`; one image at a time (B = 1). The cuts are where something is used more than once: the encoded image
by the decoder and by every mask, a query's heatmaps by whoever looks at them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minidetr.after import AfterDETR
from minidetr.data.batch import Batch
from minidetr.data.images import MEAN, STD
from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.model.backbone import Features

FINER = ("res2", "res3", "res4")


@dataclass(frozen=True)
class Graph:
    """A module, with the names of what goes in and out. `changing` are the axes of each input that may have any length."""

    module: nn.Module
    inputs: dict[str, Tensor]  # an example of each
    outputs: tuple[str, ...]
    changing: dict[str, tuple[int, ...]]


class Encode(nn.Module):
    """pixels 1 3 H W, RGB in 0..255 -> the encoded image, the positions of its cells, and Res2..Res4 and the projection of Res5.

    A model with dot-product masks gives the pixels' embeddings 1 c H/4 W/4 instead of those features.
    """

    def __init__(self, model: PanopticDETR):
        super().__init__()
        self.model = model
        self.register_buffer("mean", 255 * torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", 255 * torch.tensor(STD)[:, None, None], persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        H, W = pixels.shape[2:]
        padding = torch.zeros(1, H, W, dtype=torch.bool)
        features, memory, position, _ = self.model.encode(Batch((pixels - self.mean) / self.std, padding, [(H, W)]))
        if self.model.preset.pixel_width is not None:
            return memory, position, self.model.mask_head(memory, features)
        if self.model.mask_head is None:
            return memory, position
        return memory, position, features.res2, features.res3, features.res4, features.projected


class Decode(nn.Module):
    """memory, position 1 d h w -> logits N C+1, boxes N 4, queries N d."""

    def __init__(self, model: PanopticDETR):
        super().__init__()
        self.model = model

    def forward(self, memory: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if isinstance(self.model, AfterDETR):
            layers, _ = self.model.decode(memory, position, None, None)
        else:
            layers = self.model.decoder(memory, position, None)
        logits, boxes = self.model.heads(layers[-1])
        return logits[0], boxes[0], layers[-1][0]


class Heatmaps(nn.Module):
    """queries K d of the asked objects, memory 1 d h w -> heatmaps K M h w."""

    def __init__(self, model: PanopticDETR):
        super().__init__()
        self.attention = model.heatmap_attention

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        return self.attention(queries, memory, index_of(queries))


class MaskHeadOf(nn.Module):
    """heatmaps K M h w and the image's features -> mask logits K H/4 W/4."""

    def __init__(self, model: PanopticDETR):
        super().__init__()
        self.mask_head = model.mask_head

    def forward(self, heatmaps: Tensor, res2: Tensor, res3: Tensor, res4: Tensor, projected: Tensor) -> Tensor:
        features = Features(res2, res3, res4, res5=res4, projected=projected)  # of Res5 only the projection is asked for
        return self.mask_head(heatmaps, features, index_of(heatmaps))


class DotProducts(nn.Module):
    """queries K d of the asked objects, embeddings 1 c H/4 W/4 -> mask logits K H/4 W/4."""

    def __init__(self, model: PanopticDETR):
        super().__init__()
        self.mask_head = model.mask_head

    def forward(self, queries: Tensor, embeddings: Tensor) -> Tensor:
        return self.mask_head.of_some(queries, embeddings, index_of(queries))


class Whole(nn.Module):
    """pixels 1 3 H W, ranks K -> logits N C+1, boxes N 4, query_index K, masks K H/4 W/4 of the queries of those ranks.

    Rank 0 is the query whose class has the highest score among those that are an object, and so on: 0..K-1 gives the K best.
    A model without masks takes no ranks and gives logits and boxes.
    """

    def __init__(self, model: PanopticDETR):
        super().__init__()
        self.encode, self.decode = Encode(model), Decode(model)
        self.kind = kind_of(model)
        self.heatmaps = Heatmaps(model) if self.kind == "heatmaps" else None
        self.masks: nn.Module | None = {"heatmaps": MaskHeadOf, "dot": DotProducts, "boxes": lambda _: None}[self.kind](model)
        known = torch.zeros(model.num_classes + 1)
        known[[category.id for category in model.categories]] = 1  # neither "no object" nor a gap in the ids
        self.register_buffer("known", known, persistent=False)
        self.known: Tensor

    def forward(self, pixels: Tensor, ranks: Tensor | None = None) -> tuple[Tensor, ...]:
        memory, position, *features = self.encode(pixels)
        logits, boxes, queries = self.decode(memory, position)
        if self.masks is None:
            return logits, boxes
        scores, labels = logits.softmax(-1).max(-1)
        query_index = (scores * self.known[labels]).topk(len(scores)).indices[ranks]
        asked = queries[query_index]
        masks = self.masks(self.heatmaps(asked, memory) if self.heatmaps is not None else asked, *features)
        return logits, boxes, query_index, masks


def index_of(objects: Tensor) -> Tensor:
    """K zeros: every object is of the one image."""
    return torch.zeros(objects.shape[0], dtype=torch.long)


def kind_of(model: PanopticDETR) -> str:
    """How a model makes masks: "heatmaps", "dot" or, if it makes none, "boxes"."""
    return "dot" if model.preset.pixel_width is not None else "heatmaps" if model.mask_head is not None else "boxes"


@torch.inference_mode()
def graphs_of(model: PanopticDETR) -> dict[str, Graph]:
    """The graphs of a model by their names: encode, decode, heatmaps and mask_head (or dot_products), whole.

    Raises InputError for a model on a GPU or in half precision, and for one with masked attention.
    """
    if model.preset.masked_attention:
        raise InputError("masked attention takes masks of the grid's size, which the exporter freezes: export a model without it")
    if any(parameter.device.type != "cpu" or parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise InputError("only a model in float32 on the CPU can be exported: model.float().cpu()")
    model.eval()
    kind, grid = kind_of(model), (2, 3)
    side = 32 * max(4, min(model.preset.short_side // 32, 10))
    pixels = torch.rand(1, 3, side, side + 32) * 255
    encode, decode = Encode(model), Decode(model)
    seen = dict(zip(outputs_of(kind), encode(pixels), strict=True))
    asks = {name: seen[name] for name in ("memory", "position")}
    queries = decode(*asks.values())[2][:3].clone()
    graphs = {
        "encode": Graph(encode, {"pixels": pixels}, outputs_of(kind), {"pixels": grid}),
        "decode": Graph(decode, asks, ("logits", "boxes", "queries"), dict.fromkeys(asks, grid)),
    }
    if kind == "heatmaps":
        heatmaps, memory = Heatmaps(model), {"queries": queries, "memory": seen["memory"]}
        graphs["heatmaps"] = Graph(heatmaps, memory, ("heatmaps",), {"queries": (0,), "memory": grid})
        inputs = {"heatmaps": heatmaps(**memory), **{name: seen[name] for name in (*FINER, "projected")}}
        graphs["mask_head"] = Graph(MaskHeadOf(model), inputs, ("masks",), dict.fromkeys(inputs, grid) | {"heatmaps": (0, *grid)})
    if kind == "dot":
        inputs = {"queries": queries, "embeddings": seen["embeddings"]}
        graphs["dot_products"] = Graph(DotProducts(model), inputs, ("masks",), {"queries": (0,), "embeddings": grid})
    of_whole: dict[str, Any] = {"pixels": pixels} | ({} if kind == "boxes" else {"ranks": torch.arange(3)})
    outputs = ("logits", "boxes") if kind == "boxes" else ("logits", "boxes", "query_index", "masks")
    graphs["whole"] = Graph(Whole(model), of_whole, outputs, {"pixels": grid} | ({} if kind == "boxes" else {"ranks": (0,)}))
    return graphs


def outputs_of(kind: str) -> tuple[str, ...]:
    """The names of what `Encode` gives."""
    return ("memory", "position", *{"heatmaps": (*FINER, "projected"), "dot": ("embeddings",), "boxes": ()}[kind])
