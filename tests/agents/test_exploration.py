"""Demonstrations, random actions, noise and suggestions, in their order."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from agents import (
    Exploration,
    sample_truncated_normal,
)
from toy_walk import make_exploration, wander

# ---- truncated normal


@pytest.mark.parametrize("sigma", [0.5, 0.1, 0.02, 1e-3])
@pytest.mark.parametrize("mean", [0.0, 0.01, 0.37, 1.0])
def test_truncated_normal_matches_scipy(mean: float, sigma: float) -> None:
    sample = sample_truncated_normal(np.random.default_rng(0), np.full(20_000, mean), sigma)
    oracle = stats.truncnorm(-mean / sigma, (1 - mean) / sigma, loc=mean, scale=sigma)
    assert sample.min() >= 0.0 and sample.max() <= 1.0
    error = oracle.std() / np.sqrt(sample.size)
    assert abs(sample.mean() - oracle.mean()) < 5 * error
    assert sample.std() == pytest.approx(oracle.std(), rel=0.05)
    assert stats.kstest(sample, oracle.cdf).pvalue > 1e-4


@pytest.mark.parametrize("sigma", [0.0, 1e-300, 1e-16])
def test_truncated_normal_collapses_onto_its_mean(sigma: float) -> None:
    mean = np.array([0.0, 1e-9, 0.5, 1.0])
    sample = sample_truncated_normal(np.random.default_rng(0), mean, sigma)
    np.testing.assert_allclose(sample, mean, atol=1e-14)


# ---- exploration


def episodes_of(
    exploration: Exploration, proposals: np.ndarray, walks: int, steps: int = 1
) -> list[np.ndarray]:
    """What every episode plays, [steps, A] each, ``walks`` of them at a time."""
    played = []
    for first in range(0, len(proposals), walks):
        here = proposals[first : first + walks]
        exploration.start(len(here))
        actions = [exploration.act(here) for _ in range(steps)]
        exploration.finish()
        played += list(np.stack(actions, axis=1))
    return played


@pytest.mark.parametrize("demonstrations", [0, 2, 5])
def test_sigma_decays_per_episode_from_the_end_of_the_warmup_to_its_floor(
    demonstrations: int,
) -> None:
    exploration = make_exploration(demonstrations=[(0.5,)] * demonstrations)
    sigmas = []
    for _ in range(100):
        sigmas.append(exploration.sigma)
        exploration.start()
        exploration.finish()
    constant = max(3, demonstrations) + 1
    assert sigmas[:constant] == [0.5] * constant
    assert sigmas[constant : constant + 2] == pytest.approx([0.475, 0.45125])
    assert sigmas[-1] == 0.02


def test_demonstrations_come_first_then_random_actions_then_noise_around_the_proposal() -> None:
    shown = [(0.5, 0.25), (1.0, 0.0)]
    exploration = make_exploration(demonstrations=shown, sigma=0.02)
    proposals = np.full((4, 1000), 0.3, dtype=np.float32)
    played = episodes_of(exploration, proposals, walks=1, steps=2)
    for actions, demonstration in zip(played, shown, strict=False):
        assert np.all(actions == np.array(demonstration, dtype=np.float32)[:, None])
    assert played[2].std() > 0.01 and abs(played[2].mean() - 0.5) < 0.05
    assert abs(played[3].mean() - 0.3) < 0.01 and played[3].std() < 0.05
    assert all(actions.dtype == np.float32 for actions in played)


def test_demonstrations_that_outlast_the_warmup_are_all_played() -> None:
    exploration = make_exploration(demonstrations=[(i / 10,) for i in range(6)])
    played = episodes_of(exploration, np.full((6, 1), 0.7, dtype=np.float32), walks=1)
    assert np.ravel(played).tolist() == pytest.approx([i / 10 for i in range(6)])
    assert not exploration.past_warmup  # as many as in a warm-up of six


def test_random_episodes_have_spreads_of_their_own_and_are_uniform_within() -> None:
    exploration = make_exploration(warmup_episodes=400)
    played = np.array(episodes_of(exploration, np.zeros((400, 500)), walks=1))[:, 0]
    spreads = 2 * np.abs(played - 0.5).max(axis=1)
    assert stats.kstest(spreads, "uniform").pvalue > 1e-3
    within = (played - 0.5) / spreads[:, None] + 0.5  # the largest of 500 is close to the spread
    assert stats.kstest(within.ravel()[::97], "uniform").pvalue > 1e-3
    assert np.corrcoef(played[:, 0] - 0.5, played[:, 1] - 0.5)[0, 1] < 0.2


def test_wide_warmup_is_uniform_on_the_whole_range() -> None:
    exploration = make_exploration(warmup_episodes=50, narrow_warmup=False)
    played = np.array(episodes_of(exploration, np.zeros((50, 100)), walks=1))
    assert stats.kstest(played.ravel(), "uniform").pvalue > 1e-3
    assert (2 * np.abs(played - 0.5).max(axis=(1, 2)) > 0.9).all()


def never(rng: np.random.Generator) -> list[float]:
    raise AssertionError("nobody wants a suggestion")


@pytest.mark.parametrize("elite", [0.0, 0.6])
@pytest.mark.parametrize("walks", [2, 3, 8, 12])
def test_walks_side_by_side_draw_what_they_would_draw_one_after_the_other(
    walks: int, elite: float
) -> None:
    """Demonstrations, suggestions, random episodes, and noise of each episode's own deviation."""
    proposals = np.random.default_rng(5).random((12, 2)).astype(np.float32)
    suggested: list[list[float]] = []

    def suggest(rng: np.random.Generator) -> list[float]:
        suggested.append(wander(rng)[:3])
        return suggested[-1]

    def played(walks: int) -> list[np.ndarray]:
        exploration = make_exploration(
            demonstrations=[(0.2, 0.4, 0.6)] * 2, warmup_episodes=5, elite=elite, suggest=suggest
        )
        return episodes_of(exploration, proposals, walks, steps=3)

    together, alone = played(walks), played(1)
    assert all(map(np.array_equal, together, alone))
    assert len({actions.tobytes() for actions in alone[2:]}) == 10  # no two are alike
    number = len(suggested) // 2
    assert suggested[:number] == suggested[number:]
    assert number == sum(np.ptp(actions, axis=1).max() == 0 for actions in alone[2:])
    assert (0 < number < 10) == bool(elite)


