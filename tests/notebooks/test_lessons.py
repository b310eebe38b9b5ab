"""The committed lessons: executed, small, linked rightly, without machine paths or warnings, and of a readable length."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from minidetr.course import notebooks as care

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COMPARED = "nbval-check-output"
# Each shape of the pipeline at 640x640 and the lesson that compares it.
SHAPES = {
    "02": ("256x160x160", "512x80x80", "1024x40x40", "2048x20x20", "256x20x20"),
    "03": ("400x256", "256x20x20"),
    "04": ("100x256", "100x251", "100x4"),
    "06": ("8x20x20",),
    "07": ("264x20x20", "40x40", "80x80", "160x160"),
}


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def tagged(notebook: Any, tag: str) -> list[Any]:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def texts(cell: Any) -> str:
    """All text a code cell put out."""
    found = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        found += [output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")]
    return "\n".join(found)


every_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.name[:2])


def test_the_course_is_whole():
    assert [path.name[:2] for path in LESSONS] == [f"{number:02}" for number in range(16)]


@every_lesson
def test_every_code_cell_was_run_in_order(path):
    counts = [cell.execution_count for cell in care.code_cells(read(path))]
    assert counts == list(range(1, len(counts) + 1))


@every_lesson
def test_compared_cells_have_something_to_compare(path):
    compared = tagged(read(path), COMPARED)
    assert compared
    for cell in compared:
        assert texts(cell).strip(), cell.source
        assert " at 0x" not in texts(cell)


@pytest.mark.parametrize("number", SHAPES)
def test_the_shapes_of_the_pipeline_are_compared(number):
    path = next(path for path in LESSONS if path.name.startswith(number))
    compared = "\n".join(texts(cell) for cell in tagged(read(path), COMPARED))
    for shape in SHAPES[number]:
        assert shape in compared


@every_lesson
def test_small_enough_for_a_repository(path):
    assert path.stat().st_size < 1_000_000


@every_lesson
def test_outputs_hold_no_path_no_warning_no_error(path):
    for cell in care.code_cells(read(path)):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", output.get("text")
        text = texts(cell)
        assert not re.search(r"/(home|root|tmp|work|Users|usr|mnt|content|var)/\S", text), cell.source
        assert not re.search(r"\b\w*Warning\b", text), cell.source


@every_lesson
def test_links_and_pictures_resolve(path):
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"```.*?```|`[^`]*`", "", cell.source, flags=re.DOTALL)  # code has brackets of its own
            for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
                link = (target[0] or target[1]).split("#")[0]
                if link and not link.startswith(("http://", "https://")):
                    assert (path.parent / link).exists(), link


@every_lesson
def test_badge_and_set_up_are_stamped(path, tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    notebook = read(path)
    assert len(tagged(notebook, "colab")) == 1
    assert "colab.research.google.com" in notebook.cells[0].source
    copy = tmp_path / path.name
    nbformat.write(notebook, copy)
    care.stamp(copy, project)
    assert [cell.source for cell in read(copy).cells] == [cell.source for cell in notebook.cells]
    care.stamp(copy, project | {"urls": {"Repository": "https://github.com/someone/else"}})
    stamped = read(copy)
    assert "github/someone/else/blob" in stamped.cells[0].source
    assert "github.com/someone/else@" in tagged(stamped, "colab")[0].source


@every_lesson
def test_nothing_else_is_about_colab(path):
    notebook = read(path)
    for cell in care.code_cells(notebook):
        if "colab" not in cell.metadata.get("tags", []):
            assert "google.colab" not in cell.source


EXERCISE = re.compile(r"^### Exercise (\d+) · (core|stretch|no typing) · (\d+) min: \S", re.MULTILINE)


@every_lesson
def test_exercises_come_first_and_say_their_level_and_minutes(path):
    notebook = read(path)
    found = [match for cell in notebook.cells for match in EXERCISE.finditer(cell.source)]
    assert [int(match[1]) for match in found] == list(range(1, len(found) + 1))
    assert {match[2] for match in found} == {"core", "stretch", "no typing"}
    code = list(care.code_cells(notebook))
    first = next(number for number, cell in enumerate(code) if "exercise" in cell.metadata.get("tags", []))
    listings = [number for number, cell in enumerate(code) if "course.source(" in cell.source]
    assert not listings or first < min(listings), "build before you see"


@every_lesson
def test_a_lesson_has_its_parts(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    parts = {title: body for title, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)}
    assert parts["Recall"].count("<details>") == 3
    assert len(parts["What came after"].split()) >= 40
    assert "https://arxiv.org/abs/2005.12872" in parts["References"]
    code = "\n".join(cell.source for cell in care.code_cells(read(path)))
    assert "schematic" in code
    if re.search(r"principal_colors|pictures\.beside|compared\(", code):
        assert "PCA" in text


@every_lesson
def test_listings_are_highlighted_and_no_wider_than_a_page(path):
    for cell in care.code_cells(read(path)):
        if "course.source(" in cell.source:
            (output,) = (output for output in cell.outputs if "data" in output)
            assert output.data["text/markdown"].startswith("```python")
            assert max(map(len, output.data["text/plain"].splitlines())) <= 100, cell.source


@every_lesson
def test_widgets_have_a_picture_for_a_page_that_does_not_run(path):
    for cell in care.code_cells(read(path)):
        for output in cell.outputs:
            data = output.get("data", {})
            assert "application/vnd.jupyter.widget-view+json" not in data or "image/png" in data, cell.source


@every_lesson
def test_length_of_a_lesson(path):
    assert care.outside(*care.count(path)) == ""
    for cell in care.code_cells(read(path)):
        assert care.lines_of(cell.source) <= 30, cell.source  # a screen


def test_running_a_lesson_keeps_its_outputs_and_a_failing_one_stays_as_it_was(tmp_path):
    def lesson(source: str) -> Path:
        path = tmp_path / "00_trial.ipynb"
        cell = nbformat.v4.new_code_cell(source, metadata={"tags": [COMPARED], "other": 1})
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
        return path

    path = lesson("print(1)\nprint(2)")
    care.run(path)
    cell = read(path).cells[0]
    assert cell.outputs == [{"output_type": "stream", "name": "stdout", "text": "1\n2\n"}]
    assert cell.metadata == {"tags": [COMPARED]}
    before = lesson("1 / 0").read_bytes()
    with pytest.raises(care.InputError, match="ZeroDivisionError"):
        care.run(path)
    assert path.read_bytes() == before


def test_counting(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("Three short words $x^2 + y$.\n\n```python\nnot = counted\n```"),
        nbformat.v4.new_code_cell("# a comment\nx = 1\n\ny = 2"),
        nbformat.v4.new_code_cell("import sys\nif 'google.colab' in sys.modules:\n    pass"),
    ]
    path = tmp_path / "00_trial.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert care.count(path) == (3, 2, 2)
    assert "3 words" in care.outside(3, 2, 2)
    assert "median" in care.outside(1000, 100, 7)
    assert care.outside(1000, 100, 5) == ""
    with pytest.raises(care.InputError, match="no lesson 07"):
        care.lessons(["07"], tmp_path)
