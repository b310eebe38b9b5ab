"""Answers to the exercises of lesson 06: wrong ones, with a piece of the sentence each should get, and right ones."""

from __future__ import annotations

WRONG: dict[str, list[tuple[str, str]]] = {
    "joint_softmax": [
        (
            """def joint_softmax(scores):
    return scores.flatten(2).softmax(-1).view(scores.shape)""",
            "over each head alone",
        ),
        (
            """def joint_softmax(scores):
    return scores.flatten(2).softmax(-1).view(scores.shape) / scores.shape[1]""",
            "1/M of the total",
        ),
        (
            """def joint_softmax(scores):
    return scores.softmax(1)""",
            "the pixels have to compete",
        ),
        (
            """def joint_softmax(scores):
    return scores.flatten().softmax(0).view(scores.shape)""",
            "each has a total of its own",
        ),
        (
            """def joint_softmax(scores):
    return scores.flatten(1).softmax(-1)""",
            "should have the shape 3x4x5x7",
        ),
        (
            """def joint_softmax(scores):
    return scores.exp()""",
            "not softmax weights",
        ),
    ],
    "heatmaps": [
        (
            """
def heatmaps(model, queries, memory, image_index, padding):
    h, w = memory.shape[-2:]
    query = model.heatmap_query(queries).unflatten(-1, (model.heads, -1))
    key = model.heatmap_key(memory.flatten(2).mT).unflatten(-1, (model.heads, -1))
    scores = torch.einsum("kmc,kpmc->kmp", query, key[image_index]) * query.shape[-1] ** -0.5
    scores = scores.unflatten(-1, (h, w)).masked_fill(padding[image_index][:, None], float("-inf"))
    return scores.flatten(2).softmax(-1).view(scores.shape)
""",
            "over each head alone",
        ),
        (
            """
def heatmaps(model, queries, memory, image_index, padding):
    h, w = memory.shape[-2:]
    query = model.heatmap_query(queries).unflatten(-1, (model.heads, -1))
    key = model.heatmap_key(memory.flatten(2).mT).unflatten(-1, (model.heads, -1))
    scores = torch.einsum("kmc,kpmc->kmp", query, key[image_index])
    scores = scores.unflatten(-1, (h, w)).masked_fill(padding[image_index][:, None], float("-inf"))
    return scores.flatten(1).softmax(-1).view(scores.shape)
""",
            "the scale is missing",
        ),
        (
            """
def heatmaps(model, queries, memory, image_index, padding):
    h, w = memory.shape[-2:]
    query = model.heatmap_query(queries).unflatten(-1, (model.heads, -1))
    key = model.heatmap_key(memory.flatten(2).mT).unflatten(-1, (model.heads, -1))
    scores = torch.einsum("kmc,kpmc->kmp", query, key[image_index]) * queries.shape[-1] ** -0.5
    scores = scores.unflatten(-1, (h, w)).masked_fill(padding[image_index][:, None], float("-inf"))
    return scores.flatten(1).softmax(-1).view(scores.shape)
""",
            "the scale is d ** -0.5",
        ),
        (
            """
def heatmaps(model, queries, memory, image_index, padding):
    h, w = memory.shape[-2:]
    query = model.heatmap_query(queries).unflatten(-1, (model.heads, -1))
    key = model.heatmap_key(memory.flatten(2).mT).unflatten(-1, (model.heads, -1))
    scores = torch.einsum("kmc,kpmc->kmp", query, key[image_index]) * query.shape[-1] ** -0.5
    scores = scores.unflatten(-1, (h, w))
    return scores.flatten(1).softmax(-1).view(scores.shape)
""",
            "the padding is ignored",
        ),
        (
            """
def heatmaps(model, queries, memory, image_index, padding):
    h, w = memory.shape[-2:]
    query = model.heatmap_query(queries).unflatten(-1, (model.heads, -1))
    key = model.heatmap_key(memory.flatten(2).mT).unflatten(-1, (model.heads, -1))
    scores = torch.einsum("kmc,kpmc->kmp", query, key[image_index]) * query.shape[-1] ** -0.5
    scores = scores.unflatten(-1, (h, w))
    return scores.flatten(1).softmax(-1).view(scores.shape) * ~padding[image_index][:, None]
""",
            "no longer sums to 1",
        ),
        (
            """
def heatmaps(model, queries, memory, image_index, padding):
    h, w = memory.shape[-2:]
    query = model.heatmap_query(queries).unflatten(-1, (model.heads, -1))
    key = model.heatmap_key(memory.flatten(2).mT).unflatten(-1, (model.heads, -1))
    scores = torch.einsum("kmc,kpmc->kmp", query, key[image_index]) * query.shape[-1] ** -0.5
    scores = scores.unflatten(-1, (h, w)).masked_fill(padding[image_index][:, None], 0)
    return scores.flatten(1).softmax(-1).view(scores.shape)
""",
            "e^0 = 1",
        ),
        (
            """
def heatmaps(model, queries, memory, image_index, padding):
    h, w = memory.shape[-2:]
    query = model.heatmap_query(queries).unflatten(-1, (model.heads, -1))
    key = model.heatmap_key(memory.flatten(2).mT).unflatten(-1, (model.heads, -1))
    scores = torch.einsum("kmc,kpmc->kmp", query, key[image_index]) * query.shape[-1] ** -0.5
    scores = scores.unflatten(-1, (h, w)).masked_fill(padding[0], float("-inf"))
    return scores.flatten(1).softmax(-1).view(scores.shape)
""",
            "the padding of image 0",
        ),
        (
            """
def heatmaps(model, queries, memory, image_index, padding):
    h, w = memory.shape[-2:]
    query = model.heatmap_query(queries).unflatten(-1, (model.heads, -1))
    key = model.heatmap_key(memory.flatten(2).mT).unflatten(-1, (model.heads, -1))
    scores = torch.einsum("kmc,kpmc->kmp", query, key[:1]) * query.shape[-1] ** -0.5
    scores = scores.unflatten(-1, (h, w)).masked_fill(padding[image_index][:, None], float("-inf"))
    return scores.flatten(1).softmax(-1).view(scores.shape)
""",
            "looks at image 0",
        ),
        (
            """
def heatmaps(model, queries, memory, image_index, padding):
    h, w = memory.shape[-2:]
    query = queries.unflatten(-1, (model.heads, -1))
    key = memory.flatten(2).mT.unflatten(-1, (model.heads, -1))
    scores = torch.einsum("kmc,kpmc->kmp", query, key[image_index]) * query.shape[-1] ** -0.5
    scores = scores.unflatten(-1, (h, w)).masked_fill(padding[image_index][:, None], float("-inf"))
    return scores.flatten(1).softmax(-1).view(scores.shape)
""",
            "two linear layers",
        ),
        (
            """
def heatmaps(model, queries, memory, image_index, padding):
    h, w = memory.shape[-2:]
    query = model.heatmap_query(queries).unflatten(-1, (-1, model.heads)).transpose(-1, -2)
    key = model.heatmap_key(memory.flatten(2).mT).unflatten(-1, (-1, model.heads)).transpose(-1, -2)
    scores = torch.einsum("kmc,kpmc->kmp", query, key[image_index]) * query.shape[-1] ** -0.5
    scores = scores.unflatten(-1, (h, w)).masked_fill(padding[image_index][:, None], float("-inf"))
    return scores.flatten(1).softmax(-1).view(scores.shape)
""",
            "every M-th channel",
        ),
        (
            """
def heatmaps(model, queries, memory, image_index, padding):
    h, w = memory.shape[-2:]
    query = model.heatmap_query(queries).unflatten(-1, (model.heads, -1))
    key = model.heatmap_key(memory.flatten(2).mT).unflatten(-1, (model.heads, -1))
    scores = torch.einsum("kmc,kpmc->kmp", query, key[image_index]) * query.shape[-1] ** -0.5
    scores = scores.unflatten(-1, (h, w)).masked_fill(padding[image_index][:, None], float("-inf"))
    return scores.flatten(1).softmax(-1)
""",
            "should have the shape 5x3x4x6",
        ),
    ],
    "heads": [
        ('letter = "A"', "A contradicts"),
        ('letter = "c"', "C holds for head 2"),
        ('letter = "D"', "D is refuted"),
        ('letter = "?"', "one letter"),
    ],
    "area_under_curve": [
        (
            """
def area_under_curve(weights, inside):
    return (weights[inside][:, None] > weights[~inside]).float().mean()
""",
            "draws are left out",
        ),
        (
            """
def area_under_curve(weights, inside):
    return (weights[inside][:, None] >= weights[~inside]).float().mean()
""",
            "draws count as won",
        ),
        (
            """
def area_under_curve(weights, inside):
    one, other = weights[inside][:, None], weights[~inside]
    return ((one < other).float() + 0.5 * (one == other).float()).mean()
""",
            "the wrong way round",
        ),
        (
            """
def area_under_curve(weights, inside):
    return weights[inside].sum() / weights.sum()
""",
            "share of weight",
        ),
    ],
}

