"""When channels go: all at once, some groups after the others, or all groups little by little.

A stage is how many channels some groups keep once it is over. Between the stages the network is
trained, and the next one selects and reconstructs on what that left.
"""

import math
from collections.abc import Mapping

from amc.graph.plan import Strategy
from amc.schedules.curves import Schedule, densities


def little_by_little(
    sizes: Mapping[str, int],
    strategy: Strategy,
    schedule: Schedule,
    steps: int,
    from_start: bool = False,
) -> list[dict[str, int]]:
    """Stages that cut all groups of a strategy a little more each, by a channel at least.

    Steps in which no group loses a whole channel are no stages.

    Args:
        sizes: channels of every group.
        strategy: what is kept in the end.
        schedule: the curve that every group follows.
        steps: number of stages at most.
        from_start: see `densities`.
    """
    curves = {
        name: densities(schedule, kept / sizes[name], steps, from_start)
        for name, kept in strategy.items()
        if kept < sizes[name]
    }
    stages, reached = [], dict(sizes)
    for number in range(steps):
        stage = {}
        for name, curve in curves.items():
            count = max(strategy[name], round(curve[number] * sizes[name]))
            if count < reached[name]:
                stage[name] = reached[name] = count
        stages += [stage] if stage else []
    return stages


def towards(
    reached: Mapping[str, int], strategy: Mapping[str, int], share: float
) -> dict[str, int]:
    """The stage that goes this part of the way from the channels that are left to a strategy's."""
    return {
        name: count - math.ceil(share * (count - strategy[name]))
        for name, count in reached.items()
        if strategy[name] < count
    }


def group_by_group(
    sizes: Mapping[str, int], strategy: Strategy, count: int
) -> list[dict[str, int]]:
    """Stages that finish ``count`` consecutive groups each."""
    names = list(sizes)
    chunks = [names[i : i + count] for i in range(0, len(names), count)]
    return [{n: strategy.get(n, sizes[n]) for n in chunk} for chunk in chunks]


def shared_out(epochs: int, stages: int, between: float | None) -> list[int]:
    """Epochs after each stage.

    Args:
        epochs: in all.
        stages: how many.
        between: part of them that is spent between the stages, the rest after the last. None: all
            stages get the same, the last one what is left over.
    """
    if between is None:
        share, extra = divmod(epochs, stages)
        return [share] * (stages - 1) + [share + extra]
    share = int(between * epochs) // max(1, stages - 1)
    return [*[share] * (stages - 1), epochs - share * (stages - 1)]
