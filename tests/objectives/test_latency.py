"""Latency in two runtimes, and what is said where time does not follow the MACs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from amc.config.train import TrainConfig
from amc.models.catalog import build
from amc.objectives.latency import Latency, Timing, preferred, session, timings
from amc.reporting.report import Change, Report, slower
from amc.reporting.statistics import Aim, Amount, Statistics
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
    found = timings(large, small, torch.randn(1, 3, 32, 32))
    assert [t.runtime.split()[0] for t in found] == ["PyTorch", "onnxruntime"]
    for timing in found:
        assert "thread" in timing.runtime
        assert timing.original and timing.pruned and timing.ratio
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
    eager, other = timings(Elsewhere(), Elsewhere(), torch.randn(1, 3))
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
        assert not one["problem"]
    assert found["channel_multiple"] == 4


def report(macs: int, multiple: int | None, *timings: Timing) -> Report:
    nothing = Change(100, 100)
    latency, none = (Timing("PyTorch", ratio=2.0), *timings), Amount(0, 0)
    counted = Statistics((), none, none, none, (Aim("macs", 0.5, 0.5),))
    return Report(
        "auto", 0.5, {}, None, multiple, Change(100, macs), nothing, nothing, latency, {}, 0, {},
        (), {}, counted,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("macs", "ratio", "multiple", "words"),
    [
        (50, 0.74, 8, ()),
        (50, 0.76, 8, ("76% of the time for 50% of the MACs in ort", "--channel-multiple 16")),
        (50, 0.76, 16, ("76% of the time", "by their number")),
        (50, 1.65, 1, ("165% of the time", "--channel-multiple 8")),
        (30, 0.64, 4, ()),
        (30, 0.66, 4, ("66% of the time for 30%", "--channel-multiple 8")),
        (50, 1.0, None, ("100% of the time", "by their number")),
        (100, 1.0, 8, ()),
    ],
)
def test_time_that_does_not_follow_the_macs_is_warned_of(
    macs: int, ratio: float, multiple: int | None, words: tuple[str, ...]
) -> None:
    one = Latency(1.0, 0.0, 1.0)
    said = slower(report(macs, multiple, Timing("ort", one, one, ratio)))
    assert len(said) == bool(words)
    for word in words:
        assert word in said[0]


def test_what_was_not_measured_is_said() -> None:
    said = slower(report(50, 8, Timing("ort", problem="no such operator")))
    assert said == ["latency  not measured in ort: no such operator"]
