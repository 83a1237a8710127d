"""The search for a strategy, and the other ways to get candidates for the cut."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amc.allocators.problem import AllocationProblem, Proposals
from amc.allocators.scores import Errors
from amc.config.apply import ApplyConfig
from amc.config.compare import CompareConfig
from amc.config.sections.recovery import DistillConfig, TrainingConfig
from amc.config.sections.search import AllocationConfig, ResourcesConfig, SearchConfig
from amc.config.train import TrainConfig
from amc.data import images_in
from amc.graph.plan import Strategy
from amc.metrics import Evidence
from amc.objectives.budget import Budget
from amc.reconstruction.compressor import Compressor
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.runs.history import SEARCH, Phases
from amc.runtime.files import write_json
from amc.search import evaluator as on_statistics
from amc.search.answer import knowledge
from amc.search.importance import importance, losses
from amc.search.problem import Found, Problem
from amc.search.search import Policy, Settings
from amc.search.search import search as search_within
from amc.search.trials import Limits, Trials
from amc.search.workers import workers
from amc.steps.job import Job
from amc.steps.setup import Network
from amc.tasks.task import Task
from amc.training.short_training import ShortTraining
from envs import Episode, Outcome


def allocation_problem(
    job: Job,
    network: Network,
    compressor: Compressor,
    budget: Budget,
    errors: Errors,
    config: TrainConfig | ApplyConfig | CompareConfig,
    episodes: int,
    folder: Path,
    seed: int | None = None,
) -> AllocationProblem:
    """What an allocator is asked; what it learns is saved in the folder.

    Raises:
        AmcError: what an earlier run has learned cannot be used here.
    """
    evidence = Evidence(
        compressor.graph, compressor.model, compressor.stats, job.seed, job.images, job.task
    )
    seen = {**asdict(config.data), **asdict(config.reconstruction)}
    judged = {**seen, **asdict(config.reward), "weights": network.fingerprint}
    about = {"ranking": {"metric": seen["metric"]}, "score_curves": judged}
    given = config.allocation if not isinstance(config, CompareConfig) else AllocationConfig()
    paths = {"ranking": given.ranking, "score_curves": given.score_curves}

    def save(name: str, content: Mapping[str, Any]) -> None:
        kind = {"format": f"amc-{name}/1", "about": about[name]}
        write_json(folder / f"{name}.json", {**kind, **content})

    return AllocationProblem(
        budget,
        errors,
        lambda: importance(job.metric, evidence, compressor, budget, errors),
        lambda: losses(job.metric, evidence, budget),
        job.seed if seed is None else seed,
        episodes,
        knowledge(paths, about),
        save,
    )


def evaluator(
    job: Job, compressor: Compressor, training: TrainingConfig, distill: DistillConfig
) -> Callable[[Strategy], Outcome]:
    """What an episode measures: the network after the cut, or after a little training."""
    quick = None
    if job.judging.regime == "finetune":
        quick = ShortTraining.of(
            job.data.train,
            job.judging.reward_steps,
            compressor.model if distill.distill else None,
            job.task,
            learning_rate=training.rate_for(compressor.graph),
            temperature=distill.temperature,
            weight=distill.distill_weight,
            clip=training.clip,
        )
    return on_statistics.evaluator(
        compressor, job.validation, job.reconstruction.bn_adapt, quick, job.task
    )


def search(
    job: Job,
    budget: Budget,
    errors: Errors,
    evaluate: Callable[[], Callable[[Strategy], Outcome]],
    config: SearchConfig,
    resources: ResourcesConfig,
    path: Path,
    about: Mapping[str, Any],
    log: TensorBoardLog,
    policy: Policy | None = None,
    known: Sequence[Strategy] = (),
    proposals: Proposals | None = None,
) -> Found:
    """The best strategy within the budget.

    Args:
        job: the run.
        budget: what a strategy may cost.
        errors: of every group at its allowed counts.
        evaluate: makes the function that measures a strategy.
        config: what tries strategies, and how many.
        resources: time and processes.
        path: file that makes it possible to go on after a stop.
        about: what the outcomes depend on.
        log: is told of every episode.
        policy: learned earlier, to begin with.
        known: strategies to begin with, see `amc.search.search.search`.
        proposals: of an allocator that is no agent.
    """
    minutes, walks = resources.time_limit, config.walks or resources.workers
    limits = Limits(config.episodes, minutes and 60 * minutes, config.patience)
    about = {**about, "walks": walks, "policy": policy and policy.digest}
    with job.terminal.bar("search", config.episodes) as bar:
        judge = evaluate()

        def show(episode: Episode) -> None:
            log.episode(episode)
            bar.step(f"reward {episode.reward:.4f}  best {episode.best:.4f}")

        trials = Trials(judge, job.reward, limits, path, about, show, budget.allows)
        phases = Phases()

        def learned(logged: Mapping[str, Any]) -> None:
            phases.after(len(trials.history), logged)
            log.learned(logged)

        if trials.recorded:
            job.terminal.say(f"resume   {trials.recorded} episodes are on record")
        with workers(judge, resources.workers) as measure:
            try:
                found = search_within(
                    Problem(budget, trials, errors),
                    config.allocator,
                    seed=job.seed,
                    settings=Settings(warmup_episodes=config.warmup_episodes),
                    policy=policy,
                    known=known,
                    measure=measure,
                    walks=walks,
                    on_learn=learned,
                    proposals=proposals,
                    prior=config.prior,
                )
            except KeyboardInterrupt:
                if trials.history:
                    job.terminal.say(so_far(trials, budget, job.task))
                raise
    if found.agent:
        kept = phases.as_json(config.allocator, len(found.history), limits.episodes, walks)
        write_json(path.with_name(SEARCH), kept)
    if found.shape:
        job.terminal.say(f"prior    {found.shape}")
    if found.agent and not found.agent.trainings:
        job.terminal.say(
            f"agent    has not learned: all {len(found.history)} episodes were warm-up"
        )
    return found


def trained_in(job: Job, found: Found) -> int:
    """Forward MACs of all images that episodes were trained on, `reward_steps` batches each.

    A strategy that was tried again was not trained again.
    """
    stream, steps = job.data.train, job.judging.reward_steps
    different = {tuple(sorted(e.strategy.items())): e.outcome.macs for e in found.history}
    return sum(different.values()) * steps * images_in(stream) // len(stream)


def so_far(trials: Trials, budget: Budget, task: Task) -> str:
    """The state of a search that was stopped, in one line."""
    best = trials.best
    return (
        f"stopped after {len(trials.history)} of {trials.limits.episodes} episodes; best so far: "
        f"episode {best.number}, reward {best.reward:.4f}, {task.name} "
        f"{task.shown(best.outcome.score.accuracy)}, MACs "
        f"{best.outcome.macs / budget.graph.macs():.3f}"
    )
