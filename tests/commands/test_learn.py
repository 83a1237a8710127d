"""``python -m amc.learn`` and ``python -m amc.pareto``: one policy, every size."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import amc
from amc import learn, pareto
from amc.allocators.uniform import uniform
from amc.config.composed import Composed
from amc.config.many_budgets import LearnConfig, ParetoConfig, several
from amc.config.train import TrainConfig
from amc.graph.plan import Strategy
from amc.models.catalog import build
from amc.objectives.budget import Budget
from amc.pareto import verdict
from amc.reporting.pareto_front import Point, smallest
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json
from amc.search.policies import kept, known_strategies, load_learned
from amc.studies.sweep import Sweep, closer
from amc.tasks.batches import head, tail
from amc.train import main as train_main
from amc.train import run as train
from small_problems import budget_of, chain, learned

QUICK = partial(dict, width=0.5, calibration_batches=2, device="cpu", quiet=True, reward_images=40)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet20.safetensors"
    save_file(build("resnet20", num_classes=10, in_channels=1, width=0.5).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """The folder of a policy for three budgets."""
    folder = tmp_path_factory.mktemp("lesson") / "learn"
    return learn.run(LearnConfig.of(
        **QUICK(), checkpoint=checkpoint, preserve_ratio="0.3:0.7", targets=3, episodes=18,
        run_dir=folder,
    ))  # fmt: skip


# ---- settings


@pytest.mark.parametrize(
    ("given", "count", "expected"),
    [
        ("0.5", 5, [0.5]),
        ("0.7,0.3,0.3", 5, [0.3, 0.7]),
        ("0.3:0.7", 5, [0.3, 0.4, 0.5, 0.6, 0.7]),
        ("0.1:1", 2, [0.1, 1.0]),
    ],
)
def test_targets_are_a_list_or_a_range(given: str, count: int, expected: list[float]) -> None:
    assert several(given, count) == expected


@pytest.mark.parametrize(
    "given", ["", "a", "0.3:", "0.7:0.3", "0.3:0.5:0.7", "0.3,", "0.1:0.2,0.3", "0", "1.5", "nan",
              "0:0.5", "nan:0.5"],
)  # fmt: skip
def test_what_is_no_target_is_refused(given: str) -> None:
    with pytest.raises(AmcError, match="--preserve-ratio") as refused:
        several(given, 5)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        (LearnConfig, {"targets": 1}, "--targets must be 2 or more"),
        (LearnConfig, {"episodes": 9}, "the least is 10"),
        (LearnConfig, {"model": ","}, "names no network"),
        (LearnConfig, {"model": "a,b", "checkpoint": Path("c")}, "belongs to one network"),
        (LearnConfig, {"min_ratio": 2.0}, "--min-ratio"),
        (ParetoConfig, {"max_drop": -1.0}, "--max-drop"),
        (ParetoConfig, {"steps": -1}, "--steps"),
        (ParetoConfig, {"finetune_epochs": -1}, "--finetune-epochs"),
    ],
)
def test_impossible_settings_are_refused(
    config: type[Composed], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(AmcError, match=message) as refused:
        config.of(**given)
    assert "\n" not in str(refused.value)


def test_infeasible_target_is_refused_before_anything_long(tmp_path: Path) -> None:
    config = LearnConfig.of(**QUICK(), preserve_ratio="0.0001,0.5", run_dir=tmp_path, episodes=4)
    with pytest.raises(AmcError, match="nearest"):
        learn.run(config)
    assert not list(tmp_path.glob("*.jsonl"))


# ---- learning


def test_policy_says_where_it_was_learned_and_what_was_best(lesson: Path) -> None:
    policy, account = load_learned(lesson), read_json(lesson / "learned.json")["budgets"]
    assert policy.metadata["targets"] == [0.3, 0.5, 0.7]
    assert policy.metadata["networks"] == ["resnet20"]
    assert [row["target"] for row in account] == [0.3, 0.5, 0.7]
    for row, best in zip(account, policy.metadata["best"], strict=True):
        lines = (lesson / f"resnet20-{row['target']:g}.jsonl").read_text().splitlines()[1:]
        tried = [json.loads(line) for line in lines]
        assert len(tried) == 6
        top = max(tried, key=lambda episode: episode["reward"])
        assert row["reward"]["uniform"] == tried[0]["reward"]
        assert row["reward"]["best"] == top["reward"]
        assert row["reward"]["policy"] == tried[-1]["reward"]
        assert {name: kept for name, (kept, _) in best["channels"].items()} == top["strategy"]
        assert 0.98 * row["target"] <= row["macs_ratio"] <= row["target"]


def test_learning_goes_on_from_a_record_to_the_same_policy(
    lesson: Path, checkpoint: Path, tmp_path: Path
) -> None:
    for path in lesson.glob("*.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        (tmp_path / path.name).write_text("".join(lines[:4]) + lines[4][:20])
    learn.run(LearnConfig.of(
        **QUICK(), checkpoint=checkpoint, preserve_ratio="0.3:0.7", targets=3, episodes=18,
        run_dir=tmp_path,
    ))  # fmt: skip
    for name in ("policy.safetensors", "policy.json", "resnet20-0.5.jsonl"):
        assert (tmp_path / name).read_bytes() == (lesson / name).read_bytes(), name


def test_learning_over_two_networks(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "from amc.models import build\n"
        "from functools import partial\n"
        "one, two = (partial(build, n, width=0.5) for n in ('resnet20', 'plain20'))\n"
    )
    nets = f"{tmp_path / 'nets.py'}:one,{tmp_path / 'nets.py'}:two"
    config = LearnConfig.of(
        **{**QUICK(), "width": 1.0}, model=nets, preserve_ratio="0.4,0.6", episodes=8,
        run_dir=tmp_path / "learn",
    )  # fmt: skip
    policy = load_learned(learn.run(config))
    assert len(policy.metadata["networks"]) == 2 and len(policy.metadata["best"]) == 4


# ---- what a policy remembers


def test_best_strategies_are_scaled_to_other_budgets() -> None:
    policy = load_old(best=[kept(budget_of(r, chain), s) for r, s in lesson_best()])
    for ratio in (0.2, 0.3, 0.4, 0.6, 0.9):
        budget = budget_of(ratio, chain)
        found = known_strategies(policy, budget)
        assert 1 <= len(found) <= 2
        for strategy in found:
            counts = budget.graph.counts(strategy)
            assert budget.allows(strategy)
            assert budget.complete(counts.tolist()).tolist() == counts.tolist()
    exact = budget_of(0.5, chain)
    best = dict(lesson_best())[0.5]
    assert known_strategies(policy, exact)[0] == best


def test_best_strategies_of_another_network_are_not_taken() -> None:
    policy = load_old(best=[kept(budget_of(r, chain), s) for r, s in lesson_best()])
    model = build("resnet20", num_classes=10, in_channels=1, width=0.25)
    other = Budget(amc.trace(model, (torch.randn(2, 1, 16, 16),)), 0.5)
    assert known_strategies(policy, other) == []


def memory(channels: Any, target: Any = 0.5) -> list[Any]:
    others = {"2": [1, 24], "4": [1, 32], "7": [1, 20]}
    return [{"target": target, "channels": {"0": channels, **others}}]


@pytest.mark.parametrize(
    "best", [3, [3], [{}], memory(3), memory([0, 16]), memory([17, 16]), memory([7, 16], "x")]
)
def test_damaged_memories_are_refused(best: Any) -> None:
    with pytest.raises(AmcError, match="damaged") as refused:
        known_strategies(load_old(best=best), budget_of(0.5, chain))
    assert "\n" not in str(refused.value)


def lesson_best() -> list[tuple[float, Strategy]]:
    found = learned()
    return [(r, f.best.strategy) for r, f in zip((0.3, 0.5, 0.7), found, strict=True)]


def load_old(**metadata: Any) -> Any:
    policy = load_learned(Path(__file__).parents[1] / "old" / "policy-2")
    policy.metadata.update(metadata)
    return policy


def test_search_from_a_policy_begins_with_what_it_remembers(
    lesson: Path, checkpoint: Path, tmp_path: Path
) -> None:
    folder = train(TrainConfig.of(
        **QUICK(), checkpoint=checkpoint, policy=lesson, episodes=5, finalists=1,
        finetune_epochs=0, preserve_ratio=0.5, channel_multiple=1, run_dir=tmp_path / "run",
    ))  # fmt: skip
    tried = [json.loads(x) for x in (folder / "episodes.jsonl").read_text().splitlines()[1:]]
    model = build("resnet20", num_classes=10, in_channels=1, width=0.5)
    budget = Budget(amc.trace(model, (torch.randn(2, 1, 16, 16),)), 0.5)
    known = known_strategies(load_learned(lesson), budget)
    assert tried[0]["strategy"] == uniform(budget)
    assert [one["strategy"] for one in tried[2 : 2 + len(known)]] == known


# ---- sweeping


def points(*pairs: tuple[int, float]) -> list[Point]:
    return [Point(macs / 100, macs, macs, 1.0, accuracy, accuracy) for macs, accuracy in pairs]


def test_front_is_what_no_other_network_beats() -> None:
    found = points((10, 0.5), (20, 0.7), (30, 0.6), (40, 0.7), (50, 0.9), (50, 0.8))
    assert [p.on_front(found) for p in found] == [True, True, False, False, True, False]
    assert smallest(found, 0.65) == found[1]
    assert smallest(found, 0.95) is None


def sweeping(accuracy: Any) -> Any:
    asked: list[float] = []

    def point(ratio: float) -> Point:
        asked.append(ratio)
        return Point(ratio, round(ratio * 1000), 1, 1.0, accuracy(ratio), 0.0)

    return asked, point


def test_sweep_comes_closer_to_the_smallest_network_that_is_good_enough() -> None:
    asked, point = sweeping(lambda ratio: ratio)
    known = {ratio: point(ratio) for ratio in (0.2, 0.4, 0.8)}
    closer(known, 0.5, 6, point)
    assert asked[3:] == [0.6, 0.5, 0.45, 0.475, 0.4875, 0.4938]
    best = smallest(list(known.values()), 0.5)
    assert best is not None and best.target == 0.5


@pytest.mark.parametrize(("least", "tried"), [(0.1, []), (0.95, [0.9, 0.95, 0.925])])
def test_sweep_has_ends(least: float, tried: list[float]) -> None:
    """Nothing smaller is tried than was asked for; between the largest and the original it is."""
    asked, point = sweeping(lambda ratio: ratio)
    known = {ratio: point(ratio) for ratio in (0.2, 0.8)}
    closer(known, least, 3, point)
    assert asked[2:] == tried


def test_verdict_never_allows_more_than_was_given() -> None:
    original = Point(1.0, 1000, 1, 1.0, 0.9, 0.9)
    found = points((100, 0.889), (200, 0.8901), (300, 0.9))
    chosen = smallest(found, original.accuracy - 1 / 100)
    assert chosen == found[1]
    assert "loses 0.99 points" in verdict(chosen, original, 1.0)
    assert "every network loses more" in verdict(None, original, 1.0)


def test_tail_is_what_head_leaves() -> None:
    x = torch.arange(23.0)
    batches = [(x[i : i + 5], x[i : i + 5]) for i in range(0, 23, 5)]
    for count in (0, 3, 5, 12, 23, 40):
        first = (
            [v for images, _ in head(batches, count, 4) for v in images.tolist()] if count else []
        )
        rest = [v for images, _ in tail(batches, count) for v in images.tolist()]
        assert first + rest == x.tolist()


def test_sweep_writes_networks_that_load_and_goes_on(
    lesson: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ParetoConfig.of(
        **QUICK(), checkpoint=checkpoint, policy=lesson, preserve_ratio="0.3,0.6", max_drop=100,
        steps=1, run_dir=tmp_path / "sweep",
    )  # fmt: skip
    folder = pareto.run(config)
    account = read_json(folder / "pareto.json")
    assert [p["target"] for p in account["points"]] == [0.6, 0.3]
    assert account["max_drop"]["chosen"] == 0.3
    assert account["held_out"] == "140 validation images"
    assert (folder / "pareto.svg").read_text().startswith("<?xml")
    model = build("resnet20", num_classes=10, in_channels=1, width=0.5)
    for point in account["points"]:
        small = amc.load_pruned(model, folder / "points" / f"{point['target']:g}")
        assert sum(p.numel() for p in small.parameters()) == point["params"]
        assert point["macs"] <= point["target"] * account["original"]["macs"]

    cuts: list[float] = []
    original_cut = Sweep._cut
    monkeypatch.setattr(
        Sweep, "_cut", lambda self, ratio, about: cuts.append(ratio)
        or original_cut(self, ratio, about),
    )  # fmt: skip
    (folder / "points/0.3/point.json").unlink()
    again = read_json(pareto.run(config) / "pareto.json")
    assert cuts == [0.3]
    for old, new in zip(account["points"], again["points"], strict=True):
        assert {**old, "latency": 0} == {**new, "latency": 0}


@pytest.mark.parametrize("command", [learn, pareto])
def test_commands_end_with_one_line(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = command.__name__
    for words in (["--preserve-ratio", "2"], ["--nothing"], ["--data", "none"]):
        monkeypatch.setattr("sys.argv", [name, *words])
        with pytest.raises(SystemExit) as ended:
            command.main()
        assert str(ended.value).startswith(f"{name}: ") and "\n" not in str(ended.value)


@pytest.mark.parametrize(
    ("words", "several"),
    [
        (["--preserve-ratio", "0.3:0.7"], True),
        (["--model", "resnet20,plain20"], True),
        (["--preserve-ratio", "2"], False),
        (["--model", "nets.py:absent"], False),
    ],
)
def test_train_says_who_learns_for_several(
    words: list[str], several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["amc.train", *words])
    with pytest.raises(SystemExit) as ended:
        train_main()
    assert ("python -m amc.learn" in str(ended.value)) == several
