"""Which counts leave a way into the budget, against all strategies there are."""

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import amc
from amc import Budget
from amc.allocators.uniform import uniform
from amc.graph.cost import CostModel, _Products
from amc.models.catalog import build
from amc.objectives.objective import Quadratic
from amc.objectives.reach import Reach


def coarse_costs(rng: np.random.Generator, groups: int) -> CostModel:
    """Costs of a network in which any layer may read and write any groups, some both."""
    layers, none = int(rng.integers(1, 2 * groups + 2)), np.zeros((0, groups))

    def constant() -> np.ndarray:
        return rng.integers(0, 4, layers).astype(float)

    def slices() -> np.ndarray:
        read = rng.random((layers, groups)) < 0.35
        return (rng.integers(1, 5, (layers, groups)) * read).astype(float)

    outside = int(rng.integers(3))
    few = rng.random((outside, groups)) < 0.5
    products = _Products(
        rng.integers(1, 50, outside).astype(float), np.ones(outside), few.astype(float),
        rng.integers(0, 4, outside).astype(float), 2.0 * few,
    )  # fmt: skip
    scale, batch, other = rng.integers(1, 200, layers), rng.integers(1, 4), rng.integers(1000)
    return CostModel(
        scale=scale.astype(float), in0=constant(), in_k=slices(), out0=constant(), out_k=slices(),
        products=products, batch=int(batch), other=int(other),
        tensor_scale=none[:, 0], tensor_a0=none[:, 0],
        tensor_a=none, tensor_b0=none[:, 0], tensor_b=none, other_params=0,
    )  # fmt: skip


def form_of(cost: CostModel) -> Quadratic:
    return Quadratic(*cost.form(), cost.batch, cost.other)


@pytest.mark.parametrize("seed", range(6))
def test_reachable_counts_are_those_of_some_strategy_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nothing_inside = 0
    for _ in range(40):
        groups = int(rng.integers(1, 7))
        cost = coarse_costs(rng, groups)
        options = [np.unique(rng.integers(1, 40, rng.integers(1, 5))) for _ in range(groups)]
        every = np.array(list(itertools.product(*options)))
        macs = cost.macs_of(every)
        target = int(rng.integers(macs.min(), macs.max() + 1))
        floor = int(np.ceil((1 - rng.choice([0, 0.02, 0.05, 0.2])) * target))
        reach = Reach(form_of(cost), options, floor, target)
        if not ((macs >= floor) & (macs <= target)).any():
            nothing_inside += 1
            floor = macs[macs <= target].max()
            assert reach.nearest() == floor
            reach = Reach(form_of(cost), options, floor, target)
        assert reach.nearest() is None
        inside = (macs >= floor) & (macs <= target)
        for _ in range(3):
            decided: list[int] = []
            for t, own in enumerate(options):
                open_ = inside & (every[:, :t] == decided).all(axis=1)
                found = reach.reachable(decided)
                assert found.tolist() == [bool((open_ & (every[:, t] == k)).any()) for k in own]
                decided.append(int(rng.choice(own[found])))
            assert floor <= cost.macs(np.array(decided)) <= target
        assert not reach.unsure
    assert nothing_inside > 5


def test_the_quadratic_form_gives_the_macs() -> None:
    rng = np.random.default_rng(0)
    for name in ("resnet20", "vgg16"):
        graph = traced(name)
        fixed, linear, product = graph.cost.form()
        assert (linear >= 0).all() and (product >= 0).all() and fixed >= 0
        for _ in range(10):
            k = np.array([rng.integers(1, g.size + 1) for g in graph.decisions])
            whole = fixed + linear @ k + k @ product @ k / 2
            assert int(whole) // graph.batch + graph.other_macs == graph.cost.macs(k)


@cache
def traced(name: str) -> amc.ChannelGraph:
    torch.manual_seed(0)
    model = build(name, num_classes=10, in_channels=3).eval()
    return amc.trace(model, (torch.randn(2, 3, 32, 32),))


