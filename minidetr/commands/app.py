"""`minidetr app`."""

from __future__ import annotations

from pathlib import Path

from minidetr.commands.arguments import Arguments, Commands, add_command, whole_number
from minidetr.errors import InputError


def add_app(commands: Commands) -> None:
    """A page to try a model on."""
    parser = add_command(commands, run_app, "serve a page to try a model on: photo in, segments and heatmaps out", "app tiny")
    parser.add_argument("model", metavar="MODEL", help="tiny, detr-r50-panoptic, ..., a file or run, or ORG/NAME of the hub")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda when there is one)")
    parser.add_argument("--port", type=whole_number, help="default: 7860")
    parser.add_argument("--space", type=Path, metavar="DIR", help="serve nothing: write a Space of the Hugging Face hub into DIR")


def run_app(arguments: Arguments) -> None:
    """Serve the page until it is interrupted, or write the Space."""
    from minidetr.app import build, write_space
    from minidetr.data.coco import check_empty, whole_folder

    if arguments.space is not None:
        if (arguments.port, arguments.device) != (None, None):
            raise InputError("--space serves nothing here: leave out --port and --device")
        check_empty(arguments.space.resolve())
        with whole_folder(arguments.space.resolve()) as part:
            write_space(part, arguments.model)
        print(f"{arguments.space}: upload it as a Space (huggingface.co/new-space, Gradio); its model is {arguments.model}")
        return
    port = arguments.port or 7860
    if port > 65535:
        raise InputError(f"--port {port}: ports are numbers up to 65535")
    page = build(arguments.model, arguments.device)
    page.launch(server_name="127.0.0.1", server_port=port, share=False, inbrowser=False)
