"""Why time does not follow the MACs: what is tried, and what is said of it."""

import numpy as np
import pytest
import torch
from torch import nn

import amc
from amc.measuring import slow as module
from amc.measuring.slow import Slow, advised, candidates, slow
from amc.objectives import latency
from amc.objectives.latency import Latency, Timing
from amc.runs.progress import Silent


@pytest.fixture
def network() -> tuple[nn.Module, amc.ChannelGraph, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 8, 1)
    ).eval()
    sample = torch.randn(1, 3, 8, 8)
    return model, amc.trace(model, (sample,)), sample


Network = tuple[nn.Module, amc.ChannelGraph, torch.Tensor]


def test_what_is_tried_costs_no_more_and_has_the_multiple(network: Network) -> None:
    _, graph, _ = network
    counts = graph.counts({"0": 19, "2": 37})
    macs = graph.cost.macs(counts) / graph.macs()
    found = candidates(graph, counts, macs, 0.1)
    assert found.pop(0).tolist() == [4, 7]  # a tenth of 32 and of 64, rounded up
    assert set(found) == {4, 8, 16}  # multiples of 32 cost more, or leave one of them whole
    for multiple, tried in found.items():
        assert not (tried % multiple).any()
        assert graph.cost.macs(tried) <= graph.cost.macs(counts)


def test_multiples_that_the_counts_have_are_not_tried(network: Network) -> None:
    _, graph, _ = network
    counts = graph.counts({"0": 16, "2": 48})
    macs = graph.cost.macs(counts) / graph.macs()
    assert not {4, 8, 16} & set(candidates(graph, counts, macs, 0.1))


@pytest.mark.parametrize(
    ("tried", "advice"),
    [
        ({}, None),
        ({4: 0.95, 8: 0.91}, None),  # hardly better than 1.0
        ({4: 0.89, 8: 0.95}, 4),
        ({4: 0.8, 8: 0.52, 16: 0.5}, 8),  # 16 is no better, and leaves less choice
        ({4: 0.8, 8: 0.6, 16: 0.5}, 16),
    ],
)
def test_the_smallest_multiple_that_helps_most(
    tried: dict[int, float], advice: int | None
) -> None:
    assert advised(1.0, tried) == advice


def timing(ratio: float, device: str = "cpu", runtime: str = "PyTorch 2") -> Timing:
    one = Latency(1.0, 0.0, 1.0)
    return Timing(runtime, one, one, ratio, device=device)


def found_for(
    network: Network, monkeypatch: pytest.MonkeyPatch, parts: list[float], *times: Timing
) -> tuple[Slow, ...]:
    """With these times for the cut as it is, the fewest channels, and multiples of 4, 8, 16."""
    model, graph, sample = network
    monkeypatch.setattr(latency, "SLOW", 0.5)
    monkeypatch.setattr(module, "_timed", lambda *given: parts[: len(given[2])])
    plan = graph.plan({"0": range(19), "2": range(37)})
    return slow(times, graph, plan, model, sample, 0.1, Silent().bar)


def test_the_multiple_that_was_measured_to_help_is_named(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = found_for(network, monkeypatch, [1.0, 0.1, 0.8, 0.5, 0.6], timing(0.98))
    assert one.tried == {4: 0.8, 8: 0.5, 16: 0.6} and one.advice == 8 and one.least == 0.1
    assert one.cut == (2, 2)
    line = one.line()
    assert "98% of the time for 37% of the MACs in PyTorch 2, 1 thread, batch 1" in line
    assert "2 of 2 groups that were cut keep no multiple of 8" in line
    assert "--channel-multiple 8 takes 50% with the same MACs" in line


@pytest.mark.parametrize(
    ("least", "words"),
    [(0.8, "with the fewest channels it still takes 80%"), (0.2, "python -m amc.latency")],
)
def test_where_no_multiple_helps_the_reason_is_another(
    least: float, words: str, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = found_for(network, monkeypatch, [1.0, least, 1.0, 1.0, 1.0], timing(1.0))
    assert one.advice is None and words in one.line() and "\n" not in one.line()


def test_the_runtime_that_is_nearest_to_a_deployment_is_judged_and_every_gpu(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged(*times: Timing) -> list[str]:
        return [one.where for one in found_for(network, monkeypatch, [1.0] * 5, *times)]

    ort = "onnxruntime 1"
    assert judged(timing(1.0), timing(1.0, runtime=ort)) == ["onnxruntime 1, 1 thread"]
    assert judged(timing(1.0), timing(0.4, runtime=ort)) == []
    assert judged(timing(1.0), Timing(ort, problem="none")) == ["PyTorch 2, 1 thread"]
    gpu = judged(timing(1.0, "cuda"), timing(1.0, runtime=ort))
    assert gpu == ["PyTorch 2, CUDA", "onnxruntime 1, 1 thread"]


def test_networks_of_seconds_are_not_timed_again(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Latency(2000.0, 0.0, 2000.0)
    (found,) = found_for(network, monkeypatch, [], Timing("PyTorch 2", one, one, 1.0))
    assert not found.tried and found.least is None and "--objective latency" in found.line()


def test_other_counts_are_really_timed(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    model, graph, sample = network
    monkeypatch.setattr(latency, "SLOW", 9.0)  # nothing is fast enough
    monkeypatch.setattr(latency, "ROUNDS", 2)
    plan = graph.plan({"0": range(19), "2": range(37)})
    state = {name: held.clone() for name, held in model.state_dict().items()}
    (one,) = slow((timing(0.9),), graph, plan, model, sample, 0.1, Silent().bar)
    assert one.least is not None and 0 < one.least < 1.5
    assert set(one.tried) == {4, 8, 16} and all(part > 0 for part in one.tried.values())
    assert all(torch.equal(state[name], held) for name, held in model.state_dict().items())
    assert np.isfinite(list(one.tried.values())).all()
