"""How torchrun starts the ranks of a job, and how they end.

If one is killed, torchrun ends the others; who waits for the one that is gone learns of it from
the connection, at once. torch is loaded where several processes are: every command imports this.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from types import FrameType

from amc.runtime.errors import AmcError, Lost
from amc.runtime.user_code import one_line

PATIENCE = timedelta(days=7)
"""How long a rank waits for the others, who may be training a network meanwhile. Not what ends a
job that has lost a rank: torchrun does, and broken connections."""

A_MOMENT = timedelta(seconds=5)
"""By how much the ranks may be apart when all make the same mistake."""

NOTE = "amc/told"


def launched() -> tuple[int, int]:
    """Rank and number of processes as torchrun has started them; (0, 1) without it."""
    if not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys():
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


@contextlib.contextmanager
def joined(wanted: str) -> Iterator[None]:
    """The ranks work together inside; nothing without torchrun.

    Args:
        wanted: as --device has it. Every rank has a GPU of its own, or all use the CPU.

    Raises:
        AmcError: accelerate is missing, there are not enough GPUs, or no connection.
    """
    if launched()[1] == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    from amc.runtime import distributed

    on_cpu = wanted == "cpu" or not torch.cuda.is_available()
    _check(wanted, on_cpu)
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise AmcError(
            f"torchrun: several processes need accelerate ({error}); "
            "pip install 'amc-pruning[scale]'"
        ) from None
    backend = "gloo" if on_cpu else "cuda:nccl,cpu:gloo"
    try:
        state = PartialState(cpu=on_cpu, backend=backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise AmcError(f"torchrun: the processes cannot meet: {one_line(error)}") from None
    before = signal.signal(signal.SIGTERM, _ended)
    try:
        with distributed.process_group(state.process_index, state.num_processes, state.device):
            yield
        dist.destroy_process_group()
    finally:
        signal.signal(signal.SIGTERM, before)


def _check(wanted: str, on_cpu: bool) -> None:
    import torch

    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if wanted not in ("auto", "cpu", "cuda"):
        raise AmcError(
            f"--device {wanted}: under torchrun every process has a device of its own; "
            "allowed: auto, cpu, cuda"
        )
    if not on_cpu and here > torch.cuda.device_count():
        raise AmcError(
            f"torchrun: {here} processes for {torch.cuda.device_count()} GPUs; start as many as "
            "there are GPUs, or add --device cpu"
        )


def _ended(number: int, frame: FrameType | None) -> None:
    raise Lost("ended by torchrun, another process of this run was gone")


def launcher() -> str:
    """What starts a module as this process was started."""
    here, every = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), launched()[1]
    if every == 1:
        return "python"
    return f"torchrun --nproc_per_node {here}" + (" ..." if here < every else "")


def prefix() -> str:
    """What this process begins its lines with: nothing for rank 0."""
    number = launched()[0]
    return f"rank {number}: " if number else ""


def speaks() -> bool:
    """Whether it is for this process to tell of a mistake.

    Most are made by all ranks alike, and rank 0 tells of those: it leaves a note with torchrun. A
    rank that finds none within `A_MOMENT` is alone with its mistake.
    """
    number, count = launched()
    if count == 1:
        return True
    import torch.distributed as dist

    try:
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        notes = dist.TCPStore(  # type: ignore[attr-defined]
            *place, is_master=False, timeout=A_MOMENT
        )
        notes.wait([NOTE], A_MOMENT) if number else notes.set(NOTE, "told")
    except (KeyError, RuntimeError):  # no note, or nobody there to keep it
        return True
    return number == 0
