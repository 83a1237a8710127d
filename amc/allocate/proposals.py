"""Searches without an agent: they propose strategies and are told the reward of each.

Each is a generator that yields a strategy and is sent its reward, for ever.
"""

from collections.abc import Generator

import numpy as np

from amc.allocate.uniform import uniform
from amc.budget import Budget
from amc.plan import Strategy

Proposals = Generator[Strategy, float, None]


def random_search(budget: Budget, seed: int) -> Proposals:
    """The uniform strategy, then walks of random actions, each in [0, 1] at every step."""
    rng = np.random.default_rng(seed)
    yield uniform(budget)
    while True:
        yield walked(budget, rng.random(len(budget.options)))


def evolution(
    budget: Budget, seed: int, population: int = 10, step: float = 0.15, share: float = 0.3
) -> Proposals:
    """A steady-state evolutionary search on the actions of the environment.

    The uniform strategy and mutants of it come first. Then each child is made from the best of
    three random members of the population (a tournament), half of the time crossed over with
    another, and mutated; it replaces the worst member when it is better.

    Args:
        budget: what a strategy may cost.
        seed: of everything random.
        population: strategies that are kept.
        step: standard deviation of a mutation, in action units.
        share: chance of each action to be mutated; one is in any case.
    """
    rng, length = np.random.default_rng(seed), len(budget.options)
    people: list[tuple[float, np.ndarray]] = []

    def mutant(actions: np.ndarray, chance: float) -> np.ndarray:
        chosen = rng.random(length) < chance
        chosen[rng.integers(length)] = True
        return np.clip(actions + chosen * rng.normal(0, step, length), 0, 1)

    def parent() -> np.ndarray:
        return people[int(rng.integers(len(people), size=3).min())][1]  # best first

    while True:
        if not people:
            child = np.full(length, 0.5)
        elif len(people) < population:
            child = mutant(people[0][1], 1.0)
        else:
            mixed = np.where(rng.random(length) < 0.5, parent(), parent())
            child = mutant(mixed if rng.random() < 0.5 else parent(), share)
        reward = yield walked(budget, child)
        people.append((reward, child))
        people = sorted(people, key=lambda p: -p[0])[:population]


def walked(budget: Budget, actions: np.ndarray) -> dict[str, int]:
    """The strategy of these actions, [T] in [0, 1]."""
    decided: list[int] = []
    for action in actions:
        decided.append(budget.execute(decided, float(action))[0])
    return budget.strategy(budget.complete(decided))
