"""What an episode of the search costs, against its floor.

    python experiments/episode_cost.py --model resnet20 --data glyphs --preserve-ratio 0.3

The floor of an episode is one validation pass of the uniform cut and the agent's gradient
steps. A search is run twice in one process with the same seed; the second time all solutions and
slices are remembered, and that one is measured: selection, reconstruction, cutting and environment
are what is left over. Compare the ratios, the milliseconds depend on the machine.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tyro
from bench import Bench

import amc.search.evaluator
from agents import AmcDDPG
from amc.allocators.uniform import uniform
from amc.reconstruction.sensitivity import sensitivity
from amc.runtime.feed import Feed
from amc.search.evaluator import evaluator
from amc.search.problem import Problem
from amc.search.search import Settings, search
from amc.search.trials import Limits, Trials
from amc.tasks.evaluate import evaluate
from envs.rewards import divergence


@dataclass(frozen=True)
class Setting:
    """What to measure."""

    model: str = "resnet20"
    data: str = "glyphs"
    preserve_ratio: float = 0.3
    episodes: int = 60
    threads: int = 2
    device: str = "cpu"


@contextmanager
def timed(place: Any, name: str, spent: list[float]) -> Iterator[None]:
    """Adds up the seconds in a function while the context lasts."""
    function: Callable[..., Any] = getattr(place, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent.append(time.perf_counter() - start)

    setattr(place, name, wrapper)
    yield
    setattr(place, name, function)


def main() -> None:
    """Prints the table."""
    setting = tyro.cli(Setting)
    torch.set_num_threads(setting.threads)
    bench = Bench(setting.model, setting.data, device=setting.device)
    budget, validation = bench.budget(setting.preserve_ratio), bench.job.validation

    def once() -> float:
        start = time.perf_counter()
        trials = Trials(
            evaluator(bench.compressor, validation), divergence, Limits(setting.episodes)
        )
        errors = sensitivity(bench.compressor, budget)
        search(Problem(budget, trials, errors), settings=Settings(warmup_episodes=2))
        return time.perf_counter() - start

    cold = once()
    validating: list[float] = []
    learning: list[float] = []
    with (
        timed(amc.search.evaluator, "evaluate", validating),
        timed(AmcDDPG, "train", learning),
        timed(AmcDDPG, "_imitate", learning),
    ):
        warm = once()
    small = bench.compressor.cut(uniform(budget))
    evaluate(small, validation, batch_statistics=True)
    passes = []
    for _ in range(15):
        start = time.perf_counter()
        evaluate(small, validation, batch_statistics=True)
        passes.append(time.perf_counter() - start)

    n = setting.episodes
    floor = float(np.median(passes)) + sum(learning) / n
    rest = (warm - sum(validating) - sum(learning)) / n
    print(f"{setting.model}, {setting.data}, {setting.preserve_ratio:g} of the MACs")
    print("| per episode | ms | of the floor |\n|---|---|---|")
    for name, value in (
        (f"validation pass of the uniform cut, {passes_of(validation)} images", np.median(passes)),
        (f"agent, {len(budget.options)} gradient steps", sum(learning) / n),
        ("floor: both", floor),
        ("validation passes of the strategies tried", sum(validating) / n),
        ("selection, reconstruction, cutting, environment", rest),
        ("whole episode, solutions remembered", warm / n),
        ("whole episode, nothing remembered", cold / n),
    ):
        print(f"| {name} | {1e3 * value:.1f} | {value / floor:.3f} |")


def passes_of(validation: list[tuple[Feed, torch.Tensor]]) -> int:
    """Images in the validation pass."""
    return sum(len(labels) for _, labels in validation)


if __name__ == "__main__":
    main()
