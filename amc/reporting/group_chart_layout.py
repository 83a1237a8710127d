"""Where channel groups run beside the rows of layers: columns by interval colouring.

It needs no layout engine and no topology: a group's lane goes from the first layer that writes it
to the last that reads it. Columns are used again by later groups, so that a picture stays narrow.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import ChannelGroup

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#B58900")
"""Colours of prunable groups in turn; neighbours differ also for the colour-blind."""


@dataclass(frozen=True)
class Lane:
    """Where a group runs: its column, and the rows of its ends and of the layers at it."""

    group: ChannelGroup
    column: int
    top: int
    bottom: int
    writes: dict[str, int]
    reads: dict[str, int]
    passes: dict[str, int]


def lanes(graph: ChannelGraph) -> tuple[Lane, ...]:
    """The lanes of all groups that some layer writes or reads, by their upper ends.

    Row 0 is the first layer's; the network's inputs and outputs are the rows before and after.
    No two lanes in one column share a row, and there are no more columns than that needs.
    """
    row = {layer.name: i for i, layer in enumerate(graph.layers)}
    found = []
    for group in graph.groups:
        places = {(m.tensor, m.dim) for m in group.members}
        through = [x for x in graph.layers if x.kind == "depthwise"]
        passes = {x.name: row[x.name] for x in through if (x.weight, x.out_dim) in places}
        writes = {name: row[name] for name in group.writers}
        reads = {name: row[name] for name in group.readers}
        ends = [*writes.values(), *reads.values(), *passes.values()]
        if not ends:
            continue
        if group.reason == "network input":
            ends.append(-1)
        if group.reason == "network output":
            ends.append(len(row))
        found.append(Lane(group, 0, min(ends), max(ends), writes, reads, passes))
    return _in_columns(sorted(found, key=lambda x: (x.top, -x.bottom)))


def _in_columns(found: Sequence[Lane]) -> tuple[Lane, ...]:
    """Gives every lane the first free column; columns with long lanes come first."""
    columns: list[list[Lane]] = []
    for lane in found:
        free = (c for c in columns if c[-1].bottom < lane.top)
        column = next(free, None)
        if column is None:
            columns.append(column := [])
        column.append(lane)
    columns.sort(key=lambda c: -max(x.bottom - x.top for x in c))
    place = {id(lane): i for i, column in enumerate(columns) for lane in column}
    return tuple(replace(lane, column=place[id(lane)]) for lane in found)


def colours(found: Sequence[Lane]) -> dict[str, str]:
    """Group name -> colour: in turn, but for those of lanes beside this one and right above."""
    colours: dict[str, str] = {}
    above: dict[int, str] = {}  # column -> colour of its last lane
    for i, lane in enumerate(found):
        near = {colours[x.group.name] for x in found[:i] if x.bottom >= lane.top - 1}
        near.add(above.get(lane.column, ""))
        turn = [PALETTE[(i + j) % len(PALETTE)] for j in range(len(PALETTE))]
        colour = next((c for c in turn if c not in near), turn[0])
        colours[lane.group.name] = above[lane.column] = colour
    return colours
