"""Care of the lessons: `python -m minidetr.course.notebooks run|stamp|count [LESSON ...]`, from the repository's root.

run    executes lessons in place, each in a fresh kernel, and keeps their outputs (what GitHub shows)
stamp  writes the repository's address, which stands in pyproject.toml alone, into badges and set-up cells
count  words, lines of code and lines of the median cell of every lesson, and whether they are within bounds
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from minidetr.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

FOLDER = Path("notebooks")
WORDS, LINES, MEDIAN = (800, 2200), (80, 220), 5  # bounds of a lesson: words, lines of code, lines of its median cell
TIME_LIMIT = 240  # seconds for one cell
SET_UP = """\
import sys

if "google.colab" in sys.modules:  # on Colab only: everywhere else minidetr is installed already
    %pip install -q -c {raw}/v{version}/constraints.txt "minidetr[colab] @ git+{address}@v{version}"
"""
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name})"
)
ANY_BADGE = re.compile(r"\[!\[Open in Colab\].*?\]\(https://colab\.research\.google\.com/github/.*?\)")


def lessons(names: list[str], folder: Path = FOLDER) -> list[Path]:
    """The notebooks whose names begin with one of `names` ("03"), all without names, in order. Raises InputError for none."""
    found = sorted(path for path in folder.glob("[0-9][0-9]_*.ipynb") if not names or path.name.startswith(tuple(names)))
    if not found:
        raise InputError(f"there is no lesson {', '.join(names)} in {folder}: run this in the repository's root")
    return found


def run(path: Path) -> float:
    """Execute a lesson in place, in its own folder; returns seconds. Raises InputError with the first failing cell's error."""
    notebook, start = nbformat.read(path, as_version=4), time.monotonic()
    client = NotebookClient(
        notebook,
        timeout=TIME_LIMIT,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise InputError(f"{path}: a cell fails, the file is left as it was:\n{error}") from error
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in code_cells(notebook):
        cell.outputs = joined(cell.outputs)
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
    nbformat.write(notebook, path)
    return time.monotonic() - start


def joined(outputs: list[Any]) -> list[Any]:
    """A cell's outputs with neighbouring pieces of one stream put together: how a kernel cuts them is chance."""
    whole: list[Any] = []
    for output in outputs:
        if whole and output.output_type == "stream" == whole[-1].output_type and output.name == whole[-1].name:
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


def stamp(path: Path, project: dict[str, Any]) -> None:
    """Put the address of `project` (pyproject.toml's table) into a lesson's badge and set-up cell."""
    notebook = nbformat.read(path, as_version=4)
    address = project["urls"]["Repository"].rstrip("/")
    badge = BADGE.format(repository=address.removeprefix("https://github.com/"), name=path.name)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = ANY_BADGE.sub(badge, cell.source)
        elif "google.colab" in cell.source:
            raw = address.replace("https://github.com/", "https://raw.githubusercontent.com/")
            cell.source = SET_UP.format(address=address, raw=raw, version=project["version"]).rstrip()
    nbformat.write(notebook, path)


def code_cells(notebook: Any) -> Iterator[Any]:
    """The cells with code."""
    return (cell for cell in notebook.cells if cell.cell_type == "code")


def lines_of(source: str) -> int:
    """Lines of code: neither blank nor comment alone."""
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in source.splitlines())


def count(path: Path) -> tuple[int, int, float]:
    """Words of the text, lines of code and lines of the median cell, the set-up cell and solutions left out."""
    notebook = nbformat.read(path, as_version=4)
    text = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    text = re.sub(r"```.*?```|\$\$?.*?\$\$?|\(http\S*\)|<[^>]*>", " ", text, flags=re.DOTALL)
    lines = [lines_of(cell.source) for cell in code_cells(notebook) if "google.colab" not in cell.source]
    return len(re.findall(r"\w[\w'-]*", text)), sum(lines), statistics.median(lines)


def outside(words: int, lines: int, median: float) -> str:
    """What of a lesson's counts is out of bounds, or an empty string."""
    wrong = []
    if not WORDS[0] <= words <= WORDS[1]:
        wrong.append(f"{words} words, not {WORDS[0]} to {WORDS[1]}")
    if not LINES[0] <= lines <= LINES[1]:
        wrong.append(f"{lines} lines of code, not {LINES[0]} to {LINES[1]}")
    if median > MEDIAN:
        wrong.append(f"a median cell of {median:g} lines, more than {MEDIAN}")
    return "; ".join(wrong)


def main(arguments: list[str] | None = None) -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "stamp", "count"))
    parser.add_argument("lessons", nargs="*", help='numbers such as "03"; by default all')
    given = parser.parse_args(arguments)
    try:
        paths = lessons(given.lessons)
        if given.action == "run":
            for path in paths:
                print(f"{path.name}: {run(path):.0f} s", flush=True)
        elif given.action == "stamp":
            project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
            for path in paths:
                stamp(path, project)
        else:
            print(f"{'lesson':40} words lines median  bounds: {WORDS[0]}-{WORDS[1]}, {LINES[0]}-{LINES[1]}, {MEDIAN}")
            for path in paths:
                words, lines, median = count(path)
                print(f"{path.stem:40} {words:5} {lines:5} {median:6g}  {outside(words, lines, median)}")
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
