"""What came after DETR, a file for each idea: dot_masks, pixel_loss, groups, denoising, masked_attention, starts.

All of it is off by default: a preset without `pixel_width`, `masked_attention` and `starts` is a `PanopticDETR`, and what only
training knows (groups, denoising, the pixels' loss) lies in the training's own modules and never in a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from minidetr.after.decode import decode
from minidetr.after.dot_masks import DotMasks
from minidetr.after.masked_attention import hidden_cells
from minidetr.after.starts import Starts
from minidetr.data.batch import Batch
from minidetr.errors import InputError
from minidetr.model import Detections, PanopticDETR
from minidetr.panoptic import Category
from minidetr.presets import Preset


@dataclass
class Sightings(Detections):
    """What `AfterDETR.detect` saw in a batch."""

    earlier: list[Tensor] = field(default_factory=list)  # box embeddings B N d of the earlier decoder layers
    pixels: Tensor | None = None  # B c H/4 W/4, once they have been asked for
    cells: tuple[Tensor, Tensor] | None = None  # of starts: logits B h*w C+1 and boxes B h*w 4 of every cell


class AfterDETR(PanopticDETR):
    """A PanopticDETR with those of the later ideas that its preset names."""

    def __init__(self, preset: Preset, categories: Sequence[Category], num_classes: int | None = None):
        super().__init__(preset, categories, num_classes)
        if preset.masked_attention and preset.pixel_width is None:
            raise InputError("masked attention needs a mask of every query: choose dot-product masks")
        if preset.pixel_width is not None:
            self.mask_head = DotMasks(preset.width, self.backbone.channels, preset.pixel_width)
        self.starts = Starts(preset.width, self.num_classes) if preset.starts else None

    def detect(self, batch: Batch) -> Sightings:
        """Classes, boxes and box embeddings of all N queries, and the encoded image."""
        features, memory, position, padding = self.encode(batch)
        pixels = self.mask_head(memory, features) if self.preset.masked_attention else None
        layers, cells = self.decode(memory, position, padding if batch.is_padded else None, pixels)  # one B N d for each layer
        logits, boxes = self.heads(layers[-1])  # B N C+1, B N 4
        auxiliary = [self.heads(x) for x in layers[:-1]] if self.training else []
        found = (logits, boxes, layers[-1], memory, features, padding, batch.is_padded, auxiliary)
        return Sightings(*found, layers[:-1], pixels, cells)

    forward = detect

    def decode(
        self, memory: Tensor, position: Tensor, padding: Tensor | None, pixels: Tensor | None
    ) -> tuple[list[Tensor], tuple[Tensor, Tensor] | None]:
        """The box embeddings B N d after each decoder layer; of starts, the logits and boxes of all cells. `pixels` are the pixels'
        embeddings B c H/4 W/4, which only masked attention asks for."""
        embedding = cells = hides = None
        if self.starts is not None:
            starts, *cells = self.starts(memory, position, padding, self.preset.queries)
            embedding = self.decoder.query_embedding.weight + starts  # B N d
        if self.preset.masked_attention:
            hides = lambda x: hidden_cells(self.mask_head.of_all(x, pixels), memory.shape[-2:])  # noqa: E731
        if embedding is None and hides is None:
            return self.decoder(memory, position, padding), None
        layers = decode(self.decoder, memory, position, padding, embedding, hides=hides)
        return layers, tuple(cells) if cells else None

    def pixels(self, seen: Sightings) -> Tensor:
        """The pixel embeddings B c H/4 W/4 of what was seen, computed once."""
        if seen.pixels is None:
            seen.pixels = self.mask_head(seen.memory, seen.features)
        return seen.pixels

    def heatmaps(self, seen: Detections, image_index: Tensor, query_index: Tensor) -> Tensor:
        """As `PanopticDETR.heatmaps`; masks as dot products have none."""
        if self.preset.pixel_width is not None:
            raise InputError("this model's masks are dot products, made without heatmaps")
        return super().heatmaps(seen, image_index, query_index)

    def masks(self, seen: Detections, image_index: Tensor, query_index: Tensor) -> Tensor:
        """Mask logits K H/4 W/4 of the K objects (image_index[k], query_index[k]), wherever in the batch they are."""
        if self.preset.pixel_width is None or not isinstance(seen, Sightings):
            return super().masks(seen, image_index, query_index)
        return self.mask_head.of_some(seen.queries[image_index, query_index], self.pixels(seen), image_index)


def build(preset: Preset, categories: Sequence[Category], num_classes: int | None = None) -> PanopticDETR:
    """The model of a preset: a PanopticDETR, or an AfterDETR where the preset names an idea from after DETR."""
    return (AfterDETR if preset.after else PanopticDETR)(preset, categories, num_classes)
