"""Which layers may be cut, and how far: what the user says beyond what the network allows."""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

from torch import nn

from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import ChannelGroup, Layer
from amc.graph.restrictions import Restrictions
from amc.runtime.errors import AmcError
from amc.runtime.names import TARGETS
from amc.runtime.user_code import load_function, user_code

REGEX = "{re}"
"""Before a pattern that is a regular expression; as NNCF has it."""


def restrict(graph: ChannelGraph, model: nn.Module, choice: Restrictions) -> ChannelGraph:
    """The graph with the user's restrictions: more groups frozen, bounds on the others.

    A group whose layers are coupled is cut only if all of them may be.

    Examples:
        >>> import amc, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> graph = amc.trace(model, (torch.zeros(1, 3, 8, 8),))
        >>> chosen = amc.restrict(graph, model, amc.Restrictions(exclude=("0",)))
        >>> chosen.sizes, chosen.groups[1].reason
        ({}, 'excluded (0)')

    Args:
        graph: of the model.
        model: for the classes of its layers.
        choice: the restrictions.

    Raises:
        AmcError: a pattern that matches no layer, or bounds that contradict each other.
    """
    types = {layer.name: _types(model, layer) for layer in graph.layers}
    for pattern in (*choice.include, *choice.exclude, *choice.min_channels, *choice.max_channels):
        _check_pattern(pattern, types)
    written = _layers_by_group(graph)
    first = _readers_of_input(graph)
    reasons = {}
    for group in graph.decisions:
        reason = _reason(group, written[group.name], choice, types, first)
        if reason:
            reasons[group.name] = reason
    frozen = graph.freeze(reasons)
    groups = tuple(
        _bounded(g, written[g.name], graph, choice, types) if g.prunable else g
        for g in frozen.groups
    )
    restricted = _of_target(replace(frozen, groups=groups), choice)
    if not (function := choice.function):
        return restricted
    return users_target(function, load_function(function), restricted)


UNITS = {"channels": "channels", "heads": "attention heads"}


def _of_target(graph: ChannelGraph, choice: Restrictions) -> ChannelGraph:
    """The graph in which units that the target does not name stay.

    Raises:
        AmcError: the target names heads alone, and none can go.
    """
    targets, reasons = choice.targets, {}
    for group in graph.decisions:
        if (unit := f"{group.unit}s") not in targets:
            wanted = ",".join(word for word in TARGETS if word in (*targets, unit))
            reasons[group.name] = f"{UNITS[unit]} (--target {wanted} cuts them)"
    found = graph.freeze(reasons)
    if targets == ("heads",) and not found.decisions:
        stay = [f"{g.name}: {g.reason}" for g in graph.groups if g.unit == "head"]
        raise AmcError(
            f"--target {choice.target}: no attention heads can go"
            + (f": {stay[0]}" if stay else "; python -m amc.inspect lists what can")
        )
    return found


Target = Callable[[ChannelGraph], ChannelGraph]
"""What can go: narrows a graph, whose groups are the units that go together."""


def users_target(name: str, target: Target, graph: ChannelGraph) -> ChannelGraph:
    """The graph that a function of the user's own makes of one: more groups stay, or more of them.

    Raises:
        AmcError: it fails, or it returns something else, or a graph in which more may go.
    """
    with user_code(f"--target {name}:"):
        found = target(graph)
    if not isinstance(found, ChannelGraph):
        raise AmcError(f"--target {name}: must return a graph, got {type(found).__name__}")
    before, now = graph.groups, found.groups
    if [g.name for g in before] != [g.name for g in now] or found.layers != graph.layers:
        raise AmcError(f"--target {name}: the graph that it returns has other groups or layers")
    for old, new in zip(before, now, strict=True):
        (least, most), (fewest, largest) = old.bounds, new.bounds
        wider = new.prunable and (not old.prunable or fewest < least or largest > most)
        if wider or not fewest <= largest:
            raise AmcError(
                f"--target {name}: {new.name} may keep {fewest} to {largest} channels, the "
                f"network allows {least} to {most}" + (f": {old.reason}" if old.reason else "")
            )
    return found


def named_layers(
    graph: ChannelGraph, model: nn.Module, choice: Restrictions
) -> tuple[list[Layer], dict[str, str]]:
    """The layers that `include` and `exclude` leave, and why the others are left out, by name.

    Raises:
        AmcError: a pattern that matches no layer.
    """
    types = {layer.name: _types(model, layer) for layer in graph.layers}
    for pattern in (*choice.include, *choice.exclude):
        _check_pattern(pattern, types)
    found, others = list[Layer](), dict[str, str]()
    for layer in graph.layers:
        if any(matches(p, layer.name, types[layer.name]) for p in choice.exclude):
            others[layer.name] = "excluded"
        elif choice.include and not any(
            matches(p, layer.name, types[layer.name]) for p in choice.include
        ):
            others[layer.name] = "not included"
        else:
            found.append(layer)
    return found, others


