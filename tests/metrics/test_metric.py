"""Channel selection against contributions that are added up row by row."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from amc.calibration.calibrate import calibrate
from amc.calibration.columns import as_columns, group_columns
from amc.calibration.least_squares import error, solve
from amc.calibration.statistics import Recorder, Sampling, collect
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import ChannelGroup, Layer
from amc.graph.shrink import tensors
from amc.metrics import METRICS, selection_of
from amc.metrics.lasso import Ladder, contributions
from amc.metrics.metric import Evidence
from amc.metrics.obs import Reader
from amc.models.catalog import build

pytestmark = pytest.mark.usefixtures("exact")

ALL = Sampling(0)


class Chain(nn.Module):
    """One reader."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 4, 3, stride=2)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


class Residual(nn.Module):
    """A group with several readers, one of which also writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.inner, self.outer = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 6, 1)
        self.same = nn.Conv2d(6, 6, 1, bias=False)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        x = F.relu(x + self.same(x))
        return self.fc(x.mean((2, 3)))


class Concat(nn.Module):
    """A reader whose inputs come from two groups and from the image."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 5, 1), nn.Conv2d(2, 4, 3, padding=1)
        self.mix, self.fc = nn.Conv2d(11, 6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([F.relu(self.a(x)), x, F.relu(self.b(x))], dim=1)
        return self.fc(F.relu(self.mix(both)).mean((2, 3)))


class Flatten(nn.Module):
    """A linear reader with height x width columns per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.hidden, self.fc = nn.Conv2d(2, 5, 3), nn.Linear(5 * 4, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.a(x)), 2)
        return self.fc(F.relu(self.hidden(x.flatten(1))))


class Grouped(nn.Module):
    """A grouped reader: channel i of every group goes together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 6, 3, groups=2)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.dw = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, groups=6, padding=1)
        self.b, self.fc = nn.Conv2d(6, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.relu(self.dw(F.relu(self.a(x)))))).mean((2, 3)))


NETWORKS = [Chain, Residual, Concat, Flatten, Grouped, Depthwise]


def example(seed: int = 0) -> Tensor:
    return torch.randn(6, 2, 6, 6, generator=torch.Generator().manual_seed(seed))


def traced(network: Callable[[], nn.Module]) -> tuple[nn.Module, ChannelGraph, Evidence]:
    torch.manual_seed(0)
    model = network().eval()
    graph = amc.trace(model, (example(),))
    batches = [(example(seed), torch.zeros(6)) for seed in (1, 2)]
    return model, graph, Evidence(graph, model, calibrate(graph, model, batches, ALL))


def explicit(
    model: nn.Module, layer: Layer, group: ChannelGroup
) -> tuple[np.ndarray, np.ndarray, float]:
    """Z_i = X_i W_i' per channel, and what the other inputs leave of the targets.

    Returns:
        Z [C, rows * outputs], target [rows * outputs], energy of the outputs.
    """
    weight = tensors(model)[layer.weight].detach().double()
    member = next(m for m in group.members if (m.tensor, m.dim) == (layer.weight, 1))
    kernel = math.prod(weight.shape[2:])
    per_batch = [Recorder(model, [layer], ALL).run(example(seed), 0) for seed in (1, 2)]
    rows = [r for batch in per_batch for r in batch[layer.name]]
    x = torch.cat([r.x for r in rows], 1).detach().double()  # [G, R, I K]
    y = torch.cat([r.y for r in rows], 1).detach().double()  # [G, R, O]
    per_channel, left = np.zeros((group.size, y.numel())), y.clone()
    foreign = sorted(set(range(weight.shape[1])) - set(member.index.ravel().tolist()))
    for g in range(layer.groups):
        outputs = slice(g * y.shape[2], (g + 1) * y.shape[2])

        def part(i: int, g: int = g, outputs: slice = outputs) -> Tensor:
            """What input i gives to the outputs of its group of the convolution, [R, O]."""
            return (
                x[g][:, i * kernel : (i + 1) * kernel] @ weight[outputs, i].reshape(-1, kernel).T
            )

        for channel, slices in enumerate(member.index):
            z = torch.zeros_like(y)
            z[g] = sum(part(int(i)) for i in slices)
            per_channel[channel] += z.numpy().ravel()
        for i in foreign:
            left[g] -= part(i)
    return per_channel, left.numpy().ravel(), float(y.square().sum())


def regression(evidence: Evidence, layer: Layer, group: ChannelGroup) -> Reader:
    """A reader as the solvers take it, its columns counted by hand."""
    weight = tensors(evidence.model)[layer.weight].detach()
    member = next(m for m in group.members if (m.tensor, m.dim) == (layer.weight, 1))
    kernel = math.prod(weight.shape[2:])
    columns = [
        [int(i) * kernel + k for i in slices for k in range(kernel)] for slices in member.index
    ]
    return Reader(evidence.stats[layer.name], as_columns(weight, layer), torch.tensor(columns))


