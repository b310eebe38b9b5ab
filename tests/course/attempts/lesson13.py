"""Plausible wrong answers to the exercises of lesson 13, each with a piece of the sentence that catches it."""

from __future__ import annotations

START = """def my_detect(model, images, padding):
    features = own.backbone(model, images)
    h, w = features.projected.shape[-2:]
    padding = nn.functional.interpolate(padding[:, None].float(), (h, w))[:, 0].bool()
    position, hidden = own.to_sequence(own.positions(padding, model.d)), padding.flatten(1)
    memory = own.to_sequence(features.projected)
"""
ENCODER = """    for layer in model.encoder:
        memory = own.encoder_layer(layer, memory, position, hidden)
"""
QUERIES = """    embedding = model.queries.expand(len(images), -1, -1)
    x, layers = torch.zeros_like(embedding), []
"""
DECODER = """    for layer in model.decoder:
        x = own.decoder_layer(layer, x, embedding, memory, position, hidden)
        layers.append(model.final_norm(x))
"""
END = """    queries = torch.stack(layers)
    return features, own.to_grid(memory, h, w), queries, model.classes(queries), model.boxes(queries).sigmoid()
"""


def forward(start: str = START, encoder: str = ENCODER, queries: str = QUERIES, decoder: str = DECODER, end: str = END) -> str:
    """The forward pass, parts of it otherwise."""
    return start + encoder + queries + decoder + end


def rows(**changed: str) -> str:
    """The three rows, some otherwise."""
    right = {
        "stage#.skip_norm.": "backbone.resnet.layer#.0.downsample.1.",
        "queries": "decoder.query_embedding.weight",
        "decoder.#.cross_attention.inputs.": "decoder.layers.#.cross_attention.in_proj_",
    }
    names = {"skip": "stage#.skip_norm.", "queries": "queries", "cross": "decoder.#.cross_attention.inputs."}
    return f"rows = {right | {names[name]: value for name, value in changed.items()}}"


WRONG: dict[str, list[tuple[str, str]]] = {
    "whole_way": [
        (forward(encoder=""), "it should pass the encoder"),
        (forward(encoder=ENCODER.replace("position, hidden", "0 * position, hidden")), "should know the positions"),
        (forward(encoder=ENCODER.replace("hidden", "torch.zeros_like(hidden)")), "the encoder attends to padded cells"),
        (forward(encoder=ENCODER + "        break\n"), "does x pass every encoder layer"),
        (forward(end=END.replace("to_grid(memory, h, w)", "to_grid(memory, w, h)")), "32x4x6"),
        (forward(end=END.replace("own.to_grid(memory, h, w)", "memory")), "32x4x6"),
        (forward(decoder=DECODER.replace("model.final_norm(x)", "x")), "should pass the final norm"),
        (
            forward(decoder=DECODER.replace("layers.append(model.final_norm(x))", "x = model.final_norm(x); layers.append(x)")),
            "as it was",
        ),
        (forward(decoder=DECODER.replace("hidden", "torch.zeros_like(hidden)")), "the decoder looks at padded cells"),
        (forward(decoder=DECODER.replace("position", "0 * position")), "positions of the image's cells"),
        (forward(queries=QUERIES.replace("torch.zeros_like(embedding)", "embedding")), "they start at 0"),
        (forward(end=END.replace(".sigmoid()", "")), "a sigmoid is missing"),
        (forward(end=END.replace("model.classes(queries)", "model.classes(queries).softmax(-1)")), "nothing more"),
        (forward(end=END.replace("torch.stack(layers)", "layers[-1]")), "stacked over the layers"),
        (forward(end="    return torch.stack(layers)\n"), "return five things"),
    ],
    "missing_rows": [
        (rows(skip="backbone.resnet.layer#.0.downsample.0."), "the weights stay as they were"),
        (rows(skip="backbone.resnet.layer#.0.downsample.1"), "Mind the dot"),
        (rows(skip="backbone.resnet.layer4.0.downsample.1."), "stands for a number"),
        (rows(cross="decoder.layers.#.cross_attention.in_proj."), "underscore"),
        (rows(cross="decoder.layers.#.self_attention.in_proj_"), "the weights stay as they were"),
        (rows(queries="decoder.query_embedding"), "the weights stay as they were"),
        ('rows = {"queries": "decoder.query_embedding.weight"}', "is still missing"),
        ('rows = {"query": "decoder.query_embedding.weight"}', "no weight that begins with"),
    ],
    "culprits": [
        ('culprits = {"A": 4, "B": 5, "C": 7}', "A: With mistake 4 the heatmaps"),
        ('culprits = {"A": 2, "B": 5, "C": 7}', "A: With mistake 2 the encoder"),
        ('culprits = {"A": 3, "B": 4, "C": 7}', "B: With mistake 4"),
        ('culprits = {"A": 3, "B": 5, "C": 6}', "C: With mistake 6 the masks"),
        ('culprits = {"A": 3, "B": "giou", "C": 7}', "B: a number from 1 to 7"),
        ('culprits = {"A": 3, "B": 5}', "C: a number from 1 to 7"),
    ],
    "one_step": [
        (
            "def my_step(optimizer, model, loss):\n    loss.backward()\n"
            "    nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n    optimizer.step()",
            "still there",
        ),
        (
            "def my_step(optimizer, model, loss):\n    optimizer.zero_grad()\n    loss.backward()\n    optimizer.step()",
            "not clipped:",
        ),
        (
            "def my_step(optimizer, model, loss):\n    optimizer.zero_grad()\n    loss.backward()\n"
            "    nn.utils.clip_grad_value_(model.parameters(), 1.0)\n    optimizer.step()",
            "clip its length",
        ),
        (
            "def my_step(optimizer, model, loss):\n    optimizer.zero_grad()\n    loss.backward()\n    optimizer.step()\n"
            "    nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
            "not clipped in time",
        ),
        (
            "def my_step(optimizer, model, loss):\n    optimizer.zero_grad()\n    loss.backward()\n"
            "    nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
            "call optimizer.step()",
        ),
        (
            "def my_step(optimizer, model, loss):\n    optimizer.zero_grad()\n    (-loss).backward()\n"
            "    nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n    optimizer.step()",
            "the loss grows",
        ),
        (
            "def my_step(optimizer, model, loss):\n    optimizer.zero_grad()\n    loss.backward()\n"
            "    for p in model.parameters():\n        p.grad /= p.grad.norm()\n    optimizer.step()",
            "another step",
        ),
        (
            "def my_step(optimizer, model, loss):\n    optimizer.zero_grad()\n    loss.backward()\n"
            "    length = sum(p.grad.square().sum() for p in model.parameters()) ** 0.5\n    for p in model.parameters():\n"
            "        p.grad /= length\n    optimizer.step()",
            "a shorter one stays",
        ),
    ],
}

