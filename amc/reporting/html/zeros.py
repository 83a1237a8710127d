"""Zeros among weights or blocks, as the page of a run tells of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from amc.reporting.html import charts
from amc.reporting.html.facts import Card, large, percent, size
from amc.reporting.html.record import RunRecord
from amc.reporting.html.render import Chart, drawn


@dataclass(frozen=True)
class ZeroRow:
    """A weight, and what is left of it as parts of the largest one."""

    name: str
    shape: str
    weights: str
    zeros: str
    level: float
    before: float
    after: float


def account(run: RunRecord) -> Mapping[str, Any]:
    """What the report says of zeros; empty if none were made."""
    return run.report.get("sparsity") or {}


def only_zeros(run: RunRecord) -> bool:
    """Whether nothing was removed."""
    return bool(account(run)) and run.report.get("params", {}).get("ratio") == 1


def zero_rows(run: RunRecord) -> list[ZeroRow]:
    """The weights, in the order in which they work."""
    layers = account(run).get("layers") or ()
    most = max((one["weights"] for one in layers), default=1) or 1
    return [
        ZeroRow(
            one["name"],
            " × ".join(map(str, one["shape"])),  # noqa: RUF001
            f"{one['weights']:,}",
            f"{one['zeros']:,}",
            one["level"],
            one["weights"] / most,
            (one["weights"] - one["zeros"]) / most,
        )
        for one in layers
    ]


def zero_cards(run: RunRecord) -> Iterator[Card]:
    """What is not zero, and the file once it is compressed."""
    found = account(run)
    if not found:
        return
    whole, left = found["weights"], found["weights"] - found["zeros"]
    change = f"{percent(found['reached'])} zeros"
    yield Card("Weights not zero", large(left), large(whole), change, left / whole, left)
    if packed := found.get("zip_bytes"):
        before, after = packed["original"], packed["pruned"]
        part = after / before
        yield Card(
            "File, compressed", size(after), size(before), f"{percent(part)} left", part, after
        )


def zero_lead(run: RunRecord) -> str:
    """How they came about, in half a line."""
    found = account(run)
    units = "weights" if found["units"] == "weights" else f"blocks of {found['units']}"
    goal = "those that there were" if found["metric"] == "const" else percent(found["target"])
    return f"Zeros among {units}, by {found['metric']}, {found['schedule']}. Target: {goal}."


def zero_verdicts(run: RunRecord) -> Iterator[tuple[Literal["good", "note", "bad"], str]]:
    """(tone, sentence)."""
    found = account(run)
    if not found:
        return
    reached, target, total = found["reached"], found["target"], found["weights"]
    told = f"{percent(reached)} of {total:,} weights are zero, {percent(target)} were asked for."
    near = reached >= target - 1 / total or found["units"] != "weights"
    yield ("good" if near else "bad"), told
    yield (
        "note",
        "Zeros are stored and computed like other weights: the file shrinks when it is "
        "compressed; time does where hardware and runtime leave zeros out.",
    )


def level_chart(run: RunRecord) -> Chart | None:
    """The part that is zero, epoch by epoch."""
    epochs: list[float] = list(account(run).get("epochs") or ())
    if len(epochs) < 2:
        return None
    alt = (
        f"The part of the weights that is zero: {percent(epochs[0])} to begin with, "
        f"{percent(epochs[-1])} after {len(epochs) - 1} epochs."
    )
    draw = partial(charts.levels, epochs)
    return drawn("levels", "Zeros by epoch of training", draw, alt)
