"""The same weights in `transformers`: an implementation by other people, and files as its users have them."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minidetr.data.batch import Batch
from minidetr.errors import InputError
from minidetr.model import Detections, PanopticDETR
from tests.model.spread import spread

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is downloaded
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'minidetr[test]'")

WIDTH, QUERIES, CLASSES = 128, 7, 5


@dataclass
class Oracle:
    """A model of `transformers` with random weights, and the folder that it was saved to."""

    model: nn.Module
    folder: Path

    def copy(self, folder: Path, state: dict[str, Tensor] | None = None, **changes: object) -> Path:
        """The saved model once more, with another state dict and other entries of its config."""
        folder.mkdir()
        save_file(state or self.state(), folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((self.folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
        return folder

    def state(self) -> dict[str, Tensor]:
        """The saved state dict."""
        return load_file(self.folder / "model.safetensors")


def oracle(kind: str, folder: Path, dilation: bool = False) -> Oracle:
    """Build and save one: full ResNet-50 (minidetr has no other that fits), small transformer of unlike sizes."""
    config = transformers.DetrConfig(
        backbone_config=transformers.ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"]),
        use_timm_backbone=False,
        d_model=WIDTH,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        num_queries=QUERIES,
        num_labels=CLASSES,
        id2label={i: f"kind {i}" for i in range(CLASSES)},
    )
    model = getattr(transformers, kind)(config)
    spread(model, WIDTH)
    if dilation:  # its own ResNet has no DC5, so rebuild the last stage: no stride, and a dilation behind the first block
        stage = next(m for name, m in model.named_modules() if name.endswith("encoder.stages.3"))
        for module in stage.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
        for block in stage.layers[1:]:
            block.layer[1].convolution.dilation = block.layer[1].convolution.padding = (2, 2)
    model.save_pretrained(folder)
    if dilation:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"dilation": True}))
    return Oracle(model, folder)


@pytest.fixture(scope="module")
def panoptic(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return oracle("DetrForSegmentation", tmp_path_factory.mktemp("panoptic"))


@pytest.fixture(scope="module")
def detection(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return oracle("DetrForObjectDetection", tmp_path_factory.mktemp("detection"))


def picture(height: int, width: int) -> Tensor:
    """Smooth blobs and noise, 3 H W: something for attention to find."""
    return F.interpolate(2 * torch.randn(1, 3, 5, 6), size=(height, width), mode="bicubic")[0] + 0.3 * torch.randn(3, height, width)


def all_masks(model: PanopticDETR, seen: Detections) -> Tensor:
    """Mask logits B N H/4 W/4 of every query."""
    B, N = seen.logits.shape[:2]
    masks = model.masks(seen, torch.arange(B).repeat_interleave(N), torch.arange(N).repeat(B))
    return masks.unflatten(0, (B, N))


@torch.inference_mode()
def assert_equal(model: PanopticDETR, oracle: nn.Module, images: list[Tensor]) -> Detections:
    """Logits, boxes and masks (where the oracle has some) of a padded batch agree; returns what minidetr saw."""
    batch = Batch.pad(images)
    theirs = oracle(pixel_values=batch.images, pixel_mask=(~batch.padding).long())
    seen = model.detect(batch)
    torch.testing.assert_close(seen.logits, theirs.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.boxes, theirs.pred_boxes, atol=1e-4, rtol=0)
    if "pred_masks" in theirs:
        masks = theirs.pred_masks
        assert masks.std(dim=1).mean() > 0.1 * masks.std(), "the masks differ too little by query to tell a wrong mask head"
        torch.testing.assert_close(all_masks(model, seen), masks, atol=2e-3, rtol=0)
    return seen


IMAGES = {"one": [(128, 160)], "odd": [(97, 130)], "padded": [(128, 96), (75, 150)]}


@pytest.mark.parametrize("sizes", IMAGES.values(), ids=IMAGES)
def test_panoptic_model_equals_transformers(panoptic: Oracle, sizes: list[tuple[int, int]]) -> None:
    model = PanopticDETR.from_pretrained(panoptic.folder)
    assert_equal(model, panoptic.model, [picture(*size) for size in sizes])
    assert [c.name for c in model.categories] == [f"kind {i}" for i in range(CLASSES)]


def test_detection_model_equals_transformers(detection: Oracle) -> None:
    model = PanopticDETR.from_pretrained(detection.folder)
    assert model.mask_head is None
    assert_equal(model, detection.model, [picture(*size) for size in IMAGES["padded"]])


def test_dilated_model_equals_transformers(tmp_path: Path) -> None:
    dilated = oracle("DetrForSegmentation", tmp_path, dilation=True)
    seen = assert_equal(PanopticDETR.from_pretrained(tmp_path), dilated.model, [picture(128, 160)])
    assert seen.features.res5.shape[-2:] == seen.features.res4.shape[-2:] == (8, 10)  # H/16 W/16


TO_TIMM = (  # a ResNet of `transformers` -> timm's and torchvision's names, as the files on the hub have them
    (r"embedder\.embedder\.convolution", "conv1"),
    (r"embedder\.embedder\.normalization", "bn1"),
    (r"encoder\.stages\.0\.layers", "layer1"),
    (r"encoder\.stages\.1\.layers", "layer2"),
    (r"encoder\.stages\.2\.layers", "layer3"),
    (r"encoder\.stages\.3\.layers", "layer4"),
    (r"layer\.0\.convolution", "conv1"),
    (r"layer\.0\.normalization", "bn1"),
    (r"layer\.1\.convolution", "conv2"),
    (r"layer\.1\.normalization", "bn2"),
    (r"layer\.2\.convolution", "conv3"),
    (r"layer\.2\.normalization", "bn3"),
    (r"shortcut\.convolution", "downsample.0"),
    (r"shortcut\.normalization", "downsample.1"),
)


def timm_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict as written with a backbone of timm."""
    renamed = {}
    for key, value in state.items():
        if "backbone" in key:
            for pattern, name in TO_TIMM:
                key = re.sub(pattern, name, key)
        renamed[key] = value
    return renamed


