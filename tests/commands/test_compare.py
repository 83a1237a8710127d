"""The comparison of methods, and what it is made of: sensitivity, greedy, standings."""

import itertools
import json
import shutil
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from amc.allocators.by_density import by_density
from amc.allocators.uniform import uniform
from amc.calibration.calibrate import calibrate
from amc.calibration.statistics import Sampling
from amc.compare import run
from amc.config.command_line import parse
from amc.config.compare import CompareConfig
from amc.config.train import TrainConfig
from amc.metrics import METRICS, Evidence, selection_of
from amc.models.catalog import build
from amc.objectives.budget import Budget
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.sensitivity import sensitivity
from amc.reporting.comparison import Attempt, draw_comparison, verdicts
from amc.runtime.errors import AmcError
from amc.search.search import METHODS
from amc.studies.contest import AT_ONCE

# --- greedy


@lru_cache
def chain(*sizes: int) -> amc.ChannelGraph:
    ends = zip([2, *sizes], [*sizes, 3], strict=True)
    layers = (nn.Conv2d(a, b, 3, padding=1) for a, b in ends)
    return amc.trace(nn.Sequential(*layers), (torch.zeros(1, 2, 4, 4),))


def problem(seed: int, convex: bool, **settings: float) -> tuple[Budget, dict[str, np.ndarray]]:
    """A small network, a budget, and errors that fall with every channel."""
    rng = np.random.default_rng(seed)
    graph = chain(*[(4, 9), (7, 5), (9, 4, 6), (5, 8, 7)][seed % 4])
    budget = Budget(graph, round(float(rng.uniform(0.3, 0.9)), 2), **settings)
    errors = {}
    for group, options in zip(graph.decisions, budget.options, strict=True):
        gains = rng.exponential(rng.uniform(0.3, 3), group.size)
        gains = np.sort(gains)[::-1] if convex else gains
        errors[group.name] = np.append(np.cumsum(gains[::-1])[::-1], 0)[options]
    return budget, errors


def total(budget: Budget, errors: dict[str, np.ndarray], strategy: dict[str, int]) -> float:
    pairs = zip(strategy.items(), budget.options, strict=True)
    return sum(float(errors[name][options == k][0]) for (name, k), options in pairs)


def assert_meets(budget: Budget, strategy: dict[str, int]) -> None:
    """Never above the target; within the tolerance, or one more step of any group is too much."""
    counts = budget.graph.counts(strategy)
    assert all(k in options for k, options in zip(counts, budget.options, strict=True))
    assert budget.graph.cost.macs(counts) <= budget.target
    if budget.graph.cost.macs(counts) < budget.floor:
        for t, options in enumerate(budget.options):
            for larger in options[options > counts[t]][:1]:
                wider = counts.copy()
                wider[t] = larger
                assert budget.graph.cost.macs(wider) > budget.target


@pytest.mark.parametrize("convex", [True, False])
def test_greedy_is_close_to_the_best_of_all_strategies(convex: bool) -> None:
    ratios = []
    for seed in range(25):
        budget, errors = problem(seed, convex)
        found = by_density(budget, errors)
        assert_meets(budget, found)
        every = np.array(list(itertools.product(*budget.options)))
        sums = np.array([sum(each) for each in itertools.product(*errors.values())])
        macs = budget.graph.cost.macs_of(every)
        least = sums[(macs >= budget.floor) & (macs <= budget.target)].min()
        ratios.append(total(budget, errors, found) / least)
        assert total(budget, errors, found) <= total(budget, errors, uniform(budget))
    assert np.mean(ratios) < (1.03 if convex else 1.1)


@pytest.mark.parametrize("settings", [{"multiple": 4}, {"min_ratio": 0.5}, {"tolerance": 1.0}])
def test_greedy_meets_every_budget(settings: dict[str, float]) -> None:
    met = 0
    for seed in range(20):
        try:
            budget, errors = problem(seed, convex=False, **settings)
        except AmcError:  # the ratio cannot be reached with these steps
            continue
        assert_meets(budget, by_density(budget, errors))
        met += 1
    assert met >= 5


def test_what_is_not_missed_goes_first() -> None:
    graph = chain(6, 6)
    budget = Budget(graph, 0.5)
    free, dear = (g.name for g in graph.decisions)
    sizes = dict(zip((free, dear), budget.options, strict=True))
    found = by_density(budget, {free: 0 * sizes[free], dear: 6.0 - sizes[dear]})
    # nothing lies within 2 % of the target; of what is nearest below, (3, 4) and (6, 2)
    assert (found[free], found[dear]) == (3, 4)
    assert by_density(Budget(graph, 1.0), {n: 6.0 - k for n, k in sizes.items()}) == graph.sizes


