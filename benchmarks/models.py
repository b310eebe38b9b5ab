"""The contestants around the model: minidetr and `transformers`, both with the weights that `prepare` draws and saves."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.race import Build
from minidetr.data.batch import Batch, same_size
from minidetr.data.images import normalise
from minidetr.data.targets import target_from_panoptic
from minidetr.model import PanopticDETR
from minidetr.model.merge import kept_queries, merge
from minidetr.scenes.dataset import HELD_OUT_SEED, SceneData
from minidetr.training.objective import Objective
from minidetr.training.options import TrainOptions
from minidetr.weights.published import coco_categories

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is downloaded

KEPT = 12
SIZES = ((640, 640), (800, 1066))
CATEGORIES = {c.id: c for c in coco_categories(250)}
STUFF = {c.id for c in CATEGORIES.values() if not c.is_thing}


def picture(height: int, width: int, seed: int = 1) -> Tensor:
    """Smooth blobs and noise, uint8 RGB 3 H W."""
    generator = torch.Generator().manual_seed(seed)
    blobs, noise = torch.randn(1, 3, 5, 6, generator=generator), torch.randn(3, height, width, generator=generator)
    mixed = F.interpolate(2 * blobs, size=(height, width), mode="bicubic")[0] + 0.3 * noise
    return ((mixed * 0.2 + 0.5).clamp(0, 1) * 255).byte()


@torch.inference_mode()
def prepare(folder: Path) -> None:
    """Draw the weights of an R50 panoptic model, save them as `transformers` does, and find thresholds that keep 12 queries."""
    import transformers

    from tests.model.spread import spread

    config = transformers.DetrConfig(
        backbone_config=transformers.ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"]),
        use_timm_backbone=False,
        num_labels=250,
    )
    model = transformers.DetrForSegmentation(config)
    spread(model, 256)
    never = [i for i in range(251) if i not in CATEGORIES]  # neither "no object" nor gaps: the threshold alone decides
    model.detr.class_labels_classifier.bias[never] = -1000.0
    model.save_pretrained(folder)
    del model
    thresholds = {}
    for height, width in SIZES:
        ours = model_of(folder, height, width)
        [(group, _)] = same_size([picture(height, width)], ours.preset.short_side, ours.preset.long_side, 1)
        batch = Batch.pad([normalise(image) for image in group])
        scores = ours.detect(batch).logits[0].softmax(-1).max(-1)[0].sort(descending=True)[0]
        thresholds[f"{height}x{width}"] = float(scores[KEPT - 1 : KEPT + 1].mean())
    (folder / "thresholds.json").write_text(json.dumps(thresholds))


def threshold_of(folder: Path, height: int, width: int) -> float:
    """The score between the 12th and the 13th query."""
    return json.loads((folder / "thresholds.json").read_text())[f"{height}x{width}"]


def model_of(folder: Path, height: int, width: int) -> PanopticDETR:
    """minidetr with the saved weights, and images taken as large as they are."""
    model = PanopticDETR.from_pretrained(folder)
    model.preset = replace(model.preset, short_side=min(height, width), long_side=max(height, width), dropout=0.0)
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.MultiheadAttention)):
            setattr(module, "p" if isinstance(module, nn.Dropout) else "dropout", 0.0)
    return model


def their_model(folder: Path, **changes: Any) -> Any:
    """`transformers` with the saved weights."""
    import transformers

    return transformers.DetrForSegmentation.from_pretrained(folder, **changes).eval()


# --- image in, segment map out ----------------------------------------------------------------------------------------------


def panoptic_ours(folder: Path, height: int, width: int, bfloat16: bool = False) -> Build:
    """`PanopticDETR.segment`."""
    model, image, threshold = model_of(folder, height, width), picture(height, width), threshold_of(folder, height, width)

    def run() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return model.segment([image], threshold)[0]

    return run, lambda panoptic: (panoptic.segment_ids, len(panoptic.segments))


@torch.inference_mode()
def shares_in_bfloat16(count: int) -> tuple[float, float]:
    """Of the trained `tiny` on held-out scenes: shares of pixels with the same id, and of the same class, as in float32."""
    model, scenes = PanopticDETR.from_pretrained("tiny"), SceneData(count, HELD_OUT_SEED)
    same_id, same_class = [], []
    for index in range(count):
        picture = scenes.read(index)[0]
        exact = model.segment([picture])[0]
        with torch.autocast("cpu", torch.bfloat16):
            coarse = model.segment([picture])[0]
        classes = [np.array([0, *(s.category_id for s in found.segments)])[found.segment_ids] for found in (exact, coarse)]
        same_id.append((exact.segment_ids == coarse.segment_ids).mean())
        same_class.append((classes[0] == classes[1]).mean())
    return float(np.mean(same_id)), float(np.mean(same_class))


def panoptic_theirs(folder: Path, height: int, width: int) -> Build:
    """Image processor, model, post-processing; what is compared are its kept masks under minidetr's merge."""
    import transformers

    model, processor = their_model(folder), transformers.DetrImageProcessor(do_resize=False)
    image, threshold = picture(height, width).permute(1, 2, 0).numpy(), threshold_of(folder, height, width)

    @torch.inference_mode()
    def run() -> Any:
        output = model(**processor(images=image, return_tensors="pt"))
        processor.post_process_panoptic_segmentation(
            output, threshold=threshold, label_ids_to_fuse=STUFF, target_sizes=[(height, width)]
        )
        return output

    def result(output: Any) -> Any:
        kept, scores, labels = kept_queries(output.logits[0], threshold, CATEGORIES)
        size = (height, width)
        panoptic = merge(output.pred_masks[0, kept], scores, labels, CATEGORIES, size, size, size)
        return panoptic.segment_ids, len(kept)

    return run, result


