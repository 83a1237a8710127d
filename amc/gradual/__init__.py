"""Pruning in turns: when, how much, which channels, training after each; one-shot is one turn."""
