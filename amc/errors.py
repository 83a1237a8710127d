"""What a user can get wrong, as exceptions whose text is the one line the user sees."""


class AmcError(ValueError):
    """Something given cannot be used; the message says where, what, and what is allowed."""


class UnsupportedModelError(AmcError):
    """The network cannot be traced or cut at all; the message names the line that stops it."""


class InfeasibleBudgetError(AmcError):
    """No allowed channel counts meet the target; the message names the nearest feasible one."""


class Lost(BaseException):
    """The other ranks are gone; no `except Exception` may take this for a failure of its own."""
