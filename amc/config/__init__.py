"""Settings: sections, the commands that are composed of them, and their words."""
