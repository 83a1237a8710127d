"""What the agent sees: the 11 numbers of AMC (He et al. 2018, section 3.1) and four more.

All lie in [0, 1] and none depends on the size of the network, so that a policy means the same on
another budget and another network. The four say what the 11 leave open: how much may be kept, how
much of that is left, and what the readers of a group lose by being cut, which reconstruction knows
before anything is tried.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from amc.graph.arrays import FloatArray, IntArray
from amc.objectives.budget import Budget
from amc.objectives.objective import Costs, at_least_one

NAMES = (
    "index",
    "out_channels",
    "in_channels",
    "height",
    "width",
    "stride",
    "kernel",
    "macs",
    "reduced",
    "rest",
    "previous_ratio",
    "target",
    "share",
    "error",
    "gain",
)


class Features:
    """Observations of a walk over the decisions of a graph.

    A decision is seen as its first reader: the layer whose inputs are being chosen. The first
    eight numbers are facts of that layer, scaled over all decisions to [0, 1]; a number that is
    the same everywhere is 0. The next three describe the walk and are parts of the original
    network: costs removed so far with everything undecided at full width, MACs of this layer and
    those behind it at the current widths, and the ratio that was carried out last. Then the
    target, the common ratio for all groups that are left that would meet it, and two numbers of
    the group at the uniform strategy, x / (x + median over the groups): the error of its readers,
    and the error that a MAC more would save.

    Args:
        budget: the graph, and what it may cost.
        errors: group name -> error at each of its `Budget.options` (`sensitivity`); without,
            the last two numbers are 0.5.
    """

    def __init__(self, budget: Budget, errors: Mapping[str, FloatArray] | None = None) -> None:
        graph = budget.graph
        self._budget, self._cost = budget, graph.cost
        self._full = np.array([g.size for g in graph.decisions], dtype=np.int64)
        self._original = graph.macs()
        names = [layer.name for layer in graph.layers]
        self._readers = [names.index((g.readers or g.writers[-1:])[0]) for g in graph.decisions]
        facts = []
        for t, position in enumerate(self._readers):
            x = graph.layers[position]
            facts.append(
                [t, x.out_channels, x.in_channels, x.height, x.width, x.stride, x.kernel, x.macs]
            )
        self._static = _scaled(np.array(facts, dtype=np.float64))
        self._prospects = _prospects(budget, errors)

    def at(self, decided: IntArray) -> npt.NDArray[np.float32]:
        """The observation before decision t = len(decided), [15] float32.

        After the last decision: the last layer again, with nothing left to decide.
        """
        t = min(len(decided), len(self._full) - 1)
        counts = self._full.copy()
        counts[: len(decided)] = decided
        per_layer = self._cost.layer_macs(counts)
        left = per_layer[self._readers[t] :].sum() if len(decided) == t else 0
        walk = (
            1 - self._budget.cost(counts) / self._budget.original,
            left / self._original,
            decided[-1] / self._full[len(decided) - 1] if len(decided) else 1.0,
            self._budget.preserve_ratio,
            self._budget.even_ratio(decided.tolist()),
        )
        everything = np.concatenate([self._static[t], walk, self._prospects[t]])
        seen: FloatArray = np.clip(everything, 0, 1)
        return seen.astype(np.float32)


def _scaled(columns: FloatArray) -> FloatArray:
    low, high = columns.min(axis=0), columns.max(axis=0)
    scaled: FloatArray = (columns - low) / np.where(high > low, high - low, 1)
    return scaled


def _prospects(budget: Budget, errors: Mapping[str, FloatArray] | None) -> FloatArray:
    """Error and gain of every group at the uniform strategy, see `Features`, [T, 2]."""
    graph, count = budget.graph, len(budget.options)
    if errors is None:
        return np.full((count, 2), 0.5)
    sizes = np.array([g.size for g in graph.decisions])
    at = budget.even_ratio() * sizes
    step = np.maximum(0.05 * sizes, 1)

    def error(counts: FloatArray) -> FloatArray:
        curves = zip(graph.decisions, budget.options, counts, strict=True)
        return np.array([np.interp(k, options, errors[g.name]) for g, options, k in curves])

    def cost(change: FloatArray) -> Costs:
        return budget.cost_of(np.rint(at + np.diag(change)).astype(np.int64))

    saved = error(at - step) - error(at + step)
    spent = at_least_one(cost(step) - cost(-step))
    prospects = np.column_stack([error(at), saved / spent])
    typical = np.maximum(np.median(prospects, axis=0), np.finfo(float).tiny)
    relative: FloatArray = prospects / (prospects + typical)
    return relative
