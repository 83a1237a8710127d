"""Zeros instead of smaller shapes: masks of weights, which ones, and how many."""
