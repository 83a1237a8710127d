"""Sections that commands share: what is cut, how it is cut, and what it is judged by.

Every section checks itself; what spans several is checked by the command.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from amc.runtime.errors import AmcError
from amc.runtime.files import as_paths
from amc.runtime.limits import MOST, WIDEST, real, shown, whole, within
from amc.runtime.memory import parse_bytes
from amc.runtime.names import metrics_in

Multiple: TypeAlias = int | Literal["auto"]


@dataclass(frozen=True)
class NetworkConfig:
    """The network."""

    model: str = "resnet20"
    """resnet20, resnet56, resnet50, plain20, vgg16, mobilenet_v1, mobilenet_v2, vit; of packages
    that are installed, timm:name, torchvision:name, hf:name or hf:folder; package.module:function
    or path/to/file.py:function; amc.learn takes several, separated by commas: resnet20,plain20 or
    nets.py:a,nets.py:b."""
    width: float = 1.0
    """Factor on every number of channels of a bundled network."""
    checkpoint: Path | None = None
    """Weights: a state dict (torch.save) or safetensors. Without: bundled networks are trained."""

    def __post_init__(self) -> None:
        as_paths(self)
        within("--width", self.width, 0, WIDEST)


@dataclass(frozen=True)
class DataConfig:
    """The data, and what the network is for."""

    data: str = "digits"
    """digits, glyphs, cifar10:/path, cifar100:/path, idx:/path, imagefolder:/path,
    hf:name-or-folder, torchvision:Name or module:function.
    idx:/path?set=letters&train=12000&flip=1: a folder of IDX files, gzipped or not (MNIST,
    Fashion-MNIST, EMNIST, KMNIST); which of its data sets; so many training images; random
    flips.
    imagefolder:/path?size=224&crop=1&workers=0: RGB, the central square (crop: that part of the
    shorter side) resized to size x size, minus the mean (0.485, 0.456, 0.406), divided by (0.229,
    0.224, 0.225); training takes random crops and flips.
    hf:name?image=column&label=column&split=name&size=64: as Hugging Face's datasets reads it.
    torchvision:CIFAR10?root=/path&download=1: fetched only with download=1.
    module:function returns loaders (train,
    val, test[, calibration]) of (images [B, C, H, W] float32, labels [B] int64) as the network
    wants them, that can be gone through again and again."""
    task: str = "classification"
    """What the network is for: classification; detection, where the network tells loss and boxes
    (Ultralytics' YOLO does); or module:object with name, loss, score."""

    @property
    def classifies(self) -> bool:
        """Whether the task is the built-in one."""
        return self.task == "classification"


@dataclass(frozen=True)
class CountsConfig:
    """The channel counts that a group may keep."""

    channel_multiple: Multiple = "auto"
    """Kept channels are multiples of this; 1: any number. auto: 8, which runtimes compute fast, or
    the largest of 4, 2, 1 under which the target leaves the search enough strategies."""
    min_ratio: float = 0.1
    """No group keeps less than this part of its channels."""

    def __post_init__(self) -> None:
        within("--min-ratio", self.min_ratio, 0, 1)
        if self.channel_multiple != "auto":
            whole("channel_multiple", self.channel_multiple, 1)


@dataclass(frozen=True)
class ReconstructionConfig:
    """Which channels of a group stay, and what the layers that read them are solved on."""

    metric: str = "lasso"
    """Which channels of a group stay: lasso, obs, l1, l2, geometric_median, bn_scale,
    activation_mean, apoz, gradient, taylor, taylor_signed, fisher, movement, random, or
    module:function of (evidence, group). With --target weights or blocks, which of them stay:
    magnitude (the default there), normed_magnitude, rb, const, obs; of both: lasso,magnitude.
    --selector is the old name of --metric."""
    calibration_batches: int = 60
    """Batches of 32 training images for statistics and batch-norm adaptation."""
    points_per_layer: int = 10
    """Output positions per layer and batch that become rows of the regression; 0: all."""
    bn_adapt: bool = True
    """Re-estimate batch-norm statistics after the cut."""
    bn_samples: int | None = None
    """Training images that batch norm is adapted on once all layers are solved; by default it is
    while they are, on the images of --calibration-batches."""

    def __post_init__(self) -> None:
        metrics_in(self.metric)
        whole("calibration_batches", self.calibration_batches, 1)
        whole("points_per_layer", self.points_per_layer, 0)
        if self.bn_samples is not None:
            whole("bn_samples", self.bn_samples, 1)
            if not self.bn_adapt:
                raise AmcError("--bn-samples belongs to --bn-adapt, not to --no-bn-adapt")

    @property
    def of_channels(self) -> str:
        """The metric of channels; that of `lasso` where only one of weights is named."""
        return metrics_in(self.metric)[0] or ReconstructionConfig.metric

    @property
    def of_weights(self) -> str:
        """The metric of weights and blocks; empty where none is named."""
        return metrics_in(self.metric)[1]


@dataclass(frozen=True)
class RewardConfig:
    """What a strategy is judged by."""

    reward: str = "divergence"
    """divergence (minus that from the original network's predictions), loss (minus the
    cross-entropy), accuracy (the score of --task), accuracy_flops, accuracy_params, or
    module:function of an envs.Outcome."""
    reward_images: int = 500
    """Validation images per episode at most."""
    regime: Literal["calibrate", "finetune", "shared"] = "calibrate"
    """What the reward tells of: the network as it is after the cut (calibrate), after a few steps
    of training in every episode (finetune), or as a slice of one network that is trained before
    the search so that all its slices work (shared)."""
    reward_steps: int = 30
    """Training steps in every episode of the finetune regime."""
    shared_epochs: int = 3
    """Epochs of the one training of the shared regime; each costs about four of a cut network."""
    shared_ratio: float = 2.0
    """What the network of the shared regime costs: this multiple of the target, or the whole."""

    def __post_init__(self) -> None:
        whole("reward_images", self.reward_images, 1)
        whole("shared_epochs", self.shared_epochs, 1)
        if not 1 <= real("--shared-ratio", self.shared_ratio) <= MOST:
            given = shown(self.shared_ratio)
            raise AmcError(f"--shared-ratio must be in [1, {MOST:g}], got {given}")
        whole("reward_steps", self.reward_steps, 1)


@dataclass(frozen=True)
class MachineConfig:
    """Where it runs; results do not depend on it."""

    memory: str | None = None
    """Such as 4GB or 500MB: what statistics, outputs and solutions of layers may take; more passes
    over the images and a temporary file make up for it, results stay the same. Default: all of
    them in memory."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU when there is one."""
    quiet: bool = False
    """Print errors only."""
    json: bool = False
    """Print the result on standard output, as JSON and nothing else: report.json, learned.json,
    compare.json or pareto.json. All the rest goes to standard error."""

    def __post_init__(self) -> None:
        _ = self.memory_bytes  # which checks it

    @property
    def memory_bytes(self) -> int | None:
        """The limit in bytes.

        Raises:
            AmcError: `memory` is no size.
        """
        return None if self.memory is None else parse_bytes(self.memory)
