"""`minidetr train`: one argument for each field of TrainOptions that people change."""

from __future__ import annotations

import argparse

from minidetr.commands.arguments import CATEGORIES_HELP, Arguments, Commands, add_command, fraction, ids_of_nothing
from minidetr.presets import TRAINABLE
from minidetr.training.options import STAGES, TrainOptions


def add_train(commands: Commands) -> None:
    """Training, fine-tuning, going on with a run; an argument's default None means: as the preset's recipe has it."""
    parser = add_command(
        commands,
        run_train,
        "train or fine-tune a model, or go on with a run that was cut off",
        "train --preset tiny --data scenes --steps joint --output runs/tiny",
    )
    stages = ", ".join(STAGES)
    run = parser.add_argument_group("the run")
    run.add_argument("--output", metavar="RUN", help="folder for weights, checkpoint, curves and pictures (default: runs/run)")
    run.add_argument("--resume", metavar="RUN", help="go on with a run that was cut off; with --output, with its --backup, there")
    run.add_argument("--preset", choices=list(TRAINABLE), help="size of the model and recipe (default: tiny)")
    run.add_argument(
        "--data", metavar="scenes|FOLDER", help="rendered scenes, or a COCO panoptic folder, or one with train/ and val/"
    )
    run.add_argument("--validation", metavar="FOLDER", help="data set to evaluate on (default: DATA/val, else the training data)")
    run.add_argument(
        "--steps",
        choices=("joint", "boxes,masks", "boxes", "masks"),
        metavar="STEPS",
        help="joint, boxes,masks (boxes first, then the mask head on a frozen rest), boxes or masks (default: joint)",
    )
    run.add_argument(
        "--epochs", type=float, help="passes over the data, of the box step or of joint training (default: the recipe's)"
    )
    run.add_argument("--mask-epochs", type=float, help="of the mask step (default: the recipe's)")
    run.add_argument("--quiet", action="store_true", default=None, help="no progress bar")
    run.add_argument("--minutes", type=float, help="end by the clock instead; the schedule follows the time")

    start = parser.add_argument_group("where it starts")
    start.add_argument(
        "--from", dest="from_", metavar="NAME-OR-PATH", help="weights to fine-tune: tiny, detr-r50-panoptic, ..., a file or a run"
    )
    start.add_argument("--categories", metavar="FILE.json", help=f"of --from: {CATEGORIES_HELP}")
    start.add_argument("--backbone-weights", metavar="FILE", help="ImageNet weights with torchvision's names, imagenet or none")
    start.add_argument("--reset", type=stage_list, metavar="STAGES", help=f"stages put back to random weights, of {stages}")
    start.add_argument("--freeze", type=stage_list, metavar="STAGES", help="stages that do not train, of the same names")
    start.add_argument(
        "--queries", type=int, metavar="N", help="how many objects can be found (default: the preset's; of --from the first N)"
    )

    later = parser.add_argument_group("ideas from after DETR (lessons 14 and 15)")
    later.add_argument("--masks", choices=("heatmaps", "dot"), help="DETR's mask head, or dot products (default: the preset's)")
    later.add_argument(
        "--auxiliary-masks",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="judge dot-product masks after every decoder layer",
    )
    later.add_argument("--mask-cost", type=float, metavar="W", help="weight of dot-product masks in the matching")
    later.add_argument("--discrimination", type=float, metavar="W", help="weight of a loss that tells segments' pixels apart")
    later.add_argument("--groups", type=int, metavar="G", help="groups of queries, in training alone")
    later.add_argument("--denoise", type=int, metavar="G", help="groups of noised truth among the queries, in training alone")
    later.add_argument("--masked-attention", action="store_true", default=None, help="look only where a query's mask is")
    later.add_argument("--starts", action="store_true", default=None, help="queries start from the best cells of the image")

    data = parser.add_argument_group("data")
    data.add_argument("--void", type=ids_of_nothing, metavar="IDS", help="ids in panoptic PNGs that mean void, such as 255")
    data.add_argument(
        "--crowds", choices=("as-crowds", "as-objects"), help="leave crowds out, or learn them as objects (default: as-crowds)"
    )
    data.add_argument("--size", type=int, metavar="PIXELS", help="short side of the images (default: the preset's)")
    data.add_argument("--half-size-until", type=float, metavar="SHARE", help="of the length, train at half of it first; 0: do not")
    data.add_argument(
        "--augment",
        choices=("colour", "full", "flip", "none"),
        help="full: flips, sizes, crops (scenes: flips); colour: and colours; flip: flips alone (default: the recipe's)",
    )
    data.add_argument("--scenes", type=int, metavar="COUNT", help="scenes rendered for training (default: 8000)")
    data.add_argument("--scene-seed", type=int, metavar="SEED", help="of the first of them (default: 0)")
    data.add_argument("--validation-images", type=int, metavar="COUNT", help="at most so many are evaluated (default: 256)")
    data.add_argument("--test", metavar="FOLDER", help="data set that nothing is chosen on, evaluated once at the end")
    data.add_argument(
        "--threshold", type=fraction, metavar="SCORE", help="keep queries above it (default: the best on the validation images)"
    )
    data.add_argument(
        "--evaluate-every", type=float, metavar="EPOCHS", help="goes before --evaluate-minutes (default: a tenth of --epochs)"
    )
    data.add_argument("--workers", type=int, metavar="N", help="processes that load data (default: 2)")
    data.add_argument("--cache", metavar="DIR", help="where rendered scenes are kept (default: runs/cache)")

    data.add_argument("--evaluate-minutes", type=float, metavar="M", help="evaluate by the clock (fine-tuning: every 5 minutes)")

    recipe = parser.add_argument_group("recipe (default: the preset's, or that of fine-tuning)")
    recipe.add_argument(
        "--recipe",
        choices=("auto", "preset", "fine-tuning"),
        help="the options below that aren't given; auto: fine-tuning where few photos meet weights that have learned",
    )
    recipe.add_argument("--batch-size", type=int, metavar="B", help="images an iteration, over all processes")
    recipe.add_argument("--accumulate", type=int, metavar="PARTS", help="take each batch in so many parts, for want of memory")
    recipe.add_argument("--compile", action="store_true", default=None, help="compile the mask head by torch.compile")
    for name, what in (
        ("learning-rate", "of AdamW"),
        ("backbone-learning-rate", "of the ResNet, which has learned already"),
        ("weight-decay", "of AdamW (default: 1e-4)"),
        ("clip", "largest norm of the gradient"),
        ("warmup", "share of the length, 0 to 1, over which the rates rise from 0"),
        ("drop", "share of the length after which the schedule drop divides the rates by ten"),
        ("dropout", "in encoder and decoder, 0 to 1"),
    ):
        recipe.add_argument(f"--{name}", type=float, metavar="X", help=what)
    recipe.add_argument(
        "--schedule", choices=("drop", "cosine"), help="of the rates: one drop, or down to a hundredth in a half wave"
    )
    recipe.add_argument("--ema", type=float, metavar="DECAY", help="average the weights, e.g. 0.998; 0: do not")
    for name, what in (
        ("no-object", "of the class no object in the class loss"),
        ("focal", "of the masks' focal loss"),
        ("dice", "of the masks' DICE loss"),
        ("pixel-class", "of a class loss on the encoded image's pixels, in training alone; 0: none"),
        ("cells", "of class and box losses on the encoded image's cells, in training alone; 0: none"),
    ):
        recipe.add_argument(f"--{name}", type=float, metavar="W", help=f"weight {what}")
    recipe.add_argument("--masks-per-image", type=int, metavar="K", help="matched queries whose masks are judged; 0: all")
    recipe.add_argument("--mask-stride", type=int, choices=(1, 4), help="judge masks at the input's size (1) or at their own (4)")
    recipe.add_argument("--precision", choices=("auto", "float32", "bfloat16", "float16"), help="auto: the device's")
    recipe.add_argument("--device", help="auto, cpu, cuda or mps (default: auto)")
    recipe.add_argument("--seed", type=int, help="of weights, order and augmentation (default: 0)")
    recipe.add_argument("--checkpoint-minutes", type=float, metavar="M", help="default: 5")
    run.add_argument("--backup", metavar="FOLDER", help="copy there what --resume needs, such as onto a mounted drive")
    run.add_argument("--backup-minutes", type=float, metavar="M", help="between two copies (default: 20)")


def stage_list(text: str) -> tuple[str, ...]:
    """An argument like "stem,res2"."""
    names = tuple(name for name in text.split(",") if name)
    for name in names:
        if name not in STAGES:
            raise argparse.ArgumentTypeError(f"there is no stage {name!r}; choose from {', '.join(STAGES)}")
    return names


def run_train(arguments: Arguments) -> None:
    """Train with the arguments that were given."""
    from minidetr.training.devices import end_processes
    from minidetr.training.loop import train

    given = {name: value for name, value in vars(arguments).items() if value is not None}
    known = {name: value for name, value in given.items() if name in TrainOptions.__dataclass_fields__}
    train(arguments.resume, **known)
    end_processes()
