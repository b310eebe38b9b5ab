"""More to learn from each image: noised truth as further queries, in training alone, which the decoder puts right.

An object query must find out where to look before it can say anything, and the matching may give it another object each time. A
query that starts at a noised box of a segment knows where to look and for which segment it answers: nothing is matched.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minidetr.after.decode import decode_again
from minidetr.data.batch import moved
from minidetr.model import Detections, PanopticDETR


class Denoising(nn.Module):
    """Embeddings of boxes and classes, and the queries made of them. They look at the image through the model's own decoder.

    Each box is shifted by up to `box_noise` of half its size and scaled by 1 +- up to `box_noise`; a share `class_noise` of the
    classes is drawn anew. The queries of a group see each other, not other groups', and the model's own queries see none of them.
    Source: Li et al., DN-DETR (2022), sections 4 and 5.
    """

    def __init__(self, groups: int, width: int, num_classes: int, box_noise: float = 0.4, class_noise: float = 0.2):
        super().__init__()
        self.groups, self.num_classes, self.box_noise, self.class_noise = groups, num_classes, box_noise, class_noise
        self.classes = nn.Embedding(num_classes, width)
        self.boxes = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width))

    def forward(
        self, model: PanopticDETR, seen: Detections, labels: Sequence[Tensor], boxes: Sequence[Tensor]
    ) -> tuple[list[Tensor], tuple[Tensor, Tensor, Tensor]]:
        """labels T and boxes T 4 of B images -> the box embeddings B groups*S d after each layer, and who answers for what.

        S is the largest T, at least 1: images with fewer segments have queries without one, which nobody sees or judges. The second
        are the (image, query, segment) numbers, K each, of those with one.
        """
        slots = max(1, *(len(of_image) for of_image in labels))  # S
        known = torch.tensor([[s < len(of_image) for s in range(slots)] for of_image in labels])  # B S, on the host
        image, segment = known.repeat(1, self.groups).nonzero(as_tuple=True)  # image, place among the groups*S
        pairs = tuple(moved(x, seen.memory.device) for x in (image, segment, segment % slots))
        real = moved(known, seen.memory.device)
        padded = nn.utils.rnn.pad_sequence([*labels, labels[0].new_zeros(slots)], batch_first=True)[:-1]  # B S
        places = nn.utils.rnn.pad_sequence([*boxes, boxes[0].new_full((slots, 4), 0.5)], batch_first=True)[:-1]  # B S 4
        classes = padded.repeat(1, self.groups)
        redrawn = torch.rand(classes.shape, device=classes.device) < self.class_noise
        classes = torch.where(redrawn, torch.randint_like(classes, self.num_classes), classes)
        queries = self.boxes(2 * self.noised(places.repeat(1, self.groups, 1)) - 1), self.classes(classes)
        group = torch.arange(self.groups, device=real.device).repeat_interleave(slots)
        visible = real.repeat(1, self.groups)[:, None] & (group[:, None] == group)  # B groups*S groups*S
        itself = torch.eye(len(group), dtype=torch.bool, device=real.device)  # a query that sees nothing would be NaN
        layers = decode_again(model, seen, *queries, strangers=~(visible | itself))
        return layers, pairs  # type: ignore[return-value]  # three of them

    def noised(self, boxes: Tensor) -> Tensor:
        """Boxes (cx cy w h) shifted and scaled, in 0..1."""
        size = boxes[..., 2:]
        noise = (2 * torch.rand_like(boxes) - 1) * self.box_noise
        return torch.cat([boxes[..., :2] + noise[..., :2] * size / 2, size * (1 + noise[..., 2:])], -1).clamp(0, 1)
