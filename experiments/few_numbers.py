"""Few numbers, many numbers, and agents on either: which finds the best reward in equal trials?

    python experiments/few_numbers.py                       # ResNet-20, digits
    python experiments/few_numbers.py --model mobilenet_v2 --width 0.25 --data glyphs --jobs 16

Every arm gets the same number of evaluations of today's reward, the divergence after the cut on
cached statistics. What is told is the gain over the uniform strategy, the part of its divergence
that is gone, in percent. Arms at once (streams whole, inside only, sensitivities) get one.

A row of the file is one search; what is there is not searched again.
"""

import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import tyro
from bench import Bench
from plan_bandit import bandit

from agents import AGENTS
from amc.allocators.family import Shape, inside_only, shaped, streams_whole
from amc.allocators.problem import AllocationProblem
from amc.allocators.scores import Errors
from amc.allocators.uniform import uniform
from amc.config.sections.recovery import DistillConfig, TrainingConfig
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.proposals import PROPOSALS
from amc.reconstruction.sensitivity import sensitivity
from amc.runtime.files import append
from amc.search.prior import Prior
from amc.search.problem import Problem
from amc.search.search import search
from amc.search.trials import Limits, Trials
from amc.steps.search import evaluator
from envs import gain

AT_ONCE = ("uniform", "streams whole", "inside only", "sensitivity")
"""Arms that are one strategy. The others are allocators, agents with the name of their prior, and
`bandit`."""


@dataclass(frozen=True)
class Study:
    """What to search."""

    model: str = "resnet20"
    width: float = 1.0
    data: str = "digits"
    metric: str = "obs"
    ratios: tuple[float, ...] = (0.3, 0.15)
    episodes: tuple[int, ...] = (60, 200)
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: tuple[str, ...] = (
        *AT_ONCE, "random", "evolution", "screened", "cem", "bandit", "ddpg", "ddpg sensitivity",
        "ddpg cem",
    )  # fmt: skip
    jobs: int = 1
    """Processes, one thread each."""
    file: Path = Path("runs/few_numbers.jsonl")


@dataclass(frozen=True)
class Task:
    """One search."""

    model: str
    width: float
    data: str
    metric: str
    ratio: float
    arm: str
    episodes: int
    seed: int


def tasks(study: Study) -> Iterator[Task]:
    """All searches, the short ones first."""
    place = (study.model, study.width, study.data, study.metric)
    for ratio, arm in product(study.ratios, study.arms):
        if arm in AT_ONCE:
            yield Task(*place, ratio, arm, 1, 0)
    for episodes, seed, ratio, arm in product(
        sorted(study.episodes), study.seeds, study.ratios, study.arms
    ):
        if arm not in AT_ONCE:
            yield Task(*place, ratio, arm, episodes, seed)


@cache
def bench(model: str, width: float, data: str, metric: str) -> Bench:
    """Network and statistics, once in every process."""
    return Bench(model, data, metric, width)


@cache
def evaluated(model: str, width: float, data: str, metric: str) -> Any:
    """What a strategy is worth; known to all arms, each of which counts it anew."""
    made = bench(model, width, data, metric)
    return evaluator(made.job, made.compressor, TrainingConfig(), DistillConfig())


def at_once(arm: str, budget: Budget, errors: Errors) -> Strategy | None:
    """The strategy of an arm that needs no search; None where there is none."""
    if arm == "uniform":
        return uniform(budget, errors)
    if arm == "sensitivity":
        return shaped(budget, errors, Shape(exponent=0.5))
    return (streams_whole if arm == "streams whole" else inside_only)(budget, errors)


def searched(task: Task) -> dict[str, Any]:
    """What one search found: gain of the best strategy over the uniform one, seconds."""
    torch.set_num_threads(1)
    place = (task.model, task.width, task.data, task.metric)
    made, evaluate, start = bench(*place), evaluated(*place), time.perf_counter()
    budget = made.budget(task.ratio)
    errors = sensitivity(made.compressor, budget)
    trials = Trials(evaluate, made.job.reward, Limits(task.episodes), allows=budget.allows)
    problem = Problem(budget, trials, errors)
    standard = made.job.reward(evaluate(uniform(budget, errors)))
    if task.arm in AT_ONCE:
        strategy = at_once(task.arm, budget, errors)
        best = None if strategy is None else made.job.reward(evaluate(strategy))
    else:
        method, _, prior = task.arm.partition(" ")
        asked = AllocationProblem(budget, errors, seed=task.seed, episodes=task.episodes)
        proposals = bandit(asked) if method == "bandit" else None
        assert method in (*AGENTS, *PROPOSALS, "bandit")
        priors: dict[str, Prior] = {"sensitivity": "sensitivity", "cem": "cem"}
        kept = priors.get(prior, "uniform")
        best = search(problem, method, seed=task.seed, proposals=proposals, prior=kept).best.reward
    return {
        **asdict(task),
        "uniform": standard,
        "reward": best,
        "gain": None if best is None else 100 * gain(best, standard),
        "seconds": round(time.perf_counter() - start, 1),
    }


def missing(study: Study) -> list[Task]:
    """Searches that are not in the file."""
    names = [field.name for field in fields(Task)]
    known = [{name: row[name] for name in names} for row in rows(study.file)]
    return [task for task in tasks(study) if asdict(task) not in known]


def rows(file: Path) -> list[dict[str, Any]]:
    """What is in the file; a line that was cut short is not."""
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def spread(values: list[float]) -> str:
    """Mean ± standard deviation, in percent."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{mean(values):.1f} ± {stdev(values):.1f}"


def table(study: Study) -> None:
    """Prints the gains of all arms that are in the file."""
    found: dict[tuple[str, float, int], list[float]] = {}
    place = {k: getattr(study, k) for k in ("model", "width", "data", "metric")}
    for row in rows(study.file):
        if all(row[k] == v for k, v in place.items()) and row["gain"] is not None:
            found.setdefault((row["arm"], row["ratio"], row["episodes"]), []).append(row["gain"])
    cells = [(r, e) for r in study.ratios for e in study.episodes]
    print("| arm | " + " | ".join(f"{r:g}, {e} episodes" for r, e in cells) + " |")
    print("|---|" + "---|" * len(cells))
    for arm in study.arms:
        values = [found.get((arm, r, 1 if arm in AT_ONCE else e), []) for r, e in cells]
        print(f"| {arm} | " + " | ".join(map(spread, values)) + " |", flush=True)


def main() -> None:
    """Searches what is missing and prints the table."""
    study = tyro.cli(Study)
    study.file.parent.mkdir(parents=True, exist_ok=True)
    left = missing(study)
    if left:
        _ = bench(study.model, study.width, study.data, study.metric).model  # fills the cache
    context = multiprocessing.get_context("spawn")
    with context.Pool(study.jobs) as pool:
        done: Iterator[Mapping[str, Any]] = pool.imap_unordered(searched, left)
        if study.jobs == 1:
            done = map(searched, left)
        for number, row in enumerate(done, start=1):
            append(study.file, json.dumps(row))
            print(f"{number}/{len(left)}", json.dumps(row), flush=True)
    table(study)


if __name__ == "__main__":
    main()
