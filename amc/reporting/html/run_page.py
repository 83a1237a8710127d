"""The page of one run, and the same for a pull request."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from amc.graph.channel_graph import ChannelGraph
from amc.reporting.group_chart import draw
from amc.reporting.html import charts
from amc.reporting.html.facts import MINUS, cards, files, large, percent, shown
from amc.reporting.html.record import GROUPS, RunRecord, record_of
from amc.reporting.html.render import MARKDOWN, PAGE, Chart, drawn, rendered, write_page
from amc.reporting.html.settings import command, machine, settings_of_run
from amc.reporting.html.themed import themed
from amc.reporting.html.verdicts import number, verdicts
from amc.reporting.html.zeros import level_chart, only_zeros, zero_cards, zero_lead, zero_rows

FEW = 60
"""Layers that are shown without a frame of their own to scroll in."""


@dataclass(frozen=True)
class Row:
    """A layer, and its MACs as parts of the largest layer's."""

    name: str
    kind: str
    group: str
    inputs: str
    outputs: str
    macs: str
    kept: float
    before: float
    after: float


def write_run(folder: Path, graph: ChannelGraph | None = None) -> list[Path]:
    """Writes page and Markdown of a run from what its folder holds.

    Args:
        folder: of the run.
        graph: of the network, for the picture of its groups; an earlier one stays.

    Raises:
        AmcError: there is no run, or a file is damaged or cannot be written.
    """
    if graph is not None:
        draw(graph, folder / GROUPS)
    run = record_of(folder)
    write_page(folder / PAGE, page(run))
    write_page(folder / MARKDOWN, markdown(run))
    return [folder / PAGE, folder / MARKDOWN]


def page(run: RunRecord) -> str:
    """The page."""
    drawings = {
        "search": list(search(run)),
        "training": training(run),
        "levels": level_chart(run),
        "picture": None if only_zeros(run) else picture(run),
    }
    return rendered("run.html", **drawings, **_context(run))


def markdown(run: RunRecord) -> str:
    """GitHub's Markdown."""
    return rendered("run.md", **_context(run))


def _context(run: RunRecord) -> dict[str, Any]:
    settings = settings_of_run(run)
    return {
        "title": run.name,
        "run": run,
        "lead": lead(run),
        "cards": [*cards(run), *zero_cards(run)],
        "verdicts": verdicts(run),
        "rows": [] if only_zeros(run) else rows(run),
        "zeros": zero_rows(run),
        "grown": len((run.report.get("sparsity") or {}).get("epochs") or ()) > 1,
        "few": FEW,
        "frozen": run.report.get("frozen") or {},
        "finals": finals(run),
        "attempts": attempts(run),
        "exports": files(run),
        "command": command(run),
        "machine": machine(run),
        "unusual": [one for one in settings if not one.usual],
        "settings": settings,
    }


def lead(run: RunRecord) -> str:
    """How the strategy came about, in half a line."""
    if only_zeros(run):
        return zero_lead(run)
    mode, settings = run.report.get("mode", run.settings.get("mode", "auto")), run.settings
    ways = {
        "uniform": "One ratio for all groups",
        "list": "A strategy that was given",
        "plan": "A plan that was given",
        "policy": "The strategy of a policy that an earlier run has learned",
    }
    allocator = str(settings.get("allocator", settings.get("agent", "ddpg")))
    count = len(run.episodes)
    tried = f"{allocator.upper() if run.agent else allocator}, {count} strategies tried"
    told = ways.get(mode, tried if count else allocator)
    limits = (run.report.get("objective") or {}).values()
    asked = ", ".join(
        f"{percent(one['target'])} of the {one.get('unit', 'MACs')}" for one in limits
    )
    if (most := settings.get("max_drop")) is not None:
        asked = f"as small as it can within {most:g} points"
    if run.report.get("sparsity"):
        told = f"{told}, and then: {zero_lead(run)[0].lower()}{zero_lead(run)[1:-1]}"
    return f"{told}. Target: {asked}." if asked else f"{told}."


def rows(run: RunRecord) -> list[Row]:
    """The layers, in the order in which they work."""
    layers = run.report.get("layers") or ()
    most = max((one["macs"]["original"] for one in layers), default=1) or 1
    return [
        Row(
            one["name"],
            one["kind"],
            one["group"],
            _arrow(one["in_channels"]),
            _arrow(one["out_channels"]) + _heads(one),
            f"{large(one['macs']['original'])} → {large(one['macs']['pruned'])}",
            one["macs"]["ratio"],
            one["macs"]["original"] / most,
            one["macs"]["pruned"] / most,
        )
        for one in layers
    ]


