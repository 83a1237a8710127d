"""MACs and parameters as exact functions of integer channel counts.

One multiply-accumulate is one MAC (half a FLOP). Counted: convolutions, linear layers and matrix
products; not normalisation, activation, pooling or bias. Every count of a tensor's dimension is
affine in the kept channels, so the cost of a layer is a product of two affine functions.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from amc.graph.arrays import FloatArray, IntArray
from amc.graph.groups import ChannelGroup, Layer, Product


@dataclass(frozen=True)
class _Products:
    """MACs of operators that are proportional to one or two sizes, affine in k, [P] and [P, T]."""

    scale: FloatArray
    a0: FloatArray
    a: FloatArray
    b0: FloatArray
    b: FloatArray

    def macs(self, k: FloatArray | IntArray) -> IntArray:
        """For kept channels k [T] -> of the batch; or for many strategies [T, R] -> [R]."""
        if not len(self.scale):
            return np.zeros(k.shape[1:], dtype=np.int64)
        shape = (-1, *[1] * (k.ndim - 1))
        sizes = (self.a0.reshape(shape) + self.a @ k) * (self.b0.reshape(shape) + self.b @ k)
        macs: IntArray = (self.scale @ sizes).astype(np.int64)
        return macs


@dataclass(frozen=True)
class CostModel:
    """Costs of a network as functions of k [T], the kept channels of its T decisions.

    MACs of layer l are ``scale[l] (in0[l] + in_k[l] k) (out0[l] + out_k[l] k)``.

    Integers are held as float64, exact up to 2**53, because only floats multiply fast.

    Attributes:
        scale, in0, out0: [L] kernel size x positions; channels that never change.
        in_k, out_k: [L, T] slices of the weight per channel of each decision.
        products: the same for operators outside of the layers.
        batch: samples that ``scale`` counts.
        other: MACs per sample that do not depend on k.
        tensor_*: the same for parameters, [P] and [P, T] (two dimensions at most depend on k).
    """

    scale: FloatArray
    in0: FloatArray
    in_k: FloatArray
    out0: FloatArray
    out_k: FloatArray
    products: _Products
    batch: int
    other: int
    tensor_scale: FloatArray
    tensor_a0: FloatArray
    tensor_a: FloatArray
    tensor_b0: FloatArray
    tensor_b: FloatArray
    other_params: int

    @classmethod
    def of(
        cls,
        decisions: Sequence[ChannelGroup],
        layers: Sequence[Layer],
        products: Sequence[Product],
        shapes: Mapping[str, tuple[int, ...]],
        parameters: Collection[str],
        *,
        batch: int,
        other_macs: int,
        total_params: int,
    ) -> "CostModel":
        """The cost model of a network; the arguments are those of a `ChannelGraph`."""
        slices: dict[tuple[str, int], IntArray] = {}
        for t, group in enumerate(decisions):
            for member in group.members:
                row = slices.setdefault(
                    (member.tensor, member.dim), np.zeros(len(decisions), dtype=np.int64)
                )
                row[t] += member.index.shape[1]
        sizes = np.array([g.size for g in decisions], dtype=np.int64)
        none = np.zeros(len(sizes), dtype=np.int64)

        def affine(tensor: str, dim: int) -> tuple[int, IntArray]:
            row = slices.get((tensor, dim), none)
            return int(shapes[tensor][dim] - row @ sizes), row

        rows = [
            (
                layer.positions * _kernel(layer, shapes[layer.weight]),
                *affine(layer.weight, layer.in_dim),
                *affine(layer.weight, layer.out_dim),
            )
            for layer in layers
        ]

        def entries(tensor: str) -> tuple[int, int, IntArray, int, IntArray]:
            shape = shapes[tensor]
            dims = sorted(range(len(shape)), key=lambda d: (tensor, d) not in slices)
            (first, second), rest = [*dims, -1, -1][:2], math.prod(shape[d] for d in dims[2:])
            return rest, *affine(tensor, first), *(affine(tensor, second) if second >= 0 else one)

        one, touched = (1, none), sorted({tensor for tensor, _ in slices} & set(parameters))
        tensors = [entries(tensor) for tensor in touched]
        untouched = total_params - sum(math.prod(shapes[tensor]) for tensor in touched)
        return cls(
            *_columns(rows, len(sizes)), _products(products, decisions, sizes), batch, other_macs,
            *_columns(tensors, len(sizes)), untouched,
        )  # fmt: skip

    def layer_channels(self, counts: IntArray) -> tuple[IntArray, IntArray]:
        """Slices of every weight along its input and its output dimension, [L] each."""
        inputs, outputs = self.in0 + self.in_k @ counts, self.out0 + self.out_k @ counts
        return inputs.astype(np.int64), outputs.astype(np.int64)

    def layer_channels_of(self, counts: IntArray) -> tuple[IntArray, IntArray]:
        """The same for many strategies, [R, T] -> [L, R] each."""
        k = counts.T.astype(np.float64)
        inputs, outputs = self.in0[:, None] + self.in_k @ k, self.out0[:, None] + self.out_k @ k
        return inputs.astype(np.int64), outputs.astype(np.int64)

    def macs_of(self, counts: IntArray) -> IntArray:
        """MACs per sample for many strategies, [R, T] -> [R]."""
        k = counts.T.astype(np.float64)
        inputs, outputs = self.in0[:, None] + self.in_k @ k, self.out0[:, None] + self.out_k @ k
        macs: IntArray = (self.scale @ (inputs * outputs)).astype(np.int64)
        return (macs + self.products.macs(k)) // self.batch + self.other

    def layer_macs(self, counts: IntArray) -> IntArray:
        """MACs per sample of every layer, [L] for counts [T]."""
        inputs, outputs = self.in0 + self.in_k @ counts, self.out0 + self.out_k @ counts
        macs: IntArray = (self.scale * inputs * outputs).astype(np.int64) // self.batch
        return macs

    def macs(self, counts: IntArray) -> int:
        """MACs per sample of the network for kept channels [T]."""
        inputs, outputs = self.in0 + self.in_k @ counts, self.out0 + self.out_k @ counts
        whole = np.dot(self.scale * inputs, outputs)
        return int(whole + self.products.macs(counts)) // self.batch + self.other

    def form(self) -> tuple[float, FloatArray, FloatArray]:
        """``a``, ``b`` [T] and ``C`` [T, T] of the MACs that depend on k, ``a + b k + k C k / 2``.

        Of a whole batch, without `other`; all >= 0, exact like the rest.
        """
        p = self.products
        scale = np.concatenate([self.scale, p.scale])
        a0, a = np.concatenate([self.in0, p.a0]), np.concatenate([self.in_k, p.a])
        b0, b = np.concatenate([self.out0, p.b0]), np.concatenate([self.out_k, p.b])
        square = (a * scale[:, None]).T @ b
        linear = (scale * b0) @ a + (scale * a0) @ b
        return float(scale @ (a0 * b0)), linear, square + square.T

    def params(self, counts: IntArray) -> int:
        """Parameters of the network for kept channels [T]."""
        a, b = self.tensor_a0 + self.tensor_a @ counts, self.tensor_b0 + self.tensor_b @ counts
        return int((self.tensor_scale * a * b).sum()) + self.other_params


def _products(
    products: Sequence[Product], decisions: Sequence[ChannelGroup], sizes: IntArray
) -> _Products:
    """Costs of the operators outside of the layers."""
    rows = []
    for product in products:
        axes = [*product.axes, (1, {})][:2]
        terms = []
        for size, per_channel in axes:
            row = np.array([per_channel.get(g.name, 0) for g in decisions], dtype=np.int64)
            terms.append((int(size - row @ sizes), row))
        rows.append((product.macs // (axes[0][0] * axes[1][0]), *terms[0], *terms[1]))
    return _Products(*_columns(rows, len(sizes)))


def _kernel(layer: Layer, shape: tuple[int, ...]) -> int:
    """Entries of a weight per input and output channel."""
    return math.prod(n for d, n in enumerate(shape) if d not in (layer.in_dim, layer.out_dim))


def _columns(
    rows: list[tuple[int, int, IntArray, int, IntArray]], decisions: int
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """(scale, a0, a, b0, b) rows as arrays."""
    scale, a0, a, b0, b = zip(*rows, strict=True) if rows else ((),) * 5
    shape = (len(rows), decisions)
    return (
        np.array(scale, dtype=np.float64),
        np.array(a0, dtype=np.float64),
        np.array(a, dtype=np.float64).reshape(shape),
        np.array(b0, dtype=np.float64),
        np.array(b, dtype=np.float64).reshape(shape),
    )
