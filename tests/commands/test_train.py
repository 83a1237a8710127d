"""The main job end to end, small, and what it says to bad input."""

import json
import math
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import amc
from amc.config.command_line import parse
from amc.config.composed import as_json, from_json
from amc.config.inspect import InspectConfig
from amc.config.train import TrainConfig
from amc.data import load_data
from amc.graph.restrictions import Restrictions
from amc.models.catalog import build
from amc.reconstruction.batchnorm import adapt_batchnorm
from amc.runs.terminal import Terminal
from amc.runtime.errors import AmcError
from amc.search.problem import Found
from amc.search.search import METHODS
from amc.steps.cut import calibrate, cut, cut_best
from amc.steps.job import Job, job_with
from amc.tasks.evaluate import Score, evaluate
from amc.tasks.task import CLASSIFICATION
from amc.train import main, run
from envs import Outcome
from envs.outcome import Episode
from envs.rewards import reward_function

SMALL = dict(
    width=0.5, episodes=6, warmup_episodes=3, finetune_epochs=1, calibration_batches=4,
    reward_images=60, reward_steps=2, finalists=2, device="cpu", quiet=True,
)  # fmt: skip


NETWORK = """
import os, time
from collections import OrderedDict
from torch import nn

def net(num_classes, in_channels):
    return nn.Sequential(OrderedDict(
        first=nn.Conv2d(in_channels, 24, 3, stride=2), norm=nn.BatchNorm2d(24), a=nn.ReLU(),
        second=nn.Conv2d(24, 32, 3), b=nn.ReLU(), drop=nn.Dropout(0.2),
        third=nn.Conv2d(32, 40, 1), c=nn.ReLU(), fourth=nn.Conv2d(40, 40, 1), d=nn.ReLU(),
        fifth=nn.Conv2d(40, 48, 1), e=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(2),
        flat=nn.Flatten(), last=nn.Linear(192, num_classes)))

def reward(outcome):
    time.sleep(float(os.environ.get("PAUSE", 0)))  # or it would be over before it is stopped
    return -outcome.score.loss
"""
"""Batch norm, and dropout, which draws random numbers whenever the network is trained."""