HARMLESS: dict[str, list[str]] = {
    "joint_softmax": [
        """
def joint_softmax(scores):
    weights = scores.exp()
    return weights / weights.sum((1, 2, 3), keepdim=True)
""",
        """
def joint_softmax(scores):
    flat = torch.softmax(rearrange(scores, "k m h w -> k (m h w)"), dim=1)
    return flat.reshape(scores.shape)
""",
    ],
    "heatmaps": [
        """
def heatmaps(model, queries, memory, image_index, padding):
    results = []
    for query, image in zip(queries, image_index):
        q = rearrange(model.heatmap_query(query), "(m c) -> m c", m=model.heads)
        k = rearrange(model.heatmap_key(memory[image].permute(1, 2, 0)), "h w (m c) -> m h w c", m=model.heads)
        scores = (k @ q[:, None, :, None])[..., 0] / q.shape[1] ** 0.5
        scores[:, padding[image]] = -torch.inf
        results.append(scores.flatten().softmax(0).view(scores.shape))
    return torch.stack(results)
""",
        """
def heatmaps(model, queries, memory, image_index, padding):
    B, d, h, w = memory.shape
    K, M = len(queries), model.heads
    query = model.heatmap_query(queries).view(K, M, d // M) * (d / M) ** -0.5
    key = model.heatmap_key(memory.view(B, d, h * w).transpose(1, 2)).view(B, h * w, M, d // M)
    scores = torch.einsum("kmc,kpmc->kmp", query, per_object(key, image_index))
    weights = scores.exp() * ~padding[image_index].view(K, 1, h * w)
    return (weights / weights.sum((1, 2), keepdim=True)).view(K, M, h, w)
""",
    ],
    "area_under_curve": [
        """
def area_under_curve(weights, inside):
    difference = weights[inside][:, None] - weights[~inside][None]
    return float((difference.sign() / 2 + 0.5).mean())
""",
        """
def area_under_curve(weights, inside):
    won = 0.0
    for one in weights[inside].tolist():
        for other in weights[~inside].tolist():
            won += 1.0 if one > other else 0.5 if one == other else 0.0
    return won / (int(inside.sum()) * int((~inside).sum()))
""",
    ],
}
