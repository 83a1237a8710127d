"""What came of a run: measured, written, shown."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from amc.config.apply import ApplyConfig
from amc.config.composed import flags
from amc.config.formats.amct_layers import text_for
from amc.config.sections.job import RewardConfig
from amc.config.sections.search import SearchConfig
from amc.config.sections.sparsity import SparsityConfig
from amc.config.train import TrainConfig
from amc.exporters.source.write import write_source
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Plan
from amc.measuring.slow import Slow, slow
from amc.objectives.budget import Budget
from amc.objectives.latency import Timing, timings
from amc.reporting.report import (
    Change,
    Limited,
    Report,
    conditions,
    finals_table,
    layer_changes,
    layer_table,
    remarks,
    summary_table,
)
from amc.reporting.statistics import (
    Aim,
    Statistics,
    sparsity_tables,
    statistics,
    tables,
    zeros_table,
)
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.runs.exports import export_lines, exported
from amc.runs.history import made_by
from amc.runs.lock import OURS
from amc.runs.run import Run
from amc.runtime import weights
from amc.runtime.files import write_atomically, write_json
from amc.steps.candidates import Candidates
from amc.steps.job import Job, material
from amc.steps.setup import Network
from amc.tasks.drop import Drop
from amc.tasks.evaluate import Score
from amc.tasks.task import Task
from amc.training.checkpoint import remove_states

ZEROS = (
    "zeros    are stored and computed like other weights: the file shrinks when it is compressed, "
    "and time where a runtime leaves them out (docs/sparsity.md)"
)


@dataclass(frozen=True)
class Result:
    """What a run leaves.

    Attributes:
        model: the smaller network, in eval mode.
        plan: which channels stayed.
        report: sizes, times and scores, before and after.
        folder: of the run; none if it was a temporary one.
    """

    model: nn.Module
    plan: Plan
    report: Report
    folder: Path | None

    @property
    def strategy(self) -> dict[str, int]:
        """Kept channels per group that lost some."""
        return self.plan.strategy


def finish(
    job: Job,
    run: Run[Any],
    log: TensorBoardLog,
    network: Network,
    found: Candidates,
    plan: Plan,
    pruned: nn.Module,
    scores: tuple[Score, Score],
    drop: Drop | None = None,
    zeros: Mapping[str, Any] | None = None,
) -> Result:
    """Measures the network that is left, writes the report, shows it.

    Args:
        job: data and task.
        run: settings, folder, seconds of the steps.
        log: ends here.
        network: before any cut.
        found: where the strategy came from.
        plan: what stayed.
        pruned: the network that is left.
        scores: test split: of the original, and after the cut before any training.
        drop: what it loses on images that nothing else has seen, if that was asked for.
        zeros: the account of its zeros, if it was made sparse.
    """
    graph, config, terminal = network.graph, run.config, job.terminal
    recovered = job.tested(pruned)
    sample, least = job.samples(1), config.counts.min_ratio
    times: tuple[Timing, ...] = ()
    reasons: tuple[Slow, ...] = ()
    if config.cuts:  # zeros alone leave all shapes as they are, and so the times
        times = timings(network.model, pruned, sample, terminal.bar)
        reasons = slow(times, graph, plan, network.model, sample, least, terminal.bar)
    exports = exported(pruned, run.folder, config.flat.get("export", ""), material(job), terminal)
    named = ("original", "pruned", "recovered")
    mode = config.allocation.mode
    objective = limited(found.budget, graph, plan) if found.budget else {}
    report = Report(
        mode=mode,
        target=config.target,
        max_drop=tolerated(config.flat.get("max_drop"), drop) if drop else None,
        objective=objective,
        channel_multiple=found.budget.multiple if found.budget else None,
        macs=Change(graph.macs(), graph.macs(plan)),
        params=Change(graph.params(), graph.params(plan)),
        file_bytes=Change(len(weights.to_bytes(network.model)), len(weights.to_bytes(pruned))),
        latency_ms=times,
        accuracy={k: s.accuracy for k, s in zip(named, (*scores, recovered), strict=True)},
        episodes=found.tried,
        seconds=run.clock.seconds(),
        layers=layer_changes(graph, plan.strategy),
        frozen={g.name: g.reason for g in graph.groups if not g.prunable},
        statistics=statistics_of(graph, plan, config.allocation.channel_ratio, objective),
        finals=found.finals,
        trained_macs={
            step: found.trained.get(step, 0) for step in ("search", "finals", "finetune")
        },
        shared=found.shared,
        slow=reasons,
        exports=exports,
        images=scores[0].images,
        score={"name": job.task.name, "percent": job.task.percent},
        sparsity=zeros,
        made_by=made_by(job.device),
    )
    write_json(run.folder / "report.json", report.as_json())
    with terminal.bar("source"):
        unwritten = write_source(run.folder, pruned, job.example) if job.kept else ()
    if config.search.allocator == "sensitivity":  # AMCT's, whose result is such a file
        write_atomically(run.folder / "prune.cfg", OURS + text_for(graph, plan.strategy))
    remove_states(run.folder)
    log.finish(config, report)
    _show(job, config, report, drop)
    terminal.say(*export_lines(exports, job.task), *unwritten)
    if run.stays:
        from amc.reporting.html.run_page import write_run  # with matplotlib, for the end only

        write_run(run.folder, graph)
    if job.named:
        terminal.say("", *next_commands(config, run.folder))
    return Result(pruned, plan, report, run.folder)


def _show(job: Job, config: TrainConfig | ApplyConfig, report: Report, drop: Drop | None) -> None:
    """Prints the account."""
    terminal, zeros = job.terminal, report.sparsity
    if config.cuts:
        terminal.table(layer_table(report.layers))
    if zeros:
        terminal.table(zeros_table(zeros))
    if report.finals:
        terminal.table(finals_table(report.finals, job.task))
    terminal.table(summary_table(report, job.task))
    terminal.say(*conditions(report), *remarks(report), *([ZEROS] if zeros else []))
    if config.flat.get("statistics"):
        shown = (*tables(report.statistics),) if config.cuts else ()
        for table in (*shown, *(sparsity_tables(zeros) if zeros else ())):
            terminal.table(table)
    if drop:
        terminal.say(verdict(config.flat["max_drop"], drop, job.task))


def statistics_of(
    graph: ChannelGraph, plan: Plan, ratio: float | None, objective: Mapping[str, Limited]
) -> Statistics:
    """The statistics; the targets are those of the objectives, or the ratio of channels."""
    aims = [Aim(name, 1 - one.ratio, 1 - one.target) for name, one in objective.items()]
    return statistics(graph, plan.strategy, aims, None if ratio is None else 1 - ratio)


def limited(budget: Budget, graph: ChannelGraph, plan: Plan) -> dict[str, Limited]:
    """What the budget limits, before and after a plan."""
    full, kept = graph.counts({}), graph.counts(plan.strategy)
    return {
        one.name: Limited(one(full), one(kept), ratio, one.unit) for one, ratio in budget.limits
    }


def tolerated(most: float, drop: Drop) -> dict[str, float]:
    """A tolerated drop and what became of it, for the report."""
    return {"tolerated": most, "points": drop.points, "error": drop.error, "images": drop.images}


def verdict(most: float, drop: Drop, task: Task) -> str:
    """What came of --max-drop, and how sure that is, in one line."""
    above = drop.points + drop.error
    return (
        f"max-drop {most:g}: loses {drop.points:.2f} points of {task.name} on {drop.images} "
        f"images that nothing else has seen; with a chance of 5 in 6 no more than {above:.2f}"
    )


def next_commands(config: TrainConfig | ApplyConfig, folder: Path) -> list[str]:
    """What a person does next."""
    kept = ("task", "checkpoint", "width", "channel_multiple", "min_ratio", "restrictions")
    words = ["--model", config.network.model, "--data", config.data.data, *flags(config, *kept)]
    same = shlex.join(words)
    place, strategy = shlex.quote(str(folder)), shlex.quote(str(folder / "strategy.json"))
    again = f"{same} --mode list --strategy {strategy}"
    if not config.cuts:
        again = _const(config, folder)
    commands = {
        "look": str(folder / "report.html"),
        "watch": f"tensorboard --logdir {place}",
        "once more" if config.cuts else "train on": f"python -m amc.train {again}",
        "take away": f"python -m amc.export {place} --format onnx",
        "load": f"amc.load_pruned(original_model, {str(folder)!r})",
    }
    if (folder / "pruned.py").exists():
        commands["anywhere"] = f"from pruned import load  # {folder / 'pruned.py'}, no amc"
    if (folder / "prune.cfg").exists():
        by_hand = shlex.quote(str(folder / "prune.cfg"))
        commands["by hand"] = f"python -m amc.train {same} --config {by_hand}"
    if (folder / "policy.json").exists():
        limits = shlex.join(flags(config, "limits"))
        if config.limits.has_ratios:
            limits = limits.replace(
                config.limits.objective, ",".join(f"{name}=RATIO" for name in config.limits.names)
            )
        else:
            limits = f"{limits} --preserve-ratio RATIO".strip()
        commands["reuse"] = f"python -m amc.apply {same} --policy {place} {limits}"
    lines = [f"Everything is in {folder}. Next:"]
    return [*lines, *(f"  {name:<10} {text}" for name, text in commands.items())]


def _const(config: TrainConfig | ApplyConfig, folder: Path) -> str:
    """The words that train what a run has left, and keep its zeros."""
    const = config.but(
        target="weights", metric="const",
        sparsity=SparsityConfig(), search=SearchConfig(), reward=RewardConfig(),
    )  # fmt: skip
    words = ["--model", config.network.model, "--data", config.data.data]
    words += flags(const, "task", "width", "restrictions", "metric")
    return shlex.join([*words, "--checkpoint", str(folder / "pruned.safetensors")])
