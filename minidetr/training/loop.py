"""The whole training, from options to weights: read `train`, then `Step.train`.

A run has one or two steps: "joint" trains everything at once; "boxes,masks" trains boxes first, then freezes everything and
trains the mask head alone (DETR, section 4.4). Each iteration: a batch -> `Objective` (detect, match, masks of the matched
queries, losses) -> gradient, clipped -> AdamW -> moving average of the weights (`Step.iterate`).
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

from minidetr.data.batch import Batch
from minidetr.data.coco import PanopticDataset
from minidetr.data.targets import Target
from minidetr.errors import InputError
from minidetr.evaluate.model import Evaluation, evaluate_model
from minidetr.model import PanopticDETR
from minidetr.panoptic import write_json
from minidetr.presets import Preset, from_plain
from minidetr.training.checkpoint import (
    NAME,
    PREVIOUS,
    has_checkpoint,
    random_state,
    read_checkpoint,
    run_folder,
    set_random_state,
    write_checkpoint,
)
from minidetr.training.devices import PRECISIONS, agreed, start_devices, stop_requested, training_attention
from minidetr.training.feed import (
    EpochBatches,
    changed_data,
    fingerprint,
    is_training_data,
    loader,
    looked_through,
    open_data,
    open_test,
    something_to_learn,
)
from minidetr.training.judge import THRESHOLDS, in_words, judge_once, scores_of
from minidetr.training.objective import start_step
from minidetr.training.options import MASK_DROP, TrainOptions
from minidetr.training.report import SCORES, Report
from minidetr.training.schedule import moving_average, parameter_groups, schedule
from minidetr.training.start import starting_model
from minidetr.weights.load import save


@dataclass
class Place:
    """Where in a run we are: `step` of its steps, `epoch` of the step, `batch` of the epoch; iterations and seconds."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    iteration: int = 0  # of the whole run
    step_iteration: int = 0
    seconds: float = 0.0  # trained so far, in this step
    best: float = -1.0
    evaluation_due: bool = False  # put off because the run was asked to stop


def train(resume: str | Path | None = None, **options: Any) -> PanopticDETR:
    """Train a model as `TrainOptions` says, or go on with the run in the folder `resume`; returns it with its last weights.

    The run's folder holds last.safetensors and best.safetensors (by PQ, or box AP without masks), checkpoint.pt, losses.csv,
    scores.csv, curves.png, validation/ and tensorboard/. Raises InputError for options, data or weights that don't fit, and when
    the loss is no longer finite.
    """
    saved, warning = read_checkpoint(Path(resume)) if resume is not None else (None, None)
    if saved is not None and not {"options", "place", "preset", "objective", "optimizer", "random"} <= saved.keys():
        raise InputError(f"{resume}: {NAME} is not the checkpoint of a training run: give its weights with --from instead")
    settings = (
        TrainOptions(**options).filled() if saved is None else restored_options(saved["options"], options | {"output": str(resume)})
    )
    accelerator = start_devices(settings)
    if not accelerator.is_main_process:
        return go_through(accelerator, settings, saved, warning)
    if saved is None and has_checkpoint(settings.run):
        raise InputError(
            f"{settings.run} holds a run already: go on with it by --resume {settings.run}, or choose another --output"
        )
    with run_folder(settings.run):
        return go_through(accelerator, settings, saved, warning)


