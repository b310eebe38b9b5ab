"""What the commands share: how one is described, and the kinds of arguments they take."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Commands = argparse._SubParsersAction  # of ArgumentParsers; the type argparse gives no public name
Arguments = argparse.Namespace

CATEGORIES_HELP = "what the model's classes are, where its file doesn't say: a JSON with categories in COCO's format, or coco"


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


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """How a model is read and run on photos."""
    parser.add_argument("--preset", metavar="NAME", help="the published model that a renamed or fine-tuned file has the shape of")
    parser.add_argument("--categories", metavar="FILE.json", help=CATEGORIES_HELP)
    parser.add_argument("--threshold", type=fraction, metavar="SCORE", help="drop what scores below, 0 to 1 (default: the model's)")
    parser.add_argument("--batch-size", type=whole_number, default=1, metavar="B", help="photos computed together (default: 1)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda when there is one)")


def whole_number(text: str) -> int:
    """An argument that must be 1, 2, 3, ..."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def ids_of_nothing(text: str) -> tuple[int, ...]:
    """An argument like "255" or "0,255": ids in panoptic PNGs that mean void."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 9 and int(part) < 256**3 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of ids from 0 to {256**3 - 1}, such as 255 or 0,255")
    return tuple(int(part) for part in parts)


def fraction(text: str) -> float:
    """An argument that must lie in 0..1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")
    return value
