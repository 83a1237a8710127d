"""The cross-entropy method over four numbers: finds what was planted, within the budget."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

import amc
from amc.allocators.family import Shape, shaped
from amc.allocators.problem import AllocationProblem, Proposals
from amc.allocators.uniform import uniform
from amc.graph.arrays import FloatArray
from amc.graph.plan import Strategy
from amc.models.catalog import build
from amc.objectives.budget import Budget
from amc.proposals import PROPOSALS
from amc.proposals.cem import CrossEntropy, cem, telling
from six_decisions import budget as six
from six_decisions import errors_of as errors_of_six
from six_decisions import tried

EPISODES = 60


@cache
def budget(name: str = "mobilenet_v2", ratio: float = 0.3) -> Budget:
    torch.manual_seed(0)
    model = build(name, num_classes=10, in_channels=1, width=0.25)
    return Budget(amc.trace(model, (torch.randn(2, 1, 16, 16),)), ratio)


@cache
def errors(name: str = "mobilenet_v2") -> dict[str, FloatArray]:
    rng, limit = np.random.default_rng(0), budget(name)
    pairs = zip(limit.graph.decisions, limit.options, strict=True)
    return {g.name: rng.uniform(0.2, 3) * (1 - o / g.size) ** 2 for g, o in pairs}


def planted(seed: int) -> Callable[[Strategy], float]:
    """A reward that is highest, 0, at random numbers."""
    rng = np.random.default_rng([5, seed])
    exponent, depth = rng.uniform(-0.3, 1), rng.uniform(-1.5, 1.5)
    stream, depthwise = np.exp(rng.uniform(-0.8, 0.8, 2))
    graph, shape = budget().graph, Shape(exponent, stream, depth, depthwise)
    wanted = graph.counts(shaped(budget(), errors(), shape))
    return lambda s: -float(np.mean(np.log(graph.counts(s) / wanted) ** 2))


def search(seed: int) -> Proposals:
    return cem(AllocationProblem(budget(), errors(), seed=seed, episodes=EPISODES))


def drawn(seed: int) -> Proposals:
    """Random numbers, from the distribution that the search begins with."""
    rng = np.random.default_rng(seed)
    yield uniform(budget())
    while True:
        stream, depthwise = np.exp(rng.normal(0, 0.6, 2))
        shape = Shape(rng.normal(0.25, 0.5), stream, rng.normal(), depthwise)
        yield shaped(budget(), errors(), shape)


def test_it_finds_planted_numbers_in_sixty_evaluations_and_chance_does_not() -> None:
    found = []
    for seed in range(6):
        proposals = search(seed), drawn(seed)
        runs = [tried(one, planted(seed), EPISODES) for one in proposals]
        found.append([runs[0][0][1], *(max(reward for _, reward in run) for run in runs)])
    usual, ours, by_chance = np.transpose(found)
    assert (ours > usual / 5).all() and (ours > by_chance).sum() >= 5
    assert ours.mean() > by_chance.mean() / 2


def test_every_strategy_is_new_and_meets_the_budget() -> None:
    rng, limit = np.random.default_rng(0), budget()
    found = [strategy for strategy, _ in tried(search(0), lambda s: rng.normal(), EPISODES)]
    assert found[0] == uniform(limit)
    for strategy in found:
        assert limit.floor <= limit.cost(limit.graph.counts(strategy)) <= limit.target
    assert len({tuple(strategy.values()) for strategy in found}) == EPISODES


def test_it_is_a_function_of_seed_and_rewards() -> None:
    first, again, other = (tried(search(s), planted(0), 30) for s in (1, 1, 2))
    assert first == again and first[1:] != other[1:]
    assert PROPOSALS["cem"] is cem


def test_numbers_that_change_nothing_are_left_out() -> None:
    assert telling(budget(), errors()) == ("exponent", "stream", "depth", "depthwise")
    assert telling(budget("resnet20"), {}) == ("stream", "depth")
    assert telling(six(), errors_of_six(six())) == ("exponent", "depth")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 3))
    alone = Budget(amc.trace(model, (torch.zeros(1, 3, 8, 8),)), 0.5)
    assert list(cem(AllocationProblem(alone))) == [uniform(alone)]  # there is nothing to try


def test_draws_close_in_on_the_best() -> None:
    """Of a plain bowl; the best numbers are known at any time."""
    found, wanted = CrossEntropy(("exponent", "depth"), 60, 0), np.array([0.9, -0.7])
    apart = []
    for _ in range(60):
        shape = found.ask()
        assert (shape.stream, shape.depthwise) == (1, 1)
        apart.append(float(np.hypot(*(np.array([shape.exponent, shape.depth]) - wanted))))
        found.tell(-apart[-1])
    assert found.best is not None
    reward, best = found.best
    assert reward == -min(apart) == pytest.approx(-np.hypot(best.exponent - 0.9, best.depth + 0.7))
    assert np.mean(apart[-15:]) < np.mean(apart[:15]) / 3
