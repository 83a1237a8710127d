"""Statistics of many layers in bounded memory: several passes over the images, results on disk.

What a pass adds up fits the limit. A layer's rows and their order are those of one pass for all
layers, so that the limit changes no result.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from amc.calibration.on_disk import Stored, TensorFile
from amc.calibration.statistics import LayerStats
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import Layer
from amc.runtime.errors import AmcError
from amc.runtime.memory import as_size

KEPT = 0.25
"""Part of the limit up to which the statistics of all layers stay in memory after a pass."""

FLOAT64 = 8


def statistics_bytes(graph: ChannelGraph, layer: Layer) -> int:
    """What the statistics of a layer take."""
    kernel = graph.shapes[layer.weight][2:]
    columns = layer.in_channels // layer.groups
    for extent in kernel:
        columns *= extent
    outputs = layer.out_channels // layer.groups
    return FLOAT64 * layer.groups * (columns * (columns + outputs) + outputs)


def passes(
    graph: ChannelGraph, layers: Sequence[Layer], limit: int | None
) -> list[Sequence[Layer]]:
    """The layers of each pass, in execution order: a pass ends where its last layer has run.

    Raises:
        AmcError: a layer alone needs more than the limit.
    """
    if limit is None or not layers:
        return [layers]
    sizes = {layer.name: statistics_bytes(graph, layer) for layer in layers}
    widest = max(sizes, key=sizes.__getitem__)
    if sizes[widest] > limit:
        least = as_size(sizes[widest])
        raise AmcError(
            f"--memory {as_size(limit)}: the statistics of {widest} alone take {least}; the "
            f"least that will do is --memory {least}"
        )
    found: list[list[Layer]] = [[]]
    for layer in layers:
        if sum(sizes[other.name] for other in found[-1]) + sizes[layer.name] > limit:
            found.append([])
        found[-1].append(layer)
    return list(found)


def in_passes(
    graph: ChannelGraph,
    layers: Sequence[Layer],
    limit: int | None,
    collect: Callable[[Sequence[Layer]], Mapping[str, LayerStats]],
) -> Mapping[str, LayerStats]:
    """Statistics of all layers.

    Args:
        graph: that the layers belong to.
        layers: in execution order.
        limit: bytes that may be held at a time; None: there is none.
        collect: makes one pass for some of them.

    Returns:
        Layer name -> statistics: in memory if all of them take a small part of the limit, else on
        disk.
    """
    total = sum(statistics_bytes(graph, layer) for layer in layers)
    if limit is None or total <= KEPT * limit:
        return collect(layers)
    shelf = Shelf()
    for some in passes(graph, layers, limit):
        for name, stats in collect(some).items():
            shelf.put(name, stats)
    return shelf


class Shelf(Mapping[str, LayerStats]):
    """Statistics on disk, in memory only while somebody looks at them."""

    def __init__(self) -> None:
        self._file = TensorFile()
        self._places: dict[str, tuple[Stored, Stored, Stored, int]] = {}

    def put(self, layer: str, stats: LayerStats) -> None:
        """Writes the statistics of a layer."""
        xx, xy, yy = (self._file.append(t) for t in (stats.xx, stats.xy, stats.yy))
        self._places[layer] = xx, xy, yy, stats.rows

    def __getitem__(self, layer: str) -> LayerStats:
        *places, rows = self._places[layer]
        xx, xy, yy = (self._file.read(place) for place in places)
        return LayerStats(xx, xy, yy, rows)

    def __contains__(self, layer: object) -> bool:
        return layer in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
