"""MobileNet V1 and V2 for 32 x 32 images: the published widths, fewer strides."""

from torch import Tensor, nn

V1 = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *(((512, 1),) * 5),
    (1024, 2),
    (1024, 1),
)
"""(channels, stride) of each depthwise-separable block; the stem has stride 1 instead of 2."""

V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""(expansion, channels, repeats, stride); the stem and the second stage keep the resolution."""


def _conv_bn(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU6(inplace=True)) if act else nn.Sequential(*layers)


def _scaled(channels: int, width: float) -> int:
    """The width factor, rounded to a multiple of 8 as published."""
    return max(8, round(channels * width / 8) * 8)


class MobileNetV1(nn.Module):
    """Howard et al. 2017: a stem and 13 depthwise-separable blocks."""

    def __init__(self, num_classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        inputs = _scaled(32, width)
        blocks = [_conv_bn(in_channels, inputs, 3)]
        for channels, stride in V1:
            outputs = _scaled(channels, width)
            depthwise = _conv_bn(inputs, inputs, 3, stride=stride, groups=inputs)
            blocks.append(nn.Sequential(depthwise, _conv_bn(inputs, outputs, 1)))
            inputs = outputs
        self.features = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> logits [B, num_classes]."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project; a shortcut where the shape allows."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = [_conv_bn(inputs, hidden, 1)] if expansion != 1 else []
        layers.append(_conv_bn(hidden, hidden, 3, stride=stride, groups=hidden))
        layers.append(_conv_bn(hidden, outputs, 1, act=False))
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H/stride, W/stride]."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """Sandler et al. 2018: a stem, 17 inverted residuals and a 1 x 1 head."""

    def __init__(self, num_classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        inputs = _scaled(32, width)
        blocks: list[nn.Module] = [_conv_bn(in_channels, inputs, 3)]
        for expansion, channels, repeats, stride in V2:
            outputs = _scaled(channels, width)
            for position in range(repeats):
                step = stride if position == 0 else 1
                blocks.append(InvertedResidual(inputs, outputs, step, expansion))
                inputs = outputs
        head = _scaled(1280, max(1.0, width))
        blocks.append(_conv_bn(inputs, head, 1))
        self.features = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(head, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> logits [B, num_classes]."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


def mobilenet_v1(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> MobileNetV1:
    """MobileNet V1 in CIFAR form: 46 MMACs at 32 x 32, 3.2 M parameters."""
    return MobileNetV1(num_classes, in_channels, width)


def mobilenet_v2(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> MobileNetV2:
    """MobileNet V2 in CIFAR form: 88 MMACs at 32 x 32, 2.2 M parameters."""
    return MobileNetV2(num_classes, in_channels, width)
