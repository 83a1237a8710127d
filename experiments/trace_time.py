"""What tracing costs: ResNets of growing depth, and Hugging Face's ResNet-50 if it is there.

    python experiments/trace_time.py

A deeper network should cost in proportion to its layers; the last column says whether it does.
"""

import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn

import amc  # before torch: it sets how long OpenMP's threads spin


class Block(nn.Module):
    """Two convolutions and their residual sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in and out."""
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(x + y)


def residual(blocks: int) -> nn.Module:
    """A stack of residual blocks of 16 channels."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), *(Block(16) for _ in range(blocks)), nn.Conv2d(16, 10, 1)
    )


def resnet50() -> nn.Module:
    """Hugging Face's, from its configuration, with random weights."""
    import transformers

    network: nn.Module = transformers.ResNetForImageClassification(transformers.ResNetConfig())
    return network


def measure(model: nn.Module, size: int, rounds: int = 3) -> tuple[float, float, int]:
    """(seconds of a trace, seconds of a forward pass, layers); the fastest of some rounds."""
    model, x = model.eval(), torch.randn(1, 3, size, size)
    with torch.no_grad():
        forward = fastest(lambda: model(x), rounds)
    layers = len(amc.trace(model, (x,)).layers)
    return fastest(lambda: amc.trace(model, (x,)), rounds), forward, layers


def fastest(run: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest of some runs."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    """Prints the table."""
    print("| network | layers | trace, s | forward, s | ms per layer |")
    print("|---|---|---|---|---|")
    cases: list[tuple[str, Callable[[], nn.Module], int]] = [
        (f"{n} blocks, 16x16", partial(residual, n), 16) for n in (10, 30, 100, 300)
    ]
    if find_spec("transformers"):
        cases.append(("ResNet-50, 224x224", resnet50, 224))
    for name, build, size in cases:
        seconds, forward, layers = measure(build(), size)
        print(
            f"| {name} | {layers} | {seconds:.2f} | {forward:.3f} | {1e3 * seconds / layers:.0f} |"
        )


if __name__ == "__main__":
    main()
