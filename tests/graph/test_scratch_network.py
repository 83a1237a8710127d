"""One borrowed network that takes the shape of strategy after strategy, against fresh cuts."""

import copy
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import amc
from amc.calibration.calibrate import calibrate
from amc.calibration.statistics import LayerStats, Sampling
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Strategy
from amc.graph.shrink import tensors
from amc.metrics import METRICS, Evidence, selection_of
from amc.models.catalog import build
from amc.reconstruction import compressor as rooms
from amc.reconstruction.compressor import Compressor, Memo
from amc.runtime.errors import AmcError
from amc.tasks.evaluate import evaluate
from published_blocks import BLOCKS
from random_networks import build as random_network
from random_networks import random_spec

Network = Callable[[], nn.Module]


class Grouped(nn.Module):
    """Convolutions in groups, one of them with several channels per group, and a PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 12, 3, groups=4)
        self.act, self.norm = nn.PReLU(12), nn.BatchNorm2d(12)
        self.c, self.fc = nn.Conv2d(12, 6, 3, groups=2), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.b(F.relu(self.a(x)))))
        return self.fc(F.relu(self.c(x)).mean((2, 3)))


class Concat(nn.Module):
    """Readers of several groups, one of them also a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 6, 1), nn.Conv2d(1, 5, 3, padding=1)
        self.mix, self.fc = nn.Conv2d(12, 6, 3, stride=4), nn.Linear(6 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([F.relu(self.a(x)), x, F.relu(self.b(x))], dim=1)
        return self.fc(F.relu(self.mix(both)).flatten(1))


class Split(nn.Module):
    """Numbers of channels as attributes: alone, in a tuple, and one that a list holds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(12, 9, 3, padding=1)
        self.width, self.parts, self.rest = 6, (4, 5), [9, 1]
        self.c, self.fc = nn.Conv2d(6 + 4, 8, 1), nn.Linear(8 + 5, 10)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).split((self.width, self.width), 1)
        left, right = torch.split(F.relu(self.b(torch.cat([second, first], 1))), self.parts, 1)
        x = F.relu(self.c(torch.cat([first * second, left], 1)))
        return self.fc(torch.cat([x, right], 1).mean((2, 3)))


class Tied(nn.Module):
    """Two layers with one weight, two norms with one buffer, and a layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(i, 8, 3, padding=1) for i in (1, 8, 8))
        self.c.weight = self.b.weight
        self.n, self.m = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.m.running_mean, self.m.weight = self.n.running_mean, self.n.weight
        self.d, self.fc = nn.Conv2d(8, 6, 1), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.n(self.a(x)))
        x = F.relu(self.m(self.b(x))) + F.relu(self.c(x))
        return self.fc(F.relu(self.d(x) + self.d(x.flip(3))).mean((2, 3)))


class Depthwise(nn.Module):
    """Two depthwise layers of one group, one of them with two outputs per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.dw = nn.Conv2d(1, 8, 1), nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.norm, self.two = nn.BatchNorm2d(8), nn.Conv2d(8, 16, 3, groups=8)
        self.b, self.fc = nn.Conv2d(16, 5, 1), nn.Linear(5, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.two(F.relu(self.norm(self.dw(F.relu(self.a(x)))))))
        return self.fc(F.relu(self.b(x)).mean((2, 3)))


def bundled(name: str, width: float) -> Network:
    return lambda: build(name, num_classes=10, in_channels=1, width=width)


CALIBRATED: dict[str, Network] = {
    "residual": bundled("resnet20", 0.25),
    "mobile": bundled("mobilenet_v2", 0.15),
    "grouped": Grouped,
    "concat": Concat,
    "split": Split,
    "tied": Tied,
    "depthwise": Depthwise,
}


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """Norms whose statistics and scales are all different; some parameters need no gradient."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                for held, low, high in (
                    (module.weight, 0.6, 1.4), (module.bias, -0.3, 0.3),
                    (module.running_mean, -0.5, 0.5), (module.running_var, 0.7, 1.5),
                ):  # fmt: skip
                    held.uniform_(low, high, generator=generator)
            module.bias.requires_grad_(False)
    return model


