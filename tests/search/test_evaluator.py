"""What a strategy is worth: the cut network, adapted, tuned, validated."""

import copy
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence

import amc
from amc.calibration.calibrate import calibrate
from amc.calibration.statistics import Sampling
from amc.graph.plan import Strategy
from amc.metrics import METRICS, Evidence, selection_of
from amc.reconstruction.compressor import Compressor
from amc.search.evaluator import evaluator
from amc.tasks.evaluate import TEMPERATURE, evaluate, reference_outputs
from amc.training.short_training import ShortTraining
from small_problems import (
    calibrated,
    macs,
)


def test_proxy_validates_the_cut_network_once_per_strategy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, graph, compressor, batches = calibrated()
    worth, cuts = evaluator(compressor, batches), list[Strategy]()
    whole = worth({})
    assert whole.score.accuracy == 1.0  # the labels are the original's predictions
    assert whole.score.divergence == pytest.approx(0, abs=1e-6)
    assert (whole.macs, whole.params) == (graph.macs(), graph.total_params)
    strategy = {"a": 4, "b": 3, "f": 5}
    found = worth(strategy)
    cut = compressor.cut(strategy)
    assert found.score == evaluate(cut, batches, reference=reference_outputs(model, batches))
    assert found.score.divergence > 100 * abs(whole.score.divergence)
    assert found.params == sum(p.numel() for p in cut.parameters())
    assert found.macs == macs(4, 3, 5)
    monkeypatch.setattr(compressor, "view", cuts.append)
    assert worth(strategy) is found
    assert worth(dict(graph.sizes)) is whole
    assert cuts == []


class Normed(nn.Module):
    """Batch norm, whose statistics change with the cut, and dropout, which draws when trained."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.b, self.drop = nn.Conv2d(8, 6, 3), nn.Dropout(0.3)
        self.g = nn.Linear(6 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.norm(self.a(x)))))
        return self.g(self.drop(x.flatten(1)))


@cache
def normed() -> tuple[nn.Module, Compressor, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    model = Normed().eval()
    graph = amc.trace(model, (torch.randn(2, 3, 8, 6),))
    images = torch.randn(64, 3, 8, 6)
    with torch.no_grad():
        batches = [(x, model(x).argmax(dim=1)) for x in images.split(32)]
    stats = calibrate(graph, model, batches, Sampling(0))
    return (
        model,
        Compressor(
            graph,
            model,
            stats,
            partial(selection_of, METRICS["lasso"], Evidence(graph, model, stats)),
        ),
        batches,
    )


@torch.no_grad()
def divergence_of(model: nn.Module, original: nn.Module, x: Tensor) -> Tensor:
    """From what the original says about each image, by torch's distributions."""
    ours, reference = (
        Categorical(logits=net(x).double() / TEMPERATURE) for net in (model, original)
    )
    return kl_divergence(reference, ours)


def normalised_by_hand(
    model: nn.Module, original: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> tuple[float, float]:
    """Loss and divergence with mean and variance of each batch in place of the running ones.

    The original network keeps its own.
    """
    total, apart, images = 0.0, 0.0, 0
    for x, y in batches:
        with torch.no_grad():
            mapped = model.a(x)
            mean, variance = mapped.mean((0, 2, 3)), mapped.var((0, 2, 3), unbiased=False)
            model.norm.running_mean, model.norm.running_var = mean, variance
            total += float(F.cross_entropy(model(x), y, reduction="sum"))
        apart += float(divergence_of(model, original, x).sum())
        images += len(y)
    return total / images, apart / images


@pytest.mark.parametrize("strategy", [{}, {"a": 3}, {"a": 5, "b": 2}])
def test_proxy_adapts_batch_norm_to_the_validation_images(strategy: Strategy) -> None:
    model, compressor, batches = normed()
    adapted, plain = evaluator(compressor, batches), evaluator(compressor, batches, adapt=False)
    reference, score = reference_outputs(model, batches), adapted(strategy).score
    assert plain(strategy).score == evaluate(
        compressor.cut(strategy), batches, reference=reference
    )
    loss, divergence = normalised_by_hand(compressor.cut(strategy), model, batches)
    assert score.loss == pytest.approx(loss, rel=1e-5)
    assert score.divergence == pytest.approx(divergence, rel=1e-3, abs=1e-7)
    assert adapted(strategy).score != plain(strategy).score


def test_quick_tuning_is_worth_something_and_repeats_whatever_was_tried_before() -> None:
    model, compressor, batches = normed()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    strategies: list[Strategy] = [{"a": 4}, {"b": 3}, {"a": 2, "b": 5}]
    quick = ShortTraining(batches * 10, (), learning_rate=0.02)
    worth = evaluator(compressor, batches, quick=quick)
    found = {i: worth(s) for i, s in enumerate(strategies)}
    torch.rand(5)  # resumed searches and workers come with other states of the generator
    again = evaluator(compressor, batches, quick=quick)
    for i in (2, 0, 1):
        assert again(strategies[i]) == found[i]
    reference = reference_outputs(model, batches)
    for i, strategy in enumerate(strategies):
        assert found[i].score.loss < evaluator(compressor, batches)(strategy).score.loss
        small = compressor.cut(strategy)
        assert found[i].score == quick.tuned(small, batches, reference)
        assert found[i].score == evaluate(small, batches, True, reference)
        assert found[i].score != evaluate(compressor.cut(strategy), batches, True, reference)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_quick_tuning_holds_the_gradients() -> None:
    """Held to next to nothing, the weights only decay; norms and biases move."""
    before, _, batches = normed()
    model = copy.deepcopy(before)
    ShortTraining(batches, (), clip=1e-9).tuned(model, batches)
    moved = {
        name: not torch.allclose(a, b, rtol=1e-2, atol=0)
        for (name, a), b in zip(before.named_parameters(), model.parameters(), strict=True)
    }
    held = {name: p.ndim > 1 for name, p in before.named_parameters()}
    assert any(moved.values()) and not any(moved[n] and held[n] for n in moved)


def test_quick_tuning_leaves_the_global_generator_alone() -> None:
    _, compressor, batches = normed()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    evaluator(compressor, batches, quick=ShortTraining(batches, ()))({"a": 4})
    assert torch.equal(before, torch.random.get_rng_state())
