"""A run folder is one run's: locks, links, others' files, halves of files, owners."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from amc.config.composed import as_json
from amc.config.train import TrainConfig
from amc.runs.folder import resumed
from amc.runs.lock import LOCK, locked, move_aside
from amc.runs.trust import check_owner, code_named
from amc.runtime.errors import AmcError
from amc.runtime.files import write_atomically
from amc.search.trials import Limits, Trials
from amc.train import run
from forked_runs import ForkedRun
from small_runs import NETWORK, forking

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def refused(folder: Path, new: bool = True) -> str:
    with pytest.raises(AmcError) as error, locked(folder, new):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Starts a process that holds a folder until it is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path) -> subprocess.Popen[str]:
        code = (
            "import sys, time; from pathlib import Path; from amc.runs.lock import locked\n"
            "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
        )
        words = [sys.executable, "-c", code, str(folder)]
        one = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        started.append(one)
        assert one.stdout is not None and one.stdout.readline() == "held\n"
        return one

    yield start
    for one in started:
        one.kill()
        one.communicate()


def test_second_process_is_refused_with_the_number_of_the_first(
    tmp_path: Path, other: Callable[[Path], subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "run"
    first = other(folder)
    assert f"{folder}: another process (pid {first.pid}) works there" in refused(folder)
    assert (folder / LOCK).exists()
    first.kill()
    first.wait()
    with locked(folder):  # nothing stale is left
        assert (folder / LOCK).read_text() == f"{os.getpid()}\n"
    assert not (folder / LOCK).exists()


def test_folders_are_independent_and_a_process_may_hold_its_own_twice(
    tmp_path: Path, other: Callable[[Path], subprocess.Popen[str]]
) -> None:
    other(tmp_path / "a")
    with locked(tmp_path / "b"), locked(tmp_path / "b"):
        assert (tmp_path / "b" / LOCK).exists()


def test_folder_that_stays_empty_is_removed_and_others_are_not(tmp_path: Path) -> None:
    deep = tmp_path / "runs" / "deep"
    with pytest.raises(AmcError), locked(deep):
        raise AmcError("nothing came of it")
    assert not (tmp_path / "runs").exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    with locked(empty):
        pass
    assert empty.is_dir() and not contents(empty)
    with locked(deep):
        (deep / "config.json").write_text("{}")
    assert list(contents(deep)) == ["config.json"]


@pytest.mark.parametrize("name", ["config.json", "episodes.jsonl", "plan.json", "a.jsonl", LOCK])
@pytest.mark.parametrize("new", [True, False])
def test_links_are_refused(name: str, new: bool, tmp_path: Path) -> None:
    folder, target = tmp_path / "run", tmp_path / "precious"
    folder.mkdir()
    target.write_text("precious")
    (folder / name).symlink_to(target)
    assert f"{folder / name}: is a link" in refused(folder, new)
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "nowhere")
    assert "is a link" in refused(folder, new)
    assert target.read_text() == "precious" and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", '{"architectures": ["BertModel"], "hidden_size": 768}'),
        ("plan.json", '{"monday": "swim"}'),
        ("report.json", "[1, 2]"),
        ("strategy.json", "win"),
        ("policy.json", "\x00"),
    ],
)
def test_files_of_others_are_not_replaced(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "other.txt").write_text("mine")
    assert f"{name} there is of something else" in refused(tmp_path)
    assert set(contents(tmp_path)) == {name, "other.txt"}
    assert (tmp_path / name).read_text() == content


def test_moving_aside_takes_what_is_of_a_run_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "run.1").symlink_to(tmp_path / "nowhere")
    ours = ["config.json", "episodes.jsonl", "plan.json", "pruned.safetensors", "report.json",
            "training-4.safetensors", "events.out.tfevents.1.host", "policy.json",
            "latency.json"]  # fmt: skip
    within = ["finals/final-0-0/result.json", "attempts/0.5/plan.json", "stage-2/latency.json"]
    for name in (*ours, *within, "notes.txt", "model.pt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    assert move_aside(folder) == tmp_path / "run.2"
    assert set(contents(tmp_path / "run.2")) == set(ours)
    assert all((tmp_path / "run.2" / name).is_file() for name in within)
    assert {path.name for path in folder.iterdir()} == {"notes.txt", "model.pt"}


def test_the_folder_here_can_be_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with locked(Path(".")):
        (here / "config.json").write_text("{}")
    assert move_aside(Path(".")) == tmp_path / "here.1"
    assert here.is_dir() and not contents(here)


def test_halves_of_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code = (
        "import os, sys, signal; from pathlib import Path; import amc.runtime.files as f\n"
        "f.os.fsync = lambda place: os.kill(os.getpid(), signal.SIGKILL)\n"
        "f.write_atomically(Path(sys.argv[1]), 'x' * 1000)"
    )
    names = ("plan.json", "points/0.5/plan.json", "attempts/0.5/finals/final-0-0/plan.json")
    for name in names:
        words = [sys.executable, "-c", code, str(folder / name)]
        assert subprocess.run(words, env=ENVIRONMENT).returncode == -signal.SIGKILL
    left = list(folder.rglob(".*"))
    assert len(left) == 3
    hidden = folder / ".mine"
    hidden.write_text("stays")
    link = folder / ".a.amc-part"
    link.symlink_to(hidden)
    with locked(folder):
        assert not any(path.exists() for path in left)
        write_atomically(folder / "plan.json", "{}")
    assert hidden.read_text() == "stays" and link.is_symlink()


def test_folder_that_cannot_be_one_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(tmp_path / "file")
    assert "cannot be written" in refused(tmp_path / "file" / "below")
    assert "cannot be written" in refused(tmp_path / ("n" * 300))
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "cannot be written" in refused(tmp_path / "link")


@pytest.mark.parametrize("content", [b"precious", b'{"format": "other"}', b"\xff\xfe", b"[]"])
def test_record_is_checked_before_it_is_cut(content: bytes, tmp_path: Path) -> None:
    record = tmp_path / "episodes.jsonl"
    for text in (content, content + b"\n", content + b"\nsecond line\nthird"):
        record.write_bytes(text)
        with pytest.raises(AmcError, match=re.escape(str(record))) as error:
            Trials(lambda s: None, lambda o: 0.0, Limits(1), record)  # type: ignore[arg-type, return-value]
        assert "\n" not in str(error.value)
        assert record.read_bytes() == text


def test_record_that_is_a_link_is_refused(tmp_path: Path) -> None:
    target, record = tmp_path / "target", tmp_path / "episodes.jsonl"
    record.symlink_to(target)
    with pytest.raises(AmcError, match="is a link"):
        Trials(lambda s: None, lambda o: 0.0, Limits(1), record)  # type: ignore[arg-type, return-value]
    assert not target.exists()


# Whose it is, and what it runs


def test_code_that_settings_name() -> None:
    own = TrainConfig.of(model="nets.py:make", data="cifar10:/x", task="t:t", reward="loss")
    assert code_named(own) == "--model nets.py:make, --task t:t"
    assert code_named(TrainConfig.of()) == ""
    assert "--finetune a.b:c" in code_named(TrainConfig.of(finetune="a.b:c", data="m:load"))
    assert "--data m:load" in code_named(TrainConfig.of(data="m:load"))


def test_folder_of_another_user_is_refused_unless_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_owner("--resume", tmp_path, False)
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(AmcError, match=r"--policy .*: belongs to another user .*; --trust"):
        check_owner("--policy", tmp_path, False)
    check_owner("--policy", tmp_path, True)
    (tmp_path / "config.json").write_text(json.dumps(as_json(TrainConfig.of())))
    with pytest.raises(AmcError, match="another user"):
        resumed(TrainConfig.of(resume=tmp_path), print)
    assert resumed(TrainConfig.of(resume=tmp_path, trust=True), print).resume == tmp_path


def test_resuming_names_the_code_and_another_number_of_threads(tmp_path: Path) -> None:
    said: list[str] = []
    settings = {**as_json(TrainConfig.of(model="nets.py:make", reward="a:b")), "trust": True}
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**settings, "threads": torch.get_num_threads() + 3}))
    found = resumed(TrainConfig.of(resume=tmp_path), said.append)
    assert not found.trust  # which nobody can give for another one
    assert len(said) == 2 and "began with" in said[0] and "OMP_NUM_THREADS" in said[0]
    assert "--model nets.py:make, --reward a:b" in said[1]
    said.clear()
    config.write_text(
        json.dumps({**as_json(TrainConfig.of()), "threads": torch.get_num_threads()})
    )
    resumed(TrainConfig.of(resume=tmp_path), said.append)
    assert not said


def test_no_such_user_is_told(tmp_path: Path) -> None:
    with pytest.raises(AmcError, match="~nobody-of-this-name/x: there is no such user"):
        TrainConfig.of(run_dir=Path("~nobody-of-this-name/x"))


def test_default_folder_tells_seeds_apart() -> None:
    assert TrainConfig.of().folder == Path("runs/resnet20-digits-auto-0.5-seed0")
    assert TrainConfig.of(seed=3).folder == Path("runs/resnet20-digits-auto-0.5-seed3")


# Several real runs at once


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("network") / "net.py"
    path.write_text(NETWORK)
    return ["--model", f"{path}:net", "--episodes", "3", "--finetune-epochs", "0",
            "--calibration-batches", "2", "--reward-images", "50", "--quiet"]  # fmt: skip


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@forking
def test_two_seeds_at_once_and_the_same_seed_twice(small: list[str], here: Path) -> None:
    jobs = [ForkedRun(here, *small, "--seed", seed) for seed in ("0", "1", "1")]
    ended = [job.wait() for job in jobs]
    assert ended[0] == 0, jobs[0].err
    assert sorted(ended[1:]) in ([0, 1], [0, 0])
    for job, status in zip(jobs, ended, strict=True):
        if status:
            assert "works there" in job.err and len(job.err.splitlines()) == 1
    for seed in range(2):
        folder = here / TrainConfig.of(model=small[1], seed=seed).folder
        assert len((folder / "episodes.jsonl").read_text().splitlines()) == 4
        assert json.loads((folder / "report.json").read_text())["episodes"] == 3
        assert not list(folder.glob(".*"))


@forking
def test_two_resumes_at_once_lose_nothing(small: list[str], here: Path) -> None:
    folder = here / "r"
    first = ForkedRun(here, *small, "--run-dir", "r", "--workers", "2", "--walks", "1")
    record = folder / "episodes.jsonl"
    while not (record.exists() and len(record.read_bytes().splitlines()) > 1):
        assert first.poll() is None, first.err
        time.sleep(0.01)
    first.kill()  # its workers live on for a moment, and the lock with them
    known = record.read_bytes()
    jobs = [ForkedRun(here, "--resume", "r", "--quiet") for _ in "ab"]
    ended = [job.wait() for job in jobs]
    assert 0 in ended, [job.err for job in jobs]
    for job, status in zip(jobs, ended, strict=True):
        if status:
            assert "works there" in job.err and len(job.err.splitlines()) == 1
    assert record.read_bytes().startswith(known[: known.rfind(b"\n") + 1])
    assert len(record.read_text().splitlines()) == 4
    assert (folder / "report.json").exists() and not list(folder.glob(".*"))


@pytest.mark.parametrize("wrong", [{"data": "imagefolder:/nowhere"}, {"preserve_ratio": 1e-4}])
def test_failed_run_leaves_no_folder(
    wrong: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AmcError):
        run(TrainConfig.of(width=0.25, quiet=True, **wrong))
    assert not list(tmp_path.iterdir())
