"""`minidetr predict`."""

from __future__ import annotations

from pathlib import Path

from minidetr.commands.arguments import Arguments, Commands, add_command, add_model_options


def add_predict(commands: Commands) -> None:
    """Photos -> COCO panoptic JSON and PNGs, and overlays."""
    parser = add_command(
        commands,
        run_predict,
        "segment photos: writes COCO panoptic JSON, PNGs of ids, and overlays to look at",
        "predict photos/ --model detr-r50-panoptic --output result",
    )
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO-OR-FOLDER", help="image files, or folders with subfolders")
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="tiny, detr-r50-panoptic, ..., a file or run, or ORG/NAME of the hub"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write, new or empty")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result in DIR")
    add_model_options(parser)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="default: float32")
    parser.add_argument(
        "--engine", choices=("torch", "onnx", "openvino", "auto"), help="what computes (default: torch; of an export, its own)"
    )


def run_predict(arguments: Arguments) -> None:
    """Check everything the user gave before any work, then segment."""
    from minidetr.data.photos import check_photos, find_photos
    from minidetr.export.engines import load_engine
    from minidetr.predict import output_folder, segment_into

    photos = find_photos(arguments.photos)
    with output_folder(arguments.output, overwrite=arguments.overwrite, inputs=photos.files.values()) as part:
        photos = check_photos(photos)
        number = len(photos.files)
        loading = (arguments.model, arguments.engine, arguments.device, arguments.preset, arguments.categories)
        model, by = load_engine(*loading, precision=arguments.precision, photos=number)
        if by:
            say(f"by {by}")
        segment_into(part, photos.files, model, arguments.threshold, arguments.batch_size, arguments.precision, say=say)
    print(f"{number} photo{'s' * (number > 1)} -> {arguments.output} (panoptic.json, panoptic/, overlays/)")
    if line := photos.left_out_line():
        print(line)


def say(line: str) -> None:
    """Print a line without tearing a progress bar apart."""
    from tqdm import tqdm

    tqdm.write(line)
