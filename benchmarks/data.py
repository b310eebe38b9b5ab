"""The contestants around data: panoptic quality of predictions on disk, and loading a data set in COCO's panoptic format."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks.models import picture, regions
from benchmarks.race import Build
from minidetr.data.coco import CocoPanoptic
from minidetr.data.transforms import training_transform
from minidetr.evaluate import panoptic_quality
from minidetr.panoptic import encode_ids

CLASSES = range(1, 31)  # the first 20 are things


def prepare(folder: Path, count: int, height: int = 480, width: int = 640) -> None:
    """`count` pairs of truth and prediction with 20 segments each, half of them moved or of another class; and photos of them."""
    generator = np.random.default_rng(0)
    bases = [regions(height, width, 20, seed) for seed in range(8)]
    categories = [{"id": c, "name": str(c), "isthing": int(c <= 20)} for c in CLASSES]
    contents: dict[str, list[dict]] = {"truth": [], "prediction": []}
    for part in (*contents, "images"):
        (folder / part).mkdir(parents=True)
    for index in range(count):
        ids = np.roll(bases[index % 8], generator.integers(0, 400, 2), (0, 1))
        classes = 1 + generator.permutation(30)[:20]  # each class once an image: stuff has one segment
        moved = np.roll(ids, generator.integers(0, 30, 2), (0, 1))
        guessed = np.where(generator.random(20) < 0.2, np.roll(classes, 1), classes)
        for part, pixels, labels in (("truth", ids, classes), ("prediction", moved, guessed)):
            Image.fromarray(encode_ids(pixels)).save(folder / part / f"{index}.png", compress_level=1)
            segments = [{"id": k + 1, "category_id": int(c), "iscrowd": 0} for k, c in enumerate(labels)]
            contents[part].append({"image_id": index, "file_name": f"{index}.png", "segments_info": segments})
    for index in range(min(count, 16)):
        photo = picture(height, width, index).permute(1, 2, 0).numpy()
        Image.fromarray(photo).save(folder / "images" / f"{index}.jpg", quality=90)
    for part, entries in contents.items():
        images = [{"id": a["image_id"], "file_name": f"{a['image_id']}.jpg"} for a in entries]
        content = {"images": images, "annotations": entries, "categories": categories}
        (folder / f"{part}.json").write_text(json.dumps(content))


# --- panoptic quality -------------------------------------------------------------------------------------------------------


def quality_ours(folder: Path) -> Build:
    """`minidetr.panoptic_quality`."""

    def run() -> float:
        return panoptic_quality(folder / "truth.json", folder / "truth", folder / "prediction.json", folder / "prediction").all.pq

    return run, float


def read_pair(folder: Path, annotation: dict) -> list[np.ndarray]:
    """Truth and prediction of one image, H W ids each, as panopticapi's users read them."""
    pair = []
    for part in ("truth", "prediction"):
        rgb = np.array(Image.open(folder / part / annotation["file_name"]), dtype=np.uint32)
        pair.append(rgb[..., 0] + 256 * rgb[..., 1] + 256 * 256 * rgb[..., 2])
    return pair


def read_contents(folder: Path) -> list[tuple[dict, dict]]:
    """Annotations of truth and prediction, in pairs."""
    truth, prediction = (json.loads((folder / f"{part}.json").read_text())["annotations"] for part in ("truth", "prediction"))
    return list(zip(truth, prediction, strict=True))


def quality_numpy(folder: Path) -> Build:
    """panopticapi's published rule, image by image and pair by pair (no void or crowd in this data)."""

    def run() -> float:
        counts = {c: [0, 0, 0, 0.0] for c in CLASSES}  # true positives, false positives, false negatives, IoU
        for truth, prediction in read_contents(folder):
            gt, pred = read_pair(folder, truth)
            gt_class = {s["id"]: s["category_id"] for s in truth["segments_info"]}
            pred_class = {s["id"]: s["category_id"] for s in prediction["segments_info"]}
            gt_area = dict(zip(*(x.tolist() for x in np.unique(gt, return_counts=True)), strict=True))
            pred_area = dict(zip(*(x.tolist() for x in np.unique(pred, return_counts=True)), strict=True))
            pairs, areas = np.unique(gt.astype(np.uint64) * 256**3 + pred, return_counts=True)
            matched_gt, matched_pred = set(), set()
            for pair, area in zip(pairs.tolist(), areas.tolist(), strict=True):
                g, p = divmod(pair, 256**3)
                if gt_class[g] != pred_class[p]:
                    continue
                iou = area / (gt_area[g] + pred_area[p] - area)
                if iou > 0.5:
                    counts[gt_class[g]][0] += 1
                    counts[gt_class[g]][3] += iou
                    matched_gt.add(g)
                    matched_pred.add(p)
            for g in gt_class.keys() - matched_gt:
                counts[gt_class[g]][2] += 1
            for p in pred_class.keys() - matched_pred:
                counts[pred_class[p]][1] += 1
        return float(np.mean([iou / (tp + fp / 2 + fn / 2) for tp, fp, fn, iou in counts.values()]))

    return run, float


