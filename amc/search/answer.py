"""What an allocator answers, by its name or as a function of the user's own."""

from collections.abc import Mapping
from typing import Any

from agents import AGENTS
from amc.allocators import ALLOCATORS, AllocationProblem, Allocator, Proposals
from amc.allocators.checked import answer
from amc.graph.plan import Strategy
from amc.proposals import PROPOSALS
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json
from amc.runtime.user_code import load_function
from amc.search.trials import differences

WITHOUT_AGENT = {**ALLOCATORS, **PROPOSALS}
"""Allocators by name, agents aside."""

CHANCELESS = (*ALLOCATORS, "greedy")
"""Allocators that find the same with every seed."""


def answer_of(
    allocator: str | Allocator, problem: AllocationProblem
) -> Strategy | Proposals | None:
    """A strategy at once, or proposals; None for agents, which walk on their own.

    Args:
        allocator: a name, ``module:function``, or a function of the user's own.
        problem: what it is asked.

    Raises:
        AmcError: there is no such function, or its answer is of no use.
    """
    if not isinstance(allocator, str):
        return answer(allocator, problem, name_of(allocator))
    if allocator in AGENTS:
        return None
    if allocator in WITHOUT_AGENT:
        return WITHOUT_AGENT[allocator](problem)
    return answer(load_function(allocator), problem, allocator)


def name_of(allocator: str | Allocator) -> str:
    """What a person calls it."""
    if isinstance(allocator, str):
        return allocator.rpartition(":")[2]
    return getattr(allocator, "__name__", "function")


def knowledge(paths: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """What earlier runs have learned, read from the files that are given.

    Args:
        paths: name -> file, or None where none is given.
        about: name -> what that knowledge depends on, by the names of settings.

    Raises:
        AmcError: a file is missing, damaged, or of another network, data or metric.
    """
    found = {}
    for name, path in paths.items():
        if path is None:
            continue
        content, word = read_json(path), "--" + name.replace("_", "-")
        if not isinstance(content, dict) or content.get("format") != f"amc-{name}/1":
            raise AmcError(f"{word} {path}: is no {name}.json of a run")
        known = content.get("about")
        if not isinstance(known, dict):
            raise AmcError(f"{word} {path}: does not say what it depends on")
        for differing in differences(known, about[name]):
            raise AmcError(
                f"{word} {path}: was made with other {differing}: {known.get(differing)!r:.80}, "
                f"now {about[name][differing]!r:.80}"
            )
        found[name] = {**content, "path": path}
    return found
