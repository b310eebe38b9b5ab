"""The whole model: shapes, picked objects, batches, precision, gradients, and `segment` from a photo to a panoptic map."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.ops import FrozenBatchNorm2d

import minidetr.model
from minidetr.data.batch import Batch
from minidetr.errors import InputError
from minidetr.model import Detections, PanopticDETR
from minidetr.panoptic import Category, Panoptic
from minidetr.presets import TRAINABLE, Preset
from tests.model.spread import spread

CATEGORIES = [Category(i, f"class {i}", is_thing=i > 4) for i in (1, 2, 3, 4, 5, 6, 8, 9, 11)]  # with gaps
C = 12


def build(preset: Preset) -> PanopticDETR:
    """A model in eval mode whose masks differ from query to query."""
    model = PanopticDETR(preset, CATEGORIES)
    spread(model, preset.width)
    return model


@pytest.fixture(scope="module")
def tiny() -> PanopticDETR:
    return build(TRAINABLE["tiny"])


@pytest.fixture(scope="module")
def r18() -> PanopticDETR:
    return build(TRAINABLE["r18"])


def picture(height: int, width: int, seed: int = 1) -> Tensor:
    """Smooth blobs and noise, 3 H W, as if normalised."""
    generator = torch.Generator().manual_seed(seed)
    blobs, noise = torch.randn(1, 3, 5, 6, generator=generator), torch.randn(3, height, width, generator=generator)
    return F.interpolate(2 * blobs, size=(height, width), mode="bicubic")[0] + 0.3 * noise


def photo(height: int, width: int, seed: int = 1) -> Tensor:
    """The same as uint8 RGB."""
    return ((picture(height, width, seed) * 0.2 + 0.5).clamp(0, 1) * 255).byte()


def all_pairs(seen: Detections) -> tuple[Tensor, Tensor]:
    """image_index and query_index of every object of the batch."""
    B, N = seen.logits.shape[:2]
    return torch.arange(B).repeat_interleave(N), torch.arange(N).repeat(B)


def test_shapes_of_every_stage_at_640() -> None:
    with torch.device("meta"):
        model = PanopticDETR(TRAINABLE["r50"], CATEGORIES).eval()
        batch = Batch(torch.empty(2, 3, 640, 640), torch.empty(2, 640, 640, dtype=torch.bool), [(640, 640), (500, 640)])
        image_index, query_index = torch.empty(3, dtype=torch.long), torch.empty(3, dtype=torch.long)
    shapes: dict[str, list[int]] = {}

    def record(name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda module, inputs, output: shapes.update({name: list(output.shape)}))

    record("sequence", model.encoder.layers[5])
    record("decoder", model.decoder.layers[5])
    for i in range(3):
        record(f"lateral {i}", model.mask_head.laterals[i])
    with torch.no_grad():
        seen = model.detect(batch)
        features = seen.features
        stages = {
            "Res2": (features.res2, [2, 256, 160, 160]),
            "Res3": (features.res3, [2, 512, 80, 80]),
            "Res4": (features.res4, [2, 1024, 40, 40]),
            "Res5": (features.res5, [2, 2048, 20, 20]),
            "1x1 convolution": (features.projected, [2, 256, 20, 20]),
            "memory": (seen.memory, [2, 256, 20, 20]),
            "padding": (seen.padding, [2, 20, 20]),
            "box embeddings": (seen.queries, [2, 100, 256]),
            "classes": (seen.logits, [2, 100, C + 1]),
            "boxes": (seen.boxes, [2, 100, 4]),
            "heatmaps": (model.heatmaps(seen, image_index, query_index), [3, 8, 20, 20]),
            "masks": (model.masks(seen, image_index, query_index), [3, 160, 160]),
        }
    for name, (tensor, shape) in stages.items():
        assert list(tensor.shape) == shape, name
    assert shapes == {
        "sequence": [2, 400, 256],
        "decoder": [2, 100, 256],
        "lateral 0": [2, 128, 40, 40],  # once for each of the 2 images, not for each of the 3 objects
        "lateral 1": [2, 64, 80, 80],
        "lateral 2": [2, 32, 160, 160],
    }


@pytest.mark.parametrize("name", ["tiny", "r18"])
@torch.inference_mode()
def test_picked_objects_equal_those_of_computing_all(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    seen = model.detect(Batch.pad([picture(97, 130), picture(64, 140), picture(97, 140)]))
    image_index, query_index = all_pairs(seen)
    heatmaps, masks = model.heatmaps(seen, image_index, query_index), model.masks(seen, image_index, query_index)
    by_query = masks.unflatten(0, seen.logits.shape[:2])
    assert by_query.std(dim=1).mean() > 0.01 * masks.std()
    picked = torch.randperm(len(masks))[:7]
    pairs = image_index[picked], query_index[picked]
    torch.testing.assert_close(model.heatmaps(seen, *pairs), heatmaps[picked], atol=1e-5, rtol=0)
    torch.testing.assert_close(model.masks(seen, *pairs), masks[picked], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_no_picked_object(tiny: PanopticDETR) -> None:
    seen = tiny.detect(Batch.pad([picture(64, 96), picture(64, 96)]))
    none = torch.empty(0, dtype=torch.long)
    assert tiny.heatmaps(seen, none, none).shape == (0, 8, 4, 6)
    assert tiny.masks(seen, none, none).shape == (0, 16, 24)


@torch.inference_mode()
def test_heatmaps_share_one_softmax_and_are_dark_on_padding(tiny: PanopticDETR) -> None:
    seen = tiny.detect(Batch.pad([picture(96, 64), picture(60, 128)]))
    image_index, query_index = all_pairs(seen)
    heatmaps = tiny.heatmaps(seen, image_index, query_index)
    torch.testing.assert_close(heatmaps.flatten(1).sum(1), torch.ones(len(heatmaps)))
    of_heads = heatmaps.sum(dim=(2, 3))
    assert (of_heads.max(1).values > 1.5 / 8).any(), "a softmax for each head alone would give each the same share"
    padding = seen.padding[image_index][:, None].expand_as(heatmaps)
    assert padding.any() and (heatmaps[padding] == 0).all() and (heatmaps[~padding] > 0).any()


@pytest.mark.parametrize("size", [(97, 130), (33, 200), (64, 64)])
@pytest.mark.parametrize("name", ["tiny", "r18"])
@torch.inference_mode()
def test_any_size(name: str, size: tuple[int, int], request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    seen = model.detect(Batch.pad([picture(*size)]))
    masks = model.masks(seen, *all_pairs(seen))
    quarter = [-(-side // 4) for side in size]
    stride = 16 if model.preset.dilation else 32
    assert list(masks.shape) == [model.preset.queries, *quarter]
    assert list(seen.memory.shape[-2:]) == [-(-side // stride) for side in size]
    assert masks.isfinite().all() and (seen.boxes > 0).all() and (seen.boxes < 1).all()


@torch.inference_mode()
def test_a_batch_of_one_size_equals_each_image_alone(tiny: PanopticDETR) -> None:
    """In float64: there both ways agree to 1e-13. In float32 each is 6e-5 off, so that they differ by that much from each other
    (and by more than 1e-4 with other kernels, torch 2.8's): no tolerance of float32 would tell rounding from a small leak."""
    model = deepcopy(tiny).double()
    images = [picture(97, 130, seed).double() for seed in range(3)]
    together = model.detect(Batch.pad(images))
    masks = model.masks(together, *all_pairs(together)).unflatten(0, (3, model.preset.queries))
    for index, image in enumerate(images):
        alone = model.detect(Batch.pad([image]))
        torch.testing.assert_close(alone.logits[0], together.logits[index], atol=1e-10, rtol=0)
        torch.testing.assert_close(alone.boxes[0], together.boxes[index], atol=1e-10, rtol=0)
        torch.testing.assert_close(model.masks(alone, *all_pairs(alone)), masks[index], atol=1e-9, rtol=0)
    assert not torch.allclose(together.logits[0], together.logits[1], atol=1e-2)


@torch.inference_mode()
def test_padding_changes_no_position(tiny: PanopticDETR) -> None:
    """Positions are counted over the image alone, so they are the same however far the batch pads it."""
    from minidetr.model.position import sine_position

    alone = torch.zeros(1, 3, 5, dtype=torch.bool)
    padded = F.pad(alone, (0, 2, 0, 4), value=True)
    torch.testing.assert_close(sine_position(padded, 32)[..., :3, :5], sine_position(alone, 32))


def assert_same_result(ours: Panoptic, expected: Panoptic) -> None:
    assert len(ours.segments) == len(expected.segments)
    for a, b in zip(ours.segments, expected.segments, strict=True):
        assert (a.id, a.category_id, a.is_thing) == (b.id, b.category_id, b.is_thing)
        assert a.score == pytest.approx(b.score, abs=1e-4)
    assert ours.segment_ids.shape == expected.segment_ids.shape
    assert (ours.segment_ids == expected.segment_ids).mean() > 0.999


def test_segment_gives_every_image_the_same_result_in_any_batch(tiny: PanopticDETR) -> None:
    sizes = [(97, 130), (97, 130), (97, 130), (80, 150), (130, 97)]
    images = [photo(*size, seed) for seed, size in enumerate(sizes)]
    together = tiny.segment(images, threshold=0.2, batch_size=2)
    assert [result.segment_ids.shape for result in together] == sizes
    for image, result in zip(images, together, strict=True):
        (alone,) = tiny.segment([image], threshold=0.2)
        assert_same_result(result, alone)
        assert len(result.segments) > 2, "too few segments to tell a wrong result"


def test_segment_takes_paths_images_and_tensors(tiny: PanopticDETR, tmp_path: Path) -> None:
    pixels = photo(288, 384)  # the size that the preset resizes to
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    image.save(tmp_path / "photo.png")
    tiny.train()
    try:
        results = tiny.segment([tmp_path / "photo.png", str(tmp_path / "photo.png"), image, pixels, pixels / 255], threshold=0.2)
        assert tiny.training
        with pytest.raises(InputError, match="missing.png"):
            tiny.segment([tmp_path / "missing.png"])
        assert tiny.training
    finally:
        tiny.eval()
    for result in results[1:]:
        assert_same_result(result, results[0])
    assert len(results[0].segments) > 2
    assert tiny.segment([]) == []
    with pytest.raises(InputError, match="threshold.*1.5"):
        tiny.segment([pixels], threshold=1.5)
    with pytest.raises(InputError, match="threshold must be a number .*'0.5'"):
        tiny.segment([pixels], threshold="0.5")  # type: ignore[arg-type]


def test_threshold_drops_segments(tiny: PanopticDETR) -> None:
    pixels = photo(288, 384)
    (many,) = tiny.segment([pixels], 0.0)
    middle = sorted(s.score for s in many.segments)[len(many.segments) // 2]
    (few,), (none,) = (tiny.segment([pixels], threshold) for threshold in (middle, 1.0))
    assert len(many.segments) > len(few.segments) > len(none.segments) == 0
    assert min(s.score for s in few.segments) > middle
    assert (none.segment_ids == 0).all()


@torch.inference_mode()
def test_bfloat16_is_near_float32() -> None:
    model = PanopticDETR(TRAINABLE["tiny"], CATEGORIES).eval()  # as initialised: spread weights make every rounding loud
    batch = Batch.pad([picture(64, 96)])
    exact = model.detect(batch)
    pairs = all_pairs(exact)
    exact_masks = model.masks(exact, *pairs)
    with torch.autocast("cpu", torch.bfloat16):
        seen = model.detect(batch)
        masks = model.masks(seen, *pairs)
    assert masks.dtype == torch.bfloat16, "autocast is off"
    for ours, expected in ((seen.logits, exact.logits), (seen.boxes, exact.boxes), (masks, exact_masks)):
        error = (ours.float() - expected).square().mean().sqrt()
        assert 0 < error < 0.1 * expected.std()


@pytest.mark.slow
@pytest.mark.skipif(not any(shutil.which(name) for name in ("cc", "gcc", "clang", "cl")), reason="torch.compile needs a C compiler")
def test_compiled_mask_head_gives_the_same_numbers(tiny: PanopticDETR) -> None:
    with torch.no_grad():
        seen = tiny.detect(Batch.pad([picture(64, 96), picture(64, 96)]))
        image_index, query_index = torch.tensor([1, 0, 1]), torch.tensor([4, 2, 7])
        inputs = tiny.heatmaps(seen, image_index, query_index), seen.features, image_index
        torch.testing.assert_close(torch.compile(tiny.mask_head)(*inputs), tiny.mask_head(*inputs), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["tiny", "r18"])
def test_gradient_reaches_every_parameter(name: str) -> None:
    model = build(TRAINABLE[name]).train()
    seen = model.detect(Batch.pad([picture(64, 96), picture(96, 90)]))
    assert len(seen.auxiliary) == model.preset.decoder_layers - 1
    outputs = [seen.logits, seen.boxes, model.masks(seen, *all_pairs(seen)), *(t for layer in seen.auxiliary for t in layer)]
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    without = {key for key, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-3}
    # the first decoder layer's queries are zero, so its self-attention gives every query the same, whatever it attends to
    # (but for dropout, where there is some)
    assert without - {"decoder.layers.0.self_attention.in_proj_weight"} == set()


def test_frozen_statistics_are_no_parameters(r18: PanopticDETR) -> None:
    norms = [m for m in r18.backbone.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(norms) == 20
    assert all(not list(m.parameters()) and {k for k, _ in m.named_buffers()} >= {"weight", "bias", "running_var"} for m in norms)


def test_auxiliary_outputs_only_in_training(tiny: PanopticDETR) -> None:
    with torch.no_grad():
        assert tiny.detect(Batch.pad([picture(64, 64)])).auxiliary == []


def test_detection_model_has_no_masks() -> None:
    model = build(replace(TRAINABLE["tiny"], mask_widths=None))
    with torch.no_grad():
        seen = model.detect(Batch.pad([picture(64, 64)]))
    with pytest.raises(InputError, match="without a mask head"):
        model.masks(seen, torch.tensor([0]), torch.tensor([0]))


def test_unknown_backbone() -> None:
    with pytest.raises(InputError, match="'vgg'.*resnet18"):
        PanopticDETR(Preset(backbone="vgg"), CATEGORIES)


def test_classes_follow_from_the_largest_id(tiny: PanopticDETR) -> None:
    assert tiny.num_classes == C
    assert tiny.heads.classes.out_features == C + 1


def test_tiny_is_tiny() -> None:
    parameters = sum(p.numel() for p in PanopticDETR(TRAINABLE["tiny"], CATEGORIES).parameters())
    assert 2e6 < parameters < 4e6


def test_the_model_reads_in_one_sitting() -> None:
    files = list(Path(minidetr.model.__file__).parent.glob("*.py"))
    assert len(files) >= 8
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= 600


def test_every_public_name_has_a_docstring() -> None:
    names = [minidetr.model.__name__] + [f"minidetr.model.{m.name}" for m in pkgutil.iter_modules(minidetr.model.__path__)]
    for module in map(importlib.import_module, names):
        assert module.__doc__, module.__name__
        for name, item in vars(module).items():
            if name.startswith("_") or getattr(item, "__module__", None) != module.__name__ or not callable(item):
                continue
            assert inspect.getdoc(item), f"{module.__name__}.{name}"
            methods = vars(item).items() if inspect.isclass(item) else ()
            for method, function in methods:
                if not method.startswith("_") and (inspect.isfunction(function) or isinstance(function, classmethod)):
                    assert getattr(item, method).__doc__, f"{module.__name__}.{name}.{method}"


def test_results_are_plain_numpy(tiny: PanopticDETR) -> None:
    """Nothing of a result keeps a tensor, and with it the model's memory, alive."""
    (result,) = tiny.segment([photo(64, 96)], threshold=0.0)
    assert isinstance(result.segment_ids, np.ndarray) and result.segment_ids.dtype == np.int32
    for segment in result.segments:
        assert {type(segment.id), type(segment.area), type(segment.category_id)} == {int}
        assert type(segment.score) is float and type(segment.is_thing) is bool and all(type(v) is int for v in segment.box)
