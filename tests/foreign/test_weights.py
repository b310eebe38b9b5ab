"""Weights as other people have them: a table of files and folders with what comes of each, the right values or a true sentence.

Every row names where its kind of file comes from: `repository#issue`, or what it is made up like. Models are small, but whole: the
numbers of each loaded model are compared with those of the model that was saved.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import shutil
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from minidetr.commands.main import main
from minidetr.data.batch import Batch
from minidetr.errors import InputError, InputWarning
from minidetr.model import PanopticDETR
from minidetr.panoptic import Category
from minidetr.presets import PUBLISHED, TRAINABLE, Preset
from minidetr.training.options import TrainOptions
from minidetr.training.start import starting_model
from minidetr.weights.files import PATHS
from minidetr.weights.load import save
from minidetr.weights.published import coco_categories, own_to_official
from tests.model.spread import spread
from tests.model.test_transformers import all_masks, assert_equal, oracle, picture

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is downloaded

NAME = "detr-r50-panoptic"
SMALL = Preset(
    backbone="narrow10",
    width=128,
    feedforward=64,
    encoder_layers=1,
    decoder_layers=1,
    queries=5,
    mask_widths=(136, 64, 32, 16, 8),  # as the published code derives them from 128 and 8 heads
)
ARGUMENTS = {  # of the published training code, for SMALL; the others it has do not matter here
    "lr": 1e-4,
    "backbone": "narrow10",
    "dilation": False,
    "hidden_dim": 128,
    "nheads": 8,
    "enc_layers": 1,
    "dec_layers": 1,
    "dim_feedforward": 64,
    "num_queries": 5,
    "masks": True,
    "dataset_file": "coco_panoptic",
    "device": "cuda",
}
FOUR, COCO = [f"class {i}" for i in range(4)], [c.name for c in coco_categories(250)]
KINDS = [f"kind {i}" for i in range(5)]  # of the model of transformers

State = dict[str, Tensor]


def small(classes: int = 4, preset: Preset = SMALL) -> PanopticDETR:
    """A model with weights that tell its parts apart; always the same one."""
    model = PanopticDETR(preset, [], classes)
    spread(model, preset.width)
    return model


def official(classes: int = 4) -> State:
    return own_to_official(small(classes).state_dict())


@dataclass
class Loads:
    """What comes of a row: the numbers of `model` (None: of the model of transformers), these names, and a warning or none."""

    names: list[str]
    model: Callable[[], PanopticDETR] | None = small
    note: str | None = None


Make = Callable[[Path], "Path | str"]


@dataclass
class Row:
    """An input: `make` puts it into a folder and returns what to load."""

    id: str
    source: str
    make: Make
    outcome: Loads | str  # or a pattern of the sentence
    given: dict[str, Any] = field(default_factory=dict)


# --- what the rows are made of


def pth(content: Callable[[], object], name: str = f"{NAME}-mine.pth") -> Make:
    def make(folder: Path) -> Path:
        torch.save(content(), folder / name)
        return folder / name

    return make


def under(key: str, prefix: str = "", **more: Any) -> Callable[[], object]:
    """A state dict in published names with `prefix` before each, in a dictionary under `key`."""
    return lambda: {key: {prefix + k: v for k, v in official().items()}, **more}


def without(*parts: str) -> State:
    return {k: v for k, v in official().items() if not any(part in k for part in parts)}


def checkpoint(module: str, kind: str) -> Make:
    """A checkpoint of the training code whose Namespace holds a path of another system; its class's name is put in by hand."""

    def make(folder: Path) -> Path:
        path, plain = folder / "checkpoint.pth", folder / "plain.pth"
        arguments = argparse.Namespace(**ARGUMENTS, output_dir=pathlib.PurePosixPath("runs/one"))
        torch.save({"model": official(), "epoch": 4, "args": arguments}, plain, _use_new_zipfile_serialization=False)
        content = plain.read_bytes()
        name = f"c{pathlib.PurePosixPath.__module__}\nPurePosixPath\n".encode()
        assert content.count(name) == 1  # the GLOBAL opcode
        path.write_bytes(content.replace(name, f"c{module}\n{kind}\n".encode()))
        return path

    return make


class Hostile:
    """Unpickled the ordinary way, it makes a folder where the tests run."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("was run",)


class Smuggled(argparse.Namespace):
    """A class of somebody's own, which only looks like a Namespace."""


def smuggled(content: Callable[[], object]) -> Make:
    return pth(lambda: {"model": official(), "args": content()}, "checkpoint.pth")


