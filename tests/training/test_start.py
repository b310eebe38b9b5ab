"""Where a run starts: fine-tuning keeps what fits and says what it replaces; ImageNet backbones; sentences for what doesn't fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.panoptic import Category
from minidetr.presets import TRAINABLE
from minidetr.scenes.painters import CATEGORIES
from minidetr.training.options import STAGES, TrainOptions
from minidetr.training.start import backbone_state, starting_model
from minidetr.weights.load import save

OTHER = [Category(1, "road", False), Category(2, "car", True)]


def start(categories=CATEGORIES, **given) -> tuple[PanopticDETR, list[str]]:
    return starting_model(TrainOptions(**({"preset": "tiny"} | given)).filled(), list(categories))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A saved tiny model for the categories of the scenes."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "source.safetensors"
    save(PanopticDETR(TRAINABLE["tiny"], CATEGORIES), path)
    return path


def same(model: PanopticDETR, path: Path, *but: str) -> bool:
    """Whether all weights are those of the file, but for names that start with one of `but`, which are all others."""
    one, other = model.state_dict(), PanopticDETR.from_pretrained(path).state_dict()
    keys = [k for k in one if not k.startswith(but)] if but else list(one)
    for key in one.keys() - set(keys):  # freshly drawn weights; biases may start at the same zeros
        if one[key].ndim > 1:
            assert not torch.equal(one[key], other[key]), key
    return all(torch.equal(one[k], other[k]) for k in keys)


# --- from scratch


def test_tiny_starts_from_nothing_and_its_options_change_its_preset():
    model, lines = start(size=96, queries=7, dropout=0.25)
    assert lines == ["tiny: everything starts from random weights"]
    assert (model.preset.short_side, model.preset.long_side, model.preset.queries) == (96, 160, 7)
    assert model.encoder.layers[0].dropout.p == 0.25
    assert model.num_classes == max(c.id for c in CATEGORIES) + 1


# --- fine-tuning


def test_the_same_classes_keep_everything(source):
    model, lines = start(from_=str(source))
    assert same(model, source)
    assert lines == [f"loaded: {source}"]


def test_other_classes_replace_the_class_head(source):
    model, lines = start(OTHER, from_=str(source))
    state, before = model.state_dict(), PanopticDETR.from_pretrained(source).state_dict()
    assert state["heads.classes.weight"].shape == (4, 128) and model.categories == OTHER
    assert all(torch.equal(state[k], before[k]) for k in state if not k.startswith("heads.classes."))
    assert lines[1:] == [f"replaced: the class head, {len(CATEGORIES)} classes by 2"]


def test_as_many_but_other_classes_replace_it_too(source):
    renamed = [replace(c, name=c.name + "s") for c in CATEGORIES]
    model, lines = start(renamed, from_=str(source))
    assert same(model, source, "heads.classes.")
    assert lines[1:] == ["replaced: the class head, 10 classes by 10"]


@pytest.mark.parametrize(("queries", "line"), [(8, "8 kept, 0 new, 12 left out"), (30, "20 kept, 10 new, 0 left out")])
def test_the_first_queries_are_kept(source, queries, line):
    model, lines = start(from_=str(source), queries=queries)
    before = PanopticDETR.from_pretrained(source).decoder.query_embedding.weight
    after = model.decoder.query_embedding.weight
    kept = min(queries, 20)
    assert after.shape == (queries, 128) and torch.equal(after[:kept], before[:kept])
    assert len({tuple(row) for row in after[kept:].tolist()}) == queries - kept  # new ones can be told apart
    assert lines[1:] == [f"queries: the first {line}"]


def test_a_stage_is_put_back(source):
    model, lines = start(from_=str(source), reset=("mask-head", "res5"))
    assert same(model, source, *STAGES["mask-head"], *STAGES["res5"])
    assert lines[1:3] == [f"replaced: {stage}, which starts from random weights" for stage in ("mask-head", "res5")]
    assert lines[3:] == ["heatmap attention: starts as the decoder's last cross-attention"]


def test_new_heatmaps_start_as_the_decoders_attention(source):
    """Computed with the decoder's own module: its weights for a query without positions, each head's softmax undone."""
    model, _ = start(from_=str(source), reset=("mask-head",))
    queries, memory = torch.randn(3, 128), torch.randn(1, 128, 4, 5)
    keys = memory.flatten(2).mT
    attention = model.decoder.layers[-1].cross_attention
    _, weights = attention(queries[None], keys, keys, average_attn_weights=False)  # 1 M K h*w
    scores = weights[0].transpose(0, 1).log()  # up to one constant a head
    heatmaps = model.heatmap_attention(queries, memory, torch.zeros(3, dtype=torch.long)).flatten(2).log()
    torch.testing.assert_close(heatmaps - heatmaps.mean(-1, keepdim=True), scores - scores.mean(-1, keepdim=True))

    _, lines = start(from_=str(source), reset=("mask-head", "decoder"))  # then there is nothing to take over
    assert not any(line.startswith("heatmap attention") for line in lines)


def test_a_detection_model_gets_a_new_mask_head(tmp_path):
    path = tmp_path / "detection.safetensors"
    save(PanopticDETR(replace(TRAINABLE["tiny"], mask_widths=None), CATEGORIES), path)
    model, lines = start(from_=str(path), steps="masks")
    assert model.mask_head is not None
    before, state = PanopticDETR.from_pretrained(path).state_dict(), model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in before.items())
    taken_over = "heatmap attention: starts as the decoder's last cross-attention"
    assert lines == [f"loaded: {path}", f"new: heatmap_attention, mask_head, which {path} lacks", taken_over]
    assert start(from_=str(path), steps="boxes")[0].mask_head is None  # boxes alone need none


def test_published_outputs_without_a_category_are_kept(tmp_path):
    """The published panoptic models have 250 classes, though COCO's highest id is 200."""
    path = tmp_path / "more.safetensors"
    save(PanopticDETR(TRAINABLE["tiny"], CATEGORIES, num_classes=25), path)
    model, _ = start(from_=str(path))
    assert same(model, path) and model.num_classes == 25
    assert start(OTHER, from_=str(path))[0].num_classes == 3


