"""The model a run starts from: a preset, published or own weights fitted to other classes, an ImageNet backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

from minidetr.after import AfterDETR, build
from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.panoptic import Category
from minidetr.presets import PIXEL_WIDTH, Preset, preset
from minidetr.training.options import STAGES, TrainOptions
from minidetr.weights.files import read_pickle, read_safetensors, unwrapped
from minidetr.weights.load import load
from minidetr.weights.published import checked


def starting_model(options: TrainOptions, categories: list[Category]) -> tuple[PanopticDETR, list[str]]:
    """The model to train for `categories`, and one line for each thing loaded, replaced or left out. Raises InputError."""
    if options.from_:
        return fine_tuned_start(options, categories)
    shape = adjusted(preset(options.preset), options)
    model = model_of(shape, options, categories)
    source = options.backbone_weights or ("none" if shape.norm == "batch" else "imagenet")
    if source == "none":
        return model, [f"{options.preset}: everything starts from random weights"]
    model.backbone.resnet.load_state_dict(backbone_state(source, shape.backbone, model), strict=True)
    return model, [f"backbone: loaded from {source}", "everything else starts from random weights"]


def adjusted(shape: Preset, options: TrainOptions) -> Preset:
    """The preset with what the options change of it: size, dropout, number of queries."""
    ratio = shape.long_side / shape.short_side
    return replace(
        shape,
        short_side=options.size,
        long_side=round(options.size * ratio),
        dropout=options.dropout,
        queries=options.queries or shape.queries,
        **later_ideas(shape, options),
    )


def later_ideas(shape: Preset, options: TrainOptions) -> dict[str, Any]:
    """What the options change of the preset's ideas from after DETR (`minidetr.after`)."""
    changed: dict[str, Any] = {}
    for name in ("masked_attention", "starts"):
        if (value := getattr(options, name)) is not None:
            changed[name] = value
    if options.masks == "dot":
        changed |= {"mask_widths": None, "pixel_width": shape.pixel_width or PIXEL_WIDTH}
    elif options.masks == "heatmaps":
        usual = preset(options.preset.removesuffix("-after"))
        changed |= {"mask_widths": shape.mask_widths or usual.mask_widths, "pixel_width": None}
    return changed


def model_of(shape: Preset, options: TrainOptions, categories: list[Category], classes: int | None = None) -> PanopticDETR:
    """The preset's model; one that tells its earlier layers' box embeddings, too, where training looks at them."""
    return (AfterDETR if options.asks_for_dot_masks else build)(shape, categories, classes)


def fine_tuned_start(options: TrainOptions, categories: list[Category]) -> tuple[PanopticDETR, list[str]]:
    """The weights of `options.from_` in a model for `categories`: what fits is kept, the rest starts from random weights."""
    source = load(str(options.from_), categories=options.categories, otherwise=options.preset, headless=True)
    shape = adjusted(source.preset, replace(options, queries=options.queries or source.preset.queries))
    if not shape.has_masks and options.steps != "boxes":
        shape = replace(shape, mask_widths=preset("r50").mask_widths)  # a detection model learns masks with a new head

    def describe(cs: list[Category]) -> list[tuple[int, str]]:
        return [(c.id, c.name) for c in cs]

    same_classes = describe(source.categories) == describe(categories)
    # Published models have more outputs than COCO's highest category id asks for: kept with the classes they belong to.
    model = model_of(shape, options, categories, source.num_classes if same_classes else None)
    state, lines = source.state_dict(), [f"loaded: {options.from_}"]
    expected = model.state_dict()
    new = sorted({key.split(".")[0] for key in expected.keys() - state.keys()})
    if new:
        lines.append(f"new: {', '.join(new)}, which {options.from_} lacks")
    if not same_classes:
        drop(state, ("heads.classes.",))
        before, after = len(source.categories), len(categories)
        fresh_head = f"new: the class head for {after} class{'es' * (after != 1)}, which {options.from_} lacks"
        lines.append(f"replaced: the class head, {before} classes by {after}" if before else fresh_head)
    before, after = source.preset.queries, shape.queries
    if before != after:
        fresh = model.decoder.query_embedding.weight.detach().clone()  # N d
        kept = min(before, after)
        fresh[:kept] = state["decoder.query_embedding.weight"][:kept]
        state["decoder.query_embedding.weight"] = fresh
        lines.append(f"queries: the first {kept} kept, {max(after - before, 0)} new, {max(before - after, 0)} left out")
    if source.preset.has_masks and source.preset.pixel_width != shape.pixel_width:
        drop(state, STAGES["mask-head"])
        lines.append(f"replaced: the mask head, by {'dot products' if shape.pixel_width else 'that of heatmaps'}")
    if source.preset.starts and not shape.starts:
        drop(state, ("starts.",))
    for stage in options.reset:
        drop(state, STAGES[stage])
        lines.append(f"replaced: {stage}, which starts from random weights")
    model.load_state_dict(expected | state)
    fresh_heatmaps = model.heatmap_attention is not None and "heatmap_attention.query.weight" not in state
    if fresh_heatmaps and "decoder.norm.weight" in state:
        look_like_the_decoder(model)
        lines.append("heatmap attention: starts as the decoder's last cross-attention")
    return model, lines


