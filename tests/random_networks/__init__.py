"""Random networks: every way in which channels can hang together, drawn by a seed.

A network is a `Spec`: a seed and some steps. Each step takes feature maps out of a pool, by index
modulo the size of the pool, and puts its results there; sizes that do not fit are made to fit with
a 1x1 convolution or by resampling. Any subset of the steps is therefore a network as well, and a
case that fails can be made smaller by deleting steps.

What no step has read in the end goes to the classifier, so that every layer has a reader.
"""

from importlib import import_module

from random_networks.builder import KINDS, Network, Spec, Step, build, random_spec

__all__ = ["KINDS", "Network", "Spec", "Step", "build", "random_spec"]

for _name in (
    "convolutions", "joins", "parts", "products", "linear", "norms", "space", "elementwise",
    "rare_operators", "sizes", "ends", "attention",
):  # fmt: skip
    import_module(f"random_networks.{_name}")  # its kinds enter the table; seeds mean this order
