"""``amc.latency``: tables by a clock that counts channels, a real run's form, refusals."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amc import latency
from amc.config.latency import LatencyConfig
from amc.exporters.onnx_program import Run
from amc.graph.arrays import IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.tracing.trace import trace
from amc.measuring import stopwatch as stopwatches
from amc.measuring.exported import Exported
from amc.measuring.machine import elsewhere, setup_here
from amc.measuring.measure import Effort, eager, measured
from amc.measuring.samples import samples
from amc.measuring.stopwatch import stopwatch, timed
from amc.models.catalog import build
from amc.objectives.latency_table import LatencyTable, Setup
from amc.runtime.errors import AmcError

SETUP = Setup("made up", "3x8x8", "none", "onnxruntime", {}, 1, 1)


class Parts(nn.Module):
    """Depthwise, grouped and transposed convolutions, a flatten and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.fc, self.out = nn.Linear(6 * 64, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.depthwise(self.norm(self.first(x)).relu())).relu()
        return self.out(self.fc(self.up(x).flatten(1)).relu())


class Boxes(nn.Module):
    """In a box, then along a line."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv3d(2, 6, 3), nn.Conv1d(6, 5, 3), nn.Conv1d(5, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu().flatten(2)).relu())


class Sorted(nn.Module):
    """Nothing that can be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(self.last(self.conv(x).relu())).real


KINDS: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (Parts, (3, 4, 4)),
    (Boxes, (2, 6, 6, 6)),
]


