"""What a strategy is worth, measured on cached statistics."""

from collections.abc import Callable

from amc.calibration.statistics import Batches
from amc.graph.plan import Strategy
from amc.reconstruction.compressor import Compressor
from amc.runtime import distributed
from amc.tasks.evaluate import evaluate, softened
from amc.tasks.task import CLASSIFICATION, Task
from amc.training.short_training import Quick
from envs import Outcome


def proxy(
    compressor: Compressor,
    validation: Batches,
    adapt: bool = True,
    quick: Quick | None = None,
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
    wished = softened(compressor.model, validation, task)

    def outcome(strategy: Strategy) -> Outcome:
        counts = graph.counts(strategy)
        key = tuple(counts.tolist())
        distributed.check("the strategy", str(key))
        if key not in seen:
            if quick:
                score = quick.tuned(compressor.cut(strategy), validation, wished)
            else:
                score = evaluate(compressor.borrow(strategy), validation, adapt, wished, task)
            seen[key] = Outcome(score, graph.cost.macs(counts), graph.cost.params(counts))
        return seen[key]

    return outcome
