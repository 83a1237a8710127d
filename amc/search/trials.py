"""The record of a search: every strategy that was tried, on disk as soon as its worth is known.

A search is a function of its seed and of what it was told the strategies are worth. So the record
of these answers is all that has to be saved: a search that was killed is run again with the same
seed, gets the recorded answers at once instead of measuring anew, and so comes to where it was,
with the same agent, replay memory and random numbers, bit for bit.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amc.graph.plan import Strategy
from amc.runtime import distributed
from amc.runtime.errors import AmcError
from amc.runtime.files import append, parsed_json, write_atomically
from amc.runtime.names import current_name
from amc.tasks.evaluate import Score
from envs import Outcome, Reward
from envs.outcome import Episode

FORMAT = "amc-episodes/2"

NOT_IN_OLDER = frozenset(
    """
    checkpoint task bn_samples patience finalists finalist_epochs finetune_epochs learning_rate
    label_smoothing weight_decay clip ema mixed finetune temperature distill_weight
    distill_schedule feature_weight objective latency_table weight_bits activation_bits
    layer_weight_bits layer_activation_bits prior shared_epochs shared_ratio
    sparsity sparsity_init block sparsity_allocation sparsity_schedule sparsity_power
    sparsity_convex sparsity_patience sparsity_steps sparsity_levels sparsity_target_epoch
    sparsity_freeze_epoch sparsity_per_step sparsity_rate
""".split()
)
"""Settings that older records do not name."""


def differences(recorded: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Settings that a record was not made by, by name; what an older one does not name is none."""
    recorded = by_current_names(recorded, settings)
    named = [k for k in settings if k in recorded or k not in NOT_IN_OLDER]
    return [k for k in named if recorded.get(k) != settings[k]]


