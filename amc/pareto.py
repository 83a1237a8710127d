"""``python -m amc.pareto``: what a network loses at every size, and the smallest that may.

One policy and one set of statistics serve all budgets: a point costs a walk and a cut, no search.
Every point is a network on disk; the same command, given again after a stop, goes on from there.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amc import weights
from amc.allocate import uniform
from amc.budget import Budget
from amc.commandline import as_json, flags, parse
from amc.compress import Compressor
from amc.data import load_data
from amc.errors import AmcError
from amc.evaluate import Score, evaluate, tail
from amc.front import Point, draw_front, front_table, smallest
from amc.journal import Journal
from amc.learn import run as learn
from amc.pipeline import DECISIVE, Pipeline, reward_function
from amc.plan import read_json, save_strategy
from amc.prepare import Subject, allocation, choose_device, outline, ready
from amc.recovery import Recovery
from amc.report import latencies
from amc.reuse import load_learned, remembered
from amc.reuse_config import LearnConfig, ParetoConfig
from amc.run_folder import claim, save_network, write_json
from amc.search import Errors, Policy, proposed
from amc.sensitivity import sensitivity
from amc.sequential import Originals
from amc.terminal import Terminal
from envs import Reward

FEWEST = 100
"""Images that are enough to verify a drop on."""

RESOLUTION = 0.005
"""Targets that are nearer to each other than this are not told apart."""


def run(config: ParetoConfig) -> Path:
    """The whole sweep; returns its folder.

    Raises:
        AmcError: something given cannot be used; what was finished before is in the folder.
    """
    terminal = Terminal(config.quiet)
    torch.manual_seed(config.seed)
    reward, device = reward_function(config.reward), choose_device(config.device)
    folder = claim(config.training)

    # What can be removed, and are all targets reachable? Nothing long runs before this is known.
    data = load_data(config.data, seed=config.seed)
    pipe = Pipeline(config.training, data, device, Terminal(quiet=True))
    given, graph = outline(pipe)
    for ratio in config.ratios:
        allocation(replace(pipe.config, preserve_ratio=ratio), graph)
    policy = load_learned(config.policy or learned(config))

    # The network with its weights and statistics.
    subject = ready(replace(pipe, terminal=terminal), given, graph)
    terminal.say(subject.overview(pipe.config, data))
    sweep = Sweep(config, pipe, subject, policy, reward, folder)
    original = sweep.original
    terminal.say(f"accuracy {original.accuracy:.2%} on {sweep.held_out} that no search has seen")

    # A network for every budget, from the largest to the smallest; then closer to --max-drop.
    most = len(config.ratios) + (0 if config.max_drop is None else config.steps)
    with terminal.bar("sweep", most) as bar:

        def made(ratio: float) -> Point:
            point = sweep.point(ratio)
            bar.step(f"{ratio:g} of the MACs: {point.accuracy:.2%}")
            return point

        points = {ratio: made(ratio) for ratio in reversed(config.ratios)}
        if config.max_drop is not None:
            closer(points, original.accuracy - config.max_drop / 100, config.steps, made)

    # The account.
    found = [points[ratio] for ratio in sorted(points, reverse=True)]
    account: dict[str, Any] = {
        "settings": as_json(config),
        "held_out": sweep.held_out,
        "original": asdict(original),
        "points": [{**asdict(point), "on_front": point.on_front(found)} for point in found],
    }
    chosen = None
    if config.max_drop is not None:
        chosen = smallest(found, original.accuracy - config.max_drop / 100)
        account["max_drop"] = {"points": config.max_drop, "chosen": chosen and chosen.target}
    write_json(folder / "pareto.json", account)
    draw_front(found, original, folder / "pareto.svg", f"{config.model}, {config.data}")
    terminal.table(front_table(found, original))
    if config.max_drop is not None:
        terminal.say(verdict(chosen, original, config.max_drop))
    shown = sweep.place(chosen.target if chosen else found[-1].target)
    terminal.say(
        f"\nEverything is in {folder}. Next:\n"
        f"  look       {folder / 'pareto.svg'}\n"
        f"  load       amc.load_pruned(original_model, {str(shown)!r})"
    )
    return folder


def learned(config: ParetoConfig) -> Path:
    """The folder of a policy that is learned for these budgets, here and first."""
    shared = {one.name for one in fields(LearnConfig)} & {one.name for one in fields(config)}
    settings = {name: getattr(config, name) for name in shared}
    return learn(LearnConfig(**{**settings, "run_dir": config.folder / "policy"}))


@dataclass(frozen=True)
class Sweep:
    """What all points share."""

    config: ParetoConfig
    pipe: Pipeline
    subject: Subject
    policy: Policy
    reward: Reward
    folder: Path

    @cached_property
    def compressor(self) -> Compressor:
        """One set of statistics."""
        return self.pipe.calibrate(self.subject.graph, self.subject.model)

    @cached_property
    def errors(self) -> Errors:
        """Of every group, at counts that no budget changes."""
        return sensitivity(self.compressor, self.budget(self.config.ratios[0]))

    @cached_property
    def originals(self) -> Originals:
        """What all cuts aim at."""
        return self.pipe.originals(self.compressor)

    @cached_property
    def unseen(self) -> tuple[str, Score]:
        """The split that drops are verified on, and the original network's score there."""
        beyond = evaluate(self.subject.model, self._beyond())
        if beyond.images >= FEWEST:
            return "validation", beyond
        return "test", evaluate(self.subject.model, self.pipe.data.test)

    @property
    def held_out(self) -> str:
        """The images that accuracies are measured on, in words."""
        split, score = self.unseen
        return f"{score.images} {split} images"

    @cached_property
    def original(self) -> Point:
        """The network before any cut."""
        model, graph = self.subject.model, self.subject.graph
        test = evaluate(model, self.pipe.data.test).accuracy
        return Point(1.0, graph.macs(), graph.params(), 1.0, self.unseen[1].accuracy, test)

    def budget(self, ratio: float) -> Budget:
        """What a strategy may cost at this target."""
        settings = replace(self.pipe.config, preserve_ratio=ratio)
        budget, _ = allocation(settings, self.subject.graph)
        assert budget is not None
        return budget

    def place(self, ratio: float) -> Path:
        """The folder of a point."""
        return self.folder / "points" / f"{ratio:g}"

    def point(self, ratio: float) -> Point:
        """The network for a target, from an earlier sweep or cut now."""
        about, path = {**self._settings, "target": ratio}, self.place(ratio) / "point.json"
        known = read_json(path) if path.exists() else {}
        if known.get("about") == about:
            return Point(**known["point"])
        point = self._cut(ratio, about)
        write_json(path, {"about": about, "point": asdict(point)})
        return point

    def _cut(self, ratio: float, about: dict[str, Any]) -> Point:
        """Walks the policy, cuts the best of what it knows, measures."""
        graph, budget, place = self.subject.graph, self.budget(ratio), self.place(ratio)
        walked = proposed(self.policy, budget, self.errors)
        candidates = [walked, *remembered(self.policy, budget), uniform(budget)]
        strategy, plan, small = self.pipe.cut_best(
            self.compressor, candidates, self.reward, self.originals
        )
        epochs, rate = self.config.finetune_epochs, self.pipe.config.learning_rate
        if epochs:
            journal = Journal(place, graph.sizes, graph.macs())
            recovery = Recovery(self.pipe, graph, self.subject.model, journal, place)
            small = recovery.tune(small, plan, epochs, rate)
            recovery.tidy()
            journal.close()
        save_strategy(place / "strategy.json", strategy, graph.channels, about)
        save_network(place, plan, small, about)
        networks = {"original": self.subject.model, "pruned": small}
        times = latencies(networks, self.pipe.example[0][:1])
        split = self._beyond() if self.unseen[0] == "validation" else self.pipe.data.test
        return Point(
            ratio,
            graph.macs(plan),
            graph.params(plan),
            times["pruned"].median / times["original"].median,
            evaluate(small, split).accuracy,
            evaluate(small, self.pipe.data.test).accuracy,
        )

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """What a point depends on besides its target."""
        own = {name: getattr(self.pipe.config, name) for name in DECISIVE}
        return {
            **own,
            "finetune_epochs": self.config.finetune_epochs,
            "choice": " ".join(flags(self.config.choice)),
            "policy": self.policy.digest,
            "weights": weights.digest(self.subject.model),
            "baked": self.subject.baked,
        }

    def _beyond(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Validation images that no reward has seen."""
        return tail(self.pipe.data.val, self.pipe.config.reward_images)


def closer(
    points: dict[float, Point], least: float, steps: int, point: Callable[[float], Point]
) -> None:
    """Halves the gap between the smallest network that is good enough and the next smaller one.

    Args:
        points: by target; what is tried is added.
        least: accuracy that is good enough.
        steps: how many more targets are tried at most.
        point: makes the network of a target.
    """
    for _ in range(steps):
        good = [ratio for ratio, one in points.items() if one.accuracy >= least]
        high = min(good, default=1.0)
        low = max((ratio for ratio in points if ratio < high), default=high)
        if high - low < 2 * RESOLUTION:
            return
        middle = round((low + high) / 2, 4)
        points[middle] = point(middle)


def verdict(chosen: Point | None, original: Point, drop: float) -> str:
    """What came of --max-drop, in one line."""
    if chosen is None:
        return (
            f"--max-drop {drop:g}: every network loses more; try a larger --preserve-ratio, or "
            "--finetune-epochs"
        )
    lost = 100 * (original.accuracy - chosen.accuracy)
    return (
        f"--max-drop {drop:g}: the smallest network that keeps to it has "
        f"{chosen.macs / original.macs:.1%} of the MACs and loses {lost:.2f} points"
    )


def main() -> None:
    """The command; a mistake of the user's ends it with one line and exit status 1."""
    try:
        run(parse(ParetoConfig, "amc.pareto"))
    except (AmcError, OSError) as error:  # OSError: the disk is full, a folder went away
        sys.exit(f"amc.pareto: {error}")
    except KeyboardInterrupt:
        sys.exit("amc.pareto: interrupted; the same command goes on from here")


if __name__ == "__main__":
    main()
