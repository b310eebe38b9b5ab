"""`minidetr scenes`."""

from __future__ import annotations

from pathlib import Path

from minidetr.commands.arguments import Arguments, Commands, add_command, whole_number
from minidetr.presets import SCENE_SIZE


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
