"""What TensorBoard gets: groups, pictures when they are due, runs that can be compared."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.hparams.metadata import PLUGIN_NAME

from amc.config.apply import ApplyConfig
from amc.config.train import TrainConfig
from amc.objectives.latency import Latency, Timing
from amc.reporting.report import Change, LayerChange, Report
from amc.reporting.statistics import Amount, Statistics
from amc.reporting.tensorboard import pictures
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.reporting.tensorboard.pictures import DPI, GONE, KEPT, bars, heat_map, sums
from amc.reporting.tensorboard.summary import headline, metrics, settings_shown, text
from amc.tasks.evaluate import Score
from amc.tasks.task import CLASSIFICATION
from envs import Outcome
from envs.outcome import Episode

HOSTILE = [
    "[red]",
    "\x1b[31mred",
    "two\nlines",
    "\u202eevil",
    "\udcff",
    "$x^2$",
    "{0}",
    "%s",
    "层",
    "\x00",
    "a/b",
    "|",
]


DRAWN = pictures._drawn


@pytest.fixture(autouse=True)
def as_drawn(hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures as users have them."""
    monkeypatch.setattr(pictures, "_drawn", DRAWN)


def episode(number: int, kept: dict[str, int], probe: bool = False) -> Episode:
    outcome = Outcome(Score(0.5, 1.0, 10), 50, 10)
    return Episode(number, kept, outcome, -1.0 / (1 + number), -1.0 / (1 + number), probe)


def loaded(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), {"images": 0, "scalars": 0}).Reload()


def report(name: str = "conv1") -> Report:
    one, none = Latency(1.0, 0.1, 0.9), Amount(0, 0)
    layer = LayerChange(name, "conv", name, Change(3, 3), Change(16, 8), Change(100, 50))
    return Report(
        "auto", 0.5, {}, None, 8, Change(1000, 497), Change(200, 100), Change(900, 450),
        (Timing("PyTorch 2", problem="none"), Timing("onnxruntime 1", one, one, 0.7, rounds=9)),
        {"original": 0.99, "pruned": 0.9, "recovered": 0.98}, 3, {"total": 120.0}, (layer,), {},
        Statistics((), none, none, none, ()),
    )  # fmt: skip


def test_groups_sort_in_the_order_of_the_story(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path, {"a": 4, "b": 8}, 100)
    for number in range(3):
        log.episode(episode(number, {"a": 2, "b": 6}))
    log.learned({"train/critic_loss": 0.5, "train/n_updates": 3})
    log.finish(TrainConfig(), report())
    tags = loaded(tmp_path).Tags()
    groups = list(dict.fromkeys(tag.split("/")[0] for tag in sorted(tags["scalars"])))
    assert groups == ["2 search", "5 agent", "6 kept channels", "7 numbers"]
    assert "5 agent/critic loss" in tags["scalars"]
    kept = [e.value for e in loaded(tmp_path).Scalars("6 kept channels/b")]
    assert kept == [0.75] * 3


def test_the_search_is_drawn_after_eight_strategies_then_after_twice_as_many_and_at_its_end(
    tmp_path: Path,
) -> None:
    log = TensorBoardLog(tmp_path, {"a": 4}, 100)
    for number in range(20):
        log.episode(episode(number, {"a": 1 + number % 4}))
    log.close()
    found = loaded(tmp_path)
    for name in ("2 search/0 strategies", "2 search/1 best strategy"):
        assert [e.step for e in found.Images(name)] == [7, 15, 19]
        picture = Image.open(io.BytesIO(found.Images(name)[-1].encoded_image_string))
        assert picture.width == found.Images(name)[-1].width > 500


def test_what_was_only_measured_is_not_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = dict[str, Any]()

    def heat(names: Any, rows: Any, best: int, what: str) -> Any:
        drawn["best"] = best
        return np.zeros((2, 2, 4), np.uint8)

    monkeypatch.setattr("amc.reporting.tensorboard.log.heat_map", heat)
    log = TensorBoardLog(tmp_path, {"a": 4}, 100)
    log.episode(episode(0, {"a": 4}))
    log.episode(episode(1, {"a": 3}))
    log.episode(episode(2, {"a": 4}, probe=True))
    log.close()
    assert drawn["best"] == 1


