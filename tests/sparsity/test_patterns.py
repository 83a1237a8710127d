"""Units of weights, against loops over single entries."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from amc.runtime.errors import AmcError
from amc.sparsity.patterns import PLAIN, Layout, Pattern

LAYOUTS = {
    "linear": ((5, 7), PLAIN),
    "conv": ((4, 6, 2, 3), PLAIN),
    "depthwise": ((6, 1, 3, 3), PLAIN),
    "input first": ((7, 5), Layout(1, 0)),
    "transposed": ((6, 4, 3, 2), Layout(1, 0)),
    "transposed in groups": ((6, 2, 3), Layout(1, 0, groups=3)),
    "both at once": ((2, 3, 5), Layout(2, 1)),
}
BLOCKS = ["", "1x4", "4x1", "2x3", "row", "column", "2xall", "allx3", "allxall", "99999x99999"]


def coordinates(shape: tuple[int, ...], layout: Layout) -> list[tuple[int, int, int]]:
    """Output, kernel position, input of every entry, in memory order."""
    rest = [d for d in range(len(shape)) if d not in (layout.outputs, layout.inputs)]
    found = []
    for at in itertools.product(*map(range, shape)):
        position = 0
        for dim in rest:
            position = position * shape[dim] + at[dim]
        group, channel = divmod(at[layout.inputs], shape[layout.inputs] // layout.groups)
        found.append((group * shape[layout.outputs] + at[layout.outputs], position, channel))
    return found


def unit_of(pattern: Pattern, shape: tuple[int, ...], layout: Layout) -> list[tuple[int, ...]]:
    """Which block every entry belongs to, by hand."""
    keys = []
    for row, position, column in coordinates(shape, layout):
        down = row // pattern.outputs if pattern.outputs else 0
        across = (position, column // pattern.inputs) if pattern.inputs else (0, 0)
        keys.append((down, *across))
    return keys


@pytest.mark.parametrize("text", BLOCKS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_units_are_those_of_a_loop(name: str, text: str) -> None:
    shape, layout = LAYOUTS[name]
    pattern, scores = Pattern.parse(text), torch.rand(shape, dtype=torch.float64)
    keys = unit_of(pattern, shape, layout)
    blocks: dict[tuple[int, ...], list[float]] = {}
    for key, score in zip(keys, scores.flatten().tolist(), strict=True):
        blocks.setdefault(key, []).append(score)
    order = list(blocks) if pattern == Pattern() else sorted(blocks)
    assert pattern.units(shape, layout) == len(blocks)
    assert pattern.zeros(shape, layout).tolist() == [len(blocks[key]) for key in order]
    means = torch.tensor([sum(blocks[k]) / len(blocks[k]) for k in order], dtype=torch.float64)
    assert torch.allclose(pattern.pooled(scores, layout), means)
    numbers = {key: number for number, key in enumerate(order)}
    spread = pattern.expanded(torch.arange(len(order)), shape, layout)
    assert spread.shape == shape
    assert spread.flatten().tolist() == [numbers[key] for key in keys]


@pytest.mark.parametrize("text", ["2:4", "1:4", "3:5", "1:2", "2:9000"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_of_m_inputs_side_by_side_n_stay(name: str, text: str) -> None:
    shape, layout = LAYOUTS[name]
    pattern, scores = Pattern.parse(text), torch.randint(4, shape).double()
    stay, of = map(int, text.split(":"))
    groups: dict[tuple[int, int, int], list[tuple[float, int, int]]] = {}
    for place, (row, position, column) in enumerate(coordinates(shape, layout)):
        score = float(scores.flatten()[place])
        groups.setdefault((row, position, column // of), []).append((score, column, place))
    expected = torch.ones(scores.numel(), dtype=torch.bool)
    for group in groups.values():
        for _, _, place in sorted(group)[: max(0, len(group) - stay)]:
            expected[place] = False
    everything = torch.ones(pattern.units(shape, layout), dtype=torch.bool)
    found = pattern.kept(scores, everything, layout)
    assert found.equal(expected.reshape(shape))
    assert int(pattern.zeros(shape, layout).sum()) == int((~found).sum())
    assert pattern.kept(scores, ~everything, layout).all()
    lost = []
    for _, group in sorted(groups.items()):
        going = sorted(group)[: max(0, len(group) - stay)]
        lost.append(sum(score for score, _, _ in going) / max(1, len(going)))
    assert torch.allclose(pattern.pooled(scores, layout), torch.tensor(lost).double())


def test_torch_packs_two_of_four_without_loss() -> None:
    """In the layout of `to_sparse_semi_structured`, whose packing runs on the CPU as well."""
    weight = torch.randn(64, 128).half()
    pattern = Pattern.parse("2:4")
    mask = pattern.kept(weight.abs().float(), torch.ones(64 * 32, dtype=torch.bool))
    assert (mask.reshape(64, 32, 4).sum(-1) == 2).all()
    assert pattern.level == 0.5
    packed, where = sparse_semi_structured_from_dense_cutlass(weight * mask)
    assert packed.shape == (64, 64)
    assert sparse_semi_structured_to_dense_cutlass(packed, where).equal(weight * mask)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_torch_compresses_it() -> None:
    weight = torch.randn(128, 128, device="cuda", dtype=torch.half)
    mask = Pattern.parse("2:4").kept(
        weight.abs(), torch.ones(128 * 32, dtype=torch.bool, device="cuda")
    )
    sparse = torch.sparse.to_sparse_semi_structured(weight * mask)
    inputs = torch.randn(128, 128, device="cuda", dtype=torch.half)
    found = torch.nn.functional.linear(inputs, sparse)
    wanted = torch.nn.functional.linear(inputs, weight * mask)
    assert torch.allclose(found, wanted, atol=1e-1, rtol=1e-2)


def test_values_of_units_have_gradients() -> None:
    units = torch.ones(2 * 6 * 3, requires_grad=True)
    shape = (4, 6, 2, 3)
    values: Tensor = Pattern.parse("2x3").expanded(units[:24], shape)
    values.sum().backward()
    assert units.grad is not None
    assert units.grad[:24].tolist() == [6.0] * 24


@pytest.mark.parametrize("text", ["1x4", "row", "column", "2:4", "", "allxall", "3xall"])
def test_text_comes_back(text: str) -> None:
    pattern = Pattern.parse(text)
    assert Pattern.parse(str(pattern)) == pattern


@pytest.mark.parametrize("text", ["4:2", "2:2", "0x4", "x", "2x", "rows", "-1x2", "1:0", "1.5x2"])
def test_what_is_no_block(text: str) -> None:
    with pytest.raises(AmcError, match="is no block; allowed are nothing"):
        Pattern.parse(text)
