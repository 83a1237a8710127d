"""What a run was made of: settings, seed, versions, and the command that makes it once more."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amc.config.apply import ApplyConfig
from amc.config.composed import NESTED, Composed, as_json, flags, from_json
from amc.config.train import TrainConfig
from amc.reporting.html.record import RunRecord
from amc.runs.folder import COMMAND, DEFAULT, MARK, THREADS
from amc.runtime.errors import AmcError
from amc.runtime.wording import duration, plain

KINDS: Mapping[str, type[Composed]] = {"amc.train": TrainConfig, "amc.apply": ApplyConfig}

USUAL: Mapping[str, Composed] = {
    "amc.train": TrainConfig(),
    "amc.apply": ApplyConfig(resume=Path()),  # without policy and plan only a resumed run is one
}
"""Settings as they are where nothing is given."""

ONCE = ("run_dir", "resume", "quiet", "config", "write_config", "trust", "json")
"""Settings that say nothing of the result."""


@dataclass(frozen=True)
class Setting:
    """A setting of a run, and whether it is what it usually is."""

    name: str
    value: str
    usual: bool

    @property
    def pair(self) -> tuple[str, str]:
        """Name and value."""
        return self.name, self.value


def settings_of_run(run: RunRecord) -> list[Setting]:
    """All settings, flat; what this version does not know counts as unusual."""
    usual = _flat(as_json(USUAL.get(_command(run), USUAL[DEFAULT])))
    given = _flat({k: v for k, v in run.settings.items() if k not in (COMMAND, THREADS)})
    return [
        Setting(name, _words(value), name in usual and usual[name] == value)
        for name, value in given.items()
        if name not in ONCE
    ]


def command(run: RunRecord) -> str:
    """What makes the run once more, to the same bits on the same machine; empty if unknown."""
    made_by, threads = _command(run), run.settings.get(THREADS)
    own = {k: v for k, v in run.settings.items() if k not in (COMMAND, THREADS, *ONCE)}
    if made_by == "amc.compress":
        return _from_python(own)
    if made_by not in KINDS or not run.settings:
        return ""
    try:
        config = from_json(KINDS[made_by], own, run.folder / MARK)
    except AmcError:  # of a version with other settings
        return ""
    words, lines = flags(config), [f"python -m {made_by}"]
    for word in words:
        if word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] += f" {plain(shlex.quote(word))}"
    alone = f"OMP_NUM_THREADS={threads} " if isinstance(threads, int) else ""
    return alone + (" " if len(lines) < 4 else " \\\n    ").join(lines)


def machine(run: RunRecord) -> list[tuple[str, str]]:
    """Seed, versions, device, and the time that the steps took."""
    made = run.report.get("made_by") or {}
    found = [("seed", str(run.settings.get("seed", "")))] if "seed" in run.settings else []
    found += [(str(k), str(v)) for k, v in (made.get("versions") or {}).items()]
    for key in ("device", "threads", "cores", "platform", "ended"):
        if key in made:
            found.append((key, str(made[key])))
    if "threads" not in made and THREADS in run.settings:
        found.append((THREADS, str(run.settings[THREADS])))
    for step, seconds in (run.report.get("seconds") or {}).items():
        if seconds >= 0.05:
            found.append((f"time, {step}", duration(seconds)))
    return found


def _command(run: RunRecord) -> str:
    return str(run.settings.get(COMMAND, DEFAULT))


def _from_python(own: Mapping[str, Any]) -> str:
    usual = _flat(as_json(TrainConfig()))
    left = {k: v for k, v in _flat(own).items() if k in usual and usual[k] != v}
    words = [f"{k}={v!r}" for k, v in left.items() if k not in ("model", "data")]
    return f"amc.compress({', '.join(['model', 'train', 'val', 'test', *words])})"


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= value if name in NESTED.values() and isinstance(value, dict) else {name: value}
    return found


def _words(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
