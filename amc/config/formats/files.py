"""A configuration file: its kind recognised by its content, read, or written."""

import json
import math
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from amc.config.composed import names_in, words
from amc.config.formats import amct, nncf, own, pocketflow
from amc.config.formats.amct_messages import OF_SEARCH
from amc.config.formats.nncf_sparsity import settled
from amc.config.formats.source import Reading, Source
from amc.config.sections.sparsity import USERS as OF_SCHEDULES
from amc.config.train import TrainConfig
from amc.runtime.errors import AmcError
from amc.runtime.files import parsed_json, write_atomically
from amc.runtime.limits import flag
from amc.runtime.wording import suggestion

WRITERS: dict[str, Callable[[TrainConfig], str]] = {
    "nncf": nncf.write,
    "amct": amct.write,
    "pocketflow": pocketflow.write,
    "amc": own.write,
}

DECIDING = (
    "preserve_ratio", "limits", "allocator", "metric", "restrictions", "counts", "allocation",
    "stages", "sparsity",
)  # fmt: skip
"""Settings and sections that say what is cut, and when; all others may be given beside a file."""

OVERRULES = {
    "mode": ("mode", "channel_ratio", "strategy", "plan", "policy"),
    "allocator": ("mode", "channel_ratio", "strategy", "plan"),
    "preserve_ratio": ("channel_ratio",),
    "max_drop": ("channel_ratio",),
    "objective": ("channel_ratio",),
    "schedule": ("schedule_steps", "schedule_init", "schedule_delay"),
    "no_bn_adapt": ("bn_samples",),
    "sparsity_schedule": tuple(OF_SCHEDULES),
    "metric": ("sparsity_rate",),
}
"""Flags -> settings of a file that mean nothing beside them."""

NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
NUMBERS = re.compile(rf"[\s,]*{NUMBER}([\s,]+{NUMBER})*[\s,]*")


def read(path: Path) -> Reading:
    """What a file says, of whatever kind it is.

    Raises:
        AmcError: it cannot be read, is of no known kind, or something in it is wrong.
    """
    return _reading(Source.of(path))


def _reading(source: Source) -> Reading:
    text, plain = source.text.strip(), without_comments(source.text)
    if plain.lstrip().startswith("{"):
        return _json(Source(source.path, plain))
    if NUMBERS.fullmatch(text):
        return pocketflow.read_list(source)
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if lines and all(line.startswith("-") for line in lines):
        return pocketflow.read(source)
    if OF_SEARCH.search(text):
        return amct.read_search(source)
    if lines and re.match(r"\w+\s*[:{]", lines[0]):
        return amct.read_prune(source)
    raise AmcError(
        f"{source.path}: no configuration: expected JSON (NNCF's, or ours), text protobuf "
        "(AMCT's), ratios or --options (PocketFlow's)"
    )


def settings_in(path: Path, given: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """The settings of a file, without those that mean nothing beside flags.

    Args:
        path: of the file, see `read`.
        given: settings that flags are of, and what the flags say.

    Raises:
        AmcError: as `read`; or what is left is out of range, or does not go together.
    """
    source = Source.of(path)
    found = _reading(source)
    rules = {**OVERRULES, **found.overrules}
    gone = {setting for name in given for setting in rules.get(name, ())}
    if given.get("allocator") == found.settings.get("mode", "auto"):
        gone -= {*OVERRULES["allocator"]}
    if "=" in given.get("objective", ""):
        gone.add("preserve_ratio")
    settings = {name: value for name, value in found.settings.items() if name not in gone}
    try:
        TrainConfig.of(**settings)
    except AmcError as error:
        word = re.search(r"--([a-z][a-z-]*)", str(error))
        where = source.place(word[1].replace("-", "_")) if word else str(path)
        raise AmcError(f"{where}: {error}") from None
    return settings


def without_comments(text: str) -> str:
    """JSON without comments and without commas before a closing bracket; lines stay as they are.

    NNCF reads its files so: comments are ``//``, ``/* */`` and ``#``.
    """
    for gone in (r"//[^\n]*|#[^\n]*|/\*.*?\*/", r",(?=\s*[}\]])"):
        text = re.sub(
            rf"""("(?:\\.|[^"\\])*")|{gone}""",
            lambda found: found[1] or re.sub(r"[^\n]", " ", found[0]),
            text,
            flags=re.DOTALL,
        )
    return text


def _json(source: Source) -> Reading:
    try:
        content = parsed_json(source.text.encode())
    except ValueError as error:
        where, twice = str(source.path), re.match(r"'(.*)' is given twice", str(error))
        if isinstance(error, json.JSONDecodeError):
            where = f"{where}:{error.lineno}"
        elif twice:
            where = source.place(json.dumps(twice[1]), last=True)
        raise AmcError(f"{where}: not a JSON file ({error})") from None
    if {"compression", "input_info", "algorithm"} & set(content):
        return nncf.read(source, content)
    return own.read(source, content)


def write(target: str, config: TrainConfig) -> list[str]:
    """Writes settings as ``kind:path`` says; returns lines on what the file does not hold.

    Raises:
        AmcError: there is no such kind, or it cannot say what is cut, and how.
    """
    kind, colon, place = target.partition(":")
    if kind not in WRITERS or not place:
        near = suggestion(kind, WRITERS) if colon else ""
        allowed = ", ".join(f"{name}:FILE" for name in WRITERS)
        raise AmcError(f"--write-config {target}: expected one of {allowed}{near}")
    path, text = Path(place), WRITERS[kind](config)
    lost = _lost(config, Source(path, text))
    said = {name: words(name, value) for name, value in lost.items()}
    deciding = names_in(config, *DECIDING)
    for name in said:
        if name in deciding:
            given = " ".join(said[name]) or f"{flag(name)} not given"
            raise AmcError(f"--write-config {target}: {given}: cannot be said there")
    write_atomically(path, text)
    beside = [word for name in said for word in said[name]]
    return [f"{path} does not hold: {shlex.join(beside)}"] if beside else []


def _lost(config: TrainConfig, source: Source) -> dict[str, Any]:
    """The settings that are others once what was written is read."""
    config = settled(config)
    again = settled(TrainConfig.of(**_reading(source).settings)).flat
    if config.allocation.mode == "list":
        again["strategy"] = config.allocation.strategy  # whose content the file holds, or names
    return {
        name: value
        for name, value in config.flat.items()
        if name not in own.OF_ONE_RUN and not _same(value, again[name])
    }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-11)
    return bool(one == other)
