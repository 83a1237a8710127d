"""Cells of a table (network, data, part of the MACs, seed), and what is measured in one.

An arm is a way to decide how much every group keeps, with settings of `amc.train` of its own. What
is measured is a whole run, without its files and timings: network, data and statistics are shared
by all arms of a seed.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import graphed
import numpy as np
import torch
import torch_pruning
from torch import nn

from amc.allocators.scores import Errors
from amc.config.train import TrainConfig
from amc.gradual.finals import finals
from amc.gradual.recover import recover
from amc.graph.plan import Strategy
from amc.graph.tracing.trace import trace
from amc.objectives.budget import Budget
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.runs.terminal import Terminal
from amc.steps.allocate import Allocation, allocation_of, candidates, errors_of
from amc.steps.cut import calibrate, cut_best
from amc.steps.job import open_job
from amc.steps.search import evaluator
from amc.steps.setup import build_network, load_network, trace_network
from amc.tasks.evaluate import evaluate
from amc.training.distillation import Distillation
from amc.training.recipe import Recipe
from amc.training.trainer import train

TORCH_PRUNING = {
    "torch-pruning": {},
    "torch-pruning-global": {"global_pruning": True},
    "torch-pruning-isomorphic": {"global_pruning": True, "isomorphic": True},
}
"""Arms of torch-pruning: how its L2 norms are ranked."""

Ready = Callable[[Budget, Errors], Strategy | None]
"""A strategy that needs no search; None where there is none."""


@dataclass(frozen=True)
class Cell:
    """Where arms are compared.

    Attributes:
        network: a bundled one, with its width: ``vgg16-x0.25``.
        data: as ``--data`` has it.
        ratio: part of the MACs that stays.
        multiple: of kept channels; torch-pruning rounds to it as well.
        seed: of everything random.
    """

    network: str
    data: str
    ratio: float
    multiple: int = 1
    seed: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """Of a run."""
        model, _, width = self.network.partition("-x")
        return {
            "model": model, "width": float(width or 1), "data": self.data, "seed": self.seed,
            "preserve_ratio": self.ratio, "channel_multiple": self.multiple,
        }  # fmt: skip


class Lab:
    """A network with its data and statistics.

    Args:
        cell: whose ratio and multiple do not matter here.
        common: settings of all arms.
        weights: folder of ``NETWORK-DATA.safetensors``, for networks that have one there.
    """

    def __init__(self, cell: Cell, common: dict[str, Any], weights: Path) -> None:
        self._common = {"metric": "obs", "quiet": True, **common}
        place = weights / f"{cell.network}-{short(cell.data)}.safetensors"
        if place.is_file():
            self._common["checkpoint"] = place
        self.config = self.settings(cell)
        self.job = open_job(self.config, Terminal(quiet=True))
        if self.job.device.type == "cuda":
            graphed.install()
        given = build_network(self.job, self.config.network)
        graph = trace_network(self.job, given, self.config.restrictions)
        config = self.config
        self.network = load_network(self.job, given, graph, config.network, config.data)
        self.before = self.job.tested(self.network.model).accuracy
        self.compressor = calibrate(self.job, graph, self.network.model)

    def settings(self, cell: Cell, **own: Any) -> TrainConfig:
        """Of a run in a cell."""
        return TrainConfig.of(**{**cell.settings, **self._common, **own})

    def ours(
        self, cell: Cell, own: dict[str, Any], ready: Ready | None, proxies: bool = False
    ) -> dict[str, Any]:
        """What comes of an arm; nothing where its strategy does not exist.

        Args:
            cell: network, data, budget.
            own: settings of the arm.
            ready: its strategy, where that needs no search.
            proxies: whether to tell as well what is known before the training.
        """
        config = self.settings(cell, **own)
        job, network, compressor = self.job, self.network, self.compressor
        graph = network.graph
        if config.reward != job.judging:
            job = replace(job, judging=config.reward)
        with TemporaryDirectory() as name:
            folder, start = Path(name), time.perf_counter()
            log = TensorBoardLog(folder, graph.sizes, graph.macs())
            allocation = allocation_of(graph, config)
            if ready:
                assert allocation.budget is not None
                found = ready(allocation.budget, errors_of(job, compressor, allocation.budget))
                if found is None:
                    return {}
                allocation = Allocation(strategy=found)
            chosen = candidates(job, network, compressor, allocation, config, folder, log)
            chosen = finals(job, network, compressor, chosen, config, folder)
            by = chosen.compressor or compressor
            plan, small = cut_best(job, by, chosen.strategies, chosen.plan, own=chosen.cut)
            searched = time.perf_counter() - start
            cut = job.tested(small).accuracy
            told: dict[str, Any] = self._proxies(plan.strategy, small, config) if proxies else {}
            tuned, plan, macs = recover(
                job, network, small, plan, config, folder, log, allocation, chosen.begun
            )
        spent = chosen.having_trained(finetune=macs)
        told |= {"trained_macs": dict(spent.trained), "shared": spent.shared}
        told["finals"] = list(chosen.finals)
        return {
            **told,
            "macs": graph.macs(plan) / graph.macs(), "params": graph.params(plan),
            "cut": cut, "searched": searched, "strategy": plan.strategy, **self._scores(tuned),
        }  # fmt: skip

    def _proxies(
        self, strategy: Strategy, small: nn.Module, config: TrainConfig
    ) -> dict[str, float]:
        """What is known of a strategy before the training; higher is better."""
        job, compressor, graph = self.job, self.compressor, self.network.graph
        short = replace(job, judging=replace(job.judging, regime="finetune"))
        outcome, tuned = (
            evaluator(one, compressor, config.training, config.distill)(strategy)
            for one in (job, short)
        )
        budget, counts = allocation_of(graph, config).budget, graph.counts(strategy)
        assert budget is not None
        errors = errors_of(job, compressor, budget)
        pairs = zip(graph.decisions, counts, budget.options, strict=True)
        return {
            "episode": job.reward(outcome),
            "short": job.reward(tuned),
            "val_cut": evaluate(small, job.validation, task=job.task).accuracy,
            "errors": -sum(float(np.interp(n, o, errors[g.name])) for g, n, o in pairs),
            "log_width": float(np.log(counts / graph.counts({})).mean()),
        }

    def of_torch_pruning(self, cell: Cell, kind: str, own: dict[str, Any]) -> dict[str, Any]:
        """The same of torch-pruning's cut, trained by our recipe."""
        config, job = self.settings(cell, **own), self.job
        small = cut_by_torch_pruning(self.network.model, self.job.example.args[0], cell, kind)
        cut, training = job.tested(small).accuracy, config.training
        recipe = Recipe(
            training.finetune_epochs, training.rate_for(self.network.graph),
            weight_decay=training.weight_decay, clip=training.clip, ema=training.ema,
        )  # fmt: skip
        teacher, distill = copy.deepcopy(self.network.model), config.distill
        loss = Distillation(teacher, distill.temperature, distill.distill_weight)
        torch.manual_seed(cell.seed)
        tuned = train(small, job.data.train, recipe, loss)
        graph = trace(tuned, job.example.args)
        macs = graph.macs() / self.network.graph.macs()
        return {"macs": macs, "params": graph.total_params, "cut": cut, **self._scores(tuned)}

    def _scores(self, tuned: nn.Module) -> dict[str, float]:
        val = self.job.scored(tuned, "val", self.job.data.val).accuracy
        return {"before": self.before, "val": val, "trained": self.job.tested(tuned).accuracy}


def cut_by_torch_pruning(
    model: nn.Module, example: torch.Tensor, cell: Cell, kind: str
) -> nn.Module:
    """What torch-pruning leaves by L2 norms; the most MACs that are not above the target."""
    example = example[:1]
    whole, _ = torch_pruning.utils.count_ops_and_params(model, example)

    def cut(share: float) -> tuple[nn.Module, float]:
        small = copy.deepcopy(model)
        last = [m for m in small.modules() if isinstance(m, nn.Linear)][-1]
        torch_pruning.pruner.MagnitudePruner(
            small, example, torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=share, max_pruning_ratio=0.97, ignored_layers=[last],
            round_to=cell.multiple if cell.multiple > 1 else None, **TORCH_PRUNING[kind],
        ).step()  # fmt: skip
        return small, torch_pruning.utils.count_ops_and_params(small, example)[0] / whole

    low, high = 0.0, 0.97
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if cut(middle)[1] > cell.ratio else (low, middle)
    return cut(high)[0]


def short(data: str) -> str:
    """The name of data without path and options."""
    return data.partition("?")[0].split("/")[-1]
