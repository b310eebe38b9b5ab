"""Your own DETR, of the size of `tiny`, in one file of plain PyTorch: the pieces of lessons 02 to 09 and what holds them together.

A class holds weights, a function computes with them. Functions named in PIECES can be replaced: `use(giou=my_giou)`.

Letters: B images, H W the padded input, h w the grid of Res5, d width, N queries, M heads, C classes, K picked objects (pairs of
image and query), T segments of an image's truth, L a sequence's length. `padding` is True where an image was padded.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIECES = {  # lesson -> what of it can be replaced
    "02": ("frozen_norm", "residual_block", "backbone"),
    "03": ("to_sequence", "to_grid", "sine_axis", "positions", "attention_weights", "attention", "encoder_layer"),
    "04": ("decoder_layer", "keep"),
    "05": ("giou", "cost_matrix", "assign", "class_loss_of"),
    "06": ("joint_softmax", "heatmaps"),
    "07": ("group_norm", "fpn_step", "whole_mask_head"),
    "08": ("dice_loss", "focal_loss"),
    "09": ("argmax_to_ids", "fuse_stuff", "merge"),
    "13": ("detect", "masks", "set_loss", "step"),
}


def use(**mine: Any) -> None:
    """Put functions of yours in the place of pieces. It works because a function looks others up, by name, when it is called."""
    for name, function in mine.items():
        if name not in OURS:
            raise NameError(f"there is no piece {name}: the pieces are {', '.join(OURS)}")
        setattr(sys.modules[OURS[name].__module__], name, function)


def restore() -> None:
    """Put back all pieces that `use` has replaced."""
    use(**OURS)


# --- 02: the backbone -------------------------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """The weights of two 3x3 convolutions, and of the shortcut's 1x1 where the widths differ; a norm for each."""

    def __init__(self, before: int, after: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm2, self.widens = nn.BatchNorm2d(after), before != after
        if self.widens:
            self.skip, self.skip_norm = nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)


class Features(NamedTuple):  # what the backbone saw
    res2: Tensor  # B 32 H/4 W/4
    res3: Tensor  # B 64 H/8 W/8
    res4: Tensor  # B 128 H/16 W/16
    res5: Tensor  # B 256 h w, also H/16 W/16: this stage has no stride (DC5)
    projected: Tensor  # B d h w