def go_through(accelerator: Accelerator, settings: TrainOptions, saved: dict[str, Any] | None, warning: str | None) -> PanopticDETR:
    """The run from its start, or from the checkpoint `saved`; `warning` is what there is to say of that. See `train`."""
    folder, say = settings.run, accelerator.print
    set_seed(settings.seed)  # the same start on every process
    with accelerator.main_process_first():  # one process renders the scenes, the others find them
        data, validation = open_data(settings)
        test = open_test(settings, data)
    prints = {"training": fingerprint(data), "validation": fingerprint(validation)}
    if saved is None:
        model, lines = starting_model(settings, data.categories)
        place = Place()
    else:
        if saved.get("categories", described := [c.to_json() for c in data.categories]) != described:
            raise InputError(
                f"{folder} was trained on other classes than {settings.data} has: resume it with the data it began with"
            )
        model = PanopticDETR(from_plain(Preset, saved["preset"]), data.categories, saved.get("num_classes"))
        place = Place(**saved["place"])
        lines = [*([warning] if warning else []), f"resumed: {folder} at iteration {place.iteration}"]
        lines += changed_data(saved.get("data", {}), prints)
    lines += looked_through(data, validation, settings.validation_images, model.preset.queries)
    lines += something_to_learn(data, validation, settings.validation_images)
    for line in lines:
        say(line)
    report = Report(folder, place.iteration) if accelerator.is_main_process else None
    run = Run(accelerator, settings, data, validation, prints, place, report)
    stopped = False
    for number, name in enumerate(settings.steps.split(",")):
        if number >= place.step and not stopped:
            stopped = Step(run, model, name, saved).train()
            saved = None
            if not stopped:
                place.step, place.epoch, place.batch, place.step_iteration, place.seconds = number + 1, 0, 0, 0, 0.0
    if test is not None and not stopped:
        judge_once(accelerator, folder, test, str(settings.test), masks=settings.steps != "boxes")
    if report is not None:
        report.close()
        score = "box AP" if settings.steps == "boxes" else "PQ"
        done = f"done: {folder / 'last.safetensors'}, best {score} {max(place.best, 0):.1f}"
        say(f"stopped: go on with --resume {folder}" if stopped else done)
    return model.eval()


@dataclass
class Run:
    """What the steps of a run share."""

    accelerator: Accelerator
    options: TrainOptions
    data: PanopticDataset
    validation: PanopticDataset
    fingerprints: dict[str, dict[str, Any]]  # of both, by "training" and "validation"
    place: Place
    report: Report | None  # the main process's


