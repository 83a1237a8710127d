"""What TensorBoard shows of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from amc.runtime.wording import plain
from amc.training.trainer import Step
from envs.outcome import Episode


class TensorBoardLog:
    """Event files in the run folder: the search per episode, fine-tuning per step and epoch.

    Args:
        folder: of the run.
        sizes: channels of every group.
        original_macs: of the network before any cut.
        score: what the task calls the number that it is about.
    """

    def __init__(
        self, folder: Path, sizes: Mapping[str, int], original_macs: int, score: str = "accuracy"
    ) -> None:
        self._writer = SummaryWriter(str(folder))
        self._sizes, self._original, self._score = sizes, original_macs, plain(score)
        self._episodes = self._step = 0

    def episode(self, episode: Episode) -> None:
        """One strategy that was tried."""
        scalars = {
            "search/reward": episode.reward,
            "search/best_reward": episode.best,
            f"search/{self._score}": episode.outcome.score.accuracy,
            "search/loss": episode.outcome.score.loss,
            "search/macs_ratio": episode.outcome.macs / self._original,
            **{f"ratio/{plain(n)}": k / self._sizes[n] for n, k in episode.strategy.items()},
        }
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, self._episodes)
        self._episodes += 1

    def learned(self, logged: Mapping[str, Any]) -> None:
        """The agent's losses after the episode."""
        for name, value in logged.items():
            if name.endswith("_loss"):
                self._writer.add_scalar(f"agent/{name.split('/')[-1]}", value, self._episodes - 1)

    def shared_step(self, step: Step) -> None:
        """One step of the training of shared weights."""
        self._writer.add_scalar("shared/loss", step.loss, step.step)
        self._writer.add_scalar("shared/learning_rate", step.learning_rate, step.step)

    def finetune_step(self, step: Step) -> None:
        """One step of fine-tuning."""
        self._step += 1
        self._writer.add_scalar("finetune/loss", step.loss, self._step)
        self._writer.add_scalar("finetune/learning_rate", step.learning_rate, self._step)

    def finetune_epoch(self, score: float) -> None:
        """The score on validation images after an epoch of fine-tuning."""
        self._writer.add_scalar(f"finetune/val_{self._score}", score, self._step)

    def finish(self, settings: Mapping[str, Any], cut: float, trained: float, macs: float) -> None:
        """The settings and what came of them, and the end of the file.

        Args:
            settings: by name.
            cut: score on the test split before training.
            trained: and after it.
            macs: the part that is left.
        """
        simple = (bool, int, float, str)
        shown = {k: v if isinstance(v, simple) else str(v) for k, v in settings.items()}
        shown = {k: plain(v) if isinstance(v, str) else v for k, v in shown.items()}
        results = {
            f"hparam/{self._score}": trained,
            f"hparam/{self._score}_before_finetuning": cut,
            "hparam/macs_ratio": macs,
        }
        self._writer.add_hparams(shown, results, run_name=".")
        self.close()

    def close(self) -> None:
        """The end of the file."""
        self._writer.close()
