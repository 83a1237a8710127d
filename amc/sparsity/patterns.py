"""What becomes zero together: single weights, blocks, rows, columns, or N of M side by side.

A weight is seen as a matrix [outputs, inputs x kernel positions], in which the input channels of
one kernel position lie side by side. A block lies within one kernel position unless it covers
whole rows. Blocks at the edges may be smaller.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from amc.graph.groups import Layer
from amc.runtime.errors import AmcError

ALLOWED = (
    "nothing (single weights), row, column, AxB (outputs x inputs, 'all' for a whole dimension) "
    "or N:M (N of M inputs stay, N < M)"
)


@dataclass(frozen=True)
class Layout:
    """Where a weight has its outputs and its inputs.

    Attributes:
        outputs, inputs: dimensions; all others are kernel positions.
        groups: of a transposed convolution, whose inputs are those of all its groups.
    """

    outputs: int = 0
    inputs: int = 1
    groups: int = 1

    @classmethod
    def of(cls, layer: Layer) -> "Layout":
        """That of a layer's weight."""
        groups = layer.groups if "transpose" in layer.kind else 1
        return cls(layer.out_dim, layer.in_dim, groups)

    def matrix(self, tensor: Tensor) -> Tensor:
        """The tensor as [outputs, kernel positions, inputs]."""
        inputs, outputs = tensor.shape[self.inputs], tensor.shape[self.outputs]
        apart = tensor.permute(self._order(tensor.ndim))
        apart = apart.reshape(self.groups, inputs // self.groups, outputs, -1)
        return apart.permute(0, 2, 3, 1).reshape(
            self.groups * outputs, apart.shape[3], inputs // self.groups
        )

    def tensor(self, matrix: Tensor, shape: Sequence[int]) -> Tensor:
        """The inverse of `matrix`, for a weight of this shape."""
        order = self._order(len(shape))
        apart = matrix.reshape(self.groups, -1, *matrix.shape[1:]).permute(0, 3, 1, 2)
        back = [order.index(dim) for dim in range(len(shape))]
        return apart.reshape([shape[dim] for dim in order]).permute(back)

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Of the matrix: outputs, kernel positions, inputs."""
        rows, columns = shape[self.outputs] * self.groups, shape[self.inputs] // self.groups
        return rows, torch.Size(shape).numel() // max(1, rows * columns), columns

    def _order(self, ndim: int) -> list[int]:
        rest = [dim for dim in range(ndim) if dim not in (self.inputs, self.outputs)]
        return [self.inputs, self.outputs, *rest]


PLAIN = Layout()
"""Of linear layers and of convolutions that are not transposed."""


@dataclass(frozen=True)
class Pattern:
    """Units of weights that become zero together.

    Attributes:
        outputs, inputs: size of a block; 0 for the whole dimension.
        stay: of N:M, how many of `inputs` side by side stay; 0 for blocks. The unit is then a
            group of M, of which the M - N weights with the lowest scores become zero.
    """

    outputs: int = 1
    inputs: int = 1
    stay: int = 0

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """The pattern that ``--block`` names.

        Examples:
            >>> Pattern.parse("1x4"), Pattern.parse("2:4").level
            (Pattern(outputs=1, inputs=4, stay=0), 0.5)

        Raises:
            AmcError: it names none.
        """
        text = text.strip().lower()
        text = {"": "1x1", "row": "1xall", "column": "allx1"}.get(text, text)
        if found := re.fullmatch(r"([1-9]\d{0,8}|all)x([1-9]\d{0,8}|all)", text):
            outputs, inputs = (0 if size == "all" else int(size) for size in found.groups())
            return cls(outputs, inputs)
        if found := re.fullmatch(r"([1-9]\d{0,3}):([1-9]\d{0,3})", text):
            stay, group = map(int, found.groups())
            if stay < group:
                return cls(1, group, stay)
        raise AmcError(f"--block {text!r} is no block; allowed are {ALLOWED}")

    def __str__(self) -> str:
        """The text that `parse` reads."""
        if self.stay:
            return f"{self.stay}:{self.inputs}"
        if self == SINGLE:
            return ""
        return f"{self.outputs or 'all'}x{self.inputs or 'all'}"

    @property
    def level(self) -> float | None:
        """The part of weights that are zero where the pattern alone says so: N:M."""
        return 1 - self.stay / self.inputs if self.stay else None

    def units(self, shape: Sequence[int], layout: Layout = PLAIN) -> int:
        """How many units a weight of this shape has."""
        rows, height, positions, columns, width = self._grid(shape, layout)
        return -(-rows // height) * positions * -(-columns // width)

    def zeros(self, shape: Sequence[int], layout: Layout = PLAIN) -> Tensor:
        """How many weights become zero with each unit, int64 [units]."""
        rows, height, positions, columns, width = self._grid(shape, layout)
        down, across = _parts(rows, height), (_parts(columns, width) - self.stay).clamp(min=0)
        return (down[:, None, None] * across).expand(-1, positions, -1).flatten()

    def pooled(self, scores: Tensor, layout: Layout = PLAIN) -> Tensor:
        """Scores of units: the mean of the weights that become zero, so that sizes compare.

        Args:
            scores: of single weights, higher stays; of the weight's shape.
            layout: of the weight.

        Returns:
            [units]; 0 for units that hold nothing to remove.
        """
        if self == SINGLE:
            return scores.flatten()
        cells = self._cells(scores, layout)
        sizes = self.zeros(scores.shape, layout).to(scores.device)
        if self.stay:
            ranked = cells.sort(dim=-1).values
            going = sizes.reshape(*ranked.shape[:-1], 1)
            places = torch.arange(cells.shape[-1], device=scores.device)
            sums = torch.where(places < going, ranked, 0).sum(-1)
        else:
            sums = cells.sum((1, 4))
        return sums.flatten() / sizes.clamp(min=1)

    def expanded(self, units: Tensor, shape: Sequence[int], layout: Layout = PLAIN) -> Tensor:
        """The value of its unit for every weight; differentiable.

        Args:
            units: [units], of any type.
            shape: of the weight.
            layout: of the weight.
        """
        if self == SINGLE:
            return units.reshape(tuple(shape))
        rows, height, positions, columns, width = self._grid(shape, layout)
        down, across = -(-rows // height), -(-columns // width)
        cells = units.reshape(down, 1, positions, across, 1).expand(-1, height, -1, -1, width)
        matrix = cells.reshape(down * height, positions, across * width)[:rows, :, :columns]
        return layout.tensor(matrix.reshape(layout.sizes(shape)), shape)

    def kept(self, scores: Tensor, removed: Tensor, layout: Layout = PLAIN) -> Tensor:
        """The mask without the removed units.

        Args:
            scores: of single weights; of N:M they say which ones of a unit go, the first of equal
                ones.
            removed: [units], bool.
            layout: of the weight.

        Returns:
            bool, of the weight's shape; True stays.
        """
        gone = self.expanded(removed, scores.shape, layout)
        if not self.stay:
            return ~gone
        cells = self._cells(scores, layout)
        rank = cells.argsort(dim=-1, stable=True).argsort(dim=-1)
        size = self.zeros(scores.shape, layout).to(scores.device)
        lowest = rank < size.reshape(*cells.shape[:-1], 1)
        rows, positions, columns = layout.sizes(scores.shape)
        matrix = lowest.reshape(rows, positions, -1)[..., :columns]
        return ~(gone & layout.tensor(matrix, scores.shape))

    def _cells(self, scores: Tensor, layout: Layout) -> Tensor:
        """Scores by unit: [down, height, positions, across, width]; N:M without the first two.

        What an incomplete unit lacks is 0, of N:M infinite, so that it is not among the lowest.
        """
        rows, height, positions, columns, width = self._grid(scores.shape, layout)
        down, across = -(-rows // height), -(-columns // width)
        matrix = layout.matrix(scores).reshape(rows, positions, columns)
        padding = (0, across * width - columns, 0, 0, 0, down * height - rows)
        padded = F.pad(matrix, padding, value=torch.inf if self.stay else 0)
        if self.stay:
            return padded.reshape(rows, positions, across, width)
        return padded.reshape(down, height, positions, across, width)

    def _grid(self, shape: Sequence[int], layout: Layout) -> tuple[int, int, int, int, int]:
        """Rows and height of blocks, kernel positions, columns and width of blocks."""
        rows, positions, columns = layout.sizes(shape)
        if not self.inputs:
            positions, columns = 1, positions * columns
        height, width = min(self.outputs or rows, rows), min(self.inputs or columns, columns)
        return rows, height, positions, columns, width


SINGLE = Pattern()
"""Single weights."""


def _parts(size: int, part: int) -> Tensor:
    """Sizes of the parts of a dimension, the last of which may be smaller."""
    return torch.tensor([min(part, size - start) for start in range(0, size, part)])
