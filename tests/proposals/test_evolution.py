"""Searches without an agent: random walks and evolution."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from amc.allocators.by_density import by_density
from amc.allocators.problem import Proposals
from amc.allocators.uniform import uniform
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.proposals.evolution import evolution, random_search, walked
from amc.proposals.variations import Variations
from six_decisions import budget, errors_of, tried


def screened(limit: Budget, seed: int) -> Proposals:
    return evolution(limit, seed, errors_of(limit))


SEARCHES = {"screened": screened, "evolution": evolution, "random": random_search}
every_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)


def towards(seed: int) -> Callable[[Strategy], float]:
    """A reward that is highest at a random strategy within the budget, at 0."""
    actions = np.random.default_rng([7, seed]).random(6)
    best, sizes = walked(budget(), actions), budget().graph.sizes
    return lambda s: -sum(((s[name] - best[name]) / size) ** 2 for name, size in sizes.items())


def distance(first: Strategy, second: Strategy) -> float:
    """Root of the mean squared difference of the parts that are kept."""
    sizes = budget().graph.sizes
    return float(np.mean([((first[n] - second[n]) / k) ** 2 for n, k in sizes.items()]) ** 0.5)


@every_search
@pytest.mark.parametrize(("ratio", "multiple"), [(0.3, 1), (0.5, 1), (0.5, 8), (0.9, 4)])
def test_every_proposal_is_an_allowed_strategy_within_the_budget(
    search: Callable[..., Proposals], ratio: float, multiple: int
) -> None:
    limit, rng = budget(ratio, multiple), np.random.default_rng(0)
    for number, (strategy, _) in enumerate(tried(search(limit, 0), lambda s: rng.normal(), 80)):
        macs = limit.graph.cost.macs(limit.graph.counts(strategy))
        assert macs <= limit.target
        assert macs >= limit.floor or multiple > 1
        for options, count in zip(limit.options, strategy.values(), strict=True):
            assert count in options
        assert number or strategy == uniform(limit)


@every_search
def test_proposals_are_a_function_of_the_seed_and_the_rewards(
    search: Callable[..., Proposals],
) -> None:
    first, second, other = (tried(search(budget(), s), towards(0), 60) for s in (3, 3, 4))
    assert first == second
    assert first[1:] != other[1:]
    state = np.random.get_state()[1].tolist()
    tried(search(budget(), 0), towards(0), 20)
    assert np.random.get_state()[1].tolist() == state


def test_random_search_walks_with_uniform_actions_whatever_it_is_told() -> None:
    found = [s for s, _ in tried(random_search(budget(), 5), lambda s: 0.0, 80)]
    assert found == [s for s, _ in tried(random_search(budget(), 5), towards(1), 80)]
    rng = np.random.default_rng(5)
    assert found[1:] == [walked(budget(), rng.random(6)) for _ in range(79)]


@pytest.mark.parametrize("screening", [False, True])
def test_evolution_is_one_variation_after_the_other(screening: bool) -> None:
    errors = errors_of(budget()) if screening else None
    found = tried(evolution(budget(), 4, errors), towards(2), 40)
    vary, rng = Variations(budget(), errors), np.random.default_rng(4)
    starts = [uniform(budget()), *([by_density(budget(), errors)] if errors else [])]
    assert [strategy for strategy, _ in found[: len(starts)]] == starts
    for number, (strategy, _) in enumerate(found[len(starts) :], start=len(starts)):
        assert strategy == vary([vary.tried(s, r) for s, r in found[:number]], rng)


def test_evolution_begins_with_the_uniform_strategy_and_variations_of_it() -> None:
    found = [s for s, _ in tried(evolution(budget(), 0), lambda s: 0.0, 10)]
    assert found[0] == uniform(budget())
    far = [distance(s, found[0]) for s in found[1:]]
    rng = np.random.default_rng(0)
    at_random = [distance(walked(budget(), rng.random(6)), found[0]) for _ in range(50)]
    assert min(far) > 0 and np.mean(far) < 0.8 * np.mean(at_random)
    assert len({tuple(s.values()) for s in found}) == 10


def test_evolution_stays_near_what_was_good() -> None:
    """What comes in the end is much nearer to the star than variations of the uniform one."""
    star = walked(budget(), np.array([0.9, 0.1, 0.2, 0.8, 0.3, 0.6]))

    def reward(strategy: Strategy) -> float:
        return -distance(strategy, star)

    found = tried(evolution(budget(), 1), reward, 300)
    early, late = ([d for _, d in part] for part in (found[1:10], found[-50:]))
    assert np.mean(late) > np.mean(early) / 2
    assert np.max(late) > np.max(early)


def test_evolution_finds_more_than_chance() -> None:
    """At equal evaluations, on one target after the other."""
    won, episodes = 0, 100
    for seed in range(6):
        reward = towards(seed)
        best = {
            name: max(r for _, r in tried(search(budget(), seed), reward, episodes))
            for name, search in (("evolution", evolution), ("random", random_search))
        }
        won += best["evolution"] > best["random"]
    assert won == 6  # chance alone: one in sixty-four


def test_evolution_keeps_the_best_and_forgets_the_worst() -> None:
    """Told that ten in turn are better and better, and all later ones worse and worse."""
    worth = (-abs(number - 9.0) for number in itertools.count())
    found = [s for s, _ in tried(evolution(budget(), 2), lambda s: next(worth), 60)]
    to_best = [distance(s, found[9]) for s in found[20:]]
    to_first = [distance(s, found[0]) for s in found[20:]]
    assert np.mean(to_best) < np.mean(to_first)


def test_walked_is_the_walk_of_the_environment() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        actions = rng.random(6)
        decided: list[int] = []
        for action in actions:
            decided.append(budget().execute(decided, float(action))[0])
        assert list(walked(budget(), actions).values()) == budget().complete(decided).tolist()
    coarse = budget(0.5, 8)
    for actions in (np.zeros(6), np.full(6, 0.5), np.ones(6), rng.random(6)):
        strategy = walked(coarse, actions)
        assert coarse.allows(strategy)
        counts = coarse.graph.counts(strategy)
        assert coarse.complete(counts).tolist() == counts.tolist()  # nothing is left to widen
    assert walked(coarse, np.full(6, 0.5)) == uniform(coarse)
