"""Times of made-up machines are explained, and the table tells them again."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from amc.graph.arrays import FloatArray, IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.tracing.trace import trace
from amc.measuring.fit import along, fitted, lines
from amc.measuring.samples import samples
from amc.objectives.latency_table import LatencyTable, Setup, rewarded, rewarded_multiple

SETUP = Setup("made up", "3x8x8", "none", "onnxruntime", {}, 1, 1)


def network() -> nn.Sequential:
    """Two groups of 64 and 48 channels."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 48, 3, padding=1), nn.ReLU(),
        nn.Conv2d(48, 4, 1),
    )  # fmt: skip


GRAPH = trace(network(), (torch.zeros(1, 3, 8, 8),))


def up(k: IntArray, block: int) -> IntArray:
    return -(-k // block) * block


def machine(counts: IntArray, block: int) -> FloatArray:
    """Milliseconds by blocks of channels, and a constant."""
    a, b = up(counts, block).T
    found: FloatArray = 0.05 + 1e-3 * a + 2e-4 * a * b + 5e-4 * b
    return found


def drawn(seed: int, number: int = 160, graph: ChannelGraph = GRAPH) -> IntArray:
    return np.array([*samples(graph, number, None, 0.1, seed)])


@pytest.mark.parametrize("block", [1, 8, 16])
def test_a_machine_of_blocks_is_found_out(block: int) -> None:
    counts, unseen = drawn(0), drawn(1)
    fit = fitted(GRAPH, counts, machine(counts, block))
    np.testing.assert_allclose(fit(unseen), machine(unseen, block), rtol=0.02)
    table = LatencyTable(SETUP, fit.constant, fit.tables(), fit.curve, block)
    np.testing.assert_allclose(table.of(GRAPH)(unseen), fit(unseen), rtol=1e-4)
    assert rewarded(fit, GRAPH) == rewarded_multiple(table, GRAPH) == block


def test_noise_and_disturbed_times_move_little() -> None:
    rng = np.random.default_rng(0)
    counts, unseen = drawn(0, 240), drawn(1)
    times = machine(counts, 16) * (1 + 0.02 * rng.standard_normal(len(counts)))
    times[5::13] *= rng.uniform(1.2, 3, len(times[5::13]))
    times[::12] = machine(counts[::12], 16)
    wrong = np.abs(fitted(GRAPH, counts, times)(unseen) / machine(unseen, 16) - 1)
    assert np.median(wrong) < 0.02 and np.quantile(wrong, 0.9) < 0.06


def test_what_depends_on_the_network_as_a_whole_is_in_the_curve() -> None:
    def cached(counts: IntArray) -> FloatArray:
        found = machine(counts, 1)
        return found * np.interp(found, [0.1, 0.3, 0.4, 1], [0.7, 0.75, 1, 1])

    counts, unseen = drawn(0, 400), drawn(1)
    wrong = np.abs(fitted(GRAPH, counts, cached(counts))(unseen) / cached(unseen) - 1)
    assert np.median(wrong) < 0.01 and np.quantile(wrong, 0.95) < 0.1


def test_the_original_network_is_told_exactly() -> None:
    counts = drawn(0)
    times = machine(counts, 8) * np.random.default_rng(0).uniform(1, 1.1, len(counts))
    whole = (counts == [64, 48]).all(axis=1)
    fit = fitted(GRAPH, counts, times)
    assert fit(np.array([[64, 48]]))[0] == pytest.approx(np.median(times[whole]))


def test_layers_that_change_together_share_their_time_by_macs() -> None:
    block = nn.Sequential(nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 3, padding=1))

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.block, self.last = nn.Conv2d(3, 8, 1), block, nn.Conv2d(8, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return self.last(x + self.block(x))

    graph = trace(Residual(), (torch.zeros(1, 3, 8, 8),))
    counts = np.array(samples(graph, 120, 1, 0.1, 0))
    fit = fitted(graph, counts, 1e-3 * counts.prod(axis=1) + 0.01)
    times = {one.name: one.ms[-1][-1] for one in fit.tables()}
    assert times["block.1"] / times["block.0"] == pytest.approx(9, rel=0.05)


@pytest.mark.parametrize(("last", "step"), [(1, 1), (64, 1), (65, 2), (512, 8), (8192, 128)])
def test_lines_are_few_and_end_at_the_last(last: int, step: int) -> None:
    found = lines(last)
    assert found[-1] == last and len(found) <= 70
    assert {b - a for a, b in pairwise(found[5:])} <= {step, last % step}


def test_a_curve_goes_on_in_proportion() -> None:
    curve = ((0.0, 0.0), (1.0, 2.0), (2.0, 3.0))
    np.testing.assert_allclose(along(curve, np.array([0.5, 1.5, 4.0])), [1, 2.5, 6])
