"""Sizes read off other tensors, branches on shapes, numbers that are no sizes."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import amc
from amc.graph.capture.export import Inputs
from amc.graph.capture.observe import Comparison, observe
from amc.graph.tracing.cuts import uneven, unevenly, usual_counts
from amc.graph.tracing.proof import objection


def unit(inputs: int, outputs: int, kernel: int = 3) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Block(nn.Module):
    """Parts, numbers, and what forward does with them."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def network(*blocks: nn.Module, last: int) -> nn.Module:
    return nn.Sequential(unit(3, 16), *blocks, nn.Conv2d(last, 4, 1)).eval()


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def check(model: nn.Module, graph: amc.ChannelGraph, seeds: int = 8) -> None:
    """Plans of every kind: outputs equal those of the mask, costs what was said."""
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        alike = int(rng.integers(1, 20))
        keep = {}
        for group in graph.decisions:
            least, most = group.bounds
            count = rng.integers(least, most + 1) if seed % 2 else min(max(alike, least), most)
            keep[group.name] = rng.permutation(group.size)[: int(count)]
        plan = graph.plan(keep)
        small, masked, x = amc.shrink(model, plan), amc.mask(model, plan), image()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            found = small(x)
        with torch.no_grad():
            torch.testing.assert_close(found, masked(x), rtol=1e-4, atol=1e-4)
        assert graph.macs(plan) == counter.get_total_flops() // 2 // len(x)
        assert graph.params(plan) == sum(p.numel() for p in small.parameters())


def writers(graph: amc.ChannelGraph) -> Mapping[str, set[str]]:
    return {group.name: set(group.writers) for group in graph.decisions}


# --- sizes read off other tensors


