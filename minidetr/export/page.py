"""What the live page needs: a model's graphs with everything that can be looked at, and scenes as drawing calls."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidetr.data.coco import whole_folder
from minidetr.errors import InputError
from minidetr.export.engine import ABOUT, about_model, empty
from minidetr.export.graphs import Decode, Encode, Graph, MaskHeadOf, graphs_of, index_of, kind_of
from minidetr.export.onnx import OPSET, lighten, proto_of
from minidetr.model import PanopticDETR
from minidetr.model.heatmaps import per_object
from minidetr.model.position import sine_position
from minidetr.model.transformer import to_sequence
from minidetr.panoptic import write_json
from minidetr.presets import SCENE_SIZE
from minidetr.scenes.canvas import LIGHTS, Canvas, Points
from minidetr.scenes.dataset import HELD_OUT_SEED
from minidetr.scenes.painters import CATEGORIES, FOOTPRINTS, PAINTERS
from minidetr.scenes.render import View, looks_of, settled

SCENES = 24  # that the page offers: the first of the held-out ones


def export(model: PanopticDETR, folder: str | Path, scenes: int = SCENES) -> None:
    """Write encode.onnx, decode.onnx, heatmaps.onnx, mask_head.onnx and model.json, as `minidetr.export.onnx` does but with more
    outputs, and scenes.json. Raises InputError for a model without heatmaps and for a folder that is not empty.
    """
    import onnx

    if kind_of(model) != "heatmaps":
        raise InputError("the page shows heatmaps and mask head: a model with dot-product masks, or without masks, has none")
    graphs = shown_graphs(model)
    with whole_folder(empty(folder)) as part:
        for name, graph in graphs.items():
            proto = proto_of(graph)
            lighten(proto)
            onnx.checker.check_model(proto)
            onnx.save_model(proto, part / f"{name}.onnx")
        write_json(part / ABOUT, about_model(model, graphs, format="onnx", opset=OPSET, convolutions="float32"))
        write_json(part / "scenes.json", recorded(range(HELD_OUT_SEED, HELD_OUT_SEED + scenes)))


# --- graphs -----------------------------------------------------------------------------------------------------------------


def shown_graphs(model: PanopticDETR) -> dict[str, Graph]:
    """The graphs of `graphs_of` but the whole one, with attention and the mask head's stages among the outputs."""
    graphs = graphs_of(model)
    del graphs["whole"]
    shown: dict[str, tuple[nn.Module, tuple[str, ...]]] = {
        "encode": (EncodeShown(model), ("attention",)),
        "decode": (DecodeShown(model), ("looks",)),
        "mask_head": (MaskHeadShown(model), tuple(f"stage{i}" for i in range(len(model.mask_head.convolutions)))),
    }
    for name, (module, more) in shown.items():
        graphs[name] = replace(graphs[name], module=module, outputs=(*graphs[name].outputs, *more))
    return graphs


