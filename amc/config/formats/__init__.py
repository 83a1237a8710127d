"""Configuration files of this tool and of others, read into settings and written from them."""

from amc.config.formats.files import read, settings_in, write

__all__ = ["read", "settings_in", "write"]
