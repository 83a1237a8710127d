"""Plans that need no search: streams and insides by hand, exact budgets, what the numbers do."""

from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from amc.allocators.family import (
    Shape,
    depthwise,
    family,
    inside,
    inside_only,
    sensitivities,
    shaped,
    streams,
    streams_whole,
    weights,
)
from amc.allocators.uniform import uniform
from amc.graph.arrays import FloatArray
from amc.models.catalog import build
from amc.objectives.budget import Budget
from drawn_networks import dense_connections
from random_networks import build as drawn_at_random
from random_networks import random_spec

NETWORKS = ("resnet20", "mobilenet_v2", "vgg16", "mobilenet_v1")


@cache
def traced(name: str) -> amc.ChannelGraph:
    torch.manual_seed(0)
    model = build(name, num_classes=10, in_channels=1, width=1.0 if name == "resnet20" else 0.5)
    return amc.trace(model, (torch.randn(2, 1, 16, 16),))


def errors_of(budget: Budget, seed: int = 0) -> dict[str, FloatArray]:
    """Errors that fall with every channel, by a factor of their own in every group."""
    rng = np.random.default_rng(seed)
    pairs = zip(budget.graph.decisions, budget.options, strict=True)
    return {g.name: rng.uniform(0.1, 4) * (1 - o / g.size) ** 2 for g, o in pairs}


def meets(budget: Budget, strategy: dict[str, int]) -> bool:
    """Inside the budget at both ends, every count an allowed one."""
    counts = budget.graph.counts(strategy)
    allowed = all(k in o for k, o in zip(counts, budget.options, strict=True))
    return allowed and bool(budget.floor <= budget.cost(counts) <= budget.target)


class SqueezeExcite(nn.Module):
    """Two residual blocks whose branches are gated; the gate's channels are the branch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.up, self.down = nn.Conv2d(12, 24, 1), nn.Conv2d(24, 12, 1)
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.filter = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.head, self.fc = nn.Conv2d(12, 20, 1), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.filter(F.relu(self.up(x)))
        gate = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1))))
        x = x + self.down(y * gate.sigmoid())
        return self.fc(F.relu(self.head(x)).mean((2, 3)))


class Attention(nn.Module):
    """A residual attention: queries and keys are read by a product, values by a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.q, self.k, self.v = (nn.Linear(16, 8) for _ in range(3))
        self.out, self.fc = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        seen = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), -1)
        return self.fc((x + self.out(seen @ self.v(x))).mean(1))


# --- which groups


def test_resnet_has_a_stream_a_stage_and_the_inside_of_every_block() -> None:
    graph = traced("resnet20")
    assert streams(graph) == {"conv1", "layer2.0.conv2", "layer3.0.conv2"}
    assert inside(graph) == {f"layer{s}.{b}.conv1" for s in (1, 2, 3) for b in range(3)}
    assert depthwise(graph) == set()


def test_mobilenet_v2_has_streams_where_stages_repeat() -> None:
    """A stage of one block adds nothing up; what widens between two streams is inside."""
    graph = traced("mobilenet_v2")
    assert streams(graph) == {f"features.{i}.conv.2.0" for i in (2, 4, 7, 11, 14)}
    assert inside(graph) == {f"features.{i}.conv.0.0" for i in range(3, 17)}
    expanded = {f"features.{i}.conv.0.0" for i in range(2, 18)}
    assert depthwise(graph) == {"features.0.0"} | expanded


def test_networks_without_residual_connections_have_neither() -> None:
    case = dense_connections()
    for graph in (traced("vgg16"), traced("mobilenet_v1"), amc.trace(case.model, case.inputs)):
        assert not streams(graph) and not inside(graph)
        budget = Budget(graph, 0.5)
        assert streams_whole(budget, {}) is None and inside_only(budget, {}) is None


def test_a_gate_is_inside_of_its_branch_and_no_stream() -> None:
    graph = amc.trace(SqueezeExcite(), (torch.randn(2, 3, 6, 6),))
    assert streams(graph) == {"stem"}
    assert inside(graph) == {"up", "squeeze"}
    assert depthwise(graph) == {"up"}
    assert set(graph.sizes) == {"stem", "up", "squeeze", "head"}


def test_queries_and_keys_are_inside_though_no_layer_reads_them() -> None:
    graph = amc.trace(Attention(), (torch.randn(2, 5, 6),))
    assert streams(graph) == {"embed"} and set(graph.sizes) - inside(graph) == {"embed"}


# --- what is kept


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("name", NETWORKS)
def test_four_numbers_that_say_nothing_are_the_uniform_strategy(
    name: str, ratio: float, multiple: int
) -> None:
    budget = Budget(traced(name), ratio, multiple=multiple)
    errors = errors_of(budget)
    assert shaped(budget, errors, Shape()) == uniform(budget, errors)
    equal = budget.proportional(np.full(len(budget.options), 3.0))
    assert budget.strategy(equal) == uniform(budget)