class EncodeShown(Encode):
    """As `Encode`, and attention L M h*w h*w: what each cell attends to in each layer's heads."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        features = self.model.backbone((pixels - self.mean) / self.std)
        h, w = features.projected.shape[-2:]
        position = sine_position(torch.zeros(1, h, w, dtype=torch.bool), features.projected.shape[1])
        x, located, maps = to_sequence(features.projected), to_sequence(position), []
        layers: Any = self.model.encoder.layers
        for layer in layers:
            query = x + located
            attended, weights = layer.self_attention(query, query, x, need_weights=True, average_attn_weights=False)
            x = layer.norm1(x + attended)
            x = layer.norm2(x + layer.linear2(layer.linear1(x).relu()))
            maps.append(weights)
        memory = x.transpose(1, 2).reshape(1, -1, h, w)
        return memory, position, features.res2, features.res3, features.res4, features.projected, torch.cat(maps)


class DecodeShown(Decode):
    """As `Decode`, and looks L N h*w: what each query attends to in each layer, heads averaged."""

    def forward(self, memory: Tensor, position: Tensor) -> Any:
        decoder: Any = self.model.decoder
        cells, located = to_sequence(memory), to_sequence(position)
        embedding = decoder.query_embedding.weight[None]
        x, looks = torch.zeros_like(embedding), []
        for layer in decoder.layers:
            query = x + embedding
            attended, _ = layer.self_attention(query, query, x, need_weights=False)
            x = layer.norm1(x + attended)
            attended, weights = layer.cross_attention(x + embedding, cells + located, cells, need_weights=True)
            x = layer.norm2(x + attended)
            x = layer.norm3(x + layer.linear2(layer.linear1(x).relu()))
            looks.append(weights)
        queries = decoder.norm(x)
        logits, boxes = self.model.heads(queries)
        return logits[0], boxes[0], queries[0], torch.cat(looks)


class MaskHeadShown(MaskHeadOf):
    """As `MaskHeadOf`, and after each convolution's ReLU the mean of the channels, K h' w'; for images of multiples of 32 pixels.

    A convolution is linear, so that of (enlarged x + lateral) is that of the enlarged x plus that of the lateral, which is the
    image's and computed once. And enlarging twofold by nearest neighbours before a 3x3 convolution is a transposed convolution of
    the small x with a 4x4 kernel: 16 products a cell instead of 36. The numbers are the same up to rounding.
    """

    def __init__(self, model: PanopticDETR):
        super().__init__(model)
        self.first = int(model.preset.dilation)  # whose Res4 has the grid's size already

    def forward(self, heatmaps: Tensor, res2: Tensor, res3: Tensor, res4: Tensor, projected: Tensor) -> Any:
        head: Any = self.mask_head
        index = index_of(heatmaps)
        x = head.norms[0](head.first_convolution(heatmaps, projected, index)).relu()
        stages = [x]
        x = head.norms[1](head.convolutions[1](x)).relu()
        stages.append(x)
        for i, stage in enumerate((res4, res3, res2)):
            convolution, side = head.convolutions[i + 2], head.laterals[i](stage)
            if i < self.first:
                x = convolution(x + per_object(side, index))
            else:
                x = F.conv_transpose2d(x, of_twofold(convolution.weight), stride=2, padding=1) + per_object(
                    convolution(side), index
                )
            x = head.norms[i + 2](x).relu()
            stages.append(x)
        return (head.output(x).squeeze(1), *(stage.mean(1) for stage in stages))


def of_twofold(weight: Tensor) -> Tensor:
    """The kernel in c 4 4 of the transposed convolution (stride 2, padding 1) that equals enlarging twofold by nearest neighbours,
    then convolving with `weight` c in 3 3 (padding 1)."""
    turned = weight.flip(2, 3).transpose(0, 1)
    shifted = (F.pad(turned, (right, 1 - right, down, 1 - down)) for down in range(2) for right in range(2))
    return torch.stack(list(shifted)).sum(0)  # an engine folds it when it starts: only `weight` is stored


# --- scenes -----------------------------------------------------------------------------------------------------------------


class Recorder(Canvas):
    """A canvas that keeps what is drawn on it, in metres, instead of drawing: [kind, numbers, colour]."""

    def __init__(self) -> None:
        self.shapes: list[list[Any]] = []

    def polygon(self, points: Points, colour: Sequence[float]) -> None:
        self.shapes.append(["polygon", rounded(value for point in points for value in point), rounded(colour, 1)])

    def ellipse(self, x: float, y: float, across: float, up: float, colour: Sequence[float]) -> None:
        self.shapes.append(["ellipse", rounded((x, y, across, up)), rounded(colour, 1)])

    def bar(
        self, start: tuple[float, float], end: tuple[float, float], width: float, colour: Sequence[float], tip: float = 0
    ) -> None:
        self.shapes.append(["bar", rounded((*start, *end, width, tip or width)), rounded(colour, 1)])


def rounded(values: Any, digits: int = 3) -> list[float]:
    """Numbers as short as they may be: a millimetre."""
    return [int(value) if value == int(value) else value for value in (round(float(value), digits) for value in values)]


def recorded(seeds: Sequence[int]) -> dict[str, Any]:
    """Scenes of 288 x 288 pixels as a page can draw them again: what a seed decides, and each thing's shapes in metres."""
    return {
        "lights": [{**vars(light)} for light in LIGHTS],
        "footprints": {c.id: FOOTPRINTS[c.id] for c in CATEGORIES if c.id in FOOTPRINTS},
        "scenes": [scene_of(seed) for seed in seeds],
    }


def scene_of(seed: int) -> dict[str, Any]:
    """One scene: its view's numbers and its items from far to near."""
    view, _ = settled(seed, SCENE_SIZE, SCENE_SIZE)
    return {
        "seed": seed,
        "light": LIGHTS.index(view.light),
        "ground": rounded(view.ground, 3),
        **{name: round(float(getattr(view, name)), 7) for name in NUMBERS},
        "offset": view.offset.tolist(),
        "cast": rounded(view.cast, 6),
        "items": [item_of(view, number) for number in range(len(view.items))],
    }


NUMBERS = ("horizon", "camera_height", "focal", "roughness", "sun", "exposure", "contrast", "grain")


def item_of(view: View, number: int) -> dict[str, Any]:
    """One thing, or piece of stuff that stands on the ground, with the shapes that its painter draws."""
    item, recorder = view.items[number], Recorder()
    facing, rng = looks_of(item)
    recorder.scale = 1e9  # a bar is recorded as thick as it is: how thick it must be to be seen, the page knows
    PAINTERS[item.category_id](recorder, rng)
    place = {"across": round(item.across, 6), "depth": round(item.depth, 5)}
    return {"category": item.category_id, **place, "facing": facing, "shapes": recorder.shapes}


if __name__ == "__main__":
    export(PanopticDETR.from_pretrained("tiny").eval(), sys.argv[1])
