"""Operators off the beaten track: as much can go as of the same network in plain operators.

Each case is a pair: a network, and one that says the same with convolutions and linear layers.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from one_operator import (
    Net,
    Pair,
    check_cuts,
    images,
    inner,
    least,
    mean,
    pooled,
    unit,
    weight,
)

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
