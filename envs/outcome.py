"""What came of a strategy that was tried."""

from dataclasses import dataclass

from amc.graph.plan import Strategy
from amc.tasks.evaluate import Score


@dataclass(frozen=True)
class Outcome:
    """A strategy that was carried out.

    Attributes:
        score: of the pruned network on the validation split, before any fine-tuning.
        macs: per sample.
        params: of the pruned network.
    """

    score: Score
    macs: int
    params: int


@dataclass(frozen=True)
class Episode:
    """One strategy that was tried.

    Attributes:
        number: from 0.
        strategy: channels kept per group.
        outcome: score and size.
        reward: of the outcome.
        best: highest reward up to here, of what may be found.
        probe: whether it was only measured: it costs more than the budget allows.
    """

    number: int
    strategy: Strategy
    outcome: Outcome
    reward: float
    best: float
    probe: bool = False
