"""Movement: how training moves weights away from zero (Sanh et al. 2020).

``S = -sum_t w_t g_t`` over the steps t of a training, with g the gradient of the loss, entry by
entry: it grows with every step that makes the magnitude of the weight larger.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from amc.graph.shrink import duplicate, tensors
from amc.runtime import distributed, feed
from amc.runtime.errors import AmcError
from amc.runtime.feed import Feed
from amc.tasks.evaluate import predictions
from amc.tasks.precision import precise
from amc.tasks.task import Task
from amc.training.recipe import Recipe, clip_by_filter_norm, optimiser
from amc.training.shared_gradient import gradient

RECIPE = Recipe(1, 0.01, clip=0.2)
"""Of the short training where there is no other: one pass, gently."""


class Movement:
    """Adds up movement while a network is trained.

    Args:
        model: that is trained, in place.
        names: of its tensors that are looked at; by default all parameters.

    Attributes:
        sums: tensor name -> S of its entries, float64.
    """

    def __init__(self, model: nn.Module, names: Collection[str] | None = None) -> None:
        state = tensors(model)
        wanted = dict(model.named_parameters()) if names is None else names
        self._tensors = {name: state[name] for name in wanted}
        self.sums = {k: torch.zeros_like(t, dtype=torch.float64) for k, t in self._tensors.items()}

    @torch.no_grad()
    def add(self) -> None:
        """Counts a step: when the gradients are set, before the weights follow them."""
        for name, weight in self._tensors.items():
            if weight.grad is not None:
                self.sums[name] -= weight.double() * weight.grad


@precise()
def short_training(
    model: nn.Module,
    names: Collection[str],
    batches: Sequence[tuple[Feed, Tensor]],
    task: Task,
) -> Mapping[str, Tensor]:
    """Movement over one pass of training of a copy, one step a batch.

    Batch norm keeps its statistics and nothing is dropped, so that the ranks, each of which takes
    a slice of every batch, do what one process does.

    Args:
        model: never changed.
        names: of the tensors that are looked at.
        batches: images and their targets.
        task: whose loss it is.

    Returns:
        Tensor name -> movement, float64; the same on all ranks.

    Raises:
        AmcError: there are no images, or the training fails.
    """
    if not batches:
        raise AmcError("calibration: the data yields no images")
    copy = duplicate(model).eval().requires_grad_(True)
    device = next(copy.parameters()).device
    movement, sgd = Movement(copy, names), optimiser(copy, RECIPE)

    def loss(images: Feed, targets: Tensor) -> Tensor:
        return task.batch_loss(predictions(copy, images, task), targets)

    for step, (images, targets) in enumerate(batches):
        RECIPE.set_rate(sgd, step / len(batches))
        sgd.zero_grad(set_to_none=True)
        images = feed.moved(feed.each(images, distributed.part), device)
        reached = gradient(
            list(copy.parameters()),
            loss,
            images,
            distributed.part(targets).to(device),
            len(targets),
        )
        if not bool(reached.isfinite()):
            raise AmcError(f"movement: the loss is {float(reached)} in step {step + 1}")
        movement.add()
        clip_by_filter_norm(copy.parameters(), RECIPE.clip)
        sgd.step()
    return movement.sums
