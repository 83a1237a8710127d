"""What all steps of a run share."""

import pytest
import torch

from amc.config.train import TrainConfig
from amc.runs.terminal import Terminal
from amc.steps.job import CALIBRATION_BATCH, open_job


@pytest.mark.parametrize("count", [1, CALIBRATION_BATCH, CALIBRATION_BATCH + 3, 150])
def test_there_are_as_many_samples_as_were_asked_for(count: int) -> None:
    """A latency table may be of more images than a batch of the calibration has, or all of it."""
    config = TrainConfig.of(data="digits", device="cpu", calibration_batches=2)
    job = open_job(config, Terminal(quiet=True))
    known = torch.cat([images for images, _ in job.images])
    found = job.samples(count)
    assert isinstance(found, torch.Tensor)
    assert found.equal(known[torch.arange(count) % len(known)])