def test_weights_are_the_formula() -> None:
    budget = Budget(traced("mobilenet_v2"), 0.3)
    graph, errors = budget.graph, errors_of(budget)
    pairs = zip(graph.decisions, budget.options, strict=True)
    halves = np.array([np.interp(g.size / 2, o, errors[g.name]) for g, o in pairs])
    assert np.allclose(sensitivities(budget, errors), halves / np.median(halves))
    found = weights(budget, errors, Shape(0.5, 1.4, 0.8, 0.6))
    last = len(halves) - 1
    for t, group in enumerate(graph.decisions):
        expected = (halves[t] / np.median(halves)) ** 0.5 * np.exp(0.8 * (t / last - 0.5))
        expected *= 1.4 if group.name in streams(graph) else 1
        expected *= 0.6 if group.name in depthwise(graph) else 1
        assert found[t] == pytest.approx(expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_larger_exponent_keeps_more_of_the_most_sensitive_group(name: str) -> None:
    """And less of the least sensitive; a channel may go by rounding."""
    budget = Budget(traced(name), 0.3)
    for seed in range(3):
        errors = errors_of(budget, seed)
        known = sensitivities(budget, errors)
        kept = np.array(
            [
                budget.graph.counts(shaped(budget, errors, Shape(exponent)))
                for exponent in np.linspace(0, 1, 6)
            ]
        )
        most, least = kept[:, known.argmax()], kept[:, known.argmin()]
        assert (np.diff(most) >= -1).all() and (np.diff(least) <= 1).all()
        assert most[-1] > most[0] and least[-1] < least[0]


@pytest.mark.parametrize("number", ["stream", "depth", "depthwise"])
def test_the_other_numbers_move_the_groups_that_they_name(number: str) -> None:
    budget = Budget(traced("mobilenet_v2"), 0.3)
    graph, usual = budget.graph, uniform(budget)
    found = shaped(budget, {}, Shape(**{number: 1.5}))
    names = [group.name for group in graph.decisions]
    half = set(names[len(names) // 2 :])
    meant = {"stream": streams(graph), "depth": half, "depthwise": depthwise(graph)}[number]

    def kept(strategy: dict[str, int], groups: set[str]) -> float:
        return float(np.mean([strategy[n] / graph.sizes[n] for n in groups]))

    assert kept(found, set(meant)) > kept(usual, set(meant))
    assert kept(found, set(names) - meant) < kept(usual, set(names) - meant)


def test_streams_whole_and_inside_only_on_a_resnet_are_one_plan() -> None:
    budget = Budget(traced("resnet20"), 0.5)
    found = streams_whole(budget, {})
    assert found is not None and meets(budget, found) and found == inside_only(budget, {})
    sizes = budget.graph.sizes
    assert all(found[name] == sizes[name] for name in streams(budget.graph))
    ratios = [found[name] / sizes[name] for name in inside(budget.graph)]
    assert max(ratios) - min(ratios) < 0.1 and max(ratios) < 0.6
    assert len(family(budget, {})) == 2  # without errors no sensitivities


def test_inside_only_keeps_what_lies_before_and_behind_the_residual_part() -> None:
    budget = Budget(traced("mobilenet_v2"), 0.7)
    found, sizes = inside_only(budget, {}), budget.graph.sizes
    assert found is not None and meets(budget, found)
    cut = {name for name, size in sizes.items() if found[name] < size}
    assert cut == inside(budget.graph)
    assert found != streams_whole(budget, {})


def test_what_does_not_fit_is_none() -> None:
    graph = traced("mobilenet_v2")
    assert inside_only(Budget(graph, 0.15), {}) is None
    assert streams_whole(Budget(graph, 0.02, min_ratio=0.05), {}) is None
    assert streams_whole(Budget(graph, 1.0), {}) is None  # the same as uniform


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("ratio", [0.15, 0.3, 0.6])
@pytest.mark.parametrize("name", NETWORKS)
def test_family_is_distinct_and_meets_the_budget(name: str, ratio: float, multiple: int) -> None:
    budget = Budget(traced(name), ratio, multiple=multiple)
    errors = errors_of(budget)
    found = family(budget, errors)
    assert found[0] == uniform(budget, errors)
    assert all(meets(budget, dict(one)) for one in found)
    assert len({tuple(one.items()) for one in found}) == len(found) >= 4


def test_bounds_of_groups_are_respected() -> None:
    model = build("resnet20", num_classes=10, in_channels=1)
    bounds = amc.Restrictions(
        min_channels={"layer1.0.conv1": 9}, max_channels={"layer3.0.conv2": 40}
    )
    graph = amc.restrict(traced("resnet20"), model, bounds)
    budget = Budget(graph, 0.4)
    for one in family(budget, errors_of(budget)):
        assert one["layer1.0.conv1"] >= 9 and one["layer3.0.conv2"] <= 40
        assert meets(budget, dict(one))
    whole = streams_whole(budget, {})
    assert whole is not None and whole["layer3.0.conv2"] == 40


@pytest.mark.parametrize("seed", range(12))
def test_no_plan_of_a_random_network_leaves_the_budget(seed: int) -> None:
    graph = amc.trace(*drawn_at_random(random_spec(1000 + seed)))
    rng = np.random.default_rng(seed)
    for ratio, multiple in ((0.4, 1), (0.6, 1), (0.7, 2)):
        try:
            budget = Budget(graph, ratio, multiple=multiple)
        except amc.AmcError:
            continue
        errors = errors_of(budget, seed)
        drawn = Shape(*rng.uniform((-1, 0.3, -2, 0.3), (1, 3, 2, 3)))
        plans = [shaped(budget, errors, drawn), *family(budget, errors)]
        assert all(meets(budget, dict(plan)) for plan in plans)


def test_sensitivity_of_zero_and_unknown_ones_do_no_harm() -> None:
    budget = Budget(traced("vgg16"), 0.3)
    errors = errors_of(budget)
    names = list(errors)
    errors[names[0]] = np.zeros_like(errors[names[0]])
    del errors[names[1]]
    known = sensitivities(budget, errors)
    assert known[0] == 1e-3 and known[1] == 1.0
    for exponent in (-1.0, 1.0):
        assert meets(budget, shaped(budget, errors, Shape(exponent)))
    flat = {name: np.zeros_like(e) for name, e in errors.items()}
    assert (sensitivities(budget, flat) == 1).all()
