"""The account of a run, by hand."""

from dataclasses import replace

import torch
from torch import nn

import amc
from amc.reporting.report import Change, layer_changes


def test_layers_of_heads_say_how_many_are_left() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    graph = amc.trace(model, (torch.zeros(1, 3, 8, 8),))
    plain = layer_changes(graph, {"0": 6})
    assert [(one.outputs, one.heads) for one in plain] == [("8 → 6", None), ("4", None)]
    groups = tuple(replace(g, unit="head") if g.name == "0" else g for g in graph.groups)
    heads, after = layer_changes(replace(graph, groups=groups), {"0": 6})
    assert heads.heads == Change(8, 6) and heads.outputs == "8 → 6 (8 → 6 heads)"
    assert after.heads is None and after.in_channels == Change(8, 6)
