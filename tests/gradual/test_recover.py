"""Recovery within a run: stages, a training that goes on after a stop, a user's own training."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

import amc
from amc.config.sections.recovery import StagesConfig, TrainingConfig
from amc.config.train import TrainConfig
from amc.data import load_data
from amc.gradual.recover import in_stages
from amc.graph.plan import Strategy
from amc.graph.plan_files import load_plan
from amc.models.catalog import build
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json
from amc.schedules.curves import densities, load_schedule
from amc.steps.cut import calibrate, silenced
from amc.steps.finetune import Recovery
from amc.steps.job import Job
from amc.tasks.evaluate import Score, evaluate
from amc.train import run
from amc.training import trainer
from made_once import made_once

OWN = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 12, 1)
        self.c, self.d, self.e = nn.Conv2d(12, 8, 1), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 12, 1)
        self.fc = nn.Linear(12, 10)
    def forward(self, x):
        x = self.norm(self.a(x)).relu()
        x = (x + self.c(self.b(x).relu())).relu()
        return self.fc(self.e(self.d(x).relu()).relu().mean((2, 3)))
def net():
    torch.manual_seed(0)
    return Net()
def tuned(model, original, data, epochs):
    with torch.no_grad():
        for tensor in model.fc.parameters():
            tensor.mul_(epochs)  # which no prediction minds
    return model
def spoilt(model, original, data, epochs):
    with torch.no_grad():
        model.fc.weight.zero_()
    return model
def wrong(model, original, data, epochs):
    return original
def nothing(model, original, data, epochs):
    pass
def fails(model, original, data, epochs):
    raise KeyError("lost")
def exits(model, original, data, epochs):
    raise SystemExit(3)
def revives(model, original, data, epochs):
    with torch.no_grad():
        silent = (model.c.weight == 0).all(0).flatten()
        model.b.weight[silent] *= 1000  # which nothing reads yet: the network does the same
    return model
def ruined(model, original, data, epochs):
    with torch.no_grad():
        model.fc.bias.fill_(float("nan"))
    return model
"""


