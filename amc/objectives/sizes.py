"""Objectives that follow from the layers' shapes: MACs, parameters, filters, bytes, bits.

All are exact quadratic forms of the channel counts. MACs count convolutions, linear layers and
matrix products; half a FLOP each.
"""

import numpy as np
import numpy.typing as npt

from amc.graph.arrays import FloatArray
from amc.graph.channel_graph import ChannelGraph
from amc.objectives.objective import Objective, Quadratic

PLAIN = 32
"""Bits of a number that nobody has said anything about."""


def macs(graph: ChannelGraph) -> Objective:
    """Multiply-accumulates per sample."""
    cost = graph.cost
    constant, linear, product = cost.form()
    form = Quadratic(constant, linear, product, cost.batch, cost.other)
    return Objective("macs", "MACs", cost.macs_of, form)


def params(graph: ChannelGraph) -> Objective:
    """Parameters of the network."""
    form = _parameters(graph)
    return Objective("params", "parameters", form.of, form)


def filters(graph: ChannelGraph) -> Objective:
    """Output channels of the layers, those that can be cut: the filter level of NNCF."""
    cost, scale = graph.cost, np.ones(len(graph.layers))
    for i, layer in enumerate(graph.layers):  # a weight may hold the outputs of one group only
        scale[i] = layer.out_channels / graph.shapes[layer.weight][layer.out_dim]
    per_count = scale @ cost.out_k
    form = Quadratic(0.0, per_count, np.zeros((len(per_count), len(per_count))))
    return Objective("filters", "filters", form.of, form)


def memory(graph: ChannelGraph, bits: npt.NDArray[np.int64]) -> Objective:
    """Bytes of the parameters, those of layer l at ``bits[l]`` each, all others at 32.

    Args:
        graph: of the network.
        bits: of the weights of every layer, [L].
    """
    whole, weights = _parameters(graph), _by_layers(graph, _weights(graph) * (bits - PLAIN))
    form = Quadratic(
        PLAIN * whole.constant + weights.constant + PLAIN * whole.other,
        PLAIN * whole.linear + weights.linear,
        PLAIN * whole.product + weights.product,
        8,
    )
    return Objective("memory", "bytes of weights", form.of, form)


def bits(
    graph: ChannelGraph, weight: npt.NDArray[np.int64], activation: npt.NDArray[np.int64]
) -> Objective:
    """Bit complexity: MACs x bits of the activations x bits of the weights, over all layers.

    As Huawei's AMCT counts them, but for the factor 2 of a FLOP, which no ratio sees. What is no
    layer, such as products of activations, counts with 32 bits for both.

    Args:
        graph: of the network.
        weight: bits of the weights of every layer, [L].
        activation: bits of the inputs of every layer, [L].
    """
    whole, cost = macs(graph).form, graph.cost
    assert whole is not None
    layers = _by_layers(graph, cost.scale * (weight * activation - PLAIN**2))
    form = Quadratic(
        PLAIN**2 * whole.constant + layers.constant,
        PLAIN**2 * whole.linear + layers.linear,
        PLAIN**2 * whole.product + layers.product,
        whole.batch,
        PLAIN**2 * whole.other,
    )
    return Objective("bits", "bit operations", form.of, form)


def _parameters(graph: ChannelGraph) -> Quadratic:
    cost = graph.cost
    found = _quadratic(
        cost.tensor_scale, cost.tensor_a0, cost.tensor_a, cost.tensor_b0, cost.tensor_b
    )
    return Quadratic(found.constant, found.linear, found.product, 1, cost.other_params)


def _weights(graph: ChannelGraph) -> FloatArray:
    """Entries of every layer's weight per input and output channel, [L]; 0 if no parameter."""
    cost, found = graph.cost, np.zeros(len(graph.layers))
    for i, layer in enumerate(graph.layers):
        if layer.weight in graph.parameters:
            found[i] = cost.scale[i] / layer.positions
    return found


def _by_layers(graph: ChannelGraph, scale: FloatArray) -> Quadratic:
    """The sum over the layers of ``scale x inputs x outputs``; a scale may be negative."""
    cost = graph.cost
    return _quadratic(scale, cost.in0, cost.in_k, cost.out0, cost.out_k)


def _quadratic(
    scale: FloatArray, a0: FloatArray, a: FloatArray, b0: FloatArray, b: FloatArray
) -> Quadratic:
    """The sum of ``scale (a0 + a k) (b0 + b k)``."""
    square = (a * scale[:, None]).T @ b
    linear = (scale * b0) @ a + (scale * a0) @ b
    return Quadratic(float(scale @ (a0 * b0)), linear, square + square.T)
