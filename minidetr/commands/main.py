"""The command `minidetr`.

Each command is a file of this room: its function `add_NAME` describes the arguments and `run_NAME` does the work; a new command is
those two and a place in `COMMANDS`. Everything heavy is imported inside the `run_` functions, so that `--help` answers at once.

Exit codes: 0 done; 2 the user's mistake, or want of memory or disk, told in one sentence on stderr; 130 interrupted; 141 the reader
of the output went away.
Any other error is a bug and shows its traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from minidetr.commands.app import add_app
from minidetr.commands.arguments import add_debug
from minidetr.commands.data import add_data
from minidetr.commands.demo import add_demo
from minidetr.commands.evaluate import add_evaluate
from minidetr.commands.export import add_export
from minidetr.commands.page import add_page
from minidetr.commands.predict import add_predict
from minidetr.commands.scenes import add_scenes
from minidetr.commands.train import add_train
from minidetr.errors import InputError, InputWarning, WorkerDied


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `argv` is the command line without the program's name (None: this process's)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's cannot be
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks must not discard the work
    arguments = build_parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            show_plainly()
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


def show_plainly() -> None:
    """Have warnings about the user's input printed as one line each, on stderr; others as ever."""
    as_ever = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, InputWarning):
            print(f"minidetr: note: {message}", file=sys.stderr)
        else:
            as_ever(message, category, *place, **more)

    warnings.simplefilter("always", InputWarning)
    warnings.showwarning = show  # type: ignore[assignment]  # whatever else it is given is passed on


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


COMMANDS = (add_predict, add_evaluate, add_train, add_export, add_app, add_page, add_data, add_scenes, add_demo)
