"""What a network computes before it is changed: what its layers are solved for afterwards."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from torch import nn

from amc.calibration.calibrate import reconstructed_layers
from amc.calibration.rows import Rows
from amc.calibration.shortcuts import additions
from amc.calibration.statistics import Batches, Outputs, Sampling, sample_outputs
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import Layer
from amc.runtime import feed
from amc.runtime.memory import share

OUTPUT_BYTES = 2**30
"""Outputs of the original network that are held at a time; more layers take more passes."""


class OriginalOutputs:
    """What the original network computes at the sampled positions, for all applications of a run.

    Args:
        graph: of the model.
        model: the original network.
        batches: calibration images, of which every rank holds the outputs of its own.
        sampling: which output positions become rows.
        memory: bytes that may be held; a quarter of it by these outputs.
        layers: whose outputs, in execution order; None: `reconstructed_layers`.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        model: nn.Module,
        batches: Batches,
        sampling: Sampling,
        memory: int | None = None,
        layers: Sequence[Layer] | None = None,
    ) -> None:
        self.batches, self.sampling, self.memory = batches, sampling, memory
        self._graph, self._model = graph, model
        self._layers = reconstructed_layers(graph) if layers is None else layers
        self._held: Outputs = {}

    @cached_property
    def additions(self) -> Mapping[str, frozenset[str]]:
        """Layers that are added to a shortcut, see `residual.additions`."""
        images, device = next(iter(self.batches))[0], next(self._model.parameters()).device
        few = feed.moved(feed.rows(images, slice(2)), device)
        return additions(self._model, self._layers, few)

    def outputs(self, layers: Sequence[Layer]) -> Sequence[Rows]:
        """Outputs of the first of these layers; the others are what will be asked for next.

        Sampled once if those of all layers fit `OUTPUT_BYTES`, else for as many as fit. There are
        none of a layer that is never seen.
        """
        if layers[0].name not in self._held:
            every = self._layers
            wanted = every if self._fitting(every) == len(every) else layers
            self._held = {}  # let go of before more are sampled
            self._held = sample_outputs(
                self._model,
                wanted[: self._fitting(wanted)],
                self.batches,
                self.sampling,
                self.additions,
            )
        return self._held.get(layers[0].name, [])

    def _fitting(self, layers: Sequence[Layer]) -> int:
        """How many of the layers, from the first on, fit `OUTPUT_BYTES`; at least one."""
        images, total = sum(len(labels) for _, labels in self.batches), 0
        for count, layer in enumerate(layers):
            points = layer.positions // self._graph.batch
            if self.sampling.points:
                points = min(points, self.sampling.points * layer.calls)
            shares = 2 if layer.name in self.additions else 1
            total += 4 * images * points * layer.out_channels * shares
            if total > share(self.memory, 1 / 4, OUTPUT_BYTES):
                return max(1, count)
        return len(layers)
