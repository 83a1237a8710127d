"""Accuracy comes back: training after the cut, or cutting in stages with training after each.

Groups go one after the other, or all of them little by little. Every stage calibrates, selects and
reconstructs on the network that the last one left.
"""

import math
from pathlib import Path

import torch
from torch import nn

from amc.config.apply import ApplyConfig
from amc.config.sections.recovery import StagesConfig
from amc.config.train import TrainConfig
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Plan, Strategy
from amc.graph.shrink import duplicate, tensors
from amc.graph.tracing.trace import trace
from amc.reconstruction.compressor import Compressor
from amc.runs.tensorboard import TensorBoardLog
from amc.schedules.stages import group_by_group, little_by_little, shared_out, towards
from amc.steps.cut import calibrate, cut, original_outputs
from amc.steps.finetune import Recovery
from amc.steps.job import Job
from amc.steps.setup import Network
from amc.tasks.evaluate import evaluate


class Stages:
    """The way from the original network to a strategy.

    Args:
        recovery: trains after every stage.
        strategy: what is kept in the end.
        config: how it is reached.
    """

    def __init__(self, recovery: Recovery, strategy: Strategy, config: StagesConfig) -> None:
        self._recovery, self._job, self._graph = recovery, recovery.job, recovery.graph
        self._config, self._training = config, recovery.training
        self._aim = {name: strategy.get(name, size) for name, size in self._graph.sizes.items()}
        self._reached = dict(self._graph.sizes)
        self._keep = {name: tuple(range(size)) for name, size in self._graph.sizes.items()}
        self._network, self._trained, self._number = recovery.original, 0, 0
        self._least = -math.inf
        if self._config.stop_drop:
            self._least = self._score(self._network) - self._points(self._config.stop_drop)

    def run(self) -> tuple[nn.Module, Plan]:
        """The tuned network, and what is left in it.

        The way ends early if a stage costs more than `stop_drop` allows: what that one cut is put
        back.
        """
        if self._config.schedule == "adaptive":
            self._adaptively()
        else:
            self._as_planned()
        return self._network, self._graph.plan(self._keep)

    def _as_planned(self) -> None:
        config, sizes = self._config, self._graph.sizes
        if config.group_size:
            stages = group_by_group(sizes, self._aim, config.group_size)
        else:
            stages = little_by_little(
                sizes, self._aim, config.schedule, config.schedule_steps, config.schedule_parts
            )
            stages = stages or [{}]  # nothing to cut: one stage of training
        epochs = shared_out(self._training.finetune_epochs, len(stages), config.stage_epochs)
        for number, stage in enumerate(stages):
            if not self._advance(self._calibrated(), stage, epochs[number], stage is stages[-1]):
                return

    def _adaptively(self) -> None:
        """Each stage as far as it costs at most `adaptive_drop` points before training."""
        left = self._training.finetune_epochs
        for steps in range(self._config.schedule_steps, 0, -1):
            compressor = self._calibrated()
            stage = self._bearable(compressor, steps)
            last = {**self._reached, **stage} == self._aim
            epochs = left if last else left // steps
            left -= epochs
            if not self._advance(compressor, stage, epochs, last) or last:
                return

    def _bearable(self, compressor: Compressor, steps: int) -> dict[str, int]:
        """The whole way that is left, half of it, ...; at least its even share of the steps."""
        share, least = 1.0, self._score(self._network) - self._points(self._config.adaptive_drop)
        originals = original_outputs(self._job, compressor)
        while share > 1 / steps:
            stage = towards(self._reached, self._aim, share)
            plan = compressor.plan({**self._reached, **stage})
            small = cut(self._job, compressor, plan, originals)
            if self._score(small) >= least:
                return stage
            share /= 2
        return towards(self._reached, self._aim, 1 / steps)

    def _advance(self, compressor: Compressor, stage: Strategy, epochs: int, last: bool) -> bool:
        """One stage; whether the way goes on."""
        config, task, number = self._config, self._job.task, self._number
        self._job.terminal.say(f"stage    {number + 1}: {', '.join(stage) or 'training only'}")
        reached = {**self._reached, **stage}
        plan = compressor.plan(reached)
        if config.soft and not last:
            left, small = self._keep, silenced(compressor.model, compressor.graph, plan)
        else:
            left = dict(self._keep)
            for name, group in plan.groups.items():
                left[name] = tuple(self._keep[name][i] for i in group.keep)
            small = cut(self._job, compressor, plan)
        rate = self._training.learning_rate if last else config.stage_learning_rate
        rate = rate or self._training.learning_rate
        now = self._graph.plan(left)
        tuned = self._recovery.tune(small, now, epochs, rate, number, self._trained)
        if config.stop_drop and (score := self._score(tuned)) < self._least:
            self._job.terminal.say(
                f"stop     stage {number + 1} ends at {task.shown(score)} on validation images; "
                f"--stop-drop {config.stop_drop:g} allows {task.shown(self._least)}: it is taken "
                "back and the target is missed"
            )
            return False
        self._network, self._keep, self._reached = tuned, left, reached
        self._trained, self._number = self._trained + epochs, number + 1
        return True

    def _calibrated(self) -> Compressor:
        example = self._job.example
        graph = trace(self._network, example.args, example.kwargs)
        return calibrate(self._job, graph, self._network)

    def _score(self, network: nn.Module) -> float:
        return evaluate(network, self._job.validation, task=self._job.task).accuracy

    def _points(self, drop: float) -> float:
        return drop / self._job.task.points


def silenced(model: nn.Module, graph: ChannelGraph, plan: Plan) -> nn.Module:
    """A copy of full size in which nothing reads the channels that are not in the plan.

    It computes what the cut network would, and training may bring the channels back ("soft"
    pruning: He et al. 2018, arXiv:1808.06866). They zero the filters that compute the channels,
    which get no gradient behind batch norm and ReLU; the weights that read them do.
    """
    copy = duplicate(model)
    state, cuts = tensors(copy), {(one.tensor, one.dim): one for one in plan.cuts}
    with torch.no_grad():
        for layer in graph.layers:
            if one := cuts.get((layer.weight, layer.in_dim)):
                gone = torch.tensor(sorted(set(range(one.size)) - set(one.keep)), dtype=torch.long)
                weight = state[layer.weight]
                weight.index_fill_(layer.in_dim, gone.to(weight.device), 0)
    return copy


def recover(
    job: Job,
    network: Network,
    pruned: nn.Module,
    plan: Plan,
    config: TrainConfig | ApplyConfig,
    folder: Path,
    log: TensorBoardLog,
) -> tuple[nn.Module, Plan]:
    """The trained network, and what is left in it: less than the plan if stages were stopped.

    Args:
        job: the run.
        network: before any cut.
        pruned: the network under the plan.
        plan: what stays.
        config: how to train, and in which stages.
        folder: of the run.
        log: is told of every step.
    """
    recovery = Recovery(
        job,
        network.graph,
        network.model,
        config.training,
        config.distill,
        config.data,
        log,
        folder,
    )
    epochs, rate = config.training.finetune_epochs, config.training.learning_rate
    if isinstance(config, TrainConfig) and config.stages.several and epochs:
        trained, plan = Stages(recovery, plan.strategy, config.stages).run()
    else:
        trained = recovery.tune(pruned, plan, epochs, rate)
    return trained, plan
