"""The backbone of `tiny`: torchvision's ResNet, ten layers deep and narrow, since torchvision's own widths are fixed."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.resnet import BasicBlock


def narrow_resnet(norm_layer: Any, dilation: bool) -> nn.Module:
    """A ten-layer ResNet of widths 32, 64, 128, 256 in torchvision's own blocks and names."""
    net = nn.Module()
    net.conv1 = nn.Conv2d(3, 32, kernel_size=7, stride=2, padding=3, bias=False)
    net.bn1 = norm_layer(32)
    net.relu = nn.ReLU(inplace=True)
    net.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    before = 32
    for stage, (after, stride) in enumerate(((32, 1), (64, 2), (128, 2), (256, 1 if dilation else 2)), start=1):
        skip = None
        if before != after:
            skip = nn.Sequential(nn.Conv2d(before, after, kernel_size=1, stride=stride, bias=False), norm_layer(after))
        block = BasicBlock(before, after, stride, skip, norm_layer=norm_layer)
        if stage == 4 and dilation:  # no stride, so the field of view grows by dilation instead
            block.conv2.dilation, block.conv2.padding = (2, 2), (2, 2)
        net.add_module(f"layer{stage}", nn.Sequential(block))
        before = after
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net
