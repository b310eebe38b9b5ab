"""DETR for panoptic segmentation, stage by stage: read backbone, position, transformer, heads, heatmaps, mask_head, merge.

Letters, everywhere: B images, H W padded input size, h w = H/32 W/32, d model width, N object queries, M attention heads,
C classes, K objects picked from the whole batch (pairs of image and query).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidetr.data.batch import Batch, same_size
from minidetr.data.images import ImageSource, normalise
from minidetr.errors import InputError
from minidetr.model.backbone import Backbone, Features
from minidetr.model.heads import PredictionHeads
from minidetr.model.heatmaps import HeatmapAttention
from minidetr.model.mask_head import MaskHead
from minidetr.model.merge import kept_queries, merge
from minidetr.model.position import sine_position
from minidetr.model.transformer import Decoder, Encoder
from minidetr.panoptic import Category, Panoptic, checked_threshold
from minidetr.presets import Preset


@dataclass
class Detections:
    """What `PanopticDETR.detect` saw in a batch, for all N queries, and what the masks are computed from."""

    logits: Tensor  # B N C+1, the last is "no object"
    boxes: Tensor  # B N 4, cx cy w h in 0..1 of the unpadded image
    queries: Tensor  # B N d, the box embeddings: the last decoder layer's output
    memory: Tensor  # B d h w, the encoded image
    features: Features
    padding: Tensor  # B h w, True where padded
    is_padded: bool
    auxiliary: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # logits and boxes of the earlier layers, in training


class PanopticDETR(nn.Module):
    """image -> classes and boxes of N queries -> masks of the K objects somebody asks for -> one id per pixel.

    `categories` name the classes; class logits are indexed by category id, so C = max id + 1 and gaps are fine.
    Source: Carion et al., End-to-End Object Detection with Transformers (2020).
    """

    def __init__(self, preset: Preset, categories: Sequence[Category], num_classes: int | None = None):
        super().__init__()
        if preset.after and type(self) is PanopticDETR:
            raise InputError("this preset has ideas from after DETR: minidetr.after.build makes its model")
        self.preset = preset
        self.categories = list(categories)
        self.num_classes = num_classes or max((c.id for c in categories), default=0) + 1
        if any(not 0 <= c.id < self.num_classes for c in categories):
            raise InputError(f"the ids of all categories must lie in 0..{self.num_classes - 1}, the model's classes")
        d, M, hidden, dropout = preset.width, preset.heads, preset.feedforward, preset.dropout
        self.backbone = Backbone(preset.backbone, d, preset.dilation, preset.norm)
        self.encoder = Encoder(preset.encoder_layers, d, M, hidden, dropout)
        self.decoder = Decoder(preset.decoder_layers, d, M, hidden, dropout, preset.queries)
        self.heads = PredictionHeads(d, self.num_classes)
        for parameter in [*self.encoder.parameters(), *self.decoder.layers.parameters()]:
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        self.heatmap_attention: Any = None  # both stay None in a detection model
        self.mask_head: Any = None
        if preset.mask_widths is not None:
            self.heatmap_attention = HeatmapAttention(d, M)
            self.mask_head = MaskHead(d, M, preset.mask_widths, self.backbone.channels)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, preset: str | None = None, categories: Any = None) -> PanopticDETR:
        """Weights by a name (published, shipped, or org/name of the hub), or a file or folder; see `minidetr.weights.load`."""
        from minidetr.weights.load import load

        return load(name_or_path, preset, categories)

    def encode(self, batch: Batch) -> tuple[Features, Tensor, Tensor, Tensor]:
        """Res2..Res5, the encoded image B d h w, the position encoding of its cells B d h w, and which of them are padded B h w."""
        features = self.backbone(batch.images)  # Res2..Res5, projected B d h w
        grid = features.projected
        padding = F.interpolate(batch.padding[:, None].float(), size=grid.shape[-2:])[:, 0].bool()  # B h w, nearest
        position = sine_position(padding, grid.shape[1]).to(grid.dtype)  # B d h w
        memory = self.encoder(grid, position, padding if batch.is_padded else None)  # attention without a mask is faster
        return features, memory, position, padding

    def detect(self, batch: Batch) -> Detections:
        """Classes, boxes and box embeddings of all N queries, and the encoded image."""
        features, memory, position, padding = self.encode(batch)
        layers = self.decoder(memory, position, padding if batch.is_padded else None)  # one B N d for each decoder layer
        logits, boxes = self.heads(layers[-1])  # B N C+1, B N 4
        auxiliary = [self.heads(x) for x in layers[:-1]] if self.training else []
        return Detections(logits, boxes, layers[-1], memory, features, padding, batch.is_padded, auxiliary)

    forward = detect

    def heatmaps(self, seen: Detections, image_index: Tensor, query_index: Tensor) -> Tensor:
        """Attention heatmaps K M h w of the K objects (image_index[k], query_index[k]); they sum to 1 over M, h and w."""
        if self.heatmap_attention is None:
            raise InputError("this is a detection model without a mask head: load a panoptic one, or train its masks, to get masks")
        padding = seen.padding if seen.is_padded else None
        return self.heatmap_attention(seen.queries[image_index, query_index], seen.memory, image_index, padding)

    def masks(self, seen: Detections, image_index: Tensor, query_index: Tensor) -> Tensor:
        """Mask logits K H/4 W/4 of the K objects (image_index[k], query_index[k]), wherever in the batch they are."""
        heatmaps = self.heatmaps(seen, image_index, query_index)  # K M h w
        return self.mask_head(heatmaps, seen.features, image_index)  # K H/4 W/4

    @torch.inference_mode()
    def segment(self, images: Sequence[ImageSource], threshold: float | None = None, batch_size: int = 1) -> list[Panoptic]:
        """A panoptic segmentation of each image, at the image's own size.

        `images` are paths, open binary files, PIL images, uint8 arrays H W 3 (RGB: OpenCV's BGR must be turned around first), H W
        or H W 4, or RGB tensors 3 H W (uint8, or float in 0..1). Queries below `threshold` (0..1; None: the preset's) are dropped.
        Up to `batch_size` neighbours are computed together where they come to the same size: no image is padded, because padding
        leaks into its neighbours' convolutions and would change the result a little. Raises InputError.
        """
        threshold = checked_threshold(self.preset.threshold if threshold is None else threshold)
        was_training = self.training
        self.eval()
        try:
            results = []
            for group, originals in same_size(images, self.preset.short_side, self.preset.long_side, batch_size):
                batch = Batch.pad([normalise(image) for image in group]).to(next(self.parameters()).device)
                results += self.panoptic(self.detect(batch), batch, originals, threshold)
            return results
        finally:
            self.train(was_training)

    def panoptic(self, seen: Detections, batch: Batch, originals: list[tuple[int, int]], threshold: float) -> list[Panoptic]:
        """The Panoptic of each image of a batch, of the photos' own (height, width) `originals`; masks of the kept queries only."""
        categories = {c.id: c for c in self.categories}
        results = []
        for index, original in enumerate(originals):
            query_index, scores, labels = kept_queries(seen.logits[index], threshold, categories)  # K each
            masks = self.masks(seen, torch.full_like(query_index, index), query_index)  # K H/4 W/4
            results.append(merge(masks, scores, labels, categories, batch.size, batch.sizes[index], original))
        return results