class Step:
    """One step of a run, "joint", "boxes" or "masks": what trains, its optimiser, average and length. `train` goes through it."""

    def __init__(self, run: Run, model: PanopticDETR, name: str, saved: dict[str, Any] | None):
        """`saved` is a checkpoint to go on from, or None at the start of a step."""
        self.run, self.model, self.name = run, model, name
        options, accelerator, place = run.options, run.accelerator, run.place
        self.objective = start_step(model, options, name)
        groups = parameter_groups(self.objective, options)
        optimizer = torch.optim.AdamW(groups, weight_decay=options.weight_decay, fused=True)  # one pass over memory instead of six
        if saved is not None:
            try:
                self.objective.load_state_dict(saved["objective"])
                optimizer.load_state_dict(saved["optimizer"])
            except (RuntimeError, ValueError) as error:
                raise InputError(
                    f"the checkpoint in {options.run} was written by another version of minidetr and can't be gone on with: "
                    f"start a new run from its weights, --from {options.run}"
                ) from error
        self.objective.to(accelerator.device).to(memory_format=torch.channels_last)  # the layout in which convolutions are fastest
        self.average = AveragedModel(model, multi_avg_fn=moving_average(options.ema), use_buffers=True) if options.ema else None
        if saved is not None and self.average is not None and saved["average"]:
            self.average.load_state_dict(saved["average"])
        self.wrapped, self.optimizer = accelerator.prepare(self.objective, optimizer)
        if saved is not None and accelerator.scaler is not None and saved["scaler"]:
            accelerator.scaler.load_state_dict(saved["scaler"])

        rank, world = accelerator.process_index, accelerator.num_processes
        self.batches = EpochBatches(len(run.data), options.batch_size, options.seed, rank, world)
        epochs = options.mask_epochs if name == "masks" else options.epochs
        self.total = max(1, round(epochs * len(self.batches)))  # iterations, unless the clock decides
        self.minutes = None if options.minutes is None else options.minutes / len(options.steps.split(","))
        self.every = max(1, round((options.evaluate_every or epochs / 10) * len(self.batches)))  # iterations between evaluations
        self.drop = MASK_DROP if name == "masks" else options.drop
        size = sum(p.numel() for p in self.objective.parameters() if p.requires_grad) / 1e6
        accelerator.print(
            f"{name}: {size:.2f} million parameters train, on {accelerator.device} in {PRECISIONS[accelerator.mixed_precision]}"
        )
        hidden = True if rank or options.quiet else None  # None: where nobody looks, too
        self.bar = tqdm(total=self.total, initial=place.step_iteration, desc=name, unit="it", disable=hidden)
        if saved is None:
            place.best = -1.0
            torch.manual_seed(options.seed + 1000 * place.step + rank)  # dropout and sampling differ between processes
        else:
            set_random_state(saved["random"][rank % len(saved["random"])])

    def train(self) -> bool:
        """Train from the run's place to the end of the step; True if asked to stop before. The model ends with averaged weights."""
        place, accelerator, options = self.run.place, self.run.accelerator, self.run.options
        [progress], stopping = agreed(accelerator, self.progress()), False  # a run may be resumed at the very end of a step
        if place.evaluation_due:
            self.evaluate()
            self.save()
        self.wrapped.train()
        self.last_saved = self.last_seen = time.monotonic()
        with stop_requested() as stop:
            while progress < 1 and not stopping:
                for batch, targets in loader(self.run.data, self.batches.of_epoch(place.epoch, place.batch), options.workers):
                    factor = schedule(options, progress, self.drop)
                    losses = self.iterate(batch, targets, factor)
                    self.count(losses, factor)
                    unsaved = time.monotonic() - self.last_saved  # seconds
                    progress, asked, unsaved = agreed(accelerator, self.progress(), float(stop.asked), unsaved)
                    over, stopping = progress >= 1, asked > 0
                    place.evaluation_due = place.step_iteration % self.every == 0 or over
                    if place.evaluation_due and not stopping:  # who asks to stop may not wait: then it is done on --resume
                        self.evaluate()
                    if over or stopping or unsaved > options.checkpoint_minutes * 60:
                        self.save()
                    if over or stopping:
                        break
                else:
                    place.epoch, place.batch = place.epoch + 1, 0
        self.bar.close()
        accelerator.free_memory()
        if self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())
        return stopping

    def iterate(self, batch: Batch, targets: list[Target], factor: float) -> dict[str, Tensor]:
        """One iteration, at `factor` times the learning rates: losses of a batch, their gradient, a step against it."""
        accelerator = self.run.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * factor
        batch, targets = batch.to(accelerator.device), [t.to(accelerator.device) for t in targets]
        batch.images = batch.images.contiguous(memory_format=torch.channels_last)
        try:
            with nullcontext() if self.name == "masks" else training_attention(accelerator):  # frozen, attention has no gradient
                losses = self.wrapped(batch, targets)
            check_finite(losses)
            accelerator.backward(losses["total"])
            norm = accelerator.clip_grad_norm_(self.objective.parameters(), self.run.options.clip)
            if accelerator.scaler is None and not torch.isfinite(norm):  # a scaler skips such steps by itself
                raise FloatingPointError("the gradient is not finite")
        except FloatingPointError as error:
            raise diverged(error, self.run, targets) from error
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return losses

    def progress(self) -> float:
        """How much of the step is done: 0 at its start, 1 or more at its end."""
        place = self.run.place
        if self.minutes is None:
            return place.step_iteration / self.total
        return place.seconds / 60 / self.minutes

    def count(self, losses: dict[str, Tensor], factor: float) -> None:
        """An iteration is done: move on, and report it."""
        place, options, report = self.run.place, self.run.options, self.run.report
        place.batch += 1
        place.iteration += 1
        place.step_iteration += 1
        now = time.monotonic()
        place.seconds, self.last_seen = place.seconds + now - self.last_seen, now
        if report is not None:
            rate = options.batch_size * place.step_iteration / place.seconds
            self.bar.update()
            self.bar.set_postfix(loss=f"{losses['total'].item():.2f}", images_per_second=f"{rate:.1f}", refresh=False)
            row = {"iteration": place.iteration, "epoch": self.epoch, "learning_rate": options.learning_rate * factor}
            report.losses(losses, row | {"images_per_second": rate})

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self.run.place.epoch + self.run.place.batch / len(self.batches)

    @property
    def judged(self) -> PanopticDETR:
        """The model to judge and to keep: with the averaged weights, where there are any."""
        return cast(PanopticDETR, self.average.module) if self.average is not None else self.model

    def evaluate(self) -> None:
        """Box AP and, from a step that trains masks, PQ on the validation data, shared out over the processes.

        Weights, curves and pictures go into the run's folder.
        """
        accelerator, options, data, place = self.run.accelerator, self.run.options, self.run.validation, self.run.place
        masks = self.name != "boxes"
        mine = range(accelerator.process_index, min(len(data), options.validation_images), accelerator.num_processes)
        thresholds = THRESHOLDS if options.threshold is None else (options.threshold,)
        found = evaluate_model(self.judged, data, mine, thresholds, masks, accelerator.autocast)
        parts = gather_object([found]) if accelerator.num_processes > 1 else [found]
        if self.run.report is not None:
            whole = sum(parts, Evaluation())
            scores = scores_of(whole, data, masks)
            if masks:
                self.keep_threshold(scores["threshold"])
            measured_on = "training data" if is_training_data(self.run.data, data) else "validation data"
            self.run.report.add(SCORES, {"iteration": place.iteration, "epoch": self.epoch, "measured on": measured_on} | scores)
            tqdm.write(f"iteration {place.iteration}: {in_words(scores)}")
            score = scores["PQ" if masks else "box AP"]
            self.save_weights("last.safetensors")
            if score > place.best or not (options.run / "best.safetensors").exists():
                place.best = score if math.isfinite(score) else place.best
                self.save_weights("best.safetensors")
            self.run.report.curves()
            if masks:
                self.run.report.pictures(self.judged, data, f"{place.iteration:08d}")
        accelerator.wait_for_everyone()
        place.evaluation_due = False
        self.wrapped.train()
        self.last_seen = time.monotonic()  # the schedule's clock counts training alone

    def keep_threshold(self, threshold: float) -> None:
        """Let the model keep queries above `threshold` from now on, wherever its weights go."""
        for model in (self.model, self.judged):
            model.preset = replace(model.preset, threshold=threshold)

    def save_weights(self, name: str) -> None:
        """The model alone, to load with `PanopticDETR.from_pretrained`."""
        save(self.judged, self.run.options.run / name, notes={"iteration": self.run.place.iteration})

    def save(self) -> None:
        """Everything `--resume` needs, written by the main process."""
        accelerator, options = self.run.accelerator, self.run.options
        states = gather_object([random_state()]) if accelerator.num_processes > 1 else [random_state()]
        if accelerator.is_main_process:
            content = {
                "options": as_plain(options),
                "place": asdict(self.run.place),
                "preset": as_plain(self.model.preset),
                "num_classes": self.model.num_classes,
                "categories": [c.to_json() for c in self.model.categories],
                "data": self.run.fingerprints,
                "objective": self.objective.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.state_dict() if self.average is not None else None,
                "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
                "random": states,
            }
            write_checkpoint(options.run, content)
            self.save_weights("last.safetensors")
            write_json(options.run / "options.json", content["options"])
        accelerator.wait_for_everyone()
        self.last_saved = self.last_seen = time.monotonic()


