"""Image -> Res2..Res5, and the 1x1 convolution that takes Res5 to the transformer's width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from torchvision.ops import FrozenBatchNorm2d

from minidetr.errors import InputError


@dataclass
class Features:
    """What the backbone saw. At 640x640 with ResNet-50: 256x160x160, 512x80x80, 1024x40x40, 2048x20x20 and 256x20x20."""

    res2: Tensor  # B  256 H/4  W/4
    res3: Tensor  # B  512 H/8  W/8
    res4: Tensor  # B 1024 H/16 W/16
    res5: Tensor  # B 2048 h w
    projected: Tensor  # B d h w


class Backbone(nn.Module):
    """A ResNet of torchvision without its classifier, and the projection of its last stage.

    Source: DETR, section 3.2 "Backbone"; He et al., Deep Residual Learning.
    """

    def __init__(self, name: str, width: int, dilation: bool, norm: str):
        super().__init__()
        norm_layer = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d}[norm]
        if name == "narrow10":
            self.resnet = narrow_resnet(norm_layer, dilation)
            self.channels = (32, 64, 128, 256)
        elif name in ("resnet18", "resnet50", "resnet101"):
            stride_or_dilation = [False, False, dilation]  # of the stages behind Res3, Res4 and Res5
            self.resnet = getattr(torchvision.models, name)(norm_layer=norm_layer, replace_stride_with_dilation=stride_or_dilation)
            del self.resnet.fc, self.resnet.avgpool  # the classifier has no part in DETR
            self.channels = (64, 128, 256, 512) if name == "resnet18" else (256, 512, 1024, 2048)
        else:
            raise InputError(f"there is no backbone {name!r}: choose resnet18, resnet50, resnet101 or narrow10")
        self.projection = nn.Conv2d(self.channels[-1], width, kernel_size=1)

    def forward(self, images: Tensor) -> Features:
        """images B 3 H W -> Features."""
        net: Any = self.resnet
        x = net.relu(net.bn1(net.conv1(images)))  # B 64 H/2 W/2
        x = net.maxpool(x)  # B 64 H/4 W/4
        res2 = net.layer1(x)  # B 256 H/4 W/4
        res3 = net.layer2(res2)  # B 512 H/8 W/8
        res4 = net.layer3(res3)  # B 1024 H/16 W/16
        res5 = net.layer4(res4)  # B 2048 h w, where h w = H/32 W/32 (H/16 W/16 with dilation)
        return Features(res2, res3, res4, res5, self.projection(res5))  # projected: B d h w


def narrow_resnet(norm_layer: Any, dilation: bool) -> nn.Module:
    """A ten-layer ResNet of widths 32, 64, 128, 256 in torchvision's own blocks and names (torchvision's widths are fixed)."""
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
