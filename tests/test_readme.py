"""The README's and the guides' links lead somewhere, its commands are commands, and its table of stages names real modules."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from minidetr.commands.main import build_parser
from minidetr.presets import PUBLISHED, TRAINABLE
from minidetr.training.options import TrainOptions
from minidetr.weights.load import SHIPPED

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = {
    path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("[!m]*.md"))
}  # but for measured.md, which is made
LINES = [line for text in (TEXT, *GUIDES.values()) for line in text.splitlines()]
COMMANDS = sorted({line.partition("#")[0].strip() for line in LINES if line.startswith("minidetr ")})


def test_links_and_pictures_resolve() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if not link.startswith("http")]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []
    for path, text in GUIDES.items():
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
        assert [link for link in links if not (path.parent / link).exists()] == [], path


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    arguments = build_parser().parse_args(shlex.split(command)[1:])  # exits, which fails the test, where a name is wrong
    assert callable(arguments.run)


def test_make_targets_exist() -> None:
    targets = re.findall(r"`?make ([a-z-]+)", TEXT)
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


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_shipped_model_s_recipe_is_one_that_can_be_run(tmp_path: Path) -> None:
    dry = subprocess.run(["make", "-n", "weights", f"RUNS={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=True)
    parts = [line.partition(" -m minidetr ")[2] for line in dry.stdout.splitlines() if " -m minidetr train" in line]
    runs = [vars(build_parser().parse_args(shlex.split(part))) for part in parts]
    known = [{k: v for k, v in run.items() if k in TrainOptions.__dataclass_fields__ and v is not None} for run in runs]
    recipe = [TrainOptions(**given).filled() for given in known]
    assert {run.data for run in recipe} == {"scenes"} and [run.steps for run in recipe] == ["boxes", "joint", "joint"]
    assert recipe[0].from_ is None and recipe[-1].size == TRAINABLE["tiny"].short_side
    assert [run.from_ for run in recipe[1:]] == [f"{run.output}/last.safetensors" for run in recipe[:-1]]
    card = (SHIPPED / "tiny.md").read_text(encoding="utf-8")
    for number, run in enumerate(recipe, 1):
        seeds = f"{run.scene_seed} to {run.scene_seed + run.scenes - 1}"
        assert f"| run {number} | {run.steps} at {run.size} pixels, scenes of seeds {seeds}," in card