@pytest.fixture(scope="module")
def simple(few_digits: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run of a second, on a network that has learned nothing."""
    own = made_once(tmp_path_factory, "own", lambda at: (at / "own.py").write_text(OWN)) / "own.py"
    return dict(
        model=f"{own}:net", mode="uniform", data=few_digits, device="cpu", quiet=True,
        calibration_batches=2, finetune_epochs=3, reward_images=40,
    )  # fmt: skip


@pytest.fixture(scope="module")
def common(checkpoint: Path, few_digits: str) -> dict[str, Any]:
    """Settings of a short run without a search, on a network that has learned a little."""
    return dict(
        mode="uniform", width=0.5, checkpoint=checkpoint, data=few_digits, device="cpu",
        calibration_batches=2, quiet=True, finetune_epochs=3, reward_images=40,
    )  # fmt: skip


@pytest.fixture(scope="module")
def at_once(simple: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Strategy:
    """What all ways lead to."""
    folder = tmp_path_factory.mktemp("at-once") / "run"
    return load_plan(
        run(TrainConfig.of(**{**simple, "finetune_epochs": 0}, run_dir=folder)) / "plan.json"
    ).strategy


def loaded(folder: Path) -> torch.nn.Module:
    model = build("resnet20", num_classes=10, in_channels=1, width=0.5)
    return amc.load_pruned(model, folder)


@pytest.mark.parametrize(
    "given",
    [
        {"group_size": 2, "stage_epochs": 0.7, "stage_learning_rate": 0.01},
        {"schedule": "agp", "schedule_steps": 3},
        {"schedule": "exponential-bias", "schedule_steps": 2, "feature_weight": 1.0, "ema": 0.9},
        {"schedule": "multistep", "schedule_parts": (0.6,), "distill_schedule": "cosine"},
        {"schedule": "adaptive", "schedule_steps": 3, "adaptive_drop": 0.0},
        {"schedule": "adaptive", "schedule_steps": 2, "schedule_patience": 2, "soft": True},
        {"schedule": "linear", "schedule_steps": 3, "soft": True},
        {"schedule": "agp", "schedule_steps": 3, "soft": True, "freeze_stage": 2},
        {"schedule": "baseline", "schedule_delay": 1},
        {"schedule": "exponential", "schedule_init": 0.1, "schedule_delay": 1},
        {"schedule": "polynomial", "schedule_power": 2.0, "schedule_convex": True},
        {"group_size": 3, "soft": True, "distill_schedule": "linear"},
    ],
)
def test_stages_end_at_the_strategy(
    simple: dict[str, Any], at_once: Strategy, tmp_path: Path, given: dict[str, Any]
) -> None:
    folder = run(TrainConfig.of(**simple, **given, run_dir=tmp_path / "run"))
    assert load_plan(folder / "plan.json").strategy == at_once
    found = amc.load_pruned(build(simple["model"], num_classes=10, in_channels=1), folder)
    accuracy = read_json(folder / "report.json")["accuracy"]["recovered"]
    assert evaluate(found, load_data("digits").test).accuracy == pytest.approx(accuracy, abs=1e-6)
    assert not list(folder.glob("training-*"))


def test_stage_that_costs_too_much_is_taken_back(common: dict[str, Any], tmp_path: Path) -> None:
    given = {"schedule": "linear", "schedule_steps": 3, "stop_drop": 1e-6, "learning_rate": 1e-6,
             "preserve_ratio": 0.05, "bn_adapt": False}  # fmt: skip
    folder = run(TrainConfig.of(**{**common, **given}, run_dir=tmp_path / "run"))
    report = read_json(folder / "report.json")
    assert report["macs"]["ratio"] > 0.05
    assert sum(p.numel() for p in loaded(folder).parameters()) == report["params"]["pruned"]


def stages_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    del folder  # named for the order in which things happen
    return [x for x in capsys.readouterr().out.splitlines() if x.startswith("stage ")]


@pytest.mark.parametrize(("drop", "stages"), [(99.0, {1}), (0.0, {2, 3})])
def test_adaptive_stages_go_as_far_as_they_may_cost(
    common: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    drop: float,
    stages: set[int],
) -> None:
    """What may cost all is one stage; what may cost nothing takes several."""
    given = {"schedule": "adaptive", "schedule_steps": 3, "adaptive_drop": drop, "quiet": False,
             "preserve_ratio": 0.05, "bn_adapt": False}  # fmt: skip
    folder = run(TrainConfig.of(**{**common, **given}, run_dir=tmp_path / "run"))
    assert len(stages_of(folder, capsys)) in stages
    assert read_json(folder / "report.json")["macs"]["ratio"] <= 0.05


def trained_and_cut(folder: Path, monkeypatch: pytest.MonkeyPatch, **given: Any) -> list[Any]:
    """What every training of a run begins with: epochs, learning rate, channels in the plan."""
    found = []
    tune = Recovery.tune

    def noted(self: Recovery, model: Any, plan: Any, epochs: int, rate: float, *rest: int) -> Any:
        found.append((epochs, rate, plan.strategy))
        return tune(self, model, plan, epochs, rate, *rest)

    monkeypatch.setattr(Recovery, "tune", noted)
    run(TrainConfig.of(**given, run_dir=folder))
    return found


def test_delay_trains_the_whole_network_before_the_first_cut(
    simple: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"schedule": "baseline", "schedule_delay": 2, "stage_learning_rate": 0.01}
    found = trained_and_cut(tmp_path / "run", monkeypatch, **simple, **given)
    plan = load_plan(tmp_path / "run" / "plan.json")
    assert found == [(2, 0.01, {}), (1, None, plan.strategy)]  # None: that of the settings


def test_levels_of_stages_are_those_of_the_schedule(
    simple: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NNCF's exponential from 0.25 to 0.75 in 3 steps: 0.25, 1 - sqrt(0.75 * 0.25), 0.75."""
    given = {"schedule": "exponential", "schedule_steps": 3, "schedule_init": 0.25,
             "channel_ratio": 0.25, "channel_multiple": 1}  # fmt: skip
    found = trained_and_cut(tmp_path / "run", monkeypatch, **simple, **given)
    sizes = {"a": 8, "b": 12, "d": 16, "e": 12}
    stages = read_json(tmp_path / "run" / "stages.json")["stages"]
    ends = (0.75, 0.75**0.5 / 2, 0.25)
    for (_, _, strategy), density, stage in zip(found, ends, stages, strict=True):
        counts = [round(density * n) for n in sizes.values()]
        assert sorted(strategy.values()) == sorted(counts)
        assert stage["level"] == pytest.approx(1 - sum(counts) / 48, abs=1e-6)
        assert stage["channels"] == strategy and stage["epochs"] == 1 and not stage["silent"]
    assert stages[-1]["macs"] == read_json(tmp_path / "run" / "report.json")["macs"]["ratio"]


def test_groups_without_a_biased_exponential_are_named() -> None:
    """From 0.4: for a final level of 0.5 there is none, for one of 0.75 there is."""
    said: list[str] = []
    job = SimpleNamespace(schedule=None, terminal=SimpleNamespace(say=said.append))
    sizes, aim = {"a": 16, "b": 16, "c": 16}, {"a": 8, "b": 4, "c": 12}
    for schedule in ("exponential-bias", "exponential"):
        config = StagesConfig(schedule=schedule, schedule_init=0.4)
        in_stages(sizes, aim, TrainingConfig(), config, cast(Job, job))
    (line,) = said
    assert line.startswith("warning  --schedule exponential-bias has no solution")
    assert line.endswith("exponential instead: a")


def test_schedule_of_the_documentation_works(
    simple: dict[str, Any], at_once: Strategy, tmp_path: Path
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text()
    own = tmp_path / "my_schedules.py"
    own.write_text(text.split("<!-- example: schedule -->\n```python\n")[1].split("```")[0])
    given = {"schedule": f"{own}:cosine_after_half", "schedule_steps": 2}
    folder = run(TrainConfig.of(**simple, **given, run_dir=tmp_path / "run"))
    assert load_plan(folder / "plan.json").strategy == at_once
    curve = load_schedule(f"{own}:cosine_after_half", 4)
    assert densities(curve, 0.5, 2) == pytest.approx([0.625, 0.5])


def test_patience_stays_on_a_step(
    simple: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"schedule": "adaptive", "schedule_steps": 2, "adaptive_drop": 0.0, "reward": "loss",
             "schedule_patience": 2, "finetune_epochs": 5}  # fmt: skip
    monkeypatch.setattr("amc.gradual.recover.evaluate", lambda *a, **k: Score(-1.0, 0.0, 1))
    found = trained_and_cut(tmp_path / "run", monkeypatch, **{**simple, **given})
    assert [epochs for epochs, _, _ in found] == [1, 1, 3]
    first, second, last = (strategy for _, _, strategy in found)
    assert first == second
    assert all(last[name] < count for name, count in first.items())


def kept(folder: Path, group: str) -> set[int]:
    return set(load_plan(folder / "plan.json").groups[group].keep)


def test_silent_channels_come_back_until_they_are_frozen(
    simple: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training makes those of the first stage the largest; frozen, they are out for good."""
    own = simple["model"].rpartition(":")[0]
    given = {**simple, "schedule": "linear", "schedule_steps": 3, "soft": True, "metric": "l1",
             "finetune": f"{own}:revives"}  # fmt: skip
    first: list[Any] = []
    by_user = Recovery._by_user

    def noted(self: Recovery, model: Any, epochs: int) -> Any:
        first.append(model)
        return by_user(self, model, epochs)

    monkeypatch.setattr(Recovery, "_by_user", noted)
    run(TrainConfig.of(**given, run_dir=tmp_path / "soft"))
    silent = set((first[0].c.weight == 0).all(0).flatten().nonzero().flatten().tolist())
    assert silent and silent & kept(tmp_path / "soft", "b")
    for stage in (1, 2):
        run(TrainConfig.of(**given, freeze_stage=stage, run_dir=tmp_path / f"{stage}"))
    assert not silent & kept(tmp_path / "1", "b")
    assert silent & kept(tmp_path / "2", "b")  # it was chosen again before


@pytest.mark.parametrize("name", ["plain20", "resnet20", "mobilenet_v2"])
def test_silenced_channels_count_as_cut_and_can_learn_again(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, num_classes=10, in_channels=1, width=0.5).eval()
    x = torch.randn(8, 1, 32, 32)
    graph = amc.trace(model, (x,))
    plan = graph.plan({n: tuple(range(size // 2, size)) for n, size in graph.sizes.items()})
    quiet = silenced(model, graph, plan)
    torch.testing.assert_close(quiet(x), amc.mask(model, plan)(x))
    torch.testing.assert_close(quiet(x), amc.shrink(model, plan)(x))
    quiet.train()(x).square().sum().backward()
    for layer in graph.layers:
        gone = quiet.get_parameter(layer.weight).detach() == 0
        grown = quiet.get_parameter(layer.weight).grad[gone]
        assert not len(grown) or bool(grown.any())


def test_training_that_ruins_the_network_is_not_taken(
    common: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained = run(
        TrainConfig.of(**{**common, "finetune_epochs": 0}, run_dir=tmp_path / "untrained")
    )
    settings = {**common, "learning_rate": 3e4, "weight_decay": 0.0, "quiet": False}
    ruined = run(TrainConfig.of(**settings, run_dir=tmp_path / "ruined"))
    assert "the network stays as it was" in capsys.readouterr().out
    left = (ruined / "pruned.safetensors").read_bytes()
    assert left == (untrained / "pruned.safetensors").read_bytes()


class Stopped(Exception):
    pass


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"schedule": "agp", "schedule_steps": 2},
        {"schedule": "linear", "schedule_steps": 2, "metric": "movement", "finetune_epochs": 4},
    ],
)
def test_run_that_was_stopped_while_it_trained_goes_on_to_the_same_network(
    simple: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    settings = {**simple, **given}
    whole = run(TrainConfig.of(**settings, run_dir=tmp_path / "whole"))
    epochs: list[int] = []
    run_epoch = trainer._Training.run_epoch

    def stopping(self: Any, *arguments: Any) -> float:
        epochs.append(self.epoch)
        if len(epochs) == 3:
            raise Stopped
        return run_epoch(self, *arguments)

    monkeypatch.setattr(trainer._Training, "run_epoch", stopping)
    with pytest.raises(Stopped):
        run(TrainConfig.of(**settings, run_dir=tmp_path / "stopped"))
    assert (tmp_path / "stopped" / "training-0.safetensors").exists()
    run(TrainConfig.of(resume=tmp_path / "stopped", quiet=True))
    assert len(epochs) == settings["finetune_epochs"] + 1  # the one that was stopped comes again
    for name in ("pruned.safetensors", "plan.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (whole / name).read_bytes()
    assert not list((tmp_path / "stopped").glob("training-*"))


def test_movement_of_the_training_decides_in_the_next_stage(
    simple: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stage has no training behind it; the second has that of the first, by name."""
    seen: list[Any] = []

    def noted(job: Any, graph: Any, model: Any, movement: Any = None) -> Any:
        seen.append((model, movement))
        return calibrate(job, graph, model, movement)

    monkeypatch.setattr("amc.gradual.loop.calibrate", noted)
    given = {"schedule": "linear", "schedule_steps": 2, "metric": "movement"}
    run(TrainConfig.of(**simple, **given, run_dir=tmp_path / "run"))
    (_, first), (model, second) = seen
    assert first is None
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert {name: moved.shape for name, moved in second.items()} == shapes
    assert any(bool(moved.any()) for moved in second.values())
    seen.clear()
    run(TrainConfig.of(**{**simple, **given, "metric": "l1"}, run_dir=tmp_path / "l1"))
    assert [moved for _, moved in seen] == [None, None]  # nobody asks for it


def test_own_training_takes_the_place_of_ours(simple: dict[str, Any], tmp_path: Path) -> None:
    own = simple["model"].rpartition(":")[0]
    bias = {}
    for name in ("tuned", "spoilt"):
        run(TrainConfig.of(**simple, finetune=f"{own}:{name}", run_dir=tmp_path / name))
        bias[name] = load_file(tmp_path / name / "pruned.safetensors")["fc.bias"]
    torch.testing.assert_close(bias["tuned"], 3 * bias["spoilt"])  # the latter is as it was cut
    for name, message in (
        ("wrong", "other tensors"),
        ("nothing", "must return the network, got NoneType"),
        ("fails", "lost"),
        ("exits", "SystemExit: 3"),
        ("ruined", "holds NaN"),
        ("absent", "absent"),
    ):
        config = TrainConfig.of(**simple, finetune=f"{own}:{name}", run_dir=tmp_path / name)
        with pytest.raises(AmcError, match=message) as refused:
            run(config)
        assert "\n" not in str(refused.value) and name in str(refused.value)
        kept = (tmp_path / name / "pruned.safetensors").exists()
        assert kept == (name != "absent")  # what was cut is kept; the last is known before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ema": 1.0}, r"--ema must be in \[0, 1\)"),
        ({"label_smoothing": -0.1}, "--label-smoothing"),
        ({"clip": float("nan")}, r"--clip must be in \[0, 1e\+09\]"),
        ({"weight_decay": float("inf")}, "--weight-decay"),
        ({"stop_drop": 100.0}, "--stop-drop"),
        ({"stage_epochs": 1.5}, "--stage-epochs"),
        ({"stage_learning_rate": 0.0}, "--stage-learning-rate"),
        ({"schedule_steps": 0}, "--schedule-steps"),
        ({"group_size": 2, "schedule": "agp"}, "exclude each other"),
        ({"soft": True}, "--soft needs stages"),
        ({"soft": True, "schedule": "baseline"}, "--soft needs stages"),
        ({"freeze_stage": 2, "schedule": "agp"}, "--freeze-stage belongs to --soft"),
        ({"freeze_stage": 0, "schedule": "agp", "soft": True}, "--freeze-stage must be 1 or more"),
        ({"schedule": "cosine"}, "--schedule 'cosine' is unknown; allowed: one-shot, baseline, "),
        ({"schedule": "lineal"}, "did you mean 'linear'?"),
        (
            {"schedule": "baseline", "schedule_init": 0.1},
            "--schedule-init belongs to --schedule "
            "linear, agp, exponential, exponential-bias, polynomial, not to baseline",
        ),
        ({"schedule": "own:mine", "schedule_init": 0.1}, "not to own:mine"),
        ({"schedule": "agp", "schedule_init": 1.0}, r"--schedule-init must be in \[0, 1\)"),
        (
            {"schedule": "agp", "schedule_power": 2.0},
            "--schedule-power belongs to --schedule polynomial, not to agp",
        ),
        ({"schedule": "polynomial", "schedule_power": 0.0}, "--schedule-power must be in"),
        ({"schedule_convex": True}, "--schedule-convex belongs to --schedule polynomial"),
        ({"schedule": "agp", "schedule_patience": 2}, "--schedule-patience belongs to"),
        ({"schedule": "adaptive", "schedule_patience": 0}, "--schedule-patience must be 1"),
        ({"schedule_delay": 1}, "--schedule-delay needs a schedule: --schedule baseline"),
        (
            {"schedule": "agp", "schedule_delay": 4},
            "--schedule-delay 4 takes all of "
            "--finetune-epochs 4; give --finetune-epochs 5 or more",
        ),
        ({"schedule_parts": (0.5, 0.5)}, "--schedule-parts 0.5 0.5: must increase"),
        ({"schedule_parts": (0.5, 1.0)}, "--schedule-parts"),
        ({"adaptive_drop": -1.0}, "--adaptive-drop"),
        ({"bn_samples": 0}, "--bn-samples must be 1 or more"),
        ({"bn_samples": 9, "bn_adapt": False}, "--bn-samples belongs to --bn-adapt"),
        ({"feature_weight": 1.0, "distill": False}, "--feature-weight belongs to distillation"),
    ],
)
def test_impossible_recoveries_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(AmcError, match=message) as refused:
        TrainConfig.of(**given)
    assert "\n" not in str(refused.value)


def test_settings_of_recovery_come_back(simple: dict[str, Any], tmp_path: Path) -> None:
    given = {"label_smoothing": 0.1, "clip": 1.0, "mixed": True, "schedule": "linear"}
    folder = run(
        TrainConfig.of(**{**simple, **given, "finetune_epochs": 2}, run_dir=tmp_path / "r")
    )
    saved = json.loads((folder / "config.json").read_text())
    assert {name: saved[name] for name in given} == given
