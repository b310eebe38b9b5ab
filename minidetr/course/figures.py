"""The figures of the README and the lessons, every one drawn from tensors of the shipped model on a held-out scene.

`python -m minidetr.course.figures images` draws them all. Each function gives a PIL image, which a notebook shows as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from minidetr.course.cost import cost_figure
from minidetr.course.pipeline import INK, LIT, STAGES, TRAINING, arrow
from minidetr.course.pipeline import pipeline as pipeline  # the lessons say figures.pipeline
from minidetr.course.trace import Trace, draw_box, example, plain, principal_colors
from minidetr.course.trace import draw_rectangle as draw_rectangle  # the lessons say figures.draw_rectangle and figures.trace
from minidetr.course.trace import trace as trace
from minidetr.panoptic import whole_file
from minidetr.plot import labelled_overlay, new_figure, overlay, picture_of

# --- what single stages do ---------------------------------------------------------------------------------------------------


def titled(axes: Axes, text: str, size: float = 10) -> None:
    """A title in the figures' size."""
    axes.set_title(text, fontsize=size, weight="bold")


def chosen(found: Trace, count: int) -> list[int]:
    """The `count` kept objects that show most: the figure's object, then other classes, things before stuff, large before small."""
    things = {c.id for c in found.model.categories if c.is_thing}
    areas = (found.masks > 0).flatten(1).sum(1).tolist()
    labels = found.labels.tolist()
    order = sorted(range(len(labels)), key=lambda k: (labels[k] in things, areas[k]), reverse=True)
    first_of_class = {labels[k]: k for k in reversed(order)}
    order = sorted(order, key=lambda k: (first_of_class[labels[k]] != k, order.index(k)))
    return order[:count]


def panoptic_head() -> Image.Image:
    """Boxes -> heatmaps -> masks -> argmax, for four objects of the scene."""
    found = example()
    objects = chosen(found, 4)
    names = found.names()
    figure = new_figure(8.3, 6.9)
    figure.set_layout_engine("none")
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, 8.3), ylim=(0, 6.9))
    page.axis("off")
    side, top = 1.42, 6.4
    for column, title in enumerate(("box", "heatmaps, 8 heads added", "mask")):
        page.text(1.02 + 1.78 * column, 6.62, title, ha="center", fontsize=10.5, weight="bold")
    for row, k in enumerate(objects):
        y = top - side - row * (side + 0.16)
        for column in range(3):
            x = 0.31 + 1.78 * column
            axes = figure.add_axes((x / 8.3, y / 6.9, side / 8.3, side / 6.9))
            if column == 0:
                plain(axes, found.image)
                draw_box(axes, found, k, width=3)
                page.text(x - 0.1, y + side / 2, names[k], rotation=90, ha="center", va="center", fontsize=10)
            else:
                plain(axes, found.heatmaps[k].sum(0) if column == 1 else found.masks[k].sigmoid(), cmap="magma")
                arrow(page, (x - 0.33, y + side / 2), (x - 0.04, y + side / 2))
        page.plot([5.31, 5.55], [y + side / 2, y + side / 2], color=INK, linewidth=1.4)
    ends = [top - side / 2 - row * (side + 0.16) for row in (0, len(objects) - 1)]
    page.plot([5.55, 5.55], ends, color=INK, linewidth=1.4)
    arrow(page, (5.55, sum(ends) / 2), (5.84, sum(ends) / 2))
    axes = figure.add_axes((5.88 / 8.3, (sum(ends) / 2 - 1.1) / 6.9, 2.2 / 8.3, 2.2 / 6.9))
    plain(axes, overlay(found.image, found.panoptic, found.model.categories))
    page.text(6.98, sum(ends) / 2 + 1.22, "pixel-wise argmax", ha="center", fontsize=10.5, weight="bold")
    page.text(
        6.98,
        sum(ends) / 2 - 1.32,
        f"over all {len(names)} kept masks:\none object for every pixel",
        ha="center",
        va="top",
        fontsize=9.5,
    )
    return picture_of(figure)


@torch.inference_mode()
def mask_head_stages(found: Trace, k: int) -> list[tuple[str, Tensor]]:
    """What the mask head holds for object `k` after each of its five convolutions (name, c h' w'), and at last its mask logits."""
    kept: list[Tensor] = []
    hooks = [
        norm.register_forward_hook(lambda _, __, output: kept.append(output[0].relu())) for norm in found.model.mask_head.norms
    ]
    logits = found.model.masks(found.seen, torch.tensor([0]), found.query_index[k : k + 1])
    for hook in hooks:
        hook.remove()
    names = ("convolution 1", "convolution 2", "+ Res4", "+ Res3", "+ Res2", "mask logits")
    return list(zip(names, [*kept, logits], strict=True))