def frozen_norm(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """x B c h w; the rest c each -> B c h w."""
    scale = weight / (variance + 1e-5).sqrt()
    return x * scale[:, None, None] + (bias - mean * scale)[:, None, None]


def normed(norm: Any, x: Tensor) -> Tensor:
    """A batch norm: in training with the batch's own statistics, otherwise frozen."""
    return norm(x) if norm.training else frozen_norm(x, norm.weight, norm.bias, norm.running_mean, norm.running_var)


def residual_block(block: Any, x: Tensor) -> Tensor:
    """x B c h w -> B c' h' w': what two convolutions found is added to the input."""
    y = normed(block.norm1, block.conv1(x)).relu()
    y = normed(block.norm2, block.conv2(y))
    return (y + (normed(block.skip_norm, block.skip(x)) if block.widens else x)).relu()


def backbone(model: Any, images: Tensor) -> Features:
    """images B 3 H W -> Features."""
    x = normed(model.stem_norm, model.stem(images)).relu()  # B 32 H/2 W/2
    x, stages = F.max_pool2d(x, 3, stride=2, padding=1), []  # B 32 H/4 W/4
    for block in (model.stage1, model.stage2, model.stage3, model.stage4):
        x = residual_block(block, x)
        stages.append(x)
    return Features(*stages, model.projection(x))  # type: ignore[call-arg]


# --- 03 and 04: positions, attention, encoder and decoder -------------------------------------------------------------------


def to_sequence(grid: Tensor) -> Tensor:
    """B d h w -> B h*w d, row after row."""
    return grid.flatten(2).mT


def to_grid(sequence: Tensor, h: int, w: int) -> Tensor:
    """B h*w d -> B d h w."""
    return sequence.mT.unflatten(2, (h, w))


def sine_axis(count: int, channels: int) -> Tensor:
    """-> count channels: sines and cosines of 1/count, 2/count, ... 1 turns, in ever longer waves."""
    place = torch.arange(1, count + 1) / count * 2 * math.pi
    angle = place[:, None] / 10000 ** (torch.arange(0, channels, 2) / channels)  # count channels/2
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


def positions(padding: Tensor, d: int) -> Tensor:
    """padding B h w -> B d h w: half of the channels tell the row, half the column, both counted over the image alone."""
    grid = torch.zeros(len(padding), d, *padding.shape[1:])
    for own, padded in zip(grid, padding, strict=True):
        rows, columns = int((~padded[:, 0]).sum()), int((~padded[0]).sum())
        own[: d // 2, :rows, :columns] = sine_axis(rows, d // 2).T[:, :, None]
        own[d // 2 :, :rows, :columns] = sine_axis(columns, d // 2).T[:, None, :]
    return grid


class Attention(nn.Module):
    """The weights of an attention with M heads: queries, keys and values in one table, and the output's."""

    def __init__(self, d: int, heads: int):
        super().__init__()
        self.inputs, self.output, self.heads = nn.Linear(d, 3 * d), nn.Linear(d, d), heads


def attention_weights(query: Tensor, key: Tensor, heads: int, padding: Tensor) -> Tensor:
    """query B N d, key B L d, padding B L -> B M N L, which sum to 1 over L."""
    query, key = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key))  # B M N d/M, B M L d/M
    scores = query @ key.mT / query.shape[-1] ** 0.5
    return scores.masked_fill(padding[:, None, None], -math.inf).softmax(-1)


def attention(own: Any, query: Tensor, key: Tensor, value: Tensor, padding: Tensor) -> Tensor:
    """query B N d, key and value B L d, padding B L -> B N d."""
    tables = zip((query, key, value), own.inputs.weight.chunk(3), own.inputs.bias.chunk(3), strict=True)
    query, key, value = (F.linear(*each) for each in tables)
    value = value.unflatten(2, (own.heads, -1)).transpose(1, 2)  # B M L d/M
    seen = attention_weights(query, key, own.heads, padding) @ value  # B M N d/M
    return own.output(seen.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """The weights of self-attention, a two-layer perceptron and two norms."""

    def __init__(self, d: int, heads: int, hidden: int):
        super().__init__()
        self.self_attention = Attention(d, heads)
        self.linear1, self.linear2 = nn.Linear(d, hidden), nn.Linear(hidden, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)


class DecoderLayer(EncoderLayer):
    """An encoder layer's weights, and those of attention to the image with its norm."""

    def __init__(self, d: int, heads: int, hidden: int):
        super().__init__(d, heads, hidden)
        self.cross_attention, self.norm3 = Attention(d, heads), nn.LayerNorm(d)


def encoder_layer(layer: Any, x: Tensor, position: Tensor, padding: Tensor) -> Tensor:
    """x, position B h*w d, padding B h*w -> B h*w d."""
    x = layer.norm1(x + attention(layer.self_attention, x + position, x + position, x, padding))
    return layer.norm2(x + layer.linear2(layer.linear1(x).relu()))


def decoder_layer(layer: Any, x: Tensor, embedding: Tensor, memory: Tensor, position: Tensor, padding: Tensor) -> Tensor:
    """x, embedding B N d; memory, position B h*w d; padding B h*w -> B N d."""
    none = torch.zeros(x.shape[:2], dtype=torch.bool)
    x = layer.norm1(x + attention(layer.self_attention, x + embedding, x + embedding, x, none))
    x = layer.norm2(x + attention(layer.cross_attention, x + embedding, memory + position, memory, padding))
    return layer.norm3(x + layer.linear2(layer.linear1(x).relu()))


# --- 06 and 07: heatmaps and masks ------------------------------------------------------------------------------------------


def joint_softmax(scores: Tensor) -> Tensor:
    """K M h w -> K M h w, which sum to 1 over heads and cells together (lesson 06: DETR's issue 247)."""
    return scores.flatten(1).softmax(-1).view(scores.shape)


def heatmaps(model: Any, queries: Tensor, memory: Tensor, image_index: Tensor, padding: Tensor) -> Tensor:
    """queries K d, memory B d h w, image_index K, padding B h w -> K M h w: where each object's heads look."""
    query = model.heatmap_query(queries).unflatten(1, (model.heads, -1))  # K M d/M
    key = model.heatmap_key(to_sequence(memory)).unflatten(2, (model.heads, -1))[image_index]  # K h*w M d/M
    scores = torch.einsum("kmc,kpmc->kmp", query, key) / query.shape[-1] ** 0.5
    scores = scores.unflatten(2, memory.shape[-2:]).masked_fill(padding[image_index][:, None], -math.inf)
    return joint_softmax(scores)


class GroupNorm(nn.GroupNorm):
    """The weights of a group norm, which the piece `group_norm` computes."""

    def forward(self, x: Tensor) -> Tensor:
        return group_norm(x, self.num_groups, self.weight, self.bias)


class MaskHead(nn.Module):
    """The weights of five convolutions with their norms, of three laterals and of the last convolution."""

    def __init__(self, inputs: int, widths: Sequence[int] = (128, 96, 64, 48, 32), finer: Sequence[int] = (128, 64, 32)):
        super().__init__()
        pairs = zip((inputs, *widths), widths, strict=False)
        self.convolutions = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairs)
        self.norms = nn.ModuleList(GroupNorm(8, width) for width in widths)
        self.laterals = nn.ModuleList(nn.Conv2d(stage, width, 1) for stage, width in zip(finer, widths[1:4], strict=True))
        self.output = nn.Conv2d(widths[-1], 1, 3, padding=1)


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    """x K c h w, weight and bias c -> K c h w: each group of channels of each object gets mean 0 and variance 1."""
    parts = x.reshape(len(x), groups, -1)
    variance, mean = torch.var_mean(parts, dim=2, correction=0, keepdim=True)
    return ((parts - mean) / (variance + 1e-5).sqrt()).view(x.shape) * weight[:, None, None] + bias[:, None, None]


def fpn_step(x: Tensor, stage: Tensor, image_index: Tensor, lateral: Any, convolution: Any, norm: Any) -> Tensor:
    """x K c h w, stage B s h' w', image_index K -> K o h' w': upsample, add the finer stage, convolve."""
    x = F.interpolate(x, size=stage.shape[-2:], mode="nearest") + lateral(stage)[image_index]
    return norm(convolution(x)).relu()


def whole_mask_head(head: Any, heatmaps: Tensor, features: Any, image_index: Tensor) -> Tensor:
    """heatmaps K M h w, features of B images, image_index K -> mask logits K H/4 W/4."""
    x = torch.cat([features.projected[image_index], heatmaps], dim=1)  # K d+M h w
    for k in (0, 1):
        x = head.norms[k](head.convolutions[k](x)).relu()
    for k, stage in enumerate((features.res4, features.res3, features.res2)):
        x = fpn_step(x, stage, image_index, head.laterals[k], head.convolutions[k + 2], head.norms[k + 2])
    return head.output(x)[:, 0]


# --- the model --------------------------------------------------------------------------------------------------------------


class DETR(nn.Module):
    """All weights, by default as many as `tiny` has. `detect` and `masks` compute with them."""

    def __init__(self, classes: int = 11, d: int = 128, heads: int = 8, hidden: int = 512, queries: int = 20):
        super().__init__()
        self.d, self.heads = d, heads
        self.stem, self.stem_norm = nn.Conv2d(3, 32, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(32)
        self.stage1, self.stage2 = ResidualBlock(32, 32), ResidualBlock(32, 64, stride=2)
        self.stage3, self.stage4 = ResidualBlock(64, 128, stride=2), ResidualBlock(128, 256, dilation=2)
        self.projection = nn.Conv2d(256, d, 1)
        self.encoder = nn.ModuleList(EncoderLayer(d, heads, hidden) for _ in range(2))
        self.decoder = nn.ModuleList(DecoderLayer(d, heads, hidden) for _ in range(3))
        self.queries, self.final_norm = nn.Parameter(torch.randn(queries, d)), nn.LayerNorm(d)
        self.classes = nn.Linear(d, classes + 1)  # the last is "no object"
        self.boxes = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d), nn.ReLU(), nn.Linear(d, 4))
        self.heatmap_query, self.heatmap_key = nn.Linear(d, d), nn.Linear(d, d)
        self.mask_head = MaskHead(d + heads)


