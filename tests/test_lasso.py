"""The Lasso path against its optimality conditions and against brute force."""

from itertools import combinations

import numpy as np
import pytest

from amc.solve.lasso import RIDGE, LassoPath


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
