"""A strategy that somebody wrote down."""

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import ChannelGroup
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json


def read_strategy(graph: ChannelGraph, path: Path) -> dict[str, int]:
    """Reads kept output channels per layer.

    Two forms: JSON ``{layer: value}`` (a run's ``strategy.json`` as well), where layers that are
    not named keep all; or comma-separated ratios, one per decision or one per layer (depthwise
    layers left out), in execution order. A value is a ratio in (0, 1], or in JSON an integer
    number of channels greater than 1 or ``{"channels": n}``.

    Raises:
        AmcError: missing file, unknown layer, wrong length, impossible value, coupled layers that
            disagree, or a layer that must stay whole.
    """
    if not path.is_file():
        raise AmcError(f"--strategy {path}: no such file")
    values = _json(path) if path.suffix == ".json" else _comma_separated(graph, path)
    groups = {g.name: g for g in graph.groups}
    of_layer = {layer.name: groups[layer.out_group] for layer in graph.layers if layer.out_group}
    known = {**of_layer, **groups}
    strategy: dict[str, int] = {}
    said: dict[str, str] = {}
    for name, value in values.items():
        group = known.get(name)
        if group is None:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; layers are {', '.join(known)}"
            raise AmcError(f"{path}: unknown layer {name!r}{hint}")
        count = _channels(path, name, value, group)
        if not group.prunable:
            if count != group.size:
                raise AmcError(f"{path}: {name} must keep all channels: {group.reason}")
            continue
        least, most = group.bounds
        if not least <= count <= most:
            width = group.width
            raise AmcError(
                f"{path}: {name} must keep {least * width} to {most * width} channels, "
                f"got {count * width}"
            )
        if strategy.setdefault(group.name, count) != count:
            raise AmcError(
                f"{path}: {name} and {said[group.name]} share their channels and must keep the "
                f"same number, got {count} and {strategy[group.name]}"
            )
        said[group.name] = name
    return {**graph.sizes, **strategy}


def _json(path: Path) -> Mapping[str, Any]:
    content = read_json(path)
    if isinstance(content, dict) and "layers" in content:
        content = content["layers"]
    if not isinstance(content, dict):
        raise AmcError(f"{path}: expected {{layer: ratio}}, got {type(content).__name__}")
    return content


def _comma_separated(graph: ChannelGraph, path: Path) -> Mapping[str, Any]:
    try:
        words = path.read_text().replace("\n", ",").split(",")
        values = [float(word) for word in words if word.strip()]
    except (OSError, ValueError) as error:
        raise AmcError(f"{path}: expected comma-separated ratios ({error})") from None
    decisions = [g.name for g in graph.decisions]
    layers = [layer.name for layer in graph.layers if layer.kind != "depthwise"]
    if len(values) == len(decisions):
        return dict(zip(decisions, values, strict=True))
    if len(values) != len(layers):
        raise AmcError(
            f"{path}: {len(values)} ratios given, expected {len(decisions)} (one per group: "
            f"{', '.join(decisions)}) or {len(layers)} (one per layer)"
        )
    whole = {g.name for g in graph.groups if not g.prunable}
    out_group = {layer.name: layer.out_group for layer in graph.layers}
    # as in PocketFlow, entries of layers that cannot be pruned are there but do not count
    pairs = zip(layers, values, strict=True)
    return {name: value for name, value in pairs if out_group[name] not in whole}


def _channels(path: Path, name: str, value: Any, group: ChannelGroup) -> int:
    """What a value means for the group: a ratio, or output channels of its layers."""
    channels = group.size * group.width
    if isinstance(value, dict):
        value = value.get("channels", value.get("ratio"))
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= channels:
            return _whole(path, name, value, group)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or (isinstance(value, float) and not math.isfinite(value)):
        raise AmcError(f"{path}: {name}: expected a ratio or a number of channels, got {value!r}")
    if isinstance(value, int) and 1 < value <= channels:
        return _whole(path, name, value, group)
    if not 0 < value <= 1:
        raise AmcError(
            f"{path}: {name}: expected a ratio in (0, 1] or 2 to {channels} channels, "
            f"got {value!r}"
        )
    return max(1, round(float(value) * group.size))


def _whole(path: Path, name: str, channels: int, group: ChannelGroup) -> int:
    """Channels as a count of the group, whose channels go together by ``width``."""
    count, rest = divmod(channels, group.width)
    if rest:
        nearest = max(1, round(channels / group.width)) * group.width
        raise AmcError(
            f"{path}: {name}: channels go together by {group.width}; {channels} is no multiple, "
            f"the nearest is {nearest}"
        )
    return count
