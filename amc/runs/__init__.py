"""A run as a user sees it: its folder, its terminal, its TensorBoard."""
