"""Every setting of ``python -m amc.latency``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from amc.config.example import ExampleConfig
from amc.config.sections.job import Multiple
from amc.graph.restrictions import Restrictions
from amc.runtime.errors import AmcError
from amc.runtime.files import as_paths, safe_name
from amc.runtime.limits import WIDEST, flag, whole, within


@dataclass(frozen=True)
class LatencyConfig(ExampleConfig):
    """Times a network on this machine at many channel counts, and writes its latency table."""

    command = "amc.latency"

    batch: int = 1
    """Images in a pass."""

    runtime: Literal["torch", "onnxruntime"] = "onnxruntime"
    """What runs the network: onnxruntime (on the CPU), or PyTorch operator by operator."""
    threads: int = 1
    """Of the CPU. With one, times are those in which the processor works for the network."""
    device: str = "cpu"
    """cpu; with --runtime torch also cuda or cuda:1."""

    restrictions: Restrictions = Restrictions()
    """Which layers may be cut: as amc.train is told afterwards."""
    channel_multiple: Multiple = "auto"
    """Kept channels of the networks that are timed are multiples of this. auto: of 16, 8, 4 and 1,
    and the error is that for the largest which the times reward."""
    min_ratio: float = 0.1
    """No group keeps less than this part of its channels."""
    networks: int = 192
    """How many networks are timed to fill the table, and a few more to tell its error."""

    output: Path | None = None
    """The file. Default: latency-<model>-<runtime>.json."""
    json: bool = False
    """Also print the table on standard output, and nothing else there."""

    def __post_init__(self) -> None:
        as_paths(self)
        within("--min-ratio", self.min_ratio, 0, 1)
        within("--width", self.width, 0, WIDEST)
        for name in ("batch", "threads", "num_classes", "channel_multiple"):
            if (number := getattr(self, name)) not in (None, "auto"):
                whole(name, number, 1)
        whole("networks", self.networks, 24)
        if self.threads > MOST_THREADS:
            raise AmcError(f"{flag('threads')} must be {MOST_THREADS} or less, got {self.threads}")
        if self.runtime == "onnxruntime" and self.device != "cpu":
            raise AmcError(
                f"--device {self.device}: onnxruntime is timed on the CPU; --runtime torch times "
                "a GPU"
            )

    @property
    def file(self) -> Path:
        """Where the table goes."""
        name = safe_name(self.model.rpartition(":")[2] or self.model)
        return self.output or Path(f"latency-{name}-{self.runtime}.json")


MOST_THREADS = 1024