@pytest.mark.parametrize(
    "settings",
    [{"warmup_episodes": 9}, {"warmup_episodes": 1, "elite": 0.5, "suggest": wander}],
    ids=["random", "suggested"],
)
def test_an_episode_that_broke_off_is_drawn_again(settings: dict[str, Any]) -> None:
    first, second = make_exploration(**settings), make_exploration(**settings)
    proposals = np.zeros((4, 1))
    expected = episodes_of(first, proposals, walks=2, steps=3)
    second.start(2)
    second.act(proposals[:2])
    assert all(map(np.array_equal, episodes_of(second, proposals, walks=2, steps=3), expected))


@pytest.mark.parametrize("elite", [0.0, 0.25, 0.75, 1.0])
def test_share_of_episodes_that_play_suggestions(elite: float) -> None:
    """Step by step what was suggested, also in the warm-up; else random actions, then noise."""
    exploration = make_exploration(warmup_episodes=500, elite=elite, suggest=lambda _: (0.0, 1.0))
    proposals = np.full((1000, 2), 0.5, dtype=np.float32)
    played = np.array(episodes_of(exploration, proposals, walks=50, steps=2))
    suggested = (played == np.array([0, 1])[:, None]).all(axis=(1, 2))
    assert suggested[:500].mean() == pytest.approx(elite, abs=0.06)
    assert suggested[500:].mean() == pytest.approx(elite, abs=0.06)
    noisy = played[~suggested]
    assert ((noisy > 0) & (noisy < 1)).all()
    assert len(np.unique(noisy)) >= 0.99 * noisy.size


def test_suggestions_are_random_numbers_of_their_own_episode() -> None:
    """Not those that decide whether there is a suggestion: all of [0, 1] comes up."""
    suggested: list[float] = []

    def suggest(rng: np.random.Generator) -> list[float]:
        suggested.extend(wander(rng))
        return suggested[-4:]

    make_exploration(warmup_episodes=0, elite=0.3, suggest=suggest).start(2000)
    assert stats.kstest(suggested, "uniform").pvalue > 1e-3
    assert len(set(suggested)) == len(suggested) > 2000


@pytest.mark.parametrize("shown", [0, 3, 8])
def test_suggestions_begin_where_the_demonstrations_end(shown: int) -> None:
    """Whether the warm-up is over by then or not."""
    exploration = make_exploration(
        warmup_episodes=6, demonstrations=[(0.2, 0.4)] * shown, elite=1.0, suggest=lambda _: (0, 1)
    )
    played = episodes_of(exploration, np.full((12, 1), 0.7, dtype=np.float32), walks=2, steps=2)
    expected = [(0.2, 0.4)] * shown + [(0, 1)] * (12 - shown)
    np.testing.assert_allclose(np.array(played)[..., 0], expected, rtol=1e-6)


def test_without_suggestions_or_a_share_for_them_the_actor_plays_alone() -> None:
    proposals = np.random.default_rng(0).random((20, 1)).astype(np.float32)
    plain = episodes_of(make_exploration(), proposals, walks=4)
    for settings in ({"elite": 1.0}, {"elite": 0.0, "suggest": never}):
        played = episodes_of(make_exploration(**settings), proposals, walks=4)
        assert all(map(np.array_equal, played, plain))


def test_best_episodes_are_those_of_the_highest_rewards() -> None:
    rng = np.random.default_rng(0)
    actions, observations = list(rng.random((12, 4, 1))), list(rng.random((12, 4, 2)))
    rewards = rng.permutation(12).astype(float)
    exploration = make_exploration(warmup_episodes=12)
    exploration.start(12)
    exploration.finish(rewards.tolist(), actions, observations)
    assert exploration.episode == 12
    order = np.argsort(-rewards)
    for count in (1, 3, 12, 50):
        seen, taken = exploration.best(count)
        assert np.array_equal(seen, np.concatenate([observations[i] for i in order[:count]]))
        assert np.array_equal(taken, np.concatenate([actions[i] for i in order[:count]]))


@pytest.mark.parametrize(
    "setting",
    [
        {"warmup_episodes": -1},
        {"demonstrations": [(0.5, 1.5)]},
        {"demonstrations": [(float("nan"),)]},
        {"sigma_min": 0.6},
        {"sigma_decay": 0.0},
        {"sigma": float("nan")},
    ],
)
def test_exploration_refuses_impossible_settings(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        make_exploration(**setting)
