"""From times of whole networks to a table per layer.

A pass takes ``curve(w0 + sum over layers of sum over roundings (a, b) of w_ab up(in, a) up(out,
b))``, and single channels besides (adding, pooling, normalising), where ``up`` rounds up to a
multiple: runtimes compute whole blocks of channels. All weights are >= 0 (Lawson and Hanson
1974), so that times rise with counts. Which roundings there are is decided by cross-validation.
The curve is the median of measured times along the sum, in a few pieces.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from amc.graph.arrays import FloatArray, IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.cost import CostModel
from amc.objectives.latency_table import LayerTimes, geometry, whole

PAIRS = ((1, 1), (8, 8), (16, 16), (1, 16), (16, 1), (1, 8), (8, 1))
"""Blocks of input and output channels that a kernel may work on."""

SINGLE = (1, 8, 16)
"""Blocks of channels of what is done for every input or output channel."""

FAMILIES: tuple[tuple[int, ...], ...] = ((1,), (8,), (16,), (1, 8), (1, 16), (1, 8, 16))
"""Blocks that a runtime may know; the family that tells left-out times best is taken."""

FOLDS = 4
"""Parts of the samples that are left out in turn."""

PIECES, ROUNDS = 10, 3
"""Pieces of the curve, and how often weights and curve are fitted in turn."""

LINES = 64
"""Most lines of a table along one side."""

SLOW = 4.0
"""Times that lie so many typical errors above what is told were disturbed, and are left out."""


BoolArray = npt.NDArray[np.bool_]
Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True, eq=False)
class Fit:
    """What explains times of whole networks.

    Attributes:
        graph: of the network.
        constant: what no channel changes.
        pairs: [L, P] weights of `PAIRS`.
        inputs, outputs: [L, S] weights of `SINGLE`.
        curve: the sum -> milliseconds, points of a line that rises.
    """

    graph: ChannelGraph
    constant: float
    pairs: FloatArray
    inputs: FloatArray
    outputs: FloatArray
    curve: Curve

    def __call__(self, counts: IntArray) -> FloatArray:
        """Counts of many strategies, [R, T] -> milliseconds, [R]."""
        inputs, outputs = self.graph.cost.layer_channels_of(counts)
        found = np.full(len(counts), self.constant)
        for row, (x, y) in enumerate(zip(inputs, outputs, strict=True)):
            found += self._layer(row, x, y)
        return along(self.curve, found)

    def _layer(self, row: int, x: IntArray, y: IntArray) -> FloatArray:
        products = [up(x, a) * up(y, b) for a, b in PAIRS]
        sides = [[up(side, a) for a in SINGLE] for side in (x, y)]
        found: FloatArray = np.tensordot(self.pairs[row], np.array(products, dtype=float), 1)
        found = found + np.tensordot(self.inputs[row], np.array(sides[0], dtype=float), 1)
        return found + np.tensordot(self.outputs[row], np.array(sides[1], dtype=float), 1)

    def tables(self) -> tuple[LayerTimes, ...]:
        """A grid of every layer, of at most `LINES` x `LINES`."""
        found = []
        for row, (layer, last_in, last_out) in enumerate(
            zip(self.graph.layers, *whole(self.graph), strict=True)
        ):
            x, y = lines(last_in), lines(last_out)
            grid = np.meshgrid(np.array(x), np.array(y), indexing="ij")
            ms = self._layer(row, *grid)
            rows = tuple(tuple(float(f"{value:.6g}") for value in one) for one in ms.tolist())
            found.append(LayerTimes(layer.name, layer.kind, geometry(layer), x, y, rows))
        return tuple(found)


def fitted(graph: ChannelGraph, counts: IntArray, ms: FloatArray) -> Fit:
    """What explains these times best, relative to each; exact for the original network.

    Args:
        graph: of the network.
        counts: of the strategies that were timed, [R, T]; the original among them, often.
        ms: their times, [R].
    """
    features = _features(graph.cost, counts)
    scale = features.max(axis=0)
    sizes = np.array([group.size for group in graph.decisions], dtype=np.int64)
    whole = (counts == sizes).all(axis=1)
    data = _Samples(features / scale, ms, whole)
    used = {family: _used(family, len(graph.layers)) for family in FAMILIES}
    best = min(FAMILIES, key=lambda family: data.left_out(used[family]))
    weights, curve = data.explained(used[best])
    weights = _shared_out(data.features, weights, used[best], graph)
    rest = (weights / scale)[1:].reshape(len(graph.layers), -1)
    ends = (len(PAIRS), len(PAIRS) + len(SINGLE))
    constant = float(weights[0] / scale[0])
    pairs, inputs, outputs = np.split(rest, ends, axis=1)
    return Fit(graph, constant, pairs, inputs, outputs, curve)


def _shared_out(
    features: FloatArray, weights: FloatArray, used: BoolArray, graph: ChannelGraph
) -> FloatArray:
    """The same sums, shared by layers that no sample tells apart, in proportion to their MACs.

    Two convolutions of a block multiply the same two numbers of channels.
    """
    columns = np.flatnonzero(used)
    _, kinds = np.unique(np.round(features[:, columns], 9), axis=1, return_inverse=True)
    part = np.repeat([float(layer.macs) for layer in graph.layers], len(PAIRS) + 2 * len(SINGLE))
    parts = np.concatenate([[0.0], np.maximum(part, 1)])[columns]
    parts[kinds == kinds[0]] = 0  # what no channel changes belongs to the constant
    parts[0] = 1
    found = np.zeros_like(weights)
    sums = np.bincount(kinds, weights[columns])
    found[columns] = sums[kinds] * parts / np.bincount(kinds, parts)[kinds]
    return found


def _used(family: tuple[int, ...], layers: int) -> BoolArray:
    """The columns of the features that know only these blocks."""
    of_layer = [set(pair) <= set(family) for pair in PAIRS]
    of_layer += 2 * [block in family for block in SINGLE]
    return np.array([True, *layers * of_layer])


@dataclass(frozen=True, eq=False)
class _Samples:
    """Features [R, F] and times [R] of networks, and which of them are the original."""

    features: FloatArray
    ms: FloatArray
    whole: BoolArray

    def explained(self, used: BoolArray) -> tuple[FloatArray, Curve]:
        """Weights >= 0 of least squared relative error, and the curve.

        Disturbed times are found, and left out.
        """
        found, kept = np.zeros(len(used)), np.ones(len(self.ms), dtype=bool)
        wanted, curve = self.ms, Curve()
        for _ in range(ROUNDS):
            rows = self.features[kept][:, used] / wanted[kept, None]
            found[used], _ = nnls(rows, np.ones(len(rows)), maxiter=100 * rows.shape[1])
            total = self.features @ found
            curve = self._curve(total, kept)
            missing = 1 - along(curve, total) / self.ms  # above 0: slower than told
            kept = missing < SLOW * float(np.median(np.abs(missing))) + 0.005
            kept |= self.whole
            wanted = along(tuple((y, x) for x, y in curve), self.ms)
        return found, self._curve(self.features @ found, kept)

    def _curve(self, total: FloatArray, kept: BoolArray) -> Curve:
        """From 0 through medians to the original network, rising."""
        last = float(total[self.whole][0])
        points = [(0.0, 0.0)]
        cut = np.flatnonzero(kept & ~self.whole & (total < 0.97 * last))
        for piece in np.array_split(cut[np.argsort(total[cut])], PIECES):
            if len(piece):
                x = float(np.median(total[piece]))
                points.append((x, x * float(np.median(self.ms[piece] / total[piece]))))
        points.append((last, float(np.median(self.ms[self.whole]))))
        rising = [points[0]]
        for x, y in points[1:]:
            if x > rising[-1][0] and y > rising[-1][1]:
                rising.append((x, y))
        if rising[-1] != points[-1]:
            rising = [one for one in rising if one[1] < points[-1][1]] + points[-1:]
        return tuple(rising)

    def left_out(self, used: BoolArray) -> float:
        """The mean relative error of samples that weights were not fitted to."""
        errors = []
        for fold in range(FOLDS):
            away = (np.arange(len(self.ms)) % FOLDS == fold) & ~self.whole
            some = _Samples(self.features[~away], self.ms[~away], self.whole[~away])
            weights, curve = some.explained(used)
            errors.append(np.abs(along(curve, self.features[away] @ weights) / self.ms[away] - 1))
        every = np.sort(np.concatenate(errors))
        return float(every[: max(1, len(every) * 9 // 10)].mean())


def along(curve: Curve, totals: FloatArray) -> FloatArray:
    """Milliseconds of sums; beyond its end a curve goes on in proportion."""
    x, y = np.array(curve).T
    found: FloatArray = np.interp(totals, x, y) * np.maximum(totals / x[-1], 1)
    return found


def _features(cost: CostModel, counts: IntArray) -> FloatArray:
    """[R, 1 + L (P + 2 S)]: of every layer its products, then single channels."""
    columns: list[IntArray] = [np.ones(len(counts), dtype=np.int64)]
    for x, y in zip(*cost.layer_channels_of(counts), strict=True):
        columns += [up(x, a) * up(y, b) for a, b in PAIRS]
        columns += [up(x, a) for a in SINGLE]
        columns += [up(y, b) for b in SINGLE]
    found: FloatArray = np.array(columns, dtype=np.float64).T
    return found


def up(numbers: IntArray, multiple: int) -> IntArray:
    """The next multiples."""
    found: IntArray = -(-numbers // multiple) * multiple
    return found


def lines(last: int) -> tuple[int, ...]:
    """Channel counts up to the last: all, or the multiples of a power of 2, few enough."""
    step = 1
    while last > LINES * step:
        step *= 2
    first = [n for n in (1, 2, 4, 8) if n < min(step, last)]
    return tuple(sorted({*first, *range(step, last + 1, step), last}))
