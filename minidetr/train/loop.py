"""The whole training, from options to weights: read `train`, then `run_step`.

A run has one or two steps: "joint" trains everything at once; "boxes,masks" trains boxes first, then freezes everything and
trains the mask head alone (DETR, section 4.4). Each iteration: a batch -> `Objective` (detect, match, masks of the matched
queries, losses) -> gradient, clipped -> AdamW -> moving average of the weights.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from minidetr.data.coco import PanopticDataset
from minidetr.errors import InputError
from minidetr.evaluate.model import Evaluation, evaluate_model
from minidetr.model import PanopticDETR
from minidetr.panoptic import write_json
from minidetr.presets import Preset, from_plain
from minidetr.train.checkpoint import (
    NAME,
    PREVIOUS,
    has_checkpoint,
    random_state,
    read_checkpoint,
    set_random_state,
    write_checkpoint,
)
from minidetr.train.feed import EpochBatches, loader, open_data
from minidetr.train.objective import Objective, start_step
from minidetr.train.options import MASK_DROP, TrainOptions
from minidetr.train.report import SCORES, Report
from minidetr.train.start import starting_model


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
    run, say = settings.run, accelerator.print
    if accelerator.is_main_process:
        if saved is None and has_checkpoint(run):
            raise InputError(f"{run} holds a run already: go on with it by --resume {run}, or choose another --output")
        run.mkdir(parents=True, exist_ok=True)
    set_seed(settings.seed)  # the same start on every process
    with accelerator.main_process_first():  # one process renders the scenes, the others find them
        data, validation = open_data(settings)
    if saved is None:
        model, lines = starting_model(settings, data.categories)
        place = Place()
    else:
        if saved.get("categories", described := [c.to_json() for c in data.categories]) != described:
            raise InputError(f"{run} was trained on other classes than {settings.data} has: resume it with the data it began with")
        model = PanopticDETR(from_plain(Preset, saved["preset"]), data.categories, saved.get("num_classes"))
        place = Place(**saved["place"])
        lines = [*([warning] if warning else []), f"resumed: {run} at iteration {place.iteration}"]
    most = max((count_segments(validation, i) for i in range(min(len(validation), 50))), default=0)
    if most > model.preset.queries:
        lines.append(f"note: some images have {most} segments but the model {model.preset.queries} queries: raise --queries")
    for line in lines:
        say(line)
    report = Report(run, place.iteration) if accelerator.is_main_process else None
    stopped = False
    for number, step in enumerate(settings.steps.split(",")):
        if number >= place.step and not stopped:
            stopped = run_step(accelerator, settings, model, step, data, validation, place, report, saved)
            saved = None
            if not stopped:
                place.step, place.epoch, place.batch, place.step_iteration, place.seconds = number + 1, 0, 0, 0, 0.0
    if report is not None:
        report.close()
        say(
            f"stopped: go on with --resume {run}"
            if stopped
            else f"done: {run / 'last.safetensors'}, best PQ {max(place.best, 0):.1f}"
        )
    return model.eval()


def run_step(
    accelerator: Accelerator,
    options: TrainOptions,
    model: PanopticDETR,
    step: str,
    data: PanopticDataset,
    validation: PanopticDataset,
    place: Place,
    report: Report | None,
    saved: dict[str, Any] | None,
) -> bool:
    """Train one step, from `place` on; True if it was asked to stop before its end. `model` ends with the averaged weights."""
    objective = start_step(model, options, step)
    optimizer = torch.optim.AdamW(parameter_groups(objective, options), weight_decay=options.weight_decay)
    if saved is not None:
        objective.load_state_dict(saved["objective"])
        optimizer.load_state_dict(saved["optimizer"])
    objective.to(accelerator.device).to(memory_format=torch.channels_last)  # the layout in which convolutions are fastest
    average = AveragedModel(model, multi_avg_fn=moving_average(options.ema), use_buffers=True) if options.ema else None
    if saved is not None and average is not None and saved["average"]:
        average.load_state_dict(saved["average"])
    wrapped, optimizer = accelerator.prepare(objective, optimizer)
    if saved is not None and accelerator.scaler is not None and saved["scaler"]:
        accelerator.scaler.load_state_dict(saved["scaler"])

    world, rank = accelerator.num_processes, accelerator.process_index
    batches = EpochBatches(len(data), options.batch_size, options.seed, rank, world)
    epochs = options.mask_epochs if step == "masks" else options.epochs
    total = max(1, round(epochs * len(batches)))  # iterations of this step
    minutes = None if options.minutes is None else options.minutes / len(options.steps.split(","))
    every = max(1, round((options.evaluate_every or epochs / 10) * len(batches)))  # iterations between evaluations
    share = MASK_DROP if step == "masks" else options.drop
    stages = f"{step}: {sum(p.numel() for p in objective.parameters() if p.requires_grad) / 1e6:.2f} million parameters train"
    accelerator.print(f"{stages}, on {accelerator.device} in {accelerator.mixed_precision.replace('no', 'float32')}")
    bar = tqdm(total=total, initial=place.step_iteration, desc=step, unit="it", disable=True if rank or options.quiet else None)

    if saved is None:
        torch.manual_seed(options.seed + 1000 * place.step + rank)  # dropout and sampling differ between processes
    else:
        set_random_state(saved["random"][rank % len(saved["random"])])

    def is_over() -> bool:
        return place.step_iteration >= total if minutes is None else agreed(accelerator, place.seconds / 60) >= minutes

    def evaluate_now() -> None:
        evaluated = weights_of(model, average)
        evaluate(accelerator, options, evaluated, validation, place, place.epoch + place.batch / len(batches), report)
        place.evaluation_due = False

    finished, stopping = is_over(), False  # a run may be resumed at the very end of a step
    if place.evaluation_due:
        evaluate_now()
        save_checkpoint(accelerator, options, objective, model, average, optimizer, place)
    wrapped.train()
    last_checkpoint = last_seen = time.monotonic()
    with stop_requested() as stop:
        while not (finished or stopping):
            for batch, targets in loader(data, batches.of_epoch(place.epoch, place.batch), options.workers):
                progress = place.step_iteration / total if minutes is None else agreed(accelerator, place.seconds / 60 / minutes)
                factor = schedule(options, progress, share)
                for group in optimizer.param_groups:
                    group["lr"] = group["base"] * factor
                batch, targets = batch.to(accelerator.device), [t.to(accelerator.device) for t in targets]
                batch.images = batch.images.contiguous(memory_format=torch.channels_last)
                try:
                    losses = wrapped(batch, targets)
                    check_finite(losses)
                    accelerator.backward(losses["total"])
                    norm = accelerator.clip_grad_norm_(objective.parameters(), options.clip)
                    if accelerator.scaler is None and not torch.isfinite(norm):  # a scaler skips such steps by itself
                        raise FloatingPointError("the gradient is not finite")
                except FloatingPointError as error:
                    raise diverged(error, options.run, place, data, targets) from error
                optimizer.step()
                optimizer.zero_grad()
                if average is not None:
                    average.update_parameters(model)

                place.batch += 1
                place.iteration += 1
                place.step_iteration += 1
                now = time.monotonic()
                place.seconds, last_seen = place.seconds + now - last_seen, now
                if report is not None:
                    rate = options.batch_size * place.step_iteration / place.seconds
                    bar.update()
                    bar.set_postfix(loss=f"{losses['total'].item():.2f}", images_per_second=f"{rate:.1f}", refresh=False)
                    epoch = place.epoch + place.batch / len(batches)
                    row = {"iteration": place.iteration, "epoch": epoch, "learning_rate": options.learning_rate * factor}
                    report.losses(losses, row | {"images_per_second": rate})
                finished, stopping = is_over(), bool(agreed(accelerator, float(stop.asked)))
                place.evaluation_due = place.step_iteration % every == 0 or finished
                if place.evaluation_due and not stopping:  # who asks to stop may not wait: then it is done on --resume
                    evaluate_now()
                    wrapped.train()
                    last_seen = time.monotonic()  # the schedule's clock counts training alone
                if (
                    stopping
                    or finished
                    or agreed(accelerator, time.monotonic() - last_checkpoint) > options.checkpoint_minutes * 60
                ):
                    save_checkpoint(accelerator, options, objective, model, average, optimizer, place)
                    last_checkpoint = last_seen = time.monotonic()
                if stopping or finished:
                    break
            else:
                place.epoch, place.batch = place.epoch + 1, 0
    bar.close()
    accelerator.free_memory()
    if average is not None:
        model.load_state_dict(average.module.state_dict())
    return stopping


def schedule(options: TrainOptions, progress: float, drop: float) -> float:
    """The factor of the learning rate at `progress` in 0..1 of a step; "drop" divides by ten from `drop` on."""
    warm = min(1.0, (progress + 1e-3) / options.warmup) if options.warmup else 1.0
    if options.schedule == "drop":
        return warm * (0.1 if progress >= drop else 1.0)
    return warm * (0.01 + 0.99 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2)


def moving_average(decay: float) -> Callable:
    """`AveragedModel`'s update: average = d * average + (1 - d) * weights, where d grows to `decay`.

    With `decay` from the first iteration on, the random start would still be a third of the average after 500 iterations at 0.998.
    d = (1 + n) / (10 + n) after n iterations keeps about the last tenth of them instead, until that is more than `decay` keeps.
    """

    def update(averages: Any, weights: Any, count: torch.Tensor) -> None:
        get_ema_multi_avg_fn(min(decay, (1 + int(count)) / (10 + int(count))))(averages, weights, count)

    return update


def parameter_groups(objective: Objective, options: TrainOptions) -> list[dict]:
    """What trains, the backbone with its own learning rate; "base" is the rate before the schedule."""
    named = [(n, p) for n, p in objective.named_parameters() if p.requires_grad]
    backbone = [p for n, p in named if n.startswith("model.backbone.resnet.")]
    rest = [p for n, p in named if not n.startswith("model.backbone.resnet.")]
    rates = ((rest, options.learning_rate), (backbone, options.backbone_learning_rate))
    groups = [{"params": parameters, "lr": rate, "base": rate} for parameters, rate in rates if parameters]
    if not groups:
        raise InputError("--freeze leaves nothing to train in this step: freeze fewer stages")
    return groups


def start_devices(options: TrainOptions) -> Accelerator:
    """accelerate's handle on devices, processes and precision. Raises InputError for a device or precision that isn't there."""
    AcceleratorState._reset_state()  # a notebook may train twice, in two precisions
    if options.device not in ("auto", "cpu", "cuda", "mps"):
        raise InputError(f"--device must be auto, cpu, cuda or mps, not {options.device}")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if (options.device == "cuda" and not cuda) or (options.device == "mps" and not mps):
        raise InputError(f"--device {options.device}: no such GPU can be used on this machine; choose auto or cpu")
    on_cpu = options.device == "cpu" or not (cuda or mps)
    if options.precision == "float16" and on_cpu:
        raise InputError("--precision float16 needs a GPU: choose auto, float32 or bfloat16")
    names = {"float32": "no", "bfloat16": "bf16", "float16": "fp16", "auto": best_precision(on_cpu)}
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=on_cpu, mixed_precision=names[options.precision], kwargs_handlers=[unused])


def best_precision(on_cpu: bool) -> str:
    """bfloat16 where the hardware has it, float16 on older GPUs, else float32."""
    if on_cpu:
        return "bf16" if torch.cpu._is_amx_tile_supported() else "no"  # without AMX, bfloat16 on a CPU is ten times slower
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "no"


def agreed(accelerator: Accelerator, value: float) -> float:
    """The main process's value on every process, so that all stop, save and evaluate at the same iteration."""
    if accelerator.num_processes == 1:
        return value
    box = [value]
    broadcast_object_list(box)
    return box[0]