# --- mask head --------------------------------------------------------------------------------------------------------------


def masks_ours(folder: Path, height: int, width: int, count: int) -> Build:
    """Heatmaps and mask head for the first `count` queries."""
    model = model_of(folder, height, width)
    with torch.inference_mode():
        [(group, _)] = same_size([picture(height, width)], model.preset.short_side, model.preset.long_side, 1)
        seen = model.detect(Batch.pad([normalise(image) for image in group]))

    @torch.inference_mode()
    def run() -> Tensor:
        return model.masks(seen, torch.zeros(count, dtype=torch.long), torch.arange(count))

    return run, lambda masks: masks[:KEPT].numpy()


class ReachedError(Exception):
    """The mask head's inputs are known; computing it is what will be timed."""


def masks_theirs(folder: Path, height: int, width: int) -> Build:
    """The same parts of `transformers`, which know no choice of queries."""
    model, reference = their_model(folder), model_of(folder, height, width)
    [(group, _)] = same_size([picture(height, width)], reference.preset.short_side, reference.preset.long_side, 1)
    del reference
    inputs: dict[str, Any] = {}

    def before_heatmaps(module: nn.Module, positional: tuple, named: dict) -> None:
        inputs["heatmaps"] = positional, named

    def before_mask_head(module: nn.Module, positional: tuple, named: dict) -> None:
        inputs["mask head"] = named
        raise ReachedError

    hooks = [
        model.bbox_attention.register_forward_pre_hook(before_heatmaps, with_kwargs=True),
        model.mask_head.register_forward_pre_hook(before_mask_head, with_kwargs=True),
    ]
    try:
        with torch.inference_mode():
            model(pixel_values=normalise(group[0])[None])
    except ReachedError:
        pass
    for hook in hooks:
        hook.remove()

    @torch.inference_mode()
    def run() -> Tensor:
        positional, named = inputs["heatmaps"]
        heatmaps = model.bbox_attention(*positional, **named)
        return model.mask_head(**(inputs["mask head"] | {"attention_masks": heatmaps}))

    return run, lambda masks: masks.reshape(-1, *masks.shape[-2:])[:KEPT].numpy()


# --- training ---------------------------------------------------------------------------------------------------------------


def regions(height: int, width: int, count: int, seed: int) -> np.ndarray:
    """Segment ids 1..count, H W: each pixel belongs to the nearest of `count` random points."""
    generator = np.random.default_rng(seed)
    points = generator.uniform((0, 0), (height, width), (count, 2))
    rows, columns = np.ogrid[:height, :width]
    return np.stack([(rows - y) ** 2 + (columns - x) ** 2 for y, x in points]).argmin(0).astype(np.int32) + 1


def training_batch(side: int) -> tuple[Batch, list]:
    """Two square images with ten segments each."""
    classes = sorted(CATEGORIES)
    images = [(picture(side, side, seed).float() / 255 - 0.45) / 0.225 for seed in (1, 2)]
    segments = [{"id": i, "category_id": classes[11 * i]} for i in range(1, 11)]
    return Batch.pad(images), [target_from_panoptic(regions(side, side, 10, seed), segments, seed) for seed in (1, 2)]


COMPARED = 192  # pixels: what is compared is computed in float64, since float32's sums differ by more than the formulas may


GRADIENTS = {  # minidetr's names -> those of transformers
    "mask_head.convolutions.0.weight": "mask_head.conv1.conv.weight",
    "mask_head.output.weight": "mask_head.output_conv.weight",
    "heatmap_attention.query.weight": "bbox_attention.q_proj.weight",
}


