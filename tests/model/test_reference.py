"""Every stage against the published reference's numbers, with weights that follow from their names."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from minidetr.data.batch import Batch
from minidetr.model import PanopticDETR
from minidetr.model.merge import kept_queries, merge
from minidetr.model.position import sine_position
from minidetr.panoptic import Category
from minidetr.presets import PUBLISHED
from minidetr.weights.published import coco_categories, from_official, official_to_own, own_to_official
from tests.reference import REFERENCE, needs_reference

pytestmark = needs_reference

CASES = ("panoptic_r50_640", "panoptic_r50_padded")


def arrays(name: str) -> SimpleNamespace:
    """The arrays of a case as tensors, and its JSON texts as they are."""
    with np.load(REFERENCE / f"{name}.npz") as file:
        return SimpleNamespace(**{k: str(v) if v.dtype.kind == "U" else torch.from_numpy(v) for k, v in file.items()})


@pytest.fixture(scope="module")
def drawn() -> SimpleNamespace:
    """`weight(key, shape)` and `image(name, height, width)`, from which every case was computed."""
    spec = importlib.util.spec_from_file_location("reference_weights", REFERENCE / "weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return SimpleNamespace(weight=module.weight, image=module.image)


@pytest.fixture(scope="module")
def published_shapes() -> dict[str, dict[str, list[int]]]:
    """For the seven published models the shapes of their state dicts, by minidetr's names of the models."""
    shapes = json.loads((REFERENCE / "official_state_dicts.json").read_text())
    ours = {name.replace("detr_resnet", "detr-r").replace("_", "-"): name for name in shapes}
    assert ours.keys() == PUBLISHED.keys()
    return {name: shapes[theirs] for name, theirs in ours.items()}


@pytest.fixture(scope="module")
def model(drawn: SimpleNamespace, published_shapes: dict) -> PanopticDETR:
    """The R50 panoptic model with the weights of the cases."""
    shapes = published_shapes["detr-r50-panoptic"]
    state = {key: torch.from_numpy(np.asarray(drawn.weight(key, tuple(shape)))) for key, shape in shapes.items()}
    return from_official(state, "detr-r50-panoptic")


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, model: PanopticDETR, drawn: SimpleNamespace) -> SimpleNamespace:
    """A case's expected arrays and what minidetr computes for the same images and queries."""
    expected = arrays(request.param)
    images = [torch.from_numpy(drawn.image(*name_and_size)) for name_and_size in json.loads(expected.case)["images"]]
    picked, count = expected.query_index, len(images)
    with torch.inference_mode():
        seen = model.detect(Batch.pad(images))
        pairs = torch.arange(count).repeat_interleave(len(picked)), picked.repeat(count)
        heatmaps, masks = model.heatmaps(seen, *pairs), model.masks(seen, *pairs)
    return SimpleNamespace(
        expected=expected,
        seen=seen,
        heatmaps=heatmaps.unflatten(0, (count, len(picked))),
        masks=masks.unflatten(0, (count, len(picked))),
    )


STAGES: dict[str, tuple[Callable[[SimpleNamespace], Tensor], float]] = {  # array of the case -> (ours, tolerance)
    "padding_mask": (lambda c: c.seen.padding, 0),
    "position": (lambda c: sine_position(c.seen.padding, c.seen.memory.shape[1])[:, ::16], 1e-4),
    "features": (lambda c: c.seen.features.projected, 1e-4),
    "memory": (lambda c: c.seen.memory, 1e-4),
    "queries_out": (lambda c: c.seen.queries, 1e-4),
    "logits": (lambda c: c.seen.logits, 1e-4),
    "boxes": (lambda c: c.seen.boxes, 1e-4),
    "heatmaps": (lambda c: c.heatmaps, 1e-4),
    "masks": (lambda c: c.masks, 2e-3),
}


@pytest.mark.parametrize("stage", STAGES)
def test_stage_equals_the_reference(case: SimpleNamespace, stage: str) -> None:
    ours, tolerance = STAGES[stage]
    torch.testing.assert_close(ours(case), getattr(case.expected, stage), atol=tolerance, rtol=0)


def test_the_masks_of_the_case_differ_by_query(case: SimpleNamespace) -> None:
    """Otherwise a mask head that mixes its queries up would pass."""
    assert case.expected.masks.std(dim=1).mean() > 5 * STAGES["masks"][1]


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_and_shapes_of_the_published_models(published_shapes: dict, name: str) -> None:
    published = {key: torch.empty(shape, device="meta") for key, shape in published_shapes[name].items()}
    classes = 250 if "panoptic" in name else 91
    with torch.device("meta"):
        model = PanopticDETR(PUBLISHED[name][0], coco_categories(classes), classes)
    own = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in official_to_own(published).items()} == own
    back = own_to_official(model.state_dict())
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in published.items()}


def test_merge_equals_the_reference() -> None:
    expected = arrays("merge")
    size = tuple(expected.size.tolist())
    categories = {i: Category(i, f"class {i}", bool(thing)) for i, thing in enumerate(expected.is_thing)}
    query_index, scores, labels = kept_queries(expected.logits, 0.85, categories)
    ours = merge(expected.masks[query_index], scores, labels, categories, size, size, size)

    theirs = json.loads(expected.segments)
    renumbered = np.zeros_like(ours.segment_ids)  # the reference counts from 0, in an order of its own
    for segment in theirs:
        place = expected.segment_ids.numpy() == segment["id"]
        renumbered[place] = np.bincount(ours.segment_ids[place]).argmax()
    assert len(np.unique(renumbered)) == len(theirs)
    np.testing.assert_array_equal(ours.segment_ids, renumbered)
    rows = [(s["category_id"], s["isthing"], s["area"]) for s in theirs]
    assert sorted((s.category_id, s.is_thing, s.area) for s in ours.segments) == sorted(rows)
