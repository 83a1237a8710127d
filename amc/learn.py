"""``python -m amc.learn``: one policy for many budgets and networks.

The budgets of all networks are walked in turn by one agent. What it sees does not depend on the
size of a network, and its actions are relative to the budget; what it earns is what it gains over
the uniform strategy, so that budgets and networks weigh alike. The records stay in the folder: the
same command, given again after a stop, goes on from there.
"""

if __name__ == "__main__":  # a mistyped flag is refused before torch is loaded
    from amc.config.ending import interruptible

    interruptible("amc.learn")
    from amc.config.command_line import at_once
    from amc.config.reuse import LearnConfig

    at_once("amc.learn", LearnConfig)

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table

from agents import save_policy
from amc.config.command_line import as_json, command, flags
from amc.config.reuse import LearnConfig
from amc.objectives.budget import Budget
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.sensitivity import sensitivity
from amc.runs.lock import held
from amc.runs.tensorboard import Journal
from amc.runs.terminal import Bar, Terminal
from amc.runtime import weights
from amc.runtime.files import safe_name, write_json
from amc.search.policies import best_of, described
from amc.search.search import Found, Problem, Settings, learn
from amc.search.trials import Limits, Trials
from amc.steps.pipeline import Pipeline, decisive, reward_function
from amc.steps.setup import allocation, choose_device, opened, outline, ready
from amc.tasks.task import load_task
from envs import Reward, gain
from envs.outcome import Episode

WARMUP = 10
"""Episodes before the agent learns, if there are no more budgets than that."""


@dataclass(frozen=True)
class Lesson:
    """One budget of one network."""

    model: str
    budget: Budget
    problem: Problem
    journal: Journal


def run(config: LearnConfig) -> Path:
    """Learns the policy; returns its folder.

    Raises:
        AmcError: something given cannot be used; what was finished before is in the folder.
    """
    with held(config.folder):
        return _run(config, config.folder)


def _run(config: LearnConfig, folder: Path) -> Path:
    terminal = Terminal(config.quiet)
    torch.manual_seed(config.seed)
    task, device = load_task(config.task), choose_device(config.device)
    reward = reward_function(config.reward, task)

    # What can be removed, and are all targets reachable? Nothing long runs before this is known.
    data = opened(config, task, terminal, seed=config.seed)
    outlines = []
    for name in config.models:
        pipe = Pipeline(replace(config.training, model=name), data, device, terminal, task)
        given, graph = outline(pipe)
        settings = [replace(pipe.config, preserve_ratio=ratio) for ratio in config.ratios]
        budgets = [allocation(one, graph) for one in settings]
        outlines.append((pipe, given, graph, budgets))

    # The networks with their weights and statistics.
    pupils = []
    for pipe, given, graph, budgets in outlines:
        subject = ready(pipe, given, graph)
        terminal.say(*subject.overview(pipe, *budgets))
        pupils.append((pipe, pipe.calibrate(graph, subject.model), budgets))

    # One agent walks all of them in turn.
    with terminal.bar("learn", config.each * sum(len(budgets) for *_, budgets in pupils)) as bar:
        lessons = [one for pupil in pupils for one in _lessons(config, *pupil, reward, bar)]
        if recorded := sum(lesson.problem.trials.recorded for lesson in lessons):
            terminal.say(f"resume   {recorded} episodes are on record in {folder}")
        problems = [lesson.problem for lesson in lessons]
        schedule = Settings(warmup_episodes=max(WARMUP, len(problems)))
        found = learn(problems, config.agent, seed=config.seed, settings=schedule)
    for lesson in lessons:
        lesson.journal.close()

    # What it has learned.
    account = [_account(lesson, one) for lesson, one in zip(lessons, found, strict=True)]
    best = [
        best_of(lesson.budget.graph, lesson.budget.preserve_ratio, one.best.strategy)
        for lesson, one in zip(lessons, found, strict=True)
    ]
    assert found[0].agent is not None
    about = described(targets=config.ratios, networks=config.models, seed=config.seed, best=best)
    save_policy(folder / "policy", found[0].agent, about)
    write_json(folder / "learned.json", {"settings": as_json(config), "budgets": account})
    terminal.table(learned_table(account))
    if not found[0].agent.trainings:
        terminal.say("The agent has not learned: all episodes were warm-up; try more --episodes.")
    terminal.say("", *next_commands(config, folder))
    return folder


