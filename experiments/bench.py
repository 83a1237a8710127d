"""A network with its data, graph and statistics: what every benchmark here starts from."""

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn

from amc.calibration.calibrate import calibrate
from amc.data import Data, load_data
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Strategy
from amc.graph.tracing.trace import trace
from amc.metrics import METRICS, Evidence, selection_of
from amc.models.pretrained import pretrained
from amc.objectives.budget import Budget
from amc.reconstruction.compressor import Compressor
from amc.runs.terminal import Terminal
from amc.runtime.feed import Feed
from amc.steps.job import Job


@dataclass(frozen=True)
class Bench:
    """One bundled network on one data set, calibrated with the defaults of a run."""

    model_name: str = "resnet20"
    data_name: str = "digits"
    selector: str = "lasso"
    width: float = 1.0
    device: str = "cpu"

    @cached_property
    def data(self) -> Data:
        """The data set, opened as a run opens it."""
        return load_data(self.data_name, seed=0, batch_size=64)

    @cached_property
    def model(self) -> nn.Module:
        """The network with its weights."""
        data = load_data(self.data_name, seed=0)
        model, _ = pretrained(self.model_name, self.width, data)
        return model.to(self.device).eval()

    @cached_property
    def job(self) -> Job:
        """What the steps of a run need, with the default settings."""
        return Job(self.data, torch.device(self.device), Terminal(quiet=True))

    @cached_property
    def images(self) -> list[tuple[Feed, Tensor]]:
        """Calibration images."""
        return self.job.images

    @cached_property
    def graph(self) -> ChannelGraph:
        """What can be cut."""
        return trace(self.model, self.job.example.args)

    @cached_property
    def compressor(self) -> Compressor:
        """What cuts, with statistics."""
        stats = calibrate(self.graph, self.model, self.images, self.job.sampling)
        select = partial(
            selection_of, METRICS[self.selector], Evidence(self.graph, self.model, stats)
        )
        return Compressor(self.graph, self.model, stats, select)

    def budget(self, preserve_ratio: float) -> Budget:
        """A budget with the defaults of a run."""
        return Budget(self.graph, preserve_ratio)


def random_strategy(budget: Budget, seed: int) -> Strategy:
    """A feasible strategy between the uniform one and one of wholly random actions.

    Actions are 0.5, a trend over depth and noise, each of random size: near misses of the uniform
    strategy, early-heavy and late-heavy networks, and chaos.
    """
    rng = np.random.default_rng(seed)
    count = len(budget.options)
    trend = rng.uniform(-0.4, 0.4) * np.linspace(-1, 1, count)
    noise = rng.uniform(0, 0.45) * rng.uniform(-1, 1, count)
    actions = np.clip(0.5 + trend + noise, 0, 1)
    decided: list[int] = []
    for action in actions:
        decided.append(budget.execute(decided, float(action))[0])
    return budget.strategy(budget.complete(decided))
