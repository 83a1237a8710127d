"""What the user excludes, includes and bounds, against networks drawn by hand."""

import re
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import amc
from amc.allocators.uniform import common_ratio
from amc.graph.restrict import users_target
from amc.models.catalog import build
from amc.objectives.budget import Budget
from amc.runtime.errors import AmcError


class Blocks(nn.Module):
    """stem -> residual block (a, b) -> strided projection -> depthwise -> head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = nn.ModuleDict(
            {"a": nn.Conv2d(8, 6, 3, padding=1), "b": nn.Conv2d(6, 8, 3, padding=1)}
        )
        self.down = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.grouped = nn.Conv2d(12, 8, 1, groups=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block["b"](torch.relu(self.block["a"](x)))
        x = self.grouped(self.depthwise(self.down(x)))
        return self.head(x.mean((2, 3)))


def graph(**choice: Any) -> amc.ChannelGraph:
    model = Blocks().eval()
    traced = amc.trace(model, (torch.randn(2, 3, 8, 8),))
    return amc.restrict(traced, model, amc.Restrictions(**choice))


def left(**choice: Any) -> set[str]:
    return set(graph(**choice).sizes)


ALL = {"stem", "block.a", "down", "grouped"}


def test_nothing_said_leaves_all_groups_as_they_are() -> None:
    assert left() == ALL
    assert all(g.bounds == (1, g.size) for g in graph().decisions)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"exclude": ("block.a",)}, ALL - {"block.a"}),
        ({"exclude": ("block.*",)}, ALL - {"block.a", "stem"}),  # b writes the stem's channels
        ({"exclude": ("block.b",)}, ALL - {"stem"}),
        ({"exclude": ("depthwise",)}, ALL - {"down"}),  # a name and a kind
        ({"exclude": ("Conv2d",)}, set()),
        ({"exclude": ("Linear",)}, ALL),
        ({"include": ("block.a", "grouped")}, {"block.a", "grouped"}),
        ({"include": ("stem",)}, set()),  # coupled to block.b, which is not named
        ({"include": ("stem", "block.b")}, {"stem"}),
        ({"include": ("conv2d", "depthwise"), "exclude": ("down",)}, ALL - {"down"}),
        ({"prune_first_conv": False}, ALL - {"stem"}),
        ({"prune_downsample": False}, ALL - {"down"}),
        ({"prune_residual": False}, ALL - {"stem"}),
    ],
)
def test_restrictions_freeze_the_groups_they_name(
    choice: dict[str, Any], expected: set[str]
) -> None:
    assert left(**choice) == expected


def test_reasons_name_the_layer() -> None:
    reasons = {g.name: g.reason for g in graph(exclude=("block.b",)).groups}
    assert reasons["stem"] == "excluded (block.b)"
    reasons = {g.name: g.reason for g in graph(include=("grouped",)).groups}
    assert reasons["block.a"] == "not included (block.a)"
    assert {g.reason for g in graph(prune_residual=False).groups} >= {"residual stream"}


def test_residual_streams_of_a_resnet_are_its_stages() -> None:
    model = build("resnet20", num_classes=10, in_channels=1).eval()
    traced = amc.trace(model, (torch.randn(1, 1, 8, 8),))
    streams = [g for g in traced.groups if g.residual]
    assert [g.size for g in streams] == [16, 32, 64]
    inside = amc.restrict(traced, model, amc.Restrictions(prune_residual=False))
    assert len(inside.decisions) == 9 == len(traced.decisions) - 3


def test_squeeze_excite_and_added_parameters_are_no_residual_stream() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.gate = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
            self.shift, self.head = nn.Parameter(torch.ones(1, 8, 1, 1)), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x) + self.shift
            return self.head(x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True))))

    traced = amc.trace(Gated(), (torch.randn(1, 3, 8, 8),))
    assert traced.sizes == {"stem": 8}
    assert not any(g.residual for g in traced.groups)


def test_bounds_are_channels_of_the_layer_they_name() -> None:
    chosen = graph(
        min_channels={"stem": 3, "grouped": 5}, max_channels={"*": 6, "grouped": 6, "down": 7}
    )
    bounds = {g.name: g.bounds for g in chosen.decisions}
    assert bounds["stem"] == (3, 6)
    # pairs, one channel of each group: 12 and 8 channels are 6 and 4 decisions
    assert {g.name: g.width for g in chosen.decisions} == {
        "stem": 1, "block.a": 1, "down": 2, "grouped": 2
    }  # fmt: skip
    assert bounds["down"] == (1, 3)
    assert bounds["grouped"] == (3, 3)


def test_every_strategy_keeps_to_the_bounds() -> None:
    chosen = graph(min_channels={"block.a": 4}, max_channels={"stem": 6})
    budget = Budget(chosen, 0.6)
    for seed in range(20):
        counts = amc.random_plan(chosen, 0.6, seed).strategy
        assert counts.get("block.a", 6) >= 4
        assert counts["stem"] <= 6
        assert budget.allows(counts)
    assert common_ratio(chosen, 0.1)["block.a"] == 4
    assert common_ratio(chosen, 1.0)["stem"] == 6


def test_budget_below_the_bounds_is_refused_with_the_nearest() -> None:
    with pytest.raises(amc.InfeasibleBudgetError) as caught:
        Budget(graph(min_channels={"*": 5}), 0.2)
    nearest = float(re.findall(r"nearest feasible value is ([\d.]+)", str(caught.value))[0])
    Budget(graph(min_channels={"*": 5}), nearest)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"exclude": ("blok.a",)}, r"'blok\.a' matches no layer; did you mean 'block\.a'\?"),
        ({"include": ("LSTM",)}, r"'LSTM' matches no layer.*Types here: Conv2d, Linear"),
        ({"min_channels": {"stem": 9}}, r"--min-channels stem: expected 1 to 8 channels, got 9"),
        ({"max_channels": {"stem": 0}}, r"--max-channels stem: expected 1 to 8 channels, got 0"),
        (
            {"min_channels": {"stem": 5}, "max_channels": {"block.b": 4}},
            r"stem, block\.b: --min-channels asks for 5 or more, --max-channels for 4 or fewer",
        ),
    ],
)
def test_impossible_choices_are_refused_in_one_line(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(amc.AmcError, match=message) as caught:
        graph(**choice)
    assert "\n" not in str(caught.value)


def test_regular_expressions_are_looked_for_in_names_and_scopes() -> None:
    model = nn.Sequential(
        OrderedDict(
            a=nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()),
            b=nn.Conv2d(8, 8, 3),
            c=nn.Conv2d(8, 4, 3),
        )
    )
    graph = amc.trace(model, (torch.zeros(1, 3, 9, 9),))
    for pattern, left in (
        (r"{re}^a\.", {"b"}),
        ("{re}^[ab]$", {"a.0"}),
        (r"{re}Sequential/Sequential\[a\]/NNCFConv2d\[0\]/conv2d_0$", {"b"}),
        ("{re}NNCFConv2d", set()),
    ):
        assert set(amc.restrict(graph, model, amc.Restrictions(exclude=(pattern,))).sizes) == left
    with pytest.raises(
        amc.AmcError, match=r"'\{re\}x' matches no layer.* Types here: Conv2d, conv"
    ):
        amc.restrict(graph, model, amc.Restrictions(include=("{re}x",)))
    with pytest.raises(amc.AmcError, match="no regular expression"):
        amc.restrict(graph, model, amc.Restrictions(include=("{re}(",)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph: None, "must return a graph, got NoneType"),
        (lambda graph: 1 / 0, "division by zero"),
        (lambda graph: replace(graph, groups=graph.groups[1:]), "other groups or layers"),
        (
            lambda graph: replace(
                graph, groups=tuple(replace(g, reason="") for g in graph.groups)
            ),
            "the network allows",
        ),
        (
            lambda graph: replace(
                graph, groups=tuple(replace(g, least=9, most=3) for g in graph.groups)
            ),
            "may keep 9 to 3 channels",
        ),
    ],
)
def test_a_target_of_ones_own_may_only_narrow(change: Any, message: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    graph = amc.trace(model, (torch.zeros(1, 3, 8, 8),))
    with pytest.raises(AmcError, match=message):
        users_target("mine:own", change, graph)
    assert not users_target("mine:own", lambda g: g.freeze({"0": "mine"}), graph).sizes
    with pytest.raises(
        AmcError, match="allowed: channels, heads, weights, blocks, module:function"
    ):
        amc.Restrictions(target="filters")


def with_heads() -> amc.ChannelGraph:
    """The graph of `Blocks`, in which the inside of the block is said to be attention heads."""
    found = graph()
    groups = tuple(replace(g, unit="head") if g.name == "block.a" else g for g in found.groups)
    return replace(found, groups=groups)


@pytest.mark.parametrize(
    ("target", "expected", "reasons"),
    [
        ("channels", ALL - {"block.a"}, {"attention heads (--target channels,heads cuts them)"}),
        ("heads", {"block.a"}, {"channels (--target channels,heads cuts them)"}),
        ("channels,heads", ALL, set()),
        ("heads, channels", ALL, set()),
        (
            "channels,weights",
            ALL - {"block.a"},
            {"attention heads (--target channels,heads,weights cuts them)"},
        ),
        (
            "blocks",
            set(),
            {
                "attention heads (--target heads,blocks cuts them)",
                "channels (--target channels,blocks cuts them)",
            },
        ),
    ],
)
def test_a_target_frees_its_own_units(target: str, expected: set[str], reasons: set[str]) -> None:
    found = amc.restrict(with_heads(), Blocks(), amc.Restrictions(target=target))
    assert set(found.sizes) == expected
    named = {g.reason for g in found.groups} - {g.reason for g in graph().groups}
    assert named == reasons


def test_a_function_narrows_what_the_names_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []

    def own(given: amc.ChannelGraph) -> amc.ChannelGraph:
        seen.append(set(given.sizes))
        return given

    monkeypatch.setattr("amc.graph.restrict.load_function", lambda name: own)
    for target in ("mine:own", "heads,mine:own", "mine:own,channels,heads"):
        amc.restrict(with_heads(), Blocks(), amc.Restrictions(target=target))
    assert seen == [ALL, {"block.a"}, ALL]
    both = amc.Restrictions(target="mine:own,heads,weights")
    assert both.targets == ("heads", "weights") and both.function == "mine:own"


@pytest.mark.parametrize("target", ["heads,heads", "weights,blocks", "a:b,c:d"])
def test_words_of_a_target_that_exclude_each_other(target: str) -> None:
    with pytest.raises(AmcError, match=f"--target {target}: give each word once"):
        amc.Restrictions(target=target)


@pytest.mark.parametrize("target", ["head", "channels,head", ""])
def test_an_unknown_target(target: str) -> None:
    with pytest.raises(AmcError, match="is unknown; allowed: channels, heads, weights, blocks"):
        amc.Restrictions(target=target)


def test_heads_alone_where_there_are_none() -> None:
    with pytest.raises(AmcError, match=r"^--target heads: no attention heads can go; python"):
        graph(target="heads")
    with pytest.raises(AmcError, match=r"go: block.a: excluded \(block.a\)$"):
        amc.restrict(
            with_heads(), Blocks(), amc.Restrictions(target="heads", exclude=("block.a",))
        )
