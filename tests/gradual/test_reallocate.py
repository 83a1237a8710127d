"""How much is decided anew in every step, within a budget that follows the schedule."""

from math import floor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

import amc
from amc.config.train import TrainConfig
from amc.gradual import reallocate
from amc.gradual.loop import Left, Turn
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan_files import load_plan
from amc.objectives.budget import Budget
from amc.objectives.objective import limit_of, together
from amc.objectives.sizes import macs, params
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json
from amc.schedules.curves import SCHEDULES
from amc.search.trials import Trials
from amc.steps.allocate import Allocation
from amc.steps.finetune import Recovery
from amc.steps.job import Job
from amc.train import run
from made_once import made_once

NETWORK = """
import torch
from torch import nn
def net(num_classes, in_channels):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(in_channels, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3),
        nn.ReLU(), nn.Conv2d(16, 20, 3), nn.ReLU(), nn.Conv2d(20, 16, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))
"""


@pytest.fixture(scope="module")
def settings(few_digits: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of a second or two."""
    at = made_once(tmp_path_factory, "four", lambda at: (at / "four.py").write_text(NETWORK))
    return dict(
        model=f"{at / 'four.py'}:net", data=few_digits, device="cpu", quiet=True,
        calibration_batches=2, finetune_epochs=3, reward_images=40, channel_multiple=1,
        preserve_ratio=0.4, schedule="linear", schedule_steps=3, reallocate=True,
        episodes=4, warmup_episodes=3, finalists=2, mode="uniform",
    )  # fmt: skip


def strategies_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> tuple[list[dict[str, int]], list[int]]:
    """What every training of a run begins with: channels by group, MACs."""
    plans = []
    tune = Recovery.tune

    def noted(self: Recovery, model: Any, plan: Any, *rest: Any) -> Any:
        plans.append((dict(plan.strategy), self.graph.macs(plan)))
        return tune(self, model, plan, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Recovery, "tune", noted)
        run(TrainConfig.of(**settings, run_dir=folder))
    return [strategy for strategy, _ in plans], [macs for _, macs in plans]


@pytest.mark.parametrize("given", [{}, {"schedule": "exponential", "schedule_init": 0.2}])
def test_every_step_meets_its_own_budget(
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
) -> None:
    _, macs = strategies_of(tmp_path / "run", monkeypatch, {**settings, **given})
    report = read_json(tmp_path / "run" / "report.json")
    original = report["macs"]["original"]
    ratios = [0.8, (0.8 * 0.4) ** 0.5, 0.4] if given else [0.8, 0.6, 0.4]
    assert len(macs) == 3
    for found, ratio in zip(macs, ratios, strict=True):
        assert 0.98 * ratio * original - 1 <= found <= ratio * original
    assert report["macs"]["pruned"] == macs[-1]
    strategy = load_plan(tmp_path / "run" / "plan.json").strategy
    layers = read_json(tmp_path / "run" / "strategy.json")["layers"]
    assert {name: layers[name]["channels"] for name in strategy} == strategy


def test_several_limits_are_met_in_every_step(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = {**settings, "objective": "macs=0.4,params=0.7", "schedule_steps": 2,
               "preserve_ratio": 0.5}  # fmt: skip
    strategies, macs = strategies_of(tmp_path / "run", monkeypatch, limited)
    report = read_json(tmp_path / "run" / "report.json")
    assert macs[0] <= 0.7 * report["macs"]["original"]
    assert macs[1] <= 0.4 * report["macs"]["original"]
    assert report["params"]["pruned"] <= 0.7 * report["params"]["original"]
    assert all(strategies[1].get(n, 99) <= count for n, count in strategies[0].items())


def test_what_training_has_left_decides(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a search in every step; the way is another than that to a strategy chosen at first."""
    searched = {**settings, "mode": "auto", "agent": "evolution"}
    anew, macs = strategies_of(tmp_path / "anew", monkeypatch, searched)
    once, _ = strategies_of(tmp_path / "once", monkeypatch, {**searched, "reallocate": False})
    assert anew[:-1] != once[:-1]
    assert macs[-1] <= 0.4 * read_json(tmp_path / "anew" / "report.json")["macs"]["original"]
    for stage in (1, 2, 3):
        record = tmp_path / "anew" / f"stage-{stage}" / "episodes.jsonl"
        assert len(record.read_text().splitlines()) == 1 + 4


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [5, 10])
def test_run_that_was_stopped_in_a_later_search_goes_on_to_the_same_network(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Four episodes for the whole budget, four for every step; between them training."""
    searched = {**settings, "mode": "auto", "agent": "ddpg"}
    run(TrainConfig.of(**searched, run_dir=tmp_path / "whole"))
    tried: list[Any] = []
    call = Trials.__call__

    def stopping(self: Trials, *arguments: Any) -> Any:
        tried.append(arguments)
        if len(tried) == after + 1:
            raise Stopped
        return call(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trials, "__call__", stopping)
        with pytest.raises(Stopped):
            run(TrainConfig.of(**searched, run_dir=tmp_path / "stopped"))
    run(TrainConfig.of(resume=tmp_path / "stopped", quiet=True))
    for name in ("pruned.safetensors", "plan.json", "strategy.json"):
        left, whole = (tmp_path / folder / name for folder in ("stopped", "whole"))
        assert left.read_bytes() == whole.read_bytes(), name


def left_of(graph: ChannelGraph, **counts: int) -> Left:
    return Left(cast(Job, None), nn.Sequential(), graph.plan({}), {**graph.sizes, **counts})


def test_several_limits_all_follow_the_schedule(tmp_path: Path) -> None:
    """Each from its own original to its own limit, which the last turn has as it was given."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 4, 1))
    graph = amc.trace(model, (torch.zeros(1, 3, 8, 8),))
    cost, size = macs(graph), params(graph)
    full = graph.counts({})
    whole = together([(cost, 0.3), (size, 0.5)], full)
    config = TrainConfig.of(schedule="linear", schedule_steps=4, reallocate=True)
    nothing = cast(Any, None)
    anew = reallocate.Reallocation(
        nothing, nothing, Allocation(budget=Budget(graph, 0.3, objective=whole)), config,
        SCHEDULES["linear"], tmp_path, nothing,
    )  # fmt: skip
    for step, (of_cost, of_size) in enumerate([(0.825, 0.875), (0.65, 0.75), (0.475, 0.625)]):
        limits = [limit for _, limit in anew.limits(Turn({}, 1, 0.1, step=step))]
        assert limits == [floor(of_cost * cost(full)), floor(of_size * size(full))]
    last = Turn({}, 1, 0.1, last=True, step=3)
    limits = [limit for _, limit in anew.limits(last)]
    assert limits == [limit_of(one, full, part) for one, part in whole.parts]
    assert not anew.reached(left_of(graph), last)
    assert anew.reached(left_of(graph, **{"0": 2, "2": 2}), last)


def test_costs_of_what_is_left_are_those_of_the_original() -> None:
    """Also where a group of the original can no longer be cut, and its count stays."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 4, 1))
    graph = amc.trace(model, (torch.zeros(1, 3, 8, 8),))
    fewer = graph.freeze({"0": "gone"})
    cost = reallocate.carried_over(macs(graph), graph, fewer, left_of(graph, **{"0": 5}))
    for count in (1, 7, 16):
        assert cost(np.array([count])) == macs(graph)(np.array([5, count]))
    assert reallocate.carried_over(macs(graph), graph, graph, left_of(graph)).form is not None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"schedule": "one-shot"}, "--reallocate needs a schedule .* got --schedule one-shot"),
        ({"schedule": "adaptive"}, "got --schedule adaptive"),
        ({"soft": True}, "got --soft"),
        ({"channel_ratio": 0.5}, "--reallocate needs a budget; --mode uniform is given channels"),
    ],
)
def test_what_cannot_be_reallocated_is_refused(
    settings: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(AmcError, match=message) as refused:
        TrainConfig.of(**{**settings, **given})
    assert "\n" not in str(refused.value)
