"""``python -m amc.pareto``: what a network loses at every size, and the smallest that may.

One policy and one set of statistics serve all budgets: a point costs a walk and a cut, no search.
Every point is a network on disk; the same command, given again after a stop, goes on from there.
"""

if __name__ == "__main__":  # a mistyped flag is refused before torch is loaded
    from amc.config.ending import interruptible

    interruptible("amc.pareto")
    from amc.config.command_line import at_once
    from amc.config.reuse import ParetoConfig

    at_once("amc.pareto", ParetoConfig)

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from amc.config.command_line import as_json, command
from amc.config.reuse import LearnConfig, ParetoConfig
from amc.learn import run as learn
from amc.reporting.pareto_front import Point, draw_front, front_table, smallest
from amc.runs.lock import held
from amc.runs.terminal import Terminal
from amc.runs.trust import check_owner
from amc.runtime.files import write_json
from amc.search.policies import load_learned
from amc.steps.pipeline import Pipeline, reward_function
from amc.steps.setup import allocation, choose_device, opened, outline, ready
from amc.steps.sweep import Sweep, closer
from amc.tasks.task import CLASSIFICATION, Task, load_task


def run(config: ParetoConfig) -> Path:
    """The whole sweep; returns its folder.

    Raises:
        AmcError: something given cannot be used; what was finished before is in the folder.
    """
    if config.policy:
        check_owner("--policy", config.policy, config.trust)
    with held(config.folder):
        check_owner("--run-dir", config.folder, config.trust)
        return _run(config, config.folder)


def _run(config: ParetoConfig, folder: Path) -> Path:
    terminal = Terminal(config.quiet)
    torch.manual_seed(config.seed)
    task, device = load_task(config.task), choose_device(config.device)
    reward = reward_function(config.reward, task)

    # What can be removed, and are all targets reachable? Nothing long runs before this is known.
    data = opened(config, task, terminal, seed=config.seed)
    pipe = Pipeline(config.training, data, device, terminal, task)
    given, graph = outline(pipe)
    targets = [replace(pipe.config, preserve_ratio=ratio) for ratio in config.ratios]
    budgets = [allocation(one, graph) for one in targets]
    policy = load_learned(config.policy or learned(config))

    # The network with its weights and statistics.
    subject = ready(pipe, given, graph)
    terminal.say(*subject.overview(pipe, *budgets))
    sweep = Sweep(config, pipe, subject, policy, reward, folder)
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

    # The account.
    found = [points[ratio] for ratio in sorted(points, reverse=True)]
    account: dict[str, Any] = {
        "settings": as_json(config),
        "held_out": sweep.held_out,
        "original": asdict(original),
        "points": [{**asdict(point), "on_front": point.on_front(found)} for point in found],
    }
    chosen = None
    if config.max_drop is not None:
        chosen = smallest(found, original.accuracy - config.max_drop / task.points)
        account["max_drop"] = {"points": config.max_drop, "chosen": chosen and chosen.target}
    write_json(folder / "pareto.json", account)
    draw_front(found, original, folder / "pareto.svg", f"{config.model}, {config.data}", task)
    terminal.table(front_table(found, original, task))
    if config.max_drop is not None:
        terminal.say(verdict(chosen, original, config.max_drop, task))
    shown = sweep.place(chosen.target if chosen else found[-1].target)
    terminal.say(
        "",
        f"Everything is in {folder}. Next:",
        f"  look       {folder / 'pareto.svg'}",
        f"  load       amc.load_pruned(original_model, {str(shown)!r})",
    )
    return folder


def learned(config: ParetoConfig) -> Path:
    """The folder of a policy that is learned for these budgets, here and first."""
    return learn(config.into(LearnConfig, run_dir=config.folder / "policy"))


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
    command("amc.pareto", ParetoConfig, run, "; the same command goes on from here")


if __name__ == "__main__":
    main()
