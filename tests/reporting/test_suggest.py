"""The command that `amc.inspect` ends with is one that `amc.train` takes."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from amc.config.command_line import parse
from amc.config.composed import decimal
from amc.config.inspect import InspectConfig
from amc.config.train import TrainConfig
from amc.inspect import run
from amc.models.catalog import is_bundled
from amc.runs.terminal import Terminal
from amc.runtime.names import check
from amc.steps.allocate import allocation_of
from amc.steps.job import open_job
from amc.steps.setup import build_network, load_network, trace_network

NETS = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Net(nn.Module):
    def __init__(self, channels, outputs):
        super().__init__()
        self.a = nn.Conv2d(channels, 12, 3, padding=1)
        self.b = nn.Conv2d(12, 24, 3, stride=2, padding=1)
        self.head = nn.Linear(24, outputs)
    def forward(self, x):
        return self.head(self.b(self.a(x).relu()).relu().mean((2, 3)))

def grey(): return Net(1, 10)
def colour(): return Net(3, 62)
def odd(): return Net(2, 3)
def any(num_classes=10, in_channels=3): return Net(in_channels, num_classes)
def dense(): return nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 2, 1))
class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
    def forward(self, x):
        return "class", self.b(self.a(x).relu())
def text(): return Odd()

def loaders():
    labels = torch.arange(32) % 3
    loader = DataLoader(TensorDataset(torch.randn(32, 2, 9, 9), labels), batch_size=8)
    return loader, loader, loader
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    folder = tmp_path / "a folder $HOME's"
    folder.mkdir()
    (folder / "my nets.py").write_text(NETS)
    return folder / "my nets.py"


def command(nets: Path, **settings: Any) -> str:
    texts = {k: v.format(nets) if isinstance(v, str) else v for k, v in settings.items()}
    return run(InspectConfig.of(**texts)).command


def taken(command: str) -> TrainConfig:
    """What `amc.train` makes of the command, up to what would take long."""
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "amc.train"]
    config = parse(TrainConfig, "amc.train", words[3:])
    check(config.flat)
    job = open_job(config.but(device="cpu"), Terminal(quiet=True))
    given = build_network(job, config.network)
    graph = trace_network(job, given, config.restrictions)
    allocation_of(graph, config)
    if not is_bundled(config.network.model):
        load_network(job, given, graph, config.network, config.data)
    return config


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": "{}:grey", "data": "digits", "preserve_ratio": 0.001},
        {"model": "{}:grey", "data": "digits", "preserve_ratio": 1 / 3},
        {"model": "{}:grey", "data": "digits", "preserve_ratio": 1.0, "min_ratio": 1.0},
        {"model": "plain20", "width": 1 / 3, "min_ratio": 0.3333333},
        {"model": "plain20", "channel_multiple": 8, "preserve_ratio": 0.2},
        {"model": "plain20", "input_shape": "3x32x32", "num_classes": 62},
        {"model": "plain20", "input_shape": "1,16,16"},
        {"model": "{}:grey", "input_shape": "1x16x16"},
        {"model": "{}:grey", "data": "digits", "channel_multiple": 12},
        {"model": "{}:colour", "input_shape": "3x32x32"},
        {"model": "{}:any", "input_shape": "3x32x32", "num_classes": 100},
        {"model": "{}:odd", "data": "{}:loaders", "preserve_ratio": 0.7},
    ],
    ids=str,
)
def test_the_next_command_is_taken(settings: dict[str, Any], nets: Path) -> None:
    config = taken(command(nets, **settings))
    for name in ("width", "min_ratio", "channel_multiple"):
        if name in settings:
            assert config.flat[name] == settings[name]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "{}:odd", "input_shape": "2x9x9"}, ["DATA"]),
        ({"input_shape": "3x64x64"}, ["DATA"]),
        ({"model": "{}:dense", "input_shape": "1x16x16"}, ["TASK"]),
    ],
)
def test_words_that_only_the_user_can_fill_in_are_explained(
    settings: dict[str, Any],
    words: list[str],
    nets: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = shlex.split(command(nets, **settings))
    said = capsys.readouterr().out
    assert all(word in given and f"\n      {word}: " in said for word in words)


def test_outputs_of_no_use_are_in_the_way(nets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(nets, model="{}:text", input_shape="1x16x16") == ""
    assert "must return a tensor" in capsys.readouterr().out.split("Next: ")[1]


def test_too_few_outputs_are_in_the_way(nets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nets.write_text(NETS.replace("Net(2, 3)", "Net(2, 2)"))
    assert command(nets, model="{}:odd", data="{}:loaders") == ""
    assert "has 2 outputs, but" in capsys.readouterr().out


def test_decimals_are_short_and_exact() -> None:
    assert [decimal(x) for x in (0.5, 0.05, 1.0, 1e-7)] == ["0.5", "0.05", "1", "1e-07"]
    assert all(float(decimal(x)) == x for x in (1 / 3, 0.1 + 0.2, 123456789.123))
