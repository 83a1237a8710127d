"""Tasks other than classification, in parts and end to end; classification stays as it was."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import amc
from amc.config.apply import ApplyConfig
from amc.config.command_line import parse
from amc.config.many_budgets import LearnConfig, ParetoConfig
from amc.config.train import TrainConfig, record_settings
from amc.data import load_data
from amc.data.loader import TensorLoader
from amc.pareto import verdict
from amc.reporting.comparison import Attempt, comparison_table, verdicts
from amc.reporting.pareto_front import Point, front_table
from amc.runtime.errors import AmcError
from amc.runtime.user_code import load_function
from amc.tasks.evaluate import Score, evaluate, predictions, reference_outputs
from amc.tasks.task import CLASSIFICATION, Task, accuracy, load_task, relative_error
from amc.train import run
from amc.training.distillation import Distillation, supervised
from amc.training.short_training import ShortTraining
from envs.rewards import reward_function

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

MINE = """
import math
import torch, torch.nn.functional as F
from torch import nn
from amc import Task
from amc.data import TensorLoader

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))

def wrapped():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network()
        def forward(self, x):
            return {"out": self.body(x), "rest": x}
    return Wrapped()

def nothing():
    class Nothing(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network()
        def forward(self, x):
            return {"depth": self.body(x)}
    return Nothing()

def flat():
    return nn.Sequential(network(), nn.Flatten(0))

def stream(count, shuffle=False):
    generator = torch.Generator().manual_seed(count)
    x = torch.randn(count, 2, 6, 6, generator=generator)
    return TensorLoader(x, torch.cat([x, x[:, :1] * x[:, 1:]], 1), batch_size=16, shuffle=shuffle)

def data():
    return stream(64, True), stream(40), stream(30)

def rmse(results):
    pairs = [(f, t) for f, t in results]
    f, t = (torch.cat(part) for part in zip(*pairs))
    return -float((f - t).square().mean().sqrt())

def task():
    return Task("minus RMSE", F.mse_loss, rmse)

value = task()

class Plain:
    name = "minus RMSE"
    percent = False
    def loss(self, outputs, targets): return F.mse_loss(outputs, targets)
    def score(self, results): return rmse(results)

part = Task("share", F.mse_loss, lambda results: 0.25 + 0 * rmse(results), percent=True)
lazy = Task("lazy", F.mse_loss, lambda results: 1.0)

class NoLoss: name, score = "x", rmse
class NoName:
    loss, score = F.mse_loss, rmse
class NotCallable:
    name, loss, score = "x", F.mse_loss, 3
class BadDistance(Plain): distance = 1.0
def failing(): raise RuntimeError("two\\nlines")
empty = None

def bad(**parts):
    return Task(**{"name": "n", "loss": F.mse_loss, "score": rmse, **parts})
def raises(*given): raise KeyError("channel")

loss_raises = bad(loss=raises)
loss_tensor = bad(loss=lambda f, t: (f - t).square().mean(dim=0))
loss_number = bad(loss=lambda f, t: 1.5)
loss_nan = bad(loss=lambda f, t: (f - t).mean() * math.nan)
loss_flat = bad(loss=lambda f, t: (f.detach() - t).square().mean())
score_raises = bad(score=raises)
score_nan = bad(score=lambda results: math.nan)
score_text = bad(score=lambda results: "0.5")
score_none = bad(score=lambda results: None)
score_tensor = bad(score=lambda results: torch.zeros(3))
distance_raises = bad(distance=raises)
distance_nan = bad(distance=lambda f, w: (f - w).mean() / 0)
distance_tensor = bad(distance=lambda f, w: (f - w).square())
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("task") / "mine.py"
    path.write_text(MINE)
    return str(path)


def settings(mine: str, **more: Any) -> dict[str, Any]:
    return {
        "model": f"{mine}:network", "data": f"{mine}:data", "task": f"{mine}:task", "episodes": 4,
        "warmup_episodes": 2, "finetune_epochs": 1, "learning_rate": 0.01, "device": "cpu",
        "calibration_batches": 2, "quiet": True, **more,
    }  # fmt: skip


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


@pytest.fixture(scope="module")
def finished(mine: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "auto"
    return run(TrainConfig.of(run_dir=folder, **settings(mine)))


# A run


def test_the_report_tells_the_score_of_the_task(finished: Path, mine: str) -> None:
    report = report_of(finished)
    assert 0.4 < report["macs"]["ratio"] <= 0.5
    data = load_data(f"{mine}:data", labelled=False)
    x, y = zip(*data.test, strict=True)
    for name, network in (
        ("original", load_function(f"{mine}:network")()),
        ("recovered", amc.load_pruned(load_function(f"{mine}:network")(), finished)),
    ):
        with torch.no_grad():
            error = (network.eval()(torch.cat(x)) - torch.cat(y)).square().mean().sqrt()
        assert report["accuracy"][name] == pytest.approx(-float(error), abs=1e-5)


def test_the_record_holds_scores_and_distances(finished: Path) -> None:
    header, *entries = map(json.loads, (finished / "episodes.jsonl").read_text().splitlines())
    assert header["task"].endswith("mine.py:task")
    assert len(entries) == 4
    assert all(e["accuracy"] < 0 < e["loss"] and e["images"] == 40 for e in entries)
    assert all(e["reward"] == -e["divergence"] < 0 for e in entries)


def test_tensorboard_names_the_score(finished: Path) -> None:
    events = EventAccumulator(str(finished))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {
        "2 search/minus RMSE",
        "3 training/validation minus RMSE",
        "7 numbers/minus RMSE",
    } <= tags
    assert not any("accuracy" in tag for tag in tags)


def test_the_same_seed_gives_the_same_network(finished: Path, mine: str, tmp_path: Path) -> None:
    again = run(TrainConfig.of(run_dir=tmp_path / "again", **settings(mine)))
    for name in ("episodes.jsonl", "plan.json", "pruned.safetensors"):
        assert (again / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize("kind", ["value", "Plain"])
def test_a_task_is_an_object_a_class_or_a_function(
    finished: Path, mine: str, tmp_path: Path, kind: str
) -> None:
    other = settings(mine, task=f"{mine}:{kind}", run_dir=tmp_path / "r")
    assert report_of(run(TrainConfig.of(**other)))["accuracy"] == report_of(finished)["accuracy"]


@pytest.mark.parametrize(
    "more",
    [
        {"regime": "finetune", "reward_steps": 2, "agent": "random"},
        {"group_size": 1, "stop_drop": 1e-6, "mode": "uniform"},
        {"distill": False, "mode": "uniform", "reward": "loss"},
        {"feature_weight": 0.5, "mode": "uniform", "reward": "accuracy"},
        {"model": "wrapped", "mode": "uniform"},
    ],
    ids=["quick", "staged", "alone", "features", "wrapped"],
)
def test_everything_that_trains_knows_the_task(
    mine: str, tmp_path: Path, more: dict[str, Any]
) -> None:
    if "model" in more:
        more = {**more, "model": f"{mine}:{more['model']}"}
    folder = run(TrainConfig.of(**settings(mine, run_dir=tmp_path / "r", **more)))
    assert all(-9 < score < 0 for score in report_of(folder)["accuracy"].values())


def test_the_terminal_names_the_score(
    mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(TrainConfig.of(**settings(mine, run_dir=tmp_path / "r", quiet=False, mode="uniform")))
    said = capsys.readouterr().out
    assert "test minus RMSE" in said and "after the cut, before training" in said
    assert "scored by minus RMSE" in said and "accuracy" not in said
    assert f"--task {mine}:task" in said


def test_a_training_that_makes_it_worse_is_not_taken(
    mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = settings(mine, run_dir=tmp_path / "r", quiet=False, mode="uniform", preserve_ratio=0.9)
    folder = run(TrainConfig.of(**{**own, "learning_rate": 1e5}))
    assert "the network stays as it was" in capsys.readouterr().out
    scores = report_of(folder)["accuracy"]
    assert scores["recovered"] == scores["pruned"]


# What a task is asked for


def test_a_score_goes_through_all_batches_once_and_the_loss_is_complete(mine: str) -> None:
    model = nn.Linear(3, 3)
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    batches = [(x[:7], 2 * x[:7]), (x[7:], 2 * x[7:])]
    seen: list[int] = []

    def first(results: Any) -> float:
        seen.append(len(next(iter(results))[0]))
        return 12.5

    task = Task("first", F.mse_loss, first)
    found = evaluate(model, batches, reference=reference_outputs(model, batches, task), task=task)
    assert (found.accuracy, found.images, found.divergence, seen) == (12.5, 10, 0.0, [7])
    assert found.loss == pytest.approx(F.mse_loss(model(x), 2 * x).item(), rel=1e-6)
    assert evaluate(model, [], task=task) == Score(0.0, 0.0, 0)


def test_relative_error_is_a_part_of_the_variance() -> None:
    reference = torch.randn(50, 3, 4, generator=torch.Generator().manual_seed(0)) + 100
    assert float(relative_error(reference, reference)) == 0
    mean = reference.mean(dim=(0, 2), keepdim=True).expand_as(reference)
    assert float(relative_error(mean, reference)) == pytest.approx(1, rel=1e-4)
    assert float(relative_error(reference + 1, reference)) == pytest.approx(
        1 / float((reference - mean).square().mean()), rel=1e-3
    )
    one = torch.tensor([[2.0, 4.0]])  # one image: no variance
    assert float(relative_error(0 * one, one)) == pytest.approx(1)
    assert math.isfinite(float(relative_error(one, 0 * one)))


def test_distillation_weighs_the_distance() -> None:
    x, y = torch.ones(4, 3), torch.zeros(4, 3)
    student, teacher = nn.Linear(3, 3), nn.Linear(3, 3)
    task = Task("n", F.mse_loss, lambda r: 0.0, distance=lambda f, w: (f - w).abs().mean())
    found = Distillation(teacher, weight=3.0, task=task)(student, x, y)
    apart = (student(x) - teacher(x)).abs().mean()
    torch.testing.assert_close(found, F.mse_loss(student(x), y) + 3 * apart)
    torch.testing.assert_close(supervised(task)(student, x, y), F.mse_loss(student(x), y))
    quick = ShortTraining.of([(x, y)], 1, teacher, task)  # type: ignore[arg-type]
    assert torch.equal(quick.reference[0], teacher(x).detach())


def test_the_built_in_task_is_classification() -> None:
    assert load_task("classification") is CLASSIFICATION
    assert record_settings(TrainConfig.of(task="a:b"))["task"] == "a:b"
    scores, labels = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1])
    assert accuracy([(scores, labels), (scores, labels)]) == 0.5
    assert CLASSIFICATION.shown(0.5) == "50.00%"


# Tables


def test_tables_of_other_commands_name_the_score() -> None:
    task = Task("minus RMSE", F.mse_loss, lambda r: 0.0)
    points = [Point(1.0, 1000, 10, 1.0, -2.0, -2.1), Point(0.5, 500, 5, 0.5, -2.5, -2.6)]
    table = front_table(points[1:], points[0], task)
    assert [list(c.cells) for c in table.columns[5:8]] == [
        ["-2", "-2.5"], ["", "0.5"], ["-2.1", "-2.6"]
    ]  # fmt: skip
    assert table.columns[5].header == "minus RMSE"
    assert verdict(points[1], points[0], 1.0, task).endswith("50.0% of the MACs and loses 0.5")
    cut = {"validation": -2.0, "test": -3.0}
    a = Attempt("a", 0, (1.0,), {}, 500, -2.0, 1.0, cut)
    b = Attempt("b", 0, (0.5,), {}, 500, -2.0, 1.0, {**cut, "test": -3.5})
    (line,) = verdicts({"a": [a], "b": [b]}, task)
    assert line.endswith("test minus RMSE after the cut +0.5")
    assert list(comparison_table({"a": [a]}, 1000, task).columns[5].cells) == ["-3"]


def test_other_commands_take_the_task() -> None:
    words = ["--task", "my.py:task"]
    assert parse(ApplyConfig, "apply", [*words, "--policy", "p"]).data.task == "my.py:task"
    assert parse(LearnConfig, "learn", words).data.task == "my.py:task"
    assert parse(ParetoConfig, "pareto", words).data.task == "my.py:task"


# What will not do


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("taks", ["has nothing called taks", "did you mean task?"]),
        ("empty", ["has nothing called empty"]),
        ("failing", ["--task", "RuntimeError: two lines"]),
        ("network", ["Sequential.name must be text, got nothing"]),
        ("NoLoss", ["NoLoss.loss must be a function, got nothing"]),
        ("NoName", ["NoName.name must be text"]),
        ("NotCallable", ["NotCallable.score must be a function, got 3"]),
        ("BadDistance", ["BadDistance.distance must be a function, got 1.0"]),
        ("loss_raises", [":loss_raises: loss: KeyError: 'channel'"]),
        ("loss_tensor", ["loss must return a scalar tensor, got a tensor [3, 6, 6]"]),
        ("loss_number", ["loss must return a scalar tensor, got float 1.5"]),
        ("loss_nan", ["loss is nan for the original network"]),
        ("loss_flat", ["loss has no gradient"]),
        ("score_raises", [":score_raises: score: KeyError"]),
        ("score_nan", ["score must return a finite number, got float nan"]),
        ("score_text", ["score must return a finite number, got str 0.5"]),
        ("score_none", ["score must return a finite number, got NoneType"]),
        ("score_tensor", ["score must return a finite number, got a tensor [3]"]),
        ("distance_raises", [":distance_raises: distance: KeyError"]),
        ("distance_nan", ["distance is nan for the original network"]),
        ("distance_tensor", ["distance must return a scalar tensor, got a tensor [40, 3, 6, 6]"]),
    ],
)
def test_a_task_that_will_not_do_is_refused_in_one_line(
    mine: str, tmp_path: Path, name: str, parts: list[str]
) -> None:
    config = TrainConfig.of(**settings(mine, task=f"{mine}:{name}", run_dir=tmp_path / "r"))
    with pytest.raises(AmcError) as caught:
        run(config)
    line = str(caught.value)
    assert "\n" not in line and f"{mine}:{name}" in line
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"model": "nothing"}, "must return a tensor, alone, first of several"),
        ({"model": "flat"}, "must return a tensor [batch, ...], got shape (4320,)"),
        ({"reward": "accuracy_flops"}, "needs a score that is a part of one, not minus RMSE"),
        ({"task": "classification"}, "others need a --task"),
    ],
)
def test_settings_that_do_not_fit_the_task(
    mine: str, tmp_path: Path, more: dict[str, str], part: str
) -> None:
    own = {k: f"{mine}:{v}" if k == "model" else v for k, v in more.items()}
    with pytest.raises(AmcError) as caught:
        run(TrainConfig.of(**settings(mine, run_dir=tmp_path / "r", **own)))
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_bundled_networks_need_weights_for_another_task(mine: str, tmp_path: Path) -> None:
    own = settings(mine, model="resnet20", data="digits", run_dir=tmp_path / "r", mode="uniform")
    with pytest.raises(AmcError, match="is trained here to classify"):
        run(TrainConfig.of(**own))
    with pytest.raises(AmcError, match="--label-smoothing belongs to classification"):
        TrainConfig.of(**settings(mine, label_smoothing=0.1))


