"""Listings of the package's own source, as a lesson shows them: highlighted, and no line longer than a page is wide."""

from __future__ import annotations

import importlib.util
import inspect
import io
import subprocess
import sys
import textwrap
import tokenize

WIDEST = 100  # columns


class Listing:
    """Source code that a notebook shows highlighted, and a terminal as it is."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __repr__(self) -> str:
        return self.code

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.code}\n```"


def source(*things: object) -> Listing:
    """The package's own source of functions or classes: what a reader sees is the code that runs, long lines wrapped."""
    return Listing("\n\n\n".join(narrowed(inspect.getsource(thing).rstrip()) for thing in things))  # type: ignore[arg-type]


def narrowed(code: str) -> str:
    """Python source with nothing beyond WIDEST columns: docstrings and comments wrapped, code set by ruff where it is installed."""
    code = textwrap.dedent(code)
    tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    lines = code.splitlines()
    for token in reversed(tokens):  # from the end, so that the numbers of earlier lines stay true
        first, last = token.start[0] - 1, token.end[0]
        if max(map(len, lines[first:last]), default=0) <= WIDEST:
            continue
        start, indent = token.start[1], " " * (len(lines[first]) - len(lines[first].lstrip()))
        alone = not lines[first][:start].strip()
        if token.type == tokenize.STRING and alone:
            closing = [indent + '"""'] if lines[last - 1].strip() == '"""' else []
            lines[first:last] = wrapped(lines[first : last - len(closing)], indent, "") + closing
        elif token.type == tokenize.COMMENT and alone:
            while last < len(lines) and lines[last].startswith(indent + "# "):
                last += 1  # the whole comment, of which this is a line
            lines[first:last] = wrapped([line.strip().removeprefix("# ") for line in lines[first:last]], indent, "# ")
        elif token.type == tokenize.COMMENT:
            lines[first : first + 1] = [*wrapped([token.string[2:]], indent, "# "), lines[first][:start].rstrip()]
    return set_by_ruff("\n".join(lines))


def wrapped(lines: list[str], indent: str, mark: str) -> list[str]:
    """Lines of text as paragraphs no wider than WIDEST, each line behind `indent` and `mark`; empty lines part paragraphs."""
    paragraphs = "\n".join(line.strip() for line in lines).split("\n\n")
    width, result = WIDEST - len(indent + mark), []
    for paragraph in paragraphs:
        result += [*textwrap.wrap(paragraph.replace("\n", " "), width), ""]
    return [indent + mark + line if line else "" for line in result[:-1]]


def set_by_ruff(code: str) -> str:
    """Code at WIDEST columns, as ruff sets it; as it is where ruff is not installed, as on Colab."""
    if importlib.util.find_spec("ruff") is None:
        return code
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", str(WIDEST), "-"]
    return subprocess.run(command, input=code, capture_output=True, text=True, check=True).stdout.rstrip()