def _lessons(
    config: LearnConfig,
    pipe: Pipeline,
    compressor: Compressor,
    budgets: Sequence[Budget],
    reward: Reward,
    bar: Bar,
) -> list[Lesson]:
    """All budgets of one network; they share statistics and what is known of strategies."""
    graph, folder, lessons = compressor.graph, config.folder, list[Lesson]()
    fingerprint = weights.digest(compressor.model)
    worth = pipe.worth(compressor)
    alike = {budget.multiple: budget for budget in budgets}  # the same counts are allowed
    errors = {multiple: sensitivity(compressor, one) for multiple, one in alike.items()}
    for budget in budgets:
        name = safe_name(f"{pipe.config.model}-{budget.preserve_ratio:g}")
        journal = Journal(folder / name, graph.sizes, graph.macs(), pipe.task.name)

        def show(episode: Episode, journal: Journal = journal) -> None:
            journal.episode(episode)
            bar.step(f"reward {episode.reward:.4f}  best {episode.best:.4f}")

        settings = decisive(pipe.config)
        on = {
            "preserve_ratio": budget.preserve_ratio,
            "agent": config.agent,
            "episodes": config.each,
            "with": [config.models, config.ratios],
            "choice": " ".join(flags(config.choice)),
            "weights": fingerprint,
        }
        record = folder / f"{name}.jsonl"
        trials = Trials(worth, reward, Limits(config.each), record, {**settings, **on}, show)
        problem = Problem(budget, trials, errors[budget.multiple])
        lessons.append(Lesson(pipe.config.model, budget, problem, journal))
    return lessons


def _account(lesson: Lesson, found: Found) -> dict[str, Any]:
    """What came of one budget, as JSON values."""
    first, last = found.history[0], found.history[-1]
    return {
        "model": lesson.model,
        "target": lesson.budget.preserve_ratio,
        "macs_ratio": round(last.outcome.macs / lesson.budget.original, 6),
        "reward": {"uniform": first.reward, "best": found.best.reward, "policy": last.reward},
        "accuracy": {
            "uniform": first.outcome.score.accuracy,
            "best": found.best.outcome.score.accuracy,
            "policy": last.outcome.score.accuracy,
        },
    }


def learned_table(account: Sequence[dict[str, Any]]) -> Table:
    """One row per budget: rewards, and what the policy alone gains of what was found."""
    table = Table(
        title="Learned: rewards", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0)
    )
    table.add_column("network", overflow="fold")
    for header in ("MACs", "uniform", "best found", "policy alone", "of the gain"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in account:
        reward = row["reward"]
        most = gain(reward["best"], reward["uniform"])
        share = gain(reward["policy"], reward["uniform"]) / most if most else 1.0
        table.add_row(
            row["model"],
            f"{row['target']:g}",
            *(f"{reward[key]:.4f}" for key in ("uniform", "best", "policy")),
            f"{round(share, 2) + 0.0:.0%}",  # no minus zero
        )
    return table


def next_commands(config: LearnConfig, folder: Path) -> list[str]:
    """What a person does next."""
    kept = ("task", "checkpoint", "width", "channel_multiple", "min_ratio", "choice")
    words = ["--model", config.models[0], "--data", config.data, *flags(config, *kept)]
    common = shlex.join([*words, "--policy", str(folder)])
    return [
        f"Everything is in {folder}. Next:",
        f"  apply      python -m amc.apply {common} --preserve-ratio RATIO",
        f"  sweep      python -m amc.pareto {common}",
        f"  watch      tensorboard --logdir {shlex.quote(str(folder))}",
    ]


def main() -> None:
    """The command."""
    command("amc.learn", LearnConfig, run, "; the same command goes on from here")


if __name__ == "__main__":
    main()
