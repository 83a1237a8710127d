"""The Lasso path against its optimality conditions; the ladder against one built row by row."""

from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from amc.calibration.least_squares import error, solve
from amc.calibration.statistics import LayerStats
from amc.metrics.lasso import (
    RIDGE,
    RUNG,
    SHRINKAGE,
    Ladder,
    LassoPath,
    contributions,
    novelty,
    refit,
)
from amc.metrics.obs import Reader, elimination_order


def problem(
    channels: int, rows: int, seed: int, correlation: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Z [rows, C] of correlated contributions and their noisy sum y [rows]."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(rows, 1))
    z = correlation * common + rng.normal(size=(rows, channels))
    z *= rng.uniform(0.1, 2.0, size=channels)
    return z, z.sum(axis=1) + 0.1 * rng.normal(size=rows)


def path_of(z: np.ndarray, y: np.ndarray) -> LassoPath:
    return LassoPath(z.T @ z, z.T @ y)


def ridged(gram: np.ndarray) -> np.ndarray:
    return gram + RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))


def assert_optimal(gram: np.ndarray, moment: np.ndarray, b: np.ndarray, alpha: float) -> None:
    """KKT: correlation with the residual is alpha sign(b) where b is not 0, at most alpha else."""
    slope = moment - gram @ b
    slack = 1e-9 * np.abs(moment).max()
    active = np.abs(b) > 1e-12
    assert np.abs(slope[active] - alpha * np.sign(b[active])).max(initial=0) <= slack
    assert np.abs(slope).max() <= alpha + slack


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("channels", "rows"), [(2, 10), (7, 50), (20, 300), (20, 12)])
def test_solutions_are_optimal_at_the_knots_and_between(
    channels: int, rows: int, seed: int
) -> None:
    z, y = problem(channels, rows, seed)
    gram, moment = z.T @ z, z.T @ y
    path = LassoPath(gram, moment)
    assert (np.diff(path.alphas) <= 0).all()
    assert path.alphas[0] == pytest.approx(np.abs(moment).max())
    assert not path.coefficients[:, 0].any()
    for j, alpha in enumerate(path.alphas):
        assert_optimal(ridged(gram), moment, path.coefficients[:, j], alpha)
    for j in range(len(path.alphas) - 1):
        for part in (0.25, 0.5, 0.9):
            b = (1 - part) * path.coefficients[:, j] + part * path.coefficients[:, j + 1]
            alpha = (1 - part) * path.alphas[j] + part * path.alphas[j + 1]
            assert_optimal(ridged(gram), moment, b, alpha)


@pytest.mark.parametrize("seed", range(4))
def test_path_ends_at_the_unpenalised_solution(seed: int) -> None:
    z, y = problem(9, 100, seed)
    path = path_of(z, y)
    assert path.alphas[-1] == pytest.approx(0, abs=1e-6 * path.alphas[0])
    expected = np.linalg.lstsq(z, y, rcond=None)[0]
    np.testing.assert_allclose(path.coefficients[:, -1], expected, rtol=1e-4, atol=1e-5)


def test_inputs_are_not_changed() -> None:
    z, y = problem(6, 40, 0)
    gram, moment = z.T @ z, z.T @ y
    before = gram.copy(), moment.copy()
    LassoPath(gram, moment)
    assert np.array_equal(gram, before[0]) and np.array_equal(moment, before[1])


def assert_exact(path: LassoPath, channels: int) -> None:
    for count in range(1, channels + 1):
        kept = path.keep(count)
        assert kept.dtype == np.int64
        assert len(kept) == count
        assert (np.diff(kept) > 0).all()
        assert kept[0] >= 0 and kept[-1] < channels


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("channels", "rows"), [(1, 5), (2, 30), (16, 200), (16, 5), (40, 100)])
def test_every_count_is_met_exactly(channels: int, rows: int, seed: int) -> None:
    assert_exact(path_of(*problem(channels, rows, seed)), channels)