EPISODES = 9


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow ResNet-20 that was trained for two epochs."""
    from amc.training.trainer import Recipe, train

    torch.manual_seed(0)
    model = build("resnet20", num_classes=10, in_channels=1, width=0.5)
    train(model, load_data("digits").train, Recipe(2, 0.05))
    path = tmp_path_factory.mktemp("checkpoint") / "resnet20.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run of a second or two."""
    path = tmp_path_factory.mktemp("tiny") / "net.py"
    path.write_text(NETWORK)
    return dict(
        model=f"{path}:net", reward=f"{path}:reward", episodes=EPISODES, warmup_episodes=3,
        finetune_epochs=1, regime="finetune", reward_steps=2, calibration_batches=2,
        reward_images=60, device="cpu", quiet=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "auto"
    return run(TrainConfig.of(checkpoint=checkpoint, run_dir=folder, **SMALL))


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def original(checkpoint: Path) -> torch.nn.Module:
    model = build("resnet20", num_classes=10, in_channels=1, width=0.5)
    model.load_state_dict(load_file(checkpoint))
    return model.eval()


def test_run_folder_holds_everything(finished: Path) -> None:
    names = {p.name for p in finished.iterdir()}
    assert names >= {
        "config.json", "strategy.json", "plan.json", "policy.json", "policy.safetensors",
        "pruned.safetensors", "report.json", "episodes.jsonl",
    }  # fmt: skip
    assert json.loads((finished / "config.json").read_text())["width"] == 0.5
    tried = entries(finished)
    assert len(tried) == SMALL["episodes"]
    assert all(entry["reward"] == -entry["divergence"] < 0 for entry in tried)


def test_report_is_true(finished: Path, checkpoint: Path) -> None:
    report, model = report_of(finished), original(checkpoint)
    small = amc.load_pruned(model, finished).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        small(torch.zeros(1, 1, 16, 16))
    data = load_data("digits")
    assert counter.get_total_flops() // 2 == report["macs"]["pruned"]
    assert report["macs"]["ratio"] == pytest.approx(
        report["macs"]["pruned"] / report["macs"]["original"], abs=1e-6
    )
    assert 0.48 <= report["macs"]["ratio"] <= 0.5
    assert sum(p.numel() for p in small.parameters()) == report["params"]["pruned"]
    assert evaluate(small, data.test).accuracy == pytest.approx(
        report["accuracy"]["recovered"], abs=1e-6
    )
    assert evaluate(model, data.test).accuracy == pytest.approx(
        report["accuracy"]["original"], abs=1e-6
    )
    assert report["episodes"] == 6
    assert set(report["seconds"]) >= {"calibrate", "search", "apply", "finetune", "total"}
    assert sum(x["macs"]["pruned"] for x in report["layers"]) == report["macs"]["pruned"]
    shapes = {n: p.shape for n, p in small.named_parameters()}
    for layer in report["layers"]:
        shape = shapes[layer["name"] + ".weight"]
        assert shape[0] == layer["out_channels"]["pruned"]
        assert shape[1] == layer["in_channels"]["pruned"]


def test_tensorboard_shows_the_search_and_the_fine_tuning(finished: Path) -> None:
    events = EventAccumulator(str(finished)).Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= {
        "search/reward", "search/best_reward", "search/accuracy", "search/macs_ratio",
        "ratio/conv1", "agent/critic_loss", "finetune/loss", "finetune/val_accuracy",
        "hparam/accuracy",
    }  # fmt: skip
    rewards = [e.value for e in events.Scalars("search/reward")]
    best = [e.value for e in events.Scalars("search/best_reward")]
    assert len(rewards) == 6  # the last of them is the policy without noise
    np.testing.assert_allclose(best, np.maximum.accumulate(rewards))


def test_same_seed_gives_the_same_bytes(
    tiny: dict[str, Any], undisturbed: Callable[..., Path], tmp_path: Path
) -> None:
    settings = {**tiny, "agent": "sac"}
    assert_same_results(
        run(TrainConfig.of(run_dir=tmp_path / "run", **settings)), undisturbed(agent="sac")
    )
    other = undisturbed(agent="sac", seed=1)
    for name in ("policy.safetensors", "pruned.safetensors", "episodes.jsonl"):
        assert (other / name).read_bytes() != (undisturbed(agent="sac") / name).read_bytes()


def test_strategy_of_a_run_can_be_listed(finished: Path, checkpoint: Path, tmp_path: Path) -> None:
    listed = run(
        TrainConfig.of(
            mode="list", strategy=finished / "strategy.json", checkpoint=checkpoint,
            run_dir=tmp_path / "list", **{**SMALL, "finetune_epochs": 0},
        )
    )  # fmt: skip
    first, second = report_of(finished), report_of(listed)
    assert second["macs"] == first["macs"]
    assert second["accuracy"]["pruned"] == first["accuracy"]["pruned"]
    assert second["accuracy"]["recovered"] == second["accuracy"]["pruned"]  # nothing was tuned
    assert not (listed / "policy.json").exists()


def test_group_tuning_reaches_the_same_strategy(tiny: dict[str, Any], tmp_path: Path) -> None:
    settings = {**tiny, "finetune_epochs": 3}
    folder = run(TrainConfig.of(mode="uniform", group_size=2, run_dir=tmp_path / "g", **settings))
    strategy = json.loads((folder / "strategy.json").read_text())["layers"]
    plan = amc.load_plan(folder / "plan.json")
    assert {
        n: v["channels"] for n, v in strategy.items() if v["channels"] < v["of"]
    } == plan.strategy
    small = amc.load_pruned(build(tiny["model"], num_classes=10, in_channels=1), folder)
    accuracy = report_of(folder)["accuracy"]["recovered"]
    assert evaluate(small, load_data("digits").test).accuracy == pytest.approx(accuracy, abs=1e-6)


def test_channel_ratio_keeps_that_part_of_every_group(checkpoint: Path, tmp_path: Path) -> None:
    folder = run(
        TrainConfig.of(
            mode="uniform", channel_ratio=0.5, checkpoint=checkpoint, run_dir=tmp_path / "c",
            **{**SMALL, "finetune_epochs": 0},
        )
    )  # fmt: skip
    layers = json.loads((folder / "strategy.json").read_text())["layers"]
    assert all(v["channels"] * 2 == v["of"] for v in layers.values())
    assert report_of(folder)["macs"]["ratio"] < 0.3


def test_an_earlier_run_is_moved_aside(tiny: dict[str, Any], tmp_path: Path) -> None:
    settings = {**tiny, "run_dir": tmp_path / "r", "mode": "uniform", "finetune_epochs": 0}
    first = run(TrainConfig.of(**settings))
    before = (first / "report.json").read_bytes()
    run(TrainConfig.of(**settings))
    assert (tmp_path / "r.1" / "report.json").read_bytes() == before
    assert (tmp_path / "r" / "report.json").exists()


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "amc.train", *arguments], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_the_command_prints_tables_and_the_next_step(tiny: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = {**tiny, "mode": "uniform", "preserve_ratio": 0.5, "run_dir": folder}
    del settings["quiet"]
    done = command(*words(settings))
    assert done.returncode == 0, done.stderr
    for expected in ("second", "MACs", "test accuracy", f"tensorboard --logdir {folder}"):
        assert expected in done.stdout


def test_quiet_run_prints_nothing(
    tiny: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for mode in ("uniform", "auto"):
        run(TrainConfig.of(run_dir=tmp_path / "run", **{**tiny, "mode": mode}))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--preserve-ratio", "0"], "(0, 1]"),
        (["--preserve-ratio", "1.2"], "got 1.2"),
        (["--preserve-ratio", "nan"], "got nan"),
        (["--preserve-ratio", "half"], "half"),
        (["--preserve-ratio", "0.001"], "nearest feasible value is"),
        (["--model", "resnet21"], "did you mean 'resnet20'"),
        (["--mode", "magic"], "magic"),
        (["--mode", "list"], "--strategy"),
        (["--selector", "best"], "best"),
        (["--reward", "fame"], "accuracy_flops"),
        (["--data", "digit"], "digits"),
        (["--episodes", "0"], "--episodes must be 1 or more"),
        (["--nonsense"], "--nonsense"),
        (["--device", "warp"], "warp"),
    ],
)
def test_bad_arguments_end_in_one_line(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AmcError) as caught:
        run(parse(TrainConfig, "amc.train", [*arguments, "--run-dir", str(tmp_path / "r")]))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().err == ""


