"""On what machine, and with what software, times are measured."""

import platform
from importlib.metadata import version
from pathlib import Path

import torch

from amc.objectives.latency_table import LatencyTable, Setup


def setup_here(
    model: str, input_shape: str, device: torch.device, runtime: str, threads: int, batch: int
) -> Setup:
    """The setup of a measurement on this machine."""
    versions = {runtime: version(runtime)}
    return Setup(model, input_shape, device_name(device), runtime, versions, threads, batch)


def device_name(device: torch.device) -> str:
    """The processor, with the instructions that it knows; or the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        models = [line.partition(":")[2].strip() for line in lines if "model name" in line]
        name = next(filter(None, models), name)
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def elsewhere(table: LatencyTable, device: torch.device) -> str:
    """What of a table's machine is otherwise here, as a warning; empty if nothing is.

    Args:
        table: any.
        device: where times would be measured here.
    """
    was = table.setup
    here = setup_here(was.model, was.input_shape, device, was.runtime, was.threads, was.batch)
    different = was.differences(here)
    if not different:
        return ""
    return f"the latency table was measured elsewhere: {'; '.join(different)}"
