"""Networks: small reference ones, and the user's own."""

from amc.models.load import BUNDLED, build, is_bundled, load_checkpoint

__all__ = ["BUNDLED", "build", "is_bundled", "load_checkpoint"]
