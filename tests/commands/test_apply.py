"""`amc.apply`: its own recipe, with its own ``--resume``."""

from pathlib import Path
from typing import Any

import pytest

from amc.apply import main
from amc.apply import run as apply
from amc.config.apply import ApplyConfig
from amc.config.train import TrainConfig
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json
from amc.train import run as train

NETWORK = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    a, b = nn.Conv2d(1, 12, 3), nn.Conv2d(12, 16, 3, stride=2)
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(a, nn.ReLU(), b, nn.ReLU(), pool, nn.Flatten(), nn.Linear(16, 10))
"""
RESULTS = ("strategy.json", "plan.json", "pruned.safetensors")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a run that has learned a policy, and the settings of its network."""
    place = tmp_path_factory.mktemp("learned")
    (place / "net.py").write_text(NETWORK)
    own = {
        "model": f"{place / 'net.py'}:net", "calibration_batches": 2, "reward_images": 40,
        "device": "cpu", "quiet": True,
    }  # fmt: skip
    few = {"episodes": 5, "warmup_episodes": 2, "finalists": 1, "finetune_epochs": 0}
    return train(TrainConfig.of(**own, **few, run_dir=place / "run")), own


@pytest.mark.parametrize("episodes", [0, 4])
def test_an_apply_that_was_stopped_goes_on_to_the_same_bytes(
    episodes: int,
    learned: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, own = learned
    given = {**own, "policy": run, "preserve_ratio": 0.4, "episodes": episodes}
    given |= {"finetune_epochs": 1, "learning_rate": 0.01}
    whole = apply(ApplyConfig.of(**given, run_dir=tmp_path / "whole"))

    def stopping(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr("amc.steps.finetune.train", stopping)
        patch.setattr("sys.argv", ["amc.apply"])
        with pytest.raises(KeyboardInterrupt):
            apply(ApplyConfig.of(**given, run_dir=stopped))
    assert not (stopped / "report.json").exists()
    monkeypatch.setattr("sys.argv", ["amc.apply", "--resume", str(stopped), "--quiet"])
    main()
    for name in RESULTS:
        assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name
    ours, theirs = (read_json(folder / "report.json") for folder in (stopped, whole))
    assert ours["accuracy"] == theirs["accuracy"] and ours["episodes"] == episodes


def test_every_command_resumes_its_own_runs_alone(
    learned: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run, own = learned
    folder = apply(ApplyConfig.of(**own, plan=run, finetune_epochs=0, run_dir=tmp_path / "plan"))
    with pytest.raises(AmcError, match=r"is of amc\.apply; go on: python -m amc\.apply --resume"):
        train(TrainConfig.of(resume=folder, quiet=True))
    with pytest.raises(AmcError, match=r"is of amc\.train; go on: python -m amc\.train --resume"):
        apply(ApplyConfig.of(resume=run, quiet=True))
    with pytest.raises(AmcError, match="--preserve-ratio cannot be given"):
        apply(ApplyConfig.of(resume=folder, preserve_ratio=0.3))
    assert apply(ApplyConfig.of(resume=folder, quiet=True)) == folder  # all of it, once more


def test_an_interrupted_apply_says_how_to_go_on(
    learned: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopping(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    run, own = learned
    words = ["amc.apply", "--policy", str(run), "--run-dir", str(tmp_path / "a b")]
    for name, value in own.items():
        flag = "--" + name.replace("_", "-")
        words += [flag] if value is True else [flag, str(value)]
    monkeypatch.setattr("amc.steps.finetune.train", stopping)
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    said = capsys.readouterr().err
    place = tmp_path / "a b"
    assert said == f"amc.apply: interrupted; go on: python -m amc.apply --resume '{place}'\n"
