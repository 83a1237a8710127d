"""Levels of filters, FLOPs and parameters, counted by hand."""

import io
import json
import shlex
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

import amc
from amc.config.command_line import parse
from amc.config.train import TrainConfig
from amc.reporting.statistics import Statistics, statistics, tables
from amc.train import run
from small_problems import Small
from small_runs import NETWORK


def of_small(strategy: dict[str, int]) -> Statistics:
    graph = amc.trace(Small().eval(), (torch.zeros(1, 3, 8, 6),))
    return statistics(graph, strategy, target=0.5)


def test_levels_are_those_counted_by_hand() -> None:
    found = of_small({"a": 4, "b": 6, "f": 5})
    # layers a (8 of 3x3x3), b (6 of 8x3x3), f (10 of 72) can be pruned, g (4 of 10) cannot
    assert [(one.name, one.weight_shape, one.filters, one.kept) for one in found.layers] == [
        ("a", (8, 3, 3, 3), 8, 4), ("b", (6, 8, 3, 3), 6, 6), ("f", (10, 72), 10, 5),
    ]  # fmt: skip
    assert [one.level for one in found.layers] == [0.5, 0, 0.5]
    assert (found.filters.full, found.filters.current) == (8 + 6 + 10 + 4, 4 + 6 + 5 + 4)
    assert found.filters.level == pytest.approx(9 / 28)  # of all layers
    assert found.aims[0].current == pytest.approx(9 / 24)  # of those that can be pruned
    assert found.flops.full == 2 * (1296 * 8 + 108 * 48 + 12 * 60 + 4 * 10)
    assert found.flops.current == 2 * (1296 * 4 + 108 * 24 + 12 * 30 + 4 * 5)
    assert found.params.full == 8 * 27 + 8 + 6 * 72 + 6 + 10 * 72 + 10 + 4 * 10 + 4
    assert found.params.current == 4 * 27 + 4 + 6 * 36 + 6 + 5 * 72 + 5 + 4 * 5 + 4


def test_a_depthwise_layer_is_pruned_with_its_group() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 2, 1)
    )
    graph = amc.trace(model.eval(), (torch.zeros(1, 3, 8, 8),))
    found = statistics(graph, {"0": 2})
    assert [(one.name, one.filters, one.kept) for one in found.layers] == [
        ("0", 8, 2),
        ("1", 8, 2),
    ]
    assert (found.filters.full, found.filters.current) == (18, 6)
    assert found.aims[0].current == 0.75


def test_tables_fit_80_columns() -> None:
    console = Console(file=io.StringIO(), width=80)
    for table in tables(of_small({"a": 4})):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "a [8, 3, 3, 3] [8] 0.500",
        "filters 28 24 0.143",
        "filters that can be pruned 0.167 0.500",
    ):
        assert words in " ".join(text.split()), words


def test_a_run_writes_them_and_prints_them_if_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    line = (
        f"--model {tmp_path}/net.py:net --mode uniform --channel-ratio 0.5 --finetune-epochs 0 "
        f"--calibration-batches 2 --device cpu --run-dir {tmp_path}/run"
    )
    folder = run(parse(TrainConfig, "amc.train", shlex.split(line)))
    assert "Statistics" not in capsys.readouterr().out
    report = json.loads((folder / "report.json").read_text())
    found = report["statistics"]
    assert found["algorithm"] == [
        {"measure": "filters that can be pruned", "current": 0.5, "target": 0.5}
    ]
    assert found["layers"][0] == {
        "name": "first", "weight_shape": [24, 1, 3, 3], "mask_shape": [24], "level": 0.5,
    }  # fmt: skip
    macs = report["macs"]
    assert found["model"]["gflops"]["full"] == pytest.approx(2e-9 * macs["original"], abs=1e-6)
    words = [word for word in shlex.split(line) if word not in ("--channel-ratio", "0.5")]
    words += ["--objective", "filters=0.7,macs=0.6", "--statistics"]
    report = json.loads((run(parse(TrainConfig, "amc.train", words)) / "report.json").read_text())
    levels = {one["measure"]: one for one in report["statistics"]["algorithm"]}
    for name, target in (("filters", 0.3), ("macs", 0.4)):
        assert levels[name]["target"] == pytest.approx(target)
        reached = 1 - report["objective"][name]["ratio"]
        assert levels[name]["current"] == pytest.approx(reached, abs=1e-5)
        assert reached >= target - 1e-6
    assert "Statistics by pruned layers" in capsys.readouterr().out
