"""RB, the regularisation based sparsity of NNCF: masks are drawn, from logits that are trained.

Every unit has a logit s. In training its mask is drawn anew for every step,

    eps = [sigmoid(s + logit(u)) > 1/2],  u ~ U(0, 1),  so that  P(eps = 1) = sigmoid(s),

and the gradient passes the threshold as if it were not there (straight-through). In eval mode the
mask is [sigmoid(s) > 1/2]. A loss pulls the expected density to the wanted one (`density_loss`);
which units stay is what the loss of the task says. In the end `freeze` makes the level exact.
After Louizos et al. 2018, whose stretched gate and penalty it replaces.
"""

import math
import zlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from amc.sparsity.masks import Mask, attach, masks_of
from amc.sparsity.patterns import PLAIN, SINGLE, Layout, Pattern
from amc.sparsity.select import chosen

FIRST_LOGIT = math.log(0.99 / 0.01)
"""At the start 99 % of the units are there."""

NARROW = 1e-6
"""Random numbers stay this far from 0 and 1, where logits are infinite."""

SCALE = 0.05
"""A density that misses by this costs 1."""


class BernoulliMask(Mask):
    """A mask that is drawn, until it is frozen.

    Attributes:
        logits: one for each unit, [units]; to be trained.
        noise: logit(u) of this step; not in the state dict.
        frozen: bool; from then on the mask is `mask`.
    """

    noise: Tensor
    frozen: Tensor

    def __init__(self, weight: Tensor, pattern: Pattern = SINGLE, layout: Layout = PLAIN) -> None:
        super().__init__(weight)
        # which ones of M stay is not known before the end: each has a logit of its own
        self._pattern, self._layout = SINGLE if pattern.stay else pattern, layout
        units = self._pattern.units(weight.shape, layout)
        device = weight.device
        self.logits = nn.Parameter(torch.full((units,), FIRST_LOGIT, device=device))
        self.register_buffer("noise", torch.zeros(units, device=device), persistent=False)
        self.register_buffer("frozen", torch.tensor(False, device=device))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with the zeros of this step, or in eval mode with those that it ends with."""
        if not self.training:
            return torch.where(self.current(), weight, 0)
        soft = (self.logits + self.noise).sigmoid()
        hard = (soft > 0.5) + (soft - soft.detach())
        drawn = torch.where(self.frozen, self.mask, self._over(hard, weight))
        return weight * drawn.to(weight.dtype)

    def current(self) -> Tensor:
        """What stays in eval mode, bool."""
        return torch.where(self.frozen, self.mask, self._over(self.logits.detach() > 0, self.mask))

    def put(self, mask: Tensor) -> None:
        """Freezes this mask."""
        super().put(mask)
        self.frozen.fill_(True)

    def scores(self) -> Tensor:
        """The logits, of the weight's shape."""
        return self._over(self.logits.detach(), self.mask)

    def draw(self, generator: torch.Generator) -> None:
        """New random numbers for the next step."""
        uniform = torch.rand(self.noise.shape, generator=generator, device=self.noise.device)
        self.noise.copy_(uniform.clamp(NARROW, 1 - NARROW).logit())

    def _over(self, units: Tensor, weight: Tensor) -> Tensor:
        return self._pattern.expanded(units, weight.shape, self._layout)


def attach_bernoulli(
    model: nn.Module,
    names: Iterable[str],
    pattern: Pattern = SINGLE,
    layouts: Mapping[str, Layout] | None = None,
) -> dict[str, BernoulliMask]:
    """Puts drawn masks on weights, in place; see `attach`."""
    found: dict[str, BernoulliMask] = {}

    def make(name: str, weight: Tensor) -> Mask:
        found[name] = BernoulliMask(weight, pattern, (layouts or {}).get(name, PLAIN))
        return found[name]

    attach(model, list(names), make)
    return found


def bernoulli_masks(model: nn.Module) -> dict[str, BernoulliMask]:
    """Those masks of a network that are drawn."""
    return {n: m for n, m in masks_of(model).items() if isinstance(m, BernoulliMask)}


def draw(masks: Mapping[str, BernoulliMask], step: int, seed: int = 0) -> None:
    """Draws the masks of a step: to be called before it.

    They depend on the seed, the step and the name alone: a training that goes on after a stop, and
    all processes of one, draw the same.
    """
    for name, mask in masks.items():
        generator = torch.Generator(mask.noise.device)
        mask.draw(generator.manual_seed(zlib.crc32(f"{seed}/{step}/{name}".encode())))


def density_loss(masks: Mapping[str, BernoulliMask], level: float) -> Tensor:
    """((E[density] - (1 - level)) / 0.05)^2, to be added to the loss of the task.

    E[density] is the mean of sigmoid(s) over all units of all layers.
    """
    expected = torch.cat([mask.logits.sigmoid() for mask in masks.values()]).mean()
    return ((expected - (1 - level)) / SCALE) ** 2


def freeze(
    masks: Mapping[str, BernoulliMask],
    level: float | Mapping[str, float],
    pattern: Pattern = SINGLE,
    scope: str = "global",
    layouts: Mapping[str, Layout] | None = None,
) -> None:
    """Ends the drawing: the units with the highest logits stay, exactly as many as the level says.

    Arguments are those of `chosen`.
    """
    scores = {name: mask.scores() for name, mask in masks.items()}
    for name, kept in chosen(scores, level, pattern, scope, layouts).items():
        masks[name].put(kept)
