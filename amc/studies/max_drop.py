"""``--max-drop``: the smallest network that loses no more than is tolerated.

One budget after the other is searched, cut and trained as a whole run is; what each network loses
is measured on validation images that neither a reward nor a choice between networks has seen.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from amc.config.composed import flags
from amc.config.train import TrainConfig, record_settings
from amc.gradual.finals import finals
from amc.gradual.recover import recover
from amc.graph.plan import Plan
from amc.graph.plan_files import load_plan
from amc.reconstruction.compressor import Compressor
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.runs.network import load_pruned, save_network
from amc.runs.run import Run
from amc.runtime.errors import AmcError, InfeasibleBudgetError
from amc.runtime.feed import Feed
from amc.runtime.files import read_json, write_json
from amc.search.trials import differences
from amc.steps.allocate import allocation_of, candidates
from amc.steps.candidates import Candidates
from amc.steps.cut import cut_best
from amc.steps.job import EVALUATION_BATCH, Job
from amc.steps.setup import Network
from amc.tasks.batches import head, tail
from amc.tasks.drop import PARTS, Drop, drop_of
from amc.tasks.evaluate import Score
from amc.training.checkpoint import remove_states

PROBES = 6
"""Budgets that are tried at most."""

NEAR = 1.06
"""The search ends when the next larger network has this multiple of the chosen one's cost."""


@dataclass(frozen=True)
class Attempt:
    """A network under one budget, and what it loses.

    Attributes:
        ratio: part of the cost that may stay.
        folder: where it is.
        cut: test score before any training.
        drop: after training.
        tried: strategies that its search evaluated.
        finals: how its strategy was chosen among trained ones, if it was.
        trained: MACs, see `Candidates`.
        shared: scores of the shared weights that it comes from, if it does.
    """

    ratio: float
    folder: Path
    cut: Score
    drop: Drop
    tried: int
    finals: Sequence[Mapping[str, Any]] = ()
    trained: Mapping[str, int] = field(default_factory=dict)
    shared: Mapping[str, Any] | None = None


