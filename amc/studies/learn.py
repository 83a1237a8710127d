"""One policy for many budgets and networks, each with the record of its own search."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from amc.config.composed import as_json, flags
from amc.config.many_budgets import LearnConfig
from amc.config.sections.recovery import DistillConfig, TrainingConfig
from amc.config.train import record_settings
from amc.objectives.budget import Budget
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.sensitivity import sensitivity
from amc.reporting.learned import learned_table
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.runs.terminal import Bar
from amc.runtime.files import safe_name, write_json
from amc.search.policies import save_learned
from amc.search.problem import Found, Problem
from amc.search.search import Settings
from amc.search.search import learn as learn_all
from amc.search.trials import Limits, Trials
from amc.steps.cut import calibrate
from amc.steps.job import Job
from amc.steps.limits import make_budget
from amc.steps.search import evaluator
from amc.steps.setup import Network, build_network, load_network, trace_network
from amc.steps.shared import shared_for
from envs.outcome import Episode


@dataclass(frozen=True)
class Lesson:
    """One budget of one network."""

    model: str
    budget: Budget
    problem: Problem
    log: TensorBoardLog


def lessons_of(
    job: Job,
    network: Network,
    compressor: Compressor,
    budgets: Sequence[Budget],
    config: LearnConfig,
    bar: Bar,
) -> list[Lesson]:
    """All budgets of one network; they share statistics and what is known of strategies."""
    graph, folder, lessons = network.graph, config.folder, list[Lesson]()
    evaluate = evaluator(job, compressor, TrainingConfig(), DistillConfig())
    alike = {budget.multiple: budget for budget in budgets}  # the same counts are allowed
    errors = {multiple: sensitivity(compressor, one) for multiple, one in alike.items()}
    for budget in budgets:
        name = safe_name(f"{network.name}-{budget.preserve_ratio:g}")
        log = TensorBoardLog(folder / name, graph.sizes, graph.macs(), job.task)

        def show(episode: Episode, log: TensorBoardLog = log) -> None:
            log.episode(episode)
            bar.step(f"reward {episode.reward:.4f}  best {episode.best:.4f}")

        about = {
            **record_settings(config),
            "model": network.name,
            "seed": config.seed,
            "preserve_ratio": budget.preserve_ratio,
            "agent": config.agent,
            "prior": config.prior,
            "episodes": config.each,
            "with": [config.models, config.ratios],
            "choice": " ".join(flags(config.restrictions)),
            "weights": network.fingerprint,
        }
        record = folder / f"{name}.jsonl"
        trials = Trials(evaluate, job.reward, Limits(config.each), record, about, show)
        problem = Problem(budget, trials, errors[budget.multiple])
        lessons.append(Lesson(network.name, budget, problem, log))
    return lessons


def account_of(lesson: Lesson, found: Found) -> dict[str, Any]:
    """What came of one budget, as JSON values."""
    first, last = found.history[0], found.history[-1]
    return {
        "model": lesson.model,
        "target": lesson.budget.preserve_ratio,
        "macs_ratio": round(last.outcome.macs / lesson.budget.graph.macs(), 6),
        "reward": {"uniform": first.reward, "best": found.best.reward, "policy": last.reward},
        "accuracy": {
            "uniform": first.outcome.score.accuracy,
            "best": found.best.outcome.score.accuracy,
            "policy": last.outcome.score.accuracy,
        },
    }


WARMUP = 10
"""Episodes before the agent learns, if there are no more budgets than that."""


def learn(
    job: Job,
    config: LearnConfig,
    training: TrainingConfig | None = None,
    distill: DistillConfig | None = None,
) -> Path:
    """One policy for all budgets of all networks, in the folder of the settings.

    Args:
        job: the run.
        config: what is learned.
        training: how shared weights are trained, where these are the reward; as usual if it is not
            said.
        distill: likewise.
    """
    terminal, folder = job.terminal, config.folder
    torch.manual_seed(config.seed)

    # What can be removed, and are all targets reachable? Nothing long runs before this is known.
    outlines = []
    for name in config.models:
        named = replace(config.network, model=name)
        given = build_network(job, named)
        own = job.for_network(given)
        graph = trace_network(own, given, config.restrictions)
        budgets = [make_budget(graph, ratio, config) for ratio in config.ratios]
        outlines.append((own, named, given, graph, budgets))

    # The networks with their weights and statistics.
    pupils = []
    for own, named, given, graph, budgets in outlines:
        network = load_network(own, given, graph, named, config.data)
        terminal.say(*network.overview(own, *budgets))
        compressor, place = calibrate(own, graph, network.model), folder / safe_name(network.name)
        shared = shared_for(
            own, network, compressor, budgets, config.data, place, training, distill
        )
        if shared:
            compressor, budgets = shared.weights, list(shared.band.budgets)
        pupils.append((own, network, compressor, budgets))

    # One agent walks all of them in turn.
    with terminal.bar("learn", config.each * sum(len(budgets) for *_, budgets in pupils)) as bar:
        lessons = [one for pupil in pupils for one in lessons_of(*pupil, config, bar)]
        if recorded := sum(lesson.problem.trials.recorded for lesson in lessons):
            terminal.say(f"resume   {recorded} episodes are on record in {folder}")
        problems = [lesson.problem for lesson in lessons]
        schedule = Settings(warmup_episodes=max(WARMUP, len(problems)))
        found = learn_all(
            problems, config.agent, seed=config.seed, settings=schedule, prior=config.prior
        )
    for lesson in lessons:
        lesson.log.close()

    # What it has learned.
    agent = found[0].agent
    assert agent is not None
    best = [(x.budget, one.best.strategy) for x, one in zip(lessons, found, strict=True)]
    save_learned(folder, agent, best, config.models, config.seed, found[0].shape)
    account = [account_of(lesson, one) for lesson, one in zip(lessons, found, strict=True)]
    write_json(folder / "learned.json", {"settings": as_json(config), "budgets": account})
    terminal.table(learned_table(account))
    if not agent.trainings:
        terminal.say("The agent has not learned: all episodes were warm-up; try more --episodes.")
    terminal.say("", *next_commands(config, folder))
    return folder


def next_commands(config: LearnConfig, folder: Path) -> list[str]:
    """What a person does next."""
    kept = ("task", "checkpoint", "width", "channel_multiple", "min_ratio", "restrictions")
    words = ["--model", config.models[0], "--data", config.data.data, *flags(config, *kept)]
    common = shlex.join([*words, "--policy", str(folder)])
    return [
        f"Everything is in {folder}. Next:",
        f"  apply      python -m amc.apply {common} --preserve-ratio RATIO",
        f"  sweep      python -m amc.pareto {common}",
        f"  watch      tensorboard --logdir {shlex.quote(str(folder))}",
    ]
