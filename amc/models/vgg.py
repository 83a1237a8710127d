"""VGG-16 for 32 x 32 images: 13 convolutions with batch normalisation and one classifier."""

from torch import Tensor, nn

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    """The convolutional part of Simonyan and Zisserman 2015, configuration D."""

    def __init__(self, num_classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for stage in STAGES:
            for channels in stage:
                outputs = max(1, round(channels * width))
                layers += [
                    nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(inplace=True),
                ]
                inputs = outputs
            layers.append(nn.MaxPool2d(2, ceil_mode=True))  # 16 x 16 images end at 1 x 1 too
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W], H and W up to 32 -> logits [B, num_classes]."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def vgg16(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> VGG:
    """VGG-16 in CIFAR form: 313 MMACs at 32 x 32, 14.7 M parameters."""
    return VGG(num_classes, in_channels, width)