@pytest.mark.parametrize("network", NETWORKS)
def test_contributions_are_those_added_up_row_by_row(network: Callable[[], nn.Module]) -> None:
    model, graph, evidence = traced(network)
    compared = 0
    for group in graph.decisions:
        for name in group.readers:
            layer = graph.layer(name)
            z, target, energy = explicit(model, layer, group)
            gram, moment = contributions(regression(evidence, layer, group))
            np.testing.assert_allclose(gram, z @ z.T / energy, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(moment, z @ target / energy, rtol=1e-5, atol=1e-6)
            compared += 1
    assert compared >= 2


def test_all_contributions_together_are_the_target() -> None:
    """b = 1 reproduces the original network, so that A 1 = c."""
    for network in NETWORKS:
        _, graph, evidence = traced(network)
        for group in graph.decisions:
            layer = graph.layer(group.readers[0])
            gram, moment = contributions(regression(evidence, layer, group))
            np.testing.assert_allclose(gram.sum(axis=1), moment, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_lasso_is_the_ladder_over_all_readers(network: Callable[[], nn.Module]) -> None:
    _, graph, evidence = traced(network)
    for group in graph.decisions:
        ladder = Ladder([regression(evidence, graph.layer(n), group) for n in group.readers])
        select = selection_of(METRICS["lasso"], evidence, group)
        for count in range(1, group.size + 1):
            assert np.array_equal(select(count), ladder.keep(count))


def test_a_loud_reader_does_not_outvote_a_quiet_one() -> None:
    """Scaling the weights of one reader by a thousand changes nothing."""
    model, graph, evidence = traced(Residual)
    group = next(g for g in graph.decisions if len(g.readers) > 1)
    select = selection_of(METRICS["lasso"], evidence, group)
    expected = [select(k) for k in range(1, group.size + 1)]
    with torch.no_grad():
        model.fc.weight.mul_(1000)
    batches = [(example(seed), torch.zeros(6)) for seed in (1, 2)]
    louder = Evidence(graph, model, calibrate(graph, model, batches, ALL))
    select = selection_of(METRICS["lasso"], louder, group)
    for count, kept in enumerate(expected, start=1):
        assert np.array_equal(select(count), kept)


def test_lasso_drops_dead_channels_first() -> None:
    model, graph, _ = traced(Chain)
    with torch.no_grad():
        model.a.weight[1], model.a.bias[1] = 0, -1  # never passes the ReLU
        model.b.weight[:, 3] = 0  # nobody listens
        model.a.weight[[1, 3]] *= 100  # l1 and l2 are impressed by size
        model.b.weight[:, 1] *= 100
    batches = [(example(seed), torch.zeros(6)) for seed in (1, 2)]
    evidence = Evidence(graph, model, calibrate(graph, model, batches, ALL))
    select = selection_of(METRICS["lasso"], evidence, graph.decisions[0])
    assert select(3).tolist() == [0, 2, 4]
    assert 1 in selection_of(METRICS["l1"], evidence, graph.decisions[0])(3)


def added_error(evidence: Evidence, group: ChannelGroup, gone: set[int]) -> float:
    """Of all readers, re-solved without these channels, each by its own energy."""
    total, state = 0.0, tensors(evidence.model)
    for name in group.readers:
        layer, stats = evidence.graph.layer(name), evidence.stats[name]
        weight = state[layer.weight]
        lost = set(group_columns(layer, group, weight)[sorted(gone)].flatten().tolist())
        keep = torch.tensor([c for c in range(stats.xx.shape[1]) if c not in lost])
        solution = solve(stats, keep, as_columns(weight, layer)[:, keep])
        total += error(stats, keep, solution) / stats.energy
    return total


@pytest.mark.parametrize("network", NETWORKS)
def test_obs_drops_what_costs_all_readers_least(network: Callable[[], nn.Module]) -> None:
    _, graph, evidence = traced(network)
    for group in graph.decisions:
        select, every = selection_of(METRICS["obs"], evidence, group), set(range(group.size))
        for count in range(group.size - 1, 0, -1):
            before, kept = set(select(count + 1)), set(select(count))
            (dropped,) = before - kept
            assert kept < before
            gone = every - before
            costs = {c: added_error(evidence, group, gone | {c}) for c in before}
            assert costs[dropped] <= min(costs.values()) * (1 + 1e-4) + 1e-7


@pytest.mark.parametrize("name", ["lasso", "obs"])
def test_without_statistics_it_is_l2(name: str) -> None:
    model, graph, _ = traced(Chain)
    evidence = Evidence(graph, model, {})
    for group in graph.decisions:
        expected, found = (selection_of(METRICS[which], evidence, group) for which in ("l2", name))
        for count in range(1, group.size + 1):
            assert np.array_equal(expected(count), found(count))


def test_norms_order_channels_as_computed_by_hand() -> None:
    """Two layers, two channels each: sums of |w| and of w^2 per channel over both layers."""
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 0.0], [2.0, 2.0], [0.5, 0.5]]))
        model[2].weight.copy_(torch.tensor([[1.0, 0.8, 3.0], [1.0, 0.8, 3.0]]))
    graph = amc.trace(model, (torch.ones(2, 2),))
    (group,) = graph.decisions
    evidence = Evidence(graph, model, {})
    # l1: written 3, 4, 1 (mean 8/3), read 2, 1.6, 6 (mean 3.2) -> 1.75, 2.0, 2.25
    assert selection_of(METRICS["l1"], evidence, group)(1).tolist() == [2]
    assert selection_of(METRICS["l1"], evidence, group)(2).tolist() == [1, 2]
    # l2: written 3, 2.828, 0.707 (mean 2.178), read 1.414, 1.131, 4.243 (mean 2.263)
    # -> 2.002, 1.798, 2.200
    assert selection_of(METRICS["l2"], evidence, group)(1).tolist() == [2]
    assert selection_of(METRICS["l2"], evidence, group)(2).tolist() == [0, 2]


