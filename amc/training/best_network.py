"""The best network of a training, the one that it began with included if it is of use."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class BestNetwork:
    """Looks at the network before the training and after every epoch, and remembers the best.

    Attributes:
        score: of a network, the higher the better.
        scores: found so far: of the start, then of every epoch.
        counts: for each of them, whether that network may be the result.
    """

    score: Callable[[nn.Module], float]
    scores: list[float] = field(default_factory=list)
    counts: list[bool] = field(default_factory=list)
    _best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best(self) -> int:
        """The epoch with the highest score, the last of several; 0 for the start.

        Of those that count; -1 where none does.
        """
        known = [i for i, counts in enumerate(self.counts) if counts]
        return max(known, key=lambda i: (self.scores[i], i), default=-1)

    def look(self, network: nn.Module, counts: bool = True) -> None:
        """Adds a score; the network's state is copied if it is the best."""
        score = float(self.score(network))
        self.scores.append(-math.inf if math.isnan(score) else score)
        self.counts.append(counts)
        if self.best == len(self.scores) - 1:
            self._best = {n: t.detach().clone() for n, t in network.state_dict().items()}

    def best_of(self, network: nn.Module) -> nn.Module:
        """The network, with the state of the best one."""
        network.load_state_dict(self._best)
        return network

    def saved(self) -> dict[str, Tensor]:
        """What `restore` takes."""
        scores = torch.tensor(self.scores, dtype=torch.float64)
        counts = torch.tensor(self.counts, dtype=torch.bool)
        best = {f"best.{name}": t for name, t in self._best.items()}
        return {"scores": scores, "counts": counts, **best}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what `saved` gave."""
        self.scores = state["scores"].tolist()
        self.counts = state["counts"].tolist() if "counts" in state else [True] * len(self.scores)
        found = {n.removeprefix("best."): t for n, t in state.items() if n.startswith("best.")}
        self._best = found
