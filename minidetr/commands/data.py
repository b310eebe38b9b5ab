"""The commands `minidetr data ...`: from an annotation export to a data set to train on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from minidetr.commands.arguments import (
    Arguments,
    Commands,
    add_command,
    add_model_options,
    ids_of_nothing,
    whole_number,
)
from minidetr.errors import InputError


def add_data(commands: Commands) -> None:
    """The group `minidetr data` with all of its commands."""
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
    add_split(group)
    add_check(group)
    add_show(group)


def add_assemble(commands: Commands) -> None:
    """An annotation export as a panoptic data set."""
    parser = add_command(
        commands,
        run_assemble,
        "turn an annotation export and its photos into a panoptic data set, one segment a pixel",
        "data assemble export.json photos/ data/site --under stuff/\n  minidetr data assemble unzipped/ data/site",
    )
    parser.add_argument(
        "export",
        type=Path,
        metavar="EXPORT",
        help="a JSON in COCO detection format, or the folder that CVAT, Roboflow, Label Studio, COCO, Cityscapes or ADE20k gave",
    )
    parser.add_argument(
        "photos", nargs="?", metavar="PHOTOS", help="of a JSON: folder of the photos, or - for none (the sizes in it will do)"
    )
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
    parser.add_argument(
        "--crowds",
        choices=("as-crowds", "as-objects"),
        default="as-crowds",
        help="things with iscrowd 1, as CVAT writes every mask: crowds, which are not trained on, or objects (default: as-crowds)",
    )
    parser.add_argument(
        "--skip-missing", action="store_true", help="leave out, and count, annotations without image and images without photo"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result in OUT")


def run_assemble(arguments: Arguments) -> None:
    """Assemble and tell everything that was met."""
    from minidetr.curate.assemble import assemble
    from minidetr.curate.assemble_folder import assemble_folder

    stuff = [text.strip() for text in arguments.stuff.split(",")] if arguments.stuff is not None else None
    flags = (arguments.overwrite, arguments.skip_missing, arguments.crowds)
    if arguments.export.is_dir():
        if arguments.photos is not None:
            raise InputError(f"{arguments.export} is a folder, in which photos are looked for: leave {arguments.photos} out")
        made = assemble_folder(arguments.export, arguments.out, arguments.order, stuff, arguments.under, *flags)
        print(f"{arguments.export} -> {arguments.out}: {made.summary()}")
        return
    if arguments.photos is None:
        raise InputError(f"give the photos of {arguments.export}, too: EXPORT.json PHOTOS OUT, with - for none")
    photos = None if arguments.photos == "-" else Path(arguments.photos)
    report = assemble(arguments.export, photos, arguments.out, arguments.order, stuff, arguments.under, *flags)
    print(f"{arguments.export} -> {arguments.out} (panoptic.json, panoptic/, detection.json{', images/' if photos else ''})")
    print(report.summary())


def add_label_stuff(commands: Commands) -> None:
    """Stuff as a model sees it."""
    parser = add_command(
        commands,
        run_label_stuff,
        "let a panoptic model label the stuff in photos, its classes folded into yours",
        "data label-stuff photos/ stuff/ --weights detr-r101-panoptic --map stuff.toml",
    )
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="a photo, or a folder with subfolders")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, new or empty")
    parser.add_argument(
        "--weights",
        required=True,
        metavar="NAME",
        help="detr-r101-panoptic, ..., tiny, a file or run; or transformers:FOLDER-OR-NAME, a panoptic model of that library",
    )
    parser.add_argument(
        "--map", type=Path, metavar="FILE.toml", help="which of its classes are which stuff (default: COCO's 53 into 15 and misc)"
    )
    add_model_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result in OUT")


def run_label_stuff(arguments: Arguments) -> None:
    """Label, then say how much of the photos each class covers."""
    from minidetr.curate.foreign import PREFIX, TransformersModel
    from minidetr.curate.label_stuff import EXAMPLE, PanopticModel, StuffMapping, label_stuff
    from minidetr.predict import load_model

    mapping = StuffMapping.read(arguments.map or EXAMPLE)
    model: PanopticModel
    if arguments.weights.startswith(PREFIX):
        if (arguments.preset, arguments.categories) != (None, None):
            raise InputError(f"{arguments.weights} says itself what it is: leave out --preset and --categories")
        model = TransformersModel(arguments.weights.removeprefix(PREFIX), arguments.device)
    else:
        model = load_model(arguments.weights, arguments.device, arguments.preset, arguments.categories)
    told: list[str] = []
    shares = label_stuff(
        [arguments.photos],
        arguments.out,
        model,
        mapping,
        arguments.threshold,
        arguments.batch_size,
        arguments.overwrite,
        told.append,
    )
    print(f"{arguments.photos} -> {arguments.out} (panoptic.json, panoptic/); share of the pixels:")
    print("\n".join([*(f"{100 * share:6.1f} %  {name}" for name, share in shares.items() if share), *told]))


def add_split(commands: Commands) -> None:
    """A data set in two parts, or in folds."""
    parser = add_command(
        commands,
        run_split,
        "divide a data set for training, validation and test: every class on all sides, near-duplicate photos on one",
        "data split data/site data/site-split --share 0.8",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="data set: panoptic.json, images/, panoptic/")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write OUT/train and OUT/val to, new or empty")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--share", type=float, metavar="S", help="of the images for training (default: 0.8 less --test)")
    how.add_argument("--folds", type=whole_number, metavar="K", help="instead: OUT/fold-0/train and val, up to fold K-1")
    parser.add_argument("--test", type=float, default=0.0, metavar="T", help="of the images for OUT/test, measured once at the end")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, another split (default: 0)")


def run_split(arguments: Arguments) -> None:
    """Divide and tell."""
    from minidetr.curate.split import split

    result = split(arguments.folder, arguments.out, arguments.share, arguments.folds, arguments.seed, arguments.test)
    print(f"{arguments.folder} -> {arguments.out}\n{result.summary()}")


def add_check(commands: Commands) -> None:
    """Everything wrong or odd."""
    parser = add_command(
        commands,
        run_check,
        "list everything wrong or odd in a data set or an annotation export, and mend what needs no guessing",
        "data check data/site --fix data/site-fixed",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of a data set or of an export, or a COCO JSON file")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="folder of the photos of a JSON file (default: not checked)")
    parser.add_argument("--fix", type=Path, metavar="OUT", help="write a mended copy into this folder, new or empty")
    parser.add_argument("--json", action="store_true", help="print JSON with every place instead of a table")
    parser.add_argument("--examples", type=whole_number, default=3, metavar="N", help="places to show of each kind (default: 3)")
    parser.add_argument("--queries", type=whole_number, default=100, metavar="N", help="queries of the model (default: 100)")
    parser.add_argument("--void", type=ids_of_nothing, default=(), metavar="IDS", help="ids in PNGs that mean void, such as 255")


def run_check(arguments: Arguments) -> None:
    """Look, tell, and mend if asked to."""
    from minidetr.curate.check import check
    from minidetr.curate.fix import fix

    report = check(arguments.data, arguments.photos, arguments.queries, arguments.void)
    fixed = fix(arguments.data, arguments.fix, arguments.photos, arguments.void) if arguments.fix else None
    if arguments.json:
        mended = {"fixed": {"done": fixed.done, "left": fixed.left.to_json()}} if fixed else {}
        print(json.dumps(report.to_json() | mended, indent=2))
    else:
        print(report.table(arguments.examples))
        if fixed:
            print(f"\n{arguments.fix}: {fixed.summary()}")


def add_show(commands: Commands) -> None:
    """Contact sheets."""
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


def run_show(arguments: Arguments) -> None:
    """Draw and say where."""
    from minidetr.curate.show import show

    written = show(arguments.folder, arguments.out, arguments.sort, arguments.count)
    print(f"{arguments.folder} -> {', '.join(str(path) for path in written)}")
