"""Words that a person reads: names made harmless, near misses, times."""

import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

SPELLED = {"→": "->", "±": "+-", "\u00d7": "x", "…": "...", "·": "*", "∞": "inf"}
"""What our own signs become where they cannot be written."""


def plain(text: str) -> str:
    r"""One line that every terminal shows as it is: ``\x1b`` for an escape, ``\n`` for a line end.

    Names come from other people's code and disks. What moves a cursor, turns the direction of
    writing, has no width or is no character at all is spelled out; letters of any script stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _shown(c) else c.encode("unicode_escape").decode() for c in text)


def _shown(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def encodable(text: str, encoding: str) -> str:
    """The text in the characters of an encoding; others are spelled, or escaped."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        spelled = "".join(SPELLED.get(c, c) for c in text)
        return spelled.encode(encoding, "backslashreplace").decode(encoding)
    return text


def one_line_of(text: str, longest: int = 300) -> str:
    """A message as one plain line; words that are longer are shortened in the middle."""
    words = " ".join(line.strip() for line in text.splitlines() if line.strip()).split(" ")
    return plain(" ".join(_shortened(word, longest) for word in words))


def _shortened(word: str, longest: int) -> str:
    if len(word) <= longest:
        return word
    return f"{word[: longest // 3]}...{word[-longest // 6 :]} ({len(word)} characters)"


def suggestion(word: str, allowed: Iterable[str]) -> str:
    """``; did you mean ...?`` with the nearest of what is allowed, or nothing."""
    near = get_close_matches(word, list(allowed), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def counted(number: int, what: str) -> str:
    """``1 epoch``, ``2 epochs``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def duration(seconds: float) -> str:
    """``0.4 s``, ``47 s``, ``12 min 5 s``, ``3 h 20 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