def fpn() -> Image.Image:
    """The mask head, stage by stage, for one object: what comes in, what every convolution leaves, the mask.

    Of a stage's channels the one is shown that agrees most with the final mask (by correlation).
    """
    found = example()
    k = found.object()
    stages = mask_head_stages(found, k)
    logits = stages[-1][1][0]
    figure = new_figure(8.3, 4.5)
    rows = figure.subplots(2, 5)
    plain(rows[0, 0], found.image)
    draw_box(rows[0, 0], found, k, LIT)
    titled(rows[0, 0], f"the {found.names()[k]}")
    plain(rows[0, 1], found.heatmaps[k].sum(0), cmap="magma")
    titled(rows[0, 1], "heatmaps, added")
    plain(rows[0, 2], principal_colors(found.seen.features.projected[0]))
    titled(rows[0, 2], "Res5, 1x1")
    for axes, (name, maps) in zip([*rows[0, 3:], *rows[1, :3]], stages[:5], strict=True):
        plain(axes, most_alike(maps, logits), cmap="magma")
        titled(axes, name)
    plain(rows[1, 3], logits.sigmoid(), cmap="magma", vmin=0, vmax=1)
    titled(rows[1, 3], "mask")
    cut = found.image.copy()
    cut[~(enlarged(logits, cut.shape[:2]) > 0).numpy()] = 255
    plain(rows[1, 4], cut)
    titled(rows[1, 4], "what it cuts out")
    grids = [found.heatmaps[k, 0], found.seen.features.projected[0, 0], *(maps[0] for _, maps in stages)]
    for axes, values in zip([*rows[0, 1:], *rows[1, :4]], grids, strict=True):
        axes.set_xlabel(f"{values.shape[0]} x {values.shape[1]}", fontsize=9)
    return picture_of(figure)


def most_alike(maps: Tensor, logits: Tensor) -> Tensor:
    """Of the feature maps c h w the one that correlates most with a mask's logits, which are averaged to h x w."""
    target = torch.nn.functional.adaptive_avg_pool2d(logits.sigmoid()[None], (maps.shape[1], maps.shape[2])).flatten()
    both = torch.cat([target[None], maps.flatten(1)])
    return maps[torch.corrcoef(both)[0, 1:].nan_to_num(-1).argmax()]


def enlarged(values: Tensor, size: tuple[int, int]) -> Tensor:
    """A map h w, bilinearly enlarged to `size`."""
    return torch.nn.functional.interpolate(values[None, None], size=size, mode="bilinear")[0, 0]


def heatmap_grid(found: Trace | None = None, count: int = 4) -> Image.Image:
    """The M heatmaps of some objects, one row each, over the image; bright is where the head looks."""
    found = found or example()
    objects = chosen(found, count)
    M = found.heatmaps.shape[1]
    figure = new_figure(8.3, 0.93 * len(objects) + 0.3)
    figure.set_layout_engine("constrained", hspace=0, h_pad=0.02)
    rows = figure.subplots(len(objects), M + 1, squeeze=False)
    for axes_row, k in zip(rows, objects, strict=True):
        plain(axes_row[0], found.image)
        draw_box(axes_row[0], found, k, LIT, 2)
        axes_row[0].set_ylabel(found.names()[k], fontsize=9)
        for head in range(M):
            plain(axes_row[1 + head], found.heatmaps[k, head], cmap="magma", vmin=0, vmax=float(found.heatmaps[k].max()))
    titled(rows[0, 0], "box", 9.5)
    for head in range(M):
        titled(rows[0, 1 + head], f"head {head + 1}", 9.5)
    return picture_of(figure)


@torch.inference_mode()
def attention_weights(found: Trace, layer: torch.nn.Module, name: str) -> Tensor:
    """The attention of a layer's module `name` ("self_attention", "cross_attention") to the image: heads x queries x keys."""
    kept: list[tuple] = []
    module = getattr(layer, name)
    hook = module.register_forward_pre_hook(lambda _, inputs: kept.append(inputs))
    found.model.detect(found.batch)
    hook.remove()
    return module(*kept[0], need_weights=True, average_attn_weights=False)[1][0]


def encoder_attention() -> Image.Image:
    """What four cells of the encoded image attend to in the last encoder layer: for each the head that looks most decidedly."""
    found = example()
    h, w = found.seen.memory.shape[-2:]
    weights = attention_weights(found, found.model.encoder.layers[-1], "self_attention")  # M h*w h*w
    centres = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in found.boxes()[chosen(found, 4)].tolist()]
    figure = new_figure(8.3, 4.4)
    for (upper, lower), (x, y) in zip(figure.subplots(2, 4).T, centres, strict=True):
        cell = int(y / found.image.shape[0] * h) * w + int(x / found.image.shape[1] * w)
        head = int(weights[:, cell].amax(-1).argmax())
        plain(upper, found.image)
        plain(lower, weights[head, cell].view(h, w), cmap="magma", extent=(0, found.image.shape[1], found.image.shape[0], 0))
        for axes in (upper, lower):
            axes.plot(x, y, "o", markersize=9, markerfacecolor="none", markeredgecolor="#56b4e9", markeredgewidth=2.5)
        lower.set_xlabel(f"head {head + 1}", fontsize=9)
        titled(upper, f"cell {cell // w}, {cell % w}", 9.5)
    return picture_of(figure)


