"""Networks that cannot be pruned as they are given: one line about what to do first."""

from torch import nn
from torch.jit import ScriptModule
from torch.nn.parameter import is_lazy

from amc.runtime.errors import UnsupportedModelError


def check_fit(model: nn.Module) -> None:
    """Looks for what stands between a network and its trace.

    Raises:
        UnsupportedModelError: a part is scripted, compiled, quantised or prepared for it, or all
            weights are NaN.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"a model must be a torch.nn.Module, got {_kind(model)}")
    for name, module in model.named_modules():
        if why := _obstacle(module):
            raise UnsupportedModelError(f"{name or type(model).__name__} {why}")
    real = (p for p in model.parameters() if not (is_lazy(p) or p.is_meta))
    known = [p for p in real if p.is_floating_point() and p.numel()]
    if known and all(bool(p.isnan().all()) for p in known):
        raise UnsupportedModelError(
            f"all weights of {_kind(model)} are NaN: load or train it anew"
        )


def _obstacle(module: nn.Module) -> str:
    """What has been done to a module that must be done after pruning; mostly nothing."""
    if isinstance(module, ScriptModule):
        return (
            "is a torch.jit.script module, in which no channel can be followed: give the Python "
            "module that it was made from, and script the pruned network"
        )
    kinds = {kind.__name__: kind.__module__ for kind in type(module).__mro__}
    if "OptimizedModule" in kinds and kinds["OptimizedModule"].startswith("torch."):
        return (
            "is compiled (torch.compile): give the module that was compiled, its _orig_mod, and "
            "compile the pruned network"
        )
    if any(
        module.startswith(("torch.ao.quantization", "torch.quantization"))
        for name, module in kinds.items()
        if name in ("FakeQuantizeBase", "ObserverBase")
    ):
        return (
            "is prepared for quantisation (it watches or imitates it): prune first, then prepare "
            "the pruned network"
        )
    if any(module.startswith(QUANTISED) for module in kinds.values()):
        return "is quantised: prune the network in floating point, then quantise it"
    return ""


QUANTISED = ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized")
"""Packages of layers that hold packed integers."""


def _kind(model: object) -> str:
    return type(model).__name__
