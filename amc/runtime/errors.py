"""What a user can get wrong, as exceptions whose text is the one line the user sees."""

import re


class AmcError(ValueError):
    """Something given cannot be used; the message says where, what, and what is allowed.

    Examples:
        >>> import amc, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> try:
        ...     amc.trace(model, torch.zeros(1, 3, 8, 8))
        ... except amc.AmcError as error:
        ...     print(error)
        example_inputs must be a tuple such as (images,), got Tensor

    It is one line whatever is quoted in it: line breaks are spaces, and of a number of a thousand
    digits the first are shown.
    """

    def __init__(self, message: object = "") -> None:
        line = " ".join(str(message).splitlines())
        super().__init__(re.sub(r"\d{40,}", _shortened, line))


def _shortened(number: re.Match[str]) -> str:
    return f"{number[0][:12]}... ({len(number[0])} digits)"


class BrokenCodeError(AmcError):
    """Code of the user's own fails, or a loader gives what cannot be used, perhaps hours later.

    Attributes:
        kept: a run folder keeps what was computed before; once mended, ``--resume`` goes on.
    """

    kept = False


class UnsupportedModelError(AmcError):
    """The network cannot be traced or cut at all; the message names the line that stops it."""


class InfeasibleBudgetError(AmcError):
    """No allowed channel counts meet the target; the message names the nearest feasible one."""


class Lost(BaseException):
    """The other ranks are gone; no `except Exception` may take this for a failure of its own."""


class OutputLost(BaseException):
    """Standard output takes no more; no `except Exception` may take it for a failure of its own.

    Attributes:
        closed: nobody reads it any more, as after ``| head -1``.
    """

    def __init__(self, reason: OSError) -> None:
        self.closed = isinstance(reason, BrokenPipeError)
        super().__init__(f"standard output cannot be written: {reason.strerror}")
