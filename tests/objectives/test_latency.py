"""Latency in two runtimes, and what is said where time does not follow the MACs."""

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from amc.config.train import TrainConfig
from amc.measuring.slow import Slow
from amc.models.catalog import build
from amc.objectives.latency import (
    Latency,
    Timing,
    clock_for,
    follows,
    preferred,
    race,
    session,
    timings,
)
from amc.reporting.report import Change, Report, conditions, remarks, spread, summary_table
from amc.reporting.statistics import Aim, Amount, Statistics
from amc.runs.progress import Silent
from amc.train import run

pytestmark = pytest.mark.usefixtures("as_measured")


def convolutions(channels: int) -> nn.Sequential:
    torch.manual_seed(channels)
    return nn.Sequential(
        nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 8, 3)
    )


class Two(nn.Module):
    """Two inputs by name, each with a use of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(6, 3)

    def forward(self, right: Tensor, left: Tensor) -> Tensor:
        return self.left(left) - self.right(right)


class Elsewhere(nn.Module):
    """Nothing that can be exported: it computes outside of PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.sort(x.numpy())) * self.weight.sum()


def test_both_runtimes_are_measured_and_the_larger_network_is_slower() -> None:
    large, small = convolutions(256).train(), convolutions(16).eval()
    state = {name: t.clone() for name, t in large.state_dict().items()}
    found = timings(large, small, torch.randn(2, 3, 32, 32), Silent().bar)
    assert [t.runtime.split()[0] for t in found] == ["PyTorch", "onnxruntime"]
    for timing in found:
        assert timing.where == f"{timing.runtime}, 1 thread"
        assert (timing.threads, timing.batch, timing.device, timing.rounds) == (1, 2, "cpu", 9)
        assert timing.original and timing.pruned and timing.ratio and timing.spread >= 0
        assert 0 < timing.pruned.fastest <= timing.pruned.median
        assert timing.ratio < 1  # a sixteenth of the MACs
    assert preferred(found) == found[1].ratio
    assert large.training and not small.training
    assert all(torch.equal(state[name], t) for name, t in large.state_dict().items())


