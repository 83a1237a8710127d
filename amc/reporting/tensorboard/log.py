"""Event files in the run folder: what happened, in groups whose numbers put them in order."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from amc.config.composed import Composed
from amc.reporting.report import Report
from amc.reporting.tensorboard.pictures import Pixels, bars, heat_map, sums
from amc.reporting.tensorboard.summary import headline, metrics, settings_shown, text
from amc.runtime.wording import plain
from amc.tasks.task import CLASSIFICATION, Task
from amc.training.trainer import Step
from envs.outcome import Episode

RESULT, SEARCH, TRAINING = "1 result", "2 search", "3 training"
SHARED, AGENT, GROUPS = "4 shared weights", "5 agent", "6 kept channels"
NUMBERS = "7 numbers"
"""Groups, in the order of the story; the last is what the HPARAMS tab shows beside settings."""

FIRST = 8
"""Episodes after which the search is drawn for the first time; then after twice as many."""


class TensorBoardLog:
    """The search per episode, training per step and epoch, and what came of it all.

    Args:
        folder: of the run.
        sizes: channels of every group.
        original_macs: of the network before any cut.
        task: what the network is for.
    """

    def __init__(
        self,
        folder: Path,
        sizes: Mapping[str, int],
        original_macs: int,
        task: Task = CLASSIFICATION,
    ) -> None:
        self._writer = SummaryWriter(str(folder))
        self._sizes, self._original, self._task = sizes, original_macs, task
        self._score = plain(task.name)
        self._tried: list[Episode] = []
        self._step = 0

    def episode(self, episode: Episode) -> None:
        """One strategy that was tried."""
        outcome, number = episode.outcome, len(self._tried)
        self._scalars(
            SEARCH,
            {
                "reward": episode.reward,
                "best reward": episode.best,
                self._score: outcome.score.accuracy,
                "loss": outcome.score.loss,
                "part of the MACs": outcome.macs / self._original,
            },
            number,
        )
        kept = {plain(n): k / self._sizes[n] for n, k in episode.strategy.items()}
        self._scalars(GROUPS, kept, number)
        self._tried.append(episode)
        if len(self._tried) >= FIRST and math.log2(len(self._tried)).is_integer():
            self._draw_search()

    def learned(self, logged: Mapping[str, Any]) -> None:
        """The agent's losses after the episode."""
        losses = {
            name.split("/")[-1].replace("_", " "): value
            for name, value in logged.items()
            if name.endswith("_loss")
        }
        self._scalars(AGENT, losses, len(self._tried) - 1)

    def shared_step(self, step: Step) -> None:
        """One step of the training of shared weights."""
        rate = {"loss": step.loss, "learning rate": step.learning_rate}
        self._scalars(SHARED, rate, step.step)

    def finetune_step(self, step: Step) -> None:
        """One step of fine-tuning."""
        self._step += 1
        rate = {"loss": step.loss, "learning rate": step.learning_rate}
        self._scalars(TRAINING, rate, self._step)

    def finetune_epoch(self, score: float) -> None:
        """The score on validation images after an epoch of fine-tuning."""
        self._scalars(TRAINING, {f"validation {self._score}": score}, self._step)

    def finetune_level(self, level: float) -> None:
        """The part of the weights that is zero after an epoch of fine-tuning."""
        self._scalars(TRAINING, {"zeros": level}, self._step)

    def finish(self, config: Composed, report: Report) -> None:
        """What came of it, beside the settings, and the end of the file."""
        results = {f"{NUMBERS}/{name}": x for name, x in metrics(report, self._task).items()}
        self._writer.add_hparams(settings_shown(config), results, run_name=".")
        self._picture(
            f"{RESULT}/channels before and after",
            bars(
                [layer.name for layer in report.layers],
                [layer.out_channels.original for layer in report.layers],
                [layer.out_channels.pruned for layer in report.layers],
                "\n".join(headline(report, self._task)),
            ),
            0,
        )
        self._draw_sums(report)
        self._writer.add_text(f"{RESULT}/summary", text(config, report, self._task))
        self.close()

    def close(self) -> None:
        """The end of the file; the search is drawn as it ended."""
        if len(self._tried) > 1:
            self._draw_search()
        self._tried = []
        self._writer.close()

    def _draw_search(self) -> None:
        names, last = list(self._tried[0].strategy), len(self._tried) - 1
        best = max(range(last + 1), key=lambda i: self._rank(self._tried[i]))
        rows = [[e.strategy[n] / self._sizes[n] for n in names] for e in self._tried]
        kept = [self._tried[best].strategy[n] for n in names]
        what = f"{last + 1} strategies were tried,\nthe best is number {best + 1}"
        self._picture(f"{SEARCH}/0 strategies", heat_map(names, rows, best, what), last)
        full = [self._sizes[n] for n in names]
        self._picture(f"{SEARCH}/1 best strategy", bars(names, full, kept, what), last)

    def _draw_sums(self, report: Report) -> None:
        """What is left of everything that was measured."""
        parts = {"MACs": report.macs.ratio, "parameters": report.params.ratio}
        parts["file"] = report.file_bytes.ratio
        for one in report.latency_ms:
            if one.ratio is not None:
                parts[f"time, {one.runtime.split()[0]}"] = one.ratio
        scores = {name: self._task.shown(found) for name, found in report.accuracy.items()}
        title = f"test {self._score}: {scores['original']},\n"
        title += f"{scores['pruned']} after the cut, {scores['recovered']} after training"
        self._picture(f"{RESULT}/what is left", sums(parts, title), 0)

    def _rank(self, episode: Episode) -> float:
        """The reward, of what may be found."""
        return -math.inf if episode.probe or math.isnan(episode.reward) else episode.reward

    def _scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def _picture(self, name: str, pixels: Pixels, step: int) -> None:
        self._writer.add_image(name, pixels, step, dataformats="HWC")
