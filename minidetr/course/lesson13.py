"""Lesson 13, your own DETR: its checks, the comparison with the package stage by stage, and its pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from minidetr.course import Wrong, answer, close, exercise, own, own_training, require, require_tensor
from minidetr.course.figures import titled
from minidetr.course.schematic import Schematic
from minidetr.course.trace import plain
from minidetr.data.batch import Batch
from minidetr.data.images import denormalise
from minidetr.evaluate.panoptic_quality import PanopticQuality, QualityCounts
from minidetr.model import PanopticDETR
from minidetr.model.position import sine_position
from minidetr.panoptic import Category, Panoptic
from minidetr.plot import new_figure, overlay, picture_of
from minidetr.training.losses import LossWeights, SetLoss
from minidetr.training.matching import matching_cost

# --- checks -----------------------------------------------------------------------------------------------------------------


@exercise
def whole_way(attempt: Callable[..., Any]) -> None:
    """`attempt(model, images, padding)` -> features, memory B d h w, and for each decoder layer queries, logits and boxes."""
    model = own.DETR(classes=4, d=32, heads=4, hidden=24, queries=7).eval()
    with torch.no_grad():
        for norm in (model.final_norm, *(m for layer in model.decoder for m in layer.modules() if isinstance(m, nn.LayerNorm))):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_()
    images, padding = torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool)
    padding[1, :, 64:] = padding[1, 48:] = True
    images.masked_fill_(padding[:, None], 0)
    with torch.no_grad():
        expected = own.OURS["detect"](model, images, padding)
        found = answer(attempt(model, images.clone(), padding.clone()))
        require(isinstance(found, tuple) and len(found) == 5, "return five things: features, memory, queries, logits, boxes.")
        _, memory, queries, logits, boxes = found
        memory = require_tensor(memory, (2, 32, 4, 6), "memory")
        inside = ~expected.padding[:, None].expand_as(memory)
        require(not close(memory, expected.features.projected), "memory is what the backbone gave: it should pass the encoder.")
        mistakes: dict[str, dict[str, Any]] = {
            "the encoder's layers should know the positions.": {"positions": lambda p, d: torch.zeros(len(p), d, *p.shape[1:])},
            "the encoder attends to padded cells: give it the padding, as B h*w.": {"attention_weights": unpadded},
        }
        for what, changed in mistakes.items():
            with replaced(**changed):
                wrong = own.OURS["detect"](model, images, padding)
            require(not close(memory[inside], wrong.memory[inside]), what)
        require(close(memory[inside], expected.memory[inside]), "memory is wrong: does x pass every encoder layer, then to_grid?")
        queries = require_tensor(queries, (3, 2, 7, 32), "queries, stacked over the layers,")
        bare, fed = decoded(model, expected, False, False), decoded(model, expected, True, True)
        require(not close(queries, bare), "each layer's output should pass the final norm before it is kept.")
        require(not close(queries, fed), "the next layer gets x as it was before the final norm.")
        seeing = decoded(model, expected, True, False, padding=False)
        require(not close(queries, seeing), "the decoder looks at padded cells: give it the padding, too.")
        placeless = decoded(model, expected, True, False, position=False)
        require(not close(queries, placeless), "the decoder's layers should know the positions of the image's cells.")
        require(close(queries, expected.queries), "queries are wrong: they start at 0, and pass layer after layer.")
        logits = require_tensor(logits, tuple(expected.logits.shape), "logits")
        require(close(logits, expected.logits), "logits are what model.classes makes of the queries, nothing more.")
        boxes = require_tensor(boxes, tuple(expected.boxes.shape), "boxes")
        require(not close(boxes, model.boxes(expected.queries)), "boxes should lie in 0..1: a sigmoid is missing.")
        require(close(boxes, expected.boxes), "boxes are the sigmoid of what model.boxes makes of the queries.")


def unpadded(query: Tensor, key: Tensor, heads: int, padding: Tensor) -> Tensor:
    """Attention that forgets the padding."""
    return own.OURS["attention_weights"](query, key, heads, torch.zeros_like(padding))


def decoded(model: Any, seen: own.Seen, norm: bool, fed: bool, position: bool = True, padding: bool = True) -> Tensor:
    """What the decoder makes of `seen.memory`: with the final `norm` or without; `fed`: its output goes to the next layer."""
    memory, hidden = own.to_sequence(seen.memory), seen.padding.flatten(1) & padding
    places = own.to_sequence(own.positions(seen.padding, model.d)) * position
    embedding = model.queries.expand(len(memory), -1, -1)
    x, layers = torch.zeros_like(embedding), []
    for layer in model.decoder:
        x = own.decoder_layer(layer, x, embedding, memory, places, hidden)
        layers.append(model.final_norm(x) if norm else x)
        x = layers[-1] if fed else x
    return torch.stack(layers)


@exercise
def missing_rows(attempt: Any) -> None:
    """Three rows of the table of names: what a weight's name begins with -> and in the file."""
    rows = answer(attempt)
    if any(value is ... for value in rows.values()):
        answer(None)
    for row, theirs in rows.items():
        require(row in own.NAMES, f"there is no weight that begins with {row!r}.")
        expected = own.NAMES[row]
        require(isinstance(theirs, str), f"{row!r} should have a text.")
        require(theirs.rstrip(".") != expected.rstrip(".") or theirs == expected, f"{row!r}: nearly. Mind the dot at the end.")
        require(theirs.count("#") == row.count("#"), f"{row!r}: # stands for a number, as often in the file's name as in yours.")
        require(
            theirs.rstrip("._") + "_" != expected or theirs == expected, f"{row!r}: in_proj_weight, so it ends in an underscore."
        )
        require(theirs == expected, f"{row!r}: the weights stay as they were. Look through the names that nobody asked for.")
    require(rows.keys() >= WANTED, f"the row of {', '.join(sorted(WANTED - rows.keys()))} is still missing.")