def quality_hotcoco(folder: Path) -> Build:
    """hotcoco's PanopticEval, in Rust, on one thread; its table is not printed."""
    os.environ["RAYON_NUM_THREADS"] = "1"
    from hotcoco import panoptic

    def run() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            files = (folder / name for name in ("truth.json", "prediction.json", "truth", "prediction"))
            return panoptic.pq_compute(*map(str, files))["All"]["pq"]

    return run, float


def quality_torchmetrics(folder: Path) -> Build:
    """`torchmetrics`' PanopticQuality, fed pairs of (class, segment) per pixel."""
    from torchmetrics.detection import PanopticQuality

    def run() -> float:
        metric = PanopticQuality(things=set(CLASSES), stuffs=set())  # as stuff, segments of a class would be one
        for both in read_contents(folder):
            pair = []
            for ids, annotation in zip(read_pair(folder, both[0]), both, strict=True):
                table = np.zeros(256, np.int64)
                table[[s["id"] for s in annotation["segments_info"]]] = [s["category_id"] for s in annotation["segments_info"]]
                pair.append(torch.from_numpy(np.stack([table[ids], ids.astype(np.int64)], axis=-1))[None])
            metric.update(pair[1], pair[0])
        return float(metric.compute())

    return run, float


# --- loading ----------------------------------------------------------------------------------------------------------------

IMAGES = 16  # loaded in a run


def loading_ours(folder: Path, augment: bool) -> Build:
    """`CocoPanoptic` with DETR's augmentation, or without any; the last sample is what is compared."""
    truth = json.loads((folder / "truth.json").read_text())
    small = {k: v if k == "categories" else v[:IMAGES] for k, v in truth.items()}
    (folder / f"first-{augment}.json").write_text(json.dumps(small))
    transform = training_transform() if augment else None
    data = CocoPanoptic(folder / f"first-{augment}.json", folder / "images", folder / "truth", transform)

    def run() -> Any:
        return [data[index] for index in range(IMAGES)][-1]

    return run, lambda sample: (sample[0].numpy(), sample[1].boxes.numpy(), sample[1].masks.numpy())


def loading_plain(folder: Path, augment: bool) -> Build:
    """The reference's steps, one after another: a mask for each segment first, then every mask is flipped, cut and resized."""
    annotations = json.loads((folder / "truth.json").read_text())["annotations"][:IMAGES]
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]

    def resize(image: Image.Image, masks: Tensor, short: int, longest: int = 10**6) -> tuple[Image.Image, Tensor]:
        width, height = image.size
        scale = min(short / min(width, height), longest / max(width, height))
        width, height = round(width * scale), round(height * scale)
        resized = F.interpolate(masks[:, None].float(), (height, width))[:, 0] > 0.5
        return image.resize((width, height), Image.Resampling.BILINEAR), resized

    def draw(values: Any) -> int:
        return values[int(torch.randint(len(values), ()))]

    def load(annotation: dict) -> tuple[Tensor, Tensor, Tensor]:
        image = Image.open(folder / "images" / annotation["file_name"].replace("png", "jpg")).convert("RGB")
        rgb = np.asarray(Image.open(folder / "truth" / annotation["file_name"]), dtype=np.uint32)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 256 * 256 * rgb[..., 2]
        masks = torch.as_tensor(ids == np.array([s["id"] for s in annotation["segments_info"]])[:, None, None])
        if augment:
            if torch.rand(()) < 0.5:
                image, masks = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), masks.flip(-1)
            if torch.rand(()) < 0.5:
                image, masks = resize(image, masks, draw((400, 500, 600)))
                width, height = (draw(range(min(384, side), min(600, side) + 1)) for side in image.size)
                left, top = draw(range(image.width - width + 1)), draw(range(image.height - height + 1))
                image, masks = (
                    image.crop((left, top, left + width, top + height)),
                    masks[:, top : top + height, left : left + width],
                )
            image, masks = resize(image, masks, draw(range(480, 801, 32)), 1333)
        height, width = masks.shape[1:]
        x, y = torch.arange(width), torch.arange(height)[:, None]
        masks = masks[masks.flatten(1).any(1)]
        edges = [
            (~masks * 10**8 + masks * x).flatten(1).amin(1),
            (~masks * 10**8 + masks * y).flatten(1).amin(1),
            (masks * (x + 1)).flatten(1).amax(1),
            (masks * (y + 1)).flatten(1).amax(1),
        ]
        left, top, right, bottom = edges
        boxes = torch.stack([(left + right) / 2 / width, (top + bottom) / 2 / height], 1)
        boxes = torch.cat([boxes, torch.stack([(right - left) / width, (bottom - top) / height], 1)], 1)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        return (pixels - mean) / std, boxes, masks

    return lambda: [load(a) for a in annotations][-1], lambda sample: tuple(tensor.numpy() for tensor in sample)
