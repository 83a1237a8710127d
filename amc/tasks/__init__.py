"""What a network is for: its loss, its score, and how they are measured."""
