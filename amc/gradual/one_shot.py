"""Sparsity at once and without training: optimal brain surgeon, layer after layer.

Inputs of a layer come from the network pruned so far, targets from the original, so that each
layer also makes up for the zeros of those before it (He et al. 2017; SparseGPT's targets are what
the old weights make of the new inputs). Layers that cannot be solved for lose their smallest
weights.

How a level is shared out where one is given for all: `uniform` gives it to each layer. `global` is
one threshold on what each weight is worth: the error that its removal adds to its layer's
output, all other weights re-solved, as part of the energy of that output (`obs.saliencies`); of
layers that cannot be solved for, the part of the sum of squares of their weights. Each counts as a
part of what is worth as much or more in its layer, so that no layer vanishes. From that come the
levels of the layers, and only these; which weights go is decided once a layer's turn comes.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from amc.calibration.calibrate import MAX_COLUMNS, SOLVED, check_finite
from amc.calibration.passes import passes
from amc.calibration.rows import Rows
from amc.calibration.statistics import LayerStats, collect
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import Layer
from amc.graph.shrink import duplicate, tensors
from amc.reconstruction.in_order import InOrder
from amc.reconstruction.lockstep import Diverged
from amc.reconstruction.original_outputs import OriginalOutputs
from amc.runs.progress import Bar
from amc.runtime import distributed
from amc.sparsity.magnitude import magnitude
from amc.sparsity.obs import saliencies, solve
from amc.sparsity.patterns import PLAIN, SINGLE, Layout, Pattern
from amc.sparsity.select import chosen
from amc.steps.cut import follow
from amc.steps.job import Job

UNKNOWN = "it is in no layer whose inputs can be collected"
KIND = "weights of a {} layer cannot be solved for"
WIDE = f"it has more than {MAX_COLUMNS} inputs an output"
SHARED = "it is the weight of several layers"
UNSEEN = "its inputs were never seen"


@dataclass(frozen=True)
class OneShot:
    """A network with zeros.

    Attributes:
        network: a copy, in eval mode or not as the original was.
        masks: weight -> bool, of its shape; False is zero.
        errors: weight -> error of its layer's output, relative to its energy, where it was solved.
        by_magnitude: weight -> why it lost its smallest entries instead.
    """

    network: nn.Module
    masks: Mapping[str, Tensor]
    errors: Mapping[str, float] = field(default_factory=dict)
    by_magnitude: Mapping[str, str] = field(default_factory=dict)


def one_shot(
    job: Job,
    model: nn.Module,
    graph: ChannelGraph,
    names: Collection[str],
    level: float | Mapping[str, float],
    pattern: Pattern = SINGLE,
    scope: str = "global",
    originals: OriginalOutputs | None = None,
) -> OneShot:
    """The network with zeros, its other weights solved for, batch norm following.

    Args:
        job: calibration images, how they are sampled, and how much may be held.
        model: never changed.
        graph: of it.
        names: of weights that get zeros, in any order.
        level: part of the weights that become zero; or one for each name.
        pattern: what becomes zero together.
        scope: how a level for all is shared out: global or uniform.
        originals: what the solvable layers of the network compute, if that is known.

    Raises:
        AmcError: a layer's inputs are not finite, or one alone does not fit the memory.
    """
    if not isinstance(level, Mapping):
        level = shared_out(job, model, graph, names, level, pattern, scope)
    levels = {name: level.get(name, 0.0) for name in names}
    few = distributed.world_size() > 1 and len(job.images) < distributed.world_size()
    with distributed.single_process(few):  # then there is nothing to share out
        found = _solved(job, model, graph, levels, pattern, originals)
    follow(job, found.network)
    return found


def originals_of(
    job: Job, model: nn.Module, graph: ChannelGraph, names: Collection[str]
) -> OriginalOutputs:
    """What the solvable layers among these compute; sampled when it is first asked for."""
    layers, _ = solvable(model, graph, names)
    return OriginalOutputs(graph, model, job.images, job.sampling, job.memory, layers)


def _solved(
    job: Job,
    model: nn.Module,
    graph: ChannelGraph,
    levels: Mapping[str, float],
    pattern: Pattern,
    originals: OriginalOutputs | None,
) -> OneShot:
    layers, reasons = solvable(model, graph, levels)
    originals = originals or originals_of(job, model, graph, levels)

    wish = _Wish(levels, pattern, layouts_of(graph, model, levels))

    def begun() -> _Task:
        adapt = job.reconstruction.bn_adapt
        task = _Task(duplicate(model), layers, originals, adapt, wish, bar)
        for name, reason in reasons.items():
            task.by_magnitude(name, reason)
        return task

    with job.terminal.bar("sparse", len(layers)) as bar:
        task = begun()
        try:
            if task.in_step():
                return task.found
        except Diverged:  # anew: later layers would be held to what was solved until then
            task = begun()
        task.layer_by_layer()
        return task.found


def layers_of(graph: ChannelGraph, model: nn.Module) -> dict[str, Layer]:
    """Parameter -> the layer whose weight it is; a tied one under each of its names."""
    state = tensors(model)
    of = {id(state[layer.weight]): layer for layer in graph.layers if layer.weight in state}
    return {name: of[id(tensor)] for name, tensor in state.items() if id(tensor) in of}


def solvable(
    model: nn.Module, graph: ChannelGraph, names: Collection[str]
) -> tuple[list[Layer], dict[str, str]]:
    """The layers whose weights can be solved for, in execution order; and why others cannot."""
    state = tensors(model)
    places = Counter(id(tensor) for tensor in state.values())
    of, uses = layers_of(graph, model), Counter(layer.weight for layer in graph.layers)
    reasons = {}
    for name in names:
        layer = of.get(name)
        if layer is None:
            reasons[name] = UNKNOWN
        elif layer.kind not in (*SOLVED, "depthwise"):
            reasons[name] = KIND.format(layer.kind)
        elif uses[name] > 1 or places[id(state[name])] > 1:
            reasons[name] = SHARED
        elif state[name][0].numel() > MAX_COLUMNS:
            reasons[name] = WIDE
    wanted = set(names) - set(reasons)
    return [layer for layer in graph.layers if layer.weight in wanted], reasons


def shared_out(
    job: Job,
    model: nn.Module,
    graph: ChannelGraph,
    names: Collection[str],
    level: float,
    pattern: Pattern = SINGLE,
    scope: str = "global",
) -> dict[str, float]:
    """The level of every weight, of one for all; exact to a unit in sum. As for `one_shot`."""
    state = tensors(model)
    layouts = layouts_of(graph, model, names)
    if scope == "uniform" or pattern.stay:
        scores = {name: torch.zeros_like(state[name], dtype=torch.float32) for name in names}
    else:
        scores = worth(job, model, graph, names)
    masks = chosen(scores, level, pattern, scope, layouts)
    return {name: 1 - float(mask.double().mean()) for name, mask in masks.items()}


def worth(
    job: Job, model: nn.Module, graph: ChannelGraph, names: Collection[str]
) -> dict[str, Tensor]:
    """What single weights are worth, of their shapes, comparable between layers.

    From statistics of the original network, of a few layers at a time where memory is limited.
    """
    layers, _ = solvable(model, graph, names)
    state, found = tensors(model), dict[str, Tensor]()
    rounds = passes(graph, layers, job.memory)
    shared = len(list(distributed.shard(job.images)))
    with job.terminal.bar("calibrate", len(rounds) * shared) as bar:
        for some in rounds:
            stats = collect(model, some, job.images, job.sampling, on_batch=bar.step)
            for layer in some:
                if layer.name in stats:
                    check_finite(layer, stats[layer.name])
                    weight = state[layer.weight]
                    found[layer.weight] = saliencies(stats[layer.name], layer, weight).float()
    for name in names:
        if name not in found:
            square = magnitude(state[name]).float().square()
            found[name] = square / square.sum().clamp(min=torch.finfo(square.dtype).tiny)
    return {name: _of_what_is_left(found[name]) for name in names}


def _of_what_is_left(worth: Tensor) -> Tensor:
    """What weights are worth, each as a part of all of its layer that are worth as much or more.

    The sum of single errors is far below the error of removing all: a layer of many outputs would
    lose everything before others lose anything. So the last weight of a layer is worth 1, and
    layers of any redundancy compare (LAMP, Lee et al. 2021, arXiv:2010.07611).
    """
    values, order = worth.flatten().double().sort()
    left = values.flip(0).cumsum(0).flip(0).clamp(min=torch.finfo(torch.float64).tiny)
    scores = torch.empty_like(values)
    scores[order] = values / left
    return scores.reshape(worth.shape)


def layouts_of(graph: ChannelGraph, model: nn.Module, names: Collection[str]) -> dict[str, Layout]:
    """Where weights have their outputs and inputs; of no layer, as in linear ones."""
    of = layers_of(graph, model)
    return {name: Layout.of(of[name]) if name in of else PLAIN for name in names}


@dataclass(frozen=True)
class _Wish:
    """What is to be done: the level of every weight, and what becomes zero together."""

    levels: Mapping[str, float]
    pattern: Pattern
    layouts: Mapping[str, Layout]


class _Task(InOrder):
    """One network on its way to its zeros."""

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[Layer],
        originals: OriginalOutputs,
        adapt: bool,
        wish: _Wish,
        bar: Bar,
    ) -> None:
        super().__init__(network, layers, originals, adapt)
        self._wish, self._bar = wish, bar
        self._masks, self._errors = dict[str, Tensor](), dict[str, float]()
        self._reasons = dict[str, str]()
        self._owed = 0.0  # zeros that smaller blocks at edges have left to later layers

    @property
    def found(self) -> OneShot:
        """What has come of it."""
        masks = {name: self._masks[name] for name in self._wish.levels}
        return OneShot(self.network, masks, self._errors, self._reasons)

    def target(self, layers: Sequence[Layer]) -> Sequence[Rows]:
        """What the original puts out there."""
        return self.originals.outputs(layers)

    def solve(self, layer: Layer, stats: LayerStats | None) -> None:
        """Mask and weights of a layer, in place."""
        if stats is None:
            self.by_magnitude(layer.weight, UNSEEN)
        else:
            check_finite(layer, stats)
            weight = tensors(self.network)[layer.weight]
            solution = solve(stats, layer, weight, self._level(layer.weight), self._wish.pattern)
            self._errors[layer.weight] = solution.error
            self._take(layer.weight, solution.weight, solution.mask)
        self._bar.step()

    def by_magnitude(self, name: str, reason: str) -> None:
        """The smallest entries of a weight become zero, in place."""
        weight = tensors(self.network)[name]
        scores, level = {name: magnitude(weight)}, {name: self._level(name)}
        mask = chosen(scores, level, self._wish.pattern, layouts=self._wish.layouts)[name]
        self._reasons[name] = reason
        self._take(name, weight, mask)

    def _level(self, name: str) -> float:
        """The part of a weight that becomes zero, with what earlier ones have left."""
        level, count = self._wish.levels[name], tensors(self.network)[name].numel()
        if level in (0, 1) or not self._owed:
            return level
        return min(max(0.0, level + self._owed / count), 1 - 1 / (2 * count))

    def _take(self, name: str, weight: Tensor, mask: Tensor) -> None:
        held = tensors(self.network)[name]
        with torch.no_grad():
            held.copy_(torch.where(mask, weight, 0))
        self._owed += self._wish.levels[name] * mask.numel() - int((~mask).sum())
        self._masks[name] = mask
