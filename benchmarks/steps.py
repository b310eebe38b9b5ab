"""The joint training step in images a second, as orientation beside torchvision's Mask R-CNN (ResNet-50 FPN, its own losses).

    python -m benchmarks.steps

Scenes of one size, batch 2; forward, loss, backward and the optimiser's step; float32, one thread, in turns (`benchmarks.race`).
Mask R-CNN finds things alone; its boxes and masks here are those of all segments, as DETR's are.
"""

from __future__ import annotations

import argparse
import os
from datetime import date

import torch

from benchmarks.floor import machine
from benchmarks.race import Build, Contestant
from benchmarks.results import RESULTS, write_section
from minidetr.after import build
from minidetr.data.batch import Batch
from minidetr.data.images import denormalise, normalise, to_tensor
from minidetr.data.targets import Target, target_from_panoptic
from minidetr.presets import TRAINABLE
from minidetr.scenes.dataset import SceneData
from minidetr.scenes.painters import CATEGORIES
from minidetr.training.objective import Objective
from minidetr.training.options import TrainOptions

START, END = "<!-- steps: made by `python -m benchmarks.steps` -->", "<!-- end of steps -->"
MODELS = ("Mask R-CNN", "r50", "r18", "r18-after", "tiny", "tiny-after")
BATCH = 2


def scenes(side: int) -> tuple[Batch, list[Target]]:
    """Two rendered scenes with their segments."""
    data = SceneData(BATCH, 0, side)
    images, targets = [], []
    for index in range(BATCH):
        picture, ids, entries = data.read(index)
        images.append(normalise(to_tensor(picture)))
        targets.append(target_from_panoptic(ids, entries, index))
    return Batch.pad(images), targets


def step_of(name: str, side: int) -> Build:
    """One training step of a model."""
    batch, targets = scenes(side)
    if name == "Mask R-CNN":
        from torchvision.models.detection import maskrcnn_resnet50_fpn
        from torchvision.ops import box_convert

        model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=12, min_size=side, max_size=side).train()
        pictures = [denormalise(image) for image in batch.images]
        theirs = [
            {"boxes": box_convert(t.boxes, "cxcywh", "xyxy") * side, "labels": t.labels, "masks": t.masks.byte()} for t in targets
        ]
        total = lambda: sum(model(pictures, theirs).values())  # noqa: E731
    else:
        options = TrainOptions(preset=name, size=side).filled()
        model = build(TRAINABLE[name], CATEGORIES)
        objective = Objective(model, options, "joint").train()
        total = lambda: objective(batch, targets)["total"]  # noqa: E731
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-6)

    def run() -> float:
        optimizer.zero_grad()
        loss = total()
        loss.backward()
        optimizer.step()
        return float(loss)

    return run, lambda loss: loss


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[288, 480])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    lines = [
        "## The training step",
        "",
        f"`python -m benchmarks.steps`: {machine()}, torch {torch.__version__}; {date.today()}; one thread, batch {BATCH},",
        f"float32, joint training with each preset's own losses, median of {arguments.repeats} turns. Orientation, no target.",
        "",
        f"| images a second | {' | '.join(MODELS)} |",
        f"|{'---|' * (len(MODELS) + 1)}",
    ]
    for side in arguments.sizes:
        sides = [Contestant(step_of, name, side) for name in MODELS]
        for _ in range(arguments.repeats):
            for contestant in sides:
                contestant.run()
        lines.append(f"| {side} x {side} | {' | '.join(f'{BATCH / c.finish().seconds:.2f}' for c in sides)} |")
        print(lines[-1], flush=True)
    write_section(RESULTS, START, END, "\n".join(lines))


if __name__ == "__main__":
    main()
