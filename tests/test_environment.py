"""What is declared (dependencies, package data, commands) is what the code needs, in every file that declares it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it along there
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
# where the imported name is not the package's
DISTRIBUTION = {"PIL": "pillow", "yaml": "pyyaml", "pillow_heif": "pillow-heif", "kornia_rs": "kornia-rs"}


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def environment() -> list:
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]


def test_environment_lists_what_pyproject_lists(pyproject: dict, environment: list) -> None:
    project = pyproject["project"]
    declared = set(project["dependencies"]).union(*project["optional-dependencies"].values())
    (by_pip,) = (entry["pip"] for entry in environment if isinstance(entry, dict))
    assert len(by_pip) == len(set(by_pip))
    assert set(by_pip) == declared | {"-e ."}


def test_one_python_version_everywhere(pyproject: dict, environment: list) -> None:
    lowest = pyproject["project"]["requires-python"].removeprefix(">=")
    assert f"python>={lowest}" in environment
    assert pyproject["tool"]["mypy"]["python_version"] == lowest
    assert pyproject["tool"]["ruff"]["target-version"] == "py" + lowest.replace(".", "")


def test_torch_and_torchvision_have_no_upper_bound(pyproject: dict) -> None:
    for requirement in pyproject["project"]["dependencies"]:
        if requirement.startswith("torch"):
            assert not re.search(r"<|==|~=", requirement)


def test_every_package_imported_is_declared(pyproject: dict) -> None:
    def declared(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=!~\[; ]", requirement)[0] for requirement in requirements}

    def third_party(paths: set[Path]) -> set[str]:
        imported = {name for path in paths for name in imports_of(path)}
        standard = {*sys.stdlib_module_names, "tomllib"}  # the latter from Python 3.11 on, and imported only there
        return {DISTRIBUTION.get(name, name) for name in imported - standard - {"minidetr"}}

    everywhere, course = set((ROOT / "minidetr").rglob("*.py")), set((ROOT / "minidetr" / "course").rglob("*.py"))
    allowed = declared(pyproject["project"]["dependencies"]) | {"cycler", "contourpy"}  # these two always come with matplotlib
    assert third_party(everywhere - course) >= {"torch", "numpy", "pillow"}  # the search finds something
    extras = {name: declared(listed) for name, listed in pyproject["project"]["optional-dependencies"].items()}
    package = ROOT / "minidetr"
    places = {  # the one place of each extra, and what it brings
        "heic": {package / "data" / "images.py"},
        "app": {package / "app.py"},
        "fast": {package / "data" / "pngs.py"},
        "transformers": {package / "curate" / "foreign.py"},
        "openvino": {package / "export" / "openvino.py"},
        "onnx": {package / "export" / name for name in ("onnx.py", "int8.py", "page.py")},
    }
    for name, paths in places.items():
        assert third_party(paths) - allowed <= extras[name] and third_party(paths) - allowed, name
    assert third_party(everywhere - course - set().union(*places.values())) <= allowed
    assert third_party(course) <= allowed | extras["notebooks"]


def test_extras_are_imported_by_nobody_who_does_not_ask() -> None:
    code = """
import sys
for name in ("onnx", "onnxscript", "onnxruntime", "openvino", "gradio", "transformers", "timm", "kornia_rs"):
    sys.modules[name] = None  # as if it were not installed
import minidetr, minidetr.app, minidetr.commands.main, minidetr.curate.foreign
import minidetr.export.engines, minidetr.export.hub, minidetr.export.transformers
print(type(minidetr.PanopticDETR.from_pretrained("tiny")).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "PanopticDETR\n", done.stderr


def test_heic_photos_are_an_extra_that_nothing_needs() -> None:
    code = """
import sys
sys.modules["pillow_heif"] = None  # as if it were not installed
import minidetr.predict
from minidetr.data.images import not_read_here, reads_heic
print(reads_heic(), not_read_here("a.HEIC"), not_read_here("a.jpg"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False pip install 'minidetr[heic]' reads them None\n"


def imports_of(path: Path) -> set[str]:
    """The first part of every absolute import in a file, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names


def test_data_files_travel_with_the_package(pyproject: dict) -> None:
    patterns = [
        f"{package.replace('.', '/')}/{pattern}"
        for package, listed in pyproject["tool"]["setuptools"]["package-data"].items()
        for pattern in listed
    ]
    found = (ROOT / "minidetr").rglob("*")
    files = [path.relative_to(ROOT).as_posix() for path in found if path.suffix in {".json", ".toml", ".safetensors"}]
    assert "minidetr/weights/coco_categories.json" in files
    assert [name for name in files if not any(fnmatch(name, pattern) for pattern in patterns)] == []


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "minidetr").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text(encoding="utf-8").splitlines()
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {"install", "demo", "test"} <= set(targets)


def test_public_names_are_importable() -> None:
    import minidetr

    for name in minidetr.__all__:
        assert getattr(minidetr, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = minidetr.no_such_name
