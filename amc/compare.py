"""``python -m amc.compare``: is the agent worth it? All ways to find a strategy, side by side.

Every method sees the same network, images, budget and proxy, and may evaluate equally many
strategies; seeds vary the search alone. The records of the searches stay in the folder of the
comparison: the same command, given again after a stop, goes on from there.
"""

if __name__ == "__main__":  # a mistyped flag is refused before torch is loaded
    from amc.config.ending import interruptible

    interruptible("amc.compare")
    from amc.config.command_line import at_once
    from amc.config.compare import CompareConfig

    at_once("amc.compare", CompareConfig)

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amc.allocators.greedy import greedy
from amc.allocators.uniform import uniform
from amc.config.command_line import as_json, command, flags
from amc.config.compare import CompareConfig
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.layer_by_layer import Originals
from amc.reconstruction.sensitivity import sensitivity
from amc.reporting.comparison import Attempt, draw_standings, standings_table, verdicts
from amc.runs.lock import held
from amc.runs.terminal import Bar, Terminal
from amc.runtime import weights
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json, safe_name, write_json
from amc.search.search import METHODS, Errors, Problem, Settings, search
from amc.search.trials import Limits, Trials
from amc.steps.pipeline import Pipeline, decisive, reward_function
from amc.steps.setup import allocation, choose_device, opened, outline, ready
from amc.tasks.task import load_task
from envs import Outcome, Reward
from envs.outcome import Episode

AT_ONCE: Mapping[str, Callable[[Compressor, Budget], Strategy]] = {
    "greedy": lambda compressor, budget: greedy(budget, sensitivity(compressor, budget)),
    "uniform": lambda compressor, budget: uniform(budget, sensitivity(compressor, budget)),
}
"""Methods that give one strategy: one evaluation, whatever the seed."""


def run(config: CompareConfig) -> Path:
    """The whole comparison; returns its folder.

    Raises:
        AmcError: something given cannot be used; what was finished before is in the folder.
    """
    folder, methods = config.run_dir or default_folder(config), known(config.methods)
    with held(folder):
        return _run(config, folder, methods)


def _run(config: CompareConfig, folder: Path, methods: Sequence[str]) -> Path:
    terminal = Terminal(config.quiet)
    torch.manual_seed(0)
    settings = replace(config.training, run_dir=folder)
    task, device = load_task(config.task), choose_device(config.device)
    reward = reward_function(config.reward, task)

    # The network, what can be removed from it and what it may cost, as in `amc.train`.
    data = opened(config, task, terminal)
    pipe = Pipeline(settings, data, device, terminal, task)
    given, graph = outline(pipe)
    budget = allocation(settings, graph)
    subject = ready(pipe, given, graph)
    model = subject.model
    terminal.say(*subject.overview(pipe, budget))

    # The searches, and what their winners are worth once they are cut for real.
    compressor = pipe.calibrate(graph, model)
    contest = Contest(config, pipe, compressor, budget, reward, folder)
    original = contest.accuracy(model)
    terminal.say(f"{task.name} " + ", ".join(f"{s} {task.shown(a)}" for s, a in original.items()))
    if recorded := contest.recorded(methods):
        terminal.say(f"resume   {recorded} evaluations are on record in {folder}")
    found: dict[str, list[Attempt]] = {}
    for method in methods:
        seeds = range(1 if method in AT_ONCE else config.seeds)
        with terminal.bar(method, len(seeds) * contest.evaluations(method)) as bar:
            found[method] = [contest.attempt(method, seed, bar) for seed in seeds]
    if config.apply:
        with terminal.bar("cut all", sum(len(attempts) for attempts in found.values())) as bar:
            found = {m: [contest.applied(a, bar.step) for a in found[m]] for m in found}

    # The account.
    says = verdicts(found, task)
    outcome = {"original": {"macs": graph.macs(), "accuracy": original}, "verdicts": says}
    every = [attempt for attempts in found.values() for attempt in attempts]
    write_json(folder / "compare.json", {"settings": as_json(config), **outcome, **account(every)})
    title = f"{config.model}, {config.data}, {config.preserve_ratio:g} of the MACs"
    draw_standings(found, folder / "compare.svg", title)
    terminal.table(standings_table(found, graph.macs(), task))
    terminal.say(*says, "", f"Everything is in {folder}.")
    return folder


