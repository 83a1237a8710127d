"""Channels go by the loss that each is worth for what it costs, as AMCT's automatic search does.

Value density (the documentation of `auto_channel_prune_search`, Huawei AMCT): the first-order
Taylor estimate of the loss that a channel is worth, divided by the bit complexity that it takes;
the channels of least density go until the target is met. Here the gain is what the whole coupled
network saves in the unit of the budget, asked anew after every removal. `max_prune_ratio` is
``1 - --min-ratio``, `ascend_optimized` is ``--channel-multiple 16``: channels go in blocks that
leave a multiple, and the density of a block is all that it is worth by all that it saves.
"""

from amc.allocators.by_density import shrunk
from amc.allocators.problem import AllocationProblem
from amc.allocators.scores import errors_from_scores


def sensitivity(problem: AllocationProblem) -> dict[str, int]:
    """Groups shrink by the least loss for what they save until the budget holds."""
    budget = problem.budget
    counts = shrunk(budget, errors_from_scores(budget, problem.losses))
    return budget.strategy(budget.complete(counts.tolist()))
