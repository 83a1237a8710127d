"""Estimates of how the loss changes, against how it does change, and against autograd by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from amc.graph.groups import ChannelGroup
from amc.graph.shrink import duplicate, tensors
from amc.metrics import IN_UNITS_OF_LOSS, METRICS, Evidence, scores_of
from amc.metrics.members import read, weights


class Residual(nn.Module):
    """Coupled groups: writers, a depthwise layer, batch norms, three readers, and a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.inner, self.outer = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 6, 1)
        self.depth, self.same = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 6, 1)
        self.hidden, self.fc = nn.Linear(6 * 9, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.outer(self.inner(x).relu())
        x = (x + self.same(self.depth(x).relu())).relu()
        return self.fc(self.hidden(F.adaptive_avg_pool2d(x, 3).flatten(1)).relu())


class Products(nn.Module):
    """Channels of two layers that only a product of activations reads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1)
        self.v, self.fc = nn.Conv2d(1, 5, 1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).flatten(2) for layer in (self.q, self.k, self.v))
        return self.fc((v @ (q.mT @ k)).mean(2))


def images() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    every = torch.randn(9, 1, 6, 6, generator=generator).double()
    return [(every[:5], torch.arange(5) % 3), (every[5:], torch.arange(4) % 3)]


def prepared(kind: type[nn.Module]) -> Evidence:
    """In double precision, so that differences of losses are exact."""
    torch.manual_seed(0)
    model = kind().eval()
    graph = amc.trace(model, (images()[0][0].float(),))
    return Evidence(graph, model.double(), {}, images=images())


def losses(model: nn.Module) -> Tensor:
    """Of every image."""
    with torch.no_grad():
        every = [F.cross_entropy(model(x), y, reduction="none") for x, y in images()]
        return torch.cat(every)


def scaled(evidence: Evidence, group: ChannelGroup, channel: int, factor: float) -> nn.Module:
    """The network in which all that reads one channel has its weights multiplied."""
    model = duplicate(evidence.model)
    state = tensors(model)
    with torch.no_grad():
        for member in read(evidence.graph, group):
            where = torch.from_numpy(member.index[channel])
            rows = state[member.tensor].movedim(member.dim, 0)
            rows[where] = rows[where] * factor
    return model


def changes(evidence: Evidence, group: ChannelGroup, cut: float) -> Tensor:
    """How the loss of every image changes with a small cut of each channel, [size, N]."""
    ends = [
        [losses(scaled(evidence, group, c, 1 + sign * cut)) for sign in (-1, 1)]
        for c in range(group.size)
    ]
    return torch.stack([(less - more) / (2 * cut) for less, more in ends])


@pytest.fixture(scope="module")
def residual() -> Evidence:
    return prepared(Residual)


def test_the_signed_form_is_the_change_of_the_loss_for_a_small_cut(residual: Evidence) -> None:
    for group in residual.graph.decisions:
        expected = changes(residual, group, 1e-6).mean(1).abs().numpy()
        found = scores_of(METRICS["taylor_signed"], residual, group)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)


def test_fisher_is_half_the_mean_square_of_the_changes_of_single_images(
    residual: Evidence,
) -> None:
    for group in residual.graph.decisions:
        expected = changes(residual, group, 1e-6).square().mean(1).numpy() / 2
        found = scores_of(METRICS["fisher"], residual, group)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-10)


def test_removing_a_channel_is_zero_for_all_that_reads_it(residual: Evidence) -> None:
    """What the estimates estimate: the loss of the network without the channel."""
    graph = residual.graph
    for group in graph.decisions:
        keep = list(range(1, group.size))
        smaller = amc.shrink(residual.model, graph.plan({group.name: keep}))
        zeroed = scaled(residual, group, 0, 0.0)
        torch.testing.assert_close(losses(smaller), losses(zeroed))


def by_hand(evidence: Evidence) -> dict[str, Tensor]:
    """Gradients of the mean loss."""
    model = duplicate(evidence.model)
    found = [F.cross_entropy(model(x).float(), y, reduction="sum") for x, y in images()]
    (sum(found) / 9).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_absolute_forms_add_up_entries_of_rows_and_columns(residual: Evidence) -> None:
    gradients, model = by_hand(residual), residual.model
    (group,) = (g for g in residual.graph.decisions if g.name == "inner")
    w, g = model.inner.weight.detach(), gradients["inner.weight"]
    v, h = model.outer.weight.detach(), gradients["outer.weight"]
    taylor = (w * g).abs().sum((1, 2, 3)) + (v * h).abs().sum((0, 2, 3))
    found = scores_of(METRICS["taylor"], residual, group)
    np.testing.assert_allclose(found, taylor.numpy(), rtol=1e-5)
    rows, columns = g.abs().sum((1, 2, 3)), h.abs().sum((0, 2, 3))
    found = scores_of(METRICS["gradient"], residual, group)
    np.testing.assert_allclose(found, rows / rows.mean() + columns / columns.mean(), rtol=1e-5)


def test_all_weights_of_a_coupled_group_count(residual: Evidence) -> None:
    (group,) = (g for g in residual.graph.decisions if g.name == "stem")
    places = {(m.tensor, m.dim) for m in weights(residual.graph, group)}
    written = {("stem.weight", 0), ("outer.weight", 0), ("depth.weight", 0), ("same.weight", 0)}
    columns = {("inner.weight", 1), ("same.weight", 1), ("hidden.weight", 1)}
    assert places == written | columns
    assert {(m.tensor, m.dim) for m in read(residual.graph, group)} == columns
    gradients, state = by_hand(residual), tensors(residual.model)
    expected = np.zeros(6)
    for name, dim in places:
        product = (state[name].detach() * gradients[name]).movedim(dim, 0).abs()
        expected += product.reshape(6, -1).sum(1).numpy()
    found = scores_of(METRICS["taylor"], residual, group)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_channels_that_only_a_product_reads_are_judged_by_their_rows() -> None:
    evidence = prepared(Products)
    gradients, model = by_hand(evidence), evidence.model
    (group,) = (g for g in evidence.graph.decisions if g.name == "q")
    assert not read(evidence.graph, group)
    change = sum(
        (getattr(model, name).weight * gradients[f"{name}.weight"]).sum((1, 2, 3)) for name in "qk"
    )
    found = scores_of(METRICS["taylor_signed"], evidence, group)
    np.testing.assert_allclose(found, abs(change.detach().numpy()), rtol=1e-5)
    assert (scores_of(METRICS["fisher"], evidence, group) > 0).all()


def test_a_loss_that_is_scaled_scales_its_estimates_only(residual: Evidence) -> None:
    """Which metrics are in units of the loss, and how: fisher with its square."""

    def tenfold(outputs: Tensor, targets: Tensor) -> Tensor:
        return 10 * F.cross_entropy(outputs.float(), targets)

    task = amc.Task("x", loss=tenfold, score=lambda results: 0.0)
    louder = Evidence(residual.graph, residual.model, {}, images=images(), task=task)
    group = residual.graph.decisions[0]
    powers = {"taylor": 1, "taylor_signed": 1, "fisher": 2, "gradient": 0}
    for name, power in powers.items():
        one, ten = (scores_of(METRICS[name], e, group) for e in (residual, louder))
        np.testing.assert_allclose(ten, 10**power * one, rtol=1e-4)
    assert set(powers) - {"gradient"} == IN_UNITS_OF_LOSS
