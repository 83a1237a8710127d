"""Masks on the weights of a network: while it is trained, some of its weights count as zero.

A mask is a parametrization (`torch.nn.utils.parametrize`): the layer's weight is computed from the
dense one, which stays a parameter and which an optimiser trains. Weights that are masked have no
gradient, and are there again as they were once the mask lets them through.

`attach` and `strip` do not use `remove_parametrizations`: copies of a module share the class that
torch has made for it, and what torch takes from that class is lost to all copies.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from amc.graph.shrink import duplicate, owners, tensors
from amc.runtime.errors import AmcError
from amc.runtime.user_code import one_line

COMPUTED = "its weight is computed in forward; amc.bake makes the layer plain"
RECURRENT = "a recurrent layer hands its weights to its kernel in one piece of memory"


class Mask(nn.Module):
    """Lets some entries of a weight through; the others are zero, without a gradient.

    Attributes:
        mask: bool, of the weight's shape; a buffer. True stays.
        place: of the weight among the parameters of its module.
    """

    mask: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))
        self.place = 0

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its zeros; a product would make -0 of them, and NaN of infinities."""
        return torch.where(self.mask, weight, 0)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What is assigned to the weight becomes the dense one."""
        return weight

    def current(self) -> Tensor:
        """What stays in eval mode, bool."""
        return self.mask

    def put(self, mask: Tensor) -> None:
        """This mask from now on."""
        self.mask.copy_(mask)


def maskable(model: nn.Module, names: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """Which of these weights can have a mask, and why the others cannot.

    Args:
        model: not changed.
        names: dotted names of parameters.

    Returns:
        The names of those that can, a tied weight once, under its first name; and name -> reason.

    Raises:
        AmcError: there is no such parameter.
    """
    known, where = tensors(model), owners(model)
    first = {id(tensor): name for name, tensor in reversed(known.items())}
    found: dict[str, None] = {}
    refused: dict[str, str] = {}
    for name in names:
        if name in known:
            if reason := _reason(known[name], where[name]):
                refused[name] = reason
            else:
                found[first[id(known[name])]] = None
        elif _computed(model, name):
            refused[name] = COMPUTED
        else:
            raise AmcError(f"{name}: the network has no such parameter")
    return list(found), refused


def attach(
    model: nn.Module, names: Collection[str], make: Callable[[str, Tensor], Mask] | None = None
) -> dict[str, Mask]:
    """Puts masks that let everything through on weights, in place.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 2))
        >>> masks = attach(model, ["0.weight"])
        >>> masks["0.weight"].put(torch.tensor([[True, True, False], [False, True, True]]))
        >>> (model[0].weight == 0).sum().item(), list(model.state_dict())
        (2, ['0.bias', '0.parametrizations.weight.original', '0.parametrizations.weight.0.mask'])

    Args:
        model: the caller owns it.
        names: dotted names of parameters.
        make: the mask of a weight, from its name and itself; `Mask` by default.

    Returns:
        The masks as `masks_of` gives them: a tied weight has one, in all its places.

    Raises:
        AmcError: there is no such parameter, or it can have no mask; see `maskable`. None has one
            then.
    """
    found, refused = maskable(model, names)
    for name, reason in refused.items():
        raise AmcError(f"{name}: cannot have a mask: {reason}")
    known, where = tensors(model), owners(model)
    masks: dict[str, Mask] = {}
    for name in found:
        masks[name] = mask = make(name, known[name]) if make else Mask(known[name])
        for module, key in where[name]:
            mask.place = list(module._parameters).index(key)
            if parametrize.is_parametrized(module):
                module.__class__ = _class_of_its_own(module)
            try:
                parametrize.register_parametrization(module, key, mask)
            except Exception as error:  # the user's class may not be one that can be derived from
                if not parametrize.is_parametrized(module, key):
                    _put_back(module, key, known[name], mask.place)
                _take_off(model, list(masks.values()))
                raise AmcError(f"{name}: cannot have a mask: {one_line(error)}") from error
    return masks


def masks_of(model: nn.Module) -> dict[str, Mask]:
    """The masks of a network, by the names that the weights have without them."""
    found: dict[str, Mask] = {}
    for prefix, module in model.named_modules():
        for key, mask in _masks(module).items():
            if all(mask is not other for other in found.values()):
                found[f"{prefix}.{key}".removeprefix(".")] = mask
    return found


def dense_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights under the masks: the parameters themselves, by the names of `masks_of`."""
    wanted, found = masks_of(model), {}
    for prefix, module in model.named_modules():
        for key in _masks(module):
            name = f"{prefix}.{key}".removeprefix(".")
            if name in wanted:
                found[name] = _parametrizations(module)[key].original
    return found


