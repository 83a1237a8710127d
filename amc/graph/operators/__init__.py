"""What every operator does to channels, by rules on labels."""
