"""How a run went: phases of a search, trainings."""

import json
from pathlib import Path

import torch

from amc.runs.history import Phases, keep_training, made_by

LEARNED = {"train/actor_loss": 1.0}


def after(*walks: tuple[int, bool]) -> Phases:
    phases = Phases()
    for episodes, learned in walks:
        phases.after(episodes, LEARNED if learned else {})
    return phases


def test_warm_up_ends_where_the_agent_learns() -> None:
    phases = after((1, False), (2, False), (3, True), (4, True))
    assert phases.as_json("ddpg", tried=5, limit=5, walks=1) == {
        "agent": "ddpg",
        "warmup": 2,
        "without_noise": 4,
    }


def test_a_search_that_was_cut_short_has_no_walk_without_noise() -> None:
    stopped = after((1, False), (2, True))
    assert stopped.as_json("ddpg", tried=2, limit=9, walks=1)["without_noise"] is None
    within_a_pair = after((2, False), (4, True))
    assert within_a_pair.as_json("td3", tried=5, limit=9, walks=2)["without_noise"] is None
    assert within_a_pair.as_json("td3", tried=5, limit=6, walks=2)["without_noise"] == 4
    assert Phases().as_json("sac", tried=1, limit=1, walks=1)["without_noise"] is None


def test_an_agent_that_has_not_learned_was_warming_up_all_the_time() -> None:
    found = after((1, False), (2, False)).as_json("ddpg", tried=3, limit=3, walks=1)
    assert found == {"agent": "ddpg", "warmup": 3, "without_noise": None}


def test_trainings_take_their_own_places(tmp_path: Path) -> None:
    keep_training(tmp_path, 1, False, 0.1, 2, [0.5, 0.6])
    keep_training(tmp_path, 0, True, 0.01, 0, [0.5, float("-inf")])
    keep_training(tmp_path, 0, False, 0.1, 0, [0.5])
    keep_training(tmp_path, 1, False, 0.1, 2, [0.5, 0.7])  # resumed
    found = json.loads((tmp_path / "trainings.json").read_text())["trainings"]
    assert [(one["stage"], one["again"], one["scores"]) for one in found] == [
        (0, False, [0.5]),
        (0, True, [0.5, None]),
        (1, False, [0.5, 0.7]),
    ]


def test_versions() -> None:
    made = made_by(torch.device("cpu"))
    assert made["versions"]["torch"] == torch.__version__ and made["threads"] >= 1
