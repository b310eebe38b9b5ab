"""Every exercise of the course: its stub is "not done yet", its folded solution and harmless variants of it are right, plausible
wrong answers are caught."""

from __future__ import annotations

import importlib
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest

from minidetr.course import Exercise, Verdict, answer, exercise, require, require_tensor

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
CHECK_LINE = re.compile(r"check\.(\w+)\((.*)\)\s*$", re.DOTALL)
SOLUTION = re.compile(r"<summary>Solution</summary>.*?```python\n(.*?)```", re.DOTALL)


@cache
def cells(path: Path) -> list[Any]:
    return nbformat.read(path, as_version=4).cells


def exercises(path: Path) -> dict[str, tuple[str, str, str, str]]:
    """name -> (stub's code without its last line, argument of the check, text after the stub, solution's code)."""
    found = {}
    for cell, following in zip(cells(path), cells(path)[1:], strict=False):
        if "exercise" in cell.metadata.get("tags", []):
            stub, _, last = cell.source.rstrip().rpartition("\n")
            match = CHECK_LINE.search(last)
            assert match, f"{path.name}: an exercise's last line should call its check, but is {last!r}"
            solution = SOLUTION.search(following.source)
            assert solution, f"{path.name}: {match[1]} has no folded solution below"
            found[match[1]] = (stub, match[2], following.source, solution[1])
    return found


@cache
def imports(path: Path) -> str:
    """The import lines of a lesson's first cells: what its exercises may use."""
    code = [cell.source for cell in cells(path) if cell.cell_type == "code" and "google.colab" not in cell.source][:2]
    return "\n".join(line for source in code for line in source.splitlines() if line.startswith(("import ", "from ")))


def checks(path: Path) -> Any:
    return importlib.import_module(f"minidetr.course.lesson{path.name[:2]}")


def attempts(path: Path) -> Any:
    """What learners may write: WRONG[exercise] = [(code, words of the verdict)], HARMLESS[exercise] = [right code]."""
    file = Path(__file__).parent / "attempts" / f"lesson{path.name[:2]}.py"
    spec = importlib.util.spec_from_file_location(f"attempts_lesson{path.name[:2]}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def verdict(path: Path, name: str, code: str, argument: str) -> Verdict:
    scope: dict[str, Any] = {"display": lambda *_: None}
    exec(imports(path), scope)
    exec(code, scope)
    return getattr(checks(path), name).verdict(eval(argument, scope))


CASES = [pytest.param(path, name, id=f"{path.name[:2]}-{name}") for path in LESSONS for name in exercises(path)]


def test_there_are_enough_exercises():
    assert len(LESSONS) == 16
    assert len(CASES) >= 45
    for path in LESSONS:
        assert len(exercises(path)) >= 2, path.name


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.name[:2])
def test_every_check_has_its_exercise(path):
    written = {name for name, value in vars(checks(path)).items() if isinstance(value, Exercise)}
    assert written == set(exercises(path))
    assert set(attempts(path).WRONG) == written
    assert set(attempts(path).HARMLESS) == {name for name in written if asks_for_code(path, name)}


def asks_for_code(path: Path, name: str) -> bool:
    """Whether an exercise wants a function or class; others want a number or a choice."""
    return bool(re.search(r"^(def|class) ", exercises(path)[name][0], re.MULTILINE))


@pytest.mark.parametrize("path, name", CASES)
def test_the_stub_is_not_done_yet(path, name):
    stub, argument, _, _ = exercises(path)[name]
    assert verdict(path, name, stub, argument).state == "not done yet"


@pytest.mark.parametrize("path, name", CASES)
def test_the_solution_is_right(path, name):
    _, argument, text, solution = exercises(path)[name]
    assert "<summary>Hint</summary>" in text
    found = verdict(path, name, solution, argument)
    assert found.state == "right", found.sentence


@pytest.mark.parametrize("path, name", CASES)
def test_wrong_answers_are_caught(path, name):
    argument, wrong = exercises(path)[name][1], attempts(path).WRONG[name]
    assert len(wrong) >= 3
    for code, words in wrong:
        found = verdict(path, name, code, argument)
        assert found.state == "wrong", f"not caught:\n{code}"
        assert words in found.sentence


@pytest.mark.parametrize("path, name", [case for case in CASES if asks_for_code(*case.values)])
def test_the_same_in_other_words_is_right(path, name):
    argument, harmless = exercises(path)[name][1], attempts(path).HARMLESS[name]
    assert len(harmless) >= 2
    for code in harmless:
        found = verdict(path, name, code, argument)
        assert found.state == "right", f"{found.sentence}\n{code}"


def test_verdicts():
    @exercise
    def double(attempt):
        import torch

        x = torch.rand(3, 2)
        require((require_tensor(attempt(x), (3, 2)) == 2 * x).all(), "it is not twice as much")

    assert double.verdict(lambda x: 2 * x) == Verdict("right", "right.")
    assert double.verdict(lambda x: None).state == double.verdict(lambda x: ...).state == "not done yet"
    assert double.verdict(lambda x: x).sentence == "it is not twice as much"
    assert "2x3" in double.verdict(lambda x: 2 * x.T).sentence
    assert "ZeroDivisionError" in double.verdict(lambda x: 1 / 0).sentence
    assert "tensor" in double.verdict(lambda x: 3).sentence
    assert "NaN" in double.verdict(lambda x: x / 0).sentence


def test_a_check_prints_one_line(capsys):
    @exercise
    def two(attempt):
        require(answer(attempt) == 2, "it should be 2.")

    for attempt in (2, 3, ...):
        two(attempt)
    assert capsys.readouterr().out.splitlines() == [
        "✓ two: right.",
        "✗ two: it should be 2.",
        "… two: not done yet: replace the ... and run the cell again.",
    ]


def test_a_check_leaves_the_learners_random_numbers_alone():
    import torch

    @exercise
    def draws(attempt):
        require(torch.rand(()) != 2, "never")

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = torch.rand(())
    draws.verdict(None)
    assert torch.equal(torch.stack([first, torch.rand(())]), expected)
