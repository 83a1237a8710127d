"""Zeros shared out to layers by an allocator: an agent by default, within the budget.

The agent walks the layers and says of each which part of its weights stays; a network is judged
once all are decided, as it is after optimal brain surgeon on the statistics of the original, batch
norm adapted, no training. What is found are levels, one for each layer. Any metric may then choose
the weights.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from amc.allocators.problem import AllocationProblem
from amc.allocators.scores import Errors
from amc.calibration.calibrate import check_finite
from amc.calibration.passes import in_passes, passes
from amc.calibration.statistics import LayerStats, collect
from amc.config.sections.sparse_target import structures_in
from amc.config.train import TrainConfig, record_settings
from amc.gradual.one_shot import layouts_of, solvable
from amc.gradual.shares import Shares, shares_graph
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import Layer
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.runs.folder import record
from amc.runtime import distributed, weights
from amc.runtime.errors import AmcError
from amc.search.answer import answer_of
from amc.search.evaluator import evaluator
from amc.sparsity.masking import Zeros
from amc.steps.job import Job
from amc.steps.search import search

FOLDER = "levels"
"""In that of the run: the record of the search and its curves."""


def share_levels(
    job: Job,
    model: nn.Module,
    graph: ChannelGraph,
    zeros: Zeros,
    config: TrainConfig,
    folder: Path,
) -> dict[str, float]:
    """The part of every weight that becomes zero, in sum that of `zeros`.

    Args:
        job: the run.
        model: without zeros; not changed.
        graph: of it.
        zeros: which weights, how many, and what becomes zero together.
        config: the allocator and how much it may try.
        folder: of the run; a search that was stopped goes on from what it has left there.

    Raises:
        AmcError: so many zeros cannot be shared out, or networks are to be judged after training.
    """
    if (regime := config.reward.regime) != "calibrate" and not structures_in(config.restrictions):
        raise AmcError(
            f"--regime {regime} is for channels; --sparsity-allocation search judges networks "
            "without training: --regime calibrate"
        )
    shares = prepared(job, model, graph, zeros)
    budget = shares.graph.budget(zeros.target)
    with job.terminal.bar("errors", len(budget.options)) as bar:
        errors = shares.errors(budget, bar.step)
    found = _found(job, shares, budget, errors, config, folder / FOLDER)
    levels = shares.graph.levels(found, zeros.target)
    least, most = min(levels, key=levels.__getitem__), max(levels, key=levels.__getitem__)
    job.terminal.say(f"levels   from {levels[least]:.1%} ({least}) to {levels[most]:.1%} ({most})")
    return levels


def prepared(job: Job, model: nn.Module, graph: ChannelGraph, zeros: Zeros) -> Shares:
    """What carries out strategies: statistics of the original of all layers."""
    names = list(zeros.layouts)
    layers, _ = solvable(model, graph, names)
    rounds = passes(graph, layers, job.memory)
    shared = len(list(distributed.shard(job.images)))
    with job.terminal.bar("calibrate", len(rounds) * shared) as bar:

        def one_pass(some: Sequence[Layer]) -> Mapping[str, LayerStats]:
            stats = collect(model, some, job.images, job.sampling, on_batch=bar.step)
            for layer in some:
                if layer.name in stats:
                    check_finite(layer, stats[layer.name])
            return stats

        stats = in_passes(graph, layers, job.memory, one_pass)
    return Shares(
        shares_graph(graph, model, names, zeros.target),
        {layer.weight: layer for layer in layers},
        model,
        stats,
        zeros.pattern,
        layouts_of(graph, model, names),
        job.memory,
    )


def _found(
    job: Job, shares: Shares, budget: Budget, errors: Errors, config: TrainConfig, folder: Path
) -> Strategy:
    """What the allocator says, or finds."""
    asked = config.search
    problem = AllocationProblem(budget, errors, seed=job.seed, episodes=asked.episodes)
    answer = answer_of(job.allocator or asked.allocator, problem)
    if isinstance(answer, Mapping):
        return answer
    folder.mkdir(exist_ok=True)
    about = {
        **record_settings(config),
        "sparsity": budget.preserve_ratio,
        "block": str(shares.pattern),
        "layers": list(shares.graph.sizes),
        "seed": config.seed,
        "weights": weights.digest(shares.model),
    }
    log = TensorBoardLog(folder, shares.graph.sizes, shares.graph.macs(), job.task)
    try:
        return search(
            job, budget, errors,
            lambda: evaluator(
                shares, job.validation, job.reconstruction.bn_adapt, task=job.task
            ),
            asked, config.resources, record(folder), about, log, proposals=answer,
        ).best.strategy  # fmt: skip
    finally:
        log.close()