class Seen(NamedTuple):
    """What `detect` gives. The last three have a row for each layer of the decoder; the last row counts."""

    features: Features
    padding: Tensor  # B h w
    memory: Tensor  # B d h w
    queries: Tensor  # layers B N d, behind the final norm
    logits: Tensor  # layers B N C+1
    boxes: Tensor  # layers B N 4, cx cy w h in 0..1


def detect(model: Any, images: Tensor, padding: Tensor) -> Seen:
    """images B 3 H W, padding B H W -> what N queries see in them."""
    features = backbone(model, images)
    h, w = features.projected.shape[-2:]
    padding = F.interpolate(padding[:, None].float(), (h, w))[:, 0].bool()  # B h w
    position, hidden = to_sequence(positions(padding, model.d)), padding.flatten(1)  # B h*w d, B h*w
    x = to_sequence(features.projected)  # B h*w d
    for layer in model.encoder:
        x = encoder_layer(layer, x, position, hidden)
    embedding = model.queries.expand(len(images), -1, -1)  # B N d
    query, layers = torch.zeros_like(embedding), []
    for layer in model.decoder:
        query = decoder_layer(layer, query, embedding, x, position, hidden)  # B N d
        layers.append(model.final_norm(query))
    queries = torch.stack(layers)
    return Seen(features, padding, to_grid(x, h, w), queries, model.classes(queries), model.boxes(queries).sigmoid())


