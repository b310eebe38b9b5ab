"""OpenVINO: the graphs of `minidetr.export.onnx` converted, and run in float32 or bfloat16."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minidetr.data.coco import whole_folder
from minidetr.errors import InputError
from minidetr.export import onnx
from minidetr.export.engine import ABOUT, Engine, empty
from minidetr.model import PanopticDETR
from minidetr.panoptic import read_json, write_json

NEEDS = "pip install 'minidetr[openvino]' brings it"


def export(model: PanopticDETR, folder: str | Path) -> None:
    """Write the graphs of `minidetr.export.onnx.export` as NAME.xml and NAME.bin, and model.json.

    All weights are float32. Raises InputError as that does, and without openvino.
    """
    openvino = imported()
    folder = empty(folder)
    with whole_folder(folder) as part, tempfile.TemporaryDirectory() as temporary:
        onnx.export(model, Path(temporary) / "onnx")
        about = read_json(Path(temporary) / "onnx" / ABOUT)
        for name in about["graphs"]:
            graph = openvino.convert_model(Path(temporary) / "onnx" / f"{name}.onnx")
            openvino.save_model(unmerged(graph), part / f"{name}.xml", compress_to_fp16=False)
        write_json(part / ABOUT, about | {"format": "openvino"})


class OpenvinoEngine(Engine):
    """A folder that `export` wrote, or an ONNX one, run by OpenVINO on the CPU with as many threads as torch has.

    `precision` is "float32" or "bfloat16", which is faster where the CPU computes in it. Raises InputError without openvino, and
    naming the file when it is missing or damaged.
    """

    def __init__(self, folder: str | Path, precision: str = "float32"):
        super().__init__(Path(folder))
        core = imported().Core()
        hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
        config = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
        if precision == "bfloat16":
            config["SNIPPETS_MODE"] = "DISABLE"  # with them (2026.4) attention of a size not known before comes out as NaN
        ending = "xml" if self.format == "openvino" else "onnx"
        self.compiled: dict[str, Any] = {}
        for name in self.parts:
            path = self.folder / f"{name}.{ending}"
            try:
                self.compiled[name] = core.compile_model(unmerged(core.read_model(path)), "CPU", config)
            except Exception as error:  # openvino has RuntimeErrors of many lines
                why = str(error).strip().splitlines()[-1]
                raise InputError(f"{path} is missing or damaged ({why}): export the model again") from error

    def run(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of the graph `name`, by their names."""
        found = self.compiled[name](inputs)
        return {output: np.asarray(found[output]) for output in self.graphs[name]["outputs"]}


def unmerged(graph: Any) -> Any:
    """The graph with what is computed once an image copied to each of its K objects before it is added to theirs.

    OpenVINO's CPU plugin (2026.4) merges such a sum into the convolution before it, and then takes its K for 1.
    """
    from openvino import opset8

    for node in graph.get_ordered_ops():
        if node.get_type_name() == "Add" and all(value.partial_shape.rank == 4 for value in node.input_values()):
            one, many = sorted(node.input_values(), key=lambda value: value.partial_shape[0].is_dynamic)
            if one.get_node().get_type_name() == "Add" and one.partial_shape[0] == 1 and many.partial_shape[0].is_dynamic:
                K = opset8.gather(opset8.shape_of(many), np.array([0]), np.int64(0))
                copies = opset8.gather(one, opset8.broadcast(np.int64(0), K), np.int64(0))
                place = [value.get_node() for value in node.input_values()].index(one.get_node())
                node.input(place).replace_source_output(copies.output(0))
    return graph


def imported() -> Any:
    """The package openvino. Raises InputError where it is not installed."""
    try:
        import openvino
    except ImportError:
        raise InputError(f"openvino is not installed: {NEEDS}") from None
    return openvino
