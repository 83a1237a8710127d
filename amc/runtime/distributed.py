"""Several processes that do one job together, started by torchrun; each has a rank.

Every rank runs the same program with the same seed and so takes the same decisions. What is shared
out are sums over images: each rank computes its part, and all get the sum. With one process every
function here gives back what it was given.
"""

import contextlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from amc.runtime import distributed
from amc.runtime.errors import AmcError, Lost

T = TypeVar("T")


_rank, _count = 0, 1
_device: torch.device | None = None


def rank() -> int:
    """The number of this process, from 0."""
    return _rank


def world_size() -> int:
    """How many processes share the job."""
    return _count


def device(name: str) -> torch.device | None:
    """What --device gives this process among others; None where that is not for us to say."""
    return _device if _device and name in ("auto", _device.type) else None


@contextlib.contextmanager
def process_group(rank: int, count: int, device: torch.device) -> Iterator[None]:
    """This process is one of several inside; torch's process group is there."""
    global _rank, _count, _device
    _rank, _count, _device = rank, count, device
    try:
        yield
    finally:
        _rank, _count, _device = 0, 1, None


@contextlib.contextmanager
def single_process(when: bool = True) -> Iterator[None]:
    """Inside, this process does the whole of everything, whatever the others do."""
    global _rank, _count
    before = _rank, _count
    if when:
        _rank, _count = 0, 1
    try:
        yield
    finally:
        _rank, _count = before


def shard(batches: Iterable[T]) -> Iterator[T]:
    """This rank's share of the batches: every `count`-th, whole, since some sums need it whole.

    A loader with a method `batches_of_rank` need not make those of the other ranks.
    """
    made = getattr(batches, "batches_of_rank", None)
    if _count > 1 and callable(made):
        found: Iterator[T] = made(_rank, _count)
        return found
    return islice(batches, _rank, None, _count)


def part(tensor: Tensor) -> Tensor:
    """This rank's share of the rows; rank 0 has as many as any other."""
    return tensor.tensor_split(_count)[_rank] if _count > 1 else tensor


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over all ranks, in place; the same bits everywhere."""
    if _count > 1:
        with _together():
            dist.all_reduce(tensor)
    return tensor


def totals(tensors: Mapping[str, Tensor], device: torch.device) -> Mapping[str, Tensor]:
    """Sums by name. A rank that had no images has none of them; rank 0 has all, float64."""
    if _count == 1:
        return tensors
    shapes = on_rank_zero(
        lambda: json.dumps({k: list(t.shape) for k, t in tensors.items()}).encode()
    )
    found = {}
    for name, shape in json.loads(shapes).items():
        known = tensors.get(name)
        empty = torch.zeros(shape, dtype=torch.float64, device=device)
        found[name] = all_reduce_sum(empty if known is None else known)
    return found


def all_gather_rows(rows: Tensor) -> Tensor:
    """The rows [B', n] of every rank's `own` batches as those of all batches, [B, n]."""
    if _count == 1:
        return rows
    every = rows.new_zeros(int(all_reduce_sum(torch.tensor(len(rows)))), rows.shape[1])
    every[_rank::_count] = rows
    return all_reduce_sum(every)


def all_true(yes: bool) -> bool:
    """Whether all ranks say yes."""
    return not int(all_reduce_sum(torch.tensor(int(not yes))))


def all_equal(text: str) -> bool:
    """Whether all ranks say the same."""
    if _count == 1:
        return True
    mark = zlib.crc32(text.encode())
    ends = torch.tensor([mark, -mark])
    with _together():
        dist.all_reduce(ends, dist.ReduceOp.MAX)
    return not int(ends.sum())


def check_equal(what: str, text: str) -> None:
    """Makes sure that all ranks have come to the same.

    Raises:
        AmcError: they have not; all ranks raise it.
    """
    if not all_equal(text):
        raise AmcError(
            f"torchrun: {what} differs between the processes; they must see the same files and "
            "run the same versions on the same kind of machine"
        )


def on_rank_zero(job: Callable[[], bytes]) -> bytes:
    """What the job gives on rank 0, which does it `alone`, on all ranks.

    Raises:
        AmcError: the job has raised it, or an OSError; all ranks raise it.
    """
    if _count == 1:
        return job()
    content, failed = b"", False
    if _rank == 0:
        try:
            with single_process():
                content = job()
        except (AmcError, OSError) as error:
            content, failed = os.fsencode(str(error)), True
    with _together():
        head = torch.tensor([len(content), failed])
        dist.broadcast(head, 0)
        said = np.frombuffer(content, np.uint8) if _rank == 0 else np.empty(int(head[0]), np.uint8)
        told = torch.from_numpy(said.copy())
        dist.broadcast(told, 0)
    content = told.numpy().tobytes()
    if head[1]:
        raise AmcError(os.fsdecode(content))
    return content


def broadcast_model(model: nn.Module, mean_buffers: bool = False) -> None:
    """Gives the network the tensors of rank 0's.

    Args:
        model: changed in place.
        mean_buffers: floating buffers, which batch norm has estimated on each rank's images, get
            the mean over the ranks instead.
    """
    if _count == 1:
        return
    averaged = dict(model.named_buffers()) if mean_buffers else {}
    with _together():
        for key, tensor in model.state_dict().items():
            plain = tensor.contiguous()
            if key in averaged and tensor.is_floating_point():
                dist.all_reduce(plain.div_(_count))
            else:
                dist.broadcast(plain, 0)
            if plain is not tensor:
                tensor.copy_(plain)


@contextlib.contextmanager
def rank_random_state(epoch: int) -> Iterator[None]:
    """Inside, random numbers of its own for every rank: dropout differs between their images.

    They depend on the epoch alone, for a training that goes on from there.
    """
    with torch.random.fork_rng(devices=[], enabled=_count > 1):
        if _count > 1:
            torch.manual_seed(zlib.crc32(f"{epoch}/{_rank}".encode()))
        yield


@contextlib.contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = re.sub(r"^\[[^]]*\] ", "", str(error)).split(". ")[0]  # without file and advice
        raise Lost(
            f"another process of this run is gone or out of reach ({' '.join(reason.split())})"
        ) from None


def choose_device(name: str) -> torch.device:
    """The device to run on.

    Raises:
        AmcError: it is unknown or not there.
    """
    if own := distributed.device(name):
        return own
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise AmcError(f"--device {name!r} cannot be used here: {first}") from None
    return device
