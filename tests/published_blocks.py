"""Building blocks of published networks, written the way their authors write them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def unit(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )


class C2f(nn.Module):
    """YOLOv8: the width is an attribute, and split takes it as a number."""

    def __init__(self, inputs: int, outputs: int, depth: int = 2) -> None:
        super().__init__()
        self.c = outputs // 2
        self.cv1, self.cv2 = unit(inputs, 2 * self.c), unit((2 + depth) * self.c, outputs)
        self.m = nn.ModuleList(unit(self.c, self.c, 3) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).split((self.c, self.c), 1))
        for m in self.m:
            y.append(y[-1] + m(y[-1]))
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    """YOLO: the same map pooled three times, side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = unit(channels, channels // 2), unit(channels * 2, channels)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        y = self.m(x)
        z = self.m(y)
        return self.cv2(torch.cat((x, y, z, self.m(z)), 1))


class Detector(nn.Module):
    """Two scales, up-sampling, anchors that a view sorts out at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = unit(3, 16, 3, 2), unit(32, 32, 3, 2)
        self.a, self.b, self.pool, self.fuse = C2f(16, 32), C2f(32, 32), SPPF(32), C2f(64, 32)
        self.anchors, self.outputs = 3, 20
        self.detect = nn.ModuleList([nn.Conv2d(32, 60, 1), nn.Conv2d(32, 60, 1)])

    def forward(self, x: Tensor) -> Tensor:
        fine = self.a(self.stem(x))
        coarse = self.pool(self.b(self.down(fine)))
        up = F.interpolate(coarse, scale_factor=2.0)
        found = []
        for layer, y in zip(
            self.detect, (self.fuse(torch.cat([up, fine], 1)), coarse), strict=True
        ):
            y = layer(y)
            batch, _, height, width = y.shape
            y = y.view(batch, self.anchors, self.outputs, height, width)
            found.append(y.permute(0, 1, 3, 4, 2).sigmoid().reshape(batch, -1, self.outputs))
        return torch.cat(found, 1)


class Res2Net(nn.Module):
    """Parts of a fixed width, each added to the result of the one before."""

    def __init__(self, channels: int = 32, scale: int = 4) -> None:
        super().__init__()
        self.width, self.scale = channels // scale, scale
        self.conv1, self.conv3 = unit(channels, channels), unit(channels, channels)
        self.convs = nn.ModuleList(unit(self.width, self.width, 3) for _ in range(scale - 1))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(self.conv1(x), self.width, 1)
        y = out = self.convs[0](parts[0])
        for i in range(1, self.scale - 1):
            y = self.convs[i](y + parts[i])
            out = torch.cat((out, y), 1)
        return self.conv3(torch.cat((out, parts[self.scale - 1]), 1)) + x


class Ghost(nn.Module):
    """GhostNet: cheap copies of channels, cut off at the wanted number."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.oup = outputs
        half = -(-outputs // 2)
        self.primary, self.cheap = unit(inputs, half), unit(half, half, 3, groups=half)

    def forward(self, x: Tensor) -> Tensor:
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], 1)[:, : self.oup, :, :]


class ShuffleUnit(nn.Module):
    """ShuffleNet V2: half of the channels pass, then all are shuffled by hand."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            unit(half, half), unit(half, half, 3, groups=half), unit(half, half)
        )

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        x = torch.cat((a, self.branch(b)), 1)
        batch, channels, height, width = x.size()
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return x.view(batch, -1, height, width)


class SelectiveKernel(nn.Module):
    """SKNet: branches stacked, weighed by a softmax over the branches."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.branches = nn.ModuleList([unit(channels, channels, 3), unit(channels, channels, 5)])
        self.squeeze = nn.Linear(channels, 16)
        self.excite = nn.ModuleList([nn.Linear(16, channels), nn.Linear(16, channels)])

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.stack([branch(x) for branch in self.branches], 1)
        z = self.squeeze(maps.sum(1).mean((2, 3)))
        weights = torch.stack([layer(z) for layer in self.excite], 1).softmax(1)
        return (maps * weights[..., None, None]).sum(1)


