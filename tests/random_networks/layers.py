"""Convolutions with norms and activations, chosen by numbers."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import nn

WIDTHS = (8, 4, 6, 12, 16, 5, 10, 7)
T = TypeVar("T")


def pick(options: Sequence[T], choice: int) -> T:
    return options[choice % len(options)]


def width(choice: int) -> int:
    return pick(WIDTHS, choice)


ACTIVATIONS: tuple[Callable[[int], nn.Module], ...] = (
    lambda c: nn.ReLU(),
    lambda c: nn.SiLU(),
    lambda c: nn.Hardswish(),
    lambda c: nn.PReLU(c, init=0.3),
    lambda c: nn.Sigmoid(),
    lambda c: nn.GELU(),
    lambda c: nn.PReLU(init=0.2),
    lambda c: nn.ReLU(inplace=True),
    lambda c: nn.Tanh(),
    lambda c: nn.Softplus(),
    lambda c: nn.LeakyReLU(0.1),
    lambda c: nn.Mish(),
    lambda c: nn.ELU(),
    lambda c: nn.Identity(),
)


def activation(channels: int, choice: int) -> nn.Module:
    return pick(ACTIVATIONS, choice)(channels)


def plain(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def unit(inputs: int, outputs: int, choice: int = 0, **options: Any) -> nn.Module:
    """Convolution, batch norm, activation; one in five without the norm."""
    normed = choice % 5 != 4
    layers = [plain(inputs, outputs, bias=not normed or choice % 2 == 1, **options)]
    norm = [nn.BatchNorm2d(outputs)] if normed else []
    return nn.Sequential(*layers, *norm, activation(outputs, choice))
