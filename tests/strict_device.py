"""A device that is not there, for what would only show on a GPU.

Its tensors keep their numbers on the CPU and compute there, to the same bits. What they do not do
is what a GPU would not: compute with a tensor of the CPU, or become an array. What a GPU would
have to wait for, numbers that come back, is counted by the function of the project that asked.
"""

import copy
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

import amc

aten = torch.ops.aten
HERE, ELSEWHERE = torch.device("cpu"), torch.device("lazy", 0)
"""The second is a name that PyTorch knows and has nothing behind; its backward pass runs on the
threads of the CPU."""

ACROSS = (aten._to_copy.default, aten.copy_.default)
"""Operators that copy from one device to another."""

INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default,
           aten._index_put_impl_.default)  # fmt: skip
"""Operators that take indices from any device."""

returned: Counter[str] = Counter()
"""How often numbers came back, by the function of the project that waited for them."""


class Away(Tensor):
    """A tensor elsewhere."""

    __slots__ = ("inner",)
    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Away":
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=ELSEWHERE,
        )  # fmt: skip
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carry_out(func, args, kwargs or {})

    def tolist(self) -> Any:
        note("tolist")
        return self.inner.tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()


class Elsewhere(TorchDispatchMode):
    """Inside, tensors can be made elsewhere."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carry_out(func, args, kwargs or {})


def carry_out(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operator: on the numbers, after a look at where they are."""
    flat, form = tree_flatten((args, kwargs))
    away = [t for t in flat if isinstance(t, Away)]
    here = [t for t in flat if isinstance(t, Tensor) and not isinstance(t, Away) and t.ndim]
    if away and here and func not in (*ACROSS, *INDEXED):
        shapes = ", ".join(f"{t.device} {list(t.shape)}" for t in (*away, *here))
        raise RuntimeError(f"{func}: tensors on two devices: {shapes}")

    where = bool(away)
    if func is aten.copy_.default or func in INDEXED:
        where = isinstance(args[0], Away)
    if (wanted := kwargs.get("device")) is not None:
        where = torch.device(wanted).type == ELSEWHERE.type
    if away and (func is aten._local_scalar_dense.default or (func in ACROSS and not where)):
        note(str(func))

    args, kwargs = tree_unflatten([t.inner if isinstance(t, Away) else t for t in flat], form)
    found = func(*args, **{**kwargs, "device": HERE} if wanted is not None else kwargs)
    owners = {id(t.inner): t for t in away}

    def outward(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        if id(one) in owners:  # computed in place
            return owners[id(one)]
        return Away(one) if where else one

    return tree_map(outward, found)


def note(what: str) -> None:
    """Counts a number that came back, under the function of ours that asked for it."""
    ours, caller = Path(amc.__file__).parent, sys._getframe(1)
    stack = (frame for frame, _ in traceback.walk_stack(caller))
    asked = next((f for f in stack if ours in Path(f.f_code.co_filename).parents), caller)
    returned[f"{Path(asked.f_code.co_filename).name}:{asked.f_code.co_name} {what}"] += 1


@contextmanager
def reachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Inside, ``torch.device("lazy")`` can be computed on.

    Five things of PyTorch would look behind the tensors: `torch.tensor` and `torch.as_tensor`,
    which make them in C++, inference mode, `torch.export`, and random numbers, which a generator
    of the CPU draws here; threads begin without the mode.
    """
    export, infer, work = torch.export.export, torch.inference_mode, threading.Thread.run

    def made(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def make_and_move(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
            if device is None or torch.device(device).type != ELSEWHERE.type:
                return make(*args, **kwargs, **({} if device is None else {"device": device}))
            return make(*args, **kwargs).to(device)

        return make_and_move

    def exported(model: nn.Module, *inputs: Any, **how: Any) -> Any:
        model = copy.deepcopy(model)
        for module in model.modules():
            for held in (module._parameters, module._buffers):
                held.update({name: brought(t) for name, t in held.items()})
        with _disable_current_modes():
            return export(model, *tree_map(brought, inputs), **how)

    class Generator(torch.Generator):
        def __new__(cls, device: Any = HERE) -> Any:
            elsewhere = torch.device(device).type == ELSEWHERE.type
            return super().__new__(cls, HERE if elsewhere else device)

    def worked(thread: threading.Thread) -> None:
        with Elsewhere():
            work(thread)

    for make in ("tensor", "as_tensor"):
        monkeypatch.setattr(torch, make, made(getattr(torch, make)))
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch.export, "export", exported)
    monkeypatch.setattr(
        torch, "inference_mode", lambda on=True: torch.no_grad() if on is True else infer(on)
    )
    monkeypatch.setattr(threading.Thread, "run", worked)
    returned.clear()
    with Elsewhere():
        yield returned


def brought(one: Any) -> Any:
    """A tensor, back; not counted."""
    if not isinstance(one, Away):
        return one
    inner = one.inner.detach()
    if isinstance(one, nn.Parameter):
        return nn.Parameter(inner, one.requires_grad)
    return inner
