"""What was learned is used again: one agent for several budgets, policies and plans from files."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from safetensors.torch import save_file

import amc
from agents import load_policy
from agents.policy_file import _checksum
from amc.allocators.uniform import uniform
from amc.apply import main
from amc.apply import run as apply
from amc.config.apply import ApplyConfig
from amc.config.train import TrainConfig
from amc.graph.plan_files import load_fitting, load_plan, save_plan
from amc.models.catalog import build
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json
from amc.search.policies import load_learned, save_learned
from amc.search.problem import proposed
from amc.search.search import Settings, search
from amc.train import run
from envs import ChannelPruningEnv, Rotation, gain
from small_problems import (
    SETTINGS,
    TARGETS,
    budget_of,
    bundled,
    chain,
    cheap,
    errors_of,
    learned,
    minus_loss,
    task,
)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has learned."""
    folder = tmp_path_factory.mktemp("learned")
    agent = learned()[0].agent
    assert agent is not None
    save_learned(folder, agent, [], ["chain"], 0)
    return folder


# ---- several budgets, one agent


def walks() -> list[ChannelPruningEnv]:
    found = []
    for ratio in TARGETS:
        budget = budget_of(ratio, chain)
        found.append(ChannelPruningEnv(budget, cheap(budget), minus_loss))
    return found


def test_rotation_is_an_environment() -> None:
    check_env(Rotation(walks()), skip_render_check=True)


def test_rotation_walks_in_turn_and_pays_what_is_gained_over_the_first_episode() -> None:
    every, rng, seen = walks(), np.random.default_rng(0), list[tuple[int, float, float]]()
    rotation = Rotation(every)
    for _ in range(9):
        rotation.reset()
        done = False
        while not done:
            _, reward, done, _, info = rotation.step(rng.random(1, dtype=np.float32))
            assert done or reward == 0
        seen.append((rotation.current, reward, minus_loss(info["outcome"])))
    assert [number for number, *_ in seen] == [0, 1, 2] * 3
    for number, reward, own in seen:
        standard = seen[number][2]
        assert reward == pytest.approx((own - standard) / abs(standard))
    assert len({reward for _, reward, _ in seen[3:]}) > 3


def test_gain_of_nothing_over_nothing_is_nothing() -> None:
    assert gain(0.0, 0.0) == 0 and gain(0.5, 0.0) == 0.5 and gain(-1.0, -2.0) == 0.5


@pytest.mark.parametrize("method", ["ddpg", "td3", "sac"])
def test_learning_tries_equally_many_strategies_of_every_budget(method: str) -> None:
    found = learned(method=method)
    assert len({id(one.agent) for one in found}) == 1
    for ratio, one in zip(TARGETS, found, strict=True):
        budget = budget_of(ratio, chain)
        assert len(one.history) == 8
        assert one.history[0].strategy == uniform(budget)
        assert all(budget.floor <= e.outcome.macs <= budget.target for e in one.history)
        last = proposed(one.agent, budget, errors_of(budget))
        assert one.history[-1].strategy == last


def test_learning_repeats_for_a_seed_and_not_for_others() -> None:
    first, second, other = (
        [[e.strategy for e in one.history] for one in learned(seed=seed)] for seed in (0, 0, 1)
    )
    assert first == second
    assert first != other


def test_a_walk_of_a_policy_evaluates_nothing_and_meets_every_budget(policy: Path) -> None:
    known = load_learned(policy)
    for ratio in (0.2, 0.4, 0.6, 0.9):
        budget = budget_of(ratio, chain)
        macs = budget.graph.cost.macs(
            budget.graph.counts(proposed(known, budget, errors_of(budget)))
        )
        assert budget.floor <= macs <= budget.target