THEIRS: dict[str, Any] = {}  # the model of transformers and its folder, made once


def theirs(file: str | None = "model.safetensors", prefix: str = "", **changes: Any) -> Make:
    """The folder that transformers saved, its weights in `file` under other names, its config with other entries."""

    def make(folder: Path) -> Path:
        saved: Path = THEIRS["folder"]
        config = json.loads((saved / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
        if file == "model.safetensors" and not prefix:
            os.link(saved / file, folder / file)
        elif file is not None:
            state = {prefix + k: v for k, v in load_file(saved / "model.safetensors").items()}
            save_file(state, folder / file) if file.endswith("safetensors") else torch.save(state, folder / file)
        return folder

    return make


def sharded(suffix: str, change: Callable[[dict], None] = lambda index: None) -> Make:
    """The same in two files and an index of them."""

    def make(folder: Path) -> Path:
        theirs(None)(folder)
        state = load_file(THEIRS["folder"] / "model.safetensors")
        stem, write = ("model", save_file) if suffix == "safetensors" else ("pytorch_model", torch.save)
        names = [f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
        keys = list(state)
        places = {key: names[i % 2] for i, key in enumerate(keys)}
        for name in names:
            write({k: state[k] for k in keys if places[k] == name}, folder / name)
        index = {"metadata": {"total_size": 1}, "weight_map": places}
        change(index)
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
        return folder

    return make


def trainer(folder: Path) -> Path:
    """The output of a Trainer: a folder for each checkpoint; as a text, checkpoint-500 comes after checkpoint-1500."""
    for step in (500, 1500):
        (folder / f"checkpoint-{step}").mkdir()
    theirs()(folder / "checkpoint-1500")
    (folder / "checkpoint-500" / "model.safetensors").write_bytes(b"an older one")
    (folder / "checkpoint-2000").mkdir()  # begun, nothing in it
    return folder


def labelled(labels: dict[int, str], name: str = "in") -> Make:
    """91 outputs in a folder of that name, beside a config.json with these labels."""

    def make(folder: Path) -> Path:
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"id2label": labels}))
        torch.save(official(91), folder / name / "pytorch_model.bin")
        return folder / name

    return make


def own(classes: int, dtype: torch.dtype = torch.float32) -> Make:
    """minidetr's own file, its floating-point tensors in `dtype`."""

    def make(folder: Path) -> Path:
        model = small(classes)
        model.categories = [Category(1, "crane", True), Category(3, "sky", False)]
        save(model, folder / "own.safetensors")
        about = {"minidetr": metadata(folder / "own.safetensors")}
        state = {k: v.to(dtype) for k, v in load_file(folder / "own.safetensors").items()}
        save_file(state, folder / "own.safetensors", metadata=about)
        return folder

    return make


def metadata(path: Path) -> str:
    with safe_open(path, framework="pt") as file:
        return file.metadata()["minidetr"]


def json_of(*entries: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "names.json").write_text(json.dumps({"images": [], "categories": entries}))
        return folder / "names.json"

    return write


def twice(folder: Path) -> Path:
    """A Lightning module that holds the model and its average."""
    state = official()
    both = {f"model.{k}": v for k, v in state.items()} | {f"ema_model.module.{k}": v for k, v in state.items()}
    return pth(lambda: {"state_dict": both})(folder)  # type: ignore[return-value]


UNNAMED = [f"class {i}" for i in range(91)]
PARTS = {i: f"part {i}" for i in range(91)}
COCO_LABELS = {i: next((c.name for c in coco_categories(91) if c.id == i), "N/A") for i in range(91)}
PLACEHOLDERS = {i: f"LABEL_{i}" for i in range(91)}
COCO_91 = Loads([c.name for c in coco_categories(91)], lambda: small(91))
NAMELESS = r"has 91 classes, as COCO's models have, but does not say which.*nameless.*categories="
CRANE, SKY = {"id": 1, "name": "crane", "isthing": 1}, {"id": 3, "name": "sky", "isthing": 0}
NAMED = ["class 0", "crane", "class 2", "sky"]
REFUSED = r"is refused: it holds {} beside its weights, and loading it could run code"
HEADLESS = r"the class head is missing .*can only be trained from: minidetr train --from"

