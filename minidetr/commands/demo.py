"""`minidetr demo`."""

from __future__ import annotations

from pathlib import Path

from minidetr.commands.arguments import Arguments, Commands, add_command, whole_number


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
    """See `minidetr.commands.demo_scenes`."""
    from minidetr.commands.demo_scenes import demo

    demo(arguments.output, arguments.count)