def test_bad_files_end_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    def message(**settings: object) -> str:
        with pytest.raises(AmcError) as caught:
            run(TrainConfig.of(**{**SMALL, "run_dir": tmp_path / "r", **settings}))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    corrupt, text = tmp_path / "corrupt.safetensors", tmp_path / "text.pt"
    corrupt.write_bytes(checkpoint.read_bytes()[:1000])
    text.write_text("not a checkpoint")
    assert "no such file" in message(checkpoint=tmp_path / "missing.pt")
    assert "corrupt" in message(checkpoint=corrupt)
    assert "corrupt" in message(checkpoint=text)
    assert "shape (8, 1, 3, 3)" in message(checkpoint=checkpoint, width=1.0)
    assert "not a checkpoint of this network" in message(checkpoint=checkpoint, model="vgg16")
    state = load_file(checkpoint)
    state["conv1.weight"][0] = math.nan
    save_file(state, tmp_path / "nan.safetensors")
    assert "conv1.weight holds NaN" in message(checkpoint=tmp_path / "nan.safetensors")

    strategy = tmp_path / "strategy.json"
    strategy.write_text('{"layer9": 0.5}')
    assert "unknown layer 'layer9'" in message(mode="list", strategy=strategy)
    values = tmp_path / "ratios.txt"
    values.write_text("0.5, 0.5")
    assert "2 ratios given, expected 12" in message(mode="list", strategy=values)
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "cannot be written" in message(checkpoint=checkpoint, run_dir=blocked / "run")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(empty) in message(data=f"imagefolder:{empty}")
    assert str(empty) in message(data=f"cifar10:{empty}")


def test_a_network_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 3),\n"
        "        nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, num_classes))\n"
        "def few():\n"
        "    return net(3, 1)\n"
    )
    settings = {**SMALL, "run_dir": tmp_path / "r", "finetune_epochs": 0}
    folder = run(TrainConfig.of(model=f"{tmp_path / 'net.py'}:net", **settings))
    assert 0.4 <= report_of(folder)["macs"]["ratio"] <= 0.5  # one of 8 or 12 channels at a time
    with pytest.raises(AmcError, match="3 outputs, but digits has 10 classes"):
        run(TrainConfig.of(model=f"{tmp_path / 'net.py'}:few", **settings))


def job_of(config: TrainConfig, quiet: bool = True) -> Job:
    data = load_data("digits")
    return job_with(data, CLASSIFICATION, config.but(device="cpu"), Terminal(quiet))


def accuracy(outcome: Outcome) -> float:
    return outcome.score.accuracy