ROWS = [
    # The published training code, and what people do with its files
    Row("bare state dict", "facebookresearch/detr#9", pth(official), Loads(FOUR)),
    Row(
        "args are a Namespace",
        "mlcommons/mlperf-automations#465",
        pth(under("model", epoch=4, args=argparse.Namespace(lr=0.1))),
        Loads(FOUR),
    ),
    Row(
        "args say the model",
        "made up like chemprop/chemprop#1227",
        pth(under("model", args=argparse.Namespace(**ARGUMENTS)), "c.pth"),
        Loads(FOUR),
    ),
    Row("args are a dictionary", "made up like roboflow/rf-detr#417", pth(under("model", args=ARGUMENTS), "c.pth"), Loads(FOUR)),
    Row(
        "folder of checkpoint.pth",
        "made up like facebookresearch/detr#552",
        pth(under("model", args=ARGUMENTS), "checkpoint.pth"),
        Loads(FOUR),
    ),
    Row(
        "args of another model",
        "made up like fundamentalvision/Deformable-DETR#126",
        pth(under("model", args={**ARGUMENTS, "dec_layers": 3}), "c.pth"),
        r"c\.pth: the weights lack decoder\.layers\.1\..*another model",
    ),
    Row(
        "args with nonsense",
        "made up",
        pth(under("model", args={**ARGUMENTS, "nheads": "8"}), "c.pth"),
        r"c\.pth: its 'args'.*heads = '8'",
    ),
    Row(
        "args with an endless model",
        "made up",
        pth(under("model", args={**ARGUMENTS, "enc_layers": 10**9}), "c.pth"),
        r"c\.pth: no model has",
    ),
    Row(
        "args without a size",
        "made up",
        pth(under("model", args={"hidden_dim": 128}), "c.pth"),
        r"c\.pth: its 'args'.*'nheads' is missing",
    ),
    Row(
        "args with heads that divide nothing",
        "made up",
        pth(under("model", args={**ARGUMENTS, "nheads": 7}), "c.pth"),
        r"no model has.*divisible",
    ),
    Row(
        "nothing says the model",
        "made up like woctezuma/finetune-detr#9",
        pth(under("model"), "c.pth"),
        r"c\.pth does not say which model.*preset=",
    ),
    Row("preset says it", "made up like woctezuma/finetune-detr#9", pth(under("model"), "c.pth"), Loads(FOUR), {"preset": NAME}),
    Row("path of Windows", "microsoft/ai4g-flood#15, the other way round", checkpoint("pathlib", "WindowsPath"), Loads(FOUR)),
    Row("path of Linux", "microsoft/ai4g-flood#15", checkpoint("pathlib", "PosixPath"), Loads(FOUR)),
    Row("path of Python 3.13", "made up like microsoft/ai4g-flood#15", checkpoint("pathlib._local", "WindowsPath"), Loads(FOUR)),
    Row("path without a system", "made up like microsoft/ai4g-flood#15", checkpoint("pathlib", "PureWindowsPath"), Loads(FOUR)),
    Row("path that is a program", "made up", checkpoint("subprocess", "Popen"), REFUSED.format("subprocess.Popen")),
    Row("batch norm that was trained", "made up like facebookresearch/detr#419", pth(lambda: official() | counters()), Loads(FOUR)),
    Row("class head cut off", "facebookresearch/detr#552", pth(lambda: {"model": without("class_embed")}), HEADLESS),
    Row(
        "queries cut off",
        "facebookresearch/detr#419",
        pth(lambda: {"model": without("query_embed")}),
        "lack 'decoder.query_embedding.weight'",
    ),
    Row(
        "half precision",
        "made up",
        pth(lambda: {k: v.half() for k, v in official().items()}),
        Loads(FOUR, lambda: rounded(torch.float16)),
    ),
    # Words that frameworks put before the names
    Row("DataParallel", "nayeemrizve/OpenLDN#5", pth(under("model", "module.")), Loads(FOUR)),
    Row("torch.compile", "huggingface/pytorch-image-models#2003", pth(under("model", "_orig_mod.")), Loads(FOUR)),
    Row(
        "compiled, then distributed", "huggingface/pytorch-image-models#2003", pth(under("model", "module._orig_mod.")), Loads(FOUR)
    ),
    Row("Lightning", "Lightning-AI/pytorch-lightning#3629", pth(under("state_dict", "model."), f"{NAME}.ckpt"), Loads(FOUR)),
    Row("Lightning, model in a model", "airctic/icevision#1017", pth(under("state_dict", "model.model.")), Loads(FOUR)),
    Row("Lightning, distributed, compiled", "made up", pth(under("state_dict", "model._orig_mod.module.")), Loads(FOUR)),
    Row("Lightning, another attribute", "ashleve/lightning-hydra-template#447", pth(under("state_dict", "net.")), Loads(FOUR)),
    Row("Lightning's strategy", "ray-project/ray#43594", pth(under("state_dict", "_forward_module.model.")), Loads(FOUR)),
    Row("Lightning with its loss", "made up like facebookresearch/detr#9", pth(lambda: {"state_dict": with_loss()}), Loads(FOUR)),
    Row("tutorials' dictionary", "made up like PyTorch's tutorials", pth(under("model_state_dict", "module.")), Loads(FOUR)),
    Row("average alone", "made up like nayeemrizve/OpenLDN#5", pth(under("model_ema")), Loads(FOUR)),
    Row("average in a module", "made up like RT-DETR's", pth(lambda: {"ema": {"module": official(), "updates": 3}}), Loads(FOUR)),
    Row("average of torch.optim.swa_utils", "made up like AveragedModel", pth(lambda: averaged("")), Loads(FOUR)),
    Row("the same in Lightning", "made up like AveragedModel", pth(lambda: {"state_dict": averaged("model.")}), Loads(FOUR)),
    Row("model beside its average", "made up", pth(lambda: {"model": official(), "model_ema": zeros()}), Loads(FOUR)),
    Row("two averages", "made up", pth(lambda: {"ema": official(), "model_ema": zeros()}), "holds no state dict.*alone"),
    Row("two models in one", "made up", twice, r"holds .* twice, as model\..* and ema_model\.module\..*keep one"),
    Row(
        "prefix with safetensors", "made up like Lightning-AI/pytorch-lightning#3629", lambda f: renamed_safetensors(f), Loads(FOUR)
    ),
    # Pickles that want to run something
    Row(
        "hostile beside a Namespace",
        "made up",
        smuggled(lambda: [argparse.Namespace(lr=1), Hostile()]),
        REFUSED.format(r"\w+\.mkdir"),
    ),
    Row("hostile in a Namespace", "made up", smuggled(lambda: argparse.Namespace(lr=Hostile())), REFUSED.format(r"\w+\.mkdir")),
    Row("own class like a Namespace", "made up", smuggled(lambda: Smuggled(lr=1)), REFUSED.format(r"\S*Smuggled")),
    Row("hostile as setstate", "made up", lambda f: setstate(f), REFUSED.format(r"\w+\.mkdir")),
    Row(
        "settings of OmegaConf",
        "open-retina/open-retina#186",
        checkpoint("omegaconf.listconfig", "ListConfig"),
        REFUSED.format("omegaconf.listconfig.ListConfig"),
    ),
    # transformers
    Row("transformers' folder", "huggingface/transformers#20925", theirs(), Loads(KINDS, None)),
    Row("pytorch_model.bin", "made up like huggingface/transformers#20925", theirs("pytorch_model.bin"), Loads(KINDS, None)),
    Row("shards", "made up like save_pretrained(max_shard_size=)", sharded("safetensors"), Loads(KINDS, None)),
    Row("shards of pickles", "made up like save_pretrained(safe_serialization=False)", sharded("bin"), Loads(KINDS, None)),
    Row("index of shards itself", "made up", lambda f: next(sharded("bin")(f).glob("*.index.json")), Loads(KINDS, None)),
    Row(
        "Trainer's output",
        "made up like huggingface/transformers#20925",
        trainer,
        Loads(KINDS, None, "taken is checkpoint-1500, the newest"),
    ),
    Row("compiled transformers", "huggingface/pytorch-image-models#2003", theirs(prefix="_orig_mod."), Loads(KINDS, None)),
    Row("distributed transformers", "made up", theirs(prefix="module._orig_mod.model."), Loads(KINDS, None)),
    Row("Lightning around transformers", "made up like airctic/icevision#1017", lambda f: lightning(f), Loads(KINDS, None)),
    Row(
        "more labels than outputs",
        "roboflow/rf-detr#509",
        theirs(id2label={i: f"kind {i}" for i in range(250)}),
        Loads(KINDS, None),
    ),
    Row(
        "fewer labels than outputs",
        "made up",
        theirs(id2label={"3": "kind 3"}),
        Loads(["class 0", "class 1", "class 2", "kind 3", "class 4"], None),
    ),
    Row(
        "labels counted from 1",
        "made up like a COCO file's category ids",
        theirs(id2label={i + 1: f"kind {i}" for i in range(5)}),
        r"config\.json: the field 'id2label' names 5 but not 0, and the model's classes are 0\.\.4",
    ),
    Row(
        "labels counted from 1, and what they mean",
        "made up like a COCO file's category ids",
        theirs(id2label={i + 1: f"kind {i}" for i in range(5)}),
        Loads(["class 0", "crane", "class 2", "sky", "class 4"], None),
        {"categories": json_of(CRANE, SKY)},
    ),
    Row(
        "a label twice",
        "made up",
        theirs(id2label={i: f"kind {min(i, 3)}" for i in range(5)}),
        Loads([*KINDS[:4], "kind 3"], None, "'id2label' names 2 classes 'kind 3'"),
    ),
    Row("labels that are none", "made up", theirs(id2label={"0": ["a"]}), r"config\.json: the field 'id2label'.*no text"),
    Row("labels by name", "made up", theirs(id2label={"crane": "0"}), r"config\.json: the field 'id2label'.*'crane'"),
    Row(
        "shard missing", "made up", lambda f: lost(sharded("bin")(f)), r"-00002-of-00002\.bin is missing, which .*index\.json lists"
    ),
    Row(
        "shards elsewhere",
        "made up",
        sharded("bin", lambda i: i["weight_map"].update(x="../a.bin")),
        r"'\.\./a\.bin' in 'weight_map' must lie beside",
    ),
    Row("shards by a link", "made up", lambda f: linked(sharded("bin")(f)), r"'x\.bin' in 'weight_map' must lie beside"),
    Row("index of nothing", "made up", sharded("bin", lambda i: i.clear()), r"index\.json: the field 'weight_map'"),
    Row("mask head of 96", "case 10, d_model", theirs(d_model=96), "no model has the sizes.*divisible"),
    Row("empty folder", "made up", lambda f: f, "holds no best.safetensors.*checkpoint.pth"),
    # Whose classes are they?
    Row(
        "own 91 classes, renamed",
        "roboflow/rf-detr#693",
        pth(lambda: official(91), "c.pth"),
        Loads(UNNAMED, lambda: small(91), NAMELESS),
        {"preset": NAME},
    ),
    Row("own 91 labels", "case 02", labelled(PARTS), Loads(list(PARTS.values()), lambda: small(91)), {"preset": NAME}),
    Row("COCO's labels", "made up like facebook/detr-resnet-50", labelled(COCO_LABELS), COCO_91, {"preset": NAME}),
    Row(
        "COCO's labels but one",
        "made up",
        labelled(COCO_LABELS | {1: "worker"}),
        Loads(list((COCO_LABELS | {1: "worker"}).values()), lambda: small(91)),
        {"preset": NAME},
    ),
    Row(
        "one of COCO's labels",
        "made up",
        labelled(PLACEHOLDERS | {1: "person"}),
        Loads([*UNNAMED[:1], "person", *UNNAMED[2:]], lambda: small(91)),
        {"preset": NAME},
    ),
    Row("placeholders", "case 02", labelled(PLACEHOLDERS), Loads(UNNAMED, lambda: small(91), NAMELESS), {"preset": NAME}),
    Row(
        "placeholders, published name",
        "made up like facebook/detr-resnet-50-panoptic",
        labelled(PLACEHOLDERS, "detr-resnet-50"),
        COCO_91,
        {"preset": NAME},
    ),
    Row(
        "own name like a published one",
        "made up",
        pth(lambda: official(91), "detr-r50-panoptic-mine.pth"),
        Loads(UNNAMED, lambda: small(91), NAMELESS),
    ),
    Row(
        "published name",
        "facebookresearch/detr#9",
        pth(lambda: official(250), f"{NAME}-00ce5173.pth"),
        Loads(COCO, lambda: small(250)),
    ),
    Row(
        "COCO by word",
        "made up",
        pth(lambda: official(250), "c.pth"),
        Loads(COCO, lambda: small(250)),
        {"preset": NAME, "categories": "coco"},
    ),
    Row("COCO for four", "made up", pth(official), r"has 4 classes, but COCO's models have 91 or 250", {"categories": "coco"}),
    Row("a JSON names them", "roboflow/rf-detr#115", pth(official), Loads(NAMED), {"categories": json_of(CRANE, SKY)}),
    Row(
        "a JSON of boxes",
        "facebookresearch/detr#156",
        pth(official),
        Loads(NAMED),
        {"categories": json_of({"id": 1, "name": "crane"}, SKY)},
    ),
    Row(
        "a list names them",
        "made up",
        pth(official),
        Loads(NAMED),
        {"categories": [Category(3, "sky", False), Category(1, "crane", True)]},
    ),
    Row(
        "a JSON of another model",
        "facebookresearch/detr#156",
        pth(official),
        r"names\.json: the id 4 \(van\) is not one of the 4 classes",
        {"categories": json_of(CRANE, {"id": 4, "name": "van"})},
    ),
    Row(
        "a JSON with an id twice",
        "made up",
        pth(official),
        r"names\.json: the category id 1 occurs twice",
        {"categories": json_of(CRANE, CRANE)},
    ),
    Row(
        "a JSON without a name",
        "made up",
        pth(official),
        r"names\.json: categories\[0\]: the field 'name'",
        {"categories": json_of({"id": 1})},
    ),
    Row("no such JSON", "made up", pth(official), r"nowhere\.json cannot be read", {"categories": "nowhere.json"}),
    Row("own file keeps its names", "made up", own(4), Loads(["crane", "sky"])),
    Row("own file with other names", "made up", own(4), Loads(NAMED), {"categories": json_of(CRANE, SKY)}),
    Row("own file in bfloat16", "made up", own(4, torch.bfloat16), Loads(["crane", "sky"], lambda: rounded(torch.bfloat16))),
    Row("own file in float64", "made up", own(4, torch.float64), Loads(["crane", "sky"])),
]


