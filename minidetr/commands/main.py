"""The command `minidetr`.

One function `add_NAME` describes a command's arguments and one `run_NAME` does the work; a new command is those two and a place in
`COMMANDS`. Everything heavy is imported inside the `run_` functions, so that `--help` answers at once.

Exit codes: 0 done; 2 the user's mistake, or want of memory or disk, told in one sentence on stderr; 130 interrupted; 141 the reader
of the output went away.
Any other error is a bug and shows its traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from minidetr.errors import InputError, WorkerDied
from minidetr.presets import SCENE_SIZE

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

Arguments = argparse.Namespace


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `argv` is the command line without the program's name (None: this process's)."""
    arguments = build_parser().parse_args(argv)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("minidetr: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        sentence = one_sentence(error)
        if sentence is None or getattr(arguments, "debug", False):
            raise
        print(f"minidetr: {sentence}", file=sys.stderr)
        return 2
    return 0


def one_sentence(error: Exception) -> str | None:
    """What to tell the user; None for a bug, whose traceback is to be seen.

    An InputError has its message, an error of the operating system the file and what it says of it.
    """
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's, of a GPU
        return f"there is not enough memory ({' '.join(str(error).split())[:200]}): use smaller photos, a smaller size or batch"
    if isinstance(error, (InputError, WorkerDied, OSError)):
        return " ".join(str(error).split()) or type(error).__name__
    return None


def build_parser() -> argparse.ArgumentParser:
    """The parser with all of its commands."""
    what = "DETR panoptic segmentation: a class and an object for every pixel."
    parser = argparse.ArgumentParser(prog="minidetr", description=what)
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="show the version and exit")
    add_debug(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for add in COMMANDS:
        add(commands)
    return parser


class ShowVersion(argparse.Action):
    """`--version`, looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import minidetr

        print(f"minidetr {minidetr.__version__}")
        parser.exit()


def add_debug(parser: argparse.ArgumentParser) -> None:
    """`--debug`, before the command's name or behind it."""
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of a mistake, too")


def add_command(commands: Commands, run: Callable[[Arguments], None], summary: str, example: str) -> argparse.ArgumentParser:
    """A command named after its function (`run_label_stuff` -> label-stuff), with an example at the end of its help."""
    parser = commands.add_parser(
        run.__name__.removeprefix("run_").replace("_", "-"),
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example:\n  minidetr {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add_debug(parser)
    return parser


def whole_number(text: str) -> int:
    """An argument that must be 1, 2, 3, ..."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def fraction(text: str) -> float:
    """An argument that must lie in 0..1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")
    return value


# --- predict ----------------------------------------------------------------------------------------------------------------


def add_predict(commands: Commands) -> None:
    """Photos -> COCO panoptic JSON and PNGs, and overlays."""
    parser = add_command(
        commands,
        run_predict,
        "segment photos: writes COCO panoptic JSON, PNGs of ids, and overlays to look at",
        "predict photos/ --model detr-r50-panoptic --output result",
    )
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO-OR-FOLDER", help="image files, or folders of them")
    parser.add_argument("--model", required=True, metavar="NAME", help="tiny, detr-r50-panoptic, ..., or a file or run")
    parser.add_argument("--preset", metavar="NAME", help="the published model that a renamed or fine-tuned file has the shape of")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write, new or empty")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result in DIR")
    parser.add_argument("--threshold", type=fraction, metavar="SCORE", help="drop what scores below, 0 to 1 (default: the model's)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda when there is one)")
    parser.add_argument("--batch-size", type=whole_number, default=1, metavar="B", help="photos computed together (default: 1)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="default: float32")


def run_predict(arguments: Arguments) -> None:
    """Check everything the user gave before any work, then segment."""
    from minidetr.predict import check_photos, find_photos, load_model, output_folder, segment_into

    photos = find_photos(arguments.photos)
    with output_folder(arguments.output, overwrite=arguments.overwrite) as part:
        check_photos(photos)
        model = load_model(arguments.model, arguments.device, arguments.preset)
        segment_into(part, photos, model, arguments.threshold, arguments.batch_size, arguments.precision, say=say)
    print(f"{len(photos)} photo{'s' * (len(photos) > 1)} -> {arguments.output} (panoptic.json, panoptic/, overlays/)")


def say(line: str) -> None:
    """Print a line without tearing a progress bar apart."""
    from tqdm import tqdm

    tqdm.write(line)


# --- evaluate ---------------------------------------------------------------------------------------------------------------


def add_evaluate(commands: Commands) -> None:
    """Panoptic quality of a prediction."""
    parser = add_command(
        commands,
        run_evaluate,
        "panoptic quality (PQ, SQ, RQ) of a prediction against the truth, both in COCO panoptic format",
        "evaluate truth/panoptic.json truth/panoptic result/panoptic.json result/panoptic --per-class",
    )
    parser.add_argument("truth_json", type=Path, metavar="TRUTH.json", help="panoptic JSON of the truth")
    parser.add_argument("truth_dir", type=Path, metavar="TRUTH_DIR", help="folder of its PNGs")
    parser.add_argument("predicted_json", type=Path, metavar="PREDICTED.json", help="panoptic JSON of the prediction")
    parser.add_argument("predicted_dir", type=Path, metavar="PREDICTED_DIR", help="folder of its PNGs")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--per-class", action="store_true", help="one line for each class, too")
    parser.add_argument("--jobs", type=whole_number, default=1, metavar="N", help="processes to use (default: 1)")
    parser.add_argument("--boxes", action="store_true", help="the average precision of the segments' boxes, too")
    parser.add_argument("--worst", type=Path, metavar="DIR", help="also write a page of the worst images there; needs --photos")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="folder of the photos, for --worst")


def run_evaluate(arguments: Arguments) -> None:
    """Print the table, or JSON."""
    from minidetr.evaluate import panoptic_quality, segment_box_average_precision

    truth, predicted = (arguments.truth_json, arguments.truth_dir), (arguments.predicted_json, arguments.predicted_dir)
    if (arguments.worst is None) != (arguments.photos is None):
        raise InputError("--worst and --photos go together: give the folder to write and the folder of the photos")
    quality = panoptic_quality(*truth, *predicted, jobs=arguments.jobs, progress=sys.stderr.isatty())
    if arguments.worst is not None:
        from minidetr.evaluate.worst import worst_images

        worst_images(*truth, *predicted, arguments.photos, arguments.worst)
    boxes = segment_box_average_precision(arguments.truth_json, arguments.predicted_json) if arguments.boxes else {}
    measured = {name: None if isnan(value) else value for name, value in boxes.items()}
    if arguments.json:
        print(json.dumps(quality.to_json() | ({"boxes": measured} if boxes else {}), indent=2))
        return
    print(quality.table(per_class=arguments.per_class))
    if boxes:
        rows = (f"{name} {'-' if value is None else f'{100 * value:.1f}'}" for name, value in measured.items())
        print("\nboxes: " + ", ".join(rows))


# --- scenes -----------------------------------------------------------------------------------------------------------------


def add_scenes(commands: Commands) -> None:
    """Rendered scenes as a data set on disk."""
    parser = add_command(
        commands,
        run_scenes,
        "render construction scenes with their segmentation, as a data set in COCO panoptic format",
        "scenes data/scenes --count 500 --seed 0",
    )
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write, new or empty")
    parser.add_argument("--count", type=whole_number, default=500, help="number of scenes (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the first scene; the next has the next (default: 0)")
    parser.add_argument("--size", type=whole_number, default=SCENE_SIZE, help="height and width in pixels (default: %(default)s)")


def run_scenes(arguments: Arguments) -> None:
    """Render and write."""
    from minidetr.data.coco import write_coco_panoptic
    from minidetr.scenes.dataset import SceneData

    write_coco_panoptic(SceneData(arguments.count, arguments.seed, arguments.size), arguments.output)
    print(f"{arguments.count} scenes -> {arguments.output} (panoptic.json, panoptic/, images/)")


# --- demo -------------------------------------------------------------------------------------------------------------------


def add_demo(commands: Commands) -> None:
    """The shipped model on scenes it has not seen."""
    parser = add_command(
        commands,
        run_demo,
        "segment rendered scenes that the shipped model has never seen: pictures, panoptic quality, time",
        "demo --output demo",
    )
    parser.add_argument("--output", type=Path, default=Path("demo"), metavar="DIR", help="folder to write (default: demo)")
    parser.add_argument("--count", type=whole_number, default=12, help="number of scenes (default: 12)")


def run_demo(arguments: Arguments) -> None:
    """See `minidetr.commands.demo`."""
    from minidetr.commands.demo import demo

    demo(arguments.output, arguments.count)


# --- train ------------------------------------------------------------------------------------------------------------------


def add_train(commands: Commands) -> None:
    """Training, fine-tuning, going on with a run."""
    from minidetr.commands import train as command

    parser = add_command(commands, run_train, "train or fine-tune a model, or go on with a run that was cut off", command.EXAMPLE)
    command.add_arguments(parser)


def run_train(arguments: Arguments) -> None:
    """See `minidetr.training.loop`."""
    from minidetr.commands import train as command

    command.run(arguments)


def add_data(commands: Commands) -> None:
    """The group `minidetr data`: see `minidetr.commands.data`."""
    from minidetr.commands import data as data_commands

    data_commands.add_data(commands)


COMMANDS = (add_predict, add_evaluate, add_train, add_data, add_scenes, add_demo)

if __name__ == "__main__":
    sys.exit(main())
