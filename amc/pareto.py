"""``python -m amc.pareto``: what a network loses at every size, and the smallest that may.

One policy and one set of statistics serve all budgets: a point costs a walk and a cut, no search.
Every point is a network on disk; the same command, given again after a stop, goes on from there.
"""

if __name__ == "__main__":  # a mistyped flag is refused before torch is loaded
    from amc.config.exits import interruptible

    interruptible("amc.pareto")
    from amc.config.command_line import at_once
    from amc.config.many_budgets import ParetoConfig

    at_once("amc.pareto", ParetoConfig)

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amc.config.command_line import command
from amc.config.composed import as_json
from amc.config.many_budgets import ParetoConfig
from amc.reporting.html.study_page import write_study
from amc.reporting.pareto_front import Point, draw_front, front_table, smallest
from amc.runs.lock import locked
from amc.runs.run import open_run
from amc.runs.trust import check_owner
from amc.runtime.files import write_json
from amc.search.policies import load_learned
from amc.steps.job import Job, open_job
from amc.steps.limits import make_budget
from amc.steps.setup import build_network, load_network, trace_network
from amc.studies.learn import learn
from amc.studies.sweep import Sweep, closer
from amc.tasks.task import CLASSIFICATION, Task


def run(config: ParetoConfig) -> Path:
    """The whole sweep; returns its folder.

    Raises:
        AmcError: something given cannot be used; what was finished before is in the folder.
    """
    if config.policy:
        check_owner("--policy", config.policy, config.trust)
    with open_run(config) as opened:
        check_owner("--run-dir", config.folder, config.trust)
        return sweep_budgets(open_job(config, opened.terminal), config)


def sweep_budgets(job: Job, config: ParetoConfig) -> Path:
    """A network for every budget; everything is in the folder of the settings."""
    terminal, task, folder = job.terminal, job.task, config.folder

    # What can be removed, and are all targets reachable? Nothing long runs before this is known.
    given = build_network(job, config.network)
    job = job.for_network(given)
    graph = trace_network(job, given, config.restrictions)
    budgets = [make_budget(graph, ratio, config) for ratio in config.ratios]
    policy = load_learned(config.policy or learned(job, config))

    # The network with its weights and statistics.
    network = load_network(job, given, graph, config.network, config.data)
    terminal.say(*network.overview(job, *budgets))
    sweep = Sweep(config, job, network, policy, folder)
    original = sweep.original
    terminal.say(
        f"{task.name} {task.shown(original.accuracy)} on {sweep.held_out} that no search has seen"
    )

    # A network for every budget, from the largest to the smallest; then closer to --max-drop.
    most = len(config.ratios) + (0 if config.max_drop is None else config.steps)
    with terminal.bar("sweep", most) as bar:

        def made(ratio: float) -> Point:
            point = sweep.point(ratio)
            bar.step(f"{ratio:g} of the MACs: {task.shown(point.accuracy)}")
            return point

        points = {ratio: made(ratio) for ratio in reversed(config.ratios)}
        if config.max_drop is not None:
            closer(points, original.accuracy - config.max_drop / task.points, config.steps, made)

    show(job, config, sweep, [points[ratio] for ratio in sorted(points, reverse=True)])
    return folder


def show(job: Job, config: ParetoConfig, sweep: Sweep, found: Sequence[Point]) -> None:
    """Writes and shows the points, the largest network first."""
    terminal, task, folder = job.terminal, job.task, config.folder
    original, title = sweep.original, f"{sweep.network.name}, {config.data.data}"
    account: dict[str, Any] = {
        "settings": as_json(config),
        "held_out": sweep.held_out,
        "score": {"name": task.name, "percent": task.percent},
        "original": asdict(original),
        "points": [{**asdict(point), "on_front": point.on_front(found)} for point in found],
    }
    chosen = None
    if config.max_drop is not None:
        chosen = smallest(found, original.accuracy - config.max_drop / task.points)
        account["max_drop"] = {"points": config.max_drop, "chosen": chosen and chosen.target}
    write_json(folder / "pareto.json", account)
    draw_front(found, original, folder / "pareto.svg", title, task)
    write_study(folder)
    terminal.table(front_table(found, original, task))
    if config.max_drop is not None:
        terminal.say(verdict(chosen, original, config.max_drop, task))
    shown = sweep.place(chosen.target if chosen else found[-1].target)
    terminal.say(
        "",
        f"Everything is in {folder}. Next:",
        f"  look       {folder / 'report.html'}",
        f"  load       amc.load_pruned(original_model, {str(shown)!r})",
    )


def learned(job: Job, config: ParetoConfig) -> Path:
    """The folder of a policy that is learned for these budgets, here and first."""
    with locked(config.learning.folder):
        return learn(job, config.learning, config.training, config.distill)


def verdict(
    chosen: Point | None, original: Point, drop: float, task: Task = CLASSIFICATION
) -> str:
    """What came of --max-drop, in one line."""
    if chosen is None:
        return (
            f"--max-drop {drop:g}: every network loses more; try a larger --preserve-ratio, or "
            "--finetune-epochs"
        )
    lost = task.points * (original.accuracy - chosen.accuracy)
    by = f"{lost:.2f} points" if task.percent else f"{lost:.3g}"
    return (
        f"--max-drop {drop:g}: the smallest network that keeps to it has "
        f"{chosen.macs / original.macs:.1%} of the MACs and loses {by}"
    )


def main() -> None:
    """The command."""
    command(
        "amc.pareto",
        ParetoConfig,
        run,
        "; the same command goes on from here",
        lambda folder: (folder / "pareto.json").read_text(),
    )


if __name__ == "__main__":
    main()