def training_ours(folder: Path, step: str, side: int) -> Build:
    """Forward, loss and backward of `minidetr train`; `step` is "masks" (all but the mask head frozen) or "joint"."""
    model = model_of(folder, side, side)
    options = TrainOptions(preset="r50", mask_stride=1, masks_per_image=0, pixel_class=0.0, focal=1.0, dice=1.0).filled()
    for name, parameter in model.named_parameters():
        of_masks = name.startswith(("mask_head.", "heatmap_attention."))
        never = name.startswith(("backbone.resnet.conv1", "backbone.resnet.layer1"))
        parameter.requires_grad_(of_masks if step == "masks" else not never)
    objective = Objective(model, options, step).train()
    batch, targets = training_batch(side)

    def run() -> dict[str, Tensor]:
        model.zero_grad()
        losses = objective(batch, targets)
        losses["total"].backward()
        return losses

    def result(_: dict[str, Tensor]) -> dict[str, np.ndarray]:
        nonlocal batch, targets
        batch, targets = training_batch(COMPARED)
        objective.double()
        batch.images = batch.images.double()
        losses = run()
        parameters = dict(model.named_parameters())
        gradients = {ours: parameters[ours].grad.numpy() for ours in GRADIENTS}
        return gradients | {name: losses[name].detach().numpy() for name in ("focal", "dice")}

    return run, result


def labels_of(targets: list, dtype: torch.dtype = torch.float32) -> list[dict[str, Tensor]]:
    """Targets as `transformers` takes them."""
    return [{"class_labels": t.labels, "boxes": t.boxes.to(dtype), "masks": t.masks.to(dtype)} for t in targets]


def training_theirs(folder: Path, step: str, side: int) -> Build:
    """The same of `transformers` with its own loss, but without auxiliary losses: those change what its decoder computes (5.23
    hands each layer the normalised output of the one before), and cost little."""
    model = their_model(folder, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0).train()
    if step == "masks":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(("mask_head.", "bbox_attention.")))
    batch, targets = training_batch(side)
    labels = labels_of(targets)

    def run() -> dict[str, Tensor]:
        model.zero_grad()
        output = model(pixel_values=batch.images, pixel_mask=(~batch.padding).long(), labels=labels)
        output.loss.backward()
        return output.loss_dict

    def result(_: dict[str, Tensor]) -> dict[str, np.ndarray]:
        nonlocal batch, targets, labels
        batch, targets = training_batch(COMPARED)
        labels = labels_of(targets, torch.float64)
        model.double()
        torch.set_default_dtype(torch.float64)  # for the weights that its loss makes anew
        batch.images = batch.images.double()
        losses = run()
        parameters = dict(model.named_parameters())
        gradients = {ours: parameters[theirs].grad.numpy() for ours, theirs in GRADIENTS.items()}
        return gradients | {"focal": losses["loss_mask"].detach().numpy(), "dice": losses["loss_dice"].detach().numpy()}

    return run, result


# --- merge ------------------------------------------------------------------------------------------------------------------


def merge_case() -> tuple[SimpleNamespace, tuple[int, int]]:
    """100 queries of which 12 are kept, all equally sure, their masks clear regions of an image of 800x1066."""
    logits = torch.zeros(1, 100, 251)
    logits[..., 250] = 12.0  # "no object"
    things = [i for i, c in CATEGORIES.items() if c.is_thing]
    kept = range(3, 99, 8)
    masks = torch.full((1, 100, 200, 267), -8.0)
    owner = torch.from_numpy(regions(200, 267, KEPT, seed=3))
    for k, query in enumerate(kept):
        logits[0, query, things[k]] = 24.0
        masks[0, query] = torch.where(owner == k + 1, 8.0, -8.0)
    return SimpleNamespace(logits=logits, pred_masks=masks), (800, 1066)


def merge_ours() -> Build:
    """Kept queries and merge."""
    output, size = merge_case()

    @torch.inference_mode()
    def run() -> Any:
        kept, scores, labels = kept_queries(output.logits[0], 0.85, CATEGORIES)
        return merge(output.pred_masks[0, kept], scores, labels, CATEGORIES, size, size, size)

    return run, lambda panoptic: (panoptic.segment_ids, len(panoptic.segments))


def merge_theirs() -> Build:
    """`post_process_panoptic_segmentation`."""
    import transformers

    processor = transformers.DetrImageProcessor()
    output, size = merge_case()

    @torch.inference_mode()
    def run() -> Any:
        return processor.post_process_panoptic_segmentation(output, threshold=0.85, label_ids_to_fuse=STUFF, target_sizes=[size])[0]

    return run, lambda result: (result["segmentation"].numpy(), len(result["segments_info"]))
