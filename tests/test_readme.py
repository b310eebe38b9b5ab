"""The README's links lead somewhere, its commands are commands, and its table of stages names real modules."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from minidetr.cli import build_parser
from minidetr.presets import PUBLISHED, TRAINABLE

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.partition("#")[0].strip() for line in TEXT.splitlines() if line.startswith("minidetr ")]


def test_links_and_pictures_resolve() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if not link.startswith("http")]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    arguments = build_parser().parse_args(shlex.split(command)[1:])  # exits, which fails the test, where a name is wrong
    assert callable(arguments.run)


def test_make_targets_exist() -> None:
    targets = re.findall(r"`?make ([a-z]+)", TEXT)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test"} <= set(targets)
    assert [target for target in targets if f"\n{target}:" not in makefile] == []


def test_every_model_is_named() -> None:
    assert [name for name in (*PUBLISHED, *TRAINABLE) if f"`{name}`" not in TEXT] == []


def test_quoted_ratios_stand_in_the_table_of_results() -> None:
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    quoted = re.findall(r"\b\d+(?:\.\d+)?x\b(?!\d)", TEXT.split("## What it costs")[1].split("\n## ")[0])
    assert quoted
    assert [ratio for ratio in quoted if f"| {ratio} " not in results and f"| {ratio}, " not in results] == []