# --- sensitivity


class Small(nn.Module):
    """A group with two readers, one of them behind a flatten; a group with one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 7, 3, padding=1), nn.Conv2d(7, 7, 3, padding=1)
        self.c, self.fc = nn.Conv2d(7, 20, 1), nn.Linear(20 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = F.relu(x + self.b(x))
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.c(x)), 2).flatten(1))


IMAGES = torch.randn(200, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def prepared(selector: str = "lasso") -> tuple[nn.Module, Compressor]:
    torch.manual_seed(0)
    model = Small().eval()
    graph = amc.trace(model, (IMAGES[:2],))
    stats = calibrate(graph, model, [(IMAGES, torch.zeros(200))], Sampling(0))
    return model, Compressor(
        graph,
        model,
        stats,
        partial(selection_of, METRICS[selector], Evidence(graph, model, stats)),
    )


@torch.no_grad()
def rows(model: nn.Module, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [R, C, kernel] and outputs without bias [R, N] of a layer, seen by a hook."""
    seen = []
    layer = dict(model.named_modules())[name]
    hook = layer.register_forward_hook(lambda _, x, y: seen.extend([x[0], y]))
    model(IMAGES)
    hook.remove()
    x, y = seen[0].double(), (seen[1].transpose(1, -1) - layer.bias).double()
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, 20, 4).numpy(), y.transpose(1, -1).numpy()
    x = F.unfold(x.mT, layer.kernel_size, padding=layer.padding)  # as y: height last
    x = x.mT.reshape(-1, layer.in_channels, layer.weight[0, 0].numel())
    return x.numpy(), y.reshape(-1, layer.out_channels).numpy()


def lost(x: np.ndarray, y: np.ndarray, keep: np.ndarray) -> float:
    """The part of the outputs that the kept inputs cannot explain."""
    kept = x[:, keep].reshape(len(x), -1)
    solution = np.linalg.lstsq(kept, y, rcond=None)[0]
    return float(((y - kept @ solution) ** 2).sum() / (y**2).sum())


@pytest.mark.parametrize("selector", ["obs", "l2", "random", "lasso"])
def test_sensitivity_is_the_error_of_the_refitted_readers(selector: str) -> None:
    model, compressor = prepared(selector)
    budget = Budget(compressor.graph, 0.5)
    found = sensitivity(compressor, budget)
    assert list(found) == [group.name for group in compressor.graph.decisions]
    compared = 0
    for group, options in zip(compressor.graph.decisions, budget.options, strict=True):
        assert set(group.readers) == ({"fc"} if group.name == "c" else {"b", "c"})
        kept = [compressor.keep(group.name, int(k)) for k in options]
        stays = np.bincount(np.concatenate(kept), minlength=group.size)
        for position, keep in enumerate(kept):
            if set(keep) != set(np.argsort(-stays, kind="stable")[: len(keep)]):
                assert selector == "lasso"  # the others are nested
                continue
            expected = sum(lost(*rows(model, reader), keep) for reader in group.readers)
            assert found[group.name][position] == pytest.approx(expected, rel=1e-3, abs=1e-5)
            compared += 1
        assert len(found[group.name]) == len(options)
        assert found[group.name][0] > 1e-3
        assert found[group.name][-1] < 1e-5  # all channels
        assert (np.diff(found[group.name]) <= 0).all()
    assert compared > 20


def test_without_statistics_the_error_is_the_part_that_goes() -> None:
    model, compressor = prepared()
    blind = Compressor(compressor.graph, model, {}, compressor._select)
    budget = Budget(compressor.graph, 0.5)
    for name, options in zip(blind.graph.sizes, budget.options, strict=True):
        expected = 1 - options / blind.graph.sizes[name]
        np.testing.assert_allclose(sensitivity(blind, budget)[name], expected)


# --- standings


def attempts(method: str, *best: float, cut: float = 0.0) -> list[Attempt]:
    made = []
    for seed, reward in enumerate(best):
        rewards = (0.0, 0.1, reward, 0.2)
        splits = {"validation": cut, "test": cut} if cut else {}
        made.append(Attempt(method, seed, rewards, {"a": 1}, 10, 0.9, 1.0, splits))
    return made


