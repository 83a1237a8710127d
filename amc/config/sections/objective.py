"""The section on what the budget limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from amc.runtime.errors import AmcError
from amc.runtime.files import as_paths
from amc.runtime.limits import flag, whole, within
from amc.runtime.names import check_name


@dataclass(frozen=True)
class ObjectiveConfig:
    """What a strategy costs, and how it is counted."""

    objective: str = "macs"
    """What --preserve-ratio is a part of: macs, params, filters, memory (bytes of the weights),
    activations (peak bytes), bits (MACs x bits of activations x bits of weights), latency (of
    --latency-table), or module:function of a graph. Several limits at once, each with its part:
    macs=0.5,params=0.4."""
    latency_table: Path | None = None
    """For latency: the times that python -m amc.latency has measured on your device."""
    weight_bits: int = 32
    """For bits and memory: bits of the weights of all layers."""
    activation_bits: int = 32
    """For bits: bits of the inputs of all layers."""
    layer_weight_bits: Mapping[str, int] = field(default_factory=dict)
    """Bits of the weights of single layers: PATTERN N [PATTERN N ...]; the last that matches."""
    layer_activation_bits: Mapping[str, int] = field(default_factory=dict)
    """Bits of the inputs of single layers: PATTERN N [PATTERN N ...]; the last that matches."""

    def __post_init__(self) -> None:
        as_paths(self)
        limits = limits_of(self.objective)
        names = [name for name, _ in limits]
        for name, ratio in limits:
            if ":" not in name:  # whether a function is there shows before the run begins
                check_name("objective", name)
            if ratio is not None:
                within(f"--objective {name}", ratio, 0, 1)
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise AmcError(f"--objective {self.objective}: {twice} is there twice")
        if len({ratio is None for _, ratio in limits}) > 1:
            raise AmcError(
                f"--objective {self.objective}: give a part to all of them, such as "
                f"{','.join(f'{name}=0.5' for name in names)}, or to none"
            )
        if ("latency" in names) != (self.latency_table is not None):
            raise AmcError(
                "--objective latency and --latency-table FILE belong together; "
                "python -m amc.latency makes the table"
            )
        for name in ("weight_bits", "activation_bits"):
            for bits in (getattr(self, name), *getattr(self, f"layer_{name}").values()):
                whole(name, bits, 1)
                if bits > 64:
                    raise AmcError(f"{flag(name)}: expected 1 to 64, got {bits}")

    @property
    def names(self) -> list[str]:
        """What is limited."""
        return [name for name, _ in limits_of(self.objective)]

    @property
    def has_ratios(self) -> bool:
        """Whether the parts that may stay are given here, and not by --preserve-ratio."""
        return limits_of(self.objective)[0][1] is not None

    def ratios(self, preserve_ratio: float) -> list[tuple[str, float]]:
        """What is limited, and the part of it that may stay."""
        return [(name, ratio or preserve_ratio) for name, ratio in limits_of(self.objective)]

    @property
    def words(self) -> list[str]:
        """For the name of a run's folder; none for MACs, which are the default."""
        return [] if self.objective == "macs" else [self.objective.replace(",", "-")]


def limits_of(objective: str) -> list[tuple[str, float | None]]:
    """The names in ``a=0.5,b=0.4`` or ``a,b`` and their parts.

    Raises:
        AmcError: a part is no number, or there is no name.
    """
    found: list[tuple[str, float | None]] = []
    for word in objective.split(","):
        name, equals, ratio = word.strip().partition("=")
        try:
            found.append((name, float(ratio) if equals else None))
        except ValueError:
            raise AmcError(
                f"--objective {objective}: {ratio!r} is no number; expected such as macs=0.5"
            ) from None
    return found
