"""Recurrent layers, which read channels (their hidden state stays whole), and embeddings."""

from torch import Tensor

from amc.graph.operators.interpreter import Labeller
from amc.graph.operators.operands import LayerCall, Op, Source, Unknown, Value


def recurrent(run: Labeller, op: Op) -> Value:
    """LSTM, GRU and plain recurrent layers: the first one's weights lose columns."""
    weights = op.given.get("params")
    if weights is None or "batch_sizes" in op.given:
        raise Unknown("reads a packed sequence")
    x = run.tensor(op.given["input"])
    layers = int(op.given["num_layers"]) * (2 if op.given["bidirectional"] else 1)
    per_layer = len(weights) // layers
    first = [weights[i * per_layer] for i in range(2 if op.given["bidirectional"] else 1)]
    _read(run, op, x, first, x.numel() // x.shape[-1])
    run.give_up(op.given["hx"], f"{op.name} starts with it{run.place}")
    run.give_up([w for w in weights if w not in first], f"{op.name} has a hidden state")
    return run.fixed(op.out, f"hidden state of {op.name}{run.place}")


def cell(run: Labeller, op: Op) -> Value:
    """One step of a recurrent layer."""
    x = run.tensor(op.given["input"])
    _read(run, op, x, [op.given["w_ih"]], x.numel() // x.shape[-1])
    run.give_up(op.given["hx"], f"{op.name} has a hidden state{run.place}")
    return run.fixed(op.out, f"hidden state of {op.name}{run.place}")


def _read(run: Labeller, op: Op, x: Tensor, weights: list[Value], positions: int) -> None:
    """Binds the columns of weights [hidden, channels] to the channels that they read."""
    if not all(isinstance(w, Source) and w.plain for w in weights):
        raise Unknown("has a weight that is computed in forward")
    if set(run.space.varying(x)) - {x.ndim - 1}:
        raise Unknown("reads along another dimension than that of the channels")
    run.counted = False
    channels = run.space.along(x, x.ndim - 1)
    for weight in weights:
        run.bind_inputs(weight.name, 1, channels)
        rows = run.space.bind(weight.name, 0, run.space.mint(weight.shape[0]))
        run.space.freeze([rows], f"hidden state of {op.name}{run.place}")
        seen = positions if op.macs else 0  # PyTorch does not count within fused kernels
        run.calls.append(LayerCall(weight.name, None, op.name, 1, 0, seen))


def embedding(run: Labeller, op: Op) -> Tensor:
    """Writes new channels along the last dimension; costs nothing."""
    weight = op.given["weight"]
    if not isinstance(weight, Source) or not weight.plain:
        raise Unknown("has a weight that is computed in forward")
    outputs = run.space.bind(weight.name, 1, run.space.mint(weight.shape[1]))
    run.calls.append(LayerCall(weight.name, None, op.name, 0, 1, 0))
    return outputs.expand(op.out.shape)
