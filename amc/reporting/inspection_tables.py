"""What `amc.inspect` shows of a network."""

from rich import box
from rich.table import Table

from amc.config.inspect import InspectConfig
from amc.reporting.inspection import Inspection
from amc.reporting.report import short
from amc.runtime import feed


def headline(found: Inspection) -> str:
    """The network in one line."""
    return (
        f"{found.model}: {short(found.macs)} MACs, {short(found.params)} parameters, "
        f"{found.prunable} of {len(found.groups)} groups can be pruned"
    )


def layer_table(found: Inspection) -> Table:
    """One row per layer, in execution order."""
    table = _table("Layers", ("layer", "kind", "channels", "kernel", "input", "MACs", "%"))
    table.add_column("params", justify="right", no_wrap=True)
    table.add_column("group of outputs", overflow="fold")
    for layer in found.layers:
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


def group_table(found: Inspection) -> Table:
    """One row per group, in the order of the walk."""
    table = _table("Groups", ("group", "writers", "read by", "channels", "may keep", "frees"))
    with_uniform = found.uniform_ratio is not None
    if with_uniform:
        table.add_column("uniform", justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for group in found.groups:
        size = f"{group.channels}"
        if group.width > 1:
            heads = " heads" if group.unit == "head" else ""
            size += f" ({group.channels // group.width}{heads} x {group.width})"
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


def summary(found: Inspection, config: InspectConfig) -> list[str]:
    """What can be pruned, how far, and the next command."""
    shape = feed.in_words(found.input_shape)
    frozen = [f"{cause} ({n})" if n > 1 else cause for cause, n in found.causes.items()]
    lines = [
        f"network   {found.model}: {found.macs:,} MACs, {found.params:,} parameters; "
        f"traced with {config.batch} x {shape} in {found.seconds:.1f} s"
        + (f"; {found.other_macs:,} MACs outside of the layers" if found.other_macs else ""),
        f"groups    {found.prunable} of {len(found.groups)} can be pruned; left whole: "
        + ("; ".join(frozen) or "none"),
    ]
    if found.smallest_ratio is None:
        layers = "" if found.layers else ": there is no convolution or linear layer"
        lines.append(f"budget    nothing can be pruned{layers}")
    else:
        lines += [
            f"MACs      {found.removable_share:.1%} can go at most, with one channel in every "
            "group",
            f"budget    --preserve-ratio {found.smallest_ratio:g} to 1 with --min-ratio "
            f"{config.min_ratio:g}, --channel-multiple {found.multiple}",
        ]
        if found.largest_ratio < 1:
            lines.append(f"          bounds leave {found.largest_ratio:.1%} of the MACs at most")
    if found.infeasible:
        lines.append(f"uniform   {found.infeasible}")
    elif found.uniform_ratio is not None:
        lines.append(
            f"uniform   {found.uniform_ratio:.2%} of the MACs for --preserve-ratio "
            f"{config.preserve_ratio:g}"
        )
    if found.baked:
        lines.append(f"baked     {_several(found.baked)}: weights computed in forward, now plain")
    return lines
