"""Networks: small reference ones, and the user's own."""

from amc.models.checkpoint import load_checkpoint
from amc.models.load import BUNDLED, build, is_bundled

__all__ = ["BUNDLED", "build", "is_bundled", "load_checkpoint"]
