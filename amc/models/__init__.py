"""Networks: small reference ones, and the user's own."""

from amc.models.catalog import BUNDLED, build, is_bundled
from amc.models.checkpoint import load_checkpoint

__all__ = ["BUNDLED", "build", "is_bundled", "load_checkpoint"]
