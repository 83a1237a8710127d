"""The budget: never exceeded, used up, and exactly what a walk can still reach."""

import itertools
from functools import cache, lru_cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import amc
from amc import Budget
from amc.allocators.uniform import uniform
from amc.models.catalog import build
from amc.objectives.options import allowed_counts
from oracles import can_be_widened

NETWORKS = {"resnet20": 1.0, "mobilenet_v2": 0.5, "vgg16": 0.25}
"""Name -> width."""
TARGETS = (0.35, 0.5, 0.62, 0.8)
MULTIPLES = (1, 4, 8)


@cache
def traced(name: str) -> amc.ChannelGraph:
    torch.manual_seed(0)
    model = build(name, num_classes=10, in_channels=3, width=NETWORKS[name])
    return amc.trace(model, (torch.randn(1, 3, 32, 32),))


@cache
def tiny() -> amc.ChannelGraph:
    """Three decisions of 6, 5 and 4 channels."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 1),
        nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip
    return amc.trace(model, (torch.randn(2, 3, 8, 8),))


def walk(budget: Budget, actions: np.ndarray) -> list[int]:
    decided: list[int] = []
    for action in actions:
        decided.append(budget.execute(decided, float(action))[0])
    return decided


def actions(rng: np.random.Generator, steps: int) -> np.ndarray:
    """Uniform, or at the ends, or near the middle: what an agent sends at its various ages."""
    kind = rng.integers(3)
    if kind == 0:
        return rng.random(steps)
    if kind == 1:
        return rng.integers(0, 2, steps).astype(float)
    return np.clip(rng.normal(0.5, 0.1, steps), 0, 1)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("multiple", MULTIPLES)
def test_every_episode_ends_inside_the_budget(name: str, target: float, multiple: int) -> None:
    graph = traced(name)
    budget = Budget(graph, target, multiple=multiple, min_ratio=0.1)
    assert budget.target <= target * graph.macs() + 1e-6 < budget.target + 1
    rng = np.random.default_rng([multiple, int(100 * target), len(name)])
    for _ in range(9):  # 324 episodes in all
        counts = budget.complete(walk(budget, actions(rng, len(budget.options))))
        macs = graph.cost.macs(counts)
        assert macs <= budget.target
        assert macs >= 0.98 * budget.target or not can_be_widened(budget, counts)
        for count, group in zip(counts, graph.decisions, strict=True):
            assert count % multiple == 0 or count == group.size
            assert 0.1 * group.size <= count <= group.size
        assert budget.allows(budget.strategy(counts))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("multiple", MULTIPLES)
def test_one_half_everywhere_is_the_uniform_strategy(name: str, multiple: int) -> None:
    for target in TARGETS:
        budget = Budget(traced(name), target, multiple=multiple)
        counts = budget.complete(walk(budget, np.full(len(budget.options), 0.5)))
        assert budget.strategy(counts) == uniform(budget)


@pytest.mark.parametrize("name", NETWORKS)
def test_uniform_strategy_keeps_the_same_part_everywhere(name: str) -> None:
    budget = Budget(traced(name), 0.5)
    strategy = uniform(budget)
    ratios = [strategy[n] / size for n, size in traced(name).sizes.items() if size >= 16]
    assert max(ratios) - min(ratios) < 0.15
    macs = traced(name).cost.macs(traced(name).counts(strategy))
    assert 0.98 * budget.target <= macs <= budget.target


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("multiple", MULTIPLES)
def test_executed_action_means_the_same_count_again(name: str, multiple: int) -> None:
    rng = np.random.default_rng(multiple)
    for target in TARGETS:
        budget = Budget(traced(name), target, multiple=multiple)
        for _ in range(3):
            decided: list[int] = []
            for action in actions(rng, len(budget.options)):
                count, executed = budget.execute(decided, float(action))
                assert 0 <= executed <= 1
                again, settled = budget.execute(decided, executed)
                assert again == count
                assert settled == pytest.approx(executed)
                single = np.float32(executed)  # as it is stored in the replay
                assert budget.execute(decided, float(single))[0] == count
                decided.append(count)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("multiple", MULTIPLES)
def test_larger_action_keeps_at_least_as_many_channels(name: str, multiple: int) -> None:
    rng = np.random.default_rng(multiple)
    budget = Budget(traced(name), 0.5, multiple=multiple)
    decided: list[int] = []
    for action in actions(rng, len(budget.options)):
        counts = [budget.execute(decided, a)[0] for a in np.linspace(0, 1, 41)]
        assert counts == sorted(counts)
        fewest, most = budget.range(decided)
        options = budget.options[len(decided)]
        assert (counts[0], counts[-1]) == (options[fewest], options[most])
        decided.append(budget.execute(decided, float(action))[0])


@pytest.mark.parametrize("ratio", [0.3, 0.4, 0.55, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("tolerance", [0.05, 0.15, 1.0])
@pytest.mark.parametrize("multiple", [1, 2])
def test_allowed_counts_are_what_enumeration_of_all_completions_gives(
    ratio: float, tolerance: float, multiple: int
) -> None:
    graph = tiny()
    budget = Budget(graph, ratio, tolerance=tolerance, multiple=multiple)
    strategies = list(itertools.product(*(o.tolist() for o in budget.options)))
    macs = {s: graph.cost.macs(np.array(s)) for s in strategies}
    assert budget.target == int(ratio * graph.macs() + 1e-9)
    below = max(m for m in macs.values() if m <= budget.target)
    floor = min(int(np.ceil((1 - tolerance) * budget.target)), below)
    assert budget.floor == floor

    def check(decided: tuple[int, ...]) -> None:
        t = len(decided)
        if t == len(budget.options):
            return
        options = budget.options[t].tolist()
        ends: dict[int, list[int]] = {c: [] for c in options}
        for strategy, cost in macs.items():
            if strategy[:t] == decided:
                ends[strategy[t]].append(cost)
        inside = [c for c in options if any(floor <= m <= budget.target for m in ends[c])]
        assert [options[i] for i in budget.allowed(decided)] == inside
        assert [options[i] for i in budget.range(decided)] == [inside[0], inside[-1]]
        for count in inside:
            check((*decided, count))

    check(())


def test_complete_is_maximal_by_enumeration() -> None:
    graph = tiny()
    budget = Budget(graph, 0.5, multiple=3, min_ratio=0.0)
    for start in itertools.product(*(o.tolist() for o in budget.options)):
        if graph.cost.macs(np.array(start)) <= budget.target:
            counts = budget.complete(start)
            assert (counts >= start).all()
            macs = graph.cost.macs(counts)
            assert macs <= budget.target
            assert macs >= budget.floor or not can_be_widened(budget, counts)


@pytest.mark.parametrize("name", NETWORKS)
def test_infeasible_target_names_the_nearest_feasible_value(name: str) -> None:
    graph = traced(name)
    for multiple, min_ratio in ((1, 0.3), (4, 0.5), (8, 0.2)):
        with pytest.raises(
            amc.InfeasibleBudgetError, match=r"nearest feasible value is"
        ) as caught:
            Budget(graph, 0.001, multiple=multiple, min_ratio=min_ratio)
        nearest = float(str(caught.value).split("value is ")[1].split()[0])
        budget = Budget(graph, nearest, multiple=multiple, min_ratio=min_ratio)
        counts = budget.complete(walk(budget, np.ones(len(budget.options))))
        assert graph.cost.macs(counts) <= budget.target
        with pytest.raises(amc.InfeasibleBudgetError):
            Budget(graph, nearest - 2e-4, multiple=multiple, min_ratio=min_ratio)


def test_nearest_feasible_value_is_accepted_when_it_is_a_round_number() -> None:
    """0.29 x 100 is 28.999... in floating point; MACs that are exactly 0.29 of all must do."""
    model = nn.Sequential(nn.Linear(1, 100), nn.Linear(100, 1))
    graph = amc.trace(model, (torch.randn(1, 1),))
    assert graph.macs() == 200
    for percent in range(1, 101):
        with pytest.raises(amc.InfeasibleBudgetError) as caught:
            Budget(graph, 1e-6, min_ratio=percent / 100)
        nearest = float(str(caught.value).split("value is ")[1].split()[0])
        assert nearest == pytest.approx(percent / 100, abs=1.1e-4)
        assert Budget(graph, nearest, min_ratio=percent / 100).target >= 2 * percent


@pytest.mark.parametrize("ratio", [0.0, 1.2, float("nan"), -1.0, float("inf")])
def test_ratio_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(
        amc.AmcError, match=rf"--preserve-ratio must be in \(0, 1\], got {ratio:g}"
    ):
        Budget(tiny(), ratio)


def test_multiple_below_one_is_refused() -> None:
    with pytest.raises(amc.AmcError, match=r"--channel-multiple must be 1 or more, got 0"):
        Budget(tiny(), 0.5, multiple=0)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("multiple", MULTIPLES)
def test_ratio_of_one_keeps_everything(name: str, multiple: int) -> None:
    graph = traced(name)
    budget = Budget(graph, 1.0, multiple=multiple)
    assert uniform(budget) == graph.sizes
    assert walk(budget, np.ones(len(budget.options))) == list(graph.sizes.values())


def test_network_without_decisions_is_infeasible_with_the_reason() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(1, 8), nn.Conv2d(8, 2, 1))
    graph = amc.trace(model, (torch.randn(2, 3, 4, 4),))
    with pytest.raises(amc.InfeasibleBudgetError, match=r"nothing .* group_norm normalises"):
        Budget(graph, 0.5)


@pytest.mark.parametrize(
    ("size", "multiple", "min_ratio", "expected"),
    [
        (6, 1, 0.0, [1, 2, 3, 4, 5, 6]),
        (10, 1, 0.3, [3, 4, 5, 6, 7, 8, 9, 10]),  # 0.3 x 10 is 3, not a bit more
        (10, 1, 0.31, [4, 5, 6, 7, 8, 9, 10]),
        (20, 8, 0.1, [8, 16, 20]),
        (20, 8, 0.9, [20]),
        (6, 8, 0.1, [6]),
        (16, 4, 0.5, [8, 12, 16]),
        (1, 1, 0.1, [1]),
    ],
)
def test_allowed_counts(size: int, multiple: int, min_ratio: float, expected: list[int]) -> None:
    assert allowed_counts(group(size), multiple, min_ratio).tolist() == expected


def group(size: int, **options: int) -> amc.ChannelGroup:
    return amc.ChannelGroup("a", size, (), (), (), **options)


def test_bounds_and_widths_of_a_group_are_respected() -> None:
    assert allowed_counts(group(20, least=7, most=12), 1, 0.0).tolist() == [7, 8, 9, 10, 11, 12]
    assert allowed_counts(group(20, least=7, most=12), 4, 0.0).tolist() == [8, 12]
    assert allowed_counts(group(20, most=12), 1, 0.9).tolist() == [12]  # a bound beats the ratio
    assert allowed_counts(group(8, width=4), 8, 0.0).tolist() == [2, 4, 6, 8]
    heads = amc.ChannelGroup("a", 3, (), (), (), width=36, unit="head")
    assert allowed_counts(heads, 16, 0.1).tolist() == [1, 2, 3]  # each is a multiple
    with pytest.raises(amc.AmcError, match=r"a: no multiple of 8 .* 9 to 12 channels"):
        allowed_counts(group(20, least=9, most=12), 8, 0.0)


def test_tolerance_of_one_lets_the_agent_go_as_low_as_it_likes() -> None:
    budget = Budget(traced("resnet20"), 0.8, tolerance=1.0)
    least = [int(o[0]) for o in budget.options]
    assert walk(budget, np.zeros(len(least))) == least
    assert budget.complete(least).tolist() == least


# The promise: never above the target, and as close to it as the steps allow

WIDTHS = {"resnet20": 1.0, "plain20": 1.0, "mobilenet_v2": 0.25, "vgg16": 0.25, "resnet56": 0.5}
RATIOS = (0.1, 0.3, 0.5, 0.8)


@lru_cache(maxsize=1)
def bundled(name: str) -> tuple[nn.Module, amc.ChannelGraph]:
    torch.manual_seed(0)
    model = build(name, num_classes=10, in_channels=3, width=WIDTHS[name]).eval()
    return model, amc.trace(model, (torch.randn(1, 3, 32, 32),))


def least(size: int, multiple: int) -> int:
    """The fewest channels that a group may keep, at a tenth of them or more."""
    return next(k for k in range(1, size + 1) if is_allowed(k, size, multiple))


def is_allowed(count: int, size: int, multiple: int) -> bool:
    return 10 * count >= size and (count % multiple == 0 or count == size)


def wider(counts: np.ndarray, sizes: list[int], multiple: int) -> list[np.ndarray]:
    """The strategies in which one group takes one allowed step more."""
    found = []
    for t, size in enumerate(sizes):
        larger = range(int(counts[t]) + 1, size + 1)
        if step := next((k for k in larger if is_allowed(k, size, multiple)), None):
            found.append(counts.copy())
            found[-1][t] = step
    return found


def check_budget(name: str, ratio: float, multiple: int, episodes: int, really: bool) -> int:
    """Random walks under one budget; how many there were, 0 if it cannot be kept at all."""
    model, graph = bundled(name)
    sizes = list(graph.sizes.values())
    target = ratio * graph.macs() * (1 + 1e-12)
    smallest = graph.cost.macs(np.array([least(size, multiple) for size in sizes]))
    if smallest > target:
        with pytest.raises(amc.InfeasibleBudgetError, match="nearest feasible value is") as error:
            Budget(graph, ratio, multiple=multiple)
        nearest = float(str(error.value).split("value is ")[1].split()[0])
        assert nearest == pytest.approx(smallest / graph.macs(), abs=1.01e-4)
        return 0
    budget = Budget(graph, ratio, multiple=multiple)
    rng = np.random.default_rng([multiple, round(100 * ratio), *name.encode()])
    for episode in range(episodes):
        counts = budget.complete(walk(budget, actions(rng, len(sizes))))
        macs = graph.cost.macs(counts)
        assert macs <= target
        assert all(is_allowed(k, size, multiple) for k, size in zip(counts, sizes, strict=True))
        if macs < 0.98 * target - 1:
            assert all(graph.cost.macs(c) > target for c in wider(counts, sizes, multiple))
        if really and not episode:
            small = amc.shrink(model, graph.plan(first_channels(graph, counts)))
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                small(torch.zeros(1, 3, 32, 32))
            assert counter.get_total_flops() == 2 * macs
    return episodes


def first_channels(graph: amc.ChannelGraph, counts: np.ndarray) -> dict[str, np.ndarray]:
    return {g.name: np.arange(k) for g, k in zip(graph.decisions, counts, strict=True)}


@pytest.mark.parametrize("name", WIDTHS)
def test_random_episodes_keep_the_budget_and_use_it_up(name: str) -> None:
    walked = [check_budget(name, r, m, 5, False) for r in RATIOS for m in MULTIPLES]
    assert sum(map(bool, walked)) >= 8


@pytest.mark.slow
def test_ten_thousand_random_episodes_keep_the_budget_and_use_it_up() -> None:
    """Of every combination of network, target and multiple that is feasible."""
    walked = [
        check_budget(name, ratio, multiple, 200, True)
        for name in WIDTHS
        for ratio in RATIOS
        for multiple in MULTIPLES
    ]
    assert sum(walked) >= 10_000
