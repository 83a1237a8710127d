"""What `amc.inspect` shows of a network."""

from rich import box
from rich.table import Table

from amc.config.inspect import InspectConfig
from amc.reporting.inspection import Inspection
from amc.reporting.report import short
from amc.runtime import feed


def headline(account: Inspection) -> str:
    """The network in one line."""
    return (
        f"{account.model}: {short(account.macs)} MACs, {short(account.params)} parameters, "
        f"{account.prunable} of {len(account.groups)} groups can be pruned"
    )


def layer_table(account: Inspection) -> Table:
    """One row per layer, in execution order."""
    table = _table("Layers", ("layer", "kind", "channels", "kernel", "input", "MACs", "%"))
    table.add_column("params", justify="right", no_wrap=True)
    table.add_column("group of outputs", overflow="fold")
    for layer in account.layers:
        kernel = "x".join(map(str, layer.kernel))
        size = "x".join(map(str, layer.input_size))
        table.add_row(
            layer.name,
            layer.kind,
            f"{layer.in_channels} → {layer.out_channels}",
            f"{kernel} /{layer.stride}" if layer.stride > 1 else kernel,
            size.replace("x", "x·x") if len(layer.kernel) == 3 else size,
            short(layer.macs),
            f"{100 * layer.macs_share:.1f}",
            short(layer.params),
            ", ".join(layer.out_groups),
        )
    return table


def group_table(account: Inspection) -> Table:
    """One row per group, in the order of the walk."""
    table = _table("Groups", ("group", "writers", "read by", "channels", "may keep", "frees"))
    with_uniform = account.uniform_ratio is not None
    if with_uniform:
        table.add_column("uniform", justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for group in account.groups:
        size = f"{group.channels}"
        if group.width > 1:
            size += f" ({group.channels // group.width} x {group.width})"
        remarks = ["residual"] if group.residual else []
        remarks += [f"frozen: {group.reason}"] if group.reason else []
        row = [
            group.name,
            str(len(group.writers) or ""),
            _several(group.readers),
            size,
            "all" if group.reason else f"{group.fewest} to {group.most}",
            "" if group.reason else f"{group.removable_share:.1%}",
        ]
        if with_uniform:
            row.append("" if group.uniform is None else str(group.uniform))
        table.add_row(*row, ", ".join(remarks))
    return table


def _table(title: str, headers: tuple[str, ...]) -> Table:
    """Columns for names and words, folded where they are too long, and for numbers, never."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for header in headers:
        if header in ("layer", "group", "read by"):
            table.add_column(header, overflow="fold")
        elif header in ("kind", "kernel"):
            table.add_column(header, no_wrap=True)
        else:
            table.add_column(header, justify="right", no_wrap=True)
    return table


def _several(names: tuple[str, ...]) -> str:
    """The first name and how many there are beside it."""
    if len(names) < 2:
        return "".join(names)
    return f"{names[0]} + {len(names) - 1} more"


def summary(account: Inspection, config: InspectConfig) -> list[str]:
    """What can be pruned, how far, and the next command."""
    shape = feed.in_words(account.input_shape)
    frozen = [f"{cause} ({n})" if n > 1 else cause for cause, n in account.causes.items()]
    lines = [
        f"network   {account.model}: {account.macs:,} MACs, {account.params:,} parameters; "
        f"traced with {config.batch} x {shape} in {account.seconds:.1f} s"
        + (f"; {account.other_macs:,} MACs outside of the layers" if account.other_macs else ""),
        f"groups    {account.prunable} of {len(account.groups)} can be pruned; left whole: "
        + ("; ".join(frozen) or "none"),
    ]
    if account.smallest_ratio is None:
        layers = "" if account.layers else ": there is no convolution or linear layer"
        lines.append(f"budget    nothing can be pruned{layers}")
    else:
        lines += [
            f"MACs      {account.removable_share:.1%} can go at most, with one channel in every "
            "group",
            f"budget    --preserve-ratio {account.smallest_ratio:g} to 1 with --min-ratio "
            f"{config.min_ratio:g}, --channel-multiple {account.multiple}",
        ]
        if account.largest_ratio < 1:
            lines.append(f"          bounds leave {account.largest_ratio:.1%} of the MACs at most")
    if account.infeasible:
        lines.append(f"uniform   {account.infeasible}")
    elif account.uniform_ratio is not None:
        lines.append(
            f"uniform   {account.uniform_ratio:.2%} of the MACs for --preserve-ratio "
            f"{config.preserve_ratio:g}"
        )
    if account.baked:
        lines.append(
            f"baked     {_several(account.baked)}: weights computed in forward, now plain"
        )
    return lines
