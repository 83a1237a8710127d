"""Sections on how much every group keeps: given, or searched for."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from amc.runtime.errors import AmcError
from amc.runtime.files import as_paths
from amc.runtime.limits import whole, within
from amc.runtime.names import check_name

LEARNERS = ("ddpg", "td3", "sac")
"""Agents that a policy can be handed to."""


@dataclass(frozen=True)
class AllocationConfig:
    """Where the strategy comes from: how much every group keeps."""

    mode: Literal["auto", "uniform", "list", "policy", "plan"] = "auto"
    """auto: --allocator decides; uniform: one ratio for all; list: read it from --strategy;
    policy: walked by --policy, no search; plan: the channels of --plan."""
    channel_ratio: float | None = None
    """For --mode uniform: part of the channels that every group keeps; the MACs follow."""
    strategy: Path | None = None
    """For --mode list: JSON {layer: ratio or channels}, a run's strategy.json, comma-separated
    ratios in layer order, or AMCT's simplified configuration."""
    overrides: Path | None = None
    """AMCT's simplified configuration, of skip lists and overrides only: these layers keep what it
    says, whatever decides over the others."""
    policy: Path | None = None
    """A policy that an earlier run has learned (its folder, or .../policy): decides alone with
    --mode policy, gives --mode auto a head start."""
    plan: Path | None = None
    """For --mode plan: plan.json of an earlier run of the same network, or its folder."""
    ranking: Path | None = None
    """For --allocator legr: ranking.json of an earlier run, of any budget; nothing is tried."""
    score_curves: Path | None = None
    """For --allocator greedy: score_curves.json of an earlier run on the same weights, of any
    budget; nothing is tried."""

    def __post_init__(self) -> None:
        as_paths(self)
        mode = self.mode
        for word, given, needs in (
            ("--strategy", self.strategy, "list"),
            ("--plan", self.plan, "plan"),
        ):
            said = given is not None
            if (mode == needs and not said) or (said and mode not in (needs, "auto")):
                raise AmcError(f"--mode {needs} and {word} FILE belong together")
        if self.overrides is not None and mode in ("list", "plan"):
            raise AmcError(f"--overrides belongs to modes that decide, not to --mode {mode}")
        if mode == "policy" and self.policy is None:
            raise AmcError("--mode policy needs --policy FILE")
        if self.policy is not None and mode not in ("policy", "auto"):
            raise AmcError(f"--policy belongs to --mode policy or auto, not {mode}")
        if self.channel_ratio is not None:
            within("--channel-ratio", self.channel_ratio, 0, 1)
            if mode not in ("uniform", "auto"):
                raise AmcError(f"--channel-ratio belongs to --mode uniform, not {mode}")

    def decided_by(self, allocator: str) -> "AllocationConfig":
        """The same with the mode that an allocator stands for, if it is a mode.

        Raises:
            AmcError: a file that does not belong to it.
        """
        modes: dict[str, Literal["uniform", "list"]] = {"uniform": "uniform", "list": "list"}
        found = self
        if self.mode == "auto" and allocator in modes:
            found = replace(self, mode=modes[allocator])
        for word, given, needs in (
            ("--strategy FILE", found.strategy, "list"),
            ("--plan FILE", found.plan, "plan"),
        ):
            if given is not None and found.mode != needs:
                raise AmcError(f"--mode {needs} and {word} belong together")
        if found.channel_ratio is not None and found.mode != "uniform":
            raise AmcError(f"--channel-ratio belongs to --mode uniform, not {found.mode}")
        for word, given, needs in (
            ("--ranking", found.ranking, "legr"),
            ("--score-curves", found.score_curves, "greedy"),
        ):
            if given is not None and (found.mode, allocator) != ("auto", needs):
                raise AmcError(f"{word} belongs to --allocator {needs}")
        return found

    @property
    def by_budget(self) -> bool:
        """Whether MACs decide, and not channels that were given."""
        return self.channel_ratio is None and self.mode not in ("list", "plan")


@dataclass(frozen=True)
class SearchConfig:
    """What tries strategies, and how many."""

    episodes: int = 200
    """Strategies that the search tries."""
    allocator: str = "ddpg"
    """What decides how much every group keeps. Agents: ddpg, td3, sac. Other searches: screened,
    evolution, annealing, cem, random, legr, greedy. At once: knapsack, ranking, sensitivity,
    uniform, list. Or module:function of an amc.allocators.AllocationProblem. --agent is the old
    name."""
    prior: Literal["uniform", "sensitivity", "cem"] = "uniform"
    """What an agent's actions are residuals on: one ratio for all groups, wider groups where
    reconstruction errors are large, or four numbers that the first fifth of the episodes finds."""
    warmup_episodes: int = 10
    """The first of them, uniform once, then suggested or random, before the agent learns."""
    patience: int | None = None
    """Episodes without a better strategy after which the search stops."""
    walks: int | None = None
    """Strategies that an agent walks side by side before it learns; default: --workers."""
    finalists: int = 6
    """Strategies that are cut for real before one is chosen; the uniform one is among them."""
    finalist_epochs: int = 0
    """Epochs that every finalist is trained before the better third goes on for twice as many, and
    so on until one is left, with which the final training begins. What needs no search is among
    the finalists. 0: none is trained, the reward after the cut decides."""

    def __post_init__(self) -> None:
        check_name("allocator", self.allocator)
        if self.allocator == "greedy" and self.patience is not None:
            raise AmcError(
                "--patience belongs to allocators that improve on what they have tried; "
                "--allocator greedy measures first and decides at the end"
            )
        if self.prior != "uniform" and self.allocator not in LEARNERS:
            raise AmcError(
                f"--prior {self.prior} belongs to agents, {', '.join(LEARNERS)}; "
                f"--allocator {self.allocator} has none"
            )
        for name, least in (
            ("episodes", 1),
            ("warmup_episodes", 0),
            ("walks", 1),
            ("patience", 1),
            ("finalists", 1),
            ("finalist_epochs", 0),
        ):
            if (value := getattr(self, name)) is not None:
                whole(name, value, least)
        if self.finalist_epochs and self.finalists < 2:
            raise AmcError("--finalist-epochs compares finalists: --finalists 2 or more, got 1")


@dataclass(frozen=True)
class ResourcesConfig:
    """What a search may take; a resumed run may be given other resources."""

    time_limit: float | None = None
    """Minutes after which the search stops and goes on with the best strategy so far."""
    workers: int = 1
    """Processes that measure strategies side by side, one thread each (CPU)."""

    def __post_init__(self) -> None:
        whole("workers", self.workers, 1)
        if self.time_limit is not None:
            within("--time-limit", self.time_limit, 0, float("inf"))