def test_a_missing_source_is_a_sentence(tmp_path):
    for name in (str(tmp_path / "none.safetensors"), "detr-r60"):
        with pytest.raises(InputError, match=f"no model or file '{name}'"):
            start(from_=name)


# --- ImageNet backbones


@pytest.fixture(scope="module")
def imagenet() -> dict[str, Tensor]:
    """The state dict of torchvision's ResNet-18, classifier and all, with random weights."""
    torch.manual_seed(6)
    model = torchvision.models.resnet18()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    return model.state_dict()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_backbone_file_with_the_names_of_torchvision(imagenet, tmp_path, suffix):
    path = tmp_path / ("resnet18" + suffix)
    if suffix == ".pth":
        torch.save(imagenet, path)
    else:
        save_file(imagenet, path)
    model, lines = start(preset="r18", backbone_weights=str(path))
    state = model.backbone.resnet.state_dict()
    assert len(state) == 100 and all(torch.equal(value, imagenet[key]) for key, value in state.items())
    assert lines == [f"backbone: loaded from {path}", "everything else starts from random weights"]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "backbone.", "model.backbone."])
def test_a_backbone_file_with_the_words_of_frameworks(imagenet, tmp_path, prefix):
    path = tmp_path / "resnet18.pth"
    torch.save({"state_dict": {prefix + key: value for key, value in imagenet.items()}, "arch": "resnet18"}, path)
    state = start(preset="r18", backbone_weights=str(path))[0].backbone.resnet.state_dict()
    assert len(state) == 100 and all(torch.equal(value, imagenet[key]) for key, value in state.items())


def test_a_backbone_file_that_does_not_fit(imagenet, tmp_path):
    larger, wider, missing = (tmp_path / f"{name}.safetensors" for name in ("larger", "wider", "half"))
    save_file(imagenet | {"layer1.2.conv1.weight": torch.zeros(64, 64, 3, 3)}, larger)  # as a ResNet-34 has it
    save_file(imagenet | {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, wider)  # as a ResNet-50 has it
    save_file({key: value for key, value in imagenet.items() if not key.startswith("layer3.")}, missing)
    diverged, quantised = tmp_path / "diverged.safetensors", tmp_path / "quantised.safetensors"
    save_file(imagenet | {"conv1.weight": imagenet["conv1.weight"] * torch.nan}, diverged)
    save_file(imagenet | {"conv1.weight": imagenet["conv1.weight"].to(torch.int8)}, quantised)
    (tmp_path / "text.pth").write_text("hello")
    for path, sentence in (
        (diverged, r"diverged\.safetensors: conv1\.weight holds values that are NaN"),
        (quantised, r"quantised\.safetensors: the weights hold int8 for conv1\.weight"),
        (larger, r"larger\.safetensors do not fit resnet18: layer1\.2\.conv1\.weight is .* one too many"),
        (wider, r"wider\.safetensors do not fit resnet18: layer1\.0\.conv1\.weight is .* of another shape"),
        (missing, r"half\.safetensors do not fit resnet18: layer3\."),
        (tmp_path / "nowhere.pth", r"nowhere\.pth is not a file"),
        (tmp_path / "text.pth", r"text\.pth is"),
    ):
        with pytest.raises(InputError, match=sentence):
            start(preset="r18", backbone_weights=str(path))


def test_imagenet_weights_are_downloaded_for_r18(imagenet, monkeypatch):
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    asked = []
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", lambda self, **k: asked.append(self) or imagenet)
    model, lines = start(preset="r18")
    assert asked == [weights] and lines[0] == "backbone: loaded from imagenet"
    assert torch.equal(model.backbone.resnet.conv1.weight, imagenet["conv1.weight"])
    assert start(preset="r18", backbone_weights="none")[1] == ["r18: everything starts from random weights"]
    assert len(asked) == 1


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("invalid hash value")])
def test_a_failed_download_says_what_to_fetch_and_where_to_put_it(monkeypatch, tmp_path, error):
    def fail(self, **_):
        raise error

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", fail)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError) as caught:
        start(preset="r18")
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    for part in (url, str(tmp_path / "checkpoints" / Path(url).name), str(error), "--backbone-weights"):
        assert part in str(caught.value)


def test_a_backbone_without_imagenet_weights_of_its_own(tmp_path):
    """A narrow backbone saved from torchvision's blocks can be given, too."""
    model, _ = start()
    path = tmp_path / "narrow.safetensors"
    save_file(model.backbone.resnet.state_dict(), path)
    loaded, lines = start(backbone_weights=str(path))
    assert all(torch.equal(v, model.backbone.resnet.state_dict()[k]) for k, v in loaded.backbone.resnet.state_dict().items())
    assert lines[0] == f"backbone: loaded from {path}"
    with pytest.raises(InputError, match="narrow10"):
        backbone_state("imagenet", "narrow10", model)
