"""`minidetr export`."""

from __future__ import annotations

from pathlib import Path

from minidetr.commands.arguments import CATEGORIES_HELP, Arguments, Commands, add_command
from minidetr.errors import InputError
from minidetr.presets import PUBLISHED, TRAINABLE

FORMATS = ("onnx", "openvino", "transformers", "official", "hub")


def add_export(commands: Commands) -> None:
    """A model in the format of another program."""
    parser = add_command(
        commands,
        run_export,
        "write a model in the format of another program: ONNX, OpenVINO, transformers, the published code, the Hugging Face hub",
        "export runs/site --to onnx site-onnx",
    )
    parser.add_argument("model", metavar="MODEL", help="tiny, detr-r50-panoptic, ..., a file or run, or ORG/NAME of the hub")
    parser.add_argument("--to", required=True, choices=FORMATS, help="the format")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write, new or empty; of official a file .pth")
    parser.add_argument("--preset", metavar="NAME", help="the published model that a renamed or fine-tuned file has the shape of")
    parser.add_argument("--categories", metavar="FILE.json", help=CATEGORIES_HELP)
    parser.add_argument(
        "--int8", nargs="+", type=Path, metavar="PHOTO-OR-FOLDER", help="onnx: convolutions in int8, with ranges as on these photos"
    )
    parser.add_argument("--repo", metavar="ORG/NAME", help="hub: the name it shall have there")
    parser.add_argument("--yes", action="store_true", help="hub: upload it; otherwise it is only written to OUT")


def run_export(arguments: Arguments) -> None:
    """Export, and say how what was written is used."""
    from minidetr.export import hub, official, onnx, openvino, transformers
    from minidetr.predict import load_model

    check_together(arguments)
    out = arguments.output
    model = load_model(arguments.model, "cpu", arguments.preset, arguments.categories)
    if arguments.int8 and not model.preset.has_masks:
        raise InputError(f"--int8 compares segmentations, and {arguments.model} is a detection model without masks: leave it out")
    if arguments.to == "official":
        official.export(model, out)
        print(f"{out}: torch.load(...)['model'] has the names of facebookresearch/detr")
    elif arguments.to == "transformers":
        transformers.export(model, out)
        stuff = [c.id for c in model.categories if not c.is_thing]
        kind = "DetrForObjectDetection" if model.preset.mask_widths is None else "DetrForSegmentation"
        print(f"{out}: {kind}.from_pretrained({str(out)!r}); stuff are the labels {stuff} (label_ids_to_fuse)")
    elif arguments.to == "hub":
        run = run_of(arguments.model)
        copied = hub.export(model, out, run, arguments.repo)
        of_run = f"scores and {' and '.join(copied) or 'no picture'} of {run}" if run else "no scores: they need a run's folder"
        print(f"{out}: weights and a card; {of_run}")
        if arguments.yes:
            print(f"{out} is at {hub.upload(out, arguments.repo)}")
        else:
            print("nothing is uploaded without --yes")
    elif arguments.to == "openvino":
        openvino.export(model, out)
        print(f"{out}: minidetr predict PHOTOS --model {out} --output result; whole.xml is the model in one")
    else:
        same = onnx.export(model, out, calibration_photos(arguments.int8))
        print(f"{out}: minidetr predict PHOTOS --model {out} --output result; whole.onnx is the model in one")
        if same is not None:
            print(f"int8: {100 * same:.2f} % of those photos' pixels have the class that float32 gives them")


def run_of(name: str) -> Path | None:
    """The run whose scores are those of the weights that `name` loads: a run's folder, or its best.safetensors; else None."""
    path = Path(name)
    folder = path if path.is_dir() else path.parent
    is_best = path.name == "best.safetensors" if path.is_file() else path.is_dir() and (path / "best.safetensors").is_file()
    return folder if name not in (*TRAINABLE, *PUBLISHED) and is_best and (folder / "options.json").is_file() else None


def check_together(arguments: Arguments) -> None:
    """Raise InputError for options that have no meaning in the chosen format, and for want of one that it needs."""
    if arguments.int8 and arguments.to != "onnx":
        raise InputError("--int8 is an option of --to onnx")
    if (arguments.repo is None) == (arguments.to == "hub") or (arguments.yes and arguments.to != "hub"):
        raise InputError("--repo ORG/NAME goes with --to hub, and --yes with both: it uploads")
    if arguments.to == "official" and arguments.output.suffix not in (".pth", ".pt"):
        raise InputError(f"{arguments.output}: the published code's format is one file: give a name that ends in .pth")


def calibration_photos(paths: list[Path] | None) -> list[Path] | None:
    """The photos given, up to 100 of them, evenly spread; None where none are given."""
    from minidetr.data.photos import check_photos, find_photos

    if paths is None:
        return None
    photos = list(check_photos(find_photos(paths)).files.values())
    return photos[:: -(-len(photos) // 100)]
