"""How a run is judged: at which score threshold, in which words, and once on data that nothing was chosen on."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate.utils import gather_object

from minidetr.data.coco import CocoPanoptic, PanopticDataset
from minidetr.evaluate.model import THRESHOLDS, Evaluation, evaluate_model
from minidetr.evaluate.why import REASONS, explain
from minidetr.evaluate.why_page import photo_of, write_why
from minidetr.model import PanopticDETR
from minidetr.panoptic import write_json

if TYPE_CHECKING:
    from accelerate import Accelerator


def scores_of(found: Evaluation, data: PanopticDataset, masks: bool) -> dict[str, float]:
    """Box AP and, with `masks`, PQ, SQ and RQ of all, things and stuff, in percent, by the column names of scores.csv.

    They are those at the best threshold among those that were counted, which is told, too.
    """
    row: dict[str, float] = {}
    if masks:
        row["threshold"] = found.best_threshold(data)
        quality = found.panoptic_quality(data, row["threshold"])
        for name, scores in (("", quality.all), (" things", quality.things), (" stuff", quality.stuff)):
            row |= {"PQ" + name: 100 * scores.pq, "SQ" + name: 100 * scores.sq, "RQ" + name: 100 * scores.rq}
    return row | {"box AP": 100 * found.box_average_precision(data)["AP"]}


def in_words(scores: dict[str, float]) -> str:
    """The scores that one looks at first, in a line."""
    told = [f"{name} {scores[name]:.1f}" for name in ("PQ", "PQ things", "PQ stuff", "box AP") if name in scores]
    return ", ".join(told + ([f"threshold {scores['threshold']:g}"] if "threshold" in scores else []))


def explain_best(accelerator: Accelerator, folder: Path, data: PanopticDataset, count: int, train: CocoPanoptic) -> None:
    """Write why/index.html into a run's `folder`: what the best weights lose on the first `count` images of `data`, and to what.

    `train` is what they have learned from.
    """
    if accelerator.is_main_process:
        model = PanopticDETR.from_pretrained(folder / "best.safetensors").to(accelerator.device)
        found = explain(model, data, range(min(len(data), count)), thresholds=THRESHOLDS, autocast=accelerator.autocast)
        found.trained_on = dict(Counter(train.index.category_ids[~train.index.crowds].tolist()))
        shutil.rmtree(folder / "why", ignore_errors=True)  # of the run's end before, where it was gone on with
        write_why(found, photo_of(data), folder / "why")
        dearest = ", ".join(f"{100 * cost:.1f} {REASONS[reason]}" for reason, cost in list(found.lost_in_all().items())[:3])
        lost = 100 * sum(found.lost_in_all().values())
        accelerator.print(f"why {folder / 'why' / 'index.html'}: {lost:.1f} points of PQ are lost: {dearest}")
    accelerator.wait_for_everyone()


def judge_once(accelerator: Accelerator, folder: Path, data: PanopticDataset, name: str, masks: bool) -> None:
    """Evaluate the best weights in a run's `folder` on data that nothing was chosen on, as they would be used.

    The scores go into test.json, with `name`, what the user calls the data, and are told; every process counts its share.
    """
    model = PanopticDETR.from_pretrained(folder / "best.safetensors").to(accelerator.device)
    mine = range(accelerator.process_index, len(data), accelerator.num_processes)
    found = evaluate_model(model, data, mine, masks=masks, autocast=accelerator.autocast)
    parts = gather_object([found]) if accelerator.num_processes > 1 else [found]
    if accelerator.is_main_process:
        scores = scores_of(sum(parts, Evaluation()), data, masks)
        write_json(folder / "test.json", {"data": name, "images": len(data)} | scores)
        accelerator.print(f"test ({name}, {len(data)} images, evaluated this once): {in_words(scores)}")
    accelerator.wait_for_everyone()
