"""`amc.compress`: the whole job on a network and loaders in memory."""

import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import amc
from amc.runtime.files import read_json
from amc.tasks.task import Task

FEW = {"episodes": 4, "warmup_episodes": 2, "finetune_epochs": 1, "calibration_batches": 2}


class Net(nn.Module):
    """Two convolutions, batch norm, a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3)
        self.drop, self.fc = nn.Dropout(0.1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.norm(self.a(x)).relu()).relu()
        out: Tensor = self.fc(self.drop(x.mean((2, 3))))
        return out


def loaders(targets: Any = None) -> list[DataLoader[Any]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(96, 1, 8, 8, generator=generator)
    labels = images.mean((1, 2, 3)).argsort().argsort() // 32 if targets is None else targets
    sets = [TensorDataset(images[i::3], labels[i::3]) for i in range(3)]
    return [DataLoader(one, batch_size=16) for one in sets]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net()


def test_a_network_in_memory_gets_smaller_and_stays_as_it_was(model: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    others = random.getstate(), np.random.get_state()[1].tolist()
    result = amc.compress(model, *loaders(), preserve_ratio=0.4, **FEW)
    assert 0 < result.report.macs.ratio <= 0.4 and result.folder is None
    assert result.model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert type(result.model) is Net and not result.model.training
    assert amc.trace(result.model, (torch.zeros(2, 1, 8, 8),)).macs() == result.report.macs.pruned
    assert result.strategy == result.plan.strategy and set(result.strategy) <= {"a", "b"}
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert torch.equal(torch.get_rng_state(), state)  # random numbers of the caller's go on
    assert (random.getstate(), np.random.get_state()[1].tolist()) == others


def test_the_same_seed_gives_the_same_bits(model: nn.Module) -> None:
    first, second = (amc.compress(model, *loaders(), **FEW).model.state_dict() for _ in range(2))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_run_folder_is_kept_where_one_is_named(model: nn.Module, tmp_path: Path) -> None:
    result = amc.compress(model, *loaders(), mode="uniform", run_dir=tmp_path / "run", **FEW)
    assert result.folder == tmp_path / "run"
    again = amc.load_pruned(model, tmp_path / "run").eval()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(again(x), result.model(x))
    with pytest.raises(SystemExit) as ended:
        from amc.train import main

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["amc.train", "--resume", str(tmp_path / "run")])
            main()
    assert "the run is of amc.compress; it cannot be resumed" in str(ended.value.code)


def test_it_is_silent_and_logs_what_happens(
    model: nn.Module, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="amc"):
        amc.compress(model, *loaders(), mode="uniform", **FEW)
    assert capsys.readouterr() == ("", "")
    assert any("network  Net: " in line for line in caplog.messages)
    assert not any("python -m" in line for line in caplog.messages)  # no command can name it
    amc.compress(model, *loaders(), mode="uniform", quiet=False, **FEW)
    assert "Before and after" in capsys.readouterr().out


def test_other_tasks_and_other_settings(model: nn.Module) -> None:
    targets = torch.randn(96, 3, generator=torch.Generator().manual_seed(1))

    def rmse(results: Any) -> float:
        return -float(torch.cat([(a - b).square() for a, b in results]).mean().sqrt())

    task = Task("minus RMSE", loss=nn.functional.mse_loss, score=rmse)
    settings = {**FEW, "agent": "random", "selector": "obs", "exclude": ("a",)}
    result = amc.compress(model, *loaders(targets), preserve_ratio=0.7, task=task, **settings)
    assert set(result.strategy) == {"b"} and result.report.accuracy["original"] < 0


def test_lists_and_functions_are_taken(model: nn.Module) -> None:
    seen = []

    def smaller(outcome: Any) -> float:
        seen.append(outcome.macs)
        return -float(outcome.macs)

    settings = {**FEW, "agent": "random", "exclude": ["a"], "reward": smaller}
    result = amc.compress(model, *loaders(), preserve_ratio=0.9, **settings)
    assert set(result.strategy) == {"b"} and min(seen) <= result.report.macs.pruned <= max(seen)


def test_a_metric_may_be_a_function(model: nn.Module) -> None:
    def last_ones(evidence: Any, group: Any) -> Any:
        return np.arange(group.size)

    result = amc.compress(model, *loaders(), mode="uniform", metric=last_ones, **FEW)
    assert result.plan.groups["a"].keep == tuple(range(16 - result.strategy["a"], 16))


def test_a_schedule_may_be_a_function(model: nn.Module, tmp_path: Path) -> None:
    def half_at_first(final: float, progress: float) -> float:
        return final if progress == 1 else (1 + final) / 2

    given = {"mode": "uniform", "channel_ratio": 0.5, "schedule": half_at_first,
             "schedule_steps": 2, "run_dir": tmp_path / "run"}  # fmt: skip
    amc.compress(model, *loaders(), **{**FEW, **given, "finetune_epochs": 2})
    stages = read_json(tmp_path / "run" / "stages.json")["stages"]
    assert [stage["channels"] for stage in stages] == [{"a": 12, "b": 12}, {"a": 8, "b": 8}]

    def rises(final: float, progress: float) -> float:
        return 1.0

    with pytest.raises(amc.AmcError, match=r"--schedule amc\.compress:rises: ends at 1"):
        amc.compress(model, *loaders(), mode="uniform", schedule=rises, **FEW)


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"preserve_ratio": 0.001}, amc.AmcError, "the nearest feasible"),
        ({"preserve_ratio": 2}, amc.AmcError, r"--preserve-ratio must be in \(0, 1\], got 2"),
        (
            {"episods": 3},
            TypeError,
            r"amc\.compress has no setting 'episods'; did you mean episodes",
        ),
        ({"exclude": ("c",)}, amc.AmcError, "'c' matches no layer"),
        ({"val": [1, 2]}, amc.AmcError, "loaders: val"),
        ({"mode": "unifrom"}, amc.AmcError, "--mode 'unifrom' is unknown; .*did you mean uniform"),
        ({"agent": "ppo"}, amc.AmcError, "--allocator 'ppo' is unknown; allowed: ddpg"),
        ({"schedule": "agpp"}, amc.AmcError, "--schedule 'agpp' is unknown"),
        ({"channel_multiple": "none"}, amc.AmcError, "--channel-multiple 'none' is unknown"),
        ({"distill": "no"}, amc.AmcError, "--distill must be a truth value, got 'no'"),
        ({"exclude": "fc"}, amc.AmcError, "--exclude must be a list, got 'fc'"),
        ({"min_channels": 3}, amc.AmcError, "--min-channels must be a mapping, got 3"),
        ({"finetune": len}, amc.AmcError, "--finetune must be a text, got <built-in"),
        ({"metric": lambda e, g: 1}, amc.AmcError, "metric: a: must return an array of 16"),
        ({"metric": "lassoo"}, amc.AmcError, "--metric 'lassoo' is unknown; .*'lasso'"),
        ({"reward": lambda outcome: 1 / 0}, amc.AmcError, "reward: ZeroDivisionError"),
        ({"model": Net}, amc.AmcError, r"model must be a torch\.nn\.Module, got <class"),
        ({"data": "digits"}, TypeError, "takes network and data in memory, not 'data'"),
        ({"task": 3}, amc.AmcError, r"task must be an amc\.Task, got 3"),
        ({"run_dir": 3}, amc.AmcError, "run_dir must be a path, got 3"),
        ({"resume": "x"}, TypeError, "takes network and data in memory, not 'resume'"),
    ],
)
def test_mistakes_are_told_in_one_line(
    model: nn.Module, settings: dict[str, Any], error: type[Exception], said: str
) -> None:
    given = dict(zip(("train", "val", "test"), loaders(), strict=True))
    with pytest.raises(error, match=said) as raised:
        amc.compress(**{"model": model, **given, **FEW, **settings})
    assert "\n" not in str(raised.value)


def test_public_names_are_few_and_the_old_ones_still_work() -> None:
    assert len(amc.__all__) == 16
    for name in (*amc.__all__, "InfeasibleBudgetError", "ChannelGroup", "load_plan"):
        assert getattr(amc, name).__doc__, name
    assert amc.Choice is amc.Restrictions and amc.choose is amc.restrict
