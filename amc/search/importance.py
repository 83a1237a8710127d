"""The importance of every channel of a network, comparable between its groups."""

from amc.allocators.scores import Errors, Scores, comparable, scores_from_errors
from amc.metrics import METRICS, Evidence, Metric, scores_of
from amc.metrics.table import IN_UNITS_OF_LOSS
from amc.objectives.budget import Budget
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.sensitivity import lasting


def estimates_loss(metric: Metric) -> bool:
    """Whether scores are in units of the loss; those of the user's own are taken to be."""
    return metric not in METRICS.values() or any(
        metric is METRICS[name] for name in IN_UNITS_OF_LOSS
    )


def importance(
    metric: Metric, evidence: Evidence, compressor: Compressor, budget: Budget, errors: Errors
) -> Scores:
    """What a metric says of every channel, group name -> [size].

    Scores in units of the loss are comparable as they are; others become so by the mean of their
    group. Of a metric that only selects, channels are worth the reconstruction error that they
    add when they leave.

    Args:
        metric: of the run.
        evidence: what it looks at.
        compressor: tells which channels leave first.
        budget: the counts at which errors are known.
        errors: of every group at these counts.
    """
    scores = {}
    for group in budget.graph.decisions:
        score = scores_of(metric, evidence, group)
        if score is None:
            return _of_errors(compressor, budget, errors)
        scores[group.name] = score if estimates_loss(metric) else comparable(score)
    return scores


def _of_errors(compressor: Compressor, budget: Budget, errors: Errors) -> Scores:
    pairs = zip(budget.graph.decisions, budget.options, strict=True)
    orders = {group.name: lasting(compressor, group, options) for group, options in pairs}
    return scores_from_errors(budget, errors, orders)


def losses(metric: Metric, evidence: Evidence, budget: Budget) -> Scores:
    """Loss that every channel is worth, [size]: by the metric if it says so, else by Taylor."""
    used = metric if estimates_loss(metric) else METRICS["taylor"]
    found = {}
    for group in budget.graph.decisions:
        score = scores_of(used, evidence, group)
        if score is None:  # the user's own metric only selects
            return losses(METRICS["taylor"], evidence, budget)
        found[group.name] = score
    return found
