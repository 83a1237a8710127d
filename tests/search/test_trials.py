"""The record of a search: stopped anywhere and gone on with, a search comes out the same."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import amc
from amc.allocators.uniform import uniform
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.runtime.errors import AmcError
from amc.runtime.files import UnwritableError
from amc.search import trials as rooms
from amc.search.problem import Found, Problem
from amc.search.search import METHODS, Settings, search
from amc.search.trials import FORMAT, LimitReached, Limits, Trials
from amc.search.workers import workers
from amc.tasks.evaluate import Score
from envs import REWARDS, Outcome
from envs.outcome import Episode
from toy_walk import assert_same_state

Evaluate = Callable[[Strategy], Outcome]

ABOUT = {"model": "chain", "seed": 0, "preserve_ratio": 0.5, "reward": "accuracy"}

forking = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="workers are forked"
)


@cache
def budget() -> Budget:
    """Four decisions with many allowed counts."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 32, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(32 * 8, 20), nn.ReLU(), nn.Linear(20, 4),
    )  # fmt: skip
    return Budget(amc.trace(model, (torch.randn(2, 3, 8, 6),)), 0.5)


def cheap(strategy: Strategy) -> Outcome:
    """An outcome without a network, of numbers whose decimals have no end."""
    graph = budget().graph
    counts = graph.counts(strategy)
    wished = np.arange(1, len(counts) + 1) / len(counts)
    score = float(1 - np.mean((counts / [g.size for g in graph.decisions] - wished) ** 2) / 3)
    return Outcome(
        Score(score, 1 - score, 10, (1 - score) / 7),
        graph.cost.macs(counts),
        graph.cost.params(counts),
    )


@cache
def errors() -> dict[str, np.ndarray]:
    """Errors of every group by which strategies are screened."""
    pairs = zip(budget().graph.decisions, budget().options, strict=True)
    return {group.name: (1 - options / group.size) ** 2 for group, options in pairs}


def reward(outcome: Outcome) -> float:
    return outcome.score.accuracy


def of(accuracy: float) -> Outcome:
    return Outcome(Score(accuracy, 1 - accuracy, 10), 100, 50)


def searched(
    record: Path | None,
    method: str = "ddpg",
    episodes: int = 10,
    evaluate: Evaluate = cheap,
    limits: Limits | None = None,
    on_episode: Callable[[Episode], None] = lambda episode: None,
    about: dict[str, Any] = ABOUT,
    **more: Any,
) -> Found:
    limits = limits or Limits(episodes)
    trials = Trials(evaluate, reward, limits, record, about, on_episode)
    settings = Settings(net_arch=(16, 16), warmup_episodes=4)
    return search(Problem(budget(), trials, errors()), method, settings=settings, **more)


def assert_same(first: Found, second: Found) -> None:
    assert first.history == second.history
    assert first.best == second.best
    assert (first.agent is None) == (second.agent is None)
    if first.agent is not None and second.agent is not None:
        assert_same_state(first.agent, second.agent)


@cache
def undisturbed(method: str, episodes: int = 10, walks: int = 1) -> Found:
    return searched(None, method, episodes, walks=walks)


def lines(record: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.read_text().splitlines()]


class Stopped(Exception):
    """Whatever goes wrong in the middle of a measurement."""


def stopping(at: int, error: type[BaseException], evaluate: Evaluate = cheap) -> Evaluate:
    """Measures, but for the call of this number, counted from 0."""
    calls = count()

    def measured(strategy: Strategy) -> Outcome:
        if next(calls) == at:
            raise error
        return evaluate(strategy)

    return measured


# Limits


def trials_of(rewards: Sequence[float], limits: Limits) -> Trials:
    outcomes = iter([of(r) for r in rewards])
    return Trials(lambda strategy: next(outcomes), reward, limits)


def tried(trials: Trials) -> int:
    """How many strategies may be tried."""
    with pytest.raises(LimitReached):
        for number in count():
            trials({"a": number})
    return len(trials.history)


def test_no_more_episodes_than_allowed_are_tried() -> None:
    trials = trials_of([0.5] * 9, Limits(5))
    assert trials.left == 5
    assert tried(trials) == 5
    assert trials.left == 0
    assert [e.strategy for e in trials.history] == [{"a": n} for n in range(5)]


