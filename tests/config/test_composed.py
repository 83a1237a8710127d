"""Settings of sections: flat by name, as words and as JSON; every section checks itself."""

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from amc.config.apply import ApplyConfig
from amc.config.command_line import parse
from amc.config.compare import CompareConfig
from amc.config.composed import Composed, as_json, flags, from_json, hints_of, settings_of
from amc.config.inspect import InspectConfig
from amc.config.many_budgets import LearnConfig, ParetoConfig
from amc.config.train import DECISIVE, TrainConfig, record_settings
from amc.graph.restrictions import Restrictions
from amc.runs.folder import resumed
from amc.runtime.errors import AmcError

OLD = Path(__file__).parents[1] / "old"
COMMANDS: list[type[Composed]] = [
    TrainConfig, ApplyConfig, LearnConfig, ParetoConfig, CompareConfig, InspectConfig,
]  # fmt: skip
GIVEN = {
    TrainConfig: {"episodes": 7, "min_ratio": 0.25, "data": "glyphs", "bn_adapt": False},
    ApplyConfig: {"plan": Path("runs/x"), "clip": 0.5, "schedule_parts": None, "seed": 3},
    LearnConfig: {"model": "a.py:f,b.py:g", "preserve_ratio": "0.2,0.4", "agent": "td3"},
    ParetoConfig: {"finetune_epochs": 2, "max_drop": 0.5, "memory": "2GB"},
    CompareConfig: {"methods": ("ddpg", "greedy"), "metric": "obs", "warmup_episodes": 3},
    InspectConfig: {"batch": 2, "include": ("layer1.*",), "min_channels": {"conv1": 4}},
}


def given(kind: type[Composed]) -> dict[str, Any]:
    return {k: v for k, v in GIVEN[kind].items() if v is not None}


@pytest.mark.parametrize("kind", COMMANDS)
def test_settings_are_flat_by_name_as_words_and_as_json(kind: type[Composed]) -> None:
    config = kind.of(**given(kind))
    assert {name: config.flat[name] for name in given(kind)} == given(kind)
    assert parse(kind, kind.command, flags(config)) == config
    written = json.loads(json.dumps(as_json(config)))
    assert from_json(kind, written, Path("x.json")) == config


@pytest.mark.parametrize("kind", COMMANDS)
def test_no_name_stands_in_two_sections(kind: type[Composed]) -> None:
    plan = {"plan": "x"} if kind is ApplyConfig else {}
    names = [one.name for one, *_ in settings_of(kind.of(**plan))]
    assert len(names) == len(set(names)) and set(names) == set(hints_of(kind))


def test_changing_a_setting_leaves_the_others() -> None:
    config = TrainConfig.of(episodes=7, temperature=2.0)
    changed = config.but(episodes=8, exclude=("fc",))
    assert changed.search.episodes == 8 and changed.distill.temperature == 2.0
    assert changed.restrictions == Restrictions(exclude=("fc",))
    assert config.search.episodes == 7
    assert config.but(restrictions=changed.restrictions).flat["exclude"] == ("fc",)


def test_a_setting_that_there_is_not_is_named() -> None:
    with pytest.raises(TypeError, match=r"amc\.train has no setting 'episods'"):
        TrainConfig.of(episods=3)
    with pytest.raises(TypeError, match=r"amc\.learn has no setting 'group_size'"):
        LearnConfig.of(group_size=3)


def test_sections_check_themselves_in_every_command() -> None:
    for kind in (TrainConfig, LearnConfig, ParetoConfig, CompareConfig):
        with pytest.raises(AmcError, match="--calibration-batches must be 1 or more, got 0"):
            kind.of(calibration_batches=0)
        with pytest.raises(AmcError, match="--min-ratio must be in"):
            kind.of(min_ratio=1.5)


def test_what_a_record_depends_on_is_whole_sections() -> None:
    """A new setting of such a section cannot be forgotten."""
    config = TrainConfig.of(checkpoint=Path("w.pt"))
    record = record_settings(config)
    for name in DECISIVE:
        section = getattr(config, name)
        assert is_dataclass(section)
        assert {one.name for one in fields(section)} <= record.keys()
    assert record["checkpoint"] == "w.pt"  # what JSON can hold
    assert not {"quiet", "device", "workers", "time_limit", "run_dir"} & record.keys()


def test_settings_of_a_run_before_there_were_sections_still_load(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((OLD / "config-1.json").read_text())
    config = resumed(TrainConfig.of(resume=tmp_path), lambda line: None)
    expected = {
        "preserve_ratio": 0.4, "episodes": 12, "warmup_episodes": 6, "finetune_epochs": 1,
        "exclude": ("fc",), "min_channels": {"conv1": 8}, "data": "digits", "metric": "obs",
        "bn_samples": None, "resume": tmp_path, "walks": 2,
    }  # fmt: skip
    assert {name: config.flat[name] for name in expected} == expected


def test_old_names_of_settings_still_work(tmp_path: Path) -> None:
    for kind in COMMANDS[:-1]:
        plan = {"plan": Path("x")} if kind is ApplyConfig else {}
        config = kind.of(selector="obs", **plan)
        assert config.flat["metric"] == "obs" and config.but(selector="l1").flat["metric"] == "l1"
        for words in (["--selector", "obs"], ["--selector=obs"], ["--metric", "obs"]):
            assert parse(kind, kind.command, [*flags(kind.of(**plan)), *words]) == config
        written = {**as_json(config)}
        written["selector"] = written.pop("metric")
        assert from_json(kind, written, tmp_path) == config
    with pytest.raises(TypeError, match="'selector' is the old name of 'metric', give one"):
        TrainConfig.of(selector="obs", metric="l1")
    with pytest.raises(AmcError, match=r"x\.json: amc\.train: 'selector' is the old name"):
        from_json(TrainConfig, {"selector": "obs", "metric": "l1"}, Path("x.json"))
    assert LearnConfig.of(agent="td3").flat["agent"] == "td3"  # which is no old name there


def test_an_old_name_means_nothing_where_there_is_no_such_setting() -> None:
    with pytest.raises(AmcError, match="there is no --selector"):
        parse(InspectConfig, "amc.inspect", ["--selector", "l1"])
    with pytest.raises(TypeError, match="has no setting 'selector'"):
        InspectConfig.of(selector="l1")


def test_a_run_of_another_command_is_not_resumed(tmp_path: Path) -> None:
    mark = tmp_path / "config.json"
    for made_by, said in (
        ("amc.apply", "go on: python -m amc.apply --resume"),
        ("amc.compress", "it cannot be resumed"),
    ):
        mark.write_text(json.dumps({**as_json(TrainConfig()), "command": made_by}))
        with pytest.raises(AmcError, match=f"the run is of {made_by}; {said}"):
            resumed(TrainConfig.of(resume=tmp_path), lambda line: None)
    mark.write_text(json.dumps(as_json(TrainConfig())))
    with pytest.raises(AmcError, match=r"go on: python -m amc\.train --resume"):
        resumed(ApplyConfig.of(resume=tmp_path), lambda line: None)
