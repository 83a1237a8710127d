"""Operators in which channels meet in sums: reductions, matrix products.

A removed channel adds exactly zero to a sum, if its map is zero; whether it is, the proof shows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_letters

import torch
from torch import Tensor

from amc.graph.operators.interpreter import Labeller
from amc.graph.operators.labels import CONSTANT
from amc.graph.operators.operands import LayerCall, Op, Rows, Source, Unknown, Value
from amc.graph.operators.pointwise_rules import pointwise

MIXES = "mixes channels"

SUMS = ("sum", "nansum", "linalg_vector_norm", "norm", "linalg_norm", "frobenius_norm")
"""Reductions to which a zero adds nothing."""


def reduction(run: Labeller, op: Op) -> Value:
    """mean, sum, max, softmax: over space the channels stay; over channels only sums may go."""
    if "other" in op.given:  # the greater of two tensors
        return pointwise(run, op)
    x, over = run.tensor(op.args[0]), op.given.get("dim")
    if over is None or over == []:
        over = list(range(x.ndim))
    dims = {int(d) % x.ndim for d in (over if isinstance(over, list | tuple) else [over])}
    if mixed := dims & set(run.space.varying(x)):
        if op.name not in SUMS:
            raise Unknown(MIXES)
        for d in mixed:
            run.doubt(run.space.along(x, d), f"{op.name} {MIXES}")
        x = torch.tensor(CONSTANT).expand(x.shape)
    small = x
    for d in sorted(dims, reverse=True):
        small = small.narrow(d, 0, 1)
        if op.outs[0].ndim < x.ndim:
            small = small.squeeze(d)
    return op.packed(tuple(small.expand(out.shape) for out in op.outs))


def mixes(run: Labeller, op: Op) -> Value:
    """Every result depends on several channels in a way that no cut can follow."""
    raise Unknown(MIXES)


# --- products of two tensors, in the notation of einsum


@dataclass(frozen=True)
class _Term:
    """An operand of a product: a letter for each of its dimensions."""

    value: Tensor | Source
    letters: str

    def dim(self, letter: str) -> int:
        """The dimension that the letter stands for."""
        return self.letters.index(letter)


def matmul(run: Labeller, op: Op) -> Value:
    """matmul, mm, bmm, mv, dot: batches, rows and columns."""
    left, right = _operands(run, op.args[0]), _operands(run, op.args[1])
    return product(run, op, *_as_rows(left, right), op.out.ndim)


def added_product(run: Labeller, op: Op) -> Value:
    """addmm, baddbmm, addmv: a product and what is added to it."""
    names = ("mat1", "mat2") if "mat1" in op.given else ("batch1", "batch2")
    names = names if names[0] in op.given else ("mat", "vec")
    left, right = (_operands(run, op.given[name]) for name in names)
    found = product(run, op, *_as_rows(left, right), op.out.ndim)
    return _biased(run, op, op.given["self"], found)


def tensordot(run: Labeller, op: Op) -> Value:
    """Dimensions of one tensor against those of another."""
    left, right = _operands(run, op.given["self"]), _operands(run, op.given["other"])
    first = ascii_letters[: _ndim(left)]
    second = list(ascii_letters[_ndim(left) :][: _ndim(right)])
    for a, b in zip(op.given["dims_self"], op.given["dims_other"], strict=True):
        second[b] = first[a]
    both = set(first) & set(second)
    out = "".join(x for x in (*first, *second) if x not in both)
    return product(run, op, _Term(left, first), _Term(right, "".join(second)), out)


def einsum(run: Labeller, op: Op) -> Value:
    """One operand (sums and reordering) or the product of two."""
    equation, operands = str(op.args[0]).replace(" ", ""), [_operands(run, x) for x in op.args[1]]
    inputs, _, out = equation.partition("->")
    written = inputs.split(",")
    if len(operands) > 2 or any(len(set(w)) < len(w.replace("...", ".")) for w in written):
        raise Unknown(MIXES)
    if "->" not in equation:
        found = "".join(written).replace(".", "")
        once = "".join(sorted(x for x in set(found) if found.count(x) == 1))
        out = ("..." if "." in inputs else "") + once
    spare = "".join(x for x in ascii_letters if x not in equation)
    sizes = [_ndim(x) - len(w.replace("...", "")) for x, w in zip(operands, written, strict=True)]
    dots = spare[: max(sizes)]
    letters = [
        w.replace("...", dots[len(dots) - n :]) for w, n in zip(written, sizes, strict=True)
    ]
    terms = [_Term(x, w) for x, w in zip(operands, letters, strict=True)]
    if len(terms) == 1:
        terms.append(_Term(torch.tensor(CONSTANT), ""))
    return product(run, op, terms[0], terms[1], out.replace("...", dots))


def dense(run: Labeller, op: Op) -> Value:
    """A linear layer whose weight is not held as such: a product, and a bias."""
    x, weight = _operands(run, op.given["input"]), _operands(run, op.given["weight"])
    letters = ascii_letters[: _ndim(x)]
    right = ("Z" + letters[-1]) if _ndim(weight) == 2 else letters[-1]
    out = letters[:-1] + ("Z" if _ndim(weight) == 2 else "")
    found = product(run, op, _Term(x, letters), _Term(weight, right), out)
    bias = op.given.get("bias")
    return found if bias is None else _biased(run, op, bias, found)


def _biased(run: Labeller, op: Op, bias: Value, found: Tensor) -> Value:
    bias = run.tensor(bias) if isinstance(bias, Rows) else bias
    return pointwise(run, Op(torch.ops.aten.mul.Tensor, (bias, found), {}, op.out))


def product(run: Labeller, op: Op, left: _Term, right: _Term, out: str | int) -> Tensor:
    """The labels of a product of two tensors.

    What is summed over joins the channels of both; what is not stays a dimension of the result. A
    parameter whose rows meet the channels is a layer: its columns are new channels.
    """
    letters = out if isinstance(out, str) else _as_result(left, right, out)
    axes = _axes(run, left, right)
    if len([x for x in axes if x in letters]) > 1:
        raise Unknown(MIXES)
    for labels in axes.values():
        for more in labels[1:]:
            run.space.union(labels[0], more.expand_as(labels[0]))
    if run.attention:
        both = set(left.letters) & set(right.letters) & set(letters)
        run.meet_heads([axes[x][0] for x in axes if x in both])
    layer = False
    for term, other in ((left, right), (right, left)):
        if isinstance(term.value, Source):
            layer |= _meet(run, op, term, other, axes, letters)
    if not layer:
        for letter, labels in axes.items():
            if letter not in letters:
                run.doubt(labels[0], f"{op.name} {MIXES}")
                run.met.append(labels[0])
        run.costs(op, *[labels[0] for labels in axes.values()][:2])
    return _laid_out(op, letters, axes)


def _axes(run: Labeller, left: _Term, right: _Term) -> dict[str, list[Tensor]]:
    """The letters along which channels lie, with their labels in each of the operands."""
    axes: dict[str, list[Tensor]] = {}
    for term in (left, right):
        if isinstance(term.value, Tensor):
            varying = run.space.varying(term.value)
            if len(varying) > 1:
                raise Unknown(MIXES)
            for d in varying:
                axes.setdefault(term.letters[d], []).append(run.space.along(term.value, d))
    return axes


def _meet(
    run: Labeller, op: Op, weight: _Term, x: _Term, axes: dict[str, list[Tensor]], out: str
) -> bool:
    """Binds a parameter to the channels that it meets; whether it is a layer."""
    source, met = weight.value, [a for a in axes if a in weight.letters]
    assert isinstance(source, Source)
    held = {a: source.dim(weight.dim(a)) for a in weight.letters}
    for letter in met:
        dim = held[letter]
        if dim is not None:
            axes[letter][0] = run.bind_inputs(source.name, dim, axes[letter][0])
    read = [a for a in met if a not in out and held[a] is not None]
    own = [a for a in out if a in weight.letters and a not in x.letters and held[a] is not None]
    if not own or any(a in out for a in axes) or (axes and not read):
        return False
    size = dict(zip(weight.letters, source.shape, strict=True))
    letter = max(own, key=size.__getitem__)
    into, outof = held[read[0] if read else weight.letters[0]], held[letter]
    assert outof is not None
    axes[letter] = [run.space.bind(source.name, outof, run.space.mint(size[letter]))]
    if not read or into is None:
        return False
    times = op.macs // math.prod(source.held)
    run.calls.append(LayerCall(source.name, None, op.name, into, outof, positions=times))
    return True


def _laid_out(op: Op, letters: str, axes: dict[str, list[Tensor]]) -> Tensor:
    """The labels of the result, along the one dimension that has any."""
    for place, letter in enumerate(letters):
        if letter in axes:
            shape = [1] * op.out.ndim
            shape[place] = op.out.shape[place]
            return axes[letter][0].reshape(shape).expand(op.out.shape)
    return torch.tensor(CONSTANT).expand(op.out.shape)


def _as_rows(left: Tensor | Source, right: Tensor | Source) -> tuple[_Term, _Term]:
    """Letters of a matrix product: y is summed over, x and z are rows and columns."""
    batch = ascii_letters[:20]
    a, b = _ndim(left), _ndim(right)
    first = batch[20 - (a - 2) :] * (a > 2) + ("xy" if a > 1 else "y")
    second = batch[20 - (b - 2) :] * (b > 2) + ("yz" if b > 1 else "y")
    return _Term(left, first), _Term(right, second)


def _as_result(left: _Term, right: _Term, ndim: int) -> str:
    """Letters of the result of a matrix product."""
    rows = "".join(x for x in ("x" * ("x" in left.letters), "z" * ("z" in right.letters)))
    batches: Sequence[str] = max(left.letters, right.letters, key=len)
    return "".join(batches)[: ndim - len(rows)] + rows


def _operands(run: Labeller, value: Value) -> Tensor | Source:
    return value if isinstance(value, Source) else run.tensor(value)


def _ndim(value: Tensor | Source) -> int:
    return len(value.shape)
