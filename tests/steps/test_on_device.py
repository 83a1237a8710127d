"""Strategies that are timed and made to fit, on a device whose times are known."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from amc.allocators.uniform import uniform
from amc.config.train import TrainConfig
from amc.graph.arrays import IntArray
from amc.measuring import machine
from amc.objectives.latency_table import LatencyTable, LayerTimes, Setup, geometry, whole
from amc.runs.terminal import Terminal
from amc.steps.limits import make_budget
from amc.steps.on_device import NEAR, OnDevice
from six_decisions import budget as six

GRAPH = six().graph
SETUP = Setup("six", "3x1x1", "a device", "torch", {"torch": "1"}, 1, 1)


def table_of(graph: Any = GRAPH) -> LatencyTable:
    """Every layer takes the product of its channels, and 10 beside."""
    layers = []
    for layer, inputs, outputs in zip(graph.layers, *whole(graph), strict=True):
        grid = tuple(sorted({1, inputs})), tuple(sorted({1, outputs}))
        ms = tuple(tuple(float(x * y) for y in grid[1]) for x in grid[0])
        layers.append(LayerTimes(layer.name, layer.kind, geometry(layer), *grid, ms))
    return LatencyTable(SETUP, 10.0, tuple(layers))


def device(folder: Path, truth: Callable[[IntArray], float], **settings: Any) -> OnDevice:
    file = folder / "table.json"
    table_of().save(file)
    config = TrainConfig.of(
        **{"objective": "latency", "preserve_ratio": 0.5, **settings}, latency_table=file
    )
    job = SimpleNamespace(terminal=Terminal(quiet=True), device=torch.device("cpu"))
    network = SimpleNamespace(graph=GRAPH)
    made = OnDevice(job, network, table_of(), config, folder)  # type: ignore[arg-type]
    full = truth(GRAPH.counts({}))
    object.__setattr__(made, "_measured", lambda counts: truth(counts) / full)
    return made


def told(counts: IntArray) -> float:
    return float(table_of().of(GRAPH)(counts[None])[0])


WRONG: dict[str, Callable[[IntArray], float]] = {
    "as told": told,
    "a part that never changes": lambda counts: told(counts) + 1500,
    "less than told": lambda counts: told(counts) ** 1.4,
    "blocks": lambda counts: told(np.minimum(-(-counts // 8) * 8, GRAPH.counts({}))),
}


@pytest.mark.parametrize("kind", WRONG)
def test_strategies_end_near_the_limit_and_not_above(kind: str, tmp_path: Path) -> None:
    truth, multiple = WRONG[kind], 8 if kind == "blocks" else 1
    here = device(tmp_path, truth, channel_multiple=multiple)
    first = make_budget(GRAPH, 0.5, here.config)
    budget = here.corrected(first, uniform(first))
    strategies = [uniform(budget), budget.strategy(budget.complete([5, 30, 10, 30, 8, 16]))]
    found, known = here.fitted(budget, strategies)
    full = truth(GRAPH.counts({}))
    for strategy in found:
        part = truth(GRAPH.counts(strategy)) / full
        assert part <= 0.5 + 1e-9
        if multiple == 1:
            assert part >= 0.5 * NEAR[0] - 0.01
        cost = known.cost(GRAPH.counts(strategy))
        assert cost / known.cost(GRAPH.counts({})) == pytest.approx(part)


def test_one_more_correction_is_worth_it(tmp_path: Path) -> None:
    """By the table alone the time would be missed."""
    here = device(tmp_path, WRONG["a part that never changes"])
    first = make_budget(GRAPH, 0.5, here.config)
    counts = GRAPH.counts(uniform(first))
    assert here.part(counts) > 0.55


def test_times_are_kept_and_told_again(tmp_path: Path) -> None:
    here = device(tmp_path, WRONG["less than told"])
    budget = make_budget(GRAPH, 0.5, here.config)
    found = here.fitted(budget, [uniform(budget)])[0]

    def never(counts: IntArray) -> float:
        raise AssertionError("timed again")

    again = device(tmp_path, told)
    object.__setattr__(again, "_measured", never)
    assert again.fitted(budget, [uniform(budget)])[0] == found


def test_several_limits_hold_with_the_time(tmp_path: Path) -> None:
    truth = WRONG["a part that never changes"]
    here = device(
        tmp_path, truth, objective="params=0.45,latency=0.6", preserve_ratio=0.5,
        channel_multiple=1,
    )  # fmt: skip
    first = make_budget(GRAPH, 0.5, here.config)
    budget = here.corrected(first, uniform(first))
    (found,), known = here.fitted(budget, [uniform(budget)])
    counts = GRAPH.counts(found)
    assert GRAPH.cost.params(counts) <= 0.45 * GRAPH.total_params
    assert truth(counts) <= 0.6 * truth(GRAPH.counts({}))
    assert [(one.name, ratio) for one, ratio in known.limits] == [
        ("params", 0.45),
        ("latency", 0.6),
    ]


def test_a_table_from_elsewhere_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "version", lambda name: "1")
    here = device(tmp_path, told)
    job = SimpleNamespace(terminal=Terminal(quiet=False), device=torch.device("cpu"))
    assert OnDevice.of(job, here.network, here.config, tmp_path) is None  # type: ignore[arg-type]
    assert "measured elsewhere: device a device, here" in capsys.readouterr().out
    monkeypatch.setattr(machine, "device_name", lambda device: "a device")
    assert OnDevice.of(job, here.network, here.config, tmp_path)  # type: ignore[arg-type]
    macs = TrainConfig()
    assert OnDevice.of(job, here.network, macs, tmp_path) is None  # type: ignore[arg-type]
