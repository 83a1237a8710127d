"""When: one turn, the turns of a schedule, and turns that go as far as they may cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from amc.config.sections.recovery import StagesConfig, TrainingConfig
from amc.graph.plan import Plan
from amc.runs.terminal import Terminal
from amc.schedules.curves import SCHEDULES, biased_rate, load_schedule
from amc.schedules.curves import Schedule as Curve
from amc.schedules.stages import group_by_group, little_by_little, shared_out, towards
from amc.steps.cut import cut, original_outputs
from amc.steps.gradual import Left, Schedule, Turn
from amc.tasks.evaluate import evaluate


def at_once(plan: Plan, pruned: nn.Module, training: TrainingConfig) -> Schedule:
    """A single turn, whose cut is known."""
    epochs, rate = training.finetune_epochs, training.learning_rate
    return one_by_one([Turn({}, epochs, rate, last=True, ready=(plan, pruned))])


def one_by_one(turns: list[Turn]) -> Schedule:
    """Turns that are known from the start."""
    return lambda left: turns[left.turns] if left.turns < len(turns) else None


def in_stages(
    sizes: Mapping[str, int],
    aim: Mapping[str, int],
    training: TrainingConfig,
    config: StagesConfig,
    terminal: Terminal,
) -> Schedule:
    """Turns of a schedule: for some groups after the others, or for all little by little.

    Args:
        sizes: channels of every group.
        aim: channels that every group has in the end.
        training: epochs in all, learning rate.
        config: the schedule, and how the turns between are trained.
        terminal: is told of what the schedule cannot do.
    """
    if config.schedule == "adaptive":
        return Adaptive(aim, training, config)
    if config.group_size:
        stages = group_by_group(sizes, aim, config.group_size)
    else:
        if config.schedule == "exponential-bias":
            _say_unbiased(sizes, aim, config, terminal)
        begins = config.schedule_init is not None
        stages = little_by_little(sizes, aim, curve_of(config), config.steps, begins)
        stages = stages or [{}]  # nothing to cut: one stage of training
    left = training.finetune_epochs - config.schedule_delay
    epochs = shared_out(left, len(stages), config.stage_epochs)
    between = config.stage_learning_rate or training.learning_rate
    turns = [Turn(None, config.schedule_delay, between)] if config.schedule_delay else []
    turns += [Turn(aim, some, between) for aim, some in zip(stages, epochs, strict=True)]
    last = Turn(stages[-1], epochs[-1], training.learning_rate, last=True)
    return one_by_one([*turns[:-1], last])


def curve_of(config: StagesConfig) -> Curve:
    """The schedule's curve, with its parameters.

    Raises:
        AmcError: a function of the user's is no schedule.
    """
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
