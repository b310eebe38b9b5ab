"""What the lessons share: exercises that check themselves, the scenes they look at, and listings of the package's own source.

An exercise is a function with the learner's attempt as its argument and `require` inside:

    @exercise
    def transpose(attempt):
        x = torch.randn(2, 5)
        require(torch.equal(attempt(x), x.mT), "rows and columns are not exchanged")

In a notebook, `transpose(my_transpose)` prints one line: right, not done yet, or one sentence that says what is wrong. It never
raises, so that a notebook with unsolved exercises runs to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minidetr.course.listing import source as source
from minidetr.course.photographs import photograph as photograph
from minidetr.course.photographs import published_model as published_model
from minidetr.model import PanopticDETR
from minidetr.presets import preset
from minidetr.weights.published import cached, coco_categories


@dataclass(frozen=True)
class Verdict:
    """What a check found: "right", "wrong" or "not done yet", and the sentence for the learner."""

    state: str
    sentence: str


class Exercise:
    """A check that prints its verdict when it is called with the learner's attempt; `verdict` returns it instead (for tests)."""

    def __init__(self, check: Callable[[Any], None]) -> None:
        self.check, self.__name__, self.__doc__ = check, check.__name__, check.__doc__

    def __call__(self, attempt: Any) -> None:
        found = self.verdict(attempt)
        mark = {"right": "✓", "wrong": "✗", "not done yet": "…"}[found.state]
        print(f"{mark} {self.__name__}: {found.sentence}")

    def verdict(self, attempt: Any) -> Verdict:
        """Run the check on an attempt, with random numbers of its own; the learner's own exceptions become a sentence too."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                self.check(attempt)
            except NotDone:
                return Verdict("not done yet", "not done yet: replace the ... and run the cell again.")
            except Wrong as wrong:
                return Verdict("wrong", str(wrong))
            except Exception as error:  # whatever the learner's code raises is for the learner to read, not to crash the lesson
                return Verdict("wrong", f"your code raised {type(error).__name__}: {error}")
        return Verdict("right", "right.")


class Wrong(Exception):  # noqa: N818  # a verdict, not an error
    """An attempt is wrong; the message says in one sentence what is."""


class NotDone(Exception):  # noqa: N818
    """The attempt is still the stub."""


def exercise(check: Callable[[Any], None]) -> Exercise:
    """Decorator: make an `Exercise` of a function that takes the learner's attempt and calls `require` and its kind."""
    return Exercise(check)


def require(fact: object, sentence: str) -> None:
    """Raise `Wrong` with the sentence unless the fact holds."""
    if not fact:
        raise Wrong(sentence)


def answer(value: Any) -> Any:
    """What an attempt returned; a stub, which returns None or `...`, raises `NotDone`."""
    if value is None or value is ...:
        raise NotDone
    return value


def require_tensor(value: Any, shape: tuple[int, ...], what: str = "the result") -> Tensor:
    """The attempt's `value` if it is a finite tensor of that shape; otherwise `NotDone` or `Wrong`."""
    value = answer(value)
    require(isinstance(value, Tensor), f"{what} should be a tensor, not {type(value).__name__}.")
    require(tuple(value.shape) == tuple(shape), f"{what} should have the shape {sizes(shape)}, not {sizes(value.shape)}.")
    require(value.isfinite().all(), f"{what} has values that are NaN or infinite.")
    return value


def close(value: Tensor, expected: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two tensors of one shape agree up to `tolerance`, relative and absolute."""
    return torch.allclose(value.double(), expected.double(), rtol=tolerance, atol=tolerance)


def sizes(shape: Any) -> str:
    """A shape as the lessons write it: "100x256"."""
    return "x".join(str(size) for size in shape) or "a single number"


def show_shape(name: str, tensor: Tensor, expected: str) -> None:
    """Print a tensor's shape, and raise AssertionError unless it is `expected`, for example "256x20x20"."""
    found = sizes(tensor.shape)
    assert found == expected, f"{name} is {found}, not {expected}"
    print(f"{name}: {found}")


def reference_model() -> PanopticDETR:
    """DETR with ResNet-50 in eval mode: with the published weights if they have been downloaded, else random ones; it says which.

    Shapes are the same with both; what the tensors show is not.
    """
    if cached("detr-r50-panoptic"):
        print("ResNet-50 DETR with its published weights")
        return PanopticDETR.from_pretrained("detr-r50-panoptic").eval()
    print("ResNet-50 DETR with random weights: right for shapes, not for looking at (the published ones are not downloaded here)")
    torch.manual_seed(0)
    return PanopticDETR(preset("r50"), coco_categories(250), 250).eval()
