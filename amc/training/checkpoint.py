"""The state of a training in a file, so that it can go on after a stop."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from amc.runtime.errors import AmcError
from amc.runtime.files import write_atomically


@dataclass(frozen=True)
class Checkpoint:
    """A file of tensors, and what they belong to.

    Attributes:
        path: of the file, safetensors.
        about: what the training depends on, JSON values; a file of another one is not used.
    """

    path: Path
    about: Mapping[str, Any]

    def save(self, state: Mapping[str, Tensor]) -> None:
        """Replaces the file, atomically."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
        write_atomically(self.path, save(tensors, {"about": self._key}))

    def load(self) -> dict[str, Tensor] | None:
        """What was saved; None if there is no file of this training.

        Raises:
            AmcError: the file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                if (file.metadata() or {}).get("about") != self._key:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError) as error:
            raise AmcError(
                f"{self.path}: corrupt or unreadable: {error}; without it the training begins anew"
            ) from None

    @property
    def _key(self) -> str:
        return json.dumps(dict(self.about), sort_keys=True)


def remove_states(folder: Path, name: str = "*") -> None:
    """Removes the states of trainings whose result has been written, and those of finalists.

    Args:
        folder: of the run.
        name: of one training; without, of all.
    """
    for path in folder.glob(f"training-{name}.safetensors"):
        path.unlink()
    if name == "*":
        for path in folder.glob("finals/final-*/*"):
            path.unlink()
        for place in (*folder.glob("finals/final-*"), folder / "finals"):
            with contextlib.suppress(OSError):  # not there, or something of another hand within
                place.rmdir()