def evaluate(
    accelerator: Accelerator,
    options: TrainOptions,
    model: PanopticDETR,
    data: PanopticDataset,
    place: Place,
    epoch: float,
    report: Report | None,
) -> None:
    """PQ and box AP on the validation data, shared out over the processes; weights, curves and pictures into the run's folder."""
    count = min(len(data), options.validation_images)
    mine = evaluate_model(
        model, data, range(accelerator.process_index, count, accelerator.num_processes), autocast=accelerator.autocast
    )
    parts = gather_object([mine]) if accelerator.num_processes > 1 else [mine]
    if report is not None:
        whole = sum(parts, Evaluation())
        quality, average_precision = whole.panoptic_quality(data), whole.box_average_precision(data)["AP"]
        row = {"iteration": place.iteration, "epoch": epoch}
        for name, scores in (("", quality.all), (" things", quality.things), (" stuff", quality.stuff)):
            row |= {"PQ" + name: 100 * scores.pq, "SQ" + name: 100 * scores.sq, "RQ" + name: 100 * scores.rq}
        row["box AP"] = 100 * average_precision
        report.add(SCORES, row)
        tqdm.write(
            f"iteration {place.iteration}: PQ {row['PQ']:.1f} "
            f"(things {row['PQ things']:.1f}, stuff {row['PQ stuff']:.1f}), box AP {row['box AP']:.1f}"
        )
        score = row["box AP"] if options.steps == "boxes" else row["PQ"]
        save_weights(model, options.run / "last.safetensors", place)
        if score > place.best or not (options.run / "best.safetensors").exists():
            place.best = score if math.isfinite(score) else place.best
            save_weights(model, options.run / "best.safetensors", place)
        report.curves()
        if model.mask_head is not None and options.steps != "boxes":
            report.pictures(model, data, f"{place.iteration:08d}")
    accelerator.wait_for_everyone()


