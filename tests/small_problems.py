"""Small networks whose budgets can be searched without training: budgets, outcomes, policies."""

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from agents import Settings
from amc.calibration.calibrate import calibrate
from amc.calibration.statistics import Sampling
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Strategy
from amc.metrics import METRICS, Evidence, selection_of
from amc.models.catalog import build
from amc.objectives.budget import Budget
from amc.reconstruction.compressor import Compressor
from amc.search.problem import Found, Problem
from amc.search.search import learn
from amc.search.trials import Limits, Trials
from amc.tasks.evaluate import Score
from envs import ChannelPruningEnv, Outcome

Network = Callable[[], nn.Module]


class Small(nn.Module):
    """On images of 8 x 6: MACs 1296 a + 108 a b + 12 b f + 4 f for a, b, f channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)  # 48 positions x 27
        self.b = nn.Conv2d(8, 6, 3, stride=2, padding=1)  # 12 positions x 9
        self.f, self.g = nn.Linear(72, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x))))
        return self.g(F.relu(self.f(x.flatten(1))))


def macs(a: int = 8, b: int = 6, f: int = 10) -> int:
    return 1296 * a + 108 * a * b + 12 * b * f + 4 * f


class Branches(nn.Module):
    """Two decisions whose channels meet in the same layer, and one with two readers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.mix, self.extra = nn.Conv2d(10, 5, 1), nn.Conv2d(5, 5, 1)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.mix(torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1)))
        return self.fc(F.relu(x + self.extra(x)).mean((2, 3)))


def chain() -> nn.Module:
    """Four decisions with many allowed counts: something to search in."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 32, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(32 * 8, 20), nn.ReLU(), nn.Linear(20, 4),
    )  # fmt: skip


@cache
def graph_of(kind: Network) -> ChannelGraph:
    torch.manual_seed(0)
    return amc.trace(kind(), (torch.randn(2, 3, 8, 6),))


def budget_of(ratio: float = 0.5, kind: Network = Small) -> Budget:
    return Budget(graph_of(kind), ratio)


def cheap(budget: Budget) -> Callable[[Strategy], Outcome]:
    """An outcome without a network: best where the later groups are wide."""
    weights = np.arange(1, len(budget.options) + 1) / len(budget.options)

    def outcome(strategy: Strategy) -> Outcome:
        counts = budget.graph.counts(strategy)
        parts = counts / [g.size for g in budget.graph.decisions]
        score = float(1 - np.mean((parts - weights) ** 2))
        return Outcome(
            Score(score, 1 - score, 10),
            budget.graph.cost.macs(counts),
            budget.graph.cost.params(counts),
        )

    return outcome


SETTINGS = Settings(net_arch=(16, 16), warmup_episodes=4)
TARGETS = (0.3, 0.5, 0.7)


def minus_loss(outcome: Outcome) -> float:
    return -outcome.score.loss


def errors_of(budget: Budget) -> dict[str, np.ndarray]:
    pairs = zip(budget.graph.decisions, budget.options, strict=True)
    return {group.name: (1 - options / group.size) ** 2 for group, options in pairs}


def task(ratio: float, episodes: int) -> Problem:
    budget = budget_of(ratio, chain)
    return Problem(budget, Trials(cheap(budget), minus_loss, Limits(episodes)), errors_of(budget))


def learned(episodes: int = 8, seed: int = 0, method: str = "ddpg") -> list[Found]:
    tasks = [task(ratio, episodes) for ratio in TARGETS]
    return learn(tasks, method, seed=seed, settings=SETTINGS)


def bundled(name: str, width: float = 0.5) -> amc.ChannelGraph:
    """A network of `amc.models`, narrow, on small images of one colour."""
    model = build(name, num_classes=10, in_channels=1, width=width)
    return amc.trace(model, (torch.randn(2, 1, 16, 16),))


def environment(ratio: float = 0.5, kind: Network = Small) -> ChannelPruningEnv:
    budget = budget_of(ratio, kind)
    return ChannelPruningEnv(budget, cheap(budget))


@cache
def calibrated() -> tuple[nn.Module, ChannelGraph, Compressor, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    model = Small().eval()
    graph = amc.trace(model, (torch.randn(2, 3, 8, 6),))
    images = torch.randn(64, 3, 8, 6)
    with torch.no_grad():
        batches = [(images, model(images).argmax(dim=1))]
    stats = calibrate(graph, model, batches, Sampling(0))
    return (
        model,
        graph,
        Compressor(
            graph,
            model,
            stats,
            partial(selection_of, METRICS["lasso"], Evidence(graph, model, stats)),
        ),
        batches,
    )


def walked(budget: Budget, actions: Sequence[float]) -> Strategy:
    decided: list[int] = []
    for action in actions:
        decided.append(budget.execute(decided, float(action))[0])
    return budget.strategy(decided)
