"""Cutting: the only place that changes the shape of tensors.

`shrink` removes channels for real; `mask` keeps the shapes and writes zeros, the reference that
every cut is proven against.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from amc.graph import attributes
from amc.graph.attention import multihead
from amc.graph.attention.following import can_follow, follow_sizes
from amc.graph.plan import Cut, Plan
from amc.runtime.errors import AmcError, UnsupportedModelError
from amc.runtime.user_code import one_line


def shrink(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of the model without the channels that the plan removes.

    Names, dtypes, devices, hooks, `requires_grad` and training flags stay; the class is the same.

    Examples:
        >>> import amc, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> graph = amc.trace(model, (torch.zeros(1, 3, 8, 8),))
        >>> amc.shrink(model, graph.plan({"0": [0, 3, 5]}))
        Sequential(
          (0): Conv2d(3, 3, kernel_size=(3, 3), stride=(1, 1))
          (1): ReLU()
          (2): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
        )

    Raises:
        AmcError: the plan was made for another network; the message names the first difference.
    """
    source = tensors(model)
    parts = {
        id(source[tensor]): as_held(source[tensor], cut(source[tensor].detach(), cuts))
        for tensor, cuts in by_tensor(plan, source)
    }
    smaller = duplicate(model, parts)
    cut_ones = {id(part) for part in parts.values()}
    for module in smaller.modules():
        if any(
            id(t) in cut_ones for t in (*module._parameters.values(), *module._buffers.values())
        ):
            follow(module)
    follow_cuts(smaller, plan)
    for one in plan.cuts:
        if attributes.is_attribute(one.tensor):
            _resize(smaller, one)
    return smaller


