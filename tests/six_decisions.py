"""A network of six decisions, errors of its groups, and searches that are told rewards."""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import nn

import amc
from amc.allocators.problem import Proposals
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget


@cache
def budget(ratio: float = 0.5, multiple: int = 1) -> Budget:
    """Six decisions with many allowed counts."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 24), (24, 32), (32, 40), (40, 32), (32, 24), (24, 16)):
        layers += [nn.Conv2d(inputs, outputs, 1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 4))
    return Budget(amc.trace(model, (torch.randn(2, 3, 1, 1),)), ratio, multiple=multiple)


def errors_of(limit: Budget, seed: int = 0) -> dict[str, np.ndarray]:
    """Errors that fall with every channel, steeper in some groups than in others."""
    rng, found = np.random.default_rng([11, seed]), {}
    for group, options in zip(limit.graph.decisions, limit.options, strict=True):
        gains = np.sort(rng.exponential(rng.uniform(0.3, 3), group.size))
        found[group.name] = np.append(np.cumsum(gains)[::-1], 0)[options] / group.size
    return found


def tried(
    proposals: Proposals, reward: Callable[[Strategy], float], number: int
) -> list[tuple[Strategy, float]]:
    """The first strategies of a search and what it was told."""
    found = []
    strategy = next(proposals)
    while True:
        found.append((dict(strategy), reward(strategy)))
        if len(found) == number:
            return found
        strategy = proposals.send(found[-1][1])
