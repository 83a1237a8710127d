"""A task of one's own, as a template: where is the square? The score is minus the error in pixels.

    FILE=experiments/regression.py
    python -m amc.train --model $FILE:network --data $FILE:data --task $FILE:task \
        --learning-rate 0.001

A squared error on a layer of 1,024 inputs is steep: it needs a lower learning rate than
classification, and a distance of the loss's own scale, because distillation weighs it with 4.

Run by itself it trains the network (half a minute, kept in the user's cache) and tells its error.
"""

import math

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

SIDE = 32
RECIPE = Recipe(epochs=5, learning_rate=0.01)


def task() -> amc.Task:
    """What --task names: how outputs are trained, scored and compared."""
    return amc.Task("minus RMSE", loss=F.mse_loss, score=minus_rmse, distance=F.mse_loss)


def minus_rmse(results: Results) -> float:
    """Minus the root of the mean squared distance between found and true centre, in pixels."""
    squares, images = 0.0, 0
    for found, truth in results:
        squares += float((found - truth).square().sum())
        images += len(truth)
    return -SIDE / 2 * math.sqrt(squares / images)


def data() -> Data:
    """What --data names: images, and centres in [-1, 1]; drawn the same every time."""
    train, val, test = drawn(6000, seed=0), drawn(500, seed=1), drawn(500, seed=2)
    return Data(
        name="centres",
        train=TensorLoader(*train, batch_size=32, shuffle=True),
        calibration=TensorLoader(*train, batch_size=250),
        val=TensorLoader(*val, batch_size=250),
        test=TensorLoader(*test, batch_size=250),
        num_classes=0,
        input_shape=(1, SIDE, SIDE),
    )


def drawn(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images [N, 1, side, side] of a square and a disc, and the square's centre [N, 2]."""
    chance = torch.Generator().manual_seed(seed)

    def between(low: float, high: float, *sizes: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *sizes, generator=chance)

    across = torch.linspace(-1, 1, SIDE)
    square, disc, turn = between(-0.7, 0.7, 2), between(-0.7, 0.7, 2), between(0, 6.28, 1, 1)
    x, y = across - square[:, :1, None], across[:, None] - square[:, 1:, None]
    u, v = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
    angular = torch.maximum(u.abs(), v.abs()) < between(0.2, 0.35, 1, 1)
    x, y = across - disc[:, :1, None], across[:, None] - disc[:, 1:, None]
    round_ = x.square() + y.square() < between(0.25, 0.4, 1, 1).square()
    images = between(0.2, 0.6, 1, 1) * round_
    images = torch.where(angular, between(0.6, 1, 1, 1), images)[:, None]
    return images + 0.1 * torch.randn(images.shape, generator=chance), square


def network() -> nn.Module:
    """What --model names: the network with its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            block(1, 16, 1), block(16, 16, 2), block(16, 32, 1), block(32, 32, 2),
            block(32, 64, 1), block(64, 64, 2), nn.Flatten(), nn.Linear(64 * 16, 2),
        )  # fmt: skip
        key, stream, loss = ["centres", 1, RECIPE.epochs], data().train, supervised(task())
        return trained(model, "regression-centres", key, stream, RECIPE, loss)[0]


def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Convolution, norm, rectifier."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


if __name__ == "__main__":
    print(f"RMSE {-evaluate(network(), data().test, task=task()).accuracy:.2f} pixels")
