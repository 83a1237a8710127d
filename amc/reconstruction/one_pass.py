"""Layers solved and batch norms re-estimated within one forward pass of all images.

Possible where every layer is executed once and what all batches hold at a time fits the memory;
otherwise `amc.reconstruction.layer_by_layer` takes one pass per layer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from amc.calibration.rows import Rows, call_before, weight_of
from amc.calibration.shortcuts import norm_call
from amc.calibration.statistics import Sampling
from amc.graph.groups import Layer
from amc.graph.shrink import tensors
from amc.reconstruction.forward_profile import profile
from amc.reconstruction.lockstep import Diverged, Lockstep, Operation
from amc.reconstruction.offload import Offload
from amc.runtime import distributed, feed
from amc.runtime.feed import Feed
from amc.runtime.memory import share
from amc.tasks.evaluate import evaluating

HELD_BYTES = 2 * 2**30
"""What all batches may hold at a time."""

AGREEMENT = 1e-3
"""How far, relative to the largest output, the walk may end from the finished network's output."""


@dataclass(frozen=True)
class _Reader:
    """One batch stands before a layer: its rows without outputs, at the positions that count."""

    layer: str
    rows: Rows


@dataclass(frozen=True)
class _Norm:
    """One batch stands before a batch norm: moments of its inputs by channel, float64."""

    running_mean: Tensor
    running_var: Tensor
    count: int
    mean: Tensor
    var: Tensor


class OnePass:
    """Solves the layers of a network and adapts its batch norms, in place, in one pass.

    Args:
        model: the cut network.
        layers: to be solved.
        batches: images, this rank's own.
        sampling: which output positions become rows.
        corrected: layers that also make up for the error of their shortcuts.
        adapt: whether batch norms are re-estimated.
        memory: bytes that may be held; batches that take more than a quarter of it stand still on
            disk.

    The ranks stop at the same places, and go on with the sums over the images of all of them.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        batches: Sequence[Feed],
        sampling: Sampling,
        corrected: frozenset[str],
        adapt: bool,
        memory: int | None = None,
    ) -> None:
        self._model, self._batches, self._sampling = model, batches, sampling
        self._weights = {id(tensors(model)[v.weight]): v.name for v in layers}
        self._profile = profile(model, layers, batches[0])
        kept = {v: n for v, n in self._profile.shortcuts.items() if v in corrected}
        self._shortcuts, self._wanted, self._adapt = kept, frozenset(kept.values()), adapt
        self._seen: list[dict[int, Tensor]] = [{} for _ in batches]
        self._held = self._profile.bytes * len(batches)
        much = self._held > share(memory, 1 / 4, HELD_BYTES)
        self._offload = [Offload(model, images) for images in batches if much]

    @property
    def possible(self) -> bool:
        """Whether the network allows it, and the memory."""
        return distributed.all_true(self._profile.once and self._held <= HELD_BYTES)

    def run(self, solve: Callable[[str, Sequence[Rows]], None]) -> None:
        """Walks through the network.

        Args:
            solve: called in execution order with a layer and its rows of all batches, whose
                outputs are empty; changes the layer's weight in place.

        Raises:
            Diverged: the network behaves otherwise with all batches side by side.
        """
        try:
            self._walk(solve)
        except _Elsewhere:
            raise
        except Diverged:
            distributed.all_equal("diverged")  # the others learn of it where they stop next
            raise
        _meet("the end")

    def _walk(self, solve: Callable[[str, Sequence[Rows]], None]) -> None:
        def at_stop(stops: Sequence[_Reader | _Norm]) -> None:
            first = stops[0]
            if isinstance(first, _Norm):
                _adapt([s for s in stops if isinstance(s, _Norm)], len(stops))
            else:
                rows = [s.rows for s in stops if isinstance(s, _Reader) and s.layer == first.layer]
                if len(rows) < len(stops):
                    raise Diverged
                _meet(first.layer)
                solve(first.layer, rows)

        with evaluating(self._model), torch.no_grad():
            lockstep: Lockstep[_Reader | _Norm] = Lockstep(
                self._model, self._batches, self._pause, self._keep, self._rest, self._wake
            )
            lockstep.run(at_stop)
            alone = feed.call(self._model, self._batches[0])
        together = (tree_leaves(found) for found in (lockstep.first, alone))
        pairs = zip(*together, strict=True)
        if not all(_close(a, b) for a, b in pairs if isinstance(a, Tensor)):
            raise Diverged

    def _pause(self, batch: int, operation: Operation) -> _Reader | _Norm | None:
        func, args, kwargs = operation.func, operation.args, operation.kwargs
        if self._offload:
            self._offload[batch].before(args, kwargs)
        norm = norm_call(func, args, kwargs) if self._adapt else None
        if norm is not None:
            return _moments(norm)
        name = self._weights.get(id(weight_of(func, args, kwargs)))
        if name is None:
            return None
        call = call_before(func, args, kwargs)
        number = (
            distributed.rank() + batch * distributed.world_size()
        )  # of the batch among those of all ranks
        chosen = self._sampling.positions(f"{name}#0", number, call.positions).to(call.out.device)
        rows = Rows(call.inputs(chosen), call.out.new_empty(0))
        added = self._shortcuts.get(name)
        if added is not None:
            rows = replace(rows, shortcut=call.at(self._seen[batch][added], chosen))
        return _Reader(name, rows)

    def _keep(self, batch: int, operation: Operation, out: Any) -> None:
        if operation.number in self._wanted:
            self._seen[batch][operation.number] = out
        if self._offload:
            self._offload[batch].after(out)

    def _rest(self, batch: int) -> None:
        if self._offload:
            self._offload[batch].offload()

    def _wake(self, batch: int) -> None:
        if self._offload:
            self._offload[batch].restore()


class _Elsewhere(Diverged):
    """Other ranks have stopped at another place; all ranks know."""


def _meet(place: str) -> None:
    """Goes on when all ranks have come here."""
    if not distributed.all_equal(place):
        raise _Elsewhere


def _moments(norm: Mapping[str, Any]) -> _Norm:
    x = norm["input"].double()
    x = x.movedim(1, 0).flatten(1)
    var, mean = torch.var_mean(x, dim=1, correction=0)
    return _Norm(norm["running_mean"], norm["running_var"], x.shape[1], mean, var)


def _adapt(stops: Sequence[_Norm], expected: int) -> None:
    """Running statistics of all batches together, as if they were one."""
    first = stops[0]
    if len(stops) < expected or any(s.running_mean is not first.running_mean for s in stops):
        raise Diverged
    _meet(f"a norm of {len(first.mean)} channels")
    total = int(distributed.all_reduce_sum(torch.tensor(sum(s.count for s in stops))))
    mean = sum((s.mean * (s.count / total) for s in stops), torch.zeros_like(first.mean))
    distributed.all_reduce_sum(mean)
    spread = torch.zeros_like(mean)
    for s in stops:
        spread += (s.var + (s.mean - mean).square()) * (s.count / total)
    distributed.all_reduce_sum(spread)
    first.running_mean.copy_(mean)
    first.running_var.copy_(spread * (total / max(total - 1, 1)))


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or not b.numel() or not b.is_floating_point():
        return a.shape == b.shape
    return bool((a - b).abs().max() <= AGREEMENT * b.abs().max())
