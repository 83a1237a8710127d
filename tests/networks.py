"""Random networks: every way in which channels can hang together, drawn by a seed.

A network is a `Spec`: a seed and some steps. Each step takes feature maps out of a pool, by index
modulo the size of the pool, and puts its results there; sizes that do not fit are made to fit with
a 1x1 convolution or by resampling. Any subset of the steps is therefore a network as well, and a
case that fails can be made smaller by deleting steps.

What no step has read in the end goes to the classifier, so that every layer has a reader.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

BATCH, COLOURS, SIZE = 2, 3, 8
WIDTHS = (8, 4, 6, 12, 16, 5, 10, 7)
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
T = TypeVar("T")


def kind(weight: float = 1.0) -> Callable[[Make], Make]:
    """Registers a kind of step under the function's name, and how often it is drawn."""

    def register(make: Make) -> Make:
        name = make.__name__.rstrip("_")
        KINDS[name], WEIGHTS[name] = make, weight
        return make

    return register


def pick(options: Sequence[T], choice: int) -> T:
    return options[choice % len(options)]


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


# --- blocks


def width(choice: int) -> int:
    return pick(WIDTHS, choice)


ACTIVATIONS: tuple[Callable[[int], nn.Module], ...] = (
    lambda c: nn.ReLU(),
    lambda c: nn.SiLU(),
    lambda c: nn.Hardswish(),
    lambda c: nn.PReLU(c, init=0.3),
    lambda c: nn.Sigmoid(),
    lambda c: nn.GELU(),
    lambda c: nn.PReLU(init=0.2),
    lambda c: nn.ReLU(inplace=True),
    lambda c: nn.Tanh(),
    lambda c: nn.Softplus(),
    lambda c: nn.LeakyReLU(0.1),
    lambda c: nn.Mish(),
    lambda c: nn.ELU(),
    lambda c: nn.Identity(),
)


def activation(channels: int, choice: int) -> nn.Module:
    return pick(ACTIVATIONS, choice)(channels)


