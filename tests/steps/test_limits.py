"""A latency table as what a budget limits."""

from pathlib import Path

import numpy as np
import pytest
import torch

from amc.config.train import TrainConfig
from amc.graph.channel_graph import ChannelGraph
from amc.graph.tracing.trace import trace
from amc.models.catalog import build
from amc.objectives.latency_table import LatencyTable, LayerTimes, Setup, geometry, whole
from amc.runtime.errors import AmcError
from amc.steps.limits import make_budget


def graph_of(name: str) -> ChannelGraph:
    model = build(name, num_classes=10, in_channels=1, width=1.0).eval()
    return trace(model, (torch.zeros(1, 1, 16, 16),))


def table_of(graph: ChannelGraph, block: int) -> LatencyTable:
    """Microseconds: products of channels, in blocks."""
    layers = []
    for layer, inputs, outputs in zip(graph.layers, *whole(graph), strict=True):
        x, y = (tuple(sorted({*range(block, n, block), n})) for n in (inputs, outputs))
        ms = tuple(tuple(1e-3 * a * b for b in y) for a in x)
        layers.append(LayerTimes(layer.name, layer.kind, geometry(layer), x, y, ms))
    setup = Setup("plain20", "1x16x16", "none", "onnxruntime", {}, 1, 1)
    return LatencyTable(setup, 0.1, tuple(layers), block=block)


@pytest.mark.parametrize(("block", "multiple"), [(1, 1), (4, 4), (8, 8)])
def test_a_budget_of_milliseconds_takes_the_multiple_that_times_reward(
    tmp_path: Path, block: int, multiple: int
) -> None:
    graph, path = graph_of("plain20"), tmp_path / "table.json"
    table = table_of(graph, block)
    table.save(path)
    config = TrainConfig.of(objective="latency", latency_table=path, preserve_ratio=0.6)
    budget = make_budget(graph, 0.6, config)
    tell = table.of(graph)
    assert budget.multiple == multiple
    assert budget.original == pytest.approx(tell(graph.counts({})[None])[0])
    assert budget.target == pytest.approx(0.6 * budget.original)
    counts = np.array([8 if g.size == 16 else g.size // 2 for g in graph.decisions])
    assert budget.cost(counts) == pytest.approx(tell(counts[None])[0])


def test_a_table_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table_of(graph_of("plain20"), 8).save(path)
    config = TrainConfig.of(objective="latency", latency_table=path)
    with pytest.raises(AmcError, match="the latency table is of another network"):
        make_budget(graph_of("vgg16"), 0.5, config)
