"""What a strategy is worth: functions of its validation score and its size."""

import math
from collections.abc import Callable

from amc.runtime.errors import AmcError
from amc.runtime.names import check_name
from amc.runtime.user_code import load_function, user_code
from amc.tasks.task import CLASSIFICATION, Task
from envs.outcome import Outcome

Reward = Callable[[Outcome], float]


def divergence(outcome: Outcome) -> float:
    """Minus the divergence from the original network's predictions; needs no labels.

    On 500 images it tells more of the network after the final cut than the cross-entropy, which a
    search soon fits to the few images that decide it: see the table in experiments/README.md.
    """
    if outcome.score.divergence is None:
        raise AmcError("reward divergence: the original network's predictions are not known")
    return -outcome.score.divergence


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


def gain(reward: float, standard: float) -> float:
    """``(R - R_0) / |R_0|``: makes rewards of different budgets and networks comparable.

    With minus a divergence or a loss this is the part of the standard's that is gone.
    """
    return (reward - standard) / (abs(standard) or 1.0)


REWARDS: dict[str, Reward] = {
    "divergence": divergence,
    "loss": loss,
    "accuracy": accuracy,
    "accuracy_flops": accuracy_flops,
    "accuracy_params": accuracy_params,
}

UNCONSTRAINED = ("accuracy_flops", "accuracy_params")
"""Rewards that pay for a smaller network themselves: the budget keeps only its upper end."""


def reward_function(name: str, task: Task = CLASSIFICATION) -> Reward:
    """A built-in reward or the user's own, ``module:function`` of an `envs.Outcome`.

    Raises:
        AmcError: there is no such reward, or it has no meaning for the task.
    """
    if name in UNCONSTRAINED and not task.percent:
        raise AmcError(f"--reward {name} needs a score that is a part of one, not {task.name}")
    if name in REWARDS:
        return REWARDS[name]
    check_name("reward", name)
    return users_reward(f"--reward {name}", load_function(name))


def users_reward(where: str, function: Callable[[Outcome], float]) -> Reward:
    """A reward of the user's own; whatever goes wrong in it is one line.

    Args:
        where: what a mistake is said of.
        function: of an outcome.
    """

    def reward(outcome: Outcome) -> float:
        with user_code(f"{where}:"):
            value = float(function(outcome))
        if not math.isfinite(value):
            raise AmcError(f"{where}: must return a finite number, got {value}")
        return value

    return reward
