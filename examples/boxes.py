"""Images of shapes with their boxes, drawn the same every time: data for `--task detection`."""

import torch
from torch import Tensor

from amc.data import Data, TensorLoader

CLASSES = ("disc", "square", "triangle")
SIDE = 96
CELLS = 2  # in each direction; one shape in each at most


def data(train: int = 1000, val: int = 200, test: int = 400) -> Data:
    """What --data names: images [B, 3, side, side] and targets [B, 4, 5]."""
    sizes = {"train": train, "val": val, "test": test}
    parts = {name: drawn(count, seed) for seed, (name, count) in enumerate(sizes.items())}
    streams = {name: TensorLoader(*part, batch_size=50) for name, part in parts.items()}
    return Data(
        name="boxes",
        train=TensorLoader(*parts["train"], batch_size=16, shuffle=True),
        calibration=streams["train"],
        val=streams["val"],
        test=streams["test"],
        num_classes=len(CLASSES),
        input_shape=(3, SIDE, SIDE),
    )


def drawn(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images, and class, x1, y1, x2, y2 of every shape in them; class -1 where there is none."""
    chance = torch.Generator().manual_seed(seed)

    def between(low: float, high: float, *sizes: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *sizes, generator=chance)

    rows, columns = torch.meshgrid(*[torch.arange(SIDE).float()] * 2, indexing="ij")
    images = between(0, 0.5, 3, 1, 1).expand(-1, -1, SIDE, SIDE)
    targets = torch.full((count, CELLS**2, 5), -1.0)
    wide = SIDE / CELLS
    for cell in range(CELLS**2):
        left, top = wide * (cell % CELLS), wide * (cell // CELLS)
        radius, turn = between(0.17 * wide, 0.4 * wide, 1, 1), between(0, 6.28, 1, 1)
        x = columns - left - radius - (wide - 2 * radius) * between(0, 1, 1, 1)
        y = rows - top - radius - (wide - 2 * radius) * between(0, 1, 1, 1)
        u, v = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
        kinds = torch.randint(len(CLASSES), (count,), generator=chance)
        forms = torch.stack(
            [
                u.square() + v.square() < radius.square(),
                torch.maximum(u.abs(), v.abs()) < 0.7 * radius,
                torch.maximum(u.abs() * 0.866 - v / 2, v) < 0.5 * radius,
            ]
        )
        there = between(0, 1) < 0.6
        inside = forms[kinds, torch.arange(count)] & there[:, None, None]
        images = torch.where(inside[:, None], between(0.3, 1, 3, 1, 1), images)
        targets[there, cell] = torch.cat([kinds[:, None], around(inside)], dim=1)[there].float()
    return images + 0.1 * torch.randn(images.shape, generator=chance), targets


def around(inside: Tensor) -> Tensor:
    """The box x1, y1, x2, y2 [N, 4] around the pixels of every mask [N, side, side]."""
    sides = []
    for along in (inside.any(dim=1), inside.any(dim=2)):  # columns, rows
        first = along.int().argmax(dim=1)
        last = along.shape[1] - along.flip(1).int().argmax(dim=1)
        sides.append(torch.stack([first, last], dim=1))
    return torch.stack(sides, dim=2).flatten(1)
