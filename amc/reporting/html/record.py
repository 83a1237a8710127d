"""What a run has left in its folder, as far as it got; older versions left less."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amc.config.sections.search import LEARNERS
from amc.runs.folder import MARK, record
from amc.runs.history import SEARCH, TRAININGS
from amc.runtime.errors import AmcError
from amc.runtime.files import parsed_json, read_json

REPORT, SWEEP, CONTEST = "report.json", "pareto.json", "compare.json"
GROUPS = "groups.svg"
"""The picture of the channel groups, which only a run can draw."""


@dataclass(frozen=True)
class Tried:
    """A strategy that a search tried.

    Attributes:
        number: from 0.
        reward: what it was worth.
        strategy: kept channels per group; groups that are not named keep all.
    """

    number: int
    reward: float
    strategy: Mapping[str, int]


@dataclass(frozen=True)
class RunRecord:
    """A run folder.

    Attributes:
        folder: where it is.
        settings: of ``config.json``.
        report: of ``report.json``; empty as long as the run has not come to its end.
        episodes: of the search, in order.
        phases: warm-up and walk without noise, see `amc.runs.history.Phases`.
        trainings: scores by epoch, see `amc.runs.history.keep_training`.
        attempts: of ``--max-drop``, the largest network first.
        groups: the picture of the groups, an SVG; empty if there is none.
    """

    folder: Path
    settings: Mapping[str, Any]
    report: Mapping[str, Any]
    episodes: tuple[Tried, ...] = ()
    phases: Mapping[str, Any] | None = None
    trainings: Sequence[Mapping[str, Any]] = ()
    attempts: Sequence[Mapping[str, Any]] = ()
    groups: str = ""

    @property
    def name(self) -> str:
        """Network and data."""
        return f"{_short(self.settings.get('model'))} on {_short(self.settings.get('data'))}"

    @property
    def agent(self) -> str:
        """The agent that searched; empty if none did."""
        allocator = self.settings.get("allocator", self.settings.get("agent", "ddpg"))
        return str(allocator) if self.episodes and allocator in LEARNERS else ""

    @property
    def warmup(self) -> int:
        """Episodes before the agent learned; 0 where there was none."""
        if not self.agent:
            return 0
        if self.phases:
            return int(self.phases["warmup"])
        known = 0 if self.settings.get("policy") else self.settings.get("warmup_episodes", 10)
        return min(int(known), len(self.episodes))

    @property
    def without_noise(self) -> int | None:
        """The episode of the finished policy, if it was walked."""
        if self.phases:
            known: int | None = self.phases["without_noise"]
            return known
        whole = len(self.episodes) == self.settings.get("episodes") and len(self.episodes) > 1
        return len(self.episodes) - 1 if self.agent and whole else None

    @property
    def best(self) -> Tried:
        """The first episode of the highest reward."""
        return max(self.episodes, key=lambda one: one.reward)

    @property
    def sizes(self) -> dict[str, int]:
        """Channels of every group that can be cut, in the order of the layers."""
        found: dict[str, int] = {}
        frozen = self.report.get("frozen", {})
        for layer in self.report.get("layers", ()):
            group = layer["group"]
            if group not in frozen:
                found.setdefault(group, layer["out_channels"]["original"])
        return found

    @property
    def score(self) -> tuple[str, bool]:
        """What the task calls its score, and whether that is a part of one."""
        classifies = self.settings.get("task", "classification") == "classification"
        known = self.report.get("score") or {}
        name = known.get("name", "accuracy" if classifies else "score")
        return name, bool(known.get("percent", classifies))


def record_of(folder: Path) -> RunRecord:
    """Reads the folder of a run; files that are missing are nothing.

    Raises:
        AmcError: it is none, or a file is damaged.
    """
    if not (folder / MARK).is_file() and not (folder / REPORT).is_file():
        raise AmcError(f"{folder}: is no run folder (no {MARK}, no {REPORT})")
    phases = _object(folder / SEARCH)
    trainings = _object(folder / TRAININGS)
    picture = folder / GROUPS
    return RunRecord(
        folder,
        _object(folder / MARK),
        _object(folder / REPORT),
        tuple(_episodes(record(folder))),
        phases or None,
        trainings.get("trainings", ()),
        _attempts(folder),
        picture.read_text(encoding="utf-8", errors="replace") if picture.is_file() else "",
    )


def _object(path: Path) -> dict[str, Any]:
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise AmcError(f"{path}: expected an object, got {type(found).__name__}")
    return found


def _episodes(path: Path) -> Iterator[Tried]:
    """Those on record; a line that was cut short is left out."""
    if not path.is_file():
        return
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    for number, line in enumerate(whole.splitlines()[1:]):
        try:
            entry = parsed_json(line, finite=False)
            yield Tried(number, float(entry["reward"]), dict(entry["strategy"]))
        except (ValueError, KeyError, TypeError) as error:
            raise AmcError(f"{path}: line {number + 2} is damaged: {error!r}") from None


def _attempts(folder: Path) -> list[dict[str, Any]]:
    found = {path: _object(path) for path in folder.glob("attempts/*/attempt.json")}
    told = [{"ratio": path.parent.name, **one} for path, one in found.items()]
    return sorted(told, key=lambda one: -float(one["about"].get("preserve_ratio", 0)))


def _short(name: Any) -> str:
    """The last part of a path or a dotted name, with what stands behind a colon."""
    text = str(name or "unknown")
    return text.rpartition("/")[2] if "/" in text else text