def counters() -> State:
    return {k.replace("running_var", "num_batches_tracked"): torch.tensor(7) for k in official() if k.endswith("running_var")}


def zeros() -> State:
    return {k: torch.zeros_like(v) for k, v in official().items()}


def averaged(prefix: str) -> State:
    counted = {prefix + "n_averaged": torch.tensor(3)}
    return counted | {f"{prefix}module.{k}": v for k, v in official().items()}


def with_loss() -> State:
    return {f"model.{k}": v for k, v in official().items()} | {"criterion.empty_weight": torch.ones(5)}


def rounded(dtype: torch.dtype) -> PanopticDETR:
    return small().to(dtype).float()


def renamed_safetensors(folder: Path) -> Path:
    path = folder / f"{NAME}.safetensors"
    save_file({f"model.{k}": v.contiguous() for k, v in official().items()}, path)
    return path


def lightning(folder: Path) -> Path:
    """A `.ckpt` of a LightningModule with transformers' model as `self.model`, and the config.json put beside it."""
    theirs(None)(folder)
    state = {f"model.{k}": v for k, v in THEIRS["model"].state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": {"lr": 1e-4}, "callbacks": {}}, folder / "epoch=3.ckpt")
    return folder / "epoch=3.ckpt"


def lost(folder: Path | str) -> Path:
    (Path(folder) / "pytorch_model-00002-of-00002.bin").unlink()
    return Path(folder)


def linked(folder: Path | str) -> Path:
    """An index that names a link which leads out of the folder."""
    index = next(Path(folder).glob("*.index.json"))
    index.write_text(json.dumps({"weight_map": {"a": "x.bin"}}))
    (Path(folder) / "x.bin").symlink_to(__file__)
    return Path(folder)


def setstate(folder: Path) -> Path:
    """By hand: a Namespace that gets `__setstate__ = os.mkdir` and is then given a state, so that building it would call it."""
    name = b"was run"
    program = (
        b"\x80\x02cargparse\nNamespace\n)\x81"
        + b"}X" + struct.pack("<I", 12) + b"__setstate__" + f"c{os.mkdir.__module__}\nmkdir\n".encode() + b"sb"
        + b"X" + struct.pack("<I", len(name)) + name + b"b."
    )  # fmt: skip
    path = folder / f"{NAME}.pth"
    path.write_bytes(program)
    return path


# --- and what comes of them


@pytest.fixture(scope="module", autouse=True)
def their_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    saved = oracle("DetrForSegmentation", tmp_path_factory.mktemp("theirs"))
    THEIRS.update(model=saved.model, folder=saved.folder)


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The R50 panoptic model is a small one here."""
    monkeypatch.setitem(PUBLISHED, NAME, (SMALL, PUBLISHED[NAME][1]))
    monkeypatch.chdir(tmp_path)


@torch.inference_mode()
def assert_same_numbers(model: PanopticDETR, source: PanopticDETR) -> None:
    """Logits, boxes and masks agree, and tell queries apart."""
    batch = Batch.pad([picture(64, 96)])
    seen, expected = model.detect(batch), source.eval().detect(batch)
    assert expected.logits.std(dim=1).mean() > 0.1
    torch.testing.assert_close(seen.logits, expected.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.boxes, expected.boxes, atol=1e-4, rtol=0)
    torch.testing.assert_close(all_masks(model, seen), all_masks(source, expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
def test_a_foreign_file_loads_or_is_refused_in_a_sentence(row: Row, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    source = row.make(folder)
    if row.id == "folder of checkpoint.pth":
        source = folder
    given = {key: value(folder) if callable(value) else value for key, value in row.given.items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InputWarning)
        if isinstance(row.outcome, str):
            with pytest.raises(InputError, match=row.outcome) as error:
                PanopticDETR.from_pretrained(source, **given)
            assert "\n" not in str(error.value) and str(folder) in str(error.value) or "nowhere.json" in str(error.value)
            assert not list(tmp_path.rglob("was run"))
            return
        model = PanopticDETR.from_pretrained(source, **given)
    assert [c.name for c in model.categories] == row.outcome.names
    if row.outcome.model is None:
        assert_equal(model, THEIRS["model"], [picture(64, 96)])
    else:
        assert_same_numbers(model, row.outcome.model())
    assert {v.dtype for v in model.state_dict().values() if v.is_floating_point()} == {torch.float32} and not model.training
    notes = [str(w.message) for w in caught if issubclass(w.category, InputWarning)]
    assert len(notes) == (row.outcome.note is not None)
    if row.outcome.note:
        assert re.search(row.outcome.note, notes[0])


def test_a_hostile_file_would_have_run_something(tmp_path: Path) -> None:
    """Else the rows above would prove nothing: the same content, unpickled the ordinary way, makes the folder."""
    torch.save({"args": argparse.Namespace(lr=Hostile())}, "hostile.pth")
    torch.load("hostile.pth", weights_only=False)
    assert (tmp_path / "was run").is_dir()


def test_what_is_allowed_for_a_checkpoint_is_not_allowed_afterwards() -> None:
    PanopticDETR.from_pretrained(pth(under("model", args=argparse.Namespace(lr=1)))(Path()))
    assert not {argparse.Namespace, *PATHS} & set(torch.serialization.get_safe_globals())


def test_a_mask_head_as_narrow_as_transformers_has_them(tmp_path: Path) -> None:
    """At d_model 64 its last norm has 4 channels, which it takes for 4 groups instead of 8."""
    import transformers

    config = json.loads((THEIRS["folder"] / "config.json").read_text()) | {"d_model": 64}
    model = transformers.DetrForSegmentation(transformers.DetrConfig(**config))
    spread(model, 64)
    model.save_pretrained(tmp_path)
    assert_equal(PanopticDETR.from_pretrained(tmp_path), model, [picture(64, 96)])


# --- the Hugging Face hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """A hub of one folder, `server`, in place of the real one; what it was asked for."""
    import huggingface_hub

    asked = []

    def snapshot_download(name: str, allow_patterns: list[str], ignore_patterns: str) -> str:
        asked.append(allow_patterns)
        assert (name, ignore_patterns) == ("somebody/detr", "*/*")
        (tmp_path / "cache").mkdir(exist_ok=True)
        for path in (tmp_path / "server").iterdir():
            if any(path.match(pattern) for pattern in allow_patterns) and not (tmp_path / "cache" / path.name).exists():
                os.link(path, tmp_path / "cache" / path.name)
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    (tmp_path / "server").mkdir()
    return asked


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_of_transformers_on_the_hub(file: str, hub: list[list[str]], tmp_path: Path) -> None:
    theirs(file)(tmp_path / "server")
    (tmp_path / "server" / "optimizer.pt").write_bytes(b"large")
    model = PanopticDETR.from_pretrained("somebody/detr")
    assert_equal(model, THEIRS["model"], [picture(64, 96)])
    assert [c.name for c in model.categories] == KINDS
    assert len(hub) == (1 if file == "model.safetensors" else 2)  # pickles only where there is nothing better
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["config.json", file]


def test_minidetrs_own_file_on_the_hub(hub: list[list[str]], tmp_path: Path) -> None:
    own(4)(tmp_path / "server")
    model = PanopticDETR.from_pretrained("somebody/detr")
    assert_same_numbers(model, small())
    assert [c.name for c in model.categories] == ["crane", "sky"]


def test_a_folder_here_wins_over_the_hub(hub: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "somebody" / "detr").mkdir(parents=True)
    own(4)(tmp_path / "somebody" / "detr")
    assert_same_numbers(PanopticDETR.from_pretrained("somebody/detr"), small())
    with pytest.raises(InputError, match="no model or file 'somebody/dert'"):  # a slip in a path of one's own
        PanopticDETR.from_pretrained("somebody/dert")
    assert hub == []


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The real client of the hub without a network; its cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_offline_the_sentence_says_what_to_download_and_where_to_put_it(offline: Path) -> None:
    with pytest.raises(InputError) as error:
        PanopticDETR.from_pretrained("somebody/detr")
    for part in ("config.json and model.safetensors", "https://huggingface.co/somebody/detr/tree/main", "a folder somebody/detr"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_offline_the_cache_is_read_through_its_links(offline: Path, tmp_path: Path) -> None:
    """As the hub's client lays it out: `snapshots/REVISION` holds links to `blobs`; and names are as in the facebook models."""
    model, revision = offline / "models--facebook--detr-resnet-50", "0123456789abcdef0123456789abcdef01234567"
    blobs, snapshot, made = model / "blobs", model / "snapshots" / revision, tmp_path / "made"
    for folder in (blobs, snapshot, model / "refs", made):
        folder.mkdir(parents=True)
    (model / "refs" / "main").write_text(revision)
    for number, path in enumerate(sorted(Path(sharded("safetensors")(made)).iterdir())):
        shutil.move(path, blobs / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    loaded = PanopticDETR.from_pretrained("facebook/detr-resnet-50")
    assert_equal(loaded, THEIRS["model"], [picture(64, 96)])


# --- training from them, and the command line


def test_a_class_head_that_was_cut_off_is_trained_anew(tmp_path: Path) -> None:
    path = pth(lambda: {"model": without("class_embed")})(tmp_path)
    model, lines = starting_model(TrainOptions(preset="r50", from_=str(path)).filled(), [Category(1, "road", False)])
    expected = small().state_dict()
    for key, value in model.state_dict().items():
        assert key.startswith("heads.classes.") or torch.equal(value, expected[key]), key
    assert model.heads.classes.weight.shape == (3, 128) and model.heads.classes.weight.std() > 0
    assert lines == [f"loaded: {path}", f"new: the class head for 1 class, which {path} lacks"]


def test_training_keeps_a_head_whose_classes_are_named(tmp_path: Path) -> None:
    path, names = pth(official)(tmp_path), json_of(CRANE, SKY, {"id": 0, "name": "a"}, {"id": 2, "name": "b"})(tmp_path)
    mine = [Category(i, name, True) for i, name in enumerate(["a", "crane", "b", "sky"])]
    model, lines = starting_model(TrainOptions(preset="r50", from_=str(path), categories=str(names)).filled(), mine)
    assert torch.equal(model.heads.classes.weight, small().heads.classes.weight) and lines == [f"loaded: {path}"]
    _, lines = starting_model(TrainOptions(preset="r50", from_=str(path)).filled(), mine)
    assert lines[1:] == ["replaced: the class head, 4 classes by 4"]


def test_training_takes_a_renamed_file_for_its_preset_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRAINABLE, "r50", SMALL)
    path = pth(official, "c.pth")(tmp_path)
    with pytest.warns(InputWarning, match=r"c\.pth does not say which model it is: taken for r50; give --preset"):
        model, _ = starting_model(TrainOptions(from_=str(path)).filled(), [Category(1, "road", False)])
    assert torch.equal(
        model.encoder.state_dict()["layers.0.linear1.weight"], small().encoder.state_dict()["layers.0.linear1.weight"]
    )


def test_predict_names_the_classes_of_a_renamed_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    Image.new("RGB", (48, 32), 128).save(tmp_path / "a.png")
    path, names = pth(lambda: official(91), "c.pth")(tmp_path), json_of(CRANE, SKY)(tmp_path)
    predict = ["predict", "a.png", "--model", str(path), "--preset", NAME, "--device", "cpu", "--threshold", "1"]
    assert main([*predict, "--output", "named", "--categories", str(names)]) == 0
    assert "note:" not in capsys.readouterr().err
    assert main([*predict, "--output", "nameless"]) == 0
    (note,) = [line for line in capsys.readouterr().err.splitlines() if "note:" in line]
    assert re.fullmatch(f"minidetr: note: .*{NAMELESS}.*", note)
    for folder, name in (("named", "crane"), ("nameless", "class 1")):
        written = json.loads((tmp_path / folder / "panoptic.json").read_text())["categories"]
        assert (len(written), written[1]["name"]) == (91, name)