def test_the_final_cut_decides_among_the_finalists(checkpoint: Path) -> None:
    """A strategy that looks best during the search loses to one that is better once cut."""
    config = TrainConfig.of(checkpoint=checkpoint, **SMALL)
    job = job_of(config)
    model = original(checkpoint)
    graph = amc.trace(model, job.example.args)
    compressor = calibrate(job, graph, model)
    gentle, harsh = (
        {g.name: max(1, g.size * part // 8) for g in graph.decisions} for part in (6, 1)
    )
    by_accuracy, by_size = (replace(job, reward=r) for r in (accuracy, lambda o: -float(o.macs)))
    plan, small = cut_best(by_accuracy, compressor, [harsh, gentle])
    assert plan.strategy == gentle
    assert sum(p.numel() for p in small.parameters()) == graph.params(plan)
    assert cut_best(by_size, compressor, [gentle, harsh])[0].strategy == harsh


class Turns(nn.Module):
    """Takes another way where two widths are equal, once it is armed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(1, 9, 3), nn.Conv2d(9, 7, 3), nn.Linear(7, 10)
        self.armed = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x).relu()
        y = self.b(x).relu()
        y = -y if self.armed and x.shape[1] == y.shape[1] else y
        out: torch.Tensor = self.fc(y.mean((2, 3)))
        return out


def test_strategies_that_turn_a_branch_are_skipped_or_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The plan is executed before it is carried out, whatever the trace has missed."""
    torch.manual_seed(0)
    model = Turns().eval()
    job = replace(job_of(TrainConfig.of(**SMALL), quiet=False), reward=lambda o: 0.0)
    graph = amc.trace(model, job.example.args)
    model.armed = True
    compressor = calibrate(job, graph, model)
    equal, unequal = {"a": 5, "b": 5}, {"a": 6, "b": 5}
    assert cut_best(job, compressor, [equal, unequal])[0].strategy == unequal
    said = " ".join(capsys.readouterr().out.split())
    assert "skipped 1 of 2 strategies, a, b: " in said and "differs from the masked one" in said
    refusal = "the plan is not carried out: a, b: .* differs from the masked one; --exclude"
    with pytest.raises(AmcError, match=refusal):
        cut_best(job, compressor, [equal])
    with pytest.raises(AmcError, match=refusal):
        cut(job, compressor, compressor.plan(equal))


@pytest.mark.parametrize("count", [50, 128, 300, 10**6])
def test_batch_norm_is_adapted_on_as_many_images_as_asked(count: int, checkpoint: Path) -> None:
    """Those of the statistics first, then more of the stream; 128 images have been read before."""
    data, model = load_data("digits"), original(checkpoint)
    config = TrainConfig.of(checkpoint=checkpoint, bn_samples=count, **SMALL)
    job, usual = (job_of(one) for one in (config, config.but(bn_samples=None)))
    stream = torch.cat([images for images, _ in data.calibration])[:count]
    following = list(job.following)
    assert torch.equal(torch.cat([images for images, _ in following]), stream)
    assert max(len(images) for images, _ in following) <= 32
    graph = amc.trace(model, job.example.args)
    compressor = calibrate(job, graph, model)
    plan = compressor.plan({name: size // 2 for name, size in graph.sizes.items()})
    found, expected = (cut(one, compressor, plan) for one in (job, usual))
    if count != 128:
        adapt_batchnorm(expected, following)
    state = expected.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in found.state_dict().items())


def test_finalist_whose_reward_is_no_number_is_not_chosen(checkpoint: Path) -> None:
    model = original(checkpoint)
    plain = job_of(TrainConfig.of(checkpoint=checkpoint, **SMALL))
    graph = amc.trace(model, plain.example.args)
    compressor = calibrate(plain, graph, model)
    worst, other = ({g.name: g.size // part for g in graph.decisions} for part in (2, 4))
    rewards = iter([math.nan, -1.0])
    job = replace(plain, reward=lambda outcome: next(rewards))
    assert cut_best(job, compressor, [worst, other])[0].strategy == other


def test_finalists_are_the_best_and_one_that_is_always_there() -> None:
    def episode(number: int, channels: int, reward: float) -> Episode:
        return Episode(number, {"a": channels}, None, reward, reward)

    history = tuple(
        episode(i, c, r) for i, (c, r) in enumerate([(4, 0), (5, 2), (6, 1), (5, 2), (7, 3)])
    )
    found = Found(history[-1], history, None)
    assert found.finalists(1, {"a": 4}) == [{"a": 4}]
    assert found.finalists(3, {"a": 4}) == [{"a": 7}, {"a": 5}, {"a": 4}]
    assert found.finalists(9, {"a": 4}) == [{"a": 7}, {"a": 5}, {"a": 6}, {"a": 4}]


def test_a_reward_of_the_users_own_fails_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def small(outcome):\n    return -outcome.macs\n\ndef broken(outcome):\n    return 1 / 0\n"
    )
    outcome = Outcome(Score(0.5, 1.0, 10), 123, 45)
    assert reward_function(f"{tmp_path / 'mine.py'}:small")(outcome) == -123
    with pytest.raises(AmcError, match=r"mine\.py:broken: ZeroDivisionError"):
        reward_function(f"{tmp_path / 'mine.py'}:broken")(outcome)


# Stopped, and gone on with

RESULTS = (
    "strategy.json", "plan.json", "policy.json", "policy.safetensors", "pruned.safetensors",
    "episodes.jsonl",
)  # fmt: skip

CAN_FORK = "fork" in multiprocessing.get_all_start_methods()
forking = pytest.mark.skipif(not CAN_FORK, reason="workers are forked")
with_signals = pytest.mark.skipif(os.name != "posix", reason="processes are stopped by signals")


@pytest.fixture(scope="module")
def undisturbed(
    tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Runs that nothing came in the way of, each made once."""
    made: dict[str, Path] = {}

    def folder(**settings: Any) -> Path:
        name = "-".join(f"{k}-{v}" for k, v in settings.items()) or "plain"
        if name not in made:
            made[name] = run(
                TrainConfig.of(
                    run_dir=tmp_path_factory.mktemp(name) / "run", **{**tiny, **settings}
                )
            )
        return made[name]

    return folder


def words(settings: dict[str, Any]) -> list[str]:
    """The settings as a command line."""
    found = []
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        found += [flag] if value is True else [flag, str(value)]
    return found


def resume(folder: Path, *more: str) -> Path:
    return run(parse(TrainConfig, "amc.train", ["--resume", str(folder), "--quiet", *more]))


def assert_same_results(found: Path, expected: Path) -> None:
    for name in RESULTS:
        if (expected / name).exists():
            assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    ours, theirs = report_of(found), report_of(expected)
    for key in ("macs", "params", "accuracy", "episodes", "layers", "mode", "target"):
        assert ours[key] == theirs[key], key


def recorded(folder: Path) -> int:
    """Episodes on record."""
    record = folder / "episodes.jsonl"
    return max(0, record.read_bytes().count(b"\n") - 1) if record.exists() else 0


def entries(folder: Path) -> list[dict[str, Any]]:
    """The episodes on record."""
    return [json.loads(x) for x in (folder / "episodes.jsonl").read_text().splitlines()[1:]]


def rewards_shown(folder: Path) -> list[float]:
    events = EventAccumulator(str(folder)).Reload()
    return [e.value for e in events.Scalars("search/reward")]


def listening() -> None:
    """Ctrl-C counts, also where the tests were started in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(settings: dict[str, Any], pause: float = 0.15) -> subprocess.Popen[str]:
    """The command in a session of its own, as a terminal would start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "amc.train", *words(settings)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PAUSE": str(pause)}, preexec_fn=listening,
    )  # fmt: skip


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends, "nothing happened"
        time.sleep(0.01)


def stopped(settings: dict[str, Any], episodes: int, by: signal.Signals) -> tuple[int, str, str]:
    """The exit status and what was printed of a run that was stopped by a signal."""
    process = started(settings)
    try:
        until(lambda: recorded(settings["run_dir"]) >= episodes, process)
        os.killpg(process.pid, by)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, out, err


@with_signals
def test_killed_run_goes_on_to_the_same_bytes(
    tiny: dict[str, Any], undisturbed: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    status, *_ = stopped({**tiny, "run_dir": folder}, 5, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert 5 <= recorded(folder) < EPISODES
    assert not (folder / "strategy.json").exists()
    assert resume(folder) == folder
    assert_same_results(folder, undisturbed())
    np.testing.assert_array_equal(rewards_shown(folder), rewards_shown(undisturbed()))
    resume(folder)  # all over again, from what is on record
    assert_same_results(folder, undisturbed())


@with_signals
def test_interrupted_run_says_how_far_it_came_and_how_to_go_on(
    tiny: dict[str, Any], undisturbed: Callable[..., Path], tmp_path: Path
) -> None:
    """Ctrl-C goes to all processes of the terminal; only the first of them answers."""
    folder, workers = tmp_path / "a run", 2 if CAN_FORK else 1
    settings = {**tiny, "run_dir": folder, "workers": workers}
    del settings["quiet"]
    status, out, err = stopped(settings, 5, signal.SIGINT)
    assert status == 130
    stop = re.search(rf"stopped after (\d) of {EPISODES} episodes", out)
    assert stop is not None, out
    tried = int(stop.group(1))
    assert 4 <= tried <= recorded(folder) < EPISODES
    best = max(entries(folder)[:tried], key=lambda e: e["reward"])
    assert (
        f"stopped after {tried} of {EPISODES} episodes; best so far: episode {best['episode']}, "
        f"reward {best['reward']:.4f}, accuracy {best['accuracy']:.2%}, MACs 0."
    ) in out
    assert err.count("\n") == 1
    said, _, command = err.strip().partition("; go on: python -m amc.train ")
    assert said == "amc.train: interrupted"
    assert shlex.split(command)[:2] == ["--resume", str(folder)]  # it has to be quoted
    assert shlex.split(command)[2:] == (["--workers", "2"] if CAN_FORK else [])
    run(parse(TrainConfig, "amc.train", [*shlex.split(command), "--quiet"]))
    assert_same_results(folder, undisturbed(workers=workers))


@pytest.mark.slow
@with_signals
@pytest.mark.parametrize("agent", METHODS)
@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=forking)])
def test_run_that_is_killed_again_and_again_comes_to_the_same_bytes(
    agent: str,
    workers: int,
    tiny: dict[str, Any],
    undisturbed: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """At any moment: while it starts, calibrates, searches, cuts, fine-tunes or writes."""
    folder, rng = tmp_path / "run", np.random.default_rng([workers, *agent.encode()])
    settings = {**tiny, "run_dir": folder, "agent": agent, "workers": workers}
    stopped(settings, 1, signal.SIGKILL)
    again = {"resume": folder, "workers": workers, "quiet": True}
    for _ in range(6):
        before = recorded(folder)
        process = started(again, pause=0.05)
        wait = time.monotonic() + rng.random() * 4
        until(lambda: recorded(folder) > before or process.poll() is not None, process)  # noqa: B023
        while time.monotonic() < wait and process.poll() is None:
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if recorded(folder) == EPISODES:
            break
    resume(folder, "--workers", str(workers))
    assert_same_results(folder, undisturbed(agent=agent, workers=workers))


def test_interrupt_before_the_run_has_begun_gives_no_advice(
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Neither in an empty folder nor in one that holds something else."""
    folder = tmp_path / "run"

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("amc.train.open_job", interrupted)
    monkeypatch.setattr(sys, "argv", ["amc.train", *words({**tiny, "run_dir": folder})])
    other = as_json(TrainConfig.of(run_dir=folder, **{**tiny, "episodes": 77}))
    for content in (None, json.dumps(other)):
        if content is not None:
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text(content)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 130
        assert capsys.readouterr().err == "amc.train: interrupted\n"


def test_time_limit_ends_the_search_and_the_run_completes(
    tiny: dict[str, Any], undisturbed: Callable[..., Path], tmp_path: Path
) -> None:
    folder = run(TrainConfig.of(run_dir=tmp_path / "run", time_limit=1e-6, **tiny))
    assert recorded(folder) == report_of(folder)["episodes"] == 1
    assert (folder / "policy.json").exists()
    small = amc.load_pruned(build(tiny["model"], num_classes=10, in_channels=1), folder)
    assert sum(p.numel() for p in small.parameters()) == report_of(folder)["params"]["pruned"]
    resume(folder, "--time-limit", "1e-6")  # one more is not tried: the record has one
    assert recorded(folder) <= 2
    resume(folder)  # with all the time in the world
    assert_same_results(folder, undisturbed())


def test_patience_ends_the_search_and_the_run_completes(
    tiny: dict[str, Any], undisturbed: Callable[..., Path], tmp_path: Path
) -> None:
    folder = run(TrainConfig.of(run_dir=tmp_path / "run", patience=1, **tiny))
    rewards, all_rewards = rewards_shown(folder), rewards_shown(undisturbed())
    rises = [b > max(all_rewards[: i + 1]) for i, b in enumerate(all_rewards[1:])]
    expected = rises.index(False) + 2 if False in rises else EPISODES
    assert rewards == all_rewards[:expected]
    assert recorded(folder) == report_of(folder)["episodes"] == expected < EPISODES
    before = {name: (folder / name).read_bytes() for name in RESULTS}
    resume(folder)  # patience is a setting of the run
    assert before == {name: (folder / name).read_bytes() for name in RESULTS}


@pytest.mark.parametrize("agent", [m for m in METHODS if m != "ddpg"])
def test_every_agent_makes_a_run(
    agent: str, tiny: dict[str, Any], undisturbed: Callable[..., Path]
) -> None:
    folder = undisturbed(agent=agent, regime="calibrate")
    report = report_of(folder)
    assert report["macs"]["ratio"] <= 0.5 and report["episodes"] == EPISODES
    assert (folder / "policy.json").exists() == (agent in ("td3", "sac"))
    header = json.loads((folder / "episodes.jsonl").read_text().splitlines()[0])
    assert header["agent"] == agent
    if agent in ("td3", "sac"):
        policy = amc_policy(folder)
        assert 0 <= policy.predict(np.full(15, 0.5))[0][0] <= 1


def amc_policy(folder: Path) -> Any:
    from agents import load_policy

    return load_policy(folder / "policy")


@forking
def test_workers_repeat_bit_for_bit(
    tiny: dict[str, Any], undisturbed: Callable[..., Path], tmp_path: Path
) -> None:
    again = run(TrainConfig.of(run_dir=tmp_path / "run", **{**tiny, "workers": 2}))
    assert_same_results(again, undisturbed(workers=2))
    alone = undisturbed()
    assert entries(again)[0]["strategy"] == entries(alone)[0]["strategy"]  # the uniform one
    learned = [(folder / "policy.safetensors").read_bytes() for folder in (again, alone)]
    assert learned[0] != learned[1]  # it learns after two at a time


@forking
def test_run_may_go_on_with_another_number_of_workers(
    tiny: dict[str, Any], undisturbed: Callable[..., Path], tmp_path: Path
) -> None:
    """They measure faster or slower; what is walked side by side stays."""
    folder, whole = tmp_path / "run", undisturbed(workers=2)
    folder.mkdir()
    (folder / "config.json").write_bytes((whole / "config.json").read_bytes())
    record = (whole / "episodes.jsonl").read_text().splitlines(keepends=True)
    (folder / "episodes.jsonl").write_text("".join(record[:7]))  # past the warm-up
    resume(folder, "--workers", "1")
    assert_same_results(folder, whole)


# Refused


def message_of(*arguments: str) -> str:
    with pytest.raises(AmcError) as refused:
        run(parse(TrainConfig, "amc.train", list(arguments)))
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        ["--episodes", "7"],
        ["--seed", "3"],
        ["--preserve-ratio", "0.4"],
        ["--run-dir", "elsewhere"],
        ["--no-distill"],
        ["--patience", "3"],
        ["--walks", "2"],
        ["--exclude", "a"],
        ["--mode", "uniform"],
    ],
)
def test_resume_refuses_other_settings(given: list[str], undisturbed: Callable[..., Path]) -> None:
    folder = undisturbed()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    said = message_of("--resume", str(folder), *given)
    assert f"{given[0]} cannot be given" in said
    assert "allowed: --time-limit, --workers, --memory, --quiet" in said
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_resume_refuses_what_is_no_run(
    tiny: dict[str, Any], undisturbed: Callable[..., Path], tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    assert "there is no run" in message_of("--resume", str(missing))
    assert not missing.exists()
    assert "there is no run" in message_of("--resume", str(tmp_path))
    config = tmp_path / "config.json"
    settings = json.loads((undisturbed() / "config.json").read_text())
    for content, expected in (
        ({**settings, "warp": 9}, "unknown setting 'warp'; was it written by a newer version?"),
        ({**settings, "choice": {"warp": []}}, "unknown setting 'warp'"),
        ({**settings, "episodes": "many"}, str(config)),
        ({**settings, "agent": "ppo"}, "ppo"),
        ({**settings, "episodes": 0}, "--episodes must be 1 or more"),
        ([], str(config)),
        ("{", str(config)),
        ("\x00", str(config)),
    ):
        config.write_text(content if isinstance(content, str) else json.dumps(content))
        assert expected in message_of("--resume", str(tmp_path)), content
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_resume_refuses_a_record_of_other_weights_or_settings(
    tiny: dict[str, Any], undisturbed: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.json", "episodes.jsonl"):
        (folder / name).write_bytes((undisturbed() / name).read_bytes())
    config = folder / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "preserve_ratio": 0.6}))
    said = message_of("--resume", str(folder), "--quiet")
    assert "episodes.jsonl: the record is of another search: preserve_ratio was 0.5" in said
    config.write_text(json.dumps({**settings, "seed": 5}))
    assert "seed was 0, is 5" in message_of("--resume", str(folder), "--quiet")
    record = folder / "episodes.jsonl"
    first, *rest = record.read_text().splitlines(keepends=True)
    record.write_text(
        json.dumps({**json.loads(first), "weights": "0" * 64}) + "\n" + "".join(rest)
    )
    config.write_text(json.dumps(settings))
    assert "weights was '000" in message_of("--resume", str(folder), "--quiet")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--patience", "0"], "--patience must be 1 or more"),
        (["--time-limit", "0"], "--time-limit must be in (0, 1e+09], got 0"),
        (["--time-limit", "nan"], "got nan"),
        (["--workers", "0"], "--workers must be 1 or more"),
        (["--walks", "0"], "--walks must be 1 or more"),
        (["--agent", "ppo"], "ppo"),
        (["--regime", "both"], "both"),
        (["--reward-steps", "0"], "--reward-steps must be 1 or more"),
    ],
)
def test_bad_settings_of_a_search_end_in_one_line(arguments: list[str], expected: str) -> None:
    assert expected in message_of(*arguments)


