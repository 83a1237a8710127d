"""``python -m amc.train``: from a network and images to a smaller network, top to bottom."""

if __name__ == "__main__":  # a mistyped flag is refused before torch is loaded
    from amc.config.exits import interruptible

    interruptible("amc.train")
    from amc.config.command_line import at_once
    from amc.config.formats.files import settings_in
    from amc.config.train import TrainConfig

    at_once("amc.train", TrainConfig, settings_in)

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from amc.config.command_line import elsewhere, only_result, parse
from amc.config.exits import exit_with_one_line
from amc.config.formats.files import read, settings_in, write
from amc.config.train import InMemoryConfig, TrainConfig
from amc.data import Loader, from_loaders
from amc.data.checked import preserving_random_state
from amc.gradual.finals import finals
from amc.gradual.recover import recover
from amc.gradual.sparsify import sparsify
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Plan
from amc.graph.shrink import duplicate
from amc.metrics.table import users_metric
from amc.reconstruction.compressor import Compressor
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.runs.exports import refuse_failed
from amc.runs.folder import resume_command
from amc.runs.run import Run, open_run
from amc.runtime import launch
from amc.runtime.errors import AmcError
from amc.runtime.user_code import in_memory
from amc.schedules.curves import users_schedule
from amc.steps.allocate import allocation_of, candidates, check_files, overridden
from amc.steps.candidates import Candidates
from amc.steps.cut import calibrate, cut_best
from amc.steps.job import Job, checked, job_with, open_job
from amc.steps.result import Result, finish
from amc.steps.setup import Network, build_network, ready, trace_network
from amc.studies.max_drop import held_out, smallest
from amc.tasks.evaluate import Score
from amc.tasks.task import CLASSIFICATION, Task, load_task
from envs.rewards import users_reward

FOR_COMMANDS = {"resume", "config", "write_config", "json"}
GIVEN_IN_MEMORY = FOR_COMMANDS | {"model", "width", "checkpoint", "data", "batch_size"}
"""Settings of the command line, and those that name what `compress` is handed."""

OWN = ("reward", "metric", "allocator", "schedule", "objective", "target")
"""Settings that may be functions in memory."""


def run(config: TrainConfig) -> Path:
    """The whole job, from what the settings name; returns the run folder.

    All processes that torchrun has started do it.

    Raises:
        AmcError: something given cannot be used; what was finished before is in the folder.
    """
    if config.config and not config.resume:  # where a command line has read it, none is left
        how = "TrainConfig.of(**amc.config.formats.files.read(path).settings)"
        raise AmcError(f"--config is for the command line; from Python: {how}")
    with open_run(config) as opened:
        config = opened.config
        check_files(config.allocation, config.training, config.stages, config.search.allocator)
        job = open_job(config, opened.terminal)
        result = prune(job, build_network(job, config.network), opened)
        refuse_failed(result.report.exports)
        return opened.folder


