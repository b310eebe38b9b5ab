"""Lesson 04, decoder and queries: the exercises' checks; its measurements and pictures are lesson04_pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_convert

from minidetr.course import answer, close, exercise, own, require, require_tensor
from minidetr.course.lesson04_pictures import attention_on as attention_on
from minidetr.course.lesson04_pictures import attention_picture as attention_picture
from minidetr.course.lesson04_pictures import average_precision as average_precision
from minidetr.course.lesson04_pictures import box_picture as box_picture
from minidetr.course.lesson04_pictures import covers as covers
from minidetr.course.lesson04_pictures import decode_hiding as decode_hiding
from minidetr.course.lesson04_pictures import duplicates as duplicates
from minidetr.course.lesson04_pictures import layer_picture as layer_picture
from minidetr.course.lesson04_pictures import linear_probe as linear_probe
from minidetr.course.lesson04_pictures import schematic_heads as schematic_heads
from minidetr.course.lesson04_pictures import schematic_layer as schematic_layer
from minidetr.course.lesson04_pictures import slot_picture as slot_picture
from minidetr.course.lesson04_pictures import true_duplicates as true_duplicates
from minidetr.course.lesson04_pictures import two_predictions as two_predictions
from minidetr.model.heads import PredictionHeads
from minidetr.model.merge import kept_queries
from minidetr.model.transformer import DecoderLayer
from minidetr.panoptic import Category


def alike(layer: own.DecoderLayer, d: int, heads: int, hidden: int) -> DecoderLayer:
    """The package's decoder layer with the weights of `layer`."""
    package = DecoderLayer(d, heads, hidden, 0.0).eval()
    for name in ("self_attention", "cross_attention"):
        ours, theirs = getattr(layer, name), getattr(package, name)
        theirs.in_proj_weight, theirs.in_proj_bias, theirs.out_proj = ours.inputs.weight, ours.inputs.bias, ours.output
    for name in ("linear1", "linear2", "norm1", "norm2", "norm3"):
        setattr(package, name, getattr(layer, name))
    return package


def decoded(layer: Any, x: Tensor, e: Tensor, memory: Tensor, position: Tensor, padding: Tensor, wrong: str = "") -> Tensor:
    """A decoder layer's output, or what it becomes with one thing `wrong`."""
    none = torch.zeros(x.shape[:2], dtype=torch.bool)
    norms = (layer.norm1, layer.norm2, layer.norm3)

    def act(number: int, before: Tensor, new: Tensor) -> Tensor:
        if wrong == "no norm":
            return before + new
        if wrong == "no residual":
            return norms[number](new)
        return before + norms[number](new) if wrong == "norm inside" else norms[number](before + new)

    asked = x if wrong == "no embedding in self-attention" else x + e
    x = act(0, x, own.attention(layer.self_attention, asked, asked, x + e if wrong == "embedding in the value" else x, none))
    asked = x if wrong == "no embedding in cross-attention" else x + e
    keys = memory if wrong == "no position" else memory + position
    values = keys if wrong == "position in the value" else memory
    seen = own.attention(layer.cross_attention, asked, keys, values, torch.zeros_like(padding) if wrong == "padding" else padding)
    x = act(1, x, seen)
    hidden = layer.linear1(x)
    return act(2, x, layer.linear2(hidden if wrong == "no ReLU" else hidden.relu()))


LAYER_MISTAKES = {
    "no embedding in self-attention": "in self-attention the embedding is missing from query and key: add it to both.",
    "embedding in the value": "in self-attention the embedding was added to the value too: the value is x alone.",
    "no embedding in cross-attention": "in cross-attention the embedding is missing from the query.",
    "no position": "the positions are missing: in cross-attention they are added to the keys.",
    "position in the value": "the positions were added to the values too: the values of cross-attention are `memory` alone.",
    "padding": "padded cells were looked at: hand `padding` to the cross-attention.",
    "no ReLU": "the perceptron's ReLU is missing: it stands between linear1 and linear2.",
    "no residual": "each act adds its result to x before the norm: something is not added.",
    "norm inside": "the norm comes after the addition: norm(x + new), not x + norm(new).",
    "no norm": "the norms are missing: norm1, norm2 and norm3 each follow an addition.",
}


