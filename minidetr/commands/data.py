"""The commands `minidetr data ...`: from an annotation export to a data set to train on.

Like `minidetr.commands.main`: one function `add_NAME` describes a command's arguments, one `run_NAME` does the work.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_data(commands: argparse._SubParsersAction) -> None:
    """The group `minidetr data` with all of its commands."""
    from minidetr.commands.data_check import add_check_commands

    parser = commands.add_parser(
        "data",
        help="your own data: assemble, label-stuff, split, check, show",
        description="From an annotation export (COCO detection format, as CVAT writes it) to a panoptic data set.",
        epilog="each has an example:\n  minidetr data assemble --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_subparsers(title="commands", metavar="COMMAND", dest="data_command", required=True)
    add_assemble(group)
    add_label_stuff(group)
    add_check_commands(group)


def add_assemble(commands: argparse._SubParsersAction) -> None:
    """An annotation export as a panoptic data set."""
    from minidetr.commands.main import add_command

    parser = add_command(
        commands,
        run_assemble,
        "turn an annotation export and its photos into a panoptic data set, one segment a pixel",
        "data assemble export.json photos/ data/site --under stuff/",
    )
    parser.add_argument("export", type=Path, metavar="EXPORT.json", help="COCO detection format, as CVAT and others export it")
    parser.add_argument("photos", metavar="PHOTOS", help="folder of the photos, or - for none (the sizes in the export will do)")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, new or empty")
    parser.add_argument(
        "--order",
        choices=("smaller", "larger", "listed"),  # assemble.ORDERS, not imported here: help is to answer at once
        default="smaller",
        help="what lies on top where things overlap, or stuff: the smaller, the larger, what is listed later (default: smaller)",
    )
    parser.add_argument(
        "--stuff",
        metavar="LIST",
        help="stuff categories: names, ids and ranges, such as 1-16 or sky,ground,7 (default: those with isthing 0)",
    )
    parser.add_argument("--under", type=Path, metavar="DIR", help="stuff that label-stuff wrote, for pixels that nobody annotated")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result in OUT")


def run_assemble(arguments: argparse.Namespace) -> None:
    """Assemble and tell everything that was met."""
    from minidetr.curate.assemble import assemble

    photos = None if arguments.photos == "-" else Path(arguments.photos)
    stuff = [text.strip() for text in arguments.stuff.split(",")] if arguments.stuff is not None else None
    report = assemble(arguments.export, photos, arguments.out, arguments.order, stuff, arguments.under, arguments.overwrite)
    print(f"{arguments.export} -> {arguments.out} (panoptic.json, panoptic/, detection.json{', images/' if photos else ''})")
    print(report.summary())


def add_label_stuff(commands: argparse._SubParsersAction) -> None:
    """Stuff as a model sees it."""
    from minidetr.commands.main import add_command, fraction, whole_number

    parser = add_command(
        commands,
        run_label_stuff,
        "let a panoptic model label the stuff in photos, its classes folded into yours",
        "data label-stuff photos/ stuff/ --weights detr-r101-panoptic --map stuff.toml",
    )
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="a photo, or a folder of them")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, new or empty")
    parser.add_argument("--weights", required=True, metavar="NAME", help="detr-r101-panoptic, ..., tiny, or a file or run")
    parser.add_argument(
        "--map", type=Path, metavar="FILE.toml", help="which of its classes are which stuff (default: COCO's 53 into 15 and misc)"
    )
    parser.add_argument("--threshold", type=fraction, metavar="SCORE", help="drop what scores below, 0 to 1 (default: the model's)")
    parser.add_argument("--batch-size", type=whole_number, default=1, metavar="B", help="photos computed together (default: 1)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda when there is one)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result in OUT")


def run_label_stuff(arguments: argparse.Namespace) -> None:
    """Label, then say how much of the photos each class covers."""
    from minidetr.curate.label_stuff import EXAMPLE, StuffMapping, label_stuff
    from minidetr.predict import load_model

    mapping = StuffMapping.read(arguments.map or EXAMPLE)
    model = load_model(arguments.weights, arguments.device)
    shares = label_stuff(
        [arguments.photos], arguments.out, model, mapping, arguments.threshold, arguments.batch_size, arguments.overwrite
    )
    print(f"{arguments.photos} -> {arguments.out} (panoptic.json, panoptic/); share of the pixels:")
    print("\n".join(f"{100 * share:6.1f} %  {name}" for name, share in shares.items() if share))
