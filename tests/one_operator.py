"""Small networks around one operator, and what every cut of them must be."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import amc
from oracles import counting


class Net(nn.Module):
    """Modules and parameters by name, and the forward pass as a function of them."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.run = run

    def forward(self, *inputs: Any) -> Any:
        return self.run(self, *inputs)


def unit(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def inner(run: Callable[..., Any], outputs: int = 8, **parts: Any) -> nn.Module:
    """A unit of eight channels, something unusual, and a convolution that reads it."""
    head = nn.Conv2d(outputs, 4, 1)
    return Net(lambda m, x: m.head(run(m, m.stem(x))), stem=unit(3, 8), head=head, **parts)


def pooled(run: Callable[..., Any], outputs: int, **parts: Any) -> nn.Module:
    """A unit of eight channels, something unusual, and a linear layer that reads it."""
    head = nn.Linear(outputs, 4)
    return Net(lambda m, x: m.head(run(m, m.stem(x))), stem=unit(3, 8), head=head, **parts)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(0.3 * torch.randn(*shape))


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8)


class Pair(NamedTuple):
    """A network, and its twin in plain operators."""

    network: Callable[[], nn.Module]
    twin: Callable[[], nn.Module]


def counted(model: nn.Module, x: Tensor) -> int:
    with torch.no_grad(), counting() as counter:
        model(x)
    assert counter.get_total_flops() % (2 * len(x)) == 0
    return counter.get_total_flops() // (2 * len(x))


def least(graph: amc.ChannelGraph) -> amc.Plan:
    return graph.plan({g.name: range(g.bounds[0]) for g in graph.decisions})


def check_cuts(model: nn.Module, graph: amc.ChannelGraph, x: Tensor, fewest: int = 0) -> None:
    """Groups keep different numbers of channels; a cut is the mask, and costs what was said.

    PyTorch's counter does not see an einsum over a single channel: ``fewest`` 2 keeps more.
    """
    assert graph.macs() == counted(model, x)
    bounds = {g.name: (max(fewest, g.bounds[0]), g.size) for g in graph.decisions}
    plans = [graph.plan({name: range(low) for name, (low, _) in bounds.items()})]
    for seed in range(4):
        rng = np.random.default_rng(seed)
        counts = {n: rng.integers(*both, endpoint=True) for n, both in bounds.items()}
        keep = {g.name: rng.permutation(g.size)[: counts[g.name]] for g in graph.decisions}
        plans.append(graph.plan(keep))
    for plan in plans:
        smaller, masked = amc.shrink(model, plan), amc.mask(model, plan)
        with torch.no_grad():
            found, expected = tree_leaves(smaller(x)), tree_leaves(masked(x))
        for a, b in zip(found, expected, strict=True):
            assert (a - b).abs().max() <= 1e-4 * max(float(b.abs().max()), 1e-3)
        assert graph.macs(plan) == counted(smaller, x)