@pytest.mark.parametrize("method", ["ddpg", "td3", "sac"])
def test_a_search_from_a_policy_tries_its_strategy_first(method: str, policy: Path) -> None:
    known, own = load_learned(policy), task(0.4, 2)
    expected = proposed(known, own.budget, own.errors)
    found = search(own, method, settings=SETTINGS, policy=known)
    # the walk without noise comes before anything was learned: it is the policy's own
    assert [e.strategy for e in found.history] == [uniform(own.budget), expected]
    found = search(task(0.4, 6), method, settings=SETTINGS, policy=known)
    assert [e.strategy for e in found.history[:2]] == [uniform(own.budget), expected]


def test_an_agent_takes_the_form_of_the_policy_it_begins_with(policy: Path) -> None:
    settings, known = Settings(net_arch=(8, 8)), load_learned(policy)
    agent = search(task(0.4, 3), settings=settings, policy=known).agent
    assert agent is not None and agent.actor.mu[0].out_features == known.net_arch[0] == 16
    own = search(task(0.4, 3), settings=settings).agent
    assert own is not None
    with pytest.raises(ValueError, match="other sizes"):
        own.take_over(known)


# ---- policies from files


@pytest.mark.parametrize("name", ["", "policy", "policy.json", "policy.safetensors"])
def test_policy_is_found_by_its_folder_or_files(policy: Path, name: str) -> None:
    found, expected = load_learned(policy / name), load_policy(policy / "policy")
    assert found.metadata == expected.metadata and found.digest == expected.digest


def copied(policy: Path, folder: Path, **changes: Any) -> Path:
    """The files with other metadata."""
    description = json.loads((policy / "policy.json").read_text())
    description["metadata"] |= changes
    description["checksum"] = _checksum(description)
    (folder / "policy.json").write_text(json.dumps(description))
    (folder / "policy.safetensors").write_bytes((policy / "policy.safetensors").read_bytes())
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": ["index"]}, "it sees"),
        ({"observations": None}, "it sees"),
        ({"action": "raw ratio"}, "its action means 'raw ratio'"),
    ],
)
def test_policy_that_sees_or_does_something_else_is_refused(
    policy: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    load_learned(copied(policy, tmp_path))
    with pytest.raises(AmcError, match=message) as refused:
        load_learned(copied(policy, tmp_path, **changes))
    assert "\n" not in str(refused.value) and "--policy" in str(refused.value)


@pytest.mark.parametrize("damage", ["missing", "byte", "short", "pickle", "future"])
def test_damaged_policy_is_refused_in_one_line(policy: Path, tmp_path: Path, damage: str) -> None:
    copied(policy, tmp_path)
    weights, description = tmp_path / "policy.safetensors", tmp_path / "policy.json"
    content = bytearray(weights.read_bytes())
    if damage == "missing":
        weights.unlink()
    elif damage == "byte":
        content[-3] ^= 1
        weights.write_bytes(content)
    elif damage == "short":
        weights.write_bytes(content[:-4])
    elif damage == "pickle":
        torch.save({"a": torch.zeros(1)}, weights)
    else:
        text = json.loads(description.read_text())
        description.write_text(json.dumps(text | {"format_version": 99}))
    with pytest.raises(AmcError) as refused:
        load_learned(tmp_path)
    assert "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)


# ---- plans from files


def test_plan_fits_the_same_network_and_no_other(tmp_path: Path) -> None:
    graph = bundled("resnet20")
    plan = amc.random_plan(graph, 0.5, seed=0)
    save_plan(tmp_path / "plan.json", plan)
    assert load_fitting(tmp_path, bundled("resnet20")) == plan
    for other, message in (
        (bundled("resnet20", 1.0), "channels in the plan"),
        (bundled("resnet56"), "was made for another network"),
        (bundled("vgg16"), "is not a group of this network"),
        (
            amc.restrict(graph, build("resnet20", num_classes=10, in_channels=1, width=0.5),
                       amc.Restrictions(exclude=("layer2.*",))),
            "must stay whole here",
        ),
    ):  # fmt: skip
        with pytest.raises(AmcError, match=message) as refused:
            load_fitting(tmp_path / "plan.json", other)
        assert "\n" not in str(refused.value)


# ---- the command


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "either --policy FOLDER or --plan FILE"),
        ({"policy": Path("a"), "plan": Path("b")}, "either --policy FOLDER or --plan FILE"),
        ({"policy": Path("a"), "episodes": -1}, "--episodes must be 0 or more"),
        ({"policy": Path("a"), "preserve_ratio": 1.5}, "--preserve-ratio"),
    ],
)
def test_apply_needs_one_thing_to_apply(given: dict[str, Any], message: str) -> None:
    with pytest.raises(AmcError, match=message):
        ApplyConfig.of(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mode": "plan"}, "--mode plan and --plan FILE"),
        ({"plan": Path("a")}, "--mode plan and --plan FILE"),
        ({"mode": "policy"}, "--mode policy needs --policy FILE"),
        ({"mode": "uniform", "policy": Path("a")}, "--policy belongs to --mode policy or auto"),
        ({"policy": Path("a"), "agent": "evolution"}, "--allocator evolution learns none"),
    ],
)
def test_modes_have_their_files(given: dict[str, Any], message: str) -> None:
    with pytest.raises(AmcError, match=message):
        TrainConfig.of(**given)


