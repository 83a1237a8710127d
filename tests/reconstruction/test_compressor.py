"""Cut networks against a reconstruction by `numpy.linalg.lstsq` in a network of full size."""

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from amc.calibration.calibrate import calibrate, reconstructed_layers
from amc.calibration.statistics import Batches, Recorder, Sampling
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import Layer
from amc.graph.plan import Plan
from amc.graph.shrink import tensors
from amc.metrics import METRICS, Evidence, selection_of
from amc.reconstruction import compressor as rooms
from amc.reconstruction.batchnorm import adapt_batchnorm
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.layer_by_layer import compress
from amc.reconstruction.original_outputs import OriginalOutputs
from amc.runtime.errors import AmcError

pytestmark = pytest.mark.usefixtures("exact")

ALL = Sampling(0)

Network = Callable[[], nn.Module]


class Plain(nn.Module):
    """A chain with bias, batch norm, stride, and columns per pixel at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.c = nn.Conv2d(8, 7, 3, stride=2, padding=1), nn.Conv2d(7, 6, 2)
        self.fc = nn.Linear(6 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.norm(self.a(x)))))
        return self.fc(F.relu(self.c(x)).flatten(1))


class Residual(nn.Module):
    """A group with several readers and writers, one layer being both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.outer, self.same = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 8, 1, bias=False)
        self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        x = F.relu(x + self.norm(self.same(x)))
        return self.fc(x.mean((2, 3)))

    def added(self, x: Tensor) -> dict[str, Tensor]:
        """What is added to a layer's output, [B, C, H, W]."""
        first = F.relu(self.stem(x))
        return {
            "outer": first,
            "same": F.relu(first + self.outer(F.relu(self.inner(first)))),
        }

    def scales(self) -> dict[str, Tensor]:
        """What a layer's output is multiplied by before the addition, [C, 1, 1]."""
        scale = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()
        return {"outer": torch.ones(8, 1, 1), "same": scale[:, None, None]}


