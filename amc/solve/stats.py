"""Sufficient statistics of layers, streamed: everything the solvers need, whatever the data size.

For a layer with inputs X (one row per sampled output position, one column per weight of an output
channel, bias left out) and target outputs Y, keep X'X, X'Y and Y'Y in float64. Lasso, least
squares and the exact error of every subset of channels are linear algebra on these.

Inputs are seen where the operator is called, so that functional layers, layers used several times
and any padding mode are covered.
"""

import contextlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from amc.evaluate import evaluating
from amc.graph.groups import Layer
from amc.graph.surgery import tensors

Batches = Iterable[tuple[Tensor, Tensor]]
"""(images [B, ...], labels [B]) pairs; labels are not looked at here."""

Outputs = Mapping[str, Sequence[Tensor]]
"""Layer name -> its outputs, one entry per batch and execution."""

_CONVOLUTIONS: dict[Callable[..., Any], int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


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


@dataclass(frozen=True)
class Rows:
    """Sampled rows of one layer for one batch: x [G, R, D], y [G, R, N] without bias."""

    x: Tensor
    y: Tensor


class Recorder(TorchFunctionMode):
    """While active, collects the rows of the named layers; any model code may run inside.

    Args:
        model: the network that will be executed.
        layers: what to record.
        sampling: which positions.
        inputs: whether the inputs are wanted too; without, x of the rows is empty.
    """

    def __init__(
        self, model: nn.Module, layers: Iterable[Layer], sampling: Sampling, inputs: bool = True
    ) -> None:
        super().__init__()
        self._inputs = inputs
        state = tensors(model)
        self._model = model
        self._layers = {id(state[layer.weight]): layer for layer in layers}
        self._expected = sum(layer.calls for layer in self._layers.values())
        self._sampling = sampling
        self._batch = 0
        self._rows: dict[str, list[Rows]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Runs the operator; records its rows when its weight belongs to a wanted layer."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in _CONVOLUTIONS or func is F.linear:
            given = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
            layer = self._layers.get(id(given["weight"]))
            if layer is not None:
                self._record(layer, given, out, _CONVOLUTIONS.get(func, 0))
        return out

    def _record(self, layer: Layer, given: Mapping[str, Any], out: Tensor, spatial: int) -> None:
        seen = self._rows.setdefault(layer.name, [])
        chosen = self._sampling.positions(
            f"{layer.name}#{len(seen)}", self._batch, _count(out, spatial)
        )
        seen.append(_rows(given, out, spatial, chosen.to(out.device), self._inputs))
        if sum(map(len, self._rows.values())) == self._expected:
            raise _Stop

    def run(self, images: Tensor, batch: int) -> dict[str, list[Rows]]:
        """The rows of one batch, by layer, one entry per execution of the layer."""
        self._batch, self._rows = batch, {}
        with contextlib.suppress(_Stop), self:
            self._model(images)
        return self._rows


def collect(
    model: nn.Module,
    layers: Iterable[Layer],
    batches: Batches,
    sampling: Sampling,
    outputs: Outputs | None = None,
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
        on_batch: called after every batch.

    Returns:
        Layer name -> statistics, on the model's device.
    """
    recorder = Recorder(model, layers, sampling)
    wished = {name: iter(rows) for name, rows in (outputs or {}).items()}
    total: dict[str, LayerStats] = {}
    for found in _executions(model, recorder, batches):
        for name, rows in found.items():
            for row in rows:
                y = row.y if outputs is None else next(wished[name])
                total[name] = _accumulate(total.get(name), row.x, y)
        on_batch()
    return total


def sample_outputs(
    model: nn.Module, layers: Iterable[Layer], batches: Batches, sampling: Sampling
) -> Outputs:
    """Outputs of layers without their bias at the sampled positions, for `collect`.

    They are kept in memory: [G, rows, N] float32 per layer and execution.
    """
    recorder = Recorder(model, layers, sampling, inputs=False)
    kept: dict[str, list[Tensor]] = {}
    for found in _executions(model, recorder, batches):
        for name, rows in found.items():
            kept.setdefault(name, []).extend(row.y for row in rows)
    return kept


def _executions(
    model: nn.Module, recorder: Recorder, batches: Batches
) -> Iterator[dict[str, list[Rows]]]:
    device = next(model.parameters()).device
    with torch.no_grad(), evaluating(model):
        for number, (images, _) in enumerate(batches):
            yield recorder.run(images.to(device), number)


def select_outputs(stats: LayerStats, keep: Tensor) -> LayerStats:
    """Statistics for some of the outputs only; keep [N'] indexes the outputs of each group."""
    return LayerStats(stats.xx, stats.xy[:, :, keep], stats.yy[:, keep], stats.rows)


def _accumulate(total: LayerStats | None, x: Tensor, y: Tensor) -> LayerStats:
    """Adds rows, in float64: sums of float32 products lose the small eigenvalues."""
    x, y = x.double(), y.double()
    if total is None:
        return LayerStats(x.mT @ x, x.mT @ y, y.square().sum(dim=1), x.shape[1])
    total.xx.baddbmm_(x.mT, x)
    total.xy.baddbmm_(x.mT, y)
    total.yy.add_(y.square().sum(dim=1))
    return LayerStats(total.xx, total.xy, total.yy, total.rows + x.shape[1])


def _count(out: Tensor, spatial: int) -> int:
    """Output positions that share a weight: pixels of a convolution, tokens of a linear layer."""
    if spatial:
        return out.shape[-spatial:].numel()
    return out.shape[1:-1].numel()


def _rows(
    given: Mapping[str, Any], out: Tensor, spatial: int, chosen: Tensor, wanted: bool
) -> Rows:
    x, bias, groups = given["input"], given.get("bias"), int(given.get("groups", 1))
    inputs = out.new_empty(0)
    if not spatial:
        if wanted:
            inputs = x.reshape(len(x), -1, x.shape[-1])[:, chosen].flatten(0, 1)
        outputs = out.reshape(len(out), -1, out.shape[-1])[:, chosen].flatten(0, 1)
    else:
        if x.ndim == spatial + 1:  # without a batch dimension
            x, out = x[None], out[None]
        if wanted:
            inputs = _patches(given, x, out, spatial, chosen)
        outputs = out.flatten(2)[:, :, chosen].movedim(1, 2).flatten(0, 1)
    if bias is not None:
        outputs = outputs - bias
    y = outputs.reshape(len(outputs), groups, -1).movedim(1, 0)
    return Rows(inputs.reshape(len(inputs), groups, -1).movedim(1, 0) if wanted else inputs, y)


def _patches(
    given: Mapping[str, Any], x: Tensor, out: Tensor, spatial: int, chosen: Tensor
) -> Tensor:
    """The inputs that each chosen output position sees, [B*P, C*K] in the order of the weight."""
    kernel = list(given["weight"].shape[2:])
    stride = _per_axis(given.get("stride", 1), spatial)
    dilation = _per_axis(given.get("dilation", 1), spatial)
    before, after = _padding(given.get("padding", 0), kernel, dilation, spatial)
    pads = [p for axis in reversed(range(spatial)) for p in (before[axis], after[axis])]
    padded = F.pad(x, pads)
    corners = torch.unravel_index(chosen, tuple(out.shape[2:]))
    flat = torch.zeros(len(chosen), 1, dtype=torch.long, device=x.device)
    for axis in range(spatial):
        taps = torch.arange(kernel[axis], device=x.device) * dilation[axis]
        along = corners[axis][:, None] * stride[axis] + taps  # [P, k]
        flat = (flat[:, :, None] * padded.shape[2 + axis] + along[:, None, :]).flatten(1)
    seen = padded.flatten(2)[:, :, flat]  # [B, C, P, K]
    return seen.movedim(1, 2).flatten(2).flatten(0, 1)


def _per_axis(value: Any, spatial: int) -> list[int]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values if len(values) == spatial else values * spatial


def _padding(
    padding: Any, kernel: list[int], dilation: list[int], spatial: int
) -> tuple[list[int], list[int]]:
    if padding == "valid":
        return [0] * spatial, [0] * spatial
    if padding == "same":  # an odd total goes behind, as torch does
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [t // 2 for t in total], [t - t // 2 for t in total]
    same = _per_axis(padding, spatial)
    return same, same
