"""Which weights become zero: exact counts, ties, thresholds, against sorting by hand."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from amc.runtime.errors import AmcError
from amc.sparsity.magnitude import MAGNITUDES, magnitude, normed_magnitude
from amc.sparsity.patterns import Pattern
from amc.sparsity.select import chosen, highest_level


def drawn(seed: int, ties: bool) -> dict[str, Tensor]:
    """Scores of three layers, with many equal ones or with none."""
    generator = torch.Generator().manual_seed(seed)

    def layer(*shape: int) -> Tensor:
        if ties:
            return torch.randint(0, 3, shape, generator=generator).float()
        return torch.rand(shape, generator=generator)

    return {"a": layer(4, 3, 2, 2), "b": layer(6, 8), "c": layer(5, 1, 3)}


def by_hand(scores: dict[str, Tensor], count: int, text: str) -> dict[str, Tensor]:
    """The lowest units, one after the other; the last of the best of every layer never goes."""
    pattern, units = Pattern.parse(text), []
    for number, (name, score) in enumerate(scores.items()):
        sizes, values = pattern.zeros(score.shape).tolist(), pattern.pooled(score).tolist()
        best = -1 if pattern.stay else max(range(len(values)), key=lambda i: (values[i], i))
        for i, (size, value) in enumerate(zip(sizes, values, strict=True)):
            if i != best:
                units.append((value, number, i, size, name))
    removed = {n: torch.zeros(pattern.units(s.shape), dtype=torch.bool) for n, s in scores.items()}
    zeros, misses = 0, [count]
    order = sorted(units)
    for _, _, _, size, _ in order:
        zeros += size
        misses.append(abs(zeros - count))
    for _, _, i, _, name in order[: misses.index(min(misses))]:
        removed[name][i] = True
    return {n: pattern.kept(scores[n], removed[n]) for n in scores}


@pytest.mark.parametrize("text", ["", "1x4", "2x2", "row", "column", "2:4", "allx3"])
@pytest.mark.parametrize("ties", [False, True])
def test_lowest_units_go(ties: bool, text: str) -> None:
    for seed, level in enumerate([0.0, 0.01, 0.3, 0.5, 0.77, 0.9, 0.97, 1.0]):
        scores = drawn(seed, ties)
        count = round(level * sum(s.numel() for s in scores.values()))
        found, wanted = chosen(scores, level, Pattern.parse(text)), by_hand(scores, count, text)
        for name in scores:
            assert found[name].equal(wanted[name]), (name, level)


@pytest.mark.parametrize("ties", [False, True])
def test_single_weights_are_exact(ties: bool) -> None:
    scores = drawn(0, ties)
    total = sum(s.numel() for s in scores.values())
    for zeros in range(total - len(scores) + 1):
        masks = chosen(scores, zeros / total)
        assert sum(int((~m).sum()) for m in masks.values()) == zeros
        assert all(m.any() for m in masks.values())
    assert highest_level({n: tuple(s.shape) for n, s in scores.items()}) == (total - 3) / total


def test_every_layer_has_the_level() -> None:
    scores = drawn(1, ties=False)
    masks = chosen(scores, 0.7, scope="uniform")
    for name, mask in masks.items():
        assert int((~mask).sum()) == round(0.7 * mask.numel())
        lost = scores[name][~mask].max()
        assert bool((scores[name][mask] > lost).all())


def test_levels_by_name() -> None:
    scores = drawn(2, ties=False)
    masks = chosen(scores, {"a": 0.25, "c": 1.0})
    assert [int((~m).sum()) for m in masks.values()] == [12, 0, 15]


def test_a_level_of_n_of_m_removes_part_of_the_groups() -> None:
    scores = {"a": torch.arange(16.0).reshape(2, 8)}
    masks = chosen(scores, 0.25, Pattern.parse("2:4"))
    assert masks["a"].int().tolist() == [[0, 0, 1, 1, 0, 0, 1, 1], [1] * 8]
    assert chosen(scores, 0.9, Pattern.parse("2:4"))["a"].sum() == 8


def test_blocks_as_large_as_a_layer_stay() -> None:
    scores = drawn(3, ties=False)
    assert all(m.all() for m in chosen(scores, 0.9, Pattern.parse("allxall")).values())


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_magnitude_is_that_of_torch(part: float) -> None:
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Linear(20, 10), nn.Linear(5, 4)])
    weights = {f"{i}.weight": layer.weight for i, layer in enumerate(layers)}
    masks = chosen({n: magnitude(w) for n, w in weights.items()}, part)
    prune.global_unstructured(
        [(layer, "weight") for layer in layers], prune.L1Unstructured, amount=part
    )
    for layer, mask in zip(layers, masks.values(), strict=True):
        assert mask.equal(layer.weight_mask.bool())


def test_rows_are_those_of_torch() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 10, 3)
    scores = {"weight": magnitude(layer.weight)}
    mask = chosen(scores, 0.4, Pattern.parse("row"))["weight"]
    prune.ln_structured(layer, "weight", amount=0.4, n=1, dim=0)
    assert mask.equal(layer.weight_mask.bool())


def test_normed_magnitude_ignores_the_scale_of_a_layer() -> None:
    torch.manual_seed(0)
    weights = {"a": torch.randn(4, 5), "b": 100 * torch.randn(3, 7)}
    other = {"a": weights["a"] * 1000, "b": weights["b"]}
    masks = [chosen({n: normed_magnitude(w) for n, w in s.items()}, 0.5) for s in (weights, other)]
    assert all(masks[0][name].equal(masks[1][name]) for name in weights)
    assert normed_magnitude(weights["a"]).norm() == pytest.approx(1)
    assert normed_magnitude(torch.zeros(3, 2)).tolist() == [[0, 0]] * 3
    assert set(MAGNITUDES) == {"magnitude", "normed_magnitude"}


def test_half_precision_keeps_small_weights_apart() -> None:
    weight = torch.full((64, 64), 1e-4, dtype=torch.half)
    weight[0, 0] = 100
    assert normed_magnitude(weight).dtype == torch.float32
    assert (normed_magnitude(weight) > 0).all()


def test_what_cannot_be_chosen() -> None:
    scores = {"a": torch.rand(2, 2)}
    with pytest.raises(AmcError, match=r"all layers: the level must be in \[0, 1\], got 1.5"):
        chosen(scores, 1.5)
    with pytest.raises(AmcError, match="unknown weight 'b'; weights are a"):
        chosen(scores, {"b": 0.5})
    with pytest.raises(AmcError, match="unknown scope 'local'; allowed are global, uniform"):
        chosen(scores, 0.5, scope="local")
    with pytest.raises(AmcError, match="a: scores of weights must be finite"):
        chosen({"a": torch.tensor([[torch.nan, 1.0]])}, 0.5)