def ready(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[Any, ChannelGraph, Any]:
    torch.manual_seed(0)
    model, sample = make().eval(), torch.rand(1, *shape)
    return model, trace(model, (sample,)), sample


@pytest.mark.parametrize(("make", "shape"), KINDS, ids=["parts", "3d"])
def test_networks_in_both_runtimes_put_out_the_same(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model, graph, sample = ready(make, shape)
    exported = Exported(model, graph, sample, 1)
    assert exported.exchanges  # one export, not one for every strategy
    networks = eager(exported._model, graph, sample)
    for counts in samples(graph, 4, 1, 0.1, seed=3):
        found: Any = exported(counts)()
        wanted: Any = networks(counts)()
        np.testing.assert_allclose(found[0], wanted.numpy(), rtol=1e-3, atol=1e-4)


def test_where_weights_cannot_be_exchanged_every_network_is_exported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, graph, sample = ready(Parts, (3, 4, 4))
    monkeypatch.setattr(Exported, "_generalised", lambda *_: False)
    exported = Exported(model, graph, sample, 1)
    assert not exported.exchanges
    counts = samples(graph, 2, 1, 0.1, seed=3)[1]
    found: Any = exported(counts)()
    wanted: Any = eager(exported._model, graph, sample)(counts)()
    np.testing.assert_allclose(found[0], wanted.numpy(), rtol=1e-3, atol=1e-4)


def test_a_network_that_cannot_be_exported_is_told_in_a_line_with_the_operator() -> None:
    model, graph, sample = ready(Sorted, (3, 4, 4))
    with pytest.raises(
        AmcError, match=r"onnxruntime cannot run.*linalg_eig.*--runtime torch"
    ) as told:
        Exported(model, graph, sample, 1)
    assert "\n" not in str(told.value)


def test_a_stopwatch_tells_a_low_quantile_and_warms_up() -> None:
    passes: list[float] = []
    now = [0.0]

    def run() -> None:
        passes.append(now[0])
        now[0] += 1.0 if len(passes) <= 2 else 0.01 + 0.001 * (len(passes) % 10)

    watch = stopwatch(lambda: now[0], wall=lambda: len(passes) * 1e-4)
    assert 10 <= watch(run) <= 12
    assert len(passes) > 50


def test_the_least_of_all_turns_counts() -> None:
    times = iter([3.0, 5.0, 4.0, 2.0])
    steps: list[int] = []
    counts = [np.array([1]), np.array([2])]
    found = timed(
        lambda _: lambda: None, counts, lambda _: next(times), 2, lambda: steps.append(1)
    )
    assert found.tolist() == [3, 2] and len(steps) == 4


def by_macs(graph: ChannelGraph) -> tuple[Callable[[IntArray], Run], Callable[[Run], float]]:
    """Networks and a watch: a microsecond per 100 MACs, on a machine of blocks of 8."""

    def networks(counts: IntArray) -> Run:
        ms = 0.02 + 1e-5 * graph.cost.macs(-(-counts // 8) * 8)
        return lambda: ms

    def watch(run: Run) -> float:
        ms = run()
        assert isinstance(ms, float)
        return ms

    return networks, watch


def test_a_table_is_filled_and_tried() -> None:
    model = build("plain20", num_classes=10, in_channels=1, width=1.0).eval()
    graph = trace(model, (torch.zeros(1, 1, 16, 16),))
    steps: list[int] = []
    effort = Effort(120, 10, 1)
    found = measured(
        *(by_macs(graph)[0], graph, SETUP, by_macs(graph)[1], effort, None, 0.1),
        on_step=lambda: steps.append(1),
    )
    assert found.multiple == found.tried == 8 and len(steps) == effort.turns
    assert found.table.error[0] < 0.01 and found.table.error[1] < 0.05
    assert found.original == pytest.approx(0.02 + 1e-5 * graph.macs())


def test_the_command_writes_a_table_and_names_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stopwatches, "TURN", 0.0)
    monkeypatch.setattr(stopwatches, "LEAST", 1)
    path = tmp_path / "new" / "table.json"
    config = LatencyConfig.of(
        model="plain20", width=0.5, runtime="torch", networks=24, output=path,
        prune_first_conv=False, channel_multiple=2,
    )  # fmt: skip
    before = torch.get_num_threads()
    latency.run(config)
    assert torch.get_num_threads() == before
    assert os.listdir(path.parent) == ["table.json"]
    said = capsys.readouterr().out
    assert re.search(r"error +\d+\.\d% in the median, \d+\.\d% at worst, on 32 networks", said)
    following = said.split("Next: ")[1].split()
    assert following[:3] == ["python", "-m", "amc.train"]
    assert {"plain20", "0.5", "--no-prune-first-conv", "--latency-table", str(path)} <= {
        *following
    }
    table = LatencyTable.load(path)
    assert table.setup.runtime == "torch" and table.setup.versions.keys() == {"torch"}
    model = build("plain20", num_classes=10, in_channels=1, width=0.5).eval()
    graph = trace(model, (torch.zeros(1, 1, 16, 16),))
    assert (table.of(graph)(np.array([[g.size for g in graph.decisions]])) > 0).all()
    assert not elsewhere(table, torch.device("cpu"))
    other = replace(table, setup=replace(table.setup, device="another"))
    assert "measured elsewhere: device another, here" in elsewhere(other, torch.device("cpu"))


def test_a_setup_names_the_machine_and_no_date() -> None:
    setup = setup_here("resnet20", "1x16x16", torch.device("cpu"), "onnxruntime", 1, 1)
    assert "(" in setup.device and setup.versions.keys() == {"onnxruntime"}
    assert setup == setup_here("resnet20", "1x16x16", torch.device("cpu"), "onnxruntime", 1, 1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device": "cuda"}, "onnxruntime is timed on the CPU"),
        ({"threads": 0}, "--threads must be 1 or more"),
        ({"threads": 10**6}, "--threads must be 1024 or less"),
        ({"networks": 3}, "--networks must be 24 or more"),
        ({"min_ratio": 0.0}, r"--min-ratio must be in \(0, 1\]"),
    ],
)
def test_settings_of_no_use_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(AmcError, match=words):
        LatencyConfig.of(**settings)


def test_a_network_in_which_nothing_can_be_pruned_is_refused_before_anything_is_timed() -> None:
    with pytest.raises(AmcError, match="nothing in this network can be pruned"):
        latency.run(LatencyConfig.of(model="plain20", runtime="torch", exclude=("*",)))
