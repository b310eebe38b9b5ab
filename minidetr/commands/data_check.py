"""The commands `minidetr data split`, `check` and `show`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_check_commands(commands: argparse._SubParsersAction) -> None:
    """Add them to the group `minidetr data`."""
    add_split(commands)
    add_check(commands)
    add_show(commands)


def add_split(commands: argparse._SubParsersAction) -> None:
    """A data set in two parts, or in folds."""
    from minidetr.commands.main import add_command, whole_number

    parser = add_command(
        commands,
        run_split,
        "divide a data set for training and validation: every class on both sides, near-duplicate photos on one",
        "data split data/site data/site-split --share 0.8",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="data set: panoptic.json, images/, panoptic/")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write OUT/train and OUT/val to, new or empty")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--share", type=float, default=0.8, metavar="S", help="of the images for training (default: 0.8)")
    how.add_argument("--folds", type=whole_number, metavar="K", help="instead: OUT/fold-0/train and val, up to fold K-1")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, another split (default: 0)")


def run_split(arguments: argparse.Namespace) -> None:
    """Divide and tell."""
    from minidetr.curate.split import split

    result = split(arguments.folder, arguments.out, arguments.share, arguments.folds, arguments.seed)
    print(f"{arguments.folder} -> {arguments.out}\n{result.summary()}")


def add_check(commands: argparse._SubParsersAction) -> None:
    """Everything wrong or odd."""
    from minidetr.commands.main import add_command, whole_number

    parser = add_command(
        commands,
        run_check,
        "list everything wrong or odd in a data set or an annotation export, and mend what needs no guessing",
        "data check data/site --fix data/site-fixed",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of a data set, or a COCO JSON file (detection or panoptic)")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="folder of the photos of a JSON file (default: not checked)")
    parser.add_argument("--fix", type=Path, metavar="OUT", help="write a mended copy into this folder, new or empty")
    parser.add_argument("--json", action="store_true", help="print JSON with every place instead of a table")
    parser.add_argument("--examples", type=whole_number, default=3, metavar="N", help="places to show of each kind (default: 3)")
    parser.add_argument("--queries", type=whole_number, default=100, metavar="N", help="queries of the model (default: 100)")


def run_check(arguments: argparse.Namespace) -> None:
    """Look, tell, and mend if asked to."""
    from minidetr.curate.check import check
    from minidetr.curate.fix import fix

    report = check(arguments.data, arguments.photos, arguments.queries)
    fixed = fix(arguments.data, arguments.fix, arguments.photos) if arguments.fix else None
    if arguments.json:
        mended = {"fixed": {"done": fixed.done, "left": fixed.left.to_json()}} if fixed else {}
        print(json.dumps(report.to_json() | mended, indent=2))
    else:
        print(report.table(arguments.examples))
        if fixed:
            print(f"\n{arguments.fix}: {fixed.summary()}")


def add_show(commands: argparse._SubParsersAction) -> None:
    """Contact sheets."""
    from minidetr.commands.main import add_command, whole_number

    parser = add_command(
        commands,
        run_show,
        "contact sheets of photos with their segments, by class or the most troubled first",
        "data show data/site sheet.png --sort trouble",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="data set: panoptic.json, images/, panoptic/")
    parser.add_argument("out", type=Path, metavar="OUT", help="a PNG file, or a new folder for sheets of 12 photos")
    parser.add_argument("--sort", choices=("class", "trouble"), default="class", help="default: class")
    parser.add_argument("--count", type=whole_number, default=24, metavar="N", help="photos to show (default: 24)")


def run_show(arguments: argparse.Namespace) -> None:
    """Draw and say where."""
    from minidetr.curate.show import show

    written = show(arguments.folder, arguments.out, arguments.sort, arguments.count)
    print(f"{arguments.folder} -> {', '.join(str(path) for path in written)}")