@pytest.mark.parametrize("seed", range(5))
def test_every_count_is_met_with_dead_and_duplicate_channels(seed: int) -> None:
    z, _ = problem(12, 80, seed)
    z[:, [1, 4]] = 0
    z[:, 7] = z[:, 2]
    z[:, 8] = -z[:, 3]
    z[:, [9, 10, 11]] = z[:, [2, 2, 2]] * [1, 2, 0.5]
    path = path_of(z, z.sum(axis=1))
    assert_exact(path, 12)
    for count in range(1, 10):  # dead channels go first
        assert not {1, 4} & set(path.keep(count))


def test_every_count_is_met_when_all_channels_are_dead() -> None:
    assert_exact(LassoPath(np.zeros((5, 5)), np.zeros(5)), 5)
    assert_exact(LassoPath(np.zeros((1, 1)), np.zeros(1)), 1)


def test_every_count_is_met_when_all_channels_are_the_same() -> None:
    assert_exact(LassoPath(np.ones((6, 6)), np.full(6, 6.0)), 6)


def test_every_count_is_met_when_contributions_cancel() -> None:
    """The target is zero although every channel is alive: the path has no knot at all."""
    z, _ = problem(4, 50, 0)
    z = np.hstack([z, -z])
    path = path_of(z, z.sum(axis=1))
    assert_exact(path, 8)
    strongest = np.argsort(-(z**2).sum(axis=0))
    assert {int(path.keep(2)[0]) % 4, int(path.keep(2)[1]) % 4} == {int(strongest[0]) % 4}


@pytest.mark.parametrize("scale", [1e-150, 1e-12, 1e12])
def test_selection_does_not_depend_on_units(scale: float) -> None:
    z, y = problem(10, 100, 3)
    gram, moment = z.T @ z, z.T @ y
    expected, found = LassoPath(gram, moment), LassoPath(gram * scale, moment * scale)
    for count in range(1, 11):
        assert np.array_equal(expected.keep(count), found.keep(count))