@torch.no_grad()
def look_like_the_decoder(model: PanopticDETR) -> None:
    """Start the heatmap attention with the query and key projections of the decoder's last cross-attention.

    That one has learned where each query looks, and the heatmaps ask for the same. From random projections all objects of an image
    have the same flat heatmaps, and the mask head has nothing to tell them apart by until the attention has learned it, too.
    """
    learned: Any = model.decoder.layers[-1].cross_attention
    new: Any = model.heatmap_attention
    weights, biases = learned.in_proj_weight.chunk(3), learned.in_proj_bias.chunk(3)  # query, key, value
    for linear, weight, bias in zip((new.query, new.key), weights[:2], biases[:2], strict=True):
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)


def drop(state: dict[str, Tensor], prefixes: tuple[str, ...]) -> None:
    """Remove the entries whose names start with one of `prefixes`."""
    for key in [k for k in state if k.startswith(prefixes)]:
        del state[key]


def backbone_state(source: str, backbone: str, model: PanopticDETR) -> dict[str, Tensor]:
    """ImageNet weights with torchvision's key names: downloaded ("imagenet") or from a file. Raises InputError."""
    if source == "imagenet":
        if backbone not in torchvision.models.list_models():
            raise InputError(f"--backbone-weights imagenet: there are none for the backbone {backbone}; leave the option out")
        weights = torchvision.models.get_model_weights(backbone)["IMAGENET1K_V1"]
        try:
            state = weights.get_state_dict(progress=True, check_hash=True)
        except (OSError, RuntimeError) as error:
            place = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[1]
            raise InputError(
                f"{weights.url} could not be downloaded ({error}): fetch it by hand and put it at {place}, "
                "or give --backbone-weights FILE or none"
            ) from error
    else:
        path = Path(source)
        if not path.is_file():
            raise InputError(
                f"--backbone-weights {path} is not a file: give weights with torchvision's key names, imagenet or none"
            )
        state = read_safetensors(path)[0] if path.suffix == ".safetensors" else read_pickle(path)[0]
        state = unwrapped(state, path, ("backbone", "resnet"))
    expected = model.backbone.resnet.state_dict()
    # Neither the classifier nor the counters of batch normalisation, which frozen normalisation lacks, have a place here.
    state = {k: v for k, v in state.items() if k in expected or not (k.startswith("fc.") or k.endswith("num_batches_tracked"))}
    wrong = [key for key, value in expected.items() if key not in state or state[key].shape != value.shape]
    if wrong or len(state) > len(expected):  # a ResNet-34 has all that a ResNet-18 has, and more
        key = next(iter(wrong or state.keys() - expected.keys()))
        raise InputError(f"--backbone-weights {source} do not fit {backbone}: {key} is missing, of another shape or one too many")
    return {k: checked(v, k, source) if expected[k].is_floating_point() else v for k, v in state.items()}
