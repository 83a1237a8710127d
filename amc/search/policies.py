"""What earlier runs have learned, policies and plans, checked before anything is done with it."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from agents import Policy, load_policy, save_policy
from amc.allocators.family import Shape
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.runtime.errors import AmcError
from envs.features import NAMES

ACTION = "preserve ratio relative to what is left of the budget; 0.5 spends it evenly"
"""What the action of a saved policy means."""

ON_PRIOR = "preserve ratio relative to what is left of the budget; 0.5 keeps a prior's proportions"
"""The same of a policy whose actions are residuals on a prior."""


def save_learned(
    folder: Path,
    agent: Any,
    best: Sequence[tuple[Budget, Strategy]],
    networks: Sequence[str],
    seed: int,
    shape: Shape | None = None,
) -> None:
    """Writes what an agent has learned: what goes in, what comes out, and where it was learned.

    Args:
        folder: of the run.
        agent: DDPG, TD3 or SAC.
        best: the best strategy under every budget that it was learned for.
        networks: their names.
        seed: of the run.
        shape: of the prior that it was learned on, if any.
    """
    about: dict[str, Any] = {
        "observations": list(NAMES),
        "action": ACTION,
        "targets": sorted({budget.preserve_ratio for budget, _ in best}),
        "networks": list(networks),
        "seed": seed,
        "best": [kept(budget, strategy) for budget, strategy in best],
    }
    if shape is not None:
        about |= {"action": ON_PRIOR, "prior": asdict(shape)}
    save_policy(folder / "policy", agent, about)


def prior_of(policy: Policy) -> Shape | None:
    """The shape of the prior that a policy was learned on; None for the uniform strategy.

    Raises:
        AmcError: the metadata of the policy are damaged.
    """
    if policy.metadata.get("action") != ON_PRIOR:
        return None
    try:
        return Shape(**{str(name): float(x) for name, x in policy.metadata["prior"].items()})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AmcError(f"--policy: its prior is damaged ({error!r})") from None


def kept(budget: Budget, strategy: Strategy) -> dict[str, Any]:
    """A strategy as the metadata of a policy keep it: channels kept, and of how many."""
    sizes = budget.graph.sizes
    channels = {name: [strategy.get(name, size), size] for name, size in sizes.items()}
    return {"target": budget.preserve_ratio, "channels": channels}


def known_strategies(policy: Policy, budget: Budget) -> list[dict[str, int]]:
    """What was best under the nearest budgets that the policy has learned on this very network.

    The next lower and the next higher one, scaled to the budget; none for other networks.

    Raises:
        AmcError: the metadata of the policy are damaged.
    """
    sizes, known = budget.graph.sizes, list[tuple[float, list[float]]]()
    try:
        for one in policy.metadata.get("best", []):
            kept = {str(name): (int(k), int(of)) for name, (k, of) in one["channels"].items()}
            if {name: of for name, (_, of) in kept.items()} == dict(sizes):
                ratios = [kept[name][0] / size for name, size in sizes.items()]
                if not all(0 < ratio <= 1 for ratio in ratios):
                    raise ValueError(f"ratios {ratios}")
                known.append((float(one["target"]), ratios))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AmcError(f"--policy: its best strategies are damaged ({error!r})") from None
    target = budget.preserve_ratio
    below = sorted((one for one in known if one[0] <= target), key=lambda one: -one[0])[:1]
    above = sorted((one for one in known if one[0] > target), key=lambda one: one[0])[:1]
    found: list[dict[str, int]] = []
    for _, ratios in (*below, *above):
        counts = budget.rounded(np.array([ratios]))[0]
        if not budget.floor <= budget.cost(counts) <= budget.target:
            counts = budget.fitted(np.array([ratios]))[0]
        strategy = budget.strategy(budget.complete(counts.tolist()))
        if strategy not in found:
            found.append(strategy)
    return found


def load_learned(stem: Path) -> Policy:
    """The policy that a run has learned.

    Args:
        stem: its files without their suffix, or one of them, or the run's folder.

    Raises:
        AmcError: files that are missing, damaged, of another version, or of a policy that sees or
            does something else than walks over channel groups.
    """
    if stem.is_dir():
        stem = stem / "policy"
    if stem.suffix in (".json", ".safetensors"):
        stem = stem.with_suffix("")
    try:
        policy = load_policy(stem)
    except ValueError as error:
        raise AmcError(f"--policy {error}") from None
    seen, action = policy.metadata.get("observations"), policy.metadata.get("action")
    if seen != list(NAMES) or policy.observation_size != len(NAMES):
        raise AmcError(
            f"--policy {stem}.json: it sees {json.dumps(seen)}, this version shows "
            f"{json.dumps(list(NAMES))}; learn it anew"
        )
    if action not in (ACTION, ON_PRIOR):
        raise AmcError(f"--policy {stem}.json: its action means {action!r}, allowed: {ACTION!r}")
    prior_of(policy)
    return policy
