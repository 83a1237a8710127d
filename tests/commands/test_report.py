"""``python -m amc.report``: one run, several, a sweep; what is none of these."""

import json
import shlex
from pathlib import Path

import pytest

from amc.config.command_line import parse
from amc.config.composed import as_json
from amc.config.run_folders import ReportConfig
from amc.config.train import TrainConfig
from amc.report import run
from amc.reporting.html.record import record_of
from amc.reporting.html.settings import command
from amc.reporting.html.side_by_side import names_of
from amc.runtime.errors import AmcError
from run_folders import put, report, write


def config(*folders: Path, output: Path | None = None) -> ReportConfig:
    words = [*map(str, folders), *(["--output", str(output)] if output else [])]
    return parse(ReportConfig, "amc.report", words)


def test_one_run(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    assert run(config(folder)) == [folder / "report.html", folder / "report.md"]
    assert "resnet20 on digits" in (folder / "report.html").read_text()


def test_two_runs(tmp_path: Path) -> None:
    first = write(tmp_path / "a")
    slow = report(accuracy={"original": 0.95, "pruned": 0.6, "recovered": 0.91})
    second = write(tmp_path / "b", slow, seed=7, finetune_epochs=9)
    page, markdown = run(config(first, second))
    assert page == tmp_path / "comparison.html"
    text = page.read_text()
    for shown in ("2 runs side by side", "94.50%", "91.00%", "finetune_<wbr>epochs", "8 of 16"):
        assert shown in text
    assert "| change | \u22120.50 points | \u22124.00 points |" in markdown.read_text()
    assert run(config(first, second, output=tmp_path / "x.html"))[0] == tmp_path / "x.html"


def test_runs_of_different_networks(tmp_path: Path) -> None:
    second = write(tmp_path / "b", report(("other",)), model="vgg16")
    page, _ = run(config(write(tmp_path / "a"), second))
    assert "different networks or data" in page.read_text()
    assert "Channels that stay" not in page.read_text()


def test_names_of_columns() -> None:
    assert names_of([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    assert names_of([Path("/x/a"), Path("/y/a")]) == ["x/a", "y/a"]


def test_a_sweep(tmp_path: Path) -> None:
    one = {"target": 0.5, "macs": 50, "params": 5, "latency": 0.6, "accuracy": 0.9, "test": 0.89}
    whole = {**one, "target": 1.0, "macs": 100, "params": 9, "latency": 1.0, "accuracy": 0.95}
    account = {"original": whole, "points": [one], "max_drop": {"points": 6, "chosen": 0.5}}
    put(tmp_path / "pareto.json", {"settings": {"model": "vgg16"}, **account})
    page, _ = run(config(tmp_path))
    assert "has 50.0% of the MACs and loses 5.00." in page.read_text()


def test_a_comparison_of_methods(tmp_path: Path) -> None:
    both = [
        {"method": m, "seed": 0, "rewards": [0.1, 0.2], "strategy": {}, "macs": 5, "accuracy": 0.9}
        for m in ("ddpg", "random")
    ]
    seconds = {"ddpg-0": 1.0, "random-0": 2.0}
    account = {"original": {"macs": 10}, "verdicts": ["ddpg equals random"], "attempts": both}
    put(tmp_path / "compare.json", {"settings": {}, "seconds": seconds, **account})
    page, _ = run(config(tmp_path))
    assert "ddpg equals random" in page.read_text()


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(AmcError, match="no such folder"):
        run(config(tmp_path / "x"))
    with pytest.raises(AmcError, match=r"is no run folder \(no config.json"):
        run(config(tmp_path))
    with pytest.raises(AmcError, match="got none"):
        run(config())
    with pytest.raises(AmcError, match=r"must end in \.html"):
        config(tmp_path, tmp_path, output=tmp_path / "x.txt")


@pytest.mark.parametrize("damage", ["[]", '{"macs": 3}', '{"layers": [1]}', "{"])
def test_damaged_files_are_one_line(tmp_path: Path, damage: str) -> None:
    (write(tmp_path) / "report.json").write_text(damage)
    with pytest.raises(AmcError, match=r"damaged|expected|not a JSON"):
        run(config(tmp_path))


def test_the_command_makes_the_run_once_more(tmp_path: Path) -> None:
    given = TrainConfig.of(model="vgg16", data="my images.py:load", finetune_epochs=3, clip=0.5)
    folder = write(tmp_path)
    put(folder / "config.json", {**as_json(given), "threads": 2})
    words = shlex.split(command(record_of(folder)).replace("\\\n", ""))
    assert words[:4] == ["OMP_NUM_THREADS=2", "python", "-m", "amc.train"]
    assert parse(TrainConfig, "amc.train", words[4:]) == given
    put(folder / "config.json", {**json.loads((folder / "config.json").read_text()), "new": 1})
    assert command(record_of(folder)) == ""
