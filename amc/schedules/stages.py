"""When channels go: all at once, some groups after the others, or all groups little by little.

A stage is how many channels some groups keep once it is over. Between the stages the network is
trained, and the next one selects and reconstructs on what that left.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from amc.graph.plan import Strategy

Kind = Literal[
    "one-shot", "linear", "agp", "exponential", "exponential-bias", "multistep", "adaptive"
]
HALFWAY = 0.75
"""Part of all cuts that the biased exponential has made after an eighth of the steps."""


def densities(kind: Kind, final: float, steps: int, parts: Sequence[float] = ()) -> list[float]:
    """Part of the channels that is left after each step, decreasing to ``final``.

    With p the part of the steps that are over: linear ``1 - (1 - f) p``; agp, the cubic of Zhu and
    Gupta 2017 (arXiv:1710.01878, equation 1), ``f + (1 - f) (1 - p)^3``; exponential ``f^p``;
    exponential-bias, ``a exp(-k p) + b`` with three quarters of the cuts after an eighth of the
    steps (NNCF), solved by bisection; multistep: after each step the given part of all cuts.

    Args:
        kind: of the schedule.
        final: part that is left at the end, in (0, 1].
        steps: how many; one-shot has one whatever is given, multistep one more than parts.
        parts: of multistep, increasing.
    """
    if kind == "one-shot":
        return [final]
    if kind == "multistep":
        return [*(1 - (1 - final) * part for part in parts), final]
    found = []
    for p in ((i + 1) / steps for i in range(steps)):
        if kind == "linear":
            found.append(1 - (1 - final) * p)
        elif kind == "agp":
            found.append(final + (1 - final) * (1 - p) ** 3)
        elif kind == "exponential":
            found.append(final**p)
        else:
            decay = _biased()
            cut = (1 - math.exp(-decay * p)) / (1 - math.exp(-decay))
            found.append(1 - (1 - final) * cut)
    return [*found[:-1], final]


def _biased() -> float:
    """The rate k of ``(1 - exp(-k p)) / (1 - exp(-k))`` that is `HALFWAY` at p = 1/8.

    With u = exp(-k / 8) it is the root in (0, 1) of ``u - c u^8 + c - 1``, c being `HALFWAY`;
    u = 1 is a root too, and of no use. Below the smaller one the function is negative.
    """
    low, high = 0.0, 0.9
    for _ in range(100):
        u = (low + high) / 2
        low, high = (u, high) if u - HALFWAY * u**8 + HALFWAY - 1 < 0 else (low, u)
    return -8 * math.log(low)


def little_by_little(
    sizes: Mapping[str, int],
    strategy: Strategy,
    kind: Kind,
    steps: int,
    parts: Sequence[float] = (),
) -> list[dict[str, int]]:
    """Stages that cut all groups of a strategy a little more each, by a channel at least.

    Args:
        sizes: channels of every group.
        strategy: what is kept in the end.
        kind: see `densities`; not adaptive, which is known stage by stage only.
        steps: number of stages.
        parts: of multistep.
    """
    curves = {
        name: densities(kind, kept / sizes[name], steps, parts)
        for name, kept in strategy.items()
        if kept < sizes[name]
    }
    stages, reached = [], dict(sizes)
    for number in range(len(densities(kind, 1.0, steps, parts))):
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
