"""``python -m amc.apply``: what earlier runs learned, for other budgets, networks and weights.

A policy gives a strategy without any search, or a head start to a short one; a plan is carried out
again on another checkpoint of its network, reconstructed from that one's data.
"""

import sys

from amc.commandline import parse
from amc.config import TrainConfig
from amc.errors import AmcError
from amc.reuse_config import ApplyConfig
from amc.train import going_on, run


def main() -> None:
    """The command; a mistake of the user's ends it with one line and exit status 1."""
    config: TrainConfig | None = None
    try:
        config = parse(ApplyConfig, "amc.apply").training
        run(config)
    except (AmcError, OSError) as error:  # OSError: the disk is full, a folder went away
        sys.exit(f"amc.apply: {error}")
    except KeyboardInterrupt:
        print(f"amc.apply: interrupted{going_on(config)}", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