@pytest.mark.parametrize("patience", [1, 2, 3, 7])
def test_patience_counts_the_episodes_since_the_best(patience: int) -> None:
    rewards = [0.1, 0.5, 0.5, 0.4, 0.6, 0.2, 0.3, 0.6, 0.1, 0.1, 0.1, 0.9]  # equal is not better
    best, since, expected = -1.0, 0, 0
    for value in rewards:
        best, since = max(best, value), 0 if value > best else since + 1
        expected += 1
        if since == patience:
            break
    assert tried(trials_of(rewards, Limits(len(rewards), patience=patience))) == expected


def test_best_is_the_first_of_the_highest_reward_and_its_course_is_kept() -> None:
    trials = trials_of([0.3, 0.7, 0.2, 0.7], Limits(4))
    tried(trials)
    assert trials.best == trials.history[1]
    assert [e.best for e in trials.history] == [0.3, 0.7, 0.7, 0.7]
    assert [e.reward for e in trials.history] == [0.3, 0.7, 0.2, 0.7]
    assert [e.number for e in trials.history] == [0, 1, 2, 3]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that only passes when a test says so."""
    watch = SimpleNamespace(now=100.0)
    watch.monotonic = lambda: watch.now
    monkeypatch.setattr(rooms, "time", watch)
    return watch


def test_after_the_time_no_further_strategy_is_tried(clock: SimpleNamespace) -> None:
    def slow(strategy: Strategy) -> Outcome:
        clock.now += 7
        return of(0.5)

    assert tried(Trials(slow, reward, Limits(50, seconds=30))) == 5  # the fifth began at 28
    assert tried(Trials(slow, reward, Limits(50, seconds=1))) == 1  # one is always tried
    assert tried(Trials(slow, reward, Limits(3, seconds=30))) == 3


def test_time_limit_is_that_of_each_sitting(clock: SimpleNamespace, tmp_path: Path) -> None:
    """What is on record costs none of it; whoever goes on gets the whole time again."""
    calls: list[Strategy] = []

    def learn(episode: Episode) -> None:
        clock.now += 5

    def slow(strategy: Strategy) -> Outcome:
        clock.now += 10
        calls.append(strategy)
        return cheap(strategy)

    record = tmp_path / "record"
    for sitting, expected in enumerate((3, 6, 9, 10, 10), start=1):
        clock.now += 1000
        limits = Limits(10, seconds=35)
        found = searched(record, evaluate=slow, limits=limits, on_episode=learn)
        assert len(found.history) == expected
        assert len(calls) == expected, f"sitting {sitting}"
    assert_same(found, undisturbed("ddpg"))


@pytest.mark.parametrize("method", ["ddpg", "evolution"])
def test_patience_is_the_same_in_one_sitting_and_in_several(method: str, tmp_path: Path) -> None:
    limits = Limits(40, patience=4)
    straight = searched(None, method, limits=limits)
    assert 4 < len(straight.history) < 40
    record = tmp_path / "record"
    for at in (1, 2, 1):
        with pytest.raises(Stopped):
            searched(record, method, limits=limits, evaluate=stopping(at, Stopped))
    resumed = searched(record, method, limits=limits)
    assert_same(resumed, straight)
    assert_same(searched(record, method, limits=limits, evaluate=stopping(0, Stopped)), straight)


# The record


def test_every_episode_is_on_disk_before_the_next_one_is_asked_for(tmp_path: Path) -> None:
    record, asked = tmp_path / "record", list[Strategy]()

    def measured(strategy: Strategy) -> Outcome:
        on_disk = lines(record)[1:]
        assert [entry["strategy"] for entry in on_disk] == asked
        asked.append(dict(strategy))
        return cheap(strategy)

    def show(episode: Episode) -> None:
        assert lines(record)[-1]["episode"] == episode.number
        assert record.read_bytes().endswith(b"}\n")

    found = searched(record, evaluate=measured, on_episode=show)
    header, *entries = lines(record)
    assert header == {"format": FORMAT, **ABOUT}
    for entry, episode in zip(entries, found.history, strict=True):
        outcome, score = episode.outcome, episode.outcome.score
        assert entry == {
            "episode": episode.number,
            "reward": episode.reward,
            "macs": outcome.macs,
            "params": outcome.params,
            "accuracy": score.accuracy,
            "loss": score.loss,
            "images": score.images,
            "divergence": score.divergence,
            "strategy": episode.strategy,
        }


@pytest.mark.parametrize(
    ("method", "at"),
    [(m, at) for m in METHODS for at in (range(10) if m == "ddpg" else (1, 4, 6, 9))],
)
def test_search_stopped_at_any_episode_goes_on_as_if_it_had_never_stopped(
    method: str, at: int, tmp_path: Path
) -> None:
    """Four episodes are warm-up, the last one is the policy without noise."""
    record = tmp_path / "record"
    error = (KeyboardInterrupt, Stopped, AmcError)[at % 3]
    with pytest.raises(error):
        searched(record, method, evaluate=stopping(at, error))
    assert len(lines(record)) == 1 + at
    before = record.read_bytes()
    measured: list[Strategy] = []

    def counting(strategy: Strategy) -> Outcome:
        measured.append(strategy)
        return cheap(strategy)

    resumed = searched(record, method, evaluate=counting)
    assert len(measured) == 10 - at
    assert record.read_bytes().startswith(before)
    assert_same(resumed, undisturbed(method))


@pytest.mark.parametrize("method", METHODS)
def test_search_may_be_stopped_again_and_again(method: str, tmp_path: Path) -> None:
    record = tmp_path / "record"
    for at in (0, 3, 1, 0, 2, 2):
        with pytest.raises(Stopped):
            searched(record, method, evaluate=stopping(at, Stopped))
    torch.manual_seed(9)  # whatever state the global generators come back in
    np.random.seed(9)
    assert_same(searched(record, method), undisturbed(method))


@pytest.mark.parametrize("method", ["ddpg", "sac", "evolution"])
def test_stop_after_the_measurement_keeps_it(method: str, tmp_path: Path) -> None:
    """Between the line on disk and the agent's learning from it."""
    record = tmp_path / "record"
    for at in (2, 6, 9):

        def show(episode: Episode, at: int = at) -> None:
            if episode.number == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            searched(record, method, on_episode=show)
        assert len(lines(record)) == 2 + at
    assert_same(searched(record, method, evaluate=stopping(0, Stopped)), undisturbed(method))


