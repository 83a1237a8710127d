"""Simulated annealing: within the budget, better than chance, colder and colder."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from amc.allocators.problem import AllocationProblem, Proposals
from amc.allocators.uniform import uniform
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.proposals import PROPOSALS
from amc.proposals.annealing import annealing, neighbour
from amc.proposals.evolution import random_search, walked
from six_decisions import budget, tried

EPISODES = 120


def annealed(limit: Budget, seed: int) -> Proposals:
    found = annealing(AllocationProblem(limit, seed=seed, episodes=EPISODES))
    assert PROPOSALS["annealing"] is annealing
    return found


def towards(seed: int) -> Callable[[Strategy], float]:
    """A reward that is highest at a random strategy within the budget."""
    best = walked(budget(), np.random.default_rng([7, seed]).random(6))
    sizes = budget().graph.sizes
    return lambda s: -sum(((s[name] - best[name]) / size) ** 2 for name, size in sizes.items())


@pytest.mark.parametrize(("ratio", "multiple"), [(0.3, 1), (0.5, 1), (0.5, 8), (0.9, 4)])
def test_every_strategy_is_within_the_budget(ratio: float, multiple: int) -> None:
    limit, rng = budget(ratio, multiple), np.random.default_rng(0)
    found = tried(annealed(limit, 0), lambda s: rng.normal(), 60)
    assert found[0][0] == uniform(limit)
    for strategy, _ in found:
        assert limit.floor <= limit.cost(limit.graph.counts(strategy)) <= limit.target
        for options, count in zip(limit.options, strategy.values(), strict=True):
            assert count in options


def test_it_is_a_function_of_seed_and_rewards() -> None:
    first, again, other = (tried(annealed(budget(), s), towards(0), 50) for s in (1, 1, 2))
    assert first == again and first[1:] != other[1:]


def test_it_finds_more_than_chance() -> None:
    """At equal evaluations, on one target after the other; rewards are distances below 0."""
    found = []
    for seed in range(8):
        searches = (annealed(budget(), seed), random_search(budget(), seed))
        found.append([max(r for _, r in tried(one, towards(seed), EPISODES)) for one in searches])
    ours, by_chance = np.transpose(found)
    assert (ours > by_chance).sum() >= 7  # chance alone: nine in 256
    assert ours.mean() > by_chance.mean() / 4


def test_worse_strategies_are_accepted_early_and_hardly_ever_late() -> None:
    """Told that every strategy is as much worse than the one before as all are apart."""
    worth = (-float(number) for number in itertools.count())
    strategies = [s for s, _ in tried(annealed(budget(), 3), lambda s: next(worth), EPISODES)]
    start = 13  # after the uniform one and the twelve that set the temperature

    def apart(one: Strategy, other: Strategy) -> int:
        return sum(abs(one[name] - other[name]) for name in one)

    # where worse is accepted, what comes next is a neighbour of the last one, not of an old one
    early = np.mean([apart(*pair) for pair in itertools.pairwise(strategies[start : start + 20])])
    late = strategies[-20:]
    spread = np.mean([apart(one, other) for one, other in itertools.combinations(late, 2)])
    assert spread < 2 * early  # it no longer moves away: all are neighbours of the same


def test_moves_lead_elsewhere_and_use_the_budget_up() -> None:
    limit, rng = budget(0.5, 8), np.random.default_rng(0)
    here = limit.graph.counts(uniform(limit))
    moved = [neighbour(limit, here, rng) for _ in range(50)]
    assert np.mean([(there != here).any() for there in moved]) > 0.9
    assert all(limit.floor <= limit.cost(there) <= limit.target for there in moved)
