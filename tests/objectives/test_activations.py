"""Peak memory against executions whose storages are counted, of whole and of cut networks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node
from torch.utils._pytree import tree_leaves

import amc
import drawn_networks as drawn
from amc.graph.capture.export import Inputs, export
from amc.graph.shrink import shrink
from amc.objectives.activations import activations
from drawn_networks import Case, Net, conv, images, random_keep


class Counting(Interpreter):
    """Executes a program on numbers and remembers when every storage is used."""

    def __init__(self, program: Any) -> None:
        super().__init__(program.graph_module)
        signature = program.graph_signature
        self.given = set(signature.user_inputs)
        state = {**program.state_dict, **program.constants}
        held = {
            **signature.inputs_to_parameters, **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }  # fmt: skip
        self.held = {name: state[there] for name, there in held.items()}
        self.weights = {self.key(x) for x in self.held.values()}
        self.spans: dict[int, tuple[int, int, int]] = {}
        self.alive: list[Tensor] = []  # no address is used twice
        self.now = 0

    @staticmethod
    def key(x: Tensor) -> int:
        return x.untyped_storage().data_ptr()

    def use(self, value: Any) -> None:
        for x in tree_leaves(value):
            if isinstance(x, Tensor) and (key := self.key(x)) not in self.weights:
                self.alive.append(x)
                first = self.spans.get(key, (self.now,))[0]
                self.spans[key] = first, self.now, x.untyped_storage().nbytes()

    def run_node(self, n: Node) -> Any:
        self.now += n.op == "call_function"
        out = super().run_node(n)
        for one in n.all_input_nodes:
            self.use(self.env.get(one))
        if n.op == "call_function" or n.name in self.given:
            self.use(out)
        return out

    def peak(self) -> int:
        return max(
            sum(size for first, last, size in self.spans.values() if first <= now <= last)
            for now in range(self.now + 1)
        )


def counted(model: nn.Module, inputs: tuple[Any, ...]) -> int:
    program = export(model, Inputs(inputs, {}))
    run = Counting(program)
    places = [node for node in program.graph.nodes if node.op == "placeholder"]
    given = iter(x.clone() for x in tree_leaves(inputs))
    with torch.no_grad():
        run.run(*[run.held[p.name] if p.name in run.held else next(given) for p in places])
    return run.peak()


def dropped() -> Case:
    """What dropout hands on is no copy."""
    model = nn.Sequential(conv(3, 6), nn.Dropout(), nn.Dropout2d(), conv(6, 2))
    return Case(model, (images(),), {"0": (6, "0", "3")})


def two_results() -> Case:
    """Nobody reads the places of the largest, and they are made all the same."""
    model = Net(lambda m, x: m.head(m.stem(x).sort(-1).values), stem=conv(3, 6), head=conv(6, 2))
    return Case(model, (images(),), {"stem": (6, "stem", "head")})


def copied_by_a_view() -> Case:
    """To flatten what was transposed takes a copy."""
    model = Net(
        lambda m, x: m.head(m.stem(x).transpose(2, 3).flatten(2)),
        stem=conv(3, 6), head=nn.Conv1d(6, 2, 1),
    )  # fmt: skip
    return Case(model, (images(),), {"stem": (6, "stem", "head")})


@pytest.mark.parametrize(
    "case",
    [
        dropped, two_results, copied_by_a_view, drawn.channel_shuffle, drawn.gated_halves,
        drawn.in_place, drawn.dense_connections, drawn.several_inputs_and_outputs,
        drawn.flatten_linear, drawn.channels_last_linear, drawn.grouped_transposed,
    ],
)  # fmt: skip
def test_peaks_are_those_of_executions(case: Callable[[], Case]) -> None:
    torch.manual_seed(0)
    made = case()
    model = made.model.eval()
    graph = amc.trace(model, made.inputs)
    told = activations(graph)
    assert drawn.drawn(graph) == made.groups
    assert told(graph.counts({})) == counted(model, made.inputs) // graph.batch
    for seed in (0, 1):
        plan = random_keep(graph, seed)
        small = counted(shrink(model, plan), made.inputs)
        assert told(graph.counts(plan.strategy)) == small // graph.batch
