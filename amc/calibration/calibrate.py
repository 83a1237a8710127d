"""Which layers are reconstructed, and their statistics."""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from amc.calibration.passes import in_passes
from amc.calibration.statistics import Batches, LayerStats, Sampling, collect
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import Layer
from amc.runtime.errors import AmcError

MAX_COLUMNS = 8192
"""Layers with more inputs x kernel than this have no statistics (X'X: 0.5 GB); once cut they are
reconstructed all the same, see `amc.calibration.descent`."""


SOLVED = ("conv1d", "conv2d", "conv3d", "linear")
"""Kinds of layers whose weights are solved for; others are only cut."""


def reconstructed_layers(graph: ChannelGraph) -> tuple[Layer, ...]:
    """The readers of prunable groups whose weights can be solved for, in execution order."""
    readers = {name for group in graph.decisions for name in group.readers}
    return tuple(v for v in graph.layers if v.name in readers and v.kind in SOLVED)


def calibrated_layers(graph: ChannelGraph) -> tuple[Layer, ...]:
    """Those of them that are narrow enough to have statistics."""
    return tuple(
        layer
        for layer in reconstructed_layers(graph)
        if layer.in_channels // layer.groups * _kernel(graph, layer) <= MAX_COLUMNS
    )


def _kernel(graph: ChannelGraph, layer: Layer) -> int:
    size = 1
    for extent in graph.shapes[layer.weight][2:]:
        size *= extent
    return size


def calibrate(
    graph: ChannelGraph,
    model: nn.Module,
    batches: Batches,
    sampling: Sampling | None = None,
    on_batch: Callable[[], None] = lambda: None,
    memory: int | None = None,
) -> Mapping[str, LayerStats]:
    """Statistics of the original network for every layer that may lose inputs.

    Examples:
        >>> import amc, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> graph = amc.trace(model, (torch.zeros(1, 3, 8, 8),))
        >>> images, labels = torch.randn(16, 3, 8, 8), torch.zeros(16)
        >>> stats = amc.calibrate(graph, model, [(images, labels)])
        >>> list(stats), stats["2"].xx.shape  # one group of inputs, 8 channels of 3 x 3
        (['2'], torch.Size([1, 72, 72]))

    Args:
        graph: of the model.
        model: never changed.
        batches: images; under a limit they may be gone through several times.
        sampling: which output positions become rows; by default ten per image and layer.
        on_batch: called after every batch of every pass.
        memory: bytes that statistics may take at a time, see `in_passes`; None: no limit.

    Raises:
        AmcError: there are no images, a layer's inputs or outputs are not finite, or a layer alone
            does not fit the memory.
    """
    positions = sampling or Sampling()

    def one_pass(layers: Sequence[Layer]) -> Mapping[str, LayerStats]:
        stats = collect(model, layers, batches, positions, on_batch=on_batch)
        for layer in layers:
            if layer.name not in stats:
                raise AmcError("calibration: the data yields no images")
            check_finite(layer, stats[layer.name])
        return stats

    return in_passes(graph, calibrated_layers(graph), memory, one_pass)


def check_finite(layer: Layer, stats: LayerStats) -> None:
    """Refuses statistics that no solver can work with.

    Raises:
        AmcError: some of them are not finite.
    """
    if not all(bool(t.isfinite().all()) for t in (stats.xx, stats.xy)):
        raise AmcError(
            f"{layer.name}: its inputs or outputs are not finite (NaN or infinity in weights or "
            "data)"
        )