WANTED = {"stage#.skip_norm.", "queries", "decoder.#.cross_attention.inputs."}
KNOWN_ROWS = {row: theirs for row, theirs in own.NAMES.items() if row not in WANTED}


@exercise
def one_step(attempt: Callable[..., Any]) -> None:
    """`attempt(optimizer, model, loss)`: one step against the gradient, clipped to length 1, and nothing left of older ones."""

    def walk(do: Callable[..., Any], scale: float) -> tuple[Tensor, Tensor]:
        """Weights and gradients after two steps of `do`; the model has a gradient from before."""
        torch.manual_seed(3)
        model, x = nn.Linear(5, 3), torch.randn(7, 5)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        model(10 * x).sum().backward()
        for _ in range(2):
            do(optimizer, model, scale * model(x).square().sum())
        parameters = list(model.parameters())
        gradients = torch.cat([torch.zeros(0) if p.grad is None else p.grad.flatten() for p in parameters])
        return torch.cat([p.detach().flatten() for p in parameters]), gradients

    def variant(zero: bool = True, clip: str = "norm", sign: int = 1) -> Callable[..., None]:
        def do(optimizer: Any, model: Any, loss: Tensor) -> None:
            if zero:
                optimizer.zero_grad()
            (sign * loss).backward()
            if clip:
                clips: dict[str, Any] = {"norm": nn.utils.clip_grad_norm_, "value": nn.utils.clip_grad_value_}
                clips[clip](model.parameters(), 1.0)
            optimizer.step()

        return do

    (steep, gradient), (flat, _) = walk(attempt, 5.0), walk(attempt, 1e-3)
    start, before = walk(lambda *_: None, 5.0)
    if close(steep, start):
        if len(gradient) == len(before) and close(gradient, before):
            answer(None)
        raise Wrong("the weights stay as they were: call optimizer.step() at the end.")
    in_time = " in time, afterwards it changes nothing" if gradient.norm() < 1.01 else ""
    for sentence, wrong in {
        "the gradients of the step before are still there: optimizer.zero_grad() first.": variant(zero=False),
        f"the gradient is not clipped{in_time}: a single bad batch may take a huge step.": variant(clip=""),
        "each number is clipped by itself, which turns the gradient: clip its length.": variant(clip="value"),
        "the loss grows: backward of the loss itself, the optimiser walks against the gradient.": variant(sign=-1),
    }.items():
        require(not close(steep, walk(wrong, 5.0)[0]), sentence)
    right = close(steep, walk(variant(), 5.0)[0]) and close(flat, walk(variant(), 1e-3)[0])
    require(right, "another step than: empty the gradients, backward, clip their length to 1 (a shorter one stays), step.")