@cache
def calibrated(
    name: str,
) -> tuple[nn.Module, ChannelGraph, dict[str, LayerStats], list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    model = shaken(CALIBRATED[name]())
    batches = [(torch.randn(20, 1, 16, 16), torch.randint(10, (20,))) for _ in range(2)]
    graph = amc.trace(model, (batches[0][0][:2],))
    return model, graph, calibrate(graph, model, batches, Sampling(6)), batches


def prepared(name: str, selector: str = "random") -> Compressor:
    model, graph, stats, _ = calibrated(name)
    return Compressor(
        graph,
        model,
        stats,
        partial(selection_of, METRICS[selector], Evidence(graph, model, stats)),
    )


def strategies(graph: ChannelGraph, number: int, seed: int = 0) -> Iterator[Strategy]:
    """Everything, as little as possible, and mixtures in which some groups are not named."""
    rng = np.random.default_rng(seed)
    bounds = {g.name: g.bounds for g in graph.decisions}
    yield {}
    yield {name: least for name, (least, _) in bounds.items()}
    yield dict(graph.sizes)
    for _ in range(number - 3):
        named, extreme = rng.random() * 1.5, rng.random() / 2
        strategy = {}
        for name, (least, most) in bounds.items():
            if rng.random() < named:
                inside = int(rng.integers(least, most + 1))
                strategy[name] = (
                    int(rng.choice((least, most))) if rng.random() < extreme else inside
                )
        yield strategy


def cut_afresh(compressor: Compressor, strategy: Strategy) -> nn.Module:
    """`amc.shrink`, and then the solved weights of a compressor that remembers nothing."""
    model, graph = compressor.model, compressor.graph
    fresh = Compressor(graph, model, compressor.stats, compressor._select)
    plan = fresh.plan(strategy)
    small = amc.shrink(model, plan).eval()
    held = tensors(small)
    with torch.no_grad():
        for name, weight in fresh.weights(plan).items():
            assert held[name].shape == weight.shape and held[name].dtype == weight.dtype
            held[name].copy_(weight)
    return small


def answers(model: nn.Module, *inputs: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return [y for y in tree_leaves(model(*inputs)) if isinstance(y, Tensor)]


def attributes(model: nn.Module) -> dict[str, Any]:
    """Every number that a module holds, alone or in a tuple or list."""
    return {
        f"{name}.{key}": value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, int | float | tuple | list | str)
        and "Parameter" not in str(value)  # an LSTM keeps a list of weak references
    }


def assert_same_network(found: nn.Module, expected: nn.Module, *inputs: Tensor) -> None:
    """Bit for bit, and down to what is printed."""
    assert str(found) == str(expected)
    assert attributes(found) == attributes(expected)
    ours, theirs = tensors(found), tensors(expected)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
        assert isinstance(value, nn.Parameter) == isinstance(theirs[name], nn.Parameter), name
        assert value.requires_grad == theirs[name].requires_grad, name
    for y, wanted in zip(answers(found, *inputs), answers(expected, *inputs), strict=True):
        assert torch.equal(y, wanted)


def snapshot(model: nn.Module) -> tuple[Any, ...]:
    """Bits, identities, modes and attributes of a network."""
    held = tensors(model)
    return (
        {name: value.detach().clone() for name, value in held.items()},
        {name: id(value) for name, value in held.items()},
        [module.training for module in model.modules()],
        attributes(model),
    )


def assert_unchanged(model: nn.Module, before: tuple[Any, ...]) -> None:
    now = snapshot(model)
    assert all(torch.equal(value, before[0][name]) for name, value in now[0].items())
    assert now[1:] == before[1:]


# Against fresh cuts


@pytest.mark.parametrize("name", CALIBRATED)
def test_borrowed_network_is_the_fresh_cut_whatever_it_was_before(name: str) -> None:
    model, graph, _, batches = calibrated(name)
    before, compressor = snapshot(model), prepared(name)
    seen, networks = [], set[int]()
    for strategy in strategies(graph, 7 if name in ("residual", "mobile") else 15):
        borrowed = compressor.view(strategy)
        networks.add(id(borrowed))
        assert_same_network(borrowed, cut_afresh(compressor, strategy), batches[0][0])
        seen.append((strategy, answers(borrowed, batches[0][0])[0]))
    for strategy, expected in reversed(seen):  # now everything is remembered
        assert torch.equal(answers(compressor.view(strategy), batches[0][0])[0], expected)
    assert len(networks) == 1  # no copy was made
    assert_unchanged(model, before)
    different = {tuple(graph.counts(strategy)) for strategy, _ in seen}
    assert len({y.numpy().tobytes() for _, y in seen}) == len(different) > 4


@pytest.mark.parametrize("name", ["residual", "depthwise"])
def test_borrowed_network_is_the_fresh_cut_under_the_lasso(name: str) -> None:
    _, graph, _, batches = calibrated(name)
    compressor = prepared(name, "lasso")
    for strategy in strategies(graph, 4, seed=1):
        expected = cut_afresh(compressor, strategy)
        assert_same_network(compressor.view(strategy), expected, batches[0][0])


@pytest.mark.parametrize("name", ["mobile", "depthwise"])
def test_depthwise_layers_of_one_channel_grow_back(name: str) -> None:
    """A depthwise layer of one channel looks like a dense one."""
    _, graph, _, batches = calibrated(name)
    compressor, rng = prepared(name), np.random.default_rng(0)
    ones = {g.name: g.bounds[0] for g in graph.decisions}
    assert set(ones.values()) == {1}
    depthwise = {x.name for x in graph.layers if x.kind == "depthwise"}
    for _ in range(3):
        for strategy in (
            ones,
            {name: int(rng.integers(2, size + 1)) for name, size in graph.sizes.items()},
            {name: count for name, count in ones.items() if rng.random() < 0.5},
        ):
            found = compressor.view(strategy)
            assert_same_network(found, cut_afresh(compressor, strategy), batches[0][0])
            for layer in depthwise:
                module = found.get_submodule(layer)
                assert (
                    module.groups
                    == module.in_channels
                    == module.weight.shape[0] // (module.out_channels // module.in_channels)
                )


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_published_networks_take_the_shape_of_fresh_cuts(name: str) -> None:
    """Without statistics: cut alone. Attributes follow, and so do splits and shuffles."""
    torch.manual_seed(0)
    model = BLOCKS[name][0]().eval()
    x = torch.randn(2, 3, 16, 16)
    check_cuts(model, (x,), number=6)


def check_cuts(model: nn.Module, inputs: tuple[Tensor, ...], number: int) -> int:
    """Borrowed networks against fresh cuts; how many groups there are to decide."""
    graph = amc.trace(model, inputs)
    before = snapshot(model)
    compressor = Compressor(
        graph, model, {}, partial(selection_of, METRICS["random"], Evidence(graph, model, {}))
    )
    for strategy in strategies(graph, number):
        expected = amc.shrink(model, compressor.plan(strategy)).eval()
        assert_same_network(compressor.view(strategy), expected, *inputs)
    assert_unchanged(model, before)
    return len(graph.decisions)


@pytest.mark.parametrize("first", [0, 5])
def test_random_networks_take_the_shape_of_fresh_cuts(first: int) -> None:
    """Every kind of step: tied and bare parameters, attributes, hooks, layers that run twice."""
    decided = [check_cuts(*random_network(random_spec(first + i)), number=5) for i in range(5)]
    assert sum(map(bool, decided)) > 3


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1400, 50))
def test_further_random_networks_take_the_shape_of_fresh_cuts(first: int) -> None:
    for i in range(50):
        check_cuts(*random_network(random_spec(first + i)), number=10)


