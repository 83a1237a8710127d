"""An open run: its settings, folder, terminal and clock."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from amc.config.composed import Composed
from amc.graph.plan import Plan, Strategy
from amc.graph.plan_files import save_strategy
from amc.runs.folder import effective_settings, rank_folder, write_settings
from amc.runs.network import save_network
from amc.runs.terminal import Terminal
from amc.runtime import launch
from amc.runtime.errors import BrokenCodeError

Settings = TypeVar("Settings", bound=Composed)


class Clock:
    """Wall seconds of each step."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._steps: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Times what is inside; a step that is done again adds up."""
        start = time.perf_counter()
        yield
        self._steps[step] = self._steps.get(step, 0.0) + time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        """Seconds by step, and in total."""
        return {**self._steps, "total": time.perf_counter() - self._start}


@dataclass
class Run(Generic[Settings]):
    """An open run.

    Attributes:
        config: its settings; with ``--resume`` those that the run began with.
        folder: where everything goes; this process's alone.
        terminal: what a person sees.
        clock: seconds of each step.
        about: what its files say of their origin.
        stays: whether anybody looks into the folder afterwards.
    """

    config: Settings
    folder: Path
    terminal: Terminal
    clock: Clock = field(default_factory=Clock)
    about: dict[str, Any] = field(default_factory=dict)
    stays: bool = True
    _stack: ExitStack = field(default_factory=ExitStack)

    def begin(self, **about: Any) -> None:
        """Writes the settings: from here on the run can be resumed.

        Code of the user's that fails from now on, an image that cannot be read for instance, loses
        nothing of what was done.
        """
        self.about = about
        write_settings(self.folder, self.config, self.terminal.say)
        self._stack.enter_context(kept())

    def save_strategy(self, strategy: Strategy, channels: Mapping[str, tuple[int, int]]) -> None:
        """Writes how much every group keeps, see `plan_files.save_strategy`."""
        save_strategy(self.folder / "strategy.json", strategy, channels, self.about)

    def save(self, plan: Plan, model: nn.Module) -> None:
        """Writes plan and weights: all that `amc.load_pruned` needs."""
        save_network(self.folder, plan, model, self.about)


@contextmanager
def open_run(config: Settings) -> Iterator[Run[Settings]]:
    """Opens a run: all processes that torchrun has started join, and the folder is locked.

    Raises:
        AmcError: the folder cannot be used, or there is nothing to resume.
    """
    with launch.joined(config.flat["device"]), rank_folder(config) as own, ExitStack() as stack:
        terminal = Terminal(own.flat["quiet"])
        own = effective_settings(own, terminal.say)
        torch.manual_seed(own.flat.get("seed", 0))
        yield Run(own, own.folder, terminal, _stack=stack)


@contextmanager
def kept() -> Iterator[None]:
    """Code of the user's that fails in here loses nothing of what was done."""
    try:
        yield
    except BrokenCodeError as error:
        error.kept = True
        raise