def compress(
    model: nn.Module,
    train: Loader,
    val: Loader,
    test: Loader | None = None,
    *,
    preserve_ratio: float = 0.5,
    task: Task | str = CLASSIFICATION,
    calibration: Loader | None = None,
    run_dir: Path | str | None = None,
    quiet: bool = True,
    **settings: Any,
) -> Result:
    """The whole job on a network and loaders in memory: search, cut, reconstruct, fine-tune.

    Examples:
        >>> import torch, amc
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3),
        ...     torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 2),
        ... )
        >>> images = torch.randn(64, 1, 8, 8)
        >>> loader = DataLoader(TensorDataset(images, (images.mean((1, 2, 3)) > 0).long()), 32)
        >>> result = amc.compress(model, loader, loader, episodes=4, finetune_epochs=1)
        >>> result.report.macs.ratio <= 0.5
        True
        >>> result.model(images).shape
        torch.Size([64, 2])

    Args:
        model: with its weights; it stays as it is.
        train: of (inputs, targets): images [B, C, H, W] float32 and classes [B] int64, or what
            the task works on. Can be gone through again and again, as a `DataLoader`.
        val: held out from training; the reward.
        test: never seen by training or reward, for the report; without, it is of `val`.
        preserve_ratio: part of the multiply-accumulates (MACs) that stays, never exceeded.
        task: what the network is for; or its name, as ``--task`` has it.
        calibration: training inputs that are not augmented; without, `train`.
        run_dir: where everything is written; without, nothing stays on disk.
        quiet: print nothing; what happens is logged by the logger "amc".
        settings: any setting of ``python -m amc.train``, by its name: ``episodes=50``. Only
            those of the network, the data, ``--resume`` and files of settings mean nothing here. A
            reward of one's own may be a function of an `envs.Outcome`, a metric one of (evidence,
            group), an allocator one of a problem, a schedule one of (final density, progress), an
            objective and a target one of a graph.

    Returns:
        The smaller network, its plan and strategy, and the report.

    Raises:
        AmcError: the network cannot be pruned so far, or something given is of no use.
        TypeError: there is no such setting.
    """
    if not isinstance(model, nn.Module):
        raise AmcError(f"model must be a torch.nn.Module, got {model!r:.80}")
    if taken := sorted(settings.keys() & GIVEN_IN_MEMORY):
        raise TypeError(f"amc.compress takes network and data in memory, not {taken[0]!r}")
    if not isinstance(run_dir, str | Path | None):
        raise AmcError(f"run_dir must be a path, got {run_dir!r:.80}")
    task = load_task(task) if isinstance(task, str) else task
    if not isinstance(task, Task):
        raise AmcError(f"task must be an amc.Task, got {task!r:.80}")
    own = {n: settings.pop(n) for n in OWN if callable(settings.get(n))}
    loaders = {"train": train, "val": val, "test": val if test is None else test}
    loaders |= {} if calibration is None else {"calibration": calibration}
    for name in own.keys() & {"schedule", "objective", "target"}:  # by names that nobody imports
        settings[name] = f"amc.compress:{getattr(own[name], '__name__', name)}"
    kind = type(model)
    with ExitStack() as stack:
        folder = run_dir or stack.enter_context(TemporaryDirectory(prefix="amc-"))
        config: TrainConfig = InMemoryConfig.of(
            preserve_ratio=preserve_ratio,
            model=f"{kind.__module__}:{kind.__qualname__}",
            data="loaders",
            task="classification" if task.classifies else task.source,
            run_dir=Path(folder),
            quiet=quiet,
            **settings,
        )
        for name in own.keys() & {"objective", "target"}:
            stack.enter_context(in_memory(settings[name], own[name]))
        stack.enter_context(torch.random.fork_rng())  # on GPUs
        stack.enter_context(preserving_random_state())
        opened = stack.enter_context(open_run(config))
        opened.stays = run_dir is not None
        data = checked(from_loaders("loaders", loaders, task.classifies), opened.terminal)
        job = replace(
            job_with(data, task, config, opened.terminal), named=False, kept=bool(run_dir)
        )
        if "reward" in own:
            job = replace(job, reward=users_reward("reward", own["reward"]))
        if "metric" in own:
            job = replace(job, metric=users_metric("metric", own["metric"]))
        if "schedule" in own:
            stages = config.stages
            schedule = users_schedule(stages.schedule, own["schedule"], stages.steps)
            job = replace(job, schedule=schedule)
        job = replace(job, allocator=own.get("allocator"))
        result = prune(job, duplicate(model), opened)
        return result if run_dir else replace(result, folder=None)


