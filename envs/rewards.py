"""What a strategy is worth: functions of its validation score and its size."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from amc.evaluate import Score


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


Reward = Callable[[Outcome], float]


def loss(outcome: Outcome) -> float:
    """Minus the cross-entropy: still tells strategies apart where all predictions are right."""
    return -outcome.score.loss


def accuracy(outcome: Outcome) -> float:
    """Top-1 accuracy; R_err = -error of AMC up to a constant."""
    return outcome.score.accuracy


def accuracy_flops(outcome: Outcome) -> float:
    """R_FLOPs = -error ln(FLOPs) of AMC, with MACs for FLOPs; no lower end of the budget."""
    return -(1 - outcome.score.accuracy) * math.log(outcome.macs)


def accuracy_params(outcome: Outcome) -> float:
    """R_Param = -error ln(parameters) of AMC; no lower end of the budget."""
    return -(1 - outcome.score.accuracy) * math.log(outcome.params)


REWARDS: dict[str, Reward] = {
    "loss": loss,
    "accuracy": accuracy,
    "accuracy_flops": accuracy_flops,
    "accuracy_params": accuracy_params,
}

UNCONSTRAINED = ("accuracy_flops", "accuracy_params")
"""Rewards that pay for a smaller network themselves: the budget keeps only its upper end."""
