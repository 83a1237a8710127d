"""The text of a configuration file, and what reading it gives."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amc.runtime.errors import AmcError
from amc.runtime.wording import suggestion

KINDS: dict[type, str] = {
    bool: "true or false", float: "a number", int: "a whole number", str: "text",
    dict: "an object", list: "a list",
}  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """What a file says.

    Attributes:
        settings: of ``python -m amc.train``, by name.
        notes: lines for a person: what is in the file and is not done here.
        overrules: flags -> settings of the file that mean nothing beside them.
    """

    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    overrules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """The text of a file."""

    path: Path
    text: str

    @classmethod
    def of(cls, path: Path) -> "Source":
        """Reads it.

        Raises:
            AmcError: it cannot be read, or is no text.
        """
        try:
            return cls(path, path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise AmcError(f"{path}: cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise AmcError(f"{path}: expected a configuration as text, got other bytes") from None

    def place(self, word: str, last: bool = False) -> str:
        """``path:line`` of the first or last line that holds a word, or the path alone."""
        lines = [n for n, line in enumerate(self.text.splitlines(), 1) if word in line]
        return f"{self.path}:{lines[-1 if last else 0]}" if lines else str(self.path)

    def unknown(self, name: str, known: Collection[str], what: str = "field") -> AmcError:
        """The mistake that a name is none of those that are known."""
        near = suggestion(name, known) or f"; known are {', '.join(sorted(known))}"
        return AmcError(f"{self.place(name)}: unknown {what} {name!r}{near}")

    def beside(self, name: str) -> Path:
        """A file that this one names: relative to its folder if it is there, or as it is."""
        near = self.path.parent / name
        return near if near.exists() else Path(name)


class Entries:
    """The fields of an object in a file."""

    def __init__(self, source: Source, content: Any, what: str, known: Collection[str]) -> None:
        """Refuses what is no object, and names that are not known.

        Raises:
            AmcError: one of both.
        """
        if not isinstance(content, dict):
            raise AmcError(f"{source.place(what)}: {what} must be an object, got {content!r:.60}")
        for name in content:
            if name not in known:
                raise source.unknown(name, known, f"field of {what}:")
        self._source, self._content, self._what = source, content, what

    def __contains__(self, name: str) -> bool:
        return name in self._content

    def get(self, name: str, kind: type, default: Any) -> Any:
        """A value of this type; whole numbers are numbers too.

        Raises:
            AmcError: it is of another type.
        """
        value = self._content.get(name, default)
        if name not in self._content:
            return value
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            raise self.wrong(name, f"must be {KINDS[kind]}")
        return value

    def number(self, name: str, default: float, least: float, below: float) -> float:
        """A number in [least, below).

        Raises:
            AmcError: it is none.
        """
        value: float = self.get(name, float, default)
        if not least <= value < below:
            raise self.wrong(name, f"must be in [{least:g}, {below:g})")
        return value

    def count(self, name: str, default: int, least: int) -> int:
        """A whole number, this or more.

        Raises:
            AmcError: it is none.
        """
        value: int = self.get(name, int, default)
        if value < least:
            raise self.wrong(name, f"must be {least} or more")
        return value

    def numbers(
        self, name: str, default: tuple[float, ...], least: float, below: float
    ) -> tuple[float, ...]:
        """Numbers in [least, below), one or more.

        Raises:
            AmcError: they are something else.
        """
        found = self.get(name, list, list(default))
        fit = (type(one) in (int, float) and least <= one < below for one in found)
        if not found or not all(fit):
            raise self.wrong(name, f"must be a list of numbers in [{least:g}, {below:g})")
        return tuple(map(float, found))

    def one_of(self, name: str, default: str, allowed: Collection[str]) -> str:
        """One of these words.

        Raises:
            AmcError: it is none.
        """
        value: str = self.get(name, str, default)
        if value not in allowed:
            near = suggestion(value, allowed)
            raise self.wrong(name, f"must be one of {', '.join(allowed)}", near)
        return value

    def words(self, name: str) -> list[str]:
        """One text or several.

        Raises:
            AmcError: it is something else.
        """
        value = self._content.get(name, [])
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise self.wrong(name, "must be text, or a list of text")
        return found

    def wrong(self, name: str, wanted: str, more: str = "") -> AmcError:
        """The mistake that a value is not what is wanted."""
        value = self._content[name]
        return AmcError(f"{self._source.place(name)}: {name} {wanted}, got {value!r:.60}{more}")


class Either:
    """Fields that examples hold beside an object or inside.

    Args:
        source: the file.
        own: what is beside.
        params: what is inside.
    """

    def __init__(self, source: Source, own: Entries, params: Entries) -> None:
        self._source, self._own, self._params = source, own, params

    def place(self, name: str) -> Entries:
        """The object that holds a field.

        Raises:
            AmcError: both do.
        """
        if name in self._own and name in self._params:
            where = self._source.place(name)
            raise AmcError(f"{where}: {name} is given twice, beside params and inside")
        return self._own if name in self._own else self._params

    def get(self, name: str, kind: type, default: Any) -> Any:
        """Its value, see `Entries.get`."""
        return self.place(name).get(name, kind, default)
