"""What the agent sees: the 11 numbers of AMC (He et al. 2018, section 3.1), each in [0, 1]."""

import numpy as np
import numpy.typing as npt

from amc.graph.groups import ChannelGraph
from amc.graph.labels import FloatArray, IntArray

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
)


class Features:
    """Observations of a walk over the decisions of a graph.

    A decision is seen as its first reader: the layer whose inputs are being chosen. The first
    eight numbers are facts of that layer, scaled over all decisions to [0, 1]; a number that is
    the same everywhere is 0. The last three describe the walk and are parts of the original
    network: MACs removed so far with everything undecided at full width, MACs of this layer and
    those behind it at the current widths, and the ratio that was carried out last.
    """

    def __init__(self, graph: ChannelGraph) -> None:
        self._cost = graph.cost
        self._full = np.array([g.size for g in graph.decisions], dtype=np.int64)
        self._original = graph.macs()
        names = [layer.name for layer in graph.layers]
        self._readers = [names.index(g.readers[0]) for g in graph.decisions]
        facts = []
        for t, position in enumerate(self._readers):
            x = graph.layers[position]
            facts.append(
                [t, x.out_channels, x.in_channels, x.height, x.width, x.stride, x.kernel, x.macs]
            )
        self._static = _scaled(np.array(facts, dtype=np.float64))

    def at(self, decided: IntArray) -> npt.NDArray[np.float32]:
        """The observation before decision t = len(decided), [11] float32.

        After the last decision: the last layer again, with nothing left to decide.
        """
        t = min(len(decided), len(self._full) - 1)
        counts = self._full.copy()
        counts[: len(decided)] = decided
        per_layer = self._cost.layer_macs(counts)
        left = per_layer[self._readers[t] :].sum() if len(decided) == t else 0
        walk = (
            1 - self._cost.macs(counts) / self._original,
            left / self._original,
            decided[-1] / self._full[len(decided) - 1] if len(decided) else 1.0,
        )
        seen: FloatArray = np.clip(np.append(self._static[t], walk), 0, 1)
        return seen.astype(np.float32)


def _scaled(columns: FloatArray) -> FloatArray:
    low, high = columns.min(axis=0), columns.max(axis=0)
    scaled: FloatArray = (columns - low) / np.where(high > low, high - low, 1)
    return scaled
