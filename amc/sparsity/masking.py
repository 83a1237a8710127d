"""Masks that follow a schedule while a network is trained: by magnitude, or drawn (RB)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amc.sparsity.account import layer_levels, level_of
from amc.sparsity.bernoulli import BernoulliMask, bernoulli_masks, density_loss, draw
from amc.sparsity.levels import Adaptive, Levels
from amc.sparsity.masks import dense_weights, put_masks
from amc.sparsity.patterns import SINGLE, Layout, Pattern
from amc.sparsity.select import chosen

EXACT = 1e-9
"""Rounding errors of levels."""

RATE, WAY = 1e-3, 6.0
"""Of Adam, as NNCF has it; and how far a logit, which begins at 4.6, is to get until the target.
Adam moves it by the rate in a step. At 6 training puts out nearly all units by itself (measured:
docs/results.md); at less it ends before, and what has not learned is cut."""


@dataclass(frozen=True)
class Zeros:
    """What may become zero in a network, and how much of it in the end.

    Attributes:
        layouts: name of a weight -> where its outputs and inputs are; of all that may.
        target: part that becomes zero.
        pattern: what becomes zero together.
        scope: "global" or "uniform", see `chosen`.
        shares: name -> the part of this weight, where the parts are given one by one.
    """

    layouts: Mapping[str, Layout]
    target: float
    pattern: Pattern = SINGLE
    scope: str = "global"
    shares: Mapping[str, float] | None = None

    def masks(self, scores: Mapping[str, Tensor], level: float) -> dict[str, Tensor]:
        """Masks at a level on the way to the target; the units of the highest scores stay.

        Args:
            scores: name -> scores of single weights, of the weight's shape.
            level: part that is zero; of given shares every weight has gone the same way.
        """
        if self.shares is None:
            return chosen(scores, level, self.pattern, self.scope, self.layouts)
        way = min(1.0, level / self.target) if self.target else 0.0
        shares = {name: way * share for name, share in self.shares.items()}
        return chosen(scores, shares, self.pattern, layouts=self.layouts)


class Growing:
    """Masks by a score of the weights as they are, chosen anew until they are frozen.

    See `amc.training.recipe.Beside`.

    Args:
        model: with masks on the weights of `zeros`; trained in place.
        zeros: what may become zero.
        levels: the schedule.
        score: of single weights, from a weight; higher stays.
        steps: of the optimiser in an epoch.

    Attributes:
        level: that the schedule asks for now.
        history: the part that was zero at the beginning of every epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        zeros: Zeros,
        levels: Levels,
        score: Callable[[Tensor], Tensor],
        steps: int,
    ) -> None:
        self.parameters: list[nn.Parameter] = []
        self.settled = False
        self.level = levels.at(0)
        self._model, self._zeros, self._levels = model, zeros, levels
        self._score, self._steps = score, steps
        self.history: list[float] = []
        self._adaptive = Adaptive(levels)

    @property
    def told(self) -> str:
        """The level, for lines of progress."""
        return f"zeros {self.level:.1%}"

    @property
    def achieved(self) -> float:
        """The part that is zero now."""
        return level_of(layer_levels(self._model))

    def before_step(self, step: int) -> None:
        """The level of the step, and its masks; or the end of all changes."""
        begins, epochs = step % self._steps == 0, step / self._steps
        if begins:
            self.history.append(self.achieved)
        if self.settled:
            return
        if step and epochs >= self._levels.freeze and self.level >= self._levels.target - EXACT:
            self.freeze()
            return
        if begins and self._levels.name == "adaptive":
            self.level = self._adaptive.next_epoch(self.achieved)
        elif self._levels.name != "adaptive":
            self.level = self._levels.at(epochs)
        self.choose(step, begins or self._levels.per_step)

    def choose(self, step: int, anew: bool) -> None:
        """The masks of a step; ``anew``: the level may be another one."""
        if anew:
            self.put(self.level)

    def freeze(self) -> None:
        """The masks stay as they are."""
        self.settled = True

    def end(self) -> None:
        """A training that was too short for its schedule has the target all the same."""
        if not self.settled:
            self.level = self._levels.target
            self.put(self.level)
            self.freeze()

    def penalty(self) -> Tensor | None:
        """Nothing."""
        return None

    def after_step(self) -> None:
        """Nothing."""

    def state(self) -> dict[str, Tensor]:
        """Besides the masks, which are of the network."""
        waiting = [self._adaptive.level, self._adaptive.reached, self.level, self.settled]
        numbers = {"schedule": waiting, "history": self.history}
        return {name: torch.tensor(one, dtype=torch.float64) for name, one in numbers.items()}

    def go_back(self, state: dict[str, Tensor]) -> None:
        """To what `state` gave."""
        level, reached, self.level, settled = state["schedule"].tolist()
        self._adaptive.level, self._adaptive.reached = level, int(reached)
        self.settled, self.history = bool(settled), state["history"].tolist()

    def put(self, level: float) -> None:
        """The masks of a level, chosen now."""
        dense = dense_weights(self._model)
        scores = {name: self._score(dense[name]) for name in self._zeros.layouts}
        put_masks(self._model, self._zeros.masks(scores, level))


