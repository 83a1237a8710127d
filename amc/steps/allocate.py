"""Where the strategy comes from: it is given, or a budget decides."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amc.allocators.multiples import common_ratio_for
from amc.allocators.scores import Errors
from amc.allocators.strategy_file import read_strategy
from amc.allocators.uniform import uniform
from amc.config.apply import ApplyConfig
from amc.config.formats.amct_layers import is_prune_config, strategy_of, with_overrides
from amc.config.sections.recovery import StagesConfig, TrainingConfig
from amc.config.sections.search import AllocationConfig
from amc.config.train import TrainConfig, record_settings
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Plan, Strategy
from amc.graph.plan_files import load_fitting, read_plan
from amc.objectives.budget import Budget
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.sensitivity import sensitivity
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.runs.folder import record
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json
from amc.runtime.user_code import load_function
from amc.schedules.curves import load_schedule
from amc.search.answer import answer_of, name_of
from amc.search.policies import known_strategies, load_learned, save_learned
from amc.search.problem import proposed, starts
from amc.search.search import Policy
from amc.steps.candidates import Candidates, in_final
from amc.steps.job import Job
from amc.steps.limits import make_budget
from amc.steps.on_device import OnDevice
from amc.steps.search import allocation_problem, evaluator, search, trained_in
from amc.steps.setup import Network
from amc.steps.shared import shared_for


@dataclass(frozen=True)
class Allocation:
    """What decides how much every group keeps: a plan, a strategy, or a budget.

    Attributes:
        plan: channels that an earlier run has chosen.
        strategy: channels kept per group.
        budget: what a strategy may cost.
        policy: learned earlier; decides within the budget, or begins the search.
    """

    plan: Plan | None = None
    strategy: Strategy | None = None
    budget: Budget | None = None
    policy: Policy | None = None


def _check_plan(path: Path) -> None:
    """Refuses the plan of a run that only made zeros: it would leave the network as it is."""
    folder = path if path.is_dir() else path.parent
    if not read_plan(path).cuts and (folder / "masks.safetensors").is_file():
        raise AmcError(
            f"--plan {path}: that run made zeros, and a plan holds channels; to keep its zeros: "
            f"amc.train --target weights --metric const --checkpoint {folder}/pruned.safetensors"
        )


def check_files(
    config: AllocationConfig,
    training: TrainingConfig,
    stages: StagesConfig | None = None,
    allocator: str | None = None,
) -> None:
    """Reads what the settings name, before data and network take their time.

    Raises:
        AmcError: a plan, policy, strategy or function of one's own is missing or damaged.
    """
    if training.finetune is not None:
        load_function(training.finetune)
    if allocator is not None and ":" in allocator:
        load_function(allocator)
    if stages is not None and ":" in stages.schedule:
        load_schedule(stages.schedule, stages.steps)
    if config.plan is not None:
        _check_plan(config.plan)
    if config.policy is not None:
        load_learned(config.policy)
    listed_in = config.strategy
    if listed_in is not None and not listed_in.is_file():
        raise AmcError(f"--strategy {listed_in}: no such file")
    if listed_in is not None and listed_in.suffix == ".json":
        read_json(listed_in)


def overridden(graph: ChannelGraph, config: AllocationConfig) -> ChannelGraph:
    """The graph with what is said of single layers, which no search changes.

    Raises:
        AmcError: the file cannot be used.
    """
    return graph if config.overrides is None else with_overrides(graph, config.overrides)


def allocation_of(graph: ChannelGraph, config: TrainConfig | ApplyConfig) -> Allocation:
    """What the settings say of a network.

    Raises:
        AmcError: a file cannot be used.
        InfeasibleBudgetError: the target cannot be reached.
    """
    given = config.allocation
    if given.mode == "list":
        assert given.strategy is not None
        read = strategy_of if is_prune_config(given.strategy) else read_strategy
        return Allocation(strategy=read(graph, given.strategy))
    if given.plan is not None:
        return Allocation(load_fitting(given.plan, graph))
    if given.channel_ratio is not None:
        multiple = config.counts.channel_multiple
        return Allocation(strategy=common_ratio_for(graph, given.channel_ratio, multiple))
    budget = make_budget(graph, config.preserve_ratio, config)
    policy = None if given.policy is None else load_learned(given.policy)
    return Allocation(budget=budget, policy=policy)


def errors_of(job: Job, compressor: Compressor, budget: Budget) -> Errors:
    """How much every group minds being cut, at each of its allowed counts."""
    with job.terminal.bar("errors", len(budget.options)) as bar:
        return sensitivity(compressor, budget, bar.step)


def candidates(
    job: Job,
    network: Network,
    compressor: Compressor,
    allocation: Allocation,
    config: TrainConfig | ApplyConfig,
    folder: Path,
    log: TensorBoardLog,
) -> Candidates:
    """What the settings lead to; what an agent has learned is saved in the folder.

    Where latency is limited, the table is corrected on the device before, and the strategies are
    made to fit it afterwards.
    """
    budget = allocation.budget
    if budget is None:
        given = [] if allocation.strategy is None else [allocation.strategy]
        return Candidates(given, allocation.plan)
    asked = _Asked(job, network, compressor, allocation, config, folder, log)
    device = OnDevice.of(job, network, config, folder)
    if device is None:
        return asked.within(budget)
    found = asked.within(device.corrected(budget, uniform(budget)))
    assert found.budget is not None
    strategies, known = device.fitted(found.budget, found.strategies)
    first = [i for i, one in enumerate(strategies) if one not in strategies[:i]]
    return replace(
        found,
        strategies=[strategies[i] for i in first],
        budget=known,
        names=[found.names[i] for i in first] if found.names else (),
    )


@dataclass(frozen=True)
class _Asked:
    """What is asked of a run: how much every group keeps within a budget."""

    job: Job
    network: Network
    compressor: Compressor
    allocation: Allocation
    config: TrainConfig | ApplyConfig
    folder: Path
    log: TensorBoardLog

    def within(self, budget: Budget) -> Candidates:
        """What the settings lead to within a budget, judged in the regime that they say."""
        job, config = self.job, self.config
        shared = shared_for(
            job, self.network, self.compressor, [budget], config.data, self.folder,
            config.training, config.distill, self.log,
        )  # fmt: skip
        if shared is None:
            return self._decided(budget, errors_of(job, self.compressor, budget))
        budget, errors, weights = shared.band.budgets[0], shared.band.errors[0], shared.weights
        found = replace(self, compressor=weights)._decided(budget, errors)
        found = found.having_trained(search=shared.trained_macs)
        return replace(found, cut=shared.cut, compressor=weights, shared=shared.account)

    def _decided(self, budget: Budget, errors: Errors) -> Candidates:
        job, config, asked = self.job, self.config, self.config.search
        policy = self.allocation.policy
        known = known_strategies(policy, budget) if policy else ()
        if config.allocation.mode == "uniform":
            return Candidates([uniform(budget, errors)], budget=budget)
        if config.allocation.mode == "policy":
            assert policy is not None
            walked = [proposed(policy, budget, errors), *known, *starts(budget, errors)]
            return in_final(walked, "policy", budget, errors, asked)
        allocator = job.allocator or asked.allocator
        problem = allocation_problem(
            job, self.network, self.compressor, budget, errors, config, asked.episodes, self.folder
        )
        answer = answer_of(allocator, problem)
        if isinstance(answer, Mapping):
            return in_final([answer], name_of(allocator), budget, errors, asked)
        found = search(
            job, budget, errors,
            lambda: evaluator(job, self.compressor, config.training, config.distill),
            asked, config.resources, record(self.folder), self._about, self.log,
            policy, known, answer,
        )  # fmt: skip
        if found.agent:
            best = [(budget, found.best.strategy)]
            save_learned(
                self.folder, found.agent, best, [self.network.name], job.seed, found.shape
            )
        trained = {"search": trained_in(job, found)} if job.judging.regime == "finetune" else {}
        if asked.finalist_epochs:
            chosen = in_final(found.best_first, "search", budget, errors, asked)
        else:
            chosen = Candidates(found.finalists(asked.finalists, uniform(budget, errors)))
        return replace(chosen, tried=len(found.history), budget=budget, trained=trained)

    @property
    def _about(self) -> dict[str, Any]:
        """What the record of the search belongs to."""
        config = self.config
        return {
            **record_settings(config),
            "preserve_ratio": config.preserve_ratio,
            "seed": config.seed,
            "weights": self.network.fingerprint,
        }
