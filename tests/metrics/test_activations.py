"""Sizes and zeros of what is read, from networks whose activations are known."""

import numpy as np
import torch
from torch import Tensor, nn

import amc
from amc.metrics import METRICS, Evidence, scores_of


class Shifts(nn.Module):
    """Each channel is the image plus a number; two layers read it."""

    def __init__(self, activation: nn.Module, shifts: list[float]) -> None:
        super().__init__()
        self.a, self.act = nn.Conv2d(1, len(shifts), 1), activation
        self.b, self.fc = nn.Conv2d(len(shifts), 2, 1), nn.Linear(len(shifts), 2)
        with torch.no_grad():
            self.a.weight.fill_(1)
            self.a.bias.copy_(torch.tensor(shifts))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.a(x))
        return self.b(x).mean((2, 3)) + self.fc(x.amax((2, 3)))


def evidence_of(model: nn.Module, values: list[list[float]]) -> Evidence:
    """Images of 1 x 4 pixels."""
    images = torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1, 4)
    graph = amc.trace(model, (images[:2],))
    batches = [(images[:1], torch.zeros(1)), (images[1:], torch.zeros(len(images) - 1))]
    return Evidence(graph, model, {}, images=batches)


def test_zeros_are_counted_where_the_channel_is_read() -> None:
    """Pixels 1 2 3 4 and 1 1 1 1 less 0, 1, 2 and 9 behind ReLU.

    The convolution sees 0, 5, 6 and 8 zeros of 8; the linear layer, of the two maxima 0, 1, 1, 2.
    """
    evidence = evidence_of(
        Shifts(nn.ReLU(), [0.0, -1.0, -2.0, -9.0]), [[1, 2, 3, 4], [1, 1, 1, 1]]
    )
    found = scores_of(METRICS["apoz"], evidence, evidence.graph.decisions[0])
    np.testing.assert_allclose(
        found, 1 - (np.array([0, 5, 6, 8]) / 8 + np.array([0, 1, 1, 2]) / 2) / 2
    )


def test_sizes_are_means_of_absolute_values() -> None:
    """Pixels 1 2 3 4 and 1 1 1 1 less 0 and 2: sizes 14/8 and 8/8; of the maxima 5/2 and 3/2."""
    evidence = evidence_of(Shifts(nn.Identity(), [0.0, -2.0]), [[1, 2, 3, 4], [1, 1, 1, 1]])
    found = scores_of(METRICS["activation_mean"], evidence, evidence.graph.decisions[0])
    seen, most = np.array([14, 8]) / 8, np.array([5, 3]) / 2
    np.testing.assert_allclose(found, seen / seen.mean() + most / most.mean())


def test_without_one_zero_the_sizes_stand_in() -> None:
    evidence = evidence_of(Shifts(nn.SiLU(), [0.5, 2.0]), [[1, 2, 3, 4], [1, 1, 1, 1]])
    group = evidence.graph.decisions[0]
    both = [scores_of(METRICS[name], evidence, group) for name in ("apoz", "activation_mean")]
    assert np.array_equal(*both) and both[0] is not None and both[0][0] < both[0][1]
