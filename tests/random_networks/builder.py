"""A network in the making: its steps, its maps, the table of kinds."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from random_networks.layers import WIDTHS, pick, unit

BATCH, COLOURS, SIZE = 2, 3, 8
WIDEST = 24
"""Maps with more channels are narrowed before a step reads them."""


@dataclass(frozen=True, repr=False)
class Step:
    """One step of a network; what the numbers mean is up to the kind.

    Mostly ``a`` chooses the map that is read (0: the latest), ``b`` the variant, ``c`` a width or
    a second map.
    """

    kind: str
    a: int = 0
    b: int = 0
    c: int = 0

    def __repr__(self) -> str:
        return f'Step("{self.kind}", {self.a}, {self.b}, {self.c})'


@dataclass(frozen=True, repr=False)
class Spec:
    """A network: the seed of its weights, and its steps."""

    seed: int
    steps: tuple[Step, ...] = ()

    def __repr__(self) -> str:
        inside = ", ".join(map(repr, self.steps)) + ("," if len(self.steps) == 1 else "")
        return f"Spec(seed={self.seed}, steps=({inside}))"


class Part(nn.Module):
    """Modules, parameters and buffers by name, and the forward pass as a function of them."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *maps: Tensor) -> Any:
        return self.run(self, *maps)


