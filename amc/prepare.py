"""What a run starts from: the device, the network with its weights, the budget."""

import torch
from torch import nn

from amc.allocate import common_ratio, listed, uniform
from amc.budget import Budget
from amc.config import TrainConfig
from amc.data import Data, load_data
from amc.errors import AmcError
from amc.evaluate import logits
from amc.graph import ChannelGraph
from amc.models import build, is_bundled, load_checkpoint
from amc.plan import Strategy
from amc.pretrain import pretrained
from amc.reuse import load_fitting
from amc.terminal import Terminal
from envs.rewards import UNCONSTRAINED


def choose_device(name: str) -> torch.device:
    """The device to run on.

    Raises:
        AmcError: it is unknown or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise AmcError(f"--device {name!r} cannot be used here: {first}") from None
    return device


def blank(config: TrainConfig, data: Data) -> nn.Module:
    """The network as its builder returns it."""
    classes, channels = data.num_classes, data.input_shape[0]
    return build(config.model, num_classes=classes, in_channels=channels, width=config.width)


def network(config: TrainConfig, model: nn.Module, terminal: Terminal) -> tuple[nn.Module, str]:
    """The network with its weights, and where they come from."""
    if config.checkpoint is not None:
        return load_checkpoint(model, config.checkpoint), str(config.checkpoint)
    if not is_bundled(config.model):
        return model, "as returned by its function"
    data = load_data(config.data, seed=0)
    with terminal.bar("train") as bar:
        return pretrained(
            config.model,
            config.width,
            data,
            lambda step: bar.step(f"loss {step.loss:.4f}", step.total),
        )


def check_outputs(model: nn.Module, example: tuple[torch.Tensor], data: Data) -> None:
    """Makes sure that the network classifies the data's classes.

    Raises:
        AmcError: its output has another form.
    """
    with torch.inference_mode():
        scores = logits(model, *example)
    if scores.ndim != 2:
        raise AmcError(
            f"the network must return logits [batch, classes], got shape {tuple(scores.shape)}"
        )
    if scores.shape[1] < data.num_classes:
        raise AmcError(
            f"the network has {scores.shape[1]} outputs, but {data.name} has "
            f"{data.num_classes} classes"
        )


def allocation(config: TrainConfig, graph: ChannelGraph) -> tuple[Budget | None, Strategy]:
    """The budget to search or walk in, or the strategy where neither is needed.

    Raises:
        InfeasibleBudgetError: the target cannot be reached.
    """
    if config.mode == "list":
        assert config.strategy is not None
        return None, listed(graph, config.strategy)
    if config.plan is not None:
        return None, load_fitting(config.plan, graph).strategy
    if config.channel_ratio is not None:
        return None, common_ratio(graph, config.channel_ratio, config.channel_multiple)
    budget = Budget(
        graph,
        config.preserve_ratio,
        tolerance=1.0 if config.reward in UNCONSTRAINED else 0.02,
        multiple=config.channel_multiple,
        min_ratio=config.min_ratio,
    )
    return (None, uniform(budget)) if config.mode == "uniform" else (budget, {})