# Settings on disk

CHANGED = TrainConfig.of(
    preserve_ratio=0.3,
    mode="list",
    model="resnet56",
    width=0.25,
    data="glyphs",
    checkpoint=Path("some where") / "weights.pt",
    strategy=Path("ratios.json"),
    restrictions=Restrictions(
        include=("layer1.*", "Conv2d"), exclude=("fc",), min_channels={"layer1.*": 4, "conv1": 2},
        max_channels={"layer3.*": 9}, prune_first_conv=False, prune_downsample=False,
        prune_residual=False,
    ),
    selector="obs",
    channel_multiple=4,
    min_ratio=0.2,
    calibration_batches=3,
    points_per_layer=0,
    episodes=17,
    agent="sac",
    warmup_episodes=0,
    regime="finetune",
    reward_steps=3,
    time_limit=0.1 + 0.2,
    patience=5,
    workers=3,
    walks=2,
    reward="accuracy",
    reward_images=11,
    finalists=1,
    finetune_epochs=0,
    learning_rate=1e-3,
    distill=True,
    temperature=1.5,
    distill_weight=0.5,
    distill_schedule="linear",
    feature_weight=0.25,
    label_smoothing=0.1,
    weight_decay=1e-4,
    clip=2.0,
    ema=0.9,
    mixed=True,
    finetune="own.py:tuned",
    group_size=2,
    schedule_steps=7,
    schedule_parts=(0.25, 0.75),
    adaptive_drop=3.0,
    soft=True,
    stage_epochs=0.3,
    stage_learning_rate=0.01,
    stop_drop=1.5,
    bn_samples=100,
    memory="2GB",
    batch_size=16,
    run_dir=Path("runs/a b"),
    resume=Path("runs/c"),
    trust=True,
    seed=3,
    device="cuda:1",
    quiet=True,
)  # fmt: skip


