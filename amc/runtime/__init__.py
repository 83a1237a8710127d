"""The machine and its user: files, processes, memory, numbers and names that are given."""