def test_a_finished_search_measures_nothing_when_it_is_run_again(tmp_path: Path) -> None:
    record = tmp_path / "record"
    first = searched(record)
    content = record.read_bytes()
    again = searched(record, evaluate=stopping(0, Stopped))
    assert_same(again, first)
    assert record.read_bytes() == content


def test_rewards_of_the_record_are_those_of_the_function(tmp_path: Path) -> None:
    """The outcomes are recorded; what they are worth is asked again."""
    record = tmp_path / "record"
    searched(record, "random")
    trials = Trials(cheap, lambda o: -float(o.macs), Limits(10), record, ABOUT)
    found = search(Problem(budget(), trials), "random")
    assert [e.reward for e in found.history] == [-e.outcome.macs for e in found.history]


# A record that was damaged


@cache
def whole_record() -> bytes:
    """Of a search of six episodes."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record"
        searched(record, "random", 6)
        return record.read_bytes()


def replayed(record: Path) -> tuple[list[Episode], int]:
    """The search of `whole_record` again; its episodes, and how many were measured."""
    measured: list[Strategy] = []

    def evaluate(strategy: Strategy) -> Outcome:
        measured.append(strategy)
        return cheap(strategy)

    trials = Trials(evaluate, reward, Limits(6), record, ABOUT)
    for episode in undisturbed("random", 6).history:
        trials(episode.strategy)
    return trials.history, len(measured)


def test_last_line_cut_at_any_byte_is_measured_again(tmp_path: Path) -> None:
    record, content = tmp_path / "record", whole_record()
    last = content.rindex(b"\n", 0, -1) + 1
    for size in range(last, len(content)):
        record.write_bytes(content[:size])
        assert replayed(record) == (list(undisturbed("random", 6).history), 1)
        assert record.read_bytes() == content


def test_first_line_cut_at_any_byte_is_written_again(tmp_path: Path) -> None:
    record, content = tmp_path / "record", whole_record()
    for size in range(content.index(b"\n") + 1):
        record.write_bytes(content[:size])
        assert replayed(record) == (list(undisturbed("random", 6).history), 6)
        assert record.read_bytes() == content


def test_network_that_computes_nonsense_is_recorded_like_any_other(tmp_path: Path) -> None:
    """A cut network may have a loss of NaN and still an accuracy."""
    record, strategies = tmp_path / "record", some_strategies(2)
    outcomes = [Outcome(Score(0.1, loss, 10, loss), 5, 3) for loss in (math.nan, math.inf)]
    for _ in range(2):
        trials = Trials(lambda strategy: outcomes.pop(), reward, Limits(2), record, ABOUT)
        found = [trials(s).score for s in strategies]
        assert repr(found) == repr([Score(0.1, n, 10, n) for n in (math.inf, math.nan)])


@pytest.mark.parametrize("apart", [None, 0.0, 1 / 3, 5e-324, 1e300])
def test_divergence_comes_back_from_the_record_to_the_last_bit(
    apart: float | None, tmp_path: Path
) -> None:
    """Also that there was nothing to compare with."""
    record, (strategy,) = tmp_path / "record", some_strategies(1)
    outcome = Outcome(Score(0.1, 0.2, 10, apart), 5, 3)
    for evaluate in (lambda strategy: outcome, stopping(0, Stopped)):
        trials = Trials(evaluate, reward, Limits(1), record, ABOUT)
        assert trials(strategy) == outcome
    assert lines(record)[1]["divergence"] == apart


@pytest.mark.parametrize("method", ["ddpg", "screened"])
def test_search_for_the_least_divergence_goes_on_where_it_was_stopped(
    method: str, tmp_path: Path
) -> None:
    def found(record: Path | None, evaluate: Evaluate = cheap) -> Found:
        trials = Trials(evaluate, REWARDS["divergence"], Limits(10), record, ABOUT)
        settings = Settings(net_arch=(16, 16), warmup_episodes=4)
        return search(Problem(budget(), trials, errors()), method, settings=settings)

    with pytest.raises(Stopped):
        found(tmp_path / "record", stopping(7, Stopped))
    assert_same(found(tmp_path / "record"), whole := found(None))
    assert [e.reward for e in whole.history] == [
        -(e.outcome.score.divergence or math.nan) for e in whole.history
    ]


def test_record_of_a_time_without_divergences_is_refused_in_one_line(tmp_path: Path) -> None:
    record = tmp_path / "record"
    header, *entries = map(json.loads, whole_record().splitlines())
    for entry in entries:
        del entry["divergence"]
    record.write_text("".join(json.dumps(line) + "\n" for line in (header, *entries)))
    with pytest.raises(AmcError, match=r"line 2 is damaged: .*'divergence'") as refused:
        searched(record, "random", 6)
    assert str(refused.value).startswith(f"{record}: ") and "\n" not in str(refused.value)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda line: line[:20],
    "empty": lambda line: b"",
    "noise": lambda line: b"\xff\xfe\x00" + line,
    "other bytes": lambda line: line[:-5] + b"\x80\x81",
    "list": lambda line: b"[1, 2]",
    "number": lambda line: b"3",
    "nothing": lambda line: b"null",
    "two": lambda line: line + line,
    "deep": lambda line: b"[" * 100_000,
    "no strategy": lambda line: line.replace(b'"strategy"', b'"strateg"'),
    "no loss": lambda line: line.replace(b'"loss"', b'"los"'),
    "no divergence": lambda line: line.replace(b'"divergence"', b'"divergenc"'),
    "words for a divergence": lambda line: line.replace(b'gence": ', b'gence": "much", "x": '),
    "words for numbers": lambda line: line.replace(b'"macs": ', b'"macs": "many", "x": '),
    "strategy of words": lambda line: line[: line.index(b'"strategy"')] + b'"strategy": "a"}',
    "strategy of none": lambda line: (
        line[: line.index(b'"strategy"')] + b'"strategy": {"0": null}}'
    ),
    "endless": lambda line: line.replace(b'"macs": ', b'"macs": Infinity, "x": '),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("number", [2, 4])
def test_damaged_line_is_refused_in_one_line_that_names_it(
    damage: str, number: int, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    parts = whole_record().split(b"\n")
    parts[number - 1] = DAMAGES[damage](parts[number - 1])
    record.write_bytes(b"\n".join(parts))
    content = record.read_bytes()
    with pytest.raises(AmcError, match=f"line {number} is damaged") as refused:
        searched(record, "random", 6)
    assert str(refused.value).startswith(f"{record}: ")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300
    assert record.read_bytes() == content  # whoever wants to repair it can


@pytest.mark.parametrize("change", ["removed", "swapped", "other count"])
def test_record_that_does_not_follow_the_search_is_refused(change: str, tmp_path: Path) -> None:
    record = tmp_path / "record"
    parts = whole_record().split(b"\n")
    if change == "removed":
        del parts[3]
    elif change == "swapped":
        parts[3], parts[4] = parts[4], parts[3]
    else:
        entry = json.loads(parts[3])
        entry["strategy"]["0"] += 1
        parts[3] = json.dumps(entry).encode()
    record.write_bytes(b"\n".join(parts))
    with pytest.raises(AmcError, match="episode 2 has another strategy") as refused:
        searched(record, "random", 6)
    assert str(refused.value).startswith(f"{record}: ") and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ({**ABOUT, "seed": 1}, "seed was 1, is 0"),
        ({**ABOUT, "preserve_ratio": 0.25}, "preserve_ratio was 0.25, is 0.5"),
        ({"format": "amc-episodes/9", **ABOUT}, "format was 'amc-episodes/9'"),
        ({**{k: v for k, v in ABOUT.items() if k != "reward"}}, "reward was None"),
        ({"format": None}, "format was None"),
    ],
)
def test_record_of_another_search_is_refused(
    header: dict[str, Any], named: str, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    first = json.dumps({"format": FORMAT, **header}).encode()
    content = first + whole_record()[whole_record().index(b"\n") :]
    record.write_bytes(content)
    with pytest.raises(AmcError) as refused:
        searched(record, "random", 6)
    assert str(refused.value).startswith(f"{record}: ")
    assert named in str(refused.value) and "\n" not in str(refused.value)
    assert record.read_bytes() == content


def test_record_without_a_first_line_is_refused(tmp_path: Path) -> None:
    record = tmp_path / "record"
    record.write_bytes(whole_record()[whole_record().index(b"\n") + 1 :])
    with pytest.raises(AmcError, match="the record is of another search"):
        searched(record, "random", 6)


def test_full_disk_leaves_the_lines_before(tmp_path: Path) -> None:
    """The system refuses to let the file grow, in the middle of a line."""
    resource = pytest.importorskip("resource")
    record = tmp_path / "record"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    calls = count()

    def measured(strategy: Strategy) -> Outcome:
        if next(calls) == 3:
            room = record.stat().st_size + 40
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        return cheap(strategy)

    try:
        with pytest.raises(UnwritableError, match="record: cannot be written: "):
            searched(record, "random", 6, measured)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    content = record.read_bytes()
    assert len(content.splitlines()) == 5 and not content.endswith(b"\n")
    assert whole_record().startswith(content)
    assert searched(record, "random", 6).history == undisturbed("random", 6).history
    assert record.read_bytes() == whole_record()


def test_reward_that_is_not_finite_is_not_recorded(tmp_path: Path) -> None:
    record = tmp_path / "record"
    bad = {3: float("nan")}
    calls = count()

    def measured(strategy: Strategy) -> Outcome:
        return of(bad.get(next(calls), 0.5))

    with pytest.raises(AmcError, match="the reward is nan"):
        searched(record, "random", evaluate=measured)
    assert len(lines(record)) == 4


# Side by side


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


def some_strategies(number: int) -> list[Strategy]:
    rng = np.random.default_rng(number)
    found = []
    for _ in range(number):
        decided: list[int] = []
        for action in rng.random(4):
            decided.append(budget().execute(decided, float(action))[0])
        found.append(budget().strategy(decided))
    return found


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
