"""All metrics on all kinds of networks: finite, and no matter how channels are numbered."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import amc
import drawn_networks
from amc.graph.attributes import is_attribute
from amc.graph.groups import ChannelGroup
from amc.graph.shrink import duplicate, tensors
from amc.metrics import METRICS, Evidence, scores_of, selection_of
from amc.metrics.metric import Images
from amc.runtime.errors import AmcError
from amc.tasks.task import Task
from drawn_networks import Case, shaken
from published_blocks import BLOCKS
from strict_device import reachable

CASES = {
    name: make
    for name, make in vars(drawn_networks).items()
    if inspect.isfunction(make) and make.__annotations__.get("return") is Case
}
SCORED = [name for name in METRICS if name not in ("lasso", "obs")]
FOLLOWS = [name for name in SCORED if name != "random"]
TASK = Task("x", loss=lambda y, t: (y - t).square().mean(), score=lambda results: 0.0)


def evidence_of(model: nn.Module, inputs: tuple[Any, ...], graph: amc.ChannelGraph) -> Evidence:
    with torch.no_grad():
        found = model.eval()(*inputs)
    first = next(x for x in tree_leaves(found) if isinstance(x, Tensor))
    target = torch.randn(first.shape, generator=torch.Generator().manual_seed(1))
    images: Images = [(inputs[0] if len(inputs) == 1 else inputs, target)]
    return Evidence(graph, model, {}, images=images, task=TASK)


@pytest.mark.parametrize("name", BLOCKS)
def test_scores_are_finite_on_published_blocks(name: str) -> None:
    torch.manual_seed(0)
    model, x = BLOCKS[name][0](), torch.randn(2, 3, 16, 16)
    evidence = evidence_of(model, (x,), amc.trace(model, (x,)))
    for group in evidence.graph.decisions:
        for metric in SCORED:
            found = scores_of(METRICS[metric], evidence, group)
            assert found is not None and found.shape == (group.size,), metric
            assert found.dtype == np.float64 and np.isfinite(found).all(), metric
            assert metric == "movement" or (found >= 0).all(), metric
            kept = selection_of(METRICS[metric], evidence, group)(group.size - 1)
            assert len(set(kept.tolist())) == group.size - 1


def renumbered(model: nn.Module, group: ChannelGroup, order: np.ndarray) -> nn.Module:
    """The same network, whose channel i was channel ``order[i]``."""
    other = duplicate(model)
    state = tensors(other)
    with torch.no_grad():
        for member in group.members:
            if not is_attribute(member.tensor):
                rows = state[member.tensor].movedim(member.dim, 0)
                rows[torch.from_numpy(member.index)] = rows[torch.from_numpy(member.index[order])]
    return other


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_scores_follow_the_channels(make: Callable[[], Case]) -> None:
    torch.manual_seed(0)
    case = make()
    graph = amc.trace(shaken(case.model), case.inputs)
    evidence = evidence_of(case.model, case.inputs, graph)
    for group in graph.decisions:
        order = np.random.default_rng(0).permutation(group.size)
        model = renumbered(case.model, group, order)
        other = Evidence(graph, model, {}, images=evidence.images, task=TASK)
        for metric in FOLLOWS:
            try:
                before = scores_of(METRICS[metric], evidence, group)
                after = scores_of(METRICS[metric], other, group)
            except AmcError as error:
                assert make.__name__ == "inferred_size", error  # it takes no batch but of two
                continue
            assert before is not None and after is not None
            scale = max(abs(before).max(), 1e-6)
            np.testing.assert_allclose(
                after / scale, before[order] / scale, rtol=1e-3, atol=1e-4, err_msg=metric
            )


def test_nothing_is_computed_that_is_not_asked_for() -> None:
    """Lasso, obs, norms and scales go through no images."""

    class Untouchable(list[Any]):
        def __iter__(self) -> Any:
            raise AssertionError("the images were gone through")

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    graph = amc.trace(model, (torch.zeros(2, 1, 8, 8),))
    evidence = Evidence(graph, model, {}, images=Untouchable([(torch.zeros(2), torch.zeros(2))]))
    for name in ("lasso", "obs", "l1", "l2", "geometric_median", "bn_scale", "random"):
        assert len(selection_of(METRICS[name], evidence, graph.decisions[0])(2)) == 2
    for name in set(METRICS) - {
        "lasso",
        "obs",
        "l1",
        "l2",
        "geometric_median",
        "bn_scale",
        "random",
    }:
        with pytest.raises(AssertionError, match="the images were gone through"):
            scores_of(METRICS[name], evidence, graph.decisions[0])
        with pytest.raises(AmcError, match="this metric needs images"):
            scores_of(METRICS[name], Evidence(graph, model, {}), graph.decisions[0])


def test_passes_over_the_images_are_made_once() -> None:
    class Counting(list[Any]):
        passes = 0

        def __iter__(self) -> Any:
            self.passes += 1
            return super().__iter__()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 2, 3))
    graph = amc.trace(model, (torch.zeros(2, 1, 8, 8),))
    for metric in ("taylor", "fisher", "apoz", "movement"):
        images = Counting([(torch.randn(2, 1, 8, 8), torch.zeros(2, 2, 2, 2))])
        evidence = Evidence(graph, model, {}, images=images, task=TASK)
        for group in graph.decisions:
            scores_of(METRICS[metric], evidence, group)
        assert images.passes == 1, metric


def test_scores_elsewhere_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device whose tensors meet no others."""

    def scores(device: str) -> dict[str, np.ndarray]:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=2),
            nn.ReLU(), nn.ConvTranspose2d(6, 4, 2), nn.Flatten(), nn.Linear(4 * 25, 3),
        )  # fmt: skip
        images = [(torch.randn(3, 1, 8, 8), torch.arange(3)) for _ in range(2)]
        graph = amc.trace(model, (images[0][0],))
        evidence = Evidence(graph, model.to(device), {}, images=images)
        return {
            f"{metric} {group.name}": np.asarray(METRICS[metric](evidence, group))
            for metric in SCORED
            for group in graph.decisions
        }

    expected = scores("cpu")
    with reachable(monkeypatch):
        found = scores("lazy")
    for name, one in expected.items():
        np.testing.assert_allclose(found[name], one, rtol=1e-6, err_msg=name)


def test_movement_that_is_given_is_used() -> None:
    """Entries of rows that write a channel and columns that read it, added up."""
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    graph = amc.trace(model, (torch.ones(2, 2),))
    moved = {
        "0.weight": torch.tensor([[1.0, 2.0], [-3.0, 0.0], [0.5, 0.5]]),
        "2.weight": torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, -2.0]]),
    }
    evidence = Evidence(graph, model, {}, movement=moved)
    found = scores_of(METRICS["movement"], evidence, graph.decisions[0])
    assert found is not None and found.tolist() == [4.0, -1.0, -1.0]
