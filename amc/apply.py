"""``python -m amc.apply``: what earlier runs learned, for other budgets, networks and weights.

A policy gives a strategy without any search, or a head start to a short one; a plan is carried out
again on another checkpoint of its network, reconstructed from that one's data.
"""

if __name__ == "__main__":  # a mistyped flag is refused before torch is loaded
    from amc.config.ending import interruptible

    interruptible("amc.apply")
    from amc.config.command_line import at_once
    from amc.config.reuse import ApplyConfig

    at_once("amc.apply", ApplyConfig)

from amc.config.command_line import parse
from amc.config.ending import ending
from amc.config.reuse import ApplyConfig
from amc.config.train import TrainConfig
from amc.train import going_on, run


def main() -> None:
    """The command; a mistake of the user's ends it with one line and exit status 1."""
    config: TrainConfig | None = None
    with ending("amc.apply", going_on=lambda: going_on(config)):
        config = parse(ApplyConfig, "amc.apply").training
        run(config)


if __name__ == "__main__":
    main()
