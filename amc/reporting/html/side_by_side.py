"""Runs side by side: one column for each."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from amc.reporting.html import charts
from amc.reporting.html.facts import (
    as_fast,
    difference,
    large,
    measured,
    percent,
    shown,
    size,
    where,
)
from amc.reporting.html.record import RunRecord, record_of
from amc.reporting.html.render import Chart, drawn, rendered, write_page
from amc.reporting.html.run_page import lead
from amc.reporting.html.settings import settings_of_run
from amc.reporting.html.verdicts import number, verdicts
from amc.runtime.wording import duration

Line = tuple[str, list[str]]
"""What is compared, and what it is in every run."""

NOTHING = "\u2013"


def write_comparison(folders: Sequence[Path], path: Path) -> list[Path]:
    """Writes page and Markdown of several runs.

    Args:
        folders: of the runs, in the order of the columns.
        path: of the page; the Markdown is beside it.

    Raises:
        AmcError: one is no run, or a file cannot be written.
    """
    runs = dict(zip(names_of(folders), map(record_of, folders), strict=True))
    context: dict[str, Any] = {
        "title": f"{len(runs)} runs side by side",
        "names": list(runs),
        "lines": lines(runs),
        "differing": differing(runs),
        "told": {name: verdicts(run) for name, run in runs.items()},
        "alike": alike(runs),
        "groups": groups(runs),
    }
    page = rendered(
        "side_by_side.html", charts=list(compared(runs)), style=charts.line_of, **context
    )
    write_page(path, page)
    write_page(path.with_suffix(".md"), rendered("side_by_side.md", **context))
    return [path, path.with_suffix(".md")]


def names_of(folders: Sequence[Path]) -> list[str]:
    """Names of the columns: the folders', with as many above them as it takes to differ."""
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{names[i]} ({i + 1})" for i in range(len(names))]  # the same folder twice


def alike(runs: dict[str, RunRecord]) -> bool:
    """Whether all are of one network and data."""
    return len({(r.settings.get("model"), r.settings.get("data")) for r in runs.values()}) == 1


def lines(runs: dict[str, RunRecord]) -> list[Line]:
    """The table."""
    told: dict[str, Callable[[RunRecord], str]] = {
        "network and data": lambda run: run.name,
        "strategy": lead,
        "MACs": partial(_cost, key="macs", words=large),
        "parameters": partial(_cost, key="params", words=large),
        "file": partial(_cost, key="file_bytes", words=size),
        "latency": _latency,
        "score before": partial(_score, stage="original"),
        "score after the cut": partial(_score, stage="pruned"),
        "score after training": partial(_score, stage="recovered"),
        "change": _change,
        "best reward": lambda run: number(run.best.reward) if run.episodes else NOTHING,
        "seed": lambda run: str(run.settings.get("seed", NOTHING)),
        "time": _time,
    }
    found = [(name, [words(run) for run in runs.values()]) for name, words in told.items()]
    return [(name, values) for name, values in found if set(values) != {NOTHING}]


def differing(runs: dict[str, RunRecord]) -> list[Line]:
    """Settings that are not the same in all runs."""
    each = [{one.name: one.value for one in settings_of_run(run)} for run in runs.values()]
    names = dict.fromkeys(name for some in each for name in some)
    found = [(name, [some.get(name, NOTHING) for some in each]) for name in names]
    return [(name, values) for name, values in found if len(set(values)) > 1]


def groups(runs: dict[str, RunRecord]) -> list[tuple[str, list[tuple[str, float]]]]:
    """What every group keeps in each run, in words and as a part; empty for other networks."""
    sizes = [run.sizes for run in runs.values()]
    if not sizes[0] or any(one != sizes[0] for one in sizes):
        return []
    kept = []
    for run in runs.values():
        layers = run.report["layers"]
        kept.append({one["group"]: one["out_channels"]["pruned"] for one in reversed(layers)})
    return [
        (name, [(f"{some[name]} of {size}", some[name] / size) for some in kept])
        for name, size in sizes[0].items()
    ]


def compared(runs: dict[str, RunRecord]) -> Iterator[Chart]:
    """Charts of what several runs have."""
    searched = {name: run for name, run in runs.items() if len(run.episodes) > 1}
    if searched and len(searched) == len(runs):
        best = "; ".join(f"{name} {number(run.best.reward)}" for name, run in searched.items())
        alt = f"The best reward so far by episode; in the end: {best}."
        draw = partial(charts.best_so_far, searched)
        yield drawn("best", "Best reward so far", draw, alt)
    tuned = {
        name: run for name, run in runs.items() if any(len(t["scores"]) > 1 for t in run.trainings)
    }
    scores = {run.score for run in tuned.values()}
    if tuned and len(tuned) == len(runs) and len(scores) == 1:
        (score,) = scores
        alt = f"Validation {score[0]} by epoch of {len(tuned)} runs."
        draw = partial(charts.trained, tuned, score)
        yield drawn("trained", f"Validation {score[0]} by epoch", draw, alt)


def _cost(run: RunRecord, key: str, words: Callable[[float], str]) -> str:
    one = run.report.get(key)
    return f"{words(one['pruned'])} ({percent(one['ratio'])})" if one else NOTHING


def _latency(run: RunRecord) -> str:
    for timing in measured(run.report)[-1:]:
        return f"{as_fast(timing['ratio'])}, {where(timing)}"
    return NOTHING


def _score(run: RunRecord, stage: str) -> str:
    found = run.report.get("accuracy") or {}
    return shown(run, found[stage]) if stage in found else NOTHING


def _change(run: RunRecord) -> str:
    found = run.report.get("accuracy")
    return difference(run, found["recovered"] - found["original"]) if found else NOTHING


def _time(run: RunRecord) -> str:
    total = (run.report.get("seconds") or {}).get("total")
    return NOTHING if total is None else duration(total)
