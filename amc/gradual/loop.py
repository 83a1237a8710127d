"""Pruning in turns: when, how much, which channels, and training after every turn.

The control flow of the general interface: schedule outside, allocation inside, shrink, fine-tune,
next. One-shot pruning is a single turn.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor, nn

from amc.config.sections.recovery import StagesConfig
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Plan, Strategy
from amc.graph.tracing.trace import trace
from amc.reconstruction.compressor import Compressor
from amc.runtime.errors import AmcError
from amc.steps.cut import calibrate, cut_best, silenced
from amc.steps.finetune import Recovery
from amc.steps.job import Job
from amc.tasks.evaluate import evaluate

NOTHING = "training only"
MOST_TRIES = 10
"""Allocations within one turn; without a limit one that gets nowhere would never end."""


@dataclass(frozen=True)
class Level:
    """What is left after one turn.

    Attributes:
        counts: group -> channels that are neither cut nor silent.
        epochs: of training in the turn.
        silent: whether what is gone may come back.
    """

    counts: Mapping[str, int]
    epochs: int
    silent: bool

    def as_json(self, graph: ChannelGraph) -> dict[str, Any]:
        """With the part of all channels that is gone, and of the MACs that is left.

        Args:
            graph: of the original.
        """
        left = sum(self.counts.values()) / sum(graph.sizes.values())
        macs = graph.cost.macs(graph.counts(self.counts)) / graph.macs()
        about = {"level": round(1 - left, 6), "macs": round(macs, 6), "silent": self.silent}
        return {**about, "epochs": self.epochs, "channels": dict(self.counts)}


@dataclass(frozen=True)
class Left:
    """What the turns so far have left.

    Attributes:
        job: the run.
        network: as it is now.
        plan: the channels of the original that are in it.
        counts: group -> channels that are neither cut nor silent.
        turns: how many there were.
        epochs: of training so far.
        heads: groups of attention heads in the original.
        bounds: graph of the original, whose restrictions hold in the network as well; None where
            strategies are given, which keep to them.
        movement: tensor -> -w * g added up over the last training, see `Evidence`.
        silent: whether some of the channels that are gone are silent only.
        levels: what every turn has left.
        trained: forward MACs of one image, times the epochs, of all trainings so far.
    """

    job: Job
    network: nn.Module
    plan: Plan
    counts: Mapping[str, int]
    heads: frozenset[str] = frozenset()
    turns: int = 0
    epochs: int = 0
    bounds: ChannelGraph | None = None
    movement: Mapping[str, Tensor] | None = None
    silent: bool = False
    levels: tuple[Level, ...] = ()
    trained: int = 0

    @cached_property
    def compressor(self) -> Compressor:
        """Statistics of the network, and what cuts it."""
        example = self.job.example
        inputs = example.args, example.kwargs, example.outputs
        graph = trace(self.network, *inputs, heads=bool(self.heads))
        last = [g.name for g in graph.decisions if g.name in self.heads and g.unit != "head"]
        graph = graph.freeze(dict.fromkeys(last, "within the last head"))
        if self.bounds:
            graph = bounded(graph, self.bounds)
        return calibrate(self.job, graph, self.network, self.movement)

    @cached_property
    def score(self) -> float:
        """On the validation images that the reward sees."""
        return evaluate(self.network, self.job.validation, task=self.job.task).accuracy


@dataclass(frozen=True)
class Turn:
    """What one turn is to reach, and the training after it.

    Attributes:
        aim: group -> channels that it has afterwards; groups not named keep what they have. None:
            nothing is cut.
        epochs: of training.
        rate: its highest learning rate; None for that of the settings.
        last: whether none follows.
        name: for people; without, the groups of the aim.
        step: of the schedule, from 0.
        ready: plan and network of the aim, where they are known.
    """

    aim: Strategy | None
    epochs: int
    rate: float | None
    last: bool = False
    step: int = 0
    name: str = ""
    ready: tuple[Plan, nn.Module] | None = None


Schedule = Callable[[Left], Turn | None]
"""When: the next turn; None when it is over."""


class Allocator(Protocol):
    """How much every group keeps, turn by turn."""

    def __call__(self, left: Left, turn: Turn) -> Sequence[Strategy]:
        """Strategies for what is left, of which the best one is cut."""
        ...

    def reached(self, left: Left, turn: Turn) -> bool:
        """Whether the objective of the turn is met."""
        ...


class Stated:
    """What the turns themselves say: the allocation was made once, before the first of them."""

    def __call__(self, left: Left, turn: Turn) -> list[Strategy]:
        """What is left, with the aims of the turn."""
        return [{**left.counts, **(turn.aim or {})}]

    def reached(self, left: Left, turn: Turn) -> bool:
        """Whether no group has more than the turn says."""
        return all(left.counts[name] <= count for name, count in (turn.aim or {}).items())


def gradually(
    left: Left,
    schedule: Schedule,
    recovery: Recovery,
    config: StagesConfig,
    allocate: Allocator | None = None,
) -> Left:
    """Prunes a network in turns; ends early at one that costs more than ``--stop-drop`` allows.

    Args:
        left: the network to begin with.
        schedule: when, and what every turn is to reach.
        recovery: trains after every turn.
        config: whether channels are silenced between the turns, and what a turn may cost.
        allocate: how much every group keeps; without, what the turns say.

    Raises:
        AmcError: a cut cannot be carried out, or does not reach the objective of its turn.
    """
    allocate = allocate or Stated()
    least = left.score - config.stop_drop / left.job.task.points if config.stop_drop else -math.inf
    while turn := schedule(left):  # when
        small = shrunk(left, turn, allocate, recovery.graph, config)  # how much; which channels
        tuned = trained(small, turn, recovery)  # accuracy comes back
        if config.stop_drop and tuned.score < least:
            _say_stopped(tuned, least, config.stop_drop)
            return replace(left, trained=tuned.trained)
        left = tuned
    return left


def shrunk(
    left: Left, turn: Turn, allocate: Allocator, graph: ChannelGraph, config: StagesConfig
) -> Left:
    """The inner loop: allocated and cut until the objective of the turn is reached.

    Args:
        left: by the turns before.
        turn: what is to be reached.
        allocate: how much every group keeps.
        graph: of the original.
        config: whether channels are cut, or silenced.

    Raises:
        AmcError: as for `gradually`.
    """
    if turn.ready:
        plan, network = turn.ready
        return replace(left, network=network, plan=plan, counts={**left.counts, **plan.strategy})
    what = turn.name or ", ".join(turn.aim or ()) or NOTHING
    left.job.terminal.say(f"stage    {left.turns + 1}: {what}")
    if turn.aim is None:
        return left
    soft = config.soft and not turn.last and not config.frozen_at(left.turns + 1)
    for _ in range(MOST_TRIES):
        strategies = allocate(left, turn)
        left = _silenced(left, strategies[0]) if soft else _cut(left, strategies, graph)
        if allocate.reached(left, turn):
            return left
    raise AmcError(
        f"stage {left.turns + 1} of the schedule: {MOST_TRIES} allocations do not reach its "
        "objective"
    )


def trained(left: Left, turn: Turn, recovery: Recovery) -> Left:
    """What the training of a turn makes of the network."""
    moving = left.job.looks_at_movement and not turn.last
    tuned = recovery.tune(
        left.network, left.plan, turn.epochs, turn.rate, left.turns, left.epochs, moving
    )
    return replace(
        left,
        network=tuned.network,
        movement=tuned.movement,
        turns=left.turns + 1,
        epochs=left.epochs + turn.epochs,
        levels=(*left.levels, Level(dict(left.counts), turn.epochs, left.silent)),
        trained=left.trained + recovery.graph.macs(left.plan) * tuned.epochs,
    )


def _cut(left: Left, strategies: Sequence[Strategy], graph: ChannelGraph) -> Left:
    """The best of the strategies, carried out; readers of what goes are solved for anew."""
    plan, network = cut_best(left.job, left.compressor, strategies)
    counts = {**left.counts, **plan.strategy}
    plan = within(graph, left.plan, plan)
    return replace(left, network=network, plan=plan, counts=counts, movement=None, silent=False)


def _silenced(left: Left, strategy: Strategy) -> Left:
    """A strategy whose channels compute nothing any more, but are there."""
    compressor = left.compressor
    network = silenced(compressor.model, compressor.graph, compressor.plan(strategy))
    return replace(left, network=network, counts=dict(strategy), movement=None, silent=True)


def bounded(graph: ChannelGraph, original: ChannelGraph) -> ChannelGraph:
    """The graph of what is left of a network, as far as the original may be cut.

    Groups that are whole in the original are, and the others keep within its bounds.
    """
    before = {group.name: group for group in original.decisions}
    graph = graph.freeze({n: "whole in the original" for n in graph.sizes if n not in before})
    groups = []
    for group in graph.groups:
        if group.prunable:
            least, most = before[group.name].bounds
            size = group.size
            group = replace(group, least=min(least, size), most=min(most, size))
        groups.append(group)
    return replace(graph, groups=tuple(groups))


def within(graph: ChannelGraph, before: Plan, now: Plan) -> Plan:
    """What is left of the original after a cut of what an earlier plan had left of it.

    Args:
        graph: of the original.
        before: of the original.
        now: of the network under the earlier plan.
    """
    keep = {name: tuple(range(size)) for name, size in graph.sizes.items()}
    keep |= {name: group.keep for name, group in before.groups.items()}
    for name, group in now.groups.items():
        keep[name] = tuple(keep[name][i] for i in group.keep)
    return graph.plan(keep)


def _say_stopped(tuned: Left, least: float, drop: float) -> None:
    task = tuned.job.task
    tuned.job.terminal.say(
        f"stop     stage {tuned.turns} ends at {task.shown(tuned.score)} on validation images; "
        f"--stop-drop {drop:g} allows {task.shown(least)}: it is taken back and the target is "
        "missed"
    )
