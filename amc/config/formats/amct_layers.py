"""AMCT's simplified configuration and the layers of a network: what each keeps, and back.

Priority: override_layer_configs, then override_layer_types, then prune_config; skip lists are
united and win. Of n channels n - round(n * prune_ratio) stay; with ``ascend_optimized`` that is
rounded up to a multiple of 16, but never above n. Layers that share channels keep the same number,
which the entry of the highest priority decides. Depthwise layers follow those that they read.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amc.config.formats.amct_messages import PRUNE, new, parsed, text_of
from amc.config.formats.conversions import pruning_level_of_preserve_ratio
from amc.config.formats.source import Source
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import ChannelGroup, Layer
from amc.graph.plan import Strategy
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json

ALIGNED = 16
"""What ``ascend_optimized`` makes kept counts multiples of."""

USUAL = 0.3
"""``prune_ratio`` for layers that are not named, as AMCT's search writes it."""

DIMENSIONS = {3: "Conv1d", 4: "Conv2d", 5: "Conv3d"}


@dataclass(frozen=True)
class _Wish:
    """An entry that a layer falls under; rank 0 is the highest priority."""

    rank: int
    layer: str
    ratio: float
    aligned: bool

    def kept(self, channels: int) -> int:
        """Channels that stay."""
        left = channels - round(channels * self.ratio)
        if self.aligned:
            left = -(-left // ALIGNED) * ALIGNED
        return min(max(left, 1), channels)


def is_prune_config(path: Path) -> bool:
    """Whether a file is such a configuration, and neither JSON nor numbers."""
    return re.match(r"\s*(#.*\s+)*[a-z_]+\s*[:{]", Source.of(path).text) is not None


def strategy_of(graph: ChannelGraph, path: Path) -> dict[str, int]:
    """Pruning by hand: kept channels of every group under a configuration.

    Raises:
        AmcError: the file cannot be used, names what the network does not have, asks for a cut of
            what must stay whole, or for different counts of layers that share channels.
    """
    given, found = _Configuration.of(graph, path), {}
    for group in graph.decisions:
        layers = _names(graph, group)
        whole = given.skips(layers)
        found[group.name] = group.size if whole else _count(group, given.wishes(layers), path)
    return found


def with_overrides(graph: ChannelGraph, path: Path) -> ChannelGraph:
    """The graph for a search that leaves the layers of a configuration as it says.

    Args:
        graph: what can be cut.
        path: a configuration of skip lists and overrides alone.

    Raises:
        AmcError: it holds a default for all layers as well, or see `strategy_of`.
    """
    source = Source.of(path)
    if parsed(source, PRUNE).HasField("prune_config"):
        where = source.place("prune_config")
        raise AmcError(f"{where}: a search takes skip lists and overrides only, no prune_config")
    given = _Configuration.of(graph, path)
    layers = {group.name: _names(graph, group) for group in graph.groups}
    skipped = {g.name: f"skipped ({path})" for g in graph.decisions if given.skips(layers[g.name])}
    frozen, groups = graph.freeze(skipped), []
    for group in frozen.groups:
        wishes = given.wishes(layers[group.name])
        if group.prunable and wishes:
            count = _count(group, wishes, path)
            group = replace(group, least=count, most=count)
        groups.append(group)
    found = replace(frozen, groups=tuple(groups))
    if all(group.bounds[0] == group.bounds[1] for group in found.decisions):
        raise AmcError(f"{path}: nothing is left to search")
    return found


def text_for(graph: ChannelGraph, strategy: Strategy) -> str:
    """The configuration that prunes a network as a strategy does: one override per pruned layer.

    Layers that keep all are in ``regular_prune_skip_layers``.
    """
    groups = {group.name: group for group in graph.groups}
    counts = []
    for layer in graph.layers:
        group = groups.get(layer.out_group)
        if layer.kind != "depthwise" and group is not None:
            kept = strategy.get(group.name, group.size)
            counts.append((layer.name, kept * group.width, group.size * group.width))
    return _text(counts, new(PRUNE, prune_config=_entry(USUAL, True)))


def of_strategy(path: Path) -> str:
    """The configuration of a strategy file, or of such a configuration itself.

    It has no default: layers that a strategy does not name keep all.

    Raises:
        AmcError: the file holds counts without the number they are of.
    """
    source = Source.of(path)
    if not source.text.lstrip().startswith("{"):
        return text_of(parsed(source, PRUNE))
    content = read_json(path)
    layers = content.get("layers", content)
    counts = []
    for name, value in layers.items():
        if isinstance(value, dict) and {"channels", "of"} <= set(value):
            counts.append((name, value["channels"], value["of"]))
        elif isinstance(value, float) and 0 < value <= 1:
            counts.append((name, value, 1))
        else:
            raise AmcError(
                f"{source.place(name)}: {name}: AMCT has ratios of layers, got {value!r:.40}"
            )
    return _text(counts, new(PRUNE))


def _text(counts: Iterable[tuple[str, float, int]], message: Any) -> str:
    ratios = []
    for name, kept, whole in counts:
        if kept == whole:
            message.regular_prune_skip_layers.append(name)
            continue
        ratio = 1 - kept / whole if whole > 1 else pruning_level_of_preserve_ratio(kept)
        ratios.append((name, ratio, whole > 1 and kept % ALIGNED == 0))
    for name, ratio, aligned in ratios:
        message.override_layer_configs.add(layer_name=name, prune_config=_entry(ratio, aligned))
    return text_of(message)


def _entry(ratio: float, aligned: bool) -> Any:
    inner = new("BalancedL2NormFilterPruner", prune_ratio=ratio, ascend_optimized=aligned)
    pruner = new("FilterPruner", balanced_l2_norm_filter_prune=inner)
    return new("PruneConfig", filter_pruner=pruner)


@dataclass(frozen=True)
class _Configuration:
    """What a file says of the layers of a network, all of them known.

    Attributes:
        by_name, by_type, usual: the part that goes, and whether what stays is aligned.
        skipped: names of layers.
        types: of layers by name; of depthwise ones none.
    """

    by_name: Mapping[str, tuple[float, bool]]
    by_type: Mapping[str, tuple[float, bool]]
    usual: tuple[float, bool] | None
    skipped: frozenset[str]
    types: Mapping[str, str]

    @classmethod
    def of(cls, graph: ChannelGraph, path: Path) -> "_Configuration":
        source = Source.of(path)
        message = parsed(source, PRUNE)
        types = {layer.name: _type(graph, layer) for layer in graph.layers}
        kinds = {*types.values()} - {""}
        by_name = _ratios(source, message.override_layer_configs, "layer_name", types, "layer")
        by_type = _ratios(source, message.override_layer_types, "layer_type", kinds, "layer type")
        layers = {*message.skip_layers, *message.regular_prune_skip_layers}
        skips = {*message.skip_layer_types, *message.regular_prune_skip_types}
        for given, known, what in ((layers, types, "layer"), (skips, kinds, "layer type")):
            for name in sorted(given):
                _check(source, name, known, what)
        skipped = frozenset(layers | {name for name, kind in types.items() if kind in skips})
        usual = None
        if message.HasField("prune_config"):
            usual = _ratio(source, message.prune_config, "prune_config")
        reasons = {g.name: g.reason for g in graph.groups if not g.prunable}
        for layer in graph.layers:
            if layer.name in by_name.keys() - skipped and (why := reasons.get(layer.out_group)):
                where = source.place(layer.name)
                raise AmcError(f"{where}: {layer.name} must keep all channels: {why}")
        return cls(by_name, by_type, usual, skipped, types)

    def wishes(self, layers: Iterable[str]) -> list[_Wish]:
        """The entry that each of these layers falls under, where there is one."""
        found = []
        for name in layers:
            kind = self.types[name]
            ranked = (self.by_name.get(name), self.by_type.get(kind), self.usual)
            for rank, entry in enumerate(ranked if kind else ranked[:1]):
                if entry is not None:
                    found.append(_Wish(rank, name, *entry))
                    break
        return found

    def skips(self, layers: Iterable[str]) -> bool:
        """Whether one of these layers stays whole."""
        return not self.skipped.isdisjoint(layers)


def _ratios(
    source: Source, entries: Iterable[Any], field: str, known: Collection[str], what: str
) -> dict[str, tuple[float, bool]]:
    found: dict[str, tuple[float, bool]] = {}
    for entry in entries:
        name = getattr(entry, field)
        _check(source, name, known, what)
        if name in found:
            raise AmcError(f"{source.place(name)}: {field} {name!r} is given twice")
        found[name] = _ratio(source, entry.prune_config, name)
    return found


def _count(group: ChannelGroup, wishes: Collection[_Wish], path: Path) -> int:
    """Units of a group that stay, within its bounds; all of one that no entry is for."""
    if not wishes:
        return group.size
    first = min(wish.rank for wish in wishes)
    deciding = [wish for wish in wishes if wish.rank == first]
    channels = group.size * group.width
    counts = {wish.kept(channels): wish.layer for wish in deciding}
    if len(counts) > 1:
        (one, name), (other, second) = list(counts.items())[:2]
        raise AmcError(
            f"{path}: {name} and {second} share their channels and must keep the same number, "
            f"got {one} and {other}"
        )
    least, most = group.bounds
    return min(max(next(iter(counts)) // group.width, least, 1), most)


def _ratio(source: Source, config: Any, name: str) -> tuple[float, bool]:
    inner = config.filter_pruner.balanced_l2_norm_filter_prune
    if not 0 < inner.prune_ratio < 1:
        raise AmcError(
            f"{source.place(name)}: {name}: prune_ratio (part that goes) must be in (0, 1), got "
            f"{inner.prune_ratio:g}"
        )
    return inner.prune_ratio, inner.ascend_optimized


def _check(source: Source, name: str, known: Collection[str], what: str) -> None:
    if name not in known:
        raise source.unknown(name, known, what)


def _names(graph: ChannelGraph, group: ChannelGroup) -> list[str]:
    """The layers whose outputs a group holds."""
    return [layer.name for layer in graph.layers if layer.out_group == group.name]


def _type(graph: ChannelGraph, layer: Layer) -> str:
    """The class of a layer, as AMCT names types; of a depthwise one none."""
    if layer.kind in ("linear", "depthwise"):
        return "Linear" if layer.kind == "linear" else ""
    kind = DIMENSIONS.get(len(graph.shapes[layer.weight]), layer.kind)
    return kind.replace("Conv", "ConvTranspose") if "transpose" in layer.kind else kind
