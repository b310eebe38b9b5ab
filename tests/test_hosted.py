"""What GitHub reads: workflows, forms and the like are valid, safe, and name what is in the repository."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
VALID = [  # (the schema that check-jsonschema brings along, file)
    *(("github-workflows", path) for path in WORKFLOWS),
    *(("github-issue-forms", path) for path in sorted((GITHUB / "ISSUE_TEMPLATE").glob("[!c]*.yml"))),
    ("github-issue-config", GITHUB / "ISSUE_TEMPLATE" / "config.yml"),
    ("dependabot", GITHUB / "dependabot.yml"),
    ("citation-file-format", ROOT / "CITATION.cff"),
]


def steps(path: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize(("schema", "path"), VALID, ids=lambda value: value.name if isinstance(value, Path) else value)
def test_files_fit_their_schema(schema: str, path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_workflow_would_be_seen(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(WORKFLOWS[0].read_text(encoding="utf-8").replace("runs-on:", "runs_on:"), encoding="utf-8")
    with pytest.raises(AssertionError, match="runs_on"):
        test_files_fit_their_schema("github-workflows", wrong)


def test_workflows_are_safe() -> None:
    auditor = shutil.which("zizmor", path=Path(sys.executable).parent)
    assert auditor, "zizmor comes with the extra 'test'"
    done = subprocess.run([auditor, "--offline", "--persona", "pedantic", GITHUB], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_matrix_is_what_the_package_promises(project: dict[str, Any]) -> None:
    content = yaml.safe_load((GITHUB / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    matrix = content["jobs"]["tests"]["strategy"]["matrix"]
    oldest = project["requires-python"].removeprefix(">=")
    assert matrix["python"][0] == oldest and matrix["python"] == sorted(matrix["python"], key=lambda text: int(text[2:]))
    [row] = matrix["include"]
    local = runpy.run_path(str(ROOT / ".ci" / "matrix.py"))
    assert row["python"] == oldest and row["torch"].split() == list(local["OLDEST"])
    assert "torch>=" + local["OLDEST"][0].removeprefix("torch==").removesuffix(".0") in project["dependencies"]


def test_every_make_command_of_a_workflow_exists() -> None:
    commands = [step["run"] for path in WORKFLOWS for step in steps(path) if "run" in step]
    called = {name for command in commands for name in re.findall(r"\bmake ([a-z-]+)", command)}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert called and [name for name in called if f"\n{name}:" not in makefile] == []


def test_constraints_bound_what_minidetr_needs_and_leave_torch_alone(project: dict[str, Any]) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    bounded = [re.fullmatch(r"([a-z0-9.-]+)<=\S+", line) for line in lines if not line.startswith("#")]
    names = {match[1] for match in bounded if match}
    assert len(names) == len(bounded) > 50
    direct = {re.split(r"[<>=!~\[; ]", requirement)[0].replace("_", "-") for requirement in project["dependencies"]}
    assert direct - names == {"torch", "torchvision", "numpy", "tomli"}  # the last for Python 3.10 alone
    assert not [name for name in names if name.startswith(("torch", "nvidia", "cuda", "triton"))]


def test_one_version_everywhere(project: dict[str, Any]) -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == project["version"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