def prune(job: Job, given: nn.Module, run: Run[TrainConfig]) -> Result:
    """The whole job, on a network and data in memory."""
    config, job = run.config, job.for_network(given)

    # What can be removed, and is the target reachable? Nothing long runs before this is known.
    graph = overridden(trace_network(job, given, config.restrictions), config.allocation)
    if not config.cuts:
        return only_zeros(job, given, graph, run)
    allocation = allocation_of(graph, config)

    # The network with its weights.
    network, original = ready(job, given, graph, run, allocation.budget)

    # Statistics of every layer that may lose inputs.
    with run.clock("calibrate"):
        compressor = calibrate(job, graph, network.model)
    if config.max_drop is not None:
        return tolerated(job, network, compressor, original, run)

    # How much every group keeps: searched for, unless it is given.
    log = TensorBoardLog(run.folder, graph.sizes, graph.macs(), job.task)
    with run.clock("search"):
        found = candidates(job, network, compressor, allocation, config, run.folder, log)

    # Several may be trained a little before one is chosen.
    with run.clock("finals"):
        found = finals(job, network, compressor, found, config, run.folder)

    # Which channels; the layers that read them are reconstructed one after the other.
    with run.clock("apply"):
        chosen_by = found.compressor or compressor
        plan, pruned = cut_best(job, chosen_by, found.strategies, found.plan, own=found.cut)
    run.save_strategy(plan.strategy, graph.channels)
    run.save(plan, pruned)
    cut = job.tested(pruned)

    # Accuracy comes back; weights become zero meanwhile, if they are a target too.
    if config.zeros:
        left = found.begun.network if found.begun else pruned
        return zeros(job, network, left, plan, run, log, found, (original, cut))
    with run.clock("finetune"):
        pruned, plan, macs = recover(
            job, network, pruned, plan, config, run.folder, log, allocation, found.begun
        )
    run.save_strategy(plan.strategy, graph.channels)
    run.save(plan, pruned)

    # What came of it.
    found = found.having_trained(finetune=macs)
    return finish(job, run, log, network, found, plan, pruned, (original, cut))


def only_zeros(job: Job, given: nn.Module, graph: ChannelGraph, run: Run[TrainConfig]) -> Result:
    """Weights or blocks become zero, and nothing is removed."""
    network, original = ready(job, given, graph, run, None)
    log = TensorBoardLog(run.folder, graph.sizes, graph.macs(), job.task)
    return zeros(
        job, network, network.model, graph.plan({}), run, log, Candidates(), (original, None)
    )


def zeros(
    job: Job,
    network: Network,
    left: nn.Module,
    plan: Plan,
    run: Run[TrainConfig],
    log: TensorBoardLog,
    found: Candidates,
    scores: tuple[Score, Score | None],
) -> Result:
    """Weights or blocks of what is left become zero, while it is trained; what came of it all."""
    with run.clock("finetune"):
        sparse = sparsify(job, network, left, plan, run.config, run.folder, log)
    run.save_strategy(plan.strategy, network.graph.channels)
    run.save(plan, sparse.network)
    original, cut = scores
    scored = original, cut or job.tested(sparse.before)
    found = found.having_trained(finetune=sparse.macs)
    return finish(
        job, run, log, network, found, plan, sparse.network, scored, zeros=sparse.account
    )


def tolerated(
    job: Job, network: Network, compressor: Compressor, original: Score, run: Run[TrainConfig]
) -> Result:
    """The steps after the statistics, budget after budget, down to the tolerated drop."""
    job, unseen = held_out(job)
    chosen, found, plan, pruned = smallest(job, unseen, network, compressor, run)
    run.save_strategy(plan.strategy, network.graph.channels)
    run.save(plan, pruned)
    log = TensorBoardLog(run.folder, network.graph.sizes, network.graph.macs(), job.task)
    scores = original, chosen.cut
    return finish(job, run, log, network, found, plan, pruned, scores, chosen.drop)


def main() -> None:
    """The command; a mistake of the user's ends it with one line and exit status 1."""
    config: TrainConfig | None = None
    with exit_with_one_line(
        "amc.train", advice=elsewhere(sys.argv), resume=lambda: resume_command(config)
    ):
        config = parse(TrainConfig, "amc.train", settings_in=settings_in)
        notes: Sequence[str] = ()
        if config.config and not config.resume:
            notes = read(config.config).notes
            config = config.but(config=None)
        if config.write_config is not None:
            notes = (*notes, *write(config.write_config, config))
        with only_result(config.machine.json) as tell:
            if notes and launch.speaks() and not config.machine.quiet:
                print(*notes, sep="\n")
            if config.write_config is None:
                folder = run(config)
                tell((folder / "report.json").read_text)


if __name__ == "__main__":
    main()
