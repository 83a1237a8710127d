"""Files of plans and strategies, checked before anything is done with them."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Cut, GroupKeep, Plan, Strategy
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json, write_atomically

PLAN_FORMAT = "amc-plan/2"


KNOWN_PLANS = ("amc-plan/1", PLAN_FORMAT)
"""The checksum of the first covers groups and cuts only."""


STRATEGY_FORMAT = "amc-strategy/1"


def save_plan(path: Path | str, plan: Plan, about: Mapping[str, Any] | None = None) -> None:
    """Writes the plan as JSON, atomically; ``about`` is kept with it for the reader."""
    document = {
        "format": PLAN_FORMAT,
        "about": dict(about or {}),
        "groups": {name: asdict(group) for name, group in plan.groups.items()},
        "cuts": [asdict(cut) for cut in plan.cuts],
    }
    text = json.dumps({**document, "sha256": digest(document)}, indent=1)
    text = re.sub(r"(?<=[\d\[,])\s+(?=[\d\]])", "", text)  # one line per list of indices
    write_atomically(Path(path), text + "\n")


def load_plan(path: Path | str) -> Plan:
    """Reads a plan.

    Raises:
        AmcError: the file is missing, is not a plan, or was changed.
    """
    path = Path(path)
    document = read_json(path)
    found = document.get("format") if isinstance(document, dict) else None
    if found not in KNOWN_PLANS:
        raise AmcError(
            f"{path}: expected a file of format {' or '.join(KNOWN_PLANS)}, got {found!r}"
        )
    if document.get("sha256") != digest(document):
        raise AmcError(f"{path}: content and checksum differ; the file was changed or cut short")
    try:
        groups = {
            name: GroupKeep(_whole(g["size"]), _indices(g["keep"]))
            for name, g in document["groups"].items()
        }
        cuts = tuple(
            Cut(_text(c["tensor"]), _whole(c["dim"]), _whole(c["size"]), _indices(c["keep"]))
            for c in document["cuts"]
        )
        if not isinstance(document.get("about", {}), dict):
            raise TypeError("about is no object")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AmcError(f"{path}: not a valid plan ({error!r})") from None
    for name, group in groups.items():
        _check_kept(f"{path}: {name}", group.keep, group.size)
    for cut in cuts:
        _check_kept(f"{path}: {cut.tensor}, dimension {cut.dim}", cut.keep, cut.size)
    if any(cut.dim < 0 for cut in cuts):
        raise AmcError(f"{path}: not a valid plan (a dimension is negative)")
    places = {(cut.tensor, cut.dim) for cut in cuts}
    if len(places) < len(cuts):
        raise AmcError(f"{path}: not a valid plan (a dimension is cut twice)")
    return Plan(groups, cuts)


def _whole(value: Any) -> int:
    if type(value) is not int or abs(value) >= 2**31:
        raise TypeError(f"{value!r} is no size and no index")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no name")
    return value


def _indices(values: Any) -> tuple[int, ...]:
    return tuple(_whole(value) for value in values)


def _check_kept(where: str, keep: tuple[int, ...], size: int) -> None:
    ordered = all(a < b for a, b in pairwise(keep))
    if not (keep and ordered and 0 <= keep[0] and keep[-1] < size):
        raise AmcError(f"{where}: kept indices must increase within 0..{size - 1}")


def save_strategy(
    path: Path,
    strategy: Strategy,
    channels: Mapping[str, tuple[int, int]],
    about: Mapping[str, Any],
) -> None:
    """Writes the kept output channels of every group as JSON, atomically; list mode reads it back.

    Args:
        path: of the file.
        strategy: what is kept.
        channels: per group its size and its channels per unit (`ChannelGraph.channels`).
        about: kept with it for the reader.
    """
    layers = {
        name: {"channels": strategy.get(name, size) * width, "of": size * width}
        for name, (size, width) in channels.items()
    }
    document = {"format": STRATEGY_FORMAT, "about": dict(about), "layers": layers}
    write_atomically(path, json.dumps(document, indent=1) + "\n")


def digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of what the checksum of a plan covers, as JSON of sorted keys."""
    covered = ("groups", "cuts") if document["format"] == KNOWN_PLANS[0] else document
    body = {key: document.get(key) for key in covered if key != "sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def read_plan(path: Path) -> Plan:
    """The plan in a file, or in the folder of a run.

    Raises:
        AmcError: it cannot be used.
    """
    return load_plan(path / "plan.json" if path.is_dir() else path)


def load_fitting(path: Path, graph: ChannelGraph) -> Plan:
    """A plan that was made for another checkpoint of the same network.

    Args:
        path: ``plan.json``, or the folder of its run.
        graph: of the network it is to be applied to.

    Raises:
        AmcError: the file cannot be used, or the network is another one; the message names the
            first layer that differs.
    """
    path = path / "plan.json" if path.is_dir() else path
    plan = load_plan(path)
    for name, group in plan.groups.items():
        if name not in graph.sizes:
            frozen = {g.name: g.reason for g in graph.groups}.get(name)
            why = f"must stay whole here: {frozen}" if frozen else "is not a group of this network"
            raise AmcError(f"{path}: {name} {why}; groups are {', '.join(graph.sizes)}")
        if group.size != graph.sizes[name]:
            raise AmcError(
                f"{path}: {name} has {group.size} channels in the plan, {graph.sizes[name]} in "
                "this network"
            )
    made = graph.plan({name: group.keep for name, group in plan.groups.items()})
    theirs, ours = _by_place(plan), _by_place(made)
    for place in sorted(theirs.keys() | ours.keys()):
        if theirs.get(place) != ours.get(place):
            raise AmcError(
                f"{path}: {place[0]}, dimension {place[1]}: the plan cuts it otherwise than this "
                "network needs; it was made for another network"
            )
    return made


def _by_place(plan: Plan) -> Mapping[tuple[str, int], tuple[int, tuple[int, ...]]]:
    return {(cut.tensor, cut.dim): (cut.size, cut.keep) for cut in plan.cuts}
