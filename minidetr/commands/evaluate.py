"""`minidetr evaluate`."""

from __future__ import annotations

import json
import sys
from math import isnan
from pathlib import Path

from minidetr.commands.arguments import Arguments, Commands, add_command, ids_of_nothing, whole_number
from minidetr.errors import InputError


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
    parser.add_argument("predicted_json", type=Path, nargs="?", metavar="PREDICTED.json", help="panoptic JSON of the prediction")
    parser.add_argument("predicted_dir", type=Path, nargs="?", metavar="PREDICTED_DIR", help="folder of its PNGs")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--per-class", action="store_true", help="one line for each class, too")
    parser.add_argument("--jobs", type=whole_number, default=1, metavar="N", help="processes to use (default: 1)")
    parser.add_argument("--boxes", action="store_true", help="the average precision of the segments' boxes, too")
    parser.add_argument(
        "--void", type=ids_of_nothing, default=(), metavar="IDS", help="ids in PNGs that mean void, such as 255 or 0,255"
    )
    parser.add_argument("--worst", type=Path, metavar="DIR", help="also write a page of the worst images there; needs --photos")
    parser.add_argument("--why", type=Path, metavar="DIR", help="also write a page of what the quality is lost to; needs --photos")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="folder of the photos, for --worst and --why")
    parser.add_argument("--model", metavar="NAME-OR-PATH", help="for --why: weights that make the prediction, and tell more")


def run_evaluate(arguments: Arguments) -> None:
    """Print the table, or JSON."""
    from minidetr.data.coco import check_empty
    from minidetr.evaluate import panoptic_quality, segment_box_average_precision

    truth, predicted = (arguments.truth_json, arguments.truth_dir), (arguments.predicted_json, arguments.predicted_dir)
    if arguments.model is not None:
        return explain_model(arguments)
    if None in predicted:
        raise InputError("give PREDICTED.json and PREDICTED_DIR, what is to be judged, or --model with --why and --photos")
    if (arguments.worst is None and arguments.why is None) != (arguments.photos is None):
        raise InputError(
            "--worst and --photos go together, as --why and --photos do: give the folder to write and the folder of the photos"
        )
    for folder in (arguments.worst, arguments.why):
        if folder is not None:
            check_empty(folder.resolve())
    void = arguments.void
    quality = panoptic_quality(*truth, *predicted, jobs=arguments.jobs, progress=sys.stderr.isatty(), void=void)
    for note in quality.notes:
        print(f"note: {note}", file=sys.stderr)
    files = (arguments.truth_json, arguments.predicted_json, arguments.truth_dir, arguments.predicted_dir)
    boxes = segment_box_average_precision(*files, void) if arguments.boxes else {}
    measured = {name: None if isnan(value) else value for name, value in boxes.items()}
    if arguments.json:
        print(json.dumps(quality.to_json() | ({"boxes": measured} if boxes else {}), indent=2))
    else:
        print(quality.table(per_class=arguments.per_class))
        if boxes:
            rows = (f"{name} {'-' if value is None else f'{100 * value:.1f}'}" for name, value in measured.items())
            print("\nboxes: " + ", ".join(rows))
    sys.stdout.flush()  # what is counted is said, also where a photo for the page is missing
    if arguments.worst is not None:
        from minidetr.evaluate.worst import worst_images

        worst_images(*truth, *predicted, arguments.photos, arguments.worst, void=void)
    if arguments.why is not None:
        from minidetr.evaluate.why_files import explain_files

        explanation = explain_files(*truth, *predicted, arguments.photos, arguments.why, void=void)
        if not arguments.json:
            print(explanation.table())
        print(f"why: {arguments.why / 'index.html'}", file=sys.stderr)


def explain_model(arguments: Arguments) -> None:
    """Segment the photos by the weights of --model, say how good they are and write the page of --why."""
    if arguments.predicted_json is not None or arguments.worst is not None or arguments.boxes:
        raise InputError("--model makes the prediction by itself: leave out PREDICTED.json, PREDICTED_DIR, --worst and --boxes")
    if arguments.why is None or arguments.photos is None:
        raise InputError("--model needs --why, the folder to write, and --photos, the folder of the photos")
    import torch

    from minidetr.data.coco import CocoPanoptic, check_empty
    from minidetr.evaluate.model import THRESHOLDS
    from minidetr.evaluate.why import explain
    from minidetr.evaluate.why_page import photo_of, write_why
    from minidetr.model import PanopticDETR

    check_empty(arguments.why.resolve())
    data = CocoPanoptic(arguments.truth_json, arguments.photos, arguments.truth_dir, void=arguments.void)
    model = PanopticDETR.from_pretrained(arguments.model).to("cuda" if torch.cuda.is_available() else "cpu")
    explanation = explain(model, data, range(len(data)), thresholds=THRESHOLDS)
    content = write_why(explanation, photo_of(data), arguments.why)
    if arguments.json:
        print(json.dumps(content, indent=2))
    else:
        print(explanation.quality.table(per_class=arguments.per_class))
        print(explanation.table())
