"""The work itself, never its time: how many masks are computed, how many multiply-adds, how much is kept for the gradient."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from minidetr.course.cost import stage_costs
from minidetr.data.batch import Batch, same_size
from minidetr.data.images import normalise
from minidetr.model import PanopticDETR
from minidetr.model.backbone import Backbone
from minidetr.model.merge import merge
from minidetr.panoptic import Category
from minidetr.presets import preset
from tests.model.spread import spread

CATEGORIES = [Category(i, f"class {i}", is_thing=i > 4) for i in range(9)]


@pytest.fixture(scope="module")
def tiny() -> PanopticDETR:
    model = PanopticDETR(preset("tiny"), CATEGORIES)
    spread(model, model.preset.width)
    return model


def masks_of(model: PanopticDETR, batch: Batch, count: int) -> Tensor:
    """Masks of `count` objects spread over the batch; the rest of the model without a gradient."""
    with torch.no_grad():
        seen = model.detect(batch)
    return model.masks(seen, torch.arange(count) % len(batch.images), torch.arange(count))


def saved_bytes(run: Any) -> int:
    """What the forward pass of `run` keeps for the backward pass, parameters left out, each piece of memory once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = run()  # holds the graph, so that no memory is used twice
    assert alive is not None
    return sum(kept.values())


def test_segment_computes_the_kept_masks_and_no_others(tiny: PanopticDETR) -> None:
    seen: list[int] = []
    hooks = [
        tiny.mask_head.register_forward_hook(lambda module, inputs, output: seen.append(len(output))),
        tiny.heatmap_attention.register_forward_hook(lambda module, inputs, output: seen.append(len(output))),
    ]
    image = (F.interpolate(torch.rand(1, 3, 5, 6), (192, 256), mode="bicubic")[0].clamp(0, 1) * 255).byte()
    (many,) = tiny.segment([image], threshold=0.0)
    (few,) = tiny.segment([image], threshold=0.5)
    for hook in hooks:
        hook.remove()
    with torch.inference_mode():
        [(group, _)] = same_size([image], tiny.preset.short_side, tiny.preset.long_side, 1)
        scores, labels = tiny.detect(Batch.pad([normalise(image) for image in group])).logits[0].softmax(-1).max(-1)
    kept = [int(((scores > threshold) & (labels < len(CATEGORIES))).sum()) for threshold in (0.0, 0.5)]
    assert seen == [kept[0], kept[0], kept[1], kept[1]]
    assert len(many.segments) > len(few.segments) > 0


def test_multiply_adds_of_segment_are_those_promised(tiny: PanopticDETR) -> None:
    """And nothing is computed beside them: all of a run is counted, module or not."""
    batch, model = Batch.pad([torch.randn(3, 96, 128)]), deepcopy(tiny).requires_grad_(False)
    for count in (0, 3, 20):
        # attention as plain matrix products: the fused one is not in every version's count
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            masks_of(model, batch, count)
        expected = sum(c.multiply_adds for c in stage_costs(tiny.preset, 96, 128, count, classes=tiny.num_classes))
        assert counter.get_total_flops() == 2 * expected


def test_r50_stays_within_its_budget() -> None:
    """640x640 with 12 of 100 queries: what the published implementation spends on the mask head alone is 73 billion."""
    costs = {c.stage: c.multiply_adds / 1e9 for c in stage_costs(preset("r50"), 640, 640, 12)}
    assert sum(costs.values()) < 45.4
    assert costs["mask head, each object"] / 12 < 0.488
    assert costs["mask head, each image"] < 0.88


def test_what_training_keeps_grows_by_the_asked_objects_alone(tiny: PanopticDETR) -> None:
    batch = Batch.pad([torch.randn(3, 64, 96), torch.randn(3, 64, 96)])
    four, eight, twelve = (saved_bytes(lambda count=count: masks_of(tiny, batch, count)) for count in (4, 8, 12))
    assert twelve - eight == eight - four > 0
    outputs = {c.stage: c.activation_bytes for c in stage_costs(tiny.preset, 64, 96, 4)}
    per_object = outputs["mask head, each object"] + outputs["heatmaps"]
    assert (
        eight - four < 4 * per_object
    )  # each output once for its norm, once behind the ReLU, and the sums before the convolutions


def test_folded_norms_change_nothing_and_keep_no_more() -> None:
    """Against torchvision's own forward pass: features, gradients, and what is kept for the gradient."""
    backbone = Backbone("resnet18", 32, False, "frozen")
    generator = torch.Generator().manual_seed(0)
    for key, value in backbone.state_dict().items():
        if "bn" in key or "downsample.1" in key:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    net, images = backbone.resnet, torch.randn(2, 3, 64, 96, generator=generator)

    def plain() -> Tensor:
        x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
        return net.layer4(net.layer3(net.layer2(net.layer1(x))))

    def folded() -> Tensor:
        return backbone(images).res5

    expected, ours = plain(), folded()
    torch.testing.assert_close(ours, expected, atol=1e-4 * float(expected.detach().std()), rtol=1e-4)
    weight = net.layer2[0].conv1.weight
    gradients = [torch.autograd.grad(result.square().mean(), weight)[0] for result in (expected, ours)]
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4 * float(gradients[0].abs().max()), rtol=1e-3)
    with FlopCounterMode(display=False) as one:
        plain()
    with FlopCounterMode(display=False) as other:
        folded()
    assert other.get_total_flops() - one.get_total_flops() == 2 * 512 * 32 * 2 * 3 * 2  # the projection's alone


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation puts out."""

    numel = 0

    def __torch_dispatch__(self, function: Any, types: Any, positional: tuple = (), named: dict | None = None) -> Any:
        output = function(*positional, **(named or {}))
        if isinstance(output, Tensor):
            self.numel = max(self.numel, output.numel())
        return output


def test_merge_holds_one_full_size_mask_at_a_time() -> None:
    K, size = 30, (96, 128)
    masks = F.interpolate(torch.randn(1, K, 4, 5), (24, 32), mode="bicubic")[0]
    with Largest() as largest:
        result = merge(masks, torch.rand(K), torch.arange(K) % 9, {c.id: c for c in CATEGORIES}, size, size, size)
    assert len(result.segments) > 5
    assert largest.numel <= max(size[0] * size[1], masks.numel())