def as_plain(settings: TrainOptions | Preset) -> dict[str, Any]:
    """A dataclass as what JSON and a weights-only unpickler know."""
    plain = {tuple: list, type(Path()): str}
    return {k: plain[type(v)](v) if type(v) in plain else v for k, v in asdict(settings).items()}


def restored_options(saved: dict[str, Any], changed: dict[str, Any]) -> TrainOptions:
    """The options of a checkpoint, those in `changed` (other workers, another device) put in."""
    options = from_plain(TrainOptions, saved | changed)
    options.check()
    for name in ("preset", "steps", "queries"):
        if getattr(options, name) != saved.get(name):
            raise InputError(
                f"--{name} cannot change in a run that goes on: it was {saved.get(name)}; start a new run to change it"
            )
    return options


def check_finite(losses: dict[str, Tensor]) -> None:
    """Raise FloatingPointError, naming the losses, when the total is not finite."""
    if not torch.isfinite(losses["total"]):
        wrong = [name for name, value in losses.items() if not torch.isfinite(value) and name != "total"]
        raise FloatingPointError(f"the loss ({', '.join(wrong) or 'total'}) is not finite")


def diverged(error: FloatingPointError, run: Run, targets: list[Target]) -> InputError:
    """The sentence for numbers that are no longer finite."""
    folder, names = run.options.run, dict(zip(run.data.image_ids, run.data.file_names, strict=True))
    images = ", ".join(names[t.image_id] for t in targets)
    good = next((str(folder / name) for name in (NAME, PREVIOUS) if (folder / name).exists()), "none yet")
    return InputError(
        f"{str(error).partition(':')[0]} at iteration {run.place.iteration + 1}, images {images}: lower --learning-rate; "
        f"the last good checkpoint is {good}"
    )
