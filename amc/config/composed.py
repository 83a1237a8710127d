"""Settings that are composed of sections, and flat to the outside: by name, as words, as JSON."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from amc.runtime.errors import AmcError
from amc.runtime.limits import flag
from amc.runtime.names import current_name
from amc.runtime.wording import suggestion

Own = TypeVar("Own", bound="Composed")

NESTED = {"restrictions": "choice"}
"""Sections that JSON holds under a name of their own."""

KINDS = {
    int: "whole number", float: "number", bool: "truth value", str: "text", Path: "path",
    tuple: "list",
}  # fmt: skip
"""Types of settings, in words."""


class Composed:
    """Settings of a command. Its fields are settings, or sections: dataclasses of settings.

    Attributes:
        command: the module that it belongs to.
        anew: settings that may be given beside ``--resume``.
        bare: settings that are words of their own on the command line, and no flags.
    """

    command: ClassVar[str]
    anew: ClassVar[tuple[str, ...]] = ()
    bare: ClassVar[tuple[str, ...]] = ()

    @property
    def folder(self) -> Path:
        """Where everything goes; it need not exist."""
        raise NotImplementedError

    @classmethod
    def of(cls: type[Own], **settings: Any) -> Own:
        """Settings by their names, whatever section they are in; a section by its own as well.

        Raises:
            TypeError: there is no setting of this name.
            AmcError: a value is of another kind than the setting.
        """
        return _with(cls, {}, settings)

    def but(self: Own, **settings: Any) -> Own:
        """A copy with other values, by name."""
        own = {one.name: getattr(self, one.name) for one in _fields(type(self))}
        return _with(type(self), own, settings)

    @property
    def flat(self) -> dict[str, Any]:
        """Every setting by its name."""
        return {one.name: value for one, value, _ in settings_of(self)}


def _with(kind: type[Own], own: dict[str, Any], settings: dict[str, Any]) -> Own:
    hints, types = get_type_hints(kind), hints_of(kind)
    settings = by_current_names(kind, settings)
    left = {k: v if is_dataclass(v) else accepted(v, types.get(k), k) for k, v in settings.items()}
    for one in _fields(kind):
        section = is_dataclass(hints[one.name])
        if one.name in left and is_dataclass(left[one.name]) == section:
            own[one.name] = left.pop(one.name)
        elif section:  # which may hold a setting of its own name
            usual = own.get(one.name, default_of(one))
            given = {f.name: left.pop(f.name) for f in fields(usual) if f.name in left}
            own[one.name] = replace(usual, **given) if given else usual
    if left:
        name = next(iter(left))
        raise TypeError(f"{kind.command} has no setting {name!r}{suggestion(name, sorted(types))}")
    return kind(**own)


def by_current_names(kind: type[Composed], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, those by the names that they once had by the names that they have now.

    Raises:
        TypeError: one is given by both of its names.
    """
    known = {*hints_of(kind), *(one.name for one in _fields(kind))}
    found: dict[str, Any] = {}
    for name, value in settings.items():
        now = current_name(name, known)
        if now != name and now in settings:
            raise TypeError(f"{kind.command}: {name!r} is the old name of {now!r}, give one")
        found[now] = value
    return found


def _fields(kind: Any) -> tuple[Field[Any], ...]:
    return fields(kind)


def default_of(one: Field[Any]) -> Any:
    """What a field holds if nothing is given."""
    return one.default if one.default_factory is MISSING else one.default_factory()


def settings_of(config: Any, default: Any = None) -> Iterator[tuple[Field[Any], Any, Any]]:
    """Every setting: its field, its value, its default; sections opened."""
    for one in fields(config):
        value = getattr(config, one.name)
        usual = default_of(one) if default is None else getattr(default, one.name)
        if is_dataclass(value):
            yield from settings_of(value, usual)
        else:
            yield one, value, usual


def hints_of(kind: Any) -> dict[str, Any]:
    """The type of every setting of a class; sections opened."""
    found: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for one in _fields(kind):
        hint = hints[one.name]
        found |= hints_of(hint) if is_dataclass(hint) else {one.name: hint}
    return found


