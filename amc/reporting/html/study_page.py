"""The pages of a sweep (`amc.pareto`) and of a comparison of methods (`amc.compare`)."""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from amc.reporting.comparison import Attempt, percent, progress, spread
from amc.reporting.html.facts import large
from amc.reporting.html.record import CONTEST, SWEEP
from amc.reporting.html.render import MARKDOWN, PAGE, drawn, rendered, write_page
from amc.reporting.html.verdicts import Verdict
from amc.reporting.pareto_front import Point, front
from amc.runtime.files import read_json


def write_study(folder: Path) -> list[Path]:
    """Writes page and Markdown of a sweep or a comparison.

    Raises:
        AmcError: its account is damaged, or a file cannot be written.
    """
    name, told = (SWEEP, _sweep) if (folder / SWEEP).is_file() else (CONTEST, _contest)
    account = read_json(folder / name)
    settings = account.get("settings") or {}
    context = {
        "title": f"{settings.get('model', 'Networks')} on {settings.get('data', 'data')}",
        "source": name,
        "settings": [(k, str(v)) for k, v in settings.items() if v not in (None, [], {})],
        **told(account, settings),
    }
    write_page(folder / PAGE, rendered("study.html", **context))
    write_page(folder / MARKDOWN, rendered("study.md", **{**context, "chart": None}))
    return [folder / PAGE, folder / MARKDOWN]


def _score_of(account: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[str, bool]:
    classifies = settings.get("task", "classification") == "classification"
    known = account.get("score") or {}
    return known.get("name", "accuracy" if classifies else "score"), bool(
        known.get("percent", classifies)
    )


def _sweep(account: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    fields = Point.__dataclass_fields__
    points = [Point(**{k: one[k] for k in fields}) for one in account["points"]]
    original = Point(**{k: account["original"][k] for k in fields})
    name, per_cent = _score_of(account, settings)
    scale = 100.0 if per_cent else 1.0
    y = f"{name}, %" if per_cent else name
    ordered = sorted(points, key=lambda one: -one.macs)
    best = [one for one in ordered if one.on_front(points)]
    seen = account.get("held_out", "images that no search has seen")
    alt = f"{y} against MACs, parameters and latency of {len(points)} networks: " + "; ".join(
        f"{one.macs / original.macs:.0%} of the MACs {scale * one.accuracy:.2f}" for one in ordered
    )
    rows = [
        [
            "original" if one is original else f"{one.target:g}",
            f"{large(one.macs)} ({one.macs / original.macs:.1%})",
            f"{large(one.params)} ({one.params / original.params:.1%})",
            f"{one.latency:.0%}",
            f"{scale * one.accuracy:.2f}",
            f"{scale * one.test:.2f}",
            "yes" if one is not original and one in best else "",
        ]
        for one in (original, *ordered)
    ]
    return {
        "lead": f"{len(points)} networks of one policy; scores on {seen}.",
        "verdicts": list(_found(account, original, points, scale)),
        "chart": drawn(
            "front",
            f"{name.capitalize()} against size",
            lambda width: front(points, original, y, scale, stacked=width < 500),
            alt,
            "Full dots: no other network is as good with fewer MACs. Dashed: the original.",
        ),
        "headers": ["Target", "MACs", "Parameters", "Latency", y, "test", "On the front"],
        "rows": rows,
    }


def _found(
    account: Mapping[str, Any], original: Point, points: list[Point], scale: float
) -> list[Verdict]:
    if not (asked := account.get("max_drop")):
        return []
    most, chosen = asked["points"], asked["chosen"]
    if chosen is None:
        return [Verdict("bad", f"Every network loses more than {most:g} points.")]
    one = next(p for p in points if p.target == chosen)
    lost = scale * (original.accuracy - one.accuracy)
    return [
        Verdict(
            "good",
            f"The smallest network that loses no more than {most:g} points has "
            f"{one.macs / original.macs:.1%} of the MACs and loses {lost:.2f}.",
        )
    ]


def _contest(account: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    standings: dict[str, list[Attempt]] = {}
    for one in account["attempts"]:
        seconds = account["seconds"][f"{one['method']}-{one['seed']}"]
        known = {k: v for k, v in one.items() if k in Attempt.__dataclass_fields__}
        attempt = Attempt(**{**known, "rewards": tuple(one["rewards"]), "seconds": seconds})
        standings.setdefault(attempt.method, []).append(attempt)
    name, per_cent = _score_of(account, settings)
    whole = account["original"]["macs"]
    words = percent if per_cent else spread
    applied = all(a.cut for some in standings.values() for a in some)
    headers = ["Method", "Seeds", "Best reward", f"{name}, validation"]
    headers += [f"{name}, test after the cut"] * applied + ["MACs", "Seconds"]
    rows = [
        [
            method,
            str(len(some)),
            spread([a.best for a in some]),
            words([a.accuracy for a in some]),
            *([words([a.cut["test"] for a in some])] if applied else []),
            f"{mean(a.macs for a in some) / whole:.1%}",
            f"{mean(a.seconds for a in some):.1f}",
        ]
        for method, some in standings.items()
    ]
    alt = "Best reward so far by number of evaluations; in the end: " + "; ".join(
        f"{method} {spread([a.best for a in some])}" for method, some in standings.items()
    )
    sizes = {True: (10.0, 4.6), False: (4.9, 5.4)}
    return {
        "lead": f"{len(standings)} ways to find a strategy, equally many evaluations each.",
        "verdicts": [Verdict("note", says) for says in account.get("verdicts", ())],
        "chart": drawn(
            "progress",
            "Best reward so far",
            lambda width: progress(standings, size=sizes[width > 500]),
            alt,
            "Lines are means over the seeds, bands their range; dashed: one evaluation.",
        ),
        "headers": headers,
        "rows": rows,
    }
