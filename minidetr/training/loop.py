"""The whole training, from options to weights: read `train`, then `Step.train` in step.py.

A run has one or two steps: "joint" trains everything at once; "boxes,masks" trains boxes first, then freezes everything and
trains the mask head alone (DETR, section 4.4). Each iteration: a batch -> `Objective` (detect, match, masks of the matched
queries, losses) -> gradient, clipped -> AdamW -> moving average of the weights (`Step.iterate`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from accelerate import Accelerator
from accelerate.utils import set_seed

from minidetr.data.coco import CocoPanoptic
from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.presets import Preset, from_plain
from minidetr.training.backup import Backup, is_backup, restore
from minidetr.training.checkpoint import (
    NAME,
    has_checkpoint,
    read_checkpoint,
    run_folder,
    write_checkpoint,
)
from minidetr.training.devices import start_devices
from minidetr.training.feed import (
    changed_data,
    fingerprint,
    is_training_data,
    looked_through,
    open_data,
    open_test,
    something_to_learn,
)
from minidetr.training.judge import explain_best, judge_once
from minidetr.training.options import TrainOptions, restored_options
from minidetr.training.report import Report
from minidetr.training.start import model_of, starting_model
from minidetr.training.step import Place, Run, Step


def train(resume: str | Path | None = None, **options: Any) -> PanopticDETR:
    """Train a model as `TrainOptions` says, or go on with the run in the folder `resume`; returns it with its last weights.

    The run's folder holds last.safetensors and best.safetensors (by PQ, or box AP without masks), checkpoint.pt, losses.csv,
    scores.csv, curves.png, validation/ and tensorboard/. Raises InputError for options, data or weights that don't fit, and when
    the loss is no longer finite.
    """
    if resume is None:
        return start(TrainOptions(**options), None, [])
    folder = Path(resume)
    output = Path(options.get("output") or folder)
    saved, warning = read_checkpoint(folder)
    if not {"options", "place", "preset", "objective", "optimizer", "random"} <= saved.keys():
        raise InputError(f"{folder}: {NAME} is not the checkpoint of a training run: give its weights with --from instead")
    given = restored_options(saved["options"], options | {"output": str(output)})
    lines, elsewhere = [warning] if warning else [], output.resolve() != folder.resolve()
    if "backup" not in options and (elsewhere or Path(saved["options"]["output"]).resolve() != folder.resolve()):
        # The folder is a backup, which the run elsewhere follows; or a run or a backup that was moved or is copied.
        backup = str(folder) if elsewhere and is_backup(folder, saved) else None
        if given.backup and backup is None:
            lines.append(f"note: no longer backed up to {given.backup}: give --backup if it is to be")
        given = replace(given, backup=backup)
    return start(given, saved, lines, folder if elsewhere else None)


def start(given: TrainOptions, saved: dict[str, Any] | None, lines: list[str], source: Path | None = None) -> PanopticDETR:
    """Start the devices, then go through the run from its start or from the checkpoint `saved`, in its folder.

    `lines` are to be told; `source` is the folder that the checkpoint is from, where that is not the run's own.
    """
    settings = given.filled()
    accelerator = start_devices(settings)
    if not accelerator.is_main_process:
        return go_through(accelerator, given, saved, lines, source)
    if (saved is None or source is not None) and has_checkpoint(settings.run):
        raise InputError(
            f"{settings.run} holds a run already: go on with it by --resume {settings.run}, or choose another --output"
        )
    with run_folder(settings.run):
        return go_through(accelerator, given, saved, lines, source)


def go_through(
    accelerator: Accelerator, given: TrainOptions, saved: dict[str, Any] | None, lines: list[str], source: Path | None
) -> PanopticDETR:
    """The run from its start, or from the checkpoint `saved`. See `train` and `start`."""
    settings, say = given.filled(), accelerator.print
    folder = settings.run
    set_seed(settings.seed)  # the same start on every process
    with accelerator.main_process_first():  # one process renders the scenes, the others find them
        data, validation = open_data(settings)
        test = open_test(settings, data)
    prints = {"training": fingerprint(data), "validation": fingerprint(validation)}
    if saved is None:
        settings = given.filled(len(data) if isinstance(data, CocoPanoptic) else None)
        model, started = starting_model(settings, data.categories)
        lines = [*lines, *started, f"recipe: {settings.told()}"]
        if settings.accumulate > 1 and model.preset.norm == "batch":
            lines.append("note: batch normalisation sees the parts of a batch: --accumulate has about the whole batch's gradient")
        place = Place()
    else:
        if saved.get("categories", described := [c.to_json() for c in data.categories]) != described:
            raise InputError(
                f"{folder} was trained on other classes than {settings.data} has: resume it with the data it began with"
            )
        model = model_of(from_plain(Preset, saved["preset"]), settings, data.categories, saved.get("num_classes"))
        place = Place(**saved["place"])
        lines = [*lines, f"resumed: {folder} at iteration {place.iteration}"]
        lines += changed_data(saved.get("data", {}), prints)
    lines += looked_through(data, validation, settings.validation_images, model.preset.queries)
    lines += something_to_learn(data, validation, settings.validation_images)
    for line in lines:
        say(line)
    same = saved is not None and (source is None or is_backup(source, saved))  # and no copy that goes its own way
    identity = (saved or {}).get("identity") if same else None
    identity = identity or uuid4().hex
    backup = report = None
    if accelerator.is_main_process:  # from here on files are written
        backup = Backup(Path(settings.backup), folder, identity) if settings.backup else None
        if source is not None and saved is not None:
            if not restore(source, folder):
                say(f"note: {source} has no whole best weights: the next ones that are judged are the best")
                place.best = -1.0
            write_checkpoint(folder, saved)
        report = Report(folder, place.iteration, *(saved or {}).get("losses", ()))
    run = Run(accelerator, settings, data, validation, prints, place, report, identity, backup)
    stopped = False
    for number, name in enumerate(settings.steps.split(",")):
        if number >= place.step and not stopped:
            stopped = Step(run, model, name, saved).train()
            saved = None
            if not stopped:
                place.step, place.epoch, place.batch, place.step_iteration = number + 1, 0, 0, 0
                place.seconds = place.evaluated = 0.0
    if not stopped and settings.steps != "boxes" and isinstance(data, CocoPanoptic):
        explain_best(accelerator, folder, validation, settings.validation_images, data)
    if test is not None and not stopped:
        judge_once(accelerator, folder, test, str(settings.test), masks=settings.steps != "boxes")
    if report is not None:
        report.close(done=not stopped)
        score = "box AP" if settings.steps == "boxes" else "PQ"
        count = min(len(validation), settings.validation_images)
        what = "training" if is_training_data(data, validation) else "validation"
        of = f"{score} {max(place.best, 0):.1f} on {count} {what} images"
        done = f"done: {folder / 'best.safetensors'}, {of}; the last weights are beside it"
        say(f"stopped: go on with --resume {folder}" if stopped else done)
    return model.eval()