@exercise
def culprits(attempt: Any) -> None:
    """The planted mistake of each of the models A, B, C: its number in the lesson's list."""
    found = answer(attempt)
    if any(value is ... for value in found.values()):
        answer(None)
    for letter, right in {"A": 3, "B": 5, "C": 7}.items():
        number = found.get(letter)
        require(number in ELSEWHERE, f"{letter}: a number from 1 to 7.")
        wrong = ELSEWHERE.get(number, "").format(f"mistake {number}")
        require(number == right, f"{letter}: {wrong}Which row is the first that is wrong, and which later ones are right?")


ELSEWHERE = {  # what would be wrong with each mistake
    1: "With {} the positions would be wrong. ",
    2: "With {} the encoder's layers would be wrong. ",
    3: "With {} the encoder's and decoder's layers would be right, and the encoded image wrong. ",
    4: "With {} the heatmaps would be the first that are wrong. ",
    5: "With {} the decoder's second layer would be the first that is wrong. ",
    6: "With {} the masks would be wrong, and the heatmaps right. ",
    7: "With {} all that is computed from the image would be right. ",
}


def columns_first(sequence: Tensor, h: int, w: int) -> Tensor:
    """A wrong `to_grid`: column after column."""
    return sequence.mT.unflatten(2, (w, h)).mT


def unnamed_queries(layer: Any, x: Tensor, embedding: Tensor, memory: Tensor, position: Tensor, padding: Tensor) -> Tensor:
    """A wrong `decoder_layer`: in self-attention no query knows which one it is."""
    none = torch.zeros(x.shape[:2], dtype=torch.bool)
    x = layer.norm1(x + own.attention(layer.self_attention, x, x, x, none))
    x = layer.norm2(x + own.attention(layer.cross_attention, x + embedding, memory + position, memory, padding))
    return layer.norm3(x + layer.linear2(layer.linear1(x).relu()))


