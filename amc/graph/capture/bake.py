"""Layers that compute their weight in every forward pass, made plain.

Weight standardisation, weight and spectral norm, and other parametrisations leave no weight whose
slices could be removed. In eval mode the computed weight is a constant: the layer can be replaced
by a plain one that holds it, with the same outputs.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from amc.graph.capture.export import Inputs, describe
from amc.graph.shrink import duplicate
from amc.runtime.errors import UnsupportedModelError
from amc.tasks.precision import precise

_CALLS = {
    F.linear, torch.conv1d, torch.conv2d, torch.conv3d,
    torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d,
}  # fmt: skip
_PLAIN = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


@precise()
def bake(
    model: nn.Module,
    example_inputs: tuple[Any, ...],
    example_kwargs: dict[str, Any] | None = None,
) -> nn.Module:
    """A copy in which convolutions and linear layers with a computed weight are plain layers.

    Fine-tuning then trains the computed weight itself. A layer is replaced only when its outputs
    on the example stay the same; the others are left as they are.

    Examples:
        >>> import amc, torch
        >>> from torch import nn
        >>> normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
        >>> model, x = nn.Sequential(normed, nn.Conv2d(8, 4, 3)), torch.randn(2, 3, 8, 8)
        >>> plain = amc.bake(model, (x,))
        >>> list(plain[0].state_dict()), bool(plain(x).allclose(model(x), atol=1e-6))
        (['weight', 'bias'], True)

    Args:
        model: never changed.
        example_inputs: positional inputs of one execution.
        example_kwargs: keyword inputs of the same execution.

    Returns:
        A copy of the model; without such layers, just a copy.

    Raises:
        UnsupportedModelError: the network does not run on the example.
    """
    baked = duplicate(model)
    computed = [name for name, module in baked.named_modules() if computes_weight(module)]
    if not computed:
        return baked
    modes = {module: module.training for module in baked.modules()}
    inputs = Inputs(example_inputs, dict(example_kwargs or {}))
    try:
        seen = _executions(baked.eval(), computed, inputs)
    except (Exception, SystemExit) as error:  # the user's forward may fail in any way
        raise UnsupportedModelError(
            f"{type(model).__name__} does not run on the example inputs: {describe(error)}"
        ) from error
    for name, once in seen.items():
        plain = _plain(baked.get_submodule(name), once.weight, once.bias)
        if once.alike(plain):
            baked.set_submodule(name, plain)
    for module in baked.modules():
        module.training = modes.get(module, model.training)
    return baked


def baked_layers(model: nn.Module, baked: nn.Module) -> list[str]:
    """Names of the layers that `bake` has replaced."""
    return [
        n
        for n, m in baked.named_modules()
        if computes_weight(model.get_submodule(n)) and not computes_weight(m)
    ]


def computes_weight(module: nn.Module | None) -> bool:
    """Whether a convolution or linear layer does not simply use a parameter called weight."""
    kind = next((k for k in _PLAIN if isinstance(module, k)), None)
    if module is None or kind is None:
        return False
    ours = getattr(kind, "_conv_forward", None)
    changed = type(module).forward is not kind.forward or (
        ours is not None and getattr(type(module), "_conv_forward", None) is not ours
    )
    return changed or "weight" not in module._parameters


class _Calls(TorchFunctionMode):
    """Remembers the weight and bias of the convolutions and linear operators that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, Tensor | None]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _CALLS:
            given = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
            self.found.append((given["weight"], given.get("bias")))
        return func(*args, **kwargs)


@dataclass(frozen=True)
class _Execution:
    """The first execution of a layer: what it was given, what it computed with, its output.

    Tensors are copies, as forward may write into what a layer was given and into its output.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    weight: Tensor
    bias: Tensor | None
    out: Tensor

    def alike(self, plain: nn.Module) -> bool:
        """Whether a plain layer gives the same output."""
        try:
            with torch.no_grad():
                found = plain(*self.args, **self.kwargs)
        except Exception:  # the layer's own forward takes what the plain one does not
            return False
        same = found.shape == self.out.shape
        return same and torch.allclose(found, self.out, rtol=1e-4, atol=1e-5)


def _executions(model: nn.Module, names: list[str], inputs: Inputs) -> dict[str, _Execution]:
    """The first execution of every layer that calls its operator once."""
    seen: dict[str, _Execution] = {}
    handles = []

    def watch(name: str) -> Any:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
        ) -> None:
            if name in seen or not isinstance(out, Tensor):
                return
            own = {id(p) for p in module.parameters(recurse=False)}
            with _Calls() as calls, torch.no_grad():
                module.forward(*args, **kwargs)
            if len(calls.found) == 1 and id(calls.found[0][0]) not in own:
                weight, bias = calls.found[0]
                given, named = tree_map_only(Tensor, Tensor.clone, (args, kwargs))
                seen[name] = _Execution(given, named, weight, bias, out.clone())

        return hook

    for name in names:
        layer = model.get_submodule(name)
        handles.append(layer.register_forward_hook(watch(name), with_kwargs=True))
    try:
        inputs.run(model)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _plain(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A plain layer with this weight, and the hooks that users put on the replaced one."""
    kind = next(k for k in _PLAIN if isinstance(layer, k))
    plain = kind.__new__(kind)
    nn.Module.__init__(plain)
    for key, value in vars(layer).items():
        if key not in vars(plain) and not isinstance(value, Tensor):
            setattr(plain, key, value)  # in_channels, stride, padding_mode ...
    plain._forward_hooks.update(layer._forward_hooks)
    plain.weight = nn.Parameter(weight.detach().clone())
    plain.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach().clone()))
    return plain
