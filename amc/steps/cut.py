"""Statistics, and the cut that is made with them: which strategy, which channels."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from amc.calibration.calibrate import calibrate as statistics_of
from amc.calibration.calibrate import calibrated_layers
from amc.calibration.passes import passes
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Plan, Strategy
from amc.graph.shrink import duplicate, tensors
from amc.graph.tracing.proof import objection
from amc.metrics import Evidence, selection_of
from amc.reconstruction.batchnorm import adapt_batchnorm
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.layer_by_layer import compress
from amc.reconstruction.original_outputs import OriginalOutputs
from amc.runtime import distributed
from amc.runtime.errors import AmcError
from amc.steps.job import Job
from amc.tasks.evaluate import evaluate, reference_outputs
from envs import Outcome

CHOOSING = 0.25
"""Share of the calibration images that the finalists are cut on: a fifth of them ranked 15
strategies of ResNet-20 on glyphs as all did (Spearman 0.83 and 0.86 with the test loss)."""


def original_outputs(job: Job, compressor: Compressor, share: float = 1.0) -> OriginalOutputs:
    """What the network computes before it is cut, on a share of the images."""
    images = job.images[: math.ceil(share * len(job.images))]
    with job.terminal.bar("originals"):
        return OriginalOutputs(
            compressor.graph, compressor.model, images, job.sampling, job.memory
        )


def cut(
    job: Job,
    compressor: Compressor,
    plan: Plan,
    originals: OriginalOutputs | None = None,
    own: Callable[[Plan], nn.Module] | None = None,
) -> nn.Module:
    """The network under a plan: reconstructed layer by layer, batch norm following.

    On as many images as the statistics, or on `bn_samples` once all layers are solved.

    Args:
        job: the run.
        compressor: of the original network.
        plan: what stays.
        originals: what the network computes before it is cut, if it is known.
        own: carries out plans, instead of the reconstruction.

    Raises:
        AmcError: it would not compute what the masked network does.
    """
    if why := objection(compressor.model, job.example, compressor.graph, plan):
        raise AmcError(_refused(why))
    if own:
        return own(plan)
    return follow(job, _cut(job, compressor, plan, originals or original_outputs(job, compressor)))


def follow(job: Job, network: nn.Module) -> nn.Module:
    """Batch norm of a solved network once more, in place, where `bn_samples` asks for it."""
    wanted = job.reconstruction.bn_samples
    known = sum(len(labels) for _, labels in job.images)
    if job.reconstruction.bn_adapt and wanted not in (None, known):
        with job.terminal.bar("batch norm"):
            adapt_batchnorm(network, job.following)
    return network


def cut_best(
    job: Job,
    compressor: Compressor,
    strategies: Sequence[Strategy],
    plan: Plan | None = None,
    originals: OriginalOutputs | None = None,
    own: Callable[[Plan], nn.Module] | None = None,
) -> tuple[Plan, nn.Module]:
    """Cuts the strategy for real that has the highest reward once it is cut for real.

    The search judges on cached statistics; what counts is the network after the final cut. To
    choose among several, a part of the images will do.

    Args:
        job: the run.
        compressor: statistics, and which channels stay.
        strategies: one at least, unless there is a plan.
        plan: the channels, where they are given.
        originals: what the network computes before it is cut, if it is known.
        own: carries out plans, instead of the reconstruction layer by layer.

    Raises:
        AmcError: none of them gives a network that computes what the masked one does.
    """
    if plan is not None:
        return plan, cut(job, compressor, plan, originals, own)
    strategies = sound(job, compressor, strategies)
    chosen = strategies[0]
    if len(strategies) > 1:
        made = own or _roughly(job, compressor)
        rewards, count = list[float](), len(strategies)
        with job.terminal.bar(f"cut 1 of {count}", count) as bar:
            reference = reference_outputs(compressor.model, job.validation, job.task)
            for number, strategy in enumerate(strategies, 1):
                bar.show(f"cut {number} of {count}")
                rewards.append(_reward(job, compressor, strategy, made, reference))
                bar.step(f"reward {rewards[-1]:.4f}  best {max(rewards):.4f}")
        chosen = strategies[int(np.argmax(np.nan_to_num(rewards, nan=-np.inf)))]
    plan = compressor.plan(chosen)
    return plan, cut(job, compressor, plan, originals, own)


def _roughly(job: Job, compressor: Compressor) -> Callable[[Plan], nn.Module]:
    """Cuts on a part of the images."""
    few = original_outputs(job, compressor, CHOOSING)
    return lambda plan: _cut(job, compressor, plan, few)


def _cut(job: Job, compressor: Compressor, plan: Plan, originals: OriginalOutputs) -> nn.Module:
    adapt = job.reconstruction.bn_adapt
    with job.terminal.bar("cut", len(compressor.fitted_layers(plan))) as bar:
        return compress(compressor, plan, originals, adapt, lambda _: bar.step())


def _reward(
    job: Job,
    compressor: Compressor,
    strategy: Strategy,
    made: Callable[[Plan], nn.Module],
    reference: Sequence[Tensor],
) -> float:
    """The reward of a strategy once its plan is carried out."""
    graph, plan = compressor.graph, compressor.plan(strategy)
    small = made(plan)
    score = evaluate(small, job.validation, reference=reference, task=job.task)
    return job.reward(Outcome(score, graph.macs(plan), graph.params(plan)))


def sound(job: Job, compressor: Compressor, strategies: Sequence[Strategy]) -> Sequence[Strategy]:
    """The strategies whose networks compute what the masked one does."""
    model, graph = compressor.model, compressor.graph
    whys = [objection(model, job.example, graph, compressor.plan(s)) for s in strategies]
    sound = [s for s, why in zip(strategies, whys, strict=True) if not why]
    first = next(filter(None, whys), "")
    if not sound:
        raise AmcError(_refused(first))
    if first:
        left = len(strategies) - len(sound)
        job.terminal.say(f"skipped  {left} of {len(strategies)} strategies, {first}")
    return sound


def _refused(why: str) -> str:
    """A plan that must not be carried out, in one line."""
    return f"the plan is not carried out: {why}; --exclude keeps layers whole"


def calibrate(
    job: Job,
    graph: ChannelGraph,
    model: nn.Module,
    movement: Mapping[str, Tensor] | None = None,
) -> Compressor:
    """Statistics of every layer that may lose inputs, and what applies strategies with them.

    Args:
        job: the run.
        graph: of the model.
        model: never changed.
        movement: of its weights in the training that led to it, see `Evidence`.
    """
    rounds = passes(graph, calibrated_layers(graph), job.memory)
    shared = len(list(distributed.shard(job.images)))
    with job.terminal.bar("calibrate", len(rounds) * shared) as bar:
        stats = statistics_of(graph, model, job.images, job.sampling, bar.step, job.memory)
    evidence = Evidence(graph, model, stats, job.seed, job.images, job.task, movement)
    select = partial(selection_of, job.metric, evidence)
    return Compressor(graph, model, stats, select, job.memory)


def silenced(model: nn.Module, graph: ChannelGraph, plan: Plan) -> nn.Module:
    """A copy of full size in which nothing reads the channels that are not in the plan.

    It computes what the cut network would, and training may bring the channels back ("soft"
    pruning: He et al. 2018, arXiv:1808.06866). They zero the filters that compute the channels,
    which get no gradient behind batch norm and ReLU; the weights that read them do.
    """
    copy = duplicate(model)
    state, cuts = tensors(copy), {(one.tensor, one.dim): one for one in plan.cuts}
    with torch.no_grad():
        for layer in graph.layers:
            if one := cuts.get((layer.weight, layer.in_dim)):
                gone = torch.tensor(sorted(set(range(one.size)) - set(one.keep)), dtype=torch.long)
                weight = state[layer.weight]
                weight.index_fill_(layer.in_dim, gone.to(weight.device), 0)
    return copy
