"""``python -m amc.train``: from a network and images to a smaller network, top to bottom."""

if __name__ == "__main__":  # a mistyped flag is refused before torch is loaded
    from amc.config.ending import interruptible

    interruptible("amc.train")
    from amc.config.command_line import at_once
    from amc.config.train import TrainConfig

    at_once("amc.train", TrainConfig)

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from agents import save_policy
from amc.allocators.uniform import uniform
from amc.config.command_line import elsewhere, flags, parse
from amc.config.ending import ending
from amc.config.train import TrainConfig
from amc.graph.plan import Strategy
from amc.graph.plan_files import load_fitting, save_strategy
from amc.objectives.latency import timings
from amc.reconstruction.sensitivity import sensitivity
from amc.reporting.report import Change, Report, layer_changes, layer_table, slower, summary_table
from amc.runs.folder import begin, own_folder, record, resumable, run_dir, settled
from amc.runs.network import save_network
from amc.runs.tensorboard import Journal
from amc.runs.terminal import Terminal
from amc.runtime import launch, weights
from amc.runtime.errors import BrokenCodeError
from amc.runtime.files import write_json
from amc.search.policies import best_of, described, load_learned, remembered
from amc.search.search import proposed, starts
from amc.steps.gradual import Stages
from amc.steps.pipeline import Pipeline, reward_function
from amc.steps.recover import Recovery
from amc.steps.setup import (
    allocation,
    check_files,
    check_training,
    choose_device,
    given_strategy,
    opened,
    outline,
    ready,
)
from amc.tasks.task import load_task


def run(config: TrainConfig) -> Path:
    """The whole job; returns the run folder. All processes that torchrun has started do it.

    Raises:
        AmcError: something given cannot be used; what was finished before is in the folder.
    """
    with launch.joined(config.device), own_folder(config) as own, ExitStack() as rest:
        return _run(own, rest)


def _run(config: TrainConfig, rest: ExitStack) -> Path:
    terminal, clock = Terminal(config.quiet), Clock()
    config = settled(config, terminal.say)
    torch.manual_seed(config.seed)
    task, device = load_task(config.task), choose_device(config.device)
    reward = reward_function(config.reward, task)
    folder = run_dir(config)

    # What can be removed, and is the target reachable? Nothing long runs before this is known.
    check_files(config)
    data = opened(config, task, terminal, seed=config.seed, batch_size=config.batch_size)
    pipe = Pipeline(config, data, device, terminal, task)
    given, graph = outline(pipe)
    fixed = given_strategy(config, graph)
    budget = allocation(config, graph) if fixed is None else None
    policy = load_learned(config.policy) if config.policy else None
    known = remembered(policy, budget) if policy and budget else []

    # The network with its weights.
    subject = ready(pipe, given, graph)
    model = subject.model
    check_training(model, pipe)
    begin(folder, config, terminal.say)
    rest.enter_context(kept())
    terminal.say(*subject.overview(pipe, budget))
    original, fingerprint = pipe.tested(model), weights.digest(model)

    # Statistics of every layer that may lose inputs.
    with clock("calibrate"):
        compressor = pipe.calibrate(graph, model)

    # The strategy, how much each group keeps: searched for, unless it was given.
    journal = Journal(folder, graph.sizes, graph.macs(), task.name)
    finalists = [] if fixed is None else [fixed]
    tried = 0
    with clock("search"):
        if budget:
            with terminal.bar("errors"):
                errors = sensitivity(compressor, budget)
        if budget and config.mode == "uniform":
            finalists = [uniform(budget, errors)]
        elif budget and policy and config.mode == "policy":
            finalists = [proposed(policy, budget, errors), *known, *starts(budget, errors)]
        elif budget:
            on = {"weights": fingerprint}
            found = pipe.search(
                budget, compressor, errors, reward, journal, record(folder), on, policy, known
            )
            finalists = found.finalists(config.finalists, uniform(budget, errors))
            tried = len(found.history)
            if found.agent:
                learned = described(
                    targets=[config.preserve_ratio],
                    networks=[config.model],
                    seed=config.seed,
                    best=[best_of(graph, config.preserve_ratio, found.best.strategy)],
                )
                save_policy(folder / "policy", found.agent, learned)

    # The plan, which channels; the cut network, reconstructed layer by layer.
    strategy: Strategy
    with clock("apply"):
        if config.plan:
            plan = load_fitting(config.plan, graph)
            strategy = plan.strategy
            pruned = pipe.cut(compressor, plan, pipe.originals(compressor))
        else:
            strategy, plan, pruned = pipe.cut_best(compressor, finalists, reward)
    about: dict[str, Any] = {"target": config.target, "seed": config.seed, "weights": fingerprint}
    about |= {"model": config.model, "width": config.width, "baked": subject.baked}
    about["version"] = version("amc-pruning")
    save_strategy(folder / "strategy.json", strategy, graph.channels, about)
    save_network(folder, plan, pruned, about)
    cut = pipe.tested(pruned)

    # Accuracy comes back.
    recovery = Recovery(pipe, graph, model, journal, folder)
    with clock("finetune"):
        if recovery.staged:
            pruned, plan = Stages(recovery, strategy).run()
            strategy = plan.strategy
        else:
            pruned = recovery.tune(pruned, plan, config.finetune_epochs, config.learning_rate)
    save_network(folder, plan, pruned, about)
    recovered = pipe.tested(pruned)

    # The account.
    with terminal.bar("latency"):
        times = timings(model, pruned, pipe.samples(1))
    report = Report(
        mode=config.mode,
        target=config.target,
        channel_multiple=budget.multiple if budget else None,
        macs=Change(graph.macs(), graph.macs(plan)),
        params=Change(graph.params(), graph.params(plan)),
        file_bytes=Change(len(weights.to_bytes(model)), len(weights.to_bytes(pruned))),
        latency_ms=times,
        accuracy={
            "original": original.accuracy,
            "pruned": cut.accuracy,
            "recovered": recovered.accuracy,
        },
        episodes=tried,
        seconds=clock.seconds(),
        layers=layer_changes(graph, strategy),
        frozen={g.name: g.reason for g in graph.groups if not g.prunable},
    )
    write_json(folder / "report.json", report.as_json())
    journal.finish(
        asdict(config),
        report.accuracy["pruned"],
        report.accuracy["recovered"],
        report.macs.ratio,
    )
    recovery.tidy()
    terminal.table(layer_table(report.layers))
    terminal.table(summary_table(report, task))
    terminal.say(*slower(report), "", *next_commands(config, folder))
    return folder


