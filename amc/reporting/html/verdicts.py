"""What came of a run, in sentences: what did not work is said as plainly as what did."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from amc.measuring.slow import Slow
from amc.objectives.latency import BUSY, SLOW
from amc.reporting.html.facts import (
    MINUS,
    as_fast,
    difference,
    measured,
    percent,
    points_of,
    shown,
    where,
)
from amc.reporting.html.record import RunRecord
from amc.reporting.html.zeros import only_zeros, zero_verdicts
from amc.reporting.report import quantity

LOST = 1.0
"""Points of a score above which a loss is called one."""

UNUSED = 0.03
"""Part of the whole that a budget may leave unused without a word."""


@dataclass(frozen=True)
class Verdict:
    """A sentence, and how good what it says is."""

    tone: Literal["good", "note", "bad"]
    text: str

    @property
    def word(self) -> str:
        """The tone for those who see no colours."""
        return {"good": "Worked", "note": "Note", "bad": "Did not work"}[self.tone]


def verdicts(run: RunRecord) -> list[Verdict]:
    """All that is known of a run; of one that has not ended, that."""
    if not run.report:
        return [
            Verdict(
                "bad", "The run has not come to its end: there is no network to speak of yet."
            ),
            *_attempts(run),
            *_search(run),
        ]
    found = (_zeros, _budget, _tolerated, _score, _training, _speed, _search, _finals, _exports)
    return [one for part in found for one in part(run)]


def _zeros(run: RunRecord) -> Iterator[Verdict]:
    yield from (Verdict(tone, told) for tone, told in zero_verdicts(run))


def _budget(run: RunRecord) -> Iterator[Verdict]:
    if only_zeros(run):
        return
    limits: dict[str, Any] = run.report.get("objective") or {}
    macs, target = run.report.get("macs", {}).get("ratio"), run.report.get("target")
    if not limits and target is not None and macs is not None:  # older versions
        limits = {"macs": {"ratio": macs, "target": target, "unit": "MACs"}}
    for name, one in limits.items():
        left, allowed = one["ratio"], one["target"]
        unit = one.get("unit", name)
        told = f"{percent(left)} of the {unit} are left, {percent(allowed)} may stay."
        if left > allowed + 1e-6:
            yield Verdict("bad", f"The target is missed: {told}")
        elif left < allowed - UNUSED and run.report.get("max_drop") is None:
            multiple = run.report.get("channel_multiple") or 1
            why = f": kept channels are multiples of {multiple}" if multiple > 1 else ""
            yield Verdict("note", f"{told} The budget is not used up{why}.")
        else:
            yield Verdict("good", told)
    if not limits and macs is not None:
        yield Verdict("note", f"{percent(macs)} of the MACs are left; there was no budget.")


def _tolerated(run: RunRecord) -> Iterator[Verdict]:
    if one := run.report.get("max_drop"):
        tone: Literal["good", "bad"] = "good" if one["points"] <= one["tolerated"] else "bad"
        yield Verdict(
            tone,
            f"{quantity(one['tolerated'])} points of {run.score[0]} might be lost; "
            f"{one['points']:.2f} ± {one['error']:.2f} are, on {one['images']} images that "
            "nothing else has seen.",
        )


def _score(run: RunRecord) -> Iterator[Verdict]:
    found = run.report.get("accuracy")
    if not found:
        return
    name, percentage = run.score
    before, cut, after = (found[k] for k in ("original", "pruned", "recovered"))
    lost = before - after
    told = f"Test {name} is {shown(run, after)}, {shown(run, before)} before"
    images = run.report.get("images", 0)
    sure = ""
    if percentage and images and 0 <= after <= 1:
        error = 100 * math.sqrt(max(after * (1 - after), 1 / images) / images)
        sure = f", on {images} images: one standard error of each is about {error:.2f} points"
    if percentage:
        tone: Literal["good", "note", "bad"] = "bad" if 100 * lost > LOST else "good"
        yield Verdict(tone, f"{told} ({difference(run, -lost)}){sure}.")
    else:
        yield Verdict("note", f"{told} ({difference(run, -lost)}).")
    if round(points_of(run) * (after - cut), 2) < 0:
        yield Verdict(
            "note",
            f"Training has lowered test {name}: it was {shown(run, cut)} right after the cut. "
            "Which epoch is kept is decided on validation images.",
        )


def _training(run: RunRecord) -> Iterator[Verdict]:
    last = run.trainings[-1] if run.trainings else None
    if last is None:
        return
    scores = [score for score in last["scores"] if score is not None]
    if len(last["scores"]) < 2:
        yield Verdict("bad", "Training has diverged: the network stays as it was before.")
    elif "least" in last:
        if max(scores[last["counts_from"] :], default=-math.inf) < last["least"]:
            yield Verdict(
                "note",
                f"Training does not come above {shown(run, last['least'])} on validation images, "
                "which the same zeros at once have without any: these are the result.",
            )
    elif scores and max(scores) == scores[0] and scores.count(scores[0]) == 1:
        again = " at two learning rates" if last["again"] else ""
        yield Verdict(
            "note",
            f"Training{again} does not come above {shown(run, scores[0])} on validation images, "
            "which the network had before: it stays as it was.",
        )


def _speed(run: RunRecord) -> Iterator[Verdict]:
    macs = run.report.get("macs", {}).get("ratio", 1.0)
    for timing in measured(run.report)[-1:]:
        ratio, runtime = timing["ratio"], where(timing)
        if known := [slow for slow in map(_slow, run.report.get("slow") or ()) if slow]:
            yield from (Verdict("bad", slow) for slow in known)
            continue
        if 1 - ratio >= SLOW * (1 - macs):
            yield Verdict("good", f"{as_fast(ratio)} in {runtime}.")
            continue
        told = f"Only {as_fast(ratio)}" if ratio < 0.97 else "No faster"
        multiple = run.report.get("channel_multiple")
        hint = " Layers as small as these cost more by their number than by their MACs."
        if multiple is not None and multiple < 8:
            hint = (
                f" --channel-multiple 8 keeps counts that runtimes compute fast, not {multiple}."
            )
        yield Verdict("bad", f"{told} in {runtime} with {percent(macs)} of the MACs.{hint}")
    for timing in run.report.get("latency_ms", ()):
        if problem := timing.get("problem"):
            yield Verdict("note", f"Not timed in {where(timing)}: {problem}")
    if any(_disturbed(timing) for timing in measured(run.report)):
        yield Verdict(
            "note",
            f"The machine did other things while it was timed: turns differ by more than "
            f"{BUSY:.0%}. Time again when it is quiet.",
        )


def _slow(one: Mapping[str, Any]) -> str:
    """Why a network is not faster, as it was measured."""
    tried = {int(multiple): ratio for multiple, ratio in one["tried"].items()}
    told = Slow(**{**one, "cut": tuple(one["cut"]), "tried": tried}).line()
    return told.partition(" ")[2].strip() + "."


def _disturbed(timing: Mapping[str, Any]) -> bool:
    both = [timing[which] for which in ("original", "pruned")]
    return bool(timing.get("rounds")) and any(t["iqr"] > BUSY * t["median"] for t in both)


def _search(run: RunRecord) -> Iterator[Verdict]:
    if not run.agent:
        return
    count, first, best = len(run.episodes), run.episodes[0], run.best
    if run.warmup >= count:
        yield Verdict("bad", f"The agent has not learned: all {count} episodes were warm-up.")
    if run.settings.get("policy") or not count > 1:
        return
    if best.strategy == first.strategy:
        yield Verdict(
            "bad",
            f"The search has found nothing better than one ratio for all groups, in {count} "
            "episodes.",
        )
    else:
        yield Verdict(
            "good",
            f"The best of {count} strategies, episode {best.number}, has a reward of "
            f"{number(best.reward)}; one ratio for all groups has {number(first.reward)}.",
        )


def _finals(run: RunRecord) -> Iterator[Verdict]:
    rounds = run.report.get("finals") or ()
    if not rounds:
        return
    last = rounds[-1]
    winner = last["goes_on"][0]
    entries = {one["name"]: one for one in last["finalists"]}
    first = next(one["name"] for one in last["finalists"] if one["first"])
    count = len(rounds[0]["finalists"])
    if winner != first:
        one = entries[winner]
        yield Verdict(
            "good",
            f"{winner} is {one['difference']:.2f} ± {one['error']:.2f} better than {first} after "
            "the same training.",
        )
    else:
        yield Verdict(
            "bad",
            f"Widths do not matter here: after the same training none of {count} finalists is "
            f"better than {first} by more than a standard error. --mode uniform is as good.",
        )


def _exports(run: RunRecord) -> Iterator[Verdict]:
    for one in run.report.get("exports") or ():
        if problem := one.get("problem"):
            yield Verdict("bad", f"Not exported as {one['format']}: {problem}.")


def _attempts(run: RunRecord) -> Iterator[Verdict]:
    most = run.settings.get("max_drop")
    if most is not None and run.attempts:
        least = min(one["drop"]["points"] for one in run.attempts)
        yield Verdict(
            "note",
            f"{quantity(most)} points might be lost; the best of {len(run.attempts)} networks "
            f"that were tried loses {least:.2f}.",
        )


def number(value: float) -> str:
    """Four digits, with a true minus."""
    return f"{value:.4g}".replace("-", MINUS)
