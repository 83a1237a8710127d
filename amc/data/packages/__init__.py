"""Data sets of other packages, found by their names: pictures and labels in parts."""
