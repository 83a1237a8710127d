"""JSON files that somebody has tampered with: one line, whatever is in them."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amc.config.composed import as_json, from_json
from amc.config.train import TrainConfig
from amc.graph.plan import Cut, GroupKeep, Plan
from amc.graph.plan_files import digest, load_plan, save_plan
from amc.runs.folder import resumed
from amc.runtime.errors import AmcError
from amc.runtime.files import parsed_json, read_json
from amc.search.policies import load_learned
from amc.search.trials import FORMAT, Limits, Trials

ONCE = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([10**25, -1, 0, 1e300, "", "\0", "~nobody-of-this-name", "a:b"]),
    lambda inside: st.lists(inside, max_size=3)
    | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=5,
)  # fmt: skip

TEXTS = {
    "deep list": b"[" * 100_000 + b"]" * 100_000,
    "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "infinity": b'{"preserve_ratio": Infinity}',
    "not a number": b'{"preserve_ratio": NaN}',
    "too large": b'{"preserve_ratio": 1e999}',
    "long number": b'{"seed": ' + b"9" * 5000 + b"}",
    "twice": b'{"seed": 1, "seed": 2}',
    "half a character": b'{"model": "\\ud800"}',
    "not UTF-8": b'{"model": "\xff"}',
    "empty": b"",
    "zeros": b"\0" * 100,
    "two": b"{} {}",
}


def one_line(job: Callable[[], Any], path: Path) -> str:
    with pytest.raises(AmcError) as error:
        job()
    said = str(error.value)
    assert str(path) in said or path.name in said
    assert len(said.splitlines()) == 1 and len(said) < 600
    said.encode()
    return said


@pytest.mark.parametrize("name", TEXTS)
def test_no_reader_takes_what_is_no_json(name: str, tmp_path: Path) -> None:
    for file, read in (
        ("plan.json", lambda path: load_plan(path)),
        ("strategy.json", lambda path: read_json(path)),
        ("policy.json", lambda path: load_learned(path.parent)),
        ("config.json", lambda path: resumed(TrainConfig.of(resume=path.parent), print)),
    ):
        path = tmp_path / file
        path.write_bytes(TEXTS[name])
        (tmp_path / "policy.safetensors").write_bytes(b"")
        one_line(lambda path=path, read=read: read(path), path)  # type: ignore[misc]


@pytest.mark.parametrize("name", TEXTS)
def test_no_line_of_a_record_is_taken_that_is_no_json(name: str, tmp_path: Path) -> None:
    record = tmp_path / "episodes.jsonl"
    header = json.dumps({"format": FORMAT}).encode() + b"\n"
    for text in (TEXTS[name] + b"\n", header + TEXTS[name] + b"\n"):
        record.write_bytes(text)
        one_line(lambda: recorded(record), record)
        assert record.read_bytes() == text


def recorded(record: Path) -> Trials:
    return Trials(lambda s: None, lambda o: 0.0, Limits(9), record)  # type: ignore[arg-type, return-value]


def test_infinite_losses_stay_on_record(tmp_path: Path) -> None:
    record = tmp_path / "episodes.jsonl"
    entry = {"episode": 0, "reward": 1.0, "macs": 5, "params": 3, "accuracy": 0.5, "images": 10,
             "loss": float("inf"), "divergence": float("nan"), "strategy": {"a": 2}}  # fmt: skip
    record.write_text(json.dumps({"format": FORMAT}) + "\n" + json.dumps(entry) + "\n")
    assert recorded(record).recorded == 1


@pytest.mark.parametrize("name", [one.name for one in fields(TrainConfig)])
@settings(ONCE, max_examples=10)
@given(value=VALUES)
def test_every_setting_of_the_wrong_kind_is_told(name: str, value: Any) -> None:
    where = Path("runs/x/config.json")
    try:
        found = from_json(TrainConfig, {**as_json(TrainConfig.of()), name: value}, where)
    except AmcError as error:
        assert str(error).startswith(f"{where}: ") and len(str(error).splitlines()) == 1
        assert len(str(error)) < 500
    else:
        json.dumps(as_json(found))


@ONCE
@given(values=st.dictionaries(st.sampled_from([f.name for f in fields(TrainConfig)]), VALUES))
def test_settings_of_any_kind_are_told(
    values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.json").write_text(json.dumps({**as_json(TrainConfig.of()), **values}))
    try:
        resumed(TrainConfig.of(resume=folder), lambda text: None)
    except AmcError as error:
        assert len(str(error).splitlines()) == 1


PLAN = Plan(
    {"a": GroupKeep(4, (0, 2))},
    (Cut("a.weight", 0, 4, (0, 2)), Cut("b.weight", 1, 4, (0, 2))),
)


@ONCE
@given(
    place=st.sampled_from(
        ["groups", "cuts", "about", "a", "size", "keep", "tensor", "dim", "cut size", "cut keep"]
    ),
    value=VALUES,
)
def test_impossible_plans_with_a_right_checksum_are_told(
    place: str, value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    save_plan(path, PLAN)
    document = json.loads(path.read_text())
    if place in ("groups", "cuts", "about"):
        document[place] = value
    elif place == "a":
        document["groups"]["a"] = value
    elif place in ("size", "keep"):
        document["groups"]["a"][place] = value
    else:
        document["cuts"][0][place.removeprefix("cut ")] = value
    document["sha256"] = digest(document)
    path.write_text(json.dumps(document))
    try:
        load_plan(path)
    except AmcError as error:
        assert str(path) in str(error) and len(str(error).splitlines()) == 1


def test_usual_json_is_read_as_ever() -> None:
    for content in ({"a": [1, 2.5, None, True, "ü\n"]}, [], "x", {"a": {"b": {}}}):
        for escaped in (True, False):
            text = json.dumps(content, ensure_ascii=escaped).encode()
            assert parsed_json(text) == content
    assert parsed_json(b"[1e10, -0.0, 123456789012345678901234567890]")[0] == 1e10
