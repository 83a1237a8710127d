"""What a policy has learned, budget by budget, as a table."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from envs import gain


def learned_table(account: Sequence[dict[str, Any]]) -> Table:
    """One row per budget: rewards, and what the policy alone gains of what was found."""
    table = Table(
        title="Learned: rewards", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0)
    )
    table.add_column("network", overflow="fold")
    for header in ("MACs", "uniform", "best found", "policy alone", "of the gain"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in account:
        reward = row["reward"]
        most = gain(reward["best"], reward["uniform"])
        share = gain(reward["policy"], reward["uniform"]) / most if most else 1.0
        table.add_row(
            row["model"],
            f"{row['target']:g}",
            *(f"{reward[key]:.4f}" for key in ("uniform", "best", "policy")),
            f"{round(share, 2) + 0.0:.0%}",  # no minus zero
        )
    return table
