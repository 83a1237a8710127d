"""Why a network cannot be written as a Python file."""


class Unwritable(Exception):
    """The network cannot be written as plain PyTorch; the message says what of it, in one line."""