def plain(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def unit(inputs: int, outputs: int, choice: int = 0, **options: Any) -> nn.Module:
    """Convolution, batch norm, activation; one in five without the norm."""
    normed = choice % 5 != 4
    layers = [plain(inputs, outputs, bias=not normed or choice % 2 == 1, **options)]
    norm = [nn.BatchNorm2d(outputs)] if normed else []
    return nn.Sequential(*layers, *norm, activation(outputs, choice))


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


# --- convolutions


@kind(6)
def conv(net: Builder, s: Step) -> None:
    i = net.take(s.a)
    kernel = 1 if s.c % 3 == 2 else 3
    net.add(unit(net.shape(i)[0], width(s.c), s.b, kernel=kernel), i)


@kind()
def stride(net: Builder, s: Step) -> None:
    i = net.take(s.a)
    net.add(unit(net.shape(i)[0], width(s.c), s.b, stride=2), i)


@kind(2)
def depthwise(net: Builder, s: Step) -> None:
    i = net.take(s.a)
    c = net.shape(i)[0]
    options = {"stride": 2} if s.c % 3 == 2 else {}
    net.add(unit(c, c * (1 + s.b % 2), s.b // 2, groups=c, **options), i)


@kind(2)
def grouped(net: Builder, s: Step) -> None:
    groups = (2, 4)[s.b % 2]
    i = net.take(s.a, multiple=groups)
    outputs = -(-width(s.c) // groups) * groups
    net.add(unit(net.shape(i)[0], outputs, s.b // 2, groups=groups), i)


@kind(2)
def transposed(net: Builder, s: Step) -> None:
    """Plain, in groups, depthwise, and depthwise with two outputs for an input."""
    i = net.take(s.a, multiple=4)
    c, h, _ = net.shape(i)
    groups = (1, 2, c, c, 4)[s.b % 5]
    outputs = (width(s.c), 2 * width(s.c), c, 2 * c, 4 * width(s.c))[s.b % 5]
    double = h < SIZE and s.b % 2 == 0
    layer = nn.ConvTranspose2d(
        c, outputs, 4 if double else 3, stride=2 if double else 1, padding=1, groups=groups,
        bias=s.b % 3 > 0,
    )  # fmt: skip
    net.add(nn.Sequential(layer, nn.BatchNorm2d(outputs), activation(outputs, s.b)), i)


@kind()
def conv1d(net: Builder, s: Step) -> None:
    """Space laid out in a row: a chain, depthwise, in groups; and along the channels (ECA)."""
    i = net.take(s.a, multiple=2)
    c, h, w = net.shape(i)
    o = width(s.c)

    def row(m: Any, x: Tensor) -> Tensor:
        return m.second(F.relu(m.first(x.flatten(2)))).reshape(x.shape[0], -1, h, w)

    def along_channels(m: Any, x: Tensor) -> Tensor:
        y = m.first(x.mean((2, 3))[:, None])[:, 0]
        return x * torch.sigmoid(y)[:, :, None, None]

    def layer(inputs: int, outputs: int, groups: int = 1) -> nn.Conv1d:
        return nn.Conv1d(inputs, outputs, 3, padding=1, groups=groups)

    variants = (
        lambda: Part(row, first=layer(c, o), second=layer(o, c)),
        lambda: Part(row, first=layer(c, c, c), second=layer(c, o)),
        lambda: Part(row, first=layer(c, c, 2), second=nn.BatchNorm1d(c)),
        lambda: Part(along_channels, first=layer(1, 1)),
    )
    net.add(pick(variants, s.b)(), i)


@kind()
def conv3d(net: Builder, s: Step) -> None:
    """A depth of one, two maps as the depth, the channels as the depth."""
    i, j = net.pair(s)
    c, o = net.shape(i)[0], width(s.c)
    layer = nn.Conv3d(c, o, 3, padding=1)
    if s.b % 3 == 0:
        norm = nn.BatchNorm3d(o)
        net.add(
            Part(lambda m, x: m.norm(m.conv(x.unsqueeze(2))).squeeze(2), conv=layer, norm=norm), i
        )
    elif s.b % 3 == 1:
        net.add(Part(lambda m, x, y: m.conv(torch.stack([x, y], 2)).mean(2), conv=layer), i, j)
    else:
        layer = nn.Conv3d(1, 4, 3, padding=1)
        net.add(Part(lambda m, x: F.relu(m.conv(x.unsqueeze(1))).mean(1), conv=layer), i)


@kind()
def functional(net: Builder, s: Step) -> None:
    """Bare parameters as weights; weights that are computed."""
    i = net.take(s.a)
    c, o = net.shape(i)[0], width(s.c)
    kernel, offset = nn.Parameter(torch.randn(o, c, 3, 3) / c), nn.Parameter(torch.rand(o))
    flat = nn.Parameter(torch.randn(o, c) / c)
    one = nn.Parameter(torch.randn(c, 1, 3, 3))
    scale, shift = nn.Parameter(torch.rand(c) + 0.5), nn.Parameter(torch.rand(c) - 0.5)
    mean, var = torch.rand(c), torch.rand(c) + 0.5
    variants = (
        lambda: Part(lambda m, x: F.conv2d(x, m.k, m.b, padding=1), k=kernel, b=offset),
        lambda: Part(lambda m, x: F.relu(F.conv2d(x, m.k, stride=2, padding=1)), k=kernel),
        lambda: Part(
            lambda m, x: F.linear(x.movedim(1, -1), m.k, m.b).movedim(-1, 1), k=flat, b=offset
        ),
        lambda: Part(lambda m, x: F.conv2d(x, m.k, groups=x.shape[1], padding=1), k=one),
        lambda: Part(
            lambda m, x: F.batch_norm(x, m.mean, m.var, m.w, m.b),
            mean=mean, var=var, w=scale, b=shift,
        ),
        lambda: Part(lambda m, x: F.prelu(x, m.w), w=scale),
        lambda: Part(
            lambda m, x: F.conv2d(x, m.k / m.k.square().sum((1, 2, 3), True).sqrt(), padding=1),
            k=kernel,
        ),
        lambda: parametrizations.weight_norm(plain(c, o)),
    )  # fmt: skip
    net.add(pick(variants, s.b)(), i)


# --- several maps at once


@kind(4)
def residual(net: Builder, s: Step) -> None:
    i = net.take(s.a)
    c, middle, o = net.shape(i)[0], width(s.c), width(s.c + 1)
    variants = (
        lambda: Part(lambda m, x: x + m.b(m.a(x)), a=unit(c, middle, s.b), b=plain(middle, c)),
        lambda: Part(
            lambda m, x: F.relu(m.b(m.a(x)) + m.skip(x)),
            a=unit(c, middle, s.b, stride=2), b=unit(middle, o, 13),
            skip=nn.Conv2d(c, o, 1, stride=2, bias=False),
        ),
        lambda: Part(
            lambda m, x: m.b(m.a(x)).add_(x).relu_(), a=unit(c, middle, s.b), b=plain(middle, c)
        ),
        lambda: Part(
            lambda m, x: x + m.b(m.a(F.relu(m.norm(x)))),
            a=unit(c, middle, s.b, kernel=1), b=plain(middle, c), norm=nn.BatchNorm2d(c),
        ),
        lambda: Part(  # the inverted residual of MobileNetV2
            lambda m, x: x + m.c(m.b(m.a(x))),
            a=unit(c, 2 * c, 7, kernel=1), b=unit(2 * c, 2 * c, s.b, groups=2 * c),
            c=unit(2 * c, c, 13, kernel=1),
        ),
    )  # fmt: skip
    net.add(pick(variants, s.b)(), i)


def joined(*variants: Callable[..., Any]) -> Make:
    """A step that applies one of some functions to (part, map, map of the same shape)."""

    def make(net: Builder, s: Step) -> None:
        net.add(Part(pick(variants, s.b)), *net.pair(s))

    return make


register(
    "add",
    joined(
        lambda m, x, y: x + y,
        lambda m, x, y: torch.add(x, y, alpha=0.5),
        lambda m, x, y: x * torch.sigmoid(y),
        lambda m, x, y: x - F.relu(y),
        lambda m, x, y: torch.lerp(x, y, 0.3),
        lambda m, x, y: x + y.mean((2, 3), keepdim=True),
        lambda m, x, y: x / (1 + y.abs()),
        lambda m, x, y: torch.addcmul(x, y, torch.sigmoid(x), value=0.5),
        lambda m, x, y: sum([x, y]),
    ),
    3,
)
register(
    "maximum",
    joined(
        lambda m, x, y: torch.maximum(x, y),
        lambda m, x, y: torch.minimum(x, y),
        lambda m, x, y: torch.max(x, y),
        lambda m, x, y: torch.fmax(x, y.sin()),
    ),
)
register(
    "where",
    joined(
        lambda m, x, y: torch.where(x > y, x, y * 0.5),
        lambda m, x, y: torch.where(x > 0, x, y),
        lambda m, x, y: x.masked_fill(y > 0.3, 0.1),
        lambda m, x, y: torch.where(x > 0.2, x, 0.1),
        lambda m, x, y: torch.where(y < 0, torch.tensor(0.3), x),
        lambda m, x, y: x * (y > 0),
    ),
)


@kind(3)
def concat(net: Builder, s: Step) -> None:
    """Two or three maps one after the other; the same one twice is fine."""
    i = net.take(s.a)
    others = [net.take(s.c), net.take(s.a + s.c + 1)][: 1 + s.b % 2]
    same = [i, *(net.resized(j, net.shape(i)[1:]) for j in others)]
    variants = (
        lambda m, *maps: torch.cat(maps, 1),
        lambda m, *maps: F.relu(torch.concat(maps, dim=-3)),
        lambda m, *maps: torch.cat([x.sigmoid() for x in maps], 1),
        lambda m, *maps: torch.cat([x.permute(0, 2, 3, 1) for x in maps], -1).permute(0, 3, 1, 2),
    )
    net.add(Part(pick(variants, s.b // 2)), *same)


@kind()
def stack(net: Builder, s: Step) -> None:
    """A new dimension that is reduced, or that interleaves the channels."""
    variants = (
        lambda m, x, y: torch.stack([x, y]).mean(0),
        lambda m, x, y: torch.stack([x, y, x], 1).sum(1),
        lambda m, x, y: torch.stack([x, y], 2).flatten(1, 2),
        lambda m, x, y: torch.stack([x, y], -1).amax(-1),
        lambda m, x, y: torch.stack([x, y], 1).flatten(1, 2),
        lambda m, x, y: (torch.stack([x, y], 1) * m.w.softmax(0).view(1, 2, 1, 1, 1)).sum(1),
    )
    net.add(Part(pick(variants, s.b), w=nn.Parameter(torch.rand(2))), *net.pair(s))


@kind()
def twice(net: Builder, s: Step) -> None:
    """One module that is executed twice."""
    i, j = net.pair(s)
    c = net.shape(i)[0]
    variants: tuple[Callable[[], tuple[Any, ...]], ...] = (
        lambda: (Part(lambda m, x: F.relu(m.again(F.relu(m.again(x)))), again=plain(c, c)), i),
        lambda: (Part(lambda m, x, y: m.a(x) + m.a(y.flip(3)), a=unit(c, width(s.c))), i, j),
        lambda: (
            Part(lambda m, x, y: torch.cat([m.n(x), F.relu(m.n(y))], 1), n=nn.BatchNorm2d(c)), i, j
        ),
        lambda: (
            Part(
                lambda m, x: m.b(m.act(m.a(x)) * m.act(m.a(x.flip(2)))),
                a=plain(c, 6), act=nn.PReLU(6), b=plain(6, c),
            ), i,
        ),
        lambda: (
            Part(lambda m, x, y: torch.cat([m.a(x), m.a(F.relu(y))], 1), a=plain(c, width(s.c))),
            i, j,
        ),
    )  # fmt: skip
    net.add(*pick(variants, s.b)())


@kind()
def tied(net: Builder, s: Step) -> None:
    """Tensors with two owners, or two uses."""
    i = net.take(s.a)
    c = net.shape(i)[0]
    a, b = plain(c, c), plain(c, c)
    norm, other = nn.BatchNorm2d(c), nn.BatchNorm2d(c)
    variants = (
        lambda: Part(lambda m, x: F.relu(m.a(x)) + F.relu(m.b(x.flip(3))), a=a, b=_tie(b, a)),
        lambda: Part(
            lambda m, x: m.n(m.b(F.relu(m.k(m.a(x))))), a=a, b=b, n=norm, k=_tie(other, norm)
        ),
        lambda: Part(lambda m, x: m.b(F.relu(m.a(x))), a=a, b=_tie(b, a)),
        lambda: Part(lambda m, x: m.b(torch.sigmoid(m.a(x))), a=a, b=a),
        lambda: Part(
            lambda m, x: F.conv_transpose2d(F.relu(m.a(x)), m.a.weight, padding=1),
            a=plain(c, width(s.c)),
        ),
        lambda: Part(
            lambda m, x: torch.cat([m.a(x), m.b(x)], 1), a=a, b=_tie(plain(c, c, bias=False), a)
        ),
        lambda: Part(lambda m, x: m.a(x) * m.a.bias[:, None, None], a=a),
    )
    net.add(pick(variants, s.b)(), i)


def _tie(module: nn.Module, to: nn.Module) -> nn.Module:
    module.weight = to.weight
    return module


# --- parts of the channels


@kind()
def halves(net: Builder, s: Step) -> None:
    """Both halves are used."""
    i = net.take(s.a, multiple=2)
    h = net.shape(i)[0] // 2

    def processed(m: Any, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return torch.cat([left, m.a(right)], 1)

    def exchanged(m: Any, x: Tensor) -> Tensor:
        left, right = x.split(x.shape[1] // 2, 1)
        return torch.cat([F.relu(right), left], 1)

    def gated(m: Any, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        return left * torch.sigmoid(right)

    def coupled(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        left, right = x.tensor_split(2, 1)
        left = left + F.silu(right)
        return left, right * torch.tanh(left)

    variants = (
        lambda: Part(processed, a=unit(h, width(s.c), s.b)),
        lambda: Part(exchanged),
        lambda: Part(gated),
        lambda: Part(coupled),
        lambda: Part(lambda m, x: tuple(x.chunk(2, 1))),
    )
    net.add(pick(variants, s.b)(), i)


@kind()
def parts(net: Builder, s: Step) -> None:
    """Three or four parts of equal length, each a map of its own."""
    n = (3, 4)[s.b % 2]
    i = net.take(s.a, multiple=n)
    variants = (
        lambda m, x: tuple(x.chunk(n, 1)),
        lambda m, x: tuple(torch.split(x, x.shape[1] // n, 1)),
        lambda m, x: x.unflatten(1, (n, -1)).unbind(1),
        lambda m, x: tuple(x.unflatten(1, (n, -1))[:, k] for k in range(n)),
        lambda m, x: x.unflatten(1, (-1, n)).unbind(2),
    )
    net.add(Part(pick(variants, s.b // 2)), i)


def _around(m: Any, x: Tensor) -> Tensor:
    first, rest = x[:, :1], x[:, 1:]
    return torch.cat([rest, first], 1)


register(
    "slice",
    unary(
        lambda m, x: x[:, 1:],
        lambda m, x: x[:, :-1],
        lambda m, x: x[:, ::2],
        lambda m, x: x.index_select(1, torch.tensor([3, 0, 1])),
        lambda m, x: tuple(x.split([3, x.shape[1] - 3], 1)),
        lambda m, x: x.narrow(1, 1, 2) + x[:, 0:1],
        lambda m, x: x * x.select(1, 2).unsqueeze(1).sigmoid(),
        lambda m, x: x[:, [0, 2, 2]],
        lambda m, x: x.roll(1, 1),
        lambda m, x: x.flip(1),
        _around,
        lambda m, x: x[:, : x.shape[1] // 2],
        least=4,
    ),
    0.7,
)


def _transposed_shuffle(m: Any, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.contiguous().view(b, m.n, c // m.n, h, w).transpose(1, 2).reshape(b, c, h, w)


@kind()
def shuffle(net: Builder, s: Step) -> None:
    n = (2, 4)[s.c % 2]
    i = net.take(s.a, multiple=n)
    variants = (
        lambda: Part(_transposed_shuffle, n=n),
        lambda: nn.ChannelShuffle(n),
        lambda: Part(lambda m, x: x.unflatten(1, (-1, n)).transpose(1, 2).flatten(1, 2)),
        lambda: Part(lambda m, x: torch.cat([x[:, k::n] for k in range(n)], 1)),
    )
    net.add(pick(variants, s.b)(), i)


register(
    "glu",
    modular(
        lambda c: Part(lambda m, x: F.glu(x, 1)),
        lambda c: nn.GLU(1),
        lambda c: nn.GLU(-3),
        lambda c: Part(
            lambda m, x: F.glu(m.fc(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2), fc=nn.Linear(c, 8)
        ),
        multiple=2,
    ),
)


@kind()
def pixel(net: Builder, s: Step) -> None:
    """Channels into space and back."""
    _, h, w = net.shape(i := net.take(s.a, multiple=4))
    down: tuple[Callable[[], nn.Module], ...] = (
        lambda: nn.PixelUnshuffle(2),
        lambda: Part(lambda m, x: torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2]], 1)),
    )
    up: tuple[Callable[[], nn.Module], ...] = (
        lambda: nn.PixelShuffle(2),
        lambda: Part(
            lambda m, x: (
                x.reshape(x.shape[0], 2, 2, -1, h, w)
                .permute(0, 3, 4, 1, 5, 2)
                .reshape(x.shape[0], -1, 2 * h, 2 * w)
            )
        ),
    )
    if s.b % 2 == 0 and max(h, w) <= SIZE:
        net.add(pick(up, s.b // 2)(), i)
    else:
        net.add(pick(down, s.b // 2)(), net.resized(i, (h + h % 2, w + w % 2)))


@kind()
def pad_channels(net: Builder, s: Step) -> None:
    """The shortcut of ResNet's option A, and other channels that no layer wrote."""
    i = net.take(s.a)
    c, o = net.shape(i)[0], net.shape(i)[0] + 4

    def grown(m: Any, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        return torch.cat([x, x.new_zeros(b, 2, h, w)], 1)

    variants = (
        lambda: Part(lambda m, x: F.pad(x, (0, 0, 0, 0, 2, 2)) + m.a(x), a=plain(c, o)),
        lambda: Part(lambda m, x: F.pad(x, (0, 0, 0, 0, 0, 3))),
        lambda: Part(
            lambda m, x: F.relu(F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + m.a(x)),
            a=unit(c, o, 13, stride=2),
        ),
        lambda: Part(lambda m, x: torch.sigmoid(F.pad(x, (0, 0, 0, 0, 1, 0)))),
        lambda: Part(grown),
        lambda: Part(
            lambda m, x: m.n(F.pad(x, (0, 0, 0, 0, 1, 1), value=0.5)), n=nn.BatchNorm2d(c + 2)
        ),
        lambda: Part(lambda m, x: torch.cat([torch.ones_like(x[:, :1]), x], 1)),
    )
    net.add(pick(variants, s.b)(), i)


# --- products


@kind(2)
def squeeze_excite(net: Builder, s: Step) -> None:
    i = net.take(s.a)
    c, r = net.shape(i)[0], (4, 3, 2)[s.c % 3]

    def narrow(m: Any, x: Tensor) -> Tensor:
        return x * torch.sigmoid(m.up(F.silu(m.down(x.mean((2, 3), keepdim=True)))))

    def hard(m: Any, x: Tensor) -> Tensor:
        y = F.hardsigmoid(m.up(F.relu(m.down(F.adaptive_avg_pool2d(x, 1)))))
        return y * x

    def dense(m: Any, x: Tensor) -> Tensor:
        y = m.up(F.relu(m.down(x.mean((2, 3)))))
        return x * torch.sigmoid(y).view(x.shape[0], -1, 1, 1)

    def film(m: Any, x: Tensor) -> Tensor:
        scale, shift = m.both(F.relu(m.down(x.amax((2, 3))))).chunk(2, 1)
        return x * (1 + scale[:, :, None, None]) + shift[:, :, None, None]

    def expanded(m: Any, x: Tensor) -> Tensor:
        y = m.up(F.gelu(m.down(x.mean([2, 3])))).unsqueeze(-1).unsqueeze(-1)
        return x * y.sigmoid().expand_as(x)

    linear = {"down": nn.Linear(c, r), "up": nn.Linear(r, c)}
    convs = {"down": nn.Conv2d(c, r, 1), "up": nn.Conv2d(r, c, 1)}
    variants = (
        lambda: Part(narrow, **convs),
        lambda: Part(dense, **linear),
        lambda: Part(hard, **convs),
        lambda: Part(film, down=nn.Linear(c, r), both=nn.Linear(r, 2 * c)),
        lambda: Part(expanded, **linear),
    )
    net.add(pick(variants, s.b)(), i)


@kind()
def gate(net: Builder, s: Step) -> None:
    """A single map multiplies every channel."""
    i, j = net.pair(s)
    c = net.shape(i)[0]
    variants: tuple[Callable[[], tuple[Any, ...]], ...] = (
        lambda: (Part(lambda m, x: x * torch.sigmoid(m.gate(x)), gate=plain(c, 1)), i),
        lambda: (
            Part(lambda m, x, y: m.gate(F.relu(m.a(y))).sigmoid() * x, a=plain(c, 5),
                 gate=plain(5, 1)), i, j,
        ),
        lambda: (Part(lambda m, x: x * torch.sigmoid(x.mean(1, keepdim=True))), i),
        lambda: (
            Part(
                lambda m, x: x * m.gate(
                    torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
                ).sigmoid(),
                gate=plain(2, 1),
            ), i,
        ),
        lambda: (
            Part(lambda m, x: x * m.fc(x.mean((2, 3)))[:, :, None, None], fc=nn.Linear(c, 1)), i
        ),
    )  # fmt: skip
    net.add(*pick(variants, s.b)())


@kind(2)
def scale(net: Builder, s: Step) -> None:
    """Bare parameters and buffers, one number or one for each channel."""
    i = net.take(s.a)
    c, h, w = net.shape(i)
    wide, high, flat = torch.rand(1, c, 1, 1) + 0.5, torch.rand(c, 1, 1) - 0.5, torch.rand(c)
    variants: tuple[Callable[[], nn.Module], ...] = (
        lambda: Part(lambda m, x: x * m.w, w=nn.Parameter(wide)),
        lambda: Part(lambda m, x: x * m.w + m.b, w=nn.Parameter(torch.rand(1)), b=high),
        lambda: Part(lambda m, x: m.w * x, w=nn.Parameter(torch.tensor(0.7))),
        lambda: Part(lambda m, x: x + m.w.view(1, -1, 1, 1), w=nn.Parameter(flat)),
        lambda: Part(lambda m, x: x * m.w[:, None, None], w=nn.Parameter(flat)),
        lambda: Part(
            lambda m, x: (x.permute(0, 2, 3, 1) * m.w).permute(0, 3, 1, 2), w=nn.Parameter(flat)
        ),
        lambda: Part(lambda m, x: x * m.w.expand_as(x).exp(), w=wide),
        lambda: Part(lambda m, x: x + m.w, w=nn.Parameter(torch.randn(1, c, h, w))),
        lambda: Part(lambda m, x: x + m.w, w=nn.Parameter(torch.randn(h, w))),
        lambda: Part(lambda m, x: x * F.softplus(m.w.reshape(1, -1, 1, 1)), w=nn.Parameter(flat)),
    )
    net.add(pick(variants, s.b)(), i)


@kind(0.5)
def attention(net: Builder, s: Step) -> None:
    """Between positions by hand and by operator, in heads, and between channels."""
    i = net.take(s.a)
    c, h, w = net.shape(i)

    def qkv(m: Any, x: Tensor) -> list[Tensor]:
        return [y.flatten(2).transpose(1, 2) for y in m.qkv(x).chunk(3, 1)]

    def by_hand(m: Any, x: Tensor) -> Tensor:
        q, k, v = qkv(m, x)
        y = (q @ k.transpose(1, 2) / q.shape[2] ** 0.5).softmax(-1) @ v
        return x + m.out(y.transpose(1, 2).unflatten(2, (h, w)))

    def by_operator(m: Any, x: Tensor) -> Tensor:
        q, k, v = qkv(m, x)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + m.out(y.transpose(1, 2).unflatten(2, (h, w)))

    def heads(m: Any, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(2, (2, -1)).transpose(1, 2) for y in qkv(m, x))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + m.out(y.transpose(1, 2).unflatten(2, (h, w)))

    def channels(m: Any, x: Tensor) -> Tensor:
        y = x.flatten(2)
        return x + m.out((y.softmax(2) @ y.transpose(1, 2) @ y).view_as(x))

    run = pick((by_hand, by_operator, heads, channels), s.b)
    layers = {} if run is channels else {"qkv": nn.Conv2d(c, 24, 1)}
    net.add(Part(run, out=nn.Conv2d(c if run is channels else 8, c, 1), **layers), i)


# --- layers that are not convolutions


@kind()
def linear(net: Builder, s: Step) -> None:
    """Linear layers on channels that were moved to the end; and on a row of the image."""
    i = net.take(s.a)
    c, h, w = net.shape(i)
    o = width(s.c)

    def permuted(m: Any, x: Tensor) -> Tensor:
        return m.b(F.gelu(m.a(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)

    def tokens(m: Any, x: Tensor) -> Tensor:
        y = m.b(F.silu(m.a(x.flatten(2).transpose(1, 2)))).transpose(1, 2)
        return x + y.reshape(x.shape[0], -1, h, w)

    variants = (
        lambda: Part(permuted, a=nn.Linear(c, o), b=nn.Linear(o, width(s.c + 1))),
        lambda: Part(tokens, a=nn.Linear(c, o), b=nn.Linear(o, c)),
        lambda: Part(lambda m, x: F.relu(m.a(x)), a=nn.Linear(w, w)),
        lambda: Part(
            lambda m, x: x + m.b(m.a(x.flatten(2)).relu()).view_as(x),
            a=nn.Linear(h * w, o), b=nn.Linear(o, h * w),
        ),
    )  # fmt: skip
    net.add(pick(variants, s.b)(), i)


@kind(2)
def dense(net: Builder, s: Step) -> None:
    """Flatten and linear at several sizes; the features become maps of one pixel."""
    i = net.take(s.a)
    c, h, w = net.shape(i)
    size = ((h, w), (2, 2), (1, 1), (4, 4), (3, 2))[s.c % 5]
    i = net.resized(i, size)
    n, o = c * size[0] * size[1], width(s.c)

    def chain(m: Any, x: Tensor) -> Tensor:
        return m.b(F.relu(m.a(x.flatten(1))))[:, :, None, None]

    def normed(m: Any, x: Tensor) -> Tensor:
        y = F.silu(m.norm(m.a(x.reshape(x.shape[0], -1))))
        return y.unsqueeze(2).unsqueeze(3)

    def reordered(m: Any, x: Tensor) -> Tensor:
        return m.a(x.permute(0, 2, 3, 1).flatten(1)).relu().view(x.shape[0], -1, 1, 1)

    def laid_out(m: Any, x: Tensor) -> Tensor:
        return m.a(x.flatten(1)).reshape(x.shape[0], -1, 2, 2)

    variants = (
        lambda: Part(chain, a=nn.Linear(n, o), b=nn.Linear(o, width(s.c + 1))),
        lambda: Part(normed, a=nn.Linear(n, o), norm=nn.BatchNorm1d(o)),
        lambda: Part(reordered, a=nn.Linear(n, o)),
        lambda: Part(laid_out, a=nn.Linear(n, 4 * o)),
    )
    net.add(pick(variants, s.b)(), i)


@kind(0.5)
def unused(net: Builder, s: Step) -> None:
    """A layer that forward never calls."""
    net.unused.append(unit(4, width(s.c), s.b))


@kind()
def hooked(net: Builder, s: Step) -> None:
    """A container whose output, or input, a hook scales."""
    i = net.take(s.a)
    c, o = net.shape(i)[0], width(s.c)
    part = nn.Sequential(unit(c, o, s.b), plain(o, c))
    if s.b % 3 == 0:
        part.register_forward_hook(lambda m, args, out: out * 0.5)
    elif s.b % 3 == 1:
        part.register_forward_pre_hook(lambda m, args: (args[0].clamp(-2, 2),))
    else:
        part[0].register_forward_hook(lambda m, args, out: out + args[0].mean())
    net.add(part, i)


# --- norms


register(
    "batch_norm",
    modular(
        lambda c: nn.BatchNorm2d(c),
        lambda c: nn.BatchNorm2d(c, affine=False),
        lambda c: nn.BatchNorm2d(c, track_running_stats=False),
        lambda c: nn.Sequential(nn.BatchNorm2d(c), nn.BatchNorm2d(c)),
    ),
)


@kind(1.5)
def group_norm(net: Builder, s: Step) -> None:
    i = net.take(s.a, multiple=4)
    c = net.shape(i)[0]
    groups = (2, 4, 1, c, 2)[s.b % 5]
    norm = nn.GroupNorm(groups, c, affine=s.b % 5 != 4)
    # torch 2.13 crashes in its backward pass of a map that is laid out channels last and needs no
    # gradient
    net.add(Part(lambda m, x: m.act(m.norm(x.contiguous())), norm=norm, act=activation(c, s.c)), i)


register(
    "instance_norm",
    modular(
        lambda c: nn.InstanceNorm2d(c, affine=True),
        lambda c: nn.InstanceNorm2d(c),
        lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True),
        lambda c: nn.InstanceNorm2d(c, track_running_stats=True),
        size=2,
    ),
)


@kind()
def layer_norm(net: Builder, s: Step) -> None:
    """Over the channels, moved to the end and back; over everything; over a row."""
    i = net.take(s.a, size=2)
    c, h, w = net.shape(i)

    def last(m: Any, x: Tensor) -> Tensor:
        return m.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    variants = (
        lambda: Part(last, norm=nn.LayerNorm(c)),
        lambda: Part(last, norm=nn.LayerNorm(c, elementwise_affine=False)),
        lambda: nn.LayerNorm([c, h, w]),
        lambda: nn.LayerNorm(w),
        lambda: Part(last, norm=nn.RMSNorm(c)),
        lambda: Part(lambda m, x: F.normalize(x, dim=1)),
        lambda: Part(  # ConvNeXt
            lambda m, x: x + m.b(F.gelu(m.a(m.norm(m.dw(x).permute(0, 2, 3, 1))))).permute(
                0, 3, 1, 2
            ),
            dw=plain(c, c, groups=c), norm=nn.LayerNorm(c), a=nn.Linear(c, 2 * c),
            b=nn.Linear(2 * c, c),
        ),
    )  # fmt: skip
    net.add(pick(variants, s.b)(), i)


# --- space


register(
    "global_pool",
    unary(
        lambda m, x: x.mean((2, 3), keepdim=True),
        lambda m, x: F.adaptive_avg_pool2d(x, 1),
        lambda m, x: F.adaptive_max_pool2d(x, 1),
        lambda m, x: x.amax(dim=(-2, -1), keepdim=True),
        lambda m, x: x.flatten(2).mean(-1)[..., None, None],
        lambda m, x: torch.cat([x.mean((2, 3), True), x.amax((2, 3), True)], 1),
        lambda m, x: x.max(dim=3, keepdim=True).values,
        lambda m, x: x.flatten(2).max(2)[0][:, :, None, None],
        lambda m, x: x.flatten(2).logsumexp(2)[:, :, None, None],
    ),
)


def _unpooled(m: Any, x: Tensor) -> Tensor:
    y, where = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(y, where, [2, 2], output_size=x.shape[-2:])


register(
    "pool",
    unary(
        lambda m, x: F.max_pool2d(x, 2),
        lambda m, x: F.avg_pool2d(x, 2),
        lambda m, x: F.max_pool2d(x, 3, stride=1, padding=1),
        lambda m, x: F.avg_pool2d(x, 3, stride=2, padding=1),
        lambda m, x: F.max_pool2d(x, 2, ceil_mode=True),
        lambda m, x: F.adaptive_avg_pool2d(x, (2, 3)),
        lambda m, x: x + F.interpolate(F.adaptive_max_pool2d(x, 2), x.shape[-2:]),
        _unpooled,
        size=2,
    ),
)


@kind()
def upsample(net: Builder, s: Step) -> None:
    i = net.take(s.a)
    _, h, w = net.shape(i)
    size = (2 * h, 2 * w) if max(h, w) <= SIZE // 2 else (SIZE, SIZE)
    variants: tuple[Callable[..., Any], ...] = (
        lambda m, x: F.interpolate(x, size, mode="nearest"),
        lambda m, x: F.interpolate(x, size, mode="bilinear", align_corners=False),
        lambda m, x: F.interpolate(x, size, mode="bicubic"),
        lambda m, x: F.interpolate(x, size, mode="nearest-exact"),
        lambda m, x: x.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., :SIZE, :SIZE],
    )
    net.add(Part(pick(variants, s.b)), i)


register(
    "pad",
    modular(
        lambda c: Part(lambda m, x: F.pad(x, (1, 2, 0, 1))[..., :SIZE, 1:]),
        lambda c: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(c, 6, 3)),
        lambda c: nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(c, c, 3, groups=c), nn.ReLU()),
        lambda c: nn.Sequential(nn.ReplicationPad2d(1), nn.MaxPool2d(3, 1)),
        lambda c: nn.Sequential(nn.ConstantPad2d(1, 0.5), nn.AvgPool2d(3, 1)),
        lambda c: nn.Conv2d(c, 6, 3, padding=1, padding_mode="reflect"),
        lambda c: nn.Conv2d(c, 6, 3, padding=1, padding_mode="circular"),
        size=2,
    ),
)
register(
    "softmax",
    unary(
        lambda m, x: x * x.flatten(2).softmax(2).view_as(x),
        lambda m, x: x.softmax(3) + x.softmax(2),
        lambda m, x: (x.flatten(2) * x.flatten(2).softmax(2)).sum(2)[:, :, None, None],
        lambda m, x: F.log_softmax(x.flatten(2), -1).unflatten(2, x.shape[2:]),
        size=2,
    ),
)
register(
    "squeeze",
    unary(
        lambda m, x: x.unsqueeze(1).squeeze(1),
        lambda m, x: x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1)[:, :, None, None],
        lambda m, x: x.unsqueeze(-1).unsqueeze(0).squeeze(0).squeeze(-1),
        lambda m, x: F.adaptive_avg_pool2d(x, 1).squeeze()[:, :, None, None],
        lambda m, x: x.flatten(2).unsqueeze(-1).unflatten(2, x.shape[2:]).squeeze(-1),
        lambda m, x: x.unsqueeze(2).repeat(1, 1, 2, 1, 1).flatten(1, 2),
        lambda m, x: x[:, :, None].expand(-1, -1, 3, -1, -1).mean(2),
        lambda m, x: x.repeat(1, 2, 1, 1),
        lambda m, x: x.repeat_interleave(2, 1),
        least=2,
    ),
)


# --- element-wise, and what leaves values as they are


register(
    "keep",
    modular(
        lambda c: Part(lambda m, x: x.detach()),
        lambda c: Part(lambda m, x: x.clone()),
        lambda c: Part(lambda m, x: x.contiguous()),
        lambda c: nn.Dropout(0.2),
        lambda c: nn.Identity(),
        lambda c: Part(lambda m, x: x.to(memory_format=torch.channels_last)),
        lambda c: Part(lambda m, x: x.double().to(x.dtype)),
        lambda c: nn.Dropout2d(0.2),
    ),
)
register(
    "clamp",
    unary(
        lambda m, x: x.clamp(-1, 1),
        lambda m, x: torch.where(x > 0, x, 0.1 * x),
        lambda m, x: x.clamp(min=0.1) * 2 - 1,
        lambda m, x: x.abs() ** 1.5,
        lambda m, x: F.threshold(x, 0.1, 0.05),
        lambda m, x: F.gelu(x, approximate="tanh"),
        lambda m, x: torch.exp(-x.square()),
        lambda m, x: torch.cos(x) + F.softsign(x) * F.hardtanh(x),
        lambda m, x: x.masked_fill(x < 0, 0.2),
    ),
)


def _written(m: Any, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 1:3] = 0.5
    return y


def _scaled_part(m: Any, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :2] *= 2
    return y


def _zeroed_border(m: Any, x: Tensor) -> Tensor:
    y = x.clone()
    y[..., 0] = 0
    return y


def _added_to_zeros(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y += x
    return y


def _added_through_view(m: Any, x: Tensor) -> Tensor:
    y = x * 2
    y.flatten(2).mul_(0.5).add_(1)
    return y


def _added_part_to_part(m: Any, x: Tensor) -> Tensor:
    y = x.clone()
    half = y.shape[1] // 2
    y[:, :half].add_(y[:, half:])
    return y


register(
    "in_place",
    unary(
        lambda m, x: x.clone().add_(x).mul_(0.3).relu_(),
        _written,
        _zeroed_border,
        _added_to_zeros,
        _added_through_view,
        _scaled_part,
        _added_part_to_part,
        multiple=2,
        least=4,
    ),
    0.5,
)


@kind(0.7)
def hard_coded(net: Builder, s: Step) -> None:
    """The number of channels is written in forward, in one way or another."""
    i = net.take(s.a, multiple=2)
    c, h, w = net.shape(i)

    def asserted(m: Any, x: Tensor) -> Tensor:
        assert x.shape[1] == c
        return x

    variants = (
        lambda: Part(lambda m, x: x.reshape(x.shape[0], c, -1).unflatten(2, (h, w))),
        lambda: Part(lambda m, x: x.reshape(-1, c, h, w)),
        lambda: Part(lambda m, x: x / x.shape[1]),
        lambda: Part(lambda m, x: x + torch.arange(float(c))[:, None, None]),
        lambda: Part(lambda m, x: x.unflatten(1, (2, c // 2)).flatten(1, 2)),
        lambda: Part(lambda m, x: torch.cat(x.split(c // 2, 1)[::-1], 1)),
        lambda: Part(lambda m, x: x * torch.full((1, c, 1, 1), 0.5)),
        lambda: Part(asserted),
        lambda: Part(lambda m, x: x.reshape(x.shape[0], m.width, h, w), width=c),
        lambda: Part(
            lambda m, x: m.fc(x.reshape(-1, c * h * w))[:, :, None, None],
            fc=nn.Linear(c * h * w, 4),
        ),
    )
    net.add(pick(variants, s.b)(), i)


def _sampled(m: Any, x: Tensor) -> Tensor:
    grid = torch.linspace(-1, 1, 4, dtype=x.dtype).expand(x.shape[0], 4, 4)
    return F.grid_sample(x, torch.stack([grid, grid.transpose(1, 2)], -1), align_corners=True)


register(
    "opaque",
    unary(
        lambda m, x: x.cumsum(1) * 0.3,
        lambda m, x: x.sort(1).values,
        lambda m, x: torch.einsum("bchw,bdhw->bcd", x, x).mean(2)[:, :, None, None],
        lambda m, x: x.softmax(1),
        lambda m, x: torch.fft.fft(x, dim=1).real,
        lambda m, x: x.sum(1, keepdim=True),
        lambda m, x: x.topk(2, 1).values,
        lambda m, x: x.gather(1, torch.zeros_like(x, dtype=torch.long)),
        lambda m, x: F.local_response_norm(x, 3),
        lambda m, x: F.unfold(x, 2)[:, :, :1, None],
        _sampled,
        lambda m, x: x.cumsum(2) * 0.3,
        lambda m, x: torch.einsum("bchw->bcwh", x),
        lambda m, x: x.std((2, 3), keepdim=True, correction=0),
        lambda m, x: x.transpose(1, 2).flatten(2).softmax(2).unflatten(2, (-1, x.shape[3])),
        least=3,
        size=2,
    ),
    0.7,
)


# --- channels that meet in sums, and operators off the beaten track


def _under_modes(m: Any, x: Tensor) -> Tensor:
    with torch.enable_grad():
        y = m.one(x)
    with torch.autocast("cpu", enabled=False):
        return y + m.other(x)


@kind()
def mode(net: Builder, s: Step) -> None:
    """Regions that run under a mode of their own."""
    i = net.take(s.a)
    c, o = net.shape(i)[0], width(s.c)
    net.add(Part(_under_modes, one=unit(c, o, s.b), other=plain(c, o)), i)


register(
    "sum_of_channels",
    unary(
        lambda m, x: x / (x.pow(2).sum(1, keepdim=True).sqrt() + 0.5),
        lambda m, x: x / (1 + x.norm(dim=1, keepdim=True)),
        lambda m, x: x * torch.sigmoid(x.sum(1, keepdim=True)),
        lambda m, x: x * (g := x.abs().sum((2, 3), True)) / (g.sum(1, True) + 1),
        lambda m, x: x / (x.square().sum((1, 2, 3), keepdim=True) + 1).sqrt(),
    ),
)


@kind()
def product(net: Builder, s: Step) -> None:
    """Matrix products with a parameter, and of two maps."""
    i = net.take(s.a)
    c, h, w = net.shape(i)
    o = width(s.c)
    matrix, turned = nn.Parameter(torch.randn(c, o) / c), nn.Parameter(torch.randn(o, c) / c)

    def last(m: Any, x: Tensor) -> Tensor:
        return (x.permute(0, 2, 3, 1) @ m.w + m.b).permute(0, 3, 1, 2)

    def added(m: Any, x: Tensor) -> Tensor:
        return torch.addmm(m.b, x.mean((2, 3)), m.w)[:, :, None, None]

    def attended(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.q(x).flatten(2), m.k(x).flatten(2), m.v(x).flatten(2)
        return x + (v @ (0.3 * q.mT @ k).softmax(-1).mT).unflatten(2, (h, w))

    variants = (
        lambda: Part(last, w=matrix, b=nn.Parameter(torch.rand(o))),
        lambda: Part(lambda m, x: (m.w @ x.flatten(2)).unflatten(2, (h, w)), w=turned),
        lambda: Part(attended, q=plain(c, o, 1), k=plain(c, o, 1), v=plain(c, c, 1)),
        lambda: Part(added, w=matrix, b=nn.Parameter(torch.rand(o))),
        lambda: Part(lambda m, x: (x.mean((2, 3)) @ m.w.t())[:, :, None, None], w=turned),
    )
    net.add(pick(variants, s.b)(), i)


@kind()
def recurrent(net: Builder, s: Step) -> None:
    """Rows of the image as a sequence; its last state is a map of one pixel."""
    i = net.take(s.a)
    c, h = net.shape(i)[0], width(s.c)
    kinds: tuple[Callable[[], nn.Module], ...] = (
        lambda: nn.GRU(c, h, batch_first=True),
        lambda: nn.LSTM(c, h, batch_first=True, bidirectional=True),
        lambda: nn.RNN(c, h, 2, batch_first=True),
    )
    net.add(
        Part(
            lambda m, x: m.r(x.mean(2).mT)[0][:, -1][:, :, None, None], r=pick(kinds, s.b)()
        ), i
    )  # fmt: skip


class State(nn.Module):
    """A first state of zeros as wide as the module says."""

    def __init__(self, inputs: int, hidden: int, gated: bool) -> None:
        super().__init__()
        self.hidden, self.gated = hidden, gated
        self.new = nn.Conv2d(inputs + hidden, hidden * (1 + gated), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.size(0), self.hidden, *x.shape[2:])
        for _ in range(2):
            y = self.new(torch.cat([x, h], 1))
            if self.gated:
                z, y = y.split(self.hidden, 1)
                h = h + z.sigmoid() * (y.tanh() - h)
            else:
                h = y.tanh()
        return h


@kind()
def state(net: Builder, s: Step) -> None:
    i = net.take(s.a)
    net.add(State(net.shape(i)[0], width(s.c), s.b % 2 == 1), i)


def _written_quarter(m: Any, x: Tensor) -> Tensor:
    y = x.clone()
    n = y.shape[1] // 4
    y[:, :n] = m.c(x[:, :n])
    return y


def _written_zeros(m: Any, x: Tensor) -> Tensor:
    y = m.c(x[:, : x.shape[1] // 4])
    z = x.new_zeros(len(x), x.shape[1] + y.shape[1], *x.shape[2:])
    z[:, : x.shape[1]] = x
    z[:, x.shape[1] :] = y
    return z


def _half_gated(m: Any, x: Tensor) -> Tensor:
    n = x.shape[1] // 2
    return x[:, :n] * x[:, n:].sigmoid()


@kind()
def part_of_channels(net: Builder, s: Step) -> None:
    """Slices whose ends are read off a shape; writes into them."""
    i = net.take(s.a, multiple=4)
    n = net.shape(i)[0] // 4
    variants = (
        lambda: Part(_written_quarter, c=plain(n, n)),
        lambda: Part(_half_gated),
        lambda: Part(_written_zeros, c=plain(n, n)),
        lambda: Part(lambda m, x: torch.cat([x[:, ::2], x[:, 1::2].tanh()], 1)),
        lambda: Part(lambda m, x: F.group_norm(x, x.shape[1] // (4 if x.shape[1] > 4 else 2))),
    )
    net.add(pick(variants, s.b)(), i)


def _indexed(m: Any, x: Tensor) -> Tensor:
    y, where = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(m.c(y), where, 2)


@kind()
def local(net: Builder, s: Step) -> None:
    """Operators of space that treat channels alike."""
    i = net.take(s.a, size=2)
    c, h, w = net.shape(i)
    i = net.resized(i, (h + h % 2, w + w % 2))
    h, w = net.shape(i)[1:]
    variants = (
        lambda: Part(_indexed, c=plain(c, c)),
        lambda: Part(lambda m, x: F.fold(F.unfold(x, 2, stride=2), (h, w), 2, stride=2)),
        lambda: Part(
            lambda m, x: torch.fft.irfft2(torch.fft.rfft2(x) * m.f, s=(h, w)),
            f=torch.rand(h, w // 2 + 1),
        ),
        lambda: Part(
            lambda m, x: F.conv2d(x, m.k.expand(x.shape[1], -1, -1, -1), groups=x.shape[1]),
            k=torch.rand(1, 1, 1, 1),
        ),
        lambda: Part(
            lambda m, x: F.grid_sample(
                x, m.g(x).tanh().permute(0, 2, 3, 1), align_corners=False
            ), g=plain(c, 2),
        ),
    )  # fmt: skip
    net.add(pick(variants, s.b)(), i)


# --- sizes read off tensors, and numbers that mean something else


@kind(2)
def size_of_another(net: Builder, s: Step) -> None:
    """Forward reads the size of one map and means that of another."""
    i = net.take(s.a, multiple=4)
    c = net.shape(i)[0]

    def selective(m: Any, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        maps = torch.stack([m.one(x), m.other(x)])
        z = m.down(maps.sum(0).mean((-1, -2)))
        gates = torch.stack([m.up(z).view(b, c, 1, 1), m.top(z).view(b, c, 1, 1)])
        return (gates.softmax(0) * maps).sum(0)

    def excited(m: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = m.one(x)
        return y * m.up(F.relu(m.down(x.mean((2, 3))))).sigmoid().view(b, c, 1, 1).expand(
            b, c, h, w
        )

    def mixed(m: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = m.p(F.relu(m.q(x.flatten(2).transpose(1, 2))))
        return tokens.transpose(1, 2).reshape(b, c, h, w)

    def later(m: Any, x: Tensor) -> Tensor:
        y = m.one(x)
        z = m.other(y)
        return torch.cat([y.view(len(y), z.shape[1], *y.shape[2:]), z], 1)

    def crossed(m: Any, x: Tensor) -> Tensor:
        y = m.one(x)
        z = m.other(y)
        n, c = x.shape[:2]
        made = m.p(y.mean((2, 3))).view(n, c, 1, 1)
        return made + m.q(z.mean((2, 3))).view(n, y.shape[1], 1, 1) * z.mean()

    def halved(m: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return F.relu(m.one(x)).view(n, c // 2, h, w)

    def doubled(m: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return F.relu(m.one(x)).reshape(n, 2 * c, h * w).unflatten(2, (h, w))

    def repeated(m: Any, x: Tensor) -> Tensor:
        return m.one(x) * m.gate(x).sigmoid().repeat(1, x.shape[1], 1, 1)

    def padded(m: Any, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape) + m.one(x)

    linear = {"down": nn.Linear(c, 3), "up": nn.Linear(3, c)}
    variants = (
        lambda: Part(
            selective, one=unit(c, c), other=unit(c, c, 1), top=nn.Linear(3, c), **linear
        ),
        lambda: Part(excited, one=unit(c, c), **linear),
        lambda: Part(mixed, q=nn.Linear(c, c), p=nn.Linear(c, c)),
        lambda: Part(later, one=unit(c, c), other=unit(c, c, 1)),
        lambda: Part(
            crossed, one=unit(c, c), other=unit(c, c), p=nn.Linear(c, c), q=nn.Linear(c, c)
        ),
        lambda: Part(halved, one=plain(c, c // 2)),
        lambda: Part(doubled, one=plain(c, 2 * c)),
        lambda: Part(repeated, one=unit(c, c), gate=plain(c, 1)),
        lambda: Part(padded, one=unit(c, c)),
    )
    net.add(pick(variants, s.b)(), i)


@kind()
def branch(net: Builder, s: Step) -> None:
    """Forward compares sizes and goes one way or another."""
    i = net.take(s.a)
    c = net.shape(i)[0]
    other = pick([w for w in WIDTHS if w != c], s.c)

    def same_shape(m: Any, x: Tensor) -> Tensor:
        y = m.one(x)
        return y + x if y.shape == x.shape else y

    def same_width(m: Any, x: Tensor) -> Tensor:
        y = m.one(x)
        return y * 1.5 if y.size(1) == x.size(1) else y

    def wider(m: Any, x: Tensor) -> Tensor:
        y = m.one(x)
        return torch.cat([x, y], 1) * (-1.0 if x.size(1) > y.size(1) else 1.0)

    def a_number(m: Any, x: Tensor) -> Tensor:
        return -m.one(x) if x.shape[1] == 3 else m.one(x)

    def a_multiple(m: Any, x: Tensor) -> Tensor:
        return -m.one(x) if x.shape[1] % 4 == 0 else m.one(x)

    def among(m: Any, x: Tensor) -> Tensor:
        return m.one(x) * (0.5 if m.one(x).shape[1] in (2, 3, 5) else 1.0)

    def harmless(m: Any, x: Tensor) -> Tensor:
        y = m.one(x)
        if y.shape[1] != x.shape[1]:
            return y * 1.0
        assert x.ndim == 4 and y.shape[2:] == x.shape[2:]
        return y

    ways = (same_shape, same_width, wider, a_number, a_multiple, among, harmless)
    net.add(Part(pick(ways, s.b), one=unit(c, c if s.c % 5 == 0 else other)), i)


@kind()
def bystander(net: Builder, s: Step) -> None:
    """An attribute holds the number of some channels by chance, and must go on holding it."""
    i = net.take(s.a)
    part, rest = pick(((4, 2), (6, 3), (5, 4)), s.c)

    def halves(m: Any, x: Tensor) -> Tensor:
        a, b = m.one(x).split((m.part, m.rest), 1)
        return m.other(F.relu(a)) * b.mean(1, keepdim=True).sigmoid()

    def ends(m: Any, x: Tensor) -> Tensor:
        y = m.one(x)
        return torch.cat([m.other(y[:, : m.part]), y[:, m.part :]], 1)

    def resampled(m: Any, x: Tensor) -> Tensor:
        a, b = m.one(F.interpolate(x, (m.bystander, m.bystander))).split((m.part, m.rest), 1)
        return torch.cat([m.other(a), b], 1)

    def stretched(m: Any, x: Tensor) -> Tensor:
        y = m.one(x).unflatten(1, (m.pair, -1)).flatten(1, 2)
        return m.other(y.narrow(1, 0, m.part)) / m.bystander

    parts = {"one": plain(net.shape(i)[0], part + rest), "other": plain(part, 4)}
    if s.b % 4 == 3:
        parts["one"] = plain(net.shape(i)[0], 2 * part)
    numbers = {"part": part, "rest": rest, "pair": 2, "bystander": part}
    net.add(Part(pick((halves, ends, resampled, stretched), s.b), **parts, **numbers), i)


# --- inputs and outputs


@kind()
def input_(net: Builder, s: Step) -> None:
    """One more input, as a map or as a mask."""
    net.seen += 1
    net.pool.append(net.seen)
    if s.c % 2 == 0:
        i = net.take(1)
        j = net.widened(net.resized(net.seen, net.shape(i)[1:]), 1)
        net.add(Part(lambda m, x, y: x * y), i, j)


@kind()
def output(net: Builder, s: Step) -> None:
    """One more output: of a layer, of the features, of everything together."""
    i = net.take(s.a)
    c = net.shape(i)[0]
    variants = (
        lambda: Part(lambda m, x: m.head(x), head=plain(c, 2)),
        lambda: Part(lambda m, x: m.head(x.mean((2, 3))), head=nn.Linear(c, 4)),
        lambda: Part(lambda m, x: x.mean((2, 3))),
        lambda: Part(lambda m, x: m.head(x).abs().mean(), head=plain(c, 2)),
    )
    chosen = s.b % (len(variants) + 1)
    made = net._run(variants[chosen](), i)[0] if chosen < len(variants) else i
    net.output(made, s.c)