def as_json(config: Any) -> dict[str, Any]:
    """Every setting, as JSON values."""
    found: dict[str, Any] = {}
    for one in fields(config):
        value = getattr(config, one.name)
        if not is_dataclass(value):
            found[one.name] = jsonable(value)
        elif one.name in NESTED:
            found[NESTED[one.name]] = as_json(value)
        else:
            found |= as_json(value)
    return found


def jsonable(value: Any) -> Any:
    """A setting's value as JSON has it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def flags(config: Any, *names: str) -> list[str]:
    """The words of a command line that say what of these settings is not the default.

    Args:
        config: the settings.
        names: only these settings and sections; all if none are named.
    """
    found: list[str] = []
    wanted = names_in(config, *names)
    for one, value, default in settings_of(config):
        if value != default and (not names or one.name in wanted):
            found += words(one.name, value)
    return found


def words(name: str, value: Any) -> list[str]:
    """The words of a command line that give a setting this value; none for None."""
    word = flag(name)
    if value is None:
        return []
    if isinstance(value, bool):
        return [word if value else word.replace("--", "--no-", 1)]
    if isinstance(value, tuple):
        return [word, *map(str, value)]
    if isinstance(value, Mapping):
        return [word, *(str(one) for pair in value.items() for one in pair)]
    return [word, decimal(value) if isinstance(value, float) else str(value)]


def names_in(config: Any, *names: str) -> set[str]:
    """The settings of these sections, and those of these names."""
    sections = {one.name for one in fields(config) if is_dataclass(getattr(config, one.name))}
    found: set[str] = set()
    for name in names:
        inside = fields(getattr(config, name)) if name in sections else ()
        found |= {one.name for one in inside} or {name}
    return found


def decimal(number: float) -> str:
    """A number as a person writes it, and exactly the same when it is read."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def from_json(config: type[Own], settings: Mapping[str, Any], where: Path) -> Own:
    """The inverse of `as_json`; settings that are not there have their defaults.

    Raises:
        AmcError: an unknown setting, or one of the wrong kind; the message names the file.
    """
    hints, values = hints_of(config), dict[str, Any]()
    try:
        known = by_current_names(config, settings)
    except TypeError as error:
        raise AmcError(f"{where}: {error}") from None
    for name, value in known.items():
        nested = value if name in NESTED.values() and isinstance(value, dict) else {name: value}
        for key, one in nested.items():
            if key not in hints:
                raise AmcError(
                    f"{where}: unknown setting {key!r}; was it written by a newer version?"
                )
            values[key] = typed(one, hints[key], f"{where}: {key}")
    try:
        return config.of(**values)
    except (TypeError, ValueError, OverflowError) as error:
        raise AmcError(f"{where}: {error}") from None


def accepted(value: Any, hint: Any, name: str) -> Any:
    """A value from Python as a setting of this type; lists become tuples, sections check numbers.

    Raises:
        AmcError: it is of another kind, or none of the values that are allowed.
    """
    kinds, origin = get_args(hint), get_origin(hint)
    if origin in (UnionType, Union):
        return value if value is None else _one_of(value, kinds, name)
    if origin is Literal and value not in kinds:
        near = suggestion(str(value), [str(kind) for kind in kinds])
        allowed = ", ".join(map(str, kinds))
        raise AmcError(f"{flag(name)} {_brief(value)} is unknown; allowed: {allowed}{near}")
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(accepted(one, kinds[0], name) for one in value)
    wanted = {bool: bool, str: str, tuple: tuple, Mapping: Mapping}.get(origin or hint)
    if wanted and not isinstance(value, wanted):
        kind = KINDS.get(wanted, "mapping")
        raise AmcError(f"{flag(name)} must be a {kind}, got {_brief(value)}")
    return value


def _one_of(value: Any, kinds: tuple[Any, ...], name: str) -> Any:
    """A value of one of several types: a word where one is allowed, or what the others take."""
    words = [kind for kind in kinds if kind is str or get_origin(kind) is Literal]
    others = [kind for kind in kinds if kind not in (*words, type(None))]
    first = (words or others) if isinstance(value, str) else (others or words)
    return accepted(value, first[0], name)


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
