"""What is wrong with a command shows in one line, at once."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from amc.config import exits
from amc.config.apply import ApplyConfig
from amc.config.command_line import only_result, parse
from amc.config.exits import exit_with_one_line, while_loading
from amc.config.inspect import InspectConfig
from amc.config.many_budgets import LearnConfig
from amc.config.train import TrainConfig
from amc.data import load_data
from amc.metrics import METRICS as KNOWN_METRICS
from amc.models.catalog import BUNDLED
from amc.runtime.errors import AmcError
from amc.runtime.names import METRICS, MODELS, REWARDS, check
from envs import REWARDS as KNOWN_REWARDS

PROBE = """
import runpy, sys
for words in {commands}:
    sys.argv[1:] = words[1:]
    try:
        runpy.run_module("amc." + words[0], run_name="__main__")
    except SystemExit as stop:
        print(words[0], "|", stop.code)
print("torch" in sys.modules)
"""

AT_ONCE = [
    ["train", "--preserve-ratio", "2"],
    ["train", "--agent", "ppo"],
    ["train", "--metric", "lassoo"],
    ["compare", "--metric", "nowhere.py:metric"],
    ["inspect", "--model", "resnet21"],
    ["learn", "--data", "digist"],
    ["pareto", "--checkpoint", "nowhere.pt"],
    ["apply", "--plan", "nowhere.json"],
    ["compare", "--task", "nowhere.py:task"],
]


def test_what_the_words_alone_show_is_refused_before_torch_is_loaded() -> None:
    code = PROBE.format(commands=AT_ONCE)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *said, loaded = done.stdout.splitlines()
    assert loaded == "False"
    assert [line.split(" | ")[0] for line in said] == [words[0] for words in AT_ONCE]
    for line, words in zip(said, AT_ONCE, strict=True):
        assert line.split(" | ")[1].startswith(f"amc.{words[0]}: ")
        assert words[-1].split(":")[0] in line


def test_help_is_given_before_torch_is_loaded() -> None:
    code = PROBE.format(commands=[["train", "--help"]])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--preserve-ratio" in done.stdout and done.stdout.splitlines()[-1] == "False"


def test_names_are_those_of_what_is_there() -> None:
    assert MODELS == tuple(BUNDLED)
    assert REWARDS == tuple(KNOWN_REWARDS)
    assert METRICS == tuple(KNOWN_METRICS)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (TrainConfig.of(model="resnet21"), "did you mean 'resnet20'"),
        (LearnConfig.of(model="plain20,vgg61"), "did you mean 'vgg16'"),
        (TrainConfig.of(model="nowhere.py:net"), "nowhere.py: no such file"),
        (TrainConfig.of(model="~nobody-of-this-name/a.py:f"), "there is no such user"),
        (TrainConfig.of(reward="lost"), "did you mean 'loss'"),
        (TrainConfig.of(reward="nowhere.py:f"), "nowhere.py: no such file"),
        (TrainConfig.of(data="imagefolder:/x?size=99999"), "at most 8192"),
        (TrainConfig.of(data="imagefolder:/x?workers=99999"), "at most 256"),
        (TrainConfig.of(data="imagefolder:~nobody-of-this-name"), "there is no such user"),
        (InspectConfig.of(data="gylphs"), "did you mean glyphs"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_names_are_looked_at(config: TrainConfig | InspectConfig, said: str) -> None:
    with pytest.raises(AmcError) as refused:
        check(config.flat)
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("config", [TrainConfig.of(), InspectConfig.of(), LearnConfig.of()])
def test_defaults_are_fine(config: TrainConfig | InspectConfig | LearnConfig) -> None:
    check(config.flat)


def test_nothing_of_a_name_is_imported_when_it_is_looked_at() -> None:
    named = {"model": "no_such_module:net", "data": "no_such_module:data", "task": "no_such:task"}
    check(TrainConfig.of(**named).flat)


def test_a_file_that_is_there_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "policy.json").touch()
    check(ApplyConfig.of(plan=tmp_path / "run").flat)
    check(ApplyConfig.of(policy=tmp_path / "policy").flat)


def test_a_user_that_is_not_there() -> None:
    with pytest.raises(AmcError, match="there is no such user"):
        load_data("cifar10:~nobody-of-this-name/cifar")


def test_a_device_that_is_not_there_is_refused_before_all_the_rest_is_loaded() -> None:
    code = PROBE.format(
        commands=[["train", "--device", "nothing"], ["learn", "--device", "xpu:99"]]
    )
    code = code.replace('"torch" in', '"stable_baselines3" in')
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert done.stdout.count("cannot be used here") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--preserve-ratio abc", "--preserve-ratio must be a number, got 'abc'"),
        ("--episodes=1.5", "--episodes must be a whole number, got '1.5'"),
        ("--patience x --seed 3", "--patience must be a whole number, got 'x'"),
        ("--channel_multiple 1.5", "--channel-multiple must be a whole number or auto, got '1.5'"),
        ("--schedule-parts x 0.5", "--schedule-parts must be numbers, got 'x 0.5'"),
        ("--min-channels a", "--min-channels must be pairs of a pattern and a number of channels"),
        ("--mode unifrom", "--mode 'unifrom': allowed are auto, uniform, list, policy, plan"),
    ],
)
def test_what_is_no_value_of_a_flag_is_told_with_what_would_be(words: str, said: str) -> None:
    with pytest.raises(AmcError) as refused:
        parse(TrainConfig, "amc.train", words.split())
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value)


# --json.


def test_standard_output_is_for_the_result_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever writes inside: Python, C, processes of one's own."""
    with only_result(True) as tell:
        print("a line of ours")
        os.write(1, b"of a library\n")
        subprocess.run([sys.executable, "-c", "print('of a process')"], check=True)
        tell(lambda: '{"macs": 1}\n')
        print("and after it")
    print("as usual")
    out, err = capfd.readouterr()
    assert out == '{"macs": 1}\nas usual\n'
    said = {"a line of ours", "of a library", "of a process", "and after it"}
    assert set(err.splitlines()) == said


def test_after_a_mistake_there_is_no_result(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AmcError), only_result(True):
        print("so far")
        raise AmcError("no")
    print("as usual")
    assert capfd.readouterr() == ("as usual\n", "so far\n")


def test_without_it_nothing_is_moved(capfd: pytest.CaptureFixture[str]) -> None:
    with only_result(False) as tell:
        print("a line")
        tell(lambda: "never")
    assert capfd.readouterr() == ("a line\n", "")


def test_loading_is_no_silence_and_ends_with_the_first_thing_that_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exits, "FIRST", 0.01)
    said, spoken = io.StringIO(), threading.Event()
    monkeypatch.setattr(said, "flush", spoken.set)
    while_loading(said)
    assert spoken.wait(20)
    with exit_with_one_line("x"):
        pass
    assert exits.LOADED.is_set() and said.getvalue().startswith("load  ")
