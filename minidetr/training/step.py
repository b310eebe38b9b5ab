"""One step of a run, iteration by iteration: read `Step.train`, then `Step.iterate`."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from minidetr.data.batch import Batch
from minidetr.data.coco import PanopticDataset
from minidetr.data.targets import PackedTarget, Target
from minidetr.errors import InputError
from minidetr.evaluate.model import THRESHOLDS, Evaluation, evaluate_model
from minidetr.model import PanopticDETR
from minidetr.panoptic import write_json
from minidetr.training.backup import Backup
from minidetr.training.checkpoint import (
    NAME,
    PREVIOUS,
    random_state,
    set_random_state,
    write_checkpoint,
)
from minidetr.training.devices import PRECISIONS, agreed, stop_requested, training_attention
from minidetr.training.feed import EpochBatches, augmentation, is_training_data, loader
from minidetr.training.judge import in_words, scores_of
from minidetr.training.objective import start_step
from minidetr.training.options import TrainOptions, as_plain
from minidetr.training.recipes import MASK_DROP
from minidetr.training.report import SCORES, Report
from minidetr.training.schedule import MARKS, MovingAverage, estimate, parameter_groups, schedule
from minidetr.training.sent import Sent, not_finite
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
    evaluated: float = 0.0  # seconds trained when the model was judged last
    best: float = -1.0
    evaluation_due: bool = False  # put off because the run was asked to stop


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
    identity: str = ""  # what tells this run from others
    backup: Backup | None = None  # the main process's, where one is wanted


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
        self.average = MovingAverage(model, options.ema) if options.ema else None
        if saved is not None and self.average is not None and saved["average"]:
            self.average.load_state_dict(saved["average"])
        self.wrapped, self.optimizer = accelerator.prepare(self.objective, optimizer)
        if saved is not None and accelerator.scaler is not None and saved["scaler"]:
            accelerator.scaler.load_state_dict(saved["scaler"])

        if options.compile and name != "boxes":
            model.mask_head.compile(dynamic=True)  # of any number of objects
        self.sent: Sent | None = None  # the last iteration's numbers, not yet read
        self.marks: list[float] = []  # seconds trained after each of the iterations since the start
        self.evaluation_took = 0.0  # seconds
        self.last_backup = time.monotonic()
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
        reader = self.reader(progress)
        with stop_requested() as stop:
            while progress < 1 and not stopping:
                if self.small and progress >= options.half_size_until:
                    reader.close()
                    reader = self.reader(progress)
                batch, targets = next(reader)
                factor = schedule(options, progress, self.drop)
                sent = self.iterate(batch, targets, factor)
                self.settle()  # the iteration before: a GPU has gone through it by now
                self.count(sent, factor)
                unsaved = time.monotonic() - self.last_saved  # seconds
                due = self.evaluation_due()
                progress, asked, unsaved, due = agreed(accelerator, self.progress(), float(stop.asked), unsaved, due)
                over, stopping = progress >= 1, asked > 0
                place.evaluation_due = due > 0 or over
                if place.evaluation_due and not stopping:  # who asks to stop may not wait: then it is done on --resume
                    self.evaluate()
                if over or stopping or unsaved > options.checkpoint_minutes * 60:
                    self.save(last=over or stopping)
        reader.close()
        self.settle()
        self.bar.close()
        accelerator.free_memory()
        if self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())
        return stopping

    def reader(self, progress: float) -> Generator[tuple[Batch, list[PackedTarget]], None, None]:
        """The batches from the run's place on, without an end; at half the size until so much of the step is done."""
        options, place = self.run.options, self.run.place
        self.small = progress < options.half_size_until
        self.run.data.transform = augmentation(replace(options, size=max(1, options.size // 2) if self.small else options.size))
        return loader(self.run.data, self.batches.endless(place.epoch, place.batch), options.workers)

    def iterate(self, batch: Batch, targets: list[PackedTarget], factor: float) -> Sent:
        """One iteration, at `factor` times the learning rates: losses of a batch, their gradient, a step against it."""
        accelerator = self.run.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * factor
        batch, truth = batch.to(accelerator.device), [t.to(accelerator.device) for t in targets]
        batch.images = batch.images.contiguous(memory_format=torch.channels_last)
        try:
            losses = self.add_gradient(batch, truth)
        except FloatingPointError as error:
            self.settle()  # if the numbers went wrong in the iteration before, it is that one
            raise diverged(error, self.run, self.run.place.iteration + 1, [t.image_id for t in targets]) from error
        norm = accelerator.clip_grad_norm_(self.objective.parameters(), self.run.options.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return Sent.off(losses | {"gradient": norm}, [t.image_id for t in targets])

    def add_gradient(self, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """The losses of a batch, their gradient added to the parameters': part by part where it is accumulated."""
        accelerator, parts = self.run.accelerator, self.run.options.accumulate
        size = -(-len(targets) // parts)
        normalisers = self.objective.normalisers(batch, targets) if parts > 1 else None
        losses: dict[str, Tensor] = {}
        for start, part in zip(range(0, len(targets), size), batch.split(size), strict=True):
            of_part = targets[start : start + size]
            last = start + size >= len(targets)
            with nullcontext() if last else accelerator.no_sync(self.wrapped):  # processes meet once an iteration
                with nullcontext() if self.name == "masks" else training_attention(accelerator):  # frozen, it has no gradient
                    found = self.wrapped(part, of_part, normalisers)
                accelerator.backward(found["total"])
            if "class_error" in found:  # a mean over the part, to watch; all others are shares of the whole batch's
                found["class_error"] = found["class_error"] * len(of_part) / len(targets)
            losses = {name: losses.get(name, 0.0) + value.detach() for name, value in found.items()}
        return losses

    def progress(self) -> float:
        """How much of the step is done: 0 at its start, 1 or more at its end."""
        place = self.run.place
        if self.minutes is None:
            return place.step_iteration / self.total
        return place.seconds / 60 / self.minutes

    def count(self, sent: Sent, factor: float) -> None:
        """An iteration is done: move on. Its numbers are reported by `settle`, as soon as they are here."""
        place, options = self.run.place, self.run.options
        place.batch += 1
        place.iteration += 1
        place.step_iteration += 1
        now = time.monotonic()
        place.seconds, self.last_seen = place.seconds + now - self.last_seen, now
        if place.batch == len(self.batches):
            place.epoch, place.batch = place.epoch + 1, 0
        rate = options.batch_size * place.step_iteration / place.seconds
        sent.row = {"iteration": place.iteration, "epoch": self.epoch, "learning_rate": options.learning_rate * factor}
        sent.row["images_per_second"] = rate
        self.sent = sent
        self.marks.append(place.seconds)
        if len(self.marks) == MARKS and self.run.report is not None:
            until = options.half_size_until if self.small else 0.0
            each = (self.marks[-1] - self.marks[MARKS // 3]) / (MARKS - 1 - MARKS // 3)  # the first ones are slower
            tqdm.write(estimate(each, self.total - place.step_iteration, self.minutes, len(self.batches), until))

    def settle(self) -> None:
        """Report the last iteration counted. Raises InputError if its losses or their gradient were not finite."""
        if self.sent is None:
            return
        sent, self.sent = self.sent, None
        losses = sent.read()
        wrong = not_finite(losses, ignore_gradient=self.run.accelerator.scaler is not None)  # a scaler skips such steps by itself
        if wrong:
            raise diverged(FloatingPointError(wrong), self.run, int(sent.row["iteration"]), sent.images)
        del losses["gradient"]
        if self.run.report is not None:
            self.bar.update()
            rate = sent.row["images_per_second"]
            self.bar.set_postfix(loss=f"{losses['total']:.2f}", images_per_second=f"{rate:.1f}", refresh=False)
            self.run.report.losses(losses, sent.row)

    def evaluation_due(self) -> float:
        """1 when the model is to be judged, else 0: by the epochs, or by the clock, which takes at most a fifth of the time."""
        place, minutes = self.run.place, self.run.options.evaluate_minutes
        if self.run.options.evaluate_every is None and minutes:
            return float(place.seconds - place.evaluated >= max(60 * minutes, 4 * self.evaluation_took))
        return float(place.step_iteration % self.every == 0)

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
        self.settle()
        start = time.monotonic()
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
        place.evaluation_due, place.evaluated = False, place.seconds
        self.evaluation_took = time.monotonic() - start
        self.wrapped.train()
        self.last_seen = time.monotonic()  # the schedule's clock counts training alone

    def keep_threshold(self, threshold: float) -> None:
        """Let the model keep queries above `threshold` from now on, wherever its weights go."""
        for model in (self.model, self.judged):
            model.preset = replace(model.preset, threshold=threshold)

    def save_weights(self, name: str) -> None:
        """The model alone, to load with `PanopticDETR.from_pretrained`."""
        save(self.judged, self.run.options.run / name, notes={"iteration": self.run.place.iteration})

    def save(self, last: bool = True) -> None:
        """Everything `--resume` needs, written by the main process; to the backup now and then, and at the last."""
        self.settle()
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
                "identity": self.run.identity,
                "losses": [dict(self.run.report.sums), self.run.report.count] if self.run.report is not None else [],
            }
            write_checkpoint(options.run, content)
            self.save_weights("last.safetensors")
            write_json(options.run / "options.json", content["options"])
            if self.run.backup is not None and (last or time.monotonic() - self.last_backup > options.backup_minutes * 60):
                if told := self.run.backup.copy(options.run):
                    tqdm.write(told)
                self.last_backup = time.monotonic()
        accelerator.wait_for_everyone()
        self.last_saved = self.last_seen = time.monotonic()


def diverged(error: FloatingPointError, run: Run, iteration: int, image_ids: list[int | str]) -> InputError:
    """The sentence for numbers that are no longer finite."""
    folder, names = run.options.run, dict(zip(run.data.image_ids, run.data.file_names, strict=True))
    images = ", ".join(names[image_id] for image_id in image_ids)
    good = next((str(folder / name) for name in (NAME, PREVIOUS) if (folder / name).exists()), "none yet")
    return InputError(
        f"{str(error).partition(':')[0]} at iteration {iteration}, images {images}: lower --learning-rate; "
        f"the last checkpoint is {good}"
    )