# What happens to a borrowed network


@pytest.mark.parametrize("name", ["residual", "mobile", "tied", "grouped"])
def test_validation_by_the_statistics_of_the_batch_leaves_no_trace(name: str) -> None:
    _, graph, _, batches = calibrated(name)
    compressor, untouched = prepared(name), prepared(name)
    for strategy in strategies(graph, 6):
        borrowed = compressor.view(strategy)
        before = snapshot(borrowed)
        memos = [
            {key: value.detach().clone() for key, value in memo.items()}
            for memo in (compressor._parts, compressor._solutions)
        ]
        plain = evaluate(borrowed, batches)
        assert evaluate(borrowed, batches, batch_statistics=True) != plain
        assert_unchanged(borrowed, before)
        for memo, old in zip((compressor._parts, compressor._solutions), memos, strict=True):
            assert memo.keys() == old.keys()
            assert all(torch.equal(value, old[key]) for key, value in memo.items())
        assert evaluate(borrowed, batches) == plain
        assert evaluate(untouched.view(strategy), batches) == plain


def test_validation_that_breaks_off_leaves_no_trace() -> None:
    _, _, _, batches = calibrated("residual")
    compressor = prepared("residual")
    borrowed = compressor.view({"conv1": 3})
    before, plain = snapshot(borrowed), evaluate(borrowed, batches)
    with pytest.raises(AmcError):
        wrong = [batches[0], (torch.randn(2, 3, 16, 16), torch.zeros(2).long())]
        evaluate(borrowed, wrong, batch_statistics=True)
    assert_unchanged(borrowed, before)
    assert evaluate(compressor.view({"conv1": 3}), batches) == plain


