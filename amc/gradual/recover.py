"""Accuracy comes back: the turns of a run, one or many, with training after each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import nn

from amc.config.apply import ApplyConfig
from amc.config.many_budgets import ParetoConfig
from amc.config.sections.recovery import StagesConfig, TrainingConfig
from amc.config.train import TrainConfig
from amc.data import images_in
from amc.gradual.loop import Left, Schedule, Turn, gradually
from amc.gradual.reallocate import Reallocation
from amc.graph.plan import Plan, Strategy
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.runs.terminal import Terminal
from amc.runtime.files import write_json
from amc.schedules.curves import SCHEDULES, biased_rate, load_schedule
from amc.schedules.curves import Schedule as Curve
from amc.schedules.stages import group_by_group, little_by_little, shared_out, towards
from amc.steps.allocate import Allocation
from amc.steps.candidates import Begun
from amc.steps.cut import cut, original_outputs
from amc.steps.finetune import Recovery
from amc.steps.job import Job
from amc.steps.setup import Network
from amc.tasks.evaluate import evaluate


class Recovered(NamedTuple):
    """What came of a recovery.

    Attributes:
        network: trained.
        plan: what is left of the original in it.
        macs: forward MACs of all images that it was trained on.
    """

    network: nn.Module
    plan: Plan
    macs: int


def recover(
    job: Job,
    network: Network,
    pruned: nn.Module,
    plan: Plan,
    config: TrainConfig | ApplyConfig | ParetoConfig,
    folder: Path,
    log: TensorBoardLog,
    allocation: Allocation | None = None,
    begun: Begun | None = None,
) -> Recovered:
    """The trained network, and what is left in it: less than the plan if stages were stopped.

    Args:
        job: the run.
        network: before any cut.
        pruned: the network under the plan, cut at once.
        plan: what stays.
        config: how to train, and in which stages.
        folder: of the run.
        log: is told of every step.
        allocation: where the plan comes from; ``--reallocate`` does it anew in every turn.
        begun: the network under the plan, trained a little already; what is cut in several stages
            begins with the original all the same.
    """
    graph, training = network.graph, config.training
    stages = config.stages if isinstance(config, TrainConfig) else StagesConfig()
    recovery = Recovery(
        job, graph, network.model, training, config.distill, config.data, log, folder
    )
    heads = frozenset(g.name for g in graph.decisions if g.unit == "head")
    left = Left(job, network.model, graph.plan({}), dict(graph.sizes), heads)
    if not (stages.several and training.finetune_epochs):
        if begun:
            pruned, left = begun.network, replace(left, epochs=begun.epochs)
        schedule = at_once(plan, pruned, training)
        left = gradually(left, schedule, recovery, StagesConfig())
    elif isinstance(config, TrainConfig) and allocation and stages.reallocate:
        curve = curve_of(stages, job.schedule)
        anew = Reallocation(job, network, allocation, config, curve, folder, log)
        turns = shared([{}] * stages.steps, training, stages)
        schedule = one_by_one([anew.named(turn) for turn in turns])
        left = gradually(replace(left, bounds=anew.bounds), schedule, recovery, stages, anew)
    else:
        aim = {name: plan.strategy.get(name, size) for name, size in graph.sizes.items()}
        schedule = in_stages(graph.sizes, aim, training, stages, job)
        left = gradually(left, schedule, recovery, stages)
    if stages.several and training.finetune_epochs:
        levels = [level.as_json(graph) for level in left.levels]
        write_json(folder / "stages.json", {"stages": levels})
    macs = left.trained * images_in(job.data.train) if left.trained else 0
    return Recovered(left.network, left.plan, macs)


def at_once(plan: Plan, pruned: nn.Module, training: TrainingConfig) -> Schedule:
    """A single turn, whose cut is known."""
    epochs, rate = training.finetune_epochs, training.learning_rate
    return one_by_one([Turn(plan.strategy, epochs, rate, last=True, ready=(plan, pruned))])


def one_by_one(turns: list[Turn]) -> Schedule:
    """Turns that are known from the start."""
    return lambda left: turns[left.turns] if left.turns < len(turns) else None


def in_stages(
    sizes: Mapping[str, int],
    aim: Mapping[str, int],
    training: TrainingConfig,
    config: StagesConfig,
    job: Job,
) -> Schedule:
    """Turns of a schedule: for some groups after the others, or for all little by little.

    Args:
        sizes: channels of every group.
        aim: channels that every group has in the end.
        training: epochs in all, learning rate.
        config: the schedule, and how the turns between are trained.
        job: the run.
    """
    if config.schedule == "adaptive":
        return Adaptive(aim, training, config)
    if config.group_size:
        stages = group_by_group(sizes, aim, config.group_size)
    else:
        if config.schedule == "exponential-bias":
            _say_unbiased(sizes, aim, config, job.terminal)
        begins = config.schedule_init is not None
        stages = little_by_little(sizes, aim, curve_of(config, job.schedule), config.steps, begins)
        stages = stages or [{}]  # nothing to cut: one stage of training
    return one_by_one(shared(stages, training, config))


def shared(
    stages: Sequence[Strategy], training: TrainingConfig, config: StagesConfig
) -> list[Turn]:
    """A turn for every stage, with its share of the epochs; before them one that only trains."""
    epochs = shared_out(
        training.finetune_epochs - config.schedule_delay, len(stages), config.stage_epochs
    )
    between, turns = config.stage_learning_rate or training.learning_rate, list[Turn]()
    if config.schedule_delay:
        turns.append(Turn(None, config.schedule_delay, between))
    for step, (aim, some) in enumerate(zip(stages, epochs, strict=True)):
        last = step == len(stages) - 1
        rate = training.learning_rate if last else between
        turns.append(Turn(aim, some, rate, last, step))
    return turns


def curve_of(config: StagesConfig, own: Curve | None) -> Curve:
    """The schedule's curve, with its parameters.

    Args:
        config: the schedule.
        own: the user's, where it is given as a function.

    Raises:
        AmcError: a function of the user's is no schedule.
    """
    if own:
        return own
    if ":" in config.schedule:
        return load_schedule(config.schedule, config.steps)
    return partial(SCHEDULES[config.schedule], **config.curve)


def _say_unbiased(
    sizes: Mapping[str, int], aim: Mapping[str, int], config: StagesConfig, terminal: Terminal
) -> None:
    """Names the groups for which there is no biased exponential."""
    start = 1 - (config.schedule_init or 0.0)
    finals = {name: aim[name] / size for name, size in sizes.items()}
    without = [n for n, f in finals.items() if f < start and biased_rate(f, start) is None]
    if without:
        terminal.say(
            f"warning  --schedule exponential-bias has no solution where --schedule-init "
            f"{config.schedule_init:g} is 5/7 of the cut or more; exponential instead: "
            f"{', '.join(without)}"
        )


@dataclass(frozen=True)
class Adaptive:
    """Each step as far as it costs at most `adaptive_drop` points before training.

    Attributes:
        aim: channels that every group has in the end.
        training: epochs in all, learning rate.
        config: points, steps, and turns that every step takes.
    """

    aim: Mapping[str, int]
    training: TrainingConfig
    config: StagesConfig

    def __call__(self, left: Left) -> Turn | None:
        """The next turn; none once the aim is reached."""
        config, training = self.config, self.training
        between = config.stage_learning_rate or training.learning_rate
        if config.schedule_delay and not left.turns:
            return Turn(None, config.schedule_delay, between)
        if left.counts == self.aim and left.turns > bool(config.schedule_delay):
            return None
        made = left.turns - bool(config.schedule_delay)
        step, stayed = divmod(made, config.schedule_patience)
        turns = (config.schedule_steps - step) * config.schedule_patience - stayed
        epochs = training.finetune_epochs - left.epochs
        if stayed:
            again = dict(left.counts) if config.soft else None
            return Turn(again, epochs // turns, between)
        stage = self._bearable(left, config.schedule_steps - step)
        if {**left.counts, **stage} == self.aim:
            return Turn(stage, epochs, training.learning_rate, last=True)
        return Turn(stage, epochs // turns, between)

    def _bearable(self, left: Left, steps: int) -> dict[str, int]:
        """The whole way that is left, half of it, ...; at least its even share of the steps."""
        share, job, compressor = 1.0, left.job, left.compressor
        least = left.score - self.config.adaptive_drop / job.task.points
        originals = original_outputs(job, compressor)
        while share > 1 / steps:
            stage = towards(left.counts, self.aim, share)
            plan = compressor.plan({**left.counts, **stage})
            small = cut(job, compressor, plan, originals)
            if evaluate(small, job.validation, task=job.task).accuracy >= least:
                return stage
            share /= 2
        return towards(left.counts, self.aim, 1 / steps)
