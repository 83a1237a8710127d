"""A task of one's own, as a template: a small U-Net finds shapes, the score is mIoU.

    FILE=experiments/segmentation.py
    python -m amc.train --model $FILE:network --data $FILE:data --task $FILE:task

Run by itself it trains the network (half a minute, kept in the user's cache) and tells its mIoU.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from amc.data import Data, TensorLoader
from amc.models.pretrained import trained
from amc.tasks.evaluate import evaluate
from amc.tasks.task import Results
from amc.training.distillation import supervised
from amc.training.recipe import Recipe

CLASSES = ("background", "disc", "square", "triangle")
SIDE = 32
RECIPE = Recipe(epochs=4, learning_rate=0.1)


def task() -> amc.Task:
    """What --task names: how outputs are trained, scored and compared."""
    return amc.Task(
        "mIoU", loss=F.cross_entropy, score=mean_iou, percent=True, distance=divergence
    )


def mean_iou(results: Results) -> float:
    """Pixels in both outline and prediction by pixels in either; mean over the classes."""
    counts = torch.zeros(len(CLASSES), len(CLASSES))
    for scores, truth in results:
        pairs = truth * len(CLASSES) + scores.argmax(dim=1)
        counts += pairs.flatten().bincount(minlength=counts.numel()).view_as(counts).cpu()
    both = counts.diag()
    return float((both / (counts.sum(0) + counts.sum(1) - both).clamp(min=1)).mean())


def divergence(scores: Tensor, reference: Tensor) -> Tensor:
    """Divergence of a pixel's softened predictions from the original network's; mean."""
    found, goal = (F.log_softmax(x.float() / 4, dim=1) for x in (scores, reference))
    return F.kl_div(found, goal, reduction="none", log_target=True).sum(dim=1).mean()


def data() -> Data:
    """What --data names: images with noise, one class per pixel; drawn the same every time."""
    parts = {name: drawn(count, seed) for seed, (name, count) in enumerate(
        {"train": 3000, "val": 500, "test": 500}.items())}  # fmt: skip
    streams = {name: TensorLoader(*part, batch_size=250) for name, part in parts.items()}
    shuffled = TensorLoader(*parts["train"], batch_size=16, shuffle=True)
    return Data(
        name="shapes",
        train=shuffled,
        calibration=streams["train"],
        val=streams["val"],
        test=streams["test"],
        num_classes=len(CLASSES),
        input_shape=(3, SIDE, SIDE),
    )


def drawn(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images [N, 3, side, side] of three shapes that may overlap, and the class of each pixel."""
    chance = torch.Generator().manual_seed(seed)

    def between(low: float, high: float, *sizes: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *sizes, generator=chance)

    rows, columns = torch.meshgrid(*[torch.arange(SIDE).float()] * 2, indexing="ij")
    images = between(0, 0.5, 3, 1, 1).expand(-1, -1, SIDE, SIDE)
    truth = torch.zeros(count, SIDE, SIDE, dtype=torch.long)
    for shape in torch.randperm(3, generator=chance).tolist():
        x, y = columns - between(4, SIDE - 4, 1, 1), rows - between(4, SIDE - 4, 1, 1)
        radius, turn = between(6, 9, 1, 1), between(0, 6.28, 1, 1)
        u, v = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
        inside = (
            u.square() + v.square() < radius.square(),
            torch.maximum(u.abs(), v.abs()) < 0.85 * radius,
            torch.maximum(u.abs() * 0.866 - v / 2, v) < 0.6 * radius,
        )[shape]
        truth[inside] = shape + 1
        images = torch.where(inside[:, None], between(0.3, 1, 3, 1, 1), images)
    return images + 0.1 * torch.randn(images.shape, generator=chance), truth


class UNet(nn.Module):
    """Two levels; the way up reads the way down (concatenation)."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(block(3, 12), block(12, 12))
        self.middle = nn.Sequential(block(12, 24), block(24, 24))
        self.coarse = nn.Sequential(block(24, 48), block(48, 48))
        self.up_middle = block(48 + 24, 24)
        self.up_fine = block(24 + 12, 12)
        self.head = nn.Conv2d(12, len(CLASSES), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores [batch, classes, height, width]."""
        fine = self.fine(images)
        middle = self.middle(F.max_pool2d(fine, 2))
        coarse = self.coarse(F.max_pool2d(middle, 2))
        middle = self.up_middle(torch.cat([F.interpolate(coarse, scale_factor=2.0), middle], 1))
        fine = self.up_fine(torch.cat([F.interpolate(middle, scale_factor=2.0), fine], 1))
        scores: Tensor = self.head(fine)
        return scores


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Convolution, norm, rectifier."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def network() -> nn.Module:
    """What --model names: the network with its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        key, stream, loss = ["shapes", 1, RECIPE.epochs], data().train, supervised(task())
        return trained(UNet(), "segmentation-shapes", key, stream, RECIPE, loss)[0]


if __name__ == "__main__":
    print(f"mIoU {evaluate(network(), data().test, task=task()).accuracy:.1%}")
