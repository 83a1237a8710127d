"""Runs by every kind of allocator: at once, by proposals, by a function, from saved tables."""

import json
from pathlib import Path
from typing import Any

import pytest

from amc.config.train import TrainConfig
from amc.runtime.errors import AmcError
from amc.train import run
from small_runs import NETWORK, SMALL, report_of

FEW = {**SMALL, "finetune_epochs": 0, "episodes": 9}

MINE = """
def narrow(problem):
    return {name: 8 for name in problem.budget.graph.sizes}

def walk(problem):
    budget = problem.budget
    wide = [int(options[-1]) for options in budget.options]
    for _ in range(3):
        yield budget.strategy(budget.complete([int(options[0]) for options in budget.options]))

def wide(problem):
    return {}
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nets") / "nets.py"
    path.write_text(NETWORK + MINE)
    return path


def ran(network: Path, folder: Path, **settings: Any) -> Path:
    return run(TrainConfig.of(**{**FEW, "model": f"{network}:net", "run_dir": folder, **settings}))


def strategy(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "strategy.json").read_text())["layers"]


@pytest.mark.parametrize("allocator", ["knapsack", "ranking", "sensitivity", "uniform"])
def test_at_once_no_episode_is_run(allocator: str, network: Path, tmp_path: Path) -> None:
    folder = ran(network, tmp_path / "r", allocator=allocator)
    report = report_of(folder)
    assert report["episodes"] == 0 and report["macs"]["ratio"] <= 0.5
    assert not (folder / "episodes.jsonl").exists()
    if allocator == "uniform":  # is the mode of this name
        assert report["mode"] == "uniform"
        same = ran(network, tmp_path / "same", mode="uniform")
        assert strategy(folder) == strategy(same)


def test_list_is_the_mode_of_this_name(network: Path, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"second": 8}')
    folder = ran(network, tmp_path / "r", allocator="list", strategy=tmp_path / "s.json")
    assert report_of(folder)["mode"] == "list"
    with pytest.raises(AmcError, match="--mode list and --strategy FILE belong together"):
        TrainConfig.of(strategy=tmp_path / "s.json")


@pytest.mark.parametrize("metric", ["l2", "taylor"])
def test_ranking_takes_the_scores_of_the_metric(
    metric: str, network: Path, tmp_path: Path
) -> None:
    folder = ran(network, tmp_path / "r", allocator="ranking", metric=metric)
    assert report_of(folder)["macs"]["ratio"] <= 0.5


def test_what_legr_has_learned_is_used_again(network: Path, tmp_path: Path) -> None:
    learned = ran(network, tmp_path / "learned", allocator="legr", finalists=1, episodes=12)
    content = json.loads((learned / "ranking.json").read_text())
    assert content["format"] == "amc-ranking/1" and content["about"] == {"metric": "lasso"}
    file = learned / "ranking.json"
    again = ran(network, tmp_path / "a", allocator="legr", ranking=file, preserve_ratio=0.4)
    assert report_of(again)["episodes"] == 0 and report_of(again)["macs"]["ratio"] <= 0.4
    with pytest.raises(AmcError, match="made with other metric: 'lasso', now 'l1'"):
        ran(network, tmp_path / "b", allocator="legr", ranking=file, metric="l1")
    with pytest.raises(AmcError, match="--ranking belongs to --allocator legr"):
        ran(network, tmp_path / "c", ranking=file)
    with pytest.raises(AmcError, match=r"is no score_curves\.json of a run"):
        ran(network, tmp_path / "d", allocator="greedy", score_curves=file)


def test_measured_score_curves_are_used_again_on_the_same_weights(
    network: Path, tmp_path: Path
) -> None:
    folder = ran(network, tmp_path / "measured", allocator="greedy", episodes=14)
    entries = [json.loads(x) for x in (folder / "episodes.jsonl").read_text().splitlines()[1:]]
    assert len(entries) == report_of(folder)["episodes"] == 14
    assert report_of(folder)["macs"]["ratio"] <= 0.5  # though most were measured above it
    file = folder / "score_curves.json"
    again = ran(network, tmp_path / "a", allocator="greedy", score_curves=file, preserve_ratio=0.6)
    assert report_of(again)["episodes"] == 0 and report_of(again)["macs"]["ratio"] <= 0.6
    same = ran(network, tmp_path / "b", allocator="greedy", score_curves=file)
    assert strategy(same) == entries[-1]["strategy"] or strategy(same)
    content = json.loads(file.read_text())
    content["about"]["weights"] = "others"
    file.write_text(json.dumps(content))
    with pytest.raises(AmcError, match="made with other weights: 'others', now"):
        ran(network, tmp_path / "c", allocator="greedy", score_curves=file)
    with pytest.raises(AmcError, match="--patience belongs to allocators that improve"):
        TrainConfig.of(allocator="greedy", patience=3)


def test_functions_of_the_users_own(network: Path, tmp_path: Path) -> None:
    at_once = ran(network, tmp_path / "a", allocator=f"{network}:narrow")
    assert report_of(at_once)["episodes"] == 0
    assert {v["channels"] if isinstance(v, dict) else v for v in strategy(at_once).values()}
    tried = ran(network, tmp_path / "b", allocator=f"{network}:walk")
    assert report_of(tried)["episodes"] == 3  # it has no more to propose
    with pytest.raises(AmcError, match="times what may be spent; the nearest"):
        ran(network, tmp_path / "c", allocator=f"{network}:wide")
    with pytest.raises(AmcError, match="has nothing called nothing"):
        ran(network, tmp_path / "d", allocator=f"{network}:nothing")
    named = TrainConfig.of(allocator=f"{network}:walk").folder
    assert named == Path("runs/resnet20-digits-walk-0.5-seed0")
    assert TrainConfig.of(allocator="legr").folder.name == "resnet20-digits-legr-0.5-seed0"
    assert TrainConfig().folder.name == "resnet20-digits-auto-0.5-seed0"