@pytest.mark.parametrize("name", CALIBRATED)
def test_cut_network_is_independent_of_all_that_comes_later(name: str) -> None:
    _, graph, _, batches = calibrated(name)
    compressor, x = prepared(name), batches[0][0]
    several = list(strategies(graph, 5, seed=2))
    cuts = [compressor.cut(strategy) for strategy in several]
    expected = [answers(cut_afresh(compressor, strategy), x)[0] for strategy in several]
    for strategy in several:
        compressor.view(strategy)
        for small, wanted in zip(cuts, expected, strict=True):
            assert torch.equal(answers(small, x)[0], wanted)
    borrowed = {t.data_ptr() for t in tensors(compressor.view(several[1])).values()}
    for small in cuts:
        assert not borrowed & {t.data_ptr() for t in tensors(small).values() if t.numel()}


@pytest.mark.parametrize("name", CALIBRATED)
def test_training_a_cut_network_does_not_reach_the_borrowed_one(name: str) -> None:
    model, graph, _, batches = calibrated(name)
    before, compressor, (x, y) = snapshot(model), prepared(name), batches[0]
    for strategy in strategies(graph, 5, seed=3):
        expected = answers(compressor.view(strategy), x)[0]
        small = compressor.cut(strategy).train()
        trained = [p for p in small.parameters() if p.requires_grad]
        sgd = torch.optim.SGD(trained, lr=0.5)
        F.cross_entropy(small(x), y).backward()
        sgd.step()
        assert not torch.equal(answers(small.eval(), x)[0], expected)
        assert torch.equal(answers(compressor.view(strategy), x)[0], expected)
        assert all(p.grad is None for p in compressor.view(strategy).parameters())
    assert_unchanged(model, before)
    assert all(p.grad is None for p in model.parameters())


