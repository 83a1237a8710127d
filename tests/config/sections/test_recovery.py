"""The learning rate of a network."""

import pytest
import torch
from torch import nn

import amc
from amc.config.sections.recovery import TrainingConfig
from amc.models.catalog import build


@pytest.mark.parametrize(
    ("name", "rate"),
    [("mobilenet_v1", 0.02), ("mobilenet_v2", 0.02), ("resnet20", 0.05), ("vit", 0.01)],
)
def test_depthwise_layers_and_attention_take_smaller_steps(name: str, rate: float) -> None:
    model = build(name, num_classes=4, in_channels=3, width=0.25)
    graph = amc.trace(model, (torch.zeros(1, 3, 32, 32),))
    assert TrainingConfig().rate_for(graph) == rate
    assert TrainingConfig(learning_rate=0.3).rate_for(graph) == 0.3


def test_channels_in_groups_are_not_depthwise() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 2, 1))
    graph = amc.trace(model, (torch.zeros(1, 4, 9, 9),))
    assert TrainingConfig().rate_for(graph) == 0.05