def masks(model: Any, seen: Seen, image_index: Tensor, query_index: Tensor) -> Tensor:
    """Mask logits K H/4 W/4 of the objects (image_index[k], query_index[k])."""
    maps = heatmaps(model, seen.queries[-1][image_index, query_index], seen.memory, image_index, seen.padding)
    return whole_mask_head(model.mask_head, maps, seen.features, image_index)


# --- 04 and 09: from logits to segments -------------------------------------------------------------------------------------


def keep(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """logits N C+1 -> query_index, scores and labels of the K queries that are surely an object."""
    scores, labels = logits.softmax(-1).max(-1)
    query_index = ((labels < logits.shape[-1] - 1) & (scores > threshold)).nonzero()[:, 0]
    return query_index, scores[query_index], labels[query_index]


def argmax_to_ids(mask_logits: Tensor, padded_size: Sequence[int], size: Sequence[int]) -> Tensor:
    """mask_logits K h w -> H W of the image without its padding: 1 + the number of each pixel's highest logit."""
    enlarged = F.interpolate(mask_logits[None], size=tuple(padded_size), mode="bilinear")[0]
    return enlarged[:, : size[0], : size[1]].argmax(0) + 1


def fuse_stuff(owner: Tensor, labels: Tensor, things: set[int]) -> Tensor:
    """owner H W (0..K-1), labels K -> owner, duplicates of a stuff class as the first mask of that class."""
    first = (labels[:, None] == labels).int().argmax(1)  # K
    is_thing = torch.tensor([int(label) in things for label in labels])
    return torch.where(is_thing, torch.arange(len(labels)), first)[owner]


def merge(mask_logits: Tensor, labels: Tensor, things: set[int], padded_size: Any, size: Any) -> tuple[Tensor, Tensor]:
    """Mask logits and labels of K objects -> segment ids H W (0: nothing) and the label of each id from 1 on."""
    alive, group = torch.arange(len(labels)), fuse_stuff(torch.arange(len(labels)), labels, things)
    while len(alive):
        owner = alive[argmax_to_ids(mask_logits[alive], padded_size, size) - 1]
        owner = fuse_stuff(owner, labels, things)  # H W
        areas = owner.flatten().bincount(minlength=len(labels))
        large = areas[group[alive]] > 4
        if large.all():
            return (areas > 0).cumsum(0)[owner], labels[areas > 0]
        alive = alive[large]  # the crumbs' pixels go to the next best masks
    return torch.zeros(*size, dtype=torch.long), labels[:0]


@torch.no_grad()
def segment(model: Any, image: Tensor, things: set[int], threshold: float = 0.7) -> tuple[Tensor, Tensor]:
    """image 3 H W, normalised -> what `merge` gives."""
    size = image.shape[1:]
    seen = detect(model.eval(), image[None], torch.zeros(1, *size, dtype=torch.bool))
    query_index, _, labels = keep(seen.logits[-1, 0], threshold)
    if not len(labels):
        return torch.zeros(size, dtype=torch.long), labels
    return merge(masks(model, seen, torch.zeros_like(query_index), query_index), labels, things, size, size)


# --- the weights in the box -------------------------------------------------------------------------------------------------

NAMES = {  # what a weight's name begins with -> and in tiny.safetensors; # stands for the same number in both
    "stem.": "backbone.resnet.conv1.",
    "stem_norm.": "backbone.resnet.bn1.",
    "stage#.conv#.": "backbone.resnet.layer#.0.conv#.",
    "stage#.norm#.": "backbone.resnet.layer#.0.bn#.",
    "stage#.skip.": "backbone.resnet.layer#.0.downsample.0.",
    "stage#.skip_norm.": "backbone.resnet.layer#.0.downsample.1.",
    "projection.": "backbone.projection.",
    "encoder.#.": "encoder.layers.#.",
    "encoder.#.self_attention.inputs.": "encoder.layers.#.self_attention.in_proj_",
    "encoder.#.self_attention.output.": "encoder.layers.#.self_attention.out_proj.",
    "decoder.#.": "decoder.layers.#.",
    "decoder.#.self_attention.inputs.": "decoder.layers.#.self_attention.in_proj_",
    "decoder.#.self_attention.output.": "decoder.layers.#.self_attention.out_proj.",
    "decoder.#.cross_attention.inputs.": "decoder.layers.#.cross_attention.in_proj_",
    "decoder.#.cross_attention.output.": "decoder.layers.#.cross_attention.out_proj.",
    "final_norm.": "decoder.norm.",
    "queries": "decoder.query_embedding.weight",
    "classes.": "heads.classes.",
    "boxes.": "heads.boxes.",
    "heatmap_query.": "heatmap_attention.query.",
    "heatmap_key.": "heatmap_attention.key.",
    "mask_head.": "mask_head.",
}


def name_in_file(name: str, names: Mapping[str, str]) -> str:
    """A weight's name in the file, by the longest row that it begins with; nothing if it begins with none."""
    for row in sorted(names, key=len, reverse=True):
        if found := re.match(re.escape(row).replace(r"\#", r"(\d+)"), name):
            numbers = iter(found.groups())
            theirs = "".join(next(numbers) if letter == "#" else letter for letter in names[row])
            return theirs + name[found.end() :]
    return ""


def load(model: nn.Module, tensors: Mapping[str, Tensor], names: Mapping[str, str] = NAMES) -> tuple[list[str], list[str]]:
    """Fill the model's weights. Returns those that stay as they were, and the names in the file that nobody asked for."""
    weights = model.state_dict()
    asked = {name: name_in_file(name, names) for name in weights}
    found = {name: theirs for name, theirs in asked.items() if theirs in tensors}
    for name, theirs in found.items():
        if weights[name].shape != tensors[theirs].shape:
            raise ValueError(f"{name} is {list(weights[name].shape)}, but {theirs} is {list(tensors[theirs].shape)}")
        weights[name].copy_(tensors[theirs])
    return [name for name in weights if name not in found], sorted(tensors.keys() - found.values())


OURS: dict[str, Any] = {  # what stands here in each piece's place; own_training adds its own
    name: globals()[name] for names in PIECES.values() for name in names if name in globals()
}