@exercise
def decoder_layer(attempt: Any) -> None:
    """`attempt(layer, x B N d, embedding B N d, memory B L d, position B L d, padding B L)` -> B N d, one decoder layer."""
    B, N, L, d, hidden = 2, 5, 11, 12, 20
    layer = own.DecoderLayer(d, 3, hidden)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0, 0.4)
    x, embedding = torch.randn(2, B, N, d)
    memory, position = torch.randn(2, B, L, d)
    padding = torch.arange(L).expand(B, L) >= torch.tensor([[L], [L - 4]])
    inputs = (x, embedding, memory, position, padding)
    with torch.no_grad():
        found = require_tensor(attempt(layer, *(tensor.clone() for tensor in inputs)), (B, N, d))
        for wrong, sentence in LAYER_MISTAKES.items():
            require(not close(found, decoded(layer, *inputs, wrong=wrong)), sentence)
        right = close(found, alike(layer, d, 3, hidden)(*inputs))
    require(right, "the values differ from the three acts of the table, in that order, with norm1, norm2 and norm3.")


@exercise
def read_out(attempt: Any) -> None:
    """`attempt(x N d, heads, height, width)` -> probabilities N C+1, boxes N 4: left, top, right, bottom in pixels."""
    N, d, C, height, width = 7, 12, 5, 480, 731
    heads, x = PredictionHeads(d, C), torch.randn(N, d)
    for parameter in heads.parameters():
        nn.init.normal_(parameter, 0, 0.5)
    with torch.no_grad():
        found = answer(attempt(x.clone(), heads, height, width))
        require(isinstance(found, tuple) and len(found) == 2, "two tensors should come back: probabilities and boxes.")
        probabilities = require_tensor(found[0], (N, C + 1), "the probabilities")
        boxes = require_tensor(found[1], (N, 4), "the boxes")
        logits, shares = heads(x)
        plain = heads.boxes(x)
        linear = heads.boxes[4](heads.boxes[2](heads.boxes[0](x))).sigmoid()
    require(not close(probabilities, logits), "these are the class logits: the softmax over the C+1 classes is missing.")
    require(not close(probabilities, logits.sigmoid()), "the classes compete: one softmax over all C+1, not a sigmoid for each.")
    require(not close(probabilities, logits.softmax(0)), "the softmax runs over the queries: it belongs over the C+1 classes.")
    require(close(probabilities, logits.softmax(-1)), "the probabilities differ from softmax(heads.classes(x)).")
    size = torch.tensor([width, height, width, height])
    mistakes = {
        "the boxes' sigmoid is missing: it brings all four numbers into 0..1.": box_convert(plain, "cxcywh", "xyxy") * size,
        "the boxes' perceptron has a ReLU after its first and its second layer.": box_convert(linear, "cxcywh", "xyxy") * size,
        "height and width are exchanged: x is measured along the width.": box_convert(shares, "cxcywh", "xyxy") * size.roll(1),
        "the corners are right but still in 0..1: scale them to pixels.": box_convert(shares, "cxcywh", "xyxy"),
        "these are still centre, width and height: left is the centre less half a width.": shares * size,
        "cx and cy are the centre, not a corner: go half a side each way.": box_convert(shares, "xywh", "xyxy") * size,
    }
    for sentence, values in mistakes.items():
        require(not close(boxes, values), sentence)
    right = close(boxes, box_convert(shares, "cxcywh", "xyxy") * size)
    require(right, "the boxes differ from heads.boxes(x).sigmoid(), as corners, in pixels.")


