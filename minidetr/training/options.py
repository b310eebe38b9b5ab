"""Everything that decides a training run, with the recipe of each preset as defaults. No torch here: `--help` reads it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any

from minidetr.errors import InputError
from minidetr.presets import TRAINABLE, Preset, from_plain
from minidetr.training.recipes import FEW_PHOTOS, REFERENCE_RECIPE, recipe_of

# What can be frozen or reset by name -> the parameters whose names start with one of these.
STAGES: dict[str, tuple[str, ...]] = {
    "stem": ("backbone.resnet.conv1.", "backbone.resnet.bn1."),
    "res2": ("backbone.resnet.layer1.",),
    "res3": ("backbone.resnet.layer2.",),
    "res4": ("backbone.resnet.layer3.",),
    "res5": ("backbone.resnet.layer4.",),
    "backbone": ("backbone.resnet.",),
    "projection": ("backbone.projection.",),
    "encoder": ("encoder.",),
    "decoder": ("decoder.", "starts."),
    "heads": ("heads.",),
    "mask-head": ("heatmap_attention.", "mask_head."),
}


FROM_RECIPE: Any = None  # an option not given; `filled` puts the value of the preset's recipe there
SMALLEST_SIZE = 32
MAX_QUERIES = 10_000  # each of them attends to every other one
TYPES: dict[str, tuple[Any, str]] = {  # annotation of an option -> what it takes, in words; `void_ids` checks void
    "str": ((str, PathLike), "a text"),
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "bool": (bool, "True or False"),
    "tuple[str, ...]": ((tuple, list), "names of stages, such as ('stem', 'res2')"),
}


@dataclass(frozen=True)
class TrainOptions:
    """A training run. FROM_RECIPE, None, means: as the preset's recipe has it (`RECIPES`).

    Lengths: `epochs` and `mask_epochs` count passes over the data (of the box step or joint training, and of the mask step);
    `minutes`, if given, ends the whole run by the clock instead, the schedule following the time. `drop` is the share of a
    step's length after which the "drop" schedule divides the learning rate by ten; "cosine" brings it smoothly to a hundredth.
    """

    output: str = "runs/run"
    recipe: str = "auto"  # "preset", "fine-tuning", or by the data: fine-tuning for few photos and weights that have learned
    preset: str = FROM_RECIPE  # "tiny", or that of `from_`
    data: str = "scenes"  # or a folder with panoptic.json, images/ and panoptic/, or with train/ and val/ that hold these
    validation: str | None = None  # a folder; by default DATA/val, else the training data itself
    void: tuple[int, ...] = ()  # ids in panoptic PNGs that mean void, beside 0
    steps: str = "joint"  # or "boxes,masks", "boxes", "masks"
    from_: str | None = None  # weights to start from: a name or a path
    categories: str | None = None  # what the classes of `from_` are, if it doesn't say: a JSON with categories, or "coco"
    backbone_weights: str | None = None  # "imagenet" (torchvision's) or a file with torchvision's key names
    reset: tuple[str, ...] = ()  # stages put back to their random start
    freeze: tuple[str, ...] = FROM_RECIPE  # stages that do not train
    queries: int | None = None
    masks: str | None = None  # "heatmaps", DETR's mask head, or "dot", dot products with pixel embeddings; by default the preset's
    masked_attention: bool | None = None  # decoder layers that look where a query's mask is; by default the preset's
    starts: bool | None = None  # queries that start from the best cells of the encoded image; by default the preset's
    crowds: str = "as-crowds"  # or "as-objects": things with iscrowd 1, as CVAT writes every mask, are trained on and counted
    size: int = FROM_RECIPE  # short side in pixels
    half_size_until: float = FROM_RECIPE  # share of a step's length that trains at half of it, a quarter of the pixels
    augment: str = (
        FROM_RECIPE  # "full": DETR's flips, sizes and crops (of scenes: flips alone); "colour": and colours; "flip"; "none"
    )
    scenes: int = 8000  # rendered for training, with --data scenes
    scene_seed: int = 0
    validation_images: int = 256
    test: str | None = None  # a folder that nothing is chosen on: evaluated once, at the end, with the best weights
    threshold: float | None = None  # of the score above which a query is kept; by default the best on the validation images
    epochs: float = FROM_RECIPE
    mask_epochs: float = FROM_RECIPE
    minutes: float | None = None
    batch_size: int = FROM_RECIPE
    accumulate: int = 1  # parts that a batch is taken in, for one that doesn't fit into memory: the gradient is the whole batch's
    compile: bool = False  # the mask head, by torch.compile
    learning_rate: float = FROM_RECIPE
    backbone_learning_rate: float = FROM_RECIPE
    weight_decay: float = 1e-4
    clip: float = FROM_RECIPE
    warmup: float = FROM_RECIPE  # share of a step's length
    schedule: str = FROM_RECIPE  # "drop" or "cosine"
    drop: float = FROM_RECIPE
    dropout: float = FROM_RECIPE
    ema: float = FROM_RECIPE  # decay of the moving average of the weights; 0: none
    no_object: float = FROM_RECIPE
    focal: float = FROM_RECIPE
    dice: float = FROM_RECIPE
    pixel_class: float = FROM_RECIPE  # weight of a class loss on the encoded image's pixels, used in training only
    cells: float = FROM_RECIPE  # weight of class and box losses on the encoded image's cells, used in training only
    # Dot-product masks; where the model has none, of a head that only training knows:
    auxiliary_masks: bool = FROM_RECIPE  # judged after every decoder layer, not only the last
    mask_cost: float = FROM_RECIPE  # their weight in the matching
    discrimination: float = FROM_RECIPE  # weight of a loss that tells the segments' pixel embeddings apart
    groups: int = FROM_RECIPE  # of queries, in training; the model has one
    denoise: int = FROM_RECIPE  # groups of noised truth among the queries, in training; 0: none
    masks_per_image: int = FROM_RECIPE  # matched queries an image whose masks are judged; 0: all; of dot-product masks always all
    mask_stride: int = FROM_RECIPE  # 1: masks judged at the input's size, as in the reference; 4: at their own, as dot-product ones
    precision: str = "auto"  # or float32, bfloat16, float16
    device: str = "auto"
    workers: int = 2
    seed: int = 0
    evaluate_every: float | None = None  # epochs; by default a tenth of `epochs`; at the end in any case
    evaluate_minutes: float = FROM_RECIPE  # trained between two evaluations, where evaluate_every isn't given; 0: see there
    checkpoint_minutes: float = 5.0
    backup: str | None = None  # a folder that outlives the machine, on a mounted drive: what `--resume` needs is copied there
    backup_minutes: float = 20.0  # between two copies
    cache: str = "runs/cache"  # where rendered scenes are kept
    quiet: bool = False  # no progress bar: a notebook would keep it as it stood

    def filled(self, photos: int | None = None) -> TrainOptions:
        """The same options with the recipe's values for None. Raises InputError for values that make no sense.

        `photos` is how many there are to train on, where they are known by now and no scenes.
        """
        lists = ("reset", "freeze")
        texts: dict[str, Any] = {name: tuple(text.split(",")) for name in lists if isinstance(text := getattr(self, name), str)}
        options = replace(self, **texts)
        options.check_types()
        name = self.preset or preset_of_source(self.from_)
        if name not in TRAINABLE:
            raise InputError(f"there is no preset {name!r} to train: choose one of {', '.join(TRAINABLE)}")
        learned = self.from_ is not None or (TRAINABLE[name].norm == "frozen" and self.backbone_weights != "none")
        few = photos is not None and photos <= FEW_PHOTOS and learned
        fine_tuning = self.recipe == "fine-tuning" or (self.recipe == "auto" and few)
        recipe = recipe_of(name, self.steps, (photos or FEW_PHOTOS) if fine_tuning else None, self.from_ is not None, self.masks)
        missing: dict[str, Any] = {name: value for name, value in recipe.items() if getattr(self, name) is None}
        options = replace(options, preset=name, recipe="fine-tuning" if fine_tuning else "preset", **missing)
        options.check()
        return options

    def told(self) -> str:
        """The recipe of a run in a line."""
        count = self.mask_epochs if self.steps == "masks" else self.epochs
        passes = f"{self.minutes:g} minutes" if self.minutes else f"{count:g} epoch{'s' * (count != 1)}"
        told = [
            f"{passes} of batches of {self.batch_size} at {self.size} pixels"
            + (f" (half of that for the first {100 * self.half_size_until:g} %)" if self.half_size_until else ""),
            f"rate {self.learning_rate:g} (backbone {self.backbone_learning_rate:g}), {self.schedule}",
            f"augmentation {self.augment}",
        ]
        for option in ("ema", "pixel_class", "cells", "mask_cost", "discrimination", "denoise"):
            if value := getattr(self, option):
                told.append(f"{option.replace('_', '-')} {value:g}")
        name = "fine-tuning, for few photos" if self.recipe == "fine-tuning" else f"that of {self.preset}"
        return f"{name}: {', '.join(told)}"

    def check(self) -> None:
        """Raise InputError, naming the option, for values that make no sense."""
        from minidetr.data.pngs import void_ids  # here, for `--help` needs no NumPy

        self.check_types()
        for name in (
            "epochs",
            "mask_epochs",
            "minutes",
            "batch_size",
            "learning_rate",
            "size",
            "queries",
            "scenes",
            "validation_images",
            "evaluate_every",
            "accumulate",
            "groups",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"--{name.replace('_', '-')} must be more than 0, not {value}")
        if self.size is not None and self.size < SMALLEST_SIZE:
            raise InputError(f"--size must be at least {SMALLEST_SIZE} pixels, a cell of the encoded image, but is {self.size}")
        void_ids(self.void)
        for name, value in vars(self).items():
            if isinstance(value, float) and not isfinite(value):
                raise InputError(f"--{name.replace('_', '-')} must be a finite number, not {value}")
        rates = ("backbone_learning_rate", "weight_decay", "clip", "warmup", "drop", "dropout")
        minutes = ("evaluate_minutes", "checkpoint_minutes", "backup_minutes")
        weights = ("no_object", "focal", "dice", "pixel_class", "cells", "mask_cost", "discrimination")
        for name in ("seed", "scene_seed", "workers", "denoise", "masks_per_image", "half_size_until", *minutes, *weights, *rates):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"--{name.replace('_', '-')} must not be negative, but is {value}")
        for name, allowed in (
            ("schedule", ("drop", "cosine")),
            ("precision", ("auto", "float32", "bfloat16", "float16")),
            ("mask_stride", (1, 4)),
            ("augment", ("colour", "full", "flip", "none")),
            ("recipe", ("auto", "preset", "fine-tuning")),
            ("masks", ("heatmaps", "dot", None)),
            ("crowds", ("as-crowds", "as-objects")),
            ("steps", ("joint", "boxes,masks", "boxes", "masks")),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"--{name.replace('_', '-')} must be one of {', '.join(map(str, allowed))}, not {getattr(self, name)}"
                )
        if self.masked_attention and self.steps != "joint":
            raise InputError("--masked-attention: boxes are found where masks are, so both are learned together: --steps joint")
        if self.steps == "masks" and ((self.groups or 1) > 1 or self.denoise):
            raise InputError("--groups and --denoise teach queries, which --steps masks leaves as they are: leave them out")
        for stage in (*self.reset, *(self.freeze or ())):
            if stage not in STAGES:
                raise InputError(f"there is no stage {stage!r} to freeze or reset: choose from {', '.join(STAGES)}")
        if not 0 <= (self.ema or 0) < 1:
            raise InputError(f"--ema must lie in 0..1, below 1, not {self.ema}")
        if (self.half_size_until or 0) >= 1:
            raise InputError(f"--half-size-until must be a share of the length below 1, not {self.half_size_until}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise InputError(f"--threshold must lie in 0..1, not {self.threshold}")
        if self.seed >= 2**32:
            raise InputError(f"--seed must be below 2^32, but is {self.seed}")
        if (self.queries or 0) > MAX_QUERIES:
            raise InputError(f"--queries must be at most {MAX_QUERIES}, not {self.queries}: 100 find what is in most images")
        if (self.dropout or 0) >= 1:
            raise InputError(f"--dropout must lie in 0..1, below 1, not {self.dropout}")

    def check_types(self) -> None:
        """Raise InputError, naming the option, for a value of another type than it has: from Python anything may be given."""
        for option in fields(self):
            kind, _, optional = str(option.type).partition(" | ")
            value, (types, words) = getattr(self, option.name), TYPES.get(kind, (object, ""))
            if value is None and (optional or option.default is None):
                continue
            fits = isinstance(value, types) and (kind == "bool" or not isinstance(value, bool))
            if not fits or isinstance(value, (tuple, list)) and kind in TYPES and not all(isinstance(one, str) for one in value):
                raise InputError(f"--{option.name.strip('_').replace('_', '-')} must be {words}, but is {value!r}")

    @property
    def asks_for_dot_masks(self) -> bool:
        """Whether dot-product masks are wanted in training, be the model's own of that kind or not."""
        return bool(self.auxiliary_masks or self.mask_cost or self.discrimination)

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return Path(self.output)