class Coarse(nn.Module):
    """A stem, some residual blocks, and a chain behind them, all narrow."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        stem, *inner = rng.integers(3, 11, rng.integers(2, 4)).tolist()
        chain = rng.integers(3, 13, rng.integers(1, 3)).tolist()
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(stem, n, 3, padding=1), nn.ReLU(), nn.Conv2d(n, stem, 1))
            for n in inner
        )
        sizes = [stem, *chain]
        self.chain = nn.Sequential(
            *(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(sizes))
        )
        self.head = nn.Linear(sizes[-1], 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(self.chain(x).mean((2, 3)))


def walked(budget: Budget, rng: np.random.Generator) -> list[int]:
    decided: list[int] = []
    kind = rng.integers(3)
    for _ in budget.options:
        action = (rng.random(), float(rng.integers(2)), float(np.clip(rng.normal(0.5, 0.1), 0, 1)))
        decided.append(budget.execute(decided, float(action[kind]))[0])
    return decided


def check_walks(seed: int, ratios: int, walks: int) -> tuple[int, int]:
    """Random walks over a random narrow network; how many, and how many budgets held nothing."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    graph = amc.trace(Coarse(rng).eval(), (torch.randn(1, 3, 8, 8),))
    done = nothing = 0
    for _ in range(ratios):
        multiple, ratio = int(rng.choice([1, 2, 3, 4])), float(rng.uniform(0.2, 0.95))
        try:
            budget = Budget(graph, round(ratio, 3), multiple=multiple)
        except amc.InfeasibleBudgetError:
            continue
        macs = graph.cost.macs_of(np.array(list(itertools.product(*budget.options))))
        floor = int(np.ceil(0.98 * budget.target))
        inside = ((macs >= floor) & (macs <= budget.target)).any()
        if not inside:
            floor, nothing = macs[macs <= budget.target].max(), nothing + 1
        assert bool(budget.shortfall) == (not inside)
        for counts in (*(walked(budget, rng) for _ in range(walks)), uniform(budget).values()):
            counts = np.array(list(counts))
            assert floor <= graph.cost.macs(counts) <= budget.target
            assert budget.complete(counts.tolist()).tolist() == counts.tolist()
            assert all(k in o for k, o in zip(counts, budget.options, strict=True))
            done += 1
        for wished in rng.random((5, len(budget.options))):  # what variations and greedy propose
            counts = budget.rounded(wished[None])[0]
            if graph.cost.macs(counts) <= budget.target:
                assert floor <= graph.cost.macs(budget.complete(counts.tolist())) <= budget.target
        agreed = budget.strategy(walked(budget, rng))
        assert replayed(budget, budget.actions(agreed)) == agreed
    return done, nothing


def replayed(budget: Budget, actions: list[float]) -> dict[str, int]:
    decided: list[int] = []
    for action in actions:
        decided.append(budget.execute(decided, action)[0])
    return budget.strategy(decided)


def test_walks_over_narrow_networks_end_inside_or_at_the_nearest_below() -> None:
    done, nothing = np.sum([check_walks(seed, 5, 8) for seed in range(10)], axis=0)
    assert done > 250 and nothing > 0


@pytest.mark.slow
def test_ten_thousand_walks_over_narrow_networks() -> None:
    done, nothing = np.sum([check_walks(seed, 8, 20) for seed in range(1000, 1085)], axis=0)
    assert done >= 10_000 and nothing > 20


def test_a_strategy_inside_is_found_where_bounds_alone_lead_astray() -> None:
    """Of 4, 5 and 8 channels at 0.41 most walks used to end at three quarters of the target."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Conv2d(5, 8, 3),
        nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip
    graph = amc.trace(model, (torch.randn(1, 3, 8, 8),))
    budget, rng = Budget(graph, 0.41), np.random.default_rng(0)
    macs = graph.cost.macs_of(np.array(list(itertools.product(*budget.options))))
    best = macs[macs <= budget.target].max()
    for _ in range(50):
        got = graph.cost.macs(np.array(walked(budget, rng)))
        assert got >= min(best, np.ceil(0.98 * budget.target)) and got <= budget.target


@pytest.mark.parametrize(
    ("name", "multiple", "ratio"),
    [
        ("resnet20", 4, 0.2),
        ("resnet20", 8, 0.41),
        ("resnet20", 16, 0.6),
        ("vgg16", 32, 0.15),
        ("vgg16", 64, 0.41),
    ],
)
def test_coarse_counts_of_usual_networks_never_end_below(
    name: str, multiple: int, ratio: float
) -> None:
    graph, rng = traced(name), np.random.default_rng(multiple)
    budget = Budget(graph, ratio, multiple=multiple, min_ratio=0.05)
    assert not budget.shortfall
    for _ in range(5):
        assert budget.floor <= graph.cost.macs(np.array(walked(budget, rng))) <= budget.target
    assert not budget._reached.unsure
