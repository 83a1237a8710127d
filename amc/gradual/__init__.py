"""Pruning in turns: when, how much, which channels, training after each; finals before them."""
