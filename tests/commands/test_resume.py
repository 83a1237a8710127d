"""Runs that were stopped anywhere go on to the same bytes; what cannot go on is told."""

import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import amc
from amc.config.command_line import parse
from amc.config.composed import as_json
from amc.config.train import TrainConfig
from amc.models.catalog import build
from amc.search.search import METHODS
from amc.train import main, run
from forked_runs import ForkedRun
from small_runs import (
    CAN_FORK,
    EPISODES,
    RESULTS,
    assert_same_results,
    entries,
    forking,
    message_of,
    recorded,
    report_of,
    resume,
    rewards_shown,
    started,
    stopped,
    until,
    with_signals,
    words,
)

# Stopped, and gone on with


@forking
@with_signals
def test_killed_run_goes_on_to_the_same_bytes(
    tiny: dict[str, Any],
    undisturbed: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, here = tmp_path / "run", tmp_path / "here"
    here.mkdir()
    monkeypatch.setenv("PAUSE", "0.15")
    process = ForkedRun(here, *words({**tiny, "run_dir": folder}))
    while recorded(folder) < 5:
        assert process.poll() is None, process.err
        time.sleep(0.01)
    process.kill()
    monkeypatch.delenv("PAUSE")
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
    assert header["allocator"] == agent
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
def test_resume_refuses_other_settings(
    given: list[str], undisturbed: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed(), folder)
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
        ({**settings, "allocator": "ppo"}, "ppo"),
        ({**settings, "agent": "td3"}, "is the old name of 'allocator', give one"),
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