def held_out(job: Job) -> tuple[Job, list[tuple[Feed, Tensor]]]:
    """The job with a part of its validation images, and the others, in `PARTS` parts.

    Those that the reward may see, but no more than half, stay.

    Raises:
        AmcError: there are too few to be parted.
    """
    total = sum(len(targets) for _, targets in job.data.val)
    seen = min(job.judging.reward_images, total // 2)
    if total - seen < PARTS:
        raise AmcError(
            f"--max-drop: {total} validation images are too few; {2 * PARTS} or more are needed"
        )
    rest = tail(job.data.val, seen)
    images = head(rest, total - seen, math.ceil((total - seen) / PARTS))
    kept = head(job.data.val, seen, EVALUATION_BATCH)
    return replace(job, data=replace(job.data, val=kept)), images


def smallest(
    job: Job,
    images: list[tuple[Feed, Tensor]],
    network: Network,
    compressor: Compressor,
    run: Run[TrainConfig],
) -> tuple[Attempt, Candidates, Plan, nn.Module]:
    """The smallest network that keeps to the tolerated drop, of those that were tried.

    Args:
        job: with the validation images that may be seen.
        images: those that nothing else sees, see `held_out`.
        network: before any cut.
        compressor: statistics of it.
        run: settings and folder; every attempt has a folder within.

    Raises:
        AmcError: every network that was tried loses more; the nearest that was found is named.
    """
    config, say = run.config, job.terminal.say
    most, start = config.max_drop, config.preserve_ratio
    assert most is not None
    study = _Study(job, images, network, compressor, run)
    made: dict[float, Attempt] = {}

    def good(ratio: float) -> bool | None:
        try:
            made[ratio] = study.attempt(ratio)
        except InfeasibleBudgetError:
            return None
        drop = made[ratio].drop
        found = "keeps to it" if drop.within(most) else "loses too much"
        say(f"attempt  {ratio:g} of {config.limits.objective}: {drop}: {found}")
        return drop.within(most)

    chosen = narrowed(start, good)
    if chosen is None:
        least = min(made.values(), key=lambda one: one.drop.points + one.drop.error)
        nearest = math.ceil(10 * (least.drop.points + least.drop.error)) / 10
        raise AmcError(
            f"--max-drop {most:g}: every network that was tried loses more, one standard error "
            f"included; the nearest, {least.ratio:g} of {config.limits.objective}, loses "
            f"{least.drop}, which --max-drop {nearest:g} allows"
        )
    best, (found, plan, small) = made[chosen], study.loaded(made[chosen])
    for other in made.values():
        found = found if other is best else found.having_trained(**other.trained)
    return best, found, plan, small


def narrowed(start: float, good: Callable[[float], bool | None]) -> float | None:
    """The smallest ratio that is good, within `NEAR` or after `PROBES`; None if none is.

    Halves the ratio, or the way to the whole, until it lies between a good and a bad one; then
    the gap is halved, on a scale of factors.

    Args:
        start: the first ratio.
        good: whether a ratio is; None where it is out of reach.
    """
    low, high, ratio = 0.0, 1.0, start
    found: float | None = None
    for _ in range(PROBES):
        verdict = good(ratio)
        if verdict:
            found = high = ratio
        else:
            low = ratio
        if low and high / low <= NEAR:
            break
        ratio = round(math.sqrt(low * high) if low else high / 2, 4)
        if ratio in (low, high):
            break
    return found


class _Study:
    """Attempts of one run."""

    def __init__(
        self,
        job: Job,
        images: list[tuple[Feed, Tensor]],
        network: Network,
        compressor: Compressor,
        run: Run[TrainConfig],
    ) -> None:
        self._job, self._images, self._network = job, images, network
        self._compressor, self._run = compressor, run

    def attempt(self, ratio: float) -> Attempt:
        """The network under a budget: from an earlier, stopped run, or made now.

        Raises:
            InfeasibleBudgetError: the budget cannot be reached.
        """
        place = self._run.folder / "attempts" / f"{ratio:g}"
        about, path = self._about(ratio), place / "attempt.json"
        known = read_json(path) if path.exists() else {}
        if not differences(known.get("about") or {}, about):
            return _restored(ratio, place, known)
        made = self._made(ratio, place, about)
        write_json(
            path,
            {
                "about": about,
                "cut": asdict(made.cut),
                "drop": asdict(made.drop),
                "tried": made.tried,
                "finals": made.finals,
                "trained": made.trained,
                "shared": made.shared,
            },
        )
        remove_states(place)
        return made

    def loaded(self, attempt: Attempt) -> tuple[Candidates, Plan, nn.Module]:
        """What an attempt left behind."""
        config = self._config(attempt.ratio)
        budget = allocation_of(self._network.graph, config).budget
        plan = load_plan(attempt.folder / "plan.json")
        small = load_pruned(self._network.model, attempt.folder).eval()
        found = Candidates(
            tried=attempt.tried,
            budget=budget,
            finals=attempt.finals,
            trained=attempt.trained,
            shared=attempt.shared,
        )
        return found, plan, small

    def _made(self, ratio: float, place: Path, about: Mapping[str, Any]) -> Attempt:
        job, network, clock = self._job, self._network, self._run.clock
        config, graph = self._config(ratio), network.graph
        allocation = allocation_of(graph, config)
        place.mkdir(parents=True, exist_ok=True)
        log = TensorBoardLog(place, graph.sizes, graph.macs(), job.task)
        with clock("search"):
            found = candidates(job, network, self._compressor, allocation, config, place, log)
        with clock("finals"):
            found = finals(job, network, self._compressor, found, config, place)
        with clock("apply"):
            chosen_by = found.compressor or self._compressor
            plan, small = cut_best(job, chosen_by, found.strategies, found.plan, own=found.cut)
        cut = job.tested(small)
        with clock("finetune"):
            small, plan, macs = recover(
                job, network, small, plan, config, place, log, allocation, found.begun
            )
        log.close()
        save_network(place, plan, small, {**self._run.about, **about})
        drop = drop_of(job.task, network.model, small, self._images)
        trained = found.having_trained(finetune=macs).trained
        return Attempt(ratio, place, cut, drop, found.tried, found.finals, trained, found.shared)

    def _config(self, ratio: float) -> TrainConfig:
        return self._run.config.but(preserve_ratio=ratio, max_drop=None)

    def _about(self, ratio: float) -> dict[str, Any]:
        config = self._config(ratio)
        return {
            **record_settings(config),
            "preserve_ratio": ratio,
            "walks": config.search.walks or config.resources.workers,
            "mode": config.allocation.mode,
            "seed": config.seed,
            "stages": " ".join(flags(config, "stages")),
            "choice": " ".join(flags(config.restrictions)),
            "weights": self._network.fingerprint,
        }


def _restored(ratio: float, place: Path, known: Mapping[str, Any]) -> Attempt:
    # older versions did not write these
    more = known.get("finals", ()), known.get("trained", {}), known.get("shared")
    return Attempt(
        ratio, place, Score(**known["cut"]), Drop(**known["drop"]), known["tried"], *more
    )