def test_settings_come_back_from_json_as_they_were() -> None:
    for one in fields(TrainConfig):
        default = one.default if one.default is not MISSING else one.default_factory()
        others = ("task", "channel_ratio", "policy", "plan", "distill", "schedule", "bn_adapt")
        if one.name not in others:
            assert getattr(CHANGED, one.name) != default, f"{one.name}: give it another value"
    # what does not go with the others
    uniform = TrainConfig.of(mode="uniform", channel_ratio=0.7, distill=False, schedule="agp")
    inspect = InspectConfig.of(
        input_shape="3x8x8", num_classes=7, restrictions=CHANGED.restrictions, plot=Path("a.svg"),
        json=Path("a.json"), preserve_ratio=0.5,
    )  # fmt: skip
    learned = TrainConfig.of(mode="policy", policy=Path("runs/a b"), task="own.py:task")
    planned = TrainConfig.of(mode="plan", plan=Path("plan.json"))
    for config in (
        CHANGED,
        uniform,
        learned,
        planned,
        inspect,
        TrainConfig.of(),
        InspectConfig.of(),
    ):
        text = json.dumps(as_json(config), allow_nan=False)
        found = from_json(type(config), json.loads(text), Path("config.json"))
        assert found == config
        assert as_json(found) == json.loads(text)
        for one in fields(config):
            value = getattr(found, one.name)
            assert type(value) is type(getattr(config, one.name)), one.name


def test_settings_that_are_not_there_have_their_defaults() -> None:
    read = partial(from_json, TrainConfig, where=Path("config.json"))
    assert read({}) == TrainConfig.of()
    assert read({"choice": {"exclude": ["fc"]}}).restrictions == Restrictions(exclude=("fc",))
    with pytest.raises(AmcError, match=r"config\.json: unknown setting 'speed'"):
        read({"speed": 3})


def test_settings_of_a_run_come_from_its_command_line(tmp_path: Path) -> None:
    """What is typed is what is in config.json, also after another round."""
    typed = [
        "--min-channels", "layer1.*", "4", "conv1", "2", "--exclude", "fc", "layer3.*",
        "--no-prune-residual", "--agent", "td3", "--time-limit", "1.5", "--run-dir", str(tmp_path),
    ]  # fmt: skip
    config = parse(TrainConfig, "amc.train", typed)
    found = from_json(TrainConfig, json.loads(json.dumps(as_json(config))), tmp_path)
    assert found == config
    assert found.restrictions.min_channels == {"layer1.*": 4, "conv1": 2}
    assert (
        found.restrictions.exclude == ("fc", "layer3.*") and not found.restrictions.prune_residual
    )