def test_verdicts_are_plain() -> None:
    standings = {
        "ddpg": attempts("ddpg", 0.5, 0.6, 0.7),
        "td3": attempts("td3", 0.4, 0.4, 0.4),
        "sac": attempts("sac", 0.9, 0.9, 0.9),
        "evolution": attempts("evolution", 0.3, 0.7, 0.5),
        "random": attempts("random", 0.9, 0.9, 0.3),
        "greedy": attempts("greedy", 0.55),
        "again": attempts("again", 0.5, 0.6, 0.7),
    }
    assert verdicts(standings) == [
        "ddpg beats td3 by 0.2 (better in 3 of 3 seeds)",
        "ddpg loses to sac by 0.3 (better in 0 of 3 seeds)",
        "ddpg is ahead of evolution by 0.1 on average (better in 2 of 3 seeds)",
        "ddpg is behind random by 0.1 on average (better in 1 of 3 seeds)",
        "ddpg is ahead of greedy by 0.05 on average (better in 2 of 3 seeds)",
        "ddpg equals again",
    ]
    cut = {"a": attempts("a", 0.5, cut=0.91), "b": attempts("b", 0.25, cut=0.9)}
    assert verdicts(cut) == [
        "a beats b by 0.25 (better in 1 of 1 seeds); test accuracy after the cut +1.00 points"
    ]
    assert verdicts({"ddpg": attempts("ddpg", 1.0)}) == []


def test_no_verdict_on_agents_that_have_not_learned() -> None:
    ddpg, td3, other = attempts("ddpg", 0.5, 0.6), attempts("td3", 0.1, 0.1), attempts("b", 0.4)
    idle = [replace(attempt, trainings=0) for attempt in ddpg]
    assert verdicts({"ddpg": idle, "td3": [replace(a, trainings=3) for a in td3], "b": other}) == [
        "no verdict on ddpg and td3: ddpg has not learned, all of the 4 evaluations were warm-up",
        "no verdict on ddpg and b: ddpg has not learned, all of the 4 evaluations were warm-up",
    ]
    both = verdicts({"ddpg": idle, "td3": [replace(a, trainings=0) for a in td3]})
    assert both[0].startswith("no verdict on ddpg and td3: ddpg and td3 have not learned, ")
    (said,) = verdicts({"b": other, "td3": [replace(a, trainings=1) for a in td3]})
    assert said.startswith("b beats td3 by 0.2 ")


def test_best_so_far_is_drawn(tmp_path: Path) -> None:
    one = attempts("a", 0.5, 0.7)
    assert (one[0].best_after(0.25), one[0].best_after(0.5), one[0].best) == (0.0, 0.1, 0.5)
    standings = {"ours": one, "at once": [Attempt("b", 0, (0.3,), {"a": 1}, 10, 0.9, 0.0)]}
    for name in ("a.svg", "b.svg"):
        draw_comparison(standings, tmp_path / name, "title")
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn == (tmp_path / "b.svg").read_text()
    for text in ("ours", "at once", "title", "evaluations"):
        assert f">{text}<" in drawn


# --- end to end

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(in_channels, 8, 3, stride=4), nn.BatchNorm2d(8)
        self.a, self.b = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = (x + self.b(self.a(x).relu())).relu()
        return self.fc(x.mean((2, 3)))

def net(num_classes, in_channels):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net(num_classes, in_channels)
"""

SMALL = dict(
    preserve_ratio=0.4, episodes=6, warmup_episodes=2, seeds=2, calibration_batches=3,
    reward_images=60, device="cpu", quiet=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network of the user's own, small enough to be compared in seconds."""
    path = tmp_path_factory.mktemp("network") / "net.py"
    path.write_text(NETWORK)
    return f"{path}:net"


