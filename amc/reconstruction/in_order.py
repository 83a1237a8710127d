"""Layers of a network solved in execution order, in place.

Inputs come from the network as it is by then, targets from the original (the asymmetric form of
He et al. 2017), so that each layer also corrects the error of those before it, and of the shortcut
that it is added to.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import islice

from torch import nn

from amc.calibration.rows import Rows
from amc.calibration.statistics import LayerStats, accumulated, collect
from amc.graph.groups import Layer
from amc.reconstruction.batchnorm import adapt_batchnorm
from amc.reconstruction.lockstep import Diverged
from amc.reconstruction.one_pass import OnePass
from amc.reconstruction.original_outputs import OriginalOutputs
from amc.runtime import distributed, feed

FOLLOWING = 8
"""Batches that batch norm is adapted on after each layer."""


class InOrder(ABC):
    """Solves layers one after the other; what a solution is, is said by those that derive from it.

    Args:
        network: changed in place.
        layers: to be solved, in execution order.
        originals: what the network is to compute; calibration images.
        adapt: whether batch norm follows: after every layer on the first `FOLLOWING` batches, at
            the end on all of them; exactly in between where one pass does it all.
    """

    def __init__(
        self, network: nn.Module, layers: Sequence[Layer], originals: OriginalOutputs, adapt: bool
    ) -> None:
        self.network, self.layers, self.originals = network, layers, originals
        self._adapt = adapt
        names = {layer.name for layer in layers}
        self._corrected = frozenset(
            name for name, later in originals.additions.items() if not names & later
        )

    @abstractmethod
    def target(self, layers: Sequence[Layer]) -> Sequence[Rows]:
        """What the first of these layers is to put out."""

    @abstractmethod
    def solve(self, layer: Layer, stats: LayerStats | None) -> None:
        """Changes the weight of a layer in place; without statistics where it was never seen."""

    def in_step(self) -> bool:
        """All layers in one pass, batch norm following exactly; False where it is impossible.

        Raises:
            Diverged: it has turned out to be impossible after some layers were changed.
        """
        device = next(self.network.parameters()).device
        batches = [
            feed.moved(images, device) for images, _ in distributed.shard(self.originals.batches)
        ]
        sampling, memory = self.originals.sampling, self.originals.memory
        steps = OnePass(
            self.network, self.layers, batches, sampling, self._corrected, self._adapt, memory
        )
        if not steps.possible:
            return False
        left = {layer.name: position for position, layer in enumerate(self.layers)}

        def solve(name: str, rows: Sequence[Rows]) -> None:
            position = left.pop(name)
            target = self.target(self.layers[position:])
            self.solve(self.layers[position], accumulated(rows, target))

        steps.run(solve)
        if left:
            raise Diverged
        return True

    def layer_by_layer(self) -> nn.Module:
        """One pass over the images per layer; batch norm follows on the first `FOLLOWING`."""
        for position, layer in enumerate(self.layers):
            corrected = [layer.name] if layer.name in self._corrected else []
            self.alone(layer, self.target(self.layers[position:]), corrected)
            if self._adapt:
                adapt_batchnorm(self.network, islice(self.originals.batches, FOLLOWING))
        if self._adapt:
            adapt_batchnorm(self.network, self.originals.batches)
        return self.network

    def alone(self, layer: Layer, target: Sequence[Rows], corrected: Sequence[str]) -> None:
        """One layer, in a pass of its own."""
        batches, sampling = self.originals.batches, self.originals.sampling
        rows = {layer.name: target}
        found = collect(self.network, [layer], batches, sampling, rows, corrected)
        self.solve(layer, found.get(layer.name))
