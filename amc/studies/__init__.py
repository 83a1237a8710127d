"""Many searches or cuts for one answer: who searches best, how small it may get."""
