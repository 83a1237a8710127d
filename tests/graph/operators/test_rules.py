"""Operators off the beaten track: as much can go as of the same network in plain operators.

Each case is a pair: a network, and one that says the same with convolutions and linear layers.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import amc


class Net(nn.Module):
    """Modules and parameters by name, and the forward pass as a function of them."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.run = run

    def forward(self, *inputs: Any) -> Any:
        return self.run(self, *inputs)


def unit(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def inner(run: Callable[..., Any], outputs: int = 8, **parts: Any) -> nn.Module:
    """A unit of eight channels, something unusual, and a convolution that reads it."""
    head = nn.Conv2d(outputs, 4, 1)
    return Net(lambda m, x: m.head(run(m, m.stem(x))), stem=unit(3, 8), head=head, **parts)


def pooled(run: Callable[..., Any], outputs: int, **parts: Any) -> nn.Module:
    """A unit of eight channels, something unusual, and a linear layer that reads it."""
    head = nn.Linear(outputs, 4)
    return Net(lambda m, x: m.head(run(m, m.stem(x))), stem=unit(3, 8), head=head, **parts)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(0.3 * torch.randn(*shape))


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8)


class Pair(NamedTuple):
    """A network, and its twin in plain operators."""

    network: Callable[[], nn.Module]
    twin: Callable[[], nn.Module]