def by_current_names(recorded: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is on record, by the names that these settings have now."""
    return {current_name(name, settings): value for name, value in recorded.items()}


class LimitReached(Exception):
    """The search may not try another strategy."""


@dataclass(frozen=True)
class Limits:
    """When a search ends.

    Attributes:
        episodes: strategies that it tries.
        seconds: wall time after which no further one is tried; None for no limit.
        patience: episodes without a better reward after which it stops; None for never.
    """

    episodes: int
    seconds: float | None = None
    patience: int | None = None


class Trials:
    """Tells a search what strategies are worth, and remembers what it told.

    Args:
        evaluate: strategy -> outcome, the expensive part.
        reward: outcome -> number.
        limits: when to stop.
        record: file of the record, or None to keep it in memory only.
        search: what the record depends on besides the seed; a record of another search is refused.
        on_episode: called after every episode.
        allows: whether a strategy may be what the search finds; others are measured only.

    Raises:
        AmcError: the record is damaged or belongs to another search.
    """

    def __init__(
        self,
        evaluate: Callable[[Strategy], Outcome],
        reward: Reward,
        limits: Limits,
        record: Path | None = None,
        search: Mapping[str, Any] | None = None,
        on_episode: Callable[[Episode], None] = lambda episode: None,
        allows: Callable[[Strategy], bool] = lambda strategy: True,
    ) -> None:
        self.history: list[Episode] = []
        self.limits = limits
        self.reward, self._evaluate, self._allows = reward, evaluate, allows
        self._record, self._on_episode = record, on_episode
        self._known = _read(record, dict(search or {})) if record else []
        self.recorded = len(self._known)
        self._start, self._found = time.monotonic(), False
        self._ahead: dict[tuple[tuple[str, int], ...], Outcome] = {}

    @property
    def best(self) -> Episode:
        """The first episode of the highest reward, of those that the budget allows if any."""
        return max(self.history, key=lambda e: (not e.probe, e.reward))

    @property
    def left(self) -> int:
        """Episodes that may still be tried, time and patience aside."""
        return self.limits.episodes - len(self.history)

    def __call__(self, strategy: Strategy) -> Outcome:
        """The outcome of the next episode.

        Raises:
            LimitReached: a limit is reached.
            AmcError: the reward is not finite.
        """
        if self._ended():
            raise LimitReached
        number = len(self.history)
        known = self._recorded(number, strategy)
        if known:
            self._start = time.monotonic()  # what is on record costs none of the time
        outcome = known or self._ahead.get(_key(strategy)) or self._evaluate(strategy)
        value = float(self.reward(outcome))
        if not math.isfinite(value):
            raise AmcError(f"the reward is {value} for {outcome}; it must be finite")
        probe, best = not self._allows(strategy), value
        if self._found:
            best = self.history[-1].best if probe else max(value, self.history[-1].best)
        self._found |= not probe
        episode = Episode(number, dict(strategy), outcome, value, best, probe)
        if self._record and not known:
            _append(self._record, episode)
        self.history.append(episode)
        self._on_episode(episode)
        return outcome

    def look_ahead(
        self,
        strategies: Sequence[Strategy],
        evaluate: Callable[[Sequence[Strategy]], Sequence[Outcome]],
    ) -> None:
        """Measures the strategies of the next episodes together, unless they are on record."""
        missing = strategies[max(0, self.recorded - len(self.history)) :]
        if missing and not self._ended():
            outcomes = evaluate([dict(strategy) for strategy in missing])  # can be pickled
            self._ahead = {_key(s): o for s, o in zip(missing, outcomes, strict=True)}

    def _ended(self) -> bool:
        limits, tried = self.limits, len(self.history)
        if tried >= limits.episodes:
            return True
        if tried < self.recorded:
            return False
        if limits.seconds is not None and tried:
            over = time.monotonic() - self._start > limits.seconds
            if distributed.on_rank_zero(
                lambda: b"over" if over else b""
            ):  # one clock counts for all
                return True
        if limits.patience is None or not tried:
            return False
        return tried - 1 - self.best.number >= limits.patience

    def _recorded(self, number: int, strategy: Strategy) -> Outcome | None:
        if number >= self.recorded:
            return None
        counts, outcome = self._known[number]
        if counts != dict(strategy):
            raise AmcError(
                f"{self._record}: episode {number} has another strategy than this search: it was "
                "made by other settings, data or versions; start anew in another --run-dir"
            )
        return outcome


def _append(record: Path, episode: Episode) -> None:
    outcome = episode.outcome
    entry = {
        "episode": episode.number,
        "reward": episode.reward,
        "macs": outcome.macs,
        "params": outcome.params,
        **asdict(outcome.score),
        "strategy": episode.strategy,
    }
    append(record, json.dumps(entry))


def _key(strategy: Strategy) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(strategy.items()))


def _read(path: Path, search: Mapping[str, Any]) -> list[tuple[dict[str, int], Outcome]]:
    """The episodes on record; a line that was cut short is forgotten, a missing file is begun.

    Nothing is changed in a file before it is known to be the record of this search.
    """
    header = {"format": FORMAT, **search}
    if path.is_symlink():
        raise AmcError(f"{path}: is a link; nothing is written through links")
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise AmcError(f"{path}: cannot be read: {error.strerror or error}") from None
    first, whole = json.dumps(header).encode(), content[: content.rfind(b"\n") + 1]
    if not whole:
        if not first.startswith(content):
            raise AmcError(f"{path}: is no record of episodes; it would be replaced")
        write_atomically(path, first + b"\n")
        return []
    lines = whole.splitlines()
    found = [_parsed(line, number, path) for number, line in enumerate(lines, start=1)]
    differing = differences(found[0], header)
    if differing:
        name, was = differing[0], by_current_names(found[0], header)
        raise AmcError(
            f"{path}: the record is of another search: {name} was {was.get(name)!r}, "
            f"is {header[name]!r}"
        )
    episodes = [_episode(entry, number, path) for number, entry in enumerate(found[1:], start=2)]
    if whole != content:
        write_atomically(path, whole)
    return episodes


def _parsed(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        entry = parsed_json(line, finite=False)  # a loss may be infinite
    except ValueError as error:
        raise AmcError(f"{path}: line {number} is damaged: {error}") from None
    if not isinstance(entry, dict):
        raise AmcError(f"{path}: line {number} is damaged: expected an object")
    return entry


def _episode(entry: Mapping[str, Any], number: int, path: Path) -> tuple[dict[str, int], Outcome]:
    try:
        apart = entry["divergence"]
        score = Score(
            _number(entry["accuracy"]),
            _number(entry["loss"]),
            _whole(entry["images"]),
            None if apart is None else _number(apart),
        )
        outcome = Outcome(score, _whole(entry["macs"]), _whole(entry["params"]))
        return {name: _whole(count) for name, count in entry["strategy"].items()}, outcome
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise AmcError(f"{path}: line {number} is damaged: {error!r}") from None


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r:.40} is no number")
    return float(value)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r:.40} is no whole number")
    return value