def without_hull(a: Tensor, b: Tensor) -> Tensor:
    """A wrong `giou`: plain IoU."""
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    return overlap / ((a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - overlap)


PLANTED: dict[str, dict[str, Any]] = {
    "A": {"to_grid": columns_first},
    "B": {"decoder_layer": unnamed_queries},
    "C": {"giou": without_hull},
}


# --- what is measured -------------------------------------------------------------------------------------------------------


@contextmanager
def replaced(**mine: Any) -> Iterator[None]:
    """`own.use` for a while: afterwards the pieces are those of before."""
    before = {name: getattr(own if hasattr(own, name) else own_training, name) for name in mine}
    own.use(**mine)
    try:
        yield
    finally:
        own.use(**before)


@contextmanager
def watched(*names: str) -> Iterator[dict[str, list[Any]]]:
    """What pieces return inside, call by call; whoever's they are."""
    results: dict[str, list[Any]] = {name: [] for name in names}

    def watch(name: str, function: Any) -> Any:
        def told(*given: Any, **options: Any) -> Any:
            results[name].append(function(*given, **options))
            return results[name][-1]

        return told

    pieces = {name: getattr(own if hasattr(own, name) else own_training, name) for name in names}
    with replaced(**{name: watch(name, function) for name, function in pieces.items()}):
        yield results


@dataclass(frozen=True)
class Differences:
    """Stage by stage the largest difference between a model of `own` and the package's; a column for each comparison."""

    columns: dict[str, dict[str, float]]  # title -> stage -> difference

    def __repr__(self) -> str:
        lines = [f"{'':24}" + "".join(f"{title:>12}" for title in self.columns)]
        for stage in next(iter(self.columns.values())):
            lines.append(f"{stage:24}" + "".join(f"{column[stage]:12.1e}" for column in self.columns.values()))
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        def cell(value: float) -> str:
            return f"**{value:.1e}**" if value > TOLERANCE else f"{value:.0e}"

        lines = [f"| stage | {' | '.join(self.columns)} |", "|---|" + "---|" * len(self.columns)]
        for stage in next(iter(self.columns.values())):
            lines.append(f"| {stage} | " + " | ".join(cell(column[stage]) for column in self.columns.values()) + " |")
        return "\n".join(lines)

    def wrong(self, title: str) -> list[str]:
        """The stages that differ by more than rounding does."""
        return [stage for stage, value in self.columns[title].items() if value > TOLERANCE]


TOLERANCE = 1e-3  # values are of the order of 1; the rounding errors of float32 add up to some 1e-5


@torch.no_grad()
def differences(model: Any, reference: PanopticDETR, batch: Batch, targets: Sequence[Any]) -> dict[str, float]:
    """For each stage the largest difference of any number; `reference` has the same weights. Losses in eval mode."""
    kept: dict[str, list[Tensor]] = {"encoder": [], "decoder": []}
    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: kept[name].append(output))
        for name in kept
        for layer in getattr(reference, name).layers
    ]
    seen = reference.eval().detect(batch)
    for hook in hooks:
        hook.remove()
    with watched("encoder_layer", "decoder_layer", "positions", "heatmaps") as mine:
        found = own.detect(model.eval(), batch.images, batch.padding)
        queries = seen.logits[:, :, :-1].amax(-1).topk(4).indices  # B 4: the same objects for both
        picked = torch.arange(len(queries)).repeat_interleave(4), queries.flatten()
        masks = own.masks(model, found, *picked)
    inside = ~seen.padding
    pairs: dict[str, Any] = {
        f"02 Res{k}": (getattr(found.features, f"res{k}"), getattr(seen.features, f"res{k}")) for k in (2, 3, 4, 5)
    }
    pairs["03 positions"] = tuple(on(x, inside) for x in (mine["positions"][0], sine_position(seen.padding, model.d)))
    for k, of_layer in enumerate(kept["encoder"]):
        pairs[f"03 encoder layer {k + 1}"] = tuple(x[inside.flatten(1)] for x in (mine["encoder_layer"][k], of_layer))
    pairs["03 encoded image"] = (on(found.memory, inside), on(seen.memory, inside))
    for k, of_layer in enumerate(kept["decoder"]):
        pairs[f"04 decoder layer {k + 1}"] = (mine["decoder_layer"][k], of_layer)
    pairs["04 class logits"], pairs["04 boxes"] = (found.logits[-1], seen.logits), (found.boxes[-1], seen.boxes)
    pairs["06 heatmaps"] = tuple(100 * x for x in (mine["heatmaps"][0], reference.heatmaps(seen, *picked)))  # small numbers
    pairs["07 mask logits"] = (masks, reference.masks(seen, *picked))
    given = list(zip(seen.logits, seen.boxes, targets, strict=True))
    mine_costs = [own_training.cost_matrix(logits, boxes, t.labels, t.boxes).flatten() for logits, boxes, t in given]
    costs = [matching_cost(logits, boxes, t.labels, t.boxes).flatten() for logits, boxes, t in given]
    pairs["05 cost matrix"] = (torch.cat(mine_costs), torch.cat(costs))
    last = found._replace(queries=found.queries[-1:], logits=found.logits[-1:], boxes=found.boxes[-1:])
    mine_losses = own_training.set_loss(model, last, targets)
    weights = LossWeights(focal=own_training.WEIGHTS["focal"], dice=own_training.WEIGHTS["dice"], no_object=own_training.NO_OBJECT)
    losses = SetLoss(weights, mask_stride=4)(seen, targets, lambda *picked: reference.masks(seen, *picked), batch.size)
    for name, lesson in {"class": "05", "l1": "05", "giou": "05", "focal": "08", "dice": "08"}.items():
        pairs[f"{lesson} {name} loss"] = (mine_losses[name], losses[name])
    return {stage: float((a - b).abs().max()) for stage, (a, b) in pairs.items()}


def on(grid: Tensor, inside: Tensor) -> Tensor:
    """grid B d h w -> its numbers at the cells `inside` B h w."""
    return grid.movedim(1, -1)[inside]


def quality(
    segment: Callable[[Tensor], tuple[Tensor, Tensor]], scenes: Sequence[Any], categories: Sequence[Category]
) -> PanopticQuality:
    """How good `segment(image)` -> ids H W and the label of each id from 1 on is; scenes as `SceneData` has them."""
    counts = QualityCounts()
    for image, target in scenes:
        ids, labels = segment(image)
        counts.add_image(truth_of(target)[0].numpy(), entries(target.labels), ids.numpy(), entries(labels))
    return counts.result(categories)


