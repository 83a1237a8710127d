"""ResNet and its plain counterpart for 32 x 32 images (He et al. 2016, section 4.2)."""

import torch.nn.functional as F
from torch import Tensor, nn


def _conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class Block(nn.Module):
    """Two 3 x 3 convolutions; a shortcut around them unless the network is plain.

    Where the shape changes the shortcut is a 1 x 1 convolution (option B of the paper), so that
    every channel of the stage is produced by a layer.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.residual = residual
        self.shortcut: nn.Module = nn.Identity()
        if residual and (stride != 1 or inputs != outputs):
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H/stride, W/stride]."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x) if self.residual else out)


class ResNet(nn.Module):
    """Depth 6n+2: a stem, three stages of n blocks with 16, 32, 64 channels, and a classifier."""

    def __init__(
        self, depth: int, num_classes: int, in_channels: int, width: float, residual: bool = True
    ) -> None:
        super().__init__()
        widths = [max(1, round(c * width)) for c in (16, 32, 64)]
        self.conv1, self.bn1 = _conv3(in_channels, widths[0]), nn.BatchNorm2d(widths[0])
        stages, inputs = [], widths[0]
        for stage, outputs in enumerate(widths):
            blocks = []
            for position in range((depth - 2) // 6):
                stride = 2 if stage > 0 and position == 0 else 1
                blocks.append(Block(inputs, outputs, stride, residual))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = nn.Linear(widths[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> logits [B, num_classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def resnet20(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> ResNet:
    """ResNet-20: 41 MMACs at 32 x 32, 0.27 M parameters."""
    return ResNet(20, num_classes, in_channels, width)


def resnet56(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> ResNet:
    """ResNet-56: 126 MMACs at 32 x 32, 0.86 M parameters."""
    return ResNet(56, num_classes, in_channels, width)


def plain20(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> ResNet:
    """ResNet-20 without shortcuts, the Plain-20 of the AMC paper."""
    return ResNet(20, num_classes, in_channels, width, residual=False)


EXPANSION = 4
"""Outputs of a block, as a multiple of its inner channels."""


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolution with a shortcut around them."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * inner
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, 4 inner, H/stride, W/stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """A 7 x 7 stem, stages of 3, 4, 6 and 3 blocks, and a classifier."""

    def __init__(self, num_classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        widths = [max(1, round(c * width)) for c in (64, 128, 256, 512)]
        self.conv1 = nn.Conv2d(in_channels, widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages, inputs = [], widths[0]
        for stage, (inner, count) in enumerate(zip(widths, (3, 4, 6, 3), strict=True)):
            blocks = []
            for position in range(count):
                blocks.append(Bottleneck(inputs, inner, 2 if stage and not position else 1))
                inputs = EXPANSION * inner
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> logits [B, num_classes]."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def resnet50(num_classes: int = 1000, in_channels: int = 3, width: float = 1.0) -> ResNet50:
    """ResNet-50: 4.1 GMACs at 224 x 224, 25.6 M parameters."""
    return ResNet50(num_classes, in_channels, width)
