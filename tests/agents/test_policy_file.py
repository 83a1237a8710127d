"""Policies on disk: exact, and refused where anything is wrong."""

import json
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from agents import (
    AGENTS,
    AmcDDPG,
    Policy,
    load_policy,
    save_policy,
)
from toy_walk import every_agent, make_agent


@pytest.fixture
def saved(tmp_path: Any) -> tuple[AmcDDPG, Any]:
    agent = make_agent(warmup_episodes=1)
    agent.learn_episodes(4)
    save_policy(tmp_path / "run.0.5", agent, {"observation_names": ["a", "b", "c", "d", "e"]})
    return agent, tmp_path / "run.0.5"


@every_agent
@pytest.mark.parametrize("net_arch", [(32, 32), (7,), (16, 8, 4)])
def test_loaded_policy_is_exactly_the_agent_without_noise(
    kind: str, net_arch: tuple[int, ...], tmp_path: Any
) -> None:
    agent = make_agent(kind=kind, warmup_episodes=1, actor_lr=1e-2, net_arch=net_arch)
    agent.learn_episodes(6)
    stem = tmp_path / "run.0.5"
    save_policy(stem, agent, {"observation_names": ["a", "b", "c", "d", "e"]})
    state = torch.random.get_rng_state()
    policy = load_policy(stem)
    assert torch.equal(state, torch.random.get_rng_state())
    observations = np.random.default_rng(0).random((50, 5), dtype=np.float32)
    expected, _ = agent.predict(observations, deterministic=True)
    assert np.ptp(expected) > 1e-4
    assert isinstance(policy, Policy) and policy.predict(observations)[0].shape == (50, 1)
    assert np.array_equal(policy.predict(observations)[0], expected)
    for observation in observations:
        alone, _ = agent.predict(observation, deterministic=True)
        assert np.array_equal(policy.predict(observation)[0], alone)
    assert policy.metadata == {"observation_names": ["a", "b", "c", "d", "e"]}
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["run.0.5.json", "run.0.5.safetensors"]
    with pytest.raises(ValueError, match=r"observation must be \[5\]"):
        policy.predict(np.zeros(4))


@every_agent
def test_saving_again_replaces_the_policy(kind: str, tmp_path: Any) -> None:
    agent = make_agent(kind=kind, warmup_episodes=1)
    observation = np.full(5, 0.5, dtype=np.float32)
    found = []
    for _ in range(2):
        agent.learn_episodes(3)
        save_policy(tmp_path / "policy", agent, {})
        found.append(load_policy(tmp_path / "policy").predict(observation)[0])
        assert np.array_equal(found[-1], agent.predict(observation, deterministic=True)[0])
    assert not np.array_equal(*found)


def edit_json(stem: Any, **changes: Any) -> None:
    """Rewrites a description with a valid checksum, as somebody with bad intentions could."""
    from agents.policy_file import _checksum

    path = stem.with_name(stem.name + ".json")
    changed = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({**changed, "checksum": _checksum(changed)}))


def test_every_byte_of_the_description_counts(saved: tuple[AmcDDPG, Any]) -> None:
    _, stem = saved
    path = stem.with_name(stem.name + ".json")
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"run\.0\.5"):
            load_policy(stem)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 3}, "format_version 3 is unknown; known: 1, 2"),
        ({"sha256": "0" * 64}, "damaged, or not the file"),
        ({"sha256": None}, "field 'sha256'"),
        ({"observation_size": 6}, "sizes that the .json states"),
        ({"observation_size": True}, "field 'observation_size'"),
        ({"net_arch": [32, 10**30]}, "sizes that the .json states"),
        ({"net_arch": [32, -1]}, "field 'net_arch'"),
        ({"action": {"size": 2}}, "sizes that the .json states"),
        ({"action": 1}, "field 'action'"),
        ({"metadata": []}, "field 'metadata'"),
    ],
)
def test_a_wrong_description_is_refused(
    saved: tuple[AmcDDPG, Any], changes: dict[str, Any], message: str
) -> None:
    _, stem = saved
    edit_json(stem, **changes)
    with pytest.raises(ValueError, match=message) as refusal:
        load_policy(stem)
    assert "\n" not in str(refusal.value) and "run.0.5" in str(refusal.value)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "noise", "folder"])
def test_a_damaged_file_is_refused(saved: tuple[AmcDDPG, Any], suffix: str, damage: str) -> None:
    _, stem = saved
    path = stem.with_name(stem.name + suffix)
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[:-20])
    elif damage == "noise":
        path.write_bytes(bytes(range(256)))
    elif damage == "folder":
        path.mkdir()
    with pytest.raises(ValueError, match=r"run\.0\.5") as refusal:
        load_policy(stem)
    assert "\n" not in str(refusal.value)


def test_weights_of_a_right_hash_are_still_checked(saved: tuple[AmcDDPG, Any]) -> None:
    from hashlib import sha256

    _, stem = saved
    path = stem.with_name(stem.name + ".safetensors")
    wrong_type = {
        name: value.double() for name, value in safetensors.torch.load_file(path).items()
    }
    for content, message in [
        (b"no tensors", "not a safetensors file"),
        (safetensors.torch.save(wrong_type), "sizes that the .json states"),
    ]:
        path.write_bytes(content)
        edit_json(stem, sha256=sha256(content).hexdigest())
        with pytest.raises(ValueError, match=message):
            load_policy(stem)


def test_what_cannot_be_a_policy_file_is_not_saved(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_policy(tmp_path / "policy", make_agent(), {"weights": np.zeros(2)})
    for kind in AGENTS:
        agent = make_agent(kind=kind)
        layers = agent.actor.latent_pi if kind == "sac" else agent.actor.mu
        layers[1] = torch.nn.Tanh()
        with pytest.raises(ValueError, match="ReLU"):
            save_policy(tmp_path / "policy", agent, {})
    assert not list(tmp_path.iterdir())
