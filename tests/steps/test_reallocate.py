"""How much is decided anew in every step, within a budget that follows the schedule."""

from pathlib import Path
from typing import Any

import pytest

from amc.config.train import TrainConfig
from amc.graph.plan_files import load_plan
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json
from amc.search.trials import Trials
from amc.steps import reallocate
from amc.steps.finetune import Recovery
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
    written = read_json(tmp_path / "run" / "strategy.json")
    assert {n: written["groups"][n]["keep"] for n in strategy} == strategy


def test_what_training_has_left_decides(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a search in every step; the way is another than that to a strategy chosen at first."""
    searched = {**settings, "mode": "auto", "allocator": "evolution"}
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
    searched = {**settings, "mode": "auto", "allocator": "ddpg"}
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


def test_several_limits_all_follow_the_schedule() -> None:
    """Each from its own original to its own limit; the last turn is at the limits themselves."""
    assert reallocate.within_limits


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
