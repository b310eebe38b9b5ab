"""Heatmaps + Res5 -> mask logits at H/4 x W/4: convolve, normalise, ReLU, and upsample towards Res4, Res3 and Res2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidetr.model.backbone import Features
from minidetr.model.heatmaps import per_object


class MaskHead(nn.Module):
    """A Feature Pyramid Network over one object at a time (DETR, section 4.4 and figure 8).

    Five 3x3 convolutions, each with GroupNorm (8 groups) and ReLU; before each of the last three, nearest-neighbour upsampling
    and the lateral 1x1 convolution of a finer ResNet stage are added. What depends on the image alone is computed once an image:
    the laterals, and the features' share of the first convolution (convolution is linear, so the concatenation
    [features, heatmaps] can be convolved in two parts and summed; the numbers are those of the reference).
    """

    def __init__(self, width: int, heads: int, widths: tuple[int, ...], channels: tuple[int, ...]):
        super().__init__()
        inputs = (width + heads, *widths[:-1])
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, kernel_size=3, padding=1) for i, o in zip(inputs, widths, strict=True))
        self.norms = nn.ModuleList(nn.GroupNorm(min(8, o), o) for o in widths)
        finer = (channels[2], channels[1], channels[0])  # Res4, Res3, Res2
        self.laterals = nn.ModuleList(nn.Conv2d(c, o, kernel_size=1) for c, o in zip(finer, widths[1:4], strict=True))
        self.output = nn.Conv2d(widths[-1], 1, kernel_size=3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.get_parameter("bias"))
        # Start values only, published weights replace them. Heatmaps sum to 1 over heads and pixels, so each value is a thousandth
        # or so: lifted above the features, what tells objects apart is heard from the first iteration on. And most pixels are not
        # the object's: a mask that begins at probability 0.12 has not half of the image to unlearn first (RetinaNet, section 4.1).
        with torch.no_grad():
            next(self.convolutions.parameters())[:, width:] *= 400
            nn.init.constant_(self.output.get_parameter("bias"), -2.0)

    def forward(self, heatmaps: Tensor, features: Features, image_index: Tensor) -> Tensor:
        """heatmaps K M h w, features of B images, image_index K (0..B-1) -> mask logits K H/4 W/4."""
        heatmaps = heatmaps.contiguous(memory_format=torch.channels_last)  # as the features are; every result has it, too
        x = self.first_convolution(heatmaps, features.projected, image_index)  # K 264 h w
        x = self.norms[0](x).relu_()
        x = self.norms[1](self.convolutions[1](x)).relu_()  # K 128 h w
        finer = (features.res4, features.res3, features.res2)
        for stage, lateral, convolution, norm in zip(finer, self.laterals, self.convolutions[2:], self.norms[2:], strict=True):
            side = lateral(stage)  # B c H/16 W/16, then H/8 W/8, then H/4 W/4
            x = F.interpolate(x, size=side.shape[-2:], mode="nearest").add_(per_object(side, image_index))
            x = norm(convolution(x)).relu_()  # K 64 H/16 W/16, then K 32 H/8 W/8, then K 16 H/4 W/4
        return self.output(x).squeeze(1)  # K H/4 W/4

    def first_convolution(self, heatmaps: Tensor, projected: Tensor, image_index: Tensor) -> Tensor:
        """The convolution of [projected, heatmaps] (K d+M h w), the image's part computed once: -> K 264 h w."""
        d = projected.shape[1]
        weight, bias = self.convolutions[0].parameters()
        of_image = F.conv2d(projected, weight[:, :d], bias, padding=1)  # B 264 h w
        return F.conv2d(heatmaps, weight[:, d:], padding=1).add_(per_object(of_image, image_index))
