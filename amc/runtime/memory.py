"""How much memory may be held: a limit as a person writes it, the shares in it; what is freed."""

import contextlib
import ctypes
import re

from amc.runtime.errors import AmcError

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
MOST = 10**15
"""A million GB."""


KEPT = 32 << 20
"""Blocks up to this size, which is glibc's largest, come from memory that the process has."""


def keep_freed() -> bool:
    """Memory that is freed stays with the process, for what comes next; whether that can be had.

    Otherwise the C library gives it back, and every step of training gets the same pages anew and
    filled with zeros: an eighth of the time of MobileNetV2 or more (experiments/README.md).
    Linux's glibc can be told; another one goes on as it does.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        tell = ctypes.CDLL(None).mallopt
        mmap_threshold, trim_threshold = -3, -1  # of malloc.h
        return bool(tell(mmap_threshold, KEPT)) and bool(tell(trim_threshold, 2**31 - 1))
    return False


def parse_bytes(text: str, flag: str = "--memory") -> int:
    """The bytes of ``4GB`` or ``500MB``.

    Raises:
        AmcError: it is no such size.
    """
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?([KMGT]B)", text.strip().upper())
    size = float(found[1]) * UNITS[found[2]] if found else 0.0
    if size > MOST:
        raise AmcError(f"{flag} {text!r}: {as_size(MOST)} at most, or leave it out: no limit")
    if round(size) < 1:
        raise AmcError(f"{flag} {text!r}: expected a size such as 4GB or 500MB")
    return round(size)


def as_size(count: int) -> str:
    """Bytes as `parse_bytes` reads them, rounded up: a limit that is enough."""
    unit = next((name for name in ("GB", "MB") if count >= UNITS[name]), "KB")
    hundredths = -(-count * 100 // UNITS[unit])
    return f"{hundredths / 100:.10g}{unit}"


def share(limit: int | None, part: float, usual: int) -> int:
    """What one of those that hold memory may hold.

    Args:
        limit: on all of them together; None: there is none.
        part: of the limit that is its own.
        usual: what it holds without a limit, and never more.
    """
    return usual if limit is None else min(usual, int(part * limit))
