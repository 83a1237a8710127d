"""From the words of a command line to settings, and from a command to its end."""

import contextlib
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import tyro

from amc.config.composed import Composed, hints_of
from amc.config.exits import exit_with_one_line, flush, while_loading
from amc.runtime import launch
from amc.runtime.errors import AmcError, OutputLost
from amc.runtime.names import check, current_name
from amc.runtime.user_code import check_packages
from amc.runtime.wording import suggestion

Config = TypeVar("Config", bound=Composed)
Outcome = TypeVar("Outcome")

AS_JSON = (True, Path("-"))
"""Values of ``--json`` that mean standard output."""

SettingsIn = Callable[[Path, Mapping[str, str]], Mapping[str, Any]]
"""Reads a configuration file; beside it these settings are given as flags, and what they say."""


def parse(
    config: type[Config],
    command: str,
    arguments: Sequence[str] | None = None,
    settings_in: SettingsIn | None = None,
) -> Config:
    """The configuration on the command line of ``python -m <command>``.

    Args:
        config: the class of its settings.
        command: the module.
        arguments: its words; without, those of this process.
        settings_in: reads the file of ``--config``, whose settings count where no flag is given.

    Raises:
        AmcError: an unknown flag or an impossible value, in one line.
        SystemExit: after ``--help``.
    """
    words = _current(config, sys.argv[1:] if arguments is None else arguments)
    complaint, file = io.StringIO(), _given("--config", words) if settings_in else ""
    usual: dict[str, Any] = {}
    if file and settings_in and not _given("--resume", words):
        usual["default"] = config.of(**settings_in(Path(file).expanduser(), _named(words)))
    try:
        with contextlib.redirect_stderr(complaint), contextlib.ExitStack() as hushed:
            if launch.prefix():  # the first process gives the help
                hushed.enter_context(contextlib.redirect_stdout(io.StringIO()))
            found: Config = tyro.cli(
                config,
                prog=f"python -m {command}",
                args=words,
                config=(tyro.conf.OmitArgPrefixes,),
                **usual,
            )
            return found
    except SystemExit as stop:
        if not stop.code:
            raise
        said = _unknown(config, words) or _condensed(complaint.getvalue(), config, words)
        raise AmcError(f"{said} (--help lists all flags)") from None


