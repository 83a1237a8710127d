"""Running operators on labels instead of numbers: the state, and what a rule is given."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from amc.graph.attributes import holders
from amc.graph.capture.observe import Observed, Place
from amc.graph.operators.labels import CONSTANT, LabelSpace
from amc.graph.operators.operands import (
    Dynamic,
    Kept,
    LayerCall,
    Op,
    ProductCall,
    Rows,
    Source,
    Unknown,
    Value,
    dynamic,
)

Guess = tuple[str, Tensor]
"""Name of an attribute, and labels of the channels whose number it may be."""


class Labeller:
    """Labels of an execution, and the layers that were met.

    Attributes:
        space: the labels.
        calls: layers in execution order.
        entries: labels of parameters and buffers that were used as activations, per entry.
        opaque: tensors whose use is not understood -> why.
        guesses: attributes of modules that may hold a number of channels -> these channels.
        products: operators without a weight whose cost follows channels.
        doubts: channels whose cut is right only if removed ones are zero -> why not, if not.
        met: channels that are read by products of activations.
        blank: labels of channels that no layer wrote: zeros and other numbers of forward.
        unseen: layers that cannot be followed -> labels of their outputs, and why they must stay.
        kept: labels of the tensors that are kept for a while, and while which operators.
        counted: whether `calls` are all that multiplies and accumulates.
        trains: whether the program is of the network in training mode.
        only_trained: tensors that are used in training mode alone.
        site: dotted name of the module whose code is being executed.
        place: module and line of the operator that is being executed, for people.
        at_heads: dimensions of its result along which heads of attention lie,
        attention: the attention that it is part of, if it is.
        heads: name of an attention -> labels of its heads.
    """

    def __init__(self, model: nn.Module, observed: Observed) -> None:
        self.space = LabelSpace()
        self.calls: list[LayerCall] = []
        self.entries: dict[str, Tensor] = {}
        self.opaque: dict[str, str] = {}
        self.guesses: list[Guess] = []
        self.products: list[ProductCall] = []
        self.doubts: list[tuple[Tensor, str]] = []
        self.met: list[Tensor] = []
        self.blank: list[Tensor] = []
        self.unseen: dict[str, tuple[Tensor, str]] = {}
        self.kept: list[Kept] = []
        self.counted, self.trains = True, False
        self.only_trained = set[str]()
        self.site = self.place = self._operator = self.attention = ""
        self.at_heads: tuple[int, ...] = ()
        self.heads: dict[str, list[Tensor]] = {}
        self._observed = observed
        self._modules = dict(model.named_modules())
        names = {id(module): name for name, module in self._modules.items()}
        everywhere = model.named_modules(remove_duplicate=False)
        self._first = {name: names[id(module)] for name, module in everywhere}

    @property
    def module(self) -> nn.Module | None:
        """The module whose code is being executed."""
        return self._modules.get(self.site)

    def enter(self, path: str, operator: str, place: str) -> None:
        """Says whose code comes next; a module used under two names keeps its first."""
        self.site, self.place, self._operator = self._first.get(path, path), place, operator

    def sized(self, *ranges: Tensor) -> bool:
        """Says that the number of channels in each of these labels [n] is written in the code.

        The attributes of the module that hold these numbers will follow a cut.

        Returns:
            Whether there is such an attribute for every number; otherwise nothing is said.
        """
        found = [self._holders(labels, self.site) for labels in ranges]
        if not all(found):
            return False
        for names, labels in zip(found, ranges, strict=True):
            for name in names:
                self.space.bind(name, 0, labels)
        return True

    def perhaps_sized(
        self, labels: Tensor, below: bool = False, place: Place | None = None
    ) -> bool:
        """Says that the number of these channels may be written in the code, or read off a shape.

        Attributes that hold it follow only if the network cannot be cut without.

        Args:
            labels: of the channels, [n].
            below: whether the code may be a method of a module inside that is not its forward.
            place: where the number stands, if it is a size of a view.

        Returns:
            Whether there is such an attribute.
        """
        inside = self._methods() if below else [self.site]
        found = [(name, labels) for site in inside for name in self._holders(labels, site, place)]
        self.guesses += found
        return bool(found)

    def _methods(self) -> list[str]:
        """Modules whose methods may be executed: the user's that is running, and those inside."""
        site = self.site
        while site and _is_torchs(self._modules.get(site)):
            site = site.rpartition(".")[0]
        start = self._modules.get(site)
        inside = start.named_modules(prefix=site) if start is not None else ()
        return [name for name, module in inside if not _is_torchs(module)]

    def written(self, count: int) -> Tensor:
        """New labels of channels that forward fills with numbers; attributes may follow."""
        labels = self.space.mint(count)
        self.blank.append(labels)
        if count > 1:
            self.perhaps_sized(labels, below=True)
        return labels

    def bind_inputs(self, weight: str, dim: int, inputs: Tensor) -> Tensor:
        """Binds a weight's input slices; those that read numbers of forward are nobody's."""
        constant = inputs == CONSTANT
        if bool(constant.any()):
            inputs = inputs.clone()
            inputs[constant] = self.written(int(constant.sum()))
        return self.space.bind(weight, dim, inputs)

    def meet_heads(self, found: list[Tensor]) -> None:
        """Says that these channels, which meet in attention, are its heads."""
        self.heads.setdefault(self.attention, []).extend(found)

    def doubt(self, labels: Tensor, reason: str) -> None:
        """Says why these channels must stay, should the proof fail: they meet in one number."""
        self.doubts.append((labels, f"{reason}{self.place}"))

    def costs(self, op: Op, *axes: Tensor) -> None:
        """Says that the cost of the operator is proportional to the number of these channels."""
        self.counted = False
        if op.macs and axes:
            self.products.append(ProductCall(op.macs, axes))

    def _holders(self, labels: Tensor, site: str, place: Place | None = None) -> list[str]:
        """The module's attributes that hold this number, and that forward uses for such."""
        module = self._modules.get(site)
        if module is None:
            return []
        found = list(holders(module, site, len(labels)))
        return self._observed.meant(found, self._operator if site == self.site else "", place)

    def tensor(self, value: Value) -> Tensor:
        """The labels of an operand; a parameter becomes an activation with entries of its own."""
        if isinstance(value, Rows):
            return self.tensor(value.source)[value.start : value.stop]
        if isinstance(value, Source):
            if value.name not in self.entries:
                if value.shape.numel() > 2**20:
                    raise Unknown(f"{value.name} has too many entries to follow one by one")
                labels = self.space.mint(value.shape.numel()).reshape(value.held)
                self.entries[value.name] = labels
            return value.view(self.entries[value.name])
        if not isinstance(value, Tensor):
            raise Unknown(f"an operand is a {type(value).__name__}")
        return value

    def operands(self, values: Value) -> Value:
        """The same operands with every parameter as an activation."""
        if isinstance(values, list | tuple):
            return [self.operands(value) for value in values]
        return self.tensor(values) if isinstance(values, Source) else values

    def aside(self, execute: Callable[[], None]) -> None:
        """Executes a program that costs nothing: what only it runs follows the cut of the rest."""
        costs = list(self.calls), list(self.products), dict(self.unseen), self.counted
        kept = self.kept
        known = {tensor for tensor, _ in self.space.bound}
        self.trains = True
        execute()
        self.calls, self.products, self.unseen, self.counted = costs
        self.kept = kept
        self.only_trained = {tensor for tensor, _ in self.space.bound} - known

    def give_up(self, values: Value, reason: str) -> None:
        """Freezes every channel among the operands."""
        if isinstance(values, list | tuple):
            for value in values:
                self.give_up(value, reason)
        elif isinstance(values, dict):
            self.give_up(list(values.values()), reason)
        elif isinstance(values, Source | Rows):
            source = values.source if isinstance(values, Rows) else values
            self.opaque.setdefault(source.name, reason)
        elif isinstance(values, Tensor):
            self.space.freeze([values], reason)

    def before(self, values: Value) -> str:
        """Why the channels among these operands must stay whatever becomes of them, if they must.

        What a parameter brings into them, or reads of the network's input, is another matter.
        """
        every = tree_leaves(values)
        if any(isinstance(value, Source | Rows) for value in every):
            return ""
        reason = self.space.staying(value for value in every if isinstance(value, Tensor))
        return "" if reason == "network input" else reason

    def fixed(self, out: Any, reason: str) -> Value:
        """Labels of a result whose channels must stay, shaped as ``out``."""
        if isinstance(out, list | tuple):
            return tuple(self.fixed(o, reason) for o in out)
        if not isinstance(out, Tensor):
            return out
        if dynamic(out):
            return Dynamic()
        shape = [1] * out.ndim
        if out.ndim:
            shape[min(1, out.ndim - 1)] = out.shape[min(1, out.ndim - 1)]
        labels = self.space.mint(torch.Size(shape).numel()).reshape(shape)
        self.space.freeze([labels], reason)
        return labels.expand(out.shape)


def _is_torchs(module: nn.Module | None) -> bool:
    return module is None or type(module).__module__.startswith("torch.nn.")


Rule = Callable[[Labeller, Op], Value]
"""Labels of the operator's result; raises `Unknown` for uses that it does not cover."""
