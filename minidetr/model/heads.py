"""Box embedding -> class and box."""

from __future__ import annotations

from torch import Tensor, nn


class PredictionHeads(nn.Module):
    """A linear layer for the class (the last logit is "no object") and a three-layer perceptron for the box.

    Source: DETR, section 3.2 "Prediction feed-forward networks".
    """

    def __init__(self, width: int, num_classes: int):
        super().__init__()
        self.classes = nn.Linear(width, num_classes + 1)
        self.boxes = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """queries B N d -> logits B N C+1 and boxes B N 4 (cx cy w h in 0..1 of the unpadded image)."""
        return self.classes(queries), self.boxes(queries).sigmoid()