def test_policy_and_plan_of_a_run_are_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policy: another budget, with and without a search. Plan: the same cut of other weights."""
    common = partial(
        dict, width=0.5, calibration_batches=2, finetune_epochs=0, device="cpu", quiet=True
    )
    paths = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = build("resnet20", num_classes=10, in_channels=1, width=0.5)
        paths.append(tmp_path / f"{seed}.safetensors")
        save_file(model.state_dict(), paths[-1])
    first = run(TrainConfig.of(
        **common(), checkpoint=paths[0], episodes=5, reward_images=40, finalists=1,
        run_dir=tmp_path / "first",
    ))  # fmt: skip
    again = ApplyConfig.of(**common(), plan=first, checkpoint=paths[1], run_dir=tmp_path / "again")
    apply(again)
    assert load_plan(tmp_path / "again/plan.json") == load_plan(first / "plan.json")
    assert read_json(tmp_path / "again/report.json")["target"] is None
    for episodes in (0, 3):
        words = ["amc.apply", "--policy", str(first), "--preserve-ratio", "0.3", "--width", "0.5",
                 "--checkpoint", str(paths[0]), "--episodes", str(episodes), "--quiet",
                 "--finetune-epochs", "0", "--calibration-batches", "2", "--device", "cpu",
                 "--run-dir", str(tmp_path / f"policy{episodes}")]  # fmt: skip
        monkeypatch.setattr("sys.argv", words)
        main()
        report = read_json(tmp_path / f"policy{episodes}/report.json")
        assert report["episodes"] == episodes and report["target"] == 0.3
        assert 0.29 < report["macs"]["ratio"] <= 0.3


@pytest.mark.parametrize("kind", ["plan", "policy", "strategy"])
def test_a_damaged_file_is_refused_before_data_and_network_are_opened(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / f"{kind}.json"
    path.write_text('{"format": "amc-')
    modes = {"policy": {"mode": "policy"}, "strategy": {"mode": "list"}, "plan": {"mode": "plan"}}
    given: dict[str, Any] = {kind: path, **modes[kind], "run_dir": tmp_path / "run"}
    config = TrainConfig.of(model="nowhere.py:net", data="nowhere.py:data", **given)
    with pytest.raises(AmcError, match=rf"{kind}\.json: not a JSON file"):
        run(config)
    assert not (tmp_path / "run").exists()


def test_apply_ends_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["amc.apply", "--policy", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert str(ended.value).startswith("amc.apply: ") and "none" in str(ended.value)
    assert "\n" not in str(ended.value)
