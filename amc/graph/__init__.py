"""What of a network goes together, what it costs, and the cut."""