@pytest.mark.parametrize(("name", "power"), [("l1", 1), ("l2", 2)])
def test_norms_cover_every_weight_of_a_coupled_group(name: str, power: int) -> None:
    model, graph, evidence = traced(Residual)
    group = next(g for g in graph.decisions if g.name == "stem")
    slices = {
        "stem": model.stem.weight.flatten(1),
        "outer": model.outer.weight.flatten(1),
        "same, written": model.same.weight.flatten(1),
        "same, read": model.same.weight.transpose(0, 1).flatten(1),
        "inner": model.inner.weight.transpose(0, 1).flatten(1),
        "fc": model.fc.weight.T,
    }
    norms = {k: (v.abs() ** power).sum(dim=1) ** (1 / power) for k, v in slices.items()}
    score = sum((v / v.mean() for v in norms.values()), torch.zeros(6))
    order = score.argsort(descending=True).tolist()
    select = selection_of(METRICS[name], evidence, group)
    for count in range(1, 7):
        assert select(count).tolist() == sorted(order[:count])


def test_norms_take_every_slice_of_a_flattened_channel() -> None:
    model, graph, evidence = traced(Flatten)
    with torch.no_grad():
        model.a.weight.fill_(1)
        model.hidden.weight.fill_(0.1)
        model.hidden.weight[:, 2 * 4 + 3] = 9  # the last of the four columns of channel 2
    group = next(g for g in graph.decisions if g.name == "a")
    assert selection_of(METRICS["l1"], evidence, group)(1).tolist() == [2]


def test_random_is_nested_and_follows_from_the_seed_and_the_group() -> None:
    model, graph, evidence = traced(Residual)

    def orders(seed: int) -> list[list[list[int]]]:
        given = Evidence(graph, model, evidence.stats, seed)
        selections = [selection_of(METRICS["random"], given, g) for g in graph.decisions]
        return [
            [select(k).tolist() for k in range(1, g.size + 1)]
            for select, g in zip(selections, graph.decisions, strict=True)
        ]

    first = orders(0)
    for nested in first:
        for fewer, more in pairwise(nested):
            assert set(fewer) < set(more)
    torch.manual_seed(5)
    np.random.seed(5)  # the global generators play no part
    assert first == orders(0)
    assert len({str(orders(seed)) for seed in range(5)}) == 5


def test_random_channels_are_about_equally_likely() -> None:
    model, graph, _ = traced(Chain)
    group, counts = graph.decisions[0], np.zeros(5)
    for seed in range(1000):
        counts[selection_of(METRICS["random"], Evidence(graph, model, {}, seed), group)(2)] += 1
    # binomial(1000, 2/5): mean 400, standard deviation 15.5
    assert np.abs(counts - 400).max() < 5 * 15.5


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_gives_exact_counts_on_resnet20(name: str) -> None:
    torch.manual_seed(0)
    model = build("resnet20", num_classes=10, in_channels=3).eval()
    x = torch.randn(4, 3, 16, 16)
    graph = amc.trace(model, (x,))
    readers = {n for g in graph.decisions for n in g.readers}
    layers = [v for v in graph.layers if v.name in readers]
    stats = collect(model, layers, [(x, x)] * 2, Sampling(10)) if name == "lasso" else {}
    evidence = Evidence(graph, model, stats, images=[(x, torch.arange(4))])
    for group in graph.decisions:
        select = selection_of(METRICS[name], evidence, group)
        for count in range(1, group.size + 1):
            kept = select(count)
            assert kept.dtype == np.int64
            assert len(kept) == count and (np.diff(kept) > 0).all()
            assert kept[0] >= 0 and kept[-1] < group.size


def test_metrics_leave_the_network_alone() -> None:
    for name, metric in METRICS.items():
        model, graph, evidence = traced(Concat)
        evidence = replace(evidence, images=[(torch.randn(4, 2, 9, 9), torch.arange(4) % 3)])
        before = {k: v.clone() for k, v in model.state_dict().items()}
        for group in graph.decisions:
            selection_of(metric, evidence, group)(1)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), name
