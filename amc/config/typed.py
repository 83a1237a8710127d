"""JSON values as settings of a type."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from amc.runtime.errors import AmcError

KINDS = {
    int: "whole number", float: "number", bool: "truth value", str: "text", Path: "path",
    tuple: "list",
}  # fmt: skip
"""Types of settings, in words."""


def typed(value: Any, hint: Any, name: str) -> Any:
    """A JSON value as a setting of this type.

    Raises:
        AmcError: it is of another one.
    """
    kinds, origin = get_args(hint), get_origin(hint)
    if origin in (UnionType, Union):
        if value is None and type(None) in kinds:
            return None
        *others, last = (kind for kind in kinds if kind is not type(None))
        for kind in others:
            with contextlib.suppress(AmcError):
                return typed(value, kind, name)
        return typed(value, last, name)
    if origin is Literal:
        if isinstance(value, str) and value in kinds:
            return value
        raise AmcError(f"{name} {_brief(value)} is unknown; allowed: {', '.join(kinds)}")
    if origin is tuple and isinstance(value, list):
        return tuple(typed(one, kinds[0], name) for one in value)
    if origin is Mapping and isinstance(value, dict):
        return {key: typed(one, kinds[1], name) for key, one in value.items()}
    return _plain(value, hint, name)


def _plain(value: Any, hint: Any, name: str) -> Any:
    if hint is float and type(value) is int and abs(value) < 2**1023:
        return float(value)
    if hint is Path and isinstance(value, str) and "\0" not in value:
        return Path(value)
    if type(value) is hint:
        return value
    kind = KINDS.get(get_origin(hint) or hint, "object")
    raise AmcError(f"{name} must be a {kind}, got {_brief(value)}")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
