"""The main job end to end, small, and what it says to bad input."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.flop_counter import FlopCounterMode

import amc
from amc.config import TrainConfig, parse
from amc.data import load_data
from amc.errors import AmcError
from amc.evaluate import Score, evaluate
from amc.models import build
from amc.pipeline import Pipeline, reward_function
from amc.search import Episode, Found
from amc.terminal import Terminal
from amc.train import run
from envs import Outcome

SMALL = dict(
    width=0.5, episodes=6, warmup_episodes=3, finetune_epochs=1, calibration_batches=4,
    reward_images=60, finalists=2, device="cpu", quiet=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow ResNet-20 that was trained for two epochs."""
    from amc.recover.finetune import Recipe, train

    torch.manual_seed(0)
    model = build("resnet20", num_classes=10, in_channels=1, width=0.5)
    train(model, load_data("digits").train, Recipe(2, 0.05))
    path = tmp_path_factory.mktemp("checkpoint") / "resnet20.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def finished(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "auto"
    return run(TrainConfig(checkpoint=checkpoint, run_dir=folder, **SMALL))


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
        "pruned.safetensors", "report.json",
    }  # fmt: skip
    assert json.loads((finished / "config.json").read_text())["width"] == 0.5


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
    assert len(rewards) == 7  # six episodes and the noise-free policy
    np.testing.assert_allclose(best, np.maximum.accumulate(rewards))


def test_same_seed_gives_the_same_bytes(finished: Path, checkpoint: Path, tmp_path: Path) -> None:
    again = run(TrainConfig(checkpoint=checkpoint, run_dir=tmp_path / "again", **SMALL))
    for name in ("strategy.json", "plan.json", "pruned.safetensors", "policy.safetensors"):
        assert (again / name).read_bytes() == (finished / name).read_bytes(), name


def test_strategy_of_a_run_can_be_listed(finished: Path, checkpoint: Path, tmp_path: Path) -> None:
    listed = run(
        TrainConfig(
            mode="list", strategy=finished / "strategy.json", checkpoint=checkpoint,
            run_dir=tmp_path / "list", **{**SMALL, "finetune_epochs": 0},
        )
    )  # fmt: skip
    first, second = report_of(finished), report_of(listed)
    assert second["macs"] == first["macs"]
    assert second["accuracy"]["pruned"] == first["accuracy"]["pruned"]
    assert second["accuracy"]["recovered"] == second["accuracy"]["pruned"]  # nothing was tuned
    assert not (listed / "policy.json").exists()


def test_group_tuning_reaches_the_same_strategy(checkpoint: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "finetune_epochs": 3}
    folder = run(
        TrainConfig(
            mode="uniform", group_size=4, checkpoint=checkpoint, run_dir=tmp_path / "g", **settings
        )
    )
    strategy = json.loads((folder / "strategy.json").read_text())["layers"]
    plan = amc.load_plan(folder / "plan.json")
    assert {
        n: v["channels"] for n, v in strategy.items() if v["channels"] < v["of"]
    } == plan.strategy
    small = amc.load_pruned(original(checkpoint), folder)
    accuracy = report_of(folder)["accuracy"]["recovered"]
    assert evaluate(small, load_data("digits").test).accuracy == pytest.approx(accuracy, abs=1e-6)


def test_channel_ratio_keeps_that_part_of_every_group(checkpoint: Path, tmp_path: Path) -> None:
    folder = run(
        TrainConfig(
            mode="uniform", channel_ratio=0.5, checkpoint=checkpoint, run_dir=tmp_path / "c",
            **{**SMALL, "finetune_epochs": 0},
        )
    )  # fmt: skip
    layers = json.loads((folder / "strategy.json").read_text())["layers"]
    assert all(v["channels"] * 2 == v["of"] for v in layers.values())
    assert report_of(folder)["macs"]["ratio"] < 0.3


def test_an_earlier_run_is_moved_aside(checkpoint: Path, tmp_path: Path) -> None:
    settings = dict(checkpoint=checkpoint, run_dir=tmp_path / "r", mode="uniform", **SMALL)
    settings["finetune_epochs"] = 0
    first = run(TrainConfig(**settings))
    before = (first / "report.json").read_bytes()
    run(TrainConfig(**settings))
    assert (tmp_path / "r.1" / "report.json").read_bytes() == before
    assert (tmp_path / "r" / "report.json").exists()


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "amc.train", *arguments], capture_output=True, text=True
    )


def test_the_command_prints_tables_and_the_next_step(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = command(
        "--preserve-ratio", "0.5", "--mode", "uniform", "--checkpoint", str(checkpoint), "--width",
        "0.5", "--finetune-epochs", "0", "--calibration-batches", "4", "--run-dir", str(folder),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for expected in ("layer3.2.conv2", "MACs", "test accuracy", f"tensorboard --logdir {folder}"):
        assert expected in done.stdout
    quiet = command(
        "--mode", "uniform", "--checkpoint", str(checkpoint), "--width", "0.5", "--quiet",
        "--finetune-epochs", "0", "--calibration-batches", "4", "--run-dir", str(folder),
    )  # fmt: skip
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


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
            run(TrainConfig(**{**SMALL, "run_dir": tmp_path / "r", **settings}))
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
    folder = run(TrainConfig(model=f"{tmp_path / 'net.py'}:net", **settings))
    assert 0.45 <= report_of(folder)["macs"]["ratio"] <= 0.5
    with pytest.raises(AmcError, match="3 outputs, but digits has 10 classes"):
        run(TrainConfig(model=f"{tmp_path / 'net.py'}:few", **settings))


def test_the_final_cut_decides_among_the_finalists(checkpoint: Path) -> None:
    """A strategy that looks best during the search loses to one that is better once cut."""
    config = TrainConfig(checkpoint=checkpoint, **SMALL)
    pipe = Pipeline(config, load_data("digits"), torch.device("cpu"), Terminal(quiet=True))
    model = original(checkpoint)
    graph = amc.trace(model, pipe.example)
    compressor = pipe.calibrate(graph, model)
    gentle, harsh = (
        {g.name: max(1, g.size * part // 8) for g in graph.decisions} for part in (6, 1)
    )
    for order in ([harsh, gentle], [gentle, harsh]):
        strategy, plan, small = pipe.cut_best(compressor, order, lambda o: o.score.accuracy)
        assert strategy == gentle == plan.strategy
        assert sum(p.numel() for p in small.parameters()) == graph.params(plan)
    smallest, *_ = pipe.cut_best(compressor, [gentle, harsh], lambda o: -float(o.macs))
    assert smallest == harsh


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
