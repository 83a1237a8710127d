"""A search whose every strategy costs nothing to measure, its record, and ways to stop it."""

import json
import multiprocessing
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import amc
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.search.problem import Found, Problem
from amc.search.search import Settings, search
from amc.search.trials import Limits, Trials
from amc.tasks.evaluate import Score
from envs import Outcome
from envs.outcome import Episode
from toy_walk import assert_same_state

Evaluate = Callable[[Strategy], Outcome]

ABOUT = {"model": "chain", "seed": 0, "preserve_ratio": 0.5, "reward": "accuracy"}

forking = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="workers are forked"
)


@cache
def budget() -> Budget:
    """Four decisions with many allowed counts."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 32, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(32 * 8, 20), nn.ReLU(), nn.Linear(20, 4),
    )  # fmt: skip
    return Budget(amc.trace(model, (torch.randn(2, 3, 8, 6),)), 0.5)


def cheap(strategy: Strategy) -> Outcome:
    """An outcome without a network, of numbers whose decimals have no end."""
    graph = budget().graph
    counts = graph.counts(strategy)
    wished = np.arange(1, len(counts) + 1) / len(counts)
    score = float(1 - np.mean((counts / [g.size for g in graph.decisions] - wished) ** 2) / 3)
    return Outcome(
        Score(score, 1 - score, 10, (1 - score) / 7),
        graph.cost.macs(counts),
        graph.cost.params(counts),
    )


@cache
def errors() -> dict[str, np.ndarray]:
    """Errors of every group by which strategies are screened."""
    pairs = zip(budget().graph.decisions, budget().options, strict=True)
    return {group.name: (1 - options / group.size) ** 2 for group, options in pairs}


def reward(outcome: Outcome) -> float:
    return outcome.score.accuracy


def of(accuracy: float) -> Outcome:
    return Outcome(Score(accuracy, 1 - accuracy, 10), 100, 50)


def searched(
    record: Path | None,
    method: str = "ddpg",
    episodes: int = 10,
    evaluate: Evaluate = cheap,
    limits: Limits | None = None,
    on_episode: Callable[[Episode], None] = lambda episode: None,
    about: dict[str, Any] = ABOUT,
    **more: Any,
) -> Found:
    limits = limits or Limits(episodes)
    trials = Trials(evaluate, reward, limits, record, about, on_episode)
    settings = Settings(net_arch=(16, 16), warmup_episodes=4)
    return search(Problem(budget(), trials, errors()), method, settings=settings, **more)


def assert_same(first: Found, second: Found) -> None:
    assert first.history == second.history
    assert first.best == second.best
    assert (first.agent is None) == (second.agent is None)
    if first.agent is not None and second.agent is not None:
        assert_same_state(first.agent, second.agent)


@cache
def undisturbed(method: str, episodes: int = 10, walks: int = 1) -> Found:
    return searched(None, method, episodes, walks=walks)


def lines(record: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.read_text().splitlines()]


class Stopped(Exception):
    """Whatever goes wrong in the middle of a measurement."""


def stopping(at: int, error: type[BaseException], evaluate: Evaluate = cheap) -> Evaluate:
    """Measures, but for the call of this number, counted from 0."""
    calls = count()

    def measured(strategy: Strategy) -> Outcome:
        if next(calls) == at:
            raise error
        return evaluate(strategy)

    return measured


def some_strategies(number: int) -> list[Strategy]:
    rng = np.random.default_rng(number)
    found = []
    for _ in range(number):
        decided: list[int] = []
        for action in rng.random(4):
            decided.append(budget().execute(decided, float(action))[0])
        found.append(budget().strategy(decided))
    return found