def entries(labels: Tensor) -> list[dict]:
    """Labels of the ids from 1 on -> `segments_info`."""
    return [{"id": k, "category_id": label} for k, label in enumerate(labels.tolist(), 1)]


# --- pictures ---------------------------------------------------------------------------------------------------------------


def schematic() -> Image.Image:
    """The pieces, each with its lesson, and where they meet."""
    page = Schematic(8.3, 4.1)
    upper, lower, losses = 3.35, 2.05, 0.55
    image = page.block(0.62, upper, "image", "3 x 288 x 288", "data", 1.0)
    back = page.block(2.5, upper, "02 backbone", "residual_block, frozen_norm", width=1.9)
    encoder = page.block(4.8, upper, "03 encoder", "sine_axis, attention_weights", width=1.9)
    decoder = page.block(7.15, upper, "04 decoder, heads", "decoder_layer, keep", width=1.9)
    heat = page.block(7.15, lower, "06 heatmaps", "joint_softmax", width=1.9)
    head = page.block(4.8, lower, "07 mask head", "fpn_step, group_norm", width=1.9)
    merge = page.block(2.5, lower, "09 merge", "argmax_to_ids, fuse_stuff", "fixed", 1.9)
    ids = page.block(0.62, lower, "segments", "288 x 288 ids", "data", 1.0)
    match = page.block(7.15, losses, "05 matching", "giou, cost_matrix, assign", "fixed", 1.9)
    loss = page.block(4.8, losses, "05, 08 losses", "class_loss_of, dice_loss ...", "loss", 2.0)
    step = page.block(2.5, losses, "13 step", "gradient, AdamW", "fixed", 1.9)
    for way in ((image, back), (back, encoder), (encoder, decoder), (decoder, heat), (heat, head), (head, merge), (merge, ids)):
        page.arrow(*way)
    page.arrow(match, loss)
    page.arrow(loss, step)
    page.arrow(head, loss, dashed=True)
    page.arrow(back, (2.5, 2.7), (4.5, 2.7), (4.5, lower + 0.25))
    page.arrow(encoder, (4.8, 2.85), (6.8, 2.85), (6.8, lower + 0.25))
    page.arrow(decoder, (8.22, upper), (8.22, losses), match, dashed=True)
    page.text(3.5, 2.79, "Res2 to Res5", va="bottom")
    page.text(5.8, 2.94, "encoded image", va="bottom")
    page.text(0.1, 1.25, "dashed: in training only, where the truth comes in", ha="left")
    page.key(0.2, 3.95, ("data", "learned", "fixed", "loss"))
    return page.picture()


def segmentations(image: Tensor, found: Mapping[str, tuple[Tensor, Tensor]], categories: Sequence[Category]) -> Image.Image:
    """A normalised image 3 H W beside segmentations of it, each (ids H W, the label of each id from 1 on)."""
    pixels = (denormalise(image).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    figure = new_figure(8.3, 8.3 / (len(found) + 1) + 0.4)
    first, *others = figure.subplots(1, len(found) + 1)
    plain(first, pixels)
    titled(first, "image")
    for axes, (name, (ids, labels)) in zip(others, found.items(), strict=True):
        panoptic = Panoptic.of_entries(ids.int().numpy(), entries(labels), categories)
        plain(axes, overlay(pixels, panoptic, categories))
        titled(axes, name)
    return picture_of(figure)


def curve(history: Sequence[float]) -> Image.Image:
    """The total loss of every iteration, pale, and its mean over 10."""
    figure = new_figure(8.3, 2.6)
    axes = figure.subplots()
    means = np.convolve(history, np.ones(10) / 10, "valid")
    axes.plot(range(1, len(history) + 1), history, color="#afb8c1", linewidth=0.8, label="of an iteration")
    axes.plot(range(10, len(history) + 1), means, color="#d55e00", label="mean of the last ten")
    axes.set(xlabel="iteration", ylabel="total loss", ylim=(0, None))
    axes.legend()
    return picture_of(figure)


def truth_of(target: Any) -> tuple[Tensor, Tensor]:
    """A target's segments as `segmentations` takes them."""
    return (target.masks * torch.arange(1, len(target.labels) + 1)[:, None, None]).sum(0), target.labels
