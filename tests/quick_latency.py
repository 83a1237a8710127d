"""Latency at once: short turns, no export, which takes seconds, and no reasons."""

import torch
from torch import nn

from amc.objectives import latency
from amc.runtime import feed
from amc.tasks.evaluate import evaluating


def session(model: nn.Module, sample: feed.Feed, threads: int = 1) -> latency.Run:
    """PyTorch in the place of onnxruntime."""

    def run() -> object:
        with torch.inference_mode(), evaluating(model):
            return feed.call(model, sample)

    return run


QUICK = {"ROUNDS": 2, "SECONDS": 1e-3, "SLOW": -9.0, "session": session}
