"""The latency table: what it tells between its lines, that it never falls, files, corrections."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from numpy.testing import assert_allclose
from torch import nn

from amc.graph.arrays import IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.tracing.trace import trace
from amc.objectives.latency_table import (
    LatencyTable,
    LayerTimes,
    Setup,
    corrected,
    geometry,
    rewarded_multiple,
    rising,
    whole,
)  # fmt: skip
from amc.objectives.lookup import positions
from amc.runtime.errors import AmcError

SETUP = Setup("tiny", "3x8x8", "a processor", "onnxruntime", {"onnxruntime": "1.0"}, 1, 1)


def network(*channels: int) -> nn.Sequential:
    """Convolutions with these numbers of channels, RGB images to 4 outputs."""
    sizes = (3, *channels, 4)
    return nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes)))


def graph_of(*channels: int) -> ChannelGraph:
    return trace(network(*channels), (torch.zeros(1, 3, 8, 8),))


def table_of(graph: ChannelGraph, *axes: tuple[int, ...], constant: float = 0.5) -> LatencyTable:
    """A layer takes the product of its channels, at these counts of the groups."""
    inputs, outputs = [(3,), *axes], [*axes, (4,)]
    layers = tuple(
        LayerTimes(
            layer.name, layer.kind, geometry(layer), before, after,
            tuple(tuple(float(a * b) for b in after) for a in before),
        )
        for layer, before, after in zip(graph.layers, inputs, outputs, strict=True)
    )  # fmt: skip
    return LatencyTable(SETUP, constant, layers)


def test_products_of_channels_are_told_exactly_between_the_lines() -> None:
    graph = graph_of(16, 8)
    tell = table_of(graph, (2, 7, 16), (1, 8)).of(graph)
    counts = np.array([[16, 8], [2, 1], [5, 3], [11, 8], [7, 2]])
    by_hand = [0.5 + 3 * a + a * b + 4 * b for a, b in counts.tolist()]
    assert_allclose(tell(counts), by_hand)


def test_beyond_its_lines_a_table_tells_the_nearest() -> None:
    graph = graph_of(16, 8)
    tell = table_of(graph, (4, 16), (2, 8)).of(graph)
    assert tell(np.array([[1, 1]])) == tell(np.array([[4, 2]]))


def test_blocks_are_filled_up_and_lines_between_them_hold() -> None:
    assert_allclose(
        positions((2, 8, 16, 32), 8)[[1, 2, 3, 8, 9, 16, 17, 24, 25, 32]],
        [0, 0, 1, 1, 2, 2, 2.5, 2.5, 3, 3],
    )
    graph = graph_of(32, 8)
    tell = replace(table_of(graph, (16, 32), (8,)), block=16).of(graph)
    found = tell(np.array([[16, 8], [17, 8], [24, 8], [32, 8]]))
    assert found[1] == found[2] == found[3] > found[0]


@given(some.integers(0, 2**31), some.sampled_from([1, 2, 4, 8]))
def test_it_never_falls_when_a_count_grows(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    graph = GRAPH
    lines = (tuple(np.unique([*rng.integers(1, n, 4), n]).tolist()) for n in (12, 10))
    table = table_of(graph, *lines)
    shuffled = tuple(
        replace(one, ms=tuple(tuple(rng.uniform(0, 1, len(row)).tolist()) for row in one.ms))
        for one in table.layers
    )
    tell = replace(table, layers=shuffled, block=block).of(graph)
    every = np.array([(a, b) for a in range(1, 13) for b in range(1, 11)])
    found = tell(every).reshape(12, 10)
    assert (np.diff(found, axis=0) >= -1e-12).all() and (np.diff(found, axis=1) >= -1e-12).all()


GRAPH = graph_of(12, 10)


def test_a_rising_table_stays_and_another_promises_nowhere_less() -> None:
    ms = np.array([[1.0, 3.0, 2.0], [0.5, 4.0, 4.5]])
    assert_allclose(rising(ms), [[1, 3, 3], [1, 4, 4.5]])
    assert_allclose(rising(rising(ms)), rising(ms))


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    table = replace(table_of(GRAPH, (4, 12), (5, 10)), block=4, error=(0.01, 0.05))
    path = tmp_path / "new" / "table.json"
    table.save(path)
    assert LatencyTable.load(path) == table
    first = path.read_bytes()
    LatencyTable.load(path).save(path)
    assert path.read_bytes() == first


def broken(document: dict[str, Any], how: str) -> None:
    layer = document["layers"][0]
    if how == "a row is missing":
        layer["ms"].pop()
    elif how == "no time":
        layer["ms"][0][0] = "fast"
    elif how == "lines fall":
        layer["outputs"].reverse()
    elif how == "the curve falls":
        document["curve"] = [[0, 1], [1, 0]]
    elif how == "a layer twice":
        document["layers"].append(layer)
    else:
        del document["setup"]["threads"]


@pytest.mark.parametrize(
    "how",
    [
        "a row is missing",
        "no time",
        "lines fall",
        "the curve falls",
        "a layer twice",
        "no threads",
    ],
)
def test_a_damaged_file_is_told_in_a_line(tmp_path: Path, how: str) -> None:
    path = tmp_path / "table.json"
    table_of(GRAPH, (4, 12), (5, 10)).save(path)
    document = json.loads(path.read_text())
    broken(document, how)
    path.write_text(json.dumps(document))
    with pytest.raises(AmcError, match="damaged latency table") as told:
        LatencyTable.load(path)
    assert "\n" not in str(told.value)


def test_another_file_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text("[]")
    with pytest.raises(AmcError, match=r"no latency table; python -m amc\.latency"):
        LatencyTable.load(path)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (graph_of(12), "2 has"),
        (graph_of(12, 10, 4), "3'"),
        (graph_of(12, 9), "1 has output channels 10 in the table, 9 here"),
        (trace(network(12, 10), (torch.zeros(1, 3, 9, 9),)), "0 has height 8 in the table, 9"),
    ],
)
def test_a_table_of_another_network_is_refused(other: ChannelGraph, words: str) -> None:
    table = table_of(GRAPH, (4, 12), (5, 10))
    with pytest.raises(AmcError, match="of another network") as told:
        table.of(other)
    if "in the table" in words:
        assert words in str(told.value)


def test_another_machine_is_told() -> None:
    here = replace(SETUP, device="another", versions={"onnxruntime": "2.0"}, threads=2)
    assert SETUP.differences(SETUP) == []
    assert SETUP.differences(here) == [
        "device a processor, here another", "onnxruntime 1.0, here 2.0", "threads 1, here 2",
    ]  # fmt: skip


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_a_corrected_table_tells_what_was_measured_and_the_same_original(factor: float) -> None:
    table = table_of(GRAPH, (4, 12), (5, 10))
    tell, counts = table.of(GRAPH), np.array([6, 5])
    original, told = tell(np.array([[12, 10], [6, 5]]))
    measured = float(told * factor)
    tell = corrected(table, GRAPH, counts, measured).of(GRAPH)
    found = tell(np.array([[12, 10], [6, 5], [4, 5]]))
    assert_allclose(found[:2], [original, measured])
    assert found[2] < found[1]


def test_a_network_slower_than_told_for_the_original_scales_all() -> None:
    table = table_of(GRAPH, (4, 12), (5, 10))
    counts: IntArray = np.array([12, 10])
    before = table.of(GRAPH)(counts[None])[0]
    after = corrected(table, GRAPH, counts, 2 * float(before)).of(GRAPH)
    assert_allclose(after(counts[None]), 2 * before)
    with pytest.raises(AmcError, match="must be above 0 ms"):
        corrected(table, GRAPH, counts, 0.0)


def test_many_strategies_are_told_at_once() -> None:
    table = table_of(GRAPH, (4, 8, 12), (5, 10))
    counts = np.random.default_rng(0).integers(1, [13, 11], (5000, 2))
    tell = table.of(GRAPH)
    one_by_one = [tell(row[None])[0] for row in counts[:50]]
    assert_allclose(tell(counts)[:50], one_by_one)


@pytest.mark.parametrize("block", [1, 2, 4, 8, 16])
def test_the_multiple_is_that_of_the_steps(block: int) -> None:
    graph = graph_of(64, 32)
    steps = tuple(range(block, 65, block)), tuple(range(block, 33, block))
    table = replace(table_of(graph, *steps), block=block)
    assert rewarded_multiple(table, graph) == block


def test_where_no_group_is_wide_enough_no_multiple_is_rewarded() -> None:
    graph = graph_of(3)
    assert rewarded_multiple(replace(table_of(graph, (3,)), block=16), graph) == 1
    assert whole(GRAPH) == ([3, 12, 10], [12, 10, 4])
