"""Rewards against their published values."""

import math

import pytest

import amc
from amc.config.compare import CompareConfig
from amc.config.train import TrainConfig
from amc.tasks.evaluate import Score
from envs import REWARDS, Outcome
from envs.rewards import UNCONSTRAINED


def outcome(
    accuracy: float,
    loss: float = 1.0,
    macs: int = 10,
    params: int = 5,
    divergence: float | None = 0.5,
) -> Outcome:
    return Outcome(Score(accuracy, loss, 100, divergence), macs, params)


def test_rewards_have_the_published_values() -> None:
    assert REWARDS["accuracy_flops"](outcome(0.9, macs=10**8)) == pytest.approx(-1.8421, abs=1e-4)
    assert REWARDS["accuracy_params"](outcome(0.75, params=1000)) == pytest.approx(
        -0.25 * math.log(1000)
    )
    assert REWARDS["accuracy"](outcome(0.9)) == 0.9
    assert REWARDS["loss"](outcome(0.9, loss=0.3)) == -0.3
    assert REWARDS["divergence"](outcome(0.9, divergence=0.125)) == -0.125
    assert set(REWARDS) == {"divergence", "loss", "accuracy", "accuracy_flops", "accuracy_params"}
    assert TrainConfig().reward.reward == CompareConfig().reward.reward == "divergence"


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_grow_with_the_score(name: str) -> None:
    better, worse = outcome(0.9, 0.3, divergence=0.01), outcome(0.8, 0.6, divergence=0.02)
    assert REWARDS[name](better) > REWARDS[name](worse)


def test_divergence_that_is_not_known_is_refused_in_one_line() -> None:
    with pytest.raises(amc.AmcError, match="the original network's predictions are not") as error:
        REWARDS["divergence"](outcome(0.9, divergence=None))
    assert str(error.value).startswith("reward divergence: ") and "\n" not in str(error.value)
    others = [reward for name, reward in REWARDS.items() if name != "divergence"]
    assert all(math.isfinite(reward(outcome(0.9, divergence=None))) for reward in others)


def test_rewards_without_a_lower_end_pay_for_smaller_networks() -> None:
    large, small = outcome(0.9, macs=1000, params=500), outcome(0.9, macs=900, params=400)
    for name, reward in REWARDS.items():
        assert (reward(small) > reward(large)) == (name in UNCONSTRAINED)
