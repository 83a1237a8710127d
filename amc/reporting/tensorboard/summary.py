"""A run in words and numbers: its headline, its metrics, the settings that tell runs apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amc.config.composed import Composed, settings_of
from amc.reporting.report import Report, spread
from amc.runtime.wording import plain
from amc.tasks.task import Task

ALWAYS = ("allocator", "data", "model", "preserve_ratio", "seed")
"""Settings that every run shows; others where they are not the default."""

NEVER = frozenset(
    "run_dir resume quiet json statistics trust workers memory device config write_config".split()
)
"""Settings that results do not depend on."""


def settings_shown(config: Composed) -> dict[str, Any]:
    """Settings that tell runs apart, as numbers, truth values and text."""
    found: dict[str, Any] = {}
    for one, value, usual in settings_of(config):
        if one.name not in NEVER and (one.name in ALWAYS or value != usual):
            number = isinstance(value, bool | int | float)
            found[one.name] = value if number else plain("" if value is None else str(value))
    first = {name: found[name] for name in ALWAYS if name in found}
    return {**first, **found}


def metrics(report: Report, task: Task) -> dict[str, float]:
    """What came of it, by name."""
    score, found = plain(task.name), report.accuracy
    times = [one for one in report.latency_ms if one.ratio is not None]
    return {
        f"{score}": found["recovered"],
        f"{score} before training": found["pruned"],
        f"{score} of the original": found["original"],
        "part of the MACs": report.macs.ratio,
        "part of the parameters": report.params.ratio,
        **{f"part of the time, {one.runtime.split()[0]}": one.ratio or 1.0 for one in times},
        "minutes": report.seconds.get("total", 0.0) / 60,
    }


def headline(report: Report, task: Task) -> tuple[str, str]:
    """What it costs, and what it is worth."""
    times = [one.ratio for one in report.latency_ms if one.ratio is not None]
    before, after = (task.shown(report.accuracy[k]) for k in ("original", "recovered"))
    time = f", {times[-1]:.0%} of the time" if times else ""
    return f"{report.macs.ratio:.1%} of the MACs{time}", f"{plain(task.name)} {before} → {after}"


def text(config: Composed, report: Report, task: Task) -> str:
    """The run as Markdown: before and after, and the settings."""
    shown = {stage: task.shown(found) for stage, found in report.accuracy.items()}
    rows: list[tuple[str, ...]] = [
        (f"test {task.name}", shown["original"], shown["recovered"], ""),
        ("after the cut, before training", "", shown["pruned"], ""),
    ]
    for name, one in (
        ("MACs", report.macs), ("parameters", report.params), ("file, bytes", report.file_bytes),
    ):  # fmt: skip
        rows.append((name, f"{one.original:,}", f"{one.pruned:,}", f"{one.ratio:.1%}"))
    for timing in report.latency_ms:
        if timing.original and timing.pruned and timing.ratio is not None:
            times = (spread(t.median, t.iqr / 2) for t in (timing.original, timing.pruned))
            where = f"ms, {timing.where}, batch {timing.batch}"
            rows.append((where, *times, f"{timing.ratio:.0%}"))
    settings = [(f"`{name}`", f"{value}") for name, value in settings_shown(config).items()]
    return "\n\n".join(
        [
            f"**{'; '.join(headline(report, task))}**",
            _table(("", "original", "pruned", "left"), rows),
            *(f"{one.line()}" for one in report.slow),
            _table(("setting", "value"), settings),
        ]
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(c) for c in line)} |" for line in lines)


def _cell(content: str | Path) -> str:
    return plain(str(content)).replace("|", "\\|")
