"""The smallest network within a tolerated drop: the way to it, and whole runs."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from amc.config.train import TrainConfig
from amc.runtime.errors import AmcError
from amc.studies import max_drop
from amc.studies.max_drop import NEAR, PROBES, narrowed
from amc.tasks.drop import Drop
from amc.train import run as trained
from small_runs import SMALL, assert_same_results, resume


@pytest.mark.parametrize("least", [0.03, 0.08, 0.2, 0.37, 0.5, 0.62, 0.9, 0.99])
@pytest.mark.parametrize("start", [0.3, 0.5])
def test_the_smallest_good_ratio_is_found(least: float, start: float) -> None:
    asked: list[float] = []

    def good(ratio: float) -> bool:
        asked.append(ratio)
        return ratio >= least

    found = narrowed(start, good)
    assert len(asked) <= PROBES and len(set(asked)) == len(asked)
    assert all(0 < ratio < 1 for ratio in asked)
    if found is None:
        assert max(asked) < least  # so near to the whole that it is not worth it
        return
    assert found == min(ratio for ratio in asked if ratio >= least)
    below = max((ratio for ratio in asked if ratio < least), default=found / 2)
    # each question halves the gap on a scale of factors
    halvings = max(0, PROBES - 1 - math.ceil(abs(math.log2(start / least))))
    assert found / below <= max(NEAR, 2 ** (2.0**-halvings)) * 1.02


def test_out_of_reach_is_too_small() -> None:
    assert narrowed(0.5, lambda ratio: None if ratio < 0.4 else True) == pytest.approx(
        0.4, rel=0.1
    )


def test_none_is_good() -> None:
    assert narrowed(0.5, lambda ratio: False) is None


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Whole runs try three budgets."""
    if "checkpoint" in request.fixturenames:
        monkeypatch.setattr(max_drop, "PROBES", 3)


def drop_in(folder: Path, ratio: str) -> dict[str, float]:
    text = (folder / "attempts" / ratio / "attempt.json").read_text()
    found: dict[str, float] = json.loads(text)["drop"]
    return found


def run(folder: Path, checkpoint: Path, **more: Any) -> Path:
    settings = {**SMALL, "checkpoint": checkpoint, "mode": "uniform", "run_dir": folder, **more}
    return trained(TrainConfig.of(**settings))


def test_a_run_names_what_it_lost_and_on_how_many_images(tmp_path: Path, checkpoint: Path) -> None:
    folder = run(tmp_path / "a", checkpoint, max_drop=40.0)
    report = json.loads((folder / "report.json").read_text())
    found = report["max_drop"]
    assert found["tolerated"] == 40 and found["points"] + found["error"] <= 40
    assert found["images"] == 180 - SMALL["reward_images"]
    (ratio,) = {report["objective"]["macs"]["target"]}
    assert drop_in(folder, f"{ratio:g}")["points"] == pytest.approx(found["points"], abs=1e-5)
    assert report["macs"]["ratio"] <= ratio
    smaller = [float(p.name) for p in (folder / "attempts").iterdir() if float(p.name) < ratio]
    for other in smaller:  # all of them lose more
        lost = json.loads((folder / "attempts" / f"{other:g}" / "attempt.json").read_text())[
            "drop"
        ]
        assert lost["points"] + lost["error"] > 40


def test_a_stopped_run_goes_on_to_the_same_result(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", checkpoint, max_drop=40.0)
    real, calls = max_drop.cut_best, 0

    def breaks(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(max_drop, "cut_best", breaks)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", checkpoint, max_drop=40.0)
    again = resume(tmp_path / "part")
    assert_same_results(again, whole)
    attempts = sorted(p.name for p in (whole / "attempts").iterdir())
    assert calls == 1 + len(attempts)  # one was there already, one broke


def test_what_cannot_be_is_refused(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(max_drop, "drop_of", lambda *given: Drop(2.0, 0.33, 120))
    with pytest.raises(AmcError, match=r"loses 2.00 ± 0.33 .* which --max-drop 2\.4 allows"):
        run(tmp_path / "a", checkpoint, max_drop=0.001)
    for more, message in (
        ({"channel_ratio": 0.5}, "needs a budget"),
        ({"objective": "macs=0.5,params=0.5"}, "expected --objective macs,params"),
        ({"max_drop": 101.0}, "above 0 to 100"),
    ):
        with pytest.raises(AmcError, match=message):
            run(tmp_path / "b", checkpoint, **{"max_drop": 1.0, **more})
