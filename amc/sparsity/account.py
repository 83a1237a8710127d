"""How sparse a network is: layer by layer, and in all."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from amc.sparsity.masks import Mask, masks_of


@dataclass(frozen=True)
class LayerLevel:
    """What a mask leaves of a weight.

    Attributes:
        name: of the weight.
        shape: of the weight.
        weights: how many it has.
        zeros: how many of them are masked; a weight that is zero by itself is not one of them.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    zeros: int

    @property
    def level(self) -> float:
        """The part of the weights that is masked."""
        return self.zeros / max(1, self.weights)


def layer_levels(masks: nn.Module | Mapping[str, Tensor | Mask]) -> list[LayerLevel]:
    """The level of every layer, from the masks or from the network that has them on."""
    given = masks_of(masks) if isinstance(masks, nn.Module) else masks
    if not given:
        return []
    kept = {k: m.current() if isinstance(m, Mask) else m for k, m in given.items()}
    stay = torch.stack([mask.sum() for mask in kept.values()]).tolist()
    return [
        LayerLevel(name, tuple(mask.shape), mask.numel(), mask.numel() - count)
        for (name, mask), count in zip(kept.items(), stay, strict=True)
    ]


def level_of(layers: Sequence[LayerLevel]) -> float:
    """The part of the weights of all these layers that is masked."""
    return sum(x.zeros for x in layers) / max(1, sum(x.weights for x in layers))


def as_json(layers: Sequence[LayerLevel]) -> dict[str, Any]:
    """The numbers as ``report.json`` has them: in all, and layer by layer."""
    return {
        "reached": level_of(layers),
        "weights": sum(one.weights for one in layers),
        "zeros": sum(one.zeros for one in layers),
        "layers": [{**asdict(one), "level": one.level} for one in layers],
    }
