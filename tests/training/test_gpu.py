"""That a GPU would not be waited for, without one: tensors of the device "meta" have a shape and no numbers.

Whatever asks one of them for a number raises: `.item()`, `float()`, a selection by a mask, a copy to the host.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from minidetr.after import build
from minidetr.data.batch import Batch
from minidetr.data.targets import PackedTarget
from minidetr.panoptic import Category
from minidetr.presets import TRAINABLE
from minidetr.training import matching, step
from minidetr.training.losses import SetLoss
from minidetr.training.options import TrainOptions

GPU = torch.device("meta")


@pytest.fixture
def gpu(monkeypatch):
    """An accelerator with a GPU that can't be asked, but by `.cpu()`, which is counted."""
    fetched: list[torch.Size] = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: fetched.append(self.shape) or torch.zeros(self.shape))
    real = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, fused, **more: real(groups, **more))  # torch's has none for meta
    return SimpleNamespace(
        fetched=fetched,
        device=GPU,
        mixed_precision="no",
        num_processes=1,
        process_index=0,
        scaler=None,
        print=print,
        prepare=lambda *things: things,
        backward=lambda loss: loss.backward(),
        no_sync=lambda model: nullcontext(),
        clip_grad_norm_=torch.nn.utils.clip_grad_norm_,
    )


def one_step(accelerator, name: str, **options) -> step.Step:
    settings = TrainOptions(**{"preset": "tiny", "quiet": True} | options).filled()
    run = step.Run(accelerator, settings, range(8), range(1), {}, step.Place(), None)
    model = build(TRAINABLE[settings.preset], [Category(1, "a", True), Category(2, "b", False)])
    return step.Step(run, model, name, None)


def a_batch() -> tuple[Batch, list[PackedTarget]]:
    images, targets = [torch.zeros(3, 64, 96), torch.zeros(3, 64, 64)], []
    for image, count in zip(images, (3, 2), strict=True):
        number = torch.zeros(image.shape[1:], dtype=torch.int16)
        targets.append(PackedTarget(torch.ones(count, dtype=torch.long), torch.full((count, 4), 0.5), number, 0, (64, 96)))
    return Batch.pad(images), targets


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("joint", {}),
        ("joint", {"preset": "r18", "recipe": "fine-tuning"}),
        ("joint", {"accumulate": 2}),
        ("boxes", {"preset": "r50"}),
        ("masks", {"mask_stride": 1}),
        ("joint", {"preset": "tiny-after", "denoise": 2}),
        ("joint", {"preset": "tiny-after", "groups": 3}),
    ],
)
def test_an_iteration_waits_for_a_gpu_once_for_the_matching(gpu, name, options):
    this = one_step(gpu, name, **options)
    batch, targets = a_batch()
    this.wrapped.train()
    queries, layers = this.model.preset.queries, 1 if name == "masks" else this.model.preset.decoder_layers
    parts = options.get("accumulate", 1)
    counts = [[3 * queries * layers], [2 * queries * layers]] if parts == 2 else [[5 * queries * layers]]
    if "groups" in options:
        counts.append([5 * queries * layers * (options["groups"] - 1)])  # matched once the model's own are
    for _ in range(2):  # the second one finds the optimiser's state and the average there
        off = this.iterate(batch, targets, 1.0)
        costs, losses = gpu.fetched[:-1], gpu.fetched[-1]
        assert [list(shape) for shape in costs] == counts  # those of all layers at once, for each part of the batch
        assert losses == off.values.shape == (len(off.names),)  # on a GPU they arrive by themselves, see below
        gpu.fetched.clear()
    assert "total" in off.names and "gradient" in off.names


def test_the_losses_arrive_by_themselves_and_are_read_an_iteration_later(monkeypatch):
    """`Sent.off` on a GPU, played: pinned memory, a copy that is not waited for, an event to know when it is there."""
    told = []

    class OnGpu:
        def __init__(self, values: Tensor):
            self.values, self.shape, self.device = values, values.shape, torch.device("cuda")

    class Event:
        def record(self):
            told.append("recorded")

        def synchronize(self):
            told.append("waited")

    def copy(host, values, non_blocking):
        told.append(f"copied, non_blocking={non_blocking}")
        return host.fill_(7)

    monkeypatch.setattr(torch, "stack", lambda values: OnGpu(torch.tensor(values)))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: told.append("pinned") or self)
    monkeypatch.setattr(Tensor, "copy_", copy)
    off = step.Sent.off({"total": torch.tensor(1.0), "l1": torch.tensor(2.0)}, [5])
    assert told == ["pinned", "copied, non_blocking=True", "recorded"]
    assert off.read() == {"total": 7.0, "l1": 7.0} and told[-1] == "waited"


@pytest.mark.parametrize(
    "asks",
    [
        lambda losses: float(losses["total"]),
        lambda losses: bool(torch.isfinite(losses["total"])),
        lambda losses: losses["total"].tolist(),
        lambda losses: losses["total"][losses["total"] > 0],
    ],
)
def test_asking_for_a_number_is_found(gpu, monkeypatch, asks):
    """The first test can fail."""
    real = SetLoss.__call__
    monkeypatch.setattr(SetLoss, "__call__", lambda *a, **k: (losses := real(*a, **k), asks(losses))[0])
    this = one_step(gpu, "boxes")
    with pytest.raises((RuntimeError, NotImplementedError), match="meta|Meta"):
        this.iterate(*a_batch(), 1.0)


def test_every_layer_s_costs_are_fetched_in_one_transfer(gpu):
    """And matched as if each had been fetched alone."""
    layers = [(torch.randn(2, 6, 4), torch.rand(2, 6, 4)) for _ in range(3)]
    targets = [packed.to("cpu") for packed in a_batch()[1]]
    for matches, layer in zip(matching.match_layers(layers, targets), layers, strict=True):
        alone = matching.match(*layer, targets)
        assert torch.equal(matches.query_index, alone.query_index) and torch.equal(matches.image_index, alone.image_index)
    assert len(gpu.fetched) == 1 + 3


def test_masks_are_unpacked_on_the_device():
    _, targets = a_batch()
    target = targets[0].to(GPU)
    assert target.masks.shape == (3, 64, 96) and target.masks.device == GPU and target.masks.dtype == torch.bool
