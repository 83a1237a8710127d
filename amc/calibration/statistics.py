"""Sufficient statistics of layers, streamed: everything the solvers need, whatever the data size.

For a layer with inputs X (one row per sampled output position, one column per weight of an output
channel, bias left out) and target outputs Y, keep X'X, X'Y and Y'Y in float64. Lasso, least
squares and the exact error of every subset of channels are linear algebra on these.

Inputs are seen where the operator is called, so that functional layers, layers used several times
and any padding mode are covered.
"""

import contextlib
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from amc.calibration.rows import Call, Rows, call_of
from amc.calibration.shortcuts import Trail, Trails
from amc.graph.attention.watching import Watching
from amc.graph.groups import Layer
from amc.graph.shrink import tensors
from amc.runtime import distributed, feed
from amc.runtime.feed import Feed
from amc.tasks.evaluate import evaluating

Batches = Iterable[tuple[Feed, Tensor]]
"""(images [B, ...], labels [B]) pairs; labels are not looked at here."""

Outputs = Mapping[str, Sequence[Rows]]
"""Layer name -> its outputs (rows without inputs), one entry per batch and execution."""


@dataclass(frozen=True)
class LayerStats:
    """Second moments of one layer over all sampled rows.

    Attributes:
        xx: X'X, [G, D, D] for G groups of the convolution, D = inputs per group x kernel size.
        xy: X'Y, [G, D, N], N = outputs per group; Y without the bias.
        yy: column sums of Y squared, [G, N].
        rows: number of rows of X.
    """

    xx: Tensor
    xy: Tensor
    yy: Tensor
    rows: int

    @property
    def energy(self) -> float:
        """Sum of squares of the target outputs."""
        return float(self.yy.sum())


@dataclass(frozen=True)
class Sampling:
    """Which output positions become rows.

    Attributes:
        points: positions per layer and batch, the same for all images of a batch as in
            PocketFlow; 0 takes all of them.
        seed: of the positions; a layer and batch number always give the same ones.
    """

    points: int = 10
    seed: int = 0

    def positions(self, layer: str, batch: int, available: int) -> Tensor:
        """Chosen indices of the flattened output positions, [P], increasing."""
        if self.points <= 0 or available <= self.points:
            return torch.arange(available)
        seed = zlib.crc32(f"{layer}/{batch}/{self.seed}".encode())
        chosen = torch.randperm(available, generator=torch.Generator().manual_seed(seed))
        return chosen[: self.points].sort().values


class _Stop(Exception):
    """The last layer of interest has run; the rest of the forward pass is not needed."""


class Recorder(Watching):
    """While active, collects the rows of the named layers; any model code may run inside.

    Args:
        model: the network that will be executed.
        layers: what to record.
        sampling: which positions.
        inputs: whether the inputs are wanted too; without, x of the rows is empty.
        additions: layers of one execution whose shortcuts are wanted, see `residual.additions`.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[Layer],
        sampling: Sampling,
        inputs: bool = True,
        additions: Collection[str] = (),
    ) -> None:
        super().__init__()
        state = tensors(model)
        self._model, self._sampling, self._inputs = model, sampling, inputs
        self._layers = {id(state[layer.weight]): layer for layer in layers}
        self._additions = {v.name for v in self._layers.values() if v.name in additions}
        self._batch, self._missing = 0, 0
        self._rows: dict[str, list[Rows]] = {}
        self._trails = Trails()

    def ran(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Runs the operator; records its rows when its weight belongs to a wanted layer."""
        for trail, other in self._trails.ends(func, args, kwargs):
            self._meet(trail, other)
        out = func(*args, **kwargs)
        self._trails.carry(func, args, kwargs, out)
        call = call_of(func, args, kwargs, out)
        layer = self._layers.get(id(call.weight)) if call else None
        if call is not None and layer is not None:
            self._record(layer.name, call)
        return out

    def _record(self, layer: str, call: Call) -> None:
        seen = self._rows.setdefault(layer, [])
        chosen = self._chosen(layer, len(seen), call)
        x = call.inputs(chosen) if self._inputs else call.out.new_empty(0)
        seen.append(Rows(x, call.outputs(chosen)))
        if layer in self._additions:
            self._trails.start(layer, call)
        self._count()

    def _meet(self, trail: Trail, other: Tensor) -> None:
        seen = self._rows[trail.layer]
        if len(seen) == 1 and seen[0].shortcut is None:
            chosen = self._chosen(trail.layer, 0, trail.call)
            shortcut = trail.call.at(other, chosen)
            gain = trail.gain.reshape(len(shortcut), 1, -1)
            seen[0] = replace(seen[0], shortcut=shortcut, gain=gain)
            self._count()

    def _chosen(self, layer: str, execution: int, call: Call) -> Tensor:
        name = f"{layer}#{execution}"
        return self._sampling.positions(name, self._batch, call.positions).to(call.out.device)

    def _count(self) -> None:
        self._missing -= 1
        if not self._missing:
            raise _Stop

    def run(self, images: Feed, batch: int) -> dict[str, list[Rows]]:
        """The rows of one batch, by layer, one entry per execution of the layer."""
        self._batch, self._rows, self._trails = batch, {}, Trails()
        self._missing = sum(v.calls for v in self._layers.values()) + len(self._additions)
        with contextlib.suppress(_Stop), self:
            feed.call(self._model, images)
        return self._rows


