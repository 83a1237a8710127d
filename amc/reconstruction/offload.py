"""What a forward pass holds while it stands still goes to disk, and comes back before it goes on.

The memory of its tensors is given back and taken again; the tensors stay, with all their views.
"""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from amc.calibration.on_disk import Stored, TensorFile
from amc.reconstruction.lockstep import Diverged
from amc.runtime import feed
from amc.runtime.feed import Feed


class Offload:
    """The tensors of one forward pass.

    Args:
        model: what hangs on it is not the pass's own, and stays.
        images: of the pass; they stay too.
    """

    def __init__(self, model: nn.Module, images: Feed) -> None:
        self._model, self._images = model, feed.leaves(images)
        self._born: dict[int, weakref.ref[Tensor]] = {}
        self._file = TensorFile()
        self._away: list[tuple[torch.UntypedStorage, Stored]] = []

    def before(self, *given: Any) -> None:
        """Looks at what an operator is going to read.

        Raises:
            Diverged: it belongs to another pass, whose tensors are away.
        """
        for tensor in tree_leaves(given):
            if _plain(tensor) and tensor.numel() and not tensor.untyped_storage().nbytes():
                raise Diverged

    def after(self, out: Any) -> None:
        """Follows what an operator has made."""
        for tensor in tree_leaves(out):
            if _plain(tensor):
                self._born[id(tensor)] = weakref.ref(tensor)

    def offload(self) -> None:
        """To disk."""
        held = {i: tensor for i, ref in self._born.items() if (tensor := ref()) is not None}
        self._born = {i: self._born[i] for i in held}
        stay = {t.untyped_storage().data_ptr() for t in (*self._images, *_hanging(self._model))}
        own = (tensor.untyped_storage() for tensor in held.values())
        for storage in {s.data_ptr(): s for s in own if s.data_ptr() not in stay}.values():
            if storage.nbytes():
                copy = _bytes(storage).clone()  # what is written itself can no longer be resized
                self._away.append((storage, self._file.append(copy)))
                storage.resize_(0)

    def restore(self) -> None:
        """Brings it back from disk."""
        for storage, stored in self._away:
            storage.resize_(stored.shape.numel())
            _bytes(storage).copy_(self._file.read(stored))
        self._away.clear()
        self._file.clear()


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


def _hanging(model: nn.Module) -> list[Tensor]:
    """Parameters, buffers and whatever tensors the modules have as attributes."""
    attributes = [vars(module) for module in model.modules()]
    return [t for t in tree_leaves(attributes) if _plain(t)]