def test_what_runs_in_onnxruntime_is_the_network() -> None:
    model, x = convolutions(24).eval(), torch.randn(1, 3, 12, 12)
    found: Any = session(model, x)()
    np.testing.assert_allclose(found[0], model(x).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("names", [("left", "right"), ("right", "left")])
def test_several_inputs_arrive_where_they_belong(names: tuple[str, ...]) -> None:
    model, given = Two().eval(), {"left": torch.randn(1, 4), "right": torch.randn(1, 6)}
    found: Any = session(model, {name: given[name] for name in names})()
    np.testing.assert_allclose(found[0], model(**given).detach().numpy(), rtol=1e-4, atol=1e-5)
    found = session(model, (given["right"], given["left"]))()
    np.testing.assert_allclose(found[0], model(**given).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_network_that_cannot_be_exported_is_told_in_a_line() -> None:
    eager, other = timings(Elsewhere(), Elsewhere(), torch.randn(1, 3), Silent().bar)
    assert other.ratio is None and other.problem and "\n" not in other.problem
    assert preferred((eager, other)) == eager.ratio


def test_a_run_reports_the_times_of_both_networks_in_both_runtimes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    save_file(build("resnet20", num_classes=10, in_channels=1, width=0.5).state_dict(), weights)
    folder = run(TrainConfig.of(
        checkpoint=weights, width=0.5, mode="uniform", finetune_epochs=0, calibration_batches=2,
        run_dir=tmp_path / "run", quiet=True, device="cpu",
    ))  # fmt: skip
    found = json.loads((folder / "report.json").read_text())
    assert [one["runtime"].split()[0] for one in found["latency_ms"]] == ["PyTorch", "onnxruntime"]
    for one in found["latency_ms"]:
        assert one["original"]["median"] > 0 and one["pruned"]["median"] > 0 and one["ratio"] > 0
        assert not one["problem"] and one["threads"] == one["batch"] == 1 and one["rounds"] == 9
        assert 0 <= one["spread"] < 1
    assert found["channel_multiple"] == 4


def test_networks_take_turns_and_every_second_round_goes_backwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("amc.objectives.latency.ROUNDS", 4)
    monkeypatch.setattr("amc.objectives.latency.SECONDS", 0.0)
    order, rounds = list[str](), list[int]()

    def network(name: str) -> None:
        if not order or order[-1] != name:
            order.append(name)

    found = race([lambda: network("a"), lambda: network("b")], 1, on_step=lambda: rounds.append(1))
    assert order == ["a", "b", "a", "b", "a"]  # whose turns b a, a b, b a meet
    assert len(rounds) == 4 and [len(turns) for turns in found] == [4, 4]


def test_what_the_machine_does_beside_one_thread_does_not_count() -> None:
    clock = clock_for(1, torch.device("cpu"))
    start, wall = clock(), time.perf_counter()
    time.sleep(0.05)
    assert clock() - start < 0.02 < time.perf_counter() - wall
    assert clock_for(2, torch.device("cpu")) is time.perf_counter


@pytest.mark.parametrize(
    ("time", "macs", "as_expected"),
    [
        (0.74, 0.5, True),
        (0.76, 0.5, False),
        (0.64, 0.3, True),
        (0.66, 0.3, False),
        (1.0, 1.0, True),
    ],
)
def test_time_follows_the_macs_if_it_falls_by_half_of_what_they_do(
    time: float, macs: float, as_expected: bool
) -> None:
    assert follows(time, macs) == as_expected


def report(macs: int, *timings: Timing, slow: tuple[Slow, ...] = ()) -> Report:
    nothing, none = Change(100, 100), Amount(0, 0)
    counted = Statistics((), none, none, none, (Aim("macs", 0.5, 0.5),))
    scores = {"original": 0.99, "pruned": 0.98, "recovered": 0.985}
    return Report(
        "auto", 0.5, {}, None, 8, Change(10_130_048_000, macs), nothing, nothing, timings, scores,
        0, {}, (), {}, counted, slow=slow,
    )  # fmt: skip


def test_what_was_not_measured_and_a_busy_machine_are_said() -> None:
    calm, busy = Latency(1.0, 0.02, 1.0), Latency(1.0, 0.2, 0.9)
    none = Timing("ort", problem="no such operator")
    assert remarks(report(50, none)) == ["latency  not measured in ort: no such operator"]
    assert conditions(report(50, none)) == []
    assert not remarks(report(50, Timing("ort", calm, calm, 1.0)))
    (said,) = remarks(report(50, Timing("ort", calm, busy, 1.0)))
    assert said.startswith("busy ") and "10%" in said
    reason = Slow("ort, 1 thread", 1, 1.0, 0.5, (3, 3), {8: 0.6}, 0.1, 8)
    assert remarks(report(50, slow=(reason,))) == [reason.line()]


def test_the_closing_table_fits_eighty_columns() -> None:
    slow = Latency(123.456, 30.0, 100.0)
    rows = [
        Timing("PyTorch 2.13.0", slow, slow, 1.0, spread=0.3, threads=64, rounds=9),
        Timing("onnxruntime 1.32.0", slow, slow, 0.5, spread=0.001, rounds=9),
    ]
    found = report(5_034_464_000, *rows)
    console = Console(file=io.StringIO(), width=200)
    console.print(summary_table(found))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    assert "123 ± 15" in shown and "100% ± 15%" in shown and "50% ± 1%" in shown
    (how,) = conditions(found)
    assert "batch 1" in how and "9 rounds" in how and len(how) <= 80


@pytest.mark.parametrize(
    ("middle", "half", "words"),
    [(0.2034, 0.0021, "0.203 ± 0.002"), (1.388, 0.0001, "1.39 ± 0.01"), (123.4, 3.2, "123 ± 3"),
     (0.0123, 0.001, "0.0123 ± 0.0010")],
)  # fmt: skip
def test_a_spread_has_the_decimals_of_its_median(middle: float, half: float, words: str) -> None:
    assert spread(middle, half) == words
