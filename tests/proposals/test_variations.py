"""Variations of the best strategies, how they are fitted to a budget, and what screens them."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from scipy import stats

from amc.allocators.uniform import uniform
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.proposals.evolution import evolution, walked
from amc.proposals.variations import Tried, Variations
from oracles import can_be_widened
from six_decisions import budget, errors_of, tried

History = list[tuple[Strategy, float]]

SIZES = np.array([24, 32, 40, 32, 24, 16])
"""Of the decisions of `budget`."""


def some(number: int, seed: int = 0) -> list[dict[str, int]]:
    """Strategies within the budget."""
    rng = np.random.default_rng(seed)
    return [walked(budget(), rng.random(6)) for _ in range(number)]


def counts_of(strategies: Sequence[Strategy]) -> np.ndarray:
    return np.array([list(s.values()) for s in strategies])


def lost(limit: Budget, errors: dict[str, np.ndarray], strategy: Strategy) -> np.ndarray:
    """The error of every group at the count that it keeps."""
    pairs = zip(strategy.items(), limit.options, strict=True)
    return np.array([errors[name][list(options).index(k)] for (name, k), options in pairs])


def minding(seed: int) -> Callable[[Strategy], float]:
    """A reward that minds the errors of some groups more than those of others."""
    weights = np.random.default_rng([13, seed]).lognormal(size=6)
    return lambda s: -float(lost(budget(), errors_of(budget(), seed), s) @ weights)


def known(number: int, seed: int = 0) -> History:
    """What a search might have tried."""
    return [(s, minding(seed)(s)) for s in some(number, seed)]


def remembered(vary: Variations, history: History) -> list[Tried]:
    return [vary.tried(strategy, reward) for strategy, reward in history]


def promise(vary: Variations, history: History, counts: np.ndarray) -> np.ndarray:
    return vary.promise(remembered(vary, history), counts)


@dataclass(frozen=True)
class Watched(Budget):
    """Remembers the ratios that it was asked to fit, and as what."""

    asked: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def fitted(self, ratios: np.ndarray) -> np.ndarray:
        self.asked.append((ratios, super().fitted(ratios)))
        return self.asked[-1][1]


def watched() -> Watched:
    return Watched(budget().graph, 0.5)


def children(history: History, number: int, seed: int = 0, **settings: float) -> np.ndarray:
    """Ratios of so many variations before they are scaled, [N, 6]."""
    limit, rng = watched(), np.random.default_rng(seed)
    vary = Variations(limit, **settings)  # type: ignore[arg-type]
    for _ in range(number):
        vary(remembered(vary, history), rng)
    return np.concatenate([ratios for ratios, _ in limit.asked])


# What is proposed


@pytest.mark.parametrize("screening", [False, True])
@pytest.mark.parametrize("ratio", [0.2, 0.35, 0.5, 0.9])
@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_every_proposal_is_allowed_and_uses_up_the_budget(
    screening: bool, ratio: float, multiple: int
) -> None:
    limit = budget(ratio, multiple)
    vary = Variations(limit, errors_of(limit) if screening else None)
    rng, history = np.random.default_rng(0), History()
    for _ in range(40):
        strategy = vary(remembered(vary, history), rng)
        history.append((strategy, rng.normal()))
        counts = limit.graph.counts(strategy)
        assert list(strategy.values()) == counts.tolist()
        assert all(k in options for k, options in zip(counts, limit.options, strict=True))
        macs = limit.graph.cost.macs(counts)
        assert macs <= limit.target
        assert macs >= 0.98 * limit.target or not can_be_widened(limit, counts)
        assert macs >= 0.98 * limit.target or multiple > 1
    assert history[0][0] == uniform(limit, vary.errors)


def test_before_the_population_is_complete_all_ratios_of_the_best_are_changed() -> None:
    history = known(9)
    best = counts_of([max(history, key=lambda one: one[1])[0]]) / SIZES
    steps = np.log(children(history, 400, step=0.2) / best)
    assert stats.kstest(steps.ravel() / 0.2, "norm").pvalue > 1e-3
    np.testing.assert_allclose(np.corrcoef(steps.T), np.eye(6), atol=0.2)


def test_one_ratio_is_changed_if_no_share_is() -> None:
    """Of the only parent, before all are scaled together; every group has its turn."""
    history = known(20)
    best = counts_of([max(history, key=lambda one: one[1])[0]])[0] / SIZES
    found = children(history, 600, population=1, share=0.0, step=0.2)
    changed = found != best
    assert (changed.sum(axis=1) == 1).all()
    assert stats.chisquare(changed.sum(axis=0)).pvalue > 1e-3
    steps = np.log((found / best)[changed])
    assert stats.kstest(steps / 0.2, "norm").pvalue > 1e-3


@pytest.mark.parametrize("share", [0.1, 0.3, 1.0])
def test_a_share_of_the_ratios_is_changed_and_one_in_any_case(share: float) -> None:
    history = known(20)
    best = counts_of([max(history, key=lambda one: one[1])[0]])[0] / SIZES
    changed = children(history, 500, population=1, share=share) != best
    assert changed.any(axis=1).all()
    assert changed.mean() == pytest.approx(share + (1 - share) / 6, abs=0.04)


@pytest.mark.parametrize("screening", [False, True])
def test_parents_are_the_best_and_half_of_the_children_have_two(screening: bool) -> None:
    """Fourteen strategies no two of which agree in any group."""
    rng, names = np.random.default_rng(0), budget().graph.sizes
    counts = np.stack([rng.permutation(np.arange(3, 17)) for _ in names], axis=1)
    rewards = rng.permutation(14).astype(float)
    history = [(budget().strategy(c), r) for c, r in zip(counts, rewards, strict=True)]
    ranked = counts[np.argsort(-rewards)] / SIZES
    settings = {"errors": errors_of(budget())} if screening else {}
    number = 2000 // 16
    some: dict[str, Any] = {"population": 5, "share": 0.0, "candidates": 16, **settings}
    found = children(history, number, **some)
    assert len(found) == 2000
    agree = found[:, None] == ranked  # [child, member, group]
    assert (agree.sum(axis=(1, 2)) == 5).all()  # one of six was changed
    members = agree.any(axis=2)
    assert not members[:, 5:].any()  # nobody else
    part = agree.sum(axis=(0, 2))[:5] / (5 * len(found))
    oracle = np.array([((5 - i) ** 3 - (4 - i) ** 3) / 5**3 for i in range(5)])  # best of three
    np.testing.assert_allclose(part, oracle, atol=0.03)
    crossed = (members.sum(axis=1) > 1).mean()
    expected = 0.5 * (1 - (oracle**2).sum()) * (1 - 2 / 2**5)
    assert crossed == pytest.approx(expected, abs=0.04)
    assert members.sum(axis=1).max() == 2


@pytest.mark.parametrize("screening", [False, True])
def test_a_proposal_is_a_function_of_history_and_generator_alone(screening: bool) -> None:
    errors = errors_of(budget()) if screening else None
    first, history = Variations(budget(), errors), known(30)
    before = np.random.get_state()[1].tolist()
    for number in (3, 9, 30):

        def proposed(vary: Variations, seed: int, number: int = number) -> dict[str, int]:
            known_so_far = remembered(vary, history[:number])
            return vary(known_so_far, np.random.default_rng(seed))

        expected = [proposed(first, seed) for seed in range(8)]
        again = [proposed(first, seed) for seed in reversed(range(8))][::-1]
        assert again == expected
        assert [proposed(Variations(budget(), errors), seed) for seed in range(8)] == expected
        assert len({tuple(s.values()) for s in expected}) > 1
    assert history == known(30)
    assert np.random.get_state()[1].tolist() == before


# Ratios fitted to a budget


def nearest(limit: Budget, ratios: np.ndarray) -> np.ndarray:
    """The allowed count next to each ratio."""
    pairs = zip(limit.options, ratios * limit.graph.counts({}), strict=True)
    return np.array([options[np.abs(options - wished).argmin()] for options, wished in pairs])


def some_ratios(number: int) -> np.ndarray:
    """Equal ones nearly, and some that reach their bounds long before others."""
    rng = np.random.default_rng(number)
    spread = np.repeat([0.1, 0.5, 2.0], number // 3)[:, None]
    return np.exp(spread * rng.normal(size=(len(spread), 6)))


LIMITS = [(0.2, 1), (0.5, 1), (0.5, 4), (0.5, 8), (0.8, 3), (1.0, 1)]


@pytest.mark.parametrize(("ratio", "multiple"), LIMITS)
def test_fitted_counts_are_those_of_the_largest_common_factor(ratio: float, multiple: int) -> None:
    """Between the last factor of a fine grid that fits and the next, which does not."""
    limit, every = budget(ratio, multiple), some_ratios(12)
    found = limit.fitted(every)
    for ratios, counts in zip(every, found, strict=True):
        factors = np.linspace(0, 1 / ratios.min(), 2001)
        grid = np.array([nearest(limit, factor * ratios) for factor in factors])
        fits = limit.graph.cost.macs_of(grid) <= limit.target
        last = int(np.flatnonzero(fits)[-1])
        assert limit.graph.cost.macs(counts) <= limit.target
        assert (counts >= grid[last]).all()
        assert (counts <= grid[min(last + 1, 2000)]).all()
    assert len(np.unique(found, axis=0)) > 4 or ratio == 1.0


@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_a_larger_target_takes_no_channel_from_anybody(multiple: int) -> None:
    ratios = some_ratios(30)
    found = np.array([budget(r, multiple).fitted(ratios) for r in (0.25, 0.3, 0.5, 0.7, 0.95, 1)])
    assert (np.diff(found, axis=0) >= 0).all()
    assert (np.diff(found.sum(axis=2), axis=0) > 0).any(axis=1).all()
    assert (found[-1] == SIZES).all()


@pytest.mark.parametrize("multiple", [1, 8])
def test_only_the_proportions_of_the_ratios_count_and_only_those_of_the_same_row(
    multiple: int,
) -> None:
    limit, ratios = budget(0.5, multiple), some_ratios(30)
    found = limit.fitted(ratios)
    factors = 2.0 ** np.arange(-15, 15)[:, None]  # exact
    assert np.array_equal(limit.fitted(ratios * factors), found)
    for row, counts in zip(ratios, found, strict=True):
        assert np.array_equal(limit.fitted(row[None]), counts[None])


def test_fitted_keeps_the_order_of_groups_of_the_same_size() -> None:
    """Groups 1 and 3 have 32 channels each, 0 and 4 have 24."""
    ratios = some_ratios(300)
    found = budget().fitted(ratios)
    for one, other in ((1, 3), (0, 4)):
        larger = ratios[:, one] >= ratios[:, other]
        assert (found[larger, one] >= found[larger, other]).all()
        assert (found[~larger, one] <= found[~larger, other]).all()
        assert (found[:, one] != found[:, other]).mean() > 0.5


@pytest.mark.parametrize(("ratio", "multiple"), LIMITS)
def test_rounded_counts_are_the_nearest_allowed_ones(ratio: float, multiple: int) -> None:
    limit = budget(ratio, multiple)
    ratios = np.random.default_rng(0).uniform(0, 1.2, (300, 6))
    expected = [nearest(limit, row) for row in ratios]
    assert np.array_equal(limit.rounded(ratios), expected)


# The promise of a strategy


def test_with_few_or_equal_rewards_the_promise_is_the_plain_sum_of_the_errors() -> None:
    """Against that of the uniform strategy."""
    errors, asked = errors_of(budget()), some(50, seed=1)
    usual = lost(budget(), errors, uniform(budget())).sum()
    plain = [1 - lost(budget(), errors, s).sum() / usual for s in asked]
    vary = Variations(budget(), errors)
    equal = [(s, 0.25) for s in some(40)]
    for history in (known(1), known(7), equal[:8], equal):
        np.testing.assert_allclose(promise(vary, history, counts_of(asked)), plain)
    learned = promise(vary, known(8), counts_of(asked))
    assert stats.pearsonr(learned, plain).statistic < 0.999


def test_promise_learns_which_errors_matter() -> None:
    """On strategies that were not tried, the order of the reward is nearly recovered."""
    found = []
    for seed in range(8):
        vary, asked = Variations(budget(), errors_of(budget(), seed)), some(100, seed=100 + seed)
        rewards, history = [minding(seed)(s) for s in asked], known(80, seed)
        promised = [promise(vary, history[:n], counts_of(asked)) for n in (7, 20, 80)]
        found.append([stats.spearmanr(p, rewards).statistic for p in promised])
    plain, few, many = np.mean(found, axis=0)
    assert plain < few < many
    assert 1 - few < (1 - plain) / 3
    assert many > 0.95 and min(last for *_, last in found) > 0.85


def test_promise_knows_the_order_of_the_rewards_alone() -> None:
    asked, history = counts_of(some(50, seed=1)), known(30)
    vary = Variations(budget(), errors_of(budget()))
    found = promise(vary, history, asked)
    for changed in (np.exp, lambda r: 1e6 * r - 1e9, lambda r: r**3, np.arctan):
        assert np.array_equal(promise(vary, [(s, changed(r)) for s, r in history], asked), found)
    turned = promise(vary, [(s, -r) for s, r in history], asked)
    np.testing.assert_allclose(turned, -found, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("number", [5, 9, 40])
def test_promise_does_not_depend_on_the_order_of_what_was_tried(number: int) -> None:
    asked, history = counts_of(some(50, seed=1)), known(number)
    vary = Variations(budget(), errors_of(budget()))
    found = promise(vary, history, asked)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(number)
        other = promise(vary, [history[i] for i in order], asked)
        np.testing.assert_allclose(other, found, rtol=1e-9, atol=1e-9)
    order = np.random.default_rng(0).permutation(50)
    np.testing.assert_allclose(promise(vary, history, asked[order]), found[order], atol=1e-12)


@pytest.mark.parametrize("number", [1, 9, 40])
def test_the_most_promising_of_the_candidates_is_proposed(number: int) -> None:
    limit, history = watched(), known(number)
    vary, rng = Variations(limit, errors_of(limit), candidates=12), np.random.default_rng(0)
    for _ in range(20):
        found = vary(remembered(vary, history), rng)
        counts = limit.asked[-1][1]
        assert len(counts) == 12
        whole = np.array([limit.complete(row.tolist()) for row in counts])
        tried_before = {tuple(s.values()) for s, _ in history}
        order = np.argsort(-promise(vary, history, whole), kind="stable")
        fresh = [i for i in order if tuple(whole[i]) not in tried_before]
        assert list(found.values()) == whole[fresh[0]].tolist()
    assert all(len(np.unique(promise(vary, history, c))) > 1 for _, c in limit.asked)


def test_screening_finds_better_strategies_at_equal_evaluations() -> None:
    """When the errors of some groups matter more than those of others, on average over seeds."""
    found = []
    for seed in range(10):
        errors, reward = errors_of(budget(), seed), minding(seed)
        searches = (evolution(budget(), seed, errors), evolution(budget(), seed))
        runs = [[r for _, r in tried(search, reward, 30)] for search in searches]
        assert runs[0][0] == runs[1][0]  # both begin with the uniform strategy
        gains = [max(run) - run[0] for run in runs]
        found.append(gains[0] / gains[1])
    assert stats.gmean(found) > 1.05
    assert np.mean(np.array(found) > 1) >= 0.7


# What coarse steps and rewards without a lower end ask for


@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_what_is_known_is_not_proposed_again(multiple: int) -> None:
    limit = budget(0.5, multiple)
    errors = errors_of(limit)
    found = tried(evolution(limit, 0, errors), lambda s: -lost(limit, errors, s).sum(), 60)
    there_are = 60
    if multiple == 8:
        macs = limit.graph.cost.macs_of(np.array(list(itertools.product(*limit.options))))
        there_are = int(((macs >= limit.floor) & (macs <= limit.target)).sum())
    assert len({tuple(s.values()) for s, _ in found}) > 50 / 60 * there_are


@pytest.mark.parametrize(
    ("multiple", "evaluations"), [pytest.param(4, 150, marks=pytest.mark.slow), (8, 15)]
)
def test_screening_is_no_worse_than_none_with_coarse_steps(
    multiple: int, evaluations: int
) -> None:
    limit, best = budget(0.5, multiple), []
    for seed in range(10):
        errors = errors_of(limit, seed)
        weights = np.random.default_rng([13, seed]).lognormal(size=6)

        def reward(s: Strategy, errors=errors, weights=weights) -> float:  # type: ignore[no-untyped-def]
            return -float(lost(limit, errors, s) @ weights)

        searches = (evolution(limit, seed, errors), evolution(limit, seed))
        best.append([max(r for _, r in tried(search, reward, evaluations)) for search in searches])
    screened, plain = np.mean(best, axis=0)
    assert screened >= plain


def test_without_a_lower_end_variations_may_stay_below_the_target() -> None:
    limit = Budget(budget().graph, 0.8, tolerance=1.0)

    def macs(strategy: Strategy) -> int:
        return limit.graph.cost.macs(limit.graph.counts(strategy))

    found = tried(evolution(limit, 0), lambda s: -float(macs(s)), 100)
    assert min(macs(s) for s, _ in found) < 0.9 * limit.target
