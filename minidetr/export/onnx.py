"""ONNX: a folder of graphs, of any image size and number of objects, and their reference inference with onnxruntime."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from minidetr.data.batch import same_size
from minidetr.data.coco import whole_folder
from minidetr.data.images import ImageSource
from minidetr.errors import InputError
from minidetr.export.engine import ABOUT, Engine, about_model, empty
from minidetr.export.graphs import Graph, graphs_of
from minidetr.export.int8 import quantised
from minidetr.model import PanopticDETR
from minidetr.panoptic import Panoptic, write_json

OPSET = 20
NEEDS = "pip install 'minidetr[onnx]' brings what exports to ONNX and runs it"


def export(model: PanopticDETR, folder: str | Path, int8: Sequence[ImageSource] | None = None) -> float | None:
    """Write encode.onnx, decode.onnx, heatmaps.onnx and mask_head.onnx (or dot_products.onnx), whole.onnx and model.json.

    What goes in and out of each is said in `minidetr.export.graphs`, and in model.json with the model's sizes, threshold and
    categories. Heights, widths and K have any length but K = 0. Weights that are float16 without loss are stored so: every graph
    computes in float32. With photos `int8` the convolutions are in int8 with ranges as on those; returned is then the share of
    their pixels that get the same class as in float32. Raises InputError without the packages, and for a folder that is not empty.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # what torch's exporter needs
    except ImportError:
        raise InputError(f"onnx and onnxscript are not installed: {NEEDS}") from None
    graphs = graphs_of(model)
    with whole_folder(empty(folder)) as part:
        about = about_model(model, graphs, format="onnx", opset=OPSET, convolutions="float32" if int8 is None else "int8")
        seen = samples(model, graphs, int8 or ())
        for name, graph in graphs.items():
            proto = proto_of(graph)
            if seen[name]:
                proto = quantised(proto, seen[name])
            lighten(proto)
            onnx.helper.set_model_props(proto, {"minidetr": json.dumps(about)})
            onnx.checker.check_model(proto)
            onnx.save_model(proto, part / f"{name}.onnx")
        write_json(part / ABOUT, about)
        return None if int8 is None else mean(agreements(model, OnnxEngine(part), int8))


def samples(model: PanopticDETR, graphs: dict[str, Graph], images: Sequence[ImageSource]) -> dict[str, list]:
    """What goes into each graph with convolutions when `images` are segmented; K are the queries of the highest scores."""
    found: dict[str, list] = {name: [] for name in graphs}
    with torch.inference_mode():
        for group, _ in same_size(images, model.preset.short_side, model.preset.long_side, 1):
            given = {"pixels": group[0][None].float(), "ranks": torch.arange(min(8, model.preset.queries))}
            for name in ("encode", "decode", "heatmaps", "mask_head", "whole"):
                if name in graphs:
                    inputs = {key: given[key] for key in graphs[name].inputs}
                    outputs = graphs[name].module(*inputs.values())
                    given |= dict(zip(graphs[name].outputs, outputs if isinstance(outputs, tuple) else (outputs,), strict=True))
                    if name == "decode":
                        best = given["logits"].softmax(-1)[:, :-1].amax(-1).argsort(descending=True)
                        given["queries"] = given["queries"][best[: len(given["ranks"])]]
                    if name in ("encode", "mask_head", "whole"):
                        found[name].append({key: value.numpy() for key, value in inputs.items()})
    return found


def agreements(model: PanopticDETR, engine: Engine, images: Sequence[ImageSource]) -> Iterator[float]:
    """The share of each image's pixels to which the model and an engine give the same class."""
    for image in images:
        ours, theirs = (classes_of(segmenter.segment([image])[0]) for segmenter in (model, engine))
        yield float(np.mean(ours == theirs))


def classes_of(panoptic: Panoptic) -> np.ndarray:
    """The category id of each pixel H W, -1 where there is no segment."""
    of_segment = np.full(len(panoptic.segments) + 1, -1)
    of_segment[[segment.id for segment in panoptic.segments]] = [segment.category_id for segment in panoptic.segments]
    return of_segment[panoptic.segment_ids]


def proto_of(graph: Graph) -> Any:
    """A graph in ONNX, computed as the module does: no norm is folded into a convolution, which would lose a little."""
    from onnxscript import optimizer

    axes = {name: dict.fromkeys(graph.changing.get(name, ()), torch.export.Dim.AUTO) for name in graph.inputs}
    with torch.no_grad(), silence():
        program: Any = torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            optimize=False,
            verbose=False,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=tuple(axes.values()),
        )
    optimizer.fold_constants(program.model, input_size_limit=64)  # sizes, types: nothing of the weights
    optimizer.remove_unused_nodes(program.model)
    return program.model_proto


@contextmanager
def silence():
    """torch's exporter reports to the terminal what is of no use to anyone."""
    with open(os.devnull, "w") as nowhere, warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield


def lighten(proto: Any) -> None:
    """Leave out what no engine needs (where in whose Python each node was born), and store every weight that float16 holds without
    loss in float16, with a Cast to float32 at the start of the graph."""
    from onnx import TensorProto, helper, numpy_helper, shape_inference

    for part in (proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    inferred = shape_inference.infer_shapes(proto).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    kinds |= {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    casts = []
    for tensor in proto.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size > 16 and np.array_equal(half.astype(np.float32), values):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = list(proto.graph.node)
    for node in nodes:
        if node.op_type == "CastLike" and kinds.get(node.input[1]):  # engines fold a Cast of a constant, but not this
            node.CopyFrom(helper.make_node("Cast", node.input[:1], node.output, to=kinds[node.input[1]]))
    del proto.graph.node[:]
    proto.graph.node.extend([*casts, *nodes])


class OnnxEngine(Engine):
    """A folder that `export` wrote, run by onnxruntime on the CPU with as many threads as torch has.

    `whole` is left alone. Raises InputError without onnxruntime, and naming the file when it is missing or damaged.
    """

    def __init__(self, folder: str | Path):
        super().__init__(Path(folder))
        try:
            import onnxruntime
        except ImportError:
            raise InputError(f"onnxruntime is not installed: {NEEDS}") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.sessions = {}
        for name in self.parts:
            path = self.folder / f"{name}.onnx"
            try:
                self.sessions[name] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime has its own kinds of them
                why = str(error).splitlines()[0]
                raise InputError(f"{path} is missing or damaged ({why}): export the model again") from error

    def run(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of the graph `name`, by their names."""
        outputs = self.graphs[name]["outputs"]
        return dict(zip(outputs, self.sessions[name].run(outputs, inputs), strict=True))


def run(folder: str | Path, images: Sequence[ImageSource], threshold: float | None = None) -> list[Panoptic]:
    """A panoptic segmentation of each image by an exported model: reference inference, to compare other programs with."""
    return OnnxEngine(folder).segment(images, threshold)
