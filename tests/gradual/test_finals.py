"""Finalists that are trained before one is chosen: who wins, what is told, and after a stop."""

import copy
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from torch import nn

from amc.config.train import TrainConfig
from amc.data import images_in, load_data
from amc.gradual import finals as step
from amc.graph.plan import Strategy
from amc.graph.plan_files import load_plan
from amc.models.catalog import build
from amc.objectives.budget import Budget
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json
from amc.steps import allocate, finetune
from amc.steps.finetune import Recovery
from amc.studies import max_drop
from amc.tasks.drop import PartScores
from amc.train import run
from amc.training import trainer
from amc.training.recipe import Recipe
from forked_runs import ForkedRun
from made_once import made_once
from small_runs import forking, with_signals, words

NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.Conv2d(12, 16, 1)
        self.c, self.d, self.e = nn.Conv2d(16, 12, 1), nn.Conv2d(12, 16, 3), nn.Conv2d(16, 12, 1)
        self.fc, self.drop = nn.Linear(12, 10), nn.Dropout(0.1)
    def forward(self, x):
        x = self.norm(self.a(x)).relu()
        x = (x + self.c(self.b(x).relu())).relu()
        return self.fc(self.drop(self.e(self.d(x).relu()).relu().mean((2, 3))))
def net():
    torch.manual_seed(0)
    return Net()
def tuned(model, original, data, epochs):
    with torch.no_grad():
        for tensor in model.fc.parameters():
            tensor.mul_(1 + epochs)  # which no prediction minds
    return model
def minus_loss(results):
    return -sum(nn.functional.cross_entropy(y, t).item() for y, t in results)
import amc
task = amc.Task("minus loss", nn.functional.cross_entropy, minus_loss)
"""

LAST = "e"
"""The layer whose width decides in the planted problem: the narrower, the better."""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learned a little."""

    def make(at: Path) -> None:
        (at / "net.py").write_text(NET)
        model = build(f"{at / 'net.py'}:net", num_classes=10, in_channels=1)
        trainer.train(model, load_data("digits").train, Recipe(5, 0.1))
        save_file(model.state_dict(), at / "net.safetensors")

    return made_once(tmp_path_factory, "finals", make)


@pytest.fixture(scope="module")
def simple(few_digits: str, net: Path) -> dict[str, Any]:
    """Settings of a run of a second or two: four finalists in two rounds, then two epochs."""
    return dict(
        model=f"{net / 'net.py'}:net", checkpoint=net / "net.safetensors", data=few_digits,
        device="cpu", quiet=True, allocator="random", episodes=6, calibration_batches=2,
        finetune_epochs=2, reward_images=40, finalists=4, finalist_epochs=1, preserve_ratio=0.3,
        learning_rate=0.05,
    )  # fmt: skip


