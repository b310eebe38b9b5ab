"""Nothing gets in: the package runs no text, opens no shell, unpickles nothing, and downloads over https with a hash."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import minidetr
from minidetr.errors import InputError
from minidetr.panoptic import leads_out, path_inside
from minidetr.presets import PUBLISHED, PUBLISHED_ADDRESS
from minidetr.training import devices
from minidetr.training.options import TrainOptions
from minidetr.weights import load as weights

PACKAGE = Path(minidetr.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "subprocess.run",
    "subprocess.Popen", "subprocess.call", "subprocess.check_output", "marshal.loads", "shutil.unpack_archive", "yaml.load",
    "tarfile.open", "torch.hub.load", "ssl._create_unverified_context",
}  # fmt: skip


def calls(source: str) -> list[tuple[str, set[str], ast.Call]]:
    """Every call in a source: the function's name as written, the names of its keywords, the call."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            found.append((ast.unparse(node.func), {keyword.arg for keyword in node.keywords if keyword.arg}, node))
    return found


def problems(source: str) -> list[str]:
    """The calls of a source that could run what a stranger wrote."""
    wrong = []
    for name, keywords, call in calls(source):
        short = name.split(".")[-1]
        if name in FORBIDDEN or "shell" in keywords or "allow_pickle" in keywords or short in ("extractall", "unpack_archive"):
            wrong.append(ast.unparse(call))
        if name == "torch.load" and not any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in call.keywords):
            wrong.append(ast.unparse(call))
        if name == "Image.open" and "formats" not in keywords and ast.unparse(call.args[0]) != "buffer":
            wrong.append(ast.unparse(call))  # else Pillow would run a program for an EPS file
    return wrong


def test_the_scan_finds_what_it_looks_for():
    bad = ["eval('1')", "os.system('x')", "run(x, shell=True)", "torch.load(f)", "torch.load(f, weights_only=False)"]
    bad += ["pickle.load(f)", "Image.open(p)", "np.load(f, allow_pickle=True)", "file.extractall(d)"]
    assert all(len(problems(source)) == 1 for source in bad)
    assert problems("model.eval()\ntorch.load(f, weights_only=True)\nImage.open(p, formats=('PNG',))\nre.compile('a')") == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_package_runs_nothing_that_it_reads(path):
    found = problems(path.read_text(encoding="utf-8"))
    if path == PACKAGE / "course" / "listing.py":  # has ruff set the package's own source
        assert len(found) == 1 and "command, input=code" in found.pop()
    assert found == []


def test_every_address_is_https():
    assert PUBLISHED_ADDRESS.startswith("https://")
    for path in SOURCES:
        assert not re.search(r"[\"']http://", path.read_text(encoding="utf-8")), path
    assert all(re.fullmatch(r".*-[0-9a-f]{8}\.pth", file_name) for _, file_name in PUBLISHED.values())


def test_a_download_has_a_hash_and_nothing_is_left_of_one_cut_off(tmp_path, monkeypatch):
    asked = []

    def cut_off(url: str, target: str, hash_prefix: str | None = None, progress: bool = True) -> None:
        asked.append((url, hash_prefix))
        raise OSError("connection reset")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", cut_off)
    for name, (_, file_name) in PUBLISHED.items():
        with pytest.raises(InputError, match="could not be downloaded .*connection reset.*fetch it by hand"):
            weights.load(name)
        assert asked[-1] == (PUBLISHED_ADDRESS + file_name, file_name[-12:-4])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "..\\a", "", ".", "./", "a\0b", ".."])
def test_names_that_lead_out(name, tmp_path):
    assert leads_out(name)
    with pytest.raises(InputError, match="must lie inside its folder"):
        path_inside(tmp_path, name, "x.json")


def test_links_that_lead_out_and_names_that_do_not(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    (inside / "own").symlink_to(inside)
    for name in ("link", "link/a.png"):
        assert not leads_out(name) and leads_out(name, inside)
        with pytest.raises(InputError, match="leads out of .*put the file itself there"):
            path_inside(inside, name, "x.json")
    for name in ("a.png", "b/a.png", "..a.png", "a..b", "own/a.png", ".hidden"):
        assert path_inside(inside, name, "x.json") == inside / name


def test_half_precision_on_a_gpu_scales_gradients(monkeypatch):
    """What accelerate is asked for, without a GPU here: its "fp16" comes with a gradient scaler."""
    made = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)  # a GPU of before 2020
    monkeypatch.setattr(devices, "Accelerator", lambda **given: made.append(given) or SimpleNamespace(**given))
    for precision, expected in (("float16", "fp16"), ("auto", "fp16"), ("bfloat16", "bf16"), ("float32", "no")):
        devices.start_devices(TrainOptions(preset="tiny", precision=precision, device="cuda").filled())
        assert made[-1]["mixed_precision"] == expected and not made[-1]["cpu"]
