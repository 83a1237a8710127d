"""``python -m amc.learn``: one policy for many budgets and networks.

The budgets of all networks are walked in turn by one agent. What it sees does not depend on the
size of a network, and its actions are relative to the budget; what it earns is what it gains over
the uniform strategy, so that budgets and networks weigh alike. The records stay in the folder: the
same command, given again after a stop, goes on from there.
"""

if __name__ == "__main__":  # a mistyped flag is refused before torch is loaded
    from amc.config.exits import interruptible

    interruptible("amc.learn")
    from amc.config.command_line import at_once
    from amc.config.many_budgets import LearnConfig

    at_once("amc.learn", LearnConfig)

from pathlib import Path

from amc.config.command_line import command
from amc.config.many_budgets import LearnConfig
from amc.runs.run import open_run
from amc.steps.job import open_job
from amc.studies.learn import learn


def run(config: LearnConfig) -> Path:
    """Learns the policy; returns its folder.

    Raises:
        AmcError: something given cannot be used; what was finished before is in the folder.
    """
    with open_run(config) as opened:
        return learn(open_job(config, opened.terminal), config)


def main() -> None:
    """The command."""
    command(
        "amc.learn",
        LearnConfig,
        run,
        "; the same command goes on from here",
        lambda folder: (folder / "learned.json").read_text(),
    )


if __name__ == "__main__":
    main()
