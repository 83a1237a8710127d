"""Code of the user's own: what it raises is one line, and what it leaves changed is put back."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from amc.errors import AmcError, BrokenCodeError
from amc.imports import one_line


@contextmanager
def blamed(said: str) -> Iterator[None]:
    """The user's code runs inside.

    Scripts exit, turn gradients off for good, or change what new tensors are; none of it lasts.

    Args:
        said: what a mistake is said of, such as ``--model nets.py:build:``.

    Raises:
        BrokenCodeError: the code raises anything, or wants the program to end.
    """
    grad, dtype, device = torch.is_grad_enabled(), torch.get_default_dtype(), _device()
    try:
        yield
    except AmcError:
        raise
    except (Exception, SystemExit) as error:
        raise BrokenCodeError(f"{said} {one_line(error)}") from error
    finally:
        if torch.is_grad_enabled() != grad:
            torch.set_grad_enabled(grad)
        if torch.get_default_dtype() != dtype:
            torch.set_default_dtype(dtype)
        if _device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)


def _device() -> torch.device:
    return torch.get_default_device()
