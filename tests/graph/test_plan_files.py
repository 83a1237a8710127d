"""Plans and strategies on disk."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import amc
from amc.allocators.strategy_file import read_strategy
from amc.graph.plan_files import save_strategy
from amc.runtime.files import write_atomically


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Conv2d(12, 2, 1)
    ).eval()


@pytest.fixture(scope="module")
def graph(model: nn.Module) -> amc.ChannelGraph:
    return amc.trace(model, (torch.randn(2, 3, 8, 8),))


@pytest.fixture
def plan(graph: amc.ChannelGraph) -> amc.Plan:
    return graph.plan({"0": [5, 0, 7], "2": [1, 2, 3, 11]})


def edit(path: Path, change: Any) -> None:
    """Rewrites a plan with a valid checksum, as somebody with bad intentions could."""
    from amc.graph.plan_files import digest

    document = json.loads(path.read_text())
    change(document)
    document["sha256"] = digest({"format": "amc-plan/2", **document})
    path.write_text(json.dumps(document))


def test_plan_survives_the_round_trip(tmp_path: Path, plan: amc.Plan, model: nn.Module) -> None:
    path = tmp_path / "deep" / "plan.json"
    amc.save_plan(path, plan, {"model": "small"})
    back = amc.load_plan(path)
    assert back == plan
    assert back.strategy == {"0": 3, "2": 4}
    assert json.loads(path.read_text())["about"] == {"model": "small"}
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(amc.shrink(model, back)(x), amc.shrink(model, plan)(x))


def test_empty_plan_survives_the_round_trip(
    tmp_path: Path, graph: amc.ChannelGraph, model: nn.Module
) -> None:
    amc.save_plan(tmp_path / "plan.json", graph.plan({}))
    back = amc.load_plan(tmp_path / "plan.json")
    assert back.cuts == ()
    assert [p.shape for p in amc.shrink(model, back).parameters()] == [
        p.shape for p in model.parameters()
    ]


def test_indices_are_written_one_line_per_list(tmp_path: Path, plan: amc.Plan) -> None:
    path = tmp_path / "plan.json"
    amc.save_plan(path, plan)
    assert '"keep": [1,2,3,11]' in path.read_text()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(amc.AmcError, match=r"nowhere\.json: cannot be read: No such file"):
        amc.load_plan(tmp_path / "nowhere.json")


@pytest.mark.parametrize("content", ["[]", '{"format": "amc-plan/99"}', "{}", "3", "null"])
def test_another_format_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(amc.AmcError, match=r"plan\.json: expected a file of format amc-plan/1 or"):
        amc.load_plan(path)


def test_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(amc.AmcError, match=r"plan\.json: not a JSON file"):
        amc.load_plan(path)


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(amc.AmcError, match=r"cannot be read: Is a directory"):
        amc.load_plan(tmp_path)


def test_changed_index_is_noticed(tmp_path: Path, plan: amc.Plan) -> None:
    path = tmp_path / "plan.json"
    amc.save_plan(path, plan)
    text = path.read_text()
    path.write_text(text.replace("[0,5,7]", "[0,4,7]", 1))
    with pytest.raises(amc.AmcError, match=r"content and checksum differ"):
        amc.load_plan(path)


def test_every_changed_digit_is_noticed(tmp_path: Path, plan: amc.Plan) -> None:
    path = tmp_path / "plan.json"
    amc.save_plan(path, plan)
    text = path.read_text()
    for i, letter in enumerate(text):
        if letter.isdigit():
            path.write_text(text[:i] + str((int(letter) + 1) % 10) + text[i + 1 :])
            with pytest.raises(amc.AmcError):
                amc.load_plan(path)


def test_file_that_was_cut_short_is_refused(tmp_path: Path, plan: amc.Plan) -> None:
    path = tmp_path / "plan.json"
    amc.save_plan(path, plan)
    data = path.read_bytes().rstrip()
    for length in range(0, len(data), 37):
        path.write_bytes(data[:length])
        with pytest.raises(amc.AmcError, match=r"plan\.json: "):
            amc.load_plan(path)


@pytest.mark.parametrize("keep", [[0, 8], [-1, 2], [3, 3], [5, 2], []])
def test_impossible_indices_are_refused(tmp_path: Path, plan: amc.Plan, keep: list[int]) -> None:
    path = tmp_path / "plan.json"
    amc.save_plan(path, plan)
    edit(path, lambda d: d["cuts"][0].update(keep=keep))
    with pytest.raises(
        amc.AmcError, match=r"0\.bias, dimension 0: kept indices must increase within 0\.\.7"
    ):
        amc.load_plan(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("cuts"),
        lambda d: d.pop("groups"),
        lambda d: d["cuts"][0].pop("dim"),
        lambda d: d["cuts"][0].update(keep=None),
        lambda d: d["cuts"][0].update(size="eight"),
        lambda d: d["groups"].update({"0": 3}),
        lambda d: d.update(cuts="none"),
    ],
)
def test_malformed_plan_is_refused(tmp_path: Path, plan: amc.Plan, change: Any) -> None:
    path = tmp_path / "plan.json"
    amc.save_plan(path, plan)
    edit(path, change)
    with pytest.raises(amc.AmcError, match=r"plan\.json: not a valid plan"):
        amc.load_plan(path)


def test_dimension_that_the_tensor_does_not_have_is_refused(
    tmp_path: Path, plan: amc.Plan, model: nn.Module
) -> None:
    for dim in (4, -1):
        amc.save_plan(tmp_path / "plan.json", plan)
        edit(tmp_path / "plan.json", lambda d, dim=dim: d["cuts"][0].update(dim=dim))
        with pytest.raises(amc.AmcError):
            amc.shrink(model, amc.load_plan(tmp_path / "plan.json"))


def test_plan_for_another_network_names_the_tensor(tmp_path: Path, plan: amc.Plan) -> None:
    amc.save_plan(tmp_path / "plan.json", plan)
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 3))
    with pytest.raises(
        amc.AmcError,
        match=r"another network: 2\.bias has shape \(16,\), the plan expects 12 slices along dim",
    ):
        amc.shrink(other, amc.load_plan(tmp_path / "plan.json"))


def test_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, plan: amc.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    path.write_text("old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for call in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(
                amc.AmcError, match=r"plan\.json: cannot be written: No space left on device"
            ):
                amc.save_plan(path, plan)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]


def test_interrupted_write_leaves_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", "new")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(amc.AmcError, match=r"taken/plan\.json: cannot be written"):
        write_atomically(tmp_path / "taken" / "plan.json", "new")


def test_text_and_bytes_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_atomically(path, "längs")
    assert path.read_bytes() == "längs".encode()
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_saved_strategy_is_read_back_by_listed(tmp_path: Path, graph: amc.ChannelGraph) -> None:
    path = tmp_path / "strategy.json"
    for strategy in ({"0": 3, "2": 4}, {"2": 1}, {"0": 1}, {}):
        save_strategy(path, strategy, graph.channels, {"model": "small"})
        assert read_strategy(graph, path) == {**graph.sizes, **strategy}


def test_every_byte_of_a_plan_counts(tmp_path: Path, plan: amc.Plan) -> None:
    path = tmp_path / "plan.json"
    amc.save_plan(path, plan, {"model": "small", "target": 0.5})
    content = path.read_bytes()
    for place in range(0, len(content), 5):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(amc.AmcError, match=r"plan\.json"):
            amc.load_plan(path)
