"""Bundled networks without a checkpoint: shipped weights, earlier ones, or training."""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amc.data import Data, Loader
from amc.models.catalog import build
from amc.models.checkpoint import load_checkpoint
from amc.runtime import distributed, weights
from amc.runtime.errors import AmcError
from amc.runtime.files import cache_dir, write_atomically
from amc.training.distillation import Loss, cross_entropy
from amc.training.recipe import Recipe
from amc.training.trainer import Step, train

RECIPES = {
    "digits": Recipe(epochs=14, learning_rate=0.1),
    "glyphs": Recipe(epochs=20, learning_rate=0.1),
    "fashion-mnist": Recipe(epochs=6, learning_rate=0.1),
}
DEFAULT_RECIPE = Recipe(epochs=30, learning_rate=0.1)

CLIPPED = {"vit": 0.2}
"""Networks whose gradients are clipped, see `Recipe`: transformers need that to learn by SGD."""

MOST_STEPS = 5000
"""Of training on sets in the form of MNIST, which are large and easy; give or take an epoch."""


def pretrained(
    name: str,
    width: float,
    data: Data,
    on_step: Callable[[Step], None] = lambda step: None,
    recipe: Recipe | None = None,
    on_start: Callable[[str], None] = lambda line: None,
    device: torch.device | None = None,
) -> tuple[nn.Module, str]:
    """A bundled network with weights for a data set, and where they come from.

    Weights that were trained here are kept in the user's cache, by network, data and recipe. They
    do not depend on the seed of the run, so that runs with several seeds start from one network,
    nor on the number of processes: rank 0 looks them up or trains, and the others get them.

    Args:
        name: of the bundled network.
        width: its width factor.
        data: to train on, opened with seed 0.
        on_step: progress of training.
        recipe: of training; by default that of the data, see `RECIPES`.
        on_start: is told in a line what is about to be trained, if that has to be.
        device: where it is trained, and is then; the CPU by default.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(
            name, num_classes=data.num_classes, in_channels=data.in_channels, width=width
        ).to(device)
        ours = shipped(name, width, data.name)
        if ours.is_file():
            return load_checkpoint(model, ours), "shipped with amc-pruning"
        recipe = recipe or RECIPES.get(data.name, DEFAULT_RECIPE)
        recipe = replace(recipe, clip=recipe.clip or CLIPPED.get(name, 0.0))
        variant = _variant(name, width)
        key = [variant, data.name, data.input_shape, asdict(recipe)]
        safe = "".join(c if c.isalnum() else "-" for c in data.name)

        def source() -> str:
            cached = f"{variant}-{safe}"
            return trained(
                model, cached, key, data.train, recipe, on_step=on_step, on_start=on_start
            )[1]

        found = os.fsdecode(distributed.on_rank_zero(lambda: os.fsencode(source())))
        distributed.broadcast_model(model)
    return model, found


def by_steps(data: Data) -> Recipe:
    """So many epochs that about `MOST_STEPS` are made, where the usual ones would be more."""
    epochs = math.ceil(MOST_STEPS / len(data.train))
    return replace(DEFAULT_RECIPE, epochs=min(DEFAULT_RECIPE.epochs, epochs))


def shipped(name: str, width: float, data: str) -> Path:
    """Where the package has the weights of a bundled network for a data set, if it has them."""
    file = f"{_variant(name, width)}-{data}.safetensors"
    return Path(str(files("amc.models") / "weights" / file))


def _variant(name: str, width: float) -> str:
    return name if width == 1 else f"{name}-x{width:g}"


def trained(
    model: nn.Module,
    name: str,
    key: Sequence[Any],
    stream: Loader,
    recipe: Recipe,
    loss: Loss = cross_entropy,
    on_step: Callable[[Step], None] = lambda step: None,
    on_start: Callable[[str], None] = lambda line: None,
) -> tuple[nn.Module, str]:
    """The network with weights from the user's cache, or trained now, and where they come from.

    Args:
        model: to be trained, in place; its first weights should be the same every time.
        name: of the file in the cache, without what tells apart different keys.
        key: what the weights depend on, JSON values.
        stream: training batches.
        recipe: of the training.
        loss: what is minimised.
        on_step: progress.
        on_start: is told in a line what is about to be trained, if that has to be.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    cached = cache_dir() / "weights" / f"{name}-{digest}.safetensors"
    with contextlib.suppress(AmcError):  # not there, or not readable any more: train
        return load_checkpoint(model, cached).eval(), f"trained earlier, {cached}"
    steps = recipe.epochs * len(stream)
    on_start(
        f"training {name} from nothing: {recipe.epochs} epochs, {steps:,} steps; kept in "
        f"{cached.parent} for later runs. --checkpoint FILE uses weights of your own"
    )
    train(model, stream, recipe, loss, on_step)
    with contextlib.suppress(AmcError):  # an unwritable cache only costs the next run some time
        write_atomically(cached, weights.to_bytes(model))
        return model, f"trained now, kept in {cached}"
    return model, "trained now"
