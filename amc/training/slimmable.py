"""Training of one network so that all of its slices work.

Universally slimmable networks (Yu and Huang 2019, arXiv:1903.05134): in every step the widest
slice, the narrowest and some between them (the sandwich rule), gradients summed. All of them learn
from the original network, which is there, where the paper's learn from the widest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from amc.graph import attributes
from amc.graph.plan import Plan, cuts_seen_from
from amc.graph.scratch_network import ScratchNetwork
from amc.graph.shrink import sliced, tensors
from amc.runtime.feed import Feed
from amc.training.distillation import Loss, at


class Slices:
    """A second module that takes the shapes and the weights of slices of a network.

    Weights keep their history: what a slice learns, the network does. Buffers are copies, so that
    a batch norm in training mode leaves the network's running statistics alone.

    Args:
        original: before any cut. What slices look like is told from it: a grouped convolution that
            was cut may look like a depthwise one.
        outer: what the network whose slices are asked for keeps of it.
    """

    def __init__(self, original: nn.Module, outer: Plan) -> None:
        self._scratch, self._outer = ScratchNetwork(original), outer
        names: dict[int, list[str]] = {}
        for name, held in tensors(original).items():
            names.setdefault(id(held), []).append(name)
        self._names = list(names.values())  # tied tensors have several

    def __call__(self, model: nn.Module, plan: Plan) -> nn.Module:
        """The slice that a plan leaves, in the model's mode; valid until the next call.

        Args:
            model: the network, or a copy of it, with any weights.
            plan: of the original.
        """
        state, parts = tensors(model), dict[str, Tensor]()
        cuts = Plan({}, cuts_seen_from(self._outer.cuts, plan.cuts)).by_tensor
        places: dict[tuple[int, ...], Tensor] = {}
        for names in self._names:
            name = next((one for one in names if one in cuts), names[0])
            held, where = state[name], []
            for one in cuts.get(name, ()):
                if one.keep not in places:
                    places[one.keep] = torch.tensor(one.keep, device=held.device)
                where.append((one.dim, places[one.keep]))
            part = sliced(held, where)
            copied = part is held and not isinstance(held, nn.Parameter)
            parts[name] = part.clone() if copied else part
        sizes = {
            one.tensor: len(one.keep) for one in plan.cuts if attributes.is_attribute(one.tensor)
        }
        worn = self._scratch.wear(parts, sizes)
        return worn if worn.training == model.training else worn.train(model.training)


@dataclass(frozen=True)
class Slimmable:
    """The sum of a loss over slices of a network; which ones is a function of seed and progress.

    Attributes:
        loss: plan of a slice, of the original -> what is minimised of it.
        widest: what the original was cut to; the whole of the network that is trained.
        narrowest: the slice that all others hold, or nearly.
        draw: some slices between.
        slices: of the network that is trained.
        seed: of the slices that are drawn.
        progress: part of the training that is over, in [0, 1].
    """

    loss: Callable[[Plan], Loss]
    widest: Plan
    narrowest: Plan
    draw: Callable[[np.random.Generator], Sequence[Plan]]
    slices: Slices
    seed: int = 0
    progress: float = 0.0

    def at(self, progress: float) -> "Slimmable":
        """The loss after this part of the training."""
        return replace(self, progress=progress)

    def __call__(self, model: nn.Module, images: Feed, targets: Tensor) -> Tensor:
        """The loss of a batch.

        The network itself is the widest slice: its batch norms learn their running statistics.
        """
        rng = np.random.default_rng((self.seed, round(self.progress * 2**40)))
        total = at(self.loss(self.widest), self.progress)(model, images, targets)
        for plan in (self.narrowest, *self.draw(rng)):
            own = at(self.loss(plan), self.progress)
            total = total + own(self.slices(model, plan), images, targets)
        return total
