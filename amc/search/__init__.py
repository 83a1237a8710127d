"""How much every group keeps, found by trying strategies."""
