"""What tracing costs: networks of growing depth, and ResNet-50.

    python experiments/trace_time.py

A deeper network should cost in proportion to its layers; the last column says whether it does.
Seconds of one core: what else the machine does hardly counts.
"""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import amc  # before torch: it sets how long OpenMP's threads spin
from amc.models.resnet import resnet50


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


def measure(model: nn.Module, size: int, rounds: int = 3) -> tuple[float, float, int]:
    """(seconds of a trace, of a forward pass, layers); the fastest of some rounds."""
    model, x = model.eval(), torch.randn(1, 3, size, size)
    with torch.no_grad():
        forward = fastest(lambda: model(x), rounds)
    layers = len(amc.trace(model, (x,)).layers)
    return fastest(lambda: amc.trace(model, (x,)), rounds), forward, layers


def fastest(run: Callable[[], object], rounds: int) -> float:
    """Seconds that the processor spent on the fastest of some runs."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds)


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    print("| network | layers | trace, s | forward, s | ms per layer |")
    print("|---|---|---|---|---|")
    cases: list[tuple[str, Callable[[], nn.Module], int]] = [
        *((f"{n} blocks, 16x16", partial(residual, n), 16) for n in (10, 30, 100, 300)),
        ("ResNet-50, 224x224", resnet50, 224),
    ]
    for name, build, size in cases:
        seconds, forward, layers = measure(build(), size)
        row = f"{name} | {layers} | {seconds:.2f} | {forward:.3f} | {1e3 * seconds / layers:.0f}"
        print(f"| {row} |", flush=True)


if __name__ == "__main__":
    main()
