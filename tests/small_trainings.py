"""A problem that a small network learns in a second, and networks compared."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Batches:
    """A stream of fixed batches that notes the epochs it was given."""

    def __init__(self, *batches: Batch) -> None:
        self.batches, self.epochs = batches, list[int]()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def assert_same_state(model: nn.Module, before: dict[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def separable(count: int = 60, seed: int = 0) -> Batch:
    """Two clouds with a wide gap."""
    labels = torch.arange(count) % 2
    return random(count, 3, seed=seed) + 6 * labels[:, None], labels


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def stream(batch: int = 20) -> Batches:
    x, y = separable()
    return Batches(*zip(x.split(batch), y.split(batch), strict=True))