def save_weights(model: PanopticDETR, path: Path, place: Place) -> None:
    """The model alone, to load with `PanopticDETR.from_pretrained`."""
    from minidetr.weights import save

    save(model, path, notes={"iteration": place.iteration})


def weights_of(model: PanopticDETR, average: AveragedModel | None) -> PanopticDETR:
    """The model to judge and to keep: with the averaged weights, where there are any."""
    return cast(PanopticDETR, average.module) if average is not None else model


def save_checkpoint(
    accelerator: Accelerator,
    options: TrainOptions,
    objective: Objective,
    model: PanopticDETR,
    average: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
    place: Place,
) -> None:
    """Everything `--resume` needs, written by the main process."""
    states = gather_object([random_state()]) if accelerator.num_processes > 1 else [random_state()]
    if accelerator.is_main_process:
        content = {
            "options": as_plain(options),
            "place": asdict(place),
            "preset": as_plain(model.preset),
            "num_classes": model.num_classes,
            "categories": [c.to_json() for c in model.categories],
            "objective": objective.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.state_dict() if average is not None else None,
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
            "random": states,
        }
        write_checkpoint(options.run, content)
        save_weights(weights_of(model, average), options.run / "last.safetensors", place)
        write_json(options.run / "options.json", content["options"])
    accelerator.wait_for_everyone()


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


