"""From an annotation tool's zip to a model in use, on a machine that goes away: the commands of the README's Colab section."""

from __future__ import annotations

import json
import os
import shutil
import signal
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from minidetr.commands.main import main
from minidetr.panoptic import read_json
from minidetr.training.step import Step

CATEGORIES = [
    {"id": 1, "name": "crane", "supercategory": ""},
    {"id": 2, "name": "truck", "supercategory": ""},
    {"id": 3, "name": "ground", "supercategory": ""},
]


def cvat_zip(path: Path, count: int = 16) -> None:
    """ "COCO 1.0" of CVAT: annotations/instances_default.json and images/; two things and the ground on each photo."""
    random = np.random.default_rng(3)
    images, annotations = [], []
    with zipfile.ZipFile(path, "w") as file:
        for image_id in range(1, count + 1):
            pixels = random.integers(90, 130, (64, 96, 3)).astype(np.uint8)
            pixels[40:] = (120, 90, 60)
            outlines = [(3, (0, 40, 96, 64))]
            for category_id, color in ((1, (230, 190, 40)), (2, (200, 40, 40))):
                left, top = int(random.integers(0, 60)), int(random.integers(5, 40))
                pixels[top : top + 20, left : left + 24] = color
                outlines.append((category_id, (left, top, left + 24, top + 20)))
            name = f"site_{image_id:03d}.png"
            Image.fromarray(pixels).save(path.parent / name)
            file.write(path.parent / name, f"images/{name}")
            (path.parent / name).unlink()
            images.append({"id": image_id, "file_name": name, "width": 96, "height": 64})
            for category_id, (x, y, x2, y2) in outlines:
                entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category_id, "iscrowd": 0}
                entry |= {
                    "segmentation": [[x, y, x2, y, x2, y2, x, y2]],
                    "bbox": [x, y, x2 - x, y2 - y],
                    "area": (x2 - x) * (y2 - y),
                }
                annotations.append(entry)
        content = {"licenses": [], "info": {}, "images": images, "annotations": annotations, "categories": CATEGORIES}
        file.writestr("annotations/instances_default.json", json.dumps(content))


def test_from_a_zip_to_a_model_on_a_machine_that_goes_away(tmp_path, monkeypatch, capsys):
    drive, machine = tmp_path / "drive", tmp_path / "machine"
    drive.mkdir()
    cvat_zip(drive / "site.zip")

    def minidetr(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    def get_ready() -> None:
        """What every new machine begins with: unzip, assemble, check, split; the same each time."""
        with zipfile.ZipFile(drive / "site.zip") as file:
            file.extractall(machine / "unzipped")
        assert "CVAT" in minidetr("data", "assemble", machine / "unzipped", machine / "site", "--stuff", "ground")
        minidetr("data", "check", machine / "site")
        minidetr("data", "split", machine / "site", machine / "split", "--share", "0.6", "--test", "0.2")

    run = machine / "run"
    fixed = (
        "--size",
        64,
        "--epochs",
        3,
        "--batch-size",
        4,
        "--workers",
        0,
        "--device",
        "cpu",
        "--quiet",
        "--checkpoint-minutes",
        0,
    )
    get_ready()
    with monkeypatch.context() as patch:
        real = Step.count

        def count(self, *rest):
            real(self, *rest)
            if self.run.place.iteration == 4:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(Step, "count", count)
        data = ("--data", machine / "split", "--test", machine / "split" / "test", "--from", "tiny")
        told = minidetr("train", *data, "--output", run, "--backup", drive / "run", *fixed)
    assert "recipe: fine-tuning, for few photos" in told and "stopped" in told

    shutil.rmtree(machine)  # disconnected
    get_ready()
    told = minidetr("train", "--resume", drive / "run", "--output", run)
    assert f"resumed: {run} at iteration 4" in told and "attention" not in told
    test = read_json(run / "test.json", "the score on the test data")
    assert test["images"] >= 2 and 0 <= test["PQ"] <= 100

    val = machine / "split" / "val"
    minidetr("predict", val / "images", "--model", drive / "run", "--output", machine / "result")
    truth = (val / "panoptic.json", val / "panoptic")
    told = minidetr("evaluate", *truth, machine / "result" / "panoptic.json", machine / "result" / "panoptic")
    again = minidetr("evaluate", *truth, "--model", run, "--photos", val / "images", "--why", machine / "why")
    assert told.splitlines()[2] == again.splitlines()[2]  # the row "All"
    assert (run / "why" / "index.html").is_file() and (machine / "why" / "index.html").is_file()
    assert {path.name for path in (drive / "run").iterdir()} >= {"checkpoint.pt", "best.safetensors"}
