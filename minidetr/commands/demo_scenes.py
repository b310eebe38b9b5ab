"""What `minidetr demo` shows: the shipped model on scenes it has never seen, by way of files and the other commands' code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from minidetr.data.coco import CocoPanoptic, write_coco_panoptic
from minidetr.data.photos import find_photos
from minidetr.evaluate import panoptic_quality
from minidetr.model import PanopticDETR
from minidetr.panoptic import Panoptic, write_png
from minidetr.plot import grid, labelled_overlay, legend_entries, overlay, side_by_side
from minidetr.predict import load_model, output_folder, segment_into
from minidetr.presets import preset
from minidetr.scenes.dataset import HELD_OUT_SEED, SceneData
from minidetr.weights.load import shipped_weights

WRITTEN = ("truth", "prediction", "scenes", "contact_sheet.png", "quality.txt")


def demo(folder: Path, count: int = 12) -> None:
    """Write the demo to `folder`, replacing an earlier one, and print what came out.

    With shipped weights: FOLDER/truth and FOLDER/prediction (COCO panoptic), FOLDER/scenes/*.png (photo, truth, prediction),
    FOLDER/contact_sheet.png and FOLDER/quality.txt. Without them it only prints the shapes of every stage.
    """
    if shipped_weights("tiny") is None:
        print("No trained weights come with this copy of minidetr. The model below has random weights: it shows the shape of every")
        print("stage, and what it would segment means nothing.\n")
        print(shapes_of_stages())
        return
    with output_folder(folder, WRITTEN, overwrite=True) as part:
        write_coco_panoptic(SceneData(count, HELD_OUT_SEED), part / "truth")
        model = load_model("tiny")
        seconds = segment_into(part / "prediction", find_photos([part / "truth" / "images"]).files, model)
        draw_scenes(part)
        truth, prediction = ((part / kind / "panoptic.json", part / kind / "panoptic") for kind in ("truth", "prediction"))
        table = panoptic_quality(*truth, *prediction).table(per_class=True)
        device = next(model.parameters()).device.type
        text = f"{table}\n\n{seconds / count:.3f} seconds an image on {device}, files not counted"
        (part / "quality.txt").write_text(text + "\n", encoding="utf-8")
    print(f"The shipped model on {count} rendered scenes it has never seen:\n\n{text}\n")
    print(f"Look at {folder / 'contact_sheet.png'} first; {folder / 'scenes'} has each scene larger, with its labels.")


def draw_scenes(folder: Path) -> None:
    """FOLDER/truth and FOLDER/prediction -> one picture for each scene, and all of them on one sheet."""
    truth = CocoPanoptic.from_folder(folder / "truth")
    prediction = CocoPanoptic(folder / "prediction/panoptic.json", folder / "truth/images", folder / "prediction/panoptic")
    titles = ("photo", "truth", "prediction")
    sheet: list[np.ndarray] = []
    seen: list[Panoptic] = []
    for index in tqdm(range(len(truth)), desc="drawing", unit="scene", disable=None):
        picture, ids, entries = truth.read(index)
        photo = np.asarray(picture)
        pair = [
            Panoptic.of_entries(ids, entries, truth.categories),
            Panoptic.of_entries(*prediction.read(index)[1:], prediction.categories),
        ]
        labelled = [labelled_overlay(photo, panoptic, truth.categories, panels=3) for panoptic in pair]
        picture_of_scene = side_by_side([photo, *labelled], titles, below=legend_entries(pair, truth.categories))
        write_png(folder / "scenes" / f"{index:06d}.png", picture_of_scene)
        sheet += [photo, *(overlay(photo, panoptic, truth.categories) for panoptic in pair)]
        seen += pair
    columns = 3 if len(truth) == 1 else 6  # two scenes in a row
    write_png(folder / "contact_sheet.png", grid(sheet, columns, titles * 2, below=legend_entries(seen, truth.categories)))


def shapes_of_stages() -> str:
    """One 640 x 640 image of noise through a ResNet-50 model with random weights: a line with the shape after every stage."""
    from minidetr.data.batch import Batch
    from minidetr.weights.published import coco_categories

    torch.manual_seed(0)
    model = PanopticDETR(preset("r50"), coco_categories(250), 250).eval()
    with torch.inference_mode():
        batch = Batch.pad([torch.randn(3, 640, 640)])
        seen = model.detect(batch)
        image_index, query_index = torch.zeros(5, dtype=torch.long), torch.arange(5)  # masks are computed for picked objects alone
        stages = {
            "image": batch.images,
            "Res2": seen.features.res2,
            "Res3": seen.features.res3,
            "Res4": seen.features.res4,
            "Res5": seen.features.res5,
            "1x1 convolution": seen.features.projected,
            "encoder memory": seen.memory,
            "queries": seen.queries,
            "class logits": seen.logits,
            "boxes": seen.boxes,
            "heatmaps of 5 objects": model.heatmaps(seen, image_index, query_index),
            "masks of 5 objects": model.masks(seen, image_index, query_index),
        }
    return "\n".join(f"{name:22} {' x '.join(map(str, tensor.shape))}" for name, tensor in stages.items())
