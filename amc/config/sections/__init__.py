"""Sections that settings are composed of: each checks itself."""
