"""`minidetr page`."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from minidetr.commands.arguments import Arguments, Commands, add_command, whole_number
from minidetr.errors import InputError

BUILT = Path(__file__).parents[1] / "page"  # what `make page` builds; a wheel built after it has it, too


def add_page(commands: Commands) -> None:
    """The live page, from this machine."""
    parser = add_command(commands, run_page, "serve the live page, in which the model runs in your browser", "page")
    parser.add_argument("--port", type=whole_number, default=8800, help="default: 8800")


def run_page(arguments: Arguments) -> None:
    """Serve the built page until it is interrupted."""
    with server(BUILT, arguments.port) as page:
        print(f"open http://127.0.0.1:{page.server_port}/ in a browser (Ctrl-C ends it)", flush=True)
        page.serve_forever()


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of a folder's files for this machine alone. Raises InputError when nothing is built there or the port is taken."""
    if not (folder / "index.html").is_file():
        raise InputError("the page is not built: `make page` in the repository builds it (with Node 20 or newer)")
    if port > 65535:
        raise InputError(f"--port {port}: ports are numbers up to 65535")
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(Quiet, directory=str(folder)))
    except OSError as error:
        raise InputError(f"--port {port} cannot be used ({error}): choose another") from error


class Quiet(SimpleHTTPRequestHandler):
    """Files with the types that browsers ask for, without a line for each."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # the base class's name
        """Say nothing."""
