"""Which engine runs a model: PyTorch, or onnxruntime or OpenVINO on graphs exported before or now."""

from __future__ import annotations

import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree

import torch

from minidetr.errors import InputError
from minidetr.export import onnx, openvino
from minidetr.export.engine import ABOUT, Engine
from minidetr.model import PanopticDETR
from minidetr.panoptic import read_json
from minidetr.predict import load_model
from minidetr.presets import PUBLISHED, TRAINABLE

ENGINES = ("torch", "onnx", "openvino", "auto")
PHOTOS_WORTH_IT = 1000  # so many photos repay the export: half a minute, against some 0.01 s (tiny) to 0.2 s (R50) a photo


def load_engine(
    name_or_path: str,
    engine: str | None = None,
    device: str | None = None,
    preset: str | None = None,
    categories: str | None = None,
    precision: str = "float32",
    photos: int = 1,
) -> tuple[PanopticDETR | Engine, str]:
    """What segments photos by a model, and a line that says what that is ("" for PyTorch, as ever).

    `name_or_path` is a folder that `minidetr export` wrote for onnx or openvino, or what `load_model` takes, as are `device`,
    `preset` and `categories`. `engine` is one of ENGINES; None takes that of the folder, or PyTorch. "auto" is the fastest that is
    here (benchmarks/RESULTS.md, "Engines"): PyTorch on a GPU, in bfloat16, or where a model is yet to be exported and `photos` are
    fewer than PHOTOS_WORTH_IT; else onnxruntime, then OpenVINO. `precision` is "float32" or "bfloat16". Raises InputError.
    """
    folder = Path(name_or_path)
    exported = None
    if name_or_path not in (*TRAINABLE, *PUBLISHED) and (folder / ABOUT).is_file():  # a model's name wins, as in `load`
        exported = str(read_json(folder / ABOUT).get("format"))
    if engine == "auto":
        engine = fastest(device, exported, photos, precision)
    engine = engine or exported or "torch"
    if engine == "torch":
        if exported:
            raise InputError(f"{folder} is an export for {exported}: run it with --engine onnx or openvino, or give the weights")
        return load_model(name_or_path, device, preset, categories), ""
    if device not in (None, "cpu"):
        raise InputError(f"--engine {engine} computes on the CPU: leave out --device {device}, or --engine")
    if exported:
        if (preset, categories) != (None, None):
            raise InputError(f"{folder} is an export, which holds its sizes and classes: leave out --preset and --categories")
        return opened(folder, engine, precision), f"{engine}, {precision}"
    model = load_model(name_or_path, "cpu", preset, categories)
    if not model.preset.has_masks:
        raise InputError(f"{name_or_path} is a detection model without masks: give a panoptic one")
    began = time.monotonic()
    temporary = Path(tempfile.mkdtemp(prefix="minidetr-"))
    try:
        {"onnx": onnx, "openvino": openvino}[engine].export(model, temporary)
        found = opened(temporary, engine, precision)
    finally:
        rmtree(temporary, ignore_errors=True)  # it is in memory now
    seconds = time.monotonic() - began
    return (
        found,
        f"{engine}, {precision}; made ready in {seconds:.0f} s, which `minidetr export {name_or_path} --to {engine}` saves",
    )


def opened(folder: Path, engine: str, precision: str) -> Engine:
    """An exported folder in an engine. Raises InputError for a format or a precision that it does not run."""
    if engine == "openvino":
        return openvino.OpenvinoEngine(folder, precision)
    if precision != "float32":
        raise InputError("onnxruntime computes in float32 on a CPU: leave out --precision, or take --engine openvino")
    found = onnx.OnnxEngine(folder) if (folder / "encode.onnx").is_file() or not (folder / "encode.xml").is_file() else None
    if found is None:
        raise InputError(f"{folder} is an export for OpenVINO: leave out --engine onnx")
    return found


def fastest(device: str | None, exported: str | None, photos: int, precision: str = "float32") -> str:
    """The engine that segments `photos` soonest."""
    if exported:
        return "openvino" if exported == "openvino" or precision != "float32" or find_spec("onnxruntime") is None else "onnx"
    on_gpu = torch.cuda.is_available() if device is None else device != "cpu"
    if on_gpu or precision != "float32" or photos < PHOTOS_WORTH_IT:
        return "torch"
    here = (engine for engine, package in (("onnx", "onnxruntime"), ("openvino", "openvino")) if find_spec(package) is not None)
    return next(here, "torch")
