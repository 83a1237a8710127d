"""``python -m amc.apply``: what earlier runs learned, for other budgets, networks and weights.

A policy gives a strategy without any search, or a head start to a short one; a plan is carried out
again on another checkpoint of its network, reconstructed from that one's data.
"""

if __name__ == "__main__":  # a mistyped flag is refused before torch is loaded
    from amc.config.exits import interruptible

    interruptible("amc.apply")
    from amc.config.apply import ApplyConfig
    from amc.config.command_line import at_once

    at_once("amc.apply", ApplyConfig)

from pathlib import Path

from torch import nn

from amc.config.apply import ApplyConfig
from amc.config.command_line import only_result, parse
from amc.config.exits import exit_with_one_line
from amc.gradual.recover import recover
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.runs.folder import resume_command
from amc.runs.run import Run, open_run
from amc.steps.allocate import allocation_of, candidates, check_files
from amc.steps.cut import calibrate, cut_best
from amc.steps.job import Job, open_job
from amc.steps.result import Result, finish
from amc.steps.setup import build_network, ready, trace_network


def run(config: ApplyConfig) -> Path:
    """Applies a policy or a plan; returns the run folder.

    Raises:
        AmcError: something given cannot be used; what was finished before is in the folder.
    """
    with open_run(config) as opened:
        config = opened.config
        check_files(config.allocation, config.training)
        job = open_job(config, opened.terminal)
        apply(job, build_network(job, config.network), opened)
        return opened.folder


def apply(job: Job, given: nn.Module, run: Run[ApplyConfig]) -> Result:
    """The cut that a policy or a plan gives, on a network and data in memory."""
    config, job = run.config, job.for_network(given)

    # Does the plan fit the network, or the budget the policy?
    graph = trace_network(job, given, config.restrictions)
    allocation = allocation_of(graph, config)
    network, original = ready(job, given, graph, run, allocation.budget)

    # The channels of the plan; or what the policy walks to, and what it knows.
    with run.clock("calibrate"):
        compressor = calibrate(job, graph, network.model)
    log = TensorBoardLog(run.folder, graph.sizes, graph.macs(), job.task)
    with run.clock("search"):
        found = candidates(job, network, compressor, allocation, config, run.folder, log)
    with run.clock("apply"):
        chosen_by = found.compressor or compressor
        plan, pruned = cut_best(job, chosen_by, found.strategies, found.plan, own=found.cut)
    run.save_strategy(plan.strategy, graph.channels)
    run.save(plan, pruned)
    cut = job.tested(pruned)

    # Accuracy comes back.
    with run.clock("finetune"):
        pruned, plan, macs = recover(job, network, pruned, plan, config, run.folder, log)
    run.save(plan, pruned)
    found = found.having_trained(finetune=macs)
    return finish(job, run, log, network, found, plan, pruned, (original, cut))


def main() -> None:
    """The command; a mistake of the user's ends it with one line and exit status 1."""
    config: ApplyConfig | None = None
    with exit_with_one_line("amc.apply", resume=lambda: resume_command(config)):
        config = parse(ApplyConfig, "amc.apply")
        with only_result(config.machine.json) as tell:
            folder = run(config)
            tell((folder / "report.json").read_text)


if __name__ == "__main__":
    main()
