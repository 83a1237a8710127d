"""Strategies measured side by side: what one process measures, in the order asked."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amc.allocators.uniform import uniform
from amc.graph.plan import Strategy
from amc.runtime.errors import AmcError
from amc.search.search import METHODS
from amc.search.trials import Limits, Trials
from amc.search.workers import workers
from amc.tasks.evaluate import Score
from envs import Outcome
from envs.outcome import Episode
from recorded_search import (
    ABOUT,
    assert_same,
    budget,
    cheap,
    forking,
    lines,
    reward,
    searched,
    some_strategies,
    undisturbed,
)


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """A test that hangs fails."""

    def give_up(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def dawdling(strategy: Strategy) -> Outcome:
    """Takes its time, every process another one."""
    time.sleep(np.random.default_rng([os.getpid(), time.monotonic_ns()]).random() * 0.02)
    return cheap(strategy)


def one_by_one(strategies: Sequence[Strategy]) -> list[Outcome]:
    return [cheap(s) for s in strategies]


@forking
@pytest.mark.parametrize("processes", [2, 3, 5])
def test_processes_measure_what_one_measures_in_the_order_asked(processes: int) -> None:
    strategies = some_strategies(20)
    pids = []

    def evaluate(strategy: Strategy) -> Outcome:
        found = dawdling(strategy)
        return Outcome(found.score, found.macs, os.getpid())

    with at_most(60), workers(evaluate, processes) as measure:
        assert measure is not None
        for _ in range(3):
            found = measure(strategies)
            pids += [outcome.params for outcome in found]
            assert [o.score for o in found] == [cheap(s).score for s in strategies]
    assert os.getpid() not in pids
    assert 2 <= len(set(pids)) <= processes


def test_one_worker_is_this_process() -> None:
    with workers(cheap, 1) as measure:
        assert measure is None


def test_system_that_cannot_fork_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(AmcError, match="--workers 2: this system cannot fork"):
        with workers(cheap, 2):
            pass


@forking
@pytest.mark.parametrize("method", METHODS)
def test_search_with_processes_is_the_search_without_whatever_the_timing(method: str) -> None:
    with at_most(120), workers(dawdling, 3) as measure:
        found = searched(None, method, 14, evaluate=dawdling, measure=measure, walks=3)
    alone = searched(None, method, 14, measure=one_by_one, walks=3)
    assert_same(found, alone)
    assert_same(found, undisturbed(method, 14, 3))  # nobody looks ahead, three walk all the same


def test_strategies_of_a_round_are_measured_once(tmp_path: Path) -> None:
    """Also those on which two walks agree."""
    alone, together = list[Strategy](), list[Strategy]()

    def evaluate(strategy: Strategy) -> Outcome:
        alone.append(strategy)
        return cheap(strategy)

    trials = Trials(evaluate, reward, Limits(9), tmp_path / "record", ABOUT)
    first, second = some_strategies(2)
    round_ = [first, second, first]
    trials.look_ahead(round_, lambda s: together.extend(s) or one_by_one(s))
    assert [trials(s) for s in round_] == one_by_one(round_)
    assert (alone, together) == ([], round_)
    assert len(lines(tmp_path / "record")) == 4
    assert trials(second) == cheap(second)


@pytest.mark.parametrize(
    ("method", "at"),
    [*(("ddpg", at) for at in (0, 1, 2, 5, 6, 11, 12)), *(("sac", at) for at in (4, 6, 8))],
)
def test_round_that_was_stopped_in_its_middle_is_measured_from_there(
    method: str, at: int, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    measured: list[int] = []

    def measure(strategies: Sequence[Strategy]) -> list[Outcome]:
        measured.append(len(strategies))
        return one_by_one(strategies)

    def show(episode: Episode) -> None:
        if episode.number == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searched(record, method, 13, measure=measure, walks=3, on_episode=show)
    assert len(lines(record)) == 2 + at
    measured.clear()
    resumed = searched(record, method, 13, measure=measure, walks=3)
    assert_same(resumed, undisturbed(method, 13, 3))
    assert sum(measured) == max(0, 12 - (at + 1))  # the thirteenth walks alone


@forking
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_search_of_several_processes_goes_on_in_any_number_of_them(
    processes: int, tmp_path: Path
) -> None:
    record = tmp_path / "record"

    def show(episode: Episode) -> None:
        if episode.number == 7:
            raise KeyboardInterrupt

    with at_most(120):
        with pytest.raises(KeyboardInterrupt):
            with workers(dawdling, 3) as measure:
                searched(record, "td3", 13, measure=measure, walks=3, on_episode=show)
        with workers(dawdling, processes) as measure:
            resumed = searched(record, "td3", 13, measure=measure, walks=3)
    assert_same(resumed, undisturbed("td3", 13, 3))
    assert resumed.history != undisturbed("td3", 13).history


@forking
def test_killed_worker_ends_the_search_with_a_word_and_not_with_a_hang(tmp_path: Path) -> None:
    record = tmp_path / "record"
    first = uniform(budget())

    def dying(strategy: Strategy) -> Outcome:
        if os.getpid() != parent and strategy != first:
            os.kill(os.getpid(), signal.SIGKILL)
        return cheap(strategy)

    parent = os.getpid()
    with at_most(60), workers(dying, 2) as measure:
        with pytest.raises(AmcError, match="--workers 2: a worker was killed") as refused:
            searched(record, "ddpg", evaluate=dying, measure=measure, walks=2)
    assert "\n" not in str(refused.value)
    assert_same(searched(record, "ddpg", walks=2), undisturbed("ddpg", 10, 2))


@forking
@pytest.mark.parametrize("error", [AmcError("no such layer"), OSError(28, "disk is full")])
def test_errors_of_a_worker_arrive(error: Exception) -> None:
    def failing(strategy: Strategy) -> Outcome:
        raise error

    with at_most(60), workers(failing, 2) as measure:
        assert measure is not None
        with pytest.raises(type(error)) as raised:
            measure(some_strategies(4))
    assert str(raised.value) == str(error)


@forking
def test_workers_have_one_thread_and_leave_with_the_search() -> None:
    def evaluate(strategy: Strategy) -> Outcome:
        return Outcome(Score(0.5, 0.5, 1), torch.get_num_threads(), os.getpid())

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with at_most(60), workers(evaluate, 2) as measure:
            assert measure is not None
            found = measure(some_strategies(8))
    finally:
        torch.set_num_threads(before)
    assert {outcome.macs for outcome in found} == {1}
    ends = time.monotonic() + 30
    while running := [pid for pid in {o.params for o in found} if alive(pid)]:
        assert time.monotonic() < ends, running
        time.sleep(0.05)


@forking
def test_workers_of_a_killed_search_end_too(tmp_path: Path) -> None:
    """They would hold their memory for ever."""
    script = tmp_path / "search.py"
    script.write_text(
        "import os, time\n"
        "from amc.search.workers import workers\n"
        "def pid(strategy):\n"
        "    time.sleep(0.1)\n"
        "    return os.getpid()\n"
        "with workers(pid, 2) as measure:\n"
        "    print(*set(measure([{}] * 6)), flush=True)\n"
        "    time.sleep(600)\n"
    )
    killed = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    with at_most(120):
        assert killed.stdout is not None
        pids = [int(word) for word in killed.stdout.readline().split()]
        assert len(pids) == 2 and all(map(alive, pids))
        killed.kill()
        killed.communicate()
        while any(map(alive, pids)):
            time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("walks", [3, 8])
def test_first_round_side_by_side_measures_different_strategies(walks: int) -> None:
    found = searched(None, episodes=20, walks=walks)
    different = len({tuple(e.strategy.values()) for e in found.history[:walks]})
    assert different >= walks - 1  # four groups: the most promising of 64 may be one and the same
