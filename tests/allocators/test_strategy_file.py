"""Allocations that need no search: one ratio, a list."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import amc
from amc.allocators.strategy_file import read_strategy
from amc.allocators.uniform import common_ratio
from amc.graph.plan_files import save_strategy


class Coupled(nn.Module):
    """A residual block: stem and b share their channels; a depthwise layer; a frozen part."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 10, 1), nn.Conv2d(10, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.late, self.norm = nn.Conv2d(8, 12, 1), nn.GroupNorm(1, 12)
        self.head = nn.Conv2d(12, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.depthwise(x + self.b(torch.relu(self.a(x))))
        return self.head(self.norm(self.late(x)))


@pytest.fixture(scope="module")
def graph() -> amc.ChannelGraph:
    torch.manual_seed(0)
    return amc.trace(Coupled(), (torch.randn(2, 3, 4, 4),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "strategy.json"


def given(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_network_of_these_tests_has_two_decisions(graph: amc.ChannelGraph) -> None:
    assert graph.sizes == {"stem": 8, "a": 10}


# --- one ratio


@pytest.mark.parametrize(
    ("ratio", "multiple", "expected"),
    [
        (0.5, 1, {"stem": 4, "a": 5}),
        (0.3, 1, {"stem": 2, "a": 3}),  # 2.4 and 3.0
        (0.01, 1, {"stem": 1, "a": 1}),
        (1.0, 1, {"stem": 8, "a": 10}),
        (0.5, 4, {"stem": 4, "a": 4}),
        (0.95, 4, {"stem": 8, "a": 10}),
        (0.1, 8, {"stem": 8, "a": 8}),
    ],
)
def test_common_ratio_is_of_every_group(
    graph: amc.ChannelGraph, ratio: float, multiple: int, expected: dict[str, int]
) -> None:
    assert common_ratio(graph, ratio, multiple) == expected


# --- a list as JSON


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"a": 0.5}, {"stem": 8, "a": 5}),
        ({"stem": 0.25, "a": 0.3}, {"stem": 2, "a": 3}),
        ({"stem": 3, "a": 7}, {"stem": 3, "a": 7}),
        ({"a": 1}, {"stem": 8, "a": 10}),  # a ratio: one channel is written {"channels": 1}
        ({"a": 1.0}, {"stem": 8, "a": 10}),
        ({"a": {"channels": 1}}, {"stem": 8, "a": 1}),
        ({"a": {"channels": 4, "of": 10}}, {"stem": 8, "a": 4}),
        ({"a": {"ratio": 0.4}}, {"stem": 8, "a": 4}),
        ({"a": 0.001}, {"stem": 8, "a": 1}),  # never nothing
        ({"b": 0.5}, {"stem": 4, "a": 10}),  # a member stands for its group
        ({"stem": 0.5, "b": 4, "depthwise": 0.5}, {"stem": 4, "a": 10}),
        ({"late": 1.0, "head": 1.0}, {"stem": 8, "a": 10}),  # frozen, but kept
        ({"late": 12, "a": 2}, {"stem": 8, "a": 2}),
        ({}, {"stem": 8, "a": 10}),
        ({"layers": {"a": 3}}, {"stem": 8, "a": 3}),
    ],
)
def test_json_list_is_read(
    graph: amc.ChannelGraph, path: Path, content: Any, expected: dict[str, int]
) -> None:
    assert read_strategy(graph, given(path, content)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"stem": 4, "b": 5}, "b and stem share their channels and must keep the same number"),
        ({"stem": 4, "depthwise": 1.0}, "depthwise and stem share their channels"),
        ({"late": 0.5}, "late must keep all channels: group_norm normalises over all channels"),
        ({"head": 0.5}, "head must keep all channels: network output"),
        ({"stm": 0.5}, "unknown layer 'stm'; did you mean 'stem'?"),
        ({"xyzzy": 0.5}, "unknown layer 'xyzzy'; layers are stem, a, b"),
        ({"a": 0}, "a: expected a ratio in (0, 1] or 2 to 10 channels, got 0"),
        ({"a": 11}, "got 11"),
        ({"a": -0.5}, "got -0.5"),
        ({"a": 1.5}, "got 1.5"),
        ({"a": True}, "expected a ratio or a number of channels, got True"),
        ({"a": "half"}, "got 'half'"),
        ({"a": None}, "got None"),
        ({"a": [0.5]}, "got [0.5]"),
        ({"a": {}}, "got None"),
        ({"a": {"channels": 0}}, "got 0"),
        ({"a": {"channels": 11}}, "got 11"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": Infinity}', "Infinity is no number"),
        ('{"a": 1' + "0" * 400 + "}", "(401 digits)"),
        ([0.5, 0.5], "expected {layer: ratio}, got list"),
        ("0.5, 0.5", "not a JSON file"),
        ("", "not a JSON file"),
    ],
)
def test_wrong_json_list_is_refused(
    graph: amc.ChannelGraph, path: Path, content: Any, message: str
) -> None:
    with pytest.raises(amc.AmcError) as caught:
        read_strategy(graph, given(path, content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_list_is_named(graph: amc.ChannelGraph, tmp_path: Path) -> None:
    for name in ("gone.json", "gone.txt"):
        with pytest.raises(amc.AmcError, match=rf"--strategy .*{name}: no such file"):
            read_strategy(graph, tmp_path / name)


def test_strategy_of_a_run_is_read(graph: amc.ChannelGraph, path: Path) -> None:
    save_strategy(path, {"stem": 1, "a": 3}, graph.channels, {"model": "coupled"})
    assert read_strategy(graph, path) == {"stem": 1, "a": 3}


# --- a list of ratios


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5, 0.3", {"stem": 4, "a": 3}),  # one per group
        ("0.5\n0.3\n", {"stem": 4, "a": 3}),
        ("0.5,0.3,", {"stem": 4, "a": 3}),
        ("1,1", {"stem": 8, "a": 10}),
        # one per layer without depthwise ones; late and head cannot be pruned and do not count
        ("0.5, 0.3, 0.5, 0.2, 0.1", {"stem": 4, "a": 3}),
        ("0.25,1,0.25,1,1", {"stem": 2, "a": 10}),
    ],
)
def test_comma_separated_ratios_are_read(
    graph: amc.ChannelGraph, tmp_path: Path, text: str, expected: dict[str, int]
) -> None:
    assert read_strategy(graph, given(tmp_path / "ratios.txt", text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.5", "1 ratios given, expected 2 (one per group: stem, a) or 5 (one per layer)"),
        ("0.5, 0.5, 0.5", "3 ratios given, expected 2"),
        ("", "0 ratios given"),
        ("0.5; 0.5", "expected comma-separated ratios"),
        ("half, half", "expected comma-separated ratios"),
        ("0.5, 1.5", "a: expected a ratio in (0, 1]"),
        ("0.5, 4", "a: expected a ratio in (0, 1]"),  # counts are for JSON
        ("0.5, nan", "a: expected a ratio"),
        ("0, 0.5", "stem: expected a ratio in (0, 1]"),
        ("0.5, 0.5, 0.75, 1, 1", "b and stem share their channels"),
    ],
)
def test_wrong_ratios_are_refused(
    graph: amc.ChannelGraph, tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(amc.AmcError) as caught:
        read_strategy(graph, given(tmp_path / "ratios.txt", text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_binary_list_is_refused(graph: amc.ChannelGraph, tmp_path: Path) -> None:
    for name in ("list.json", "list.txt"):
        (tmp_path / name).write_bytes(bytes(range(256)))
        with pytest.raises(amc.AmcError, match=rf"{name}: "):
            read_strategy(graph, tmp_path / name)


def test_channels_that_go_together_are_counted_as_channels(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.GroupNorm(4, 12), nn.Conv2d(12, 8, 1), nn.Conv2d(8, 2, 1)
    )
    graph = amc.trace(model, (torch.randn(1, 3, 8, 8),))
    assert graph.channels == {"0": (4, 3), "2": (8, 1)}
    path = tmp_path / "s.json"
    save_strategy(path, {"0": 2, "2": 5}, graph.channels, {})
    layers = json.loads(path.read_text())["layers"]
    assert layers == {"0": {"channels": 6, "of": 12}, "2": {"channels": 5, "of": 8}}
    assert read_strategy(graph, path) == {"0": 2, "2": 5}
    path.write_text('{"0": 9}')
    assert read_strategy(graph, path) == {"0": 3, "2": 8}
    path.write_text('{"0": 7}')
    with pytest.raises(amc.AmcError, match=r"0: channels go together by 3; 7 is no .* is 6$"):
        read_strategy(graph, path)
    bounded = amc.restrict(graph, model, amc.Restrictions(min_channels={"0": 6}))
    path.write_text('{"0": 3}')
    with pytest.raises(amc.AmcError, match=r"0 must keep 6 to 12 channels, got 3"):
        read_strategy(bounded, path)
