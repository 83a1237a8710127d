"""Configuration files from the command line to the network: the examples, and AMCT's flow."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from amc.train import main
from small_runs import NETWORK, report_of

EXAMPLES = Path(__file__).parents[2] / "examples" / "configs"

QUICK = "--calibration-batches 2 --reward-images 60 --device cpu"


def train(monkeypatch: pytest.MonkeyPatch, folder: Path, words: str) -> dict:
    """The report of a run of the command."""
    line = ["amc.train", *shlex.split(words), "--run-dir", str(folder)]
    monkeypatch.setattr(sys, "argv", line)
    main()
    return report_of(folder)


def cut(folder: Path) -> dict:
    layers = json.loads((folder / "strategy.json").read_text())["layers"]
    return {name: one for name, one in layers.items() if one["channels"] < one["of"]}


def test_search_leaves_a_file_that_prunes_by_hand_as_amct_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "fixed.cfg").write_text(
        'skip_layers: "first"\noverride_layer_configs { layer_name: "second" prune_config { '
        "filter_pruner { balanced_l2_norm_filter_prune { prune_ratio: 0.22 } } } }"
    )
    (tmp_path / "search.cfg").write_text(
        'compress_ratio: 1.6\ntest_iteration: 2\noverride_prune_cfg: "fixed.cfg"'
    )
    common = f"--model {tmp_path}/net.py:net --finetune-epochs 0 {QUICK}"
    words = f"--config {tmp_path}/search.cfg {common}"
    found = train(monkeypatch, tmp_path / "searched", words)
    assert found["objective"]["bits"]["ratio"] <= 1 / 1.6
    searched = cut(tmp_path / "searched")
    assert "first" not in searched and len(searched) > 2
    assert searched["second"] == {"channels": 32 - 7, "of": 32}  # round(7.04)
    assert "by hand" in capsys.readouterr().out
    words = f"--config {tmp_path}/searched/prune.cfg {common}"
    again = train(monkeypatch, tmp_path / "by_hand", words)
    assert cut(tmp_path / "by_hand") == searched
    assert again["macs"] == found["macs"] and again["mode"] == "list"
    settings = json.loads((tmp_path / "by_hand" / "config.json").read_text())
    assert (settings["metric"], settings["config"]) == ("l2", None)


def test_scopes_that_match_nothing_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {"algorithm": "filter_pruning", "ignored_scopes": ["Net/NNCFConv2d[frist]/conv2d_0"]}
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "nncf.json").write_text(json.dumps({"compression": entry}))
    words = f"--config {tmp_path}/nncf.json --model {tmp_path}/net.py:net {QUICK}"
    with pytest.raises(SystemExit) as stop:
        train(monkeypatch, tmp_path / "run", words)
    assert "'frist' matches no layer; did you mean 'first'" in str(stop.value.code)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_the_examples_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path.name == "amct_fixed.cfg":
        pytest.skip("part of amct_search.cfg")
    words = f"--config {path} --episodes 8 --finetune-epochs 1"
    report = train(monkeypatch, tmp_path / "run", f"{words} --schedule-steps 2 --seed 0")
    assert report["macs"]["ratio"] < 1 and report["accuracy"]["recovered"] > 0.9
    for one in report["objective"].values():
        assert one["ratio"] <= one["target"]
