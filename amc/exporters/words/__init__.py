"""What the parts of a network are called in Python: layers, operators, sizes, values."""
