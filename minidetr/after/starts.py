"""Queries that know where to look: the decoder starts from the N best cells of the encoded image."""

from __future__ import annotations

from torch import Tensor, nn

from minidetr.model.heads import PredictionHeads
from minidetr.model.transformer import to_sequence


class Starts(nn.Module):
    """Every cell says whether it begins an object, which, and in which box; the N surest become the decoder's queries.

    The heads are their own and are trained as those of queries are, matched one to one, so that one cell speaks for an object and
    the others of it learn to be silent. With heads that every cell of an object satisfies, the surest cells all say the same.
    What a query is told apart by are its learned embedding and its cell's; what it starts from is nothing, as ever.
    Source: Zhu et al., Deformable DETR (2020), appendix A.4, "two-stage"; Zhang et al., DINO (2022), section 3.4.
    """

    def __init__(self, width: int, num_classes: int):
        super().__init__()
        self.heads = PredictionHeads(width, num_classes)
        self.embed = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))

    def forward(self, memory: Tensor, position: Tensor, padding: Tensor | None, N: int) -> tuple[Tensor, Tensor, Tensor]:
        """memory, position B d h w; padding B h w or None -> what N queries are told apart by B N d, and the logits B h*w C+1 and
        boxes B h*w 4 of all cells."""
        cells = to_sequence(memory)  # B h*w d
        logits, boxes = self.heads(cells)
        scores = logits.detach().float().softmax(-1)[..., :-1].amax(-1)  # B h*w
        if padding is not None:
            scores = scores.masked_fill(padding.flatten(1), -1)
        best = nn.functional.pad(scores, (0, N), value=-2.0).topk(N, dim=1).indices  # B N; fewer cells than queries: empty ones
        candidates = nn.functional.pad((cells + to_sequence(position)).detach(), (0, 0, 0, N))  # the image is not bent
        chosen = candidates.gather(1, best[..., None].expand(-1, -1, cells.shape[-1]))  # B N d
        return self.embed(chosen), logits, boxes
