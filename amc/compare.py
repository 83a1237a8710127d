"""``python -m amc.compare``: is the agent worth it? All ways to find a strategy, side by side.

Every method sees the same network, images, budget and proxy, and may evaluate equally many
strategies; seeds vary the search alone. The records of the searches stay in the folder of the
comparison: the same command, given again after a stop, goes on from there.
"""

if __name__ == "__main__":  # a mistyped flag is refused before torch is loaded
    from amc.config.exits import interruptible

    interruptible("amc.compare")
    from amc.config.command_line import at_once
    from amc.config.compare import CompareConfig

    at_once("amc.compare", CompareConfig)

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amc.config.command_line import command
from amc.config.compare import CompareConfig
from amc.config.composed import as_json
from amc.reporting.comparison import Attempt, comparison_table, draw_comparison, verdicts
from amc.reporting.html.study_page import write_study
from amc.runs.run import open_run
from amc.runtime.errors import AmcError
from amc.runtime.files import write_json
from amc.runtime.wording import suggestion
from amc.search.answer import CHANCELESS
from amc.search.search import METHODS
from amc.steps.cut import calibrate
from amc.steps.job import Job, open_job
from amc.steps.limits import make_budget
from amc.steps.setup import build_network, load_network, trace_network
from amc.steps.shared import shared_for
from amc.studies.contest import AT_ONCE, Contest


def run(config: CompareConfig) -> Path:
    """The whole comparison; returns its folder.

    Raises:
        AmcError: something given cannot be used; what was finished before is in the folder.
    """
    methods = known(config.methods)
    with open_run(config) as opened:
        return compare(open_job(config, opened.terminal), config, methods)


def compare(job: Job, config: CompareConfig, methods: Sequence[str]) -> Path:
    """Lets the methods compete; everything is in the folder of the settings."""
    terminal, task, folder = job.terminal, job.task, config.folder

    # The network, what can be removed from it and what it may cost, as in `amc.train`.
    given = build_network(job, config.network)
    job = job.for_network(given)
    graph = trace_network(job, given, config.restrictions)
    budget = make_budget(graph, config.preserve_ratio, config)
    network = load_network(job, given, graph, config.network, config.data)
    terminal.say(*network.overview(job, budget))

    # The searches, and what their winners are worth once they are cut for real.
    compressor = calibrate(job, graph, network.model)
    shared, own = shared_for(job, network, compressor, [budget], config.data, folder), None
    if shared:
        compressor, budget, own = shared.weights, shared.band.budgets[0], shared.cut
    contest = Contest(config, job, network, compressor, budget, folder, own)
    original = contest.accuracy(network.model)
    terminal.say(f"{task.name} " + ", ".join(f"{s} {task.shown(a)}" for s, a in original.items()))
    if recorded := contest.recorded(methods):
        terminal.say(f"resume   {recorded} evaluations are on record in {folder}")
    found: dict[str, list[Attempt]] = {}
    for method in methods:
        seeds = range(1 if method in CHANCELESS else config.seeds)
        with terminal.bar(method, len(seeds) * contest.evaluations(method)) as bar:
            found[method] = [contest.attempt(method, seed, bar) for seed in seeds]
    if config.apply:
        with terminal.bar("cut all", sum(len(attempts) for attempts in found.values())) as bar:
            found = {m: [contest.applied(a, bar.step) for a in found[m]] for m in found}

    # The account.
    says = verdicts(found, task)
    score = {"name": task.name, "percent": task.percent}
    outcome = {
        "score": score,
        "original": {"macs": graph.macs(), "accuracy": original},
        "verdicts": says,
    }
    every = [attempt for attempts in found.values() for attempt in attempts]
    write_json(folder / "compare.json", {"settings": as_json(config), **outcome, **account(every)})
    title = f"{network.name}, {config.data.data}, {config.preserve_ratio:g} of the MACs"
    draw_comparison(found, folder / "compare.svg", title)
    write_study(folder)
    terminal.table(comparison_table(found, graph.macs(), task))
    terminal.say(*says, "", f"Everything is in {folder}; look at {folder / 'report.html'}.")
    return folder


def known(methods: tuple[str, ...]) -> list[str]:
    """The methods, each once.

    Raises:
        AmcError: there is none of this name, or none at all.
    """
    allowed = (*METHODS, *AT_ONCE)
    for name in methods:
        if name not in allowed:
            near = suggestion(name, allowed)
            raise AmcError(f"--methods: {name!r} is unknown; allowed: {', '.join(allowed)}{near}")
    if not methods:
        raise AmcError(f"--methods: none given; allowed: {', '.join(allowed)}")
    return list(dict.fromkeys(methods))


def account(attempts: Iterable[Attempt]) -> dict[str, Any]:
    """Everything measured, as JSON values; the times apart, because they are never the same."""
    plain = [{**asdict(a), "evaluations": len(a.rewards)} for a in attempts]
    seconds = {f"{a['method']}-{a['seed']}": round(a.pop("seconds"), 3) for a in plain}
    return {"attempts": plain, "seconds": seconds}


def main() -> None:
    """The command."""
    command(
        "amc.compare",
        CompareConfig,
        run,
        "; the same command goes on from here",
        lambda folder: (folder / "compare.json").read_text(),
    )


if __name__ == "__main__":
    main()