class Keeping(nn.Module):
    """Remembers what it computed last."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Conv2d(1, 6, 3), nn.Linear(6, 10)
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = F.relu(self.a(x)).mean((2, 3))
        return self.fc(self.last)


def test_network_that_keeps_activations_can_be_cut_after_it_was_used() -> None:
    torch.manual_seed(0)
    x, model = torch.randn(4, 1, 8, 8), Keeping().eval()
    graph = amc.trace(model, (x,))
    model(x)
    compressor = Compressor(
        graph, model, {}, partial(selection_of, METRICS["l1"], Evidence(graph, model, {}))
    )
    for count in (3, 5, 2):
        borrowed = compressor.view({"a": count})
        evaluate(borrowed, [(x, torch.zeros(4).long())])
        small = compressor.cut({"a": count}).train()
        small(x).sum().backward()
        assert small.last.shape == (4, count)


def test_strategies_that_name_nothing_or_too_much_are_refused_and_change_nothing() -> None:
    compressor, x = prepared("concat"), calibrated("concat")[3][0][0]
    expected = answers(compressor.view({"a": 3}), x)[0]
    for strategy in ({"a": 0}, {"a": 7}, {"a": -1}):
        with pytest.raises(amc.AmcError, match="a: expected 1 to 6 channels"):
            compressor.view(strategy)
        assert torch.equal(answers(compressor.view({"a": 3}), x)[0], expected)
    with pytest.raises(amc.AmcError, match="'nothing' cannot be pruned"):
        compressor.view({"nothing": 3})


# Memory


def test_memo_forgets_everything_once_it_holds_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "MEMO_BYTES", 100)
    memo, rng = Memo(), np.random.default_rng(0)
    largest, forgotten = 0, 0
    for number in range(200):
        value = torch.full((int(rng.integers(1, 12)),), number, dtype=torch.float32)
        held = len(memo)
        memo[number,] = value
        assert memo[number,] is value  # the newest is always there
        size = sum(tensor.nbytes for tensor in memo.values())
        assert size <= 100
        if len(memo) <= held:
            assert len(memo) == 1
            forgotten += 1
        largest = max(largest, size)
    assert forgotten > 20 and largest > 80
    memo["large",] = torch.zeros(1000)
    assert list(memo) == [("large",)]
    memo["small",] = torch.zeros(1)
    assert list(memo) == [("small",)]


@pytest.mark.parametrize("limit", [1, 3_000, 20_000, 100_000])
@pytest.mark.parametrize("name", ["residual", "split", "tied"])
def test_forgetting_changes_no_network(
    name: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, graph, _, batches = calibrated(name)
    several = list(strategies(graph, 8, seed=4))
    remembering = prepared(name)
    expected = [answers(remembering.view(s), batches[0][0])[0] for s in several]
    monkeypatch.setattr(rooms, "MEMO_BYTES", limit)
    forgetful = prepared(name)
    for i in (0, 1, 2, 3, 4, 5, 6, 7, 3, 1, 5, 0):
        assert torch.equal(answers(forgetful.view(several[i]), batches[0][0])[0], expected[i])
        for memo in (forgetful._parts, forgetful._solutions):
            assert sum(t.nbytes for t in memo.values()) <= limit or len(memo) == 1


def test_remembered_strategies_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    _, graph, _, _ = calibrated("residual")
    compressor, several = prepared("residual"), list(strategies(calibrated("residual")[1], 6))
    for strategy in several:
        compressor.view(strategy)
    for work in ("plan", "_part", "_solve", "keep"):
        monkeypatch.setattr(compressor, work, None)  # would fail if it were called
    for strategy in several:
        found = compressor.view(strategy)
        params = sum(p.numel() for p in found.parameters())
        assert params == graph.cost.params(graph.counts(strategy))


def test_model_in_training_mode_is_borrowed_in_eval_mode_and_stays_as_it_is() -> None:
    model = copy.deepcopy(calibrated("residual")[0]).train()
    _, graph, stats, _ = calibrated("residual")
    compressor = Compressor(
        graph, model, stats, partial(selection_of, METRICS["l1"], Evidence(graph, model, stats))
    )
    assert not any(m.training for m in compressor.view({"conv1": 4}).modules())
    assert not any(m.training for m in compressor.cut({"conv1": 4}).modules())
    assert all(m.training for m in model.modules())