class Drawn(Growing):
    """Masks that are drawn from logits, which are trained (RB).

    Args:
        model: with `BernoulliMask` on the weights of `zeros`.
        zeros: what may become zero.
        levels: the schedule.
        steps: of the optimiser in an epoch.
        rate: of Adam, for the logits; None: `RATE`, or more where the schedule is short.
        seed: of the draws.
    """

    def __init__(
        self,
        model: nn.Module,
        zeros: Zeros,
        levels: Levels,
        steps: int,
        rate: float | None,
        seed: int,
    ) -> None:
        super().__init__(model, zeros, levels, Tensor.detach, steps)
        self.masks: dict[str, BernoulliMask] = bernoulli_masks(model)
        self.parameters = [mask.logits for mask in self.masks.values()]
        self.learned: float | None = None
        self.rate = max(RATE, WAY / max(1, levels.reaches * steps)) if rate is None else rate
        self._adam, self._seed = torch.optim.Adam(self.parameters, lr=self.rate), seed

    def choose(self, step: int, anew: bool) -> None:
        """New masks for every step."""
        draw(self.masks, step, self._seed)

    def freeze(self) -> None:
        """The units of the highest logits stay, as many as the target says."""
        self.learned = self.achieved
        self.put(self._levels.target)
        super().freeze()

    def penalty(self) -> Tensor | None:
        """What pulls the density to that of the level."""
        return None if self.settled else density_loss(self.masks, self.level)

    def after_step(self) -> None:
        """A step of Adam."""
        if not self.settled:
            self._adam.step()

    def state(self) -> dict[str, Tensor]:
        """With Adam's moments, and the level that the logits had come to by themselves."""
        found = super().state()
        for number, logits in enumerate(self.parameters):
            for name, moment in self._adam.state[logits].items():
                found[f"adam.{number}.{name}"] = moment
        if self.learned is not None:
            found["learned"] = torch.tensor(self.learned, dtype=torch.float64)
        return found

    def go_back(self, state: dict[str, Tensor]) -> None:
        """To what `state` gave."""
        super().go_back(state)
        self.learned = float(state["learned"]) if "learned" in state else None
        self._adam.state.clear()
        for number, logits in enumerate(self.parameters):
            for name in ("step", "exp_avg", "exp_avg_sq"):
                if (moment := state.get(f"adam.{number}.{name}")) is not None:
                    where = moment.device if name == "step" else logits.device
                    self._adam.state[logits][name] = moment.clone().to(where)

    def put(self, level: float) -> None:
        """The masks of a level, chosen now."""
        scores = {name: self.masks[name].scores() for name in self._zeros.layouts}
        put_masks(self._model, self._zeros.masks(scores, level))
