"""Every setting of a run: at once the command line, ``config.json`` and the documentation."""

from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import tyro

from amc.graph.restrictions import Choice
from amc.runtime.errors import AmcError
from amc.runtime.files import as_paths
from amc.runtime.limits import WIDEST, below, flag, real, whole, within
from amc.runtime.memory import parse_bytes
from amc.schedules.stages import Kind

LEARNERS = ("ddpg", "td3", "sac")
"""Agents that a policy can be handed to."""

Multiple: TypeAlias = int | Literal["auto"]

Other = TypeVar("Other", bound="Shared")


@dataclass(frozen=True)
class Shared:
    """What every command that cuts works on: a network, images, and how channels are chosen."""

    model: str = "resnet20"
    """resnet20, resnet56, resnet50, plain20, vgg16, mobilenet_v1, mobilenet_v2,
    package.module:function or path/to/file.py:function."""
    width: float = 1.0
    """Factor on every number of channels of a bundled network."""
    data: str = "digits"
    """digits, glyphs, cifar10:/path, cifar100:/path, imagefolder:/path or module:function.
    imagefolder:/path?size=224&crop=1&workers=0: RGB, the central square (crop: that part of the
    shorter side) resized to size x size, minus the mean (0.485, 0.456, 0.406), divided by (0.229,
    0.224, 0.225); training takes random crops and flips. module:function returns loaders (train,
    val, test[, calibration]) of (images [B, C, H, W] float32, labels [B] int64) as the network
    wants them, that can be gone through again and again."""
    task: str = "classification"
    """What the network is for: classification, or module:object with name, loss, score."""
    checkpoint: Path | None = None
    """Weights: a state dict (torch.save) or safetensors. Without: bundled networks are trained."""

    choice: tyro.conf.OmitArgPrefixes[Choice] = field(default_factory=Choice)
    """Which layers may be cut."""

    selector: Literal["lasso", "obs", "l1", "l2", "random"] = "lasso"
    """Which channels of a group stay."""
    channel_multiple: Multiple = "auto"
    """Kept channels are multiples of this; 1: any number. auto: 8, which runtimes compute fast, or
    the largest of 4, 2, 1 under which the target leaves the search enough strategies."""
    min_ratio: float = 0.1
    """No group keeps less than this part of its channels."""
    calibration_batches: int = 60
    """Batches of 32 training images for statistics and batch-norm adaptation."""
    points_per_layer: int = 10
    """Output positions per layer and batch that become rows of the regression; 0: all."""
    memory: str | None = None
    """Such as 4GB or 500MB: what statistics, outputs and solutions of layers may take; more passes
    over the images and a temporary file make up for it, results stay the same. Default: all of
    them in memory."""
    reward: str = "divergence"
    """divergence (minus that from the original network's predictions), loss (minus the
    cross-entropy), accuracy (the score of --task), accuracy_flops, accuracy_params, or
    module:function of an envs.Outcome."""
    reward_images: int = 500
    """Validation images per episode at most."""

    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU when there is one."""
    quiet: bool = False
    """Print errors only."""

    @property
    def memory_bytes(self) -> int | None:
        """The limit in bytes.

        Raises:
            AmcError: `memory` is no size.
        """
        return None if self.memory is None else parse_bytes(self.memory)

    @property
    def classifies(self) -> bool:
        """Whether the task is the built-in one."""
        return self.task == "classification"

    def into(self, kind: type[Other], **own: Any) -> Other:
        """The settings of another command: those that both have, and its own."""
        known = {one.name for one in fields(kind)} & {one.name for one in fields(self)}
        return kind(**{**{name: getattr(self, name) for name in known}, **own})


@dataclass(frozen=True)
class TrainConfig(Shared):
    """Prunes the channels of a network to a budget: search, cut, reconstruct, fine-tune."""

    preserve_ratio: float = 0.5
    """Part of the multiply-accumulates (MACs) that stays, in (0, 1]; never exceeded."""
    mode: Literal["auto", "uniform", "list", "policy", "plan"] = "auto"
    """auto: DDPG searches; uniform: one ratio for all; list: read it from --strategy; policy:
    walked by --policy, no search; plan: the channels of --plan."""

    channel_ratio: float | None = None
    """For --mode uniform: part of the channels that every group keeps; the MACs follow."""
    strategy: Path | None = None
    """For --mode list: JSON {layer: ratio or channels}, a run's strategy.json, or comma-separated
    ratios in layer order."""

    policy: Path | None = None
    """A policy that an earlier run has learned (its folder, or .../policy): decides alone with
    --mode policy, gives --mode auto a head start."""
    plan: Path | None = None
    """For --mode plan: plan.json of an earlier run of the same network, or its folder."""

    episodes: int = 200
    """Strategies that the search tries."""
    agent: Literal["ddpg", "td3", "sac", "screened", "evolution", "random"] = "ddpg"
    """What searches: an agent, or one of the baselines of python -m amc.compare."""
    warmup_episodes: int = 10
    """The first of them, uniform once, then suggested or random, before the agent learns."""
    regime: Literal["calibrate", "finetune"] = "calibrate"
    """What the reward tells of: the network as it is after the cut (calibrate), or after a few
    steps of training in every episode (finetune)."""
    reward_steps: int = 30
    """Training steps in every episode of the finetune regime."""
    time_limit: float | None = None
    """Minutes after which the search stops and goes on with the best strategy so far."""
    patience: int | None = None
    """Episodes without a better strategy after which the search stops."""
    workers: int = 1
    """Processes that measure strategies side by side, one thread each (CPU)."""
    walks: int | None = None
    """Strategies that an agent walks side by side before it learns; default: --workers."""
    finalists: int = 6
    """Strategies that are cut for real before one is chosen; the uniform one is among them."""

    finetune_epochs: int = 4
    """Passes over the training data after the cut; 0: none."""
    learning_rate: float = 0.05
    """Of fine-tuning, at its highest."""
    distill: bool = True
    """Fine-tuning also learns from the original network."""
    temperature: float = 4.0
    """Of distillation."""
    distill_weight: float = 2.0
    """Of distillation against the labels; with the factor temperature squared."""
    distill_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the weight of distillation goes down to zero over the training, if it does."""
    feature_weight: float = 0.0
    """Distillation also compares what the layers put out, on the channels that are left; their
    relative error is weighed with this."""
    label_smoothing: float = 0.0
    """Part of every label that is shared out among all classes, in [0, 1)."""
    weight_decay: float = 5e-4
    """Of fine-tuning; norms and biases do not decay."""
    clip: float = 0.2
    """The gradient of each filter is at most this part of the filter's own norm (adaptive gradient
    clipping, Brock et al. 2021); 0: gradients are left alone."""
    ema: float = 0.0
    """The result is an average of the weights over the steps, the older ones discounted by this,
    such as 0.999; 0: the last weights."""
    mixed: bool = False
    """Train in bfloat16 where it is safe; on a GPU only."""
    finetune: str | None = None
    """Your own training instead: module:function, called with the cut network, the original, the
    data and the epochs; returns the network."""

    group_size: int = 0
    """Cut this many groups, fine-tune, go on with the next; 0: all at once."""
    schedule: Kind = "one-shot"
    """Cut all groups little by little, with fine-tuning between the steps."""
    schedule_steps: int = 4
    """Of a schedule that is not one-shot; of adaptive at most."""
    schedule_parts: tuple[float, ...] = (0.5, 0.8)
    """Of multistep: parts of the whole cut that the steps before the last have made."""
    adaptive_drop: float = 10.0
    """Of adaptive: a step goes as far as it costs at most so many points before training."""
    soft: bool = False
    """Between the stages channels are not cut but silenced: training may bring them back."""
    stage_epochs: float | None = None
    """Part of the epochs that is spent between the stages of --group-size or --schedule; the rest
    comes after the last. Default: all stages get the same."""
    stage_learning_rate: float | None = None
    """Between the stages; default: --learning-rate."""
    stop_drop: float = 0.0
    """A stage after which the validation accuracy is lower than the original's by more points than
    this is taken back, and none follows; 0: never. Scores that are no percentages: by this."""
    bn_adapt: bool = True
    """Re-estimate batch-norm statistics after the cut."""
    bn_samples: int | None = None
    """Training images that batch norm is adapted on once all layers are solved; by default it is
    while they are, on the images of --calibration-batches."""
    batch_size: int = 64
    """Of training."""

    run_dir: Path | None = None
    """Folder of this run; default runs/<model>-<data>-<mode>-<ratio>-seed<seed>."""
    resume: Path | None = None
    """Folder of a run that was stopped: goes on with its settings, to the same result. Besides,
    only --time-limit, --workers, --memory, --quiet and --trust may be given. The folder names the
    code that runs: --model, --data, --task, --reward and --finetune are its own."""
    trust: bool = False
    """Use run folders, policies and plans of other users; they name code that runs here."""
    seed: int = 0
    """The same seed on the same machine gives the same result, bit for bit."""

    def __post_init__(self) -> None:
        as_paths(self)
        within("--width", self.width, 0, WIDEST)
        within("--preserve-ratio", self.preserve_ratio, 0, 1)
        within("--min-ratio", self.min_ratio, 0, 1)
        self._check_mode()
        _ = self.memory_bytes  # which checks it
        for name, least in (
            ("episodes", 1),
            ("warmup_episodes", 0),
            ("calibration_batches", 1),
            ("points_per_layer", 0),
            ("reward_images", 1),
            ("reward_steps", 1),
            ("workers", 1),
            ("walks", 1),
            ("patience", 1),
            ("finalists", 1),
            ("finetune_epochs", 0),
            ("group_size", 0),
            ("schedule_steps", 1),
            ("bn_samples", 1),
            ("batch_size", 1),
            ("channel_multiple", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if value not in (None, "auto"):
                whole(name, value, least)
        for name in ("learning_rate", "temperature", "distill_weight"):
            within(flag(name), getattr(self, name), 0, float("inf"))
        if self.time_limit is not None:
            within("--time-limit", self.time_limit, 0, float("inf"))
        self._check_recovery()
        self._check_stages()

    def _check_recovery(self) -> None:
        for name, most in (
            ("feature_weight", None),
            ("weight_decay", None),
            ("clip", None),
            ("stop_drop", 100 if self.classifies else None),
            ("adaptive_drop", 100 if self.classifies else None),
            ("label_smoothing", 1),
            ("ema", 1),
        ):
            below(flag(name), getattr(self, name), most or float("inf"))
        if self.bn_samples is not None and not self.bn_adapt:
            raise AmcError("--bn-samples belongs to --bn-adapt, not to --no-bn-adapt")
        if self.label_smoothing and not self.classifies:
            raise AmcError(
                f"--label-smoothing belongs to classification, not to --task {self.task}"
            )
        if self.feature_weight and not self.distill:
            raise AmcError("--feature-weight belongs to distillation, not to --no-distill")

    def _check_stages(self) -> None:
        if self.stage_epochs is not None:
            within("--stage-epochs", self.stage_epochs, 0, 1)
        if self.stage_learning_rate is not None:
            within("--stage-learning-rate", self.stage_learning_rate, 0, float("inf"))
        if self.group_size and self.schedule != "one-shot":
            raise AmcError(
                f"--group-size {self.group_size} and --schedule {self.schedule} exclude each other"
            )
        given = [real("--schedule-parts", part) for part in self.schedule_parts]
        parts = (0.0, *given, 1.0)
        if not all(a < b for a, b in pairwise(parts)):  # NaN fails the comparison
            words = " ".join(f"{part:g}" for part in given)
            raise AmcError(f"--schedule-parts {words}: must increase, between 0 and 1")
        if self.soft and self.schedule == "one-shot" and not self.group_size:
            raise AmcError("--soft needs stages: --schedule or --group-size")

    def _check_mode(self) -> None:
        """Makes sure that each mode has the file it works on, and no other."""
        mode = self.mode
        for word, given, needs in (
            ("--strategy", self.strategy, "list"),
            ("--plan", self.plan, "plan"),
        ):
            if (mode == needs) != (given is not None):
                raise AmcError(f"--mode {needs} and {word} FILE belong together")
        if mode == "policy" and self.policy is None:
            raise AmcError("--mode policy needs --policy FILE")
        if self.policy is not None and mode not in ("policy", "auto"):
            raise AmcError(f"--policy belongs to --mode policy or auto, not {mode}")
        if self.policy is not None and self.agent not in LEARNERS:
            allowed = ", ".join(LEARNERS)
            raise AmcError(f"--policy: --agent {self.agent} learns none; allowed: {allowed}")
        if self.channel_ratio is not None:
            within("--channel-ratio", self.channel_ratio, 0, 1)
            if mode != "uniform":
                raise AmcError(f"--channel-ratio belongs to --mode uniform, not {mode}")

    @property
    def target(self) -> float | None:
        """Part of the MACs that may stay; None where channels were given instead."""
        named = self.channel_ratio is not None or self.mode in ("list", "plan")
        return None if named else self.preserve_ratio
