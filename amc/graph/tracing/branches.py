"""Groups whose sizes decide which way forward takes.

``if x.shape == y.shape: y = y + x`` is another network once a cut has made the shapes equal. Cuts
that were executed and are right prove both ways of a branch only if they went both ways.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from amc.graph.capture.observe import Comparison, Observed
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import ChannelGroup
from amc.graph.tracing.cuts import Trial, cut_plan, fewest, scattered, uneven
from amc.graph.tracing.proof import Proof

Calls = Sequence[Sequence[Comparison]]


TRIALS: tuple[Trial, ...] = (uneven, fewest, *(partial(uneven, shift=n) for n in (1, 2, 3)))
"""Cuts that are executed for networks that compare sizes."""


def decided(graph: ChannelGraph, proof: Proof) -> ChannelGraph:
    """The graph in which groups stay whole that might turn a branch no cut has tried.

    Args:
        graph: whose groups can be cut, one and all.
        proof: executes cuts of the network.
    """
    if not _concerned(graph, proof):
        return graph
    frozen: dict[str, str] = {}
    for where in _undecided(graph, proof):
        movers = _movers(graph, graph.decisions, proof, where)
        for group in sorted(movers, key=lambda g: -g.size):  # one that stays larger is enough
            if where not in _undecided(graph.freeze(frozen), proof):
                break
            frozen[group.name] = _compares(where)
    graph = graph.freeze(frozen)
    return graph.freeze(proof.failing(graph, TRIALS))


def blamed(graph: ChannelGraph, proof: Proof, failing: Mapping[str, str]) -> dict[str, str]:
    """Why groups cannot be cut: the comparison that comes out differently, where there is one."""
    reasons = dict(failing)
    for group in graph.groups if proof.observed.comparisons else ():
        if group.name in failing and (where := _turned(graph, group, proof)):
            reasons[group.name] = _compares(where)
    return reasons


def _turned(graph: ChannelGraph, group: ChannelGroup, proof: Proof) -> str:
    whole = proof.observed.comparisons
    for seen in _seen(graph, [group], proof, (*TRIALS, scattered)):
        for where, calls in seen.comparisons.items():
            if _results(calls) - _results(whole.get(where, [])):
                return where
    return ""


def _compares(where: str) -> str:
    return f"forward compares its size ({where})"


def _concerned(graph: ChannelGraph, proof: Proof) -> bool:
    """Whether a cut changes anything that is compared."""
    whole = proof.observed.comparisons
    lines = (c for calls in whole.values() for call in calls for c in call)
    trials = TRIALS if any(c.computed for c in lines) else TRIALS[:2]
    return bool(whole) and any(
        one.comparisons != whole for one in _seen(graph, graph.decisions, proof, trials)
    )


def _undecided(graph: ChannelGraph, proof: Proof) -> list[str]:
    """Lines that compare what cuts change, with the same result in all cuts that are right."""
    right: list[Mapping[str, Calls]] = []
    wrong: list[Mapping[str, Calls]] = []
    for trial, seen in zip(TRIALS, _seen(graph, graph.decisions, proof), strict=False):
        (right if proof.fits(graph, trial(graph)) else wrong).append(seen.comparisons)
    return [
        where
        for where, calls in proof.observed.comparisons.items()
        if _open(calls, [c.get(where, []) for c in right if c])
        or any(_results(c.get(where, [])) - _results(calls) for c in wrong)
    ]


def _results(calls: Calls) -> set[tuple[str, bool]]:
    return {(c.operator, c.outcome) for call in calls for c in call}


def _open(whole: Calls, cuts: Sequence[Calls]) -> bool:
    """Whether a comparison of this line might come out differently under another cut."""
    runs = [whole, *cuts]
    if len({len(calls) for calls in runs}) > 1:  # it is reached more or less often
        runs = [[[c for call in calls for c in call]] for calls in runs]
    for executions in zip(*runs, strict=True):
        found = [set(execution) for execution in executions]
        varied = set[Comparison]().union(*found) - found[0].intersection(*found[1:])
        equal = [c for c in varied if c.operator == "eq"]
        if equal and not any(c.outcome for c in equal) and _may_be_equal(equal):
            return True
        for order in ("lt", "le", "gt", "ge"):
            ordered = [c for c in varied if c.operator == order]
            if len({c.outcome for c in ordered}) == 1 and _may_turn(ordered):
                return True
    return False


def _may_be_equal(never_yet: Sequence[Comparison]) -> bool:
    """Whether sides that were different each time could be equal.

    A size is compared with a number: whole and single channels have been tried, what lies between
    has not.
    """
    if _both_vary(never_yet) or any(c.computed for c in never_yet):
        return True
    fixed, sizes = {c.left for c in never_yet}, {c.right for c in never_yet}
    if len(fixed) > 1:
        fixed, sizes = sizes, fixed
    return 1 < min(fixed) < max(sizes)


def _may_turn(ordered: Sequence[Comparison]) -> bool:
    """Whether the order of the sides could change; both ends of one size have been tried."""
    return _both_vary(ordered) or any(c.bent for c in ordered)


def _both_vary(comparisons: Iterable[Comparison]) -> bool:
    lefts, rights = zip(*((c.left, c.right) for c in comparisons), strict=True)
    return len(set(lefts)) > 1 and len(set(rights)) > 1


def _movers(
    graph: ChannelGraph, groups: Sequence[ChannelGroup], proof: Proof, where: str
) -> list[ChannelGroup]:
    """The groups whose cut changes what the line compares."""
    if not _change(graph, groups, proof, where):
        return []
    if len(groups) == 1:
        return list(groups)
    half = len(groups) // 2
    return [
        *_movers(graph, groups[:half], proof, where),
        *_movers(graph, groups[half:], proof, where),
    ]


def _change(graph: ChannelGraph, groups: Sequence[ChannelGroup], proof: Proof, where: str) -> bool:
    """Whether cuts of these groups change what the line compares."""
    whole = proof.observed.comparisons[where]
    return any(one.comparisons.get(where) != whole for one in _seen(graph, groups, proof))


def _seen(
    graph: ChannelGraph,
    groups: Sequence[ChannelGroup],
    proof: Proof,
    trials: Sequence[Trial] = TRIALS,
) -> Iterator[Observed]:
    """What forward does when these groups are cut, in every trial."""
    for trial in trials if groups else ():
        yield proof.observe(cut_plan(graph, groups, trial(graph)))
