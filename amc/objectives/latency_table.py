"""Latency as a function of channel counts: a table per layer, filled on the user's device.

``milliseconds = curve(constant + sum over layers of t(input channels, output channels))``; what is
not a layer is part of the layers that make its inputs, or of the constant. Every t is held on a
grid and read by bilinear interpolation. The curve, which rises, holds what depends on the network
as a whole: weights of a small one stay in the processor's cache. `amc.latency` measures it all.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from amc.graph.arrays import FloatArray, IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import Layer
from amc.objectives.lookup import Lookup
from amc.objectives.options import step
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json, write_json

FORMAT = "amc-latency-table-1"

MULTIPLES = (16, 8, 4, 2)
"""Channel multiples that a runtime may reward, in the order in which they are tried."""

REWARDED = 0.375
"""Part of a step that is wasted between multiples where they are rewarded: between 1/4 and 1/2."""


@dataclass(frozen=True)
class Setup:
    """Where and how times were measured.

    Attributes:
        model: name of the network.
        input_shape: sizes of one sample, as text.
        device: name of the processor.
        runtime: torch or onnxruntime.
        versions: of what decides on the time, by name.
        threads: of the CPU.
        batch: samples in a pass.
    """

    model: str
    input_shape: str
    device: str
    runtime: str
    versions: Mapping[str, str]
    threads: int
    batch: int

    def differences(self, here: "Setup") -> list[str]:
        """What of this is otherwise in another setup, in words: "device A, here B"."""
        theirs, ours = asdict(self), asdict(here)
        theirs |= theirs.pop("versions")
        ours |= ours.pop("versions")
        return [
            f"{name} {theirs.get(name, 'unknown')}, here {ours.get(name, 'unknown')}"
            for name in sorted(theirs.keys() | ours.keys())
            if theirs.get(name) != ours.get(name)
        ]


@dataclass(frozen=True)
class LayerTimes:
    """Times of one layer and of what follows it up to the next.

    Attributes:
        name: of the layer.
        kind: conv2d, linear ...
        geometry: what else decides on its time: kernel, stride, groups, height, width, calls.
        inputs, outputs: increasing slices of its weight along both dimensions, the last of each
            as in the original network.
        ms: milliseconds, a row for each of `inputs`; rise along both.
    """

    name: str
    kind: str
    geometry: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of a forward pass, for every strategy of a network.

    Attributes:
        setup: where and how it was measured.
        constant: what no channel changes.
        layers: in execution order.
        curve: pairs, increasing in both: the sum, and milliseconds; straight in between.
        block: between the counts of a grid, channels count as the next multiple of this:
            runtimes that work on blocks of channels fill up the last one.
        error: median, worst: relative, on strategies that nothing was fitted to.
    """

    setup: Setup
    constant: float
    layers: tuple[LayerTimes, ...]
    curve: tuple[tuple[float, float], ...] = ()
    block: int = 1
    error: tuple[float, float] = (0.0, 0.0)

    def of(self, graph: ChannelGraph) -> Callable[[IntArray], FloatArray]:
        """Counts of many strategies, [R, T] -> milliseconds, [R]; never falls when a count grows.

        Raises:
            AmcError: the table is of another network.
        """
        self._check(graph)
        grids = [(one.inputs, one.outputs, rising(np.array(one.ms))) for one in self.layers]
        lookup = Lookup.of(grids, self.block)
        cost, constant, bends = graph.cost, self.constant, np.array(self.curve).T

        def milliseconds(counts: IntArray) -> FloatArray:
            total = constant + lookup(*cost.layer_channels_of(counts))
            found: FloatArray = np.interp(total, *bends) if len(bends) else total
            return found

        return milliseconds

    def _check(self, graph: ChannelGraph) -> None:
        known = {one.name: one for one in self.layers}
        for layer, inputs, outputs in zip(graph.layers, *whole(graph), strict=True):
            one = known.pop(layer.name, None)
            if one is None:
                raise AmcError(f"the latency table is of another network: no layer {layer.name!r}")
            theirs = (one.kind, *one.geometry, one.inputs[-1], one.outputs[-1])
            ours = (layer.kind, *geometry(layer), inputs, outputs)
            for what, there, here in zip(PARTS, theirs, ours, strict=True):
                if there != here:
                    raise AmcError(
                        f"the latency table is of another network: {layer.name} has {what} "
                        f"{there} in the table, {here} here"
                    )
        if known:
            raise AmcError(
                f"the latency table is of another network: it has a layer {next(iter(known))!r}"
            )

    @property
    def text(self) -> str:
        """The table as JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)

    def save(self, path: Path) -> None:
        """Writes JSON, atomically; bytes depend on nothing but the table."""
        write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> "LatencyTable":
        """Reads what `save` wrote.

        Raises:
            AmcError: the file cannot be read, or holds no such table.
        """
        document = read_json(path)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise AmcError(f"{path}: no latency table; python -m amc.latency writes one")
        try:
            return _parsed(document)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise AmcError(f"{path}: damaged latency table ({error!r})") from None


PARTS = (
    "kind", "kernel", "stride", "groups", "height", "width", "calls", "input channels",
    "output channels",
)  # fmt: skip
"""What a layer of a table and one of a network have to agree in."""


def geometry(layer: Layer) -> tuple[int, ...]:
    """What decides on a layer's time beside its channels.

    Groups of depthwise layers are channels.
    """
    groups = 0 if layer.kind.startswith("depthwise") else layer.groups
    return layer.kernel, layer.stride, groups, layer.height, layer.width, layer.calls


def whole(graph: ChannelGraph) -> tuple[list[int], list[int]]:
    """Input and output channels of all layers in the original network."""
    sizes = np.array([group.size for group in graph.decisions], dtype=np.int64)
    inputs, outputs = graph.cost.layer_channels(sizes)
    return inputs.tolist(), outputs.tolist()


def rising(ms: FloatArray) -> FloatArray:
    """The least table that rises along both axes and promises nowhere less than the given one.

    A running maximum, not a mean of neighbours: where fewer channels took longer, a strategy that
    takes the larger count is no slower than told.
    """
    found: FloatArray = np.maximum.accumulate(np.maximum.accumulate(ms, axis=0), axis=1)
    return found


def corrected(
    table: LatencyTable, graph: ChannelGraph, counts: IntArray, measured_ms: float
) -> LatencyTable:
    """The table that tells the measured time at one strategy, and the old one for the original.

    Differences from the original are stretched in proportion.

    Args:
        table: of the network.
        graph: of the network.
        counts: of a strategy that was measured, [T].
        measured_ms: its milliseconds, on the scale of the table: times what the table tells for
            the original by what the original took beside it.

    Raises:
        AmcError: the measured time is no time.
    """
    if not 0 < measured_ms < np.inf:
        raise AmcError(f"a latency must be above 0 ms, got {measured_ms:g}")
    sizes = np.array([group.size for group in graph.decisions], dtype=np.int64)
    original, told = table.of(graph)(np.stack([sizes, counts])).tolist()
    stretch = (original - measured_ms) / (original - told) if original > told else 0.0
    fixed = original
    if stretch <= 0:  # measured above the original, or the original itself
        stretch, fixed = measured_ms / told, 0.0
    curve = table.curve or ((0.0, 0.0), (original, original))
    return replace(table, curve=tuple((x, fixed + stretch * (y - fixed)) for x, y in curve))


def rewarded_multiple(table: LatencyTable, graph: ChannelGraph) -> int:
    """The channel multiple that the measured times reward: 1, 2, 4, 8 or 16.

    Raises:
        AmcError: the table is of another network.
    """
    return rewarded(table.of(graph), graph)


def rewarded(tell: Callable[[IntArray], FloatArray], graph: ChannelGraph) -> int:
    """The largest multiple between which counts take the time of the next one.

    Between multiples of a block that a kernel fills up, a count takes half of a step more than in
    proportion, on average; where the block is half as large, a quarter; in proportion, nothing.

    Args:
        tell: counts [R, T] -> milliseconds [R].
        graph: of the network.
    """
    sizes = np.array([group.size for group in graph.decisions], dtype=np.int64)
    for multiple in MULTIPLES:
        wasted = risen = 0.0
        for t, group in enumerate(graph.decisions):
            apart = step(group, multiple)
            if apart < 2 or group.size < 2 * apart:
                continue
            inside = np.arange(apart, group.size // apart * apart + 1)
            rows = np.tile(sizes, (len(inside), 1))
            rows[:, t] = inside
            ms, ends = tell(rows), inside % apart == 0
            over = (ms - np.interp(inside, inside[ends], ms[ends]))[~ends]
            wasted += float(over.sum()) / (apart - 1)
            risen += float(ms[-1] - ms[0])
        if wasted > REWARDED * risen > 0:
            return multiple
    return 1


def _parsed(document: Mapping[str, Any]) -> LatencyTable:
    setup = document["setup"]
    layers = tuple(_layer(one) for one in document["layers"])
    median, worst = map(_number, document["error"])
    if not layers or len({one.name for one in layers}) < len(layers):
        raise ValueError("layers")
    texts = {n: _text(setup[n]) for n in ("model", "input_shape", "device", "runtime")}
    return LatencyTable(
        Setup(
            **texts,
            versions={_text(k): _text(v) for k, v in setup["versions"].items()},
            threads=_whole(setup["threads"]),
            batch=_whole(setup["batch"]),
        ),
        _number(document["constant"]),
        layers,
        _curve(document["curve"]),
        _whole(document["block"]),
        (median, worst),
    )


def _curve(points: Sequence[Any]) -> tuple[tuple[float, float], ...]:
    found = tuple((_number(x), _number(y)) for x, y in points)
    if any(a[0] >= b[0] or a[1] > b[1] for a, b in pairwise(found)):
        raise ValueError("the curve falls")
    return found


def _layer(one: Mapping[str, Any]) -> LayerTimes:
    inputs, outputs = _increasing(one["inputs"]), _increasing(one["outputs"])
    ms = tuple(tuple(map(_number, row)) for row in one["ms"])
    if [len(row) for row in ms] != [len(outputs)] * len(inputs):
        raise ValueError(f"ms of {one['name']}")
    sizes = tuple(_whole(n, 0) for n in one["geometry"])
    if len(sizes) != len(PARTS) - 3:
        raise ValueError(f"geometry of {one['name']}")
    return LayerTimes(_text(one["name"]), _text(one["kind"]), sizes, inputs, outputs, ms)


def _increasing(values: Sequence[Any]) -> tuple[int, ...]:
    found = tuple(_whole(value) for value in values)
    if not found or any(a >= b for a, b in pairwise(found)):
        raise ValueError("channels must increase")
    return found


def _whole(value: Any, least: int = 1) -> int:
    if type(value) is not int or not least <= value < 2**31:
        raise ValueError(f"{value!r} is no size")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not np.isfinite(value):
        raise ValueError(f"{value!r} is no time")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