def collect(
    model: nn.Module,
    layers: Iterable[Layer],
    batches: Batches,
    sampling: Sampling,
    outputs: Outputs | None = None,
    additions: Collection[str] = (),
    on_batch: Callable[[], None] = lambda: None,
) -> dict[str, LayerStats]:
    """Statistics of layers over all batches, in eval mode.

    Args:
        model: inputs X come from here.
        layers: convolutions and linear layers (not transposed).
        batches: see `Batches`.
        sampling: which output positions become rows.
        outputs: Y, from `sample_outputs` with the same layers, batches and sampling (He et al.
            2017: of the original network, so that a layer also corrects the error of those
            before it); None takes the model's own.
        additions: layers that also correct the error of the shortcut they are added to.
        on_batch: called after every batch.

    Returns:
        Layer name -> statistics, on the model's device; the same on all ranks, which take turns
        at the batches.
    """
    recorder = Recorder(model, layers, sampling, additions=additions)
    target = {name: iter(rows) for name, rows in (outputs or {}).items()}
    total: dict[str, LayerStats] = {}
    for found in _executions(model, recorder, batches):
        for name, rows in found.items():
            for row in rows:
                y = row.y if outputs is None else _target(next(target[name]), row)
                total[name] = _accumulate(total.get(name), row.x, y)
        on_batch()
    return _over_ranks(total, next(model.parameters()).device)


def accumulated(found: Iterable[Rows], target: Iterable[Rows]) -> LayerStats:
    """Statistics of one layer from inputs, and outputs that are target for, batch by batch.

    Those of all ranks together, each of which gives the rows of its own batches.

    Raises:
        ValueError: there are none.
    """
    total: LayerStats | None = None
    for row, goal in zip(found, target, strict=True):
        total = _accumulate(total, row.x, _target(goal, row))
    if total is None:
        raise ValueError("no rows")
    return _over_ranks({"": total}, total.xx.device)[""]


def sampled(
    model: nn.Module,
    layer: Layer,
    batches: Batches,
    sampling: Sampling,
    outputs: Sequence[Rows],
    additions: Collection[str] = (),
) -> list[tuple[Tensor, Tensor]]:
    """Inputs [G, R, D] and target outputs [G, R, N] of one layer; arguments as for `collect`.

    They are kept in memory; a rank has those of its own batches.
    """
    recorder = Recorder(model, [layer], sampling, additions=additions)
    found = _executions(model, recorder, batches)
    rows = [row for rows in found for row in rows[layer.name]]
    return [(row.x, _target(goal, row)) for row, goal in zip(rows, outputs, strict=False)]


def _target(target: Rows, row: Rows) -> Tensor:
    """What the layer should put out, so that the sum with its shortcut is that of ``target``."""
    if target.shortcut is None or target.gain is None or row.shortcut is None:
        return target.y
    return target.y + (target.shortcut - row.shortcut) * target.gain


def sample_outputs(
    model: nn.Module,
    layers: Iterable[Layer],
    batches: Batches,
    sampling: Sampling,
    additions: Collection[str] = (),
) -> Outputs:
    """Outputs of layers without their bias at the sampled positions, for `collect`.

    They are kept in memory: [G, rows, N] float32 per layer and execution, as much again for the
    shortcuts of those in ``additions``. A rank has those of its own batches.
    """
    recorder = Recorder(model, layers, sampling, inputs=False, additions=additions)
    kept: dict[str, list[Rows]] = {}
    for found in _executions(model, recorder, batches):
        for name, rows in found.items():
            kept.setdefault(name, []).extend(rows)
    return kept


def _executions(
    model: nn.Module, recorder: Recorder, batches: Batches
) -> Iterator[dict[str, list[Rows]]]:
    device = next(model.parameters()).device
    with torch.no_grad(), evaluating(model):
        for number, (images, _) in distributed.shard(enumerate(batches)):
            yield recorder.run(feed.moved(images, device), number)


def _accumulate(total: LayerStats | None, x: Tensor, y: Tensor) -> LayerStats:
    """Adds rows, in float64: sums of float32 products lose the small eigenvalues."""
    x, y = x.double(), y.double()
    if total is None:
        return LayerStats(x.mT @ x, x.mT @ y, y.square().sum(dim=1), x.shape[1])
    total.xx.baddbmm_(x.mT, x)
    total.xy.baddbmm_(x.mT, y)
    total.yy.add_(y.square().sum(dim=1))
    return LayerStats(total.xx, total.xy, total.yy, total.rows + x.shape[1])


def _over_ranks(stats: dict[str, LayerStats], device: torch.device) -> dict[str, LayerStats]:
    """The sums of all ranks; one that had no batch has no layer yet, rank 0 has all."""
    if distributed.world_size() == 1:
        return stats
    parts = dict[str, Tensor]()
    for name, one in stats.items():
        rows = torch.tensor(float(one.rows), dtype=torch.float64, device=device)
        parts |= {f"{name}/{i}": t for i, t in enumerate((one.xx, one.xy, one.yy, rows))}
    sums = iter(distributed.totals(parts, device).items())
    found = {}
    for (key, xx), (_, xy), (_, yy), (_, rows) in zip(sums, sums, sums, sums, strict=True):
        found[key.removesuffix("/0")] = LayerStats(xx, xy, yy, int(rows))
    return found
