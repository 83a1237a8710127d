"""Labels: which channel every entry of an activation came from.

A label tensor has the shape of an activation and holds one integer per entry, the name of the
channel that the entry belongs to; ``CONSTANT`` marks entries that belong to none. Labels that must
live and die together are joined in a union-find. Dimensions along which nothing varies are kept as
stride-0 views, so that the cost of a join does not depend on the size of the images.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from amc.graph.arrays import IntArray

CONSTANT = -1


class LabelSpace:
    """All labels of one trace: their classes, the tensors they index, and which are frozen.

    Attributes:
        bound: per (tensor name, dimension) the label of each slice, [size of that dimension].
        frozen: label -> why the channel must stay; read through `frozen_roots`.
        added: labels of the channels in which two activations were added up.
    """

    def __init__(self) -> None:
        self._parent: IntArray = np.arange(1024, dtype=np.int64)
        self._count = 0
        self.bound: dict[tuple[str, int], Tensor] = {}
        self.frozen: dict[int, str] = {}
        self.added: list[Tensor] = []

    def mint(self, count: int) -> Tensor:
        """New labels, [count], each in a class of its own."""
        start, self._count = self._count, self._count + count
        if self._count > len(self._parent):
            grown = np.arange(max(2 * len(self._parent), self._count), dtype=np.int64)
            grown[: len(self._parent)] = self._parent
            self._parent = grown
        return torch.arange(start, self._count)

    def roots(self, labels: Tensor | IntArray) -> IntArray:
        """The representative of each label's class, same shape; constants stay constants."""
        given = np.asarray(labels)
        found = self._parent[np.maximum(given, 0)]
        while True:
            above = self._parent[found]
            if np.array_equal(above, found):
                break
            found = above
        self._parent[np.maximum(given, 0)] = found
        return np.where(given < 0, CONSTANT, found)

    def union(self, left: Tensor | IntArray, right: Tensor | IntArray) -> None:
        """Joins the classes of left[i] and right[i]; pairs with a constant are left alone."""
        a, b = self.roots(np.ravel(np.asarray(left))), self.roots(np.ravel(np.asarray(right)))
        apart = (a >= 0) & (b >= 0) & (a != b)
        if not apart.any():
            return
        nodes, ends = np.unique(np.stack([a[apart], b[apart]]), return_inverse=True)
        one, other = ends.reshape(2, -1)
        edges = coo_array((np.ones(len(one)), (one, other)), shape=(len(nodes), len(nodes)))
        count, component = connected_components(edges, directed=False)
        least: IntArray = np.full(count, nodes[-1])
        np.minimum.at(least, component, nodes)
        self._parent[nodes] = least[component]

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """Element-wise operator: joins what meets in one entry; returns the result's labels."""
        shape = np.broadcast_shapes(*(t.shape for t in tensors))
        expanded = [t.expand(shape) for t in tensors]
        index = tuple(
            slice(0, 1) if all(t.stride(d) == 0 for t in expanded) else slice(None)
            for d in range(len(shape))
        )
        small = [t[index] for t in expanded]
        out = small[0]
        for other in small[1:]:
            self.union(out, other)
            out = torch.where(out >= 0, out, other)
        return out.expand(shape)

    def varying(self, labels: Tensor) -> list[int]:
        """The dimensions along which the classes differ."""
        classes = self.roots(compact(labels))
        return [
            d
            for d in range(classes.ndim)
            if classes.shape[d] > 1 and bool((classes != classes.take([0], axis=d)).any())
        ]

    def along(self, labels: Tensor, dim: int) -> Tensor:
        """One label per slice of ``dim``, [size]; joins whatever differs within a slice."""
        small = compact(labels, keep=dim)
        rows = small.movedim(dim, 0).reshape(small.shape[dim], -1)
        first = rows.max(dim=1).values
        self.union(first[:, None].expand(rows.shape), rows)
        return first

    def single_axis(self, labels: Tensor, *wanted: int | None) -> Tensor:
        """Joins labels until they vary along one dimension only.

        That is the first of ``wanted`` (heads of attention, a dimension whose size follows from
        the others) along which they vary; otherwise the one of the most channels.

        A cut removes whole slices of a tensor. When a channel dimension is split in two by a view
        (channel shuffle, heads), only whole slices of one of the two can go. What repeats along a
        dimension (the sub-pixels of a pixel shuffle) counts once.
        """
        axes = self.varying(labels)
        if len(axes) < 2:
            return labels
        classes = self.roots(compact(labels))

        def channels(d: int) -> int:
            return len(np.unique(np.moveaxis(classes, d, 0).reshape(classes.shape[d], -1), axis=0))

        named = [d for d in wanted if d is not None and d in axes]
        dim = named[0] if named else max(axes, key=channels)
        shape = [1] * labels.ndim
        shape[dim] = labels.shape[dim]
        return self.along(labels, dim).reshape(shape).expand(labels.shape)

    def bind(self, tensor: str, dim: int, labels: Tensor) -> Tensor:
        """Says that slice i of the named tensor along ``dim`` belongs to labels[i]."""
        known = self.bound.get((tensor, dim))
        if known is None:
            self.bound[tensor, dim] = labels
            return labels
        self.union(known, labels)
        merged = torch.where(known >= 0, known, labels)
        self.bound[tensor, dim] = merged
        return merged

    def freeze(self, labels: Iterable[Tensor], reason: str) -> None:
        """Says that the channels of these labels must all stay, and why."""
        for tensor in labels:
            for root in np.unique(self.roots(compact(tensor))):
                if root >= 0:
                    self.frozen.setdefault(int(root), reason)

    def staying(self, tensors: Iterable[Tensor]) -> str:
        """Why all channels of these labels must stay, as far as is known; empty if some may go."""
        roots = [self.roots(compact(tensor)).ravel() for tensor in tensors]
        found = np.unique(np.concatenate([*roots, np.empty(0, dtype=np.int64)]))
        reasons = self.frozen_roots()
        every = [reasons.get(int(root), "") for root in found if root >= 0]
        return every[0] if every and all(every) else ""

    def frozen_roots(self) -> dict[int, str]:
        """Representative of each frozen class -> the first reason given for it."""
        reasons: dict[int, str] = {}
        roots = self.roots(np.array(list(self.frozen), dtype=np.int64)).tolist()
        for root, reason in zip(roots, self.frozen.values(), strict=True):
            reasons.setdefault(root, reason)
        return reasons


def uniform(labels: Tensor) -> Tensor:
    """The same labels with every dimension along which they do not vary as a stride-0 view."""
    small = labels
    for d in range(labels.ndim):
        if small.shape[d] > 1 and (
            small.stride(d) == 0 or bool((small == small.narrow(d, 0, 1)).all())
        ):
            small = small.narrow(d, 0, 1)
    return small.expand(labels.shape)


def compact(labels: Tensor, keep: int | None = None) -> Tensor:
    """One entry of each stride-0 dimension but ``keep``."""
    index = tuple(
        slice(0, 1) if labels.stride(d) == 0 and d != keep else slice(None)
        for d in range(labels.ndim)
    )
    return labels[index]
