"""What AMCT's simplified configuration says of the layers of a network."""

from pathlib import Path

import pytest
import torch
from torch import nn

import amc
from amc.config.formats.amct_layers import of_strategy, strategy_of, text_for, with_overrides
from amc.graph.channel_graph import ChannelGraph
from amc.objectives.budget import Budget
from amc.runtime.errors import AmcError


class Net(nn.Module):
    """A chain, then two layers that are added up, then a depthwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 20, 3, padding=1)
        self.b = nn.Conv2d(20, 32, 3, padding=1)
        self.c = nn.Conv2d(32, 32, 3, padding=1)
        self.d = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.e = nn.Conv2d(32, 24, 1)
        self.f, self.g = nn.Linear(24, 50), nn.Linear(50, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.b(self.a(x).relu()).relu()
        x = self.e(self.d((x + self.c(x)).relu()).relu()).relu().mean((2, 3))
        return self.g(self.f(x).relu())


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    return amc.trace(Net().eval(), (torch.zeros(1, 3, 8, 8),))


def pruner(ratio: float, aligned: bool = False) -> str:
    inner = f"prune_ratio: {ratio} ascend_optimized: {str(aligned).lower()}"
    return f"prune_config {{ filter_pruner {{ balanced_l2_norm_filter_prune {{ {inner} }} }} }}"


def layer(name: str, ratio: float, aligned: bool = False) -> str:
    return f'override_layer_configs {{ layer_name: "{name}" {pruner(ratio, aligned)} }}\n'


def kind(name: str, ratio: float) -> str:
    return f'override_layer_types {{ layer_type: "{name}" {pruner(ratio)} }}\n'


def kept(graph: ChannelGraph, tmp_path: Path, text: str) -> dict[str, int]:
    (path := tmp_path / "prune.cfg").write_text(text)
    return strategy_of(graph, path)


def test_counts_are_amcts(graph: ChannelGraph, tmp_path: Path) -> None:
    found = kept(graph, tmp_path, pruner(0.25))
    assert found == {"a": 15, "b": 24, "e": 18, "f": 50 - 12}  # round(12.5) is 12
    found = kept(graph, tmp_path, pruner(0.25, aligned=True))
    assert found == {"a": 16, "b": 32, "e": 24, "f": 48}  # 18 to 32 would be above 24
    assert kept(graph, tmp_path, layer("a", 0.999)) == {"a": 1, "b": 32, "e": 24, "f": 50}


def test_names_go_before_types_before_the_default(graph: ChannelGraph, tmp_path: Path) -> None:
    text = pruner(0.5) + kind("Linear", 0.2) + layer("a", 0.1)
    assert kept(graph, tmp_path, text) == {"a": 18, "b": 16, "e": 12, "f": 40}
    # b and c share their channels: one of them named decides
    assert kept(graph, tmp_path, pruner(0.5) + layer("c", 0.25))["b"] == 24
    with pytest.raises(AmcError, match=r"b and c share their channels .* got 16 and 24"):
        kept(graph, tmp_path, layer("b", 0.5) + layer("c", 0.25))


@pytest.mark.parametrize(
    ("skips", "whole"),
    [
        ('skip_layers: "a"', {"a"}),
        ('regular_prune_skip_layers: "c"', {"b"}),
        ('skip_layer_types: "Linear"', {"f"}),
        ('regular_prune_skip_types: "Conv2d"\nskip_layers: "f"', {"a", "b", "e", "f"}),
    ],
)
def test_skipped_layers_stay_whole(
    graph: ChannelGraph, tmp_path: Path, skips: str, whole: set[str]
) -> None:
    found = kept(graph, tmp_path, f"{pruner(0.5)}\n{layer('a', 0.25)}{skips}")
    assert {name for name, size in graph.sizes.items() if found[name] == size} == whole


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('\nskip_layers: "aa"', r"cfg:2: unknown layer 'aa'; did you mean a"),
        (kind("Conv", 0.5), "unknown layer type 'Conv'; did you mean Conv2d"),
        (pruner(1.5), r"prune_ratio \(part that goes\) must be in \(0, 1\), got 1.5"),
        ("prune_config { }", "prune_ratio .* got 0"),
        (layer("g", 0.5), "g must keep all channels: network output"),
        (layer("a", 0.5) * 2, "layer_name 'a' is given twice"),
        ("skip_layer: 'a'", "unknown field of AMCTRetrainConfig: 'skip_layer'; did you mean"),
        ("prune_config {", "not text protobuf"),
    ],
)
def test_mistakes_name_file_and_line(
    graph: ChannelGraph, tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(AmcError, match=words):
        kept(graph, tmp_path, text)


def test_overrides_hold_in_a_search(graph: ChannelGraph, tmp_path: Path) -> None:
    (path := tmp_path / "o.cfg").write_text(layer("b", 0.4) + 'skip_layers: "f"')
    found = with_overrides(graph, path)
    assert set(found.sizes) == {"a", "b", "e"}
    budget = Budget(found, 0.6, 0.1, multiple=16)
    assert budget.options[1].tolist() == [19]  # no multiple of 16, as it was given
    path.write_text(pruner(0.5))
    with pytest.raises(AmcError, match="overrides only, no prune_config"):
        with_overrides(graph, path)
    path.write_text('skip_layer_types: "Conv2d"\nskip_layers: "f"')
    with pytest.raises(AmcError, match="nothing is left to search"):
        with_overrides(graph, path)


def test_a_strategy_comes_back_from_its_configuration(graph: ChannelGraph, tmp_path: Path) -> None:
    for strategy in ({"a": 7, "b": 16, "e": 24, "f": 1}, {"a": 19, "b": 32, "e": 3, "f": 49}):
        text = text_for(graph, strategy)
        assert kept(graph, tmp_path, text) == strategy
    assert 'regular_prune_skip_layers: "b"' in text and 'layer_name: "a"' in text


def test_strategy_files_become_configurations(graph: ChannelGraph, tmp_path: Path) -> None:
    (path := tmp_path / "s.json").write_text('{"a": 0.25, "b": {"channels": 16, "of": 32}}')
    assert kept(graph, tmp_path, of_strategy(path)) == {"a": 5, "b": 16, "e": 24, "f": 50}
    path.write_text('{\n"a": 7}')
    with pytest.raises(AmcError, match=r"s.json:2: a: AMCT has ratios of layers, got 7"):
        of_strategy(path)
