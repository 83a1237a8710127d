"""Curves: what part of its channels a group still has when a part of the steps is over.

Levels are parts that are gone, densities parts that are left: density = 1 - level. With p the part
of the steps that are over, d the density to begin with (1, or 1 - `--schedule-init`) and f the
final one:

    linear             d - (d - f) p
    agp                f + (d - f) (1 - p)^3      Zhu and Gupta 2017, arXiv:1710.01878, eq. 1
    exponential        d (f / d)^p                NNCF
    exponential-bias   d - (d - f) (1 - exp(-k p)) / (1 - exp(-k)), three quarters of the final
                       level at p = 1/8                  NNCF, its solver replaced by bisection
    polynomial         f + (d - f) (1 - p)^power, or convex: d - (d - f) p^power              NNCF
    multistep          1 - (1 - f) part, the next of the given parts in every step
    one-shot, baseline f

A group that is to keep more than d has f from the first step on.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from amc.runtime.errors import AmcError
from amc.runtime.user_code import load_function, user_code

Schedule = Callable[[float, float], float]
"""(final density in (0, 1], part of the steps that is over, in (0, 1]) -> density; not increasing
in the latter, and the final density at 1."""

HALFWAY = 0.75
"""Part of the final level that the biased exponential has reached after an eighth of the steps."""

FLAT = 1e-6
"""A biased exponential with a smaller rate is a straight line as far as numbers can tell."""

POWER = 0.9
"""Of polynomial, as NNCF has it."""

EXACT = 1e-9
"""Rounding errors of a progress."""

SINGLE = 1e-6
"""Rounding errors of a user's density, which may be of single precision."""


def one_shot(final: float, progress: float) -> float:
    """All at once."""
    return final


def linear(final: float, progress: float, start: float = 1.0) -> float:
    """The same number of channels in every step."""
    start = max(start, final)
    return start - (start - final) * progress


def agp(final: float, progress: float, start: float = 1.0) -> float:
    """Automated gradual pruning: much at first, less and less later."""
    start = max(start, final)
    return final + (start - final) * (1 - progress) ** 3


def exponential(final: float, progress: float, start: float = 1.0) -> float:
    """The same part of what is left in every step."""
    start = max(start, final)
    return float(start * (final / start) ** progress)


def exponential_bias(final: float, progress: float, start: float = 1.0) -> float:
    """Three quarters of the final level after an eighth of the steps.

    Where no exponential does that (see `biased_rate`), `exponential`.
    """
    start, rate = max(start, final), biased_rate(final, start)
    if rate is None:
        return exponential(final, progress, start)
    cut = (1 - math.exp(-rate * progress)) / (1 - math.exp(-rate))
    return start - (start - final) * cut


def polynomial(
    final: float, progress: float, start: float = 1.0, power: float = POWER, convex: bool = False
) -> float:
    """A power of what is left of the steps; convex: of those that are over."""
    start = max(start, final)
    if convex:
        return float(start - (start - final) * progress**power)
    return float(final + (start - final) * (1 - progress) ** power)


def multistep(final: float, progress: float, parts: Sequence[float] = (0.5, 0.8)) -> float:
    """In each of as many steps as parts and one more, the next part of all cuts has been made."""
    step = math.ceil(progress * (len(parts) + 1) - EXACT)
    return final if step > len(parts) else 1 - (1 - final) * parts[step - 1]


SCHEDULES: Mapping[str, Callable[..., float]] = {
    "one-shot": one_shot,
    "baseline": one_shot,
    "linear": linear,
    "agp": agp,
    "exponential": exponential,
    "exponential-bias": exponential_bias,
    "polynomial": polynomial,
    "multistep": multistep,
}
"""Each is a `Schedule`, with further parameters that have defaults. ``adaptive`` is none: how far
it goes is found out step by step, see `amc.gradual.recover`."""


def biased_rate(final: float, start: float = 1.0) -> float | None:
    """The rate k of the biased exponential; None where there is none.

    With u = exp(-k / 8) and c the part of all cuts that is made at p = 1/8, it is the root in
    (0, 1) of ``u - c u^8 + c - 1``; u = 1 is a root too, and of no use. There is one for c > 1/8,
    that is for an initial level below 5/7 of the final one. NNCF's solver does not converge for 49
    and 99 steps; bisection does.
    """
    level, first = 1 - final, 1 - start
    if level <= first:
        return None
    made = 1 - (1 - HALFWAY) * (level / (level - first))
    if made <= 1 / 8:
        return None
    low, high = 0.0, max(0.9, (1 / (8 * made)) ** (1 / 7))  # from its maximum on it falls to u = 1
    for _ in range(100):
        u = (low + high) / 2
        low, high = (u, high) if u - made * u**8 + made - 1 < 0 else (low, u)
    rate = -8 * math.log(low)
    return rate if rate > FLAT else None


def densities(
    schedule: Schedule, final: float, steps: int, from_start: bool = False
) -> list[float]:
    """Part of the channels that is left after each step, not increasing, ending at ``final``.

    Args:
        schedule: the curve.
        final: part that is left at the end, in (0, 1].
        steps: how many.
        from_start: the first step is at the beginning of the curve, p = 0, and the others divide
            it (NNCF: T = steps - 1). Otherwise all divide it, and the first is at p = 1 / steps.
    """
    if from_start:
        progress = [i / (steps - 1) for i in range(steps - 1)]
    else:
        progress = [(i + 1) / steps for i in range(steps - 1)]
    return [*(schedule(final, p) for p in progress), final]


def load_schedule(name: str, steps: int) -> Schedule:
    """A function of the user's, ``module:function``, tried out; see `users_schedule`."""
    return users_schedule(name, load_function(name), steps)


def users_schedule(name: str, function: Schedule, steps: int) -> Schedule:
    """A function of the user's, tried out.

    Args:
        name: what a mistake is said of.
        function: of (final density, progress).
        steps: how many there will be.

    Raises:
        AmcError: it fails, or what it returns is no density or increases.
    """

    def schedule(final: float, progress: float) -> float:
        with user_code(f"--schedule {name}:"):
            found = float(function(final, progress))
        if not final * (1 - SINGLE) <= found <= 1 + SINGLE:  # NaN fails the comparison
            raise AmcError(
                f"--schedule {name}: gave {found:g} for final density {final:g} and progress "
                f"{progress:g}; allowed is {final:g} to 1"
            )
        return min(1.0, max(final, found))

    for final in (0.1, 0.5, 1.0):
        curve = [1.0, *(schedule(final, (i + 1) / steps) for i in range(steps))]
        for number, (before, after) in enumerate(pairwise(curve), 1):
            if after > before + SINGLE:
                raise AmcError(
                    f"--schedule {name}: rises from {before:g} to {after:g} in step {number} of "
                    f"{steps} for final density {final:g}; it must not"
                )
        if abs(curve[-1] - final) > SINGLE:
            raise AmcError(
                f"--schedule {name}: ends at {curve[-1]:g} for final density {final:g}; at "
                "progress 1 it must be the final density"
            )
    return schedule