class UNet(nn.Module):
    """Skip connections, transposed convolutions, padding to the size of the skip."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = unit(3, 16, 3), unit(16, 32, 3), unit(32, 32, 3)
        self.up1, self.d = nn.ConvTranspose2d(32, 16, 2, 2), unit(48, 16, 3)
        self.up2, self.e = nn.ConvTranspose2d(16, 16, 2, 2), unit(32, 16, 3)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        up = self.up1(self.c(F.max_pool2d(b, 2)))
        up = F.pad(up, [0, b.shape[3] - up.shape[3], 0, b.shape[2] - up.shape[2]])
        d = self.d(torch.cat([b, up], 1))
        return self.out(self.e(torch.cat([a, self.up2(d)], 1)))


class WeightedFusion(nn.Module):
    """BiFPN: maps added with learned weights of their own."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(2))
        self.a, self.b = unit(channels, channels, 3), unit(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        w = F.relu(self.weights)
        w = w / (w.sum() + 1e-4)
        return w[0] * self.a(x) + w[1] * self.b(x)


class SimpleGate(nn.Module):
    """NAFNet without its norm: halves multiplied, a zero scale on the residual branch."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, 2 * channels, 1)
        self.depth = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.attend = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.back = nn.Conv2d(channels, channels, 1)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.depth(self.wide(x)).chunk(2, 1)
        y = a * b
        return x + self.back(y * self.attend(y)) * self.beta


class EfficientAttention(nn.Module):
    """ECA-Net: a convolution that slides over the channels; they cannot be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.mean((2, 3), keepdim=True).squeeze(-1).transpose(-1, -2))
        return x * y.transpose(-1, -2).unsqueeze(-1).sigmoid()


class SpatialAttention(nn.Module):
    """CBAM: mean and maximum over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x.mean(1, True), x.max(1, True)[0]], 1)
        return x * self.conv(y).sigmoid()


class Recurrent(nn.Module):
    """CRNN: columns of the map are the steps of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = unit(3, 16, 3), unit(16, 16, 3)
        self.lstm = nn.LSTM(256, 20, batch_first=True, bidirectional=True)
        self.out = nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x))
        batch, channels, height, width = x.shape
        x = x.permute(0, 3, 1, 2).reshape(batch, width, channels * height)
        return self.out(self.lstm(x)[0])


def within(*blocks: nn.Module, channels: int = 32) -> nn.Module:
    return nn.Sequential(unit(3, channels, 3), *blocks, unit(channels, 32, 3), nn.Conv2d(32, 4, 1))


ALL = 0.97
BLOCKS: dict[str, tuple[Callable[[], nn.Module], float, str]] = {
    # the part of the MACs that can go at least, and what keeps the rest
    "detector": (Detector, ALL, ""),
    "res2net": (lambda: within(Res2Net()), ALL, ""),
    "ghost": (lambda: within(Ghost(32, 33), Ghost(33, 32)), ALL, "has a single channel"),
    "shuffle": (lambda: within(ShuffleUnit(), ShuffleUnit()), ALL, ""),
    "selective kernel": (lambda: within(SelectiveKernel()), ALL, ""),
    "u-net": (UNet, ALL, ""),
    "weighted fusion": (
        lambda: within(WeightedFusion()),
        ALL,
        "select takes channels at positions written in forward",
    ),
    "simple gate": (lambda: within(SimpleGate()), ALL, ""),
    "efficient attention": (
        lambda: within(EfficientAttention()),
        0.85,
        "conv1d reads along another dimension than that of the channels",
    ),
    "spatial attention": (lambda: within(SpatialAttention()), 0.8, "mean mixes channels"),
    "recurrent": (Recurrent, 0.98, "hidden state of lstm"),
}