@exercise
def keep(attempt: Any) -> None:
    """`attempt(logits N C+1, threshold)` -> query_index K, scores K, labels K of the queries that found something."""
    N, C, threshold = 23, 6, 0.4
    logits = 2 * torch.randn(N, C + 1)
    logits[3, 2], logits[11, C] = 9.0, 9.0  # a sure object and a sure "no object"
    logits[17] = torch.tensor([0.42, 0.01, 0.01, 0.02, 0.01, 0.01, 0.52]).log()  # above the threshold, but "no object" is above it
    found = answer(attempt(logits.clone(), threshold))
    require(isinstance(found, tuple) and len(found) == 3, "three tensors should come back: query_index, scores, labels.")
    query_index, scores, labels = (answer(value) for value in found)
    expected = kept_queries(logits, threshold, {c: Category(c, str(c), True) for c in range(C)})
    queries = set(query_index.tolist())
    require(11 not in queries, 'query 11 says "no object", and was kept: the last class is not an object.')
    require(3 in queries, "query 3 is almost sure of its object, and was dropped.")
    require(
        17 not in queries,
        'query 17 gives its object 0.42 and "no object" 0.52, and was kept: the best of all C+1 classes has to be an object.',
    )
    require(
        queries == set(expected[0].tolist()),
        f"{len(queries)} queries are kept where {len(expected[0])} should be: take the softmax over all C+1 classes, find the best "
        f'of them, and keep a query when that best one is an object and above the threshold (not "no object").',
    )
    order = query_index.argsort()
    require_tensor(scores, tuple(expected[1].shape), "scores")
    require_tensor(labels, tuple(expected[2].shape), "labels")
    require(torch.equal(labels[order], expected[2]), "the labels are not the most probable class of each kept query.")
    require(close(scores[order], expected[1]), "the scores should be probabilities: the softmax over the C+1 logits of one query.")


@exercise
def deaf_layer(attempt: Any) -> None:
    """`attempt` is the number of the layer whose deafness alone makes nearly as many double boxes as that of all three."""
    number = str(answer(attempt)).strip().strip("'\"")
    refuted = {
        "1": "in layer 1 all contents are equal, so nobody hears anything there (step 3): deaf, it makes no more than before.",
        "2": "after layer 2 there is layer 3, which still hears what the queries have found by then: it puts things right.",
    }
    require(number in {*refuted, "3"}, "answer with the number of one layer: 1, 2 or 3.")
    require(number == "3", refuted.get(number, ""))


@exercise
def suppress(attempt: Any) -> None:
    """`attempt(boxes N 4 corners, scores N, labels N, limit)` -> indices of the boxes that greedy NMS keeps, best first."""
    N, limit = 40, 0.5
    corner, size = 60 * torch.rand(N, 2), 20 + 20 * torch.rand(N, 2)
    boxes, scores, labels = torch.cat([corner, corner + size], 1), torch.rand(N), torch.arange(N) % 3
    boxes[0], boxes[1], boxes[2] = torch.tensor([[0.0, 0, 30, 30], [0, 8, 30, 38], [0, 16, 30, 46]])  # 1 overlaps both others
    scores[:3], labels[:3] = torch.tensor([0.999, 0.998, 0.997]), 0
    boxes[3], scores[3], labels[3] = boxes[0], 0.996, 1  # the same place, another class
    found = answer(attempt(boxes.clone(), scores.clone(), labels.clone(), limit))
    kept = torch.as_tensor(found).tolist()
    upside_down = batched_nms(boxes, 1 - scores, labels, limit).tolist()
    require(set(kept) != set(upside_down), "the worst boxes were taken first: begin with the best score.")
    require(0 in kept, "box 0 has the highest score of all, and was dropped: of two that overlap the better one stays.")
    require(1 not in kept, "box 1 overlaps the better box 0 of its class by an IoU of 0.58, and was kept.")
    require(2 in kept, "box 2 overlaps only box 1, which is dropped itself: a dropped box silences nobody.")
    require(3 in kept, "box 3 lies where box 0 lies, but has another class: compare boxes of one class only.")
    expected = batched_nms(boxes, scores, labels, limit).tolist()
    require(set(kept) == set(expected), "the kept boxes differ from those of greedy suppression.")
    require(kept == expected, "the right boxes are kept, in another order: best score first.")