@pytest.fixture(scope="module")
def finished(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare") / "all"
    return run(CompareConfig.of(model=model, run_dir=folder, **SMALL))


def numbers(folder: Path) -> dict:
    """All that is measured but the times."""
    content = json.loads((folder / "compare.json").read_text())
    return {k: v for k, v in content.items() if k not in ("seconds", "settings")}


def test_every_method_may_evaluate_equally_often(finished: Path) -> None:
    by_method: dict[str, list[dict]] = {}
    for attempt in numbers(finished)["attempts"]:
        by_method.setdefault(attempt["method"], []).append(attempt)
    assert list(by_method) == list(CompareConfig.of().methods)
    for method, found in by_method.items():
        assert [a["seed"] for a in found] == ([0] if method in AT_ONCE else [0, 1])
        for attempt in found:
            evaluations = 1 if method in AT_ONCE else 6
            assert attempt["evaluations"] == len(attempt["rewards"]) == evaluations
            record = (finished / f"{method}-{attempt['seed']}.jsonl").read_text().splitlines()
            assert len(record) == evaluations + 1
            assert set(attempt["cut"]) == {"validation", "test"}
    searches = set(METHODS) & by_method.keys()
    first = {attempt["rewards"][0] for m in searches for attempt in by_method[m]}
    assert first == {by_method["uniform"][0]["rewards"][0]}  # all of them begin there


def test_the_figures_are_those_of_the_strategies(finished: Path, model: str) -> None:
    content = json.loads((finished / "compare.json").read_text())
    original = content["original"]["macs"]
    graph = amc.trace(build(model, num_classes=10, in_channels=1), (torch.zeros(2, 1, 8, 8),))
    assert set(content["seconds"]) == {f"{a['method']}-{a['seed']}" for a in content["attempts"]}
    for attempt in content["attempts"]:
        assert attempt["macs"] <= 0.4 * original
        assert graph.sizes.keys() == attempt["strategy"].keys()
    assert len(content["verdicts"]) == len(CompareConfig.of().methods) - 1


def test_the_same_command_goes_on_and_shows_the_standings(
    finished: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One search was killed while it wrote, another had not begun, a third had not been cut."""
    folder = tmp_path / "killed"
    shutil.copytree(finished, folder)
    record = folder / "ddpg-1.jsonl"
    record.write_text("\n".join(record.read_text().splitlines()[:4]) + '\n{"episode": 3, "rew')
    cut = json.loads((folder / "random-1.json").read_text())
    cut["attempt"]["cut"] = {}
    (folder / "random-1.json").write_text(json.dumps(cut))
    for name in ("ddpg-1.json", "sac-0.json", "sac-0.jsonl", "compare.json", "compare.svg"):
        (folder / name).unlink()
    settings = {**SMALL, "quiet": False}
    assert run(CompareConfig.of(model=model, run_dir=folder, **settings)) == folder
    assert numbers(folder) == numbers(finished)
    assert (folder / "compare.svg").read_bytes() == (finished / "compare.svg").read_bytes()

    shown = capsys.readouterr().out
    assert "evaluations are on record" in shown
    for method in CompareConfig.of().methods:
        assert any(line.split()[:1] == [method] and "%" in line for line in shown.splitlines())
    for verdict in numbers(folder)["verdicts"]:
        assert verdict in shown


def test_some_methods_without_the_cut(model: str, tmp_path: Path) -> None:
    settings = dict(methods=("random", "uniform", "random"), apply=False, seeds=1)
    folder = run(CompareConfig.of(model=model, run_dir=tmp_path / "r", **SMALL | settings))
    found = numbers(folder)["attempts"]
    assert [a["method"] for a in found] == ["random", "uniform"]
    assert not any(a["cut"] for a in found)


def test_a_record_of_other_settings_is_refused(finished: Path, model: str, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "r")
    settings = {**SMALL, "episodes": 7, "methods": ("random",)}
    with pytest.raises(AmcError, match="episodes was 6, is 7"):
        run(CompareConfig.of(model=model, run_dir=tmp_path / "r", **settings))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--methods", "ddpg", "magic"], "'magic' is unknown; allowed: ddpg, td3, sac, screened"),
        (["--methods"], "none given"),
        (["--seeds", "0"], "--seeds must be 1 or more"),
        (["--preserve-ratio", "2"], "(0, 1]"),
        (["--preserve-ratio", "0.001"], "nearest feasible value is"),
        (["--episodes", "0"], "--episodes must be 1 or more"),
        (["--reward", "fame"], "accuracy_flops"),
        (["--metric", "best"], "best"),
    ],
)
def test_bad_arguments_end_in_one_line(
    arguments: list[str], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(AmcError) as caught:
        run(parse(CompareConfig, "amc.compare", [*arguments, "--run-dir", str(tmp_path / "r")]))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_any_set_of_allocators_competes(model: str, tmp_path: Path) -> None:
    methods = ("legr", "annealing", "greedy", "ranking", "sensitivity", "knapsack")
    config = CompareConfig.of(model=model, run_dir=tmp_path / "r", methods=methods, **SMALL)
    found = numbers(run(config))["attempts"]
    tried = {m: [a["evaluations"] for a in found if a["method"] == m] for m in methods}
    assert tried == {
        "legr": [6, 6], "annealing": [6, 6], "greedy": [6],
        "ranking": [1], "sensitivity": [1], "knapsack": [1],
    }  # fmt: skip
    original = numbers(tmp_path / "r")["original"]["macs"]
    for attempt in found:
        assert attempt["macs"] <= 0.4 * original
    before = numbers(tmp_path / "r")
    assert numbers(run(config)) == before  # nothing is searched for twice


def test_settings_are_those_of_a_run() -> None:
    config, ours, theirs = CompareConfig(), CompareConfig().flat, TrainConfig().flat
    for name in ours.keys() & theirs.keys():
        assert ours[name] == theirs[name], name
    assert ours.keys() - theirs.keys() == {"methods", "seeds", "apply"}
    assert set(config.methods) < {*METHODS, *AT_ONCE}
    path = CompareConfig.of(model="nets.py:build", preserve_ratio=0.25).folder
    assert path == Path("runs/compare-nets.py-build-digits-0.25")
