"""The model of lesson 13: equal to the package's, every piece replaceable, simple enough to read, and able to learn."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from safetensors.torch import load_file

from minidetr import PanopticDETR, weights
from minidetr.course import lesson13, own, own_training
from minidetr.data.batch import Batch
from minidetr.model.merge import merge
from minidetr.scenes.dataset import HELD_OUT_SEED, SceneData
from minidetr.scenes.painters import CATEGORIES
from minidetr.training.feed import collate
from minidetr.training.losses import LossWeights, SetLoss
from minidetr.training.objective import grid_class_loss, segment_shares

THINGS = {category.id for category in CATEGORIES if category.is_thing}


@pytest.fixture(autouse=True)
def pieces_of_its_own() -> Iterator[None]:
    yield
    own.restore()


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(files(weights) / "tiny.safetensors")


@pytest.fixture(scope="module")
def model(tensors: dict[str, torch.Tensor]) -> own.DETR:
    model = own.DETR().eval()
    assert own.load(model, tensors) == ([], [])
    return model


@pytest.fixture(scope="module")
def tiny() -> PanopticDETR:
    return PanopticDETR.from_pretrained("tiny").eval()


@pytest.fixture(scope="module")
def scenes() -> tuple[Batch, list[Any]]:
    """Two scenes of unequal size, so that one is padded, in height and width by different amounts."""
    return collate([SceneData(1, HELD_OUT_SEED, 160)[0], SceneData(1, HELD_OUT_SEED + 1, 112)[0]])


def test_every_stage_equals_the_package(model, tiny, scenes):
    found = lesson13.Differences({"own": lesson13.differences(model, tiny, *scenes)})
    assert found.wrong("own") == []
    assert "03 encoder layer 2" in str(found) and "| 07 mask logits |" in found._repr_markdown_()


def test_the_planted_mistakes_show_where_the_lesson_says(model, tiny, scenes):
    first = {"A": "03 encoded image", "B": "04 decoder layer 2", "C": "05 cost matrix"}
    for letter, mistake in lesson13.PLANTED.items():
        with lesson13.replaced(**mistake):
            found = lesson13.Differences({letter: lesson13.differences(model, tiny, *scenes)})
        assert found.wrong(letter)[0] == first[letter]
        assert "**" in found._repr_markdown_()


def test_segments_equal_the_package(model, tiny):
    image, _ = SceneData(1, HELD_OUT_SEED, 288)[0]
    ids, labels = own.segment(model, image, THINGS)
    batch = Batch.pad([image])
    with torch.inference_mode():
        [theirs] = tiny.panoptic(tiny.detect(batch), batch, [(288, 288)], 0.7)
    assert [segment.category_id for segment in theirs.segments] == labels.tolist()
    assert (ids.numpy() != theirs.segment_ids).sum() <= 8


def test_no_kept_query_gives_no_segment(model):
    ids, labels = own.segment(model, torch.zeros(3, 64, 96), THINGS, threshold=1.0)
    assert ids.shape == (64, 96) and not ids.any() and len(labels) == 0


def test_merging_equals_the_package():
    """Duplicates of stuff, crumbs, of both kinds, and padding."""
    categories = {category.id: category for category in CATEGORIES}
    stuff = next(c for c in categories if c not in THINGS)
    for seed in range(20):
        torch.manual_seed(seed)
        labels = torch.tensor([*torch.randint(1, 11, (6,)).tolist(), stuff, stuff])
        logits = torch.randn(8, 6, 9) + 3 * torch.randn(8, 1, 1)
        logits[1] = -9  # wins nowhere
        theirs = merge(logits, torch.rand(8), labels, categories, (24, 36), (21, 30), (21, 30))
        ids, found = own.merge(logits, labels, THINGS, (24, 36), (21, 30))
        assert (ids.numpy() == theirs.segment_ids).all()
        assert found.tolist() == [segment.category_id for segment in theirs.segments]


def test_nothing_but_crumbs_is_void():
    ids, labels = own.merge(torch.zeros(2, 1, 1), torch.tensor([1, 1]), {1}, (2, 2), (2, 2))
    assert not ids.any() and len(labels) == 0


@torch.no_grad()
def test_losses_equal_the_package(model, tiny):
    batch, targets = collate([SceneData(3, HELD_OUT_SEED, 96)[k] for k in range(3)])
    seen = own.detect(model, batch.images, batch.padding)
    found = own_training.set_loss(model, seen, targets)
    tiny.train()
    for module in tiny.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    theirs = tiny.detect(batch)
    tiny.eval()
    weights_ = LossWeights(focal=20.0, dice=2.0, no_object=own_training.NO_OBJECT)
    expected = SetLoss(weights_, mask_stride=4)(theirs, targets, lambda *k: tiny.masks(theirs, *k), batch.size)
    for name in ("class", "l1", "giou", "focal", "dice"):
        assert float(found[name]) == pytest.approx(
            sum(float(v) for k, v in expected.items() if k.partition("_")[0] == name and k != "class_error"), rel=1e-4
        )
    cells = tiny.heads(theirs.memory.flatten(2).mT)[0].mT.unflatten(2, theirs.memory.shape[-2:])
    cells = grid_class_loss(cells, targets, segment_shares(targets, batch.size, cells.shape[-2:]))
    assert float(found["cells"]) == pytest.approx(float(cells), rel=1e-4)
    assert float(found["total"]) == pytest.approx(float(expected["total"] + own_training.WEIGHTS["cells"] * cells), rel=1e-4)


class Called(Exception):  # noqa: N818
    """A replaced piece was called."""


def test_every_lesson_has_its_pieces():
    assert list(own.OURS) and set(own.OURS) == {name for names in own.PIECES.values() for name in names}
    assert list(own.PIECES) == sorted(own.PIECES)


@pytest.mark.parametrize("name", sorted({name for names in own.PIECES.values() for name in names}))
def test_a_replaced_piece_is_really_called(name, model):
    def run() -> None:
        image, target = SceneData(1, HELD_OUT_SEED, 64)[0]
        own.segment(model, image, THINGS, threshold=0.1)
        trained = own_training.start(own.DETR())
        own_training.train(trained, own_training.batches([(image, target)] * 2, 2), 1)

    def mine(*given: Any, **options: Any) -> Any:
        raise Called(name)

    own.use(**{name: mine})
    with pytest.raises(Called, match=name):
        run()
    own.restore()
    run()


NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SOLUTION = re.compile(r"<summary>Solution</summary>.*?```python\n(.*?)```", re.DOTALL)


def solutions() -> Iterator[tuple[str, str, str]]:
    """Of every exercise in lessons 02 to 09 whose answer is a piece: the piece's name, its lesson, the imports and the code."""
    for path in sorted(NOTEBOOKS.glob("0[2-9]_*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        code = [c.source for c in cells if c.cell_type == "code" and "google.colab" not in c.source][:2]
        imports = "\n".join(line for source in code for line in source.splitlines() if line.startswith(("import ", "from ")))
        for cell in cells:
            for solution in SOLUTION.findall(cell.source):
                for name in re.findall(r"^def (\w+)", solution, re.MULTILINE):
                    if name in own.OURS:
                        yield name, path.name[:2], f"{imports}\n{solution}"


SOLUTIONS = [pytest.param(*found[1:], found[0], id=f"{found[1]}-{found[0]}") for found in solutions()]


def test_most_pieces_are_exercises():
    assert len(SOLUTIONS) >= 12


@pytest.mark.parametrize("lesson, code, name", SOLUTIONS)
def test_a_lessons_solution_is_a_piece(lesson, code, name, model, tiny):
    """Put in the place of ours, it computes the same; where it uses something of its lesson, `own` has that, too."""
    assert name in own.PIECES[lesson]
    scope: dict[str, Any] = {"attention": own.attention}
    exec(code, scope)
    image, target = SceneData(1, HELD_OUT_SEED, 96)[0]
    before = own.segment(model, image, THINGS)
    own.use(**{name: scope[name]})
    assert lesson13.Differences({"own": lesson13.differences(model, tiny, *collate([(image, target)] * 2))}).wrong("own") == []
    after = own.segment(model, image, THINGS)
    assert (before[0] != after[0]).sum() <= 4 and torch.equal(before[1], after[1])


def test_an_unknown_piece_is_named():
    with pytest.raises(NameError, match="no piece gious: the pieces are .*giou"):
        own.use(gious=lambda: None)


def test_the_loader_says_what_is_missing_left_over_or_of_another_shape(tensors):
    fewer = {row: theirs for row, theirs in own.NAMES.items() if row != "classes."}
    missing, left_over = own.load(own.DETR(), tensors, fewer)
    assert missing == ["classes.weight", "classes.bias"]
    assert left_over == ["heads.classes.bias", "heads.classes.weight"]
    with pytest.raises(ValueError, match=r"classes.weight is \[6, 128\], but heads.classes.weight is \[12, 128\]"):
        own.load(own.DETR(classes=5), tensors)


def test_it_learns():
    torch.manual_seed(0)
    data = SceneData(2, 0, 64)
    history = own_training.train(own_training.start(own.DETR()), own_training.batches([data[0], data[1]], 2), 12, rate=3e-4)
    assert len(history) == 12
    assert min(history[-3:]) < 0.8 * history[0]


def test_a_mirrored_scene_has_the_boxes_of_its_masks():
    image, target = SceneData(1, 3, 96)[0]
    flipped, mirrored = own_training.mirrored(image, target)
    assert torch.equal(flipped.flip(-1), image)
    for mask, (x, y, w, h) in zip(mirrored.masks, mirrored.boxes * 96, strict=True):
        rows, columns = mask.nonzero().unbind(1)
        edges = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        torch.testing.assert_close(edges, torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2]), atol=1e-3, rtol=0)


def test_it_is_plain_pytorch_and_short():
    for module in (own, own_training):
        code = Path(module.__file__).read_text(encoding="utf-8")
        assert sum(bool(line.strip()) for line in code.splitlines()) <= 300
        imported = {getattr(node, "module", None) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)}
        assert {name for name in imported if name.startswith("minidetr")} <= {"minidetr.course"}