def mask(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of the model, of the old size, with zeros for all weights of removed channels.

    Examples:
        >>> import amc, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> graph = amc.trace(model, (torch.zeros(1, 3, 8, 8),))
        >>> plan, x = graph.plan({"0": [0, 3, 5]}), torch.randn(2, 3, 8, 8)
        >>> masked, smaller = amc.mask(model, plan), amc.shrink(model, plan)
        >>> bool(masked(x).allclose(smaller(x), atol=1e-6))
        True

    Raises:
        AmcError: the plan was made for another network.
    """
    masked = duplicate(model)
    state = tensors(masked)
    with torch.no_grad():
        for tensor, cuts in by_tensor(plan, state):
            for one in cuts:
                gone = sorted(set(range(one.size)) - set(one.keep))
                where = torch.tensor(gone, device=state[tensor].device)
                state[tensor].index_fill_(one.dim, where, 0)
    return masked


def duplicate(model: nn.Module, parts: Mapping[int, Tensor] | None = None) -> nn.Module:
    """A deep copy, also of a network that keeps activations with their history as attributes.

    Args:
        model: never changed.
        parts: id of a tensor of the model -> what takes its place in the copy.
    """
    kept = (x for module in model.modules() for x in tree_leaves(vars(module)))
    strays = {id(x): x for x in kept if isinstance(x, Tensor) and not x.is_leaf}
    memo = {key: x.detach().clone() for key, x in strays.items()}
    try:
        return copy.deepcopy(model, {**memo, **(parts or {})})
    except (Exception, SystemExit) as error:  # the user's attributes may fail in any way
        raise UnsupportedModelError(
            f"the network cannot be copied: {_uncopied(model)}{one_line(error)}"
        ) from error


def _uncopied(model: nn.Module) -> str:
    """The attribute that cannot be copied, if one alone is to blame."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            try:
                copy.deepcopy({} if key == "_modules" else value)
            except (Exception, SystemExit):  # as above
                return f"{name}.{key}: ".removeprefix(".")
    return ""


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by dotted name; tied ones under each of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def cut(tensor: Tensor, cuts: Sequence[Cut]) -> Tensor:
    """The slices of a tensor that stay, in the memory format of the whole."""
    return sliced(tensor, [(c.dim, torch.tensor(c.keep, device=tensor.device)) for c in cuts])


def sliced(tensor: Tensor, where: Sequence[tuple[int, Tensor]]) -> Tensor:
    """`cut` by dimensions and positions that are known as tensors; has a gradient.

    The tensor itself where there are none.
    """
    kept = tensor
    for dim, keep in where:
        kept = kept.index_select(dim, keep)
    for ndim, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if tensor.ndim == ndim and not tensor.is_contiguous():
            if tensor.is_contiguous(memory_format=layout):
                kept = kept.contiguous(memory_format=layout)
    return kept


Owners = Mapping[str, Sequence[tuple[nn.Module, str]]]
"""Where each tensor hangs: (module, attribute) pairs, several when it is tied."""


def owners(model: nn.Module) -> Owners:
    """Every parameter and buffer of the model by dotted name, with all places that hold it."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for key, held in (*module._parameters.items(), *module._buffers.items()):
            if held is not None:
                places.setdefault(id(held), []).append((module, key))
    return {name: places[id(held)] for name, held in tensors(model).items()}


def place(where: Sequence[tuple[nn.Module, str]], value: Tensor) -> None:
    """Puts a tensor of any shape in place of the one held there; in place.

    Attributes that code may read (`in_channels`, `num_features` ...) follow.
    """
    module, key = where[0]
    old = module._parameters.get(key)
    if old is not None:
        value = as_held(old, value)
    for module, key in where:
        (module._buffers if old is None else module._parameters)[key] = value  # type: ignore[assignment]
        follow(module)


def as_held(old: Tensor, value: Tensor) -> Tensor:
    """The value as a parameter if the old tensor was one."""
    if not isinstance(old, nn.Parameter):
        return value
    new = nn.Parameter(value, requires_grad=old.requires_grad)
    new.__dict__.update(old.__dict__)
    return new


def follow(module: nn.Module) -> None:
    """Makes the attributes of a module agree with the shapes of its tensors."""
    if isinstance(module, nn.modules.conv._ConvNd):
        _follow_convolution(module)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        sized = next((t for t in (module.weight, module.running_mean) if t is not None), None)
        if sized is not None:
            module.num_features = sized.shape[0]
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.shape[1]
    elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
        first = module.weight_ih if isinstance(module, nn.RNNCellBase) else module.weight_ih_l0
        if isinstance(first, Tensor):
            module.input_size = first.shape[1]
    elif isinstance(module, nn.MultiheadAttention):
        multihead.fit(module)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()


def _follow_convolution(module: nn.modules.conv._ConvNd) -> None:
    first, second = module.weight.shape[:2]
    if module.groups == module.in_channels > 1:  # depthwise
        multiplier = module.out_channels // module.in_channels
        module.groups = first if module.transposed else first // multiplier
        module.in_channels, module.out_channels = module.groups, module.groups * multiplier
    elif module.transposed:
        module.in_channels, module.out_channels = first, second * module.groups
    else:
        module.in_channels, module.out_channels = second * module.groups, first


def load_tensors(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the model with these tensors, whatever their sizes; names must be the same.

    Raises:
        AmcError: names differ.
    """
    loaded = duplicate(model)
    own, where = loaded.state_dict(), owners(loaded)
    for name in own.keys() ^ state.keys():
        side = "the file" if name in state else "the network"
        raise AmcError(f"weights of another network: {name!r} is only in {side}")
    for name, value in state.items():
        place(where[name], value.to(device=own[name].device, dtype=own[name].dtype))
    return loaded


def by_tensor(plan: Plan, state: Mapping[str, Tensor]) -> Iterator[tuple[str, list[Cut]]]:
    """The cuts of each tensor, checked against the tensors of the network."""
    of_tensors = (one for one in plan.cuts if not attributes.is_attribute(one.tensor))
    for tensor, group in groupby(sorted(of_tensors, key=_place), key=lambda c: c.tensor):
        cuts = list(group)
        held = state.get(tensor)
        if held is None:
            raise AmcError(f"the plan is for another network: there is no tensor {tensor!r} here")
        for one in cuts:
            if not 0 <= one.dim < held.ndim or held.shape[one.dim] != one.size:
                raise AmcError(
                    f"the plan is for another network: {tensor} has shape {tuple(held.shape)}, "
                    f"the plan expects {one.size} slices along dimension {one.dim}"
                )
        yield tensor, cuts


def follow_cuts(model: nn.Module, plan: Plan) -> None:
    """Makes sizes follow in the modules around what is cut, in place."""
    cut_ones = {one.tensor for one in plan.cuts}
    for path, module in model.named_modules():
        inside = f"{path}." if path else ""
        if can_follow(module) and any(name.startswith(inside) for name in cut_ones):
            follow_sizes(module)


def _resize(model: nn.Module, one: Cut) -> None:
    """Makes an attribute that counts channels follow its cut."""
    held = attributes.read(model, one.tensor)
    if held != one.size:
        raise AmcError(
            f"the plan is for another network: {one.tensor} is {held}, the plan expects {one.size}"
        )
    attributes.write(model, one.tensor, len(one.keep))


def _place(one: Cut) -> tuple[str, int]:
    return one.tensor, one.dim