def _named(words: Sequence[str]) -> dict[str, str]:
    """The settings that the flags among some words are of, those with ``no`` as ``no_...``."""
    flags = {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")}
    return {flag.removeprefix("--").replace("-", "_"): _given(flag, words) for flag in flags}


def at_once(name: str, config: type[Config], settings_in: SettingsIn | None = None) -> None:
    """Refuses what the words of ``python -m <name>`` alone show to be wrong; gives the help.

    The first thing that a command does: what it imports, torch above all, takes seconds.
    """
    advice = elsewhere(sys.argv) if name == "amc.train" else ""
    with exit_with_one_line(name, advice=advice):
        check_packages()
        settings: Any = parse(config, name, settings_in=settings_in)
        check(settings.flat)
        alone = launch.launched()[1] == 1  # devices of several are shared out later
        if alone and settings.flat.get("device", "auto") not in ("auto", "cpu"):
            from amc.runtime.distributed import (
                choose_device,  # with torch, but without all the rest
            )

            choose_device(settings.flat["device"])
    if not settings.flat.get("quiet"):
        while_loading(sys.stderr if settings.flat.get("json") in AS_JSON else sys.stdout)


def command(
    name: str,
    config: type[Config],
    job: Callable[[Config], Outcome],
    resume: str = "",
    result: Callable[[Outcome], str] | None = None,
) -> None:
    """Runs ``python -m <name>``, which knows one process only; ends as `exit_with_one_line` says.

    Args:
        name: of the command.
        config: its settings.
        job: what it does.
        resume: how to go on after a stop.
        result: what ``--json`` prints of what came of the job.
    """
    begun = False
    with exit_with_one_line(name, resume=lambda: resume if begun else ""):
        settings = parse(config, name)
        if launch.launched()[1] > 1:
            raise AmcError("runs in one process; torchrun is for amc.train and amc.apply")
        begun = True
        with only_result(result is not None and settings.flat["json"] in AS_JSON) as tell:
            outcome = job(settings)
            if result is not None:
                tell(lambda: result(outcome))


@contextlib.contextmanager
def only_result(wanted: bool) -> Iterator[Callable[[Callable[[], str]], None]]:
    """Standard output is for the result alone, if that is wanted: all else goes where errors do.

    Whatever writes inside: our own lines, the user's code, libraries, processes that were forked.
    What is called with a function that makes the result prints it; without ``wanted`` it does
    nothing.

    Raises:
        OutputLost: nobody reads the result, or it cannot be written.
    """
    if not wanted:
        yield lambda made: None
        return
    flush()
    place = os.dup(1)

    def tell(made: Callable[[], str]) -> None:
        if launch.prefix():  # the first process has it
            return
        result = made()
        try:
            with open(os.dup(place), "w", encoding="utf-8") as output:
                output.write(result.rstrip("\n") + "\n")
        except OSError as error:
            raise OutputLost(error) from None

    os.dup2(2, 1)  # what C and other processes write
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield tell
    finally:
        flush()
        os.dup2(place, 1)
        os.close(place)


def known_flags(config: Any) -> Iterator[str]:
    """All flags of a class of settings."""
    for name, hint in hints_of(config).items():
        if name in getattr(config, "bare", ()):
            continue
        flag = "--" + name.replace("_", "-")
        yield flag
        if hint is bool:
            yield flag.replace("--", "--no-", 1)


def _current(config: Any, words: Sequence[str]) -> list[str]:
    """The words, flags by the names that their settings have now."""
    known, found = hints_of(config), list[str]()
    for word in words:
        name, equals, value = word.partition("=")
        setting = name.removeprefix("--").replace("-", "_")
        now = current_name(setting, known) if name.startswith("--") else setting
        found.append(f"--{now.replace('_', '-')}{equals}{value}" if now != setting else word)
    return found


def _unknown(config: Any, words: Sequence[str]) -> str:
    """The first flag that there is not, with the nearest that there is."""
    known = {*known_flags(config), "--help"}
    for word in words:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag.replace("_", "-") not in known:
            return f"there is no {flag}{suggestion(flag.replace('_', '-'), sorted(known))}"
    return ""


def elsewhere(words: Sequence[str]) -> str:
    """Where to turn with several budgets or networks, if words for `amc.train` name some."""
    marks = {"--preserve-ratio": ":,", "--model": ","}
    several = any(set(marks.get(flag, "")) & set(value) for flag, value in pairwise(words))
    return "; for several budgets or networks: python -m amc.learn" if several else ""


def _condensed(box: str, config: Any, words: Sequence[str]) -> str:
    """The first paragraph under the title of tyro's framed message, as one line."""
    lines = [line.strip(" \n│|╭╮╰╯+") for line in box.splitlines()]
    ruled = ["" if set(line) <= set("-─") else line for line in lines if line][1:]
    said = itertools.takewhile(bool, itertools.dropwhile(lambda line: not line, ruled))
    text = re.sub(r"^Error parsing (?!-)[\w-]+: ", "", " ".join(said))
    if one := re.match(r"Error parsing (--[\w-]+): ", text):
        name = one[1].removeprefix("--").replace("-", "_")
        return (
            f"{one[1]} must be {_expected(hints_of(config)[name])}, got {_given(one[1], words)!r}"
        )
    choice = re.match(
        r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*)\)", text
    )
    if choice is None:
        return text.removesuffix(".")
    given, flag, listed = choice.groups()
    allowed = re.findall(r"'([^']*)'", listed)
    return f"{flag} {given!r}: allowed are {', '.join(allowed)}{suggestion(given, allowed)}"


def _given(flag: str, words: Sequence[str]) -> str:
    """What stands behind a flag."""
    for place, word in enumerate(words):
        if word.split("=")[0].replace("_", "-") == flag:
            rest = itertools.takewhile(lambda w: not w.startswith("--"), words[place + 1 :])
            return word.partition("=")[2] or " ".join(rest)
    return ""


def _expected(hint: Any) -> str:
    """What a setting of this type takes, in words."""
    kinds, origin = get_args(hint), get_origin(hint)
    if origin in (UnionType, Union):
        return " or ".join(_expected(kind) for kind in kinds if kind is not type(None))
    if origin is Literal:
        return ", ".join(map(str, kinds))
    if origin is tuple:
        return "numbers" if kinds[0] is float else "words"
    if origin is Mapping:
        return "pairs of a pattern and a number of channels"
    return {int: "a whole number", float: "a number"}.get(hint, "text")