def contextual(c: int) -> nn.Module:
    """Keys and values meet as tokens, sizes are those of the block's input."""

    def run(m: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        key, value = m.key(x), m.value(x).view(b, c, -1)
        weights = m.weigh(torch.cat([key, x], 1)).view(b, c, 4, h, w).mean(2).view(b, c, -1)
        return key + (weights.softmax(-1) * value).view(b, c, h, w)

    weigh = nn.Sequential(nn.Conv2d(2 * c, 6, 1), nn.ReLU(), nn.Conv2d(6, 4 * c, 1))
    return Block(run, key=unit(c, c), value=nn.Conv2d(c, c, 1), weigh=weigh)


def mixing(c: int) -> nn.Module:
    """To tokens and back, beside a shortcut."""

    def run(m: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = m.p(F.gelu(m.q(x.flatten(2).transpose(1, 2))))
        return m.r(y.transpose(1, 2).reshape(b, c, h, w))

    return Block(run, q=nn.Linear(c, c), p=nn.Linear(c, c), r=nn.Conv2d(c, c, 1))


def expanded(c: int) -> nn.Module:
    """A gate, expanded to what the input was."""

    def run(m: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return m.a(x) * m.f(x.mean((2, 3))).sigmoid().view(b, c, 1, 1).expand(b, c, h, w)

    return Block(run, a=unit(c, c), f=nn.Linear(c, c))


def test_layers_of_the_size_of_their_input_are_cut_with_it() -> None:
    model = network(mixing(16), unit(16, 16), last=16)
    graph = amc.trace(model, (image(),))
    assert writers(graph) == {
        "0.0": {"0.0", "1.p"},
        "1.q": {"1.q"},
        "1.r": {"1.r"},
        "2.0": {"2.0"},
    }
    check(model, graph)


def test_blocks_in_a_row_are_joined_each_with_its_own() -> None:
    model = network(mixing(16), mixing(16), mixing(16), last=16)
    graph = amc.trace(model, (image(),))
    assert [set(g.writers) for g in graph.decisions if len(g.writers) > 1] == [
        {"0.0", "1.p"},
        {"1.r", "2.p"},
        {"2.r", "3.p"},
    ]
    check(model, graph)


def test_joined_group_is_one_decision_with_the_members_of_all() -> None:
    model = network(expanded(16), last=16)
    graph = amc.trace(model, (image(),))
    (group,) = [g for g in graph.decisions if "0.0" in g.writers]
    assert set(group.writers) == {"0.0", "1.a.0", "1.f"}
    assert {m.tensor for m in group.members} >= {"0.0.weight", "1.a.1.running_var", "2.weight"}
    plan = graph.plan({group.name: [1, 5, 7]})
    small = amc.shrink(model, plan)
    assert torch.equal(
        small.get_submodule("1.f").weight, model[1].f.weight[[1, 5, 7]][:, [1, 5, 7]]
    )


@pytest.mark.parametrize("make", [contextual, mixing, expanded])
@pytest.mark.parametrize("depth", [1, 3])
def test_cuts_of_joined_groups_are_right(make: Callable[[int], nn.Module], depth: int) -> None:
    model = network(*(make(16) for _ in range(depth)), last=16)
    graph = amc.trace(model, (image(),))
    assert {g.reason for g in graph.groups} <= {"", "network input", "network output"}
    check(model, graph)


@pytest.mark.parametrize("part", [2, 4])
def test_part_of_a_size_is_cut_in_whole_parts(part: int) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return m.out(F.relu(m.into(x)).view(b, c // part, h, w))

    inner = 16 // part
    block = Block(run, into=nn.Conv2d(16, inner, 1), out=nn.Conv2d(inner, 16, 1))
    model = network(block, last=16)
    graph = amc.trace(model, (image(),))
    group = next(g for g in graph.decisions if "1.into" in g.writers)
    assert (group.size, set(group.writers)) == (inner, {"0.0", "1.into"})
    check(model, graph)


def test_one_that_nothing_helps_does_not_hold_the_others_back() -> None:
    def written(m: Any, x: Tensor) -> Tensor:
        return m.a(x).view(len(x), 16, 8, 8)

    model = network(mixing(16), Block(written, a=unit(16, 16)), mixing(16), last=16)
    graph = amc.trace(model, (image(),))
    frozen = {g.name: g.reason for g in graph.groups if g.reason and g.name not in ("input", "4")}
    assert frozen.keys() == {"2.a.0", "3.p"}  # the last block reads its size off the written one
    assert all("written in forward" in reason for reason in frozen.values())
    assert {"0.0", "1.p"} in [set(g.writers) for g in graph.decisions]
    check(model, graph)


def test_any_two_groups_of_a_size_differ_in_one_trial() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), *(nn.Conv2d(4, 4, 1) for _ in range(20))).eval()
    graph = amc.trace(model, (torch.randn(1, 1, 2, 2),))
    trials = [trial(graph) for trial in unevenly(graph)]
    assert len(graph.decisions) == 20 and len(trials) == 4
    codes = {g.name: tuple(trial[g.name] for trial in trials[:-1]) for g in graph.decisions}
    assert len(set(codes.values())) == 20
    assert all(1 <= count < 4 for code in codes.values() for count in code)
    assert all(trial[g.name] in usual_counts(4) for trial in trials for g in graph.decisions)


# --- branches


class Branches(nn.Module):
    def __init__(self, turns: Callable[[Tensor, Tensor], bool]) -> None:
        super().__init__()
        self.a, self.b, self.o = unit(3, 12), unit(12, 9), nn.Conv2d(9, 4, 1)
        self.turns = turns

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        y = self.b(x)
        return self.o(-y if self.turns(x, y) else y)


@pytest.mark.parametrize(
    ("turns", "frozen"),
    {
        "equal shapes": (lambda x, y: x.shape == y.shape, {"a.0"}),
        "equal sizes": (lambda x, y: x.size(1) == y.size(1), {"a.0"}),
        "equal numbers": (lambda x, y: x.numel() == y.numel(), {"a.0"}),
        "a number": (lambda x, y: x.shape[1] == 5, {"a.0"}),
        "one of several": (lambda x, y: y.shape[1] in (2, 4), {"b.0"}),
        "order": (lambda x, y: x.shape[1] < y.shape[1], {"a.0"}),
        "remainder": (lambda x, y: x.shape[1] % 5 == 0, {"a.0"}),
        "truth": (lambda x, y: not y.shape[1] - 2, {"b.0"}),
        "space": (lambda x, y: x.shape[2] == 7 or x.shape[0] > 99, set()),
        "larger than any cut": (lambda x, y: x.shape[1] == 64, set()),
        "its own": (lambda x, y: x.shape[1] != x.size(1), set()),
    }.values(),
)  # fmt: skip
def test_what_may_turn_a_branch_stays_whole(turns: Any, frozen: set[str]) -> None:
    model = Branches(turns).eval()
    graph = amc.trace(model, (image(),))
    found = {g.name: g.reason for g in graph.groups if g.reason and g.writers and g.name != "o"}
    assert found.keys() == frozen
    assert all("test_cuts.py:" in reason for reason in found.values())
    check(model, graph, seeds=16)


def test_plan_that_turns_a_branch_is_objected_to() -> None:
    """Found by executing it, whatever the graph says."""
    model = Branches(lambda x, y: x.shape == y.shape).eval()
    free = amc.trace(Branches(lambda x, y: False).eval(), (image(),))
    inputs = Inputs((image(),))
    unequal = free.plan({"a.0": range(6), "b.0": range(5)})
    assert objection(model, inputs, free, unequal) == ""
    why = objection(model, inputs, free, free.plan({"a.0": range(5), "b.0": range(5)}))
    assert why.startswith("a.0, b.0: ") and "differs from the masked one" in why


# --- numbers that are no sizes


def test_only_what_forward_gives_to_the_operator_follows() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.a(F.interpolate(x, (m.window, m.window)))
        one, other = y[:, : m.part], y[:, m.part :]
        return torch.cat([m.b(one), other], 1) * m.gain

    numbers = {"part": 8, "window": 8, "gain": 8, "classes": 8, "pair": (8, 4)}
    block = Block(run, a=nn.Conv2d(16, 12, 1), b=nn.Conv2d(8, 8, 1), **numbers)
    model = network(block, last=12)
    graph = amc.trace(model, (image(),))
    attributes = {m.tensor for g in graph.groups for m in g.members if m.tensor.startswith("@")}
    assert attributes == {"@1.part"}
    group = next(g for g in graph.decisions if any(m.tensor == "@1.part" for m in g.members))
    held = vars(amc.shrink(model, graph.plan({group.name: [0, 2, 3]}))[1])
    assert held["part"] == 3
    assert {k: v for k, v in numbers.items() if k != "part"}.items() <= held.items()
    check(model, graph)


def test_number_whose_way_is_lost_is_one_that_forward_reads() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        part = int(str(m.part))
        return torch.cat([m.b(m.a(x)[:, :part]), m.a(x)[:, part:]], 1)

    block = Block(run, a=nn.Conv2d(16, 12, 1), b=nn.Conv2d(8, 8, 1), part=8, classes=8)
    model = network(block, last=12)
    graph = amc.trace(model, (image(),))
    attributes = {m.tensor for g in graph.groups for m in g.members if m.tensor.startswith("@")}
    assert attributes == {"@1.part"}
    check(model, graph)


def test_observation_leaves_classes_and_numbers_as_they_were() -> None:
    names = []

    class Registered(nn.Module):
        def __init_subclass__(cls, **rest: Any) -> None:
            names.append(cls.__name__)

    class Half(Registered):
        def __init__(self) -> None:
            super().__init__()
            self.half, self.a = 8, nn.Conv2d(8, 16, 1)

        def forward(self, x: Tensor) -> Any:
            return self.a(x[:, : self.half] * x[:, self.half :])

    model, before = network(Half(), last=16), dict(vars(Half))
    amc.trace(model, (image(),))
    assert names == ["Half"] and type(model[1]) is Half and dict(vars(Half)) == before
    assert type(model[1].half) is int


def test_comparisons_are_noted_by_line_and_execution() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.a(x) if x.shape[1] // 2 == 8 else x

    model = network(Block(run, a=unit(16, 16)), Block(run, a=unit(16, 16)), last=16)
    ((line, calls),) = observe(model, Inputs((image(),))).comparisons.items()
    assert line.startswith("test_cuts.py:")
    assert calls == [[Comparison("eq", 8, 8, computed=True)]] * 2


def test_network_that_bears_no_marked_numbers_is_not_observed() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        assert type(x.shape[1]) is int
        return m.a(x)

    model = network(Block(run, a=unit(16, 16)), last=16)
    assert observe(model, Inputs((image(),))).comparisons == {}
    graph = amc.trace(model, (image(),))
    assert len(graph.decisions) == 2
    assert uneven(graph).keys() == graph.sizes.keys()


def test_a_size_that_passes_by_broadcasting_is_seen() -> None:
    """A single channel fits anything; every group is also tried with more."""

    def gated(m: Any, x: Tensor) -> Tensor:
        out: Tensor = m.same(x) * m.gate(x).sigmoid().repeat(1, x.shape[1], 1, 1)
        return out

    for sizes in ((8, 8, 8, 12, 4), (12, 5), (9, 12, 5), (7, 9, 12, 5)):
        layers: list[nn.Module] = []
        before = 3
        for size in sizes:
            layers.append(unit(before, size))
            before = size
        last = sizes[-1]
        body = Block(gated, same=nn.Conv2d(last, last, 1), gate=nn.Conv2d(last, 1, 1))
        model = nn.Sequential(*layers, body, nn.Flatten(), nn.Linear(last * 64, 3)).eval()
        graph = amc.trace(model, (image(),))
        check(model, graph)
        trials = [trial(graph) for trial in unevenly(graph)]
        for group in graph.decisions:
            assert group.size < 3 or any(kept[group.name] > 1 for kept in trials)
