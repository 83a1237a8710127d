"""What a strategy is worth, measured on cached statistics."""

from collections.abc import Callable
from typing import Protocol

from torch import nn

from amc.calibration.statistics import Batches
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Strategy
from amc.runtime import distributed
from amc.tasks.evaluate import evaluate, reference_outputs
from amc.tasks.task import CLASSIFICATION, Task
from amc.training.short_training import ShortTraining
from envs import Outcome


class Applies(Protocol):
    """What carries out strategies on one network: a `Compressor`, or shares of weights."""

    @property
    def graph(self) -> ChannelGraph:
        """What a strategy is about."""

    @property
    def model(self) -> nn.Module:
        """The network, which stays as it is."""

    def view(self, strategy: Strategy) -> nn.Module:
        """The network under a strategy, valid until the next call."""

    def cut(self, strategy: Strategy) -> nn.Module:
        """The same as a network of its own."""


def evaluator(
    compressor: Applies,
    validation: Batches,
    adapt: bool = True,
    quick: ShortTraining | None = None,
    task: Task = CLASSIFICATION,
) -> Callable[[Strategy], Outcome]:
    """What a strategy is worth, on cached statistics: cut, train a little if told to, validate.

    Args:
        compressor: what cuts.
        validation: images and targets that the score is measured on.
        adapt: batch norms normalise by the validation images themselves, which stands for their
            adaptation after the cut and costs no second pass.
        quick: a few steps of training between cut and validation, for the same purpose.
        task: what the network is for.
    """
    graph, seen = compressor.graph, dict[tuple[int, ...], Outcome]()
    reference = reference_outputs(compressor.model, validation, task)

    def outcome(strategy: Strategy) -> Outcome:
        counts = graph.counts(strategy)
        key = tuple(counts.tolist())
        distributed.check_equal("the strategy", str(key))
        if key not in seen:
            if quick:
                score = quick.tuned(compressor.cut(strategy), validation, reference)
            else:
                score = evaluate(compressor.view(strategy), validation, adapt, reference, task)
            seen[key] = Outcome(score, graph.cost.macs(counts), graph.cost.params(counts))
        return seen[key]

    return outcome