@contextmanager
def kept() -> Iterator[None]:
    """An image that cannot be read only in here loses nothing of what was done."""
    try:
        yield
    except BrokenCodeError as error:
        error.kept = True
        raise


class Clock:
    """Wall seconds of each step."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._steps: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Times what is inside."""
        start = time.perf_counter()
        yield
        self._steps[step] = time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        """Seconds by step, and in total."""
        return {**self._steps, "total": time.perf_counter() - self._start}


def next_commands(config: TrainConfig, folder: Path) -> list[str]:
    """What a person does next."""
    kept = ("task", "checkpoint", "width", "channel_multiple", "min_ratio", "choice")
    same = shlex.join(["--model", config.model, "--data", config.data, *flags(config, *kept)])
    place, strategy = shlex.quote(str(folder)), shlex.quote(str(folder / "strategy.json"))
    commands = {
        "watch": f"tensorboard --logdir {place}",
        "once more": f"python -m amc.train {same} --mode list --strategy {strategy}",
        "load": f"amc.load_pruned(original_model, {str(folder)!r})",
    }
    if (folder / "policy.json").exists():
        commands["reuse"] = f"python -m amc.apply {same} --policy {place} --preserve-ratio RATIO"
    lines = [f"Everything is in {folder}. Next:"]
    return [*lines, *(f"  {name:<10} {text}" for name, text in commands.items())]


def main() -> None:
    """The command; a mistake of the user's ends it with one line and exit status 1."""
    config: TrainConfig | None = None
    with ending("amc.train", advice=elsewhere(sys.argv), going_on=lambda: going_on(config)):
        config = parse(TrainConfig, "amc.train")
        run(config)


def going_on(config: TrainConfig | None) -> str:
    """How to go on with a run that was interrupted, if it has begun."""
    if config is None or not resumable(config):
        return ""
    command = ["--resume", str(run_dir(config)), *flags(config, "workers", "memory")]
    return f"; go on: {launch.launcher()} -m amc.train {shlex.join(command)}"


if __name__ == "__main__":
    main()