def rounds_in(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_json(folder / "report.json")["finals"]
    return found


def width(strategy: dict[str, int]) -> int:
    return strategy[LAST]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Training is instant, and the narrower a layer the better; so much noise is between parts."""
    begun: list[int] = []

    def once(
        self: Recovery, model: nn.Module, plan: Any, epochs: int, name: str, first: int, told: Any
    ) -> nn.Module:
        begun.append(epochs)
        for _ in range(epochs):
            told()
        return copy.deepcopy(model)

    def plant(noise: float) -> None:
        def scores(task: Any, model: nn.Module, parts: Iterable[Any]) -> PartScores:
            found = getattr(model, LAST).out_channels
            each = [0.5 - found / 100 + noise * (-1) ** (i + found) for i in range(20)]
            return PartScores(tuple(each), (10,) * 20)

        monkeypatch.setattr(step, "part_scores", scores)

    monkeypatch.setattr(Recovery, "once", once)
    return plant


def test_what_trains_better_is_found_though_it_looks_worse_after_the_cut(
    simple: dict[str, Any], tmp_path: Path, planted: Callable[[float], None]
) -> None:
    planted(0.0)
    settings = {**simple, "finetune_epochs": 0, "preserve_ratio": 0.5}
    found = run(TrainConfig.of(**settings, run_dir=tmp_path / "trained"))
    first, last = rounds_in(found)
    assert [first["epochs"], first["before"], last["epochs"], last["before"]] == [1, 0, 2, 1]
    widths = [width(one["strategy"]) for one in first["finalists"]]
    assert widths == sorted(widths)
    winner = last["goes_on"][0]
    chosen = next(one for one in last["finalists"] if one["name"] == winner)
    assert width(chosen["strategy"]) == min(widths) and winner != "uniform"
    assert load_plan(found / "plan.json").strategy.get(LAST, 12) == min(widths)
    assert chosen["difference"] == pytest.approx(
        100 * (chosen["score"] - next(o["score"] for o in last["finalists"] if o["first"])),
        abs=1e-4,
    )
    without = run(TrainConfig.of(**{**settings, "finalist_epochs": 0}, run_dir=tmp_path / "cut"))
    assert load_plan(without / "plan.json").strategy.get(LAST, 12) > min(widths)
    assert rounds_in(without) == []


def test_uniform_is_kept_where_differences_are_noise(
    simple: dict[str, Any],
    tmp_path: Path,
    planted: Callable[[float], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    planted(0.4)
    settings = {**simple, "quiet": False, "preserve_ratio": 0.5}
    folder = run(TrainConfig.of(**settings, run_dir=tmp_path / "run"))
    last = rounds_in(folder)[-1]
    assert last["goes_on"] == ["uniform"]
    best = last["finalists"][0]
    assert 0 < best["difference"] <= best["error"]
    said = capsys.readouterr().out
    line = (
        f"finals   widths do not matter here: uniform is within {best['difference']:.2f} ± "
        f"{best['error']:.2f} points of the best of 4 trained finalists"
    )
    assert line in said
    assert re.search(r"round 1  4 trained for 1 epoch: best .*; \d go on", said)
    table = said[said.index("Finals:") :]
    assert "uniform *" in table
    assert all(
        len(row.rstrip()) <= 80 for row in table[: table.index("Before and after")].splitlines()
    )


def macs_of_an_epoch(folder: Path) -> int:
    data = load_data(read_json(folder / "config.json")["data"])
    images = sum(len(labels) for _, labels in data.train)
    assert images_in(data.train) == images
    macs: int = read_json(folder / "report.json")["macs"]["pruned"]
    return images * macs


def assert_same(folder: Path, whole: Path) -> None:
    for name in ("pruned.safetensors", "plan.json", "strategy.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    for name in ("finals", "trained_macs", "accuracy"):
        assert read_json(folder / "report.json")[name] == read_json(whole / "report.json")[name]
    assert not (folder / "finals").exists() and not list(folder.glob("training-*"))


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def whole(simple: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What nothing came in the way of."""
    return run(TrainConfig.of(**simple, run_dir=tmp_path_factory.mktemp("whole") / "run"))


# four for one epoch, two or three for two, one for two
@pytest.mark.parametrize(
    "after", [pytest.param(n, marks=[] if n in (2, 5) else pytest.mark.slow) for n in range(9)]
)
def test_a_run_that_was_stopped_in_its_finals_goes_on_to_the_same_network(
    simple: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    epochs: list[int] = []
    run_epoch = trainer._Training.run_epoch

    def stopping(self: Any, *arguments: Any) -> float:
        epochs.append(self.epoch)
        if len(epochs) == after + 1:
            raise Stopped
        return run_epoch(self, *arguments)

    monkeypatch.setattr(trainer._Training, "run_epoch", stopping)
    with pytest.raises(Stopped):
        run(TrainConfig.of(**simple, run_dir=tmp_path / "run"))
    folder = run(TrainConfig.of(resume=tmp_path / "run", quiet=True))
    contestants = sum(one["epochs"] * len(one["finalists"]) for one in rounds_in(whole))
    last = read_json(whole / "report.json")["trained_macs"]["finetune"] // macs_of_an_epoch(whole)
    assert len(epochs) == contestants + last + 1  # the one that was stopped comes again
    assert_same(folder, whole)


@forking
@with_signals
def test_a_run_that_is_killed_within_a_round_goes_on_to_the_same_network(
    simple: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    folder, here = tmp_path / "run", tmp_path / "here"
    here.mkdir()
    process = ForkedRun(here, *words({**simple, "run_dir": folder}))
    while not list(folder.glob("finals/*/result.json")):
        assert process.poll() is None, process.err
        time.sleep(0.001)
    process.kill()
    assert not (folder / "report.json").exists()
    run(TrainConfig.of(resume=folder, quiet=True))
    assert_same(folder, whole)


def test_the_account_of_what_was_trained(simple: dict[str, Any], whole: Path) -> None:
    report = read_json(whole / "report.json")
    parts, epoch = report["trained_macs"], macs_of_an_epoch(whole)
    assert parts["search"] == 0
    assert parts["finetune"] in (2 * epoch, 4 * epoch)  # what does not help is tried once more
    most = sum(one["epochs"] * len(one["finalists"]) for one in report["finals"])
    full = epoch / report["macs"]["ratio"] * simple["preserve_ratio"]
    assert 0.7 * most * full < parts["finals"] <= most * full * 1.000001


def test_the_final_training_begins_where_the_winner_is(
    simple: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[nn.Module] = []
    load = step.load_pruned
    monkeypatch.setattr(step, "load_pruned", lambda *given: made.append(load(*given)) or made[-1])
    settings = {**simple, "finetune_epochs": 0, "run_dir": tmp_path / "run"}
    folder = run(TrainConfig.of(**settings))
    winner = {name: tensor.clone() for name, tensor in made[-1].state_dict().items()}
    left = load(build(simple["model"], num_classes=10, in_channels=1), folder).state_dict()
    assert all(left[name].equal(tensor) for name, tensor in winner.items())
    assert read_json(folder / "report.json")["trained_macs"]["finetune"] == 0


@pytest.mark.parametrize(
    "given",
    [
        {"finetune": "{net}:tuned", "finalists": 2, "allocator": "knapsack"},
        {"task": "{net}:task", "regime": "finetune", "reward_steps": 1},
        {"schedule": "agp", "schedule_steps": 2, "ema": 0.9, "distill": False},
        {"max_drop": 60.0, "finalists": 2, "objective": "params"},
    ],
    ids=lambda given: "-".join(given),
)
def test_finals_go_with_everything_else(
    simple: dict[str, Any],
    net: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
) -> None:
    monkeypatch.setattr(max_drop, "PROBES", 1)
    given = {
        k: v.replace("{net}", str(net / "net.py")) if isinstance(v, str) else v
        for k, v in given.items()
    }
    settings = {**simple, **given, "run_dir": tmp_path / "run"}
    folder = run(TrainConfig.of(**settings))
    rounds = rounds_in(folder)
    assert len(rounds[0]["finalists"]) == settings["finalists"]
    names = [one["name"] for one in rounds[0]["finalists"]]
    assert "uniform" in names and len(rounds[-1]["goes_on"]) == 1
    chosen = next(
        one for one in rounds[-1]["finalists"] if one["name"] == rounds[-1]["goes_on"][0]
    )
    plan = load_plan(folder / "plan.json").strategy
    assert plan == {name: count for name, count in chosen["strategy"].items() if name in plan}
    if given.get("regime") == "finetune":
        assert read_json(folder / "report.json")["trained_macs"]["search"] > 0


def test_the_original_looks_at_the_training_images_once(
    simple: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    whole = finetune.precomputed
    monkeypatch.setattr(finetune, "precomputed", lambda *a: passes.append(1) or whole(*a))
    run(TrainConfig.of(**{**simple, "finalists": 2}, run_dir=tmp_path / "run"))
    assert len(passes) == 1


class Fitting:
    """A device on which the second strategy has to be that of the first to be fast enough."""

    def corrected(self, budget: Budget, strategy: Strategy) -> Budget:
        return budget

    def fitted(
        self, budget: Budget, strategies: Sequence[Strategy]
    ) -> tuple[list[Strategy], Budget]:
        return [strategies[0], strategies[0], *strategies[2:]], budget


def test_names_are_those_of_what_is_left_once_it_was_made_to_fit(
    simple: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    planted: Callable[[float], None],
) -> None:
    planted(0.0)
    settings = {**simple, "finetune_epochs": 0}
    before = run(TrainConfig.of(**settings, run_dir=tmp_path / "before"))
    monkeypatch.setattr(allocate.OnDevice, "of", lambda *given: Fitting())
    after = run(TrainConfig.of(**settings, run_dir=tmp_path / "after"))
    was, now = (
        {one["name"]: one["strategy"] for one in rounds_in(folder)[0]["finalists"]}
        for folder in (before, after)
    )
    assert set(was) - set(now) == {"search 1"}
    assert all(was[name] == strategy for name, strategy in now.items())


@forking
def test_finalists_are_trained_side_by_side(simple: dict[str, Any], tmp_path: Path) -> None:
    """In processes, each of one thread, as the tests are: the same bits."""
    alone, together = (
        run(TrainConfig.of(**{**simple, "walks": 2}, workers=n, run_dir=tmp_path / f"{n}"))
        for n in (1, 2)
    )
    assert rounds_in(alone) == rounds_in(together)
    name = "pruned.safetensors"
    assert (alone / name).read_bytes() == (together / name).read_bytes()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mode": "uniform"}, "--mode uniform gives one"),
        ({"allocator": "uniform"}, "--mode uniform gives one"),
        ({"channel_ratio": 0.5, "mode": "uniform"}, "--mode uniform gives one"),
        ({"mode": "list", "strategy": "x.json"}, "--mode list gives one"),
        ({"mode": "plan", "plan": "x.json"}, "--mode plan gives one"),
        ({"schedule": "agp", "reallocate": True}, "--reallocate anew in every step"),
        ({"finalists": 1}, "--finalists 2 or more, got 1"),
        ({"finalist_epochs": -1}, "--finalist-epochs"),
    ],
)
def test_what_leaves_no_choice_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(AmcError, match=re.escape(message)):
        TrainConfig.of(**{"finalist_epochs": 1, **given})
