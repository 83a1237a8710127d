"""The steps of a run, one function each, with their progress bars."""
