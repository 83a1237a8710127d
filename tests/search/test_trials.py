"""The record of a search: stopped anywhere and gone on with, a search comes out the same."""

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from amc.graph.plan import Strategy
from amc.runtime.errors import AmcError
from amc.runtime.files import UnwritableError
from amc.search import trials as rooms
from amc.search.problem import Found, Problem
from amc.search.search import METHODS, Settings, search
from amc.search.trials import FORMAT, LimitReached, Limits, Trials, differences
from amc.tasks.evaluate import Score
from envs import REWARDS, Outcome
from envs.outcome import Episode
from recorded_search import (
    ABOUT,
    Evaluate,
    Stopped,
    assert_same,
    budget,
    cheap,
    errors,
    lines,
    of,
    reward,
    searched,
    some_strategies,
    stopping,
    undisturbed,
)

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


def test_a_record_of_before_a_setting_was_renamed_is_still_one_of_this_search() -> None:
    now = {"model": "a", "metric": "obs", "allocator": "td3"}
    assert differences({"model": "a", "selector": "obs", "agent": "td3"}, now) == []
    assert differences({"model": "a", "selector": "l1", "agent": "td3"}, now) == ["metric"]
    assert differences({"agent": "td3"}, {"agent": "sac"}) == ["agent"]


def test_a_record_from_before_more_settings_were_named_is_still_one_of_this_search() -> None:
    now = {"model": "a", "episodes": 5, "clip": 0.2, "checkpoint": None}
    older = {"model": "a", "episodes": 5}
    assert differences(older, now) == []
    assert differences({**older, "clip": 0.5}, now) == ["clip"]
    assert differences({"model": "a"}, now) == ["episodes"]  # named since the first version
    assert differences({}, now) == ["model", "episodes"]
