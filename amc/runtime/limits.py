"""The numbers that settings may have; what is no number, or absurd, is refused in one line."""

import math
from numbers import Integral, Real

from amc.runtime.errors import AmcError

MOST = 10**9
"""Largest value of what has no limit of its own: more is a slip of the finger, or an attack."""

WIDEST = 16.0
"""Of --width."""

MOST_OF = {
    "seed": 2**32 - 1,  # what random generators take
    "workers": 256,
    "walks": 10_000,
    "targets": 1_000,
    "seeds": 1_000,
    "steps": 1_000,
    "batch": 10**6,
    "num_classes": 10**7,
}


def flag(name: str) -> str:
    """A setting as a word of the command line."""
    return "--" + name.replace("_", "-")


def whole(name: str, value: object, least: int) -> None:
    """Refuses what is no integer from ``least`` to the most of this setting."""
    most = MOST_OF.get(name, MOST)
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise AmcError(f"{flag(name)} must be a whole number, got {shown(value)}")
    if int(value) < least:
        raise AmcError(f"{flag(name)} must be {least} or more, got {shown(value)}")
    if int(value) > most:
        raise AmcError(f"{flag(name)} must be {most} or less, got {shown(value)}")


def within(flag: str, value: object, low: float, high: float) -> None:
    """Refuses a value outside of (low, high], and what is no number, or more than `MOST`."""
    high = min(high, MOST)
    if not low < real(flag, value) <= high:  # NaN fails the comparison
        raise AmcError(f"{flag} must be in ({low:g}, {high:g}], got {shown(value)}")


def below(flag: str, value: object, high: float = math.inf) -> None:
    """Refuses a value outside of [0, high), and what is no number, or more than `MOST`."""
    number = real(flag, value)
    if not 0 <= number < high or number > MOST:  # NaN fails the comparison
        end = f"{MOST:g}]" if high > MOST else f"{high:g})"
        raise AmcError(f"{flag} must be in [0, {end}, got {shown(value)}")


def real(flag: str, value: object) -> float:
    """The value as a float; infinite if it is too large for one.

    Raises:
        AmcError: it is no number.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise AmcError(f"{flag} must be a number, got {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if abs(value) == value else -math.inf


def shown(value: object) -> str:
    """A value for an error line; a number of a thousand digits by its size."""
    if isinstance(value, Integral) and abs(int(value)) >= 10**15:
        sign = "-" if int(value) < 0 else ""
        return f"about {sign}1e{math.floor(math.log10(abs(int(value))))}"
    if isinstance(value, float):
        return f"{value:g}"
    return repr(value) if isinstance(value, str) else str(value)
