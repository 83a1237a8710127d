"""Actions as residuals on a prior: 0.5 is the prior exactly, uniform stays what it was."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import amc
from agents import Settings
from amc.allocators.family import Shape, shaped, weights
from amc.allocators.uniform import uniform
from amc.config.train import TrainConfig
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.search.policies import ACTION, ON_PRIOR, load_learned, prior_of, save_learned
from amc.search.prior import PART, SENSITIVITY, Prior, Recalled, begun
from amc.search.problem import Found, Problem, on_prior, proposed
from amc.search.search import learn, search
from amc.search.trials import Limits, Trials
from envs import Outcome
from small_problems import (
    SETTINGS,
    TARGETS,
    budget_of,
    bundled,
    chain,
    cheap,
    errors_of,
    minus_loss,
    walked,
)

SHAPE = Shape(0.6, 1.5, -0.8, 1.2)


def uneven(budget: Budget) -> dict[str, np.ndarray]:
    """Errors that differ from group to group."""
    known = errors_of(budget)
    return {name: (1 + t) * e for t, (name, e) in enumerate(known.items())}


def problem(episodes: int, ratio: float = 0.5, record: Path | None = None) -> Problem:
    budget = budget_of(ratio, chain)
    trials = Trials(cheap(budget), minus_loss, Limits(episodes), record, {"seed": 0})
    return Problem(budget, trials, uneven(budget))


def searched(prior: Prior, episodes: int = 30, seed: int = 0, walks: int = 1) -> Found:
    return search(problem(episodes), seed=seed, settings=SETTINGS, prior=prior, walks=walks)


# --- budgets with a prior


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_one_half_everywhere_is_the_prior(name: str, multiple: int) -> None:
    budget = Budget(bundled(name), 0.4, multiple=multiple)
    errors = uneven(budget)
    on_shape = on_prior(budget, errors, SHAPE)
    expected = shaped(budget, errors, SHAPE)
    half = walked(on_shape, [0.5] * len(budget.options))
    assert budget.strategy(budget.complete(list(half.values()))) == expected
    actions = on_shape.actions(half)
    assert actions == [0.5] * len(actions)
    assert uniform(on_shape, errors) == uniform(budget, errors) != expected
    assert on_shape.even_ratio() == budget.even_ratio()
    assert on_prior(on_shape, errors, None) == budget


def test_every_walk_on_a_prior_ends_inside_the_budget_and_back() -> None:
    budget = Budget(bundled("resnet20"), 0.4)
    on_shape, rng = on_prior(budget, uneven(budget), SHAPE), np.random.default_rng(0)
    for _ in range(20):
        found = walked(on_shape, rng.random(len(budget.options)))
        assert budget.floor <= budget.cost(budget.graph.counts(found)) <= budget.target
        assert walked(on_shape, on_shape.actions(found)) == found


def test_an_equal_prior_is_the_uniform_strategy() -> None:
    budget = budget_of(0.5, chain)
    equal = replace(budget, prior=(2.0,) * len(budget.options))
    assert walked(equal, [0.5] * 4) == walked(budget, [0.5] * 4)


# --- searches


def test_the_sensitivity_prior_is_the_second_episode() -> None:
    found, budget = searched("sensitivity", 12), budget_of(0.5, chain)
    assert found.history[0].strategy == uniform(budget)
    assert found.history[1].strategy == shaped(budget, uneven(budget), SENSITIVITY)
    assert found.shape == SENSITIVITY and len(found.history) == 12


@pytest.mark.parametrize("walks", [1, 3])
def test_cem_takes_a_fifth_of_the_episodes_and_the_agent_has_seen_them(walks: int) -> None:
    episodes = 40
    found, budget = searched("cem", episodes, walks=walks), budget_of(0.5, chain)
    assert len(found.history) <= episodes and len(found.history) > episodes - walks
    first = found.history[: round(PART * episodes)]
    assert first[0].strategy == uniform(budget)
    best = max(first[1:], key=lambda episode: episode.reward)
    assert found.shape is not None
    assert shaped(budget, uneven(budget), found.shape) == best.strategy
    assert best.reward > first[0].reward
    agent = found.agent
    assert agent is not None
    seen = agent.exploration.rewards
    assert np.allclose(seen[: len(first)], [episode.reward for episode in first])
    # those of the numbers are walked once more, for nothing; the last walk is not the agent's
    assert agent.exploration.episode == len(found.history) - 1


def test_where_no_numbers_are_better_the_prior_is_uniform() -> None:
    budget = budget_of(0.5, chain)
    best = uniform(budget)

    def outcome(strategy: Strategy) -> Outcome:
        return cheap(budget)(strategy) if strategy != best else replace_score(cheap(budget)(best))

    trials = Trials(outcome, minus_loss, Limits(30))
    (one,), shape = begun([Problem(budget, trials, uneven(budget))], "cem", None, 0)
    assert shape == Shape() and len(set(one.budget.prior)) == 1


def replace_score(outcome: Outcome) -> Outcome:
    return replace(outcome, score=replace(outcome.score, accuracy=2.0, loss=-1.0))


@pytest.mark.parametrize("prior", ["sensitivity", "cem"])
def test_a_search_on_a_prior_repeats_and_goes_on_from_its_record(
    prior: Prior, tmp_path: Path
) -> None:
    def run(episodes: int) -> Found:
        return search(
            problem(episodes, record=tmp_path / "r.jsonl"), settings=SETTINGS, prior=prior
        )

    first = run(24)
    text = (tmp_path / "r.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "r.jsonl").write_text("".join(text[:10]))  # killed in the middle
    again = run(24)
    assert first.history == again.history == searched(prior, 24).history
    assert first.agent is not None and again.agent is not None
    for key, value in first.agent.policy.state_dict().items():
        assert torch.equal(value, again.agent.policy.state_dict()[key])


def test_without_a_prior_nothing_has_changed() -> None:
    found, budget = searched("uniform", 12), budget_of(0.5, chain)
    assert found.shape is None
    (one,), shape = begun([problem(12)], "uniform", None, 0)
    assert shape is None and one.budget == budget


@pytest.mark.parametrize("episodes", [1, 2, 3, 8])
def test_few_episodes_are_enough_to_begin(episodes: int) -> None:
    found = searched("cem", episodes)
    assert len(found.history) == episodes
    assert found.history[0].strategy == uniform(budget_of(0.5, chain))


def test_recalled_strategies_are_known_once() -> None:
    one = problem(10)
    first, other = uniform(one.budget), walked(one.budget, [0.2, 0.8, 0.5, 0.5])
    one.trials(first)
    recalled = Recalled(one.trials)
    assert recalled.new([first, other]) == [other]
    assert recalled(first) == one.trials.history[0].outcome and len(one.trials.history) == 1
    recalled(first)
    assert len(one.trials.history) == 2 and recalled.new([first]) == [first]


# --- policies


@pytest.mark.parametrize("prior", ["sensitivity", "cem"])
def test_one_policy_for_many_budgets_has_one_shape(prior: Prior, tmp_path: Path) -> None:
    problems = [problem(15, ratio) for ratio in TARGETS]
    found = learn(problems, settings=SETTINGS, prior=prior)
    assert all(len(one.history) == 15 for one in found)
    for one, asked in zip(found, problems, strict=True):
        assert one.history[0].strategy == uniform(asked.budget)
    (shape,) = {one.shape for one in found}
    assert shape is not None
    best = [(asked.budget, one.best.strategy) for asked, one in zip(problems, found, strict=True)]
    save_learned(tmp_path, found[0].agent, best, ["chain"], 0, shape)
    policy = load_learned(tmp_path)
    assert policy.metadata["action"] == ON_PRIOR and prior_of(policy) == shape
    for other in (budget_of(0.4, chain), Budget(bundled("resnet20"), 0.3)):
        errors = uneven(other)
        there = proposed(policy, other, errors)
        assert other.allows(there)
        assert there == proposed(policy, on_prior(other, errors, shape), errors)
    again = search(problem(12), policy=policy, settings=SETTINGS)
    assert again.shape == shape and again.history[1].strategy == proposed(
        policy, budget_of(0.5, chain), uneven(budget_of(0.5, chain))
    )


def test_policies_of_before_have_no_prior(tmp_path: Path) -> None:
    found = searched("uniform", 8)
    save_learned(tmp_path, found.agent, [(budget_of(0.5, chain), found.best.strategy)], ["x"], 0)
    policy = load_learned(tmp_path)
    assert policy.metadata["action"] == ACTION and prior_of(policy) is None


@pytest.mark.parametrize("prior", [None, 3, {"exponent": "much"}, {"slope": 1.0}])
def test_a_damaged_prior_is_refused(prior: object) -> None:
    policy = Damaged(prior)
    with pytest.raises(amc.AmcError, match=r"^--policy: its prior is damaged") as refused:
        prior_of(policy)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


class Damaged:
    def __init__(self, prior: object) -> None:
        self.metadata = {"action": ON_PRIOR, "prior": prior}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prior": "cem", "allocator": "evolution"}, "--allocator evolution has none"),
        ({"prior": "cem", "policy": Path("a")}, "--policy brings the prior"),
    ],
)
def test_priors_belong_to_agents_without_a_policy(given: dict[str, object], message: str) -> None:
    with pytest.raises(amc.AmcError, match=message):
        TrainConfig.of(**given)


def test_weights_of_a_prior_are_those_of_the_budget_at_hand() -> None:
    shares: Sequence[float] = on_prior(budget_of(0.5, chain), None, SHAPE).prior
    assert np.allclose(shares, weights(budget_of(0.5, chain), {}, SHAPE))
    assert Settings().warmup_episodes == 10
