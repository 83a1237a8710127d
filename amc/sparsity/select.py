"""Which weights become zero, from scores and a level: exact to one unit."""

from collections.abc import Mapping

import torch
from torch import Tensor

from amc.runtime.errors import AmcError
from amc.sparsity.patterns import PLAIN, SINGLE, Layout, Pattern

SCOPES = ("global", "uniform")


def chosen(
    scores: Mapping[str, Tensor],
    level: float | Mapping[str, float],
    pattern: Pattern = SINGLE,
    scope: str = "global",
    layouts: Mapping[str, Layout] | None = None,
) -> dict[str, Tensor]:
    """Masks in which the part `level` of the weights is zero: those of the lowest scores.

    Units go in the order of their scores, equal ones in the order of layers and positions, until
    the number of zeros is nearest to `level` times the number of weights; so with single weights
    the number is exact. A layer keeps its best unit: a layer of zeros passes nothing on. Only a
    level of 1 given for the layer itself removes it all.

    Examples:
        >>> import torch
        >>> scores = {"a": torch.tensor([[1.0, 2.0, 3.0]]), "b": torch.tensor([[4.0, 5.0, 6.0]])}
        >>> {name: mask.int().tolist() for name, mask in chosen(scores, 0.5).items()}
        {'a': [[0, 0, 1]], 'b': [[0, 1, 1]]}

    Args:
        scores: name -> scores of its single weights, of the weight's shape; higher stays.
        level: part of the weights that become zero, in [0, 1]; or one for each name, those that
            are not named stay whole.
        pattern: what becomes zero together.
        scope: "global", one threshold for all layers, or "uniform", the level in each of them.
        layouts: name -> where outputs and inputs are; by default as in linear layers.

    Returns:
        Name -> bool, of the weight's shape; True stays.

    Raises:
        AmcError: a level outside of [0, 1], an unknown scope or name, scores that are no numbers.
    """
    found = {n: (layouts or {}).get(n, PLAIN) for n in scores}
    _check(scores, level, scope)
    if isinstance(level, Mapping):
        levels = {name: float(level.get(name, 0)) for name in scores}
    elif scope == "uniform":
        levels = dict.fromkeys(scores, float(level))
    else:
        return _masks(scores, float(level), pattern, found)
    masks: dict[str, Tensor] = {}
    for name, own in levels.items():
        whole = isinstance(level, Mapping) and own == 1
        masks |= _masks({name: scores[name]}, own, pattern, found, whole)
    return masks


def highest_level(
    shapes: Mapping[str, tuple[int, ...]],
    pattern: Pattern = SINGLE,
    layouts: Mapping[str, Layout] | None = None,
) -> float:
    """The highest level over all layers of these shapes that `chosen` reaches with any scores."""
    zeros = total = 0
    for name, shape in shapes.items():
        sizes = pattern.zeros(shape, (layouts or {}).get(name, PLAIN))
        zeros += int(sizes.sum()) - (0 if pattern.stay or not len(sizes) else int(sizes.max()))
        total += torch.Size(shape).numel()
    return zeros / max(1, total)


def _masks(
    scores: Mapping[str, Tensor],
    level: float,
    pattern: Pattern,
    layouts: Mapping[str, Layout],
    whole: bool = False,
) -> dict[str, Tensor]:
    """Masks of these layers under one threshold; `whole`: nothing need stay."""
    wanted = round(level * sum(score.numel() for score in scores.values()))
    pooled, sizes = [], []
    for name, score in scores.items():
        units = pattern.pooled(score.detach(), layouts[name])
        if not (pattern.stay or whole) and len(units):
            units = units.clone()
            units[len(units) - 1 - units.flip(0).argmax()] = torch.inf
        pooled.append(units)
        sizes.append(pattern.zeros(score.shape, layouts[name]))
    if not pooled:
        return {}
    removed = _removed(torch.cat(pooled), torch.cat(sizes), wanted)
    parts = torch.split(removed, [len(units) for units in pooled])
    return {
        name: pattern.kept(score.detach(), part, layouts[name])
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def _removed(scores: Tensor, sizes: Tensor, wanted: int) -> Tensor:
    """The units that go: the lowest, until the number of zeros is nearest to the wanted one."""
    free = int(scores.isfinite().sum())
    if bool((sizes == sizes[0]).all()):
        count = round(wanted / max(1, int(sizes[0])))
        return _lowest(scores, min(count, free))
    order = scores.argsort(stable=True)
    reached = sizes.to(scores.device)[order][:free].cumsum(0)
    misses = (torch.cat([reached.new_zeros(1), reached]) - wanted).abs()
    removed = torch.zeros_like(scores, dtype=torch.bool)
    removed[order[: int(misses.argmin())]] = True
    return removed


def _lowest(scores: Tensor, count: int) -> Tensor:
    """The `count` lowest scores, the first ones of equal ones: bool. Without sorting them all."""
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.topk(count, largest=False, sorted=False).values.max()
    below, equal = scores < threshold, scores == threshold
    return below | (equal & (equal.cumsum(0) <= count - below.sum()))


def _check(scores: Mapping[str, Tensor], level: float | Mapping[str, float], scope: str) -> None:
    if scope not in SCOPES:
        raise AmcError(f"unknown scope {scope!r}; allowed are {', '.join(SCOPES)}")
    if isinstance(level, Mapping):
        for name in level.keys() - scores.keys():
            raise AmcError(f"unknown weight {name!r}; weights are {', '.join(scores)}")
    levels = level if isinstance(level, Mapping) else {"all layers": level}
    for name, one in levels.items():
        if not 0 <= one <= 1:
            raise AmcError(f"{name}: the level must be in [0, 1], got {one}")
    for name, score in scores.items():
        if not bool(score.isfinite().all()):
            raise AmcError(f"{name}: scores of weights must be finite")
