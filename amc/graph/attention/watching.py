"""Modes that also see the linear layers inside PyTorch's attention.

`F.multi_head_attention_forward` shows itself to a mode of torch as a single function, and what it
calls is hidden. Modes of this kind get its linear layers one by one, computed as always.
"""

from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

_WHOLE: Any = F.multi_head_attention_forward

_PARTS = FunctionType(
    _WHOLE.__code__,
    {**_WHOLE.__globals__, "has_torch_function": lambda given: False},
    _WHOLE.__name__,
    _WHOLE.__defaults__,
)
"""The same function, which does not ask whether there is a mode."""


class Watching(TorchFunctionMode):
    """A mode that sees every function that computes with weights."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Runs the function, or what it consists of, in `ran`."""
        if func is _WHOLE:
            with self:
                return _PARTS(*args, **(kwargs or {}))
        return self.ran(func, args, kwargs or {})

    def ran(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Runs a function and takes notes; returns its result."""
        return func(*args, **kwargs)