HARMLESS: dict[str, list[str]] = {
    "whole_way": [
        """def my_detect(model, images, padding):
    features = own.backbone(model, images)
    grid = features.projected
    padding = nn.functional.interpolate(padding[:, None].float(), grid.shape[-2:])[:, 0].bool()
    place, memory, hidden = (rearrange(x, "B ... h w -> B (h w) ...") for x in (own.positions(padding, model.d), grid, padding))
    for number in range(len(model.encoder)):
        memory = own.encoder_layer(model.encoder[number], memory, place, hidden)
    N = len(model.queries)
    embedding = model.queries[None].repeat(len(images), 1, 1)
    found = [torch.zeros(len(images), N, model.d)]
    for layer in model.decoder:
        found.append(own.decoder_layer(layer, found[-1], embedding, memory, place, hidden))
    queries = model.final_norm(torch.stack(found[1:]))
    logits, boxes = model.classes(queries), torch.sigmoid(model.boxes(queries))
    return features, rearrange(memory, "B (h w) d -> B d h w", h=grid.shape[2]), queries, logits, boxes
""",
        """def my_detect(model, images, padding):
    seen = own.backbone(model, images)
    B, d, h, w = seen.projected.shape
    padding = nn.functional.interpolate(padding.float().unsqueeze(1), size=(h, w)).squeeze(1) > 0.5
    place = own.positions(padding, d).flatten(2).transpose(1, 2)
    first, second = model.encoder
    padding = padding.reshape(B, h * w)
    x = own.encoder_layer(second, own.encoder_layer(first, own.to_sequence(seen.projected), place, padding), place, padding)
    embedding = torch.stack([model.queries] * B)
    a = own.decoder_layer(model.decoder[0], 0 * embedding, embedding, x, place, padding)
    b = own.decoder_layer(model.decoder[1], a, embedding, x, place, padding)
    c = own.decoder_layer(model.decoder[2], b, embedding, x, place, padding)
    kept = [model.final_norm(q) for q in (a, b, c)]
    logits, boxes = ([head(q) for q in kept] for head in (model.classes, model.boxes))
    return seen, own.to_grid(x, h, w), torch.stack(kept), torch.stack(logits), torch.stack(boxes).sigmoid()
""",
    ],
    "one_step": [
        "def my_step(optimizer, model, loss):\n    model.zero_grad()\n    loss.backward()\n"
        "    torch.nn.utils.clip_grad_norm_(list(model.parameters()), max_norm=1)\n    return optimizer.step()",
        "def my_step(optimizer, model, loss):\n    parameters = list(model.parameters())\n"
        "    gradients = torch.autograd.grad(loss, parameters)\n    length = torch.cat([g.flatten() for g in gradients]).norm()\n"
        "    for p, g in zip(parameters, gradients):\n        p.grad = g / max(1, float(length))\n    optimizer.step()",
    ],
}