@pytest.mark.parametrize("kind", ["panoptic", "detection"])
def test_hub_files_with_a_timm_backbone(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    saved: Oracle = request.getfixturevalue(kind)
    state = timm_state(saved.state())
    assert any(key.endswith("backbone.conv_encoder.model.layer1.0.conv1.weight") for key in state)
    hub = saved.copy(tmp_path / "hub", state, use_timm_backbone=True, backbone="resnet50", backbone_config=None)
    assert_equal(PanopticDETR.from_pretrained(hub / "model.safetensors"), saved.model, [picture(97, 130)])


def test_dilated_hub_file_with_a_timm_backbone(panoptic: Oracle, tmp_path: Path) -> None:
    written = transformers.DetrConfig(backbone="resnet50", dilation=True).to_dict()["backbone_config"]  # by today's version
    hub = panoptic.copy(tmp_path / "hub", timm_state(panoptic.state()), backbone_config=written, dilation=True)
    model = PanopticDETR.from_pretrained(hub)
    with torch.inference_mode():
        seen = model.detect(Batch.pad([picture(128, 160)]))
    assert seen.features.res5.shape[-2:] == seen.features.res4.shape[-2:] == (8, 10)


def test_names_of_the_modules_in_memory(panoptic: Oracle, tmp_path: Path) -> None:
    """`save_pretrained(..., save_original_format=False)` writes the names of its modules, not those of the published files."""
    state = {k: v.contiguous() for k, v in panoptic.model.state_dict().items()}
    folder = panoptic.copy(tmp_path / "modules", state)
    assert_equal(PanopticDETR.from_pretrained(folder), panoptic.model, [picture(97, 130)])


def test_config_without_a_known_backbone_is_refused(detection: Oracle, tmp_path: Path) -> None:
    folder = detection.copy(tmp_path / "other", backbone_config=None, backbone="mobilenet")
    with pytest.raises(InputError, match="config.json.*mobilenet.*resnet50"):
        PanopticDETR.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="config.json beside it.*preset="):
        PanopticDETR.from_pretrained(folder)
