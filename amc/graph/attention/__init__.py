"""Attention whose own code does not bear that heads are removed, made to bear it."""
