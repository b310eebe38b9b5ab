"""What a picture costs: multiply-adds and activations of every stage, by arithmetic, and the same counted while the model runs.

Multiply-adds are those of convolutions, linear layers and attention products: everything else (norms, ReLU, softmax, the merge)
multiplies next to nothing, though it moves memory. One multiply-add is two FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode

from minidetr.after import AfterDETR, Sightings, build
from minidetr.data.batch import Batch
from minidetr.panoptic import Category
from minidetr.plot import new_figure
from minidetr.presets import Preset, preset

Layer = tuple[int, int]  # multiply-adds, and how many values it puts out

BLOCKS = {"narrow10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


@dataclass(frozen=True)
class StageCost:
    """`activation_bytes`: the stage's layers' outputs in float32. All pass through memory; training keeps most for the gradient."""

    stage: str
    multiply_adds: int
    activation_bytes: int


def stage_costs(model: Preset, height: int, width: int, objects: int, batch: int = 1, classes: int = 250) -> list[StageCost]:
    """The cost of each stage, by arithmetic: `batch` images of `height` x `width` pixels, `objects` masks in all (K)."""
    d, N, hidden = model.width, model.queries, model.feedforward
    cells = product(backbone_sizes(model, height, width)[-1])  # h w
    encoder_layer = [linear(d, 4 * d, cells), attention(cells, cells, d), linear(d, hidden, cells), linear(hidden, d, cells)]
    decoder_layer = [linear(d, 4 * d, N), attention(N, N, d)]  # among the queries: query, key, value and output projections
    decoder_layer += [linear(d, 2 * d, N), linear(d, 2 * d, cells), attention(N, cells, d)]  # to the image
    decoder_layer += [linear(d, hidden, N), linear(hidden, d, N)]
    heads = [linear(d, classes + 1, N), linear(d, d, N), linear(d, d, N), linear(d, 4, N)]
    stages: dict[str, list[Layer]] = {
        "backbone": [*backbone_layers(model, height, width)] * batch,
        "encoder": encoder_layer * model.encoder_layers * batch,
        "decoder": decoder_layer * model.decoder_layers * batch,
        "classes and boxes": heads * batch,
    }
    if model.mask_widths is not None:
        scores = (cells * d, cells * model.heads)  # one object's query with every cell's key
        of_image, of_object = mask_head_layers(model, height, width)
        stages["heatmaps"] = [linear(d, d, cells)] * batch + [linear(d, d, 1), scores] * objects
        stages["mask head, each image"] = of_image * batch
        stages["mask head, each object"] = of_object * objects
    elif model.pixel_width is not None:
        of_image, of_object = dot_mask_layers(model, height, width)
        stages["pixel embeddings"] = of_image * batch
        stages["dot products"] = of_object * objects
    return [StageCost(name, sum(m for m, _ in layers), 4 * sum(v for _, v in layers)) for name, layers in stages.items()]


def measured_multiply_adds(
    model: Preset, height: int, width: int, objects: int, batch: int = 1, classes: int = 250
) -> dict[str, int]:
    """Multiply-adds by stage as PyTorch's FLOP counter sees them while the model runs, on tensors without values ("meta")."""
    with torch.device("meta"):
        net = build(model, [Category(i, str(i), True) for i in range(classes)], classes).eval().requires_grad_(False)
        images = Batch(torch.empty(batch, 3, height, width), torch.empty(batch, height, width), [(height, width)] * batch)
        none, picked = torch.empty(0, dtype=torch.long), torch.empty(objects, dtype=torch.long)
    parts = {"backbone": "Backbone", "encoder": "Encoder", "decoder": "Decoder", "classes and boxes": "PredictionHeads"}
    with FlopCounterMode(display=False) as counter:
        seen = net.detect(images)
    counted = {stage: counted_in(counter, part) for stage, part in parts.items()}
    if isinstance(net, AfterDETR) and isinstance(seen, Sightings) and model.pixel_width is not None:
        with FlopCounterMode(display=False) as each_image:
            net.pixels(seen)
        with FlopCounterMode(display=False) as counter:
            net.masks(seen, picked, picked)
        totals = {"pixel embeddings": each_image.get_total_flops(), "dot products": counter.get_total_flops()}
        return counted | {stage: total // 2 for stage, total in totals.items()}
    if model.mask_widths is None:
        return counted
    with FlopCounterMode(display=False) as each_image:
        net.masks(seen, none, none)  # no object at all: what is left is the image's
    with FlopCounterMode(display=False) as counter:
        net.masks(seen, picked, picked)
    of_image = counted_in(each_image, "MaskHead")
    return counted | {
        "heatmaps": counted_in(counter, "HeatmapAttention"),
        "mask head, each image": of_image,
        "mask head, each object": counted_in(counter, "MaskHead") - of_image,
    }


def counted_in(counter: FlopCounterMode, part: str) -> int:
    """The multiply-adds that `counter` saw in a module of the class `part`."""
    return sum(counter.get_flop_counts().get(part, {}).values()) // 2


def convolution(inputs: int, outputs: int, kernel: int, positions: int) -> Layer:
    """Every output value of every position takes inputs x kernel x kernel multiply-adds."""
    return inputs * outputs * kernel * kernel * positions, outputs * positions


def linear(inputs: int, outputs: int, positions: int) -> Layer:
    """A linear layer at each position is a convolution with a kernel of 1."""
    return convolution(inputs, outputs, 1, positions)


def attention(queries: int, keys: int, width: int) -> Layer:
    """Each query with each key, then their values by the weights; the weights themselves are never written to memory."""
    return 2 * queries * keys * width, queries * width


def product(size: tuple[int, int]) -> int:
    """The number of positions of a (height, width)."""
    return size[0] * size[1]


def backbone_sizes(model: Preset, height: int, width: int) -> list[tuple[int, int]]:
    """(height, width) of the stem's convolution and of Res2, Res3, Res4, Res5: each half of the one before, rounded up."""
    sizes, size = [], (height, width)
    for halved in (True, True, True, True, not model.dilation):
        size = (-(-size[0] // 2), -(-size[1] // 2)) if halved else size
        sizes.append(size)
    return sizes


def backbone_layers(model: Preset, height: int, width: int) -> Iterator[Layer]:
    """The convolutions of the ResNet (blocks of two, or of three from ResNet-50 on) and the projection."""
    sizes = [product(size) for size in backbone_sizes(model, height, width)]
    bottleneck = 4 if model.backbone in ("resnet50", "resnet101") else 1
    base = 32 if model.backbone == "narrow10" else 64
    yield convolution(3, base, 7, sizes[0])
    inputs, before = base, sizes[1]
    for stage, blocks in enumerate(BLOCKS[model.backbone]):
        middle, after = base * 2**stage, sizes[stage + 1]
        outputs = middle * bottleneck
        for _ in range(blocks):
            if bottleneck > 1:  # 1x1 to fewer channels, 3x3 with the stride, 1x1 to more
                yield convolution(inputs, middle, 1, before)
                yield convolution(middle, middle, 3, after)
                yield convolution(middle, outputs, 1, after)
            else:
                yield convolution(inputs, outputs, 3, after)
                yield convolution(outputs, outputs, 3, after)
            if inputs != outputs:  # the skip connection has to change its shape, too
                yield convolution(inputs, outputs, 1, after)
            inputs, before = outputs, after
    yield convolution(inputs, model.width, 1, sizes[-1])


def mask_head_layers(model: Preset, height: int, width: int) -> tuple[list[Layer], list[Layer]]:
    """The mask head's convolutions: those of each image and those of each object, of what is asked once and K times."""
    _, *finer, (h, w) = backbone_sizes(model, height, width)
    res2, res3, res4 = (product(size) for size in finer)
    channels = finer_channels(model)
    widths = model.mask_widths or ()
    of_image = [convolution(model.width, widths[0], 3, h * w)]
    of_object = [convolution(model.heads, widths[0], 3, h * w), convolution(widths[0], widths[1], 3, h * w)]
    for k, (stage, cells) in enumerate(zip(reversed(channels), (res4, res3, res2), strict=True), start=1):
        of_image.append(linear(stage, widths[k], cells))  # the lateral 1x1 convolution
        of_object.append(convolution(widths[k], widths[k + 1], 3, cells))
    of_object.append(convolution(widths[-1], 1, 3, res2))
    return of_image, of_object


def finer_channels(model: Preset) -> tuple[int, int, int]:
    """Of Res2, Res3 and Res4."""
    channels = (256, 512, 1024) if model.backbone in ("resnet50", "resnet101") else (64, 128, 256)
    return (32, 64, 128) if model.backbone == "narrow10" else channels


def dot_mask_layers(model: Preset, height: int, width: int) -> tuple[list[Layer], list[Layer]]:
    """The layers of dot-product masks: the pixel embeddings of each image; each object's perceptron and product."""
    _, *finer, (h, w) = backbone_sizes(model, height, width)
    c, d, res2 = model.pixel_width or 0, model.width, product(finer[0])
    of_image = [linear(d, c, h * w)]
    for stage, size in zip(reversed(finer_channels(model)), reversed(finer), strict=True):
        of_image += [linear(stage, c, product(size)), convolution(c, c, 3, product(size))]
    of_image.append(linear(c, c, res2))
    return of_image, [linear(d, d, 1), linear(d, d, 1), linear(d, c, 1), linear(c, 1, res2)]


# --- the figure -------------------------------------------------------------------------------------------------------------

SIZES = ((640, 640), (800, 1066))


def cost_figure(model: Preset | None = None) -> Figure:
    """Multiply-adds of each stage for 0, 12 and 100 masks at two sizes, and how they grow with the image's side.

    `model` is by default the published R50 panoptic model.
    """
    model = model or preset("r50")
    figure = new_figure(8.3, 4.6)
    bars, lines = figure.subplots(1, 2, width_ratios=(1.25, 1))
    rows = [(size, objects) for size in SIZES for objects in (0, 12, 100)]
    costs = [{c.stage: c.multiply_adds / 1e9 for c in stage_costs(model, *size, objects)} for size, objects in rows]
    left = [0.0] * len(rows)
    for stage in costs[0]:
        widths = [cost[stage] for cost in costs]
        bars.barh(range(len(rows)), widths, left=left, label=stage)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for row, total in enumerate(left):
        bars.text(total, row, f" {total:.0f}", va="center")
    bars.set_yticks(range(len(rows)), [f"{h}x{w}, K = {objects}" for (h, w), objects in rows])
    bars.invert_yaxis()
    bars.set_xlim(0, 1.12 * max(left))
    bars.grid(axis="y", visible=False)
    bars.set(title="Per image, by stage", xlabel="billion multiply-adds")

    sides = range(256, 1281, 64)
    grown = [{c.stage: c.multiply_adds / 1e9 for c in stage_costs(model, side, side, 12)} for side in sides]
    for stage in grown[0]:
        lines.plot(sides, [cost[stage] for cost in grown])
    lines.set_yscale("log")
    lines.set(title="By image size, K = 12", xlabel="height = width, pixels", ylabel="billion multiply-adds")
    figure.legend(*bars.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    return figure
