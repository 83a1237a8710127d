"""When channels go: at once, or in stages with training between."""
