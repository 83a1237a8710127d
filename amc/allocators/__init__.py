"""How much every group keeps, where nothing needs to be tried."""