@dataclass(frozen=True)
class Contest:
    """What all methods share; every search is on file from its first evaluation on.

    ``<method>-<seed>.jsonl`` is the record of a search, ``<method>-<seed>.json`` what it found.
    """

    config: CompareConfig
    pipe: Pipeline
    compressor: Compressor
    budget: Budget
    reward: Reward
    folder: Path

    @cached_property
    def worth(self) -> Callable[[Strategy], Outcome]:
        """The proxy; what one method has evaluated is known to the next, which counts it anew."""
        return self.pipe.worth(self.compressor)

    @cached_property
    def errors(self) -> Errors:
        """Of every group."""
        return sensitivity(self.compressor, self.budget)

    @cached_property
    def originals(self) -> Originals:
        """What all cuts aim at."""
        return self.pipe.originals(self.compressor)

    @cached_property
    def cuts(self) -> dict[str, Mapping[str, float]]:
        """Channels kept -> accuracy by split, of the strategies that were cut for real."""
        return {}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What all searches depend on."""
        settings = decisive(self.pipe.config)
        fingerprint = weights.digest(self.compressor.model)
        choice = " ".join(flags(self.config.choice))
        return {**settings, "choice": choice, "weights": fingerprint}

    def evaluations(self, method: str) -> int:
        """How many strategies the method may try with one seed."""
        return 1 if method in AT_ONCE else self.config.episodes

    def about(self, method: str, seed: int) -> dict[str, Any]:
        """What one search depends on."""
        own = {"agent": method, "seed": seed, "episodes": self.evaluations(method)}
        return {**self.settings, **own}

    def recorded(self, methods: Iterable[str]) -> int:
        """Evaluations that earlier, stopped comparisons have left behind."""
        names = [f"{m}-{s}.jsonl" for m in methods for s in range(self.config.seeds)]
        paths = [self.folder / name for name in names if (self.folder / name).is_file()]
        return sum(p.read_bytes().count(b"\n") - 1 for p in paths)  # the first is a header

    def attempt(self, method: str, seed: int, bar: Bar) -> Attempt:
        """Lets a method search once, unless it has."""
        path = self.folder / f"{method}-{seed}.json"
        content = read_json(path) if path.exists() else {}
        if content.get("about") == self.about(method, seed):
            attempt = Attempt(**content["attempt"])
            self.cuts.update({_key(attempt): attempt.cut} if attempt.cut else {})
            for _ in attempt.rewards:
                bar.step(f"best {attempt.best:.4f}")
            return attempt
        return self.keep(self.searched(method, seed, path.with_suffix(".jsonl"), bar))

    def searched(self, method: str, seed: int, record: Path, bar: Bar) -> Attempt:
        """Lets a method search once."""
        outside = 0.0

        def evaluated(strategy: Strategy) -> Outcome:
            nonlocal outside
            start = time.perf_counter()
            outcome = self.worth(strategy)
            outside += time.perf_counter() - start
            return outcome

        def show(episode: Episode) -> None:
            bar.step(f"reward {episode.reward:.4f}  best {episode.best:.4f}")

        start, limits = time.perf_counter(), Limits(self.evaluations(method))
        about = self.about(method, seed)
        trials = Trials(evaluated, self.reward, limits, record, about, show)
        if method in AT_ONCE:
            trials(AT_ONCE[method](self.compressor, self.budget))
            agent = None
        else:
            numbers = Settings(warmup_episodes=self.config.warmup_episodes)
            problem = Problem(self.budget, trials, self.errors)
            agent = search(problem, method, seed=seed, settings=numbers).agent
        seconds, best = time.perf_counter() - start - outside, trials.best
        rewards = tuple(episode.reward for episode in trials.history)
        accuracy, macs = best.outcome.score.accuracy, best.outcome.macs
        trainings = agent.trainings if agent else None
        return Attempt(
            method, seed, rewards, best.strategy, macs, accuracy, seconds, trainings=trainings
        )

    def applied(self, attempt: Attempt, step: Callable[[], None]) -> Attempt:
        """The attempt with the accuracy of its strategy cut for real."""
        key = _key(attempt)
        if key not in self.cuts:
            plan = self.compressor.plan(attempt.strategy)
            self.cuts[key] = self.accuracy(self.pipe.cut(self.compressor, plan, self.originals))
        step()
        return self.keep(replace(attempt, cut=self.cuts[key]))

    def keep(self, attempt: Attempt) -> Attempt:
        """Writes what a search found."""
        about = self.about(attempt.method, attempt.seed)
        path = self.folder / f"{attempt.method}-{attempt.seed}.json"
        write_json(path, {"about": about, "attempt": asdict(attempt)})
        return attempt

    def accuracy(self, model: nn.Module) -> dict[str, float]:
        """Of the images that the reward sees and of the test split; the score of another task."""
        splits = {"validation": self.pipe.validation, "test": self.pipe.data.test}
        return {n: self.pipe.validated(model, n, x).accuracy for n, x in splits.items()}


def known(methods: tuple[str, ...]) -> list[str]:
    """The methods, each once.

    Raises:
        AmcError: there is none of this name, or none at all.
    """
    allowed = (*METHODS, *AT_ONCE)
    for name in methods:
        if name not in allowed:
            raise AmcError(f"--methods: {name!r} is unknown; allowed: {', '.join(allowed)}")
    if not methods:
        raise AmcError(f"--methods: none given; allowed: {', '.join(allowed)}")
    return list(dict.fromkeys(methods))


def default_folder(config: CompareConfig) -> Path:
    """The folder of a comparison that was given none."""
    name = f"compare-{config.model}-{config.data}-{config.preserve_ratio:g}"
    return Path("runs") / safe_name(name)


def account(attempts: Iterable[Attempt]) -> dict[str, Any]:
    """Everything measured, as JSON values; the times apart, because they are never the same."""
    plain = [{**asdict(a), "evaluations": len(a.rewards)} for a in attempts]
    seconds = {f"{a['method']}-{a['seed']}": round(a.pop("seconds"), 3) for a in plain}
    return {"attempts": plain, "seconds": seconds}


def _key(attempt: Attempt) -> str:
    return " ".join(str(count) for count in attempt.strategy.values())


def main() -> None:
    """The command."""
    command("amc.compare", CompareConfig, run, "; the same command goes on from here")


if __name__ == "__main__":
    main()