class Network(nn.Module):
    """Runs its blocks one after the other, each on the maps that it was wired to."""

    def __init__(
        self,
        blocks: dict[str, nn.Module],
        wiring: Sequence[tuple[int, ...]],
        outputs: Sequence[int],
        form: int,
        unused: Sequence[nn.Module],
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(blocks)
        self.unused = nn.ModuleList(unused)
        self.wiring, self.outputs, self.form = tuple(wiring), tuple(outputs), form

    def forward(self, *inputs: Tensor) -> Any:
        maps = list(inputs)
        for block, sources in zip(self.blocks.values(), self.wiring, strict=True):
            made = block(*(maps[i] for i in sources))
            maps.extend(made if isinstance(made, tuple) else (made,))
        found = [maps[i] for i in self.outputs]
        if len(found) == 1:
            return found[0]
        nested = (found[0], {"others": found[1:]})
        named = {f"out{i}": x for i, x in enumerate(found)}
        return (tuple(found), named, nested)[self.form % 3]


class Builder:
    """A network in the making; every block is run once, for the shapes."""

    def __init__(self, spec: Spec) -> None:
        extra = [(1, COLOURS, 4)[s.b % 3] for s in spec.steps if s.kind == "input"]
        self.inputs = [torch.randn(BATCH, c, SIZE, SIZE) for c in (COLOURS, *extra)]
        self.maps = list(self.inputs)
        self.pool = [0]
        self.read = set(range(len(self.maps)))
        self.blocks: dict[str, nn.Module] = {}
        self.wiring: list[tuple[int, ...]] = []
        self.outputs: list[int] = []
        self.unused: list[nn.Module] = []
        self.form = self.seen = 0
        self.kind = "stem"
        self.add(unit(COLOURS, WIDTHS[0]), 0)

    def step(self, step: Step) -> None:
        """Adds what the step stands for."""
        self.kind = step.kind
        KINDS[step.kind](self, step)

    def finish(self) -> Network:
        """Adds the classifier, which reads every map that nothing has read."""
        self.kind = "head"
        left = [i for i in self.pool if i not in self.read] or self.pool[-1:]
        features = sum(4 * self.shape(i)[0] for i in left)
        head = Part(
            lambda m, *maps: m.fc(
                torch.cat([F.adaptive_avg_pool2d(x, 2).flatten(1) for x in maps], 1)
            ),
            fc=nn.Linear(features, 3),
        )
        outputs = [*self._run(head, *left), *self.outputs]
        return Network(self.blocks, self.wiring, outputs, self.form, self.unused)

    def _run(self, block: nn.Module, *sources: int) -> list[int]:
        made = block.eval()(*(self.maps[i] for i in sources))
        made = made if isinstance(made, tuple) else (made,)
        self.blocks[f"{len(self.blocks)}_{self.kind}"] = block
        self.wiring.append(sources)
        self.read.update(sources)
        self.maps.extend(made)
        return list(range(len(self.maps) - len(made), len(self.maps)))

    def add(self, block: nn.Module, *sources: int) -> list[int]:
        """Adds a block; its results go into the pool."""
        made = self._run(block, *sources)
        self.pool.extend(made)
        return made

    def output(self, index: int, form: int) -> None:
        """Makes a map an output of the network."""
        self.read.add(index)
        self.outputs.append(index)
        self.form = form

    def shape(self, index: int) -> tuple[int, int, int]:
        """Channels, height and width of a map."""
        _, c, h, w = self.maps[index].shape
        return c, h, w

    def take(self, choice: int, multiple: int = 1, least: int = 1, size: int = 1) -> int:
        """A map out of the pool, 0 for the latest.

        Args:
            choice: which one.
            multiple: its channels are made a multiple of this,
            least: and this many at least;
            size: and its height and width not smaller than this.
        """
        i = self.pool[-1 - choice % len(self.pool)]
        c, h, w = self.shape(i)
        wanted = max(least, c if c <= WIDEST else WIDTHS[0])
        i = self.resized(i, (max(h, size), max(w, size)))
        return self.widened(i, -(-wanted // multiple) * multiple)

    def widened(self, i: int, channels: int) -> int:
        """The same map, or a projection of it with that many channels."""
        if self.shape(i)[0] == channels:
            return i
        return self._run(nn.Conv2d(self.shape(i)[0], channels, 1), i)[0]

    def resized(self, i: int, size: tuple[int, int]) -> int:
        """The same map, or a resampled one of that height and width."""
        if self.shape(i)[1:] == size:
            return i
        smaller = self.shape(i)[1] > size[0]
        return self._run(
            Part(
                lambda m, x: F.adaptive_avg_pool2d(x, size) if smaller else F.interpolate(x, size)
            ),
            i,
        )[0]

    def pair(self, s: Step) -> tuple[int, int]:
        """Two maps of the same shape."""
        i = self.take(s.a)
        c, h, w = self.shape(i)
        return i, self.widened(self.resized(self.take(s.c), (h, w)), c)


Make = Callable[[Builder, Step], None]
KINDS: dict[str, Make] = {}
WEIGHTS: dict[str, float] = {}


def kind(weight: float = 1.0) -> Callable[[Make], Make]:
    """Registers a kind of step under the function's name, and how often it is drawn."""

    def register(make: Make) -> Make:
        name = make.__name__.rstrip("_")
        KINDS[name], WEIGHTS[name] = make, weight
        return make

    return register


def random_spec(seed: int) -> Spec:
    """Between 4 and 14 steps.

    One of them is given by the seed, so that seeds in a row meet every kind, and every kind in
    its variants.
    """
    rng = random.Random(seed)
    names, weights = list(WEIGHTS), list(WEIGHTS.values())
    steps = [
        Step(name, _earlier(rng), rng.randrange(60), _earlier(rng, 12))
        for name in rng.choices(names, weights, k=rng.randint(4, 14))
    ]
    given = Step(names[seed % len(names)], _earlier(rng), seed // len(names), _earlier(rng, 12))
    steps[rng.randrange(len(steps))] = given
    return Spec(seed, tuple(steps))


def _earlier(rng: random.Random, most: int = 5) -> int:
    """Mostly the latest map."""
    return 0 if rng.random() < 0.5 else rng.randrange(most)


def build(spec: Spec) -> tuple[Network, tuple[Tensor, ...]]:
    """The network in eval mode and inputs for it; the same ones for the same spec."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(spec.seed)
        net = Builder(spec)
        for step in spec.steps:
            net.step(step)
        model = net.finish().eval()
        _shake(model)
    return model, tuple(net.inputs)


def _shake(model: nn.Module) -> None:
    """Statistics and affine parameters of norms drawn at random, so that nothing cancels."""
    ranges = {
        "running_mean": (-0.5, 0.5),
        "running_var": (0.7, 1.5),
        "weight": (0.6, 1.4),
        "bias": (-0.3, 0.3),
    }
    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    for module in model.modules():
        if isinstance(module, norms):
            for name, (low, high) in ranges.items():
                if isinstance(held := getattr(module, name, None), Tensor):
                    held.uniform_(low, high)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.weight.is_leaf:
            module.weight.mul_(1.8)  # the default weights let signals fade


def unary(*variants: Callable[..., Any], **needs: int) -> Make:
    """A step that applies one of some functions of (part, map); no parameters."""

    def make(net: Builder, s: Step) -> None:
        net.add(Part(pick(variants, s.b)), net.take(s.a, **needs))

    return make


def modular(*variants: Callable[[int], nn.Module], **needs: int) -> Make:
    """A step that applies one of some modules, made for the number of channels."""

    def make(net: Builder, s: Step) -> None:
        i = net.take(s.a, **needs)
        net.add(pick(variants, s.b)(net.shape(i)[0]), i)

    return make


def register(name: str, make: Make, weight: float = 1.0) -> None:
    KINDS[name], WEIGHTS[name] = make, weight