def test_orthogonal_channels_are_kept_by_their_contribution() -> None:
    """Closed form: b_i = max(0, 1 - alpha / a_i), so the support grows by decreasing a_i."""
    a = np.array([3.0, 0.5, 7.0, 1.0, 5.0])
    path = LassoPath(np.diag(a), a.copy())
    order = [2, 4, 0, 3, 1]
    for count in range(1, 6):
        assert path.keep(count).tolist() == sorted(order[:count])
    np.testing.assert_allclose(sorted(path.alphas)[-5:], sorted(a), rtol=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_planted_support_is_recovered(seed: int) -> None:
    """Thirty channels, of which five make up the target."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(2000, 30))
    planted = np.sort(rng.permutation(30)[:5])
    y = z[:, planted] @ rng.uniform(0.7, 1.5, size=5) * rng.choice([-1, 1])
    y += 0.3 * rng.normal(size=2000)
    assert np.array_equal(path_of(z, y).keep(5), planted)


def test_fixed_count_uses_the_smallest_penalty_with_that_count() -> None:
    """Where the support of a size changes along the path, the last one counts."""
    changed = 0
    for seed in range(100):
        z, _ = problem(8, 12, seed)
        path = path_of(z, z @ np.random.default_rng(seed).normal(size=8))
        supports = [frozenset(np.flatnonzero(b)) for b in path.coefficients.T]
        for count in range(1, 9):
            fitting = [s for s in supports if len(s) == count]
            if fitting:
                assert frozenset(path.keep(count).tolist()) == fitting[-1]
                changed += fitting[0] != fitting[-1]
    assert changed > 5  # or the test has not seen such a path


def reconstruction_error(z: np.ndarray, y: np.ndarray, keep: tuple[int, ...]) -> float:
    kept = z[:, keep]
    return float(np.sum((y - kept @ np.linalg.lstsq(kept, y, rcond=None)[0]) ** 2))


def test_selection_is_mostly_the_best_subset_and_never_far_from_it() -> None:
    best_found, ratios = 0, []
    for seed in range(50):
        z, y = problem(7, 200, seed)
        path = path_of(z, y)
        errors = {c: reconstruction_error(z, y, c) for c in combinations(range(7), 3)}
        best = min(errors, key=errors.__getitem__)
        chosen = tuple(path.keep(3).tolist())
        best_found += chosen == best
        ratios.append(errors[chosen] / errors[best])
    assert best_found >= 40
    assert np.mean(ratios) < 1.05
    assert max(ratios) < 1.3


def test_selection_beats_ranking_by_size_where_channels_are_redundant() -> None:
    """Three copies of the strongest channel: size keeps all of them, Lasso only one."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(500, 6)) * [3, 3, 3, 1, 1, 1]
    z[:, 1] = z[:, 0] + 0.01 * z[:, 1]
    z[:, 2] = z[:, 0] + 0.01 * z[:, 2]
    y = z.sum(axis=1)
    chosen = tuple(path_of(z, y).keep(4).tolist())
    largest = tuple(np.sort(np.argsort(-(z**2).sum(axis=0))[:4]).tolist())
    assert set(largest) >= {0, 1, 2}
    assert len(set(chosen) & {0, 1, 2}) == 1
    assert reconstruction_error(z, y, chosen) < 0.01 * reconstruction_error(z, y, largest)


def test_novelty_is_what_stronger_channels_leave() -> None:
    """Gram-Schmidt on the contributions themselves, the longest remainder first."""
    for seed in range(5):
        z, _ = problem(9, 40, seed, correlation=2.0)
        rest, expected = z.copy(), np.zeros(9)
        for _ in range(9):
            length = (rest**2).sum(axis=0) * (expected == 0)
            first = int(length.argmax())
            expected[first] = length[first]
            along = rest[:, first] / np.sqrt(length[first])
            rest -= np.outer(along, along @ rest)
        for scale in (1, 1e-150, 1e12):
            found = novelty(scale * z.T @ z)
            np.testing.assert_allclose(found, expected / expected.max(), rtol=1e-3, atol=1e-5)


def test_copies_and_dead_channels_are_no_novelty() -> None:
    z, _ = problem(5, 100, 1)
    z[:, 3], z[:, 4] = -2 * z[:, 0], 0
    found = novelty(z.T @ z)
    assert found[[0, 4]].max() < 1e-5 < found[[1, 2, 3]].min()
    assert not novelty(np.zeros((3, 3))).any()


def regression(x: Tensor, weights: Tensor, columns: Tensor, noise: float = 0) -> Reader:
    """X [G, rows, D], W [G, D, N], columns [C, m]."""
    y = x @ weights
    y = y + noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).double()
    stats = LayerStats(x.mT @ x, x.mT @ y, y.square().sum(1), x.shape[1])
    return Reader(stats, weights, columns)