def count_segments(data: PanopticDataset, index: int) -> int:
    """How many segments an image has."""
    return len(data.read(index)[2])


def check_finite(losses: dict[str, torch.Tensor]) -> None:
    """Raise FloatingPointError, naming the losses, when the total is not finite."""
    if not torch.isfinite(losses["total"]):
        wrong = [name for name, value in losses.items() if not torch.isfinite(value) and name != "total"]
        raise FloatingPointError(f"the loss ({', '.join(wrong) or 'total'}) is not finite")


def diverged(error: FloatingPointError, run: Path, place: Place, data: PanopticDataset, targets: list) -> InputError:
    """The sentence for numbers that are no longer finite."""
    names = dict(zip(data.image_ids, data.file_names, strict=True))
    images = ", ".join(names[t.image_id] for t in targets)
    good = next((str(run / name) for name in (NAME, PREVIOUS) if (run / name).exists()), "none yet")
    reason = str(error).partition(":")[0]
    return InputError(
        f"{reason} at iteration {place.iteration + 1}, images {images}: lower --learning-rate; the last good checkpoint is {good}"
    )


@dataclass
class Stop:
    """Whether somebody asked the run to stop."""

    asked: bool = False


@contextmanager
def stop_requested() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM ask for a stop after the iteration at hand; a second Ctrl-C interrupts at once."""
    stop = Stop()

    def ask(number: int, frame: object) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: nobody can send it a signal
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
