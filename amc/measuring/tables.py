"""What `amc.latency` shows of a network."""

from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from amc.measuring.measure import Measured
from amc.objectives.latency_table import LatencyTable, rising

SHOWN = 10
"""Strategies that are shown of those that the table was tried on."""


def layer_times(table: LatencyTable) -> Table:
    """One row per layer: its time in the original network, and with half of its channels."""
    shown = _table("Layers", ("layer", "kind", "channels", "share", "half the outputs"))
    whole = [one.ms[-1][-1] for one in table.layers]
    total = table.constant + sum(whole)
    for one, most in zip(table.layers, whole, strict=True):
        row = rising(np.array(one.ms))[-1]
        half = float(np.interp(one.outputs[-1] / 2, one.outputs, row))
        shown.add_row(
            one.name,
            one.kind,
            f"{one.inputs[-1]} → {one.outputs[-1]}",
            f"{most / total:.1%}",
            f"{half / total:.1%}",
        )
    return shown


def trials(found: Measured) -> Table:
    """Strategies that nothing was fitted to: what was measured, what the table tells."""
    shown = _table("Tried on networks that are not in the table", ("measured, ms", "table", "%"))
    real, told = found.ms
    for row in np.argsort(real)[:: max(1, len(real) // SHOWN)]:
        shown.add_row(
            f"{real[row]:.3f}", f"{told[row]:.3f}", f"{100 * (told[row] / real[row] - 1):+.1f}"
        )
    return shown


def summary(found: Measured, file: Path) -> list[str]:
    """Where, how long, how wrong, which multiple."""
    setup, (median, worst) = found.table.setup, found.table.error
    versions = ", ".join(f"{name} {version}" for name, version in setup.versions.items())
    threads = f"{setup.threads} thread{'s' if setup.threads > 1 else ''}"
    kept = f"multiples of {found.multiple}" if found.multiple > 1 else "any number of channels"
    return [
        f"machine   {setup.device}, {versions}, {threads}, {setup.batch} x {setup.input_shape}",
        f"original  {found.original:.3f} ms",
        f"error     {median:.1%} in the median, {worst:.1%} at worst, on {len(found.ms[0])} "
        f"networks of multiples of {found.tried} that the table has not seen",
        f"channels  the times reward {kept}",
        f"written   {file}",
    ]


def _table(title: str, headers: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for header in headers:
        words = header in ("layer", "kind")
        table.add_column(header, overflow="fold" if words else "ellipsis",
                         justify="left" if words else "right", no_wrap=not words)  # fmt: skip
    return table
