"""Image -> Res2..Res5, and the 1x1 convolution that takes Res5 to the transformer's width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from minidetr.errors import InputError
from minidetr.model.narrow_resnet import narrow_resnet


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
        """images B 3 H W -> Features, of the weights' own type."""
        net: Any = self.resnet
        x = images.to(self.projection.weight.dtype)  # a model in half or double precision takes images of float32
        x = x.contiguous(memory_format=torch.channels_last)  # the faster layout for convolutions; every result has it, too
        x = convolve(net.conv1, net.bn1, x).relu_()  # B 64 H/2 W/2
        x = net.maxpool(x)  # B 64 H/4 W/4
        res2 = stage(net.layer1, x)  # B 256 H/4 W/4
        res3 = stage(net.layer2, res2)  # B 512 H/8 W/8
        res4 = stage(net.layer3, res3)  # B 1024 H/16 W/16
        res5 = stage(net.layer4, res4)  # B 2048 h w, where h w = H/32 W/32 (H/16 W/16 with dilation)
        return Features(res2, res3, res4, res5, self.projection(res5))  # projected: B d h w


def stage(blocks: Any, x: Tensor) -> Tensor:
    """The residual blocks of one stage, torchvision's: x B c H W -> B c' H' W'. Every block adds what it found to its input."""
    for block in blocks:
        y = convolve(block.conv1, block.bn1, x).relu_()
        y = convolve(block.conv2, block.bn2, y)
        if hasattr(block, "conv3"):  # from ResNet-50 on: 1x1 to fewer channels, 3x3, 1x1 to more
            y = convolve(block.conv3, block.bn3, y.relu_())
        y += x if block.downsample is None else convolve(block.downsample[0], block.downsample[1], x)
        x = y.relu_()
    return x


def convolve(convolution: Any, norm: nn.Module, x: Tensor) -> Tensor:
    """A convolution without bias and its norm: x B c H W -> B c' H' W'.

    A frozen norm scales and shifts each channel by constants, so it is folded into the convolution's weight and bias: every
    activation is written once instead of three times (a fifth of the backbone's time).
    """
    if not isinstance(norm, FrozenBatchNorm2d):
        return norm(convolution(x))
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()  # c'
    weight, shift = convolution.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
    return F.conv2d(x, weight, shift, convolution.stride, convolution.padding, convolution.dilation)
