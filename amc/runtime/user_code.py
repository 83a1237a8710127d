"""Functions of the user's own, named on the command line."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from amc.runtime.errors import AmcError, BrokenCodeError
from amc.runtime.files import expanded

_IN_MEMORY: dict[str, Callable[..., Any]] = {}


@contextmanager
def in_memory(spec: str, function: Callable[..., Any]) -> Iterator[None]:
    """While inside, `load_function` knows the function by this name, which nobody imports."""
    _IN_MEMORY[spec] = function
    try:
        yield
    finally:
        del _IN_MEMORY[spec]


def load_function(spec: str) -> Callable[..., Any]:
    """Import the function that `spec` names; this runs the module it is in.

    Args:
        spec: `package.module:function`, for what Python can import, or `path/to/file.py:function`.

    Raises:
        AmcError: No such module, file or function, or the import itself failed.
    """
    if spec in _IN_MEMORY:
        return _IN_MEMORY[spec]
    function: Callable[..., Any] = load_object(spec)
    if not callable(function):
        source, _, name = spec.rpartition(":")
        raise AmcError(f"{spec}: {source} has, but not as a function, {name}")
    return function


def load_object(spec: str) -> Any:
    """Import what `spec` names, a function or anything else; see `load_function`.

    Raises:
        AmcError: No such module, file or name, or the import itself failed.
    """
    source, _, name = spec.rpartition(":")
    if not source or not name.isidentifier():
        raise AmcError(
            f"{spec}: not the name of a function, "
            "expected package.module:function or path/to/file.py:function"
        )
    with user_code(f"{spec}: importing {source} failed with"):
        module = _run_file(source) if source.endswith(".py") else importlib.import_module(source)
    found = getattr(module, name, None)
    if found is None:
        near = get_close_matches(name, [key for key in vars(module) if key[0] != "_"], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise AmcError(f"{spec}: {source} has nothing called {name}{hint}")
    return found


def one_line(error: BaseException, longest: int = 600) -> str:
    """The type and the text of somebody else's exception, and the line of the user's it came from.

    Without line breaks, and shortened where it is longer.
    """
    text = " ".join(str(error).split())
    if len(text) > longest:
        text = f"{text[:longest]} ... ({len(text)} characters)"
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    place = users_line(error)
    return f"{said} ({place})" if place else said


def users_line(error: BaseException) -> str:
    """``path/to/file.py:12``, the innermost line of a traceback in the user's own code, if any.

    Own is what belongs neither to this project, nor to Python, nor to an installed package.
    """
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename):
        return ""  # its text names file and line
    found = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if _is_users(frame.filename):
            path = os.path.relpath(frame.filename)
            found = f"{frame.filename if path.startswith('..') else path}:{frame.lineno}"
    return found


def _is_users(filename: str) -> bool:
    if filename.startswith("<"):  # made by Python or PyTorch
        return False
    path = os.path.realpath(filename)
    return not path.startswith(_FOREIGN) and "site-packages" not in Path(path).parts


_PROJECT = Path(__file__).resolve().parents[2]
_FOREIGN = tuple(
    os.path.join(place, "")
    for place in (
        *(str(_PROJECT / name) for name in ("amc", "envs", "agents")),
        *(os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")),
    )
)


def _run_file(source: str) -> ModuleType:
    """Import a file by its path, once: a second function of it comes from the same module."""
    path = expanded(source).resolve()
    if not path.is_file():
        raise AmcError(f"{source}: no such file, expected a Python file")
    # The whole path is the name, so that no file can take the place of a module called the same.
    name = str(path)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise AmcError(f"{source}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their own module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def user_code(said: str) -> Iterator[None]:
    """The user's code runs inside.

    Scripts exit, turn gradients off for good, or change what new tensors are; none of it lasts.

    Args:
        said: what a mistake is said of, such as ``--model nets.py:build:``.

    Raises:
        BrokenCodeError: the code raises anything, or wants the program to end.
    """
    import torch  # not before it is needed: commands refuse mistyped flags without it

    grad, dtype, device = (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_default_device(),
    )
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
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)


@contextmanager
def package_code(said: str, advice: str = "") -> Iterator[None]:
    """Code of an installed package runs inside, on what may come from anywhere.

    Whatever it loads with `torch.load` are tensors and nothing else: the rest of a pickle is
    refused. What it warns of is its own affair.

    Args:
        said: what goes wrong is said of this.
        advice: what would help, at the end of the line.

    Raises:
        AmcError: the code raises anything.
    """
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except AmcError:
        raise
    except Exception as error:
        raise AmcError(f"{said}: {one_line(error, 300).rstrip('.')}{advice}") from error
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def check_packages() -> None:
    """Refuses to go on where another project's `agents` or `envs` hide the ones of this project.

    Raises:
        AmcError: whose they are.
    """
    for name in ("agents", "envs"):  # both names are common
        found = find_spec(name)
        place = found and (found.origin or next(iter(found.submodule_search_locations or ()), ""))
        if not place or _PROJECT not in Path(place).resolve().parents:
            raise AmcError(
                f"the package {name!r} of amc-pruning is hidden by {place or 'nothing'}: run it "
                "from another folder, or with another PYTHONPATH"
            )
