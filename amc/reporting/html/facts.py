"""The numbers of a report as a person reads them, and what they come to: the headline.

Reads ``report.json``, also that of an older version: what it does not say is left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from amc.reporting.html.record import RunRecord
from amc.reporting.report import quantity

MINUS, TIMES = "\u2212", "\u00d7"


@dataclass(frozen=True)
class Card:
    """One number of the headline.

    Attributes:
        label: what it is of.
        value: after, in words.
        before: in words.
        change: what became of it, in words.
        part: that is left of it; None where that says nothing.
        raw: after, as ``report.json`` has it.
        where: what it depends on; a second label.
    """

    label: str
    value: str
    before: str
    change: str
    part: float | None
    raw: float
    where: str = ""


def cards(run: RunRecord) -> list[Card]:
    """The headline: score, MACs, parameters, size, time."""
    return [*_score(run), *_sizes(run.report), *_times(run.report)]


def points_of(run: RunRecord) -> float:
    """What a difference of scores is multiplied by: 100 where they are percentages."""
    return 100.0 if run.score[1] else 1.0


def shown(run: RunRecord, score: float) -> str:
    """A score."""
    return f"{score:.2%}" if run.score[1] else f"{score:.4g}"


def difference(run: RunRecord, change: float) -> str:
    """A difference of scores, with its sign."""
    if not run.score[1]:
        return f"{change:+.3g}"
    points = round(100 * change, 2) + 0.0  # no minus before a zero
    return f"{points:+.2f} points".replace("-", MINUS)


def percent(part: float) -> str:
    """A part of a whole."""
    return f"{part:.1%}"


def size(number: float) -> str:
    """Bytes."""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= one:
            return f"{number / one:.3g} {unit}"
    return f"{number:.0f} B"


def large(number: float) -> str:
    """Three digits and a unit."""
    for unit, one in ((" G", 1e9), (" M", 1e6), (" k", 1e3)):
        if number >= one:
            return f"{number / one:.3g}{unit}"
    return quantity(number)


def milliseconds(timing: Mapping[str, Any], which: str) -> float:
    """The time that counts: the median; of older versions, whose ratios are of it, the fastest."""
    return float(timing[which]["median" if timing.get("rounds") else "fastest"])


def where(timing: Mapping[str, Any]) -> str:
    """The runtime and what it runs on."""
    told = str(timing["runtime"])
    if "threads" not in timing:
        return told
    if timing.get("device", "cpu") != "cpu":
        return f"{told}, {timing['device'].upper()}"
    threads, batch = timing["threads"], timing.get("batch", 1)
    told += f", {threads} thread{'s' if threads > 1 else ''}"
    return f"{told}, batch {batch}" if batch > 1 else told


def measured(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Times that there are; the runtime nearest to a deployment is the last."""
    return [t for t in report.get("latency_ms", ()) if t.get("ratio") is not None]


def as_fast(ratio: float) -> str:
    """A ratio of times as people say it."""
    return f"{1 / ratio:.2f}{TIMES} as fast"


def files(run: RunRecord) -> list[dict[str, str]]:
    """The exports, in words; of one that could not be written its format and the problem."""
    found = []
    for one in run.report.get("exports") or ():
        if problem := one.get("problem"):
            found.append({"format": str(one["format"]), "problem": str(problem)})
            continue
        in_8_bits = one.get("int8") or {}
        score = in_8_bits.get("accuracy")
        found.append(
            {
                "problem": "",
                "file": str(one["file"]),
                "size": size(one["bytes"]),
                "error": f"{one['error']:.1e}",
                "tolerance": f"{one['tolerance']:g}",
                "score": "" if score is None else shown(run, score),
                "latency": f"{in_8_bits['latency_ms']:.3g} ms" if in_8_bits else "",
            }
        )
    return found


def _score(run: RunRecord) -> Iterator[Card]:
    found = run.report.get("accuracy")
    if found:
        before, after = found["original"], found["recovered"]
        change = difference(run, after - before)
        label = f"Test {run.score[0]}"
        yield Card(label, shown(run, after), shown(run, before), change, None, after)


def _sizes(report: Mapping[str, Any]) -> Iterator[Card]:
    for key, label, words in (
        ("macs", "MACs", large),
        ("params", "Parameters", large),
        ("file_bytes", "File", size),
    ):
        if one := report.get(key):
            before, after = words(one["original"]), words(one["pruned"])
            part = one["pruned"] / one["original"] if one["original"] else 1.0
            yield Card(label, after, before, f"{percent(part)} left", part, one["pruned"])
    for name, one in (report.get("objective") or {}).items():
        if name not in ("macs", "params"):
            before, after = large(one["original"]), large(one["pruned"])
            part = one["ratio"]
            unit = one.get("unit", name)
            yield Card(unit, after, before, f"{percent(part)} left", part, one["pruned"])


def _times(report: Mapping[str, Any]) -> Iterator[Card]:
    for timing in measured(report)[-1:]:
        before, after = (milliseconds(timing, k) for k in ("original", "pruned"))
        ratio, spread = timing["ratio"], timing.get("spread", 0)
        change = as_fast(ratio) if ratio < 0.995 else "no faster"
        sure = f"± {spread / ratio**2 / 2:.2f}, " if spread and ratio < 0.995 else ""
        words = (f"{after:.3g} ms", f"{before:.3g} ms")
        yield Card("Latency", *words, change, ratio, after, sure + where(timing))
