"""An iteration's numbers, on their way from the device to the host."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Sent:
    """Losses and gradient norm of an iteration, fetched without waiting: a GPU is an iteration behind the program it runs.

    They are read when the next iteration has waited for the GPU anyway, for the Hungarian matching.
    """

    names: tuple[str, ...]
    values: Tensor  # one for each name
    row: dict[str, float]  # what else losses.csv has of the iteration
    images: list[int | str]
    arrived: torch.cuda.Event | None = field(default=None, repr=False)

    @classmethod
    def off(cls, losses: dict[str, Tensor], images: list[int | str]) -> Sent:
        """Send scalars of any device on their way; `images` are the ids of the batch's."""
        values = torch.stack([value.detach().float() for value in losses.values()])
        if values.device.type != "cuda":
            return cls(tuple(losses), values.cpu(), {}, images)
        host = torch.empty(values.shape).pin_memory()  # only there can a copy arrive while the program goes on
        host.copy_(values, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return cls(tuple(losses), host, {}, images, arrived)

    def read(self) -> dict[str, float]:
        """The numbers by name, as soon as they are there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return dict(zip(self.names, self.values.tolist(), strict=True))


def not_finite(losses: dict[str, float], ignore_gradient: bool) -> str:
    """What is no longer finite, in words, "" if all is; `losses` with their "total" and the norm of their "gradient"."""
    if not math.isfinite(losses["total"]):
        wrong = [name for name, value in losses.items() if not math.isfinite(value) and name not in ("total", "gradient")]
        return f"the loss ({', '.join(wrong) or 'total'}) is not finite"
    return "" if ignore_gradient or math.isfinite(losses["gradient"]) else "the gradient is not finite"