class Concat(nn.Module):
    """A reader of two groups and of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 6, 1), nn.Conv2d(2, 5, 3, padding=1)
        self.mix, self.fc = nn.Conv2d(13, 6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([F.relu(self.a(x)), x, F.relu(self.b(x))], dim=1)
        return self.fc(F.relu(self.mix(both)).mean((2, 3)))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.dw = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, groups=6, padding=1)
        self.b, self.fc = nn.Conv2d(6, 5, 1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.relu(self.dw(F.relu(self.a(x)))))).mean((2, 3)))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 6, 3, groups=2)
        self.c, self.fc = nn.Conv2d(6, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x))))
        return self.fc(F.relu(self.c(x)).mean((2, 3)))


class Heads(nn.Module):
    """Three heads of attention, and a layer that reads four columns of each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.qkv = nn.Conv2d(2, 8, 3, stride=2, padding=1), nn.Linear(8, 36)
        self.proj, self.fc = nn.Linear(12, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(F.relu(self.a(x)).flatten(2).mT).unflatten(2, (3, -1, 4))
        y = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        return self.fc(F.relu(self.proj(y.transpose(1, 2).flatten(2))).mean(1))


NETWORKS: list[Network] = [Plain, Residual, Concat, Depthwise, Grouped, Heads]

BATCHES = [
    (torch.randn(n, 2, 6, 6, generator=torch.Generator().manual_seed(n)), torch.zeros(n))
    for n in (40, 41, 13)
]
IMAGES = torch.cat([x for x, _ in BATCHES])


def network(kind: Network, seed: int = 0) -> nn.Module:
    """Random weights, all channels alive, batch norm that does something."""
    torch.manual_seed(seed)
    model = kind()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.uniform_(module.bias, 0.1, 0.5)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def prepared(
    kind: Network, selector: str = "lasso", seed: int = 0
) -> tuple[nn.Module, ChannelGraph, Compressor]:
    model = network(kind, seed)
    graph = amc.trace(model, (IMAGES[:2],))
    stats = calibrate(graph, model, BATCHES, ALL)
    return (
        model,
        graph,
        Compressor(
            graph,
            model,
            stats,
            partial(selection_of, METRICS[selector], Evidence(graph, model, stats, seed)),
        ),
    )


def originals(compressor: Compressor, sampling: Sampling = ALL) -> OriginalOutputs:
    return OriginalOutputs(compressor.graph, compressor.model, BATCHES, sampling)


def halved(graph: ChannelGraph) -> dict[str, int]:
    return {name: (size + 1) // 2 for name, size in graph.sizes.items()}


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(IMAGES)


def output_error(model: nn.Module, other: nn.Module) -> float:
    return float((outputs(model) - outputs(other)).square().sum())


def fitted(layer: Layer, weight: Tensor, kept: list[int], x: Tensor, y: Tensor) -> Tensor:
    """The weight with zeros for lost inputs, the others by lstsq on rows [G, R, D], [G, R, N]."""
    new = torch.zeros_like(weight)
    kernel = weight[0, 0].numel()
    columns = [i * kernel + k for i in kept for k in range(kernel)]
    outs = y.shape[2]
    for g in range(layer.groups):
        rows = x[g][:, columns].double().numpy()
        solution = np.linalg.lstsq(rows, y[g].double().numpy(), rcond=None)[0]
        part = torch.from_numpy(solution.T).reshape(outs, len(kept), *weight.shape[2:])
        new[g * outs : (g + 1) * outs, kept] = part.to(new)
    return new


@torch.no_grad()
def by_hand(
    model: nn.Module,
    graph: ChannelGraph,
    plan: Plan,
    sequential: bool,
    adapt: Batches = (),
    at_once: bool = False,
) -> nn.Module:
    """The original network in its full size, in which no layer listens to removed channels.

    Batch norm follows after every layer, and before the first if it is to follow at once.
    """
    full = copy.deepcopy(model)
    if at_once:
        adapt_batchnorm(full, adapt)
    kept = {c.tensor: list(c.keep) for c in plan.cuts if c.dim == 1}
    for layer in graph.layers:
        if layer.weight not in kept or layer.kind == "depthwise":
            continue
        rows = Recorder(full if sequential else model, [layer], ALL).run(IMAGES, 0)[layer.name]
        wanted = Recorder(model, [layer], ALL).run(IMAGES, 0)[layer.name]
        weight = tensors(full)[layer.weight]
        x, y = (torch.cat(parts, 1) for parts in ([r.x for r in rows], [r.y for r in wanted]))
        if sequential and isinstance(model, Residual) and layer.name in ("outer", "same"):
            error = model.added(IMAGES)[layer.name] - full.added(IMAGES)[layer.name]
            y = y + (error / model.scales()[layer.name]).flatten(2).mT.flatten(0, 1)
        weight.copy_(fitted(layer, weight, kept[layer.weight], x, y))
        if adapt:
            adapt_batchnorm(full, adapt)
    return full


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("selector", ["lasso", "random"])
def test_cut_is_the_network_with_weights_fitted_on_the_original_inputs(
    kind: Network, selector: str
) -> None:
    model, graph, compressor = prepared(kind, selector)
    strategy = halved(graph)
    expected = by_hand(model, graph, compressor.plan(strategy), sequential=False)
    found = compressor.cut(strategy)
    torch.testing.assert_close(outputs(found), outputs(expected), rtol=2e-3, atol=2e-4)
    assert output_error(found, model) > 1e-4  # the cut does cost something


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("memory", [2**31, 0])
@pytest.mark.parametrize(
    ("selector", "adapt"), [("lasso", False), ("random", False), ("l1", True)]
)
def test_compress_is_the_network_with_weights_fitted_layer_by_layer(
    kind: Network, memory: int, selector: str, adapt: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one pass, where all images are one batch to batch norm, and in one pass per layer."""
    monkeypatch.setattr("amc.reconstruction.one_pass.HELD_BYTES", memory)
    model, graph, compressor = prepared(kind, selector)
    plan = compressor.plan(halved(graph))
    batches = [(IMAGES, torch.zeros(len(IMAGES)))] if memory else BATCHES
    expected = by_hand(
        model, graph, plan, True, batches if adapt else (), at_once=adapt and memory > 0
    )
    found = compress(compressor, plan, originals(compressor), adapt)
    torch.testing.assert_close(outputs(found), outputs(expected), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("kind", NETWORKS)
def test_compress_is_closer_to_the_original_than_the_cut_and_the_cut_than_shrinking(
    kind: Network,
) -> None:
    shrunk, cut, compressed = 0.0, 0.0, 0.0
    for seed in range(4):
        model, graph, compressor = prepared(kind, seed=seed)
        strategy = {name: max(1, size - 2) for name, size in graph.sizes.items()}
        plan = compressor.plan(strategy)
        shrunk += output_error(amc.shrink(model, plan), model)
        cut += output_error(compressor.cut(strategy), model)
        compressed += output_error(compress(compressor, plan, originals(compressor)), model)
    assert compressed < cut < shrunk


@pytest.mark.parametrize("kind", NETWORKS)
def test_order_of_strategies_does_not_matter(kind: Network) -> None:
    model, graph, compressor = prepared(kind)
    first = halved(graph)
    others = [
        {},
        dict.fromkeys(graph.sizes, 1),
        {next(iter(graph.sizes)): 2},
        {list(graph.sizes)[-1]: 2},
        dict(graph.sizes),
    ]
    expected = outputs(compressor.cut(first))
    for other in others:
        fresh = prepared(kind)[2]
        assert torch.equal(outputs(compressor.cut(other)), outputs(fresh.cut(other)))
        assert torch.equal(outputs(compressor.cut(first)), expected)
    for strategy in ({}, graph.sizes):
        assert torch.equal(outputs(compressor.cut(strategy)), outputs(model))


def test_depthwise_layer_of_one_channel_grows_back() -> None:
    compressor = prepared(Depthwise)[2]
    compressor.cut({"a": 1})
    found = compressor.cut({"a": 3})
    assert found.dw.groups == found.dw.in_channels == found.dw.out_channels == 3
    fresh = prepared(Depthwise)[2].cut({"a": 3})
    assert torch.equal(outputs(found), outputs(fresh))


def test_what_happens_to_a_cut_network_stays_with_it() -> None:
    """Training it or adapting its batch norm reaches neither the original nor later cuts."""
    model, graph, compressor = prepared(Plain)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for strategy in (halved(graph), {"c": 2}, {}):
        expected = outputs(compressor.cut(strategy))
        spoilt = compressor.cut(strategy)
        adapt_batchnorm(spoilt, BATCHES)
        with torch.no_grad():
            for parameter in spoilt.parameters():
                parameter.add_(1)
        assert torch.equal(outputs(compressor.cut(strategy)), expected)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("kind", NETWORKS)
def test_original_stays_bit_for_bit(kind: Network) -> None:
    model = network(kind).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    shapes = {id(p): p.shape for p in model.parameters()}
    graph = amc.trace(model, (IMAGES[:2],))
    stats = calibrate(graph, model, BATCHES, ALL)
    compressor = Compressor(
        graph, model, stats, partial(selection_of, METRICS["lasso"], Evidence(graph, model, stats))
    )
    compressor.cut(halved(graph))
    compress(compressor, compressor.plan(halved(graph)), originals(compressor))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert {id(p): p.shape for p in model.parameters()} == shapes
    assert all(m.training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", NETWORKS)
def test_result_has_the_shapes_of_the_plan_the_class_and_the_modes(kind: Network) -> None:
    model, graph, compressor = prepared(kind)
    model.train()
    model.fc.eval()
    model.fc.bias.requires_grad_(False)
    plan = compressor.plan(halved(graph))
    found = compress(compressor, plan, originals(compressor))
    cut = compressor.cut(halved(graph))
    expected = {name: list(t.shape) for name, t in tensors(model).items()}
    for one in plan.cuts:
        expected[one.tensor][one.dim] = len(one.keep)
    for result in (found, cut):
        assert type(result) is type(model)
        assert {name: list(t.shape) for name, t in tensors(result).items()} == expected
        assert sum(p.numel() for p in result.parameters()) == graph.params(plan)
        assert not result.fc.bias.requires_grad and result.fc.weight.requires_grad
    modes = {name: module.training for name, module in model.named_modules()}
    assert {name: module.training for name, module in found.named_modules()} == modes
    assert not any(module.training for module in cut.modules())


def test_every_reader_that_loses_inputs_is_reported_in_execution_order() -> None:
    _, graph, compressor = prepared(Residual)
    done: list[str] = []
    plan = compressor.plan({"stem": 5})
    compress(compressor, plan, originals(compressor), on_layer=done.append)
    assert done == ["inner", "same", "fc"]
    assert [v.name for v in reconstructed_layers(graph)] == ["inner", "outer", "same", "fc"]


def test_plan_that_changes_nothing_changes_nothing() -> None:
    model, graph, compressor = prepared(Residual)
    plan = compressor.plan(graph.sizes)
    assert not plan.cuts
    found = compress(compressor, plan, originals(compressor))
    assert all(torch.equal(v, found.state_dict()[k]) for k, v in model.state_dict().items())


def test_plans_with_the_same_counts_and_other_channels_are_told_apart() -> None:
    _, graph, compressor = prepared(Plain)
    plans = [graph.plan({"a": keep}) for keep in ([0, 1, 2], [3, 5, 7])]
    for plan in plans:
        found = compressor.weights(plan)["b.weight"]
        fresh = prepared(Plain)[2].weights(plan)["b.weight"]
        assert torch.equal(found, fresh)
    first, second = (compressor.weights(plan)["b.weight"] for plan in plans)
    assert not torch.allclose(first, second)


def test_selection_is_asked_once_per_group() -> None:
    model, graph, _ = prepared(Plain)
    asked: list[str] = []

    def select(group: amc.ChannelGroup) -> Callable[[int], np.ndarray]:
        asked.append(group.name)
        return lambda count: np.arange(count)

    compressor = Compressor(graph, model, calibrate(graph, model, BATCHES, ALL), select)
    for count in (3, 2, 3):
        assert compressor.keep("a", count).tolist() == list(range(count))
        compressor.cut({"a": count, "b": 4})
    assert asked == ["a", "b"]


def test_forgetting_solutions_changes_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    _, graph, compressor = prepared(Plain)
    strategies = [halved(graph), {"a": 3}, dict.fromkeys(graph.sizes, 1), halved(graph)]
    expected = [outputs(compressor.cut(s)) for s in strategies]
    monkeypatch.setattr(rooms, "MEMO_BYTES", 1)
    _, _, forgetful = prepared(Plain)
    for strategy, wanted in zip(strategies, expected, strict=True):
        assert torch.equal(outputs(forgetful.cut(strategy)), wanted)


@pytest.mark.parametrize("held", [2**32, 1])
def test_layers_with_too_many_columns_are_fitted_by_descent(
    monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    """They have no statistics; in the cut that is kept they are nearly as if they had."""
    model, graph, compressor = prepared(Plain)
    for room in ("amc.calibration.calibrate", "amc.reconstruction.layer_by_layer"):
        monkeypatch.setattr(f"{room}.MAX_COLUMNS", 7 * 4)  # b has 72 columns, c 28, fc 24
    monkeypatch.setattr("amc.reconstruction.layer_by_layer.ROW_BYTES", held)
    _, _, narrow = prepared(Plain)
    assert set(narrow.stats) == {"c", "fc"} < set(compressor.stats)
    plan = narrow.plan(halved(graph))
    shrunk, found = amc.shrink(model, plan), compress(narrow, plan, originals(narrow))
    assert torch.equal(narrow.cut(halved(graph)).b.weight, shrunk.b.weight)
    assert output_error(found, model) < output_error(shrunk, model)
    if held > 1:  # else of one batch
        monkeypatch.undo()
        exact = compress(compressor, plan, originals(compressor))
        torch.testing.assert_close(found.b.weight, exact.b.weight, rtol=0.02, atol=0.005)


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.up = nn.Conv2d(2, 6, 3), nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.b = nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.up(F.relu(self.a(x))))).mean((2, 3))


def test_transposed_layers_are_cut_but_not_fitted() -> None:
    model, graph, compressor = prepared(Transposed)
    assert [v.name for v in reconstructed_layers(graph)] == ["b"]
    plan = compressor.plan({"a": 3, "up": 4})
    shrunk, found = amc.shrink(model, plan), compress(compressor, plan, originals(compressor))
    assert torch.equal(found.up.weight, shrunk.up.weight)
    assert output_error(found, model) < output_error(shrunk, model)


@pytest.mark.parametrize("points", [3, 10])
def test_sampled_positions_are_enough_to_reconstruct(points: int) -> None:
    model = network(Plain)
    graph, sampling = amc.trace(model, (IMAGES[:2],)), Sampling(points)
    stats = calibrate(graph, model, BATCHES, sampling)
    assert stats["b"].rows == len(IMAGES) * min(points, 9)
    compressor = Compressor(
        graph, model, stats, partial(selection_of, METRICS["lasso"], Evidence(graph, model, stats))
    )
    plan = compressor.plan({name: size - 2 for name, size in graph.sizes.items()})
    found = compress(compressor, plan, originals(compressor, sampling))
    assert output_error(found, model) < output_error(amc.shrink(model, plan), model)


def test_no_images_are_refused() -> None:
    model = network(Plain)
    with pytest.raises(AmcError, match="calibration: the data yields no images"):
        calibrate(amc.trace(model, (IMAGES[:2],)), model, [], ALL)


@pytest.mark.parametrize("layer", ["a", "b", "fc"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(layer: str, value: float) -> None:
    """Also in the last layer, whose inputs are fine."""
    model = network(Plain)
    graph = amc.trace(model, (IMAGES[:2],))
    with torch.no_grad():
        model.get_submodule(layer).weight[0].fill_(value)
    with pytest.raises(AmcError, match="not finite") as refused:
        calibrate(graph, model, BATCHES, ALL)
    assert "\n" not in str(refused.value)


def test_images_that_are_not_finite_are_refused() -> None:
    model = network(Plain)
    images = IMAGES.clone()
    images[3, 0, 0, 0] = float("nan")
    with pytest.raises(AmcError, match="not finite"):
        calibrate(amc.trace(model, (IMAGES[:2],)), model, [(images, torch.zeros(1))], ALL)
