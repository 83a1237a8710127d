"""Inputs and outputs."""

from torch import nn

from random_networks.builder import Builder, Part, Step, kind
from random_networks.layers import plain


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
