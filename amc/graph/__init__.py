"""The channel graph of a network: what can be removed together, what it costs, and the cut."""

from amc.choice import Choice
from amc.graph.bake import bake, baked_layers
from amc.graph.choice import choose
from amc.graph.groups import ChannelGraph, ChannelGroup, Layer
from amc.graph.surgery import mask, shrink
from amc.graph.trace import trace

__all__ = [
    "ChannelGraph",
    "ChannelGroup",
    "Choice",
    "Layer",
    "bake",
    "baked_layers",
    "choose",
    "mask",
    "shrink",
    "trace",
]
