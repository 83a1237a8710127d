"""Strategy = how many channels each group keeps; Plan = which ones. Their files.

A plan names every tensor that changes and the slices that stay, so that applying it needs neither
the traced graph nor the data: `amc.shrink(model, plan)` is slicing and nothing else.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from amc.errors import AmcError
from amc.files import write_atomically

PLAN_FORMAT = "amc-plan/2"
KNOWN_PLANS = ("amc-plan/1", PLAN_FORMAT)
"""The checksum of the first covers groups and cuts only."""
STRATEGY_FORMAT = "amc-strategy/1"

Strategy = Mapping[str, int]
"""Kept channels per group name; a group that is not named keeps all of its channels."""


@dataclass(frozen=True)
class Cut:
    """The slices of one tensor that stay, along one dimension."""

    tensor: str  # dotted name of a parameter or buffer, or @ and the name of an attribute
    dim: int
    size: int  # slices before the cut
    keep: tuple[int, ...]  # increasing


@dataclass(frozen=True)
class GroupKeep:
    """The channels of one group that stay."""

    size: int
    keep: tuple[int, ...]  # increasing


@dataclass(frozen=True)
class Plan:
    """Which channels stay: by group, as decided, and by tensor, as cut.

    Attributes:
        groups: group name -> kept channels, for the groups that lose some.
        cuts: every (tensor, dimension) that shrinks.
    """

    groups: Mapping[str, GroupKeep]
    cuts: tuple[Cut, ...]

    @property
    def strategy(self) -> dict[str, int]:
        """Kept channels per group that loses some."""
        return {name: len(group.keep) for name, group in self.groups.items()}


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


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        AmcError: the file is missing, unreadable or not JSON.
    """
    try:
        return parsed_json(path.read_bytes())
    except OSError as error:
        raise AmcError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise AmcError(f"{path}: not a JSON file ({error})") from None


def parsed_json(text: bytes, finite: bool = True) -> Any:
    """The content of a JSON text in which nothing can be meant two ways.

    Args:
        text: in UTF-8.
        finite: whether NaN and Infinity, which are no JSON, are refused.

    Raises:
        ValueError: it is none: also where a key is given twice, where it is nested beyond reason,
            and where it holds a number too large or half a character.
    """

    def number(word: str) -> float:
        value = float(word)
        if finite and not math.isfinite(value):
            raise ValueError(f"{word} is no number")
        return value

    try:
        found = json.loads(
            text.decode("utf-8"),
            parse_constant=number,
            parse_float=number,
            object_pairs_hook=_once,
        )
        if b"\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return found


def digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of what the checksum of a plan covers, as JSON of sorted keys."""
    covered = ("groups", "cuts") if document["format"] == KNOWN_PLANS[0] else document
    body = {key: document.get(key) for key in covered if key != "sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
