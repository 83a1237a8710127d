"""The main job end to end, small, and what it says to bad input."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.flop_counter import FlopCounterMode

import amc
from amc.config.command_line import parse
from amc.config.train import TrainConfig
from amc.data import load_data
from amc.models.catalog import build
from amc.runtime.errors import AmcError
from amc.tasks.evaluate import Score, evaluate
from amc.train import run
from envs import Outcome
from envs.rewards import reward_function
from small_runs import (
    SMALL,
    assert_same_results,
    entries,
    original,
    report_of,
    words,
)


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
        "2 search/reward", "2 search/best reward", "2 search/accuracy",
        "2 search/part of the MACs", "6 kept channels/conv1", "5 agent/critic loss",
        "3 training/loss", "3 training/validation accuracy", "7 numbers/accuracy",
    }  # fmt: skip
    assert set(events.Tags()["images"]) == {
        "1 result/channels before and after", "1 result/what is left",
        "2 search/0 strategies", "2 search/1 best strategy",
    }  # fmt: skip
    rewards = [e.value for e in events.Scalars("2 search/reward")]
    best = [e.value for e in events.Scalars("2 search/best reward")]
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


@pytest.mark.parametrize("json_wanted", [False, True])
def test_the_command_prints_tables_and_the_next_step(
    json_wanted: bool, tiny: dict[str, Any], tmp_path: Path
) -> None:
    """With --json they are on standard error, and the report alone on standard output."""
    folder = tmp_path / "run"
    settings = {**tiny, "mode": "uniform", "preserve_ratio": 0.5, "run_dir": folder}
    del settings["quiet"]
    done = command(*words(settings), *["--json"] * json_wanted)
    assert done.returncode == 0, done.stderr
    for expected in ("second", "MACs", "test accuracy", f"tensorboard --logdir {folder}"):
        assert expected in (done.stderr if json_wanted else done.stdout)
    if json_wanted:
        assert done.stdout == (folder / "report.json").read_text()
        assert json.loads(done.stdout)["macs"]["ratio"] <= 0.5


def test_with_json_a_mistake_leaves_standard_output_empty() -> None:
    done = command("--json", "--model", "resnet99")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("amc.train: ") and done.stderr.count("\n") == 1


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
        (["--metric", "best"], "best"),
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


def test_a_reward_of_the_users_own_fails_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def small(outcome):\n    return -outcome.macs\n\ndef broken(outcome):\n    return 1 / 0\n"
    )
    outcome = Outcome(Score(0.5, 1.0, 10), 123, 45)
    assert reward_function(f"{tmp_path / 'mine.py'}:small")(outcome) == -123
    with pytest.raises(AmcError, match=r"mine\.py:broken: ZeroDivisionError"):
        reward_function(f"{tmp_path / 'mine.py'}:broken")(outcome)