def preset_of_source(source: str | Path | None) -> str:
    """The preset whose recipe suits the weights a run starts from: that of their name, or of the run they come from."""
    if source is None:
        return "tiny"
    short = str(source).removeprefix("detr-").removesuffix("-panoptic")
    short = "r101" if short == "r101-dc5" else short
    if short in TRAINABLE:
        return short
    path = Path(source)
    beside = (path if path.is_dir() else path.parent) / "options.json"
    if not beside.is_file():
        return "r50"
    from minidetr.panoptic import read_json

    name = read_json(beside, "the options of a run").get("preset")
    if name not in TRAINABLE:
        raise InputError(f"{beside}: there is no preset {name!r}: give --preset, one of {', '.join(TRAINABLE)}")
    return name


def as_plain(settings: TrainOptions | Preset) -> dict[str, Any]:
    """A dataclass as what JSON and a weights-only unpickler know."""
    plain = {tuple: list, type(Path()): str}
    return {k: plain[type(v)](v) if type(v) in plain else v for k, v in asdict(settings).items()}


def restored_options(saved: dict[str, Any], changed: dict[str, Any]) -> TrainOptions:
    """The options of a checkpoint, those in `changed` (other workers, another device) put in."""
    new = {name: value for name, value in REFERENCE_RECIPE.items() if name not in saved}  # options that weren't there then
    options = from_plain(TrainOptions, new | saved | changed)
    options.check()
    for name in ("preset", "steps", "queries"):
        if getattr(options, name) != saved.get(name):
            raise InputError(
                f"--{name} cannot change in a run that goes on: it was {saved.get(name)}; start a new run to change it"
            )
    return options