def strip(model: nn.Module) -> nn.Module:
    """Takes the masks off, in place; zeros are baked in, classes and names are as before."""
    return _take_off(model, list(masks_of(model).values()))


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that the network would have without its masks, zeros in it."""
    return strip(duplicate(model)).state_dict()


def load_plain(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads a state dict without masks into a network that has some; these stay as they are.

    Raises:
        AmcError: names or shapes differ; nothing has changed.
    """
    own, inside = model.state_dict(), {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for key, mask in _masks(module).items():
            place = f"{prefix}.parametrizations.{key}.".removeprefix(".")
            inside[f"{prefix}.{key}".removeprefix(".")] = place + "original"
            for kept in mask.state_dict():
                del own[f"{place}0.{kept}"]
    given = {inside.get(name, name): tensor for name, tensor in state.items()}
    plain = {held: name for name, held in inside.items()}
    for name in own.keys() ^ given.keys():
        side = "weights given" if name in given else "network"
        said = plain.get(name, name)
        raise AmcError(f"weights of another network: {said!r} is only in the {side}")
    for name, tensor in own.items():
        if given[name].shape != tensor.shape:
            raise AmcError(
                f"weights of another network: {plain.get(name, name)} has shape "
                f"{tuple(given[name].shape)}, here it has {tuple(tensor.shape)}"
            )
    model.load_state_dict({**model.state_dict(), **given})


def put_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Puts these masks in place of those of the network.

    Args:
        model: with masks of all these names; the others of its masks stay as they are.
        masks: name -> bool, of the weight's shape.

    Raises:
        AmcError: a name or a shape is that of another network; nothing has changed.
    """
    own = masks_of(model)
    for name, mask in masks.items():
        if name not in own:
            raise AmcError(f"masks of another network: {name!r} has no mask here")
        if mask.shape != own[name].mask.shape:
            raise AmcError(
                f"masks of another network: {name} has shape {tuple(mask.shape)}, here it has "
                f"{tuple(own[name].mask.shape)}"
            )
    for name, mask in masks.items():
        own[name].put(mask)


@torch.no_grad()
def _take_off(model: nn.Module, masks: Collection[Mask]) -> nn.Module:
    """Takes these masks off; see `strip`."""
    wanted = {id(mask) for mask in masks}
    for module in model.modules():
        for key, mask in reversed(_masks(module).items()):
            if id(mask) not in wanted:
                continue
            held = _parametrizations(module)
            weight = held[key].original
            weight.copy_(torch.where(mask.current(), weight, 0))
            del held[key]
            if len(held):
                module.__class__ = _class_of_its_own(module, without=key)
            else:
                del module.parametrizations
                module.__class__ = type(module).__bases__[0]
            _put_back(module, key, weight, mask.place)
    return model


def _put_back(module: nn.Module, key: str, weight: Any, place: int) -> None:
    """Makes this a parameter of the module again, in its old place."""
    rest = list(module._parameters.items())
    rest.insert(place, (key, weight))
    module._parameters.clear()
    module._parameters.update(rest)


def _masks(module: nn.Module) -> dict[str, Mask]:
    """Name of a tensor of the module -> its mask, in the order in which they were attached."""
    if not parametrize.is_parametrized(module):
        return {}
    return {k: own[0] for k, own in _parametrizations(module).items() if isinstance(own[0], Mask)}


def _parametrizations(module: nn.Module) -> Any:
    return module.parametrizations


def _reason(tensor: Tensor, where: Collection[tuple[nn.Module, str]]) -> str:
    if not isinstance(tensor, nn.Parameter):
        return "it is a buffer, not a parameter"
    if is_lazy(tensor):
        return "it has no shape yet; run the network once"
    if not tensor.is_floating_point():
        return f"its entries are {tensor.dtype}"
    for module, _ in where:
        if isinstance(module, nn.RNNBase):
            return RECURRENT
        if isinstance(module, torch.jit.ScriptModule):
            return "TorchScript keeps its classes"
    return ""


def _computed(model: nn.Module, name: str) -> bool:
    """Whether there is a weight of this name that a parametrization computes."""
    prefix, _, key = name.rpartition(".")
    modules = dict(model.named_modules(remove_duplicate=False))
    module = modules.get(prefix)
    if module is None:
        return False
    return parametrize.is_parametrized(module, key) or isinstance(
        getattr(module, key, None), Tensor
    )


def _class_of_its_own(module: nn.Module, without: str = "") -> type[nn.Module]:
    """A copy of the class that torch has made for the module: copies of a module share it."""
    shared = type(module)
    dropped = {"__dict__", "__weakref__", without}
    own = {key: value for key, value in vars(shared).items() if key not in dropped}
    made: type[nn.Module] = type(shared)(shared.__name__, shared.__bases__, own)  # type: ignore[misc]
    return made