def counted(model: nn.Module, x: Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    assert counter.get_total_flops() % (2 * len(x)) == 0
    return counter.get_total_flops() // (2 * len(x))


def least(graph: amc.ChannelGraph) -> amc.Plan:
    return graph.plan({g.name: range(g.bounds[0]) for g in graph.decisions})


def check_cuts(model: nn.Module, graph: amc.ChannelGraph, x: Tensor, fewest: int = 0) -> None:
    """Groups keep different numbers of channels; a cut is the mask, and costs what was said.

    PyTorch's counter does not see an einsum over a single channel: ``fewest`` 2 keeps more.
    """
    assert graph.macs() == counted(model, x)
    bounds = {g.name: (max(fewest, g.bounds[0]), g.size) for g in graph.decisions}
    plans = [graph.plan({name: range(low) for name, (low, _) in bounds.items()})]
    for seed in range(4):
        rng = np.random.default_rng(seed)
        counts = {n: rng.integers(*both, endpoint=True) for n, both in bounds.items()}
        keep = {g.name: rng.permutation(g.size)[: counts[g.name]] for g in graph.decisions}
        plans.append(graph.plan(keep))
    for plan in plans:
        smaller, masked = amc.shrink(model, plan), amc.mask(model, plan)
        with torch.no_grad():
            found, expected = tree_leaves(smaller(x)), tree_leaves(masked(x))
        for a, b in zip(found, expected, strict=True):
            assert (a - b).abs().max() <= 1e-4 * max(float(b.abs().max()), 1e-3)
        assert graph.macs(plan) == counted(smaller, x)


# --- regions that run under a mode


def under_no_grad(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = m.b(x)
    return x


def nested_autocast(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        x = m.b(x.float())
        with torch.autocast("cuda", enabled=False):
            x = m.c(x)
    return x


def nested_modes(m: Any, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = m.b(x)
        with torch.no_grad():
            y = m.c(x)
        x = x + y
    return x


def written_inside(m: Any, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x += m.b(x)
    return x


MODES: dict[str, Pair] = {
    "no_grad": Pair(
        lambda: inner(under_no_grad, 16, b=unit(8, 16)),
        lambda: inner(lambda m, x: m.b(x), 16, b=unit(8, 16)),
    ),
    "autocast inside autocast": Pair(
        lambda: inner(nested_autocast, 12, b=unit(8, 16), c=unit(16, 12)),
        lambda: inner(lambda m, x: m.c(m.b(x)), 12, b=unit(8, 16), c=unit(16, 12)),
    ),
    "no_grad inside enable_grad": Pair(
        lambda: inner(nested_modes, 16, b=unit(8, 16), c=unit(16, 16)),
        lambda: inner(lambda m, x: (y := m.b(x)) + m.c(y), 16, b=unit(8, 16), c=unit(16, 16)),
    ),
    "written in place inside": Pair(
        lambda: inner(written_inside, b=unit(8, 8)),
        lambda: inner(lambda m, x: x + m.b(x), b=unit(8, 8)),
    ),
}


# --- sums over channels

SUMS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "sum": lambda m, x: x / (x.sum(1, keepdim=True) + 1),
    "root of squares": lambda m, x: x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-6),
    "vector norm": lambda m, x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(0.1),
    "norm, p = 1": lambda m, x: x / (torch.norm(x, p=1, dim=1, keepdim=True) + 0.1),
    "normalize": lambda m, x: F.normalize(x, dim=1),
    "response norm": lambda m, x: (
        x * (g := x.pow(2).sum((2, 3), True).sqrt()) / (g.sum(1, True) + 1)
    ),
    "everything": lambda m, x: x / (x.abs().sum((1, 2, 3), keepdim=True) + 1),
    "gate": lambda m, x: x * torch.sigmoid(x.sum(1, keepdim=True)),
    "dot product": lambda m, x: x / (torch.einsum("bchw,bchw->bhw", x, x)[:, None] + 1),
}


# --- products with parameters

MATRICES: dict[str, Callable[[], nn.Module]] = {
    "@": lambda: pooled(lambda m, x: F.relu(mean(x) @ m.w), 16, w=weight(8, 16)),
    "@ transposed": lambda: pooled(lambda m, x: mean(x) @ m.w.t(), 16, w=weight(16, 8)),
    "T and bias": lambda: pooled(
        lambda m, x: mean(x) @ m.w.T + m.b, 16, w=weight(16, 8), b=weight(16)
    ),
    "F.linear of a transpose": lambda: pooled(
        lambda m, x: F.linear(mean(x), m.w.t(), m.b), 16, w=weight(8, 16), b=weight(16)
    ),
    "addmm": lambda: pooled(
        lambda m, x: torch.addmm(m.b, mean(x), m.w), 16, w=weight(8, 16), b=weight(16)
    ),
    "bmm": lambda: pooled(
        lambda m, x: torch.bmm(mean(x)[:, None], m.w[None].expand(len(x), -1, -1))[:, 0], 16,
        w=weight(8, 16),
    ),
    "einsum": lambda: pooled(
        lambda m, x: torch.einsum("bi,oi->bo", mean(x), m.w), 16, w=weight(16, 8)
    ),
    "tensordot": lambda: pooled(
        lambda m, x: torch.tensordot(mean(x), m.w, dims=([1], [0])), 16, w=weight(8, 16)
    ),
}  # fmt: skip

MAPS: dict[str, Callable[[], nn.Module]] = {
    "matmul, channels last": lambda: inner(
        lambda m, x: (x.permute(0, 2, 3, 1) @ m.w).permute(0, 3, 1, 2), 16, w=weight(8, 16)
    ),
    "weight first": lambda: inner(
        lambda m, x: (m.w @ x.flatten(2)).unflatten(2, x.shape[2:]), 16, w=weight(16, 8)
    ),
    "einsum of maps": lambda: inner(
        lambda m, x: torch.einsum("bchw,cd->bdhw", x, m.w), 16, w=weight(8, 16)
    ),
    "einsum with dots": lambda: inner(
        lambda m, x: torch.einsum("oi,bi...->bo...", m.w, x), 16, w=weight(16, 8)
    ),
    "baddbmm": lambda: inner(
        lambda m, x: (
            torch.baddbmm(m.b, x.flatten(2).mT, m.w.expand(len(x), -1, -1))
            .mT.unflatten(2, x.shape[2:])
        ), 16, w=weight(8, 16), b=weight(16),
    ),
}  # fmt: skip


# --- slices, numbers of forward, writes


def partly_written(m: Any, x: Tensor) -> Tensor:
    x = x.clone()
    n = x.shape[1] // 4
    x[:, :n] = m.b(x[:, :n])
    return x


def written_into_zeros(m: Any, x: Tensor) -> Tensor:
    a, b = m.a(x), m.b(x)
    y = x.new_zeros(len(x), a.shape[1] + b.shape[1], *x.shape[2:])
    y[:, : a.shape[1]] = a
    y[:, a.shape[1] :] = b
    return y


class WrittenByAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.m, self.n = 6, 10
        self.a, self.b = unit(8, 6), unit(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.empty(len(x), self.m + self.n, *x.shape[2:])
        y[:, : self.m].copy_(self.a(x))
        y[:, self.m :] = self.b(x)
        return y


class Padded(nn.Module):
    """Adds the input, with zero channels behind it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.i, self.o, self.c = inputs, outputs, unit(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(x) + F.pad(x, (0, 0, 0, 0, 0, self.o - self.i))


class Recurrent(nn.Module):
    """A convolutional GRU whose first state is zeros of its own width."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = nn.Conv2d(inputs + hidden, 2 * hidden, 3, padding=1)
        self.new = nn.Conv2d(inputs + hidden, hidden, 3, padding=1)

    def start(self, x: Tensor) -> Tensor:
        return torch.zeros(x.size(0), self.hidden, *x.shape[2:])

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        z, r = self.gates(torch.cat([x, h], 1)).sigmoid().chunk(2, 1)
        n = self.new(torch.cat([x, r * h], 1)).tanh()
        return (1 - z) * h + z * n


def halves(m: Any, x: Tensor) -> Tensor:
    c = x.shape[1]
    return torch.cat([m.b(x[:, : c // 2]), x[:, c // 2 :]], 1)


def by_chunk(m: Any, x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.cat([m.b(a), b], 1)


SHAPES: dict[str, Pair] = {
    "halves": Pair(lambda: inner(halves, b=unit(4, 4)), lambda: inner(by_chunk, b=unit(4, 4))),
    "negative half": Pair(
        lambda: inner(lambda m, x: x[:, -(x.shape[1] // 2) :] + x[:, : x.shape[1] // 2], 4),
        lambda: inner(lambda m, x: sum(x.chunk(2, 1)), 4),
    ),
    "narrowed half": Pair(
        lambda: inner(
            lambda m, x: x.narrow(1, 0, (c := x.shape[1] // 2)) * x.narrow(1, c, c).sigmoid(), 4
        ),
        lambda: inner(lambda m, x: (y := x.chunk(2, 1))[0] * y[1].sigmoid(), 4),
    ),
    "every second": Pair(
        lambda: inner(lambda m, x: torch.cat([x[:, ::2], x[:, 1::2]], 1)),
        lambda: inner(lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1)),
    ),
    "a quarter is written": Pair(
        lambda: inner(partly_written, b=unit(2, 2)),
        lambda: inner(
            lambda m, x: torch.cat([m.b((y := x.chunk(4, 1))[0]), *y[1:]], 1), b=unit(2, 2)
        ),
    ),
    "written into zeros": Pair(
        lambda: inner(written_into_zeros, 14, a=unit(8, 6), b=unit(8, 8)),
        lambda: inner(lambda m, x: torch.cat([m.a(x), m.b(x)], 1), 14, a=unit(8, 6), b=unit(8, 8)),
    ),
    "written by attributes": Pair(
        lambda: inner(lambda m, x: m.p(x), 16, p=WrittenByAttribute()),
        lambda: inner(lambda m, x: torch.cat([m.a(x), m.b(x)], 1), 16, a=unit(8, 6),
                      b=unit(8, 10)),
    ),
    "group norm by shape": Pair(
        lambda: inner(lambda m, x: F.group_norm(m.b(x), m.b[0].weight.shape[0] // 4), 16,
                      b=unit(8, 16)),
        lambda: inner(lambda m, x: m.n(m.b(x)), 16, b=unit(8, 16), n=nn.GroupNorm(4, 16)),
    ),
}  # fmt: skip


# --- space


def flow(m: Any, x: Tensor) -> Tensor:
    return F.grid_sample(x, m.grid.expand(len(x), -1, -1, -1), align_corners=False)


def indexed_pooling(m: Any, x: Tensor) -> Tensor:
    y, where = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(m.b(y), where, 2)


def plain_pooling(m: Any, x: Tensor) -> Tensor:
    return F.interpolate(m.b(y := F.max_pool2d(x, 2)) + y, scale_factor=2)


def involution(m: Any, x: Tensor) -> Tensor:
    patches = F.unfold(x, 3, padding=1).unflatten(1, (-1, 9)).unflatten(3, x.shape[2:])
    return (patches * m.k(x).softmax(1)[:, None]).sum(2)


def spectral(m: Any, x: Tensor) -> Tensor:
    z = torch.fft.rfft2(x)
    return torch.fft.irfft2(torch.complex(m.c(z.real), m.c(z.imag)), s=x.shape[2:])


def written_in_space(m: Any, x: Tensor) -> Tensor:
    x = x * 1
    x[:, :, 0] = 0
    x[..., -1] *= 2
    x[x > 1] = 1
    return x


SPACE: dict[str, Pair] = {
    "grid_sample": Pair(
        lambda: inner(flow, grid=2 * torch.rand(1, 8, 8, 2) - 1), lambda: inner(lambda m, x: x)
    ),
    "max_unpool": Pair(
        lambda: inner(indexed_pooling, b=unit(8, 8)), lambda: inner(plain_pooling, b=unit(8, 8))
    ),
    "unfold and fold": Pair(
        lambda: inner(lambda m, x: F.fold(F.unfold(x, 2, stride=2), x.shape[2:], 2, stride=2)),
        lambda: inner(lambda m, x: x),
    ),
    "windows": Pair(
        lambda: inner(lambda m, x: x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))),
        lambda: inner(lambda m, x: F.max_pool2d(x, 2)),
    ),
    "involution": Pair(
        lambda: inner(involution, k=nn.Conv2d(8, 9, 1)),
        lambda: inner(lambda m, x: x * m.k(x).softmax(1)[:, :1], k=nn.Conv2d(8, 9, 1)),
    ),
    "global filter": Pair(
        lambda: inner(
            lambda m, x: torch.fft.irfft2(torch.fft.rfft2(x) * m.f, s=x.shape[2:]),
            f=torch.rand(8, 5),
        ),
        lambda: inner(lambda m, x: x),
    ),
    "spectral convolution": Pair(
        lambda: inner(spectral, c=nn.Conv2d(8, 8, 1)),
        lambda: inner(
            lambda m, x: m.c(x[..., :5]) + m.c(x[..., 3:]) if x.shape[3] == 8 else x,
            c=nn.Conv2d(8, 8, 1),
        ),
    ),
    "written in space": Pair(lambda: inner(written_in_space), lambda: inner(lambda m, x: x)),
    "shared blur": Pair(
        lambda: inner(
            lambda m, x: F.conv2d(x, m.k.expand(x.shape[1], -1, -1, -1), groups=x.shape[1]),
            k=torch.rand(1, 1, 3, 3),
        ),
        lambda: inner(lambda m, x: m.k(x), k=nn.Conv2d(8, 8, 3, groups=8, bias=False)),
    ),
    "repeated blur of a constant": Pair(
        lambda: inner(
            lambda m, x: F.conv2d(x, torch.ones(x.shape[1], 1, 3, 3) / 9, groups=x.shape[1])
        ),
        lambda: inner(lambda m, x: m.k(x), k=nn.Conv2d(8, 8, 3, groups=8, bias=False)),
    ),
}


ALL: dict[str, Pair] = {
    **MODES,
    **SHAPES,
    **{
        name: Pair(lambda run=run: inner(run), lambda: inner(lambda m, x: x))  # type: ignore[misc]
        for name, run in SUMS.items()
    },
    **{
        name: Pair(
            network, lambda: pooled(lambda m, x: m.l(mean(x)), 16, l=nn.Linear(8, 16, bias=False))
        )
        for name, network in MATRICES.items()
    },
    **{
        name: Pair(network, lambda: inner(lambda m, x: m.l(x), 16, l=nn.Conv2d(8, 16, 1)))
        for name, network in MAPS.items()
    },
    **SPACE,
}


@pytest.mark.parametrize("name", ALL)
def test_as_much_can_go_as_of_the_twin_in_plain_operators(name: str) -> None:
    torch.manual_seed(0)
    x, pair = images(), ALL[name]
    model, twin = pair.network().eval(), pair.twin().eval()
    graph, plain = amc.trace(model, (x,)), amc.trace(twin, (x,))
    shares = [1 - g.macs(least(g)) / g.macs() for g in (graph, plain)]
    sizes = [sorted(g.sizes.values()) for g in (graph, plain)]
    if graph.macs() == plain.macs():
        assert shares[0] == shares[1]
    else:  # an operator in between costs something
        assert sizes[0] == sizes[1]
    check_cuts(model, graph, x, fewest=2 if EINSUM.search(name) else 0)


EINSUM = re.compile("einsum|dot product")


# --- what has no twin: hand-counted


STEM, HEAD = 3 * 9 * 64, 4 * 64
"""MACs of a channel of `inner`'s first convolution, and of its last one."""


def test_zero_state_is_as_wide_as_what_becomes_of_it() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        h = m.cell.start(x)
        for _ in range(3):
            h = m.cell(x, h)
        return h  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model, x = inner(run, 6, cell=Recurrent(8, 6)).eval(), images()
    graph = amc.trace(model, (x,))
    assert sorted(graph.sizes.values()) == [6, 8]
    assert graph.macs(least(graph)) == STEM + 3 * (2 * 2 + 2) * 9 * 64 + HEAD
    check_cuts(model, graph, x)
    smaller = amc.shrink(model, least(graph))
    assert smaller.cell.hidden == 1 and model.cell.hidden == 6


def test_padded_channels_may_all_go() -> None:
    torch.manual_seed(0)
    model, x = inner(lambda m, x: m.p(x), 20, p=Padded(8, 20)).eval(), images()
    graph = amc.trace(model, (x,))
    assert {g.size: g.bounds[0] for g in graph.decisions} == {8: 1, 12: 0}
    assert graph.macs(least(graph)) == STEM + 9 * 64 + HEAD
    check_cuts(model, graph, x)
    smaller = amc.shrink(model, least(graph))
    assert (smaller.p.i, smaller.p.o) == (1, 1)


RECURRENT: Mapping[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(8, 6, 2, batch_first=True),
    "gru": lambda: nn.GRU(8, 6, batch_first=True),
    "rnn": lambda: nn.RNN(8, 6, batch_first=True),
    "both ways": lambda: nn.GRU(8, 3, bidirectional=True, batch_first=True),
    "projected": lambda: nn.LSTM(8, 9, proj_size=6, batch_first=True),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_inputs_of_a_recurrent_layer_go_and_its_state_stays(name: str) -> None:
    torch.manual_seed(0)
    layer, x = RECURRENT[name](), images()
    model = pooled(lambda m, x: m.r(x.flatten(2).mT)[0].mean(1), 6, r=layer).eval()
    graph = amc.trace(model, (x,))
    assert graph.sizes == {"stem.0": 8}
    assert next(r for g in graph.decisions for r in g.readers).startswith("r.weight_ih_l0")
    check_cuts(model, graph, x)
    smaller = amc.shrink(model, graph.plan({"stem.0": [1, 5, 6]}))
    assert smaller.r.input_size == 3 and smaller.r.hidden_size == layer.hidden_size


def test_embedding_goes_with_what_it_meets() -> None:
    torch.manual_seed(0)
    model = Net(
        lambda m, t: m.o(F.relu(m.c((m.e(t) + m.p(torch.arange(12))).mT)).amax(2)),
        e=nn.Embedding(20, 16), p=nn.Embedding(12, 16), c=nn.Conv1d(16, 24, 3), o=nn.Linear(24, 3),
    ).eval()  # fmt: skip
    tokens = torch.randint(0, 20, (2, 12))
    graph = amc.trace(model, (tokens,))
    assert graph.sizes == {"e": 16, "c": 24}
    check_cuts(model, graph, tokens)
    smaller = amc.shrink(model, graph.plan({"e": [0, 3, 4]}))
    assert smaller.e.embedding_dim == smaller.p.embedding_dim == 3


# --- attention


def by_hand(m: Any, x: Tensor) -> Tensor:
    q, k, v = (layer(x).flatten(2) for layer in (m.q, m.k, m.v))
    weights = (0.3 * q.mT @ k).softmax(-1)
    return x + (v @ weights.mT).unflatten(2, x.shape[2:])


def by_einsum(m: Any, x: Tensor) -> Tensor:
    q, k, v = (layer(x).flatten(2) for layer in (m.q, m.k, m.v))
    weights = torch.einsum("bcn,bcm->bnm", q, k).mul(0.3).softmax(-1)
    return x + torch.einsum("bnm,bcm->bcn", weights, v).unflatten(2, x.shape[2:])


def fused(m: Any, x: Tensor) -> Tensor:
    q, k, v = (layer(x).flatten(2).mT.unflatten(2, (2, -1)) for layer in (m.q, m.k, m.v))
    y = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
    return y.transpose(1, 2).flatten(2).mT.unflatten(2, x.shape[2:])


@pytest.mark.parametrize("run", [by_hand, by_einsum, fused])
def test_products_of_attention_cost_what_pytorch_counts(run: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    width = 8 if run is fused else 4
    model = inner(
        run, q=nn.Conv2d(8, width, 1), k=nn.Conv2d(8, width, 1), v=nn.Conv2d(8, 8, 1)
    ).eval()
    graph = amc.trace(model, (x := images(),))
    if run is not fused:
        assert graph.sizes == {"stem.0": 8, "q": 4}
        assert graph.macs() - graph.macs(graph.plan({"q": [2]})) == 3 * (2 * 8 * 64 + 64 * 64)
        found = amc.random_plan(graph, 0.5)
        assert 0.3 * graph.macs() < graph.macs(found) <= 0.5 * graph.macs()
    check_cuts(model, graph, x, fewest=2 if run is by_einsum else 0)


# --- weights that are computed


class ScaledStdConv(nn.Conv2d):
    """Of normaliser-free networks (Brock et al. 2021)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, **options: Any) -> None:
        super().__init__(inputs, outputs, kernel, **options)
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))
        self.scale = self.weight[0].numel() ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        scale = (self.gain * self.scale).view(-1)
        weight = F.batch_norm(flat, None, None, scale, training=True, momentum=0.0, eps=1e-6)
        weight = weight.reshape_as(self.weight)
        return F.conv2d(
            x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class FreeBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, make: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.a, self.b = (
            make(inputs, outputs // 2, 1),
            make(outputs // 2, outputs // 2, 3, padding=1),
        )
        self.c, self.skip = make(outputs // 2, outputs, 1), make(inputs, outputs, 1)
        self.gain = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(x) * 0.9
        y = self.c(F.silu(self.b(F.silu(self.a(x)))))
        y.mul_(self.gain)
        return y * 0.2 + self.skip(x)


def normaliser_free(make: Callable[..., nn.Module]) -> nn.Module:
    return nn.Sequential(
        make(3, 8, 3, padding=1), FreeBlock(8, 16, make), FreeBlock(16, 24, make),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4),
    )  # fmt: skip


def test_normaliser_free_network_says_what_helps_and_is_cut_once_baked() -> None:
    torch.manual_seed(0)
    model, x = normaliser_free(ScaledStdConv).eval(), images()
    reasons = [g.reason for g in amc.trace(model, (x,)).groups]
    assert any("amc.bake makes it a plain layer" in reason for reason in reasons)
    baked = amc.bake(model, (x,))
    graph, plain = amc.trace(baked, (x,)), amc.trace(normaliser_free(nn.Conv2d).eval(), (x,))
    assert graph.sizes == plain.sizes
    assert graph.macs(least(graph)) == plain.macs(least(plain))
    check_cuts(baked, graph, x)


def test_network_of_computed_weights_has_a_table_with_the_reason() -> None:
    layers = (nn.Conv1d(4, 16, 3), nn.ReLU(), nn.Conv1d(16, 2, 1))
    model = nn.Sequential(
        *(parametrizations.weight_norm(m) if isinstance(m, nn.Conv1d) else m for m in layers)
    )
    graph = amc.trace(model, (torch.randn(2, 4, 9),))
    assert [(g.name, g.size) for g in graph.groups] == [("0", 16), ("2", 2)]
    with pytest.raises(amc.AmcError, match=r"computed in forward; amc\.bake makes it a plain"):
        amc.random_plan(graph, 0.5)


# --- what masks and cuts do differently stays whole, for a true reason

DIFFERENT: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "mean": (lambda m, x: x / (x.mean(1, keepdim=True) + 1), "mean mixes channels"),
    "removed channels are not zero": (
        lambda m, x: (y := x.sigmoid()) / y.sum(1, keepdim=True), "sum mixes channels"
    ),
    "softmax": (lambda m, x: x.softmax(1), "softmax mixes channels"),
    "largest": (lambda m, x: x - x.amax(1, keepdim=True), "amax mixes channels"),
    "scale by the number of channels": (
        lambda m, x: x * (torch.einsum("bchw,bchw->bhw", x, x) / x.shape[1] ** 0.5)[:, None],
        "einsum mixes channels",
    ),
    "groups of half the channels": (
        lambda m, x: F.group_norm(x, 2), "group_norm has a number of groups"
    ),
    "written positions": (
        lambda m, x: torch.cat([x[:, :4] * 2, x[:, 4:]], 1), "slice takes channels at positions"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_a_cut_would_change_is_frozen(what: str) -> None:
    torch.manual_seed(0)
    run, reason = DIFFERENT[what]
    graph = amc.trace(inner(run).eval(), (images(),))
    assert graph.sizes == {}
    assert reason in next(g.reason for g in graph.groups if g.name == "stem.0")


# --- layers that only training executes


class Deep(nn.Module):
    """A trunk with a head that is always there, and one that only training has."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = unit(3, 16), unit(16, 16), unit(16, 12, 3, 2)
        self.head, self.always = nn.Linear(12, 5), always
        self.aux = nn.Sequential(unit(16, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.out = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        keep = x.new_empty(len(x), 1, 1, 1).bernoulli_(0.8) if self.training else 1
        x = x + self.b(x) * keep
        y = self.head(self.c(x).mean((2, 3)))
        if self.training or self.always:
            return y, self.out(F.dropout(self.aux(x), 0.2, self.training))
        return y


def test_layers_that_only_training_executes_follow_the_trunk() -> None:
    torch.manual_seed(0)
    model, x = Deep(always=False), images()
    graph = amc.trace(model, (x,))
    assert graph.sizes == {"a.0": 16, "c.0": 12}
    reasons = {g.name: g.reason for g in graph.groups}
    assert "only training executes it" in reasons.values()
    check_cuts(model.eval(), graph, x)
    smaller = amc.shrink(model, graph.plan({"a.0": [0, 3, 7]})).train()
    assert smaller.aux[0][0].in_channels == 3
    assert [tuple(y.shape) for y in smaller(x)] == [(2, 5), (2, 5)]


class Along(nn.Module):
    """A residual branch under a gate that a convolution along its channels computes."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.shortcut, self.head = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)
        self.along = conv

    def forward(self, x: Tensor) -> Tensor:
        """Images to four maps."""
        x = torch.relu(self.stem(x))
        y = self.body(x)
        gate = torch.sigmoid(self.along(y.mean((2, 3)).unsqueeze(1))).transpose(1, 2)
        y = y * gate.unsqueeze(3)
        y += self.shortcut(x)
        return self.head(torch.relu(y))


@pytest.mark.parametrize("conv", [nn.Conv1d(1, 1, 3, padding=1), nn.Conv1d(1, 1, 1)])
def test_what_is_added_to_channels_that_are_read_along_stays_for_their_reason(
    conv: nn.Module,
) -> None:
    graph = amc.trace(Along(conv).eval(), (torch.randn(2, 3, 8, 8),))
    whole = {m.tensor: g.reason for g in graph.groups if not g.prunable for m in g.members}
    assert whole["shortcut.weight"] == whole["body.weight"]
    assert "along another dimension" in whole["shortcut.weight"]
    assert [g.name for g in graph.decisions] == ["stem"]