def test_targets_are_looked_at(mine: str, tmp_path: Path) -> None:
    path = tmp_path / "few.py"
    path.write_text(
        "import torch\n"
        "def data():\n    one = [(torch.zeros(4, 2), torch.zeros(3, 5))]\n"
        "    return one, one, one\n"
        "def fine():\n    one = [(torch.zeros(4, 2), torch.zeros(4, 5))]\n"
        "    return one, one, one\n"
    )
    with pytest.raises(AmcError, match=r"train yields .*expected \(inputs \[B, ...\] float32"):
        load_data(f"{path}:data", labelled=False)
    found = load_data(f"{path}:fine", labelled=False)
    assert (found.num_classes, found.input_shape) == (0, (2,))


def test_rewards_of_a_size_need_a_part_of_one(mine: str) -> None:
    assert reward_function("accuracy_flops", load_task(f"{mine}:part"))
    assert load_task(f"{mine}:part").shown(0.25) == "25.00%"


# The examples


@pytest.mark.parametrize("name", ["segmentation", "regression"])
def test_an_example_fits_together(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = EXPERIMENTS / f"{name}.py"
    task = load_task(f"{path}:task")
    module = sys.modules[str(path.resolve())]
    images, truth = module.drawn(6, seed=0)
    assert torch.equal(images, module.drawn(6, seed=0)[0])
    monkeypatch.setattr(module, "trained", lambda model, *_: (model, ""))
    data = TensorLoader(images, truth, batch_size=6)
    monkeypatch.setattr(module, "data", lambda: type("D", (), {"train": data}))
    model = module.network()
    found = predictions(model.eval(), images).detach()
    dense = name == "segmentation"
    assert found.shape == ((6, 4, 32, 32) if dense else (6, 2))
    assert truth.shape == ((6, 32, 32) if dense else (6, 2))
    assert float(task.divergence(found, found)) == 0 < float(task.divergence(found.flip(0), found))
    assert (0 if dense else -40) < evaluate(model, data, task=task).accuracy < dense
    perfect: Tensor = F.one_hot(truth, 4).movedim(-1, 1).float() if dense else truth
    assert task.scored([(perfect, truth)]) == dense
