"""What a strategy may cost, and which channel counts lead there."""