def _heads(layer: Mapping[str, Any]) -> str:
    """How many heads the outputs of a layer are, where these go whole."""
    heads = layer.get("heads")
    return f" ({_arrow(heads)} heads)" if heads else ""


def search(run: RunRecord) -> Iterator[Chart]:
    """Charts of the search, if there was one."""
    if len(run.episodes) < 2:
        return
    low = charts.bottom_of([one.reward for one in run.episodes])
    below = sum(one.reward < low for one in run.episodes)
    told = f"{below} of {len(run.episodes)} rewards lie below the chart (▾). " if below else ""
    best, policy = run.best, run.without_noise
    alt = (
        f"Rewards of {len(run.episodes)} episodes. The best, {number(best.reward)}, is episode "
        f"{best.number}; the first has {number(run.episodes[0].reward)}."
    )
    if policy is not None:
        reward = number(run.episodes[policy].reward)
        alt += f" The policy without noise, in episode {policy}, has {reward}."
    yield drawn("rewards", "Reward by episode", partial(charts.rewards, run), alt, told)
    names, _ = charts.ratios(run)
    if names:
        alt = (
            f"Heat map: the part of the channels that each of {len(names)} groups keeps in each "
            f"of {len(run.episodes)} episodes. The table of layers has what was cut in the end."
        )
        title = "Channels kept by every group, episode by episode"
        yield drawn("strategies", title, partial(charts.strategies, run), alt)


def training(run: RunRecord) -> Chart | None:
    """Scores of the epochs."""
    found = [one for one in run.trainings if len(one["scores"]) > 1]
    if not found:
        return None
    scores = [s for s in found[-1]["scores"] if s is not None] or [0.0]
    epochs = sum(len(one["scores"]) - 1 for one in found)
    alt = (
        f"Validation {run.score[0]} in {len(found)} training{'s' if len(found) > 1 else ''} of "
        f"{epochs} epochs in all: the last begins at {shown(run, scores[0])}, its best is "
        f"{shown(run, max(scores))}."
    )
    title = f"Validation {run.score[0]} by epoch"
    return drawn("training", title, partial(charts.recovery, found, run.score), alt)


def picture(run: RunRecord) -> Markup | None:
    """The channel groups, as the run has drawn them."""
    if not run.groups:
        return None
    alt = "Layers as rows, channel groups as lanes beside the layers that write and read them."
    return Markup(themed(run.groups, "groups", alt, natural=True))


@dataclass(frozen=True)
class Finalist:
    """A finalist: its scores by round, and what it has more than the first one."""

    name: str
    scores: tuple[str, ...]
    more: str
    won: bool


def finals(run: RunRecord) -> tuple[list[str], list[Finalist]]:
    """Epochs by round, and the finalists, those that came farthest first."""
    rounds = run.report.get("finals") or ()
    if not rounds:
        return [], []
    winner, found = rounds[-1]["goes_on"][0], dict[str, list[str]]()
    more: dict[str, str] = {}
    for place in range(len(rounds) - 1, -1, -1):
        for one in rounds[place]["finalists"]:
            scores = found.setdefault(one["name"], [""] * len(rounds))
            scores[place] = shown(run, one["score"])
            more.setdefault(one["name"], _more(one))
    epochs = [f"{one['before'] + one['epochs']}" for one in rounds]
    return epochs, [
        Finalist(name, tuple(scores), more[name], name == winner) for name, scores in found.items()
    ]


def _more(one: Mapping[str, Any]) -> str:
    if one["first"]:
        return ""
    return f"{round(one['difference'], 2) + 0.0:+.2f} ± {one['error']:.2f}".replace("-", MINUS)


def attempts(run: RunRecord) -> list[tuple[str, str, str]]:
    """Networks that --max-drop tried: part of the cost, loss in points, and its standard error."""
    return [
        (
            percent(float(one["ratio"])),
            f"{one['drop']['points']:.2f}",
            f"{one['drop']['error']:.2f}",
        )
        for one in run.attempts
    ]


def _arrow(change: Mapping[str, int]) -> str:
    before, after = change["original"], change["pruned"]
    return f"{before}" if before == after else f"{before} → {after}"
