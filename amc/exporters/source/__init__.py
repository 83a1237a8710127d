"""A network as a Python file of its own: plain PyTorch, nothing of this project."""
