"""A task with exact labels: tones that are synthesised, whose pitch is to be heard.

Sound, labels, loss and score are those of CREPE (Kim et al. 2018, arXiv:1802.06182): frames of
1,024 samples at 16 kHz, 360 bins of 20 cents. `experiments/pitch.py` cuts that network with it.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import amc
from amc.data import Data
from amc.data.loader import epoch_generator
from amc.tasks.task import Results

SAMPLES, RATE = 1024, 16_000  # of a frame; a second
BINS, STEP, LOWEST = 360, 20.0, 1997.3794084376191  # bins of so many cents; the first one's
BLUR = 25.0  # cents; deviation of what the network is to put out around the pitch
NEAR = 4  # bins on either side of the highest that a pitch is the mean of
RIGHT = 50.0  # cents; half of a semitone

HARMONICS = 40
FREQUENCIES = 50.0, 1900.0  # Hz; what three periods of fit a frame, and what the bins reach


def task() -> amc.Task:
    """What --task names: how outputs are trained, scored and compared."""
    return amc.Task(
        "pitch accuracy", loss=loss, score=pitch_accuracy, percent=True, distance=divergence
    )


def loss(heard: Tensor, cents: Tensor) -> Tensor:
    """Cross-entropy of every bin; outputs [B, 360], pitches [B] in cents."""
    return F.binary_cross_entropy(heard.float(), blurred(cents))


def divergence(heard: Tensor, reference: Tensor) -> Tensor:
    """How far outputs are from the original's: `loss`, less what it is where they are equal."""
    heard, goal = heard.float(), reference.float()
    return F.binary_cross_entropy(heard, goal) - F.binary_cross_entropy(goal, goal)


def bin_cents(like: Tensor) -> Tensor:
    """The pitch of every bin in cents above 10 Hz, [360]."""
    return LOWEST + STEP * torch.arange(BINS, device=like.device, dtype=torch.float32)


def blurred(cents: Tensor) -> Tensor:
    """What the network is to put out for these pitches [B]: 1 at the pitch, less around it."""
    away = bin_cents(cents) - cents[:, None]
    return torch.exp(-away.square() / (2 * BLUR**2))


def decoded(heard: Tensor) -> Tensor:
    """Pitches [B] in cents: the mean of the bins around the highest, weighed by the outputs."""
    bins = torch.arange(BINS, device=heard.device)
    near = (bins - heard.argmax(dim=1, keepdim=True)).abs() <= NEAR
    weights = heard.float() * near
    return weights @ bin_cents(heard) / weights.sum(dim=1).clamp(min=1e-12)


def pitch_accuracy(results: Results) -> float:
    """Raw pitch accuracy: the part of the frames whose pitch is within a quarter tone."""
    right = frames = 0
    for heard, cents in results:
        right += int(((decoded(heard) - cents).abs() <= RIGHT).sum())
        frames += len(cents)
    return right / frames


def data() -> Data:
    """What --data names."""
    return Data(
        name="tones",
        train=Tones(8000, seed=1, fixed=False, batch_size=32),
        calibration=Tones(2000, seed=2),
        val=Tones(2000, seed=3),
        test=Tones(4000, seed=4),
        num_classes=0,
        input_shape=(SAMPLES,),
    )


class Tones:
    """Batches of `drawn`; other ones in every epoch, or the same ones every time.

    Args:
        frames: how many.
        seed: with the epoch, fixes them.
        fixed: the same in every epoch.
        batch_size: frames in a batch; divides their number.
    """

    checked = True  # nothing is read to see whether it can be

    def __init__(self, frames: int, seed: int, fixed: bool = True, batch_size: int = 250) -> None:
        self.fixed = fixed
        self._batches, self._size, self._seed = frames // batch_size, batch_size, seed
        self._epoch, self._kept = 0, list[tuple[Tensor, Tensor]]()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the tones of the following passes."""
        self._epoch = 0 if self.fixed else epoch

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if not self.fixed:
            return self._drawn()
        self._kept = self._kept or list(self._drawn())
        return iter(self._kept)

    def _drawn(self) -> Iterator[tuple[Tensor, Tensor]]:
        chance = epoch_generator(self._seed, self._epoch)
        return (drawn(self._size, chance) for _ in range(self._batches))


def drawn(count: int, chance: torch.Generator) -> tuple[Tensor, Tensor]:
    """Frames [N, 1024] of one steady tone each, and its pitch [N] in cents above 10 Hz.

    A tone has up to `HARMONICS`, as many as the sampling allows, whose strength falls by 3 to 12
    dB an octave, each of them by up to 6 dB more or less; any phases, loudness and noise 20 to 60
    dB below.
    """

    def between(low: float, high: float, *sizes: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *sizes, generator=chance)

    low, high = (1200 * math.log2(hertz / 10) for hertz in FREQUENCIES)
    cents = between(low, high)
    number = torch.arange(1, HARMONICS + 1)
    hertz = 10 * torch.exp2(cents / 1200)[:, None] * number
    decibels = between(-12, -3, 1) * number.log2() + between(-6, 6, HARMONICS)
    strength = torch.where(hertz < RATE / 2, 10 ** (decibels / 20), 0.0)
    tones = summed(hertz, strength, between(0, 1, HARMONICS))
    tones = tones / tones.std(dim=1, keepdim=True)
    noise = torch.randn(count, SAMPLES, generator=chance) * 10 ** (between(-60, -20, 1) / 20)
    return normalised(10 ** (between(-40, 0, 1) / 20) * (tones + noise)), cents


def summed(hertz: Tensor, strength: Tensor, phase: Tensor) -> Tensor:
    """The sum [N, 1024] of sines [N, K]; phases in turns."""
    time, total = torch.arange(SAMPLES) / RATE, torch.zeros(len(hertz), SAMPLES)
    for one in range(hertz.shape[1]):  # one after the other: all at once take 40 times the memory
        turns = hertz[:, one, None] * time + phase[:, one, None]
        total += strength[:, one, None] * torch.sin(2 * torch.pi * (turns % 1))
    return total


def normalised(frames: Tensor) -> Tensor:
    """Frames as the network takes them: mean 0, deviation 1."""
    frames = frames - frames.mean(dim=1, keepdim=True)
    return frames / frames.std(dim=1, keepdim=True).clamp(min=1e-10)