def matches(pattern: str, name: str, types: frozenset[str]) -> bool:
    """Whether a layer of this name and these types is meant.

    Raises:
        AmcError: what stands behind ``{re}`` is no regular expression.
    """
    if not pattern.startswith(REGEX):
        return pattern in types or fnmatchcase(name, pattern)
    try:
        wanted = re.compile(pattern.removeprefix(REGEX))
    except re.error as error:
        raise AmcError(f"{pattern!r}: no regular expression: {error}") from None
    scopes = (word for word in types if "/" in word)
    return any(wanted.search(word) for word in (name, *scopes))


def _reason(
    group: ChannelGroup,
    layers: list[Layer],
    choice: Restrictions,
    types: Mapping[str, frozenset[str]],
    first: set[str],
) -> str:
    """Why the user does not want this group cut; empty if it may be."""
    for layer in layers:

        def meant(patterns: tuple[str, ...], layer: Layer = layer) -> bool:
            return any(matches(p, layer.name, types[layer.name]) for p in patterns)

        if meant(choice.exclude):
            return f"excluded ({layer.name})"
        if choice.include and not meant(choice.include):
            return f"not included ({layer.name})"
        if not choice.prune_first_conv and layer.name in first:
            return f"first layer ({layer.name})"
        if not choice.prune_downsample and layer.stride > 1:
            return f"has a stride ({layer.name})"
    if group.residual and not choice.prune_residual:
        return "residual stream"
    return ""


def _bounded(
    group: ChannelGroup,
    layers: list[Layer],
    graph: ChannelGraph,
    choice: Restrictions,
    types: Mapping[str, frozenset[str]],
) -> ChannelGroup:
    least, most = group.bounds
    for layer in layers:
        per_unit = next(
            m.index.shape[1]
            for m in group.members
            if (m.tensor, m.dim) == (layer.weight, layer.out_dim)
        ) * (layer.groups if "transpose" in layer.kind else 1)  # whose weight holds one group
        for pattern, channels in choice.min_channels.items():
            if matches(pattern, layer.name, types[layer.name]):
                _check_bound("--min-channels", layer, channels)
                least = max(least, math.ceil(channels / per_unit))
        for pattern, channels in choice.max_channels.items():
            if matches(pattern, layer.name, types[layer.name]):
                _check_bound("--max-channels", layer, channels)
                most = min(most, max(1, channels // per_unit))
    if least > most:
        names = ", ".join(layer.name for layer in layers)
        raise AmcError(
            f"{names}: --min-channels asks for {least * group.width} or more, --max-channels "
            f"for {most * group.width} or fewer"
        )
    return replace(group, least=min(least, group.size), most=most)


def _check_bound(flag: str, layer: Layer, channels: int) -> None:
    if not 1 <= channels <= layer.out_channels:
        raise AmcError(
            f"{flag} {layer.name}: expected 1 to {layer.out_channels} channels, got {channels}"
        )


def _types(model: nn.Module, layer: Layer) -> frozenset[str]:
    """The kind of a layer, its class, and its scope, in which alone there is a slash."""
    try:
        module = model.get_submodule(layer.name)
    except AttributeError:  # a functional layer, named after its parameter
        return frozenset({layer.kind})
    return frozenset({layer.kind, type(module).__name__, _scope(model, layer.name)})


def _scope(model: nn.Module, name: str) -> str:
    """The modules on the way to a layer: ``ResNet/Sequential[layer1]/NNCFConv2d[conv1]/conv2d_0``.

    NNCF names layers so: its own class of the layer, and the operator's call.
    """
    words, module = [type(model).__name__], model
    for part in name.split("."):
        module = module.get_submodule(part)
        words.append(f"{type(module).__name__}[{part}]")
    kind = type(module).__name__
    return "/".join([*words[:-1], f"NNCF{words[-1]}", f"{kind.lower()}_0"])


def _check_pattern(pattern: str, types: Mapping[str, frozenset[str]]) -> None:
    if any(matches(pattern, name, kinds) for name, kinds in types.items()):
        return
    kinds = sorted(word for word in set[str]().union(*types.values()) if "/" not in word)
    near = difflib.get_close_matches(pattern, [*types, *kinds], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise AmcError(
        f"{pattern!r} matches no layer{hint} Types here: {', '.join(kinds)}; "
        "python -m amc.inspect lists the layers"
    )


def _layers_by_group(graph: ChannelGraph) -> dict[str, list[Layer]]:
    """Group name -> the layers whose outputs it holds, depthwise ones included."""
    found = {}
    for group in graph.groups:
        places = {(m.tensor, m.dim) for m in group.members}
        found[group.name] = [x for x in graph.layers if (x.weight, x.out_dim) in places]
    return found


def _readers_of_input(graph: ChannelGraph) -> set[str]:
    """The layers that read the network's input; the first one if none is seen to."""
    found = {r for g in graph.groups if g.reason == "network input" for r in g.readers}
    return found or {layer.name for layer in graph.layers[:1]}
