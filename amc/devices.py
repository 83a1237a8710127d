"""The device that ``--device`` names."""

import torch

from amc import ranks
from amc.errors import AmcError


def choose_device(name: str) -> torch.device:
    """The device to run on.

    Raises:
        AmcError: it is unknown or not there.
    """
    if own := ranks.device(name):
        return own
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise AmcError(f"--device {name!r} cannot be used here: {first}") from None
    return device
