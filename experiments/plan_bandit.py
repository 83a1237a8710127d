"""A whole plan as one action: a policy scores every group, and K plans are played at a time.

The score of a group is the logarithm of the part that it keeps, up to a common factor that the
budget decides. A small network maps what the environment shows of a group to the mean of its
score; plans are drawn around these, measured, and the policy moves towards those that were better
than the mean of their update (REINFORCE with that mean as the baseline; Williams 1992).
"""

import numpy as np
import torch
from torch import nn

from amc.allocators.family import Shape, weights
from amc.allocators.problem import AllocationProblem, Proposals
from amc.allocators.uniform import uniform
from amc.graph.arrays import FloatArray
from envs.features import Features

PLANS = 8
"""Plans of an update."""

SIGMA, LAST_SIGMA = 0.3, 0.1
"""Standard deviation of a score at the beginning and at the end."""

RATE, STEPS = 3e-3, 4
"""Of Adam, and its steps in an update."""


def bandit(problem: AllocationProblem) -> Proposals:
    """The uniform strategy, then plans of a policy that learns from all plans of an update."""
    budget, rng = problem.budget, np.random.default_rng(problem.seed)
    first = budget.graph.counts(uniform(budget, problem.errors or None))
    yield budget.strategy(first)
    features = Features(budget, problem.errors or None)
    seen = torch.from_numpy(np.stack([features.at(first[:t]) for t in range(len(first))])).float()
    before = torch.from_numpy(np.log(weights(budget, problem.errors, Shape(0.5)))).float()
    generator = torch.Generator().manual_seed(problem.seed)
    last = nn.Linear(64, 1)
    policy = nn.Sequential(nn.Linear(seen.shape[1], 64), nn.Tanh(), last)
    with torch.no_grad():
        for value in policy.parameters():
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
        for value in last.parameters():
            value.zero_()  # it begins with the sensitivities
    optimiser = torch.optim.Adam(policy.parameters(), RATE)
    updates = max((problem.episodes - 1) // PLANS, 1)
    for update in range(10**6):
        sigma = SIGMA * (LAST_SIGMA / SIGMA) ** min(update / updates, 1)
        mean = before + policy(seen)[:, 0].detach()
        drawn = [mean.numpy() + sigma * rng.normal(size=len(first)) for _ in range(PLANS)]
        rewards: list[float] = []
        for scores in drawn:
            counts = budget.proportional(_shares(scores))
            rewards.append((yield budget.strategy(counts)))
        ranks = np.argsort(np.argsort(rewards)) / (PLANS - 1) - 0.5  # of any scale of rewards
        worth = torch.from_numpy(ranks - ranks.mean()).float()
        played = torch.from_numpy(np.stack(drawn)).float()
        for _ in range(STEPS):
            apart = (played - (before + policy(seen)[:, 0])) / sigma
            loss = (worth * (apart**2).sum(dim=1) / 2).mean()  # minus advantage x log density
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()


def _shares(scores: FloatArray) -> FloatArray:
    shares: FloatArray = np.exp(np.asarray(scores, dtype=np.float64))
    return shares