def decoder_attention() -> Image.Image:
    """Where four queries look in the last decoder layer, heads averaged, and the boxes they then give."""
    found = example()
    h, w = found.seen.memory.shape[-2:]
    weights = attention_weights(found, found.model.decoder.layers[-1], "cross_attention").mean(0)  # N h*w
    figure = new_figure(8.3, 2.5)
    for axes, k in zip(figure.subplots(1, 4), chosen(found, 4), strict=True):
        looking(axes, found, weights[found.query_index[k]].view(h, w))
        draw_box(axes, found, k, "#56b4e9")
        titled(axes, f"query {int(found.query_index[k])}: {found.names()[k]}", 9.5)
    return picture_of(figure)


def looking(axes: Axes, found: Trace, weights: Tensor) -> None:
    """The image, darkened where `weights` h w are small."""
    height, width = found.image.shape[:2]
    light = 0.3 + 0.7 * (enlarged(weights, (height, width)) / weights.max()).sqrt().numpy()[..., None]
    plain(axes, (found.image * light).astype(np.uint8))


# --- one image's way, as an animation ------------------------------------------------------------------------------------------


def way() -> list[tuple[Image.Image, int]]:
    """The frames of the animation, one for each stage, and how many milliseconds each is shown."""
    found = example()
    features = found.seen.features
    stages = {"Res2": features.res2, "Res3": features.res3, "Res4": features.res4, "Res5": features.res5}
    encoded = partial(plain, image=principal_colors(found.seen.memory[0]))
    kept = f"{len(found.labels)} of {found.seen.logits.shape[1]} are kept"
    frames = [
        frame("an image", "3 x 288 x 288", partial(plain, image=found.image)),
        *(frame(f"ResNet: {n}", shape_of(maps), partial(plain, image=principal_colors(maps[0]))) for n, maps in stages.items()),
        frame("the encoder lets all cells talk", shape_of(found.seen.memory), encoded),
        frame("queries become classes and boxes", kept, partial(boxes_on, found=found)),
    ]
    for k in chosen(found, 3):
        name = found.names()[k]
        frames.append(frame(f"heatmaps of the {name}", shape_of(found.heatmaps[k : k + 1]), partial(heated, found=found, k=k)))
        frames.append(frame(f"mask of the {name}", shape_of(found.masks[k : k + 1, None]), partial(masked, found=found, k=k)))
    final = labelled_overlay(found.image, found.panoptic, found.model.categories, panels=2)
    frames.append(frame("each pixel goes to its best mask", "288 x 288 ids: nothing overlaps", partial(plain, image=final)))
    return [(picture, 1100) for picture in frames[:-1]] + [(frames[-1], 3500)]


def frame(title: str, shape: str, draw: Callable[[Axes], None]) -> Image.Image:
    """One frame: a title, what `draw` draws, a shape below."""
    figure = new_figure(4.4, 4.9)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0.02, 0.075, 0.96, 0.96 * 4.4 / 4.9))
    draw(axes)
    figure.text(0.5, 0.975, title, ha="center", va="center", fontsize=12.5, weight="bold")
    figure.text(0.5, 0.035, shape, ha="center", va="center", fontsize=11.5)
    return picture_of(figure)


def shape_of(maps: Tensor) -> str:
    """ "128 x 12 x 12" of a tensor 1 128 12 12."""
    return " x ".join(str(size) for size in maps.shape[1:])


def boxes_on(axes: Axes, found: Trace) -> None:
    """The image with the boxes of all kept objects."""
    plain(axes, found.image)
    for k in range(len(found.labels)):
        draw_box(axes, found, k)


def heated(axes: Axes, found: Trace, k: int) -> None:
    """The heads' heatmaps of object `k`, added."""
    plain(axes, found.heatmaps[k].sum(0), cmap="magma", extent=(0, found.image.shape[1], found.image.shape[0], 0))
    draw_box(axes, found, k)


def masked(axes: Axes, found: Trace, k: int) -> None:
    """The mask of object `k` as a probability."""
    plain(axes, found.masks[k].sigmoid(), cmap="magma", vmin=0, vmax=1, extent=(0, found.image.shape[1], found.image.shape[0], 0))
    draw_box(axes, found, k)


DRAWINGS: dict[str, Callable[[], Image.Image]] = {
    "pipeline": pipeline,
    **{f"pipeline_{name}": partial(pipeline, name) for name in (*STAGES, *TRAINING)},
    "panoptic_head": panoptic_head,
    "fpn": fpn,
    "heatmaps": heatmap_grid,
    "encoder_attention": encoder_attention,
    "decoder_attention": decoder_attention,
    "cost": lambda: picture_of(cost_figure()),
}


def draw_all(folder: Path) -> None:
    """Draw every figure of DRAWINGS into `folder`, and the animation way.gif."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWINGS.items():
        with whole_file(folder / f"{name}.png") as part:
            draw().save(part, format="png", optimize=True)
    frames, durations = zip(*way(), strict=True)
    with whole_file(folder / "way.gif") as part:
        frames[0].save(part, format="gif", save_all=True, append_images=frames[1:], duration=list(durations), loop=0, optimize=True)


if __name__ == "__main__":
    draw_all(Path(sys.argv[1] if len(sys.argv) > 1 else "images"))
