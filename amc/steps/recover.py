"""Accuracy comes back: training after the cut, or pruning in turns with training after each."""

from pathlib import Path

from torch import nn

from amc.config.apply import ApplyConfig
from amc.config.many_budgets import ParetoConfig
from amc.config.sections.recovery import StagesConfig
from amc.config.train import TrainConfig
from amc.graph.plan import Plan
from amc.runs.tensorboard import TensorBoardLog
from amc.steps.finetune import Recovery
from amc.steps.gradual import Left, gradually
from amc.steps.job import Job
from amc.steps.setup import Network
from amc.steps.turns import at_once, in_stages


def recover(
    job: Job,
    network: Network,
    pruned: nn.Module,
    plan: Plan,
    config: TrainConfig | ApplyConfig | ParetoConfig,
    folder: Path,
    log: TensorBoardLog,
) -> tuple[nn.Module, Plan]:
    """The trained network, and what is left in it: less than the plan if stages were stopped.

    Args:
        job: the run.
        network: before any cut.
        pruned: the network under the plan, cut at once.
        plan: what stays.
        config: how to train, and in which stages.
        folder: of the run.
        log: is told of every step.
    """
    graph, training = network.graph, config.training
    stages = config.stages if isinstance(config, TrainConfig) else StagesConfig()
    recovery = Recovery(
        job, graph, network.model, training, config.distill, config.data, log, folder
    )
    if stages.several and training.finetune_epochs:
        aim = {name: plan.strategy.get(name, size) for name, size in graph.sizes.items()}
        schedule = in_stages(graph.sizes, aim, training, stages, job.terminal)
    else:
        schedule, stages = at_once(plan, pruned, training), StagesConfig()
    original = Left(job, network.model, graph.plan({}), dict(graph.sizes))
    left = gradually(original, schedule, recovery, stages)
    return left.network, left.plan
