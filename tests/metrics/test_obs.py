"""Optimal brain surgeon against solving anew for every subset."""

import numpy as np
import pytest
import torch
from torch import Tensor

from amc.calibration.statistics import LayerStats
from amc.metrics import obs
from amc.metrics.obs import Reader, _Problem, elimination_order


def reader(
    seed: int, channels: int = 6, width: int = 2, others: int = 3, groups: int = 1, rows: int = 200
) -> tuple[Reader, Tensor, Tensor]:
    """A regression with correlated inputs; some columns belong to no channel of the group."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    size = channels * width + others
    x = draw(groups, rows, size) @ draw(size, size) + 0.1 * draw(groups, rows, size)
    weights = draw(groups, size, 4)
    y = x @ weights + 0.5 * draw(groups, rows, 4)
    stats = LayerStats(x.mT @ x, x.mT @ y, y.square().sum(1), rows)
    columns = torch.randperm(size, generator=generator)[: channels * width]
    return Reader(stats, weights, columns.reshape(channels, width)), x, y


def least_error(x: Tensor, y: Tensor, columns: list[int]) -> float:
    """Smallest sum of squares with these columns, by QR."""
    total = 0.0
    for one, wanted in zip(x, y, strict=True):
        part = one[:, columns]
        solution = torch.linalg.lstsq(part, wanted).solution
        total += float((wanted - part @ solution).square().sum())
    return total


def columns_left(one: Reader, gone: list[int]) -> list[int]:
    lost = set(one.columns[gone].flatten().tolist())
    return [c for c in range(one.stats.xx.shape[1]) if c not in lost]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_added_error_is_that_of_solving_anew(seed: int, groups: int) -> None:
    one, x, y = reader(seed, groups=groups)
    problem, gone = _Problem(one), []
    left = list(range(6))
    while len(left) > 1:
        before = least_error(x, y, columns_left(one, gone))
        found = problem.added_error() * one.stats.energy
        for i, channel in enumerate(left):
            after = least_error(x, y, columns_left(one, [*gone, channel]))
            assert float(found[i]) == pytest.approx(after - before, rel=1e-3, abs=1e-3 * before)
        gone.append(left.pop(0))
        problem.remove(np.array([0]))


@pytest.mark.parametrize("seed", range(4))
def test_order_is_that_of_naive_backward_elimination(seed: int) -> None:
    pair = [reader(seed), reader(seed + 100, width=3, groups=2)]
    gone: list[int] = []
    left = list(range(6))
    while left:
        worth = [
            sum(
                least_error(x, y, columns_left(one, [*gone, c])) / one.stats.energy
                for one, x, y in pair
            )
            for c in left
        ]
        gone.append(left.pop(int(np.argmin(worth))))
        if len(left) == 1:
            gone += left
            break
    assert elimination_order([one for one, _, _ in pair]).tolist() == gone


@pytest.mark.parametrize("pending", [1, 7, 10**6])
@pytest.mark.parametrize(("width", "groups"), [(1, 1), (3, 2)])
def test_order_does_not_depend_on_when_the_inverse_is_brought_up_to_date(
    width: int, groups: int, pending: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ones = [reader(5, 40, width, groups=groups), reader(6, 40, 2)]
    monkeypatch.setattr(obs, "AT_ONCE", 16)  # first two at a time, then one
    expected = elimination_order([one for one, _, _ in ones])
    monkeypatch.setattr(obs, "PENDING", pending)
    assert elimination_order([one for one, _, _ in ones]).tolist() == expected.tolist()


@pytest.mark.parametrize("pending", [1, 4])
def test_added_error_is_exact_after_the_inverse_was_brought_up_to_date(
    pending: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obs, "PENDING", pending)
    one, x, y = reader(7, channels=9, groups=2)
    problem, gone = _Problem(one), [2, 5, 0]
    left = list(range(9))
    for channel in gone:
        problem.remove(np.array([left.index(channel)]))
        left.remove(channel)
    before = least_error(x, y, columns_left(one, gone))
    found = problem.added_error() * one.stats.energy
    for i, channel in enumerate(left):
        after = least_error(x, y, columns_left(one, [*gone, channel]))
        assert float(found[i]) == pytest.approx(after - before, rel=1e-3, abs=1e-3 * before)


def test_many_channels_go_several_at_a_time_and_all_of_them_go() -> None:
    one, x, y = reader(0, channels=300, width=1, others=0, rows=900)
    order = elimination_order([one])
    assert sorted(order.tolist()) == list(range(300))
    kept = least_error(x, y, order[200:].tolist() and one.columns[order[200:]].flatten().tolist())
    rng = np.random.default_rng(0)
    chance = [
        least_error(x, y, one.columns[rng.permutation(300)[:100]].flatten().tolist())
        for _ in range(5)
    ]
    assert kept < 0.5 * min(chance)


def test_dead_and_duplicate_channels_go_first() -> None:
    one, x, _ = reader(3, channels=6, width=1, others=0)
    first, second, dead = one.columns[:3, 0].tolist()
    x = x.clone()
    x[:, :, second] = x[:, :, first]
    x[:, :, dead] = 0
    y = x @ one.weights
    stats = LayerStats(x.mT @ x, x.mT @ y, y.square().sum(1), x.shape[1])
    order = elimination_order([Reader(stats, one.weights, one.columns)])
    assert set(order[:2].tolist()) in ({2, 0}, {2, 1})


@pytest.mark.parametrize("width", [1, 2])
def test_two_copies_do_not_go_at_once(width: int) -> None:
    """Each costs nothing while the other is there, so both are the cheapest of 300 channels."""
    one, x, _ = reader(4, channels=300, width=width, others=0, rows=900)
    x = x.clone()
    x[:, :, one.columns[17]] = x[:, :, one.columns[230]]
    y = x @ one.weights
    stats = LayerStats(x.mT @ x, x.mT @ y, y.square().sum(1), x.shape[1])
    order = elimination_order([Reader(stats, one.weights, one.columns)]).tolist()
    first, second = sorted(order.index(i) for i in (17, 230))
    assert first < 2 and second > 2
    without = columns_left(one, order[:2])
    assert least_error(x, y, without) < 0.02 * float(y.square().sum())