def test_runs_can_be_compared_by_their_settings_and_results(tmp_path: Path) -> None:
    config = TrainConfig.of(preserve_ratio=0.3, metric="l1", clip=0.5, run_dir=tmp_path / "r")
    log = TensorBoardLog(tmp_path, {"a": 4}, 100)
    log.finish(config, report())
    raw = loaded(tmp_path).summary_metadata
    content = {
        tag: plugin_data_pb2.HParamsPluginData.FromString(one.plugin_data.content)
        for tag, one in raw.items()
        if one.plugin_data.plugin_name == PLUGIN_NAME
    }
    start = content["_hparams_/session_start_info"].session_start_info
    given = start.hparams
    assert given["preserve_ratio"].number_value == 0.3 and given["clip"].number_value == 0.5
    assert given["metric"].string_value == "l1" and given["model"].string_value == "resnet20"
    assert not {"run_dir", "quiet", "device", "label_smoothing"} & set(given)
    named = content["_hparams_/experiment"].experiment.metric_infos
    scalars = set(loaded(tmp_path).Tags()["scalars"])
    assert {one.name.tag for one in named} <= scalars
    assert "7 numbers/part of the time, onnxruntime" in scalars
    assert not any("PyTorch" in one.name.tag for one in named)  # it was not measured


def test_settings_that_tell_runs_apart() -> None:
    assert settings_shown(TrainConfig()) == settings_shown(
        TrainConfig.of(quiet=True, memory="4GB")
    )
    shown = settings_shown(ApplyConfig.of(plan="p"))
    assert shown["plan"] == "p" and "policy" not in shown and shown["seed"] == 0


def test_the_result_in_words() -> None:
    found = report()
    first, second = "49.7% of the MACs, 70% of the time", "accuracy 99.00% → 98.00%"
    assert headline(found, CLASSIFICATION) == (first, second)
    assert metrics(found, CLASSIFICATION)["minutes"] == 2.0
    said = text(TrainConfig.of(task="classification"), found, CLASSIFICATION)
    assert "| MACs | 1,000 | 497 | 49.7% |" in said and "| `model` | resnet20 |" in said
    assert "| ms, onnxruntime 1, 1 thread, batch 1 | 1.00 ± 0.05 | 1.00 ± 0.05 | 70% |" in said


def test_bars_are_as_long_as_channels_are_many() -> None:
    def long(pixels: Any) -> list[int]:
        colours = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in (KEPT, GONE)]
        rest = pixels[DPI:, DPI:].astype(int)  # without title and legend
        return [int((rest[:, :, :3] == c).all(axis=2).sum()) for c in colours]

    kept, gone = long(bars(["conv"], [100], [25], "a title"))
    assert kept / (kept + gone) == pytest.approx(0.25, abs=0.05)
    kept, gone = long(sums({"MACs": 0.3}, "a title"))
    assert kept / (kept + gone) == pytest.approx(0.3, abs=0.2)


def test_a_heat_map_has_a_column_for_every_strategy() -> None:
    pixels = heat_map(["a", "b"], [[0.0, 1.0], [1.0, 0.0]], 1, "a title").astype(int)
    dark, light = (68, 1, 84), (253, 231, 37)  # the ends of viridis
    places = [
        np.argwhere((abs(pixels[:, :-DPI, :3] - colour) < 3).all(axis=2))
        for colour in (dark, light)
    ]
    assert len(places[0]) == pytest.approx(len(places[1]), rel=0.1) and len(places[0]) > 1000
    assert np.allclose(*(one.mean(axis=0) for one in places), atol=15)  # in opposite corners


def test_any_names(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path, dict.fromkeys(HOSTILE, 4), 100)
    for number in range(2):
        log.episode(episode(number, dict.fromkeys(HOSTILE, 2)))
    log.finish(TrainConfig.of(model="nets.py:$x^2$|"), report("\x1b[31m $title$ \udcff"))
    tags = loaded(tmp_path).Tags()["scalars"]
    assert len([tag for tag in tags if tag.startswith("6 kept channels/")]) > 10
