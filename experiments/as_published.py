"""How long does AMC as it was published take to its best reward, and how long do we to the same?

    python experiments/as_published.py --data digits --preserve-ratio 0.15

The published search (He et al. 2018 and its code), on our graph so that it runs on this network at
all: channels by L1 norm; weights by scikit-learn's linear regression on cached samples in every
episode; raw ratios under the one-sided wall, which hands the budget out front to back; rounding
after the wall; the whole network with zeros is validated; 400 episodes, 100 of them random; the
reward is the accuracy. Ours is the search of `python -m amc.train` with the same images. Both
times start when the trained network is loaded: calibration is part of them.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from bench import Bench
from gymnasium import spaces
from sklearn.linear_model import LinearRegression
from torch import nn

from agents import AmcDDPG, Settings
from amc.calibration.calibrate import calibrated_layers
from amc.calibration.columns import input_columns
from amc.calibration.rows import Rows
from amc.calibration.statistics import Batches, Recorder, Sampling
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Strategy
from amc.graph.shrink import mask, tensors
from amc.metrics import METRICS, selection_of
from amc.metrics.metric import Evidence
from amc.objectives.budget import Budget
from amc.reconstruction.sensitivity import sensitivity
from amc.search.evaluator import evaluator
from amc.search.problem import Problem
from amc.search.search import search
from amc.search.trials import LimitReached, Limits, Trials
from amc.tasks.evaluate import evaluate
from envs import REWARDS
from envs.channel_pruning import Array
from envs.features import Features
from envs.outcome import Episode

PUBLISHED = Settings(
    warmup_episodes=100,
    narrow_warmup=False,
    gamma=1.0,
    reward_on="every",
    baseline="batch",
    baseline_decay=0.5,
    net_arch=(300, 300),
    actor_lr=1e-4,
    sigma=0.5,
    sigma_decay=0.95,
    sigma_min=0.02,
    elite=0.0,
    imitated=0,
)


@dataclass(frozen=True)
class Setting:
    """What to compare on."""

    model: str = "resnet20"
    data: str = "digits"
    preserve_ratio: float = 0.15
    episodes: int = 400
    rows: int = 30_000
    """Sampled rows per layer at most; the published code has 60 batches of 50 images, 10 points
    each."""
    seed: int = 0


class PublishedWalk(gymnasium.Env[Array, Array]):
    """Raw ratios under the one-sided wall, rounded afterwards, reward only at the end."""

    def __init__(
        self, budget: Budget, worth: Callable[[Strategy], float], least: float = 0.2
    ) -> None:
        self.budget, self.worth, self.least = budget, worth, least
        self.features = Features(budget)
        self.sizes = np.array([g.size for g in budget.graph.decisions])
        self.observation_space = spaces.Box(0.0, 1.0, (11,), np.float32)
        self.action_space = spaces.Box(0.0, 1.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Starts a walk."""
        super().reset(seed=seed)
        self.decided: list[int] = []
        return self.features.at(np.array([], dtype=np.int64))[:11], {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Clips, then rounds; the network is measured at the end."""
        t = len(self.decided)
        ratio = min(max(float(action[0]), self.least), self.wall(t))
        self.decided.append(max(1, round(ratio * self.sizes[t])))
        done = len(self.decided) == len(self.sizes)
        reward = 0.0
        if done:
            reward = self.worth(self.budget.strategy(self.decided))
        info = {"executed_action": np.array([ratio], dtype=np.float32)}
        return self.features.at(np.array(self.decided))[:11], reward, done, False, info

    def wall(self, t: int) -> float:
        """The largest ratio with which all later groups at the lower bound still fit."""
        rest = np.maximum(1, np.rint(self.least * self.sizes)).astype(np.int64)
        rest[:t] = self.decided
        low, high = self.least, 1.0
        for _ in range(12):
            middle = (low + high) / 2
            rest[t] = max(1, math.floor(middle * self.sizes[t]))
            fits = self.budget.graph.cost.macs(rest) <= self.budget.target
            low, high = (middle, high) if fits else (low, middle)
        return low


class Fake:
    """Cuts by zeros, with weights regressed on cached samples of the original network."""

    def __init__(self, graph: ChannelGraph, model: nn.Module, batches: Batches, rows: int) -> None:
        self.graph, self.model = graph, model
        evidence = Evidence(graph, model, {})
        self.order = {g.name: selection_of(METRICS["l1"], evidence, g) for g in graph.decisions}
        layers = calibrated_layers(graph)
        recorder, parts = Recorder(model, layers, Sampling()), dict[str, list[Rows]]()
        with torch.no_grad():
            for number, (images, _) in enumerate(batches):
                for name, found in recorder.run(images, number).items():
                    parts.setdefault(name, []).extend(found)
        rng = np.random.default_rng(0)
        self.samples = {}
        for layer in layers:
            x = torch.cat([r.x[0] for r in parts[layer.name]]).numpy()
            y = torch.cat([r.y[0] for r in parts[layer.name]]).numpy()
            chosen = rng.permutation(len(x))[:rows]
            self.samples[layer.weight] = x[chosen], y[chosen], layer

    def cut(self, strategy: Strategy) -> nn.Module:
        """The network of the old size, zeros for what is gone."""
        plan = self.graph.plan({n: self.order[n](k) for n, k in strategy.items()})
        small = mask(self.model, plan).eval()
        state = tensors(small)
        inputs = {(c.tensor, c.dim): c.keep for c in plan.cuts}
        for name, (x, y, layer) in self.samples.items():
            kept = inputs.get((name, layer.in_dim))
            if kept is None:
                continue
            weight = state[name]
            columns = input_columns(torch.tensor(kept), weight).flatten()
            fitted = LinearRegression(fit_intercept=False).fit(x[:, columns.numpy()], y)
            flat = torch.zeros(weight.shape[0], weight[0].numel())
            flat[:, columns] = torch.from_numpy(fitted.coef_).float()
            alive = weight.flatten(1).abs().sum(1) > 0
            with torch.no_grad():
                weight.copy_((flat * alive[:, None]).reshape(weight.shape))
        return small


def main() -> None:
    """Runs both and prints the table."""
    setting = tyro.cli(Setting)
    bench = Bench(setting.model, setting.data, "lasso")
    budget, validation = bench.budget(setting.preserve_ratio), bench.job.validation
    images, rng = bench.images, setting.seed
    start = time.perf_counter()
    fake = Fake(bench.graph, bench.model, images, setting.rows)
    rewards: list[float] = []
    times: list[float] = []

    def worth(strategy: Strategy) -> float:
        rewards.append(evaluate(fake.cut(strategy), validation).accuracy)
        times.append(time.perf_counter() - start)
        return rewards[-1]

    warmup = min(PUBLISHED.warmup_episodes, setting.episodes)
    agent = AmcDDPG(
        PublishedWalk(budget, worth), replace(PUBLISHED, warmup_episodes=warmup), seed=rng
    )
    agent.learn_episodes(setting.episodes)
    best = int(np.argmax(rewards))

    start = time.perf_counter()
    reached: list[tuple[int, float]] = []

    def watch(episode: Episode) -> None:
        if episode.outcome.score.accuracy >= rewards[best]:
            reached.append((episode.number, time.perf_counter() - start))
            raise LimitReached

    trials = Trials(
        evaluator(bench.compressor, validation),
        REWARDS["divergence"],
        Limits(setting.episodes),
        on_episode=watch,
    )
    errors = sensitivity(bench.compressor, budget)
    search(Problem(budget, trials, errors), seed=setting.seed)
    print(f"{setting.model}, {setting.data}, {setting.preserve_ratio:g}, seed {setting.seed}")
    print("| search | best accuracy, validation | at episode | seconds to it | all episodes, s |")
    print("|---|---|---|---|---|")
    print(f"| as published | {rewards[best]:.3f} | {best} | {times[best]:.1f} | {times[-1]:.1f} |")
    if reached:
        number, seconds = reached[0]
        print(f"| ours, to the same | {rewards[best]:.3f} | {number} | {seconds:.1f} | |")
        print(f"ratio: {times[best] / seconds:.0f}")
    else:
        print(f"| ours | {trials.best.outcome.score.accuracy:.3f} | not reached | | |")


if __name__ == "__main__":
    main()