def draw(
    seed: int, channels: int = 12, width: int = 2, others: int = 3, groups: int = 1, mix: int = 6
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs that share ``mix`` factors, weights, columns in any order, for `regression`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    size = channels * width + others
    x = normal(groups, 300, mix) @ normal(groups, mix, size) + normal(groups, 300, size)
    x /= x.square().mean(dim=1, keepdim=True).sqrt()  # as behind a batch norm
    columns = torch.randperm(size, generator=generator)[: channels * width]
    return x, normal(groups, size, 4), columns.reshape(channels, width)


def orthogonal(rows: int, size: int, seed: int) -> Tensor:
    """Inputs of lengths 1 to 3, [1, rows, size]."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(rows, size)))[0]
    return torch.from_numpy(directions * rng.uniform(1, 3, size))[None]


def selections(readers: Sequence[Reader]) -> list[list[int]]:
    """Of 1, 2, ... C channels."""
    ladder = Ladder(readers)
    return [ladder.keep(k).tolist() for k in range(1, len(readers[0].columns) + 1)]


def ridge_regression(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """By QR of the rows, with one more for each weight."""
    rows = np.vstack([x, np.diag(np.sqrt(SHRINKAGE * (x**2).sum(axis=0)))])
    return np.linalg.lstsq(rows, np.vstack([y, np.zeros((x.shape[1], y.shape[1]))]), rcond=None)[0]


def rung_by_rows(
    x: Tensor, weights: Tensor, columns: Tensor, left: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Contributions Z [rows x outputs, C'] of channels refitted, and what they are to sum to."""
    free = sorted(set(range(x.shape[2])) - set(columns.flatten().tolist()))
    z, target = [[] for _ in left], []
    for inputs, wanted in zip(x.numpy(), (x @ weights).numpy(), strict=True):
        blocks = [columns[c].tolist() for c in left]
        used = [*free, *(column for block in blocks for column in block)]
        solution = dict(zip(used, ridge_regression(inputs[:, used], wanted), strict=True))

        def part(picked: list[int], inputs=inputs, solution=solution) -> np.ndarray:
            return inputs[:, picked] @ np.array([solution[c] for c in picked]).reshape(-1, 4)

        target.append(wanted - part(free))
        for list_, block in zip(z, blocks, strict=True):
            list_.append(part(block))
    return np.stack([np.ravel(parts) for parts in z], axis=1), np.ravel(target)


@pytest.mark.parametrize("seed", range(4))
def test_ladder_is_the_one_built_row_by_row(seed: int) -> None:
    """Two readers, one of them grouped, each divided by its own energy."""
    drawn = [draw(seed), draw(seed + 50, width=3, groups=2)]
    expected: dict[int, list[int]] = {}
    left = list(range(12))
    while left:
        gram, moment = np.zeros((len(left), len(left))), np.zeros(len(left))
        for x, weights, columns in drawn:
            z, target = rung_by_rows(x, weights, columns, left)
            energy = float((x @ weights).square().sum())
            gram, moment = gram + z.T @ z / energy, moment + z.T @ target / energy
        size = novelty(gram)
        path = LassoPath(gram * np.outer(size, size), moment * size)
        below = min(len(left) - 1, int(RUNG * len(left)))
        for count in range(len(left), max(below, 1) - 1, -1):
            expected[count] = [left[i] for i in path.keep(count)]
        left = expected[below] if below else []
    found = selections([regression(*one) for one in drawn])
    assert found == [expected[count] for count in range(1, 13)]


def test_refit_solves_for_the_columns_that_are_left() -> None:
    for groups in (1, 2):
        x, weights, columns = draw(0, channels=6, groups=groups)
        left = np.array([1, 4, 5])
        found = refit(regression(x, weights, columns), left)
        stay = [c for c in range(15) if c not in columns[[0, 2, 3]].flatten().tolist()]
        assert torch.tensor(stay)[found.columns].tolist() == columns[left].tolist()
        for one, wanted, solution in zip(x, x @ weights, found.weights, strict=True):
            expected = ridge_regression(one[:, stay].numpy(), wanted.numpy())
            np.testing.assert_allclose(solution.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_ladder_ranks_orthogonal_channels_by_what_is_lost_with_them(seed: int) -> None:
    rng, readers, lost = np.random.default_rng(seed), [], np.zeros(20)
    for width in (1, 2):
        x = orthogonal(100, 20 * width, seed)
        weights = torch.from_numpy(rng.normal(size=(1, 20 * width, 5)))
        columns = torch.from_numpy(rng.permutation(20 * width)).reshape(20, width)
        readers.append(regression(x, weights, columns))
        energy = (x.square().sum(1)[..., None] * weights.square()).sum((0, 2))
        lost += (energy[columns].sum(1) / energy.sum()).numpy()
    for count, kept in enumerate(selections(readers), start=1):
        assert kept == sorted(np.argsort(-lost)[:count].tolist())


def error_of(reader: Reader, kept: Sequence[int]) -> float:
    """Share of the output energy, weights solved for the kept channels."""
    stay = torch.ones(reader.stats.xx.shape[1], dtype=torch.bool)
    stay[reader.columns.flatten()] = False
    stay[reader.columns[list(kept)].flatten()] = True
    keep = stay.nonzero().flatten()
    solution = solve(reader.stats, keep, reader.weights[:, keep])
    return error(reader.stats, keep, solution) / reader.stats.energy


def test_ladder_is_nearer_to_optimal_brain_surgeon_than_to_one_path() -> None:
    """Errors where channels are correlated, on average over problems, by share kept."""
    errors = np.zeros((3, 4))
    for seed in range(12):
        reader = regression(*draw(seed, channels=24), noise=0.2)
        path, ladder = LassoPath(*contributions(reader)), Ladder([reader])
        order = elimination_order([reader])
        for i, count in enumerate((18, 12, 7, 4)):
            for j, kept in enumerate((path.keep(count), ladder.keep(count), order[-count:])):
                errors[j, i] += error_of(reader, kept.tolist())
    plain, found, surgeon = errors
    assert (found < plain).all()
    assert (found - surgeon < 0.5 * (plain - surgeon)).all()


@pytest.mark.parametrize("seed", range(5))
def test_ladder_keeps_no_copy_before_what_nothing_replaces(seed: int) -> None:
    """Copies of inputs with weights of their own: contributions that do not look alike."""
    x, weights, columns = draw(seed, channels=12, width=1, others=0, mix=1)
    copies = {3: 8, 5: 9, 0: 10, 1: 11}
    for one, other in copies.items():
        x[:, :, columns[other]] = x[:, :, columns[one]]
    for count, kept in enumerate(selections([regression(x, weights, columns)]), start=1):
        both = [one for one, other in copies.items() if {one, other} <= set(kept)]
        assert len(both) == max(0, count - 8)


def test_ladder_drops_dead_channels_first() -> None:
    x, weights, columns = draw(0)
    x[:, :, columns[[2, 7]].flatten()] = 0
    weights[:, columns[[7, 9]].flatten()] = 0
    weights[:, columns[2].flatten()] = 100
    for count, kept in enumerate(selections([regression(x, weights, columns)])[:9], start=1):
        assert not {2, 7, 9} & set(kept), count


@pytest.mark.parametrize("channels", [1, 2, 3, 7, 40])
def test_ladder_meets_every_count_nested_at_the_rungs(channels: int) -> None:
    reader = regression(*draw(channels, channels=channels))
    found = selections([reader])
    for count, kept in enumerate(found, start=1):
        assert len(set(kept)) == count and kept == sorted(kept)
        assert 0 <= kept[0] and kept[-1] < channels
    rungs = [channels]
    while rungs[-1] > 1:
        rungs.append(min(rungs[-1] - 1, int(RUNG * rungs[-1])))
    for above, below in pairwise(rungs):
        for count in range(below, above):
            assert set(found[below - 1]) <= set(found[above - 1])
            assert set(found[count - 1]) <= set(found[above - 1])
    ladder = Ladder([reader])  # whatever the order of the questions
    for count in np.random.default_rng(0).permutation(channels) + 1:
        assert ladder.keep(count).dtype == np.int64
        assert ladder.keep(count).tolist() == found[count - 1]


def test_ladder_goes_only_as_far_down_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[int] = []

    def counted(reader: Reader, left: np.ndarray) -> Reader:
        solved.append(len(left))
        return refit(reader, left)

    monkeypatch.setattr("amc.metrics.lasso.refit", counted)
    ladder = Ladder([regression(*draw(0, channels=20))])
    ladder.keep(17)
    assert solved == [20]
    ladder.keep(15)
    ladder.keep(20)
    ladder.keep(14)
    assert solved == [20, 17]


def test_ladder_does_not_depend_on_units() -> None:
    x, weights, columns = draw(4)
    expected = selections([regression(x, weights, columns)])
    for inputs, outputs in ((1e-6, 1), (1e3, 1e5)):
        assert selections([regression(inputs * x, outputs * weights, columns)]) == expected


def test_ladder_of_nothing_but_dead_channels() -> None:
    x, weights, columns = draw(0, channels=5)
    for reader in (regression(0 * x, weights, columns), regression(x, 0 * weights, columns)):
        assert [len(kept) for kept in selections([reader])] == [1, 2, 3, 4, 5]
