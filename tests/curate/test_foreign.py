"""Labellers of `transformers`: small models with random weights, saved and loaded as its users do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from minidetr.commands.main import main
from minidetr.curate.foreign import TransformersModel, panoptic_of, plain
from minidetr.curate.label_stuff import StuffMapping
from minidetr.errors import InputError
from minidetr.panoptic import Panoptic
from minidetr.weights.published import coco_categories

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'minidetr[test]'")

LABELS = {i: c.name for i, c in enumerate(coco_categories(250))}  # 133, counted from 0 as all of them do
NUMBERS = {"id2label": LABELS, "label2id": {name: i for i, name in LABELS.items()}, "num_labels": 133}
RESNET = {
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
SWIN = {
    "embed_dim": 12,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 7,
    "out_features": RESNET["out_features"],
}


def detr(folder: Path) -> Any:
    backbone = transformers.ResNetConfig(**RESNET)
    config = transformers.DetrConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        num_queries=1,
        **NUMBERS,
    )
    transformers.DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return transformers.DetrForSegmentation(config)


def maskformer(folder: Path) -> Any:
    decoder = transformers.DetrConfig(
        d_model=32, decoder_layers=1, encoder_layers=1, decoder_ffn_dim=32, encoder_ffn_dim=32, num_queries=1
    )
    config = transformers.MaskFormerConfig(
        backbone_config=transformers.MaskFormerSwinConfig(**SWIN),
        decoder_config=decoder,
        fpn_feature_size=32,
        mask_feature_size=32,
        **NUMBERS,
    )
    transformers.MaskFormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}, size_divisor=32).save_pretrained(folder)
    return transformers.MaskFormerForInstanceSegmentation(config)


def mask2former(folder: Path) -> Any:
    config = transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(**SWIN),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=4,
        num_queries=1,
        **NUMBERS,
    )
    transformers.Mask2FormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}, size_divisor=32).save_pretrained(folder)
    return transformers.Mask2FormerForUniversalSegmentation(config)


def eomt(folder: Path) -> Any:
    config = transformers.EomtConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=64,
        num_blocks=1,
        num_queries=1,
        **NUMBERS,
    )
    transformers.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": 64}, do_pad=True).save_pretrained(folder)
    return transformers.EomtForUniversalSegmentation(config)


def oneformer(folder: Path) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<|startoftext|>", "<|endoftext|>", "the", "task", "is", "panoptic", "a", "photo", "with"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=words[0], eos_token=words[1], pad_token=words[1], unk_token=words[1]
    )
    info = {str(i): {"name": name, "isthing": 1} for i, name in LABELS.items()}
    (folder / "classes.json").write_text(json.dumps(info))
    images = transformers.OneFormerImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 96},
        repo_path=str(folder),
        class_info_file="classes.json",
        num_text=4,
        num_labels=133,
    )
    transformers.OneFormerProcessor(images, fast, max_seq_length=8, task_seq_length=8).save_pretrained(folder)
    config = transformers.OneFormerConfig(
        backbone_config=transformers.SwinConfig(**SWIN),
        hidden_dim=32,
        conv_dim=32,
        mask_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=4,
        num_queries=1,
        task_seq_len=8,
        max_seq_len=8,
        text_encoder_width=32,
        text_encoder_context_length=8,
        text_encoder_num_layers=1,
        text_encoder_vocab_size=64,
        **NUMBERS,
    )
    return transformers.OneFormerForUniversalSegmentation(config)


KINDS = {"detr": detr, "maskformer": maskformer, "mask2former": mask2former, "oneformer": oneformer, "eomt": eomt}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(1)
    model = KINDS[request.param](path)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 2 and "class" in name:
                value.mul_(4000)  # so that the query is sure of something
            if value.ndim == 1 and "class" in name:
                value[-1] = -100  # but not of "no object"
    model.save_pretrained(path)
    return path


@pytest.mark.slow
def test_the_default_map_knows_its_classes(folder: Path) -> None:
    model = TransformersModel(str(folder), "cpu")
    assert [(c.id, c.name) for c in model.categories] == list(LABELS.items())
    assert sum(not c.is_thing for c in model.categories) == 53
    assert len(StuffMapping.read().fold(model.categories)) == 53


@pytest.mark.slow
def test_it_segments_photos_of_any_size(folder: Path) -> None:
    model, segmented = TransformersModel(str(folder), "cpu"), 0
    for height, width in ((64, 96), (51, 70), (90, 40)):
        photo = Image.fromarray((np.random.default_rng(height).random((height, width, 3)) * 255).astype("uint8"))
        tries = (model.segment([photo], k / 50)[0] for k in range(49, 0, -1))
        panoptic = next((found for found in tries if found.segments), Panoptic(np.zeros((height, width), np.int32)))
        assert panoptic.segment_ids.shape == (height, width)
        areas = np.bincount(panoptic.segment_ids.ravel(), minlength=len(panoptic.segments) + 1)[1:]
        assert areas.tolist() == [segment.area for segment in panoptic.segments]
        assert all(segment.category_id in LABELS for segment in panoptic.segments)
        segmented += len(panoptic.segments)
    assert segmented
    assert model.segment([photo], 1.0)[0].segments == []
    with pytest.raises(InputError, match="one photo after the other"):
        model.segment([photo], batch_size=2)


@pytest.mark.slow
def test_the_command_labels_with_it(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (80, 64), "green").save(tmp_path / "photos" / "a.png")
    weights = ["--weights", f"transformers:{folder}", "--threshold", "0.05", "--device", "cpu"]
    assert main(["data", "label-stuff", str(tmp_path / "photos"), str(tmp_path / "out"), *weights]) == 0
    assert "share of the pixels" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert content["categories"][0]["name"] == "misc" and content["annotations"][0]["segments_info"]
    assert main(["data", "label-stuff", str(tmp_path / "photos"), str(tmp_path / "o"), *weights, "--preset", "tiny"]) == 2
    assert "leave out --preset" in capsys.readouterr().err


def test_ids_are_counted_from_one_and_nobody_s_pixels_are_void() -> None:
    ids = np.array([[-1, 0, 0], [7, 7, 3]], np.int32)  # 3 has no entry
    found = panoptic_of(ids, [{"id": 7, "label_id": 100, "score": 0.5}, {"id": 0, "label_id": 0}], stuff={100})
    assert found.segment_ids.tolist() == [[0, 1, 1], [2, 2, 0]]
    assert [(s.id, s.category_id, s.is_thing, s.area, s.box) for s in found.segments] == [
        (1, 0, True, 2, (1, 0, 2, 1)),
        (2, 100, False, 2, (0, 1, 2, 1)),
    ]


def test_spellings_of_coco_are_coco() -> None:
    assert plain("Dining_Table") == plain("dining table") and plain("wall-other-merged") == "wallothermerged"
    assert len({plain(c.name) for c in coco_categories(250)}) == 133


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no panoptic model of transformers .*check its folder"):
        TransformersModel(str(tmp_path))
    with pytest.raises(InputError, match="nobody/nothing is no panoptic model of transformers .*check its name on the hub"):
        TransformersModel("nobody/nothing")
